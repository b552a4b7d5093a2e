//! DISCONNECT (MQTT 3.1.1 and 5.0 section 3.14).

use super::property::{Properties, Property, PutProperty, Section};
use super::wire::{Reader, Sink};
use super::{EncodeError, Role};
use crate::{DecodeError, Disconnect, DisconnectProperties, ProtocolVersion, ReasonCode, Shared};

pub(super) fn decode(
    reader: &mut Reader<'_>,
    version: ProtocolVersion,
    role: Role,
) -> Result<Disconnect, DecodeError> {
    let mut packet = Disconnect { reason: ReasonCode::Success, properties: Shared::NONE };
    // Sections 3.14.2.1 and 3.14.2.2.1: success may be left out, and an empty property section with it.
    if version == ProtocolVersion::V5 && !reader.is_empty() {
        packet.reason = reader.reason(|reason| may_receive(role, reason))?;
        if !reader.is_empty() {
            packet.properties = read_properties(reader, role)?.into();
        }
    }
    reader.finish()?;
    Ok(packet)
}

/// [MQTT-3.14.2-1], table 3-10; 0x8c is listed for DISCONNECT by table 2-6 only.
fn may_receive(role: Role, reason: ReasonCode) -> bool {
    let both = matches!(reason as u8, 0x00 | 0x80..=0x83 | 0x90 | 0x93..=0x99);
    both || match role {
        Role::Broker => reason == ReasonCode::DisconnectWithWill,
        Role::Client => matches!(reason as u8, 0x87 | 0x89 | 0x8b..=0x8f | 0x9a..=0xa2),
    }
}

fn read_properties(reader: &mut Reader<'_>, role: Role) -> Result<DisconnectProperties, DecodeError> {
    let mut section = Section::read(reader)?;
    let mut p = DisconnectProperties::default();
    while let Some(property) = section.next()? {
        match property {
            // [MQTT-3.14.2-2]
            Property::SessionExpiryInterval if role == Role::Client => {
                return Err(section.protocol("is sent by a server"));
            }
            Property::SessionExpiryInterval => p.session_expiry_interval_s = section.u32()?,
            Property::ReasonString => p.reason_string = section.string()?,
            Property::User => section.user_property(&mut p.user_properties)?,
            Property::ServerReference => p.server_reference = section.string()?,
            _ => return Err(section.not_allowed()),
        }
    }
    Ok(p)
}

pub(super) fn write<S: Sink>(packet: &Disconnect, version: ProtocolVersion, sink: &mut S) {
    if version == ProtocolVersion::V311 {
        // 3.1.1 has only the client's clean goodbye; anything else sent as that would delete the will.
        if S::CHECKS && packet.reason != ReasonCode::Success {
            sink.refuse(|| EncodeError::Invalid {
                field: "reason code",
                what: "3.1.1 has no DISCONNECT for it: close the connection instead",
            });
        }
        return;
    }
    let has_properties = packet.properties != DisconnectProperties::default();
    if has_properties || packet.reason != ReasonCode::Success {
        // Which side sends is not known here.
        sink.reason("DISCONNECT", packet.reason, |reason| {
            may_receive(Role::Broker, reason) || may_receive(Role::Client, reason)
        });
    }
    if has_properties {
        sink.section(&*packet.properties);
    }
}

impl Properties for DisconnectProperties {
    fn write<S: Sink>(&self, sink: &mut S) {
        sink.put_u32(Property::SessionExpiryInterval, self.session_expiry_interval_s);
        sink.put_string(Property::ReasonString, &self.reason_string);
        sink.put_user_properties(&self.user_properties);
        sink.put_string(Property::ServerReference, &self.server_reference);
    }
}
