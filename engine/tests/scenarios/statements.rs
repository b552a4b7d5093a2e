//! Statements of the standards that brokers get wrong, one scenario each.

use std::num::NonZeroU16;

use crate::node::*;
use engine::Config;
use protocol::*;

fn ok(packet_id: u16) -> Ack {
    ack(packet_id, ReasonCode::Success)
}

/// A truck on connection 1, and a durable subscriber of `t` at QoS 2 on connection 2.
fn pair() -> Node {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "s");
    node.subscribe(2, "t", QoS::ExactlyOnce);
    node
}

/// Publishes at QoS 2 to the end.
fn exactly_once(node: &mut Node, payload: &'static str) {
    node.publish(1, publish("t", QoS::ExactlyOnce, 9, payload));
    node.packet(1, Packet::PubRel(ok(9)));
    node.seen(1);
}

#[test]
fn pubrels_are_sent_again_in_the_order_of_their_pubrecs() {
    // [MQTT-4.6.0-4], [MQTT-4.4.0-1]
    let mut node = pair();
    for payload in ["1", "2", "3", "4"] {
        exactly_once(&mut node, payload);
    }
    for packet_id in [3, 1, 4] {
        node.packet(2, Packet::PubRec(ok(packet_id)));
    }
    let check = |node: &mut Node, conn| {
        node.connect_with(conn, durable("s"));
        let seen = node.seen(conn);
        let [_, Packet::PubRel(a), Packet::PubRel(b), Packet::PubRel(c), Packet::Publish(rest)] = &seen[..]
        else {
            panic!("{seen:?}")
        };
        assert_eq!([a, b, c].map(|a| a.packet_id.get()), [3, 1, 4]);
        assert!(rest.dup && rest.packet_id == Some(id(2)), "[MQTT-3.3.1-1]");
    };
    check(&mut node, 3);
    node.restart(usize::MAX);
    check(&mut node, 4);
    node.restart_from_checkpoint();
    check(&mut node, 5);
    // And what was released is not delivered again.
    for packet_id in [3, 1, 4] {
        node.packet(5, Packet::PubComp(ok(packet_id)));
    }
    node.packet(5, Packet::PubRec(ok(2)));
    node.packet(5, Packet::PubComp(ok(2)));
    node.connect_with(6, durable("s"));
    assert_eq!(node.seen(6).len(), 1, "CONNACK only");
}

#[test]
fn a_clients_qos_2_publish_that_is_sent_again_after_a_reconnect_is_taken_once() {
    // [MQTT-4.3.3-10], [MQTT-4.4.0-1]
    let mut node = pair();
    node.packet(1, Packet::Publish(publish("t", QoS::ExactlyOnce, 5, "once")));
    node.restart(usize::MAX);
    node.connect_with(3, durable("s"));
    assert!(node.connect(4, "truck"));
    let again = Publish { dup: true, ..publish("t", QoS::ExactlyOnce, 5, "once") };
    assert_eq!(node.publish(4, again.clone()), ReasonCode::Success);
    node.packet(4, Packet::PubRel(ok(5)));
    assert_eq!(node.seen(4), [Packet::PubComp(ok(5))]);
    assert_eq!(node.payloads(3), ["once"]);
    // With the id released even a PUBLISH with DUP is a new one.
    assert_eq!(node.publish(4, again), ReasonCode::Success);
    assert_eq!(node.payloads(3), ["once"]);
}

#[test]
fn a_publish_sent_again_before_its_pubrel_counts_once_against_receive_maximum() {
    // [MQTT-3.3.4-7]
    let mut node = Node::with(Config { receive_maximum: 2, ..Config::default() });
    node.connect(1, "truck");
    for _ in 0..5 {
        let again = Publish { dup: true, ..publish("t", QoS::ExactlyOnce, 1, "x") };
        node.packet(1, Packet::Publish(again));
    }
    node.packet(1, Packet::Publish(publish("t", QoS::ExactlyOnce, 2, "x")));
    assert!(node.closed.is_empty());
    node.packet(1, Packet::Publish(publish("t", QoS::ExactlyOnce, 3, "x")));
    assert_eq!(node.goodbye(1), Some(ReasonCode::ReceiveMaximumExceeded));
}

