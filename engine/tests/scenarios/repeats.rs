//! Messages that are published again (docs/protocol.md section 2).

use crate::node::*;
use engine::{Config, DedupLimits, Input};
use protocol::*;

fn with_id(publish: Publish, id: &str) -> Publish {
    let Packet::Publish(publish) = with_property(publish, im::IM_ID, id) else { unreachable!() };
    publish
}

/// What a PUBACK or PUBREC said: reason, id, seq, dup.
type Told = (ReasonCode, Option<String>, Option<String>, Option<String>);

fn told(node: &mut Node, conn: u64) -> Vec<Told> {
    let acks = node.seen(conn).into_iter().filter_map(|p| match p {
        Packet::PubAck(ack) | Packet::PubRec(ack) => Some(ack),
        _ => None,
    });
    acks.map(|ack| {
        let of = |name| property(&ack.properties.user_properties, name).map(str::to_owned);
        (ack.reason, of(im::IM_ID), of(im::IM_SEQ), of(im::IM_DUP))
    })
    .collect()
}

fn accepted(id: &str, seq: Option<&str>, dup: Option<&str>) -> Told {
    (ReasonCode::Success, Some(id.into()), seq.map(str::to_owned), dup.map(str::to_owned))
}

/// A node with a publisher on connection 1 and a subscriber to all on connection 2.
fn node() -> Node {
    let mut node = Node::new();
    node.connect_as(1, durable("truck"), Some("ann"));
    node.connect(2, "dispatcher");
    node.subscribe(2, "#", QoS::ExactlyOnce);
    node.seen(1);
    node
}

#[test]
fn a_repeat_is_acknowledged_with_the_first_number_and_sent_to_nobody() {
    let mut node = node();
    for (topic, first, second) in [("im/room", Some("1"), Some("2")), ("t", None, None)] {
        for (id, seq) in [("m1", first), ("m2", second)] {
            node.packet(1, Packet::Publish(with_id(publish(topic, QoS::AtLeastOnce, 1, id), id)));
            assert_eq!(told(&mut node, 1), [accepted(id, seq, None)]);
        }
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            node.packet(1, Packet::Publish(with_id(publish(topic, qos, 7, "another payload"), "m1")));
            assert_eq!(told(&mut node, 1), [accepted("m1", first, Some("1"))]);
            if qos == QoS::ExactlyOnce {
                node.packet(1, Packet::PubRel(ack(7, ReasonCode::Success)));
                assert_eq!(node.seen(1), [Packet::PubComp(ack(7, ReasonCode::Success))]);
            }
        }
        node.packet(1, Packet::Publish(with_id(publish(topic, QoS::AtMostOnce, 0, "x"), "m1")));
        assert_eq!(node.seen(1), []);
        assert_eq!(node.payloads(2), ["m1", "m2"]);
    }
    assert_eq!(node.shard.stats().duplicates, 6);
}

#[test]
fn a_repeat_is_known_by_user_topic_and_id_across_clients_and_restarts() {
    let mut node = node();
    node.packet(1, Packet::Publish(with_id(publish("im/room", QoS::AtLeastOnce, 1, "x"), "m")));
    assert_eq!(told(&mut node, 1), [accepted("m", Some("1"), None)]);
    for from_checkpoint in [false, true] {
        match from_checkpoint {
            true => node.restart_from_checkpoint(),
            false => node.restart(usize::MAX),
        }
        let conn = 10 + u64::from(from_checkpoint) * 10;
        node.connect_as(conn, durable("ann's other one"), Some("ann"));
        node.seen(conn);
        node.packet(conn, Packet::Publish(with_id(publish("im/room", QoS::AtLeastOnce, 1, "x"), "m")));
        assert_eq!(told(&mut node, conn), [accepted("m", Some("1"), Some("1"))]);
    }
    // Another topic, and another user.
    node.packet(20, Packet::Publish(with_id(publish("im/other", QoS::AtLeastOnce, 1, "x"), "m")));
    assert_eq!(told(&mut node, 20), [accepted("m", Some("1"), None)]);
    node.connect_as(21, durable("bob's"), Some("bob"));
    node.seen(21);
    node.packet(21, Packet::Publish(with_id(publish("im/room", QoS::AtLeastOnce, 1, "x"), "m")));
    assert_eq!(told(&mut node, 21), [accepted("m", Some("2"), None)]);
}

