//! Messages of shared groups that go from one member to another: when, how many, and over crashes.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use crate::node::*;
use crate::shared_subscriptions::{GROUP, end_session, member, node, send, take_all};
use engine::{Access, Acl, AclRule, Config, Input, Who};
use protocol::*;

#[test]
fn what_waits_at_a_member_that_is_away_goes_to_one_that_is_connected() {
    let mut node = node();
    member(&mut node, 2, "a", 1, QoS::AtLeastOnce);
    send(&mut node, 3);
    member(&mut node, 3, "b", 10, QoS::AtLeastOnce);
    assert_eq!((node.payloads(2), node.payloads(3)), (vec!["m0".to_owned()], vec![]));
    node.drop_connection(2);
    // What is in flight may be waited for.
    assert_eq!(take_all(&mut node, 3), ["m1", "m2"]);
    node.connect_with(4, durable("a"));
    let again = node.publishes(4);
    assert!(again.len() == 1 && again[0].dup && again[0].payload == "m0", "{again:?}");
    node.packet(4, Packet::PubAck(ack(1, ReasonCode::Success)));
    let mut told = receipts(&mut node, 1);
    told.sort_unstable();
    assert_eq!(told, ["m0 delivered a -", "m1 delivered b -", "m2 delivered b -"]);
}

#[test]
fn the_first_member_that_connects_gets_what_waits_at_all_that_are_away() {
    let mut node = node();
    for (conn, client) in [(2, "a"), (3, "b"), (4, "c")] {
        member(&mut node, conn, client, 100, QoS::AtLeastOnce);
        node.drop_connection(conn);
    }
    send(&mut node, 300);
    assert_eq!(node.shard.stats().queued, 300);
    node.restart(usize::MAX);
    node.connect_with(5, durable("b"));
    let mut taken = take_all(&mut node, 5);
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), 300);
}

#[test]
fn members_that_are_away_keep_what_those_connected_have_no_room_for_until_they_have() {
    let config = Config { queue_messages_max: 5, ..Config::default() };
    let mut node = Node::with(config);
    node.connect(1, "truck");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    for (conn, client) in [(2, "a"), (3, "b"), (4, "c")] {
        member(&mut node, conn, client, 1, QoS::AtLeastOnce);
        node.drop_connection(conn);
    }
    send(&mut node, 15);
    node.seen(1);
    let mut narrow = durable("b");
    narrow.properties.receive_maximum = NonZeroU16::new(1);
    node.connect_with(5, narrow);
    let mut taken = take_all(&mut node, 5);
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), 15, "{taken:?}");
}

#[test]
fn a_takeover_moves_nothing() {
    let mut node = node();
    member(&mut node, 2, "a", 1, QoS::AtLeastOnce);
    send(&mut node, 3);
    member(&mut node, 3, "b", 10, QoS::AtLeastOnce);
    node.connect_with(4, durable("a"));
    assert_eq!(take_all(&mut node, 4), ["m0", "m1", "m2"]);
    assert_eq!(node.payloads(3), Vec::<String>::new());
}

#[test]
fn when_the_last_members_session_ends_its_messages_end_as_dropped() {
    let mut node = node();
    member(&mut node, 2, "a", 1, QoS::AtLeastOnce);
    send(&mut node, 3);
    node.drop_connection(2);
    node.pass_s(3_601);
    let mut told = receipts(&mut node, 1);
    told.sort_unstable();
    assert_eq!(told, ["m0", "m1", "m2"].map(|m| format!("{m} dropped a session_ended")));
    assert_eq!(node.publish(1, publish("t", QoS::AtLeastOnce, 1, "x")), ReasonCode::NoMatchingSubscribers);
}

