//! Numbers that a client will not get, and how it learns that: `im-gap` (docs/protocol.md section 3).

use std::num::NonZeroU32;

use crate::node::*;
use crate::replay::{post, read_all, reader, told};
use engine::{Config, OnFull, Retention};
use protocol::*;

fn node_that_keeps(messages: u64) -> Node {
    let mut config = Config::default();
    config.conversations[0].retention = Retention { messages, bytes: 0, age_s: 0 };
    let mut node = Node::with(config);
    node.connect(1, "truck");
    node
}

fn expiring(seconds: u32) -> Publish {
    let mut p = publish("im/room", QoS::AtLeastOnce, 1, "text");
    p.properties.message_expiry_interval_s = Some(seconds);
    p
}

#[test]
fn the_first_number_that_is_kept_is_told_to_who_asks_for_earlier_ones() {
    let mut node = node_that_keeps(3);
    post(&mut node, "im/room", 10);
    let starts = [
        ("1", vec!["im/room 8 gap 8", "im/room 9", "im/room 10"]),
        ("7", vec!["im/room 8 gap 8", "im/room 9", "im/room 10"]),
        ("first", vec!["im/room 8 gap 8", "im/room 9", "im/room 10"]),
        ("@0", vec!["im/room 8 gap 8", "im/room 9", "im/room 10"]),
        ("8", vec!["im/room 8", "im/room 9", "im/room 10"]),
        ("9", vec!["im/room 9", "im/room 10"]),
    ];
    for (conn, (start, expected)) in (10..).zip(starts) {
        node.connect_with(conn, durable("reader"));
        node.packet(conn, subscribe(&format!("$im/from/{start}/im/room"), options(QoS::AtLeastOnce)));
        let expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
        assert_eq!(read_all(&mut node, conn), expected, "{start}");
    }
}

#[test]
fn retention_that_passes_a_cursor_is_told_and_so_is_an_empty_conversation() {
    let mut node = node_that_keeps(5);
    post(&mut node, "im/room", 5);
    node.connect_with(2, reader("reader", 1));
    node.packet(2, subscribe("$im/from/1/im/room", options(QoS::AtLeastOnce)));
    post(&mut node, "im/room", 5);
    let expected = ["im/room 1", "im/room 6 gap 6", "im/room 7", "im/room 8", "im/room 9", "im/room 10"];
    assert_eq!(read_all(&mut node, 2), expected);
    let mut config = Config::default();
    config.conversations[0].retention = Retention { messages: 0, bytes: 0, age_s: 60 };
    node.restart_with(config);
    node.pass_s(61);
    node.connect(1, "truck");
    node.connect(3, "reader");
    node.packet(3, subscribe("$im/from/4/im/room", options(QoS::AtLeastOnce)));
    post(&mut node, "im/room", 2);
    assert_eq!(read_all(&mut node, 3), ["im/room 11 gap 11", "im/room 12"]);
}

#[test]
fn expired_messages_leave_a_gap_live_queued_and_replayed() {
    let mut node = node_that_keeps(100);
    node.connect(2, "reader");
    node.subscribe(2, "im/room", QoS::AtLeastOnce);
    node.drop_connection(2);
    post(&mut node, "im/room", 1);
    for _ in 0..2 {
        node.publish(1, expiring(5));
    }
    post(&mut node, "im/room", 1);
    node.publish(1, expiring(5));
    node.pass_s(10);
    // It is known over a crash, too.
    node.restart(usize::MAX);
    node.connect(1, "truck");
    node.connect_with(3, durable("reader"));
    assert_eq!(read_all(&mut node, 3), ["im/room 1", "im/room 4 gap 4"]);
    node.restart(usize::MAX);
    node.connect(1, "truck");
    node.connect_with(4, durable("reader"));
    post(&mut node, "im/room", 2);
    assert_eq!(read_all(&mut node, 4), ["im/room 6 gap 6", "im/room 7"]);
    node.packet(4, subscribe("$im/from/1/im/room", options(QoS::AtMostOnce)));
    assert_eq!(read_all(&mut node, 4), ["im/room 1", "im/room 4 gap 4", "im/room 6 gap 6", "im/room 7"]);
}

#[test]
fn a_full_queue_leaves_a_gap_whichever_end_it_drops() {
    for (on_full, expected) in [
        (OnFull::DropOldest, ["im/room 3 gap 3", "im/room 4", "im/room 5"]),
        (OnFull::DropNewest, ["im/room 1", "im/room 2", "im/room 5 gap 5"]),
    ] {
        let mut node = Node::with(Config { on_full, queue_messages_max: 2, ..Config::default() });
        node.connect(1, "truck");
        node.connect(2, "reader");
        node.subscribe(2, "im/room", QoS::AtLeastOnce);
        node.drop_connection(2);
        post(&mut node, "im/room", 4);
        node.restart(usize::MAX);
        node.connect(1, "truck");
        node.connect_with(3, reader("reader", 9));
        post(&mut node, "im/room", 1);
        assert_eq!(read_all(&mut node, 3), expected, "{on_full:?}");
    }
}

