//! A message goes to one session: at once, or into its queue and later out of it.

use bytestring::ByteString;
use protocol::{
    Ack, Packet, PacketId, ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode, Shared, im,
};

use super::backlog::ENDS_PER_TURN_MAX;
use super::checkpoint::RECORD_BYTES;
use super::end::Ending;
use super::queue::Way;
use super::rights::NOT_AUTHORIZED;
use super::stored::Replayed;
use super::{Conn, Shard, Wait};
use crate::alias::Alias;
use crate::body::Body;
use crate::envelope;
use crate::memory::MemoryLevel;
use crate::message::{Delivery, Message, MsgNo};
use crate::planted::Planted;
use crate::receipt::Outcome;
use crate::record::{Entry, Form, SessionNo};
use crate::route::SessionKey;
use crate::{ConnId, Now};

/// Bytes of messages from a queue or a flight for one connection in one turn: what waits may be hundreds of
/// megabytes, and the connection says that it is congested only between inputs.
const BURST_BYTES: usize = 64 * 1024;

/// Bytes sent that are as much work as one thing looked at.
const BYTES_PER_EFFORT: usize = 512;

/// Why a message is dropped that the log does not have any more: the store is damaged.
const STORAGE_ERROR: &str = "storage_error";

impl Shard {
    /// Gives a message to a session. A durable session's part in it goes into the turn's record; the
    /// message itself must be there before.
    pub(super) fn deliver(&mut self, now: Now, key: SessionKey, delivery: Delivery) {
        self.fan_out_to(now, key);
        match self.way(key, delivery.qos, delivery.message.seq.is_some()) {
            Way::Send(_) if !delivery.message.body.is_here() => {
                // Handed over by another member of its group: it goes out when it was read.
                self.enqueue(now, key, delivery);
                self.drain_later(key);
            }
            Way::Send(conn) if delivery.qos == QoS::AtMostOnce => {
                self.send_at_most_once(now, key, conn, delivery);
            }
            Way::Send(conn) => self.send_first(now, key, conn, delivery, true),
            Way::Queue => self.enqueue(now, key, delivery),
            Way::Drop(reason) => self.end_unlogged(now, key, &delivery, Outcome::Dropped(reason)),
        }
    }

    pub(super) fn send_at_most_once(&mut self, now: Now, key: SessionKey, conn: ConnId, delivery: Delivery) {
        let wait = Wait::Ticket(delivery.message.ticket());
        let outcome = self.write_out(now, key, conn, &delivery, wait);
        self.end_unlogged(now, key, &delivery, outcome);
    }

    /// Sends at QoS 0.
    fn write_out(
        &mut self,
        now: Now,
        key: SessionKey,
        conn: ConnId,
        delivery: &Delivery,
        wait: Wait,
    ) -> Outcome {
        match self.prepare(now, key, conn, delivery, None, false) {
            Ok(publish) => {
                self.send(conn, wait, Packet::Publish(publish));
                Outcome::Delivered(QoS::AtMostOnce)
            }
            Err(reason) => Outcome::Dropped(reason),
        }
    }

