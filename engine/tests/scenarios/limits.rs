//! Limits: what they remove is told, and nobody else is disturbed.

use crate::node::*;
use engine::{Config, ConnId, Input};
use protocol::*;

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

#[test]
fn a_client_that_comes_and_goes_leaves_no_deadlines_behind() {
    let mut node = Node::new();
    for conn in 1..500 {
        let mut connect = durable("truck");
        connect.keep_alive_s = u16::MAX;
        connect.will = Some(Box::new(Will {
            topic: "t".into(),
            payload: Bytes::new(),
            qos: QoS::AtMostOnce,
            retain: false,
            delay_interval_s: Some(1_000),
            properties: PublishProperties::default(),
        }));
        node.connect_with(conn, connect);
        node.drop_connection(conn);
    }
    // Its presence, which nobody listens to, is written by then.
    node.pass_s(1);
    assert_eq!(node.shard.stats().deadlines, 2, "one for the session, one for its will");
}

#[test]
fn a_tracked_message_that_was_delivered_leaves_no_deadline_behind() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "dispatcher");
    node.subscribe(2, "t", QoS::AtLeastOnce);
    let mut p = publish("t", QoS::AtLeastOnce, 1, "x");
    p.properties.message_expiry_interval_s = Some(1_000);
    node.pass_s(1);
    node.packet(1, with_property(p, im::IM_RECEIPT, "all"));
    assert_eq!(node.shard.stats().deadlines, 1);
    node.packet(2, Packet::PubAck(ack(1, ReasonCode::Success)));
    assert_eq!(node.shard.stats().deadlines, 0);
    for n in 0..10 {
        node.packet(1, with_property(publish("t", QoS::AtMostOnce, 0, "x"), im::IM_ID, &n.to_string()));
    }
    assert_eq!(node.shard.stats().deadlines, 1, "one for all ids");
}

#[test]
fn a_client_id_over_the_limit_is_refused() {
    let mut node = Node::new();
    let connack = node.connack(1, volatile(&"x".repeat(1_025)));
    assert_eq!(connack.reason, ReasonCode::ClientIdentifierNotValid);
    assert_eq!(node.connack(2, volatile(&"x".repeat(1_024))).reason, ReasonCode::Success);
}

#[test]
fn reasons_that_quote_long_topics_are_cut_and_can_be_sent() {
    let mut node = Node::new();
    node.connect(1, "truck");
    let topic = format!("$x/{}", "\u{1}\u{e9}".repeat(20_000));
    assert_eq!(node.publish(1, publish(&topic, QoS::AtLeastOnce, 1, "x")), ReasonCode::TopicNameInvalid);
    assert!(node.subscribe_with(1, &format!("$im/{topic}"), options(QoS::AtMostOnce)).is_failure());
}

#[test]
fn a_large_message_that_needs_the_place_of_many_small_ones_drops_them_in_small_records() {
    let config = Config { queue_bytes_max: 200_000, ..Config::default() };
    let mut node = Node::with(config);
    node.connect(1, "truck");
    node.subscribe(1, "$im/receipts", QoS::AtMostOnce);
    node.connect(2, "dispatcher");
    node.subscribe(2, "t", QoS::AtLeastOnce);
    node.drop_connection(2);
    for n in 0..500 {
        node.packet(1, tracked(publish("t", QoS::AtLeastOnce, 1, "x"), &n.to_string()));
    }
    node.seen(1);
    let large = Publish { payload: vec![b'x'; 199_900].into(), ..publish("t", QoS::AtLeastOnce, 1, "") };
    node.packet(1, Packet::Publish(large));
    assert_eq!(receipts(&mut node, 1).len(), 500);
    let largest = node.log.iter().map(Bytes::len).filter(|len| *len < 199_000).max().unwrap();
    assert!(largest < 16 * 1024, "{largest}");
    assert_eq!(node.shard.stats().queued, 1);
    // What could never fit takes nobody's place.
    let huge = Publish { payload: vec![b'x'; 300_000].into(), ..publish("t", QoS::AtLeastOnce, 1, "") };
    node.packet(1, Packet::Publish(huge));
    assert_eq!(node.shard.stats().queued, 1);
}

