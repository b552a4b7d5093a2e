//! Packets that break the standard on a connection that is in: the right reason code in 5.0, only a close in
//! 3.1.1, and nobody else disturbed.

use protocol::ProtocolVersion::{self, V5, V311};
use protocol::{Packet, QoS};

use crate::broker_process::Broker;
use crate::raw_client::{BOTH, Next, PATIENCE, RawClient, durable_connect, message, will};

const MALFORMED: u8 = 0x81;
const PROTOCOL_ERROR: u8 = 0x82;
const TOPIC_NAME_INVALID: u8 = 0x90;
const TOPIC_ALIAS_INVALID: u8 = 0x94;
const PACKET_TOO_LARGE: u8 = 0x95;

/// What a packet breaks, its bytes in 5.0, and the reasons the standard gives for it.
type Case = (&'static str, &'static [u8], &'static [u8]);

const PUBLISH: &[Case] = &[
    ("QoS 3 [MQTT-3.3.1-4]", b"\x36\x07\x00\x01a\x00\x01\x00x", &[MALFORMED]),
    ("DUP at QoS 0 [MQTT-3.3.1-2]", b"\x38\x05\x00\x01a\x00x", &[MALFORMED, PROTOCOL_ERROR]),
    ("packet id 0 [MQTT-2.2.1-3]", b"\x32\x07\x00\x01a\x00\x00\x00x", &[MALFORMED, PROTOCOL_ERROR]),
    (
        "wildcard + in the topic [MQTT-3.3.2-2]",
        b"\x30\x07\x00\x03a/+\x00x",
        &[MALFORMED, PROTOCOL_ERROR, TOPIC_NAME_INVALID],
    ),
    (
        "wildcard # in the topic [MQTT-3.3.2-2]",
        b"\x30\x07\x00\x03a/#\x00x",
        &[MALFORMED, PROTOCOL_ERROR, TOPIC_NAME_INVALID],
    ),
    ("topic not UTF-8 [MQTT-1.5.4-1]", b"\x30\x06\x00\x02\xc3\x28\x00x", &[MALFORMED]),
    ("topic with U+0000 [MQTT-1.5.4-2]", b"\x30\x06\x00\x02a\x00\x00x", &[MALFORMED, TOPIC_NAME_INVALID]),
    ("no topic and no alias", b"\x30\x04\x00\x00\x00x", &[PROTOCOL_ERROR]),
    ("topic longer than the packet", b"\x30\x05\x00\x09a\x00x", &[MALFORMED]),
    ("properties longer than the packet", b"\x30\x05\x00\x01a\x09x", &[MALFORMED]),
    ("topic alias 0 [MQTT-3.3.2-8]", b"\x30\x08\x00\x01a\x03\x23\x00\x00x", &[TOPIC_ALIAS_INVALID]),
    (
        "topic alias over the limit [MQTT-3.3.2-9]",
        b"\x30\x08\x00\x01a\x03\x23\xff\xffx",
        &[TOPIC_ALIAS_INVALID],
    ),
    ("topic alias never introduced", b"\x30\x07\x00\x00\x03\x23\x00\x01x", &[PROTOCOL_ERROR]),
    (
        "subscription identifier from a client [MQTT-3.3.4-6]",
        b"\x30\x07\x00\x01a\x02\x0b\x01x",
        &[MALFORMED, PROTOCOL_ERROR],
    ),
    (
        "property of another packet",
        b"\x30\x0a\x00\x01a\x05\x11\x00\x00\x00\x01x",
        &[MALFORMED, PROTOCOL_ERROR],
    ),
    ("payload format twice", b"\x30\x09\x00\x01a\x04\x01\x00\x01\x00x", &[PROTOCOL_ERROR]),
    ("payload format 2", b"\x30\x07\x00\x01a\x02\x01\x02x", &[MALFORMED, PROTOCOL_ERROR]),
    (
        "response topic with a wildcard [MQTT-3.3.2-14]",
        b"\x30\x09\x00\x01a\x04\x08\x00\x01#x",
        &[MALFORMED, PROTOCOL_ERROR, TOPIC_NAME_INVALID],
    ),
    ("over the packet limit [MQTT-3.2.2-15]", b"\x30\xff\xff\xff\x7f\x00\x01a", &[PACKET_TOO_LARGE]),
];

const OTHERS: &[Case] = &[
    ("packet type 0", b"\x00\x00", &[MALFORMED, PROTOCOL_ERROR]),
    ("remaining length of five bytes", b"\xc0\x80\x80\x80\x80\x01", &[MALFORMED]),
    ("PINGREQ with flags [MQTT-2.1.3-1]", b"\xc1\x00", &[MALFORMED]),
    ("PINGREQ with a body", b"\xc0\x01\x00", &[MALFORMED]),
    ("CONNACK from a client", b"\x20\x03\x00\x00\x00", &[PROTOCOL_ERROR, MALFORMED]),
    ("SUBACK from a client", b"\x90\x04\x00\x01\x00\x00", &[PROTOCOL_ERROR, MALFORMED]),
    ("UNSUBACK from a client", b"\xb0\x04\x00\x01\x00\x00", &[PROTOCOL_ERROR, MALFORMED]),
    ("PINGRESP from a client", b"\xd0\x00", &[PROTOCOL_ERROR, MALFORMED]),
    ("AUTH without a method in CONNECT", b"\xf0\x00", &[PROTOCOL_ERROR]),
    ("PUBACK without packet id", b"\x40\x00", &[MALFORMED]),
    ("PUBACK with packet id 0", b"\x40\x02\x00\x00", &[MALFORMED, PROTOCOL_ERROR]),
    ("PUBREL with flags 0 [MQTT-3.6.1-1]", b"\x60\x02\x00\x01", &[MALFORMED]),
    ("SUBSCRIBE with flags 0 [MQTT-3.8.1-1]", b"\x80\x07\x00\x01\x00\x00\x01a\x00", &[MALFORMED]),
    ("SUBSCRIBE to nothing [MQTT-3.8.3-2]", b"\x82\x03\x00\x01\x00", &[PROTOCOL_ERROR, MALFORMED]),
    (
        "SUBSCRIBE with packet id 0 [MQTT-2.2.1-3]",
        b"\x82\x07\x00\x00\x00\x00\x01a\x00",
        &[MALFORMED, PROTOCOL_ERROR],
    ),
    ("SUBSCRIBE without options", b"\x82\x06\x00\x01\x00\x00\x01a", &[MALFORMED]),
    ("SUBSCRIBE with reserved options [MQTT-3.8.3-5]", b"\x82\x07\x00\x01\x00\x00\x01a\x40", &[MALFORMED]),
    ("SUBSCRIBE at QoS 3", b"\x82\x07\x00\x01\x00\x00\x01a\x03", &[PROTOCOL_ERROR, MALFORMED]),
    ("SUBSCRIBE with retain handling 3", b"\x82\x07\x00\x01\x00\x00\x01a\x30", &[PROTOCOL_ERROR, MALFORMED]),
    (
        "SUBSCRIBE with identifier 0",
        b"\x82\x09\x00\x01\x02\x0b\x00\x00\x01a\x00",
        &[PROTOCOL_ERROR, MALFORMED],
    ),
    (
        "SUBSCRIBE no-local to a shared one [MQTT-3.8.3-4]",
        b"\x82\x10\x00\x01\x00\x00\x0a$share/g/a\x04",
        &[PROTOCOL_ERROR],
    ),
    (
        "SUBSCRIBE to what is not UTF-8 [MQTT-3.8.3-1]",
        b"\x82\x08\x00\x01\x00\x00\x02\xc3\x28\x00",
        &[MALFORMED],
    ),
    ("UNSUBSCRIBE with flags 0 [MQTT-3.10.1-1]", b"\xa0\x06\x00\x01\x00\x00\x01a", &[MALFORMED]),
    ("UNSUBSCRIBE from nothing [MQTT-3.10.3-2]", b"\xa2\x03\x00\x01\x00", &[PROTOCOL_ERROR, MALFORMED]),
    ("DISCONNECT with flags [MQTT-3.14.1-1]", b"\xe1\x00", &[MALFORMED]),
    ("DISCONNECT with an unknown reason", b"\xe0\x01\x55", &[MALFORMED, PROTOCOL_ERROR]),
    (
        "DISCONNECT that raises session expiry from 0",
        b"\xe0\x07\x00\x05\x11\x00\x00\x00\x0a",
        &[PROTOCOL_ERROR],
    ),
];

/// The cases of 3.1.1: no properties, no reason.
const V311_CASES: &[(&str, &[u8])] = &[
    ("packet type 0", b"\x00\x00"),
    ("packet type 15", b"\xf0\x00"),
    ("QoS 3, [MQTT-3.3.1-4] (3.1.1)", b"\x36\x06\x00\x01a\x00\x01x"),
    ("packet id 0, [MQTT-2.3.1-1] (3.1.1)", b"\x32\x06\x00\x01a\x00\x00x"),
    ("wildcard in the topic, [MQTT-3.3.2-2] (3.1.1)", b"\x30\x06\x00\x03a/#x"),
    ("empty topic, [MQTT-4.7.3-1] (3.1.1)", b"\x30\x03\x00\x00x"),
    ("topic not UTF-8, [MQTT-1.5.3-1] (3.1.1)", b"\x30\x05\x00\x02\xc3\x28x"),
    ("topic with U+0000, [MQTT-1.5.3-2] (3.1.1)", b"\x30\x05\x00\x02a\x00x"),
    ("topic longer than the packet", b"\x30\x04\x00\x09ax"),
    ("over the packet limit", b"\x30\xff\xff\xff\x7f\x00\x01a"),
    ("remaining length of five bytes", b"\xc0\x80\x80\x80\x80\x01"),
    ("PINGREQ with a body", b"\xc0\x01\x00"),
    ("SUBACK from a client", b"\x90\x03\x00\x01\x00"),
    ("PUBREL with flags 0, [MQTT-3.6.1-1] (3.1.1)", b"\x60\x02\x00\x01"),
    ("SUBSCRIBE with flags 0, [MQTT-3.8.1-1] (3.1.1)", b"\x80\x06\x00\x01\x00\x01a\x00"),
    ("SUBSCRIBE to nothing, [MQTT-3.8.3-3] (3.1.1)", b"\x82\x02\x00\x01"),
    ("SUBSCRIBE at QoS 3, [MQTT-3-8.3-4] (3.1.1)", b"\x82\x06\x00\x01\x00\x01a\x03"),
    ("UNSUBSCRIBE from nothing, [MQTT-3.10.3-2] (3.1.1)", b"\xa2\x02\x00\x01"),
    ("DISCONNECT with flags, [MQTT-3.14.1-1] (3.1.1)", b"\xe1\x00"),
];

/// Two clients in a conversation that must not notice anything.
struct Bystanders {
    publisher: RawClient,
    subscriber: RawClient,
    messages: u32,
}

impl Bystanders {
    fn of(broker: &Broker, version: ProtocolVersion) -> Self {
        let mut subscriber = broker.client("bystander-s", version).acknowledging();
        subscriber.subscribe("bystanders", QoS::AtLeastOnce);
        Self { publisher: broker.client("bystander-p", version), subscriber, messages: 0 }
    }

    fn go_on(&mut self) {
        self.messages += 1;
        let payload = self.messages.to_string();
        self.publisher.publish_accepted("bystanders", &payload);
        self.subscriber.expect_message("bystanders", &payload);
    }
}

fn each_case_is_told_and_closed(cases: &[Case]) {
    let broker = Broker::start();
    let mut bystanders = Bystanders::of(&broker, V5);
    let mut wrong = Vec::new();
    for (what, bytes, reasons) in cases {
        let mut client = broker.client("breaker", V5);
        client.send_bytes_to_closing(bytes);
        // [MQTT-4.13.1-1] [MQTT-4.13.2-1]
        match client.next_within(PATIENCE) {
            Next::Packet(Packet::Disconnect(d)) if reasons.contains(&(d.reason as u8)) => {
                client.expect_closed()
            }
            other => wrong.push(format!("{what}: expected DISCONNECT {reasons:02x?}, got {other:?}")),
        }
        bystanders.go_on();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_broken_publish_is_told_its_reason_in_v5() {
    each_case_is_told_and_closed(PUBLISH);
}

#[test]
fn any_other_broken_packet_is_told_its_reason_in_v5() {
    each_case_is_told_and_closed(OTHERS);
}

#[test]
fn a_broken_packet_is_only_closed_in_v311() {
    let broker = Broker::start();
    let mut bystanders = Bystanders::of(&broker, V311);
    let mut wrong = Vec::new();
    for (what, bytes) in V311_CASES {
        let mut client = broker.client("breaker", V311);
        client.send_bytes_to_closing(bytes);
        // [MQTT-4.8.0-1] (3.1.1)
        let answer = client.bytes_until_closed();
        if !answer.is_empty() {
            wrong.push(format!("{what}: expected a close alone, got {answer:02x?}"));
        }
        bystanders.go_on();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn packets_before_the_broken_one_are_served() {
    let broker = Broker::start();
    for version in BOTH {
        let mut witness = broker.client("witness", version);
        witness.subscribe("before", QoS::AtMostOnce);
        let mut client = broker.client("breaker", version);
        let publish: &[u8] = match version {
            V311 => b"\x30\x0a\x00\x06beforeok",
            V5 => b"\x30\x0b\x00\x06before\x00ok",
        };
        client.send_bytes_to_closing(&[publish, b"\x00\x00"].concat());
        witness.expect_message("before", "ok");
    }
}

#[test]
fn a_cut_publish_is_not_published_and_ends_like_a_lost_connection() {
    let broker = Broker::start();
    for version in BOTH {
        let mut witness = broker.client("witness", version);
        witness.subscribe("#", QoS::AtLeastOnce);
        let whole: &[u8] = match version {
            V311 => b"\x32\x0a\x00\x03cut\x00\x01abc",
            V5 => b"\x32\x0b\x00\x03cut\x00\x01\x00abc",
        };
        for length in 1..whole.len() {
            let mut connect = durable_connect("cut", version);
            connect.will = Some(will("gone", "cut"));
            let (mut client, _) = RawClient::connect_with(broker.address(), connect);
            client.send_bytes(&whole[..length]);
            client.lose();
            // [MQTT-3.1.2-8], and nothing of the half packet before it.
            let got = witness.expect_message("gone", "cut");
            witness.puback(got.packet_id.expect("QoS 1 has a packet id"));
        }
    }
}

#[test]
fn a_broken_packet_publishes_the_will() {
    let broker = Broker::start();
    for version in BOTH {
        let mut witness = broker.client("witness", version);
        witness.subscribe("gone", QoS::AtMostOnce);
        let mut connect = durable_connect("breaker", version);
        connect.will = Some(will("gone", "broke the protocol"));
        let (mut client, _) = RawClient::connect_with(broker.address(), connect);
        client.send_bytes_to_closing(b"\x00\x00");
        // [MQTT-3.1.2-8]: a protocol error closed the connection.
        witness.expect_message("gone", "broke the protocol");
    }
}

#[test]
fn packets_cut_at_every_byte_are_the_same_as_whole_ones() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client("dripping", version).acknowledging();
        client.subscribe("drip", QoS::AtLeastOnce);
        let publish: &[u8] = match version {
            V311 => b"\x32\x0b\x00\x04drip\x00\x09abc",
            V5 => b"\x32\x0c\x00\x04drip\x00\x09\x00abc",
        };
        for cut in 0..=publish.len() {
            client.send_bytes(&publish[..cut]);
            client.send_bytes(&publish[cut..]);
            client.expect_message("drip", "abc");
            client.expect_puback(crate::raw_client::id(9));
        }
    }
}

#[test]
fn the_largest_packet_taken_passes_and_one_byte_more_does_not() {
    let broker = Broker::start_configured("[mqtt]\npacket_bytes_max = 1000\n");
    for version in BOTH {
        let mut client = broker.client("exact", version);
        client.subscribe("a", QoS::AtMostOnce);
        // Fixed header 3, topic 3, packet id 2, properties 1 in 5.0.
        let overhead = if version == V5 { 9 } else { 8 };
        let largest = vec![b'x'; 1000 - overhead];
        client.publish(message("a", &largest, QoS::AtLeastOnce));
        client.expect_message("a", &largest);
        let mut larger = message("a", vec![b'x'; 1001 - overhead], QoS::AtLeastOnce);
        larger.packet_id = Some(crate::raw_client::id(999));
        client.send(&Packet::Publish(larger));
        // [MQTT-3.2.2-15]
        client.expect_disconnect(protocol::ReasonCode::PacketTooLarge);
    }
}