#[test]
fn a_repeat_is_never_acknowledged_before_the_first_is_durable() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut node = node();
        node.connect_as(3, volatile("another"), Some("ann"));
        node.seen(3);
        node.auto_commit = false;
        node.packet(1, Packet::Publish(with_id(publish("im/room", QoS::AtLeastOnce, 1, "x"), "m")));
        node.packet(3, Packet::Publish(with_id(publish("im/room", qos, 1, "x"), "m")));
        assert_eq!((node.seen(1), node.seen(3)), (vec![], vec![]));
        node.commit();
        assert_eq!(told(&mut node, 3), [accepted("m", Some("1"), Some("1"))]);
        assert_eq!(told(&mut node, 1), [accepted("m", Some("1"), None)]);
    }
}

#[test]
fn an_id_whose_record_was_lost_is_new() {
    let mut node = node();
    let durable_records = node.log.len();
    node.auto_commit = false;
    node.packet(1, Packet::Publish(with_id(publish("im/room", QoS::AtLeastOnce, 1, "x"), "m")));
    node.auto_commit = true;
    node.restart(durable_records);
    node.connect_as(3, durable("truck"), Some("ann"));
    node.seen(3);
    node.packet(3, Packet::Publish(with_id(publish("im/room", QoS::AtLeastOnce, 1, "x"), "m")));
    assert_eq!(told(&mut node, 3), [accepted("m", Some("1"), None)]);
}

#[test]
fn a_qos_2_publish_sent_again_under_its_packet_id_is_no_duplicate() {
    let mut node = node();
    let first = with_id(publish("im/room", QoS::ExactlyOnce, 5, "x"), "m");
    node.packet(1, Packet::Publish(first.clone()));
    node.packet(1, Packet::Publish(Publish { dup: true, ..first }));
    assert_eq!(told(&mut node, 1), [accepted("m", Some("1"), None), accepted("m", Some("1"), None)]);
    assert_eq!(node.shard.stats().duplicates, 0);
}

#[test]
fn a_repeat_at_qos_2_keeps_its_packet_id_over_a_restart() {
    let mut node = node();
    node.packet(1, Packet::Publish(with_id(publish("im/room", QoS::AtLeastOnce, 1, "x"), "m")));
    node.packet(1, Packet::Publish(with_id(publish("im/room", QoS::ExactlyOnce, 5, "x"), "m")));
    node.restart(usize::MAX);
    node.connect_as(3, durable("truck"), Some("ann"));
    node.seen(3);
    // [MQTT-4.3.3-10] the packet id is known, so this is the same publish.
    node.packet(3, Packet::Publish(with_id(publish("im/room", QoS::ExactlyOnce, 5, "x"), "m")));
    assert_eq!(told(&mut node, 3), [accepted("m", Some("1"), None)]);
    node.packet(3, Packet::PubRel(ack(5, ReasonCode::Success)));
    assert_eq!(node.seen(3), [Packet::PubComp(ack(5, ReasonCode::Success))]);
}

#[test]
fn a_refused_publish_leaves_no_id_and_a_repeat_needs_no_room() {
    let mut node = node();
    let of = |topic, id| Packet::Publish(with_id(publish(topic, QoS::AtLeastOnce, 1, "x"), id));
    node.packet(1, of("im/room", "first"));
    node.input(Input::StoreFull { full: true });
    node.packet(1, of("im/room", "m"));
    node.packet(1, of("nobody/hears", "m"));
    node.packet(1, of("im/room", "first"));
    let reasons: Vec<_> = told(&mut node, 1).into_iter().map(|(reason, _, _, dup)| (reason, dup)).collect();
    let refused = (ReasonCode::QuotaExceeded, None);
    let repeated = (ReasonCode::Success, Some("1".to_owned()));
    assert_eq!(reasons, [(ReasonCode::Success, None), refused.clone(), refused, repeated]);
    node.input(Input::StoreFull { full: false });
    node.packet(1, of("im/room", "m"));
    assert_eq!(told(&mut node, 1), [accepted("m", Some("2"), None)]);
}

