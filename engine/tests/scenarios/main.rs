//! The engine's promises, one scenario each, on virtual time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod node;

use engine::{Config, Input};
use node::*;
use protocol::*;

fn ack(packet_id: u16, reason: ReasonCode) -> Ack {
    Ack::new(id(packet_id), reason)
}

fn receipts(node: &mut Node, conn: u64) -> Vec<String> {
    let publishes = node.publishes(conn).into_iter().filter(|p| p.topic == "$im/receipts");
    publishes
        .map(|p| {
            let r: serde_json::Value = serde_json::from_slice(&p.payload).unwrap();
            let field = |name: &str| r[name].as_str().unwrap_or("-").to_owned();
            format!("{} {} {} {}", field("id"), field("state"), field("client"), field("reason"))
        })
        .collect()
}

#[test]
fn puback_and_delivery_wait_for_the_record_and_qos_0_does_not() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "dispatcher");
    node.subscribe(2, "#", QoS::ExactlyOnce);
    node.auto_commit = false;
    node.packet(1, Packet::Publish(publish("t", QoS::AtLeastOnce, 7, "first")));
    assert_eq!((node.seen(1), node.seen(2)), (vec![], vec![]));
    node.commit();
    assert!(matches!(&node.seen(1)[..], [Packet::PubAck(a)] if a.packet_id == id(7)));
    assert!(matches!(&node.seen(2)[..], [Packet::Publish(p)] if p.payload == "first"));
    node.packet(1, Packet::Publish(publish("t", QoS::AtMostOnce, 0, "second")));
    assert!(matches!(&node.seen(2)[..], [Packet::Publish(p)] if p.payload == "second"));
}

#[test]
fn a_qos_0_publish_to_a_conversation_waits_for_its_number_to_be_durable() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "dispatcher");
    node.subscribe(2, "im/#", QoS::AtMostOnce);
    node.auto_commit = false;
    node.packet(1, Packet::Publish(publish("im/room", QoS::AtMostOnce, 0, "hello")));
    assert_eq!(node.seen(2), vec![]);
    node.commit();
    let got = node.publishes(2);
    assert_eq!(property(&got[0].properties.user_properties, im::IM_SEQ), Some("1"));
}

#[test]
fn pubrel_and_pubcomp_wait_for_what_they_vouch_for() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.subscribe(1, "t", QoS::ExactlyOnce);
    node.packet(1, Packet::Publish(publish("t", QoS::ExactlyOnce, 7, "x")));
    node.seen(1);
    node.auto_commit = false;
    node.packet(1, Packet::PubRec(ack(1, ReasonCode::Success)));
    assert_eq!(node.seen(1), vec![], "PUBREL before `Received` is durable");
    node.packet(1, Packet::PubRel(ack(7, ReasonCode::Success)));
    assert_eq!(node.seen(1), vec![], "PUBCOMP before the id's release is durable");
    node.commit();
    assert!(matches!(&node.seen(1)[..], [Packet::PubRel(_), Packet::PubComp(_)]));
}

#[test]
fn the_planted_bug_acknowledges_before_the_commit() {
    let mut node = Node::with(Config { planted_ack_before_commit: true, ..Config::default() });
    node.connect(1, "truck");
    node.subscribe(1, "t", QoS::AtLeastOnce);
    node.auto_commit = false;
    node.packet(1, Packet::Publish(publish("t", QoS::AtLeastOnce, 7, "x")));
    assert!(node.seen(1).iter().any(|p| matches!(p, Packet::PubAck(_))));
}