#[test]
fn a_message_that_a_newer_one_replaced_leaves_a_gap_in_the_queue_and_none_in_the_log() {
    let mut node = node_that_keeps(100);
    node.connect(2, "reader");
    node.subscribe(2, "im/room", QoS::AtLeastOnce);
    node.drop_connection(2);
    post(&mut node, "im/room", 1);
    let collapsing = || with_property(publish("im/room", QoS::AtLeastOnce, 1, "x"), im::IM_COLLAPSE, "k");
    node.packet(1, collapsing());
    post(&mut node, "im/room", 1);
    node.packet(1, collapsing());
    node.restart(usize::MAX);
    node.connect_with(3, durable("reader"));
    assert_eq!(read_all(&mut node, 3), ["im/room 1", "im/room 3 gap 3", "im/room 4"]);
    node.packet(3, subscribe("$im/from/1/im/room", options(QoS::AtLeastOnce)));
    assert_eq!(read_all(&mut node, 3), ["im/room 1", "im/room 2", "im/room 3", "im/room 4"]);
}

#[test]
fn a_message_that_is_too_large_leaves_a_gap() {
    let mut node = node_that_keeps(100);
    let mut small = durable("reader");
    small.properties.packet_bytes_max = NonZeroU32::new(200);
    node.connack(2, small.clone());
    node.subscribe(2, "im/room", QoS::AtLeastOnce);
    let large = Publish { payload: vec![b'x'; 300].into(), ..publish("im/room", QoS::AtLeastOnce, 1, "") };
    post(&mut node, "im/room", 1);
    node.publish(1, large.clone());
    post(&mut node, "im/room", 2);
    let expected = ["im/room 1", "im/room 3 gap 3", "im/room 4"];
    assert_eq!(read_all(&mut node, 2), expected);
    node.packet(2, subscribe("$im/from/1/im/room", options(QoS::AtLeastOnce)));
    assert_eq!(read_all(&mut node, 2), expected);
    // The last of all: the next one tells, over a crash.
    node.publish(1, large);
    node.restart(usize::MAX);
    node.connect(1, "truck");
    node.connack(3, small);
    post(&mut node, "im/room", 2);
    assert_eq!(read_all(&mut node, 3), ["im/room 6 gap 6", "im/room 7"]);
}

#[test]
fn a_message_that_tells_of_a_gap_tells_it_again_when_it_is_sent_again() {
    let mut node = node_that_keeps(3);
    post(&mut node, "im/room", 10);
    node.connect_with(2, reader("reader", 2));
    node.packet(2, subscribe("$im/from/1/im/room", options(QoS::AtLeastOnce)));
    assert_eq!(node.publishes(2).iter().map(told).collect::<Vec<_>>(), ["im/room 8 gap 8", "im/room 9"]);
    node.restart(usize::MAX);
    node.connect_with(3, reader("reader", 2));
    let again = node.publishes(3);
    assert!(again.iter().all(|p| p.dup));
    assert_eq!(again.iter().map(told).collect::<Vec<_>>(), ["im/room 8 gap 8", "im/room 9"]);
    node.packet(3, Packet::PubAck(Ack::new(again[0].packet_id.unwrap(), ReasonCode::Success)));
    node.drop_connection(3);
    node.connect_with(4, reader("reader", 9));
    assert_eq!(read_all(&mut node, 4), ["im/room 9", "im/room 10"], "once the client has it, it is told");
}

#[test]
fn an_envelope_says_it_in_its_payload_and_each_form_for_itself() {
    let mut node = node_that_keeps(2);
    post(&mut node, "im/room", 5);
    node.connack(2, version_3("old", false));
    node.packet(2, subscribe("$im/from/first/$im/env/im/room", options(QoS::AtLeastOnce)));
    node.packet(2, subscribe("im/room", options(QoS::AtLeastOnce)));
    let gaps: Vec<_> = node
        .publishes(2)
        .iter()
        .map(|p| serde_json::from_slice::<serde_json::Value>(&p.payload).unwrap())
        .map(|envelope| (envelope["seq"].as_u64(), envelope["gap"].as_u64()))
        .collect();
    assert_eq!(gaps, [(Some(4), Some(4)), (Some(5), None)]);
}

#[test]
fn shared_groups_and_topics_that_are_no_conversation_have_no_gaps() {
    let mut node = node_that_keeps(100);
    node.connect_with(2, reader("reader", 9));
    node.subscribe(2, "$share/g/im/room", QoS::AtLeastOnce);
    node.subscribe(2, "t", QoS::AtLeastOnce);
    node.drop_connection(2);
    node.publish(1, expiring(5));
    let mut elsewhere = publish("t", QoS::AtLeastOnce, 1, "x");
    elsewhere.properties.message_expiry_interval_s = Some(5);
    node.publish(1, elsewhere);
    node.pass_s(10);
    node.connect_with(3, reader("reader", 9));
    post(&mut node, "im/room", 1);
    node.publish(1, publish("t", QoS::AtLeastOnce, 1, "x"));
    assert_eq!(read_all(&mut node, 3), ["im/room 2", "t -"]);
}
