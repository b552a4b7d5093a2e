//! A message on its way out: topic, payload and what goes with them.

use bytes::Bytes;
use bytestring::ByteString;
use protocol::{Publish, PublishProperties, QoS, UserProperties, Will};

/// Most bytes that a packet's length field can say.
const PACKET_BYTES_MAX: usize = 268_435_455;

/// A message to publish, to enqueue, or to leave as a will.
///
/// ```
/// use device_sdk::{Message, QoS, user_property};
///
/// let message = Message::new("dev/truck-7/event/start", r#"{"driver":"ann"}"#)
///     .qos(QoS::AtLeastOnce)
///     .expiry_s(3_600)
///     .user_property("im-id", "start-42");
/// assert_eq!(message.properties.message_expiry_interval_s, Some(3_600));
/// assert_eq!(user_property(&message.properties.user_properties, "im-id"), Some("start-42"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Topic name, no wildcards.
    pub topic: String,
    /// The application payload.
    pub payload: Bytes,
    /// Delivery guarantee.
    pub qos: QoS,
    /// Whether the broker keeps it as the topic's retained message.
    pub retain: bool,
    /// 5.0 properties; not sent to a 3.1.1 broker. A topic alias set here is ignored.
    pub properties: PublishProperties,
}

impl Message {
    /// Makes a QoS 0 message without properties.
    pub fn new(topic: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self { topic: topic.into(), payload: payload.into(), ..Self::default() }
    }

    /// Sets the delivery guarantee.
    pub fn qos(mut self, qos: QoS) -> Self {
        self.qos = qos;
        self
    }

    /// Sets the retain flag.
    pub fn retain(mut self, retain: bool) -> Self {
        self.retain = retain;
        self
    }

    /// Adds a user property; names may repeat, order is kept.
    pub fn user_property(mut self, name: impl Into<ByteString>, value: impl Into<ByteString>) -> Self {
        self.properties.user_properties.push((name.into(), value.into()));
        self
    }

    /// Sets the Message Expiry Interval in seconds.
    pub fn expiry_s(mut self, seconds: u32) -> Self {
        self.properties.message_expiry_interval_s = Some(seconds);
        self
    }

    /// Checks that every field fits the wire format.
    pub(crate) fn check_lengths(&self) -> Result<(), String> {
        let properties = &self.properties;
        let texts = properties.user_properties.iter().flat_map(|(name, value)| [name.len(), value.len()]);
        let fields = [
            properties.response_topic.as_ref().map_or(0, |text| text.len()),
            properties.correlation_data.as_ref().map_or(0, bytes::Bytes::len),
            properties.content_type.as_ref().map_or(0, |text| text.len()),
        ];
        let texts_bytes: usize = texts.clone().map(|bytes| bytes + 5).sum();
        if let Some(bytes) = texts.chain(fields).find(|bytes| *bytes > usize::from(u16::MAX)) {
            return Err(format!("a property has {bytes} bytes, the limit is 65535"));
        }
        // The property block's own length has four bytes at most, as has the packet's; fixed parts are below 512 KiB.
        let bytes = self.payload.len() + texts_bytes;
        if bytes > PACKET_BYTES_MAX - 512 * 1024 {
            return Err(format!(
                "payload and properties have {bytes} bytes, a packet has {PACKET_BYTES_MAX} at most"
            ));
        }
        Ok(())
    }

    /// Turns the message into a PUBLISH without packet identifier.
    pub(crate) fn into_publish(self) -> Publish {
        let mut properties = self.properties;
        properties.topic_alias = None;
        properties.subscription_identifiers.clear();
        Publish {
            dup: false,
            qos: self.qos,
            retain: self.retain,
            topic: self.topic.into(),
            packet_id: None,
            properties: properties.into(),
            payload: self.payload,
        }
    }

    /// Turns the message into the will of a CONNECT.
    pub(crate) fn into_will(self) -> Will {
        let publish = self.into_publish();
        Will {
            topic: publish.topic,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            delay_interval_s: None,
            properties: publish.properties.into_inner(),
        }
    }
}

/// Returns the first user property with this name.
pub fn user_property<'a>(properties: &'a UserProperties, name: &str) -> Option<&'a str> {
    properties.iter().find(|(key, _)| &**key == name).map(|(_, value)| &**value)
}