#[test]
fn what_expires_while_it_is_handed_over_goes_to_nobody_and_is_told() {
    let mut node = node();
    member(&mut node, 2, "a", 1, QoS::AtLeastOnce);
    for (n, expiry) in [(0, None), (1, Some(5)), (2, Some(500))] {
        let mut p = publish("t", QoS::AtLeastOnce, 1, "x");
        p.properties.message_expiry_interval_s = expiry;
        node.packet(1, tracked(p, &format!("m{n}")));
    }
    node.now.monotonic_ms += 6_000;
    node.now.unix_ms += 6_000;
    node.publishes(1);
    // Nobody has looked at the clock before.
    member(&mut node, 3, "b", 10, QoS::AtLeastOnce);
    node.drop_connection(2);
    let got = node.publishes(3);
    assert_eq!(got.iter().map(|p| p.properties.message_expiry_interval_s).collect::<Vec<_>>(), [Some(494)]);
    assert_eq!(receipts(&mut node, 1), ["m1 expired a -"]);
    // And once more by the timer that was set for it, which finds the message that went on at its new place.
    node.drop_connection(3);
    node.pass_s(600);
    let told = receipts(&mut node, 1);
    assert!(told.is_empty(), "in flight it is past expiring: {told:?}");
}

#[test]
fn the_expiry_of_a_message_that_went_on_is_told_where_it_waits_now() {
    let mut node = node();
    member(&mut node, 2, "a", 1, QoS::AtLeastOnce);
    send(&mut node, 1);
    let mut p = publish("t", QoS::AtLeastOnce, 1, "x");
    p.properties.message_expiry_interval_s = Some(100);
    node.packet(1, tracked(p, "short"));
    member(&mut node, 3, "b", 1, QoS::AtLeastOnce);
    node.publish(1, publish("t", QoS::AtLeastOnce, 1, "fills b"));
    node.seen(1);
    end_session(&mut node, 4, "a");
    node.restart(usize::MAX);
    node.connect_with(5, durable("truck"));
    node.pass_s(101);
    assert_eq!(receipts(&mut node, 5), ["short expired b -"]);
}

#[test]
fn messages_of_a_member_that_ends_with_its_connection_go_to_a_durable_one_and_stay() {
    let mut node = node();
    node.connect_with(2, volatile("passing"));
    node.subscribe_with(2, GROUP, options(QoS::AtLeastOnce));
    let mut narrow = durable("lasting");
    narrow.properties.receive_maximum = NonZeroU16::new(1);
    node.connack(3, narrow);
    node.publish(1, publish("t", QoS::AtLeastOnce, 1, "one"));
    node.publish(1, publish("t", QoS::AtLeastOnce, 1, "two"));
    assert_eq!(node.payloads(2), ["one", "two"]);
    node.subscribe_with(3, GROUP, options(QoS::AtLeastOnce));
    node.drop_connection(2);
    assert_eq!(node.payloads(3), ["one"]);
    node.restart(usize::MAX);
    node.restart_from_checkpoint();
    node.connect_with(4, durable("lasting"));
    assert_eq!(take_all(&mut node, 4), ["one", "two"]);
}

#[test]
fn at_shutdown_too_they_go_to_a_durable_one() {
    let mut node = node();
    node.connect_with(2, volatile("passing"));
    node.subscribe_with(2, GROUP, options(QoS::AtLeastOnce));
    node.publish(1, publish("t", QoS::AtLeastOnce, 1, "one"));
    member(&mut node, 3, "lasting", 10, QoS::AtLeastOnce);
    node.input(Input::Shutdown);
    assert_eq!(node.payloads(3), Vec::<String>::new());
    node.restart(usize::MAX);
    node.connect_with(4, durable("lasting"));
    assert_eq!(take_all(&mut node, 4), ["one"]);
}

/// A leaver with `count` messages, some in flight, and two stayers that are away; its session ends.
fn left(count: usize) -> Node {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    member(&mut node, 2, "leaver", 10, QoS::AtLeastOnce);
    send(&mut node, count);
    node.publishes(1);
    for (conn, client) in [(3, "s0"), (4, "s1")] {
        member(&mut node, conn, client, 1_000, QoS::AtLeastOnce);
        node.drop_connection(conn);
    }
    node.connect_with(5, volatile("leaver"));
    node
}

/// The same when all portions are done.
fn handed_over(count: usize) -> Node {
    let mut node = left(count);
    node.pass_ms(0);
    node
}

