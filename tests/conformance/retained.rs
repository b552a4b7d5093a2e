//! Retained messages.

use std::time::{Duration, Instant};

use protocol::ProtocolVersion::V5;
use protocol::{QoS, RetainHandling, SubscribeOptions};

use crate::broker_process::Broker;
use crate::raw_client::{BOTH, RawClient, at, message, retained};

/// What a fresh subscription to `filter` is sent at its beginning: topic, payload, retain flag, QoS.
fn seen_by_a_new_subscriber(
    broker: &Broker,
    filter: &str,
    options: SubscribeOptions,
) -> Vec<(String, String, bool, QoS)> {
    let mut client = broker.client("new-subscriber", V5);
    client.subscribe_with(filter, options);
    let mut seen: Vec<_> = client
        .messages_until_pong()
        .into_iter()
        .map(|m| (m.topic.to_string(), String::from_utf8_lossy(&m.payload).into_owned(), m.retain, m.qos))
        .collect();
    seen.sort();
    seen
}

fn payloads(broker: &Broker, filter: &str) -> Vec<String> {
    seen_by_a_new_subscriber(broker, filter, at(QoS::AtLeastOnce)).into_iter().map(|(_, p, ..)| p).collect()
}

#[test]
fn a_retained_message_is_set_replaced_and_cleared() {
    let broker = Broker::start();
    for version in BOTH {
        let mut publisher = broker.client("publisher", version);
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            // [MQTT-3.3.1-5]
            publisher.publish(retained("a/b", "first", qos));
            publisher.expect_no_message();
            assert_eq!(payloads(&broker, "a/b"), ["first"]);
            publisher.publish(retained("a/b", "second", qos));
            publisher.expect_no_message();
            assert_eq!(payloads(&broker, "a/b"), ["second"]);
            // [MQTT-3.3.1-6] [MQTT-3.3.1-7]
            publisher.publish(retained("a/b", "", qos));
            publisher.expect_no_message();
            assert_eq!(payloads(&broker, "a/b"), [""; 0]);
        }
    }
}

#[test]
fn a_message_without_the_flag_leaves_the_retained_one_alone() {
    let broker = Broker::start();
    for version in BOTH {
        let mut publisher = broker.client("publisher", version);
        publisher.publish(retained("a/b", "stays", QoS::AtLeastOnce));
        // [MQTT-3.3.1-8]
        publisher.publish_accepted("a/b", "live");
        publisher.publish_accepted("a/b", "");
        publisher.publish_accepted("a/c", "never retained");
        assert_eq!(payloads(&broker, "a/+"), ["stays"]);
    }
}

#[test]
fn the_flag_is_set_for_new_subscriptions_and_not_for_those_that_exist() {
    let broker = Broker::start();
    for version in BOTH {
        let topic = format!("flag/{version:?}");
        let mut early = broker.client("early", version);
        early.subscribe(&topic, QoS::AtLeastOnce);
        let mut publisher = broker.client("publisher", version);
        publisher.publish(retained(&topic, "x", QoS::AtLeastOnce));
        // [MQTT-3.3.1-12]; [MQTT-3.3.1-9] (3.1.1)
        assert!(!early.expect_message(&topic, "x").retain);
        let mut late = broker.client("late", version);
        late.subscribe(&topic, QoS::AtLeastOnce);
        // Section 3.3.1.3; [MQTT-3.3.1-8] (3.1.1)
        assert!(late.expect_message(&topic, "x").retain);
    }
}

#[test]
fn an_empty_retained_message_reaches_those_subscribed_like_any_other() {
    let broker = Broker::start();
    for version in BOTH {
        let mut subscriber = broker.client("subscriber", version);
        subscriber.subscribe("a", QoS::AtLeastOnce);
        broker.client("publisher", version).publish(retained("a", "", QoS::AtLeastOnce));
        // Section 3.3.1.3: processed as normal, and the flag says what it was to those who asked.
        let got = subscriber.expect_message("a", "");
        assert!(!got.retain, "a live message, not a retained one");
    }
}