#[test]
fn acknowledgements_in_any_order_free_their_place_and_keep_the_order_of_messages() {
    // [MQTT-3.3.4-9], [MQTT-4.6.0-5]
    let mut node = Node::new();
    node.connect(1, "truck");
    let mut connect = durable("s");
    connect.properties.receive_maximum = NonZeroU16::new(3);
    node.connect_with(2, connect);
    node.subscribe(2, "t", QoS::AtLeastOnce);
    for payload in ["1", "2", "3", "4", "5", "6", "7"] {
        node.publish(1, publish("t", QoS::AtLeastOnce, 1, payload));
    }
    assert_eq!(node.payloads(2), ["1", "2", "3"]);
    node.packet(2, Packet::PubAck(ok(3)));
    assert_eq!(node.payloads(2), ["4"]);
    node.packet(2, Packet::PubAck(ok(2)));
    assert_eq!(node.payloads(2), ["5"]);
    // [MQTT-4.6.0-1] again in the order of the first sending, then what waits, then what is new.
    node.connect_with(3, durable("s"));
    node.publish(1, publish("t", QoS::AtLeastOnce, 1, "8"));
    let again = node.publishes(3);
    let seen: Vec<_> = again.iter().map(|p| (&p.payload[..], p.dup)).collect();
    let expected = [("1", true), ("4", true), ("5", true), ("6", false), ("7", false), ("8", false)];
    assert_eq!(seen, expected.map(|(payload, dup)| (payload.as_bytes(), dup)));
}

#[test]
fn a_message_that_nobody_receives_is_acknowledged_with_0x10() {
    // Sections 3.4.2.1 and 3.5.2.1
    let mut node = Node::new();
    node.connect(1, "truck");
    let nobody = ReasonCode::NoMatchingSubscribers;
    assert_eq!(node.publish(1, publish("t", QoS::AtLeastOnce, 1, "x")), nobody);
    assert_eq!(node.publish(1, publish("t", QoS::ExactlyOnce, 2, "x")), nobody);
    // The QoS 2 flow goes on as with success.
    node.packet(1, Packet::PubRel(ok(2)));
    assert_eq!(node.seen(1), [Packet::PubComp(ok(2))]);
    // A conversation keeps it, so somebody may.
    assert_eq!(node.publish(1, publish("im/a", QoS::AtLeastOnce, 1, "x")), ReasonCode::Success);
    let no_local = SubscribeOptions { no_local: true, ..options(QoS::AtLeastOnce) };
    node.subscribe_with(1, "t", no_local);
    assert_eq!(node.publish(1, publish("t", QoS::AtLeastOnce, 1, "x")), nobody, "only the publisher itself");
    node.subscribe(1, "t", QoS::AtMostOnce);
    assert_eq!(node.publish(1, publish("t", QoS::AtLeastOnce, 1, "x")), ReasonCode::Success);
    // 3.1.1 has no codes in its packets.
    node.connect_with(2, version_3("old", true));
    node.seen(2);
    node.packet(2, Packet::Publish(publish("nobody", QoS::AtLeastOnce, 1, "x")));
    let [packet @ Packet::PubAck(_)] = &node.seen(2)[..] else { panic!("no PUBACK") };
    let mut bytes = bytes::BytesMut::new();
    protocol::encode(packet, ProtocolVersion::V311, &mut bytes).unwrap();
    assert_eq!(bytes[..], [0x40, 2, 0, 1]);
}

fn user_properties() -> UserProperties {
    [("b", "1"), ("a", "2"), ("b", "1"), ("", ""), ("b", "3")].map(|(n, v)| (n.into(), v.into())).into()
}

