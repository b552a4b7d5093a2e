//! The fixed header, the order of packets, and packets in parts.

use super::*;

const CONNECT: &[u8] = b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0";

#[test]
fn fixed_header_flags_must_be_the_tables() {
    // [MQTT-2.1.3-1], [MQTT-2.2.2-1] (3.1.1), [MQTT-2.2.2-2] (3.1.1), table 2-2
    for (role, first, name, flags) in [
        (Role::Client, 0x20, "CONNACK", 0),
        (Role::Broker, 0x40, "PUBACK", 0),
        (Role::Broker, 0x50, "PUBREC", 0),
        (Role::Broker, 0x60, "PUBREL", 2),
        (Role::Broker, 0x70, "PUBCOMP", 0),
        (Role::Broker, 0x80, "SUBSCRIBE", 2),
        (Role::Client, 0x90, "SUBACK", 0),
        (Role::Broker, 0xa0, "UNSUBSCRIBE", 2),
        (Role::Client, 0xb0, "UNSUBACK", 0),
        (Role::Broker, 0xc0, "PINGREQ", 0),
        (Role::Client, 0xd0, "PINGRESP", 0),
        (Role::Broker, 0xe0, "DISCONNECT", 0),
        (Role::Broker, 0xf0, "AUTH", 0),
    ] {
        for wrong in (0..16).filter(|&wrong| wrong != flags) {
            // The first byte is enough to know.
            check_refused(
                role,
                V5,
                "[MQTT-2.1.3-1]",
                &[first | wrong],
                &format!("malformed {name}: fixed header flags are {wrong:#03x} and must be {flags:#03x}"),
            );
        }
        assert_eq!(decode(role, V5, &[first | flags]), Ok(None));
    }
    let message = "malformed CONNECT: fixed header flags are 0x1 and must be 0x0";
    check_refused(Role::Broker, None, "[MQTT-2.1.3-1]", &[0x11], message);
}

#[test]
fn packet_type_0_is_reserved() {
    let message = "malformed packet: packet type 0 is reserved (first byte 0x00)";
    check_refused(Role::Broker, V5, "table 2-1", &[0], message);
    check_refused(Role::Broker, None, "table 2-1", &[0], message);
    check_refused(Role::Client, V311, "table 2-1", &[0], message);
}

#[test]
fn a_side_takes_only_what_the_other_may_send() {
    const BOTH: [u8; 5] = [0x30, 0x40, 0x50, 0x62, 0x70];
    const FROM_CLIENT: [u8; 4] = [0x82, 0xa2, 0xc0, 0xe0];
    const FROM_SERVER: [u8; 4] = [0x20, 0x90, 0xb0, 0xd0];
    for version in [V311, V5] {
        for first in BOTH {
            assert_eq!(decode(Role::Broker, version, &[first]), Ok(None));
            assert_eq!(decode(Role::Client, version, &[first]), Ok(None));
        }
        for first in FROM_CLIENT {
            assert_eq!(decode(Role::Broker, version, &[first]), Ok(None));
            if (version, first) != (V5, 0xe0) {
                let error = decode(Role::Client, version, &[first]).unwrap_err();
                assert_eq!(error.reason(), ReasonCode::ProtocolError, "{error}");
                assert!(error.to_string().ends_with("a server may not send it"), "{error}");
            }
        }
        for first in FROM_SERVER {
            assert_eq!(decode(Role::Client, version, &[first]), Ok(None));
            let error = decode(Role::Broker, version, &[first]).unwrap_err();
            assert_eq!(error.reason(), ReasonCode::ProtocolError, "{error}");
            assert!(error.to_string().ends_with("a client may not send it"), "{error}");
        }
    }
    // Section 3.14: a 5.0 server may say why it ends the connection.
    assert_eq!(decode(Role::Client, V5, &[0xe0]), Ok(None));
    for role in [Role::Broker, Role::Client] {
        assert_eq!(decode(role, V5, &[0xf0]), Ok(None));
        check_refused(role, V311, "table 2.1 of 3.1.1", &[0xf0], "protocol error in AUTH: 3.1.1 has no AUTH");
    }
    let message = "protocol error in CONNECT: a server may not send it";
    check_refused(Role::Client, V5, "section 3.1", &[0x10], message);
}

