//! Shared subscriptions (MQTT 5.0 section 4.8.2): who gets a message, and who gets it when that one cannot.

use std::num::{NonZeroU16, NonZeroU32};

use crate::node::*;
use engine::{Config, ConnId, DedupLimits, Input};
use protocol::*;

pub(crate) const GROUP: &str = "$share/g/t";

/// A truck that publishes on connection 1, and hears receipts. It gives different messages the same id.
pub(crate) fn node() -> Node {
    let dedup = DedupLimits { age_s: 0, ..DedupLimits::default() };
    let mut node = Node::with(Config { dedup, ..Config::default() });
    node.connect(1, "truck");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    node
}

/// Connects a durable member that takes `window` messages at once.
pub(crate) fn member(node: &mut Node, conn: u64, client: &str, window: u16, qos: QoS) {
    let mut connect = durable(client);
    connect.properties.receive_maximum = NonZeroU16::new(window);
    node.connack(conn, connect);
    assert_eq!(node.subscribe_with(conn, GROUP, options(qos)), granted(qos));
}

fn granted(qos: QoS) -> ReasonCode {
    [ReasonCode::Success, ReasonCode::GrantedQoS1, ReasonCode::GrantedQoS2][qos as usize]
}

/// The truck publishes `count` messages at QoS 1 that ask for receipts: m0, m1 and so on.
pub(crate) fn send(node: &mut Node, count: usize) {
    for n in 0..count {
        let mut p = publish("t", QoS::AtLeastOnce, 1, "");
        p.payload = format!("m{n}").into();
        node.packet(1, tracked(p, &format!("m{n}")));
    }
}

pub(crate) fn end_session(node: &mut Node, conn: u64, client: &str) {
    node.connect_with(conn, volatile(client));
    node.drop_connection(conn);
}

/// Acknowledges everything that comes, until nothing comes any more; returns the payloads in order.
pub(crate) fn take_all(node: &mut Node, conn: u64) -> Vec<String> {
    let mut taken = Vec::new();
    loop {
        // What one answer left to do is done by the timer.
        node.pass_ms(0);
        let seen = node.seen(conn);
        if !seen.iter().any(|p| matches!(p, Packet::Publish(_) | Packet::PubRel(_))) {
            return taken;
        }
        for packet in seen {
            match packet {
                Packet::Publish(p) => {
                    taken.push(String::from_utf8(p.payload.to_vec()).unwrap());
                    match (p.qos, p.packet_id) {
                        (QoS::AtLeastOnce, Some(id)) => {
                            node.packet(conn, Packet::PubAck(Ack::new(id, ReasonCode::Success)));
                        }
                        (QoS::ExactlyOnce, Some(id)) => {
                            node.packet(conn, Packet::PubRec(Ack::new(id, ReasonCode::Success)));
                        }
                        _ => {}
                    }
                }
                Packet::PubRel(ack) => {
                    node.packet(conn, Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::Success)));
                }
                _ => {}
            }
        }
    }
}

#[test]
fn members_take_turns_each_at_the_level_of_its_own_subscription() {
    // [MQTT-4.8.2-3], [MQTT-3.8.4-8]
    let mut node = node();
    member(&mut node, 2, "a", 10, QoS::AtMostOnce);
    member(&mut node, 3, "b", 10, QoS::ExactlyOnce);
    node.connect_with(4, version_3("c", false));
    node.subscribe_with(4, GROUP, options(QoS::AtLeastOnce));
    for _ in 0..6 {
        node.packet(1, Packet::Publish(publish("t", QoS::ExactlyOnce, 1, "x")));
        node.packet(1, Packet::PubRel(ack(1, ReasonCode::Success)));
    }
    for (conn, qos) in [(2, QoS::AtMostOnce), (3, QoS::ExactlyOnce), (4, QoS::AtLeastOnce)] {
        let got: Vec<_> = node.publishes(conn).iter().map(|p| p.qos).collect();
        assert_eq!(got, [qos, qos], "{conn}");
    }
}

