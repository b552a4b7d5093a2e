//! A message comes in: from a client's PUBLISH, or as its will.

use bytestring::ByteString;
use protocol::{Packet, PacketId, ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode, Will, im};

use super::accept::{Accepted, Offer, Publisher, Refused};
use super::answer::quoted;
use super::request::Request;
use super::{Shard, Wait};
use crate::memory::ALIAS_BYTES;
use crate::message::{MessageId, compact};
use crate::record::Entry;
use crate::rights::Rights;
use crate::route::SessionKey;
use crate::session::Incoming;
use crate::{ConnId, Now};

impl Shard {
    pub(super) fn publish(&mut self, now: Now, conn: ConnId, mut publish: Publish) {
        self.stats.publishes_in += 1;
        self.stats.payload_bytes_in += publish.payload.len() as u64;
        if let Err((reason, what)) = self.resolve_alias(conn, &mut publish) {
            return self.violate(now, conn, reason, &what);
        }
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let (key, version) = (c.session, c.version);
        let packet_id = publish.packet_id.filter(|_| publish.qos > QoS::AtMostOnce);
        if let Some(packet_id) = packet_id {
            let repeated =
                publish.qos == QoS::ExactlyOnce && self.sessions[key].incoming.contains_key(&packet_id);
            // One that is sent again before its PUBREL is acknowledged once to the end.
            c.unacknowledged = c.unacknowledged.saturating_add(u16::from(!repeated));
            // [MQTT-3.3.4-7] a client that sends more than the broker allowed breaks the protocol.
            if version == ProtocolVersion::V5 && c.unacknowledged > c.receive_maximum {
                let what =
                    format!("more than {} QoS 1 and 2 publishes are unacknowledged", c.receive_maximum);
                return self.violate(now, conn, ReasonCode::ReceiveMaximumExceeded, &what);
            }
            if repeated {
                return self.repeat_pubrec(conn, key, packet_id);
            }
        }
        if let Some(request) = Request::of(&publish.topic) {
            return self.request(now, conn, request, &publish, packet_id);
        }
        let qos = publish.qos;
        let session = &self.sessions[key];
        let mut offer = Offer {
            by: Publisher {
                session: Some(key),
                user: session.user.clone(),
                client: session.client_id.clone(),
                principal: None,
            },
            topic: publish.topic,
            payload: publish.payload,
            qos,
            retain: publish.retain,
            properties: publish.properties,
            incoming: packet_id.filter(|_| qos == QoS::ExactlyOnce),
        };
        match (self.accept(now, &mut offer), packet_id) {
            (Ok(accepted), Some(packet_id)) => self.acknowledge(conn, qos, packet_id, &accepted),
            (Ok(_), None) => {}
            (Err(refused), packet_id) => self.refuse(now, conn, qos, packet_id, &offer.topic, &refused),
        }
    }

    /// [MQTT-3.3.2-12] a topic alias stands for the topic it was last sent with on this connection.
    pub(super) fn resolve_alias(
        &mut self,
        conn: ConnId,
        publish: &mut Publish,
    ) -> Result<(), (ReasonCode, String)> {
        let alias = publish.properties.get_mut().and_then(|properties| properties.topic_alias.take());
        let Some(alias) = alias else { return Ok(()) };
        let Some(c) = self.conns.get_mut(&conn) else { return Ok(()) };
        let max = self.config.topic_alias_max;
        // [MQTT-3.3.2-9] no alias above the broker's Topic Alias Maximum.
        if alias.get() > max {
            return Err((ReasonCode::TopicAliasInvalid, format!("topic alias {alias} is above {max}")));
        }
        if !publish.topic.is_empty() {
            let needed = ALIAS_BYTES + publish.topic.len();
            self.memory.room_for(needed).map_err(|what| (ReasonCode::QuotaExceeded, what))?;
            c.held.grow(needed);
            if let Some(before) = c.aliases.insert(alias, compact(&publish.topic)) {
                c.held.shrink(ALIAS_BYTES + before.len());
            }
            return Ok(());
        }
        match c.aliases.get(&alias) {
            Some(topic) => publish.topic = topic.clone(),
            None => return Err((ReasonCode::ProtocolError, format!("topic alias {alias} has no topic yet"))),
        }
        Ok(())
    }

    /// [MQTT-4.3.3-10] a QoS 2 publish sent again before its PUBREL is acknowledged and not taken again.
    pub(super) fn repeat_pubrec(&mut self, conn: ConnId, key: SessionKey, packet_id: PacketId) {
        let known = &self.sessions[key].incoming[&packet_id];
        let (reason, seq, id) = (ReasonCode::Success, known.seq, known.id.clone());
        let accepted = Accepted { reason, seq, id, is_repeat: false };
        // The first PUBREC may still wait for its record, on a connection that is gone.
        let wait = Wait::Ticket(self.gate.last_ticket());
        self.send_acceptance(conn, QoS::ExactlyOnce, packet_id, &accepted, wait);
    }

    fn acknowledge(&mut self, conn: ConnId, qos: QoS, packet_id: PacketId, accepted: &Accepted) {
        let wait = match accepted.is_repeat {
            // The first one's record may not be durable yet.
            true => Wait::Ticket(self.last_or_this_ticket()),
            false => Wait::Record,
        };
        self.send_acceptance(conn, qos, packet_id, accepted, wait);
    }