#[test]
fn a_repeat_says_that_nobody_got_the_message_only_if_nobody_did() {
    let mut node = Node::new();
    node.connect(1, "truck");
    let of = || Packet::Publish(with_id(publish("t", QoS::AtLeastOnce, 1, "x"), "m"));
    node.packet(1, of());
    node.connect(2, "dispatcher");
    node.subscribe(2, "t", QoS::AtLeastOnce);
    node.restart(usize::MAX);
    node.connect(3, "truck");
    node.packet(3, of());
    let reasons: Vec<_> = told(&mut node, 3).into_iter().map(|(reason, ..)| reason).collect();
    assert_eq!(reasons, [ReasonCode::NoMatchingSubscribers]);
}

#[test]
fn a_repeat_changes_no_retained_message() {
    let mut node = node();
    let of = |payload, id| {
        let publish = Publish { retain: true, ..publish("t", QoS::AtLeastOnce, 1, payload) };
        Packet::Publish(with_id(publish, id))
    };
    node.packet(1, of("1", "m1"));
    node.packet(1, of("2", "m2"));
    node.packet(1, of("1", "m1"));
    node.packet(1, of("", "m2"));
    node.connect(3, "late");
    node.subscribe_with(3, "t", options(QoS::AtLeastOnce));
    assert_eq!(node.payloads(3), ["2"]);
}

#[test]
fn the_window_ends_by_age_and_by_number() {
    let dedup = DedupLimits { age_s: 100, ids_per_user_max: 3, ids_max: 1_000 };
    let mut node = Node::with(Config { dedup, ..Config::default() });
    node.connect(1, "truck");
    let of = |id: &str| Packet::Publish(with_id(publish("im/room", QoS::AtLeastOnce, 1, "x"), id));
    let dups = |node: &mut Node| -> Vec<bool> {
        told(node, 1).into_iter().map(|(_, _, _, dup)| dup.is_some()).collect()
    };
    for id in ["1", "2", "3", "4", "4", "3", "2", "1"] {
        node.packet(1, of(id));
    }
    // The first 1 went when 4 came; it came again, so 2 went.
    assert_eq!(dups(&mut node), [false, false, false, false, true, true, true, false]);
    node.pass_s(99);
    node.packet(1, of("1"));
    assert_eq!(dups(&mut node), [true]);
    node.pass_s(1);
    node.packet(1, of("1"));
    assert_eq!(dups(&mut node), [false]);
    let held = node.shard.memory().bytes;
    node.pass_s(200);
    assert!(node.shard.memory().bytes < held, "what is past is given back without a publish");
    node.restart(usize::MAX);
    node.connect(1, "truck");
    node.packet(1, of("1"));
    assert_eq!(dups(&mut node), [false]);
}

#[test]
fn a_will_with_an_id_is_published_once() {
    let mut node = node();
    for conn in [3, 4] {
        let mut connect = volatile("phone");
        let properties = PublishProperties {
            user_properties: vec![(im::IM_ID.into(), "gone".into())],
            ..PublishProperties::default()
        };
        connect.will = Some(Box::new(Will {
            topic: "im/room".into(),
            payload: Bytes::from_static(b"gone"),
            qos: QoS::AtLeastOnce,
            retain: false,
            delay_interval_s: None,
            properties,
        }));
        node.connect_as(conn, connect, Some("ann"));
        node.drop_connection(conn);
    }
    assert_eq!(node.payloads(2), ["gone"]);
}

#[test]
fn ids_of_the_brokers_own_leave_nothing_in_the_log() {
    let mut node = node();
    node.drop_connection(2);
    node.connect_with(2, Connect { clean_start: true, ..volatile("dispatcher") });
    node.subscribe(2, "t", QoS::AtLeastOnce);
    let records = node.log.len();
    node.publish(1, publish("t", QoS::AtLeastOnce, 1, "x"));
    assert_eq!(node.log.len(), records);
}