/// Everyone comes and takes what there is; returns how often each message came, to anybody.
fn come_and_take(node: &mut Node) -> BTreeMap<String, usize> {
    let mut taken = BTreeMap::new();
    for (conn, client) in [(10, "s0"), (11, "s1"), (12, "truck")] {
        node.connect_with(conn, durable(client));
    }
    while node.shard.next_deadline_ms() == Some(0) {
        node.input(Input::Timer);
    }
    for conn in [10, 11] {
        for payload in take_all(node, conn) {
            *taken.entry(payload).or_default() += 1;
        }
    }
    taken
}

#[test]
fn thousands_of_messages_are_handed_over_in_portions_each_in_one_record() {
    let count = 6_000;
    let mut node = left(count);
    let largest = node.log.iter().map(Bytes::len).max().unwrap();
    assert!(largest < 16 * 1024, "a record of {largest} bytes");
    // One input does only a part of it; a checkpoint in between keeps both parts.
    assert_eq!(node.shard.next_deadline_ms(), Some(0));
    node.restart_from_checkpoint();
    let taken = come_and_take(&mut node);
    assert_eq!((taken.len(), taken.values().max()), (count, Some(&1)));
    let told = take_all(&mut node, 12);
    assert_eq!(told.len(), count);
    assert!(told.iter().all(|r| r.contains("\"delivered\"")), "{:?}", &told[..3]);
}

#[test]
fn a_crash_anywhere_in_a_hand_over_leaves_each_message_with_exactly_one_member() {
    let count = 200;
    let records = handed_over(count).log.len();
    let begun = handed_over(count).log.iter().position(|r| r.len() > 2_000).unwrap_or(records - 8);
    assert!(records - begun >= 3, "the hand-over has {} records", records - begun);
    for kept in begun - 1..=records {
        for from_checkpoint in [false, true] {
            let mut node = handed_over(count);
            node.restart(kept);
            if from_checkpoint {
                node.restart_from_checkpoint();
            }
            if kept == begun - 1 {
                // Its session's end was not durable yet.
                node.connect_with(9, volatile("leaver"));
            }
            let taken = come_and_take(&mut node);
            assert_eq!((taken.len(), taken.values().max()), (count, Some(&1)), "{kept} of {records} records");
            let mut told = receipts(&mut node, 12);
            told.sort_unstable();
            let first: Vec<_> = told.iter().map(|r| r.split(' ').next().unwrap_or_default()).collect();
            let mut unique = first.clone();
            unique.dedup();
            assert_eq!((first.len(), unique.len()), (count, count), "one receipt a message");
        }
    }
}

/// A group of a member whose session lasts, and is away, and one whose session ends with its connection.
fn mixed(qos: QoS) -> Node {
    let mut node = node();
    member(&mut node, 2, "lasting", 10, qos);
    node.drop_connection(2);
    let mut connect = volatile("passing");
    connect.properties.receive_maximum = NonZeroU16::new(2);
    node.connack(3, connect);
    node.subscribe_with(3, GROUP, options(qos));
    node
}

#[test]
fn what_a_passing_member_has_is_not_lost_with_the_process_where_another_lasts() {
    for from_checkpoint in [false, true] {
        let mut node = mixed(QoS::AtLeastOnce);
        send(&mut node, 4);
        assert_eq!(node.payloads(3), ["m0", "m1"]);
        node.packet(3, Packet::PubAck(ack(1, ReasonCode::Success)));
        assert_eq!(node.payloads(3), ["m2"]);
        node.drop_connection(1);
        if from_checkpoint {
            node.restart_from_checkpoint();
        }
        node.restart(usize::MAX);
        node.connect_with(4, durable("lasting"));
        assert_eq!(take_all(&mut node, 4), ["m1", "m2", "m3"]);
        node.connect_with(5, durable("truck"));
        let mut told: Vec<_> = receipts(&mut node, 5);
        told.sort_unstable();
        told.dedup();
        let by = |n: usize| format!("m{n} delivered {} -", if n == 0 { "passing" } else { "lasting" });
        assert_eq!(told, (0..4).map(by).collect::<Vec<_>>());
    }
}

