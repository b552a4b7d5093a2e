//! Poison messages: suspects are sent one at a time, what ended enough connections is set aside, listed and taken
//! back (an exception to [MQTT-4.4.0-1], off unless configured).

use std::sync::Arc;

use protocol::PacketId;

use super::Shard;
use crate::message::{Delivery, Flag, Identifiers, Message, MsgNo, Origin};
use crate::planted::Planted;
use crate::poison::{QUICK_MS, SetAside};
use crate::receipt::Outcome;
use crate::record::{Entry, Form};
use crate::route::SessionKey;
use crate::session::FlightState;
use crate::{Answer, CloseReason, ConnId, Now};

impl Shard {
    /// How many QoS 1/2 messages may be in flight to a client now.
    pub(super) fn window(&self, key: SessionKey, window: usize) -> usize {
        let is_suspected = self.sessions[key].suspicion.as_ref().is_some_and(|s| s.is_strong());
        if is_suspected { window.min(1) } else { window }
    }

    /// Notes that nothing is in flight to a session any more: its client took all that was suspected.
    pub(super) fn trust(&mut self, key: SessionKey) {
        let session = &mut self.sessions[key];
        if session.suspicion.is_some() && session.in_flight.is_empty() {
            session.suspicion = None;
        }
    }

    /// Looks at how a connection ended, before it is forgotten, and sets a message aside that ended too many.
    pub(super) fn watch_poison(&mut self, now: Now, conn: ConnId, reason: &CloseReason) {
        let after = self.config.poison_after;
        let Some(c) = self.conns.get(&conn).filter(|_| after > 0) else { return };
        let (key, sent_ms) = (c.session, c.flight_sent_ms);
        let session = &mut self.sessions[key];
        let mut with_client = session.in_flight.iter().filter(|f| f.on_this_connection);
        let (first, second) = (with_client.next(), with_client.next());
        let ended_by_itself = !matches!(
            reason,
            CloseReason::Disconnected
                | CloseReason::Shutdown
                | CloseReason::Ended(_)
                | CloseReason::KeepAlive { .. }
        );
        let is_quick = sent_ms.is_some_and(|sent_ms| sent_ms + QUICK_MS >= now.monotonic_ms);
        let Some(first) = first.filter(|_| ended_by_itself && is_quick) else {
            session.suspicion = None;
            return;
        };
        // PUBREC came for one that is released: the client took it.
        let alone = Some(first).filter(|f| second.is_none() && f.state == FlightState::Sent);
        let alone = alone.map(|f| (f.packet_id, f.delivery.message.no, f.delivery.source()));
        let suspicion = session.suspicion.get_or_insert_default();
        let ends = suspicion.ended_quickly(alone.map(|(_, message, source)| (message, source)));
        // One end alone says nothing.
        let early = if self.has_planted(Planted::SetAsideEarly) { 4 } else { 0 };
        if let Some((packet_id, ..)) = alone.filter(|_| ends + early >= after.max(2)) {
            self.set_aside(now, key, packet_id);
        }
    }

    fn set_aside(&mut self, now: Now, key: SessionKey, packet_id: PacketId) {
        let session = &self.sessions[key];
        let Some(flight) = session.in_flight(packet_id) else { return };
        let delivery = flight.delivery.clone();
        // It was just sent; if its body left memory since, the next end sets it aside.
        let is_here = delivery.message.body.load().as_ref().is_some_and(|body| !body.is_lost);
        if !session.logs(&delivery) || !is_here {
            return;
        }
        self.stats.set_aside += 1;
        self.end_in_flight(now, key, packet_id, Outcome::Poison);
        let (is_written, is_pinned) = (Flag::default(), true);
        let message = Message { record: 0, is_written, is_pinned, ..Message::clone(&delivery.message) };
        let message = self.bodies.count(message);
        let (qos, form, at_unix_ms) = (delivery.qos, delivery.form(), now.unix_ms);
        let set_aside = SetAside { message, qos, form, at_unix_ms };
        let (session, most) = (self.sessions[key].no, self.config.set_aside_max);
        // First what goes: it may be the same message.
        for gone in self.sessions[key].push_set_aside(set_aside.clone(), most) {
            self.write(&Entry::TakenBack { session, message: gone.message.no });
        }
        self.write(&Entry::SetAside { session, set_aside: Box::new(set_aside) });
        self.sessions[key].suspicion = None;
    }

    /// Lists what was set aside at a client's session.
    pub(super) fn list_set_aside(&self, client: &str) -> Answer {
        let Some(key) = self.sessions.of_client(client) else { return no_session(client) };
        let of = |s: &SetAside| {
            let (m, body) = (&s.message, s.message.body.load());
            let body = body.as_deref();
            serde_json::json!({
                "message": m.no.0, "topic": &*m.topic, "seq": m.seq, "id": body.map(|b| b.id.text().to_string()),
                "from": body.map(|b| &*b.from), "ts": m.ts_unix_ms, "qos": s.qos as u8,
                "bytes": m.payload_bytes, "set_aside_at": s.at_unix_ms,
            })
        };
        let messages: Vec<_> =
            self.sessions[key].set_aside.iter().flat_map(|all| all.iter()).map(of).collect();
        Answer::Json(serde_json::json!({ "client": client, "messages": messages }).to_string())
    }

    /// Forgets a message that was set aside.
    pub(super) fn drop_set_aside(&mut self, client: &str, message: u64) -> Answer {
        match self.take_set_aside(client, message) {
            Ok(_) => Answer::Done,
            Err(answer) => answer,
        }
    }

    /// Gives a client a message again that was set aside. Its receipt stays `refused`: this is another message with
    /// the same content.
    pub(super) fn replay_set_aside(&mut self, now: Now, client: &str, message: u64) -> Answer {
        if self.store_full {
            return Answer::Full("the broker's store is full".to_owned());
        }
        let (key, SetAside { message, qos, form, .. }) = match self.take_set_aside(client, message) {
            Ok(taken) => taken,
            Err(answer) => return answer,
        };
        let (no, record) = (self.take_message_no(), self.gate.next_ticket());
        let (is_written, collapse) = (Flag::default(), None);
        let again = Message {
            no,
            record,
            is_gated: true,
            is_written,
            is_pinned: false,
            collapse,
            ..Message::clone(&message)
        };
        let message: Arc<Message> = self.bodies.count(again);
        self.write_message(&message, false);
        let origin = if form == Form::Envelope { Origin::Envelope } else { Origin::Subscriptions };
        // Rules may be others by now.
        self.sessions[key].checked_epoch = 0;
        let subscription_identifiers = Identifiers::default();
        self.deliver(now, key, Delivery { message, qos, retain: false, origin, subscription_identifiers });
        Answer::Done
    }

    fn take_set_aside(&mut self, client: &str, message: u64) -> Result<(SessionKey, SetAside), Answer> {
        let Some(key) = self.sessions.of_client(client) else { return Err(no_session(client)) };
        let Some(taken) = self.sessions[key].take_set_aside(MsgNo(message)) else {
            let what = format!("message {message} is not set aside at client {client:?}");
            return Err(Answer::NotFound(what));
        };
        let session = self.sessions[key].no;
        self.write(&Entry::TakenBack { session, message: taken.message.no });
        Ok((key, taken))
    }
}

fn no_session(client: &str) -> Answer {
    Answer::NotFound(format!("client {client:?} has no session"))
}
