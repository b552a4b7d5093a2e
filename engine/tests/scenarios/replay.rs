//! Stored messages of conversations, then live ones (docs/protocol.md section 3).

use std::num::NonZeroU16;

use crate::node::*;
use engine::{Config, Retention};
use protocol::*;

/// A reader with a small window.
pub(crate) fn reader(client_id: &str, window: u16) -> Connect {
    let mut connect = durable(client_id);
    connect.properties.receive_maximum = NonZeroU16::new(window);
    connect
}

/// Posts numbered texts; the poster is connection 1.
pub(crate) fn post(node: &mut Node, topic: &str, count: usize) {
    for _ in 0..count {
        assert!(!node.publish(1, publish(topic, QoS::AtLeastOnce, 1, "text")).is_failure());
    }
}

fn subscribe_from(filter: &str, qos: QoS, start: &str) -> Packet {
    let Packet::Subscribe(s) = subscribe(filter, options(qos)) else { unreachable!() };
    Packet::Subscribe(Subscribe { user_properties: vec![(im::IM_FROM_SEQ.into(), start.into())], ..s })
}

/// What a message is: its conversation and number, and `gap` if it tells of one.
pub(crate) fn told(p: &Publish) -> String {
    let property = |name| property(&p.properties.user_properties, name);
    let gap = property(im::IM_GAP).map_or(String::new(), |gap| format!(" gap {gap}"));
    format!("{} {}{gap}", p.topic, property(im::IM_SEQ).unwrap_or("-"))
}

/// Takes and acknowledges all that comes, at QoS 1, until nothing more does.
pub(crate) fn read_all(node: &mut Node, conn: u64) -> Vec<String> {
    let mut read = Vec::new();
    loop {
        let publishes = node.publishes(conn);
        if publishes.is_empty() {
            return read;
        }
        for p in publishes {
            read.push(told(&p));
            if let Some(packet_id) = p.packet_id {
                node.packet(conn, Packet::PubAck(Ack::new(packet_id, ReasonCode::Success)));
            }
        }
        node.pass_ms(0);
    }
}

fn expected(topic: &str, seqs: impl IntoIterator<Item = u64>) -> Vec<String> {
    seqs.into_iter().map(|seq| format!("{topic} {seq}")).collect()
}

fn node_with_posts(count: usize) -> Node {
    let mut node = Node::new();
    node.connect(1, "truck");
    post(&mut node, "im/room", count);
    node
}

#[test]
fn the_prefix_and_the_property_bring_what_is_stored_and_then_what_is_live() {
    for (filter, property) in
        [("$im/from/3/im/room", None), ("im/room", Some("3")), ("$im/from/3/im/+", Some("1"))]
    {
        let mut node = node_with_posts(5);
        node.connect(2, "reader");
        let packet = match property {
            Some(start) => subscribe_from(filter, QoS::AtLeastOnce, start),
            None => subscribe(filter, options(QoS::AtLeastOnce)),
        };
        node.packet(2, packet);
        post(&mut node, "im/room", 2);
        assert!(matches!(&node.seen(2)[..], [Packet::SubAck(s), first, ..]
            if s.reasons == [ReasonCode::GrantedQoS1]
                && matches!(first, Packet::Publish(p) if told(p) == "im/room 3" && !p.retain && !p.dup)));
        // What was not looked at above, and not acknowledged, is in flight: it comes again.
        node.drop_connection(2);
        node.connect_with(3, durable("reader"));
        assert_eq!(read_all(&mut node, 3), expected("im/room", 3..=7), "{filter}");
        post(&mut node, "im/room", 1);
        assert_eq!(read_all(&mut node, 3), expected("im/room", [8]));
    }
}

