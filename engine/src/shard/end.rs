//! How things end: a message at a recipient, a connection, a session; and who is told.

use std::sync::Arc;

use bytestring::ByteString;
use protocol::im::{ERRORS_TOPIC, RECEIPTS_TOPIC};
use protocol::{PublishProperties, QoS, ReasonCode};

use super::Shard;
use super::connect::silence_max_ms;
use crate::message::{Delivery, Message, MsgNo};
use crate::receipt::{Outcome, Told};
use crate::record::{Entry, SessionNo};
use crate::route::SessionKey;
use crate::timers::Deadline;
use crate::{CloseReason, ConnId, Now};

impl Shard {
    /// Ends a message at a recipient: log, receipt, counts. `logged` says that the log has it there.
    pub(super) fn end_at(
        &mut self,
        now: Now,
        session: SessionNo,
        logged: bool,
        message: MsgNo,
        outcome: Outcome,
    ) {
        if matches!(outcome, Outcome::Dropped(_) | Outcome::Expired) {
            self.stats.dropped += 1;
        }
        let told = self.receipts.end(message, session, outcome, now.unix_ms);
        if logged || told.is_some() {
            self.write(&Entry::Ended { session, message });
        }
        for told in told.into_iter().flatten() {
            self.tell(now, told);
        }
    }

    /// Publishes a receipt to the sessions of its user that hear receipts.
    pub(super) fn tell(&mut self, now: Now, told: Told) {
        let hearers = self.receipts.hearers(&told.sender).to_vec();
        let Some(qos) = hearers.iter().map(|(_, qos)| (*qos).min(QoS::AtLeastOnce)).max() else { return };
        let message = self.own_message(now, RECEIPTS_TOPIC, told.payload, qos);
        if qos > QoS::AtMostOnce && hearers.iter().any(|(key, _)| self.sessions[*key].durable) {
            self.write_message(&message, false);
        }
        for (key, qos) in hearers {
            self.deliver(now, key, own_delivery(&message, qos));
        }
    }

    /// Tells a client on `$im/errors` what could not be done for it, if it listens.
    pub(super) fn tell_error(&mut self, now: Now, key: SessionKey, request: &str, error: &str) {
        if !self.sessions[key].subscriptions.contains_key(ERRORS_TOPIC) {
            return;
        }
        let payload = serde_json::json!({ "request": request, "error": error, "at": now.unix_ms });
        let message = self.own_message(now, ERRORS_TOPIC, payload.to_string(), QoS::AtMostOnce);
        self.deliver(now, key, own_delivery(&message, QoS::AtMostOnce));
    }

    /// Makes a message of the broker's own; it waits for this turn's record.
    fn own_message(&mut self, now: Now, topic: &'static str, payload: String, qos: QoS) -> Arc<Message> {
        let ticket =
            if self.turn.record.is_empty() && qos == QoS::AtMostOnce { 0 } else { self.gate.next_ticket() };
        Arc::new(Message {
            no: self.take_message_no(),
            ticket,
            topic: ByteString::from_static(topic),
            payload: payload.into(),
            qos,
            retain: false,
            expiry: None,
            seq: None,
            id: format!("{:016x}", self.rng.u64(..)).into(),
            from: ByteString::new(),
            ts_unix_ms: now.unix_ms,
            properties: PublishProperties::default(),
        })
    }

    /// Ends a connection, whoever ended it; the session may live on. Unknown connections are ignored.
    pub(super) fn connection_ended(&mut self, now: Now, conn: ConnId, reason: CloseReason) {
        let Some(key) = self.conns.get(&conn).map(|c| c.session) else { return };
        self.close(conn, reason);
        let session = &mut self.sessions[key];
        session.conn = None;
        session.disconnected = Some((now.monotonic_ms as i64, now.unix_ms));
        let (no, expiry_s, user) = (session.no, session.expiry_s, session.user.clone());
        if expiry_s == 0 {
            // [MQTT-3.1.2-23] without an expiry interval the session ends with its connection; its will goes with it.
            return self.end_session(now, key);
        }
        let delay_s = session.will.as_ref().map(|w| w.delay_interval_s.unwrap_or(0));
        match delay_s {
            // [MQTT-3.1.2-8] the will is published when the connection ends without DISCONNECT.
            Some(0) => {
                if let Some(will) = session.will.take() {
                    self.publish_will(now, Some(key), user, *will);
                }
            }
            Some(delay_s) => {
                let due_ms = now.monotonic_ms + u64::from(delay_s) * 1000;
                session.will_due_ms = Some(due_ms as i64);
                self.timers.push(due_ms, Deadline::WillDelay(no));
            }
            None => {}
        }
        self.write_disconnected(key);
        if expiry_s != u32::MAX {
            let due_ms = now.monotonic_ms + u64::from(expiry_s) * 1000;
            self.timers.push(due_ms, Deadline::SessionExpiry(no));
        }
    }

