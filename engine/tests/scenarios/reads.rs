//! `read` receipts (docs/protocol.md section 4).

use crate::node::*;
use engine::Config;
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

/// Counted receipts of `read` that came, as `id count of`.
fn counted(node: &mut Node, conn: u64) -> Vec<String> {
    let publishes = node.publishes(conn).into_iter().filter(|p| p.topic == "$im/receipts");
    let receipts = publishes.map(|p| serde_json::from_slice::<serde_json::Value>(&p.payload).unwrap());
    let of = |r: serde_json::Value| {
        assert!(r["user"].is_null() && r["client"].is_null() && r["at"].is_u64() && r["seq"].is_u64(), "{r}");
        format!("{} {} {}", r["id"].as_str().unwrap(), r["count"], r["of"])
    };
    receipts.filter(|r| r["state"] == "read").map(of).collect()
}

/// Ann writes on connection 1, five others may read on 2 to 6: more than are listed.
fn counting_node() -> Node {
    let mut node = Node::with(Config { receipts_listed_max: 4, ..Config::default() });
    for (conn, user) in (1..).zip(["ann", "u2", "u3", "u4", "u5", "u6"]) {
        node.join("im/room", user);
        node.connect_as(conn, durable(user), Some(user));
        node.seen(conn);
    }
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    node
}

#[test]
fn readers_of_a_message_to_many_are_counted_once_a_second_and_the_last_one_at_once() {
    let mut node = counting_node();
    post(&mut node, 1, "a1", "read");
    read(&mut node, 2, 1);
    assert_eq!(counted(&mut node, 1), [""; 0]);
    read(&mut node, 3, 1);
    node.pass_ms(999);
    assert_eq!(counted(&mut node, 1), [""; 0]);
    node.pass_ms(1);
    assert_eq!(counted(&mut node, 1), ["a1 2 5"]);
    node.pass_s(5);
    assert_eq!(counted(&mut node, 1), [""; 0], "there is nothing new");
    // The sender's own position is none of a reader.
    read(&mut node, 1, 1);
    for conn in [4, 5] {
        read(&mut node, conn, 1);
    }
    assert_eq!(counted(&mut node, 1), [""; 0]);
    read(&mut node, 6, 1);
    assert_eq!(counted(&mut node, 1), ["a1 5 5"]);
    node.pass_s(5);
    assert_eq!(counted(&mut node, 1), [""; 0]);
}

#[test]
fn counts_of_readers_never_go_back_over_leaving_and_restarts() {
    let mut node = counting_node();
    post(&mut node, 1, "a1", "read");
    post(&mut node, 1, "a2", "read");
    for conn in 2..=4 {
        read(&mut node, conn, 1 + u64::from(conn == 4));
    }
    node.leave("im/room", "u2");
    node.pass_s(1);
    assert_eq!(counted(&mut node, 1), ["a1 3 5", "a2 1 5"]);
    for (first_conn, from_view) in [(11, false), (21, true)] {
        match from_view {
            true => node.restart_from_view(&[5, 9]),
            false => node.restart(usize::MAX),
        }
        for (conn, user) in (first_conn..).zip(["ann", "u2", "u3", "u4", "u5", "u6"]) {
            node.connect_as(conn, durable(user), Some(user));
            node.seen(conn);
        }
        node.pass_s(1);
        assert_eq!(counted(&mut node, first_conn), ["a1 3 5", "a2 1 5"], "told again, and no less");
    }
    // Who joins later reads nothing of what was before.
    node.join("im/room", "new");
    node.connect_as(31, durable("new"), Some("new"));
    read(&mut node, 31, 2);
    for conn in [25, 26] {
        read(&mut node, conn, 2);
    }
    assert_eq!(counted(&mut node, 21), ["a1 5 5"], "all have read it");
    node.pass_s(1);
    assert_eq!(counted(&mut node, 21), ["a2 3 5"]);
}

#[test]
fn what_is_given_up_is_counted_to_the_end() {
    let mut config = Config { receipts_listed_max: 1, ..Config::default() };
    config.conversations[0].retention.messages = 1;
    let mut node = counting_node();
    node.reconfigure(config);
    for (conn, user) in [(11, "ann"), (12, "u2")] {
        node.connect_as(conn, durable(user), Some(user));
        node.seen(conn);
    }
    post(&mut node, 11, "a1", "read");
    read(&mut node, 12, 1);
    assert_eq!(counted(&mut node, 11), [""; 0]);
    post(&mut node, 11, "a2", "read");
    assert_eq!(counted(&mut node, 11), ["a1 1 5"], "nobody will read it any more");
}

