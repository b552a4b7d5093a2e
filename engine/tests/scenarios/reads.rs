//! `read` receipts (docs/protocol.md section 4).

use crate::node::*;
use protocol::*;

/// Ann writes on connection 1 and hears receipts, bob and cid read on 2 and 3; all are members.
fn node() -> Node {
    let mut node = Node::new();
    for user in ["ann", "bob", "cid"] {
        node.join("im/room", user);
    }
    come_back(&mut node, 1);
    node
}

fn come_back(node: &mut Node, first_conn: u64) {
    for (conn, user) in (first_conn..).zip(["ann", "bob", "cid"]) {
        node.connect_as(conn, durable(user), Some(user));
        node.seen(conn);
    }
    node.subscribe(first_conn, "$im/receipts", QoS::AtLeastOnce);
}

fn post(node: &mut Node, conn: u64, id: &str, wish: &str) {
    let publish = publish("im/room", QoS::AtLeastOnce, 1, "x");
    let Packet::Publish(publish) = with_property(publish, im::IM_ID, id) else { unreachable!() };
    let Packet::Publish(publish) = with_property(publish, im::IM_RECEIPT, wish) else { unreachable!() };
    assert_eq!(node.publish(conn, publish), ReasonCode::Success);
}

fn read(node: &mut Node, conn: u64, seq: u64) {
    let mut request = publish("$im/read", QoS::AtLeastOnce, 1, "");
    request.payload = format!("{{\"topic\":\"im/room\",\"seq\":{seq}}}").into();
    assert_eq!(node.publish(conn, request), ReasonCode::Success);
}

/// Receipts of `read` that came, as `id seq user`.
fn told(node: &mut Node, conn: u64) -> Vec<String> {
    let publishes = node.publishes(conn).into_iter().filter(|p| p.topic == "$im/receipts");
    let receipts = publishes.map(|p| serde_json::from_slice::<serde_json::Value>(&p.payload).unwrap());
    let of = |r: serde_json::Value| {
        format!("{} {} {}", r["id"].as_str().unwrap(), r["seq"], r["user"].as_str().unwrap())
    };
    receipts.filter(|r| r["state"] == "read").map(of).collect()
}

#[test]
fn each_move_of_a_position_tells_each_sender_its_highest_message_reached() {
    let mut node = node();
    node.subscribe(3, "$im/receipts", QoS::AtLeastOnce);
    post(&mut node, 1, "a1", "read");
    post(&mut node, 1, "a2", "all");
    post(&mut node, 3, "c3", "read");
    post(&mut node, 1, "a4", "delivered");
    post(&mut node, 1, "a5", "read");
    read(&mut node, 2, 4);
    assert_eq!((told(&mut node, 1), told(&mut node, 3)), (vec!["a2 2 bob".into()], vec!["c3 3 bob".into()]));
    // No further, back, and beyond the end.
    for seq in [4, 1] {
        read(&mut node, 2, seq);
    }
    assert_eq!(told(&mut node, 1), Vec::<String>::new());
    read(&mut node, 2, 99);
    assert_eq!(told(&mut node, 1), ["a5 5 bob"]);
    // Nobody hears of its own reading.
    read(&mut node, 1, 5);
    read(&mut node, 3, 5);
    assert_eq!((told(&mut node, 1), told(&mut node, 3)), (vec!["a5 5 cid".into()], vec!["c3 3 ann".into()]));
}

#[test]
fn who_wants_to_hear_of_reading_is_known_after_a_restart() {
    let mut node = node();
    post(&mut node, 1, "a1", "read");
    post(&mut node, 1, "a2", "read");
    read(&mut node, 2, 1);
    for (first_conn, from_checkpoint) in [(11, false), (21, true)] {
        match from_checkpoint {
            true => node.restart_from_checkpoint(),
            false => node.restart(usize::MAX),
        }
        come_back(&mut node, first_conn);
        told(&mut node, first_conn);
        let (reader, expected) = if from_checkpoint { (2, "a2 2 cid") } else { (1, "a2 2 bob") };
        read(&mut node, first_conn + reader, 2);
        assert_eq!(told(&mut node, first_conn), [expected]);
    }
}

#[test]
fn what_every_member_has_read_is_forgotten() {
    let mut node = Node::new();
    let names = ["ann", "bob", "cid"];
    for (conn, user) in (1..).zip(names) {
        node.join("im/room", user);
        node.connect_as(conn, durable(user), Some(user));
    }
    post(&mut node, 1, "a1", "read");
    let held = node.shard.memory().bytes;
    for conn in [2, 3] {
        read(&mut node, conn, 1);
    }
    assert_eq!(node.shard.memory().bytes, held);
    read(&mut node, 1, 1);
    assert!(node.shard.memory().bytes < held);
}
