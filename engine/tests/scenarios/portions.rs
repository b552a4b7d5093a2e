//! What is much is done in portions: packets of many filters, the end of a session with many subscriptions.

use crate::node::*;
use engine::{ConnId, Input};
use protocol::*;

/// More than are taken away at once, in one input too.
const MANY: usize = 1_000;

fn filters(of: impl Iterator<Item = usize>) -> Vec<SubscribeFilter> {
    of.map(|i| SubscribeFilter { filter: format!("t/{i}").into(), options: options(QoS::AtLeastOnce) })
        .collect()
}

fn subscribe_many(filters: Vec<SubscribeFilter>) -> Packet {
    let packet_id = PacketId::new(9).unwrap();
    Packet::Subscribe(Subscribe {
        packet_id,
        subscription_identifier: None,
        user_properties: vec![],
        filters,
    })
}

fn volatile(client_id: &str) -> Connect {
    let connect = durable(client_id);
    let properties = ConnectProperties { session_expiry_interval_s: None, ..connect.properties.clone() };
    Connect { properties, ..connect }
}

fn with_many_subscriptions(node: &mut Node, conn: u64, connect: Connect) {
    node.connack(conn, connect);
    node.packet(conn, subscribe_many(filters(0..MANY)));
    assert_eq!(node.shard.stats().subscriptions as usize, MANY);
}

#[test]
fn a_subscribe_in_parts_has_one_answer_to_all_behind_all_its_records() {
    // [MQTT-3.8.4-1], [MQTT-3.8.4-5], [MQTT-3.8.4-6]
    let mut node = Node::new();
    node.connect(1, "dispatcher");
    node.connect(2, "truck");
    node.publish(2, Publish { retain: true, ..publish("t/1", QoS::AtLeastOnce, 1, "kept") });
    node.auto_commit = false;
    let mut last = filters(5..6);
    last[0].filter = "no/#/filter".into();
    for (of, filters_left) in [(filters(0..3), 3), (filters(3..5), 1)] {
        node.input(Input::Part { conn: ConnId(1), packet: subscribe_many(of), filters_left });
        assert!(!node.seen(1).iter().any(|p| matches!(p, Packet::SubAck(_))));
    }
    // The last part has no record of its own.
    node.packet(1, subscribe_many(last));
    assert!(!node.seen(1).iter().any(|p| matches!(p, Packet::SubAck(_))), "it passed the records");
    node.commit();
    let seen = node.seen(1);
    let answers: Vec<_> = seen
        .iter()
        .filter_map(|p| if let Packet::SubAck(s) = p { Some(&s.reasons[..]) } else { None })
        .collect();
    let granted = ReasonCode::GrantedQoS1;
    assert_eq!(answers, [[granted, granted, granted, granted, granted, ReasonCode::TopicFilterInvalid]]);
    let kept: Vec<_> = seen
        .iter()
        .filter_map(|p| if let Packet::Publish(p) = p { Some(&p.payload[..]) } else { None })
        .collect();
    assert_eq!(kept, [b"kept"]);
}

#[test]
fn an_unsubscribe_in_parts_has_one_answer_to_all() {
    // [MQTT-3.10.4-4], [MQTT-3.11.3-1]
    let mut node = Node::new();
    node.connect(1, "dispatcher");
    node.subscribe(1, "t/1", QoS::AtLeastOnce);
    let unsubscribe = |filters: &[&'static str]| {
        Packet::Unsubscribe(Unsubscribe {
            packet_id: PacketId::new(9).unwrap(),
            user_properties: vec![],
            filters: filters.iter().map(|filter| ByteString::from(*filter)).collect(),
        })
    };
    node.input(Input::Part { conn: ConnId(1), packet: unsubscribe(&["t/0", "t/1"]), filters_left: 1 });
    assert!(node.seen(1).is_empty());
    node.packet(1, unsubscribe(&["t/1"]));
    let [Packet::UnsubAck(answer)] = &node.seen(1)[..] else { panic!("no UNSUBACK") };
    let none = ReasonCode::NoSubscriptionExisted;
    assert_eq!(answer.reasons, [none, ReasonCode::Success, none]);
}

#[test]
fn a_session_with_many_subscriptions_ends_in_portions_and_its_will_comes_with_the_end() {
    let mut node = Node::new();
    node.connect(1, "watcher");
    node.subscribe(1, "will", QoS::AtLeastOnce);
    let before = node.shard.stats().subscriptions;
    let will = Will {
        topic: "will".into(),
        payload: Bytes::from_static(b"gone"),
        qos: QoS::AtLeastOnce,
        retain: false,
        delay_interval_s: None,
        properties: PublishProperties::default(),
    };
    node.connack(2, Connect { will: Some(Box::new(will)), ..volatile("truck") });
    node.packet(2, subscribe_many(filters(0..MANY)));
    node.drop_connection(2);
    let left = (node.shard.stats().subscriptions - before) as usize;
    assert!((MANY / 2..MANY).contains(&left), "{left} are left after one input");
    node.pass_ms(1);
    assert_eq!(node.shard.stats().subscriptions, before);
    assert_eq!(node.shard.stats().sessions, 1);
    assert_eq!(node.payloads(1), ["gone"]);
}

#[test]
fn a_client_that_comes_back_meanwhile_finds_no_session() {
    let mut node = Node::new();
    with_many_subscriptions(&mut node, 1, volatile("truck"));
    node.drop_connection(1);
    let connack = node.connack(2, Connect { clean_start: false, ..durable("truck") });
    assert!(!connack.session_present);
    node.pass_ms(1);
    assert_eq!((node.shard.stats().subscriptions, node.shard.stats().sessions), (0, 1));
    assert_eq!(node.shard.stats().sessions_expired, 0);
}

#[test]
fn a_shutdown_waits_for_no_portion() {
    let mut node = Node::new();
    with_many_subscriptions(&mut node, 1, volatile("truck"));
    node.drop_connection(1);
    node.input(Input::Shutdown);
    assert_eq!((node.shard.stats().subscriptions, node.shard.stats().sessions), (0, 0));
}
