//! Sessions that get all of their user's conversations and come back to thousands that they missed
//! (docs/protocol.md section 6).

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use crate::node::*;
use engine::{Config, Input};
use protocol::*;

fn user(node: &mut Node, conn: u64, client: &str, name: &'static str) {
    node.connect_as(conn, durable(client), Some(name));
    node.take_connack(conn);
}

fn post(node: &mut Node, conn: u64, topic: &str, payload: &'static str) {
    assert_eq!(node.publish(conn, publish(topic, QoS::AtLeastOnce, 1, payload)), ReasonCode::Success);
}

/// A session that gets its user's conversations, and has been away.
fn away(node: &mut Node, conn: u64, name: &'static str) {
    user(node, conn, name, name);
    node.subscribe(conn, "$im/mine", QoS::AtLeastOnce);
    node.drop_connection(conn);
}

/// Takes what comes, acknowledges it, and counts it by its topic.
fn take_all(node: &mut Node, conn: u64, counts: &mut BTreeMap<String, usize>) {
    loop {
        let publishes = node.publishes(conn);
        if publishes.is_empty() {
            return;
        }
        for p in publishes {
            let message = format!("{} {}", p.topic, String::from_utf8_lossy(&p.payload));
            *counts.entry(message).or_default() += 1;
            node.packet(conn, Packet::PubAck(ack(p.packet_id.unwrap().get(), ReasonCode::Success)));
        }
    }
}

#[test]
fn a_session_that_missed_thousands_of_conversations_comes_back_in_portions_and_gets_each_message_once() {
    const CONVERSATIONS: usize = 5_000;
    let mut node = Node::with(Config { inflight_max: 10, ..Config::default() });
    let topics: Vec<_> = (0..CONVERSATIONS).map(|n| format!("im/{n:04}")).collect();
    for topic in &topics {
        node.join(topic, "bob");
    }
    away(&mut node, 1, "bob");
    user(&mut node, 2, "alice", "alice");
    for topic in &topics {
        post(&mut node, 2, topic, "1");
    }
    let before = node.log.len();
    // What it is sent is still being read, so that nothing goes on by itself.
    node.auto_fetch = false;
    user(&mut node, 3, "bob", "bob");
    assert_eq!(node.shard.next_deadline_ms(), Some(0), "some of it is left to do");
    let largest = |node: &Node, from: usize| node.log[from..].iter().map(Bytes::len).max().unwrap();
    assert!(largest(&node, before) < 20_000, "{} bytes", largest(&node, before));
    // Cut off in the middle of it, it misses more of what it has its cursors for already, and of the rest.
    node.drop_connection(3);
    for topic in [&topics[0], &topics[CONVERSATIONS - 1]] {
        post(&mut node, 2, topic, "2");
    }
    // The same when the broker dies.
    for (conn, from_view) in [(4, false), (6, true)] {
        user(&mut node, conn, "bob", "bob");
        assert_eq!(node.shard.next_deadline_ms(), Some(0));
        match from_view {
            true => node.restart_from_view(&[1_000, before, before + 1]),
            false => node.restart(usize::MAX),
        }
        node.pass_ms(1);
        user(&mut node, conn + 1, "alice", "alice");
        post(&mut node, conn + 1, &topics[1], if from_view { "3" } else { "2" });
    }
    let before = node.log.len();
    node.auto_fetch = true;
    user(&mut node, 8, "bob", "bob");
    post(&mut node, 7, &topics[0], "3");
    node.join("im/zzz", "bob");
    post(&mut node, 7, "im/zzz", "1");
    let mut counts = BTreeMap::new();
    for _ in 0..20 {
        node.input(Input::Timer);
        take_all(&mut node, 8, &mut counts);
    }
    assert!(largest(&node, before) < 20_000, "{} bytes", largest(&node, before));
    post(&mut node, 7, &topics[2], "live");
    take_all(&mut node, 8, &mut counts);
    // What was in flight when a connection ended may come again.
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    let expected = topics.iter().map(|topic| format!("{topic} 1"));
    let more = [(0, "2"), (0, "3"), (1, "2"), (1, "3"), (2, "live"), (CONVERSATIONS - 1, "2")];
    let more = more.map(|(at, text)| format!("{} {text}", topics[at]));
    let mut expected: Vec<_> = expected.chain(more).chain(["im/zzz 1".to_owned()]).collect();
    expected.sort_unstable();
    let seen: Vec<_> = counts.keys().cloned().collect();
    assert_eq!(seen.len(), expected.len());
    assert_eq!(seen, expected);
}

#[test]
fn who_leaves_mine_or_asks_anew_while_it_comes_back_gets_what_it_asked_for() {
    const CONVERSATIONS: usize = 2_000;
    for asks in ["$im/from/2/$im/mine", "$im/mine", "im/0007"] {
        let mut node = Node::new();
        let topics: Vec<_> = (0..CONVERSATIONS).map(|n| format!("im/{n:04}")).collect();
        for topic in &topics {
            node.join(topic, "bob");
        }
        away(&mut node, 1, "bob");
        user(&mut node, 2, "alice", "alice");
        for text in ["1", "2"] {
            post(&mut node, 2, &topics[7], text);
            post(&mut node, 2, &topics[CONVERSATIONS - 1], text);
        }
        for topic in &topics {
            post(&mut node, 2, topic, "3");
        }
        // Nothing is sent before the client asks: it is still being read.
        node.auto_fetch = false;
        user(&mut node, 3, "bob", "bob");
        assert_eq!(node.shard.next_deadline_ms(), Some(0));
        match asks {
            "$im/mine" => {
                let unsubscribe = Unsubscribe {
                    packet_id: NonZeroU16::MIN,
                    user_properties: Vec::new(),
                    filters: vec![asks.into()],
                };
                node.packet(3, Packet::Unsubscribe(unsubscribe));
            }
            filter => {
                let reason = node.subscribe_with(3, filter, options(QoS::AtLeastOnce));
                assert_eq!(reason, ReasonCode::GrantedQoS1);
            }
        }
        node.auto_fetch = true;
        let mut counts = BTreeMap::new();
        for _ in 0..10 {
            node.input(Input::Timer);
            take_all(&mut node, 3, &mut counts);
        }
        let twice = counts.values().filter(|count| **count > 1).count();
        assert_eq!(twice, 0, "{asks}");
        let last = |text: &str| counts.contains_key(&format!("im/{:04} {text}", CONVERSATIONS - 1));
        match asks {
            "$im/from/2/$im/mine" => {
                assert!(!last("1") && last("2") && last("3"), "{counts:?}");
                assert!(!counts.contains_key("im/0000 3"), "it asks from 2 on, there is only 1");
            }
            "$im/mine" => assert!(counts.len() <= 2, "{counts:?}"),
            _ => assert_eq!(counts.len(), CONVERSATIONS + 4),
        }
    }
}
