//! A message to very many goes out in portions: others are served between them, and nothing gets out of order.

use crate::node::*;
use engine::{Config, Input, Shard};
use protocol::*;

/// Subscribers of the topic, more than three portions.
const MANY: u64 = 30;

/// The publisher, which is no subscriber.
const PUBLISHER: u64 = 100;

fn node() -> Node {
    let mut node = Node::with(Config { recipients_per_portion: 8, ..Config::default() });
    node.connack(PUBLISHER, volatile("publisher"));
    for conn in 1..=MANY {
        node.connack(conn, volatile(&format!("subscriber-{conn}")));
        node.subscribe(conn, "news/#", QoS::AtLeastOnce);
    }
    node
}

fn news(payload: &'static str) -> Publish {
    publish("news/today", QoS::AtLeastOnce, 1, payload)
}

fn is_done(shard: &Shard) -> bool {
    shard.next_deadline_ms() != Some(0)
}

/// Serves what is left; returns how many portions that took.
fn finish(node: &mut Node) -> usize {
    let mut portions = 0;
    while !is_done(&node.shard) {
        node.input(Input::Timer);
        portions += 1;
    }
    portions
}

#[test]
fn others_are_served_before_all_have_it_and_each_gets_it_once() {
    let mut node = node();
    node.connack(PUBLISHER + 1, volatile("other"));
    node.subscribe(PUBLISHER + 1, "other", QoS::AtLeastOnce);
    assert_eq!(node.publish(PUBLISHER, news("1")), ReasonCode::Success);
    node.publish(PUBLISHER, publish("other", QoS::AtLeastOnce, 2, "meanwhile"));
    assert_eq!(node.payloads(PUBLISHER + 1), ["meanwhile"]);
    let got: usize = (1..=MANY).map(|conn| node.payloads(conn).len()).sum();
    assert!(got < MANY as usize, "all {got} were served in one piece");
    assert_eq!(finish(&mut node), 4, "portions of 8");
    let rest: usize = (1..=MANY).map(|conn| node.payloads(conn).len()).sum();
    assert_eq!(got + rest, MANY as usize);
}

fn unsubscribe(node: &mut Node, conn: u64) {
    let filters = vec!["news/#".into()];
    node.packet(
        conn,
        Packet::Unsubscribe(Unsubscribe { packet_id: id(9), user_properties: vec![], filters }),
    );
}

#[test]
fn messages_on_a_topic_keep_their_order_whoever_gets_them() {
    // [MQTT-4.6.0-5] (3.1.1)
    let mut node = node();
    node.publish(PUBLISHER, news("1"));
    node.publish(PUBLISHER, news("2"));
    assert_eq!(node.payloads(MANY), Vec::<String>::new());
    // Whatever comes to a session next finds there what was accepted before.
    node.publish(PUBLISHER, publish("news", QoS::AtLeastOnce, 3, "to all too"));
    (1..MANY).for_each(|conn| node.drop_connection(conn));
    node.publish(PUBLISHER, news("3"));
    assert_eq!(node.payloads(MANY), ["1", "2", "to all too", "3"]);
    finish(&mut node);
    assert_eq!(node.payloads(MANY), Vec::<String>::new());
}

#[test]
fn what_waits_for_a_client_comes_before_what_its_next_subscribe_brings_and_before_its_unsuback() {
    let mut node = node();
    for payload in ["1", "2"] {
        node.publish(PUBLISHER, Publish { retain: true, ..news(payload) });
    }
    node.subscribe_with(MANY, "news/today", options(QoS::AtLeastOnce));
    assert_eq!(node.payloads(MANY), ["1", "2", "2"], "retained messages overtake nothing");
    unsubscribe(&mut node, MANY - 1);
    let seen = node.seen(MANY - 1);
    assert!(matches!(seen[..], [Packet::Publish(_), Packet::Publish(_), Packet::UnsubAck(_)]), "{seen:?}");
    finish(&mut node);
    assert!(node.seen(MANY).is_empty() && node.seen(MANY - 1).is_empty(), "nobody gets it twice");
    assert_eq!(node.payloads(MANY - 2), ["1", "2"]);
}

#[test]
fn a_session_that_takes_the_place_of_one_that_ended_gets_nothing_of_its() {
    let mut node = node();
    node.publish(PUBLISHER, news("1"));
    node.drop_connection(MANY);
    node.connack(MANY + 1, volatile("newcomer"));
    finish(&mut node);
    assert!(node.seen(MANY + 1).is_empty());
    assert_eq!(node.payloads(MANY - 1), ["1"]);
}

#[test]
fn sessions_that_outlive_a_crash_have_it_when_it_is_acknowledged() {
    let mut node = node();
    for conn in [MANY + 1, MANY + 2] {
        node.connack(conn, durable(&format!("durable-{conn}")));
        node.subscribe(conn, "news/+", QoS::AtLeastOnce);
    }
    node.drop_connection(MANY + 2);
    assert_eq!(node.publish(PUBLISHER, news("1")), ReasonCode::Success);
    assert_eq!(node.payloads(MANY + 1), ["1"]);
    node.restart(usize::MAX);
    node.connack(MANY + 2, Connect { clean_start: false, ..durable(&format!("durable-{}", MANY + 2)) });
    assert_eq!(node.payloads(MANY + 2), ["1"]);
}

#[test]
fn a_shutdown_serves_all_that_wait() {
    let mut node = node();
    node.publish(PUBLISHER, news("1"));
    node.input(Input::Shutdown);
    assert!((1..=MANY).all(|conn| node.payloads(conn) == ["1"]));
}

#[test]
fn so_many_that_wait_are_bounded() {
    let mut node = node();
    let mut got = 0;
    for _ in 0..200 {
        node.packet(PUBLISHER, Packet::Publish(publish("news/today", QoS::AtMostOnce, 1, "x")));
        got += (1..=MANY).map(|conn| node.payloads(conn).len()).sum::<usize>();
    }
    assert!(got >= (200 - 65) * MANY as usize, "{got} were served");
    finish(&mut node);
    got += (1..=MANY).map(|conn| node.payloads(conn).len()).sum::<usize>();
    assert_eq!(got, 200 * MANY as usize);
}
