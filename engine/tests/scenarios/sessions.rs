//! Sessions: present or not, taken over, ended by their time (MQTT 5.0 sections 3.1 and 4.1).

use crate::node::*;
use engine::{CloseReason, Config};
use protocol::*;

#[test]
fn a_session_ends_by_its_expiry_also_when_the_broker_was_down_meanwhile() {
    for (away_s, present) in [(3_590, true), (3_610, false)] {
        let mut node = Node::new();
        node.connect(1, "truck");
        node.drop_connection(1);
        node.now.unix_ms += away_s * 1000;
        node.now.monotonic_ms = 5;
        node.restart(usize::MAX);
        node.pass_ms(1);
        assert_eq!(node.connect(2, "truck"), present, "{away_s} s");
    }
}

#[test]
fn clean_start_discards_the_session_and_otherwise_it_is_resumed() {
    // [MQTT-3.1.2-4], [MQTT-3.1.2-5], [MQTT-3.1.2-6]
    let mut node = Node::new();
    assert!(!node.connect(1, "truck"));
    node.subscribe(1, "t", QoS::AtLeastOnce);
    node.drop_connection(1);
    assert!(node.connect(2, "truck"));
    node.publish(2, publish("t", QoS::AtLeastOnce, 1, "x"));
    assert_eq!(node.payloads(2), ["x"]);
    node.drop_connection(2);
    let connack = node.connack(3, Connect { clean_start: true, ..durable("truck") });
    assert!(!connack.session_present);
    assert_eq!(node.seen(3), [], "nothing is left of the old one");
    let reason = node.publish(3, publish("t", QoS::AtLeastOnce, 1, "x"));
    assert_eq!(reason, ReasonCode::NoMatchingSubscribers);
    node.restart(usize::MAX);
    assert!(node.connect(4, "truck"), "the new one is durable");
}

#[test]
fn a_takeover_tells_the_old_connection_and_resends_to_the_new_one_in_order() {
    // [MQTT-3.1.4-3], [MQTT-4.4.0-1], [MQTT-4.6.0-1] (3.1.1)
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "dispatcher");
    node.subscribe(2, "t", QoS::AtLeastOnce);
    for payload in ["1", "2", "3"] {
        node.publish(1, publish("t", QoS::AtLeastOnce, 1, payload));
    }
    node.packet(2, Packet::PubAck(ack(2, ReasonCode::Success)));
    node.connect_with(3, durable("dispatcher"));
    assert_eq!(node.closed[&2], CloseReason::TakenOver);
    assert_eq!(node.goodbye(2), Some(ReasonCode::SessionTakenOver));
    let again: Vec<_> = node.publishes(3).iter().map(|p| (p.packet_id, p.dup, p.payload.clone())).collect();
    assert_eq!(again, [(Some(id(1)), true, "1".into()), (Some(id(3)), true, "3".into())]);
    // What the old connection still says means nothing.
    node.packet(2, Packet::PubAck(ack(1, ReasonCode::Success)));
    node.drop_connection(2);
    assert_eq!(node.shard.stats().queued, 2);
    assert_eq!(node.shard.stats().connections, 2);
}

#[test]
fn another_users_connect_disturbs_nothing() {
    // docs/protocol.md section 1
    let mut node = Node::new();
    node.connect_as(1, durable("truck"), Some("alice"));
    node.seen(1);
    node.connect_as(2, Connect { clean_start: true, ..durable("truck") }, Some("bob"));
    let seen = node.seen(2);
    assert!(matches!(&seen[..], [Packet::ConnAck(c)] if c.reason == ReasonCode::ClientIdentifierNotValid));
    assert!(!node.closed.contains_key(&1));
    // Once it has expired it is nobody's, although its timer did not come yet.
    node.drop_connection(1);
    node.now.monotonic_ms += 3_600_000;
    node.connect_as(3, durable("truck"), Some("bob"));
    assert!(
        matches!(&node.seen(3)[..], [Packet::ConnAck(c)] if !c.reason.is_failure() && !c.session_present)
    );
}