#[test]
fn qos_2_in_flight_to_a_passing_member_ends_with_the_process() {
    // [MQTT-4.8.2-5] its session did not survive.
    let mut node = mixed(QoS::ExactlyOnce);
    for n in 0..3 {
        let mut p = publish("t", QoS::ExactlyOnce, 1, "");
        p.payload = format!("m{n}").into();
        node.packet(1, tracked(p, &format!("m{n}")));
        node.packet(1, Packet::PubRel(ack(1, ReasonCode::Success)));
    }
    assert_eq!(node.payloads(3), ["m0", "m1"]);
    node.packet(3, Packet::PubRec(ack(1, ReasonCode::Success)));
    node.drop_connection(1);
    node.restart(usize::MAX);
    node.connect_with(4, durable("lasting"));
    assert_eq!(take_all(&mut node, 4), ["m2"]);
    node.connect_with(5, durable("truck"));
    let mut told: Vec<_> = receipts(&mut node, 5);
    told.sort_unstable();
    let dropped = |m: &str| format!("{m} dropped passing session_ended");
    assert_eq!(told, [dropped("m0"), dropped("m1"), "m2 delivered lasting -".to_owned()]);
}

#[test]
fn what_waited_at_a_lasting_member_and_went_to_a_passing_one_comes_back_after_a_crash() {
    let mut node = node();
    member(&mut node, 2, "lasting", 1, QoS::AtLeastOnce);
    send(&mut node, 4);
    node.drop_connection(2);
    node.connect_with(3, volatile("passing"));
    node.subscribe_with(3, GROUP, options(QoS::AtLeastOnce));
    assert_eq!(node.payloads(3), ["m1", "m2", "m3"]);
    let records = node.log.len();
    for kept in [records - 1, records] {
        let mut again = Node::new();
        again.log.clone_from(&node.log);
        again.restart(kept);
        again.connect_with(4, durable("lasting"));
        let mut taken = take_all(&mut again, 4);
        taken.sort_unstable();
        assert_eq!(taken, ["m0", "m1", "m2", "m3"], "{kept} of {records}");
    }
}

#[test]
fn a_group_without_a_lasting_member_writes_no_record() {
    let mut node = Node::with(Config { presence: false, ..Config::default() });
    node.connect_with(1, volatile("truck"));
    node.connect_with(2, volatile("passing"));
    node.subscribe_with(2, GROUP, options(QoS::AtLeastOnce));
    let records = node.log.len();
    node.publish(1, publish("t", QoS::AtLeastOnce, 1, "x"));
    node.packet(2, Packet::PubAck(ack(1, ReasonCode::Success)));
    node.drop_connection(2);
    assert_eq!(node.log.len(), records);
}

/// Only the rules of `a` change: it may not have the topic any more.
fn forbid_a(node: &mut Node) {
    let rule = |allow, who, filter: &'static str| AclRule {
        allow,
        who,
        access: Access::Both,
        filter: filter.into(),
    };
    let rules = vec![rule(false, Who::Client("a".into()), "t"), rule(true, Who::All, "#")];
    node.input(Input::Acl { acl: Arc::new(Acl { rules }) });
    node.pass_ms(0);
}

#[test]
fn what_a_member_may_not_have_any_more_goes_to_one_that_may() {
    for is_away in [false, true] {
        let mut node = node();
        member(&mut node, 2, "a", 1, QoS::AtLeastOnce);
        send(&mut node, 3);
        member(&mut node, 3, "b", 10, QoS::AtLeastOnce);
        // What is with the client on this connection stays with it, what would be sent again does not.
        let mut expected = vec!["m1", "m2"];
        if is_away {
            node.drop_connection(2);
            assert_eq!(node.payloads(3), expected);
            expected = vec!["m0"];
        }
        forbid_a(&mut node);
        assert_eq!(node.payloads(3), expected);
        for _ in 0..3 {
            send(&mut node, 1);
        }
        assert_eq!(node.payloads(3).len(), 3);
        assert!(receipts(&mut node, 1).is_empty());
    }
}

