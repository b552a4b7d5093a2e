//! What messages ask of queues: collapse keys and priority (docs/protocol.md section 2).

use std::num::NonZeroU16;

use crate::node::*;
use engine::{Config, ConversationRule, Input, OnFull};
use protocol::*;

/// A publish of `payload` with the given user properties, `name=value`.
fn with(topic: &str, payload: &'static str, properties: &[&str]) -> Packet {
    let mut publish = publish(topic, QoS::AtLeastOnce, 1, payload);
    for property in properties {
        let (name, value) = property.split_once('=').unwrap();
        publish.properties.user_properties.push((name.into(), value.into()));
    }
    Packet::Publish(publish)
}

/// A truck on connection 1 that hears receipts, and a dispatcher who is away, subscribed to all.
fn node_with(config: Config) -> Node {
    let mut node = Node::with(config);
    node.connect(1, "truck");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    node.connect(2, "dispatcher");
    node.subscribe(2, "t/#", QoS::AtLeastOnce);
    node.subscribe(2, "im/#", QoS::AtLeastOnce);
    node.drop_connection(2);
    node
}

fn node() -> Node {
    node_with(Config::default())
}

/// Brings the dispatcher back on this connection and returns what it gets.
fn come_back(node: &mut Node, conn: u64) -> Vec<String> {
    node.connect_with(conn, durable("dispatcher"));
    node.payloads(conn)
}

#[test]
fn a_newer_message_with_the_same_key_takes_the_place_of_an_older_one_at_the_end() {
    for from_checkpoint in [false, true] {
        let mut node = node();
        let all = "im-receipt=all";
        for packet in [
            with("t/1", "a1", &["im-collapse=k", "im-id=a1", all]),
            with("t/1", "other key", &["im-collapse=l"]),
            with("t/2", "other topic", &["im-collapse=k"]),
            with("t/1", "no key", &[]),
        ] {
            node.packet(1, packet);
        }
        match from_checkpoint {
            true => node.restart_from_checkpoint(),
            false => node.restart(usize::MAX),
        }
        node.connect(3, "truck");
        node.connect(4, "another user");
        node.packet(4, with("t/1", "another user's", &["im-collapse=k"]));
        node.packet(3, with("t/1", "a2", &["im-collapse=k", "im-id=a2", all]));
        assert_eq!(receipts(&mut node, 3), ["a1 dropped dispatcher collapsed"]);
        node.restart(usize::MAX);
        let expected = ["other key", "other topic", "no key", "another user's", "a2"];
        assert_eq!(come_back(&mut node, 5), expected);
    }
}

#[test]
fn what_was_sent_is_not_collapsed() {
    let mut node = node();
    node.packet(1, with("t/1", "1", &["im-collapse=k"]));
    assert_eq!(come_back(&mut node, 3), ["1"]);
    node.drop_connection(3);
    node.packet(1, with("t/1", "2", &["im-collapse=k"]));
    node.packet(1, with("t/1", "3", &["im-collapse=k"]));
    assert_eq!(come_back(&mut node, 4), ["1", "3"]);
}

#[test]
fn a_rule_collapses_by_topic_and_user_and_a_conversation_keeps_its_numbers() {
    let filter = TopicFilter::parse("im/#".into()).unwrap();
    let rule = ConversationRule { collapse: true, ..ConversationRule::new(filter) };
    let mut node = node_with(Config { conversations: vec![rule], ..Config::default() });
    for payload in ["1", "2", "3"] {
        node.packet(1, with("im/a", payload, &[]));
    }
    node.packet(1, with("im/b", "other topic", &[]));
    node.connect_with(3, durable("dispatcher"));
    let got = node.publishes(3);
    let seq = |p: &Publish| property(&p.properties.user_properties, im::IM_SEQ).unwrap().to_owned();
    let got: Vec<_> = got.iter().map(|p| (String::from_utf8(p.payload.to_vec()).unwrap(), seq(p))).collect();
    assert_eq!(got, [("3".into(), "3".into()), ("other topic".into(), "1".into())]);
}

#[test]
fn a_collapsing_message_finds_room_in_a_full_queue_that_refuses() {
    let config = Config { queue_messages_max: 2, on_full: OnFull::Reject, ..Config::default() };
    let mut node = node_with(config);
    let reason = |node: &mut Node, packet| {
        let Packet::Publish(publish) = packet else { unreachable!() };
        node.publish(1, publish)
    };
    assert_eq!(reason(&mut node, with("t/1", "1", &["im-collapse=k"])), ReasonCode::Success);
    assert_eq!(reason(&mut node, with("t/1", "other", &[])), ReasonCode::Success);
    assert_eq!(reason(&mut node, with("t/1", "refused", &["im-collapse=l"])), ReasonCode::QuotaExceeded);
    assert_eq!(reason(&mut node, with("t/1", "2", &["im-collapse=k"])), ReasonCode::Success);
    assert_eq!(come_back(&mut node, 3), ["other", "2"]);
}