#[test]
fn disconnect_may_change_the_expiry_but_not_make_a_passing_session_stay() {
    // Section 3.14.2.2.2
    let bye = |expiry_s| {
        let session_expiry_interval_s = Some(expiry_s);
        let properties = DisconnectProperties { session_expiry_interval_s, ..Default::default() };
        Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties: properties.into() })
    };
    let mut node = Node::new();
    node.connect(1, "truck");
    node.packet(1, bye(10));
    node.pass_s(9);
    node.restart(usize::MAX);
    assert!(node.connect(2, "truck"));
    node.packet(2, bye(10));
    node.pass_s(10);
    assert_eq!(node.shard.stats().sessions, 0);
    node.connect(3, "truck");
    node.packet(3, bye(0));
    assert_eq!(node.shard.stats().sessions, 0);
    node.connack(4, volatile("truck"));
    node.packet(4, bye(10));
    assert_eq!(node.goodbye(4), Some(ReasonCode::ProtocolError));
    assert_eq!(node.shard.stats().sessions, 0);
}

#[test]
fn the_expiry_granted_is_told_when_it_is_not_the_one_asked_for() {
    let mut node = Node::with(Config { session_expiry_max_s: 100, ..Config::default() });
    for (conn, asked, told) in [(1, None, None), (2, Some(100), None), (3, Some(u32::MAX), Some(100))] {
        let mut connect = volatile("truck");
        connect.properties.session_expiry_interval_s = asked;
        assert_eq!(node.connack(conn, connect).properties.session_expiry_interval_s, told, "{asked:?}");
    }
    let mut node = Node::with(Config { session_expiry_max_s: u32::MAX, ..Config::default() });
    let mut connect = volatile("truck");
    connect.properties.session_expiry_interval_s = Some(u32::MAX);
    node.connack(1, connect);
    node.drop_connection(1);
    node.pass_s(u64::from(u32::MAX));
    assert_eq!((node.shard.stats().sessions, node.shard.stats().deadlines), (1, 0), "it never ends");
}

#[test]
fn a_session_that_was_connected_at_a_crash_does_not_begin_its_time_anew_at_each_restart() {
    let mut node = Node::new();
    node.connect(1, "truck");
    for _ in 0..4 {
        node.restart(usize::MAX);
        node.pass_s(1_000);
    }
    assert_eq!(node.shard.stats().sessions, 0, "its expiry is 3,600 s");
}

#[test]
fn a_passing_session_dies_with_a_takeover_and_with_the_broker() {
    let mut node = Node::new();
    node.connack(1, Connect { clean_start: false, ..volatile("truck") });
    node.subscribe(1, "t", QoS::AtLeastOnce);
    assert!(!node.connack(2, Connect { clean_start: false, ..volatile("truck") }).session_present);
    assert_eq!(node.shard.stats().subscriptions, 0);
    node.restart(usize::MAX);
    assert_eq!(node.shard.stats().sessions, 0);
}

#[test]
fn queued_messages_expire_while_the_client_is_away() {
    // [MQTT-3.3.2-5], [MQTT-3.3.2-6]
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "dispatcher");
    node.subscribe(2, "t", QoS::AtLeastOnce);
    node.drop_connection(2);
    for (expiry_s, payload) in [(Some(10), "short"), (Some(100), "long"), (None, "for ever")] {
        let mut p = publish("t", QoS::AtLeastOnce, 1, payload);
        p.properties.message_expiry_interval_s = expiry_s;
        node.publish(1, p);
    }
    node.pass_s(40);
    node.restart(usize::MAX);
    node.connect_with(3, durable("dispatcher"));
    let got: Vec<_> = node
        .publishes(3)
        .iter()
        .map(|p| (p.payload.clone(), p.properties.message_expiry_interval_s))
        .collect();
    assert_eq!(got, [("long".into(), Some(60)), ("for ever".into(), None)]);
}

#[test]
fn thousands_of_expired_messages_in_front_do_not_hold_the_fresh_one_back() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "dispatcher");
    node.subscribe(2, "t", QoS::AtLeastOnce);
    node.drop_connection(2);
    for _ in 0..5_000 {
        let mut p = publish("t", QoS::AtLeastOnce, 1, "old");
        p.properties.message_expiry_interval_s = Some(1);
        node.publish(1, p);
    }
    node.publish(1, publish("t", QoS::AtLeastOnce, 1, "fresh"));
    node.pass_s(2);
    let before = node.log.len();
    node.connect_with(3, durable("dispatcher"));
    assert_eq!(node.payloads(3), ["fresh"]);
    let largest = node.log[before..].iter().map(Bytes::len).max().unwrap();
    assert!(largest < 4 * 1024, "{largest}");
    node.restart(usize::MAX);
    assert_eq!(node.shard.stats().queued, 1);
}
