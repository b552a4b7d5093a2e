//! Every packet after CONNECT, except SUBSCRIBE, UNSUBSCRIBE and the inside of PUBLISH.

use protocol::{Ack, Disconnect, Packet, PacketId, ProtocolVersion, QoS, ReasonCode};

use super::{ANSWERS_WAITING_MAX, Shard, Wait};
use crate::receipt::Outcome;
use crate::record::Entry;
use crate::session::FlightState;
use crate::{CloseReason, ConnId, Now};

impl Shard {
    /// Takes a packet, or a part of one that has more filters than are taken at once.
    pub(super) fn packet(&mut self, now: Now, conn: ConnId, packet: Packet, filters_left: usize) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let (quiet_since_ms, is_watched) = (c.last_packet_ms.max(c.last_sent_ms), c.path.is_some());
        c.last_packet_ms = now.monotonic_ms;
        if c.answers_waiting > ANSWERS_WAITING_MAX {
            let what = format!("more than {ANSWERS_WAITING_MAX} answers wait for the store");
            return self.violate(now, conn, ReasonCode::MessageRateTooHigh, &what);
        }
        if is_watched {
            self.watch_path(now, conn, quiet_since_ms, &packet);
        }
        match packet {
            Packet::Publish(publish) => self.publish(now, conn, publish),
            Packet::PubAck(ack) => self.puback(now, conn, &ack),
            Packet::PubRec(ack) => self.pubrec(now, conn, &ack),
            Packet::PubRel(ack) => self.pubrel(conn, ack.packet_id),
            Packet::PubComp(ack) => self.pubcomp(now, conn, &ack),
            Packet::Subscribe(subscribe) => self.subscribe(now, conn, subscribe, filters_left),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(now, conn, &unsubscribe, filters_left),
            // [MQTT-3.12.4-1]
            Packet::PingReq => self.send_fitting(conn, Wait::Ticket(0), Packet::PingResp),
            Packet::Disconnect(disconnect) => self.disconnect(now, conn, &disconnect),
            Packet::Auth(_) => {
                let what = "AUTH without an authentication method in CONNECT";
                self.violate(now, conn, ReasonCode::ProtocolError, what);
            }
            // [MQTT-3.1.0-2] a second CONNECT; the rest only brokers send.
            Packet::Connect(_)
            | Packet::ConnAck(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp => {
                self.violate(now, conn, ReasonCode::ProtocolError, "a packet that no client may send now");
            }
        }
    }

    /// The recipient's PUBACK: the final state of a QoS 1 delivery. Unknown ids are late and ignored.
    fn puback(&mut self, now: Now, conn: ConnId, ack: &Ack) {
        let Some(key) = self.conns.get(&conn).map(|c| c.session) else { return };
        let Some(entry) = self.sessions[key].in_flight_mut(ack.packet_id) else { return };
        if entry.delivery.qos != QoS::AtLeastOnce {
            let what = format!("PUBACK for packet id {}, which is QoS 2", ack.packet_id);
            return self.violate(now, conn, ReasonCode::ProtocolError, &what);
        }
        self.end_flight(now, conn, ack.packet_id, outcome(ack, QoS::AtLeastOnce));
    }