#[test]
fn a_start_is_a_number_a_time_or_the_first_that_is_kept() {
    let mut node = Node::new();
    node.connect(1, "truck");
    for _ in 0..4 {
        post(&mut node, "im/room", 1);
        node.pass_s(10);
    }
    let at = |s: u64| format!("@{}", 1_800_000_000_000 + s * 1000);
    let starts = [
        ("0".to_owned(), 1),
        ("1".into(), 1),
        ("4".into(), 4),
        ("first".into(), 1),
        (at(0), 1),
        (at(10), 2),
        (at(11), 3),
        (at(30), 4),
        // Behind all that is stored: live from the next.
        ("5".into(), 5),
        ("18446744073709551615".into(), 5),
        ("99999999999999999999999999".into(), 5),
        (at(31), 5),
    ];
    for (conn, (start, first)) in (10..).zip(starts) {
        node.connect_with(conn, volatile("reader"));
        node.packet(conn, subscribe(&format!("$im/from/{start}/im/room"), options(QoS::AtLeastOnce)));
        assert_eq!(read_all(&mut node, conn), expected("im/room", first..5), "{start}");
    }
    node.connect_with(3, volatile("reader"));
    node.packet(3, subscribe("$im/from/100/im/room", options(QoS::AtLeastOnce)));
    post(&mut node, "im/room", 1);
    assert_eq!(read_all(&mut node, 3), expected("im/room", [5]));
}

#[test]
fn what_makes_no_sense_is_refused_and_leaves_no_subscription() {
    let mut node = node_with_posts(1);
    node.connect(2, "reader");
    let bad = ReasonCode::TopicFilterInvalid;
    for (filter, reason) in [
        ("$im/from/x/im/room", bad),
        ("$im/from//im/room", bad),
        ("$im/from/-1/im/room", bad),
        ("$im/from/1", bad),
        ("$im/from/1/", bad),
        ("$im/from", bad),
        ("$im/from/+/im/room", bad),
        ("$im/from/1/im/#/a", bad),
        ("$im/from/1/$im/from/1/im/room", bad),
        ("$im/env/$im/from/1/im/room", bad),
        ("$im/from/1/$im/#", bad),
        ("$im/from/1/$share/g/im/room", ReasonCode::ImplementationSpecificError),
        ("$share/g/$im/from/1/im/room", ReasonCode::ImplementationSpecificError),
    ] {
        assert_eq!(node.subscribe_with(2, filter, options(QoS::AtLeastOnce)), reason, "{filter}");
    }
    node.packet(2, subscribe_from("im/room", QoS::AtLeastOnce, "soon"));
    let Packet::SubAck(suback) = node.seen(2).remove(0) else { panic!("no SUBACK") };
    assert_eq!(suback.reasons, [bad]);
    assert!(suback.properties.reason_string.unwrap().contains("\"soon\""));
    assert_eq!(node.shard.stats().subscriptions, 0);
    // 3.1.1 has no reason string: it is on `$im/errors`.
    node.connack(3, version_3("old", true));
    node.subscribe(3, "$im/errors", QoS::AtMostOnce);
    node.packet(3, subscribe("$im/from/x/im/room", options(QoS::AtLeastOnce)));
    let seen = node.seen(3);
    let error = seen.iter().find_map(|p| if let Packet::Publish(p) = p { Some(p) } else { None }).unwrap();
    let error: serde_json::Value = serde_json::from_slice(&error.payload).unwrap();
    assert_eq!(error["request"], "$im/from/x/im/room");
    assert!(error["error"].as_str().unwrap().contains("\"x\""), "{error}");
}

#[test]
fn the_window_is_obeyed_and_what_is_published_meanwhile_comes_once_and_in_order() {
    let mut node = node_with_posts(200);
    node.connect_with(2, reader("reader", 3));
    node.packet(2, subscribe("$im/from/1/im/room", options(QoS::AtLeastOnce)));
    let mut read = Vec::new();
    while let [first, rest @ ..] = &node.publishes(2)[..] {
        assert!(rest.len() < 3, "more in flight than the client takes");
        for p in std::iter::once(first).chain(rest) {
            read.push(told(p));
            if read.len() % 3 == 0 && read.len() < 200 {
                post(&mut node, "im/room", 1);
            }
            node.packet(2, Packet::PubAck(Ack::new(p.packet_id.unwrap(), ReasonCode::Success)));
        }
    }
    let last = 200 + 200 / 3;
    assert_eq!(read, expected("im/room", 1..=last as u64));
    assert_eq!(node.shard.stats().queued, 0);
}

