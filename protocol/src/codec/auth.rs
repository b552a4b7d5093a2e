//! AUTH (MQTT 5.0 section 3.15); 3.1.1 has none.

use super::property::{Properties, Property, PutProperty, Section};
use super::wire::{Reader, Sink};
use super::{EncodeError, Role};
use crate::{Auth, DecodeError, ProtocolVersion, ReasonCode};

pub(super) fn decode(reader: &mut Reader<'_>, role: Role) -> Result<Auth, DecodeError> {
    let mut packet = Auth {
        reason: ReasonCode::Success,
        authentication_method: None,
        authentication_data: None,
        reason_string: None,
        user_properties: Vec::new(),
    };
    // Section 3.15.2.1: success without properties may be left out as a whole.
    let short = reader.is_empty();
    if !short {
        packet.reason = reader.reason(is_allowed)?;
    }
    // [MQTT-3.15.2-1], table 3-11: who may send which.
    let other_side = match role {
        Role::Broker => packet.reason == ReasonCode::Success,
        Role::Client => packet.reason == ReasonCode::ReAuthenticate,
    };
    if other_side {
        return Err(
            reader.protocol(format!("reason code {:#04x} may not be sent by this side", packet.reason as u8))
        );
    }
    if !short {
        read_properties(reader, &mut packet)?;
        reader.finish()?;
        // Section 3.15.2.2.2
        if packet.authentication_method.is_none() && !is_empty_success(&packet) {
            return Err(reader.protocol("authentication method is missing"));
        }
    }
    Ok(packet)
}

/// Table 3-11.
fn is_allowed(reason: ReasonCode) -> bool {
    matches!(reason as u8, 0x00 | 0x18 | 0x19)
}

/// Says whether the packet may be sent in the short form, without reason code and properties.
fn is_empty_success(packet: &Auth) -> bool {
    packet.reason == ReasonCode::Success
        && packet.authentication_method.is_none()
        && packet.authentication_data.is_none()
        && packet.reason_string.is_none()
        && packet.user_properties.is_empty()
}

fn read_properties(reader: &mut Reader<'_>, into: &mut Auth) -> Result<(), DecodeError> {
    let mut section = Section::read(reader)?;
    while let Some(property) = section.next()? {
        match property {
            Property::AuthenticationMethod => into.authentication_method = section.string()?,
            Property::AuthenticationData => into.authentication_data = section.binary()?,
            Property::ReasonString => into.reason_string = section.string()?,
            Property::User => section.user_property(&mut into.user_properties)?,
            _ => return Err(section.not_allowed()),
        }
    }
    Ok(())
}

pub(super) fn write<S: Sink>(packet: &Auth, version: ProtocolVersion, sink: &mut S) {
    if S::CHECKS && version == ProtocolVersion::V311 {
        sink.refuse(|| EncodeError::Invalid { field: "packet type", what: "3.1.1 has no AUTH" });
    }
    if is_empty_success(packet) {
        return;
    }
    if S::CHECKS && packet.authentication_method.is_none() {
        sink.refuse(|| EncodeError::Invalid { field: "authentication method", what: "it is missing" });
    }
    sink.reason("AUTH", packet.reason, is_allowed);
    sink.section(packet);
}

impl Properties for Auth {
    fn write<S: Sink>(&self, sink: &mut S) {
        sink.put_string(Property::AuthenticationMethod, &self.authentication_method);
        sink.put_binary(Property::AuthenticationData, &self.authentication_data);
        sink.put_string(Property::ReasonString, &self.reason_string);
        sink.put_user_properties(&self.user_properties);
    }
}
