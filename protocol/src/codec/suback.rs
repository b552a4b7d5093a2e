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
    let reasons = read_reasons(reader, |reason| is_allowed(reason, version))?;
    Ok(SubAck { packet_id, properties, reasons })
}

/// [MQTT-3.9.3-2], [MQTT-3.9.3-2] (3.1.1), table 3-8.
fn is_allowed(reason: ReasonCode, version: ProtocolVersion) -> bool {
    match version {
        ProtocolVersion::V311 => matches!(reason as u8, 0x00..=0x02 | 0x80),
        ProtocolVersion::V5 => {
            matches!(reason as u8, 0x00..=0x02 | 0x80 | 0x83 | 0x87 | 0x8f | 0x91 | 0x97 | 0x9e | 0xa1 | 0xa2)
        }
    }
}

/// Reads the list of codes that ends SUBACK and UNSUBACK: one for each filter, so at least one.
pub(super) fn read_reasons(
    reader: &mut Reader<'_>,
    is_allowed: impl Fn(ReasonCode) -> bool,
) -> Result<Vec<ReasonCode>, DecodeError> {
    if reader.is_empty() {
        return Err(reader.protocol("there is no reason code"));
    }
    let mut reasons = Vec::with_capacity(reader.remaining());
    while !reader.is_empty() {
        reasons.push(reader.reason(&is_allowed)?);
    }
    Ok(reasons)
}

pub(super) fn write<S: Sink>(packet: &SubAck, version: ProtocolVersion, sink: &mut S) {
    sink.u16(packet.packet_id.get());
    if version == ProtocolVersion::V5 {
        sink.section(&packet.properties);
    }
    check_count(sink, packet.reasons.len());
    for &reason in &packet.reasons {
        let reason = match version {
            ProtocolVersion::V311 if reason.is_failure() => ReasonCode::UnspecifiedError,
            _ => reason,
        };
        sink.reason("SUBACK", reason, |reason| is_allowed(reason, version));
    }
}

/// One code a filter, so at least one.
pub(super) fn check_count<S: Sink>(sink: &mut S, reasons: usize) {
    if S::CHECKS && reasons == 0 {
        sink.refuse(|| EncodeError::Invalid { field: "reason codes", what: "there is none" });
    }
}