#[test]
fn the_publisher_is_a_member_like_any_other_and_connack_says_that_groups_work() {
    let mut node = Node::new();
    let connack = node.connack(1, durable("truck"));
    assert_eq!(connack.properties.shared_subscription_available, Some(true));
    node.subscribe(1, GROUP, QoS::AtLeastOnce);
    node.connect(2, "other");
    node.subscribe(2, GROUP, QoS::AtLeastOnce);
    for _ in 0..4 {
        node.publish(1, publish("t", QoS::AtLeastOnce, 1, "x"));
    }
    assert_eq!((node.payloads(1).len(), node.payloads(2).len()), (2, 2));
}

#[test]
fn groups_and_ordinary_subscriptions_each_bring_their_own_copy() {
    // Section 4.8.2: a session with both gets what each brings; groups are independent of each other.
    let mut node = node();
    node.connect(2, "both");
    for (filter, identifier) in [("t", 1), ("+", 2), (GROUP, 3), ("$share/h/+", 4), ("$share/g/#", 5)] {
        let Packet::Subscribe(s) = subscribe(filter, options(QoS::AtLeastOnce)) else { unreachable!() };
        node.packet(2, Packet::Subscribe(Subscribe { subscription_identifier: Some(identifier), ..s }));
    }
    node.packet(1, tracked(publish("t", QoS::AtLeastOnce, 1, "x"), "m"));
    // The log knows which is which.
    for restart in [false, true] {
        let conn = 2 + u64::from(restart);
        if restart {
            node.restart_from_checkpoint();
            node.connect_with(conn, durable("both"));
        }
        let mut identifiers: Vec<_> = node
            .publishes(conn)
            .into_iter()
            .map(|p| p.properties.into_inner().subscription_identifiers)
            .collect();
        identifiers.sort_unstable();
        assert_eq!(identifiers, [vec![1, 2], vec![3], vec![4], vec![5]]);
    }
    node.connect(4, "truck");
    for packet_id in 1..5 {
        node.packet(3, Packet::PubAck(ack(packet_id, ReasonCode::Success)));
    }
    // One recipient by its subscriptions, and three groups.
    assert_eq!(receipts(&mut node, 4), ["m delivered both -"; 4]);
}

#[test]
fn a_shared_subscription_brings_no_retained_messages_but_live_ones_keep_their_flag_when_asked() {
    let mut node = node();
    node.publish(1, Publish { retain: true, ..publish("t", QoS::AtLeastOnce, 1, "kept") });
    node.connect(2, "a");
    let as_published = SubscribeOptions { retain_as_published: true, ..options(QoS::AtLeastOnce) };
    node.subscribe_with(2, GROUP, as_published);
    assert_eq!(node.payloads(2), Vec::<String>::new());
    node.publish(1, Publish { retain: true, ..publish("t", QoS::AtLeastOnce, 1, "new") });
    assert!(node.publishes(2)[0].retain);
}

#[test]
fn a_second_subscribe_changes_the_level_and_the_first_unsubscribe_leaves() {
    // Section 4.8.2: subscribing again does not make two members of one.
    let mut node = node();
    member(&mut node, 2, "a", 10, QoS::AtMostOnce);
    assert_eq!(node.subscribe_with(2, GROUP, options(QoS::AtLeastOnce)), ReasonCode::GrantedQoS1);
    send(&mut node, 1);
    assert_eq!(node.publishes(2).iter().map(|p| p.qos).collect::<Vec<_>>(), [QoS::AtLeastOnce]);
    assert_eq!(node.shard.stats().subscriptions, 1);
    unsubscribe(&mut node, 2, ReasonCode::Success);
    unsubscribe(&mut node, 2, ReasonCode::NoSubscriptionExisted);
    assert_eq!(node.shard.stats().subscriptions, 0);
    node.seen(1);
    let reason = node.publish(1, publish("t", QoS::AtLeastOnce, 1, "x"));
    assert_eq!(reason, ReasonCode::NoMatchingSubscribers);
}

fn unsubscribe(node: &mut Node, conn: u64, reason: ReasonCode) {
    node.packet(
        conn,
        Packet::Unsubscribe(Unsubscribe {
            packet_id: id(9),
            user_properties: vec![],
            filters: vec![GROUP.into()],
        }),
    );
    let seen = node.seen(conn);
    assert!(seen.iter().any(|p| matches!(p, Packet::UnsubAck(u) if u.reasons == [reason])), "{seen:?}");
}