#[test]
fn a_resumed_session_goes_on_from_its_cursor_also_over_a_crash() {
    let mut node = node_with_posts(10);
    node.connect_with(2, reader("reader", 2));
    node.packet(2, subscribe("$im/from/2/im/room", options(QoS::ExactlyOnce)));
    let first = node.publishes(2);
    assert_eq!(first.iter().map(told).collect::<Vec<_>>(), expected("im/room", [2, 3]));
    node.packet(2, Packet::PubAck(Ack::new(first[0].packet_id.unwrap(), ReasonCode::Success)));
    for crash in [true, false] {
        if crash {
            node.restart(usize::MAX);
            node.connect(1, "truck");
        } else {
            node.drop_connection(3);
        }
        node.connect_with(if crash { 3 } else { 4 }, reader("reader", 2));
    }
    // 3 and 4 were in flight: they come again, then the rest, and nothing from before.
    node.seen(3);
    post(&mut node, "im/room", 2);
    let again = node.publishes(4);
    assert!(again.iter().all(|p| p.dup), "{again:?}");
    let mut read: Vec<_> = again.iter().map(told).collect();
    for p in again {
        node.packet(4, Packet::PubAck(Ack::new(p.packet_id.unwrap(), ReasonCode::Success)));
    }
    read.extend(read_all(&mut node, 4));
    assert_eq!(read, expected("im/room", 3..=12));
}

#[test]
fn at_qos_0_the_cursor_outlives_the_connection_too() {
    let mut node = node_with_posts(5);
    node.connect_with(2, durable("reader"));
    node.packet(2, subscribe("$im/from/1/im/room", options(QoS::AtMostOnce)));
    assert_eq!(read_all(&mut node, 2), expected("im/room", 1..=5));
    node.packet(2, subscribe("$im/from/1/im/room", options(QoS::AtMostOnce)));
    node.input(engine::Input::Congested { conn: engine::ConnId(2) });
    node.seen(2);
    node.restart(usize::MAX);
    node.connect_with(3, durable("reader"));
    assert_eq!(read_all(&mut node, 3), Vec::<String>::new(), "it had come to the end before");
}

#[test]
fn a_new_request_moves_the_cursor_and_replaces_what_waits() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    node.connect_with(2, reader("reader", 1));
    node.subscribe(2, "im/#", QoS::AtLeastOnce);
    for n in 1..=4 {
        node.packet(1, tracked(publish("im/room", QoS::AtLeastOnce, 1, "x"), &format!("m{n}")));
    }
    post(&mut node, "im/other", 2);
    // 1 is in flight, the others wait.
    assert_eq!(node.shard.stats().queued, 6);
    node.packet(2, subscribe("$im/from/3/im/room", options(QoS::AtLeastOnce)));
    assert_eq!(node.shard.stats().queued, 3);
    node.restart(usize::MAX);
    node.connect(3, "truck");
    node.connect_with(4, durable("reader"));
    let read = read_all(&mut node, 4);
    let of = |topic: &str| read.iter().filter(|m| m.starts_with(topic)).cloned().collect::<Vec<_>>();
    assert_eq!(of("im/room"), expected("im/room", [1, 3, 4]));
    assert_eq!(of("im/other"), expected("im/other", [1, 2]));
    // 2 was left out by the client's own wish: no receipt, and none is awaited.
    let ended: Vec<_> = receipts(&mut node, 3);
    assert_eq!(ended, ["m1 delivered reader -", "m3 delivered reader -", "m4 delivered reader -"]);
}

#[test]
fn recipients_of_what_is_published_meanwhile_are_told_of_and_replay_makes_none() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    for before in ["one", "two"] {
        node.packet(1, tracked(publish("im/room", QoS::AtLeastOnce, 1, "x"), before));
    }
    node.connect_with(2, reader("reader", 1));
    node.packet(2, subscribe("$im/from/1/im/room", options(QoS::AtLeastOnce)));
    node.packet(1, tracked(publish("im/room", QoS::AtLeastOnce, 1, "x"), "meanwhile"));
    node.packet(1, tracked(publish("im/room", QoS::AtMostOnce, 0, "x"), "at QoS 0"));
    assert_eq!(node.shard.stats().queued, 1, "what the cursor will bring is not queued");
    assert_eq!(read_all(&mut node, 2), expected("im/room", 1..=4));
    assert_eq!(receipts(&mut node, 1), ["meanwhile delivered reader -", "at QoS 0 delivered reader -"]);
}

