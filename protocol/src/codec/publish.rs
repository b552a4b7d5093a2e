//! PUBLISH (MQTT 3.1.1 and 5.0 section 3.3), and the message properties it shares with the will.

use std::num::NonZeroU16;

use bytes::{BufMut, BytesMut};

use super::property::{Properties, Property, PutProperty, Section};
use super::wire::{Reader, Sink, VARINT_MAX, varint_bytes};
use super::{EncodeError, Role, packet_id};
use crate::topic::validate_topic_name;
use crate::{DecodeError, ProtocolVersion, Publish, PublishProperties, QoS, Shared, TopicError};

/// How much of a wrong topic name an error repeats.
const TOPIC_SHOWN_CHARS_MAX: usize = 128;

/// The low four bits of the fixed header.
#[derive(Clone, Copy)]
pub(super) struct Flags {
    dup: bool,
    qos: QoS,
    retain: bool,
}

impl Flags {
    #[inline]
    pub(super) fn read(first: u8) -> Result<Self, DecodeError> {
        let malformed = |what: &str| DecodeError::Malformed { packet: "PUBLISH", what: what.to_owned() };
        // [MQTT-3.3.1-4]
        let qos = QoS::from_u8(first >> 1 & 0x03).ok_or_else(|| malformed("qos is 3"))?;
        let dup = first & 0x08 != 0;
        // [MQTT-3.3.1-2]
        if dup && qos == QoS::AtMostOnce {
            return Err(malformed("dup is set at qos 0"));
        }
        Ok(Self { dup, qos, retain: first & 0x01 != 0 })
    }
}

#[inline]
pub(super) fn decode(
    reader: &mut Reader<'_>,
    flags: Flags,
    version: ProtocolVersion,
    role: Role,
) -> Result<Publish, DecodeError> {
    let topic = reader.string("topic name")?;
    let packet_id = if flags.qos == QoS::AtMostOnce { None } else { Some(packet_id(reader)?) };
    let properties = match version {
        ProtocolVersion::V5 => read_properties(reader, role)?,
        ProtocolVersion::V311 => Shared::NONE,
    };
    if topic.is_empty() && version == ProtocolVersion::V5 {
        // Section 3.3.2.1: an empty name stands for the alias.
        if properties.topic_alias.is_none() {
            return Err(reader.protocol("topic name is empty and there is no topic alias"));
        }
    } else {
        check_topic_name(reader, &topic)?;
    }
    let payload = reader.rest();
    Ok(Publish {
        dup: flags.dup,
        qos: flags.qos,
        retain: flags.retain,
        topic,
        packet_id,
        properties,
        payload,
    })
}

#[inline]
fn read_properties(reader: &mut Reader<'_>, role: Role) -> Result<Shared<PublishProperties>, DecodeError> {
    let mut section = Section::read(reader)?;
    if section.is_empty() {
        return Ok(Shared::NONE);
    }
    let mut properties = PublishProperties::default();
    let into = &mut properties;
    while let Some(property) = section.next()? {
        match property {
            // [MQTT-3.3.2-8]; of the reason codes 0x94 is the one that says it.
            Property::TopicAlias => {
                into.topic_alias = section.u16()?.and_then(NonZeroU16::new);
                if into.topic_alias.is_none() {
                    return Err(DecodeError::TopicAliasZero);
                }
            }
            Property::SubscriptionIdentifier => {
                // [MQTT-3.3.4-6]
                if role == Role::Broker {
                    return Err(section.protocol("is sent by a client"));
                }
                into.subscription_identifiers.push(section.subscription_identifier()?);
            }
            property => read_message_property(&mut section, property, into)?,
        }
    }
    Ok(properties.into())
}

/// Reads a property that PUBLISH and will share.
pub(super) fn read_message_property(
    section: &mut Section<'_>,
    property: Property,
    into: &mut PublishProperties,
) -> Result<(), DecodeError> {
    match property {
        Property::PayloadFormatIndicator => into.payload_format_utf8 = section.flag()?,
        Property::MessageExpiryInterval => into.message_expiry_interval_s = section.u32()?,
        Property::ContentType => into.content_type = section.string()?,
        Property::ResponseTopic => {
            into.response_topic = section.string()?;
            // [MQTT-3.3.2-14]
            if let Some(Err(error)) = into.response_topic.as_deref().map(validate_topic_name) {
                return Err(section.protocol(format_args!("is no topic name: {error}")));
            }
        }
        Property::CorrelationData => into.correlation_data = section.binary()?,
        Property::User => section.user_property(&mut into.user_properties)?,
        _ => return Err(section.not_allowed()),
    }
    Ok(())
}

/// Checks a topic name: [MQTT-3.3.2-2], [MQTT-4.7.0-1], [MQTT-4.7.1-1] (3.1.1) no wildcard, [MQTT-4.7.3-1] not empty.
#[inline]
pub(super) fn check_topic_name(reader: &Reader<'_>, topic: &str) -> Result<(), DecodeError> {
    validate_topic_name(topic).map_err(|error| topic_error(reader, topic, error))
}