#[test]
fn retained_messages_come_at_the_lower_qos_of_message_and_subscription() {
    let broker = Broker::start();
    let mut publisher = broker.client("publisher", V5);
    for (n, qos) in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().enumerate() {
        publisher.publish(retained(&format!("q/{n}"), "x", qos));
    }
    publisher.expect_no_message();
    for granted in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let seen = seen_by_a_new_subscriber(&broker, "q/+", at(granted));
        let levels: Vec<QoS> = seen.iter().map(|(.., qos)| *qos).collect();
        let expected = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].map(|qos| qos.min(granted));
        // [MQTT-3.8.4-8]
        assert_eq!(levels, expected, "granted {granted:?}");
    }
}

#[test]
fn retained_messages_are_found_by_wildcards_with_the_dollar_rule() {
    let broker = Broker::start();
    let mut publisher = broker.client("publisher", V5);
    for topic in ["sport", "sport/tennis", "sport/tennis/player1", "sport/football", "/finance"] {
        publisher.publish(retained(topic, topic, QoS::AtLeastOnce));
    }
    for (filter, expected) in [
        ("sport/#", &["sport", "sport/football", "sport/tennis", "sport/tennis/player1"][..]),
        ("sport/+", &["sport/football", "sport/tennis"]),
        ("+/+", &["/finance", "sport/football", "sport/tennis"]),
        ("+", &["sport"]),
        ("sport/tennis/#", &["sport/tennis", "sport/tennis/player1"]),
        ("sport/tennis", &["sport/tennis"]),
        ("+/tennis/#", &["sport/tennis", "sport/tennis/player1"]),
        ("nothing/#", &[]),
    ] {
        assert_eq!(payloads(&broker, filter), expected, "{filter}");
    }
    let all = payloads(&broker, "#");
    assert!(all.iter().all(|topic| !topic.starts_with('$')), "[MQTT-4.7.2-1]: {all:?}");
    assert_eq!(all.len(), 5);
}

#[test]
fn retain_handling_decides_when_retained_messages_are_sent() {
    let broker = Broker::start();
    broker.client("publisher", V5).publish(retained("a", "x", QoS::AtLeastOnce));
    let with = |retain_handling| SubscribeOptions { retain_handling, ..at(QoS::AtLeastOnce) };
    let mut client = broker.client("subscriber", V5).acknowledging();
    // [MQTT-3.3.1-11]
    client.subscribe_with("a", with(RetainHandling::DoNotSend));
    client.expect_no_message();
    // [MQTT-3.3.1-10]: the subscription exists, so nothing.
    client.subscribe_with("a", with(RetainHandling::SendIfNew));
    client.expect_no_message();
    // [MQTT-3.3.1-9] [MQTT-3.8.4-4]
    for _ in 0..2 {
        client.subscribe_with("a", with(RetainHandling::Send));
        client.expect_message("a", "x");
    }
    client.unsubscribe(&["a"]);
    // [MQTT-3.3.1-10]: now it is new.
    client.subscribe_with("a", with(RetainHandling::SendIfNew));
    client.expect_message("a", "x");
}

#[test]
fn retain_handling_1_sends_nothing_for_a_subscription_of_a_resumed_session() {
    let broker = Broker::start();
    broker.client("publisher", V5).publish(retained("a", "x", QoS::AtLeastOnce));
    let options = SubscribeOptions { retain_handling: RetainHandling::SendIfNew, ..at(QoS::AtLeastOnce) };
    let (client, _) = broker.durable("resuming", V5);
    let mut client = client.acknowledging();
    client.subscribe_with("a", options);
    client.expect_message("a", "x");
    client.expect_no_message();
    client.disconnect();
    let (mut client, present) = broker.durable("resuming", V5);
    assert!(present);
    // [MQTT-3.3.1-10]
    client.subscribe_with("a", options);
    client.expect_no_message();
}

