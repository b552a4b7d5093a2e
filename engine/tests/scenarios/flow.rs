//! Flow control, limits of the client, aliases and keep-alive (MQTT 5.0 sections 3.1.2, 3.3.2.3.4 and 4.9).

use std::num::{NonZeroU16, NonZeroU32};

use crate::node::*;
use engine::{CloseReason, Config, ConnId, Input};
use protocol::*;

#[test]
fn no_more_is_in_flight_to_a_client_than_its_receive_maximum() {
    // [MQTT-3.3.4-9], section 4.9
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut node = Node::new();
        node.connect(1, "truck");
        let mut connect = durable("dispatcher");
        connect.properties.receive_maximum = NonZeroU16::new(2);
        node.connack(2, connect);
        node.subscribe_with(2, "t", options(qos));
        for (n, payload) in [(1, "1"), (2, "2"), (3, "3"), (4, "4")] {
            node.publish(1, publish("t", qos, n, payload));
        }
        assert_eq!(node.payloads(2), ["1", "2"]);
        // QoS 0 is not counted.
        node.packet(1, Packet::Publish(publish("t", QoS::AtMostOnce, 0, "zero")));
        assert_eq!(node.payloads(2), ["zero"]);
        match qos {
            QoS::ExactlyOnce => {
                node.packet(2, Packet::PubRec(ack(2, ReasonCode::Success)));
                assert_eq!(node.payloads(2), Vec::<String>::new(), "PUBREC frees no place");
                node.packet(2, Packet::PubComp(ack(2, ReasonCode::Success)));
            }
            _ => node.packet(2, Packet::PubAck(ack(2, ReasonCode::Success))),
        }
        assert_eq!(node.payloads(2), ["3"]);
        // A refusal frees its place at once.
        let refusal = ack(1, ReasonCode::UnspecifiedError);
        node.packet(
            2,
            if qos == QoS::ExactlyOnce { Packet::PubRec(refusal) } else { Packet::PubAck(refusal) },
        );
        assert_eq!(node.payloads(2), ["4"]);
    }
}

#[test]
fn a_client_that_exceeds_the_brokers_receive_maximum_is_told_and_closed() {
    let mut node = Node::with(Config { receive_maximum: 2, ..Config::default() });
    node.connect(1, "truck");
    for n in 1..=3 {
        node.packet(1, Packet::Publish(publish("t", QoS::ExactlyOnce, n, "x")));
        if n == 2 {
            assert!(node.closed.is_empty());
            // A place is free again with the PUBCOMP.
            node.packet(1, Packet::PubRel(ack(1, ReasonCode::Success)));
        }
    }
    assert!(node.closed.is_empty());
    node.packet(1, Packet::Publish(publish("t", QoS::AtLeastOnce, 9, "x")));
    assert_eq!(node.goodbye(1), Some(ReasonCode::ReceiveMaximumExceeded));
}

#[test]
fn what_is_larger_than_the_client_takes_is_dropped_with_a_receipt_and_the_rest_goes_on() {
    // [MQTT-3.1.2-24], [MQTT-3.1.2-25]
    let mut node = Node::new();
    node.connect(1, "truck");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    let mut connect = durable("dispatcher");
    connect.properties.packet_bytes_max = NonZeroU32::new(200);
    node.connack(2, connect.clone());
    node.subscribe_with(2, "t", options(QoS::AtLeastOnce));
    let large = || Publish { payload: vec![b'x'; 200].into(), ..publish("t", QoS::AtLeastOnce, 1, "") };
    node.packet(1, tracked(large(), "live"));
    node.publish(1, publish("t", QoS::AtLeastOnce, 1, "small"));
    assert_eq!(node.payloads(2), ["small"]);
    node.drop_connection(2);
    node.packet(1, tracked(large(), "queued"));
    node.publish(1, publish("t", QoS::AtLeastOnce, 1, "small too"));
    node.connect_with(3, connect);
    assert_eq!(node.payloads(3), ["small", "small too"]);
    let expected = ["live dropped dispatcher too_large", "queued dropped dispatcher too_large"];
    assert_eq!(receipts(&mut node, 1), expected);
    node.restart(usize::MAX);
    assert_eq!(node.shard.stats().queued, 4, "two small ones, two receipts");
}

