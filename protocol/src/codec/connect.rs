//! CONNECT (MQTT 3.1.1 and 5.0 section 3.1).

use super::EncodeError;
use super::property::{Properties, Property, PutProperty, Section};
use super::publish::{check_topic_name, check_written_name, put_message_properties, read_message_property};
use super::wire::{Reader, Sink};
use crate::{Connect, ConnectProperties, DecodeError, ProtocolVersion, PublishProperties, QoS, Will};

/// How much of a wrong protocol name an error repeats.
const PROTOCOL_NAME_SHOWN_BYTES_MAX: usize = 32;

const CLEAN_START: u8 = 0x02;
const WILL: u8 = 0x04;
const WILL_RETAIN: u8 = 0x20;
const PASSWORD: u8 = 0x40;
const USER_NAME: u8 = 0x80;

/// Reads the body behind the protocol level, which [`read_version`] has read.
pub(super) fn decode(reader: &mut Reader<'_>, version: ProtocolVersion) -> Result<Connect, DecodeError> {
    let flags = reader.u8("connect flags")?;
    check_flags(reader, version, flags)?;
    let keep_alive_s = reader.u16("keep alive")?;
    let properties = match version {
        ProtocolVersion::V5 => read_properties(reader)?,
        ProtocolVersion::V311 => ConnectProperties::default(),
    };
    let client_id = reader.string("client identifier")?;
    let will = if flags & WILL == 0 { None } else { Some(Box::new(read_will(reader, version, flags)?)) };
    let username = if flags & USER_NAME == 0 { None } else { Some(reader.string("user name")?) };
    let password = if flags & PASSWORD == 0 { None } else { Some(reader.binary("password")?) };
    reader.finish()?;
    Ok(Connect {
        version,
        clean_start: flags & CLEAN_START != 0,
        keep_alive_s,
        client_id,
        will,
        username,
        password,
        properties,
    })
}

/// [MQTT-3.1.2-1] and [MQTT-3.1.2-2]: the name is `MQTT` and the level one that is served.
pub(super) fn read_version(reader: &mut Reader<'_>) -> Result<ProtocolVersion, DecodeError> {
    let name = reader.binary_ref("protocol name")?;
    let level = reader.u8("protocol level")?;
    match (name, level) {
        (b"MQTT", 4) => Ok(ProtocolVersion::V311),
        (b"MQTT", 5) => Ok(ProtocolVersion::V5),
        _ => {
            let shown = &name[..name.len().min(PROTOCOL_NAME_SHOWN_BYTES_MAX)];
            let name = String::from_utf8_lossy(shown).into_owned();
            Err(DecodeError::UnsupportedProtocolVersion { name, level })
        }
    }
}

fn check_flags(reader: &Reader<'_>, version: ProtocolVersion, flags: u8) -> Result<(), DecodeError> {
    // [MQTT-3.1.2-3]
    if flags & 0x01 != 0 {
        return Err(reader.malformed(format!("reserved connect flag is set in {flags:#04x}")));
    }
    if flags & WILL == 0 {
        // [MQTT-3.1.2-11], [MQTT-3.1.2-13]; [MQTT-3.1.2-13] (3.1.1), [MQTT-3.1.2-15] (3.1.1)
        if flags & (WILL_RETAIN | 0x18) != 0 {
            return Err(reader.malformed(format!("will qos or will retain without a will in {flags:#04x}")));
        }
    } else if will_qos(flags).is_none() {
        // [MQTT-3.1.2-12]; [MQTT-3.1.2-14] (3.1.1)
        return Err(reader.malformed("will qos is 3"));
    }
    // [MQTT-3.1.2-22] (3.1.1); 5.0 allows a password alone.
    if version == ProtocolVersion::V311 && flags & USER_NAME == 0 && flags & PASSWORD != 0 {
        return Err(reader.malformed("password without a user name"));
    }
    Ok(())
}

fn will_qos(flags: u8) -> Option<QoS> {
    QoS::from_u8(flags >> 3 & 0x03)
}