    /// Sends a QoS 1 or 2 message for the first time. `is_new` says that the log does not know it at this
    /// session yet.
    fn send_first(&mut self, now: Now, key: SessionKey, conn: ConnId, mut delivery: Delivery, is_new: bool) {
        let message = delivery.message.no;
        let session = &mut self.sessions[key];
        let logged = session.logs(&delivery);
        // All in flight is on this connection, in a window that has room and is never above 65,535.
        let packet_id = session.take_packet_id().expect("fewer messages are in flight than there are ids");
        let reused = session.in_flight.back().map(|f| f.packet_id);
        let reused = reused.filter(|_| self.config.planted == Some(Planted::PacketIdReused));
        let packet_id = reused.unwrap_or(packet_id);
        let publish = match self.prepare(now, key, conn, &delivery, Some(packet_id), false) {
            Ok(publish) => publish,
            // As if it had been sent.
            Err(reason) if is_new => {
                return self.end_unlogged(now, key, &delivery, Outcome::Dropped(reason));
            }
            Err(NOT_AUTHORIZED) if self.give_elsewhere(now, key, &delivery, None) => return,
            Err(reason) => return self.end_waiting(now, key, &delivery, Outcome::Dropped(reason)),
        };
        let session = self.sessions[key].no;
        let mut ticket = delivery.message.ticket();
        if logged {
            // The packet id must survive: after a crash the same message goes out under the same id
            // ([MQTT-4.4.0-1]), or a QoS 2 receiver would take it twice.
            self.write(&if is_new {
                delivery.queued(session, Some(packet_id))
            } else {
                Entry::Sent { session, message, packet_id }
            });
            ticket = self.gate.next_ticket();
        } else if is_new {
            // Its record is not kept for this session's sake.
            delivery.message = self.bodies.pinned(&delivery.message);
        }
        self.send(conn, Wait::Ticket(ticket), Packet::Publish(publish));
        self.sessions[key].push_in_flight(packet_id, delivery, true);
    }

    /// Sends what the connection has room for: first what is in flight from a connection before, then what
    /// waits.
    pub(super) fn drain(&mut self, now: Now, key: SessionKey) {
        let Some(conn) = self.sessions[key].conn else { return };
        let Some(c) = self.conns.get(&conn).filter(|c| c.takes_publishes()) else { return };
        let window = self.window(key, c.window);
        self.resend(now, key, conn, window);
        self.drain_waiting(now, key, conn, window);
        self.log_cursors(key);
    }

    /// Sends what waits: by turns out of the queue and by cursors in stored messages.
    fn drain_waiting(&mut self, now: Now, key: SessionKey, conn: ConnId, window: usize) {
        let sends_expired = self.has_planted(Planted::ExpiryNotCounted);
        let (mut ended, mut bytes) = (0, 0);
        loop {
            if ended >= ENDS_PER_TURN_MAX || bytes >= BURST_BYTES || self.turn.record.len() >= RECORD_BYTES {
                self.effort += bytes / BYTES_PER_EFFORT;
                return self.drain_later(key);
            }
            let session = &mut self.sessions[key];
            if session.window_used < session.in_flight.len() || session.window_used >= window {
                return;
            }
            let is_alone = session.queue.is_empty();
            if (is_alone || session.is_replays_turn())
                && let Replayed::Bytes(replayed) = self.replay_next(now, key, conn)
            {
                bytes += replayed;
                continue;
            }
            let session = &mut self.sessions[key];
            if session.is_fetching && session.queue.is_front_packed() {
                self.effort += bytes / BYTES_PER_EFFORT;
                return;
            }
            let Some((front, whole)) = session.queue.front() else {
                return self.gather_more(key);
            };
            let is_expired = !sends_expired && front.expiry.is_some_and(|e| e.is_past(now));
            if !is_expired && !whole.is_some_and(|delivery| delivery.message.body.is_here()) {
                self.effort += bytes / BYTES_PER_EFFORT;
                return self.fetch_for_session(key);
            }
            let Some(delivery) = session.pop_waiting(&mut self.bodies) else { return };
            bytes += delivery.message.bytes();
            if is_expired {
                // [MQTT-3.3.2-5] expired before its delivery began.
                self.end_waiting(now, key, &delivery, Outcome::Expired);
                ended += 1;
            } else if delivery.qos > QoS::AtMostOnce {
                let sent_before = self.sessions[key].in_flight.len();
                self.send_first(now, key, conn, delivery, false);
                ended += usize::from(self.sessions[key].in_flight.len() == sent_before);
            } else {
                // [MQTT-4.3.1-1] at most once: the log must know that it left the queue before it leaves, or it
                // would be sent again after a crash. Its own record is an earlier one, if this turn writes none.
                let is_logged = self.sessions[key].logs(&delivery);
                let wait = if is_logged { Wait::Record } else { Wait::Ticket(delivery.message.ticket()) };
                let outcome = self.write_out(now, key, conn, &delivery, wait);
                self.end_waiting(now, key, &delivery, outcome);
                ended += 1;
            }
        }
    }