#[test]
fn it_does_so_too_when_its_body_left_memory() {
    for is_away in [false, true] {
        let mut node = Node::with(Config { bodies_bytes_max: 1, ..Config::default() });
        node.connect(1, "truck");
        member(&mut node, 2, "a", 1, QoS::AtLeastOnce);
        for n in ["m0", "m1", "m2"] {
            node.publish(1, publish("t", QoS::AtLeastOnce, 1, n));
        }
        // One whose session ends with its connection: the log keeps nothing for its sake.
        let mut connect = volatile("b");
        connect.properties.receive_maximum = std::num::NonZeroU16::new(10);
        node.connack(3, connect);
        node.subscribe_with(3, GROUP, options(QoS::AtLeastOnce));
        let mut expected = vec!["m1", "m2"];
        if is_away {
            node.drop_connection(2);
            assert_eq!(node.payloads(3), expected);
            expected = vec!["m0"];
        }
        forbid_a(&mut node);
        assert_eq!(node.payloads(3), expected);
        assert_eq!(node.shard.stats().bodies_lost, 0);
    }
}

#[test]
fn a_group_whose_only_member_may_not_have_a_message_has_nobody() {
    let mut node = node();
    member(&mut node, 2, "a", 1, QoS::AtLeastOnce);
    send(&mut node, 2);
    node.drop_connection(2);
    forbid_a(&mut node);
    assert_eq!(receipts(&mut node, 1), ["m0 dropped a not_authorized", "m1 dropped a not_authorized"]);
    node.seen(1);
    assert_eq!(node.publish(1, publish("t", QoS::AtLeastOnce, 1, "x")), ReasonCode::NoMatchingSubscribers);
}

/// Publishes messages of 100 KB each, at QoS 1 and without receipts.
fn send_large(node: &mut Node, count: u16) {
    for n in 1..=count {
        let payload = vec![b'x'; 100 * 1024].into();
        node.packet(1, Packet::Publish(Publish { payload, ..publish("t", QoS::AtLeastOnce, n, "") }));
    }
}

#[test]
fn what_a_session_leaves_is_handed_on_in_records_of_bounded_size() {
    let mut node = node();
    // Its session is not durable, so that the log does not have the messages before.
    node.connect_with(2, volatile("a"));
    node.subscribe(2, GROUP, QoS::AtLeastOnce);
    send_large(&mut node, 50);
    node.connect(3, "b");
    node.subscribe(3, GROUP, QoS::AtLeastOnce);
    let before = node.log.len();
    node.drop_connection(2);
    node.pass_ms(0);
    let largest = node.log[before..].iter().map(|record| record.len()).max();
    assert!(largest.is_some_and(|bytes| bytes < 200 * 1024), "{largest:?} bytes in one record");
    assert_eq!(take_all(&mut node, 3).len(), 50);
}

#[test]
fn a_message_too_large_for_those_connected_keeps_nothing_of_others_from_them() {
    let mut node = node();
    for (conn, client) in [(2, "a"), (3, "b")] {
        member(&mut node, conn, client, 100, QoS::AtLeastOnce);
        node.drop_connection(conn);
    }
    send_large(&mut node, 1);
    send(&mut node, 1);
    let mut narrow = durable("c");
    narrow.properties.packet_bytes_max = std::num::NonZeroU32::new(1_000);
    node.connack(4, narrow);
    node.subscribe_with(4, GROUP, options(QoS::AtLeastOnce));
    node.pass_ms(0);
    assert_eq!(take_all(&mut node, 4), ["m0"]);
    node.connect_with(5, durable("a"));
    assert_eq!(node.publishes(5).len(), 1);
}

#[test]
fn a_receipt_of_a_message_that_went_to_a_lasting_member_is_told_once_also_by_the_view() {
    let mut node = node();
    node.connack(2, volatile("b"));
    node.subscribe_with(2, GROUP, options(QoS::AtLeastOnce));
    send(&mut node, 1);
    let tracked = node.log.len();
    member(&mut node, 3, "a", 10, QoS::AtLeastOnce);
    node.drop_connection(2);
    // The message itself is written only now.
    assert_eq!(take_all(&mut node, 3), ["m0"]);
    assert_eq!(receipts(&mut node, 1), ["m0 delivered a -"]);
    node.packet(1, Packet::PubAck(ack(1, ReasonCode::Success)));
    for batches in [&[][..], &[tracked], &[1, tracked, tracked + 1]] {
        node.restart_from_view(batches);
        node.connect_with(4, durable("truck"));
        assert_eq!(receipts(&mut node, 4), Vec::<String>::new(), "{batches:?}");
        node.drop_connection(4);
        node.closed.clear();
    }
}