#[test]
fn user_properties_of_wills_and_retained_messages_come_repeated_and_in_order() {
    // [MQTT-3.1.3-10], [MQTT-3.3.2-17], [MQTT-3.3.2-18]
    let mut node = pair();
    let mut retained = Publish { retain: true, ..publish("kept", QoS::AtLeastOnce, 1, "x") };
    retained.properties.user_properties = user_properties();
    node.publish(1, retained);
    let properties = PublishProperties {
        user_properties: user_properties(),
        content_type: Some("text/plain".into()),
        response_topic: Some("answer".into()),
        correlation_data: Some(Bytes::from_static(b"\0")),
        message_expiry_interval_s: Some(60),
        payload_format_utf8: Some(true),
        ..PublishProperties::default()
    };
    let (topic, payload) = ("t".into(), Bytes::from_static(b"gone"));
    let (qos, retain, delay_interval_s) = (QoS::AtLeastOnce, false, Some(30));
    let will = Will { topic, payload, qos, retain, delay_interval_s, properties: properties.clone() };
    node.connect_with(3, Connect { will: Some(Box::new(will)), ..durable("will") });
    node.drop_connection(3);
    node.pass_s(10);
    node.restart_from_checkpoint();
    node.connect_with(4, durable("s"));
    node.pass_s(20);
    node.subscribe_with(4, "kept", options(QoS::AtLeastOnce));
    let mut seen = node.publishes(4);
    for publish in &mut seen {
        publish.properties.user_properties.truncate(5);
        assert_eq!(publish.properties.user_properties, user_properties(), "{}", publish.topic);
    }
    // Section 3.1.3.2.4: the will's expiry is counted from when it is published.
    assert_eq!(seen[0].properties, properties);
    assert_eq!(seen.len(), 2);
}

#[test]
fn a_disconnect_with_will_leaves_it_to_its_delay() {
    // Section 3.14.2.1 (0x04), [MQTT-3.1.3-9]
    let mut node = pair();
    let will = |delay_interval_s| {
        let (topic, payload, properties) = ("t".into(), Bytes::from_static(b"gone"), Default::default());
        let (qos, retain) = (QoS::AtLeastOnce, false);
        Some(Box::new(Will { topic, payload, qos, retain, delay_interval_s, properties }))
    };
    let bye = |session_expiry_interval_s| {
        let properties = DisconnectProperties { session_expiry_interval_s, ..Default::default() };
        Packet::Disconnect(Disconnect {
            reason: ReasonCode::DisconnectWithWill,
            properties: properties.into(),
        })
    };
    node.connect_with(3, Connect { will: will(Some(10)), ..durable("w") });
    node.packet(3, bye(None));
    node.pass_s(9);
    assert_eq!(node.payloads(2), Vec::<String>::new());
    node.pass_s(1);
    assert_eq!(node.payloads(2), ["gone"]);
    // Resumed before: cancelled.
    node.connect_with(4, Connect { will: will(Some(10)), ..durable("w") });
    node.packet(4, bye(None));
    node.connect(5, "w");
    node.pass_s(100);
    assert_eq!(node.payloads(2), Vec::<String>::new());
    // The end of the session does not wait.
    node.connect_with(6, Connect { will: will(Some(10)), ..durable("w") });
    node.packet(6, bye(Some(0)));
    assert_eq!(node.payloads(2), ["gone"]);
    // 3.1.1: taken over, so its connection ended without DISCONNECT.
    node.connect_with(7, Connect { will: will(None), ..version_3("w", false) });
    node.connect_with(8, version_3("w", false));
    assert_eq!(node.payloads(2), ["gone"]);
}