#[cold]
fn topic_error(reader: &Reader<'_>, topic: &str, error: TopicError) -> DecodeError {
    let topic = topic.chars().take(TOPIC_SHOWN_CHARS_MAX).collect();
    DecodeError::TopicName { packet: reader.packet(), topic, what: error.what() }
}

/// Returns the first byte of the fixed header.
#[inline]
pub(super) fn first_byte(packet: &Publish) -> u8 {
    0x30 | u8::from(packet.dup) << 3 | (packet.qos as u8) << 1 | u8::from(packet.retain)
}

/// Appends a packet without properties, as most are; says whether it did: what is not regular, or has properties, is for
/// [`write`].
#[inline]
pub(super) fn write_plain(packet: &Publish, version: ProtocolVersion, out: &mut BytesMut) -> bool {
    let is_plain = version == ProtocolVersion::V311 || packet.properties.is_none();
    // The same that `check` looks for.
    let is_regular = (packet.qos == QoS::AtMostOnce) == packet.packet_id.is_none()
        && !(packet.dup && packet.qos == QoS::AtMostOnce)
        && validate_topic_name(&packet.topic).is_ok();
    // Packet identifier, and the length of the properties.
    let (mut middle, mut middle_bytes) = ([0; 3], 0);
    if let Some(id) = packet.packet_id {
        middle[..2].copy_from_slice(&id.get().to_be_bytes());
        middle_bytes = 2;
    }
    middle_bytes += usize::from(version == ProtocolVersion::V5);
    let body_bytes = 2 + packet.topic.len() + middle_bytes + packet.payload.len();
    if !is_plain || !is_regular || body_bytes > VARINT_MAX as usize {
        return false;
    }
    let (length, length_bytes) = varint_bytes(body_bytes as u32);
    let mut head = [0; 7];
    head[0] = first_byte(packet);
    head[1..5].copy_from_slice(&length);
    let topic_at = 1 + length_bytes;
    head[topic_at..topic_at + 2].copy_from_slice(&(packet.topic.len() as u16).to_be_bytes());
    out.reserve(1 + length_bytes + body_bytes);
    out.put_slice(&head[..topic_at + 2]);
    out.put_slice(packet.topic.as_bytes());
    out.put_slice(&middle[..middle_bytes]);
    out.put_slice(&packet.payload);
    true
}

#[inline]
pub(super) fn write<S: Sink>(packet: &Publish, version: ProtocolVersion, sink: &mut S) {
    if S::CHECKS {
        check(packet, version, sink);
    }
    sink.binary("topic name", packet.topic.as_bytes());
    if let Some(id) = packet.packet_id {
        sink.u16(id.get());
    }
    if version == ProtocolVersion::V5 {
        match packet.properties.is_none() {
            true => sink.u8(0),
            false => sink.section(&*packet.properties),
        }
    }
    sink.raw(&packet.payload);
}

#[inline]
fn check<S: Sink>(packet: &Publish, version: ProtocolVersion, sink: &mut S) {
    // [MQTT-2.2.1-2], [MQTT-2.2.1-4]
    if (packet.qos == QoS::AtMostOnce) != packet.packet_id.is_none() {
        sink.refuse(|| EncodeError::Invalid {
            field: "packet identifier",
            what: "it is needed at qos 1 and 2 and not allowed at qos 0",
        });
    }
    // [MQTT-3.3.1-2]
    if packet.dup && packet.qos == QoS::AtMostOnce {
        sink.refuse(|| EncodeError::Invalid { field: "dup", what: "it is not allowed at qos 0" });
    }
    let has_alias = version == ProtocolVersion::V5 && packet.properties.topic_alias.is_some();
    if !(packet.topic.is_empty() && has_alias) {
        check_written_name(sink, "topic name", &packet.topic);
    }
}

/// Checks a topic name that is to be written; its length is looked at by the sink.
#[inline]
pub(super) fn check_written_name<S: Sink>(sink: &mut S, field: &'static str, topic: &str) {
    match validate_topic_name(topic) {
        Ok(()) | Err(TopicError::TooLong) => {}
        Err(error) => sink.refuse(|| EncodeError::Invalid { field, what: error.what() }),
    }
}

impl Properties for PublishProperties {
    #[inline]
    fn write<S: Sink>(&self, sink: &mut S) {
        sink.put_u16(Property::TopicAlias, self.topic_alias.map(u16::from));
        for &identifier in &self.subscription_identifiers {
            sink.put_subscription_identifier(identifier);
        }
        put_message_properties(sink, self);
    }
}

/// Writes the properties that PUBLISH and will share.
#[inline]
pub(super) fn put_message_properties<S: Sink>(sink: &mut S, properties: &PublishProperties) {
    sink.put_flag(Property::PayloadFormatIndicator, properties.payload_format_utf8);
    sink.put_u32(Property::MessageExpiryInterval, properties.message_expiry_interval_s);
    if let Some(topic) = &properties.response_topic {
        if S::CHECKS {
            check_written_name(sink, Property::ResponseTopic.name(), topic);
        }
        sink.put_string(Property::ResponseTopic, &properties.response_topic);
    }
    sink.put_binary(Property::CorrelationData, &properties.correlation_data);
    sink.put_user_properties(&properties.user_properties);
    sink.put_string(Property::ContentType, &properties.content_type);
}
