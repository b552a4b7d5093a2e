//! Messages of the broker's own: QoS 0, kept in memory for new subscriptions, never logged.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use protocol::QoS;

use super::Shard;
use super::queue::Way;
use super::share::Load;
use crate::Now;
use crate::message::{Delivery, Message, Origin};
use crate::record::Form;

impl Shard {
    /// Whether a subscription names this first level (`$SYS`), so that its topics have hearers.
    pub fn hears(&self, first_level: &str) -> bool {
        self.routes.begins_with(first_level) || self.envelope_routes.begins_with(first_level)
    }

    /// Publishes one message of the broker's own, and keeps it for later subscriptions. Those that are away
    /// or read too slowly do without: the next one comes soon.
    pub(super) fn inform(&mut self, now: Now, topic: ByteString, payload: Bytes) {
        if payload.is_empty() {
            self.informed.clear(&topic);
            return;
        }
        if self.informed.get(&topic).is_none() && self.informed.len() >= self.config.informs_max {
            return;
        }
        let message = self.own_message(now, topic, payload, QoS::AtMostOnce);
        let message = Arc::new(Message { retain: true, ..Message::clone(&message) });
        self.informed.set(message.clone());
        for target in self.targets(Load::of(&message), None) {
            if let Some(share) = &target.share {
                self.chose(share.no, target.session);
            }
            if let Way::Send(conn) = self.way(target.session, QoS::AtMostOnce, false) {
                let delivery = Delivery {
                    message: message.clone(),
                    qos: QoS::AtMostOnce,
                    retain: target.retain_as_published,
                    origin: match target.form {
                        Form::Plain => Origin::Retained,
                        Form::Envelope => Origin::RetainedEnvelope,
                    },
                    subscription_identifiers: target.identifiers,
                };
                self.send_at_most_once(now, target.session, conn, delivery);
            }
        }
    }
}
