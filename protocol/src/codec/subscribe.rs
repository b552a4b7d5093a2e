//! SUBSCRIBE (MQTT 3.1.1 and 5.0 section 3.8).
//!
//! A filter's syntax is not looked at: the broker refuses a bad one alone, in its SUBACK.

use bytestring::ByteString;

use super::property::{Properties, Property, PutProperty, Section};
use super::wire::{Reader, Sink};
use super::{EncodeError, packet_id};
use crate::topic::SHARE_PREFIX;
use crate::{
    DecodeError, ProtocolVersion, QoS, RetainHandling, Subscribe, SubscribeFilter, SubscribeOptions,
};

pub(super) fn decode(reader: &mut Reader<'_>, version: ProtocolVersion) -> Result<Subscribe, DecodeError> {
    let mut packet = Subscribe {
        packet_id: packet_id(reader)?,
        subscription_identifier: None,
        user_properties: Vec::new(),
        filters: Vec::new(),
    };
    if version == ProtocolVersion::V5 {
        read_properties(reader, &mut packet)?;
    }
    // [MQTT-3.8.3-2], [MQTT-3.8.3-3] (3.1.1)
    if reader.is_empty() {
        return Err(reader.protocol("there is no topic filter"));
    }
    while !reader.is_empty() {
        let filter = read_filter(reader)?;
        let byte = reader.u8("subscription options")?;
        let options = read_options(reader, version, byte)?;
        // [MQTT-3.8.3-4]
        if options.no_local && filter.starts_with(SHARE_PREFIX) {
            return Err(reader.protocol(format!("no local is set on the shared subscription {filter:?}")));
        }
        packet.filters.push(SubscribeFilter { filter, options });
    }
    Ok(packet)
}

/// Reads a filter: [MQTT-3.8.3-1] UTF-8, [MQTT-4.7.3-1] at least one character.
pub(super) fn read_filter(reader: &mut Reader<'_>) -> Result<ByteString, DecodeError> {
    let filter = reader.string("topic filter")?;
    if filter.is_empty() {
        return Err(reader.malformed("a topic filter is empty"));
    }
    Ok(filter)
}

fn read_options(
    reader: &Reader<'_>,
    version: ProtocolVersion,
    byte: u8,
) -> Result<SubscribeOptions, DecodeError> {
    let reserved = match version {
        ProtocolVersion::V311 => 0xfc, // [MQTT-3-8.3-4] (3.1.1)
        ProtocolVersion::V5 => 0xc0,   // [MQTT-3.8.3-5]
    };
    if byte & reserved != 0 {
        return Err(reader.malformed(format!("reserved subscription options are set in {byte:#04x}")));
    }
    let qos = QoS::from_u8(byte & 0x03).ok_or_else(|| match version {
        ProtocolVersion::V311 => reader.malformed("requested qos is 3"),
        ProtocolVersion::V5 => reader.protocol("maximum qos is 3"),
    })?;
    let retain_handling = match byte >> 4 & 0x03 {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return Err(reader.protocol("retain handling is 3")),
    };
    Ok(SubscribeOptions {
        qos,
        no_local: byte & 0x04 != 0,
        retain_as_published: byte & 0x08 != 0,
        retain_handling,
    })
}

fn read_properties(reader: &mut Reader<'_>, into: &mut Subscribe) -> Result<(), DecodeError> {
    let mut section = Section::read(reader)?;
    while let Some(property) = section.next()? {
        match property {
            Property::SubscriptionIdentifier if into.subscription_identifier.is_some() => {
                return Err(section.repeated());
            }
            Property::SubscriptionIdentifier => {
                into.subscription_identifier = Some(section.subscription_identifier()?);
            }
            Property::User => section.user_property(&mut into.user_properties)?,
            _ => return Err(section.not_allowed()),
        }
    }
    Ok(())
}

pub(super) fn write<S: Sink>(packet: &Subscribe, version: ProtocolVersion, sink: &mut S) {
    sink.u16(packet.packet_id.get());
    if version == ProtocolVersion::V5 {
        sink.section(packet);
    }
    if S::CHECKS && packet.filters.is_empty() {
        sink.refuse(|| EncodeError::Invalid { field: "topic filters", what: "there is none" });
    }
    for SubscribeFilter { filter, options } in &packet.filters {
        write_filter(sink, filter);
        let mut byte = options.qos as u8;
        if version == ProtocolVersion::V5 {
            if S::CHECKS && options.no_local && filter.starts_with(SHARE_PREFIX) {
                sink.refuse(|| EncodeError::Invalid {
                    field: "no local",
                    what: "it is not allowed on a shared subscription",
                });
            }
            byte |= u8::from(options.no_local) << 2
                | u8::from(options.retain_as_published) << 3
                | (options.retain_handling as u8) << 4;
        }
        sink.u8(byte);
    }
}

pub(super) fn write_filter<S: Sink>(sink: &mut S, filter: &str) {
    if S::CHECKS && filter.is_empty() {
        sink.refuse(|| EncodeError::Invalid { field: "topic filter", what: "it is empty" });
    }
    sink.string("topic filter", filter);
}

impl Properties for Subscribe {
    fn write<S: Sink>(&self, sink: &mut S) {
        if let Some(identifier) = self.subscription_identifier {
            sink.put_subscription_identifier(identifier);
        }
        sink.put_user_properties(&self.user_properties);
    }
}
