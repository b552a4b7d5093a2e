//! CONNECT packets that break the standard: the right reason code in 5.0, only a close in 3.1.1.

use protocol::ProtocolVersion::{self, V5, V311};

use crate::broker_process::Broker;
use crate::raw_client::RawClient;

const MALFORMED: u8 = 0x81;
const PROTOCOL_ERROR: u8 = 0x82;
const TOPIC_NAME_INVALID: u8 = 0x90;

/// A CONNECT from its parts; the remaining length is right.
fn connect(name: &[u8], level: u8, flags: u8, properties: Option<&[u8]>, payload: &[u8]) -> Vec<u8> {
    let mut body = vec![0, name.len() as u8];
    body.extend(name);
    body.extend([level, flags, 0, 0]);
    if let Some(properties) = properties {
        body.push(properties.len() as u8);
        body.extend(properties);
    }
    body.extend(payload);
    let mut packet = vec![0x10, body.len() as u8];
    packet.extend(body);
    packet
}

fn v5(flags: u8, properties: &[u8], payload: &[u8]) -> Vec<u8> {
    connect(b"MQTT", 5, flags, Some(properties), payload)
}

fn v311(flags: u8, payload: &[u8]) -> Vec<u8> {
    connect(b"MQTT", 4, flags, None, payload)
}

/// Sends the bytes as a connection's first and returns the answer up to the close.
fn answer(broker: &Broker, version: ProtocolVersion, bytes: &[u8]) -> Vec<u8> {
    let mut client = RawClient::open(broker.address(), version);
    client.send_bytes_to_closing(bytes);
    client.bytes_until_closed()
}

#[test]
fn an_unknown_protocol_name_or_level_is_refused() {
    let broker = Broker::start();
    let mut bystander = broker.client("bystander", V5);
    for (name, level) in [
        (&b"MQTT"[..], 3),
        (b"MQTT", 6),
        (b"MQTT", 0),
        (b"MQTT", 0x84),
        (b"MQIsdp", 3),
        (b"mqtt", 4),
        (b"", 4),
    ] {
        let properties = (level > 4).then_some(&b""[..]);
        let got = answer(&broker, V5, &connect(name, level, 2, properties, b"\x00\x01c"));
        // [MQTT-3.1.2-1] [MQTT-3.1.2-2]: 0x84 may be sent; [MQTT-3.1.2-2] (3.1.1): return code 0x01.
        let refused = matches!(got[..], [] | [0x20, 2, 0, 1] | [0x20, _, 0, 0x84, ..]);
        assert!(refused, "{name:?} level {level}: {got:02x?}");
    }
    bystander.expect_no_message();
}

#[test]
fn an_unknown_level_of_mqtt_is_told_so() {
    let broker = Broker::start();
    let got = answer(&broker, V311, &connect(b"MQTT", 3, 2, None, b"\x00\x01c"));
    // [MQTT-3.1.2-2] (3.1.1): it MUST be answered with 0x01.
    assert_eq!(got, [0x20, 2, 0, 1], "level 3");
    let got = answer(&broker, V5, &connect(b"MQTT", 6, 2, Some(b""), b"\x00\x01c"));
    assert!(matches!(got[..], [0x20, 2, 0, 1] | [0x20, _, 0, 0x84, ..]), "level 6: {got:02x?}");
}

#[test]
fn a_broken_connect_is_refused_with_its_reason_in_v5() {
    let broker = Broker::start();
    let mut bystander = broker.client("bystander", V5);
    // Client id "c", no will properties, this topic, payload "p".
    let will = |topic: &[u8]| [b"\x00\x01c\x00\x00", &[topic.len() as u8][..], topic, b"\x00\x01p"].concat();
    let table: Vec<(&str, Vec<u8>, &[u8])> = vec![
        ("reserved flag set [MQTT-3.1.2-3]", v5(0x03, b"", b"\x00\x01c"), &[MALFORMED]),
        ("will QoS 3 [MQTT-3.1.2-12]", v5(0x1e, b"", &will(b"t")), &[MALFORMED]),
        ("will QoS without will [MQTT-3.1.2-11]", v5(0x0a, b"", b"\x00\x01c"), &[MALFORMED]),
        ("will retain without will [MQTT-3.1.2-13]", v5(0x22, b"", b"\x00\x01c"), &[MALFORMED]),
        ("client id not UTF-8 [MQTT-1.5.4-1]", v5(0x02, b"", b"\x00\x02\xc3\x28"), &[MALFORMED]),
        ("client id with a surrogate [MQTT-1.5.4-1]", v5(0x02, b"", b"\x00\x03\xed\xa0\x80"), &[MALFORMED]),
        ("client id with U+0000 [MQTT-1.5.4-2]", v5(0x02, b"", b"\x00\x01\x00"), &[MALFORMED]),
        ("client id longer than the packet", v5(0x02, b"", b"\x00\x09c"), &[MALFORMED]),
        ("no client id [MQTT-3.1.3-3]", v5(0x02, b"", b""), &[MALFORMED]),
        ("bytes after the payload", v5(0x02, b"", b"\x00\x01cxx"), &[MALFORMED]),
        ("user name announced and missing [MQTT-3.1.2-17]", v5(0x82, b"", b"\x00\x01c"), &[MALFORMED]),
        ("unknown property", v5(0x02, b"\x7f\x00", b"\x00\x01c"), &[MALFORMED]),
        ("property of another packet", v5(0x02, b"\x23\x00\x01", b"\x00\x01c"), &[MALFORMED, PROTOCOL_ERROR]),
        ("property cut", v5(0x02, b"\x11\x00", b"\x00\x01c"), &[MALFORMED]),
        ("receive maximum 0", v5(0x02, b"\x21\x00\x00", b"\x00\x01c"), &[PROTOCOL_ERROR]),
        ("maximum packet size 0", v5(0x02, b"\x27\x00\x00\x00\x00", b"\x00\x01c"), &[PROTOCOL_ERROR]),
        ("request problem information 2", v5(0x02, b"\x17\x02", b"\x00\x01c"), &[PROTOCOL_ERROR]),
        ("request response information 2", v5(0x02, b"\x19\x02", b"\x00\x01c"), &[PROTOCOL_ERROR]),
        (
            "session expiry twice",
            v5(0x02, b"\x11\x00\x00\x00\x01\x11\x00\x00\x00\x01", b"\x00\x01c"),
            &[PROTOCOL_ERROR],
        ),
        ("authentication data without method", v5(0x02, b"\x16\x00\x01x", b"\x00\x01c"), &[PROTOCOL_ERROR]),
        (
            "will topic with a wildcard [MQTT-4.7.0-1]",
            v5(0x06, b"", &will(b"a/#")),
            &[MALFORMED, PROTOCOL_ERROR, TOPIC_NAME_INVALID],
        ),
    ];
    for (what, bytes, reasons) in table {
        let got = answer(&broker, V5, &bytes);
        assert!(
            matches!(got[..], [0x20, _, 0, reason, ..] if reasons.contains(&reason)),
            "{what}: expected CONNACK {reasons:02x?}, got {got:02x?}"
        );
        bystander.expect_no_message();
    }
}