    fn pubrec(&mut self, now: Now, conn: ConnId, ack: &Ack) {
        let Some(c) = self.conns.get(&conn) else { return };
        let (key, version, packet_id) = (c.session, c.version, ack.packet_id);
        let session = &mut self.sessions[key];
        let no = session.no;
        let Some(entry) = session.in_flight(packet_id) else {
            let reason = ReasonCode::PacketIdentifierNotFound;
            // A refused PUBREC ends the flow; any other waits for a PUBREL.
            if !(version == ProtocolVersion::V5 && ack.reason.is_failure()) {
                self.send_fitting(conn, Wait::Ticket(0), Packet::PubRel(Ack::new(packet_id, reason)));
            }
            return;
        };
        if entry.delivery.qos != QoS::ExactlyOnce {
            let what = format!("PUBREC for packet id {packet_id}, which is QoS 1");
            return self.violate(now, conn, ReasonCode::ProtocolError, &what);
        }
        // [MQTT-4.3.3-4] a reason code of 0x80 or above is the end of it.
        if ack.reason.is_failure() {
            return self.end_flight(now, conn, packet_id, outcome(ack, QoS::ExactlyOnce));
        }
        let logged = session.logs(&entry.delivery);
        if session.release(packet_id) && logged {
            self.write(&Entry::Received { session: no, packet_id });
        }
        // PUBREL before `Received` is durable would let a crash send the PUBLISH again to a receiver that
        // has forgotten its packet id.
        let pubrel = Packet::PubRel(Ack::new(packet_id, ReasonCode::Success));
        self.send_fitting(conn, Wait::Record, pubrel);
    }

    fn pubcomp(&mut self, now: Now, conn: ConnId, ack: &Ack) {
        let Some(key) = self.conns.get(&conn).map(|c| c.session) else { return };
        let Some(entry) = self.sessions[key].in_flight_mut(ack.packet_id) else { return };
        if entry.state == FlightState::Sent {
            let what = format!("PUBCOMP for packet id {} before its PUBREC", ack.packet_id);
            return self.violate(now, conn, ReasonCode::ProtocolError, &what);
        }
        // 0x92 here says only that the receiver knows the id no more: it has the message.
        self.end_flight(now, conn, ack.packet_id, Outcome::Delivered(QoS::ExactlyOnce));
    }

    fn end_flight(&mut self, now: Now, conn: ConnId, packet_id: PacketId, outcome: Outcome) {
        let Some(key) = self.conns.get(&conn).map(|c| c.session) else { return };
        self.end_in_flight(now, key, packet_id, outcome);
        self.trust(key);
        self.drain(now, key);
    }

    /// [MQTT-4.3.3-11] PUBREL is answered with PUBCOMP. It waits until the id's release is durable: the
    /// client may use the id anew at once.
    fn pubrel(&mut self, conn: ConnId, packet_id: PacketId) {
        let Some(c) = self.conns.get(&conn) else { return };
        let key = c.session;
        let session = &mut self.sessions[key];
        let reason = match session.release_incoming(packet_id) {
            Some(_) => {
                if session.durable {
                    let session = session.no;
                    self.write(&Entry::IncomingReleased { session, packet_id });
                }
                ReasonCode::Success
            }
            None => ReasonCode::PacketIdentifierNotFound,
        };
        let wait = Wait::Ticket(self.last_or_this_ticket());
        self.send_fitting(conn, wait, Packet::PubComp(Ack::new(packet_id, reason)));
    }

    fn disconnect(&mut self, now: Now, conn: ConnId, disconnect: &Disconnect) {
        let Some(c) = self.conns.get(&conn) else { return };
        let (key, may_change_expiry) = (c.session, c.may_change_expiry);
        if let Some(expiry_s) = disconnect.properties.session_expiry_interval_s {
            // Section 3.14.2.2.2: a session that was to end with its connection cannot be made to stay.
            if expiry_s > 0 && !may_change_expiry {
                let what = format!("DISCONNECT sets session expiry {expiry_s} s, CONNECT had 0");
                return self.violate(now, conn, ReasonCode::ProtocolError, &what);
            }
            let max_s = self.expiry_max_s(self.sessions[key].limits());
            self.sessions[key].expiry_s = expiry_s.min(max_s);
        }
        // [MQTT-3.14.4-3] only a normal DISCONNECT takes the will away.
        if disconnect.reason == ReasonCode::Success {
            self.sessions[key].take_will();
        }
        self.connection_ended(now, conn, CloseReason::Disconnected);
    }
}

fn outcome(ack: &Ack, qos: QoS) -> Outcome {
    if ack.reason.is_failure() { Outcome::Refused(ack.reason) } else { Outcome::Delivered(qos) }
}
