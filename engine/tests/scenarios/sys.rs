//! Messages of the broker's own on `$SYS/...` (MQTT 5.0 section 4.7.2).

use crate::node::*;
use engine::{Config, Input};
use protocol::*;

fn inform(node: &mut Node, topic: &str, payload: &'static str) {
    node.input(Input::Inform { topic: topic.into(), payload: Bytes::from_static(payload.as_bytes()) });
}

#[test]
fn the_brokers_own_messages_come_live_and_to_later_subscriptions() {
    let mut node = Node::new();
    node.connect(1, "early");
    node.subscribe(1, "$SYS/#", QoS::ExactlyOnce);
    inform(&mut node, "$SYS/broker/uptime", "1");
    inform(&mut node, "$SYS/broker/uptime", "2");
    inform(&mut node, "$SYS/broker/version", "v");
    let live = node.publishes(1);
    assert!(live.iter().all(|p| p.qos == QoS::AtMostOnce && !p.retain));
    assert_eq!(live.iter().map(|p| &p.payload[..]).collect::<Vec<_>>(), [b"1", b"2", b"v"]);
    node.connect(2, "late");
    node.subscribe_with(2, "$SYS/broker/+", options(QoS::AtLeastOnce));
    let kept = node.publishes(2);
    assert!(kept.iter().all(|p| p.qos == QoS::AtMostOnce && p.retain));
    assert_eq!(
        kept.iter().map(|p| &*p.topic).collect::<Vec<_>>(),
        ["$SYS/broker/uptime", "$SYS/broker/version"]
    );
    assert_eq!(kept[0].payload, "2");
    let as_published = SubscribeOptions { retain_as_published: true, ..options(QoS::AtMostOnce) };
    node.subscribe_with(2, "$SYS/broker/+", as_published);
    node.seen(2);
    inform(&mut node, "$SYS/broker/uptime", "3");
    assert!(matches!(&node.publishes(2)[..], [p] if p.retain), "[MQTT-3.3.1-13]");
}

#[test]
fn they_match_no_leading_wildcard_and_are_in_no_log_and_no_queue() {
    // [MQTT-4.7.2-1]
    let mut node = Node::new();
    node.connect(1, "wild");
    node.subscribe(1, "#", QoS::AtLeastOnce);
    node.subscribe(1, "+/broker/uptime", QoS::AtLeastOnce);
    node.connect(2, "away");
    node.subscribe(2, "$SYS/#", QoS::AtLeastOnce);
    node.drop_connection(2);
    let records = node.log.len();
    inform(&mut node, "$SYS/broker/uptime", "1");
    assert_eq!(node.seen(1), []);
    assert_eq!((node.log.len(), node.shard.stats().dropped), (records, 0));
    node.connect_with(3, durable("away"));
    assert_eq!(node.payloads(3), Vec::<String>::new());
    node.restart(usize::MAX);
    node.connect(4, "later");
    node.subscribe_with(4, "$SYS/#", options(QoS::AtLeastOnce));
    assert_eq!(node.payloads(4), Vec::<String>::new(), "they are not restored");
}

#[test]
fn an_empty_payload_removes_one_and_their_number_is_bounded() {
    let mut node = Node::with(Config { informs_max: 2, ..Config::default() });
    for topic in ["$SYS/a", "$SYS/b", "$SYS/c"] {
        inform(&mut node, topic, "x");
    }
    assert_eq!(node.shard.stats().informs, 2);
    inform(&mut node, "$SYS/a", "");
    inform(&mut node, "$SYS/b", "new");
    inform(&mut node, "$SYS/c", "x");
    node.connect(1, "c");
    node.subscribe_with(1, "$SYS/#", options(QoS::AtMostOnce));
    assert_eq!(node.payloads(1), ["new", "x"]);
    assert_eq!(node.shard.stats().retained, 0, "they are none of the clients' retained messages");
}

#[test]
fn clients_cannot_publish_there() {
    // docs/protocol.md section 11: 0x90
    let mut node = Node::new();
    node.connect(1, "c");
    node.subscribe(1, "$SYS/#", QoS::AtLeastOnce);
    let retained = Publish { retain: true, ..publish("$SYS/broker/uptime", QoS::AtLeastOnce, 1, "forged") };
    assert_eq!(node.publish(1, retained), ReasonCode::TopicNameInvalid);
    assert_eq!(node.seen(1), []);
}

#[test]
fn whether_anybody_hears_them_is_known() {
    let mut node = Node::new();
    assert!(!node.shard.hears("$SYS"));
    node.connect(1, "c");
    node.subscribe(1, "#", QoS::AtMostOnce);
    assert!(!node.shard.hears("$SYS"));
    node.subscribe(1, "$SYS/broker/+", QoS::AtMostOnce);
    assert!(node.shard.hears("$SYS"));
    let filters = vec!["$SYS/broker/+".into()];
    node.packet(1, Packet::Unsubscribe(Unsubscribe { packet_id: id(2), user_properties: vec![], filters }));
    assert!(!node.shard.hears("$SYS"));
}
