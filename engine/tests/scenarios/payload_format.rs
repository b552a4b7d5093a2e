//! Payload Format Indicator (MQTT 5.0 sections 3.3.2.3.2 and 3.1.3.2.3).

use crate::node::*;
use protocol::*;

fn text(qos: QoS, packet_id: u16, payload: &'static [u8]) -> Publish {
    let mut publish = Publish { payload: Bytes::from_static(payload), ..publish("t", qos, packet_id, "") };
    publish.properties.payload_format_utf8 = Some(true);
    publish
}

/// Ill-formed: a byte of no sequence, an overlong form, a surrogate, a sequence that is cut.
const NO_TEXT: [&[u8]; 4] = [b"a\xff", b"\xc0\x80", b"\xed\xa0\x80", "车".as_bytes().split_at(2).0];

#[test]
fn a_payload_that_is_not_the_text_it_says_is_refused_with_0x99() {
    for payload in NO_TEXT {
        let mut node = Node::new();
        node.connect(1, "truck");
        node.connect(2, "s");
        node.subscribe(2, "t", QoS::ExactlyOnce);
        let reason = ReasonCode::PayloadFormatInvalid;
        assert_eq!(node.publish(1, text(QoS::AtLeastOnce, 1, payload)), reason);
        assert_eq!(node.publish(1, text(QoS::ExactlyOnce, 2, payload)), reason);
        // The refused id is free at once.
        assert_eq!(node.publish(1, text(QoS::ExactlyOnce, 2, b"fine")), ReasonCode::Success);
        assert!(!node.closed.contains_key(&1));
        // At QoS 0 there is nothing but DISCONNECT to say it.
        node.packet(1, Packet::Publish(text(QoS::AtMostOnce, 0, payload)));
        assert_eq!(node.goodbye(1), Some(reason));
        assert_eq!(node.payloads(2), ["fine"]);
    }
}

#[test]
fn text_and_payloads_that_promise_nothing_pass_with_their_indicator_unaltered() {
    // [MQTT-3.3.2-4]
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "s");
    node.subscribe(2, "t", QoS::AtLeastOnce);
    let mut binary = text(QoS::AtLeastOnce, 1, b"\xff");
    binary.properties.payload_format_utf8 = Some(false);
    let mut none = binary.clone();
    none.properties.payload_format_utf8 = None;
    for publish in [text(QoS::AtLeastOnce, 1, "车\0".as_bytes()), binary, none] {
        assert_eq!(node.publish(1, publish), ReasonCode::Success);
    }
    let seen: Vec<_> = node.publishes(2).iter().map(|p| p.properties.payload_format_utf8).collect();
    assert_eq!(seen, [Some(true), Some(false), None]);
}

#[test]
fn a_will_that_is_not_the_text_it_says_is_refused_at_connect() {
    let mut node = Node::new();
    for payload in NO_TEXT {
        let of = text(QoS::AtMostOnce, 0, payload);
        let (delay_interval_s, qos, retain) = (None, QoS::AtMostOnce, false);
        let will = Will {
            topic: of.topic,
            payload: of.payload,
            qos,
            retain,
            delay_interval_s,
            properties: of.properties.into_inner(),
        };
        let connect = Connect { will: Some(Box::new(will)), ..durable("truck") };
        assert_eq!(node.connack(1, connect).reason, ReasonCode::PayloadFormatInvalid);
        node.closed.clear();
    }
    assert_eq!(node.shard.stats().sessions, 0);
}
