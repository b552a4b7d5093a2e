//! Wills: published, delayed, cancelled (MQTT 5.0 sections 3.1.2.5 and 3.1.3.2).

use crate::node::*;
use engine::{CloseReason, Input};
use protocol::*;

fn will(qos: QoS, delay_interval_s: Option<u32>) -> Box<Will> {
    Box::new(Will {
        topic: "will".into(),
        payload: Bytes::from_static(b"gone"),
        qos,
        retain: false,
        delay_interval_s,
        properties: PublishProperties::default(),
    })
}

fn with_will(connect: Connect, delay_interval_s: Option<u32>) -> Connect {
    Connect { will: Some(will(QoS::AtLeastOnce, delay_interval_s)), ..connect }
}

/// A node with a watcher on connection 1.
fn watched() -> Node {
    let mut node = Node::new();
    node.connect(1, "watcher");
    node.subscribe(1, "will", QoS::AtLeastOnce);
    node
}

fn bye(reason: ReasonCode) -> Packet {
    Packet::Disconnect(Disconnect { reason, properties: Default::default() })
}

#[test]
fn a_will_is_published_unless_the_client_says_goodbye() {
    // [MQTT-3.1.2-8], [MQTT-3.1.2-10], [MQTT-3.14.4-3]
    type End = fn(&mut Node);
    let ends: [(End, &[&str]); 6] = [
        (|n| n.drop_connection(2), &["gone"]),
        (|n| n.packet(2, bye(ReasonCode::Success)), &[]),
        (|n| n.packet(2, bye(ReasonCode::DisconnectWithWill)), &["gone"]),
        (|n| n.packet(2, bye(ReasonCode::UnspecifiedError)), &["gone"]),
        (|n| n.packet(2, Packet::PingResp), &["gone"]),
        (|n| n.connect_with(3, volatile("truck")), &["gone"]),
    ];
    for (at, (end, expected)) in ends.into_iter().enumerate() {
        for connect in [volatile("truck"), durable("truck")] {
            let mut node = watched();
            node.connect_with(2, with_will(connect, None));
            end(&mut node);
            assert_eq!(node.payloads(1), expected, "end {at}");
            assert!(node.closed.contains_key(&2));
        }
    }
}

#[test]
fn a_delayed_will_waits_and_a_new_connection_cancels_it() {
    // [MQTT-3.1.3-9]
    let mut node = watched();
    node.connect_with(2, with_will(durable("truck"), Some(30)));
    node.drop_connection(2);
    node.pass_s(29);
    assert_eq!(node.payloads(1), Vec::<String>::new());
    node.connect_with(3, with_will(durable("truck"), Some(30)));
    node.pass_s(100);
    assert_eq!(node.payloads(1), Vec::<String>::new());
    node.drop_connection(3);
    node.pass_s(30);
    assert_eq!(node.payloads(1), ["gone"]);
    node.pass_s(1_000);
    assert_eq!(node.payloads(1), Vec::<String>::new());
}

#[test]
fn the_end_of_the_session_publishes_a_will_before_its_delay() {
    let mut node = watched();
    let mut connect = with_will(durable("truck"), Some(10_000));
    connect.properties.session_expiry_interval_s = Some(20);
    node.connect_with(2, connect.clone());
    node.drop_connection(2);
    node.pass_s(20);
    assert_eq!(node.payloads(1), ["gone"]);
    // Clean Start ends the session too.
    node.connect_with(3, connect);
    node.drop_connection(3);
    node.connect_with(4, volatile("truck"));
    assert_eq!(node.payloads(1), ["gone"]);
}

#[test]
fn a_takeover_that_resumes_the_session_cancels_a_delayed_will_only() {
    // [MQTT-3.1.4-3]
    for (delay_s, expected) in [(Some(30), vec![]), (None, vec!["gone"])] {
        let mut node = watched();
        node.connect_with(2, with_will(durable("truck"), delay_s));
        assert!(node.connect(3, "truck"));
        node.pass_s(100);
        assert_eq!(node.payloads(1), expected, "delay {delay_s:?}");
    }
}

