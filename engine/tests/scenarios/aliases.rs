//! Topic aliases towards clients (MQTT 5.0 section 3.3.2.3.4).

use std::num::{NonZeroU16, NonZeroU32};

use crate::node::*;
use engine::{Config, ConnId, Input};
use protocol::*;

fn taking(client_id: &str, topic_alias_max: Option<u16>) -> Connect {
    let mut connect = durable(client_id);
    connect.properties.topic_alias_max = topic_alias_max;
    connect
}

/// Topics and aliases as they stand in the packets sent to the connection.
fn seen(node: &mut Node, conn: u64) -> Vec<(String, Option<u16>)> {
    let publishes = node.publishes(conn).into_iter();
    publishes.map(|p| (p.topic.to_string(), p.properties.topic_alias.map(NonZeroU16::get))).collect()
}

fn at_most_once(node: &mut Node, topics: &[&str]) {
    for topic in topics {
        node.packet(1, Packet::Publish(publish(topic, QoS::AtMostOnce, 0, "x")));
    }
}

fn pair(topic: &str, alias: u16) -> (String, Option<u16>) {
    (topic.to_owned(), Some(alias))
}

#[test]
fn a_client_that_takes_aliases_gets_each_topic_once_and_then_its_number() {
    // [MQTT-3.1.2-26] none above the client's maximum; [MQTT-3.3.2-11]
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect_with(2, taking("s", Some(2)));
    node.subscribe(2, "#", QoS::AtMostOnce);
    at_most_once(&mut node, &["a", "b", "a", "c", "b", "a"]);
    let expected =
        [pair("a", 1), pair("b", 2), pair("", 1), ("c".to_owned(), None), pair("", 2), pair("", 1)];
    assert_eq!(seen(&mut node, 2), expected);
}

#[test]
fn a_client_that_takes_none_gets_none() {
    // [MQTT-3.1.2-27] a Topic Alias Maximum that is absent or 0
    let mut node = Node::new();
    node.connect(1, "truck");
    for (conn, connect) in [(2, taking("a", None)), (3, taking("b", Some(0))), (4, version_3("c", false))] {
        node.connect_with(conn, connect);
        node.subscribe(conn, "#", QoS::AtMostOnce);
    }
    at_most_once(&mut node, &["a", "a"]);
    for conn in 2..=4 {
        assert_eq!(seen(&mut node, conn), [("a".to_owned(), None), ("a".to_owned(), None)]);
    }
}

#[test]
fn the_broker_bounds_the_aliases_of_a_client_that_takes_many() {
    let mut node = Node::with(Config { topic_alias_out_max: 1, ..Config::default() });
    node.connect(1, "truck");
    node.connect_with(2, taking("s", Some(65_535)));
    node.subscribe(2, "#", QoS::AtMostOnce);
    at_most_once(&mut node, &["a", "b", "a"]);
    assert_eq!(seen(&mut node, 2), [pair("a", 1), ("b".to_owned(), None), pair("", 1)]);
}

#[test]
fn aliases_end_with_the_connection_and_a_resend_carries_its_topic_again() {
    // [MQTT-3.3.2-7] no mapping is carried from one connection to another.
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect_with(2, taking("s", Some(5)));
    node.subscribe(2, "#", QoS::AtLeastOnce);
    for _ in 0..2 {
        node.publish(1, publish("a", QoS::AtLeastOnce, 1, "x"));
    }
    assert_eq!(seen(&mut node, 2), [pair("a", 1), pair("", 1)]);
    node.connect_with(3, taking("s", Some(5)));
    let resent = node.publishes(3);
    assert!(resent.iter().all(|p| p.dup));
    assert_eq!((&*resent[0].topic, &*resent[1].topic), ("a", ""));
    // Nor to a connection that takes none.
    node.connect_with(4, taking("s", None));
    assert_eq!(seen(&mut node, 4), [("a".to_owned(), None), ("a".to_owned(), None)]);
}

#[test]
fn an_alias_is_not_given_by_a_publish_that_is_too_large_to_be_sent() {
    let mut node = Node::new();
    node.connect(1, "truck");
    let mut connect = taking("s", Some(5));
    connect.properties.packet_bytes_max = NonZeroU32::new(200);
    node.connect_with(2, connect);
    node.subscribe(2, "#", QoS::AtMostOnce);
    let long: &str = &"x".repeat(300);
    node.packet(1, Packet::Publish(publish(long, QoS::AtMostOnce, 0, "")));
    let large = Publish { payload: vec![b'x'; 300].into(), ..publish("a", QoS::AtMostOnce, 0, "") };
    node.packet(1, Packet::Publish(large));
    at_most_once(&mut node, &["a", "a"]);
    assert_eq!(seen(&mut node, 2), [pair("a", 1), pair("", 1)]);
    assert_eq!(node.shard.stats().dropped_too_large, 2);
}

#[test]
fn a_publish_that_only_fits_without_a_new_alias_goes_without() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect_with(2, taking("s", Some(5)));
    node.subscribe(2, "#", QoS::AtMostOnce);
    at_most_once(&mut node, &["a/topic"]);
    let with_alias = protocol::encoded_len(&node.seen(2)[0], ProtocolVersion::V5);
    let mut connect = taking("s", Some(5));
    connect.properties.packet_bytes_max = NonZeroU32::new(with_alias as u32 - 1);
    node.connect_with(3, connect);
    at_most_once(&mut node, &["a/topic"]);
    assert_eq!(seen(&mut node, 3), [("a/topic".to_owned(), None)]);
}

#[test]
fn an_alias_waits_at_the_gate_behind_the_publish_that_establishes_it() {
    // A QoS 0 message waits for nothing, but never passes what was made for the connection before.
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect_with(2, taking("s", Some(5)));
    node.subscribe(2, "#", QoS::AtLeastOnce);
    node.auto_commit = false;
    node.packet(1, Packet::Publish(publish("a", QoS::AtLeastOnce, 1, "first")));
    node.packet(1, Packet::Publish(publish("a", QoS::AtMostOnce, 0, "second")));
    assert_eq!(node.seen(2), []);
    node.commit();
    assert_eq!(seen(&mut node, 2), [pair("a", 1), pair("", 1)]);
}

#[test]
fn a_slow_connection_that_misses_qos_0_messages_misses_no_alias() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect_with(2, taking("s", Some(5)));
    node.subscribe(2, "#", QoS::AtLeastOnce);
    node.input(Input::Congested { conn: ConnId(2) });
    at_most_once(&mut node, &["a"]);
    node.packet(1, Packet::Publish(publish("a", QoS::AtLeastOnce, 1, "x")));
    node.input(Input::Drained { conn: ConnId(2) });
    at_most_once(&mut node, &["a"]);
    assert_eq!(seen(&mut node, 2), [pair("a", 1), pair("", 1)]);
}
