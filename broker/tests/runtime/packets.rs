//! Packets in any cut, and bytes that are no packets.

use protocol::{Packet, ProtocolVersion, QoS, ReasonCode};

use crate::harness::{RawClient, TestBroker, connect, publish, subscribe};

#[test]
fn packets_cut_at_every_byte_are_taken_whole() {
    let broker = TestBroker::start();
    let mut client = broker.client();
    let bytes = client.encode(&[
        connect(ProtocolVersion::V5, "cut"),
        subscribe("a/b", QoS::AtLeastOnce),
        publish("a/b", QoS::AtLeastOnce, 7, b"hello"),
        Packet::PingReq,
    ]);
    for byte in &bytes {
        client.send_bytes(std::slice::from_ref(byte));
    }
    client.expect_connack(ReasonCode::Success);
    assert!(matches!(client.expect(), Packet::SubAck(_)));
    let mut seen = (false, false, false);
    while seen != (true, true, true) {
        match client.expect() {
            Packet::Publish(publish) => seen.0 = &publish.payload[..] == b"hello",
            Packet::PubAck(ack) => seen.1 = ack.packet_id.get() == 7,
            Packet::PingResp => seen.2 = true,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn packets_sent_at_once_are_answered_in_order() {
    let broker = TestBroker::start();
    let mut client = broker.client();
    let mut packets = vec![connect(ProtocolVersion::V5, "pipeline")];
    packets.extend((1..=500).map(|id| publish("t", QoS::AtLeastOnce, id, &[0; 300])));
    let bytes = client.encode(&packets);
    client.send_bytes(&bytes);
    client.expect_connack(ReasonCode::Success);
    for id in 1..=500 {
        client.expect_puback(id);
    }
    client.ping();
}

#[test]
fn a_payload_of_many_reads_arrives_unchanged() {
    let broker = TestBroker::start();
    let mut subscriber = broker.connected("subscriber");
    subscriber.subscribe("big", QoS::ExactlyOnce);
    let payload: Vec<u8> = (0..800_000u32).map(|i| (i % 251) as u8).collect();
    let mut publisher = broker.connected("publisher");
    publisher.send(&publish("big", QoS::AtLeastOnce, 1, &payload));
    publisher.expect_puback(1);
    assert!(subscriber.expect_publish().payload == payload);
}

/// [MQTT-3.1.2-2], [MQTT-3.1.2-2] (3.1.1)
#[test]
fn a_version_that_is_not_served_is_answered_in_the_nearest_format() {
    let broker = TestBroker::start();
    let cases = [
        (&b"\x10\x10\x00\x06MQIsdp\x03\x02\x00\x00\x00\x02id"[..], &b"\x20\x02\x00\x01"[..]),
        (&b"\x10\x0e\x00\x04MQTT\x03\x02\x00\x00\x00\x02id"[..], &b"\x20\x02\x00\x01"[..]),
    ];
    for (sent, answer) in cases {
        let mut client = RawClient::new(broker.addr(), ProtocolVersion::V311);
        client.send_bytes(sent);
        assert_eq!(client.rest(), answer);
    }
    let mut client = broker.client();
    client.send_bytes(b"\x10\x0f\x00\x04MQTT\x06\x02\x00\x00\x00\x00\x02id");
    client.expect_connack(ReasonCode::UnsupportedProtocolVersion);
    client.expect_end();
}

#[test]
fn a_wrong_connect_of_5_0_is_told_why() {
    let broker = TestBroker::start();
    let cases = [
        // The reserved flag is set.
        (&b"\x10\x0f\x00\x04MQTT\x05\x01\x00\x00\x00\x00\x02id"[..], ReasonCode::MalformedPacket),
        // The client id is no UTF-8.
        (&b"\x10\x0f\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x02\xff\xff"[..], ReasonCode::MalformedPacket),
        // A receive maximum of 0.
        (&b"\x10\x12\x00\x04MQTT\x05\x02\x00\x00\x03\x21\x00\x00\x00\x02id"[..], ReasonCode::ProtocolError),
    ];
    for (bytes, reason) in cases {
        let mut client = broker.client();
        client.send_bytes(bytes);
        let connack = client.expect_connack(reason);
        assert!(connack.properties.reason_string.is_some());
        client.expect_end();
    }
}

/// [MQTT-3.1.0-1], [MQTT-3.1.4-1], [MQTT-3.1.4-1] (3.1.1)
#[test]
fn what_is_no_connect_ends_the_connection_without_an_answer() {
    let broker = TestBroker::start();
    let cases = [
        &b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
        b"\xc0\x00",
        b"\x30\x05\x00\x01aXX",
        b"\x00\x00",
        b"\x10\xff\xff\xff\xff\x01",
        // 3.1.1 with the reserved flag set: it has no code for it.
        b"\x10\x0e\x00\x04MQTT\x04\x03\x00\x00\x00\x02id",
    ];
    for bytes in cases {
        let mut client = broker.client();
        client.send_bytes(bytes);
        assert_eq!(client.rest(), b"");
    }
}

#[test]
fn a_malformed_packet_ends_its_own_connection_with_the_reason_and_no_other() {
    let broker = TestBroker::start();
    let mut bystander = broker.connected("bystander");
    let cases = [
        (&b"\x36\x05\x00\x01a\x00\x01"[..], ReasonCode::MalformedPacket),
        (b"\xf1\x00", ReasonCode::MalformedPacket),
        (b"\x20\x03\x00\x00\x00", ReasonCode::ProtocolError),
        (b"\x30\x06\x00\x03a/+\x00", ReasonCode::TopicNameInvalid),
        (b"\x30\xff\xff\xff\x7f", ReasonCode::PacketTooLarge),
    ];
    for (bytes, reason) in cases {
        let mut client = broker.connected("malformed");
        client.send_bytes(bytes);
        client.expect_disconnect(reason);
    }
    bystander.ping();
}

#[test]
fn the_reason_arrives_although_the_client_goes_on_sending() {
    let broker = TestBroker::start();
    let mut client = broker.connected("talker");
    client.send_bytes(b"\x36\x05\x00\x01a\x00\x01");
    // A reset would throw the DISCONNECT away; what comes behind the error is read and thrown away instead.
    client.send_bytes(&[0; 500_000]);
    client.expect_disconnect(ReasonCode::MalformedPacket);
}

/// [MQTT-3.1.0-2]
#[test]
fn a_second_connect_ends_the_connection() {
    let broker = TestBroker::start();
    let mut client = broker.connected("twice");
    client.send(&connect(ProtocolVersion::V5, "twice"));
    client.expect_disconnect(ReasonCode::ProtocolError);
}

#[test]
fn a_client_that_says_goodbye_is_closed_after_its_answers() {
    let broker = TestBroker::start();
    let mut client = broker.connected("goodbye");
    client.send_bytes(b"\xc0\x00\xe0\x00");
    assert_eq!(client.expect(), Packet::PingResp);
    client.expect_end();
}