#[test]
fn a_group_that_only_a_passing_member_held_together_is_there_after_a_restart() {
    let mut node = node();
    node.connect_with(2, volatile("passing"));
    node.subscribe_with(2, GROUP, options(QoS::AtLeastOnce));
    member(&mut node, 3, "a", 10, QoS::AtLeastOnce);
    unsubscribe(&mut node, 3, ReasonCode::Success);
    assert_eq!(node.subscribe_with(3, GROUP, options(QoS::AtLeastOnce)), ReasonCode::GrantedQoS1);
    node.drop_connection(2);
    node.restart(usize::MAX);
    node.connect_with(4, durable("truck"));
    node.connect_with(5, durable("a"));
    node.publish(4, publish("t", QoS::AtLeastOnce, 1, "x"));
    assert_eq!(node.payloads(5), ["x"]);
}

#[test]
fn what_cannot_be_shared_is_refused_with_its_reason() {
    // docs/protocol.md sections 3 and 11
    let mut node = node();
    for (filter, reason) in [
        ("$share/g/$im/from/1/t", ReasonCode::ImplementationSpecificError),
        ("$share/g/$im/env/$im/receipts", ReasonCode::TopicFilterInvalid),
        ("$share/g/$im/receipts", ReasonCode::TopicFilterInvalid),
        ("$share/g/$im/errors", ReasonCode::TopicFilterInvalid),
        ("$share/g/$im/#", ReasonCode::TopicFilterInvalid),
        ("$share/g/$SYS/#", ReasonCode::GrantedQoS1),
        ("$share/g/$share/h/t", ReasonCode::TopicFilterInvalid),
        ("$share/+/t", ReasonCode::TopicFilterInvalid),
    ] {
        assert_eq!(node.subscribe_with(1, filter, options(QoS::AtLeastOnce)), reason, "{filter}");
    }
    let Packet::Subscribe(s) = subscribe(GROUP, options(QoS::AtLeastOnce)) else { unreachable!() };
    let user_properties = vec![(im::IM_FROM_SEQ.into(), "1".into())];
    node.packet(1, Packet::Subscribe(Subscribe { user_properties, ..s }));
    let seen = node.seen(1);
    let refused = [ReasonCode::ImplementationSpecificError];
    assert!(matches!(&seen[..], [Packet::SubAck(s)] if s.reasons == refused), "{seen:?}");
}

#[test]
fn a_member_without_room_is_passed_over_and_then_the_shortest_queue_gets_more() {
    let mut node = node();
    member(&mut node, 2, "narrow", 1, QoS::AtLeastOnce);
    member(&mut node, 3, "wide", 3, QoS::AtLeastOnce);
    send(&mut node, 4);
    assert_eq!((node.payloads(2), node.payloads(3).len()), (vec!["m0".into()], 3));
    // None has room: whoever holds fewest.
    send(&mut node, 2);
    assert_eq!(take_all(&mut node, 2).len(), 0);
    node.packet(2, Packet::PubAck(ack(1, ReasonCode::Success)));
    assert_eq!(take_all(&mut node, 2), ["m0", "m1"]);
    // One that does not read what is sent to it has no room either.
    for n in 1..4 {
        node.packet(3, Packet::PubAck(ack(n, ReasonCode::Success)));
    }
    node.input(Input::Congested { conn: ConnId(3) });
    for n in 0..3 {
        send(&mut node, 1);
        assert_eq!(take_all(&mut node, 2).len(), 1, "{n}");
    }
}

#[test]
fn who_is_away_gets_a_message_only_when_nobody_connected_can_take_it() {
    let mut node = node();
    member(&mut node, 2, "away", 10, QoS::AtLeastOnce);
    member(&mut node, 3, "dull", 10, QoS::AtMostOnce);
    member(&mut node, 4, "here", 10, QoS::AtLeastOnce);
    node.drop_connection(2);
    send(&mut node, 4);
    assert_eq!((node.payloads(3).len(), node.payloads(4).len()), (2, 2));
    node.drop_connection(3);
    node.drop_connection(4);
    // QoS 0 would be lost where nobody is connected: it goes to those who keep it.
    send(&mut node, 4);
    node.connect_with(5, durable("dull"));
    assert_eq!(node.payloads(5).len(), 4, "the first to come gets what waits");
}

