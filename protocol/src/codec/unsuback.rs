//! UNSUBACK (MQTT 3.1.1 and 5.0 section 3.11).

use super::property::PutProperty;
use super::suback::{check_count, read_reasons};
use super::wire::{Reader, Sink};
use super::{ack, packet_id};
use crate::{AckProperties, DecodeError, ProtocolVersion, ReasonCode, UnsubAck};

pub(super) fn decode(reader: &mut Reader<'_>, version: ProtocolVersion) -> Result<UnsubAck, DecodeError> {
    let packet_id = packet_id(reader)?;
    if version == ProtocolVersion::V311 {
        reader.finish()?;
        return Ok(UnsubAck { packet_id, properties: AckProperties::default(), reasons: Vec::new() });
    }
    let properties = ack::read_properties(reader)?;
    let reasons = read_reasons(reader, is_allowed)?;
    Ok(UnsubAck { packet_id, properties, reasons })
}

/// [MQTT-3.11.3-2], table 3-9.
fn is_allowed(reason: ReasonCode) -> bool {
    matches!(reason as u8, 0x00 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8f | 0x91)
}

pub(super) fn write<S: Sink>(packet: &UnsubAck, version: ProtocolVersion, sink: &mut S) {
    sink.u16(packet.packet_id.get());
    if version == ProtocolVersion::V5 {
        sink.section(&packet.properties);
        check_count(sink, packet.reasons.len());
        for &reason in &packet.reasons {
            sink.reason("UNSUBACK", reason, is_allowed);
        }
    }
}
