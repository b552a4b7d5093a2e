//! CONNACK (MQTT 3.1.1 and 5.0 section 3.2).

use super::EncodeError;
use super::property::{Properties, Property, PutProperty, Section};
use super::wire::{Reader, Sink};
use crate::{ConnAck, ConnAckProperties, DecodeError, ProtocolVersion, QoS, ReasonCode};

pub(super) fn decode(reader: &mut Reader<'_>, version: ProtocolVersion) -> Result<ConnAck, DecodeError> {
    let flags = reader.u8("acknowledge flags")?;
    // [MQTT-3.2.2-1]
    if flags > 1 {
        return Err(reader.malformed(format!("reserved acknowledge flags are set in {flags:#04x}")));
    }
    let session_present = flags == 1;
    let mut properties = ConnAckProperties::default();
    let reason = match version {
        ProtocolVersion::V311 => read_return_code(reader)?,
        // A broker that knows only 3.1.1 answers a 5.0 CONNECT in its own format, with its code 1.
        ProtocolVersion::V5 if reader.left() == [1] => read_return_code(reader)?,
        ProtocolVersion::V5 => {
            let reason = reader.reason(is_allowed)?;
            properties = read_properties(reader)?;
            reason
        }
    };
    reader.finish()?;
    // [MQTT-3.2.2-6], [MQTT-3.2.2-4] (3.1.1)
    if session_present && reason != ReasonCode::Success {
        return Err(reader.protocol(format!("session present with reason code {:#04x}", reason as u8)));
    }
    Ok(ConnAck { session_present, reason, properties })
}

/// Reads a 3.1.1 return code (3.1.1 table 3.1).
fn read_return_code(reader: &mut Reader<'_>) -> Result<ReasonCode, DecodeError> {
    match reader.u8("return code")? {
        0 => Ok(ReasonCode::Success),
        1 => Ok(ReasonCode::UnsupportedProtocolVersion),
        2 => Ok(ReasonCode::ClientIdentifierNotValid),
        3 => Ok(ReasonCode::ServerUnavailable),
        4 => Ok(ReasonCode::BadUserNameOrPassword),
        5 => Ok(ReasonCode::NotAuthorized),
        code => Err(reader.malformed(format!("return code {code} is reserved"))),
    }
}

/// Maps a reason to the 3.1.1 return code that says most of it; what has no code of its own is 3,
/// server unavailable.
fn to_return_code(reason: ReasonCode) -> u8 {
    match reason {
        ReasonCode::Success => 0,
        ReasonCode::UnsupportedProtocolVersion => 1,
        ReasonCode::ClientIdentifierNotValid => 2,
        ReasonCode::BadUserNameOrPassword | ReasonCode::BadAuthenticationMethod => 4,
        ReasonCode::NotAuthorized | ReasonCode::Banned | ReasonCode::TopicNameInvalid => 5,
        _ => 3,
    }
}

/// Table 3-1.
fn is_allowed(reason: ReasonCode) -> bool {
    matches!(
        reason as u8,
        0x00 | 0x80..=0x8a | 0x8c | 0x90 | 0x95 | 0x97 | 0x99 | 0x9a | 0x9b | 0x9c | 0x9d | 0x9f
    )
}

fn read_properties(reader: &mut Reader<'_>) -> Result<ConnAckProperties, DecodeError> {
    let mut section = Section::read(reader)?;
    let mut p = ConnAckProperties::default();
    while let Some(property) = section.next()? {
        match property {
            Property::SessionExpiryInterval => p.session_expiry_interval_s = section.u32()?,
            Property::ReceiveMaximum => p.receive_maximum = section.nonzero_u16()?,
            Property::MaximumQoS => {
                p.maximum_qos =
                    section.flag()?.map(|one| if one { QoS::AtLeastOnce } else { QoS::AtMostOnce });
            }
            Property::RetainAvailable => p.retain_available = section.flag()?,
            Property::MaximumPacketSize => p.packet_bytes_max = section.nonzero_u32()?,
            Property::AssignedClientIdentifier => p.assigned_client_id = section.string()?,
            Property::TopicAliasMaximum => p.topic_alias_max = section.u16()?,
            Property::ReasonString => p.reason_string = section.string()?,
            Property::User => section.user_property(&mut p.user_properties)?,
            Property::WildcardSubscriptionAvailable => p.wildcard_subscription_available = section.flag()?,
            Property::SubscriptionIdentifierAvailable => {
                p.subscription_identifiers_available = section.flag()?;
            }
            Property::SharedSubscriptionAvailable => p.shared_subscription_available = section.flag()?,
            Property::ServerKeepAlive => p.server_keep_alive_s = section.u16()?,
            Property::ResponseInformation => p.response_information = section.string()?,
            Property::ServerReference => p.server_reference = section.string()?,
            Property::AuthenticationMethod => p.authentication_method = section.string()?,
            Property::AuthenticationData => p.authentication_data = section.binary()?,
            _ => return Err(section.not_allowed()),
        }
    }
    section.check_authentication(&p.authentication_method, &p.authentication_data)?;
    Ok(p)
}

pub(super) fn write<S: Sink>(packet: &ConnAck, version: ProtocolVersion, sink: &mut S) {
    if S::CHECKS && packet.session_present && packet.reason != ReasonCode::Success {
        // [MQTT-3.2.2-6]
        sink.refuse(|| EncodeError::Invalid {
            field: "session present",
            what: "it may be set only with success",
        });
    }
    sink.u8(u8::from(packet.session_present));
    match version {
        ProtocolVersion::V311 => sink.u8(to_return_code(packet.reason)),
        ProtocolVersion::V5 => {
            sink.reason("CONNACK", packet.reason, is_allowed);
            sink.section(&packet.properties);
        }
    }
}

impl Properties for ConnAckProperties {
    fn write<S: Sink>(&self, sink: &mut S) {
        if S::CHECKS && self.maximum_qos == Some(QoS::ExactlyOnce) {
            // Section 3.2.2.3.4: 2 is said by leaving the property out.
            sink.refuse(|| EncodeError::Invalid { field: "maximum qos", what: "it is not 0 or 1" });
        }
        sink.put_u32(Property::SessionExpiryInterval, self.session_expiry_interval_s);
        sink.put_u16(Property::ReceiveMaximum, self.receive_maximum.map(u16::from));
        sink.put_u8(Property::MaximumQoS, self.maximum_qos.map(|qos| qos as u8));
        sink.put_flag(Property::RetainAvailable, self.retain_available);
        sink.put_u32(Property::MaximumPacketSize, self.packet_bytes_max.map(u32::from));
        sink.put_string(Property::AssignedClientIdentifier, &self.assigned_client_id);
        sink.put_u16(Property::TopicAliasMaximum, self.topic_alias_max);
        sink.put_string(Property::ReasonString, &self.reason_string);
        sink.put_user_properties(&self.user_properties);
        sink.put_flag(Property::WildcardSubscriptionAvailable, self.wildcard_subscription_available);
        sink.put_flag(Property::SubscriptionIdentifierAvailable, self.subscription_identifiers_available);
        sink.put_flag(Property::SharedSubscriptionAvailable, self.shared_subscription_available);
        sink.put_u16(Property::ServerKeepAlive, self.server_keep_alive_s);
        sink.put_string(Property::ResponseInformation, &self.response_information);
        sink.put_string(Property::ServerReference, &self.server_reference);
        sink.put_authentication(&self.authentication_method, &self.authentication_data);
    }
}
