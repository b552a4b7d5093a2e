//! PUBLISH and its acknowledgements.

use std::num::NonZeroU16;

use super::*;
use crate::{AckProperties, Publish, PublishProperties, QoS};

fn message(topic: &'static str, payload: &'static [u8]) -> Publish {
    Publish { topic: topic.into(), payload: Bytes::from_static(payload), ..Publish::default() }
}

#[test]
fn a_publish_is_read_field_by_field() {
    let bytes = b"\x30\x05\0\x01ahi";
    check(Role::Broker, V311, bytes, &Packet::Publish(message("a", b"hi")));
    let bytes = b"\x3d\x07\0\x01a\x12\x34hi";
    let publish = Publish {
        dup: true,
        qos: QoS::ExactlyOnce,
        retain: true,
        packet_id: Some(id(0x1234)),
        ..message("a", b"hi")
    };
    check(Role::Client, V311, bytes, &Packet::Publish(publish));

    let bytes = [
        &b"\x32\x30\0\x01a\0\x07\x2a\x23\0\x05\x0b\x01\x0b\xff\xff\xff\x7f\x01\0\x02\0\0\0\x3c\x08\0\x01r"[..],
        b"\x09\0\x01\0\x26\0\x01k\0\0\x26\0\x01k\0\x01v\x03\0\x01t",
    ]
    .concat();
    let publish = Publish {
        qos: QoS::AtLeastOnce,
        packet_id: Some(id(7)),
        properties: PublishProperties {
            payload_format_utf8: Some(false),
            message_expiry_interval_s: Some(60),
            topic_alias: NonZeroU16::new(5),
            response_topic: Some("r".into()),
            correlation_data: Some(Bytes::from_static(b"\0")),
            user_properties: vec![("k".into(), "".into()), ("k".into(), "v".into())],
            subscription_identifiers: vec![1, 268_435_455],
            content_type: Some("t".into()),
        }
        .into(),
        ..message("a", b"")
    };
    check(Role::Client, V5, &bytes, &Packet::Publish(publish));
}

#[test]
fn an_empty_topic_name_needs_an_alias() {
    let publish = Publish {
        properties: PublishProperties { topic_alias: NonZeroU16::new(1), ..PublishProperties::default() }
            .into(),
        ..message("", b"x")
    };
    check(Role::Broker, V5, b"\x30\x07\0\0\x03\x23\0\x01x", &Packet::Publish(publish));
    let message = "protocol error in PUBLISH: topic name is empty and there is no topic alias";
    check_refused(Role::Broker, V5, "section 3.3.2.1", b"\x30\x03\0\0\0", message);
    let message = "PUBLISH topic name \"\" is invalid: it is empty";
    check_refused(Role::Broker, V311, "[MQTT-4.7.3-1] (3.1.1)", b"\x30\x02\0\0", message);
}

#[test]
fn a_wrong_publish_is_refused_in_both_versions_and_directions() {
    for role in [Role::Broker, Role::Client] {
        for version in [V311, V5] {
            let properties: &[u8] = if version == V5 { b"\0" } else { b"" };
            for (statement, first, body, message) in [
                ("[MQTT-3.3.1-4]", 0x36, &b"\0\x01a\0\x01"[..], "malformed PUBLISH: qos is 3"),
                ("[MQTT-3.3.1-4]", 0x3e, b"\0\x01a\0\x01", "malformed PUBLISH: qos is 3"),
                ("[MQTT-3.3.1-2]", 0x38, b"\0\x01a", "malformed PUBLISH: dup is set at qos 0"),
                (
                    "[MQTT-3.3.2-2]",
                    0x30,
                    b"\0\x03a/#",
                    "PUBLISH topic name \"a/#\" is invalid: it contains a wildcard",
                ),
                (
                    "[MQTT-3.3.2-2]",
                    0x32,
                    b"\0\x03+/a\0\x01",
                    "PUBLISH topic name \"+/a\" is invalid: it contains a wildcard",
                ),
                (
                    "[MQTT-1.5.4-2]",
                    0x30,
                    b"\0\x02a\0",
                    "malformed PUBLISH: topic name contains the null character",
                ),
                ("[MQTT-2.2.1-3]", 0x32, b"\0\x01a\0\0", "protocol error in PUBLISH: packet identifier is 0"),
                (
                    "section 3.3.2.1",
                    0x30,
                    b"\0\x09a",
                    // The property length counts as left in 5.0.
                    if version == V5 {
                        "malformed PUBLISH: topic name needs 9 bytes, 2 are left"
                    } else {
                        "malformed PUBLISH: topic name needs 9 bytes, 1 are left"
                    },
                ),
            ] {
                let bytes = frame(first, &[body, properties].concat());
                check_refused(role, version, statement, &bytes, message);
            }
            let message = "malformed PUBLISH: packet identifier needs 2 bytes, 1 are left";
            check_refused(role, version, "[MQTT-2.2.1-4]", b"\x32\x04\0\x01a\0", message);
            let message = "malformed PUBLISH: topic name needs 2 bytes, 0 are left";
            check_refused(role, version, "section 3.3.2.1", b"\x30\0", message);
        }
    }
    let long = "x".repeat(300);
    let error = decode(Role::Broker, V311, &frame(0x30, &[b"\x01\x2d", long.as_bytes(), b"#"].concat()));
    assert_eq!(
        error.unwrap_err().to_string().len(),
        "PUBLISH topic name \"\" is invalid: it contains a wildcard".len() + 128
    );
}