#[test]
fn the_first_packet_is_connect_and_no_later_one_is() {
    for first in [0x30, 0x40, 0x62, 0x82, 0xa2, 0xc0, 0xe0, 0xf0, 0x20] {
        let error = decode(Role::Broker, None, &[first]).unwrap_err();
        // [MQTT-3.1.0-1]
        assert_eq!(error.reason(), ReasonCode::ProtocolError, "{error}");
        assert!(error.to_string().ends_with("the first packet must be CONNECT"), "{error}");
    }
    let mut decoder = Decoder::new(Role::Broker, None, LIMIT);
    let mut bytes = BytesMut::from(&[CONNECT, CONNECT].concat()[..]);
    assert!(matches!(decoder.decode(&mut bytes), Ok(Some(Packet::Connect(_)))));
    assert_eq!(decoder.version(), Some(V311));
    // [MQTT-3.1.0-2]
    let error = decoder.decode(&mut bytes).unwrap_err();
    assert_eq!(error.to_string(), "protocol error in CONNECT: a second CONNECT on one connection");
}

#[test]
fn a_failed_decoder_stays_failed_with_the_same_error() {
    let mut decoder = Decoder::new(Role::Broker, Some(V5), LIMIT);
    let mut bytes = BytesMut::from(&b"\x40\x02\0\0\xc0\0"[..]);
    let error = decoder.decode(&mut bytes).unwrap_err();
    assert_eq!(error.to_string(), "protocol error in PUBACK: packet identifier is 0");
    assert_eq!(decoder.decode(&mut bytes), Err(error.clone()));
    assert_eq!(decoder.decode(&mut BytesMut::from(&b"\xc0\0"[..])), Err(error));
}

#[test]
fn remaining_length_has_at_most_four_bytes_and_in_5_0_the_fewest() {
    // Section 2.1.4
    let message = "malformed PUBLISH: remaining length is encoded in more than 4 bytes";
    for version in [V311, V5] {
        let bytes = [0x30, 0x80, 0x80, 0x80, 0x80];
        check_refused(Role::Broker, version, "section 2.1.4", &bytes, message);
        assert_eq!(decode(Role::Broker, version, &bytes[..4]), Ok(None));
    }
    // [MQTT-1.5.5-1]
    for (length, shown) in [(&[0x80, 0][..], 2), (&[0x80, 0x80, 0], 3), (&[0x80, 0x80, 0x80, 0], 4)] {
        let bytes = [&[0xc0], length].concat();
        let message =
            format!("malformed PINGREQ: remaining length 0 is encoded in {shown} bytes, more than it needs");
        check_refused(Role::Broker, V5, "[MQTT-1.5.5-1]", &bytes, &message);
        assert_eq!(decode(Role::Broker, V311, &bytes), Ok(Some(Packet::PingReq)));
    }
    let connect = b"\x10\x8d\0\0\x04MQTT\x05\x02\0\x3c\0\0\0";
    let message = "malformed CONNECT: remaining length 13 is encoded in 2 bytes, more than it needs";
    check_refused(Role::Broker, None, "[MQTT-1.5.5-1]", connect, message);
    let connect = [&[0x10, 0x8c, 0], &CONNECT[2..]].concat();
    assert!(matches!(decode(Role::Broker, None, &connect), Ok(Some(Packet::Connect(_)))));
}

#[test]
fn a_packet_over_the_limit_is_refused_by_its_header() {
    for (limit, header, bytes) in [
        (1, &[0xc0, 0][..], 2),
        (127, &[0x30, 126][..], 128),
        (200, &[0x30, 0xc6, 0x01], 201),
        (u32::MAX >> 4, &[0x30, 0xff, 0xff, 0xff, 0x7f], 268_435_460),
    ] {
        let mut decoder = Decoder::new(Role::Broker, Some(V5), limit);
        let mut buffer = BytesMut::from(header);
        let capacity = buffer.capacity();
        let error = decoder.decode(&mut buffer).unwrap_err();
        assert_eq!(error, DecodeError::PacketTooLarge { bytes, limit });
        assert_eq!(error.reason(), ReasonCode::PacketTooLarge);

        // At the limit it is waited for, without room made for what may never come.
        let mut decoder = Decoder::new(Role::Broker, Some(V5), bytes as u32);
        let mut buffer = BytesMut::from(header);
        assert!(matches!(decoder.decode(&mut buffer), Ok(None | Some(Packet::PingReq))));
        assert!(buffer.capacity() <= capacity);
    }
}

#[test]
fn pings_have_no_body() {
    check(Role::Broker, V5, b"\xc0\0", &Packet::PingReq);
    check(Role::Client, V311, b"\xd0\0", &Packet::PingResp);
    let message = "malformed PINGREQ: 1 bytes follow the last field";
    check_refused(Role::Broker, V311, "section 3.12", b"\xc0\x01\0", message);
    let message = "malformed PINGRESP: 1 bytes follow the last field";
    check_refused(Role::Client, V5, "section 3.13", b"\xd0\x01\0", message);
}
