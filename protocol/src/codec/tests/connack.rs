//! CONNACK.

use super::*;
use crate::{ConnAck, ConnAckProperties, QoS};

fn connack(session_present: bool, reason: ReasonCode) -> Packet {
    Packet::ConnAck(Box::new(ConnAck { session_present, reason, properties: ConnAckProperties::default() }))
}

#[test]
fn return_codes_of_3_1_1_are_read_as_reasons() {
    for (code, reason) in [
        (0, ReasonCode::Success),
        (1, ReasonCode::UnsupportedProtocolVersion),
        (2, ReasonCode::ClientIdentifierNotValid),
        (3, ReasonCode::ServerUnavailable),
        (4, ReasonCode::BadUserNameOrPassword),
        (5, ReasonCode::NotAuthorized),
    ] {
        check(Role::Client, V311, &[0x20, 2, 0, code], &connack(false, reason));
    }
    check(Role::Client, V311, &[0x20, 2, 1, 0], &connack(true, ReasonCode::Success));
}

#[test]
fn reasons_are_written_as_the_nearest_return_code_of_3_1_1() {
    for (reason, code) in [
        (ReasonCode::UnsupportedProtocolVersion, 1),
        (ReasonCode::ClientIdentifierNotValid, 2),
        (ReasonCode::ServerUnavailable, 3),
        (ReasonCode::ServerBusy, 3),
        (ReasonCode::QuotaExceeded, 3),
        (ReasonCode::ConnectionRateExceeded, 3),
        (ReasonCode::UnspecifiedError, 3),
        (ReasonCode::BadUserNameOrPassword, 4),
        (ReasonCode::BadAuthenticationMethod, 4),
        (ReasonCode::NotAuthorized, 5),
        (ReasonCode::Banned, 5),
    ] {
        let mut out = BytesMut::new();
        super::super::encode(&connack(false, reason), V311, &mut out).unwrap();
        assert_eq!(&out[..], [0x20, 2, 0, code], "{reason:?}");
    }
}

#[test]
fn a_connack_of_5_0_is_read_field_by_field() {
    check(Role::Client, V5, b"\x20\x03\x01\0\0", &connack(true, ReasonCode::Success));
    check(Role::Client, V5, b"\x20\x03\0\x9f\0", &connack(false, ReasonCode::ConnectionRateExceeded));
    let properties = ConnAckProperties {
        maximum_qos: Some(QoS::AtLeastOnce),
        retain_available: Some(false),
        assigned_client_id: Some("x".into()),
        server_keep_alive_s: Some(30),
        ..ConnAckProperties::default()
    };
    let connack = ConnAck { session_present: false, reason: ReasonCode::Success, properties };
    let bytes = b"\x20\x0e\0\0\x0b\x24\x01\x25\0\x12\0\x01x\x13\0\x1e";
    check(Role::Client, V5, bytes, &Packet::ConnAck(Box::new(connack)));
}

#[test]
fn a_broker_that_knows_only_3_1_1_is_understood_by_a_5_0_client() {
    let answer = decode(Role::Client, V5, &[0x20, 2, 0, 1]);
    assert_eq!(answer, Ok(Some(connack(false, ReasonCode::UnsupportedProtocolVersion))));
}

#[test]
fn a_wrong_connack_is_refused() {
    for (version, statement, bytes, message) in [
        (
            V311,
            "[MQTT-3.2.2-1] (3.1.1)",
            &b"\x20\x02\x02\0"[..],
            "malformed CONNACK: reserved acknowledge flags are set in 0x02",
        ),
        (
            V5,
            "[MQTT-3.2.2-1]",
            b"\x20\x03\x80\0\0",
            "malformed CONNACK: reserved acknowledge flags are set in 0x80",
        ),
        (
            V311,
            "[MQTT-3.2.2-4] (3.1.1)",
            b"\x20\x02\x01\x05",
            "protocol error in CONNACK: session present with reason code 0x87",
        ),
        (
            V5,
            "[MQTT-3.2.2-6]",
            b"\x20\x03\x01\x87\0",
            "protocol error in CONNACK: session present with reason code 0x87",
        ),
        (V311, "table 3.1", b"\x20\x02\0\x06", "malformed CONNACK: return code 6 is reserved"),
        (V311, "section 3.2", b"\x20\x03\0\0\0", "malformed CONNACK: 1 bytes follow the last field"),
        (V5, "section 3.2.2.3", b"\x20\x02\0\0", "malformed CONNACK: property length is cut"),
        (
            V5,
            "section 3.2.2.3.3",
            b"\x20\x06\0\0\x03\x21\0\0",
            "protocol error in CONNACK: receive maximum is 0",
        ),
        (
            V5,
            "section 3.2.2.3.4",
            b"\x20\x05\0\0\x02\x24\x02",
            "protocol error in CONNACK: maximum qos is 2, not 0 or 1",
        ),
        (
            V5,
            "section 3.2.2.3.6",
            b"\x20\x08\0\0\x05\x27\0\0\0\0",
            "protocol error in CONNACK: maximum packet size is 0",
        ),
        (V5, "section 3.2.2.3", b"\x20\x04\0\0\0\0", "malformed CONNACK: 1 bytes follow the last field"),
    ] {
        check_refused(Role::Client, version, statement, bytes, message);
    }
    // [MQTT-3.2.2-8], table 3-1
    let allowed = [
        0, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97, 0x99,
        0x9a, 0x9b, 0x9c, 0x9d, 0x9f,
    ];
    for code in 0..=u8::MAX {
        let decoded = decode(Role::Client, V5, &[0x20, 3, 0, code, 0]);
        assert_eq!(decoded.is_ok(), allowed.contains(&code), "{code:#04x}: {decoded:?}");
    }
}
