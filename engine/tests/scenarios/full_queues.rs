//! Full queues: what makes room, what is refused, and who is told.

use crate::node::*;
use engine::{Config, OnFull};
use protocol::*;

/// A publisher on connection 1 that hears receipts, and a durable subscriber "s" of `#` that is away.
fn node(on_full: OnFull, queue_messages_max: usize) -> Node {
    let mut node = Node::with(Config { on_full, queue_messages_max, ..Config::default() });
    node.connect(1, "truck");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    node.connect(2, "s");
    node.subscribe(2, "#", QoS::ExactlyOnce);
    node.drop_connection(2);
    node
}

/// Publishes at QoS 1 with a message id, its payload too; returns the PUBACK's code.
fn send(node: &mut Node, topic: &str, name: &'static str) -> ReasonCode {
    let Packet::Publish(publish) = tracked(publish(topic, QoS::AtLeastOnce, 7, name), name) else {
        unreachable!()
    };
    node.publish(1, publish)
}

fn at_most_once(node: &mut Node, topic: &str, name: &'static str) {
    node.packet(1, tracked(publish(topic, QoS::AtMostOnce, 0, name), name));
}

/// What waits for "s", by payload.
fn waiting(node: &mut Node) -> Vec<String> {
    node.connect_with(3, durable("s"));
    node.payloads(3)
}

#[test]
fn what_makes_room_for_a_message_in_many_queues_goes_in_its_own_record() {
    for way in ["log", "checkpoint", "view"] {
        let mut node = Node::with(Config { queue_messages_max: 2, ..Config::default() });
        node.connect(1, "truck");
        let subscribers = 2..=100;
        for conn in subscribers.clone() {
            node.connect(conn, &format!("s{conn}"));
            node.subscribe(conn, "t", QoS::AtLeastOnce);
            node.drop_connection(conn);
        }
        let before = node.log.len();
        for (n, payload) in [(1, "m1"), (2, "m2"), (3, "m3"), (4, "m4")] {
            assert_eq!(node.publish(1, publish("t", QoS::AtLeastOnce, n, payload)), ReasonCode::Success);
        }
        assert_eq!(node.log.len(), before + 4, "a record a message");
        assert_eq!(node.shard.stats().dropped_queue_full, 2 * 99);
        match way {
            "log" => node.restart(usize::MAX),
            "checkpoint" => node.restart_from_checkpoint(),
            _ => node.restart_from_view(&[before + 1, before + 3]),
        }
        for conn in subscribers {
            node.connect_with(conn, durable(&format!("s{conn}")));
            node.pass_ms(0);
            assert_eq!(node.payloads(conn), ["m3", "m4"], "{conn} after a restart from the {way}");
        }
    }
}

#[test]
fn drop_newest_accepts_a_message_and_drops_it_for_the_recipient_whose_queue_is_full() {
    let mut node = node(OnFull::DropNewest, 2);
    for name in ["m1", "m2", "m3"] {
        assert_eq!(send(&mut node, "t", name), ReasonCode::Success);
    }
    assert_eq!(receipts(&mut node, 1), ["m3 dropped s queue_full"]);
    node.restart(usize::MAX);
    assert_eq!(waiting(&mut node), ["m1", "m2"]);
}

#[test]
fn drop_newest_gives_the_message_to_the_recipients_that_have_room() {
    let mut node = node(OnFull::DropNewest, 1);
    node.connect(4, "other");
    node.subscribe(4, "t", QoS::AtLeastOnce);
    send(&mut node, "t", "m1");
    assert_eq!(send(&mut node, "t", "m2"), ReasonCode::Success);
    assert_eq!(node.payloads(4), ["m1", "m2"]);
    assert_eq!(receipts(&mut node, 1), ["m2 dropped s queue_full"]);
}

#[test]
fn reject_refuses_the_publish_as_a_whole_before_anything_is_stored() {
    // docs/protocol.md section 10: 0x97 in PUBACK and PUBREC.
    let mut node = node(OnFull::Reject, 1);
    node.connect(4, "other");
    node.subscribe(4, "t", QoS::ExactlyOnce);
    assert_eq!(send(&mut node, "t", "m1"), ReasonCode::Success);
    assert_eq!(node.payloads(4), ["m1"]);
    let records = node.log.len();
    assert_eq!(send(&mut node, "t", "m2"), ReasonCode::QuotaExceeded);
    let retained = Publish { retain: true, ..publish("t", QoS::ExactlyOnce, 8, "m3") };
    assert_eq!(node.publish(1, retained), ReasonCode::QuotaExceeded);
    assert_eq!(node.log.len(), records, "nothing of them is stored");
    assert_eq!(node.payloads(4), Vec::<String>::new(), "and nobody gets them");
    assert_eq!(node.shard.stats().retained, 0);
    assert_eq!(receipts(&mut node, 1), Vec::<String>::new(), "what was not accepted has no receipts");
    // The refused id is free again, and what the queue held is untouched.
    assert_eq!(waiting(&mut node), ["m1"]);
    node.packet(3, Packet::PubAck(ack(1, ReasonCode::Success)));
    assert_eq!(send(&mut node, "t", "m2"), ReasonCode::Success);
}