#[test]
fn what_a_cursor_does_not_bring_any_more_ends_with_a_receipt() {
    let mut config = Config::default();
    config.conversations[0].retention = Retention { messages: 4, bytes: 0, age_s: 0 };
    let mut node = Node::with(config);
    node.connect(1, "truck");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    post(&mut node, "im/room", 2);
    node.connect_with(2, reader("one", 1));
    node.packet(2, subscribe("$im/from/1/im/room", options(QoS::AtLeastOnce)));
    node.connect_with(3, reader("two", 1));
    node.packet(3, subscribe("$im/from/1/im/room", options(QoS::AtLeastOnce)));
    // Each has 1 in flight and a cursor behind it.
    let mut expiring = publish("im/room", QoS::AtLeastOnce, 1, "x");
    expiring.properties.message_expiry_interval_s = Some(5);
    node.packet(1, tracked(publish("im/room", QoS::AtLeastOnce, 1, "x"), "a"));
    node.packet(1, tracked(expiring, "b"));
    node.packet(1, tracked(publish("im/room", QoS::AtLeastOnce, 1, "x"), "c"));
    node.restart(usize::MAX);
    node.connect(1, "truck");
    node.pass_s(5);
    assert_eq!(receipts(&mut node, 1), ["b expired one -", "b expired two -"]);
    node.connect_with(2, reader("one", 1));
    node.connect_with(3, reader("two", 1));
    post(&mut node, "im/room", 2);
    assert_eq!(receipts(&mut node, 1), ["a dropped one retention", "a dropped two retention"]);
    node.packet(
        2,
        Packet::Unsubscribe(Unsubscribe {
            packet_id: id(7),
            user_properties: Vec::new(),
            filters: vec!["$im/from/first/im/room".into()],
        }),
    );
    assert_eq!(receipts(&mut node, 1), ["c dropped one unsubscribed"]);
    node.connect_with(4, Connect { clean_start: true, ..durable("two") });
    assert_eq!(receipts(&mut node, 1), ["c dropped two session_ended"]);
    assert_eq!(read_all(&mut node, 2).len(), 1, "only what was in flight is left");
}

#[test]
fn a_filter_with_wildcards_brings_each_conversation_in_its_order_and_new_ones_live() {
    let mut node = Node::new();
    node.connect(1, "truck");
    for n in 0..30 {
        post(&mut node, &format!("im/{n}"), 5);
    }
    node.publish(1, Publish { retain: true, ..publish("im/kept", QoS::AtLeastOnce, 1, "x") });
    node.publish(1, Publish { retain: true, ..publish("t/kept", QoS::AtLeastOnce, 1, "x") });
    node.connect_with(2, reader("reader", 7));
    node.packet(2, subscribe("$im/from/2/#", options(QoS::AtLeastOnce)));
    post(&mut node, "im/new", 2);
    let retained = |p: &Publish| p.retain;
    let first = node.publishes(2);
    assert_eq!(first.iter().filter(|p| retained(p)).map(|p| &*p.topic).collect::<Vec<_>>(), ["t/kept"]);
    let mut read: Vec<_> = first.iter().filter(|p| !p.retain).map(told).collect();
    for p in first {
        node.packet(2, Packet::PubAck(Ack::new(p.packet_id.unwrap(), ReasonCode::Success)));
    }
    read.extend(read_all(&mut node, 2));
    for n in 0..30 {
        let topic = format!("im/{n} ");
        let of: Vec<_> = read.iter().filter(|m| m.starts_with(&topic)).cloned().collect();
        assert_eq!(of, expected(topic.trim(), 2..=5));
    }
    let new: Vec<_> = read.iter().filter(|m| m.starts_with("im/new")).cloned().collect();
    assert_eq!(new, expected("im/new", 1..=2));
    assert_eq!(read.len(), 30 * 4 + 2, "no retained message of a conversation");
    // They took turns: none had to wait for another's end.
    let last_first = read.iter().rposition(|m| m.ends_with(" 2") && !m.starts_with("im/new")).unwrap();
    assert!(last_first < 90, "{last_first}");
}

