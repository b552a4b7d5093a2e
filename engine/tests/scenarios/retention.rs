//! What conversations keep, and what they give up by their rules (docs/protocol.md section 2).

use crate::node::*;
use engine::{Config, Retention};
use protocol::*;

fn node_with(retention: Retention) -> Node {
    let mut config = Config::default();
    config.conversations.iter_mut().for_each(|rule| rule.retention = retention);
    Node::with(config)
}

/// The numbers that a conversation keeps, as its shard's export says it.
fn kept(node: &Node, topic: &str) -> Vec<u64> {
    node.shard.kept_seqs(topic)
}

const NONE: Retention = Retention { age_s: 0, messages: 0, bytes: 0 };

fn post(node: &mut Node, topic: &str, count: usize) {
    for _ in 0..count {
        assert!(!node.publish(1, publish(topic, QoS::AtLeastOnce, 1, "a message")).is_failure());
    }
}

#[test]
fn a_conversation_keeps_every_message_whoever_gets_it_and_over_a_crash() {
    let mut node = node_with(NONE);
    node.connect(1, "truck");
    post(&mut node, "im/room", 3);
    node.packet(1, Packet::Publish(publish("im/room", QoS::AtMostOnce, 0, "a message at QoS 0")));
    post(&mut node, "elsewhere", 2);
    assert_eq!(kept(&node, "im/room"), [1, 2, 3, 4]);
    node.restart(usize::MAX);
    assert_eq!((kept(&node, "im/room"), kept(&node, "elsewhere")), (vec![1, 2, 3, 4], vec![]));
}

#[test]
fn the_oldest_messages_go_when_there_are_more_than_the_rule_allows() {
    let mut node = node_with(Retention { messages: 5, ..NONE });
    node.connect(1, "truck");
    post(&mut node, "im/room", 12);
    post(&mut node, "im/other", 5);
    assert_eq!(kept(&node, "im/room"), [8, 9, 10, 11, 12]);
    assert_eq!(kept(&node, "im/other"), [1, 2, 3, 4, 5]);
    node.restart(usize::MAX);
    assert_eq!(kept(&node, "im/room"), [8, 9, 10, 11, 12]);
}

#[test]
fn the_oldest_messages_go_when_they_have_more_bytes_than_the_rule_allows() {
    let mut node = node_with(Retention { bytes: 1_000, ..NONE });
    node.connect(1, "truck");
    post(&mut node, "im/room", 30);
    // Topic, payload and 64 bytes: 80 each.
    assert_eq!(kept(&node, "im/room"), (19..=30).collect::<Vec<_>>());
    let large = Publish { payload: vec![b'x'; 2_000].into(), ..publish("im/room", QoS::AtLeastOnce, 1, "") };
    node.publish(1, large);
    assert_eq!(kept(&node, "im/room"), Vec::<u64>::new(), "one that is larger than all goes too");
    post(&mut node, "im/room", 1);
    assert_eq!(kept(&node, "im/room"), [32], "numbers never start again");
}

#[test]
fn messages_go_when_they_are_older_than_the_rule_allows_also_when_nothing_happens() {
    let mut node = node_with(Retention { age_s: 60, ..NONE });
    node.connect(1, "truck");
    post(&mut node, "im/room", 2);
    node.pass_s(30);
    post(&mut node, "im/room", 1);
    post(&mut node, "im/other", 1);
    node.pass_ms(29_999);
    assert_eq!(kept(&node, "im/room"), [1, 2, 3]);
    node.pass_ms(1);
    assert_eq!(kept(&node, "im/room"), [3]);
    let records = node.log.len();
    node.pass_s(30);
    assert_eq!((kept(&node, "im/room"), kept(&node, "im/other")), (vec![], vec![]));
    assert!(node.log.len() > records, "it is in the log that they are gone");
    node.restart(usize::MAX);
    node.connect(2, "truck");
    node.publish(2, publish("im/room", QoS::AtLeastOnce, 1, "x"));
    assert_eq!(kept(&node, "im/room"), [4]);
}

#[test]
fn a_rule_that_allows_less_holds_for_what_is_there_at_the_next_start() {
    let mut node = node_with(NONE);
    node.connect(1, "truck");
    post(&mut node, "im/room", 3_000);
    let mut config = Config::default();
    config.conversations[0].retention = Retention { messages: 10, ..NONE };
    node.restart_with(config);
    node.pass_ms(0);
    assert_eq!(kept(&node, "im/room"), (2_991..=3_000).collect::<Vec<_>>());
}
