//! DISCONNECT and AUTH.

use super::*;
use crate::{Auth, Disconnect, DisconnectProperties};

fn disconnect(reason: ReasonCode) -> Packet {
    Packet::Disconnect(Disconnect { reason, properties: Default::default() })
}

fn auth(reason: ReasonCode, method: Option<&'static str>) -> Packet {
    Packet::Auth(Box::new(Auth {
        reason,
        authentication_method: method.map(Into::into),
        authentication_data: None,
        reason_string: None,
        user_properties: Vec::new(),
    }))
}

#[test]
fn a_disconnect_has_short_forms() {
    let normal = disconnect(ReasonCode::Success);
    check(Role::Broker, V311, b"\xe0\0", &normal);
    check(Role::Broker, V5, b"\xe0\0", &normal);
    check(Role::Broker, V5, b"\xe0\x01\x04", &disconnect(ReasonCode::DisconnectWithWill));
    check(Role::Client, V5, b"\xe0\x01\x8e", &disconnect(ReasonCode::SessionTakenOver));
    assert_eq!(decode(Role::Broker, V5, b"\xe0\x01\0"), Ok(Some(normal.clone())));
    assert_eq!(decode(Role::Broker, V5, b"\xe0\x02\0\0"), Ok(Some(normal)));
    let properties =
        DisconnectProperties { session_expiry_interval_s: Some(9), ..DisconnectProperties::default() };
    let packet =
        Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties: properties.into() });
    check(Role::Broker, V5, b"\xe0\x07\0\x05\x11\0\0\0\x09", &packet);
}

#[test]
fn a_wrong_disconnect_is_refused() {
    for (role, version, statement, bytes, message) in [
        (
            Role::Broker,
            V311,
            "section 3.14 of 3.1.1",
            &b"\xe0\x01\0"[..],
            "malformed DISCONNECT: 1 bytes follow the last field",
        ),
        (
            Role::Client,
            V5,
            "[MQTT-3.14.2-2]",
            b"\xe0\x07\0\x05\x11\0\0\0\x09",
            "protocol error in DISCONNECT: session expiry interval is sent by a server",
        ),
        (
            Role::Client,
            V5,
            "[MQTT-3.14.2-1]",
            b"\xe0\x01\x04",
            "malformed DISCONNECT: reason code 0x04 is not one of this packet",
        ),
        (
            Role::Broker,
            V5,
            "section 3.14.2.2",
            b"\xe0\x03\0\0\0",
            "malformed DISCONNECT: 1 bytes follow the last field",
        ),
    ] {
        check_refused(role, version, statement, bytes, message);
    }
    // [MQTT-3.14.2-1], table 3-10
    let client = [0, 4, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];
    let server = [
        0, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8c, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94, 0x95, 0x96,
        0x97, 0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2,
    ];
    for code in 0..=u8::MAX {
        let bytes = [0xe0, 1, code];
        assert_eq!(decode(Role::Broker, V5, &bytes).is_ok(), client.contains(&code), "{code:#04x}");
        assert_eq!(decode(Role::Client, V5, &bytes).is_ok(), server.contains(&code), "{code:#04x}");
    }
}

#[test]
fn an_auth_is_read_by_side() {
    // [MQTT-3.15.2-1], table 3-11
    for (code, from_client, from_server) in
        [(0, false, true), (0x18, true, true), (0x19, true, false), (0x87, false, false), (1, false, false)]
    {
        let bytes = [&[0xf0, 6, code, 4][..], b"\x15\0\x01m"].concat();
        assert_eq!(decode(Role::Broker, V5, &bytes).is_ok(), from_client, "{code:#04x}");
        assert_eq!(decode(Role::Client, V5, &bytes).is_ok(), from_server, "{code:#04x}");
    }
    let packet = auth(ReasonCode::ContinueAuthentication, Some("m"));
    check(Role::Broker, V5, b"\xf0\x06\x18\x04\x15\0\x01m", &packet);
    // Section 3.15.2.1: success without properties may be left out as a whole.
    check(Role::Client, V5, b"\xf0\0", &auth(ReasonCode::Success, None));
}

#[test]
fn a_wrong_auth_is_refused() {
    for (role, bytes, message) in [
        (
            Role::Broker,
            &b"\xf0\0"[..],
            "protocol error in AUTH: reason code 0x00 may not be sent by this side",
        ),
        (Role::Broker, b"\xf0\x02\x18\0", "protocol error in AUTH: authentication method is missing"),
        (
            Role::Client,
            b"\xf0\x06\0\x04\x16\0\x01d",
            "protocol error in AUTH: authentication method is missing",
        ),
        (Role::Client, b"\xf0\x01\x18", "malformed AUTH: property length is cut"),
        (Role::Client, b"\xf0\x03\0\0\0", "malformed AUTH: 1 bytes follow the last field"),
    ] {
        check_refused(role, V5, "section 3.15", bytes, message);
    }
}
