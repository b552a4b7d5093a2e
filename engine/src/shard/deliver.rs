//! A message goes to one session: at once, or into its queue and later out of it.

use protocol::{Ack, Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode};

use super::backlog::ENDS_PER_TURN_MAX;
use super::end::Ending;
use super::queue::Way;
use super::rights::NOT_AUTHORIZED;
use super::{Shard, Wait};
use crate::message::Delivery;
use crate::receipt::Outcome;
use crate::record::{Entry, SessionNo};
use crate::route::SessionKey;
use crate::session::FlightState;
use crate::{ConnId, Now};

impl Shard {
    /// Gives a message to a session. A durable session's part in it goes into the turn's record; the
    /// message itself must be there before.
    pub(super) fn deliver(&mut self, now: Now, key: SessionKey, delivery: Delivery) {
        self.refresh_if_suspect(key);
        match self.way(key, delivery.qos, delivery.message.seq.is_some()) {
            Way::Send(conn) if delivery.qos == QoS::AtMostOnce => {
                self.send_at_most_once(now, key, conn, delivery);
            }
            Way::Send(conn) => self.send_first(now, key, conn, delivery, true),
            Way::Queue => self.enqueue(now, key, delivery),
            Way::Drop(reason) => self.end_unlogged(now, key, &delivery, Outcome::Dropped(reason)),
        }
    }

    fn send_at_most_once(&mut self, now: Now, key: SessionKey, conn: ConnId, delivery: Delivery) {
        let outcome = self.write_out(now, conn, &delivery);
        self.end_unlogged(now, key, &delivery, outcome);
    }

    /// Sends at QoS 0.
    fn write_out(&mut self, now: Now, conn: ConnId, delivery: &Delivery) -> Outcome {
        match self.prepare(now, conn, delivery, None) {
            Ok(publish) => {
                self.send(conn, Wait::Ticket(delivery.message.ticket), Packet::Publish(publish));
                Outcome::Delivered(QoS::AtMostOnce)
            }
            Err(reason) => Outcome::Dropped(reason),
        }
    }

    /// Sends a QoS 1 or 2 message for the first time. `is_new` says that the log does not know it at this
    /// session yet.
    fn send_first(&mut self, now: Now, key: SessionKey, conn: ConnId, delivery: Delivery, is_new: bool) {
        let message = delivery.message.no;
        let session = &mut self.sessions[key];
        let durable = session.durable;
        // All in flight is on this connection, in a window that has room and is never above 65,535.
        let packet_id = session.take_packet_id().expect("fewer messages are in flight than there are ids");
        let publish = match self.prepare(now, conn, &delivery, Some(packet_id)) {
            Ok(publish) => publish,
            // As if it had been sent.
            Err(reason) if is_new => {
                return self.end_unlogged(now, key, &delivery, Outcome::Dropped(reason));
            }
            Err(reason) => return self.end_waiting(now, key, &delivery, Outcome::Dropped(reason)),
        };
        let session = self.sessions[key].no;
        let mut ticket = delivery.message.ticket;
        if durable {
            // The packet id must survive: after a crash the same message goes out under the same id
            // ([MQTT-4.4.0-1]), or a QoS 2 receiver would take it twice.
            self.write(&if is_new {
                delivery.queued(session, Some(packet_id))
            } else {
                Entry::Sent { session, message, packet_id }
            });
            ticket = self.gate.next_ticket();
        }
        self.send(conn, Wait::Ticket(ticket), Packet::Publish(publish));
        self.sessions[key].push_in_flight(packet_id, delivery, true);
    }

    /// Sends what the connection has room for: first what is in flight from a connection before, then what
    /// waits.
    pub(super) fn drain(&mut self, now: Now, key: SessionKey) {
        self.refresh_if_suspect(key);
        let Some(conn) = self.sessions[key].conn else { return };
        let Some(c) = self.conns.get(&conn).filter(|c| !c.congested) else { return };
        let window = c.window;
        self.resend(now, key, conn, window);
        let mut ended = 0;
        loop {
            let session = &mut self.sessions[key];
            if ended >= ENDS_PER_TURN_MAX {
                return self.drain_later(key);
            }
            if session.window_used < session.in_flight.len() || session.window_used >= window {
                return;
            }
            let Some(delivery) = session.pop_waiting() else { return };
            if delivery.message.expiry.is_some_and(|e| e.is_past(now)) {
                // [MQTT-3.3.2-5] expired before its delivery began.
                self.end_waiting(now, key, &delivery, Outcome::Expired);
                ended += 1;
            } else if delivery.qos > QoS::AtMostOnce {
                let sent_before = self.sessions[key].in_flight.len();
                self.send_first(now, key, conn, delivery, false);
                ended += usize::from(self.sessions[key].in_flight.len() == sent_before);
            } else {
                let outcome = self.write_out(now, conn, &delivery);
                self.end_waiting(now, key, &delivery, outcome);
                ended += 1;
            }
        }
    }