    /// [MQTT-4.4.0-1] resends PUBREL and PUBLISH under their packet ids: [MQTT-4.6.0-4] (3.1.1) PUBREL in the order of
    /// the PUBRECs, [MQTT-4.6.0-1] (3.1.1) PUBLISH in the order of the first sending.
    fn resend(&mut self, now: Now, key: SessionKey, conn: ConnId, window: usize) {
        if self.sessions[key].window_used == self.sessions[key].in_flight.len() {
            return;
        }
        if self.has_planted(Planted::NotResent) {
            self.sessions[key].window_used = self.sessions[key].in_flight.len();
            self.sessions[key].in_flight.iter_mut().for_each(|f| f.on_this_connection = true);
            return;
        }
        for at in self.sessions[key].released() {
            let session = &mut self.sessions[key];
            let entry = &mut session.in_flight[at];
            if !std::mem::replace(&mut entry.on_this_connection, true) {
                let pubrel = Packet::PubRel(Ack::new(entry.packet_id, ReasonCode::Success));
                session.window_used += 1;
                self.send(conn, Wait::Ticket(self.gate.last_ticket()), pubrel);
            }
        }
        let (mut unfit, mut bytes) = (Vec::new(), 0);
        let in_flight = self.sessions[key].in_flight.len();
        for at in 0..in_flight {
            let is_reversed = self.has_planted(Planted::ResentOutOfOrder);
            let at = if is_reversed { in_flight - 1 - at } else { at };
            let session = &self.sessions[key];
            let entry = &session.in_flight[at];
            if entry.on_this_connection {
                continue;
            }
            let packet_id = entry.packet_id;
            if session.window_used >= window {
                break;
            }
            if bytes >= BURST_BYTES {
                self.effort += bytes / BYTES_PER_EFFORT;
                self.drain_later(key);
                break;
            }
            if !entry.delivery.message.body.is_here() {
                self.fetch_for_session(key);
                break;
            }
            let delivery = entry.delivery.clone();
            bytes += delivery.message.bytes();
            let packet = match self.prepare(now, key, conn, &delivery, Some(packet_id), true) {
                // [MQTT-3.3.1-1] a re-delivery says so.
                Ok(publish) => Packet::Publish(Publish { dup: true, ..publish }),
                Err(_) if unfit.len() >= ENDS_PER_TURN_MAX => {
                    self.drain_later(key);
                    break;
                }
                Err(reason) => {
                    unfit.push((packet_id, reason));
                    continue;
                }
            };
            self.send(conn, Wait::Ticket(self.gate.last_ticket()), packet);
            let session = &mut self.sessions[key];
            session.in_flight[at].on_this_connection = true;
            session.window_used += 1;
        }
        for (packet_id, reason) in unfit {
            // What is left is unfit again then.
            if self.turn.record.len() >= RECORD_BYTES {
                break;
            }
            match reason {
                NOT_AUTHORIZED => self.end_unreadable(now, key, packet_id),
                reason => self.end_in_flight(now, key, packet_id, Outcome::Dropped(reason)),
            }
            self.drain_later(key);
        }
    }

    pub(super) fn drained(&mut self, now: Now, conn: ConnId) {
        if let Some(c) = self.conns.get_mut(&conn) {
            c.congested = false;
            let key = c.session;
            self.drain(now, key);
            self.inbox_drained(now, key);
        }
    }