fn read_properties(reader: &mut Reader<'_>) -> Result<ConnectProperties, DecodeError> {
    let mut section = Section::read(reader)?;
    let mut p = ConnectProperties::default();
    while let Some(property) = section.next()? {
        match property {
            Property::SessionExpiryInterval => p.session_expiry_interval_s = section.u32()?,
            Property::ReceiveMaximum => p.receive_maximum = section.nonzero_u16()?,
            Property::MaximumPacketSize => p.packet_bytes_max = section.nonzero_u32()?,
            Property::TopicAliasMaximum => p.topic_alias_max = section.u16()?,
            Property::RequestResponseInformation => p.request_response_information = section.flag()?,
            Property::RequestProblemInformation => p.request_problem_information = section.flag()?,
            Property::User => section.user_property(&mut p.user_properties)?,
            Property::AuthenticationMethod => p.authentication_method = section.string()?,
            Property::AuthenticationData => p.authentication_data = section.binary()?,
            _ => return Err(section.not_allowed()),
        }
    }
    section.check_authentication(&p.authentication_method, &p.authentication_data)?;
    Ok(p)
}

fn read_will(reader: &mut Reader<'_>, version: ProtocolVersion, flags: u8) -> Result<Will, DecodeError> {
    let mut delay_interval_s = None;
    let mut properties = PublishProperties::default();
    if version == ProtocolVersion::V5 {
        let mut section = Section::read(reader)?;
        while let Some(property) = section.next()? {
            match property {
                Property::WillDelayInterval => delay_interval_s = section.u32()?,
                property => read_message_property(&mut section, property, &mut properties)?,
            }
        }
    }
    let topic = reader.string("will topic")?;
    check_topic_name(reader, &topic)?;
    let payload = reader.binary("will payload")?;
    let qos = will_qos(flags).ok_or_else(|| reader.malformed("will qos is 3"))?;
    Ok(Will { topic, payload, qos, retain: flags & WILL_RETAIN != 0, delay_interval_s, properties })
}

/// Writes the body; the version is the packet's own.
pub(super) fn write<S: Sink>(packet: &Connect, sink: &mut S) {
    let v5 = packet.version == ProtocolVersion::V5;
    sink.string("protocol name", "MQTT");
    sink.u8(if v5 { 5 } else { 4 });
    sink.u8(flags(packet));
    sink.u16(packet.keep_alive_s);
    if v5 {
        sink.section(&packet.properties);
    } else if S::CHECKS && packet.password.is_some() && packet.username.is_none() {
        // [MQTT-3.1.2-22] (3.1.1)
        sink.refuse(|| EncodeError::Invalid { field: "password", what: "3.1.1 needs a user name with it" });
    }
    sink.string("client identifier", &packet.client_id);
    if let Some(will) = &packet.will {
        if v5 {
            sink.section(will.as_ref());
        }
        if S::CHECKS {
            check_written_name(sink, "will topic", &will.topic);
        }
        sink.string("will topic", &will.topic);
        sink.binary("will payload", &will.payload);
    }
    if let Some(username) = &packet.username {
        sink.string("user name", username);
    }
    if let Some(password) = &packet.password {
        sink.binary("password", password);
    }
}

fn flags(packet: &Connect) -> u8 {
    let mut flags = 0;
    if packet.clean_start {
        flags |= CLEAN_START;
    }
    if let Some(will) = &packet.will {
        flags |= WILL | (will.qos as u8) << 3;
        if will.retain {
            flags |= WILL_RETAIN;
        }
    }
    if packet.username.is_some() {
        flags |= USER_NAME;
    }
    if packet.password.is_some() {
        flags |= PASSWORD;
    }
    flags
}

impl Properties for ConnectProperties {
    fn write<S: Sink>(&self, sink: &mut S) {
        sink.put_u32(Property::SessionExpiryInterval, self.session_expiry_interval_s);
        sink.put_u16(Property::ReceiveMaximum, self.receive_maximum.map(u16::from));
        sink.put_u32(Property::MaximumPacketSize, self.packet_bytes_max.map(u32::from));
        sink.put_u16(Property::TopicAliasMaximum, self.topic_alias_max);
        sink.put_flag(Property::RequestResponseInformation, self.request_response_information);
        sink.put_flag(Property::RequestProblemInformation, self.request_problem_information);
        sink.put_user_properties(&self.user_properties);
        sink.put_authentication(&self.authentication_method, &self.authentication_data);
    }
}

impl Properties for Will {
    fn write<S: Sink>(&self, sink: &mut S) {
        if S::CHECKS && self.properties.topic_alias.is_some() {
            sink.refuse(|| EncodeError::Invalid { field: "will", what: "it may not have a topic alias" });
        }
        if S::CHECKS && !self.properties.subscription_identifiers.is_empty() {
            sink.refuse(|| EncodeError::Invalid {
                field: "will",
                what: "it may not have subscription identifiers",
            });
        }
        sink.put_u32(Property::WillDelayInterval, self.delay_interval_s);
        put_message_properties(sink, &self.properties);
    }
}
