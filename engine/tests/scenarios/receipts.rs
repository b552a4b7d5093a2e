//! Receipts (docs/protocol.md section 4).

use crate::node::*;
use engine::Config;
use protocol::*;

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
    node.subscribe(2, "im/room", QoS::AtLeastOnce);
    let p = publish("im/room", QoS::AtLeastOnce, 1, "x");
    let Packet::Publish(p) = with_property(p, im::IM_ID, "m") else { unreachable!() };
    node.packet(1, with_property(p, im::IM_RECEIPT, "all"));
    node.drop_connection(1);
    node.restart(usize::MAX);
    node.connect_with(3, durable("truck"));
    assert_eq!(receipts(&mut node, 3), ["m dropped viewer session_ended"]);
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
fn a_copy_of_a_retained_message_does_not_end_the_receipt_of_its_original() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    let mut connect = durable("dispatcher");
    connect.properties.receive_maximum = std::num::NonZeroU16::new(1);
    node.connack(2, connect);
    node.subscribe_with(2, "t", options(QoS::AtLeastOnce));
    node.publish(1, publish("t", QoS::AtLeastOnce, 1, "fills the window"));
    let kept = Publish { retain: true, ..publish("t", QoS::AtLeastOnce, 1, "x") };
    node.packet(1, tracked(kept, "m"));
    node.input(engine::Input::Congested { conn: engine::ConnId(2) });
    node.subscribe_with(2, "t/#", options(QoS::AtMostOnce));
    assert_eq!(receipts(&mut node, 1), Vec::<String>::new());
    node.restart(usize::MAX);
    node.connect(3, "truck");
    node.connect_with(4, durable("dispatcher"));
    assert_eq!(node.payloads(4), ["fills the window", "x"]);
    node.packet(4, Packet::PubAck(ack(2, ReasonCode::Success)));
    assert_eq!(receipts(&mut node, 3), ["m delivered dispatcher -"]);
}

#[test]
fn many_recipients_are_counted_at_the_end_also_over_a_restart() {
    let mut node = Node::with(Config { receipts_listed_max: 2, ..Config::default() });
    node.connect(1, "truck");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    for (conn, client) in [(2, "a"), (3, "b"), (4, "c")] {
        node.connect(conn, client);
        node.subscribe(conn, "im/room", QoS::AtLeastOnce);
    }
    node.packet(1, tracked(publish("im/room", QoS::AtLeastOnce, 1, "x"), "m"));
    node.packet(2, Packet::PubAck(ack(1, ReasonCode::Success)));
    node.packet(3, Packet::PubAck(ack(1, ReasonCode::UnspecifiedError)));
    node.restart_from_checkpoint();
    node.connect(5, "truck");
    node.connect_with(6, durable("c"));
    assert_eq!(receipts(&mut node, 5), Vec::<String>::new());
    node.packet(6, Packet::PubAck(ack(1, ReasonCode::Success)));
    let told: Vec<_> = node
        .publishes(5)
        .iter()
        .map(|p| serde_json::from_slice::<serde_json::Value>(&p.payload).unwrap())
        .map(|r| format!("{} {} of {}", r["state"].as_str().unwrap(), r["count"], r["of"]))
        .collect();
    assert_eq!(told, ["delivered 2 of 3", "refused 1 of 3"]);
}

#[test]
fn full_queues_of_two_users_that_tell_each_other_of_their_drops_end_calmly() {
    let mut node = Node::with(Config { queue_messages_max: 4_000, ..Config::default() });
    for (conn, client, user, topic) in [(1, "a", "alice", "to/a"), (2, "b", "bob", "to/b")] {
        node.connect_as(conn, durable(client), Some(user));
        node.subscribe(conn, "$im/receipts", QoS::AtLeastOnce);
        node.subscribe(conn, topic, QoS::AtLeastOnce);
        node.drop_connection(conn);
    }
    for (conn, user, to) in [(3, "alice", "to/b"), (4, "bob", "to/a")] {
        node.connect_as(conn, volatile(user), Some(user));
        for n in 0..4_000 {
            node.packet(conn, tracked(publish(to, QoS::AtLeastOnce, 1, "x"), &n.to_string()));
        }
    }
    assert_eq!((node.shard.stats().dropped, node.shard.stats().queued), (0, 8_000));
    // One more for bob: a drop, told to alice, whose full queue drops one, told to bob ...
    node.packet(3, tracked(publish("to/b", QoS::AtLeastOnce, 2, "x"), "last"));
    node.pass_ms(1);
    assert!(node.shard.stats().dropped > 4_000);
    assert!(node.shard.stats().queued <= 8_000);
    let largest = node.log.iter().map(Bytes::len).max().unwrap();
    assert!(largest < 64 * 1024, "{largest}");
    node.restart(usize::MAX);
    assert!(node.shard.stats().queued <= 8_000);
}