    fn write_disconnected(&mut self, key: SessionKey) {
        let session = &self.sessions[key];
        let Some((_, at_unix_ms)) = session.disconnected else { return };
        if session.durable {
            let (no, expiry_s, will) = (session.no, session.expiry_s, session.will.clone());
            self.write(&Entry::SessionDisconnected { session: no, expiry_s, at_unix_ms, will });
        }
    }

    /// Ends a session with all it holds. [MQTT-3.1.2-8] its will, if one waits, is published now.
    pub(super) fn end_session(&mut self, now: Now, key: SessionKey) {
        let mut session = self.sessions.remove(key);
        self.by_client.remove(&session.client_id);
        self.by_no.remove(&session.no);
        for filter in session.subscriptions.keys() {
            self.routes.remove(filter, key);
        }
        self.receipts.unhear(&session.user, key);
        if let Some(will) = session.will.take() {
            self.publish_will(now, None, session.user.clone(), *will);
        }
        let in_flight = session.in_flight.iter().map(|f| f.delivery.message.no);
        for message in in_flight.chain(session.queue.iter().map(|d| d.message.no)) {
            // `SessionEnded` below says the rest to the log.
            self.end_at(now, session.no, false, message, Outcome::Dropped("session_ended"));
        }
        if session.durable {
            self.write(&Entry::SessionEnded { session: session.no });
        }
    }

    pub(super) fn session_expiry_due(&mut self, now: Now, no: SessionNo) {
        let Some(&key) = self.by_no.get(&no) else { return };
        let session = &self.sessions[key];
        let Some((since_ms, _)) = session.disconnected else { return };
        let expired = session.expiry_s != u32::MAX
            && since_ms + i64::from(session.expiry_s) * 1000 <= now.monotonic_ms as i64;
        if session.conn.is_none() && expired {
            self.end_session(now, key);
        }
    }

    pub(super) fn will_due(&mut self, now: Now, no: SessionNo) {
        let Some(&key) = self.by_no.get(&no) else { return };
        let session = &mut self.sessions[key];
        // [MQTT-3.1.3-9] a connection made before the delay passed has cancelled it.
        if session.will_due_ms.is_none_or(|due| due > now.monotonic_ms as i64) {
            return;
        }
        session.will_due_ms = None;
        let user = session.user.clone();
        if let Some(will) = session.will.take() {
            self.publish_will(now, Some(key), user, *will);
            self.write_disconnected(key);
        }
    }

    /// A tracked message is looked for in the queues when it expires, so that the sender hears of it then
    /// and not when the recipient comes back.
    pub(super) fn message_expiry_due(&mut self, now: Now, message: MsgNo) {
        let Some(tracking) = self.receipts.get(message) else { return };
        let waiting: Vec<_> =
            tracking.open.iter().filter_map(|r| self.by_no.get(&r.session).copied()).collect();
        for key in waiting {
            // In flight it is past expiring: only what waits is taken out.
            if self.sessions[key].remove_waiting(message).is_some() {
                self.end(now, key, message, Outcome::Expired);
            }
        }
    }

    pub(super) fn watch_expiry(&mut self, message: &Message) {
        if let Some(expiry) = message.expiry {
            self.timers.push(expiry.monotonic_ms, Deadline::MessageExpiry(message.no));
        }
    }

    /// [MQTT-3.1.2-22] nothing for one and a half times the keep-alive ends the connection.
    pub(super) fn keep_alive_due(&mut self, now: Now, conn: ConnId) {
        let Some(c) = self.conns.get(&conn) else { return };
        let due_ms = c.last_packet_ms + silence_max_ms(c.keep_alive_s);
        if due_ms > now.monotonic_ms {
            return self.timers.push(due_ms, Deadline::KeepAlive(conn));
        }
        let reason = CloseReason::KeepAlive { keep_alive_s: c.keep_alive_s };
        self.send_disconnect(conn, ReasonCode::KeepAliveTimeout, &reason.to_string());
        self.connection_ended(now, conn, reason);
    }
}

fn own_delivery(message: &Arc<Message>, qos: QoS) -> Delivery {
    let qos = qos.min(message.qos);
    Delivery { message: message.clone(), qos, retain: false, subscription_identifiers: Vec::new() }
}