#[test]
fn a_long_conversation_holds_up_neither_the_queue_nor_other_conversations() {
    let mut node = Node::with(Config { queue_messages_max: 5, ..Config::default() });
    node.connect(1, "truck");
    post(&mut node, "im/long", 500);
    node.connect_with(2, reader("reader", 1));
    node.subscribe(2, "t/#", QoS::AtLeastOnce);
    node.packet(2, subscribe("$im/from/1/im/#", options(QoS::AtLeastOnce)));
    for _ in 0..5 {
        node.publish(1, publish("t/1", QoS::AtLeastOnce, 1, "x"));
        post(&mut node, "im/long", 20);
        post(&mut node, "im/short", 1);
    }
    // 20 times what the queue may hold came for the cursor, and nothing was dropped for it.
    assert_eq!(node.shard.stats().dropped, 5, "im/short and t/1 share the queue");
    let read = read_all(&mut node, 2);
    let of = |topic: &str| read.iter().positions(topic);
    assert_eq!(of("im/long").len(), 600);
    let others = of("t/1").into_iter().chain(of("im/short")).max().unwrap();
    assert!(others < 20, "what is live goes out by turns with what is stored: {others}");
}

trait Positions {
    fn positions(self, of: &str) -> Vec<usize>;
}

impl<'a, I: Iterator<Item = &'a String>> Positions for I {
    fn positions(self, of: &str) -> Vec<usize> {
        self.enumerate().filter(|(_, m)| m.starts_with(of)).map(|(at, _)| at).collect()
    }
}

#[test]
fn more_conversations_than_a_session_may_be_coming_to_are_refused() {
    let mut node = Node::with(Config { replays_per_session_max: 3, ..Config::default() });
    node.connect(1, "truck");
    for n in 0..4 {
        post(&mut node, &format!("im/{n}"), 2);
    }
    node.connect_with(2, reader("reader", 1));
    let from = |node: &mut Node, filter: &str| node.subscribe_with(2, filter, options(QoS::AtLeastOnce));
    assert_eq!(from(&mut node, "$im/from/1/im/#"), ReasonCode::QuotaExceeded);
    assert_eq!(node.shard.stats().subscriptions, 0);
    for n in 0..3 {
        assert_eq!(from(&mut node, &format!("$im/from/1/im/{n}")), ReasonCode::GrantedQoS1);
    }
    assert_eq!(from(&mut node, "$im/from/1/im/3"), ReasonCode::QuotaExceeded);
    // One that is moved is no new one, and one that is behind all is none.
    assert_eq!(from(&mut node, "$im/from/2/im/2"), ReasonCode::GrantedQoS1);
    assert_eq!(from(&mut node, "$im/from/9/im/3"), ReasonCode::GrantedQoS1);
    let mut read = read_all(&mut node, 2);
    read.sort_unstable();
    assert_eq!(read, ["im/0 1", "im/0 2", "im/1 1", "im/1 2", "im/2 2"]);
    assert_eq!(from(&mut node, "$im/from/1/im/3"), ReasonCode::GrantedQoS1);
}

#[test]
fn overlapping_subscriptions_give_one_copy_with_all_identifiers_at_the_highest_level() {
    let mut node = node_with_posts(2);
    node.connect(2, "reader");
    for (filter, qos, identifier) in
        [("im/#", QoS::AtMostOnce, 4), ("$im/from/1/im/room", QoS::AtLeastOnce, 2)]
    {
        let Packet::Subscribe(s) = subscribe(filter, options(qos)) else { unreachable!() };
        node.packet(2, Packet::Subscribe(Subscribe { subscription_identifier: Some(identifier), ..s }));
    }
    let got = node.publishes(2);
    assert_eq!(got.len(), 2);
    assert!(got.iter().all(|p| p.properties.subscription_identifiers == [2, 4] && p.qos == QoS::AtLeastOnce));
}