#[test]
fn answers_are_cut_to_the_clients_limit_or_end_the_connection() {
    // [MQTT-3.2.2-19], [MQTT-3.4.2-2], [MQTT-3.4.2-3], [MQTT-3.9.2-1], [MQTT-3.14.2-3], [MQTT-3.1.2-24]
    let mut node = Node::new();
    let limited = |client, bytes| {
        let mut connect = durable(client);
        connect.properties.packet_bytes_max = NonZeroU32::new(bytes);
        connect
    };
    let connack = node.connack(1, limited("tiny", 5));
    assert_eq!((connack.reason, connack.properties.reason_string), (ReasonCode::PacketTooLarge, None));
    node.connect_with(2, limited("nothing", 4));
    assert_eq!(node.seen(2), []);
    assert!(node.closed.contains_key(&2));
    assert_eq!(node.connack(3, limited("small", 30)).reason, ReasonCode::Success);
    node.packet(3, Packet::Publish(publish("$x", QoS::AtLeastOnce, 1, "x")));
    assert_eq!(node.seen(3), [Packet::PubAck(ack(1, ReasonCode::TopicNameInvalid))]);
    let Packet::Subscribe(s) = subscribe("t", options(QoS::AtMostOnce)) else { unreachable!() };
    let filters = vec![s.filters[0].clone(); 30];
    node.packet(3, Packet::Subscribe(Subscribe { filters, ..s }));
    let goodbye = node.goodbye(3);
    assert_eq!(goodbye, Some(ReasonCode::PacketTooLarge), "a SUBACK of 35 bytes");
    assert_eq!(node.shard.stats().sessions, 1);
}

#[test]
fn request_problem_information_0_leaves_reasons_and_ids_out_of_acknowledgements() {
    // [MQTT-3.1.2-29], docs/protocol.md section 2
    let mut node = Node::new();
    let mut connect = durable("truck");
    connect.properties.request_problem_information = Some(false);
    node.connack(1, connect);
    node.packet(1, Packet::Publish(publish("im/room", QoS::AtLeastOnce, 1, "x")));
    node.packet(1, Packet::Publish(publish("$x", QoS::ExactlyOnce, 2, "x")));
    node.packet(1, subscribe("a#", options(QoS::AtMostOnce)));
    for packet in node.seen(1) {
        let properties = match packet {
            Packet::PubAck(ack) | Packet::PubRec(ack) => ack.properties,
            Packet::SubAck(suback) => suback.properties.into(),
            other => panic!("{other:?}"),
        };
        assert_eq!(properties, AckProperties::default());
    }
}

#[test]
fn a_topic_alias_stands_for_its_topic_on_its_connection_only() {
    // [MQTT-3.3.2-7], [MQTT-3.3.2-8], [MQTT-3.3.2-9], [MQTT-3.3.2-12]
    let mut node = Node::with(Config { topic_alias_max: 2, ..Config::default() });
    node.connect(1, "truck");
    node.connect(2, "dispatcher");
    node.subscribe(2, "#", QoS::AtMostOnce);
    let aliased = |topic: &str, alias| {
        let mut p = publish(topic, QoS::AtLeastOnce, 1, "x");
        p.properties.topic_alias = NonZeroU16::new(alias);
        p
    };
    for (topic, alias) in [("a", 1), ("", 1), ("b", 2), ("", 1), ("c", 1), ("", 1)] {
        assert_eq!(node.publish(1, aliased(topic, alias)), ReasonCode::Success);
    }
    let got: Vec<_> = node.publishes(2).iter().map(|p| p.topic.to_string()).collect();
    assert_eq!(got, ["a", "a", "b", "a", "c", "c"]);
    node.connect(3, "truck");
    node.packet(3, Packet::Publish(aliased("", 1)));
    assert_eq!(node.goodbye(3), Some(ReasonCode::ProtocolError));
    node.connect(4, "truck");
    node.packet(4, Packet::Publish(aliased("a", 3)));
    assert_eq!(node.goodbye(4), Some(ReasonCode::TopicAliasInvalid));
}

#[test]
fn silence_of_one_and_a_half_keep_alives_ends_the_connection() {
    // [MQTT-3.1.2-22]
    let mut node = Node::new();
    node.connack(1, Connect { keep_alive_s: 10, ..durable("truck") });
    node.connack(2, durable("patient"));
    for _ in 0..5 {
        node.pass_ms(14_999);
        node.packet(1, Packet::PingReq);
        assert_eq!(node.seen(1), [Packet::PingResp]);
    }
    node.pass_ms(14_999);
    assert!(node.closed.is_empty());
    node.pass_ms(1);
    assert_eq!(node.closed[&1], CloseReason::KeepAlive { keep_alive_s: 10 });
    assert_eq!(node.goodbye(1), Some(ReasonCode::KeepAliveTimeout));
    node.pass_s(100_000);
    assert!(!node.closed.contains_key(&2), "keep-alive 0 is none");
}

