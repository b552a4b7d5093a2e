//! A blocking MQTT client that sees every packet: what the whole-system tests speak with.
//!
//! It keeps no session and hides nothing: no automatic acknowledgement, no ping, no reconnect. Bytes come in
//! through `protocol`'s decoder in its client role, so a packet that a broker must not send fails the test.
//! Every wait has an end ([`PATIENCE`]).

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io::{ErrorKind, Read, Write};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use protocol::{
    Ack, ByteString, Bytes, ConnAck, Connect, ConnectProperties, Decoder, Disconnect, DisconnectProperties,
    Packet, PacketId, ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode, Role, SubAck, Subscribe,
    SubscribeFilter, SubscribeOptions, UnsubAck, Unsubscribe, UserProperties, Will, encode,
};

use crate::transport::{Door, Stream};

/// How long a test waits for what must come: far above any correct answer, so that a slow machine passes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Both protocol levels, for tests that hold in each.
pub(crate) const BOTH: [ProtocolVersion; 2] = [ProtocolVersion::V311, ProtocolVersion::V5];

/// The first packet of a connection, ready to change.
pub(crate) fn connect_packet(client_id: &str, version: ProtocolVersion) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive_s: 0,
        client_id: client_id.into(),
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

/// A CONNECT for a session that outlives its connection.
pub(crate) fn durable_connect(client_id: &str, version: ProtocolVersion) -> Connect {
    let mut connect = connect_packet(client_id, version);
    connect.clean_start = false;
    if version == ProtocolVersion::V5 {
        connect.properties.session_expiry_interval_s = Some(3600);
    }
    connect
}

/// A will at QoS 1, not retained, without delay.
pub(crate) fn will(topic: &str, payload: &str) -> Box<Will> {
    Box::new(Will {
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos: QoS::AtLeastOnce,
        retain: false,
        delay_interval_s: None,
        properties: PublishProperties::default(),
    })
}

/// A message without packet id; [`RawClient::publish`] gives it one.
pub(crate) fn message(topic: &str, payload: impl AsRef<[u8]>, qos: QoS) -> Publish {
    Publish {
        qos,
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload.as_ref()),
        ..Publish::default()
    }
}

/// The same message with the retain flag.
pub(crate) fn retained(topic: &str, payload: impl AsRef<[u8]>, qos: QoS) -> Publish {
    Publish { retain: true, ..message(topic, payload, qos) }
}

/// Subscription options that only choose the QoS.
pub(crate) fn at(qos: QoS) -> SubscribeOptions {
    SubscribeOptions { qos, ..SubscribeOptions::default() }
}

/// A packet id from a number that is not 0.
pub(crate) fn id(number: u16) -> PacketId {
    NonZeroU16::new(number).expect("tests use packet ids above 0")
}

/// User properties from text.
pub(crate) fn user_properties(pairs: &[(&str, &str)]) -> UserProperties {
    pairs.iter().map(|(name, value)| (ByteString::from(*name), ByteString::from(*value))).collect()
}

/// The value of the first user property of this name.
pub(crate) fn property<'a>(properties: &'a UserProperties, name: &str) -> Option<&'a str> {
    properties.iter().find(|(n, _)| &**n == name).map(|(_, value)| &**value)
}

/// What a connection gave next.
#[derive(Debug)]
pub(crate) enum Next {
    /// A packet.
    Packet(Packet),
    /// The broker closed the connection.
    Closed,
    /// Nothing within the time asked for.
    Nothing,
}

/// One connection to a broker.
pub(crate) struct RawClient {
    stream: Box<dyn Stream>,
    decoder: Decoder,
    version: ProtocolVersion,
    received: BytesMut,
    /// Packets read while the test waited for another one.
    waiting: VecDeque<Packet>,
    last_packet_id: u16,
    automatic_ack: bool,
}