#[test]
fn no_local_keeps_the_clients_own_stored_messages_away() {
    let mut node = node_with_posts(2);
    node.connect(2, "reader");
    node.publish(2, publish("im/room", QoS::AtLeastOnce, 1, "own"));
    post(&mut node, "im/room", 1);
    let no_local = SubscribeOptions { no_local: true, ..options(QoS::AtLeastOnce) };
    node.packet(2, subscribe("$im/from/1/im/room", no_local));
    assert_eq!(read_all(&mut node, 2), expected("im/room", [1, 2, 4]), "no hole: the client knows its own");
}

#[test]
fn the_subscription_is_the_filter_whatever_form_makes_or_ends_it() {
    let mut node = node_with_posts(2);
    node.connect(2, "reader");
    node.subscribe(2, "im/room", QoS::AtMostOnce);
    node.packet(2, subscribe("$im/from/1/im/room", options(QoS::AtLeastOnce)));
    assert_eq!(node.shard.stats().subscriptions, 1);
    assert_eq!(read_all(&mut node, 2), expected("im/room", 1..=2));
    node.restart(usize::MAX);
    node.connect(1, "truck");
    node.connect(3, "reader");
    post(&mut node, "im/room", 1);
    assert_eq!(read_all(&mut node, 3), expected("im/room", [3]));
    let unsubscribe = |filter: &str| {
        let filters = vec![filter.into()];
        Packet::Unsubscribe(Unsubscribe { packet_id: id(2), user_properties: Vec::new(), filters })
    };
    for (filter, code) in [
        ("$im/from/9/im/room", ReasonCode::Success),
        ("im/room", ReasonCode::NoSubscriptionExisted),
        ("$im/from/x/im/room", ReasonCode::TopicFilterInvalid),
    ] {
        node.packet(3, unsubscribe(filter));
        let Packet::UnsubAck(unsuback) = node.seen(3).remove(0) else { panic!("no UNSUBACK") };
        assert_eq!(unsuback.reasons, [code]);
    }
}