#[test]
fn what_the_broker_does_not_read_is_no_silence_of_the_client() {
    // [MQTT-3.1.2-22]
    let mut node = Node::new();
    node.connack(1, Connect { keep_alive_s: 10, ..durable("truck") });
    node.connack(2, Connect { keep_alive_s: 10, ..durable("other") });
    node.pass_s(14);
    node.input(Input::Reading { conn: None, paused: true });
    node.pass_s(100);
    node.input(Input::Reading { conn: None, paused: false });
    node.pass_ms(14_999);
    node.packet(1, Packet::PingReq);
    assert!(node.closed.is_empty());
    node.input(Input::Reading { conn: Some(ConnId(1)), paused: true });
    node.pass_ms(1);
    assert_eq!(node.closed[&2], CloseReason::KeepAlive { keep_alive_s: 10 });
    node.pass_s(100);
    node.input(Input::Reading { conn: Some(ConnId(1)), paused: false });
    node.pass_ms(14_999);
    assert!(!node.closed.contains_key(&1));
    node.pass_ms(1);
    assert!(node.closed.contains_key(&1));
}

#[test]
fn a_server_keep_alive_replaces_one_that_is_too_long_or_absent() {
    // [MQTT-3.1.2-21]
    let mut node = Node::with(Config { keep_alive_max_s: 60, ..Config::default() });
    for (conn, asked, told) in [(1, 0, Some(60)), (2, 61, Some(60)), (3, 60, None), (4, 5, None)] {
        let connect = Connect { keep_alive_s: asked, ..volatile(&conn.to_string()) };
        assert_eq!(node.connack(conn, connect).properties.server_keep_alive_s, told, "asked {asked}");
    }
    node.pass_s(90);
    assert_eq!(node.closed.len(), 4);
}

#[test]
fn wrong_acknowledgements_end_the_connection_and_late_ones_are_ignored() {
    let mut node = Node::new();
    node.connect(1, "truck");
    let wrong = |qos, packet: fn(Ack) -> Packet, node: &mut Node, conn| {
        node.connect(conn, "dispatcher");
        node.subscribe(conn, "t", QoS::ExactlyOnce);
        node.publish(1, publish("t", qos, 1, "x"));
        node.packet(1, Packet::PubRel(ack(1, ReasonCode::Success)));
        let packet_id = node.publishes(conn).last().unwrap().packet_id.unwrap();
        node.packet(conn, packet(Ack::new(packet_id, ReasonCode::Success)));
        assert_eq!(node.goodbye(conn), Some(ReasonCode::ProtocolError));
    };
    wrong(QoS::AtLeastOnce, Packet::PubRec, &mut node, 2);
    wrong(QoS::ExactlyOnce, Packet::PubAck, &mut node, 3);
    wrong(QoS::ExactlyOnce, Packet::PubComp, &mut node, 4);
    node.connect(5, "late");
    node.packet(5, Packet::PubAck(ack(7, ReasonCode::Success)));
    node.packet(5, Packet::PubComp(ack(7, ReasonCode::Success)));
    assert_eq!(node.seen(5), []);
    let unknown = ReasonCode::PacketIdentifierNotFound;
    node.packet(5, Packet::PubRec(ack(7, ReasonCode::Success)));
    node.packet(5, Packet::PubRec(ack(7, ReasonCode::UnspecifiedError)));
    node.packet(5, Packet::PubRel(ack(7, ReasonCode::Success)));
    assert_eq!(node.seen(5), [Packet::PubRel(ack(7, unknown)), Packet::PubComp(ack(7, unknown))]);
}

#[test]
fn a_long_queue_goes_out_in_portions_and_stops_when_the_connection_is_congested() {
    const COUNT: usize = 400;
    let mut node = Node::new();
    node.connect(1, "sender");
    for (conn, client, qos) in [(10, "r0", QoS::AtMostOnce), (20, "r1", QoS::AtLeastOnce)] {
        let room = format!("im/{client}");
        node.connect(conn, client);
        node.subscribe(conn, &room, qos);
        node.drop_connection(conn);
        for _ in 0..COUNT {
            let payload = vec![b'x'; 100 * 1024].into();
            let large = publish(&room, QoS::AtLeastOnce, 1, "");
            node.packet(1, Packet::Publish(Publish { payload, ..large }));
        }
        let conn = conn + 1;
        node.connect_with(conn, durable(client));
        node.input(Input::Congested { conn: ConnId(conn) });
        let mut sent = node.publishes(conn).len();
        assert!((1..COUNT / 2).contains(&sent), "{sent} of {COUNT} at {qos:?}");
        node.pass_ms(1);
        assert_eq!(node.publishes(conn).len(), 0, "sent to a congested connection");
        node.input(Input::Drained { conn: ConnId(conn) });
        node.pass_ms(1);
        sent += node.publishes(conn).len();
        assert_eq!(sent, COUNT);
        // Again, now that those of QoS 1 are in flight.
        node.drop_connection(conn);
        let conn = conn + 1;
        node.connect_with(conn, durable(client));
        node.input(Input::Congested { conn: ConnId(conn) });
        let sent = node.publishes(conn).len();
        assert!(sent < COUNT / 2 && (sent > 0) == (qos > QoS::AtMostOnce), "{sent} again");
    }
}
