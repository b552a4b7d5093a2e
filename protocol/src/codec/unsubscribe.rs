//! UNSUBSCRIBE (MQTT 3.1.1 and 5.0 section 3.10).

use super::property::{Properties, Property, PutProperty, Section};
use super::subscribe::{read_filter, write_filter};
use super::wire::{Reader, Sink};
use super::{EncodeError, packet_id};
use crate::{DecodeError, ProtocolVersion, Unsubscribe, UserProperties};

pub(super) fn decode(reader: &mut Reader<'_>, version: ProtocolVersion) -> Result<Unsubscribe, DecodeError> {
    let packet_id = packet_id(reader)?;
    let mut user_properties = UserProperties::new();
    if version == ProtocolVersion::V5 {
        let mut section = Section::read(reader)?;
        while let Some(property) = section.next()? {
            match property {
                Property::User => section.user_property(&mut user_properties)?,
                _ => return Err(section.not_allowed()),
            }
        }
    }
    // [MQTT-3.10.3-2]
    if reader.is_empty() {
        return Err(reader.protocol("there is no topic filter"));
    }
    let mut filters = Vec::new();
    while !reader.is_empty() {
        filters.push(read_filter(reader)?);
    }
    Ok(Unsubscribe { packet_id, user_properties, filters })
}

pub(super) fn write<S: Sink>(packet: &Unsubscribe, version: ProtocolVersion, sink: &mut S) {
    sink.u16(packet.packet_id.get());
    if version == ProtocolVersion::V5 {
        sink.section(packet);
    }
    if S::CHECKS && packet.filters.is_empty() {
        sink.refuse(|| EncodeError::Invalid { field: "topic filters", what: "there is none" });
    }
    for filter in &packet.filters {
        write_filter(sink, filter);
    }
}

impl Properties for Unsubscribe {
    fn write<S: Sink>(&self, sink: &mut S) {
        sink.put_user_properties(&self.user_properties);
    }
}