#[test]
fn a_message_for_more_recipients_than_a_record_may_hold_is_refused_and_told() {
    let mut node = Node::with(Config { record_recipients_bytes_max: 100, ..Config::default() });
    node.connect(1, "truck");
    for conn in 2..5 {
        node.connect(conn, &conn.to_string());
        node.subscribe(conn, "t", QoS::AtLeastOnce);
    }
    assert_eq!(node.publish(1, publish("t", QoS::AtLeastOnce, 1, "x")), ReasonCode::QuotaExceeded);
    node.drop_connection(4);
    let goodbye = Connect { clean_start: true, ..volatile("4") };
    node.connect_with(5, goodbye);
    assert_eq!(node.publish(1, publish("t", QoS::AtLeastOnce, 1, "x")), ReasonCode::Success);
}

#[test]
fn a_flood_of_requests_that_wait_for_the_store_ends_its_connection_only() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "flooder");
    node.auto_commit = false;
    node.packet(2, subscribe("t", options(QoS::AtMostOnce)));
    for _ in 0..=70_000 {
        node.packet(2, Packet::PingReq);
    }
    node.packet(1, Packet::PingReq);
    node.commit();
    assert_eq!(node.goodbye(2), Some(ReasonCode::MessageRateTooHigh));
    assert_eq!(node.seen(1), [Packet::PingResp]);
}

#[test]
fn a_client_that_reads_its_answers_may_send_any_number_of_requests() {
    let mut node = Node::new();
    node.connect(1, "truck");
    for _ in 0..80_000 {
        node.packet(1, Packet::PingReq);
        node.seen(1);
    }
    assert!(node.closed.is_empty());
}

#[test]
fn more_sessions_subscriptions_or_conversations_than_allowed_are_refused() {
    let config = Config { sessions_max: 2, subscriptions_max: 1, conversations_max: 1, ..Config::default() };
    let mut node = Node::with(config);
    node.connect(1, "a");
    node.connect(2, "b");
    assert_eq!(node.connack(3, durable("c")).reason, ReasonCode::QuotaExceeded);
    assert_eq!(node.subscribe_with(1, "t", options(QoS::AtLeastOnce)), ReasonCode::GrantedQoS1);
    assert_eq!(node.subscribe_with(1, "u", options(QoS::AtLeastOnce)), ReasonCode::QuotaExceeded);
    assert_eq!(node.subscribe_with(1, "t", options(QoS::AtMostOnce)), ReasonCode::Success);
    node.publish(1, publish("im/a", QoS::AtLeastOnce, 1, "x"));
    assert_eq!(node.publish(1, publish("im/b", QoS::AtLeastOnce, 1, "x")), ReasonCode::QuotaExceeded);
    assert_eq!(
        node.publish(1, publish("t/1/2", QoS::AtLeastOnce, 1, "x")),
        ReasonCode::NoMatchingSubscribers
    );
    // 3.1.1 has no code for it: unacknowledged, and closed [MQTT-4.8.0-2] (3.1.1).
    node.drop_connection(2);
    node.connect_with(4, version_3("b", false));
    node.seen(4);
    node.packet(4, Packet::Publish(publish("im/b", QoS::AtLeastOnce, 1, "x")));
    assert_eq!(node.seen(4), []);
    assert!(node.closed.contains_key(&4));
}

#[test]
fn a_malformed_packet_ends_its_connection_with_the_reason_and_nobody_elses() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "dispatcher");
    let mut bytes = bytes::BytesMut::from(&b"\xf0\x01\x00"[..]);
    let error = Decoder::new(Role::Broker, Some(ProtocolVersion::V5), 100).decode(&mut bytes).unwrap_err();
    node.input(Input::Malformed { conn: ConnId(1), error });
    assert!(node.goodbye(1).unwrap().is_failure());
    assert!(!node.closed.contains_key(&2));
    node.packet(2, Packet::Connect(Box::new(volatile("dispatcher"))));
    // [MQTT-3.1.0-2]
    assert_eq!(node.goodbye(2), Some(ReasonCode::ProtocolError));
}
