//! Bounds of a principal: the lower of its own and the node's holds.

use std::num::{NonZeroU16, NonZeroU32};

use crate::node::*;
use engine::{Config, ConnId, Input, Principal, SessionLimits};
use protocol::*;

fn bounded(limits: SessionLimits) -> Principal {
    Principal { limits, ..Principal::default() }
}

fn connack(node: &mut Node, conn: u64, connect: Connect, limits: SessionLimits) -> ConnAck {
    node.connect_principal(conn, connect, bounded(limits));
    match &node.seen(conn)[..] {
        [Packet::ConnAck(connack), ..] => ConnAck::clone(connack),
        other => panic!("no CONNACK: {other:?}"),
    }
}

#[test]
fn connack_tells_the_lower_bounds() {
    let config = Config { receive_maximum: 20, packet_bytes_max: 5_000, ..Config::default() };
    for (own, receive_maximum, packet_bytes_max, expiry_s) in [
        ((None, None, None), 20, 5_000, None),
        ((Some(3), Some(700), Some(60)), 3, 700, Some(60)),
        ((Some(30), Some(7_000), Some(7_200)), 20, 5_000, None),
    ] {
        let mut node = Node::with(config.clone());
        let limits = SessionLimits {
            receive_maximum: own.0.and_then(NonZeroU16::new),
            packet_bytes_max: own.1.and_then(NonZeroU32::new),
            session_expiry_max_s: own.2,
            ..SessionLimits::default()
        };
        let told = connack(&mut node, 1, durable("c"), limits).properties;
        assert_eq!(told.receive_maximum.map(NonZeroU16::get), Some(receive_maximum));
        assert_eq!(told.packet_bytes_max.map(NonZeroU32::get), Some(packet_bytes_max));
        assert_eq!(told.session_expiry_interval_s, expiry_s);
    }
}

#[test]
fn more_unacknowledged_publishes_than_told_end_the_connection() {
    // [MQTT-3.3.4-7]
    let mut node = Node::new();
    let limits = SessionLimits { receive_maximum: NonZeroU16::new(2), ..SessionLimits::default() };
    connack(&mut node, 1, durable("c"), limits);
    node.auto_commit = false;
    node.packet(1, Packet::Publish(publish("t", QoS::ExactlyOnce, 1, "x")));
    node.packet(1, Packet::Publish(publish("t", QoS::ExactlyOnce, 2, "x")));
    assert!(!node.closed.contains_key(&1));
    node.packet(1, Packet::Publish(publish("t", QoS::ExactlyOnce, 3, "x")));
    node.commit();
    assert_eq!(node.goodbye(1), Some(ReasonCode::ReceiveMaximumExceeded));
}

#[test]
fn subscriptions_levels_and_flight_have_the_principals_bounds() {
    let mut node = Node::new();
    let limits = SessionLimits {
        subscriptions_max: Some(2),
        topic_levels_max: Some(3),
        inflight_max: NonZeroU16::new(1),
        ..SessionLimits::default()
    };
    connack(&mut node, 1, durable("c"), limits);
    for (filter, reason) in [
        ("a/b/c/d", ReasonCode::TopicFilterInvalid),
        ("a/b/c", ReasonCode::GrantedQoS1),
        ("t", ReasonCode::GrantedQoS1),
        ("u", ReasonCode::QuotaExceeded),
        ("t", ReasonCode::GrantedQoS1),
    ] {
        assert_eq!(node.subscribe_with(1, filter, options(QoS::AtLeastOnce)), reason, "{filter}");
    }
    assert_eq!(node.publish(1, publish("a/b/c/d", QoS::AtLeastOnce, 1, "x")), ReasonCode::TopicNameInvalid);
    node.connect(2, "other");
    for n in 1..=3 {
        node.packet(2, Packet::Publish(publish("t", QoS::AtLeastOnce, n, "x")));
    }
    assert_eq!(node.publishes(1).len(), 1);
    // Authenticated again with another bound, more goes out.
    let limits = SessionLimits { inflight_max: NonZeroU16::new(2), ..limits };
    node.input(Input::Principal { conn: engine::ConnId(1), principal: Box::new(bounded(limits)) });
    node.packet(1, Packet::PubAck(ack(1, ReasonCode::Success)));
    assert_eq!(node.publishes(1).len(), 2);
}