    /// Makes the PUBLISH for a session's connection, which must be sent then: the client will know the topic's alias.
    ///
    /// `is_again`: it went out before.
    ///
    /// # Errors
    /// Why the client does not get it: it is over its Maximum Packet Size, may not be read any more, or is lost.
    pub(super) fn prepare(
        &mut self,
        now: Now,
        key: SessionKey,
        conn: ConnId,
        delivery: &Delivery,
        packet_id: Option<PacketId>,
        is_again: bool,
    ) -> Result<Publish, &'static str> {
        let is_doubtful = self.is_suspect(key) || self.is_as_member(key, &delivery.message);
        if is_doubtful && !self.may_send(conn, &delivery.message.topic) {
            return Err(NOT_AUTHORIZED);
        }
        let may_learn = self.memory.level == MemoryLevel::Normal;
        let body = delivery.message.body.load();
        debug_assert!(body.as_ref().is_some(), "a message is sent whose body was not waited for");
        let body = body.as_ref().filter(|body| !body.is_lost).ok_or(STORAGE_ERROR)?;
        let tells_gap = self.tells_gap(key, delivery, is_again);
        let c = self.conns.get_mut(&conn);
        let outgoing = &mut self.outgoing;
        let sending = Sending { packet_id, tells_gap, may_learn };
        // [MQTT-3.1.2-24]
        let publish = c.and_then(|c| c.publish(now, delivery, body, outgoing, sending));
        let publish = publish.ok_or("too_large")?;
        if tells_gap && !is_again {
            self.told_gap(key, delivery);
        }
        Ok(publish)
    }

    /// Ends a message that the log does not have at this session: only its receipt may need the record.
    pub(super) fn end_unlogged(&mut self, now: Now, key: SessionKey, delivery: &Delivery, outcome: Outcome) {
        let session = self.sessions[key].no;
        let (message, source) = (delivery.message.no, delivery.source());
        let ending = Ending { session, message, source, packet_id: None, logged: false };
        self.end(now, ending, outcome);
        self.note_end(key, delivery, outcome);
    }

    /// Ends a message that was taken out of the session's queue.
    pub(super) fn end_waiting(&mut self, now: Now, key: SessionKey, delivery: &Delivery, outcome: Outcome) {
        let session = &self.sessions[key];
        let (session, logged) = (session.no, session.logs(delivery));
        let (message, source) = (delivery.message.no, delivery.source());
        self.end(now, Ending { session, message, source, packet_id: None, logged }, outcome);
        self.note_end(key, delivery, outcome);
    }

    /// Ends a message in flight; an unknown id is ignored.
    pub(super) fn end_in_flight(&mut self, now: Now, key: SessionKey, packet_id: PacketId, outcome: Outcome) {
        let session = &mut self.sessions[key];
        let Some(ended) = session.end_in_flight(packet_id) else { return };
        let (session, logged) = (session.no, session.logs(&ended.delivery));
        let (message, source) = (ended.delivery.message.no, ended.delivery.source());
        self.end(now, Ending { session, message, source, packet_id: Some(packet_id), logged }, outcome);
        self.note_end(key, &ended.delivery, outcome);
    }
}

/// The properties that the message sent last goes out with: a message to many is sent to all of them in a row.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// See [`Message::no`]; 0 = none.
    message: MsgNo,
    /// What of it changes when it is another one with that number.
    seq_and_ts: (Option<u64>, u64),
    properties: Shared<PublishProperties>,
}

/// How one PUBLISH goes out.
#[derive(Clone, Copy)]
struct Sending {
    packet_id: Option<PacketId>,
    /// It says that there is a hole before it.
    tells_gap: bool,
    /// Its topic may get an alias.
    may_learn: bool,
}

impl Outgoing {
    fn of(&mut self, message: &Message, body: &Body) -> Shared<PublishProperties> {
        let seq_and_ts = (message.seq, message.ts_unix_ms);
        if message.no == MsgNo(0) || (self.message, self.seq_and_ts) != (message.no, seq_and_ts) {
            (self.message, self.seq_and_ts) = (message.no, seq_and_ts);
            self.properties = message.outgoing(body);
        }
        self.properties.clone()
    }
}