#[test]
fn a_broken_connect_is_only_closed_in_v311() {
    let broker = Broker::start();
    let mut bystander = broker.client("bystander", V311);
    let table: [(&str, Vec<u8>); 9] = [
        ("reserved flag set, [MQTT-3.1.2-3] (3.1.1)", v311(0x03, b"\x00\x01c")),
        ("will QoS 3, [MQTT-3.1.2-14] (3.1.1)", v311(0x1e, b"\x00\x01c\x00\x01t\x00\x01p")),
        ("will QoS without will, [MQTT-3.1.2-13] (3.1.1)", v311(0x0a, b"\x00\x01c")),
        ("will retain without will, [MQTT-3.1.2-15] (3.1.1)", v311(0x22, b"\x00\x01c")),
        ("password without user name, [MQTT-3.1.2-22] (3.1.1)", v311(0x42, b"\x00\x01c\x00\x01p")),
        ("client id not UTF-8, [MQTT-1.5.3-1] (3.1.1)", v311(0x02, b"\x00\x02\xc3\x28")),
        ("client id with U+0000, [MQTT-1.5.3-2] (3.1.1)", v311(0x02, b"\x00\x01\x00")),
        ("no client id, [MQTT-3.1.3-3] (3.1.1)", v311(0x02, b"")),
        ("bytes after the payload", v311(0x02, b"\x00\x01cxx")),
    ];
    for (what, bytes) in table {
        let got = answer(&broker, V311, &bytes);
        assert!(got.is_empty(), "{what}: expected a close alone, got {got:02x?}");
        bystander.expect_no_message();
    }
}

#[test]
fn a_connect_over_the_packet_limit_is_refused() {
    let broker = Broker::start_configured("[mqtt]\npacket_bytes_max = 256\n");
    // Only the fixed header: the broker must not wait for what it will not take.
    let got = answer(&broker, V5, b"\x10\xff\xff\xff\x7f");
    assert!(matches!(got[..], [] | [0x20, _, 0, 0x95, ..]), "{got:02x?}");
    let long_id = [&[0x01, 0x2c][..], &[b'x'; 300]].concat();
    let mut body = b"\x00\x04MQTT\x05\x02\x00\x00\x00".to_vec();
    body.extend(long_id);
    let packet = [&[0x10, 0x80 | (body.len() % 128) as u8, (body.len() / 128) as u8][..], &body].concat();
    let got = answer(&broker, V5, &packet);
    assert!(matches!(got[..], [] | [0x20, _, 0, 0x95, ..]), "{got:02x?}");
}

#[test]
fn a_cut_connect_disturbs_nobody() {
    let broker = Broker::start();
    let mut bystander = broker.client("bystander", V5);
    let whole = v5(0x06, b"\x11\x00\x00\x00\x0a", b"\x00\x01c\x00\x00\x01t\x00\x01p");
    for length in 0..whole.len() {
        let mut client = RawClient::open(broker.address(), V5);
        client.send_bytes(&whole[..length]);
        client.end_writing();
        let got = client.bytes_until_closed();
        assert_eq!(got, b"", "the answer to the first {length} bytes of a CONNECT");
    }
    bystander.expect_no_message();
}

#[test]
fn a_connect_in_single_bytes_is_the_same_as_in_one() {
    let broker = Broker::start();
    for bytes in [v5(0x02, b"", b"\x00\x05bytes"), v311(0x02, b"\x00\x05bytes")] {
        let mut client = RawClient::open(broker.address(), V5);
        for byte in bytes {
            client.send_bytes(&[byte]);
        }
        client.send_bytes(b"\xe0\x00");
        let got = client.bytes_until_closed();
        assert!(matches!(got[..], [0x20, _, 0, 0, ..]), "{got:02x?}");
    }
}
