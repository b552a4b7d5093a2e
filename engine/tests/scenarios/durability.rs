//! What is promised is durable before it is seen, and comes back after a crash.

use crate::node::*;
use crate::replay::{post, read_all};
use engine::{Config, ConnId, Input, Planted, RecoverError, Recovery, Ticket};
use protocol::*;

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
    let mut node = Node::with(Config { planted: Some(Planted::AckBeforeCommit), ..Config::default() });
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
    let rebuilt =
        engine::Shard::recover(Config::default(), 9, node.now, Recovery::of_log(records.iter().cloned()))
            .unwrap();
    assert_eq!(rebuilt.checkpoint(), records);
    assert_eq!(rebuilt.stats(), node.shard.stats());
}

#[test]
fn a_record_of_another_version_is_refused_with_its_place() {
    let records = [Bytes::from_static(&[99, 1, 2])];
    let now = Node::new().now;
    let error = engine::Shard::recover(Config::default(), 1, now, Recovery::of_log(records)).unwrap_err();
    assert!(matches!(error, RecoverError::Record { ticket: Ticket(1), .. }), "{error:?}");
    assert!(error.to_string().contains("version 99"), "{error}");
}

#[test]
fn thousands_of_queued_messages_come_back_from_a_checkpoint_in_order() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "dispatcher");
    node.subscribe(2, "t/#", QoS::AtLeastOnce);
    node.drop_connection(2);
    for n in 0..3_000u16 {
        let topic = format!("t/{n}");
        assert_eq!(node.publish(1, publish(&topic, QoS::AtLeastOnce, 1, "x")), ReasonCode::Success);
    }
    node.restart_from_checkpoint();
    node.connect_with(3, durable("dispatcher"));
    let mut got = Vec::new();
    loop {
        let publishes = node.publishes(3);
        if publishes.is_empty() {
            break;
        }
        for p in publishes {
            got.push(p.topic.to_string());
            node.packet(3, Packet::PubAck(Ack::new(p.packet_id.unwrap(), ReasonCode::Success)));
        }
    }
    let expected: Vec<_> = (0..3_000).map(|n| format!("t/{n}")).collect();
    assert_eq!(got.len(), expected.len());
    assert_eq!(got, expected);
}

#[test]
fn records_of_a_checkpoint_are_small_however_much_one_session_holds() {
    let mut node = Node::with(Config { topic_levels_max: 10, ..Config::default() });
    node.connect(1, "truck");
    node.connect(2, "dispatcher");
    for n in 0..100 {
        node.subscribe(2, &format!("im/{n}/{}", "x".repeat(5_000)), QoS::AtLeastOnce);
    }
    node.subscribe(2, "#", QoS::AtLeastOnce);
    node.drop_connection(2);
    for n in 0..3_000 {
        node.publish(1, publish(&format!("im/{n}"), QoS::AtLeastOnce, 1, "a short text"));
    }
    let records = node.shard.checkpoint();
    let largest = records.iter().map(Bytes::len).max().unwrap();
    assert!(largest < 128 * 1024, "{largest}");
    node.restart_from_checkpoint();
    assert_eq!(node.shard.stats().queued, 3_000);
}

#[test]
fn the_same_message_twice_in_flight_keeps_its_two_packet_ids_apart_over_a_crash() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "dispatcher");
    node.subscribe(2, "t", QoS::ExactlyOnce);
    let kept = Publish { retain: true, ..publish("t", QoS::ExactlyOnce, 1, "x") };
    node.packet(1, Packet::Publish(kept));
    // The second copy: the retained message of a new subscription.
    node.packet(2, subscribe("t/#", options(QoS::ExactlyOnce)));
    let ids: Vec<_> = node.publishes(2).iter().map(|p| p.packet_id.unwrap().get()).collect();
    assert_eq!(ids, [1, 2]);
    node.packet(2, Packet::PubRec(ack(2, ReasonCode::Success)));
    node.restart(usize::MAX);
    node.connect_with(3, durable("dispatcher"));
    assert!(matches!(&node.seen(3)[1..], [Packet::PubRel(a), Packet::Publish(p)]
            if p.packet_id == Some(id(1)) && p.dup && a.packet_id == id(2)));
    node.packet(3, Packet::PubComp(ack(2, ReasonCode::Success)));
    node.restart(usize::MAX);
    node.connect_with(4, durable("dispatcher"));
    assert!(matches!(&node.seen(4)[1..], [Packet::Publish(p)] if p.packet_id == Some(id(1))));
}

#[test]
fn connack_of_a_resumed_session_waits_for_what_the_connection_before_did() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.auto_commit = false;
    node.packet(1, subscribe("t", options(QoS::AtLeastOnce)));
    node.connect_with(2, durable("truck"));
    assert_eq!((node.seen(1), node.seen(2)), (vec![], vec![]));
    node.commit();
    assert!(matches!(&node.seen(2)[..], [Packet::ConnAck(c)] if c.session_present));
    assert_eq!(node.goodbye(1), Some(ReasonCode::SessionTakenOver));
}

#[test]
fn a_qos_2_publish_sent_again_after_a_crash_is_not_taken_again() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "dispatcher");
    node.subscribe(2, "im/room", QoS::AtLeastOnce);
    let first = publish("im/room", QoS::ExactlyOnce, 7, "x");
    node.packet(1, Packet::Publish(first.clone()));
    let first_seen = node.seen(1);
    node.restart(usize::MAX);
    node.connect(3, "truck");
    // [MQTT-4.3.3-10]
    node.packet(3, Packet::Publish(Publish { dup: true, ..first.clone() }));
    assert_eq!(node.seen(3), first_seen);
    node.packet(3, Packet::PubRel(ack(7, ReasonCode::Success)));
    assert_eq!(node.seen(3), [Packet::PubComp(ack(7, ReasonCode::Success))]);
    node.restart(usize::MAX);
    node.connect(4, "truck");
    // The id is free again: a new message.
    node.packet(4, Packet::Publish(first));
    node.connect_with(5, durable("dispatcher"));
    assert_eq!(node.payloads(5), ["x", "x"]);
}

#[test]
fn connack_of_a_new_session_waits_for_the_end_of_the_old_one() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.auto_commit = false;
    let session_expiry_interval_s = Some(0);
    let properties = DisconnectProperties { session_expiry_interval_s, ..Default::default() };
    node.packet(
        1,
        Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties: properties.into() }),
    );
    // A crash now would bring the old session back, after the client was told that it is gone.
    node.connect_with(2, Connect { clean_start: false, ..volatile("truck") });
    assert_eq!(node.seen(2), []);
    node.commit();
    assert!(matches!(&node.seen(2)[..], [Packet::ConnAck(c)] if !c.session_present));
}

#[test]
fn at_qos_0_a_stored_message_leaves_when_the_log_knows_that_it_left() {
    let mut node = Node::new();
    node.connect(1, "truck");
    post(&mut node, "im/room", 3);
    node.connect(2, "reader");
    node.input(Input::Congested { conn: ConnId(2) });
    node.subscribe(2, "$im/from/1/im/room", QoS::AtMostOnce);
    node.auto_commit = false;
    node.input(Input::Drained { conn: ConnId(2) });
    // A crash now brings all of them again.
    assert_eq!(node.publishes(2), []);
    node.commit();
    // [MQTT-4.3.1-1] at most once.
    assert_eq!(read_all(&mut node, 2), ["im/room 1", "im/room 2", "im/room 3"]);
}
