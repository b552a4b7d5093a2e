//! The bound of memory: what goes first, what is refused, and that nothing acknowledged is given up.

use crate::node::*;
use engine::{Config, MemoryLevel};
use protocol::*;

const KB: usize = 1024;

fn bounded(memory_bytes_max: usize) -> Node {
    Node::with(Config { memory_bytes_max, ..Config::default() })
}

fn large(topic: &str, qos: QoS, packet_id: u16) -> Publish {
    Publish { payload: vec![b'x'; 4 * KB].into(), ..publish(topic, qos, packet_id, "") }
}

fn level(node: &Node) -> MemoryLevel {
    assert_eq!(node.shard.stats().memory_level, node.shard.memory().level);
    node.shard.memory().level
}

/// Publishes until the broker refuses; returns how many it took.
fn fill(node: &mut Node, conn: u64, topic: &str) -> u16 {
    for n in 1..1_000 {
        match node.publish(conn, large(topic, QoS::AtLeastOnce, n)) {
            ReasonCode::Success => {}
            ReasonCode::QuotaExceeded => return n - 1,
            other => panic!("{other:?}"),
        }
    }
    panic!("nothing was refused")
}

/// Acknowledges every message that comes to the connection; returns how many came.
fn acknowledge_all(node: &mut Node, conn: u64) -> usize {
    let mut count = 0;
    loop {
        let publishes = node.publishes(conn);
        if publishes.is_empty() {
            return count;
        }
        count += publishes.len();
        for p in publishes {
            node.packet(conn, Packet::PubAck(ack(p.packet_id.unwrap().get(), ReasonCode::Success)));
        }
    }
}

#[test]
fn at_the_bound_what_needs_more_is_refused_and_what_was_acknowledged_arrives() {
    let mut node = bounded(256 * KB);
    node.connect(1, "sender");
    node.connect(2, "reader");
    node.subscribe(2, "t", QoS::AtLeastOnce);
    node.drop_connection(2);
    let taken = fill(&mut node, 1, "t");
    assert!((30..64).contains(&taken), "{taken} messages of 4 KB in 256 KB");
    assert!(node.shard.memory().bytes <= 256 * KB);
    // The reason is told with its values.
    node.packet(1, Packet::Publish(large("t", QoS::ExactlyOnce, 1_000)));
    match &node.seen(1)[..] {
        [Packet::PubRec(ack)] => {
            let said = ack.properties.reason_string.as_deref().unwrap();
            assert!(said.contains("the broker's memory is full: "), "{said}");
        }
        other => panic!("{other:?}"),
    }
    // What needs no more is taken: it goes to nobody, or at QoS 0 straight through.
    assert_eq!(node.publish(1, large("nobody", QoS::AtLeastOnce, 9)), ReasonCode::NoMatchingSubscribers);
    node.connect_with(3, durable("reader"));
    assert_eq!(acknowledge_all(&mut node, 3), usize::from(taken));
    // And it recovers by itself.
    assert_eq!(level(&node), MemoryLevel::Normal);
    assert_eq!(node.publish(1, large("t", QoS::AtLeastOnce, 1)), ReasonCode::Success);
}

#[test]
fn at_the_bound_new_sessions_subscriptions_and_retained_messages_are_refused_and_old_ones_served() {
    let mut node = bounded(128 * KB);
    node.connect(1, "sender");
    assert_eq!(
        node.publish(1, Publish { retain: true, ..publish("r", QoS::AtLeastOnce, 1, "kept") }),
        ReasonCode::NoMatchingSubscribers
    );
    node.connect(2, "reader");
    node.subscribe(2, "t", QoS::AtLeastOnce);
    node.drop_connection(2);
    node.subscribe(1, "s/1", QoS::AtMostOnce);
    // To the last byte, with ever smaller messages.
    fill(&mut node, 1, "t");
    while node.publish(1, publish("t", QoS::AtLeastOnce, 9, "small")) == ReasonCode::Success {}
    while node.subscribe_with(1, &format!("s/{}", node.shard.stats().subscriptions), options(QoS::AtMostOnce))
        != ReasonCode::QuotaExceeded
    {}
    let refused = node.connack(4, durable("new"));
    assert_eq!(refused.reason, ReasonCode::QuotaExceeded);
    let retain = |payload| Publish { retain: true, ..publish("r", QoS::AtLeastOnce, 8, payload) };
    assert_eq!(node.publish(1, retain("another one that is longer")), ReasonCode::QuotaExceeded);
    // A subscription that is there may be replaced, what frees memory passes, and a session goes on.
    assert_eq!(node.subscribe_with(1, "s/1", options(QoS::AtLeastOnce)), ReasonCode::GrantedQoS1);
    assert_ne!(node.publish(1, retain("")), ReasonCode::QuotaExceeded);
    assert!(node.connack(5, durable("reader")).session_present);
    assert!(acknowledge_all(&mut node, 5) > 20);
    assert_eq!(node.connack(6, durable("new")).reason, ReasonCode::Success);
}

#[test]
fn version_3_keeps_a_message_that_finds_no_room() {
    let mut node = bounded(64 * KB);
    node.connect(1, "sender");
    node.connect(2, "reader");
    node.subscribe(2, "t", QoS::AtLeastOnce);
    node.drop_connection(2);
    node.connect_with(3, version_3("old", true));
    node.seen(3);
    fill(&mut node, 1, "t");
    node.packet(3, Packet::Publish(large("t", QoS::AtLeastOnce, 1)));
    assert_eq!(node.seen(3), [], "it was acknowledged");
    assert!(node.closed[&3].to_string().contains("the broker's memory is full"));
}

