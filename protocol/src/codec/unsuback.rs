//! UNSUBACK (MQTT 3.1.1 and 5.0 section 3.11).

use super::property::PutProperty;
use super::suback::{read_reasons, write_reasons};
use super::wire::{Reader, Sink};
use super::{ack, packet_id};
use crate::{AckProperties, DecodeError, ProtocolVersion, UnsubAck};

pub(super) fn decode(reader: &mut Reader<'_>, version: ProtocolVersion) -> Result<UnsubAck, DecodeError> {
    let packet_id = packet_id(reader)?;
    if version == ProtocolVersion::V311 {
        reader.finish()?;
        return Ok(UnsubAck { packet_id, properties: AckProperties::default(), reasons: Vec::new() });
    }
    let properties = ack::read_properties(reader)?;
    // [MQTT-3.11.3-2]
    let reasons =
        read_reasons(reader, |code| matches!(code, 0x00 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8f | 0x91))?;
    Ok(UnsubAck { packet_id, properties, reasons })
}

pub(super) fn write<S: Sink>(packet: &UnsubAck, version: ProtocolVersion, sink: &mut S) {
    sink.u16(packet.packet_id.get());
    if version == ProtocolVersion::V5 {
        sink.section(&packet.properties);
        write_reasons(sink, packet.reasons.iter().copied());
    }
}
