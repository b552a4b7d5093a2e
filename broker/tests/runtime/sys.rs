//! `$SYS/broker/...` over real sockets.

use std::collections::BTreeMap;

use protocol::{ProtocolVersion, QoS, ReasonCode};

use crate::harness::{RawClient, TestBroker, connect};

/// Takes messages until the topic has come with a text that is wanted; returns all that came.
fn collect_until(
    client: &mut RawClient,
    topic: &str,
    wanted: impl Fn(&str) -> bool,
) -> BTreeMap<String, (String, bool)> {
    let mut seen = BTreeMap::new();
    loop {
        let publish = client.expect_publish();
        let text = String::from_utf8(publish.payload.to_vec()).unwrap();
        let is_last = publish.topic == topic && wanted(&text);
        seen.insert(publish.topic.to_string(), (text, publish.retain));
        if is_last {
            return seen;
        }
    }
}

#[test]
fn a_subscriber_gets_the_brokers_numbers_at_once_and_then_as_they_change() {
    let broker = TestBroker::start_with(|config| config.mqtt.sys_interval_s = 1);
    let mut client = broker.connected("dashboard");
    client.subscribe("$SYS/#", QoS::AtLeastOnce);
    // They come in the order of their topics.
    let first = collect_until(&mut client, "$SYS/broker/version", |_| true);
    assert!(first.values().all(|(_, retain)| *retain));
    let names = "bytes/received bytes/sent clients/connected clients/maximum clients/total load/bytes/sent/15min \
                 load/messages/received/1min load/publish/dropped/5min messages/received messages/sent \
                 messages/stored publish/messages/dropped subscriptions/count uptime version";
    for name in names.split_whitespace().chain(["retained messages/count"]) {
        assert!(first.contains_key(&format!("$SYS/broker/{name}")), "{name} is not in {first:?}");
    }
    let number = |name: &str| first[&format!("$SYS/broker/{name}")].0.clone();
    assert_eq!(number("clients/connected"), "1");
    assert!(number("version").starts_with("postrider version "));
    assert!(number("uptime").ends_with(" seconds"));
    let mut other = broker.connected("other");
    other.ping();
    let later = collect_until(&mut client, "$SYS/broker/clients/connected", |text| text == "2");
    assert!(later.values().all(|(_, retain)| !retain));
    assert!(!later.contains_key("$SYS/broker/version"), "it has not changed");
}

#[test]
fn who_comes_late_gets_fresh_numbers() {
    let broker = TestBroker::start();
    let mut first = broker.connected("first");
    first.subscribe("$SYS/broker/clients/total", QoS::AtMostOnce);
    assert_eq!(&first.expect_publish().payload[..], b"1");
    // Nobody else hears of it: `#` is not for topics that start with `$` [MQTT-4.7.2-1].
    let mut wild = broker.connected("wild");
    wild.subscribe("#", QoS::AtMostOnce);
    wild.ping();
}

#[test]
fn with_an_interval_of_0_there_are_none() {
    let broker = TestBroker::start_with(|config| config.mqtt.sys_interval_s = 0);
    let mut client = broker.connected("dashboard");
    client.subscribe("$SYS/#", QoS::AtMostOnce);
    client.ping();
}

#[test]
fn a_broker_that_has_moved_says_where() {
    let broker =
        TestBroker::start_with(|config| config.mqtt.server_reference = "other.example:1883".to_owned());
    let mut client = broker.client();
    client.send(&connect(ProtocolVersion::V5, "truck"));
    let connack = client.expect_connack(ReasonCode::UseAnotherServer);
    assert_eq!(connack.properties.server_reference.as_deref(), Some("other.example:1883"));
    client.expect_end();
    let mut old = RawClient::new(broker.addr(), ProtocolVersion::V311);
    old.send(&connect(ProtocolVersion::V311, "truck"));
    old.expect_connack(ReasonCode::ServerUnavailable);
    old.expect_end();
}