#[test]
fn queued_qos_0_messages_go_first_with_their_receipts_and_no_new_ones_are_queued() {
    let mut node = bounded(256 * KB);
    node.connect(1, "sender");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    node.connect(2, "reader");
    for filter in ["im/room", "t"] {
        node.subscribe(2, filter, QoS::AtLeastOnce);
    }
    node.drop_connection(2);
    node.packet(1, tracked(large("im/room", QoS::AtMostOnce, 0), "m0"));
    node.packet(1, tracked(large("im/room", QoS::AtLeastOnce, 1), "m1"));
    assert_eq!(node.shard.stats().queued, 2);
    let mut n = 2;
    while level(&node) == MemoryLevel::Normal {
        assert_eq!(node.publish(1, large("t", QoS::AtLeastOnce, n)), ReasonCode::Success);
        n += 1;
    }
    assert_eq!(level(&node), MemoryLevel::Shedding);
    node.pass_ms(0);
    assert_eq!(receipts(&mut node, 1), ["m0 dropped reader queue_full"]);
    node.packet(1, tracked(publish("im/room", QoS::AtMostOnce, 0, "x"), "m2"));
    assert_eq!(receipts(&mut node, 1), ["m2 dropped reader queue_full"]);
    // The log says the same, and what was acknowledged is there.
    let records = node.log.len();
    node.restart(records);
    node.connect_with(3, durable("reader"));
    assert_eq!(acknowledge_all(&mut node, 3), usize::from(n) - 1);
}

#[test]
fn a_body_is_counted_once_however_many_queues_it_is_in() {
    let mut node = Node::new();
    node.connect(1_000, "sender");
    for conn in 1..=100 {
        node.connect(conn, &format!("reader-{conn}"));
        node.subscribe(conn, "t", QoS::AtLeastOnce);
        node.drop_connection(conn);
    }
    let before = node.shard.memory().bytes;
    let payload = vec![b'x'; 1024 * KB].into();
    let publish = Publish { payload, ..publish("t", QoS::AtLeastOnce, 1, "") };
    assert_eq!(node.publish(1_000, publish), ReasonCode::Success);
    let held = node.shard.memory().bytes - before;
    assert!((1024 * KB..1100 * KB).contains(&held), "{held}");
    // The last one that goes takes it along.
    for conn in 101..=200 {
        assert!(node.shard.memory().bytes - before > 1024 * KB);
        node.connect_with(conn, durable(&format!("reader-{}", conn - 100)));
        acknowledge_all(&mut node, conn);
        node.drop_connection(conn);
    }
    assert!(node.shard.memory().bytes - before < 32 * KB, "{}", node.shard.memory().bytes - before);
}

#[test]
fn a_log_with_more_than_the_bound_is_taken_back_whole_and_then_drained() {
    let mut node = bounded(512 * KB);
    node.connect(1, "sender");
    node.connect(2, "reader");
    node.subscribe(2, "t", QoS::AtLeastOnce);
    node.drop_connection(2);
    let taken = fill(&mut node, 1, "t");
    // Their bodies stay.
    let config = Config { memory_bytes_max: 64 * KB, bodies_bytes_max: 0, ..Config::default() };
    let mut small = Node::with(config);
    small.log = node.log.clone();
    let records = small.log.len();
    small.restart(records);
    assert_eq!(level(&small), MemoryLevel::Full);
    assert!(small.connack(1, durable("sender")).session_present);
    assert_eq!(small.publish(1, large("t", QoS::AtLeastOnce, 1)), ReasonCode::QuotaExceeded);
    small.connect_with(2, durable("reader"));
    assert_eq!(acknowledge_all(&mut small, 2), usize::from(taken));
    assert_eq!(level(&small), MemoryLevel::Normal);
}

#[test]
fn topic_aliases_cannot_take_more_than_there_is() {
    let mut node =
        Node::with(Config { memory_bytes_max: 200 * KB, topic_alias_max: 64, ..Config::default() });
    node.connect(1, "hostile");
    for n in 1..=64 {
        let mut p = publish(&"x".repeat(10 * KB), QoS::AtMostOnce, 0, "");
        p.properties.topic_alias = std::num::NonZeroU16::new(n);
        node.packet(1, Packet::Publish(p));
    }
    assert_eq!(node.goodbye(1), Some(ReasonCode::QuotaExceeded));
    node.pass_s(4_000);
    node.pass_s(24 * 3600);
    node.pass_s(1);
    assert_eq!(node.shard.memory().bytes, 0, "all is gone");
}

#[test]
fn a_will_is_counted_until_it_is_published_or_taken_away() {
    for (delay_s, reason) in [(None, None), (Some(5), None), (None, Some(ReasonCode::Success))] {
        let mut node = bounded(0);
        node.connect(1, "s");
        node.drop_connection(1);
        node.pass_s(1);
        let without = node.shard.memory().bytes;
        let will = Will {
            topic: "will".into(),
            payload: vec![b'x'; 100 * KB].into(),
            qos: QoS::AtMostOnce,
            retain: false,
            delay_interval_s: delay_s,
            properties: PublishProperties::default(),
        };
        node.connect_with(2, Connect { will: Some(Box::new(will)), ..durable("s") });
        assert!(node.shard.memory().bytes > without + 100 * KB);
        match reason {
            Some(reason) => {
                let properties = DisconnectProperties::default();
                node.packet(2, Packet::Disconnect(Disconnect { reason, properties: properties.into() }));
            }
            None => node.drop_connection(2),
        }
        node.pass_s(10);
        assert_eq!(node.shard.memory().bytes, without, "delay {delay_s:?}, DISCONNECT {reason:?}");
    }
}
