//! Messages that end their recipient's connections (docs/protocol.md section 4, reason `poison`).

use crate::node::*;
use engine::{Answer, Config, ConnId, Input, Question};
use protocol::*;

/// A truck on connection 1 that hears receipts; a phone that is away and subscribed.
fn node_with(poison_after: u32) -> Node {
    let mut node = Node::with(Config { poison_after, set_aside_max: 2, ..Config::default() });
    node.connect(1, "truck");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    node.connect(2, "phone");
    node.subscribe(2, "im/room", QoS::ExactlyOnce);
    node.drop_connection(2);
    node
}

fn post(node: &mut Node, id: &'static str) {
    node.packet(1, tracked(publish("im/room", QoS::AtLeastOnce, 1, id), id));
}

/// The phone connects, takes what it can, and its connection ends when it gets `poison`.
fn connect_and_crash(node: &mut Node, conn: u64, poison: &[&str]) -> Vec<String> {
    node.connect_with(conn, durable("phone"));
    let mut got = Vec::new();
    loop {
        let publishes = node.publishes(conn);
        if publishes.is_empty() {
            return got;
        }
        for p in publishes {
            let payload = String::from_utf8(p.payload.to_vec()).unwrap();
            got.push(payload.clone());
            if poison.contains(&&*payload) {
                node.drop_connection(conn);
                return got;
            }
            node.packet(conn, Packet::PubAck(Ack::new(p.packet_id.unwrap(), ReasonCode::Success)));
        }
    }
}

fn set_aside(node: &mut Node) -> Vec<(u64, String)> {
    let Some(Answer::Json(json)) = node.ask(Question::SetAside { client: "phone".into() }) else { panic!() };
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let of = |m: &serde_json::Value| (m["message"].as_u64().unwrap(), m["id"].as_str().unwrap().to_owned());
    json["messages"].as_array().unwrap().iter().map(of).collect()
}

#[test]
fn a_message_that_ends_five_connections_in_a_row_is_set_aside_and_the_others_arrive() {
    for restart in [false, true] {
        let mut node = node_with(5);
        for id in ["good", "bad", "after"] {
            post(&mut node, id);
        }
        // Twice all are sent at once, then one at a time.
        for conn in [10, 11] {
            node.connect_with(conn, durable("phone"));
            assert_eq!(node.publishes(conn).len(), 3);
            node.drop_connection(conn);
        }
        assert_eq!(connect_and_crash(&mut node, 12, &["bad"]), ["good", "bad"]);
        for conn in 13..17 {
            assert!(set_aside(&mut node).is_empty());
            assert_eq!(connect_and_crash(&mut node, conn, &["bad"]), ["bad"]);
        }
        assert_eq!(receipts(&mut node, 1), ["good delivered phone -", "bad refused phone poison"]);
        assert_eq!(node.shard.stats().set_aside, 1);
        if restart {
            node.restart_from_checkpoint();
            node.restart(usize::MAX);
        }
        assert_eq!(set_aside(&mut node).iter().map(|(_, id)| &**id).collect::<Vec<_>>(), ["bad"]);
        assert_eq!(connect_and_crash(&mut node, 20, &["bad"]), ["after"]);
    }
}

#[test]
fn nothing_is_set_aside_unless_it_is_configured() {
    let mut node = node_with(0);
    post(&mut node, "bad");
    for conn in 10..40 {
        assert_eq!(connect_and_crash(&mut node, conn, &["bad"]), ["bad"]);
    }
    assert!(set_aside(&mut node).is_empty());
}

#[test]
fn ends_that_are_not_the_messages_doing_do_not_count() {
    let ends: [fn(&mut Node, u64); 3] = [
        |node, conn| {
            node.pass_ms(1_001);
            node.drop_connection(conn);
        },
        |node, conn| {
            let (reason, properties) = (ReasonCode::Success, DisconnectProperties::default());
            node.packet(conn, Packet::Disconnect(Disconnect { reason, properties: properties.into() }));
        },
        |node, conn| {
            let (reason, what) = (ReasonCode::AdministrativeAction, "an operator".to_owned());
            node.input(Input::End { conn: ConnId(conn), reason, what });
        },
    ];
    for end in ends {
        let mut node = node_with(3);
        post(&mut node, "slow");
        for conn in 10..20 {
            // Two quick ends, then another one: never three in a row.
            node.connect_with(conn, durable("phone"));
            assert_eq!(node.payloads(conn), ["slow"]);
            if conn % 3 == 2 { end(&mut node, conn) } else { node.drop_connection(conn) }
        }
        assert!(set_aside(&mut node).is_empty());
    }
}

