//! One connection as its client sees it: what the broker sends must be in the standard's order and bounds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::BytesMut;
use protocol::{
    Ack, Connect, Decoder, Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode, Role, encode,
};

/// How far the broker's QoS 1 or 2 message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flight {
    AtLeastOnce,
    ExactlyOnce,
    Released,
}

/// A connection that is open as far as its client knows.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) client: usize,
    pub(super) version: ProtocolVersion,
    /// CONNACK came, with success.
    pub(super) connected: bool,
    /// What an obedient client would send now.
    pub(super) answers: VecDeque<Packet>,
    packet_bytes_max: usize,
    receive_maximum: usize,
    topic_alias_max: u16,
    aliases: BTreeMap<u16, String>,
    in_flight: BTreeMap<PacketId, Flight>,
    /// PUBLISH packets of this connection that count against Receive Maximum.
    unacknowledged: BTreeSet<PacketId>,
    disconnected: bool,
    /// The client acknowledged what it was not sent: what it is sent from then on may be its own fault.
    has_lied: bool,
}

impl Link {
    pub(super) fn new(client: usize, connect: &Connect) -> Self {
        let properties = &connect.properties;
        Self {
            client,
            version: connect.version,
            connected: false,
            answers: VecDeque::new(),
            packet_bytes_max: properties.packet_bytes_max.map_or(usize::MAX, |max| max.get() as usize),
            receive_maximum: properties.receive_maximum.map_or(65_535, |max| usize::from(max.get())),
            topic_alias_max: properties.topic_alias_max.unwrap_or(0),
            aliases: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            unacknowledged: BTreeSet::new(),
            disconnected: false,
            has_lied: false,
        }
    }

    /// Takes what the broker sent.
    pub(super) fn take(&mut self, packet: &Packet) {
        self.check_bytes(packet);
        // [MQTT-3.14.4-1]
        assert!(!self.disconnected, "a packet after DISCONNECT: {packet:?}");
        // [MQTT-3.2.0-1], [MQTT-3.2.0-2]
        let is_connack = matches!(packet, Packet::ConnAck(_));
        let may_come_first = is_connack || matches!(packet, Packet::Auth(_));
        assert!(
            self.connected != is_connack && (self.connected || may_come_first),
            "out of order: {packet:?}"
        );
        match packet {
            Packet::ConnAck(connack) => self.connected = connack.reason == ReasonCode::Success,
            Packet::Publish(publish) => self.publish(publish),
            Packet::PubRel(ack) => {
                // A QoS 1 id here would be the broker's mistake; an unknown one answers a late PUBREC.
                let before = self.in_flight.insert(ack.packet_id, Flight::Released);
                let is_wrong = before == Some(Flight::AtLeastOnce) && !self.has_lied;
                assert!(!is_wrong, "PUBREL for QoS 1: {ack:?}");
                self.answers.push_back(Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::Success)));
            }
            Packet::Disconnect(_) => {
                assert_eq!(self.version, ProtocolVersion::V5, "3.1.1 servers send no DISCONNECT");
                self.disconnected = true;
            }
            _ => {}
        }
    }

    /// Whatever is sent must be what a strict client decodes, and within its Maximum Packet Size.
    fn check_bytes(&self, packet: &Packet) {
        let mut bytes = BytesMut::new();
        encode(packet, self.version, &mut bytes).expect("what the engine sends can be encoded");
        // [MQTT-3.1.2-24]
        assert!(bytes.len() <= self.packet_bytes_max, "{} bytes: {packet:?}", bytes.len());
        let decoded = Decoder::new(Role::Client, Some(self.version), u32::MAX).decode(&mut bytes);
        match (decoded, self.version) {
            (Ok(Some(decoded)), ProtocolVersion::V5) => assert_eq!(decoded, *packet),
            // 3.1.1 has no place for most codes and no properties.
            (Ok(Some(_)), ProtocolVersion::V311) => {}
            (other, version) => panic!("{packet:?} to a client of {version:?} is {other:?}"),
        }
        assert!(bytes.is_empty(), "more than one packet: {packet:?}");
    }

    fn publish(&mut self, publish: &Publish) {
        if let Some(alias) = publish.properties.topic_alias {
            // [MQTT-3.1.2-26], [MQTT-3.1.2-27]
            assert!(alias.get() <= self.topic_alias_max, "{publish:?} with at most {}", self.topic_alias_max);
            if !publish.topic.is_empty() {
                self.aliases.insert(alias.get(), publish.topic.to_string());
            }
            assert!(self.aliases.contains_key(&alias.get()), "an alias without topic: {publish:?}");
        } else {
            assert!(!publish.topic.is_empty(), "neither topic nor alias: {publish:?}");
        }
        let Some(packet_id) = publish.packet_id.filter(|_| publish.qos > QoS::AtMostOnce) else { return };
        let (flight, answer) = match publish.qos {
            QoS::ExactlyOnce => {
                (Flight::ExactlyOnce, Packet::PubRec(Ack::new(packet_id, ReasonCode::Success)))
            }
            _ => (Flight::AtLeastOnce, Packet::PubAck(Ack::new(packet_id, ReasonCode::Success))),
        };
        // [MQTT-2.2.1-3]
        let before = self.in_flight.insert(packet_id, flight);
        assert!(before.is_none() || self.has_lied, "packet id in use: {publish:?}");
        // [MQTT-3.3.4-7]
        self.unacknowledged.insert(packet_id);
        let (now, most) = (self.unacknowledged.len(), self.receive_maximum);
        let is_bound = self.version == ProtocolVersion::V5 && !self.has_lied;
        assert!(now <= most || !is_bound, "{now} in flight of {most}");
        self.answers.push_back(answer);
    }

    /// Takes what the client sends, before the broker sees it.
    pub(super) fn send(&mut self, packet: &Packet) {
        let (ack, wanted) = match packet {
            Packet::PubAck(ack) => (ack, Flight::AtLeastOnce),
            Packet::PubRec(ack) => (ack, Flight::ExactlyOnce),
            Packet::PubComp(ack) => (ack, Flight::Released),
            _ => return,
        };
        // An id that the client was not sent may be one that waits for its record.
        self.has_lied |= self.in_flight.get(&ack.packet_id) != Some(&wanted);
        let is_over = match packet {
            Packet::PubRec(ack) => ack.reason.is_failure() && self.version == ProtocolVersion::V5,
            _ => true,
        };
        if is_over {
            self.ended(ack.packet_id);
        }
    }

    fn ended(&mut self, packet_id: PacketId) {
        self.in_flight.remove(&packet_id);
        self.unacknowledged.remove(&packet_id);
    }
}