#[test]
fn a_repeated_subscribe_sends_retained_messages_again_in_v311() {
    let broker = Broker::start();
    let mut client = broker.client("subscriber", protocol::ProtocolVersion::V311).acknowledging();
    client.publish(retained("a", "x", QoS::AtLeastOnce));
    for _ in 0..2 {
        client.subscribe("a", QoS::AtLeastOnce);
        // [MQTT-3.8.4-3] (3.1.1)
        assert!(client.expect_message("a", "x").retain);
    }
}

#[test]
fn retain_as_published_keeps_the_flag_of_live_messages() {
    let broker = Broker::start();
    for keeps in [true, false] {
        let mut client = broker.client("subscriber", V5);
        client.subscribe_with("a", SubscribeOptions { retain_as_published: keeps, ..at(QoS::AtMostOnce) });
        let mut publisher = broker.client("publisher", V5);
        publisher.publish(retained("a", "retained", QoS::AtLeastOnce));
        publisher.publish_accepted("a", "plain");
        // [MQTT-3.3.1-12] [MQTT-3.3.1-13]
        assert_eq!(client.expect_message("a", "retained").retain, keeps);
        assert!(!client.expect_message("a", "plain").retain);
        publisher.publish(retained("a", "", QoS::AtLeastOnce));
        assert_eq!(client.expect_message("a", "").retain, keeps);
    }
}

#[test]
fn retained_messages_and_their_clearing_outlive_the_broker() {
    let mut broker = Broker::start();
    for version in BOTH {
        let mut publisher = broker.client("publisher", version);
        publisher.publish(retained("kept/1", "old", QoS::AtLeastOnce));
        publisher.publish(retained("kept/1", "one", QoS::AtLeastOnce));
        publisher.publish(retained("kept/2", "two", QoS::ExactlyOnce));
        publisher.publish(retained("kept/3", "three", QoS::AtLeastOnce));
        publisher.publish(retained("kept/3", "", QoS::AtLeastOnce));
        broker.crash_and_restart();
        assert_eq!(payloads(&broker, "kept/#"), ["one", "two"]);
    }
}

#[test]
fn a_retained_message_goes_when_it_expires() {
    let broker = Broker::start();
    let mut publish = retained("a", "short-lived", QoS::AtLeastOnce);
    publish.properties.message_expiry_interval_s = Some(1);
    let mut publisher = broker.client("publisher", V5);
    let sent = Instant::now();
    publisher.publish(publish);
    let early = payloads(&broker, "a");
    assert!(early == ["short-lived"] || sent.elapsed() > Duration::from_secs(1), "{early:?}");
    // Real time must pass: it is what is tested. [MQTT-3.3.2-5]
    std::thread::sleep(Duration::from_millis(2_100).saturating_sub(sent.elapsed()));
    assert_eq!(payloads(&broker, "a"), [""; 0]);
}

#[test]
fn a_retained_message_keeps_its_properties() {
    let broker = Broker::start();
    let mut publish = retained("a", "x", QoS::AtLeastOnce);
    publish.properties.content_type = Some("text/plain".into());
    publish.properties.user_properties = crate::raw_client::user_properties(&[("k", "1"), ("k", "2")]);
    broker.client("publisher", V5).publish(publish);
    let mut client = broker.client("subscriber", V5);
    client.subscribe("a", QoS::AtMostOnce);
    let got = client.expect_message("a", "x").properties;
    assert_eq!(got.content_type.as_deref(), Some("text/plain"));
    assert_eq!(got.user_properties[..2], crate::raw_client::user_properties(&[("k", "1"), ("k", "2")])[..]);
}

#[test]
fn retained_messages_are_sent_to_a_session_that_subscribes_and_goes() {
    let broker = Broker::start();
    broker.client("publisher", V5).publish(retained("a", "x", QoS::AtLeastOnce));
    let (mut client, _) = broker.durable("brief", V5);
    client.subscribe("a", QoS::AtLeastOnce);
    client.lose();
    let (client, _): (RawClient, bool) = broker.durable("brief", V5);
    let mut client = client.acknowledging();
    let got = client.expect_message("a", "x");
    assert!(got.retain, "it was sent because of the new subscription");
    client.publish(message("a", "live", QoS::AtLeastOnce));
    client.expect_message("a", "live");
}