    fn send_acceptance(
        &mut self,
        conn: ConnId,
        qos: QoS,
        packet_id: PacketId,
        accepted: &Accepted,
        wait: Wait,
    ) {
        let mut ack = self.ack(conn, packet_id, accepted.reason, None);
        if self.conns.get(&conn).is_some_and(|c| c.problem_information) {
            let properties = &mut ack.properties.user_properties;
            // A request has none.
            if !accepted.id.is_empty() {
                properties.push((im::IM_ID.into(), accepted.id.text()));
            }
            if let Some(seq) = accepted.seq {
                properties.push((im::IM_SEQ.into(), seq.to_string().into()));
            }
            if accepted.is_repeat {
                properties.push((im::IM_DUP.into(), ByteString::from_static("1")));
            }
        }
        let packet = if qos == QoS::ExactlyOnce { Packet::PubRec(ack) } else { Packet::PubAck(ack) };
        self.send_fitting(conn, wait, packet);
    }

    pub(super) fn refuse(
        &mut self,
        now: Now,
        conn: ConnId,
        qos: QoS,
        packet_id: Option<PacketId>,
        topic: &ByteString,
        refused: &Refused,
    ) {
        self.stats.dropped += 1;
        let Some(c) = self.conns.get(&conn) else { return };
        let (key, version) = (c.session, c.version);
        let what = format!("publish to {} refused: {}", quoted(topic), refused.what);
        let Some(packet_id) = packet_id else {
            if refused.reason == ReasonCode::PayloadFormatInvalid {
                // Section 3.3.2.3.2 names PUBACK, PUBREC and DISCONNECT, and QoS 0 has only the last.
                return self.violate(now, conn, refused.reason, &what);
            }
            return self.tell_error(now, key, topic, &what);
        };
        if version == ProtocolVersion::V5 {
            let ack = self.ack(conn, packet_id, refused.reason, Some(&what));
            let packet = if qos == QoS::ExactlyOnce { Packet::PubRec(ack) } else { Packet::PubAck(ack) };
            return self.send_fitting(conn, Wait::Record, packet);
        }
        if !refused.is_for_good() {
            // 3.1.1 has no code for it: without an acknowledgement the client keeps the message.
            return self.violate(now, conn, refused.reason, &what);
        }
        // [MQTT-3.3.5-2] (3.1.1) what is forbidden for good is acknowledged and discarded.
        self.tell_error(now, key, topic, &what);
        let (reason, id) = (ReasonCode::Success, MessageId::default());
        let accepted = Accepted { reason, seq: None, id, is_repeat: false };
        if qos == QoS::ExactlyOnce {
            self.take_incoming(key, packet_id, None, MessageId::default());
        }
        self.acknowledge(conn, qos, packet_id, &accepted);
    }

    /// Remembers a QoS 2 publish until its PUBREL.
    pub(super) fn take_incoming(
        &mut self,
        key: SessionKey,
        packet_id: PacketId,
        seq: Option<u64>,
        id: MessageId,
    ) {
        let session = &mut self.sessions[key];
        session.take_incoming(packet_id, Incoming { seq, id: id.clone() });
        if session.durable {
            let session = session.no;
            self.write(&Entry::IncomingTaken { session, packet_id, seq, id: id.text() });
        }
    }

    /// Publishes a will. Nobody waits for its acknowledgement.
    pub(super) fn publish_will(&mut self, now: Now, by: Publisher, will: Will) {
        let Will { topic, payload, qos, retain, properties, .. } = will;
        // Rules may have changed since it was left.
        let allowed = self.check_will_now(&by, &topic);
        let properties = properties.into();
        let mut offer = Offer { by, topic, payload, qos, retain, properties, incoming: None };
        if allowed.and_then(|()| self.accept(now, &mut offer)).is_err() {
            self.stats.dropped += 1;
        }
    }

    /// Checks a will when it is left: nobody hears of it when it is refused later.
    pub(super) fn check_will(
        &mut self,
        will: &Will,
        levels_max: usize,
        rights: &mut Rights,
    ) -> Result<(), Refused> {
        self.check_topic(&will.topic, levels_max)?;
        rights.may_publish(&will.topic).map_err(|denied| Refused::not_authorized(&denied))?;
        // Section 3.1.3.2.3: CONNACK with 0x99.
        check_payload_format(&will.properties, &will.payload)?;
        self.message_id(&will.properties).map(drop)
    }
}

/// Section 3.3.2.3.2: a receiver may check that a payload said to be UTF-8 is, and refuse it with 0x99. It
/// does: the promise is the sender's, and subscribers rely on it.
pub(super) fn check_payload_format(properties: &PublishProperties, payload: &[u8]) -> Result<(), Refused> {
    if properties.payload_format_utf8 != Some(true) {
        return Ok(());
    }
    std::str::from_utf8(payload).map(drop).map_err(|error| {
        Refused::new(
            ReasonCode::PayloadFormatInvalid,
            format!("the payload is not UTF-8 as it says: {error}"),
        )
    })
}
