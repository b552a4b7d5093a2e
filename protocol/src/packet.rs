//! The typed packets: what the codec produces and consumes.
//!
//! One struct a packet type, the same for 3.1.1 and 5.0: the properties of a 3.1.1 packet are at their
//! defaults and are not encoded. Absent properties are `None`, never a default value made up here.

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use bytestring::ByteString;

use crate::{ReasonCode, Shared, TopicFilter};

/// The protocol level of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProtocolVersion {
    /// MQTT 3.1.1, protocol level 4.
    V311,
    /// MQTT 5.0, protocol level 5.
    V5,
}

/// A packet identifier, 1 to 65,535 (MQTT 5.0 section 2.2.1).
pub type PacketId = NonZeroU16;

/// User properties in the order they were sent; names may repeat (MQTT 5.0 section 3.3.2.3.7).
pub type UserProperties = Vec<(ByteString, ByteString)>;

/// Quality of service (MQTT 5.0 section 4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum QoS {
    /// At most once.
    #[default]
    AtMostOnce = 0,
    /// At least once.
    AtLeastOnce = 1,
    /// Exactly once.
    ExactlyOnce = 2,
}

impl QoS {
    /// Returns the level for 0, 1 or 2.
    pub fn from_u8(level: u8) -> Option<Self> {
        match level {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// Any MQTT control packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// Client requests a connection.
    Connect(Box<Connect>),
    /// Broker answers CONNECT.
    ConnAck(Box<ConnAck>),
    /// An application message, either way.
    Publish(Publish),
    /// Acknowledges a QoS 1 PUBLISH.
    PubAck(Ack),
    /// First answer to a QoS 2 PUBLISH.
    PubRec(Ack),
    /// Second step of QoS 2, from the publisher.
    PubRel(Ack),
    /// Last step of QoS 2.
    PubComp(Ack),
    /// Client subscribes.
    Subscribe(Subscribe),
    /// Broker answers SUBSCRIBE.
    SubAck(SubAck),
    /// Client unsubscribes.
    Unsubscribe(Unsubscribe),
    /// Broker answers UNSUBSCRIBE.
    UnsubAck(UnsubAck),
    /// Client heartbeat.
    PingReq,
    /// Broker heartbeat answer.
    PingResp,
    /// The last packet of a connection; 5.0 brokers send it too.
    Disconnect(Disconnect),
    /// Enhanced authentication exchange (5.0 only).
    Auth(Box<Auth>),
}

/// CONNECT (section 3.1). Its `Debug` shows neither the password nor authentication data.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    /// Protocol level asked for.
    pub version: ProtocolVersion,
    /// Clean Session (3.1.1) or Clean Start (5.0).
    pub clean_start: bool,
    /// Keep Alive in seconds, 0 = off.
    pub keep_alive_s: u16,
    /// Client identifier, possibly empty.
    pub client_id: ByteString,
    /// The will, if any.
    pub will: Option<Box<Will>>,
    /// User name, if any.
    pub username: Option<ByteString>,
    /// Password, if any.
    pub password: Option<Bytes>,
    /// 5.0 properties.
    pub properties: ConnectProperties,
}

/// Properties of CONNECT (section 3.1.2.11). Its `Debug` does not show authentication data.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ConnectProperties {
    /// Session Expiry Interval in seconds; `u32::MAX` = never.
    pub session_expiry_interval_s: Option<u32>,
    /// Most QoS 1/2 publishes the client takes at once.
    pub receive_maximum: Option<NonZeroU16>,
    /// Largest packet the client takes, bytes.
    pub packet_bytes_max: Option<NonZeroU32>,
    /// Highest topic alias the client takes.
    pub topic_alias_max: Option<u16>,
    /// Whether CONNACK may carry Response Information.
    pub request_response_information: Option<bool>,
    /// Whether acks may carry reason strings and user properties; absent = true.
    pub request_problem_information: Option<bool>,
    /// User properties.
    pub user_properties: UserProperties,
    /// Enhanced authentication method.
    pub authentication_method: Option<ByteString>,
    /// Enhanced authentication data.
    pub authentication_data: Option<Bytes>,
}

/// The will of a CONNECT (section 3.1.3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// Topic name.
    pub topic: ByteString,
    /// Payload.
    pub payload: Bytes,
    /// QoS to publish at.
    pub qos: QoS,
    /// Whether to retain it.
    pub retain: bool,
    /// Will Delay Interval in seconds.
    pub delay_interval_s: Option<u32>,
    /// Message properties; topic alias and subscription identifiers are never set here.
    pub properties: PublishProperties,
}

/// CONNACK (section 3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnAck {
    /// Whether the broker resumed a session.
    pub session_present: bool,
    /// Result; mapped to and from the return codes 0–5 for 3.1.1.
    pub reason: ReasonCode,
    /// 5.0 properties.
    pub properties: ConnAckProperties,
}