#[test]
fn a_reason_code_of_refusal_is_final_at_once() {
    let mut node = node_with(5);
    post(&mut node, "unwanted");
    node.connect_with(10, durable("phone"));
    node.packet(10, Packet::PubAck(ack(1, ReasonCode::UnspecifiedError)));
    assert_eq!(receipts(&mut node, 1), ["unwanted refused phone unspecified error"]);
    assert!(set_aside(&mut node).is_empty());
    node.drop_connection(10);
    assert!(connect_and_crash(&mut node, 11, &[]).is_empty());
}

#[test]
fn what_was_set_aside_can_be_replayed_and_dropped() {
    let mut node = node_with(2);
    for (n, id) in (0..).zip(["1", "2", "3"]) {
        post(&mut node, id);
        for conn in 0..2 {
            connect_and_crash(&mut node, 10 + 2 * n + conn, &["1", "2", "3"]);
        }
    }
    // The bound is two.
    let list = set_aside(&mut node);
    assert_eq!(list.iter().map(|(_, id)| &**id).collect::<Vec<_>>(), ["2", "3"]);
    receipts(&mut node, 1);
    let (client, message) = (ByteString::from("phone"), list[0].0);
    let question = Question::Replay { client: client.clone(), message };
    assert_eq!(node.ask(question.clone()), Some(Answer::Done));
    assert!(matches!(node.ask(question), Some(Answer::NotFound(_))));
    node.restart(usize::MAX);
    assert_eq!(connect_and_crash(&mut node, 30, &[]), ["2"]);
    node.connect(31, "truck");
    assert!(receipts(&mut node, 31).iter().all(|r| !r.contains("delivered")), "it was refused before");
    let drop = Question::Drop { client, message: list[1].0 };
    assert_eq!(node.ask(drop), Some(Answer::Done));
    assert!(set_aside(&mut node).is_empty());
    let unknown = Question::SetAside { client: "nobody".into() };
    assert!(matches!(node.ask(unknown), Some(Answer::NotFound(_))));
}

#[test]
fn a_message_that_is_set_aside_again_is_set_aside_once() {
    for set_aside_max in [1, 2] {
        let mut node = Node::with(Config { poison_after: 2, set_aside_max, ..Config::default() });
        node.connect(1, "truck");
        node.packet(1, Packet::Publish(Publish { retain: true, ..publish("t", QoS::AtLeastOnce, 1, "bad") }));
        for conn in [10, 20] {
            // Each subscription brings the retained message again.
            node.connect_with(conn, durable("phone"));
            node.packet(conn, subscribe("t", options(QoS::AtLeastOnce)));
            node.drop_connection(conn);
            connect_and_crash(&mut node, conn + 1, &["bad"]);
        }
        let listed = set_aside(&mut node);
        assert_eq!(listed.len(), 1, "{listed:?}");
        node.restart(usize::MAX);
        assert_eq!(set_aside(&mut node), listed);
    }
}

#[test]
fn a_stored_message_that_a_subscription_asks_for_is_set_aside_too() {
    let mut node = Node::with(Config { poison_after: 2, ..Config::default() });
    node.connect(1, "truck");
    post(&mut node, "bad");
    node.connect(2, "phone");
    node.packet(2, subscribe("$im/from/first/im/room", options(QoS::AtLeastOnce)));
    node.drop_connection(2);
    assert_eq!(set_aside(&mut node), []);
    assert_eq!(connect_and_crash(&mut node, 3, &["bad"]), ["bad"]);
    assert_eq!(set_aside(&mut node).len(), 1);
}