#[test]
fn stored_messages_come_in_envelopes_to_3_1_1_clients() {
    let mut node = node_with_posts(3);
    node.connack(2, version_3("old", false));
    node.packet(2, subscribe("$im/from/2/$im/env/im/#", options(QoS::AtLeastOnce)));
    node.packet(2, subscribe("im/#", options(QoS::AtLeastOnce)));
    post(&mut node, "im/room", 1);
    let got = node.publishes(2);
    let of = |topic: &str| got.iter().filter(|p| p.topic == topic).collect::<Vec<_>>();
    let seqs: Vec<_> = of("$im/env/im/room")
        .iter()
        .map(|p| serde_json::from_slice::<serde_json::Value>(&p.payload).unwrap()["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(seqs, [2, 3, 4]);
    assert_eq!(of("im/room").len(), 1, "the plain subscription asked for nothing stored");
}

#[test]
fn the_conversations_of_a_member_are_replayed_until_the_membership_ends() {
    let mut node = node_with_posts(3);
    post(&mut node, "im/other", 2);
    node.join("im/room", "anon:reader");
    node.connect_with(2, reader("reader", 1));
    node.packet(2, subscribe_from("$im/mine", QoS::AtLeastOnce, "2"));
    post(&mut node, "im/room", 2);
    assert_eq!(read_all(&mut node, 2), expected("im/room", 2..=5));
    node.packet(2, subscribe("$im/from/1/$im/mine", options(QoS::AtLeastOnce)));
    node.leave("im/room", "anon:reader");
    assert_eq!(read_all(&mut node, 2), expected("im/room", [1]), "what was in flight");
}

#[test]
fn what_is_not_durable_yet_is_not_read_and_comes_when_it_is() {
    let mut node = node_with_posts(3);
    node.connect_with(2, volatile("reader"));
    node.seen(2);
    node.auto_commit = false;
    for n in 2..6 {
        node.packet(1, Packet::Publish(publish("im/room", QoS::AtLeastOnce, n, "x")));
    }
    node.packet(2, subscribe("$im/from/2/im/room", options(QoS::AtLeastOnce)));
    let before: Vec<_> = node.publishes(2).iter().map(told).collect();
    assert_eq!(before, expected("im/room", 2..=3));
    node.packet(1, Packet::Publish(publish("im/room", QoS::AtLeastOnce, 9, "x")));
    assert_eq!(node.publishes(2), []);
    node.auto_commit = true;
    node.commit();
    node.pass_ms(0);
    assert_eq!(read_all(&mut node, 2), expected("im/room", 4..=8));
}

#[test]
fn rights_that_end_end_the_replay() {
    let mut node = node_with_posts(20);
    node.connect_with(2, reader("reader", 1));
    node.packet(2, subscribe("$im/from/1/im/room", options(QoS::AtLeastOnce)));
    let first = node.publishes(2);
    let rule = |allow, who, filter: &str| engine::AclRule {
        allow,
        who,
        access: engine::Access::Both,
        filter: filter.into(),
    };
    let rules =
        vec![rule(false, engine::Who::Client("reader".into()), "im/room"), rule(true, engine::Who::All, "#")];
    node.input(engine::Input::Acl { acl: std::sync::Arc::new(engine::Acl { rules }) });
    node.packet(2, Packet::PubAck(Ack::new(first[0].packet_id.unwrap(), ReasonCode::Success)));
    assert_eq!(read_all(&mut node, 2), Vec::<String>::new());
    let code = node.subscribe_with(2, "$im/from/1/im/room", options(QoS::AtLeastOnce));
    assert_eq!(code, ReasonCode::NotAuthorized);
    let code = node.subscribe_with(2, "$im/from/1/$im/env/im/#", options(QoS::AtLeastOnce));
    assert_eq!(code, ReasonCode::NotAuthorized);
}

#[test]
fn whatever_happens_meanwhile_each_number_comes_once_and_in_order() {
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let stored = rng.usize(1..150);
        let mut node = node_with_posts(stored);
        let mut conn = 2;
        node.connect_with(conn, reader("reader", rng.u16(1..8)));
        let start = rng.u64(1..=stored as u64);
        node.packet(conn, subscribe(&format!("$im/from/{start}/im/+"), options(QoS::AtLeastOnce)));
        let (mut unacked, mut read) = (Vec::new(), Vec::new());
        let mut take = |node: &mut Node, conn: u64, unacked: &mut Vec<PacketId>| {
            for p in node.publishes(conn) {
                // One that was sent before may have been lost on its way.
                if !p.dup || !read.contains(&told(&p)) {
                    read.push(told(&p));
                }
                unacked.push(p.packet_id.unwrap());
            }
        };
        for step in 0..300 {
            take(&mut node, conn, &mut unacked);
            match rng.u8(0..12) {
                0..4 => node.packet(1, Packet::Publish(publish("im/room", QoS::AtLeastOnce, 1, "x"))),
                4..8 if !unacked.is_empty() => {
                    let packet_id = unacked.remove(0);
                    node.packet(conn, Packet::PubAck(Ack::new(packet_id, ReasonCode::Success)));
                }
                8 => {
                    node.auto_commit = rng.bool();
                    node.commit();
                    node.pass_ms(0);
                }
                9 if step % 7 == 0 => {
                    node.drop_connection(conn);
                    (conn, unacked) = (conn + 1, Vec::new());
                    node.connect_with(conn, reader("reader", rng.u16(1..8)));
                }
                10 if step % 11 == 0 => {
                    // What is in the log is there: a client saw nothing else.
                    node.restart(usize::MAX);
                    (conn, unacked) = (conn + 1, Vec::new());
                    node.connect_with(conn, reader("reader", rng.u16(1..8)));
                    node.connect_with(1, durable("truck"));
                }
                _ => node.pass_ms(1),
            }
            node.seen(1);
        }
        node.auto_commit = true;
        node.commit();
        node.pass_ms(0);
        loop {
            take(&mut node, conn, &mut unacked);
            if unacked.is_empty() {
                break;
            }
            for packet_id in std::mem::take(&mut unacked) {
                node.packet(conn, Packet::PubAck(Ack::new(packet_id, ReasonCode::Success)));
            }
            node.pass_ms(0);
        }
        let last = node.shard.kept_seqs("im/room").last().copied().unwrap();
        assert_eq!(read, expected("im/room", start..=last), "seed {seed}");
    }
}