/// Properties of CONNACK (section 3.2.2.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnAckProperties {
    /// Session Expiry Interval the broker uses, seconds.
    pub session_expiry_interval_s: Option<u32>,
    /// Most QoS 1/2 publishes the broker takes at once.
    pub receive_maximum: Option<NonZeroU16>,
    /// Highest QoS the broker takes; only 0 or 1 may be sent.
    pub maximum_qos: Option<QoS>,
    /// Whether retained messages work.
    pub retain_available: Option<bool>,
    /// Largest packet the broker takes, bytes.
    pub packet_bytes_max: Option<NonZeroU32>,
    /// The client id the broker chose.
    pub assigned_client_id: Option<ByteString>,
    /// Highest topic alias the broker takes.
    pub topic_alias_max: Option<u16>,
    /// Why, for people.
    pub reason_string: Option<ByteString>,
    /// User properties.
    pub user_properties: UserProperties,
    /// Whether wildcards work.
    pub wildcard_subscription_available: Option<bool>,
    /// Whether subscription identifiers work.
    pub subscription_identifiers_available: Option<bool>,
    /// Whether shared subscriptions work.
    pub shared_subscription_available: Option<bool>,
    /// Keep Alive the client must use, seconds.
    pub server_keep_alive_s: Option<u16>,
    /// Base for response topics.
    pub response_information: Option<ByteString>,
    /// Another server to use.
    pub server_reference: Option<ByteString>,
    /// Enhanced authentication method.
    pub authentication_method: Option<ByteString>,
    /// Enhanced authentication data.
    pub authentication_data: Option<Bytes>,
}

/// PUBLISH (section 3.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publish {
    /// Whether this may be a re-delivery.
    pub dup: bool,
    /// Delivery guarantee.
    pub qos: QoS,
    /// Retain flag.
    pub retain: bool,
    /// Topic name; empty only with a topic alias (5.0).
    pub topic: ByteString,
    /// Packet identifier; `Some` exactly when `qos` is above 0.
    pub packet_id: Option<PacketId>,
    /// 5.0 properties.
    pub properties: Shared<PublishProperties>,
    /// The application payload.
    pub payload: Bytes,
}

/// Properties of PUBLISH and of a will's message (section 3.3.2.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishProperties {
    /// Whether the payload is UTF-8 (1) or unspecified (0).
    pub payload_format_utf8: Option<bool>,
    /// Message Expiry Interval in seconds.
    pub message_expiry_interval_s: Option<u32>,
    /// Topic alias, 1 and up.
    pub topic_alias: Option<NonZeroU16>,
    /// Where a response goes.
    pub response_topic: Option<ByteString>,
    /// Ties a response to its request.
    pub correlation_data: Option<Bytes>,
    /// User properties, in order.
    pub user_properties: UserProperties,
    /// Subscription identifiers, broker to client only, 1 to 268,435,455.
    pub subscription_identifiers: Vec<u32>,
    /// MIME type or alike.
    pub content_type: Option<ByteString>,
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP (sections 3.4 to 3.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The packet identifier acknowledged.
    pub packet_id: PacketId,
    /// Result; always `Success` in 3.1.1.
    pub reason: ReasonCode,
    /// 5.0 properties.
    pub properties: Shared<AckProperties>,
}

impl Ack {
    /// Makes an acknowledgement without properties.
    pub fn new(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self { packet_id, reason, properties: Shared::NONE }
    }
}

/// Reason string and user properties, as acks, SUBACK and UNSUBACK carry them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AckProperties {
    /// Why, for people.
    pub reason_string: Option<ByteString>,
    /// User properties.
    pub user_properties: UserProperties,
}

/// SUBSCRIBE (section 3.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Packet identifier.
    pub packet_id: PacketId,
    /// Identifier for all filters of this packet, 1 to 268,435,455.
    pub subscription_identifier: Option<u32>,
    /// User properties.
    pub user_properties: UserProperties,
    /// What to subscribe to, at least one. An invalid filter stays here as it came, so that the broker
    /// can refuse it alone in its SUBACK.
    pub filters: Vec<SubscribeFilter>,
}

/// One filter of a SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeFilter {
    /// The filter as sent: UTF-8, at least one byte; see [`TopicFilter::parse`].
    pub filter: ByteString,
    /// Its options.
    pub options: SubscribeOptions,
}

/// Subscription options (section 3.8.3.1); 3.1.1 has only `qos`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// Highest QoS to deliver at.
    pub qos: QoS,
    /// Whether own publishes are left out.
    pub no_local: bool,
    /// Whether forwarded messages keep their retain flag.
    pub retain_as_published: bool,
    /// When retained messages are sent.
    pub retain_handling: RetainHandling,
}

/// Retain Handling (section 3.8.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum RetainHandling {
    /// At every SUBSCRIBE.
    #[default]
    Send = 0,
    /// Only when the subscription did not exist.
    SendIfNew = 1,
    /// Never.
    DoNotSend = 2,
}