impl RawClient {
    /// Opens a connection and sends nothing.
    pub(crate) fn open(broker: impl Into<Door>, version: ProtocolVersion) -> Self {
        let stream = broker.into().open();
        Self {
            stream,
            decoder: Decoder::new(Role::Client, Some(version), u32::MAX),
            version,
            received: BytesMut::with_capacity(64 * 1024),
            waiting: VecDeque::new(),
            last_packet_id: 0,
            automatic_ack: false,
        }
    }

    /// Opens a connection and takes it through CONNECT; the CONNACK may be a refusal.
    pub(crate) fn connect_with(broker: impl Into<Door>, connect: Connect) -> (Self, ConnAck) {
        let mut client = Self::open(broker, connect.version);
        client.send(&Packet::Connect(Box::new(connect)));
        match client.receive() {
            Packet::ConnAck(ack) => (client, *ack),
            other => panic!("expected CONNACK first [MQTT-3.2.0-1], got {other:?}"),
        }
    }

    /// Connects with a clean session that ends with the connection.
    pub(crate) fn connect(broker: impl Into<Door>, client_id: &str, version: ProtocolVersion) -> Self {
        let (client, ack) = Self::connect_with(broker, connect_packet(client_id, version));
        assert_eq!(ack.reason, ReasonCode::Success, "{client_id} must get in: {ack:?}");
        client
    }

    /// Connects to a session that lasts; says whether it was there.
    pub(crate) fn connect_durable(
        broker: impl Into<Door>,
        client_id: &str,
        version: ProtocolVersion,
    ) -> (Self, bool) {
        let (client, ack) = Self::connect_with(broker, durable_connect(client_id, version));
        assert_eq!(ack.reason, ReasonCode::Success, "{client_id} must get in: {ack:?}");
        (client, ack.session_present)
    }

    /// Acknowledges every PUBLISH and PUBREL that comes from now on, as it is read.
    pub(crate) fn acknowledging(mut self) -> Self {
        self.automatic_ack = true;
        self
    }

    /// Sends no more, as a lost network does, and goes on reading.
    pub(crate) fn end_writing(&self) {
        self.stream.end_writing();
    }

    /// Sends one packet.
    pub(crate) fn send(&mut self, packet: &Packet) {
        let mut out = BytesMut::new();
        encode(packet, self.version, &mut out).expect("tests send packets that can be encoded");
        self.send_bytes(&out);
    }

