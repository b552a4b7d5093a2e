//! CONNECT.

use std::num::{NonZeroU16, NonZeroU32};

use super::*;
use crate::{ByteString, Connect, ConnectProperties, PublishProperties, QoS, Will};

fn bare(version: ProtocolVersion) -> Connect {
    Connect {
        version,
        clean_start: false,
        keep_alive_s: 60,
        client_id: ByteString::new(),
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

fn connect(parts: &[&[u8]]) -> Vec<u8> {
    frame(0x10, &parts.concat())
}

#[track_caller]
fn refused(statement: &str, parts: &[&[u8]], message: &str) {
    check_refused(Role::Broker, None, statement, &connect(parts), message);
}

#[test]
fn a_connect_of_3_1_1_is_read_field_by_field() {
    // [MQTT-3.1.3-8] (3.1.1): an empty client id without a clean session decodes, the broker answers 0x02.
    let bytes = connect(&[b"\0\x04MQTT\x04\0\0\x3c\0\0"]);
    check(Role::Broker, V311, &bytes, &Packet::Connect(Box::new(bare(V311))));

    let bytes = connect(&[b"\0\x04MQTT\x04\xf6\0\x0a\0\x02me\0\x01w\0\x03bye\0\x01u\0\x02\0\xff"]);
    let full = Connect {
        clean_start: true,
        keep_alive_s: 10,
        client_id: "me".into(),
        will: Some(Box::new(Will {
            topic: "w".into(),
            payload: Bytes::from_static(b"bye"),
            qos: QoS::ExactlyOnce,
            retain: true,
            delay_interval_s: None,
            properties: PublishProperties::default(),
        })),
        username: Some("u".into()),
        password: Some(Bytes::from_static(b"\0\xff")),
        ..bare(V311)
    };
    check(Role::Broker, V311, &bytes, &Packet::Connect(Box::new(full)));
}

#[test]
fn a_connect_of_5_0_is_read_field_by_field() {
    let bytes = connect(&[
        b"\0\x04MQTT\x05\x6c\0\0",
        b"\x25\x11\xff\xff\xff\xff\x21\0\x0a\x27\0\0\x10\0\x22\0\x05\x19\x01\x17\0",
        b"\x26\0\x01k\0\x01v\x15\0\x02ab\x16\0\x02\0\x01",
        b"\0\x01c",
        b"\x13\x18\0\0\0\x07\x01\x01\x02\0\0\0\x09\x08\0\x01r\x09\0\0",
        b"\0\x01w\0\0\0\x01p",
    ]);
    let full = Connect {
        keep_alive_s: 0,
        client_id: "c".into(),
        will: Some(Box::new(Will {
            topic: "w".into(),
            payload: Bytes::new(),
            qos: QoS::AtLeastOnce,
            retain: true,
            delay_interval_s: Some(7),
            properties: PublishProperties {
                payload_format_utf8: Some(true),
                message_expiry_interval_s: Some(9),
                response_topic: Some("r".into()),
                correlation_data: Some(Bytes::new()),
                ..PublishProperties::default()
            },
        })),
        // 5.0 allows a password without a user name (section 3.1.2.9).
        password: Some(Bytes::from_static(b"p")),
        properties: ConnectProperties {
            session_expiry_interval_s: Some(u32::MAX),
            receive_maximum: NonZeroU16::new(10),
            packet_bytes_max: NonZeroU32::new(4096),
            topic_alias_max: Some(5),
            request_response_information: Some(true),
            request_problem_information: Some(false),
            user_properties: vec![("k".into(), "v".into())],
            authentication_method: Some("ab".into()),
            authentication_data: Some(Bytes::from_static(b"\0\x01")),
        },
        ..bare(V5)
    };
    check(Role::Broker, V5, &bytes, &Packet::Connect(Box::new(full)));
}

#[test]
fn another_protocol_name_or_level_is_not_supported() {
    // [MQTT-3.1.2-1], [MQTT-3.1.2-2]
    let name_of_40 = [&b"\0\x28"[..], &[b'x'; 40], b"\x04"].concat();
    for (bytes, name, level) in [
        (&b"\0\x06MQIsdp\x03\x02\0\x3c\0\0"[..], "MQIsdp", 3),
        (b"\0\x04MQTT\x03\x02\0\x3c\0\0", "MQTT", 3),
        (b"\0\x04MQTT\x06\x02\0\x3c\0\0", "MQTT", 6),
        (b"\0\x04MQTT\x84\x02\0\x3c\0\0", "MQTT", 0x84),
        (b"\0\x04mqtt\x04\x02\0\x3c\0\0", "mqtt", 4),
        (b"\0\0\x04", "", 4),
        (b"\0\x02\xff\xfe\x04", "\u{fffd}\u{fffd}", 4),
        (&name_of_40, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 4),
    ] {
        let error = decode(Role::Broker, None, &frame(0x10, bytes)).unwrap_err();
        assert_eq!(error, DecodeError::UnsupportedProtocolVersion { name: name.into(), level });
        assert_eq!(error.reason(), ReasonCode::UnsupportedProtocolVersion);
    }
}

#[test]
fn wrong_connect_flags_are_refused() {
    for (level, properties) in [(b"\x04", &b""[..]), (b"\x05", b"\0")] {
        let tail = &[b"\0\x3c", properties, b"\0\x01c"].concat()[..];
        for (statement, flags, message) in [
            ("[MQTT-3.1.2-3]", b"\x01", "malformed CONNECT: reserved connect flag is set in 0x01"),
            ("[MQTT-3.1.2-11]", b"\x08", "malformed CONNECT: will qos or will retain without a will in 0x08"),
            ("[MQTT-3.1.2-11]", b"\x10", "malformed CONNECT: will qos or will retain without a will in 0x10"),
            ("[MQTT-3.1.2-13]", b"\x20", "malformed CONNECT: will qos or will retain without a will in 0x20"),
            ("[MQTT-3.1.2-12]", b"\x1c", "malformed CONNECT: will qos is 3"),
            ("[MQTT-3.1.2-17]", b"\x80", "malformed CONNECT: user name needs 2 bytes, 0 are left"),
        ] {
            refused(statement, &[b"\0\x04MQTT", level, flags, tail], message);
        }
    }
    let message = "malformed CONNECT: password without a user name";
    refused("[MQTT-3.1.2-22] (3.1.1)", &[b"\0\x04MQTT\x04\x42\0\x3c\0\x01c\0\x01p"], message);
}

#[test]
fn wrong_connect_properties_are_refused() {
    for (properties, message) in [
        (&b"\x21\0\0"[..], "protocol error in CONNECT: receive maximum is 0"),
        (b"\x27\0\0\0\0", "protocol error in CONNECT: maximum packet size is 0"),
        (b"\x19\x02", "protocol error in CONNECT: request response information is 2, not 0 or 1"),
        (b"\x17\xff", "protocol error in CONNECT: request problem information is 255, not 0 or 1"),
        (b"\x16\0\x01d", "protocol error in CONNECT: authentication data without an authentication method"),
        (b"\x11\0\0\0", "malformed CONNECT: session expiry interval needs 4 bytes, 3 are left"),
        (b"\x26\0\x01k\0\x02v", "malformed CONNECT: user property value needs 2 bytes, 1 are left"),
        (b"\x15\0\x01\0", "malformed CONNECT: authentication method contains the null character"),
        (b"\x00", "malformed CONNECT: property identifier 0x00 is not known"),
        (b"\x7f", "malformed CONNECT: property identifier 0x7f is not known"),
        (
            b"\xa6\0\0\0\0\0",
            "malformed CONNECT: property identifier 38 is encoded in 2 bytes, more than it needs",
        ),
    ] {
        let length = [properties.len() as u8];
        let parts: [&[u8]; 4] = [b"\0\x04MQTT\x05\x02\0\x3c", &length, properties, b"\0\x01c"];
        refused("section 3.1.2.11", &parts, message);
    }
    let parts: [&[u8]; 1] = [b"\0\x04MQTT\x05\x02\0\x3c\x09\0\0"];
    refused("section 2.2.2.1", &parts, "malformed CONNECT: property section needs 9 bytes, 2 are left");
}

#[test]
fn a_wrong_will_is_refused() {
    for (will, message) in [
        (&b"\0\0\0\0\0"[..], "CONNECT topic name \"\" is invalid: it is empty"),
        (b"\0\0\x01#\0\0", "CONNECT topic name \"#\" is invalid: it contains a wildcard"),
        (b"\0\0\x03a/+\0\0", "CONNECT topic name \"a/+\" is invalid: it contains a wildcard"),
        (b"\x03\x23\0\x01\0\x01w\0\0", "malformed CONNECT: topic alias is not allowed in this packet"),
        (
            b"\x02\x0b\x01\0\x01w\0\0",
            "malformed CONNECT: subscription identifier is not allowed in this packet",
        ),
        (b"\x02\x01\x02\0\x01w\0\0", "protocol error in CONNECT: payload format indicator is 2, not 0 or 1"),
        (
            b"\x04\x08\0\x01+\0\x01w\0\0",
            "protocol error in CONNECT: response topic is no topic name: it contains a wildcard",
        ),
        (b"\0\0\x01w\0\x05p", "malformed CONNECT: will payload needs 5 bytes, 1 are left"),
        (b"\0\0\x01w\0\0\0", "malformed CONNECT: 1 bytes follow the last field"),
    ] {
        refused("section 3.1.3", &[b"\0\x04MQTT\x05\x06\0\x3c\0\0\x01c", will], message);
    }
}

#[test]
fn strings_are_utf_8_without_the_null_character() {
    for (statement, client_id, message) in [
        // [MQTT-1.5.4-1]: surrogates, overlong forms, more than U+10FFFF, cut sequences
        ("[MQTT-1.5.4-1]", &b"\0\x03\xed\xa0\x80"[..], "invalid utf-8 sequence of 1 bytes from index 0"),
        ("[MQTT-1.5.4-1]", b"\0\x02\xc0\x80", "invalid utf-8 sequence of 1 bytes from index 0"),
        ("[MQTT-1.5.4-1]", b"\0\x04\xf4\x90\x80\x80", "invalid utf-8 sequence of 1 bytes from index 0"),
        ("[MQTT-1.5.4-1]", b"\0\x02a\xe4", "incomplete utf-8 byte sequence from index 1"),
    ] {
        let message = format!("malformed CONNECT: client identifier is not UTF-8: {message}");
        refused(statement, &[b"\0\x04MQTT\x04\x02\0\x3c", client_id], &message);
    }
    // [MQTT-1.5.4-2], [MQTT-1.5.3-2] (3.1.1)
    let message = "malformed CONNECT: client identifier contains the null character";
    refused("[MQTT-1.5.3-2] (3.1.1)", &[b"\0\x04MQTT\x04\x02\0\x3c\0\x03a\0b"], message);
    // [MQTT-1.5.4-3], [MQTT-1.5.3-3] (3.1.1): U+FEFF is a character like others
    let bytes = connect(&[b"\0\x04MQTT\x04\0\0\x3c\0\x04\xef\xbb\xbfa"]);
    let connect = Connect { client_id: "\u{feff}a".into(), ..bare(V311) };
    check(Role::Broker, V311, &bytes, &Packet::Connect(Box::new(connect)));
}

#[test]
fn trailing_and_missing_bytes_are_refused() {
    let message = "malformed CONNECT: 2 bytes follow the last field";
    refused("section 3.1.3", &[b"\0\x04MQTT\x04\x02\0\x3c\0\x01c\0\0"], message);
    let message = "malformed CONNECT: protocol name needs 2 bytes, 0 are left";
    refused("section 3.1.2.1", &[], message);
    let message = "malformed CONNECT: client identifier needs 2 bytes, 0 are left";
    refused("[MQTT-3.1.3-3] (3.1.1)", &[b"\0\x04MQTT\x04\x02\0\x3c"], message);
}

#[test]
fn the_version_is_known_even_of_a_connect_that_is_wrong_behind_it() {
    for (level, version) in [(b"\x04", Some(V311)), (b"\x05", Some(V5)), (b"\x06", None)] {
        let mut decoder = Decoder::new(Role::Broker, None, LIMIT);
        let mut bytes = BytesMut::from(&connect(&[b"\0\x04MQTT", level, b"\x01\0\0"])[..]);
        decoder.decode(&mut bytes).unwrap_err();
        assert_eq!(decoder.version(), version);
    }
}