#[test]
fn the_end_of_a_session_with_many_tracked_messages_is_told_in_small_records() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    node.connect(2, "dispatcher");
    node.subscribe(2, "t", QoS::AtLeastOnce);
    node.drop_connection(2);
    for n in 0..2_500 {
        node.packet(1, tracked(publish("t", QoS::AtLeastOnce, 1, "x"), &n.to_string()));
    }
    node.seen(1);
    // Half of it is told before a crash, the rest after it.
    node.connect_with(3, volatile("dispatcher"));
    let told = receipts(&mut node, 1).len();
    assert!(told < 2_500);
    let largest = node.log.iter().map(Bytes::len).max().unwrap();
    assert!(largest < 16 * 1024, "{largest}");
    node.restart(usize::MAX);
    node.pass_ms(1);
    node.connect_with(4, durable("truck"));
    let mut all = std::collections::BTreeSet::new();
    loop {
        let publishes = node.publishes(4);
        if publishes.is_empty() {
            break;
        }
        for p in publishes {
            let r: serde_json::Value = serde_json::from_slice(&p.payload).unwrap();
            assert_eq!(r["state"], "dropped");
            assert!(all.insert(r["id"].to_string()), "told twice");
            node.packet(4, Packet::PubAck(Ack::new(p.packet_id.unwrap(), ReasonCode::Success)));
        }
    }
    assert_eq!(all.len(), 2_500);
}

#[test]
fn a_receipt_carries_the_identifier_of_its_subscription() {
    // [MQTT-3.3.4-3]
    let mut node = Node::new();
    node.connect(1, "truck");
    let Packet::Subscribe(s) = subscribe("$im/receipts", options(QoS::AtLeastOnce)) else { unreachable!() };
    node.packet(1, Packet::Subscribe(Subscribe { subscription_identifier: Some(9), ..s }));
    node.packet(1, tracked(publish("t", QoS::AtLeastOnce, 1, "x"), "m"));
    assert_eq!(node.publishes(1)[0].properties.subscription_identifiers, [9]);
}

#[test]
fn a_message_that_expires_at_many_recipients_is_told_of_all() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    for n in 2..202 {
        node.connect(n, &format!("c{n}"));
        node.subscribe(n, "im/room", QoS::AtLeastOnce);
        // Every second one has it in flight: past expiring.
        if n % 2 == 0 {
            node.drop_connection(n);
        }
    }
    let mut p = publish("im/room", QoS::AtLeastOnce, 1, "x");
    p.properties.message_expiry_interval_s = Some(10);
    node.packet(1, tracked(p, "m"));
    node.pass_ms(10_001);
    assert_eq!(node.shard.stats().expired, 100);
    for n in (3..202).step_by(2) {
        node.packet(n, Packet::PubAck(ack(1, ReasonCode::Success)));
    }
    let told = node.publishes(1).into_iter().map(|p| {
        let r: serde_json::Value = serde_json::from_slice(&p.payload).unwrap();
        format!("{} {}", r["state"].as_str().unwrap(), r["count"])
    });
    assert_eq!(told.collect::<Vec<_>>(), ["delivered 100", "expired 100"]);
}

/// Counted receipts that came to the connection, as `state count of`.
fn counted(node: &mut Node, conn: u64) -> Vec<String> {
    let of = |p: Publish| {
        let r: serde_json::Value = serde_json::from_slice(&p.payload).unwrap();
        format!("{} {} of {}", r["state"].as_str().unwrap(), r["count"], r["of"])
    };
    node.publishes(conn).into_iter().map(of).collect()
}

#[test]
fn counted_receipts_come_once_a_second_and_the_last_ones_at_once() {
    let mut node = Node::with(Config { receipts_listed_max: 2, ..Config::default() });
    node.connect(1, "truck");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    for conn in 2..10 {
        node.connect(conn, &format!("c{conn}"));
        node.subscribe(conn, "im/room", QoS::AtLeastOnce);
    }
    node.packet(1, tracked(publish("im/room", QoS::AtLeastOnce, 1, "x"), "m"));
    let take = |node: &mut Node, conn, reason| node.packet(conn, Packet::PubAck(ack(1, reason)));
    take(&mut node, 2, ReasonCode::Success);
    take(&mut node, 3, ReasonCode::UnspecifiedError);
    node.pass_ms(999);
    take(&mut node, 4, ReasonCode::Success);
    assert_eq!(counted(&mut node, 1), Vec::<String>::new());
    node.pass_ms(1);
    assert_eq!(counted(&mut node, 1), ["delivered 2 of 8", "refused 1 of 8"]);
    node.pass_s(100);
    assert_eq!(counted(&mut node, 1), Vec::<String>::new(), "nothing is new");
    take(&mut node, 5, ReasonCode::Success);
    node.pass_s(1);
    assert_eq!(counted(&mut node, 1), ["delivered 3 of 8"]);
    // After a crash it may come again, and never says less.
    take(&mut node, 6, ReasonCode::Success);
    node.restart(usize::MAX);
    node.connect(11, "truck");
    node.pass_s(1);
    assert_eq!(
        counted(&mut node, 11).last_chunk(),
        Some(&["delivered 4 of 8".into(), "refused 1 of 8".into()])
    );
    for conn in 7..10 {
        node.connect_with(conn + 10, durable(&format!("c{conn}")));
        node.packet(conn + 10, Packet::PubAck(ack(1, ReasonCode::Success)));
    }
    assert_eq!(counted(&mut node, 11), ["delivered 7 of 8"]);
    node.pass_s(5);
    assert_eq!(counted(&mut node, 11), Vec::<String>::new());
}
