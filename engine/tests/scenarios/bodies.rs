//! Bodies of messages leave memory and come back from the log: the client sees nothing of it.

use crate::node::*;
use engine::{Config, Input};
use protocol::*;

/// Keeps nearly no body in memory.
fn forgetful() -> Node {
    Node::with(Config { bodies_bytes_max: 1, ..Config::default() })
}

fn long(n: u32) -> String {
    format!("{n}-{}", "x".repeat(2_000))
}

fn message(topic: &str, qos: QoS, n: u32) -> Publish {
    Publish { payload: long(n).into(), ..publish(topic, qos, n as u16 + 1, "") }
}

/// Publishes so many messages for a session that is away.
fn queue(node: &mut Node, messages: u32) {
    node.connect(1, "sender");
    node.connect(2, "reader");
    node.subscribe(2, "t/#", QoS::ExactlyOnce);
    node.drop_connection(2);
    for n in 0..messages {
        let qos = if n % 2 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        assert_eq!(node.publish(1, message("t/a", qos, n)), ReasonCode::Success);
    }
}

/// Takes and acknowledges everything; returns the payloads.
fn take_all(node: &mut Node, conn: u64) -> Vec<String> {
    let mut got = Vec::new();
    loop {
        let seen = node.seen(conn);
        if seen.is_empty() {
            return got;
        }
        for packet in seen {
            let answer = match packet {
                Packet::Publish(p) => {
                    got.push(String::from_utf8(p.payload.to_vec()).unwrap());
                    let ack = Ack::new(p.packet_id.unwrap(), ReasonCode::Success);
                    if p.qos == QoS::ExactlyOnce { Packet::PubRec(ack) } else { Packet::PubAck(ack) }
                }
                Packet::PubRel(ack) => Packet::PubComp(ack),
                _ => continue,
            };
            node.packet(conn, answer);
        }
    }
}

#[test]
fn a_queue_whose_bodies_left_memory_is_delivered_whole_and_in_order() {
    let mut node = forgetful();
    queue(&mut node, 300);
    let bytes = node.shard.memory().bytes;
    assert!(bytes < 300 * 500, "{bytes} bytes for 300 messages of 2 KB");
    node.connect_with(3, durable("reader"));
    assert_eq!(take_all(&mut node, 3), (0..300).map(long).collect::<Vec<_>>());
    assert!(node.fetched >= 300, "{}", node.fetched);
    assert_eq!((node.shard.stats().queued, node.shard.stats().bodies_lost), (0, 0));
}

#[test]
fn it_is_so_after_a_restart_too() {
    let mut node = forgetful();
    queue(&mut node, 300);
    node.restart(usize::MAX);
    assert!(node.shard.memory().bytes < 300 * 500);
    node.connect_with(3, durable("reader"));
    assert_eq!(take_all(&mut node, 3), (0..300).map(long).collect::<Vec<_>>());
}

#[test]
fn what_was_in_flight_is_sent_again_under_its_packet_id_when_its_body_is_back() {
    let mut node = forgetful();
    queue(&mut node, 20);
    node.connect_with(3, durable("reader"));
    let first = node.publishes(3);
    assert_eq!(first.len(), 20);
    node.drop_connection(3);
    node.connect_with(4, durable("reader"));
    let again = node.publishes(4);
    assert!(again.iter().all(|p| p.dup));
    let ids = |publishes: &[Publish]| {
        publishes.iter().map(|p| (p.packet_id, p.payload.clone())).collect::<Vec<_>>()
    };
    assert_eq!(ids(&again), ids(&first));
}

#[test]
fn while_bodies_are_read_others_are_served_and_what_comes_waits_behind() {
    let mut node = forgetful();
    queue(&mut node, 10);
    node.connect(5, "other");
    node.subscribe(5, "t/#", QoS::AtLeastOnce);
    node.auto_fetch = false;
    node.connect_with(3, durable("reader"));
    assert_eq!(node.publishes(3), [], "the bodies are not there yet");
    assert_eq!(node.publish(1, publish("t/a", QoS::AtLeastOnce, 99, "new")), ReasonCode::Success);
    assert_eq!(node.payloads(5), ["new"]);
    assert_eq!(node.publishes(3), []);
    node.auto_fetch = true;
    node.input(Input::Timer);
    let got = take_all(&mut node, 3);
    assert_eq!(got.len(), 11);
    assert_eq!(got.last().unwrap(), "new");
}

