//! Table 2-4: which property may be in which packet, and how often.

use super::*;

/// A packet type that carries properties, with the bytes before and behind its section.
struct Carrier {
    name: &'static str,
    role: Role,
    first: u8,
    before: &'static [u8],
    behind: &'static [u8],
}

const fn carrier(
    name: &'static str,
    role: Role,
    first: u8,
    before: &'static [u8],
    behind: &'static [u8],
) -> Carrier {
    Carrier { name, role, first, before, behind }
}

const CARRIERS: [Carrier; 15] = [
    carrier("CONNECT", Role::Broker, 0x10, b"\0\x04MQTT\x05\x02\0\0", b"\0\x01c"),
    carrier("Will", Role::Broker, 0x10, b"\0\x04MQTT\x05\x06\0\0\0\0\x01c", b"\0\x01w\0\0"),
    carrier("CONNACK", Role::Client, 0x20, b"\0\0", b""),
    carrier("PUBLISH to server", Role::Broker, 0x30, b"\0\x01a", b"payload"),
    carrier("PUBLISH to client", Role::Client, 0x30, b"\0\x01a", b"payload"),
    carrier("PUBACK", Role::Broker, 0x40, b"\0\x01\0", b""),
    carrier("PUBREC", Role::Client, 0x50, b"\0\x01\0", b""),
    carrier("PUBREL", Role::Broker, 0x62, b"\0\x01\0", b""),
    carrier("PUBCOMP", Role::Client, 0x70, b"\0\x01\0", b""),
    carrier("SUBSCRIBE", Role::Broker, 0x82, b"\0\x01", b"\0\x01a\0"),
    carrier("SUBACK", Role::Client, 0x90, b"\0\x01", b"\0"),
    carrier("UNSUBSCRIBE", Role::Broker, 0xa2, b"\0\x01", b"\0\x01a"),
    carrier("UNSUBACK", Role::Client, 0xb0, b"\0\x01", b"\0"),
    carrier("DISCONNECT from client", Role::Broker, 0xe0, b"\0", b""),
    carrier("DISCONNECT from server", Role::Client, 0xe0, b"\0", b""),
];

const ACKS: [&str; 6] = ["PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBACK", "UNSUBACK"];
const PUBLISHES: [&str; 2] = ["PUBLISH to server", "PUBLISH to client"];
const DISCONNECTS: [&str; 2] = ["DISCONNECT from client", "DISCONNECT from server"];

/// One property with a valid value, and where it may be (table 2-4).
fn table() -> Vec<(&'static [u8], Vec<&'static str>)> {
    let message = [&PUBLISHES[..], &["Will"]].concat();
    let all = CARRIERS.iter().map(|carrier| carrier.name).collect();
    vec![
        (b"\x01\x01", message.clone()),
        (b"\x02\0\0\0\x01", message.clone()),
        (b"\x03\0\x01t", message.clone()),
        (b"\x08\0\x01r", message.clone()),
        (b"\x09\0\x01d", message),
        (b"\x0b\x01", vec!["PUBLISH to client", "SUBSCRIBE"]),
        (b"\x11\0\0\0\x01", vec!["CONNECT", "CONNACK", "DISCONNECT from client"]),
        (b"\x12\0\x01c", vec!["CONNACK"]),
        (b"\x13\0\x01", vec!["CONNACK"]),
        (b"\x15\0\x01m", vec!["CONNECT", "CONNACK"]),
        (b"\x17\x01", vec!["CONNECT"]),
        (b"\x18\0\0\0\x01", vec!["Will"]),
        (b"\x19\x01", vec!["CONNECT"]),
        (b"\x1a\0\x01r", vec!["CONNACK"]),
        (b"\x1c\0\x01s", [&DISCONNECTS[..], &["CONNACK"]].concat()),
        (b"\x1f\0\x01w", [&ACKS[..], &DISCONNECTS, &["CONNACK"]].concat()),
        (b"\x21\0\x01", vec!["CONNECT", "CONNACK"]),
        (b"\x22\0\x01", vec!["CONNECT", "CONNACK"]),
        (b"\x23\0\x01", PUBLISHES.into()),
        (b"\x24\x01", vec!["CONNACK"]),
        (b"\x25\x01", vec!["CONNACK"]),
        (b"\x26\0\x01k\0\x01v", all),
        (b"\x27\0\0\0\x01", vec!["CONNECT", "CONNACK"]),
        (b"\x28\x01", vec!["CONNACK"]),
        (b"\x29\x01", vec!["CONNACK"]),
        (b"\x2a\x01", vec!["CONNACK"]),
    ]
}

fn decode_with(carrier: &Carrier, properties: &[u8]) -> Result<Option<Packet>, DecodeError> {
    let length = [properties.len() as u8];
    let body = [carrier.before, &length, properties, carrier.behind].concat();
    let version = Some(V5).filter(|_| carrier.first != 0x10);
    decode(carrier.role, version, &frame(carrier.first, &body))
}

#[test]
fn a_property_is_taken_exactly_where_table_2_4_has_it() {
    for (property, places) in table() {
        for carrier in &CARRIERS {
            let decoded = decode_with(carrier, property);
            let allowed = places.contains(&carrier.name);
            assert_eq!(decoded.is_ok(), allowed, "{:#04x} in {}: {decoded:?}", property[0], carrier.name);
        }
    }
}

#[test]
fn only_user_properties_and_a_servers_subscription_identifiers_may_repeat() {
    for (property, places) in table() {
        for carrier in CARRIERS.iter().filter(|carrier| places.contains(&carrier.name)) {
            let twice = [property, property].concat();
            let repeatable =
                property[0] == 0x26 || property[0] == 0x0b && carrier.name == "PUBLISH to client";
            match decode_with(carrier, &twice) {
                Ok(_) => assert!(repeatable, "{:#04x} twice in {}", property[0], carrier.name),
                Err(error) => {
                    assert!(!repeatable, "{:#04x} twice in {}", property[0], carrier.name);
                    // Section 2.2.2.2 and each property's own
                    assert_eq!(error.reason(), ReasonCode::ProtocolError);
                    assert!(error.to_string().ends_with("is sent more than once"), "{error}");
                }
            }
        }
    }
}

#[test]
fn authentication_data_goes_with_a_method() {
    // Sections 3.1.2.11.10 and 3.2.2.3.18
    for carrier in &CARRIERS {
        let allowed = ["CONNECT", "CONNACK"].contains(&carrier.name);
        assert_eq!(decode_with(carrier, b"\x15\0\x01m\x16\0\x01d").is_ok(), allowed, "{}", carrier.name);
        assert!(decode_with(carrier, b"\x16\0\x01d").is_err(), "{}", carrier.name);
    }
}

#[test]
fn an_unknown_property_is_malformed_everywhere() {
    let known: Vec<u8> = table().iter().map(|(property, _)| property[0]).chain([0x16]).collect();
    for carrier in &CARRIERS {
        for unknown in (0..0x80).filter(|id| !known.contains(id)) {
            let error = decode_with(carrier, &[unknown, 0, 0, 0, 0]).unwrap_err();
            assert_eq!(error.reason(), ReasonCode::MalformedPacket, "{error}");
        }
    }
}
