//! SUBACK (MQTT 3.1.1 and 5.0 section 3.9).

use super::property::PutProperty;
use super::wire::{Reader, Sink};
use super::{EncodeError, ack, packet_id};
use crate::{AckProperties, DecodeError, ProtocolVersion, ReasonCode, SubAck};

pub(super) fn decode(reader: &mut Reader<'_>, version: ProtocolVersion) -> Result<SubAck, DecodeError> {
    let packet_id = packet_id(reader)?;
    let properties = match version {
        ProtocolVersion::V311 => AckProperties::default(),
        ProtocolVersion::V5 => ack::read_properties(reader)?,
    };
    let reasons = read_reasons(reader, |code| match version {
        // [MQTT-3.9.3-2] of 3.1.1
        ProtocolVersion::V311 => matches!(code, 0x00..=0x02 | 0x80),
        // [MQTT-3.9.3-2]
        ProtocolVersion::V5 => {
            matches!(code, 0x00..=0x02 | 0x80 | 0x83 | 0x87 | 0x8f | 0x91 | 0x97 | 0x9e | 0xa1 | 0xa2)
        }
    })?;
    Ok(SubAck { packet_id, properties, reasons })
}

/// Reads the list of codes that ends SUBACK and UNSUBACK: one for each filter, so at least one.
pub(super) fn read_reasons(
    reader: &mut Reader<'_>,
    is_allowed: impl Fn(u8) -> bool,
) -> Result<Vec<ReasonCode>, DecodeError> {
    if reader.is_empty() {
        return Err(reader.protocol("there is no reason code"));
    }
    let mut reasons = Vec::with_capacity(reader.remaining());
    while !reader.is_empty() {
        let code = reader.u8("reason code")?;
        match ReasonCode::from_u8(code) {
            Some(reason) if is_allowed(code) => reasons.push(reason),
            _ => {
                return Err(reader.malformed(format!("reason code {code:#04x} is not one of this packet")));
            }
        }
    }
    Ok(reasons)
}

pub(super) fn write<S: Sink>(packet: &SubAck, version: ProtocolVersion, sink: &mut S) {
    sink.u16(packet.packet_id.get());
    if version == ProtocolVersion::V5 {
        sink.section(&packet.properties);
    }
    write_reasons(
        sink,
        packet.reasons.iter().map(|&reason| match version {
            ProtocolVersion::V311 if reason.is_failure() => ReasonCode::UnspecifiedError,
            _ => reason,
        }),
    );
}

pub(super) fn write_reasons<S: Sink>(sink: &mut S, reasons: impl ExactSizeIterator<Item = ReasonCode>) {
    if S::CHECKS && reasons.len() == 0 {
        sink.refuse(|| EncodeError::Invalid { field: "reason codes", what: "there is none" });
    }
    for reason in reasons {
        sink.u8(reason as u8);
    }
}
