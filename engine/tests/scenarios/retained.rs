//! Retained messages (MQTT 5.0 sections 3.3.1.3, 3.3.2.3.3 and 3.8.3.1).

use crate::node::*;
use engine::Config;
use protocol::*;

fn retained(topic: &str, payload: &'static str) -> Publish {
    Publish { retain: true, ..publish(topic, QoS::AtLeastOnce, 1, payload) }
}

fn handling(retain_handling: RetainHandling) -> SubscribeOptions {
    SubscribeOptions { retain_handling, ..options(QoS::AtLeastOnce) }
}

#[test]
fn the_newest_retained_message_comes_with_a_new_subscription_and_an_empty_one_removes_it() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "dispatcher");
    for payload in ["old", "new"] {
        node.publish(1, retained("t", payload));
    }
    node.packet(2, subscribe("t", options(QoS::AtMostOnce)));
    // [MQTT-3.3.1-5], [MQTT-3.3.1-8] (3.1.1)
    assert!(matches!(&node.publishes(2)[..], [p] if p.payload == "new" && p.retain));
    // [MQTT-3.3.1-6], [MQTT-3.3.1-7]; it goes to subscribers like any other, [MQTT-3.3.1-12] not as retained.
    node.publish(1, retained("t", ""));
    assert!(matches!(&node.publishes(2)[..], [p] if p.payload.is_empty() && !p.retain));
    node.packet(2, subscribe("t", options(QoS::AtMostOnce)));
    assert_eq!(node.publishes(2), []);
    node.restart(usize::MAX);
    assert_eq!(node.shard.stats().retained, 0);
}

#[test]
fn retain_handling_says_when_retained_messages_come() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.publish(1, retained("t", "x"));
    for (handling_, first, again) in [
        (RetainHandling::Send, 1, 1),      // [MQTT-3.3.1-9]
        (RetainHandling::SendIfNew, 1, 0), // [MQTT-3.3.1-10]
        (RetainHandling::DoNotSend, 0, 0), // [MQTT-3.3.1-11]
    ] {
        node.connect_with(2, volatile("dispatcher"));
        for expected in [first, again] {
            node.packet(2, subscribe("t", handling(handling_)));
            assert_eq!(node.publishes(2).len(), expected, "{handling_:?}");
        }
        node.drop_connection(2);
        node.closed.clear();
    }
}

#[test]
fn retain_as_published_keeps_the_flag_of_live_messages() {
    // [MQTT-3.3.1-12], [MQTT-3.3.1-13]
    let mut node = Node::new();
    node.connect(1, "truck");
    for (conn, retain_as_published) in [(2, false), (3, true)] {
        node.connect(conn, &conn.to_string());
        node.subscribe_with(conn, "t", SubscribeOptions { retain_as_published, ..options(QoS::AtLeastOnce) });
        node.publish(1, retained("t", "x"));
        node.publish(1, publish("t", QoS::AtLeastOnce, 1, "x"));
        let flags: Vec<_> = node.publishes(conn).iter().map(|p| p.retain).collect();
        assert_eq!(flags, [retain_as_published, false]);
        node.publish(1, retained("t", ""));
    }
}

#[test]
fn the_time_that_a_retained_message_waited_is_taken_from_its_expiry() {
    // [MQTT-3.3.2-6]
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "dispatcher");
    let mut kept = retained("t", "x");
    kept.properties.message_expiry_interval_s = Some(60);
    node.publish(1, kept);
    node.pass_s(20);
    node.restart(usize::MAX);
    node.pass_s(20);
    node.connect(3, "dispatcher");
    node.packet(3, subscribe("t", options(QoS::AtLeastOnce)));
    assert_eq!(node.publishes(3)[0].properties.message_expiry_interval_s, Some(20));
    // [MQTT-3.3.2-5]
    node.pass_s(20);
    assert_eq!(node.shard.stats().retained, 0);
    assert_eq!(node.shard.stats().deadlines, 1, "the absent truck's");
    node.packet(3, subscribe("t", options(QoS::AtLeastOnce)));
    assert_eq!(node.publishes(3), []);
    node.restart(usize::MAX);
    assert_eq!(node.shard.stats().retained, 0);
}

