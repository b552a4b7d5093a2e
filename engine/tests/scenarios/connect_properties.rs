//! What CONNECT asks for and CONNACK tells: response and problem information, server reference, sizes
//! (MQTT 5.0 sections 3.1.2.11 and 3.2.2.3).

use std::num::NonZeroU32;

use crate::node::*;
use engine::{Config, Input, Principal};
use protocol::*;

fn asking(client_id: &str, asks: Option<bool>) -> Connect {
    let mut connect = volatile(client_id);
    connect.properties.request_response_information = asks;
    connect
}

fn information(node: &mut Node, conn: u64, connect: Connect) -> Option<String> {
    let connack = node.connack(conn, connect);
    assert_eq!(connack.reason, ReasonCode::Success);
    connack.properties.response_information.map(String::from)
}

#[test]
fn response_information_comes_to_those_who_ask() {
    // [MQTT-3.1.2-28]
    let response_information = "reply/%u/%c".to_owned();
    let mut node = Node::with(Config { response_information, ..Config::default() });
    let principal = Principal { user: Some("anna".into()), ..Principal::default() };
    node.connect_principal(1, asking("truck", Some(true)), principal);
    let [Packet::ConnAck(connack)] = &node.seen(1)[..] else { panic!("no CONNACK") };
    assert_eq!(connack.properties.response_information.as_deref(), Some("reply/anna/truck"));
    assert_eq!(information(&mut node, 2, asking("a", Some(false))), None);
    assert_eq!(information(&mut node, 3, asking("b", None)), None);
    assert_eq!(information(&mut node, 4, asking("c/d", Some(true))), None, "a name of two levels");
    assert_eq!(information(&mut node, 5, asking("#", Some(true))), None, "a wildcard for a name");
    let mut node = Node::new();
    assert_eq!(information(&mut node, 1, asking("a", Some(true))), None, "none is configured");
}

#[test]
fn response_information_is_left_out_of_a_connack_that_it_makes_too_large() {
    let response_information = "r".repeat(1_000);
    let mut node = Node::with(Config { response_information, ..Config::default() });
    let mut connect = asking("a", Some(true));
    connect.properties.packet_bytes_max = NonZeroU32::new(500);
    assert_eq!(information(&mut node, 1, connect), None);
}

#[test]
fn without_problem_information_nothing_but_publish_carries_strings() {
    // [MQTT-3.1.2-29]
    let mut node = Node::new();
    let mut connect = durable("truck");
    connect.properties.request_problem_information = Some(false);
    node.connect_with(1, connect);
    node.connect(2, "other");
    node.subscribe(2, "t", QoS::ExactlyOnce);
    node.seen(1);
    for (qos, packet_id) in [(QoS::AtLeastOnce, 1), (QoS::ExactlyOnce, 2)] {
        for topic in ["t", "$no"] {
            node.packet(1, Packet::Publish(publish(topic, qos, packet_id, "x")));
        }
    }
    node.packet(1, Packet::PubRel(ack(2, ReasonCode::Success)));
    node.packet(1, subscribe("$share/g", SubscribeOptions::default()));
    let filters = vec!["a#".into()];
    node.packet(1, Packet::Unsubscribe(Unsubscribe { packet_id: id(4), user_properties: vec![], filters }));
    node.packet(1, Packet::PubRec(ack(9, ReasonCode::Success)));
    let seen = node.seen(1);
    assert_eq!(seen.len(), 8, "{seen:?}");
    for packet in &seen {
        let properties = match packet {
            Packet::PubAck(a) | Packet::PubRec(a) | Packet::PubRel(a) | Packet::PubComp(a) => &a.properties,
            Packet::SubAck(a) => &a.properties,
            Packet::UnsubAck(a) => &a.properties,
            other => panic!("{other:?}"),
        };
        assert_eq!(*properties, AckProperties::default(), "{packet:?}");
    }
    // A DISCONNECT might say why all the same; who does not ask is not told.
    node.packet(1, Packet::PingResp);
    let seen = node.seen(1);
    assert!(matches!(&seen[..], [Packet::Disconnect(d)] if d.properties.reason_string.is_none()), "{seen:?}");
    // And others are told.
    node.packet(2, Packet::Publish(publish("$no", QoS::AtLeastOnce, 1, "x")));
    let seen = node.seen(2);
    let told = |p: &Packet| matches!(p, Packet::PubAck(a) if a.properties.reason_string.is_some());
    assert!(seen.iter().any(told), "{seen:?}");
}