#[test]
fn in_flight_messages_keep_their_packet_ids_over_a_crash() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "dispatcher");
    node.subscribe(2, "t", QoS::ExactlyOnce);
    for (n, text) in [(1, "a"), (2, "b"), (3, "c")] {
        node.packet(1, Packet::Publish(publish("t", QoS::ExactlyOnce, n, text)));
    }
    let first: Vec<_> = node.publishes(2).iter().map(|p| (p.packet_id, p.payload.clone())).collect();
    assert_eq!(first.len(), 3);
    node.packet(2, Packet::PubRec(ack(1, ReasonCode::Success)));
    node.restart(usize::MAX);
    node.connect_with(3, durable("dispatcher"));
    let seen = node.seen(3);
    assert!(matches!(&seen[0], Packet::ConnAck(c) if c.session_present));
    assert!(matches!(&seen[1], Packet::PubRel(a) if a.packet_id == id(1)), "{seen:?}");
    let again: Vec<_> = seen[2..]
        .iter()
        .map(|p| match p {
            Packet::Publish(p) => (p.packet_id, p.payload.clone(), p.dup),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected: Vec<_> = first[1..].iter().map(|(i, t)| (*i, t.clone(), true)).collect();
    assert_eq!(again, expected);
}

#[test]
fn a_checkpoint_rebuilds_the_same_state_as_the_log() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "dispatcher");
    node.subscribe(2, "+/#", QoS::ExactlyOnce);
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    node.drop_connection(2);
    for n in 1..=5 {
        let mut p = publish("im/room", QoS::ExactlyOnce, n, "text");
        p.retain = n == 3;
        p.properties.message_expiry_interval_s = (n == 4).then_some(600);
        node.packet(1, with_property(p, im::IM_RECEIPT, "all"));
    }
    node.connect(3, "dispatcher");
    node.packet(3, Packet::PubRec(ack(1, ReasonCode::Success)));
    node.restart(usize::MAX);
    let records = node.shard.checkpoint();
    let rebuilt = engine::Shard::recover(Config::default(), 9, node.now, records.iter().cloned()).unwrap();
    assert_eq!(rebuilt.checkpoint(), records);
    assert_eq!(rebuilt.stats(), node.shard.stats());
}

#[test]
fn receipts_tell_the_final_state_of_each_recipient_once() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    for (conn, client) in [(2, "taker"), (3, "refuser"), (4, "sleeper"), (5, "leaver")] {
        node.connect(conn, client);
        node.subscribe(conn, "im/room", QoS::AtLeastOnce);
    }
    node.drop_connection(4);
    node.drop_connection(5);
    let mut p = publish("im/room", QoS::AtLeastOnce, 1, "x");
    p.properties.message_expiry_interval_s = Some(10);
    p.properties.user_properties.push((im::IM_ID.into(), "m1".into()));
    node.packet(1, with_property(p, im::IM_RECEIPT, "all"));
    assert_eq!(receipts(&mut node, 1), Vec::<String>::new());
    node.packet(2, Packet::PubAck(ack(1, ReasonCode::Success)));
    node.packet(3, Packet::PubAck(ack(1, ReasonCode::QuotaExceeded)));
    assert_eq!(receipts(&mut node, 1), ["m1 delivered taker -", "m1 refused refuser quota exceeded"]);
    node.connect_with(6, volatile("leaver"));
    assert_eq!(receipts(&mut node, 1), ["m1 dropped leaver session_ended"]);
    node.pass_ms(10_001);
    assert_eq!(receipts(&mut node, 1), ["m1 expired sleeper -"]);
    assert!(!node.connect(7, "sleeper") || node.publishes(7).is_empty());
}

#[test]
fn a_message_that_nobody_could_get_is_told_as_undeliverable_outside_conversations() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    for (topic, expected) in [("t", vec!["m undeliverable - -"]), ("im/room", vec![])] {
        let p = publish(topic, QoS::AtLeastOnce, 1, "x");
        let Packet::Publish(p) = with_property(p, im::IM_ID, "m") else { unreachable!() };
        node.packet(1, with_property(p, im::IM_RECEIPT, "delivered"));
        assert_eq!(receipts(&mut node, 1), expected, "{topic}");
    }
}

#[test]
fn recipients_that_died_with_the_broker_are_told_as_dropped() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    node.connect_with(2, volatile("viewer"));
    node.subscribe_unchecked(2);
    let p = publish("im/room", QoS::AtLeastOnce, 1, "x");
    let Packet::Publish(p) = with_property(p, im::IM_ID, "m") else { unreachable!() };
    node.packet(1, with_property(p, im::IM_RECEIPT, "all"));
    node.drop_connection(1);
    node.restart(usize::MAX);
    node.connect_with(3, durable("truck"));
    assert_eq!(receipts(&mut node, 3), ["m dropped viewer session_ended"]);
}

impl Node {
    fn subscribe_unchecked(&mut self, conn: u64) {
        let options = SubscribeOptions { qos: QoS::AtLeastOnce, ..SubscribeOptions::default() };
        self.packet(conn, subscribe("im/room", options));
        self.seen(conn);
    }
}

#[test]
fn commands_get_receipts_unasked_by_the_default_rule() {
    let mut node = Node::new();
    node.connect(1, "bridge");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    node.connect(2, "truck-7");
    node.subscribe(2, "dev/truck-7/cmd", QoS::AtLeastOnce);
    node.packet(1, with_property(publish("dev/truck-7/cmd", QoS::AtLeastOnce, 1, "{}"), im::IM_ID, "c1"));
    node.packet(2, Packet::PubAck(ack(1, ReasonCode::Success)));
    assert_eq!(receipts(&mut node, 1), ["c1 delivered truck-7 -"]);
}