    /// [MQTT-4.4.0-1] resends PUBLISH and PUBREL under their packet ids, [MQTT-4.6.0-1] in the order of
    /// their first sending.
    fn resend(&mut self, now: Now, key: SessionKey, conn: ConnId, window: usize) {
        if self.sessions[key].window_used == self.sessions[key].in_flight.len() {
            return;
        }
        let mut unfit = Vec::new();
        for at in 0..self.sessions[key].in_flight.len() {
            let session = &self.sessions[key];
            let entry = &session.in_flight[at];
            if entry.on_this_connection {
                continue;
            }
            let packet_id = entry.packet_id;
            let packet = match entry.state {
                FlightState::Released => Packet::PubRel(Ack::new(packet_id, ReasonCode::Success)),
                FlightState::Sent if session.window_used >= window => break,
                FlightState::Sent => match self.prepare(now, conn, &entry.delivery, Some(packet_id)) {
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
                },
            };
            self.send(conn, Wait::Ticket(self.gate.last_ticket()), packet);
            let session = &mut self.sessions[key];
            session.in_flight[at].on_this_connection = true;
            session.window_used += 1;
        }
        for (packet_id, reason) in unfit {
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
        }
    }

    /// Makes the PUBLISH for a connection.
    ///
    /// # Errors
    /// Why the client does not get it: it is over its Maximum Packet Size, or may not be read any more.
    fn prepare(
        &self,
        now: Now,
        conn: ConnId,
        delivery: &Delivery,
        packet_id: Option<PacketId>,
    ) -> Result<Publish, &'static str> {
        let c = &self.conns[&conn];
        let message = &delivery.message;
        if !self.may_send(c, &message.topic) {
            return Err(NOT_AUTHORIZED);
        }
        let mut publish = if c.version == ProtocolVersion::V5 {
            message.to_publish(delivery.qos, &delivery.subscription_identifiers, now)
        } else {
            let (topic, payload) = (message.topic.clone(), message.payload.clone());
            Publish { qos: delivery.qos, topic, payload, ..Publish::default() }
        };
        publish.packet_id = packet_id;
        publish.retain = delivery.retain;
        if let Some(limit) = c.packet_bytes_max {
            let (limit, version) = (limit.get() as usize, c.version);
            let mut packet = Packet::Publish(publish);
            if protocol::encoded_len(&packet, version) > limit {
                let Packet::Publish(publish) = &mut packet else {
                    unreachable!("it was made a PUBLISH above")
                };
                // In a conversation the number is part of the message: without it the client would see a hole.
                if message.seq.is_none() {
                    message.leave_out_broker_properties(publish);
                }
                if protocol::encoded_len(&packet, version) > limit {
                    // [MQTT-3.1.2-24]
                    return Err("too_large");
                }
            }
            let Packet::Publish(taken) = packet else { unreachable!("it was made a PUBLISH above") };
            publish = taken;
        }
        Ok(publish)
    }

    /// Ends a message that the log does not have at this session: only its receipt may need the record.
    pub(super) fn end_unlogged(&mut self, now: Now, key: SessionKey, delivery: &Delivery, outcome: Outcome) {
        let session = self.sessions[key].no;
        let (message, is_copy) = (delivery.message.no, delivery.is_copy);
        let ending = Ending { session, message, is_copy, packet_id: None, logged: false };
        self.end(now, ending, outcome);
    }

    /// Ends a message that was taken out of the session's queue.
    pub(super) fn end_waiting(&mut self, now: Now, key: SessionKey, delivery: &Delivery, outcome: Outcome) {
        let session = &self.sessions[key];
        let (session, logged) = (session.no, session.durable);
        let (message, is_copy) = (delivery.message.no, delivery.is_copy);
        self.end(now, Ending { session, message, is_copy, packet_id: None, logged }, outcome);
    }

    /// Ends a message in flight; an unknown id is ignored.
    pub(super) fn end_in_flight(&mut self, now: Now, key: SessionKey, packet_id: PacketId, outcome: Outcome) {
        let session = &mut self.sessions[key];
        let Some(ended) = session.end_in_flight(packet_id) else { return };
        let (session, logged) = (session.no, session.durable);
        let (message, is_copy) = (ended.delivery.message.no, ended.delivery.is_copy);
        self.end(now, Ending { session, message, is_copy, packet_id: Some(packet_id), logged }, outcome);
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
            is_copy: self.is_copy,
            identifiers: self.subscription_identifiers.clone(),
            packet_id,
        }
    }
}
