//! Properties of messages on their way: passed through, counted down, left out.

use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use protocol::ProtocolVersion::{V5, V311};
use protocol::{Publish, PublishProperties, QoS, ReasonCode};

use crate::broker_process::Broker;
use crate::raw_client::{RawClient, connect_packet, message, user_properties};

#[test]
fn properties_pass_unaltered() {
    let broker = Broker::start();
    let mut subscriber = broker.client("subscriber", V5);
    subscriber.subscribe("a", QoS::AtMostOnce);
    let pairs = [("b", "2"), ("a", "1"), ("b", "2"), ("", ""), ("ключ", "значение")];
    let sent = PublishProperties {
        payload_format_utf8: Some(true),
        response_topic: Some("answers/here".into()),
        correlation_data: Some(vec![0, 255, 1].into()),
        content_type: Some("text/plain".into()),
        user_properties: user_properties(&pairs),
        ..PublishProperties::default()
    };
    let publish = Publish { properties: sent.clone().into(), ..message("a", "x", QoS::AtLeastOnce) };
    broker.client("publisher", V5).publish(publish);
    let got = subscriber.expect_message("a", "x").properties;
    assert_eq!(got.payload_format_utf8, sent.payload_format_utf8, "[MQTT-3.3.2-4]");
    assert_eq!(got.response_topic, sent.response_topic, "[MQTT-3.3.2-15]");
    assert_eq!(got.correlation_data, sent.correlation_data, "[MQTT-3.3.2-16]");
    assert_eq!(got.content_type, sent.content_type, "[MQTT-3.3.2-20]");
    // [MQTT-3.3.2-17] [MQTT-3.3.2-18]; the broker's own come after them.
    assert_eq!(got.user_properties[..pairs.len()], sent.user_properties[..]);
    assert_eq!(got.message_expiry_interval_s, None);
}

#[test]
fn absent_properties_stay_absent() {
    let broker = Broker::start();
    let mut subscriber = broker.client("subscriber", V5);
    subscriber.subscribe("a", QoS::AtMostOnce);
    for version in [V311, V5] {
        broker.client("publisher", version).publish_accepted("a", "x");
        let mut got = subscriber.expect_message("a", "x").properties;
        got.user_properties.clear();
        assert_eq!(got, PublishProperties::default());
    }
}

#[test]
fn payloads_pass_byte_for_byte() {
    let broker = Broker::start();
    let every_byte: Vec<u8> = (0..=255).collect();
    for (from, to) in [(V311, V5), (V5, V311)] {
        let mut subscriber = broker.client("subscriber", to).acknowledging();
        subscriber.subscribe("a", QoS::ExactlyOnce);
        let mut publisher = broker.client("publisher", from);
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for payload in [&every_byte[..], &[], &vec![7; 300_000]] {
                publisher.publish(message("a", payload, qos));
                assert_eq!(subscriber.receive_publish().payload, payload);
            }
        }
    }
}

#[test]
fn the_expiry_interval_counts_down_while_a_message_waits() {
    let broker = Broker::start();
    let (mut client, _) = broker.durable("offline", V5);
    client.subscribe("a", QoS::AtLeastOnce);
    client.disconnect();
    let mut publish = message("a", "x", QoS::AtLeastOnce);
    publish.properties.message_expiry_interval_s = Some(100);
    let before = Instant::now();
    broker.client("publisher", V5).publish(publish);
    // Real time must pass: it is what is tested.
    std::thread::sleep(Duration::from_millis(2_100));
    let (mut client, _) = broker.durable("offline", V5);
    let left = client.expect_message("a", "x").properties.message_expiry_interval_s;
    let waited = before.elapsed().as_secs() as u32;
    // [MQTT-3.3.2-6]
    assert!(left.is_some_and(|s| s <= 98 && s >= 99 - waited), "left {left:?} after {waited} s");
}

#[test]
fn the_expiry_interval_counts_on_while_the_broker_is_down() {
    let mut broker = Broker::start();
    let (mut client, _) = broker.durable("offline", V5);
    client.subscribe("a", QoS::AtLeastOnce);
    client.disconnect();
    let mut publisher = broker.client("publisher", V5);
    for (payload, expiry_s) in [("gone", 1), ("stays", 100)] {
        let mut publish = message("a", payload, QoS::AtLeastOnce);
        publish.properties.message_expiry_interval_s = Some(expiry_s);
        publisher.publish(publish);
    }
    broker.kill();
    std::thread::sleep(Duration::from_millis(2_100));
    broker.restart();
    let (client, _) = broker.durable("offline", V5);
    let mut client = client.acknowledging();
    // [MQTT-3.3.2-5] [MQTT-3.3.2-6]
    let left = client.expect_message("a", "stays").properties.message_expiry_interval_s;
    assert!(left.is_some_and(|s| s <= 98), "left {left:?}");
    client.expect_no_message();
}