#[test]
fn a_queue_keeps_its_principals_bounds_while_nobody_is_connected() {
    let mut node = Node::new();
    node.connect(1, "sender");
    let limits = SessionLimits { queue_messages_max: Some(2), ..SessionLimits::default() };
    connack(&mut node, 2, durable("c"), limits);
    node.subscribe(2, "t", QoS::AtLeastOnce);
    node.drop_connection(2);
    for (n, payload) in (1..).zip(["m1", "m2", "m3"]) {
        node.packet(1, Packet::Publish(publish("t", QoS::AtLeastOnce, n, payload)));
    }
    assert_eq!(node.shard.stats().queued, 2);
    // A lower bound trims what is there.
    let limits = SessionLimits { queue_messages_max: Some(1), ..SessionLimits::default() };
    let records = node.log.len();
    node.restart(records);
    assert_eq!(node.shard.stats().queued, 2, "whose queue it is is not known yet");
    node.connect_principal(3, Connect { properties: one_at_a_time(), ..durable("c") }, bounded(limits));
    node.pass_ms(0);
    // One is in flight, one may wait.
    assert_eq!(node.payloads(3), ["m2"]);
}

fn one_at_a_time() -> ConnectProperties {
    let receive_maximum = NonZeroU16::new(1);
    ConnectProperties { session_expiry_interval_s: Some(3600), receive_maximum, ..Default::default() }
}

#[test]
fn a_session_ends_after_the_principals_expiry_also_when_disconnect_asks_for_more() {
    let mut node = Node::new();
    let limits = SessionLimits { session_expiry_max_s: Some(10), ..SessionLimits::default() };
    connack(&mut node, 1, durable("c"), limits);
    let properties =
        DisconnectProperties { session_expiry_interval_s: Some(3_600), ..DisconnectProperties::default() };
    let disconnect = Disconnect { reason: ReasonCode::Success, properties: properties.into() };
    node.packet(1, Packet::Disconnect(disconnect));
    node.pass_s(9);
    assert_eq!(node.shard.stats().sessions, 1);
    node.pass_s(2);
    assert_eq!(node.shard.stats().sessions, 0);
}

#[test]
fn a_qos_2_publish_that_was_taken_is_not_refused_when_it_is_sent_again() {
    // [MQTT-4.3.3-10]: refused, its packet id would be free for the client and still taken here.
    let mut node = Node::new();
    node.connect(1, "sender");
    node.connect(2, "reader");
    node.subscribe(2, "t", QoS::AtLeastOnce);
    assert_eq!(node.publish(1, publish("t", QoS::ExactlyOnce, 1, "m1")), ReasonCode::Success);
    let refused = |packet_id| Input::Refused {
        conn: ConnId(1),
        publish: Box::new(publish("t", QoS::ExactlyOnce, packet_id, "m")),
        reason: ReasonCode::QuotaExceeded,
        what: "too fast".to_owned(),
    };
    node.input(refused(1));
    node.input(refused(2));
    let told: Vec<_> = node
        .seen(1)
        .into_iter()
        .map(|p| match p {
            Packet::PubRec(ack) => (ack.packet_id.get(), ack.reason),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [(1, ReasonCode::Success), (2, ReasonCode::QuotaExceeded)]);
    node.packet(1, Packet::PubRel(ack(1, ReasonCode::Success)));
    assert_eq!(node.publish(1, publish("t", QoS::ExactlyOnce, 1, "m2")), ReasonCode::Success);
    assert_eq!(node.payloads(2), ["m1", "m2"]);
}