#[test]
fn with_a_server_reference_connects_are_sent_there_and_connected_clients_at_the_end() {
    // Section 3.2.2.3.16, docs/protocol.md section 10
    let server_reference = "other.example:1883".to_owned();
    let mut node = Node::with(Config { server_reference, ..Config::default() });
    let connack = node.connack(1, durable("truck"));
    assert_eq!((connack.reason, connack.session_present), (ReasonCode::UseAnotherServer, false));
    assert_eq!(connack.properties.server_reference.as_deref(), Some("other.example:1883"));
    assert!(node.closed.contains_key(&1));
    // 3.1.1: return code 3, server unavailable.
    let connack = node.connack(2, version_3("truck", false));
    let mut bytes = bytes::BytesMut::new();
    protocol::encode(&Packet::ConnAck(Box::new(connack)), ProtocolVersion::V311, &mut bytes).unwrap();
    assert_eq!(bytes[..], [0x20, 2, 0, 3]);
    assert_eq!(node.shard.stats().sessions, 0);
    // What is for people is left out first when it would be too much for the client.
    let mut connect = durable("small");
    connect.properties.packet_bytes_max = NonZeroU32::new(30);
    let properties = node.connack(3, connect.clone()).properties;
    assert_eq!((properties.reason_string, properties.server_reference.is_some()), (None, true));
    connect.properties.packet_bytes_max = NonZeroU32::new(10);
    assert_eq!(node.connack(4, connect).properties, ConnAckProperties::default());
}

#[test]
fn a_move_of_one_client_names_the_server_and_a_plain_shutdown_none() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.input(Input::Shutdown);
    let seen = node.seen(1);
    let [Packet::Disconnect(goodbye)] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!(goodbye.reason, ReasonCode::ServerShuttingDown);
    assert_eq!(goodbye.properties.server_reference, None);
}

#[test]
fn an_answer_that_no_client_of_this_size_can_take_ends_the_connection_and_does_nothing() {
    // [MQTT-3.1.2-24] against [MQTT-3.8.4-1] and [MQTT-3.10.4-4]
    let mut node = Node::new();
    let mut connect = volatile("truck");
    connect.properties.packet_bytes_max = NonZeroU32::new(40);
    for conn in 1..=2 {
        node.connect_with(conn, connect.clone());
        node.seen(conn);
        let names = (0..50).map(|n| ByteString::from(format!("t/{n}")));
        node.packet(
            conn,
            if conn == 1 {
                let options = SubscribeOptions::default();
                let filters = names.map(|filter| SubscribeFilter { filter, options }).collect();
                let (packet_id, user_properties) = (id(1), vec![]);
                Packet::Subscribe(Subscribe {
                    packet_id,
                    subscription_identifier: None,
                    user_properties,
                    filters,
                })
            } else {
                let (packet_id, user_properties) = (id(1), vec![]);
                Packet::Unsubscribe(Unsubscribe { packet_id, user_properties, filters: names.collect() })
            },
        );
        assert_eq!(node.goodbye(conn), Some(ReasonCode::PacketTooLarge));
    }
    assert_eq!(node.shard.stats().subscriptions, 0);
}

#[test]
fn reasons_are_left_out_of_answers_that_they_make_too_large() {
    // [MQTT-3.4.2-2], [MQTT-3.5.2-2], [MQTT-3.9.2-1], [MQTT-3.14.2-3]
    let mut node = Node::new();
    let mut connect = durable("truck");
    connect.properties.packet_bytes_max = NonZeroU32::new(30);
    node.connect_with(1, connect);
    node.seen(1);
    node.packet(1, Packet::Publish(publish("$no", QoS::AtLeastOnce, 1, "x")));
    node.packet(1, Packet::Publish(publish("$no", QoS::ExactlyOnce, 2, "x")));
    node.packet(1, subscribe("a#", SubscribeOptions::default()));
    node.packet(1, Packet::PingResp);
    let reason = ReasonCode::TopicNameInvalid;
    let seen = node.seen(1);
    assert_eq!(seen[0], Packet::PubAck(ack(1, reason)));
    assert_eq!(seen[1], Packet::PubRec(ack(2, reason)));
    assert!(matches!(&seen[2], Packet::SubAck(s) if s.reasons == [ReasonCode::TopicFilterInvalid]
        && s.properties == AckProperties::default()));
    assert!(matches!(&seen[3], Packet::Disconnect(d) if d.reason == ReasonCode::ProtocolError
        && d.properties == DisconnectProperties::default()));
}