/// SUBACK (section 3.9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubAck {
    /// Packet identifier of the SUBSCRIBE.
    pub packet_id: PacketId,
    /// 5.0 properties.
    pub properties: AckProperties,
    /// One code a filter, in order; codes of 0x80 and above become 0x80 for 3.1.1.
    pub reasons: Vec<ReasonCode>,
}

/// UNSUBSCRIBE (section 3.10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Packet identifier.
    pub packet_id: PacketId,
    /// User properties.
    pub user_properties: UserProperties,
    /// Filters as sent, at least one.
    pub filters: Vec<ByteString>,
}

/// UNSUBACK (section 3.11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsubAck {
    /// Packet identifier of the UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// 5.0 properties.
    pub properties: AckProperties,
    /// One code a filter, in order; not encoded for 3.1.1 and empty when decoded from it.
    pub reasons: Vec<ReasonCode>,
}

/// DISCONNECT (section 3.14).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// Why; always `Success` (normal disconnection) in 3.1.1.
    pub reason: ReasonCode,
    /// 5.0 properties.
    pub properties: Shared<DisconnectProperties>,
}

/// Properties of DISCONNECT (section 3.14.2.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DisconnectProperties {
    /// New Session Expiry Interval, client to broker only, seconds.
    pub session_expiry_interval_s: Option<u32>,
    /// Why, for people.
    pub reason_string: Option<ByteString>,
    /// User properties.
    pub user_properties: UserProperties,
    /// Another server to use.
    pub server_reference: Option<ByteString>,
}

/// AUTH (section 3.15), 5.0 only. Its `Debug` does not show authentication data.
#[derive(Clone, PartialEq, Eq)]
pub struct Auth {
    /// `Success`, `ContinueAuthentication` or `ReAuthenticate`.
    pub reason: ReasonCode,
    /// Authentication method.
    pub authentication_method: Option<ByteString>,
    /// Authentication data.
    pub authentication_data: Option<Bytes>,
    /// Why, for people.
    pub reason_string: Option<ByteString>,
    /// User properties.
    pub user_properties: UserProperties,
}

/// Stands for bytes that nobody may see: what is printed of a packet may end in a log.
struct Hidden;

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, clean_start, keep_alive_s, client_id, will, username, password, properties } =
            self;
        f.debug_struct("Connect")
            .field("version", version)
            .field("clean_start", clean_start)
            .field("keep_alive_s", keep_alive_s)
            .field("client_id", client_id)
            .field("will", will)
            .field("username", username)
            .field("password", &password.as_ref().map(|_| Hidden))
            .field("properties", properties)
            .finish()
    }
}

impl fmt::Debug for ConnectProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectProperties")
            .field("session_expiry_interval_s", &self.session_expiry_interval_s)
            .field("receive_maximum", &self.receive_maximum)
            .field("packet_bytes_max", &self.packet_bytes_max)
            .field("topic_alias_max", &self.topic_alias_max)
            .field("request_response_information", &self.request_response_information)
            .field("request_problem_information", &self.request_problem_information)
            .field("user_properties", &self.user_properties)
            .field("authentication_method", &self.authentication_method)
            .field("authentication_data", &self.authentication_data.as_ref().map(|_| Hidden))
            .finish()
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("reason", &self.reason)
            .field("authentication_method", &self.authentication_method)
            .field("authentication_data", &self.authentication_data.as_ref().map(|_| Hidden))
            .field("reason_string", &self.reason_string)
            .field("user_properties", &self.user_properties)
            .finish()
    }
}

impl SubscribeFilter {
    /// Parses the filter; see [`TopicFilter::parse`].
    pub fn parsed(&self) -> Result<TopicFilter, crate::FilterError> {
        TopicFilter::parse(self.filter.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_and_authentication_data_are_not_printed() {
        let secret = Bytes::from_static(b"hunter2");
        let properties = ConnectProperties {
            authentication_data: Some(secret.clone()),
            authentication_method: Some("m".into()),
            ..ConnectProperties::default()
        };
        let connect = Connect {
            version: ProtocolVersion::V5,
            clean_start: true,
            keep_alive_s: 0,
            client_id: "c".into(),
            will: None,
            username: Some("u".into()),
            password: Some(secret.clone()),
            properties,
        };
        let auth = Auth {
            reason: ReasonCode::ContinueAuthentication,
            authentication_method: Some("m".into()),
            authentication_data: Some(secret),
            reason_string: None,
            user_properties: Vec::new(),
        };
        for packet in [Packet::Connect(Box::new(connect)), Packet::Auth(Box::new(auth))] {
            let printed = format!("{packet:?}");
            assert!(!printed.contains("hunter2") && printed.contains("[hidden]"), "{printed}");
        }
    }
}