#[test]
fn a_message_too_large_for_one_member_goes_to_one_that_can_take_it() {
    // [MQTT-3.1.2-25] leaves the choice.
    let mut node = node();
    let mut small = durable("small");
    small.properties.packet_bytes_max = NonZeroU32::new(200);
    node.connack(2, small);
    node.subscribe_with(2, GROUP, options(QoS::AtLeastOnce));
    member(&mut node, 3, "large", 10, QoS::AtLeastOnce);
    for _ in 0..4 {
        let payload = vec![b'x'; 300].into();
        node.publish(1, Publish { payload, ..publish("t", QoS::AtLeastOnce, 1, "") });
    }
    assert_eq!((node.payloads(2).len(), node.payloads(3).len()), (0, 4));
}

#[test]
fn when_a_session_ends_qos_1_goes_on_and_qos_2_in_flight_ends_with_it() {
    // [MQTT-4.8.2-4], [MQTT-4.8.2-5]
    for (qos, expected) in [
        (QoS::AtLeastOnce, vec!["m0", "m1", "m2", "m3"]),
        // What was in flight stays out; what waited has not begun.
        (QoS::ExactlyOnce, vec!["m2", "m3"]),
    ] {
        let mut node = node();
        member(&mut node, 2, "leaver", 2, qos);
        for n in 0..4 {
            let mut p = publish("t", QoS::ExactlyOnce, 1, "");
            p.payload = format!("m{n}").into();
            node.packet(1, tracked(p, &format!("m{n}")));
            node.packet(1, Packet::PubRel(ack(1, ReasonCode::Success)));
        }
        assert_eq!(node.payloads(2), ["m0", "m1"]);
        node.seen(1);
        member(&mut node, 3, "stayer", 10, qos);
        assert_eq!(node.payloads(3), Vec::<String>::new());
        end_session(&mut node, 4, "leaver");
        assert_eq!(take_all(&mut node, 3), expected, "{qos:?}");
        let mut told = receipts(&mut node, 1);
        told.sort_unstable();
        let gone = |n: usize| match qos {
            QoS::ExactlyOnce if n < 2 => format!("m{n} dropped leaver session_ended"),
            _ => format!("m{n} delivered stayer -"),
        };
        assert_eq!(told, (0..4).map(gone).collect::<Vec<_>>());
    }
}

#[test]
fn qos_2_in_flight_is_completed_by_its_member_when_it_comes_back() {
    // [MQTT-4.8.2-4]
    let mut node = node();
    member(&mut node, 2, "a", 10, QoS::ExactlyOnce);
    member(&mut node, 3, "b", 10, QoS::ExactlyOnce);
    node.packet(1, Packet::Publish(publish("t", QoS::ExactlyOnce, 1, "x")));
    assert_eq!(node.payloads(2), ["x"]);
    node.drop_connection(2);
    assert_eq!(node.payloads(3), Vec::<String>::new());
    node.restart(usize::MAX);
    node.connect_with(4, durable("b"));
    node.connect_with(5, durable("a"));
    assert_eq!(node.payloads(4), Vec::<String>::new());
    let again = node.publishes(5);
    assert!(again.len() == 1 && again[0].dup && again[0].qos == QoS::ExactlyOnce, "{again:?}");
}

#[test]
fn a_message_that_a_member_refuses_goes_to_nobody_else() {
    // [MQTT-4.8.2-6]
    let mut node = node();
    for (conn, client) in [(2, "a"), (3, "b")] {
        member(&mut node, conn, client, 10, QoS::ExactlyOnce);
    }
    send(&mut node, 1);
    node.packet(2, Packet::PubAck(ack(1, ReasonCode::UnspecifiedError)));
    assert_eq!(receipts(&mut node, 1), ["m0 refused a unspecified error"]);
    node.packet(1, Packet::Publish(publish("t", QoS::ExactlyOnce, 1, "x")));
    node.packet(3, Packet::PubRec(ack(1, ReasonCode::QuotaExceeded)));
    end_session(&mut node, 4, "a");
    assert_eq!((node.payloads(2).len(), node.payloads(3).len()), (1, 1));
    assert_eq!(node.shard.stats().queued, 1, "the receipt");
}