#[test]
fn expired_retained_messages_make_room_for_new_ones() {
    let mut node = Node::with(Config { retained_messages_max: 100, ..Config::default() });
    node.connect(1, "truck");
    for n in 0..100 {
        let mut kept = retained(&format!("t/{n}"), "x");
        kept.properties.message_expiry_interval_s = Some(1 + n % 2);
        node.publish(1, kept);
    }
    assert_eq!(node.publish(1, retained("t/100", "x")), ReasonCode::QuotaExceeded);
    // A known topic needs no new place.
    assert_eq!(node.publish(1, retained("t/99", "x")), ReasonCode::NoMatchingSubscribers);
    node.pass_s(1);
    assert_eq!(node.shard.stats().retained, 50);
    assert_eq!(node.publish(1, retained("t/100", "x")), ReasonCode::NoMatchingSubscribers);
    node.pass_s(2);
    assert_eq!(node.shard.stats().retained, 2);
}

#[test]
fn the_bytes_of_retained_messages_have_a_limit() {
    let mut node = Node::with(Config { retained_bytes_max: 1_000, ..Config::default() });
    node.connect(1, "truck");
    let large = |topic, bytes| Publish { payload: vec![b'x'; bytes].into(), ..retained(topic, "") };
    assert_eq!(node.publish(1, large("a", 800)), ReasonCode::NoMatchingSubscribers);
    assert_eq!(node.publish(1, large("b", 800)), ReasonCode::QuotaExceeded);
    assert_eq!(node.publish(1, large("a", 900)), ReasonCode::NoMatchingSubscribers);
    assert_eq!(node.publish(1, retained("a", "")), ReasonCode::NoMatchingSubscribers);
    assert_eq!(node.publish(1, large("b", 800)), ReasonCode::NoMatchingSubscribers);
}

#[test]
fn a_filter_that_brings_more_retained_messages_than_allowed_is_refused_and_others_are_not() {
    let config = Config { retained_per_subscribe_max: 5, retained_compared_max: 12, ..Config::default() };
    let mut node = Node::with(config);
    node.connect(1, "truck");
    for n in 0..10 {
        node.publish(1, retained(&format!("t/{n}"), "x"));
    }
    assert_eq!(node.subscribe_with(1, "#", options(QoS::AtLeastOnce)), ReasonCode::QuotaExceeded);
    assert_eq!(node.shard.stats().subscriptions, 0);
    let none = handling(RetainHandling::DoNotSend);
    assert_eq!(node.subscribe_with(1, "#", none), ReasonCode::GrantedQoS1);
    let filters = ["+/a", "+/b", "+/c", "t/1"];
    let filters = filters.map(|f| SubscribeFilter { filter: f.into(), options: options(QoS::AtMostOnce) });
    let Packet::Subscribe(many) = subscribe("x", none) else { unreachable!() };
    node.packet(1, Packet::Subscribe(Subscribe { filters: filters.into(), ..many }));
    let seen = node.seen(1);
    let Packet::SubAck(suback) = &seen[0] else { panic!("{seen:?}") };
    let ok = ReasonCode::Success;
    assert_eq!(suback.reasons, [ok, ok, ReasonCode::QuotaExceeded, ok]);
    assert!(suback.properties.reason_string.is_some());
}

#[test]
fn a_retained_message_overtakes_nothing_that_waits() {
    let mut node = Node::new();
    node.connect(1, "truck");
    let mut connect = durable("dispatcher");
    connect.properties.receive_maximum = std::num::NonZeroU16::new(1);
    node.connack(2, connect);
    node.subscribe_with(2, "t", options(QoS::AtLeastOnce));
    for payload in ["1", "2", "3"] {
        node.publish(1, retained("t", payload));
    }
    node.packet(2, subscribe("t/#", options(QoS::AtLeastOnce)));
    node.publish(1, publish("t", QoS::AtLeastOnce, 1, "4"));
    let mut got = Vec::new();
    for n in 1.. {
        let now = node.payloads(2);
        if now.is_empty() {
            break;
        }
        got.extend(now);
        node.packet(2, Packet::PubAck(ack(n, ReasonCode::Success)));
    }
    assert_eq!(got, ["1", "2", "3", "3", "4"]);
}