#[test]
fn topics_of_65_535_bytes_and_200_levels_are_served() {
    // [MQTT-4.7.3-3]
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "s");
    node.subscribe(2, "#", QoS::ExactlyOnce);
    let long = "x".repeat(65_535);
    let levels = vec!["l"; 200].join("/");
    for topic in [&long, &levels] {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let retained = Publish { retain: true, ..publish(topic, qos, 1, "x") };
            assert_eq!(node.publish(1, retained), ReasonCode::Success);
            node.packet(1, Packet::PubRel(ok(1)));
            assert_eq!(node.publishes(2)[0].topic, **topic);
        }
        assert_eq!(node.subscribe_with(2, topic, options(QoS::AtMostOnce)), ReasonCode::Success);
        assert_eq!(node.publishes(2)[0].topic, **topic);
        let filters = vec![topic.as_str().into()];
        node.packet(
            2,
            Packet::Unsubscribe(Unsubscribe { packet_id: id(3), user_properties: vec![], filters }),
        );
        assert!(matches!(&node.seen(2)[..], [Packet::UnsubAck(a)] if a.reasons == [ReasonCode::Success]));
    }
    let too_many = vec!["l"; 201].join("/");
    assert_eq!(node.publish(1, publish(&too_many, QoS::AtLeastOnce, 1, "x")), ReasonCode::TopicNameInvalid);
    assert_eq!(node.subscribe_with(2, &too_many, options(QoS::AtMostOnce)), ReasonCode::TopicFilterInvalid);
}

#[test]
fn filters_of_as_many_levels_as_fit_cost_no_stack() {
    let deepest = |level: &str| format!("{level}/").repeat(32_767) + level;
    let slashes = "/".repeat(65_535);
    let mut refusing = Node::new();
    refusing.connect(1, "s");
    let mut taking = Node::with(Config { topic_levels_max: 70_000, ..Config::default() });
    taking.connect(1, "s");
    for filter in [deepest("+"), deepest("a"), slashes.clone(), format!("{}/#", "+/".repeat(32_766) + "+")] {
        let refused = refusing.subscribe_with(1, &filter, options(QoS::AtMostOnce));
        assert_eq!(refused, ReasonCode::TopicFilterInvalid);
        assert_eq!(taking.subscribe_with(1, &filter, options(QoS::AtLeastOnce)), ReasonCode::GrantedQoS1);
    }
    let topic = deepest("a");
    let retained = Publish { retain: true, ..publish(&topic, QoS::AtLeastOnce, 1, "x") };
    assert_eq!(taking.publish(1, retained), ReasonCode::Success);
    assert_eq!(taking.publishes(1).len(), 1);
    assert_eq!(taking.publish(1, publish(&slashes, QoS::AtLeastOnce, 1, "x")), ReasonCode::Success);
    taking.restart(usize::MAX);
    assert_eq!(taking.shard.stats().subscriptions, 4);
}

#[test]
fn an_alias_stands_for_the_newest_topic_that_came_with_it_refused_or_not() {
    // [MQTT-3.3.2-12], section 3.3.2.3.4
    let mut node = pair();
    let aliased = |topic: &'static str, packet_id, payload| {
        let mut publish = publish(topic, QoS::AtLeastOnce, packet_id, payload);
        publish.properties.topic_alias = NonZeroU16::new(64);
        publish
    };
    assert_eq!(node.publish(1, aliased("$no", 1, "x")), ReasonCode::TopicNameInvalid);
    assert_eq!(node.publish(1, aliased("", 1, "x")), ReasonCode::TopicNameInvalid);
    assert_eq!(node.publish(1, aliased("t", 1, "y")), ReasonCode::Success);
    assert_eq!(node.publish(1, aliased("", 1, "z")), ReasonCode::Success);
    assert_eq!(node.payloads(2), ["y", "z"]);
    assert!(node.closed.is_empty());
}

#[test]
fn a_client_that_refuses_a_message_ends_it_and_gets_the_next() {
    // [MQTT-4.4.0-2], [MQTT-4.3.3-4]
    let mut node = pair();
    for packet_id in [1, 2] {
        node.publish(1, publish("t", QoS::AtLeastOnce, packet_id, "one"));
    }
    exactly_once(&mut node, "two");
    node.seen(2);
    node.packet(2, Packet::PubAck(ack(1, ReasonCode::QuotaExceeded)));
    node.packet(2, Packet::PubRec(ack(3, ReasonCode::NotAuthorized)));
    assert_eq!(node.seen(2), [], "no PUBREL after a refusal");
    node.connect_with(3, durable("s"));
    let again: Vec<_> = node.publishes(3).iter().map(|p| p.packet_id.unwrap().get()).collect();
    assert_eq!(again, [2]);
}