#[test]
fn the_will_of_a_session_goes_to_itself_when_it_comes_back() {
    let mut node = Node::new();
    node.connect_with(1, with_will(durable("truck"), None));
    node.subscribe(1, "will", QoS::AtLeastOnce);
    node.connect_with(2, durable("truck"));
    assert_eq!(node.payloads(2), ["gone"]);
    // And to nobody when the session is gone.
    node.connect_with(3, with_will(volatile("truck"), None));
    node.subscribe(3, "will", QoS::AtLeastOnce);
    node.connect_with(4, with_will(volatile("truck"), None));
    assert_eq!(node.payloads(4), Vec::<String>::new());
}

#[test]
fn a_will_whose_delay_passed_is_published_although_its_timer_comes_late() {
    let mut node = watched();
    node.connect_with(2, with_will(durable("truck"), Some(30)));
    node.drop_connection(2);
    node.now.monotonic_ms += 31_000;
    node.now.unix_ms += 31_000;
    node.connect_with(3, durable("truck"));
    assert_eq!(node.payloads(1), ["gone"]);
}

#[test]
fn a_will_outlives_a_crash_and_is_published_once() {
    let mut node = watched();
    node.connect_with(2, with_will(durable("truck"), None));
    node.connect_with(3, with_will(durable("late"), Some(60)));
    node.restart(usize::MAX);
    // The client is faster than the timer: its connection died with the broker all the same.
    node.connect_with(4, durable("truck"));
    node.connect_with(5, durable("watcher"));
    assert_eq!(node.payloads(5), ["gone"]);
    node.pass_s(59);
    assert_eq!(node.payloads(5), Vec::<String>::new());
    node.restart_from_checkpoint();
    node.connect_with(6, durable("watcher"));
    node.seen(6);
    node.pass_s(1);
    assert_eq!(node.payloads(6), ["gone"]);
    node.restart(usize::MAX);
    node.pass_s(100);
    node.connect_with(7, durable("watcher"));
    assert_eq!(node.payloads(7), ["gone", "gone"], "sent again, unacknowledged: no third one");
}

#[test]
fn a_will_that_could_never_be_published_is_refused_at_connect() {
    let mut node = Node::new();
    let cases: [(u64, &str, &str, ReasonCode); 3] = [
        (1, "$im/receipts", "id", ReasonCode::NotAuthorized),
        (2, "$SYS/x", "id", ReasonCode::TopicNameInvalid),
        (3, "ok", "", ReasonCode::ImplementationSpecificError),
    ];
    for (conn, topic, message_id, reason) in cases {
        let mut connect = with_will(durable("truck"), None);
        let will = connect.will.as_mut().unwrap();
        will.topic = topic.into();
        will.properties.user_properties = vec![(im::IM_ID.into(), message_id.into())];
        assert_eq!(node.connack(conn, connect).reason, reason, "{topic}");
        assert!(matches!(node.closed[&conn], CloseReason::Refused(_)));
    }
    let mut connect = with_will(durable("truck"), None);
    connect.will.as_mut().unwrap().topic = "a/".repeat(300).into();
    assert_eq!(node.connack(4, connect).reason, ReasonCode::TopicNameInvalid);
    assert_eq!(node.shard.stats().sessions, 0);
}

#[test]
fn at_shutdown_clients_are_told_and_every_will_is_published_then_or_after_the_restart() {
    // Section 3.1.2.5: a server that goes down may publish wills when it comes back.
    let mut node = watched();
    node.connect_with(2, with_will(volatile("volatile"), None));
    node.connect_with(3, with_will(durable("durable"), None));
    node.seen(1);
    node.input(Input::Shutdown);
    for conn in 1..=3 {
        assert_eq!(node.goodbye(conn), Some(ReasonCode::ServerShuttingDown), "{conn}");
    }
    node.connect_with(4, durable("watcher"));
    assert_eq!(node.seen(4), [], "nothing is taken any more");
    assert_eq!(node.shard.next_deadline_ms(), None);
    node.restart(usize::MAX);
    node.pass_ms(1);
    node.connect_with(5, durable("watcher"));
    assert_eq!(node.payloads(5), ["gone", "gone"]);
}