#[test]
fn an_expired_message_is_not_delivered() {
    let broker = Broker::start();
    let (mut client, _) = broker.durable("offline", V5);
    client.subscribe("a", QoS::AtLeastOnce);
    client.disconnect();
    let mut publisher = broker.client("publisher", V5);
    let mut publish = message("a", "expired", QoS::AtLeastOnce);
    publish.properties.message_expiry_interval_s = Some(1);
    publisher.publish(publish);
    publisher.publish_accepted("a", "stays");
    std::thread::sleep(Duration::from_millis(2_100));
    let (client, _) = broker.durable("offline", V5);
    let mut client = client.acknowledging();
    // [MQTT-3.3.2-5]
    client.expect_message("a", "stays");
    client.expect_no_message();
}

#[test]
fn a_topic_alias_stands_for_its_topic() {
    let broker = Broker::start();
    let mut subscriber = broker.client("subscriber", V5);
    subscriber.subscribe("#", QoS::AtMostOnce);
    let mut publisher = broker.client("publisher", V5);
    let aliased = |topic: &str, alias: u16, payload: &str| {
        let mut publish = message(topic, payload, QoS::AtLeastOnce);
        publish.properties.topic_alias = NonZeroU16::new(alias);
        publish
    };
    // Section 3.3.2.3.4 [MQTT-3.3.2-12]
    publisher.publish(aliased("long/topic/one", 1, "introduces 1"));
    publisher.publish(aliased("long/topic/two", 64, "introduces 64"));
    publisher.publish(aliased("", 1, "uses 1"));
    publisher.publish(aliased("", 64, "uses 64"));
    publisher.publish(aliased("long/topic/three", 1, "changes 1"));
    publisher.publish(aliased("", 1, "uses it changed"));
    for (topic, payload) in [
        ("long/topic/one", "introduces 1"),
        ("long/topic/two", "introduces 64"),
        ("long/topic/one", "uses 1"),
        ("long/topic/two", "uses 64"),
        ("long/topic/three", "changes 1"),
        ("long/topic/three", "uses it changed"),
    ] {
        let got = subscriber.expect_message(topic, payload);
        // [MQTT-3.3.2-11]: this subscriber takes no aliases.
        assert_eq!(got.properties.topic_alias, None);
    }
}

#[test]
fn topic_aliases_end_with_their_connection() {
    let broker = Broker::start();
    let (mut publisher, _) = broker.durable("publisher", V5);
    let mut publish = message("a", "x", QoS::AtMostOnce);
    publish.properties.topic_alias = NonZeroU16::new(1);
    publisher.publish(publish.clone());
    publisher.lose();
    let (mut publisher, present) = broker.durable("publisher", V5);
    assert!(present);
    publish.topic = "".into();
    publisher.publish(publish);
    // [MQTT-3.3.2-7]: unknown now, a protocol error.
    publisher.expect_disconnect(ReasonCode::ProtocolError);
}

#[test]
fn acks_carry_nothing_more_when_problem_information_is_not_wanted() {
    let broker = Broker::start();
    let mut connect = connect_packet("terse", V5);
    connect.properties.request_problem_information = Some(false);
    let (mut client, _) = RawClient::connect_with(broker.address(), connect);
    let mut acks = Vec::new();
    for topic in ["nobody/listens", "im/room", "$im/forbidden", "$other/forbidden"] {
        acks.extend(client.publish(message(topic, "x", QoS::AtLeastOnce)));
        acks.extend(client.publish(message(topic, "x", QoS::ExactlyOnce)));
    }
    for ack in acks {
        // [MQTT-3.1.2-29]
        assert_eq!(ack.properties, protocol::AckProperties::default(), "{ack:?}");
    }
    let ack = client.subscribe_raw(&[("a/#/b", protocol::SubscribeOptions::default())], None);
    assert_eq!(ack.properties, protocol::AckProperties::default(), "{ack:?}");
}

#[test]
fn a_refusal_carries_a_reason_string_by_default() {
    let broker = Broker::start();
    let mut client = broker.client("curious", V5);
    let ack = client.publish(message("$im/forbidden", "x", QoS::AtLeastOnce)).expect("an ack");
    assert!(ack.reason.is_failure());
    assert!(ack.properties.into_inner().reason_string.is_some_and(|why| !why.is_empty()), "it must say why");
}
