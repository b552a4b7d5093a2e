//! Thousands of durable sessions come back at once while others go on talking.

use crate::node::*;
use engine::{Config, Input};
use protocol::*;

const SESSIONS: u64 = 3_000;
const QUEUED: u64 = 20;

/// Messages that one input may make leave, whatever waits behind it.
const PER_INPUT_MAX: u64 = 2_000;

#[test]
fn a_storm_of_returning_sessions_does_not_starve_live_messages() {
    let mut node = Node::with(Config { sessions_max: 10_000, ..Config::default() });
    node.connect(1, "publisher");
    node.connect(2, "live");
    node.subscribe(2, "live", QoS::AtLeastOnce);
    for n in 0..SESSIONS {
        let conn = 10 + n;
        node.connect(conn, &format!("sleeper-{n}"));
        node.subscribe(conn, "t", QoS::AtLeastOnce);
        node.drop_connection(conn);
    }
    for _ in 0..QUEUED {
        node.publish(1, publish("t", QoS::AtLeastOnce, 1, "queued"));
    }
    // All come back, each while live messages are published.
    let sent_before = node.shard.stats().publishes_out;
    let mut live = 0;
    for n in 0..SESSIONS {
        let before = node.shard.stats().publishes_out;
        node.connect_with(100_000 + n, durable(&format!("sleeper-{n}")));
        let sent = node.shard.stats().publishes_out - before;
        assert!(sent <= PER_INPUT_MAX, "{sent} messages left after one CONNECT");
        if n % 10 == 0 {
            let before = node.shard.stats().publishes_out;
            node.packet(1, Packet::Publish(publish("live", QoS::AtMostOnce, 0, "now")));
            let sent = node.shard.stats().publishes_out - before;
            assert!(sent <= PER_INPUT_MAX, "{sent} messages left after one PUBLISH");
            assert_eq!(node.payloads(2), ["now"], "a live message waits for the storm");
            live += 1;
        }
    }
    // And nobody is forgotten.
    while node.shard.next_deadline_ms() == Some(0) {
        node.input(Input::Timer);
    }
    let drained = node.shard.stats().publishes_out - sent_before - live;
    assert_eq!(drained, SESSIONS * QUEUED);
}