#[test]
fn forged_broker_properties_are_removed_and_the_others_kept_in_order() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "dispatcher");
    node.subscribe(2, "#", QoS::AtLeastOnce);
    let mut p = publish("t", QoS::AtLeastOnce, 1, "x");
    let given = [
        ("b", "1"),
        ("im-from", "boss"),
        ("im-seq", "9"),
        ("a", "2"),
        ("b", "3"),
        ("im-gap", "1"),
        ("im-ts", "5"),
    ];
    p.properties.user_properties = given.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
    node.packet(1, Packet::Publish(p));
    let got = node.publishes(2).remove(0).properties.user_properties;
    let names: Vec<_> = got.iter().map(|(n, _)| &**n).collect();
    assert_eq!(names, ["b", "a", "b", "im-id", "im-from", "im-ts"]);
    assert_eq!(property(&got, "im-from"), Some("anon:truck"));
}

#[test]
fn a_full_queue_drops_the_oldest_with_a_receipt() {
    let mut node = Node::with(Config { queue_messages_max: 2, ..Config::default() });
    node.connect(1, "truck");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    node.connect(2, "dispatcher");
    node.subscribe(2, "t", QoS::AtLeastOnce);
    node.drop_connection(2);
    for (n, name) in [(1, "m1"), (2, "m2"), (3, "m3")] {
        let Packet::Publish(p) = with_property(publish("t", QoS::AtLeastOnce, n, "x"), im::IM_ID, name)
        else {
            unreachable!()
        };
        node.packet(1, with_property(p, im::IM_RECEIPT, "all"));
    }
    assert_eq!(receipts(&mut node, 1), ["m1 dropped dispatcher queue_full"]);
    node.connect_with(3, durable("dispatcher"));
    assert_eq!(node.publishes(3).len(), 2);
}

#[test]
fn a_full_store_refuses_publishes_and_keeps_everything_else() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "dispatcher");
    node.subscribe(2, "t", QoS::AtLeastOnce);
    node.packet(1, Packet::Publish(publish("t", QoS::AtLeastOnce, 1, "kept")));
    node.seen(1);
    node.input(Input::StoreFull { full: true });
    node.packet(1, Packet::Publish(publish("t", QoS::AtLeastOnce, 2, "too much")));
    assert!(matches!(&node.seen(1)[..], [Packet::PubAck(a)] if a.reason == ReasonCode::QuotaExceeded));
    node.packet(2, Packet::PubAck(ack(1, ReasonCode::Success)));
    assert_eq!(node.publishes(2).len(), 1);
    node.input(Input::StoreFull { full: false });
    node.packet(1, Packet::Publish(publish("t", QoS::AtLeastOnce, 3, "again")));
    assert!(matches!(&node.seen(1)[..], [Packet::PubAck(a)] if a.reason == ReasonCode::Success));
}

#[test]
fn a_session_ends_by_its_expiry_also_when_the_broker_was_down_meanwhile() {
    for (away_s, present) in [(3_590, true), (3_610, false)] {
        let mut node = Node::new();
        node.connect(1, "truck");
        node.drop_connection(1);
        node.now.unix_ms += away_s * 1000;
        node.now.monotonic_ms = 5;
        node.restart(usize::MAX);
        node.pass_ms(1);
        assert_eq!(node.connect(2, "truck"), present, "{away_s} s");
    }
}

#[test]
fn a_record_of_another_version_is_refused_with_its_place() {
    let records = [Bytes::from_static(&[99, 1, 2])];
    let now = Node::new().now;
    let error = engine::Shard::recover(Config::default(), 1, now, records.into_iter()).unwrap_err();
    assert_eq!(error.index, 0);
    assert!(error.to_string().contains("version 99"), "{error}");
}

#[test]
fn a_slow_connection_holds_its_queue_and_drops_only_qos_0() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "viewer");
    node.subscribe(2, "t", QoS::AtLeastOnce);
    node.input(Input::Congested { conn: engine::ConnId(2) });
    node.packet(1, Packet::Publish(publish("t", QoS::AtMostOnce, 0, "position")));
    node.packet(1, Packet::Publish(publish("t", QoS::AtLeastOnce, 1, "alarm")));
    assert_eq!(node.seen(2), vec![]);
    node.input(Input::Drained { conn: engine::ConnId(2) });
    assert!(matches!(&node.publishes(2)[..], [p] if p.payload == "alarm" && !p.dup));
}