#[test]
fn a_body_that_comes_back_after_its_session_ended_is_ignored() {
    let mut node = forgetful();
    queue(&mut node, 10);
    node.auto_fetch = false;
    node.connect_with(3, durable("reader"));
    assert!(!node.fetches.is_empty());
    node.connect_with(4, Connect { clean_start: true, ..durable("reader") });
    node.auto_fetch = true;
    node.input(Input::Timer);
    assert_eq!(node.publishes(4), []);
    assert_eq!(node.shard.stats().bodies_lost, 0, "nobody needed it any more");
}

#[test]
fn a_message_that_the_log_does_not_have_any_more_ends_as_dropped_and_the_next_one_comes() {
    let mut node = forgetful();
    node.connect(1, "sender");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    node.connect(2, "reader");
    node.subscribe(2, "t/#", QoS::AtLeastOnce);
    node.drop_connection(2);
    for n in 0..3 {
        let offered = message("t/a", QoS::AtLeastOnce, n);
        node.packet(1, with_property(offered, im::IM_RECEIPT, "all"));
    }
    node.seen(1);
    node.auto_fetch = false;
    node.connect_with(3, durable("reader"));
    let (fetch, places) = node.fetches.pop().expect("three bodies are asked for");
    let mut records: Vec<_> =
        places.iter().map(|place| node.log.get(place.0 as usize - 1).cloned()).collect();
    // One record is gone, another holds something else.
    records[0] = None;
    records[1] = Some(node.log[0].clone());
    node.input(Input::Fetched { fetch, records });
    assert_eq!(node.payloads(3), [long(2)]);
    assert_eq!(node.shard.stats().bodies_lost, 2);
    let receipts = node.payloads(1);
    assert_eq!(receipts.iter().filter(|r| r.contains("\"storage_error\"")).count(), 2, "{receipts:?}");
}

#[test]
fn retained_messages_and_those_of_passing_sessions_keep_their_bodies() {
    let mut node = forgetful();
    node.connect(1, "sender");
    node.connect(2, "lasting");
    node.subscribe(2, "t/#", QoS::AtLeastOnce);
    node.connect_with(
        3,
        Connect {
            properties: ConnectProperties { receive_maximum: 1.try_into().ok(), ..Default::default() },
            ..volatile("passing")
        },
    );
    node.subscribe(3, "t/#", QoS::AtLeastOnce);
    for n in 0..4 {
        node.packet(1, Packet::Publish(Publish { retain: n == 0, ..message("t/a", QoS::AtLeastOnce, n) }));
    }
    assert_eq!(take_all(&mut node, 3), (0..4).map(long).collect::<Vec<_>>());
    node.connect(4, "late");
    node.packet(4, subscribe("t/#", options(QoS::AtLeastOnce)));
    assert_eq!(take_all(&mut node, 4), [long(0)]);
    assert_eq!(node.fetched, 0);
}

#[test]
fn many_conversations_are_read_ahead_as_one_is() {
    let mut config = Config { bodies_bytes_max: 1 << 20, ..Config::default() };
    config.replays_per_session_max = 64;
    let mut node = Node::with(config);
    node.connect(1, "sender");
    for n in 0..64 * 10 {
        node.publish(1, message(&format!("im/{}", n % 64), QoS::AtLeastOnce, n));
    }
    node.restart(usize::MAX);
    let mut reader = durable("reader");
    reader.properties.receive_maximum = std::num::NonZeroU16::new(20);
    node.connack(2, reader);
    node.packet(2, subscribe("$im/from/first/im/#", options(QoS::AtLeastOnce)));
    let mut got = take_all(&mut node, 2);
    for _ in 0..20 {
        node.pass_ms(0);
        got.extend(take_all(&mut node, 2));
    }
    got.sort_unstable();
    got.dedup();
    assert_eq!(got.len(), 64 * 10);
    assert!(node.fetched_at_once <= 128, "{} records at once", node.fetched_at_once);
}