#[test]
fn reject_takes_a_message_that_the_recipient_has_room_for_in_its_window() {
    let mut node = Node::with(Config { on_full: OnFull::Reject, queue_messages_max: 1, ..Config::default() });
    node.connect(1, "truck");
    let mut connect = durable("s");
    connect.properties.receive_maximum = std::num::NonZeroU16::new(2);
    node.connect_with(2, connect);
    node.subscribe(2, "t", QoS::AtLeastOnce);
    for _ in 0..3 {
        assert_eq!(node.publish(1, publish("t", QoS::AtLeastOnce, 1, "x")), ReasonCode::Success);
    }
    assert_eq!(node.publish(1, publish("t", QoS::AtLeastOnce, 1, "x")), ReasonCode::QuotaExceeded);
    // QoS 0 outside conversations never waits, so no queue refuses it.
    node.packet(1, Packet::Publish(publish("t", QoS::AtMostOnce, 0, "now")));
    assert_eq!(node.payloads(2), ["x", "x", "now"]);
    node.packet(2, Packet::PubAck(ack(1, ReasonCode::Success)));
    assert_eq!(node.publish(1, publish("t", QoS::AtLeastOnce, 1, "y")), ReasonCode::Success);
}

#[test]
fn a_refused_publish_of_a_version_3_client_is_not_acknowledged_and_ends_its_connection() {
    // docs/protocol.md section 10; [MQTT-3.3.5-2] (3.1.1) has no other way to say that it is not stored.
    let mut node = node(OnFull::Reject, 1);
    send(&mut node, "t", "m1");
    node.connect_with(5, version_3("old", false));
    node.seen(5);
    node.packet(5, Packet::Publish(publish("t", QoS::AtLeastOnce, 1, "m2")));
    assert_eq!(node.seen(5), []);
    assert!(node.closed.contains_key(&5));
}

#[test]
fn a_conversation_gives_no_number_to_a_message_that_a_full_queue_refuses() {
    let mut node = node(OnFull::Reject, 1);
    send(&mut node, "im/a", "m1");
    assert_eq!(send(&mut node, "im/a", "m2"), ReasonCode::QuotaExceeded);
    node.connect_with(3, durable("s"));
    node.packet(3, Packet::PubAck(ack(1, ReasonCode::Success)));
    node.seen(3);
    send(&mut node, "im/a", "m3");
    let publishes = node.publishes(3);
    assert_eq!(property(&publishes[0].properties.user_properties, im::IM_SEQ), Some("2"));
}

#[test]
fn drop_oldest_drops_qos_0_before_any_older_message() {
    let mut node = node(OnFull::DropOldest, 3);
    send(&mut node, "im/a", "m1");
    at_most_once(&mut node, "im/a", "zero1");
    send(&mut node, "im/a", "m2");
    send(&mut node, "im/a", "m3");
    assert_eq!(receipts(&mut node, 1), ["zero1 dropped s queue_full"]);
    // QoS 0 takes nobody's place but that of QoS 0.
    at_most_once(&mut node, "im/a", "zero2");
    assert_eq!(receipts(&mut node, 1), ["zero2 dropped s queue_full"]);
    send(&mut node, "im/a", "m4");
    assert_eq!(receipts(&mut node, 1), ["m1 dropped s queue_full"]);
    node.restart(usize::MAX);
    assert_eq!(waiting(&mut node), ["m2", "m3", "m4"]);
}

#[test]
fn among_qos_0_messages_the_oldest_makes_room() {
    let mut node = node(OnFull::DropOldest, 3);
    send(&mut node, "im/a", "m1");
    for name in ["zero1", "zero2", "zero3", "zero4"] {
        at_most_once(&mut node, "im/a", name);
    }
    assert_eq!(receipts(&mut node, 1), ["zero1 dropped s queue_full", "zero2 dropped s queue_full"]);
    send(&mut node, "im/a", "m2");
    assert_eq!(receipts(&mut node, 1), ["zero3 dropped s queue_full"]);
    node.restart_from_checkpoint();
    assert_eq!(waiting(&mut node), ["m1", "zero4", "m2"]);
}

#[test]
fn reject_counts_each_copy_of_a_session_that_gets_several() {
    let mut node = node(OnFull::Reject, 3);
    node.connect_with(3, durable("s"));
    node.subscribe(3, "$share/g/t", QoS::AtLeastOnce);
    node.drop_connection(3);
    assert_eq!(send(&mut node, "t", "m1"), ReasonCode::Success);
    // One place is left, and it would need two.
    assert_eq!(send(&mut node, "t", "m2"), ReasonCode::QuotaExceeded);
    assert_eq!(receipts(&mut node, 1), Vec::<String>::new());
    assert_eq!(waiting(&mut node), ["m1", "m1"]);
}