#[test]
fn wrong_publish_properties_are_refused() {
    for (role, statement, properties, message) in [
        (Role::Broker, "[MQTT-3.3.2-8]", &b"\x23\0\0"[..], "topic alias 0 in PUBLISH is not permitted"),
        (
            Role::Broker,
            "[MQTT-3.3.4-6]",
            b"\x0b\x01",
            "protocol error in PUBLISH: subscription identifier is sent by a client",
        ),
        (
            Role::Client,
            "section 3.3.2.3.8",
            b"\x0b\0",
            "protocol error in PUBLISH: subscription identifier is 0",
        ),
        (
            Role::Client,
            "[MQTT-1.5.5-1]",
            b"\x0b\x81\0",
            "malformed PUBLISH: subscription identifier 1 is encoded in 2 bytes, more than it needs",
        ),
        (
            Role::Client,
            "section 1.5.5",
            b"\x0b\xff\xff\xff\xff\x01",
            "malformed PUBLISH: subscription identifier is encoded in more than 4 bytes",
        ),
        (
            Role::Broker,
            "[MQTT-3.3.2-14]",
            b"\x08\0\x01#",
            "protocol error in PUBLISH: response topic is no topic name: it contains a wildcard",
        ),
        (
            Role::Broker,
            "[MQTT-4.7.3-1]",
            b"\x08\0\0",
            "protocol error in PUBLISH: response topic is no topic name: it is empty",
        ),
        (
            Role::Broker,
            "section 3.3.2.3.2",
            b"\x01\x02",
            "protocol error in PUBLISH: payload format indicator is 2, not 0 or 1",
        ),
    ] {
        let length = [properties.len() as u8];
        let bytes = frame(0x30, &[b"\0\x01a", &length[..], properties].concat());
        check_refused(role, V5, statement, &bytes, message);
    }
    let message = "malformed PUBLISH: property length is cut";
    check_refused(Role::Client, V5, "section 2.2.2.1", b"\x30\x04\0\x01a\x80", message);
}

#[test]
fn acknowledgements_have_short_forms() {
    type Kind = (u8, fn(Ack) -> Packet);
    const KINDS: [Kind; 4] =
        [(0x40, Packet::PubAck), (0x50, Packet::PubRec), (0x62, Packet::PubRel), (0x70, Packet::PubComp)];
    for (first, kind) in KINDS {
        let failure =
            if first < 0x60 { ReasonCode::QuotaExceeded } else { ReasonCode::PacketIdentifierNotFound };
        for role in [Role::Broker, Role::Client] {
            let success = kind(Ack::new(id(0x0102), ReasonCode::Success));
            check(role, V311, &[first, 2, 1, 2], &success);
            check(role, V5, &[first, 2, 1, 2], &success);
            // Longer forms of the same say the same.
            assert_eq!(decode(role, V5, &[first, 3, 1, 2, 0]), Ok(Some(success.clone())));
            assert_eq!(decode(role, V5, &[first, 4, 1, 2, 0, 0]), Ok(Some(success)));
            check(role, V5, &[first, 3, 1, 2, failure as u8], &kind(Ack::new(id(0x0102), failure)));
            let bytes = [&[first, 15, 1, 2, 0, 11], &b"\x1f\0\x01w\x26\0\x01k\0\x01"[..], b"v"].concat();
            let properties = AckProperties {
                reason_string: Some("w".into()),
                user_properties: vec![("k".into(), "v".into())],
            };
            check(
                role,
                V5,
                &bytes,
                &kind(Ack { properties: properties.into(), ..Ack::new(id(0x0102), ReasonCode::Success) }),
            );
        }
    }
}

#[test]
fn a_wrong_acknowledgement_is_refused() {
    for (version, bytes, message) in [
        (V311, &b"\x40\x02\0\0"[..], "protocol error in PUBACK: packet identifier is 0"),
        (V5, b"\x62\x02\0\0", "protocol error in PUBREL: packet identifier is 0"),
        (V311, b"\x40\x03\0\x01\0", "malformed PUBACK: 1 bytes follow the last field"),
        (V5, b"\x50\x01\0", "malformed PUBREC: packet identifier needs 2 bytes, 1 are left"),
        (V5, b"\x50\0", "malformed PUBREC: packet identifier needs 2 bytes, 0 are left"),
        (V5, b"\x70\x05\0\x01\0\0\0", "malformed PUBCOMP: 1 bytes follow the last field"),
        (
            V5,
            b"\x40\x06\0\x01\0\x02\x01\0",
            "malformed PUBACK: payload format indicator is not allowed in this packet",
        ),
        (V5, b"\x40\x04\0\x01\0\x01", "malformed PUBACK: property section needs 1 bytes, 0 are left"),
    ] {
        check_refused(Role::Broker, version, "sections 3.4 to 3.7", bytes, message);
    }
}

#[test]
fn acknowledgements_carry_only_their_own_reason_codes() {
    // [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-3.6.2-1], [MQTT-3.7.2-1]
    const PUBACK: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
    for (first, allowed) in [(0x40, PUBACK), (0x50, PUBACK), (0x62, &[0, 0x92]), (0x70, &[0, 0x92])] {
        for code in 0..=u8::MAX {
            let decoded = decode(Role::Client, V5, &[first, 3, 0, 1, code]);
            assert_eq!(decoded.is_ok(), allowed.contains(&code), "{first:02x} {code:02x}: {decoded:?}");
        }
    }
}