    /// Sends bytes that need not be a packet.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        let sent = self.stream.write_all(bytes).and_then(|()| self.stream.flush());
        sent.unwrap_or_else(|e| panic!("the broker took no more bytes: {e}"));
    }

    /// Sends bytes to a broker that may close while they are on their way.
    pub(crate) fn send_bytes_to_closing(&mut self, bytes: &[u8]) {
        match self.stream.write_all(bytes) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {}
            Err(e) => panic!("writing failed in another way than by a closed connection: {e}"),
        }
    }

    /// Takes the next packet, however it comes, within `patience`.
    pub(crate) fn next_within(&mut self, patience: Duration) -> Next {
        if let Some(packet) = self.waiting.pop_front() {
            return Next::Packet(packet);
        }
        self.read_next(Instant::now() + patience)
    }

    fn read_next(&mut self, deadline: Instant) -> Next {
        let mut chunk = [0; 64 * 1024];
        loop {
            match self.decoder.decode(&mut self.received) {
                Ok(Some(packet)) => {
                    if self.automatic_ack {
                        self.acknowledge(&packet);
                    }
                    return Next::Packet(packet);
                }
                Ok(None) => {}
                Err(e) => panic!("the broker sent bytes that are no packet for a client: {e}"),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Next::Nothing;
            }
            self.stream.set_read_patience(left);
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    assert!(self.received.is_empty(), "closed within a packet: {:?}", &self.received[..]);
                    return Next::Closed;
                }
                Ok(n) => self.received.extend_from_slice(&chunk[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // TLS that ends without saying so is an end like any other.
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof) => {
                    return Next::Closed;
                }
                Err(e) => panic!("reading failed: {e}"),
            }
        }
    }

    fn acknowledge(&mut self, packet: &Packet) {
        match packet {
            Packet::Publish(p) => match (p.qos, p.packet_id) {
                (QoS::AtLeastOnce, Some(id)) => self.puback(id),
                (QoS::ExactlyOnce, Some(id)) => self.pubrec(id),
                _ => {}
            },
            Packet::PubRel(ack) => self.pubcomp(ack.packet_id),
            _ => {}
        }
    }

    /// Takes the next packet.
    pub(crate) fn receive(&mut self) -> Packet {
        match self.next_within(PATIENCE) {
            Next::Packet(packet) => packet,
            other => panic!("expected a packet, got {other:?}"),
        }
    }

    /// Takes the next packet that `pick` wants and leaves the others for later calls, in order.
    pub(crate) fn receive_where<T>(&mut self, what: &str, pick: impl Fn(&Packet) -> Option<T>) -> T {
        if let Some(at) = self.waiting.iter().position(|p| pick(p).is_some()) {
            return self.waiting.remove(at).and_then(|p| pick(&p)).expect("just found");
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.read_next(deadline) {
                Next::Packet(packet) => match pick(&packet) {
                    Some(found) => return found,
                    None => self.waiting.push_back(packet),
                },
                other => panic!("expected {what}, got {other:?} after {:?}", self.waiting),
            }
        }
    }

    /// Takes the next PUBLISH.
    pub(crate) fn receive_publish(&mut self) -> Publish {
        self.receive_where("PUBLISH", |p| match p {
            Packet::Publish(p) => Some(p.clone()),
            _ => None,
        })
    }

    /// Takes the next PUBLISH and checks topic and payload.
    pub(crate) fn expect_message(&mut self, topic: &str, payload: impl AsRef<[u8]>) -> Publish {
        let publish = self.receive_publish();
        let got = (&*publish.topic, String::from_utf8_lossy(&publish.payload));
        assert_eq!(got, (topic, String::from_utf8_lossy(payload.as_ref())), "the wrong message: {publish:?}");
        publish
    }

    /// Waits until the broker answered everything sent before, and returns the PUBLISH packets that had come.
    ///
    /// A message that was acknowledged to its publisher is on its way to connected subscribers before that
    /// acknowledgement can be seen, so after a PUBACK an empty answer here proves that nothing was sent.
    pub(crate) fn messages_until_pong(&mut self) -> Vec<Publish> {
        self.send(&Packet::PingReq);
        let mut messages = Vec::new();
        loop {
            match self.receive() {
                Packet::PingResp => return messages,
                Packet::Publish(publish) => messages.push(publish),
                _ => {}
            }
        }
    }

    /// Checks that no message had come.
    pub(crate) fn expect_no_message(&mut self) {
        let messages = self.messages_until_pong();
        let first = messages.first();
        assert!(
            messages.is_empty(),
            "nothing should have come, but {} messages: {first:?} …",
            messages.len()
        );
    }

    /// Checks that the broker answers with DISCONNECT of this reason (5.0; in 3.1.1 with nothing) and closes.
    #[track_caller]
    pub(crate) fn expect_disconnect(&mut self, reason: ReasonCode) {
        if self.version == ProtocolVersion::V5 {
            let got = loop {
                match self.next_within(PATIENCE) {
                    Next::Packet(Packet::Disconnect(disconnect)) => break disconnect,
                    Next::Packet(Packet::Publish(_)) => {}
                    other => panic!("expected DISCONNECT {reason:?}, got {other:?}"),
                }
            };
            assert_eq!(got.reason, reason, "{got:?}");
        }
        self.expect_closed();
    }

    /// Checks that the broker closes without another packet than messages already on their way.
    #[track_caller]
    pub(crate) fn expect_closed(&mut self) {
        loop {
            match self.next_within(PATIENCE) {
                Next::Closed => return,
                Next::Packet(Packet::Publish(_)) => {}
                other => panic!("expected a closed connection, got {other:?}"),
            }
        }
    }

    /// Reads to the end of the connection and returns the bytes, whatever they are.
    pub(crate) fn bytes_until_closed(&mut self) -> Vec<u8> {
        self.stream.set_read_patience(PATIENCE);
        let mut bytes = self.received.split().to_vec();
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => bytes,
            Err(e) if e.kind() == ErrorKind::ConnectionReset => bytes,
            Err(e) => panic!("the broker did not close, after {bytes:?}: {e}"),
        }
    }

    /// Returns the next packet id; after 65,535 it begins again with 1.
    pub(crate) fn fresh_id(&mut self) -> PacketId {
        self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
        id(self.last_packet_id)
    }

    /// Sends the message under a fresh packet id and returns the id.
    pub(crate) fn send_publish(&mut self, mut publish: Publish) -> Option<PacketId> {
        if publish.qos > QoS::AtMostOnce && publish.packet_id.is_none() {
            publish.packet_id = Some(self.fresh_id());
        }
        let id = publish.packet_id;
        self.send(&Packet::Publish(publish));
        id
    }

    /// Publishes and waits to the end of the QoS flow; returns the first acknowledgement.
    pub(crate) fn publish(&mut self, publish: Publish) -> Option<Ack> {
        let qos = publish.qos;
        let id = self.send_publish(publish)?;
        let ack = match qos {
            QoS::ExactlyOnce => self.expect_pubrec(id),
            _ => self.expect_puback(id),
        };
        if qos == QoS::ExactlyOnce && !ack.reason.is_failure() {
            self.pubrel(id);
            self.expect_pubcomp(id);
        }
        Some(ack)
    }

    /// Publishes at QoS 1 and checks that the broker accepted it.
    pub(crate) fn publish_accepted(&mut self, topic: &str, payload: impl AsRef<[u8]>) {
        let ack = self.publish(message(topic, payload, QoS::AtLeastOnce)).expect("QoS 1 has an ack");
        assert!(!ack.reason.is_failure(), "{topic} must be accepted: {ack:?}");
    }

    /// Waits until everything that this connection sent is processed and durable: a retained message is always
    /// stored, and the log has the order of cause, so its acknowledgement vouches for what came before it.
    pub(crate) fn make_durable(&mut self) {
        self.publish(retained("test/barrier", "x", QoS::AtLeastOnce));
    }

    fn expect_ack(&mut self, what: &str, id: PacketId, pick: impl Fn(&Packet) -> Option<&Ack>) -> Ack {
        let ack = self.receive_where(what, |p| pick(p).cloned());
        assert_eq!(ack.packet_id, id, "{what} of another packet [MQTT-2.2.1-5]");
        ack
    }

    /// Waits for PUBACK of this id.
    pub(crate) fn expect_puback(&mut self, id: PacketId) -> Ack {
        self.expect_ack("PUBACK", id, |p| if let Packet::PubAck(a) = p { Some(a) } else { None })
    }

    /// Waits for PUBREC of this id.
    pub(crate) fn expect_pubrec(&mut self, id: PacketId) -> Ack {
        self.expect_ack("PUBREC", id, |p| if let Packet::PubRec(a) = p { Some(a) } else { None })
    }

    /// Waits for PUBREL of this id.
    pub(crate) fn expect_pubrel(&mut self, id: PacketId) -> Ack {
        self.expect_ack("PUBREL", id, |p| if let Packet::PubRel(a) = p { Some(a) } else { None })
    }

    /// Waits for PUBCOMP of this id.
    pub(crate) fn expect_pubcomp(&mut self, id: PacketId) -> Ack {
        self.expect_ack("PUBCOMP", id, |p| if let Packet::PubComp(a) = p { Some(a) } else { None })
    }

    /// Sends PUBACK.
    pub(crate) fn puback(&mut self, id: PacketId) {
        self.send(&Packet::PubAck(Ack::new(id, ReasonCode::Success)));
    }

    /// Sends PUBREC.
    pub(crate) fn pubrec(&mut self, id: PacketId) {
        self.send(&Packet::PubRec(Ack::new(id, ReasonCode::Success)));
    }

    /// Sends PUBREL.
    pub(crate) fn pubrel(&mut self, id: PacketId) {
        self.send(&Packet::PubRel(Ack::new(id, ReasonCode::Success)));
    }

    /// Sends PUBCOMP.
    pub(crate) fn pubcomp(&mut self, id: PacketId) {
        self.send(&Packet::PubComp(Ack::new(id, ReasonCode::Success)));
    }

    /// Subscribes and returns the SUBACK, whatever it says.
    pub(crate) fn subscribe_raw(
        &mut self,
        filters: &[(&str, SubscribeOptions)],
        subscription_identifier: Option<u32>,
    ) -> SubAck {
        let packet_id = self.fresh_id();
        self.send(&Packet::Subscribe(Subscribe {
            packet_id,
            subscription_identifier,
            user_properties: Vec::new(),
            filters: filters
                .iter()
                .map(|(filter, options)| SubscribeFilter { filter: (*filter).into(), options: *options })
                .collect(),
        }));
        let ack = self.receive_where("SUBACK", |p| match p {
            Packet::SubAck(ack) => Some(ack.clone()),
            _ => None,
        });
        assert_eq!(ack.packet_id, packet_id, "SUBACK of another packet [MQTT-3.8.4-2]");
        ack
    }

    /// Subscribes with options and checks that the QoS asked for is granted.
    pub(crate) fn subscribe_with(&mut self, filter: &str, options: SubscribeOptions) {
        let ack = self.subscribe_raw(&[(filter, options)], None);
        let granted: Vec<u8> = ack.reasons.iter().map(|r| *r as u8).collect();
        assert_eq!(granted, [options.qos as u8], "{filter} must be granted: {ack:?}");
    }

    /// Subscribes to one filter and checks that the QoS is granted.
    pub(crate) fn subscribe(&mut self, filter: &str, qos: QoS) {
        self.subscribe_with(filter, at(qos));
    }

    /// Unsubscribes and returns the UNSUBACK.
    pub(crate) fn unsubscribe(&mut self, filters: &[&str]) -> UnsubAck {
        let packet_id = self.fresh_id();
        self.send(&Packet::Unsubscribe(Unsubscribe {
            packet_id,
            user_properties: Vec::new(),
            filters: filters.iter().map(|f| ByteString::from(*f)).collect(),
        }));
        let ack = self.receive_where("UNSUBACK", |p| match p {
            Packet::UnsubAck(ack) => Some(ack.clone()),
            _ => None,
        });
        assert_eq!(ack.packet_id, packet_id, "UNSUBACK of another packet [MQTT-3.10.4-5]");
        ack
    }

    /// Sends DISCONNECT with this reason and waits for the broker to close.
    pub(crate) fn disconnect_with(mut self, reason: ReasonCode, session_expiry_interval_s: Option<u32>) {
        let properties =
            DisconnectProperties { session_expiry_interval_s, ..DisconnectProperties::default() };
        self.send(&Packet::Disconnect(Disconnect { reason, properties: properties.into() }));
        self.expect_closed();
    }

    /// Ends the connection in order.
    pub(crate) fn disconnect(self) {
        self.disconnect_with(ReasonCode::Success, None);
    }

    /// Ends the connection as a lost network does: without DISCONNECT, and waits until the broker knows.
    pub(crate) fn lose(mut self) {
        self.stream.end_writing();
        self.expect_closed();
    }
}

impl Debug for RawClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawClient").field("version", &self.version).finish_non_exhaustive()
    }
}