/// Ann writes on connection 1 and hears receipts; eve and those behind her read by subscriptions of their own.
fn node_with_guests(config: Config, members: &[&str], guests: &[&'static str]) -> Node {
    let mut node = Node::with(config);
    for user in members {
        node.join("im/room", user);
    }
    guests_come(&mut node, 1, guests);
    node
}

fn guests_come(node: &mut Node, first_conn: u64, guests: &[&'static str]) {
    for (conn, user) in (first_conn..).zip(["ann"].iter().chain(guests)) {
        node.connect_as(conn, durable(user), Some(user));
        node.seen(conn);
        let filter = if *user == "ann" { "$im/receipts" } else { "im/room" };
        node.subscribe(conn, filter, QoS::AtLeastOnce);
    }
}

#[test]
fn who_reads_without_being_a_member_has_a_position_too() {
    let mut node = node_with_guests(Config::default(), &[], &["eve", "dan"]);
    for id in ["a1", "a2", "a3"] {
        post(&mut node, 1, id, "read");
    }
    read(&mut node, 2, 2);
    assert_eq!(told(&mut node, 1), ["a2 2 eve"]);
    // Back, and no further.
    for seq in [1, 2] {
        read(&mut node, 2, seq);
    }
    assert_eq!(told(&mut node, 1), [""; 0]);
    for (first_conn, from_view) in [(11, false), (21, true)] {
        match from_view {
            true => node.restart_from_view(&[4, 7]),
            false => node.restart(usize::MAX),
        }
        guests_come(&mut node, first_conn, &["eve", "dan"]);
        told(&mut node, first_conn);
        read(&mut node, first_conn + 1, 2);
        assert_eq!(told(&mut node, first_conn), [""; 0], "her position is known");
        let (reader, expected) = if from_view { (1, "a3 3 eve") } else { (2, "a3 3 dan") };
        read(&mut node, first_conn + reader, 99);
        assert_eq!(told(&mut node, first_conn), [expected]);
    }
    node.restart_from_checkpoint();
    guests_come(&mut node, 31, &["eve", "dan"]);
    told(&mut node, 31);
    for conn in [32, 33] {
        read(&mut node, conn, 3);
    }
    assert_eq!(told(&mut node, 31), [""; 0], "all have read all");
}

#[test]
fn what_all_members_have_read_waits_for_those_who_are_none() {
    let mut node = node_with_guests(Config::default(), &["ann", "bob"], &["eve"]);
    node.connect_as(9, durable("bob"), Some("bob"));
    post(&mut node, 1, "a1", "read");
    read(&mut node, 9, 1);
    read(&mut node, 1, 1);
    assert_eq!(told(&mut node, 1), ["a1 1 bob"]);
    read(&mut node, 2, 1);
    assert_eq!(told(&mut node, 1), ["a1 1 eve"]);
    // Who leaves goes on from where it was.
    post(&mut node, 1, "a2", "read");
    node.leave("im/room", "bob");
    read(&mut node, 9, 1);
    assert_eq!(told(&mut node, 1), [""; 0]);
    read(&mut node, 9, 2);
    assert_eq!(told(&mut node, 1), ["a2 2 bob"]);
}

#[test]
fn many_who_are_no_members_are_counted_and_counted_once() {
    let config = Config { receipts_listed_max: 2, ..Config::default() };
    let guests = ["eve", "dan", "fay"];
    let mut node = node_with_guests(config, &[], &guests);
    post(&mut node, 1, "a1", "read");
    for _ in 0..2 {
        read(&mut node, 2, 1);
        read(&mut node, 3, 1);
    }
    node.pass_s(1);
    assert_eq!(counted(&mut node, 1), ["a1 2 3"]);
    for (first_conn, from_view) in [(11, false), (21, true)] {
        match from_view {
            true => node.restart_from_view(&[3, 5, 8]),
            false => node.restart(usize::MAX),
        }
        guests_come(&mut node, first_conn, &guests);
        node.pass_s(1);
        assert_eq!(counted(&mut node, first_conn), ["a1 2 3"], "told again, and no more");
        read(&mut node, first_conn + 1, 1);
        node.pass_s(1);
        assert_eq!(counted(&mut node, first_conn), [""; 0]);
    }
    read(&mut node, 24, 1);
    assert_eq!(counted(&mut node, 21), ["a1 3 3"], "the last one at once");
}