#[test]
fn what_waits_at_a_member_that_unsubscribes_goes_on_and_what_is_in_flight_is_completed() {
    // [MQTT-3.10.4-3] what has begun is completed; what waits may go to others.
    let mut node = node();
    member(&mut node, 2, "a", 1, QoS::AtLeastOnce);
    node.subscribe_with(2, "other", options(QoS::AtLeastOnce));
    send(&mut node, 2);
    node.publish(1, publish("other", QoS::AtLeastOnce, 1, "its own"));
    send(&mut node, 2);
    assert_eq!(node.payloads(2), ["m0"]);
    member(&mut node, 3, "b", 10, QoS::AtLeastOnce);
    unsubscribe(&mut node, 2, ReasonCode::Success);
    assert_eq!(take_all(&mut node, 3), ["m1", "m0", "m1"]);
    node.packet(2, Packet::PubAck(ack(1, ReasonCode::Success)));
    assert_eq!(take_all(&mut node, 2), ["its own"]);
}

#[test]
fn what_waits_at_the_last_member_that_unsubscribes_stays_with_it() {
    // [MQTT-3.10.4-3] allows what is buffered to be delivered.
    let mut node = node();
    member(&mut node, 2, "a", 1, QoS::AtLeastOnce);
    send(&mut node, 3);
    unsubscribe(&mut node, 2, ReasonCode::Success);
    node.restart_from_checkpoint();
    node.connect_with(3, durable("a"));
    assert_eq!(take_all(&mut node, 3), ["m0", "m1", "m2"]);
    assert_eq!(node.shard.stats().queued, 3, "the receipts");
}

#[test]
fn a_group_counts_as_one_among_many_recipients() {
    let mut node = Node::with(Config { receipts_listed_max: 1, ..Config::default() });
    node.connect(1, "truck");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    for (conn, client) in [(2, "a"), (3, "b")] {
        member(&mut node, conn, client, 10, QoS::AtLeastOnce);
    }
    node.connect(4, "c");
    node.subscribe(4, "t", QoS::AtLeastOnce);
    node.packet(1, tracked(publish("t", QoS::AtLeastOnce, 1, "x"), "m"));
    node.packet(4, Packet::PubAck(ack(1, ReasonCode::Success)));
    end_session(&mut node, 5, "a");
    node.restart_from_checkpoint();
    node.connect_with(6, durable("b"));
    node.connect_with(7, durable("truck"));
    assert_eq!(take_all(&mut node, 6), ["x"]);
    let told: Vec<_> = node
        .publishes(7)
        .iter()
        .map(|p| serde_json::from_slice::<serde_json::Value>(&p.payload).unwrap())
        .map(|r| format!("{} {} of {}", r["state"].as_str().unwrap(), r["count"], r["of"]))
        .collect();
    assert_eq!(told, ["delivered 2 of 2"]);
}

#[test]
fn a_group_in_a_conversation_gets_its_numbers_and_keeps_qos_0_for_who_is_away() {
    let mut node = node();
    node.connect(2, "a");
    node.subscribe_with(2, "$share/g/im/#", options(QoS::AtMostOnce));
    node.connect(3, "b");
    node.subscribe_with(3, "$share/g/im/#", options(QoS::AtMostOnce));
    node.drop_connection(2);
    node.drop_connection(3);
    for _ in 0..4 {
        node.publish(1, publish("im/room", QoS::AtLeastOnce, 1, "x"));
    }
    node.restart(usize::MAX);
    node.connect_with(4, durable("b"));
    let got = node.publishes(4);
    let mut seqs: Vec<_> =
        got.iter().map(|p| property(&p.properties.user_properties, im::IM_SEQ).unwrap_or("-")).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, ["1", "2", "3", "4"]);
    assert!(got.iter().all(|p| property(&p.properties.user_properties, im::IM_GAP).is_none()));
}