impl Conn {
    /// Makes the PUBLISH for the client; `None` when it is over the client's Maximum Packet Size.
    fn publish(
        &mut self,
        now: Now,
        delivery: &Delivery,
        body: &Body,
        outgoing: &mut Outgoing,
        sending: Sending,
    ) -> Option<Publish> {
        let Sending { packet_id, tells_gap, may_learn } = sending;
        let message = &delivery.message;
        self.last_sent_ms = now.monotonic_ms;
        let mut publish = if self.version == ProtocolVersion::V5 {
            let properties = outgoing.of(message, body);
            message.to_publish(body, properties, delivery.qos, &delivery.subscription_identifiers, now)
        } else {
            let (topic, payload) = (message.topic.clone(), body.payload.clone());
            Publish { qos: delivery.qos, topic, payload, ..Publish::default() }
        };
        if let Some(seq) = message.seq.filter(|_| tells_gap && self.version == ProtocolVersion::V5) {
            publish.properties.user_properties.push((im::IM_GAP.into(), seq.to_string().into()));
        }
        publish.packet_id = packet_id;
        publish.retain = delivery.retain;
        if delivery.form() == Form::Envelope {
            publish = envelope::wrap(message, body, tells_gap, publish)?;
        }
        let alias = self.topics.as_mut().and_then(|topics| topics.find(&publish.topic));
        let named = match alias {
            Some(Alias::Free(_)) => publish.topic.clone(),
            _ => ByteString::new(),
        };
        match alias {
            Some(Alias::Known(alias)) => {
                publish.properties.topic_alias = Some(alias);
                publish.topic = ByteString::new();
            }
            Some(Alias::Free(alias)) if may_learn => publish.properties.topic_alias = Some(alias),
            _ => {}
        }
        if !self.fit(&mut publish, message, body) {
            return None;
        }
        if packet_id.is_some() {
            self.flight_sent_ms = Some(now.monotonic_ms);
        }
        if let (Some(Alias::Free(alias)), Some(topics)) = (alias, &mut self.topics)
            && publish.properties.topic_alias.is_some()
        {
            let before = topics.held_bytes();
            topics.establish(alias, &named);
            self.held.grow(topics.held_bytes());
            self.held.shrink(before);
        }
        Some(publish)
    }

    /// Makes the packet such that the client can take it: for that an alias that is new to it may be left out,
    /// and what the broker adds. Says whether that helped.
    fn fit(&self, publish: &mut Publish, message: &Message, body: &Body) -> bool {
        let Some(limit) = self.packet_bytes_max else { return true };
        let limit = limit.get() as usize;
        let mut packet = Packet::Publish(std::mem::take(publish));
        for attempt in 0..3 {
            let is_too_large = protocol::encoded_len(&packet, self.version) > limit;
            let Packet::Publish(publish) = &mut packet else { unreachable!("it was made a PUBLISH above") };
            match attempt {
                _ if !is_too_large => break,
                0 if !publish.topic.is_empty() => publish.properties.topic_alias = None,
                0 => {}
                // In a conversation the number is part of the message: without it the client would see a hole.
                1 if message.seq.is_none() => body.leave_out_broker_properties(publish),
                _ => return false,
            }
        }
        let Packet::Publish(fitting) = packet else { unreachable!("it was made a PUBLISH above") };
        *publish = fitting;
        true
    }
}

impl Delivery {
    /// Makes the log's entry of this message at a session.
    pub(super) fn queued(&self, session: SessionNo, packet_id: Option<PacketId>) -> Entry {
        Entry::Queued {
            session,
            message: self.message.no,
            qos: self.qos,
            retain: self.retain,
            source: self.source(),
            identifiers: self.subscription_identifiers.to_vec(),
            packet_id,
        }
    }
}
