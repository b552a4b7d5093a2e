//! PUBACK, PUBREC, PUBREL and PUBCOMP (MQTT 3.1.1 and 5.0 sections 3.4 to 3.7), which have one format.

use super::property::{Properties, Property, PutProperty, Section};
use super::wire::{Reader, Sink};
use super::{PacketType, packet_id};
use crate::{Ack, AckProperties, DecodeError, ProtocolVersion, ReasonCode};

pub(super) fn decode(
    reader: &mut Reader<'_>,
    packet: PacketType,
    version: ProtocolVersion,
) -> Result<Ack, DecodeError> {
    let mut ack = Ack::new(packet_id(reader)?, ReasonCode::Success);
    if version == ProtocolVersion::V311 {
        reader.finish()?;
        return Ok(ack);
    }
    // Sections 3.4.2.1 and 3.4.2.2.1: success may be left out, and an empty property section with it.
    if !reader.is_empty() {
        ack.reason = reader.reason(|reason| is_allowed(packet, reason))?;
    }
    if !reader.is_empty() {
        ack.properties = read_properties(reader)?.into();
    }
    reader.finish()?;
    Ok(ack)
}

/// Tables 3-4 to 3-7: [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-3.6.2-1], [MQTT-3.7.2-1].
fn is_allowed(packet: PacketType, reason: ReasonCode) -> bool {
    match packet {
        PacketType::PubAck | PacketType::PubRec => {
            matches!(reason as u8, 0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
        }
        _ => matches!(reason, ReasonCode::Success | ReasonCode::PacketIdentifierNotFound),
    }
}

/// Reads the section that acknowledgements, SUBACK and UNSUBACK share.
pub(super) fn read_properties(reader: &mut Reader<'_>) -> Result<AckProperties, DecodeError> {
    let mut section = Section::read(reader)?;
    let mut p = AckProperties::default();
    while let Some(property) = section.next()? {
        match property {
            Property::ReasonString => p.reason_string = section.string()?,
            Property::User => section.user_property(&mut p.user_properties)?,
            _ => return Err(section.not_allowed()),
        }
    }
    Ok(p)
}

/// Whether it is its packet identifier and no more.
#[inline]
pub(super) fn is_plain(ack: &Ack, version: ProtocolVersion) -> bool {
    version == ProtocolVersion::V311 || (ack.reason == ReasonCode::Success && ack.properties.is_none())
}

#[inline]
pub(super) fn write<S: Sink>(ack: &Ack, packet: PacketType, version: ProtocolVersion, sink: &mut S) {
    sink.u16(ack.packet_id.get());
    if version == ProtocolVersion::V311 {
        return;
    }
    let has_properties = ack.properties != AckProperties::default();
    if has_properties || ack.reason != ReasonCode::Success {
        sink.reason(packet.name(), ack.reason, |reason| is_allowed(packet, reason));
    }
    if has_properties {
        sink.section(&*ack.properties);
    }
}

impl Properties for AckProperties {
    fn write<S: Sink>(&self, sink: &mut S) {
        sink.put_string(Property::ReasonString, &self.reason_string);
        sink.put_user_properties(&self.user_properties);
    }
}
