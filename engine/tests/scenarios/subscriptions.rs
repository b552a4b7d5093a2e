//! Subscriptions: options, identifiers, overlaps (MQTT 5.0 sections 3.3.4, 3.8 and 3.10).

use crate::node::*;
use protocol::*;

fn subscribe_as(filter: &str, options: SubscribeOptions, identifier: u32) -> Packet {
    let Packet::Subscribe(s) = subscribe(filter, options) else { unreachable!() };
    Packet::Subscribe(Subscribe { subscription_identifier: Some(identifier), ..s })
}

#[test]
fn overlapping_subscriptions_bring_one_copy_at_the_highest_level_with_all_identifiers() {
    // [MQTT-3.3.4-2], [MQTT-3.3.4-4]
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "dispatcher");
    for (filter, qos, identifier) in
        [("a/b", QoS::AtMostOnce, 1), ("a/+", QoS::ExactlyOnce, 2), ("#", QoS::AtLeastOnce, 1)]
    {
        node.packet(2, subscribe_as(filter, options(qos), identifier));
    }
    node.subscribe(2, "+/b", QoS::AtMostOnce);
    // [MQTT-3.8.4-8] the lower of message and subscription.
    for (sent, got) in [(QoS::ExactlyOnce, QoS::ExactlyOnce), (QoS::AtLeastOnce, QoS::AtLeastOnce)] {
        node.packet(1, Packet::Publish(publish("a/b", sent, 1, "x")));
        node.packet(1, Packet::PubRel(ack(1, ReasonCode::Success)));
        let publishes = node.publishes(2);
        assert_eq!(publishes.len(), 1);
        assert_eq!(publishes[0].qos, got);
        assert_eq!(publishes[0].properties.subscription_identifiers, [1, 1, 2]);
    }
}

#[test]
fn a_second_subscription_with_the_same_filter_replaces_the_first_also_over_a_crash() {
    // [MQTT-3.8.4-3]
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "dispatcher");
    node.packet(2, subscribe_as("t", options(QoS::ExactlyOnce), 5));
    node.packet(2, subscribe_as("t", options(QoS::AtMostOnce), 6));
    node.restart(usize::MAX);
    node.connect(3, "truck");
    node.connect(4, "dispatcher");
    node.publish(3, publish("t", QoS::AtLeastOnce, 1, "x"));
    let publishes = node.publishes(4);
    assert_eq!((publishes.len(), publishes[0].qos), (1, QoS::AtMostOnce));
    assert_eq!(publishes[0].properties.subscription_identifiers, [6]);
}

#[test]
fn no_local_keeps_own_messages_away_live_and_retained() {
    // [MQTT-3.8.3-3]
    let mut node = Node::new();
    for (conn, client) in [(1, "truck"), (2, "other")] {
        node.connect(conn, client);
        let no_local = SubscribeOptions { no_local: true, ..options(QoS::AtLeastOnce) };
        node.subscribe_with(conn, "t", no_local);
    }
    node.publish(1, Publish { retain: true, ..publish("t", QoS::AtLeastOnce, 1, "x") });
    assert_eq!(node.payloads(1), Vec::<String>::new());
    assert_eq!(node.payloads(2), ["x"]);
    node.restart(usize::MAX);
    for (conn, client, expected) in [(3, "truck", vec![]), (4, "other", vec!["x"])] {
        node.connect_with(conn, volatile(client));
        let no_local = SubscribeOptions { no_local: true, ..options(QoS::AtLeastOnce) };
        node.packet(conn, subscribe("t", no_local));
        assert_eq!(node.payloads(conn), expected, "{client}");
    }
}

#[test]
fn each_filter_gets_its_own_answer() {
    // [MQTT-3.8.4-6], docs/protocol.md section 11
    let mut node = Node::new();
    node.connect(1, "truck");
    for (filter, reason) in [
        ("a/#", ReasonCode::GrantedQoS1),
        ("a/#/b", ReasonCode::TopicFilterInvalid),
        ("$im/receipts", ReasonCode::GrantedQoS1),
        ("$im/errors", ReasonCode::GrantedQoS1),
        ("$im/#", ReasonCode::TopicFilterInvalid),
        ("$im/+", ReasonCode::TopicFilterInvalid),
        ("$im/nothing", ReasonCode::TopicFilterInvalid),
        ("$SYS/#", ReasonCode::GrantedQoS1),
    ] {
        assert_eq!(node.subscribe_with(1, filter, options(QoS::AtLeastOnce)), reason, "{filter}");
    }
}

#[test]
fn unsubscribe_ends_new_messages_and_keeps_those_that_wait() {
    let mut node = Node::new();
    node.connect(1, "truck");
    let mut connect = durable("dispatcher");
    connect.properties.receive_maximum = std::num::NonZeroU16::new(1);
    node.connack(2, connect);
    node.subscribe_with(2, "t", options(QoS::AtLeastOnce));
    for payload in ["in flight", "waits"] {
        node.publish(1, publish("t", QoS::AtLeastOnce, 1, payload));
    }
    let filters = ["t", "never", "a#"].map(ByteString::from).into();
    node.seen(2);
    node.packet(2, Packet::Unsubscribe(Unsubscribe { packet_id: id(9), user_properties: vec![], filters }));
    let seen = node.seen(2);
    let Packet::UnsubAck(unsuback) = &seen[0] else { panic!("{seen:?}") };
    // [MQTT-3.10.4-4], [MQTT-3.11.3-1]
    let expected = [ReasonCode::Success, ReasonCode::NoSubscriptionExisted, ReasonCode::TopicFilterInvalid];
    assert_eq!(unsuback.reasons, expected);
    // [MQTT-3.10.4-2], [MQTT-3.10.4-3]
    node.publish(1, publish("t", QoS::AtLeastOnce, 1, "too late"));
    node.packet(2, Packet::PubAck(ack(1, ReasonCode::Success)));
    assert_eq!(node.payloads(2), ["waits"]);
}

#[test]
fn properties_of_a_message_are_forwarded_unaltered() {
    // [MQTT-3.3.2-4], [MQTT-3.3.2-15], [MQTT-3.3.2-16], [MQTT-3.3.2-17], [MQTT-3.3.2-20]
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "dispatcher");
    node.subscribe(2, "t", QoS::AtLeastOnce);
    node.drop_connection(2);
    let mut p = publish("t", QoS::AtLeastOnce, 1, "x");
    p.properties = PublishProperties {
        payload_format_utf8: Some(true),
        response_topic: Some("answer".into()),
        correlation_data: Some(Bytes::from_static(&[0, 255])),
        content_type: Some("text/plain".into()),
        user_properties: vec![("b".into(), "1".into()), ("a".into(), "2".into()), ("b".into(), "3".into())],
        ..PublishProperties::default()
    }
    .into();
    node.publish(1, p.clone());
    node.restart_from_checkpoint();
    node.connect_with(3, durable("dispatcher"));
    let mut got = node.publishes(3).remove(0).properties;
    got.user_properties.truncate(3);
    assert_eq!(got, p.properties);
}
