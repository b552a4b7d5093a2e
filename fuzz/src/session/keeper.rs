//! A client that obeys, whose session never ends: what the broker vouched for must reach it.

use std::collections::BTreeSet;

use protocol::{Packet, PacketId, QoS, ReasonCode};

/// Topics under this are the keeper's; payloads there are numbered.
pub(super) const FILTER: &str = "keep/#";
/// What payloads of numbered messages start with.
pub(super) const MARK: &[u8] = b"kept!";

/// What the keeper was promised and what it has.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    /// CONNACK said success once: the session must be there from then on.
    established: bool,
    /// SUBACK came.
    pub(super) subscribed: bool,
    owed: BTreeSet<u32>,
    received: BTreeSet<u32>,
    /// Numbers that came as a new QoS 2 message.
    exactly_once: BTreeSet<u32>,
    /// QoS 2 packet ids taken and not released.
    incoming: BTreeSet<PacketId>,
}

/// The payload of a numbered message.
pub(super) fn payload(number: u32) -> Vec<u8> {
    [MARK, &number.to_be_bytes()].concat()
}

impl Keeper {
    /// Takes what the broker sent to the keeper.
    pub(super) fn take(&mut self, packet: &Packet) {
        match packet {
            Packet::ConnAck(connack) if connack.reason == ReasonCode::Success => {
                assert!(
                    connack.session_present || !self.established,
                    "the session that was promised is gone"
                );
                self.established = true;
                if !connack.session_present {
                    self.incoming.clear();
                }
            }
            Packet::SubAck(suback) => {
                // A full store refuses.
                self.subscribed = suback.reasons.iter().all(|reason| !reason.is_failure());
            }
            Packet::Publish(publish) => {
                let Some(number) = publish.payload.strip_prefix(MARK) else { return };
                let number =
                    u32::from_be_bytes(number.try_into().expect("payloads with the mark are numbered"));
                self.received.insert(number);
                let Some(packet_id) = publish.packet_id.filter(|_| publish.qos == QoS::ExactlyOnce) else {
                    return;
                };
                // [MQTT-4.3.3-10]; a retained message comes again with each SUBSCRIBE.
                if self.incoming.insert(packet_id) && !publish.retain {
                    assert!(self.exactly_once.insert(number), "number {number} came twice at QoS 2");
                }
            }
            Packet::PubRel(ack) => drop(self.incoming.remove(&ack.packet_id)),
            _ => {}
        }
    }

    /// Notes a message that the broker accepted while the keeper was subscribed.
    pub(super) fn owe(&mut self, number: u32) {
        self.owed.insert(number);
    }

    /// Everything owed must have come.
    pub(super) fn check(&self) {
        let missing: Vec<_> = self.owed.difference(&self.received).collect();
        assert!(missing.is_empty(), "accepted and not delivered: {missing:?}");
    }
}