#[test]
fn a_queue_is_drained_high_first_and_order_inside_a_topic_stays() {
    for restart in [None, Some(false), Some(true)] {
        let mut node = node();
        for packet in [
            with("t/1", "1 first", &[]),
            with("t/2", "2 first", &[]),
            with("t/3", "3 first", &[]),
            with("t/2", "2 high", &["im-priority=high"]),
            with("t/1", "1 second", &["im-priority=normal"]),
            with("t/2", "2 last", &[]),
            with("t/1", "1 high", &["im-priority=high"]),
        ] {
            node.packet(1, packet);
        }
        match restart {
            Some(true) => node.restart_from_checkpoint(),
            Some(false) => node.restart(usize::MAX),
            None => {}
        }
        let expected = ["2 first", "2 high", "1 first", "1 second", "1 high", "3 first", "2 last"];
        assert_eq!(come_back(&mut node, 3), expected, "{restart:?}");
    }
}

#[test]
fn what_is_in_flight_is_sent_again_before_what_is_high() {
    let mut node = node();
    for payload in ["1", "2", "3"] {
        node.packet(1, with("t/1", payload, &[]));
    }
    let mut narrow = durable("dispatcher");
    narrow.properties.receive_maximum = NonZeroU16::new(1);
    node.connect_with(3, narrow.clone());
    assert_eq!(node.payloads(3), ["1"]);
    node.packet(1, with("t/2", "high", &["im-priority=high"]));
    // While it is connected too.
    node.packet(3, Packet::PubAck(ack(1, ReasonCode::Success)));
    assert_eq!(node.payloads(3), ["high"]);
    node.packet(1, with("t/2", "high 2", &["im-priority=high"]));
    node.restart(usize::MAX);
    assert_eq!(come_back(&mut node, 4), ["high", "high 2", "2", "3"]);
}

#[test]
fn a_rule_gives_priority_to_those_who_cannot_ask() {
    let filter = TopicFilter::parse("im/alarm".into()).unwrap();
    let rule = ConversationRule { is_high: true, ..ConversationRule::new(filter) };
    let mut node = node_with(Config { conversations: vec![rule], ..Config::default() });
    node.connack(3, version_3("old", true));
    node.packet(3, Packet::Publish(publish("t/1", QoS::AtLeastOnce, 1, "ordinary")));
    node.packet(3, Packet::Publish(publish("im/alarm", QoS::AtLeastOnce, 2, "alarm")));
    assert_eq!(come_back(&mut node, 4), ["alarm", "ordinary"]);
}

#[test]
fn high_and_collapsing_messages_of_a_long_queue_are_sent_without_looking_through_it() {
    let mut node = node();
    for n in 0..20_000u32 {
        let properties = if n % 2 == 1 { ["im-priority=high"] } else { ["im-collapse=k"] };
        node.packet(1, with(&format!("t/{}", n % 7_000), "x", &properties));
    }
    let queued = node.shard.stats().queued;
    assert!(queued < 20_000, "{queued}");
    node.connect_with(3, durable("dispatcher"));
    let mut taken = 0;
    loop {
        let publishes = node.publishes(3);
        if publishes.is_empty() {
            break;
        }
        for p in publishes {
            taken += 1;
            node.packet(3, Packet::PubAck(Ack::new(p.packet_id.unwrap(), ReasonCode::Success)));
        }
        node.input(Input::Timer);
    }
    assert_eq!((taken, node.shard.stats().queued), (queued, 0));
}

#[test]
fn a_newer_message_that_finds_no_room_leaves_the_older_one() {
    let [half, more, large]: [&'static str; 3] = [500, 600, 900].map(|bytes| &*"x".repeat(bytes).leak());
    let keyed = |payload| with("t/1", payload, &["im-collapse=k"]);
    for (on_full, sent, expected) in [
        (
            OnFull::DropNewest,
            vec![keyed("first"), with("t/1", "other", &[]), keyed(large), keyed("newest")],
            vec!["other", "newest"],
        ),
        // What fits only in the place of the older one.
        (OnFull::DropNewest, vec![keyed(half), keyed(more)], vec![more]),
        (OnFull::DropOldest, vec![keyed(half), keyed(more)], vec![more]),
        // What can never fit.
        (OnFull::DropNewest, vec![keyed("kept"), keyed(large)], vec!["kept"]),
        (OnFull::DropOldest, vec![keyed("kept"), keyed(large)], vec!["kept"]),
        // What fits beside others only if they go.
        (OnFull::DropNewest, vec![keyed("kept"), with("t/1", half, &[]), keyed(more)], vec!["kept", half]),
        (OnFull::DropOldest, vec![keyed("gone"), with("t/1", half, &[]), keyed(more)], vec![more]),
    ] {
        let mut node = node_with(Config { queue_bytes_max: 1_000, on_full, ..Config::default() });
        sent.into_iter().for_each(|packet| node.packet(1, packet));
        assert_eq!(come_back(&mut node, 3), expected, "{on_full:?}");
    }
}
