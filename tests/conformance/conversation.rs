//! Conversations: numbered messages and the broker's own user properties (docs/protocol.md, conversations).

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use protocol::ProtocolVersion::{V5, V311};
use protocol::{Ack, Packet, Publish, QoS, UserProperties};

use crate::broker_process::Broker;
use crate::raw_client::{RawClient, connect_packet, id, message, property, user_properties, will};

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

fn number(properties: &UserProperties, name: &str) -> Option<u64> {
    property(properties, name).map(|value| value.parse().expect("a decimal number"))
}

fn seq_of(publish: &Publish) -> u64 {
    number(&publish.properties.user_properties, "im-seq").unwrap_or_else(|| panic!("no im-seq: {publish:?}"))
}

fn ack_seq(ack: &Ack) -> u64 {
    number(&ack.properties.user_properties, "im-seq").unwrap_or_else(|| panic!("no im-seq: {ack:?}"))
}

fn subscriber(broker: &Broker, filter: &str) -> RawClient {
    let mut client = broker.client("subscriber", V5).acknowledging();
    client.subscribe(filter, QoS::ExactlyOnce);
    client
}

fn with_properties(publish: Publish, pairs: &[(&str, &str)]) -> Publish {
    let mut publish = publish;
    publish.properties.user_properties = user_properties(pairs);
    publish
}

#[test]
fn messages_are_numbered_from_1_without_gaps_per_conversation() {
    let broker = Broker::start();
    let mut subscriber = subscriber(&broker, "#");
    let mut first = broker.client("first", V5);
    let mut second = broker.client("second", V5);
    let topics = ["im/dispatch", "im/room/a", "dev/truck-7/cmd"];
    for round in 1..=10 {
        for topic in topics {
            let publisher = if round % 2 == 0 { &mut first } else { &mut second };
            let qos = if round % 3 == 0 { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
            let ack = publisher.publish(message(topic, round.to_string(), qos)).expect("an ack");
            assert_eq!(ack_seq(&ack), round, "on the PUBACK or PUBREC of {topic}");
            assert_eq!(seq_of(&subscriber.expect_message(topic, round.to_string())), round, "{topic}");
        }
    }
}

#[test]
fn topics_outside_conversations_have_no_seq() {
    let broker = Broker::start();
    let mut subscriber = subscriber(&broker, "#");
    let mut publisher = broker.client("publisher", V5);
    for topic in ["im2/x", "dev/truck-7/cmd/result", "dev/truck-7/telemetry/gps", "dev/a/b/cmd", "x/im"] {
        let ack = publisher.publish(message(topic, "x", QoS::AtLeastOnce)).expect("an ack");
        assert_eq!(property(&ack.properties.user_properties, "im-seq"), None, "{topic}");
        let got = subscriber.expect_message(topic, "x");
        assert_eq!(property(&got.properties.user_properties, "im-seq"), None, "{topic}");
    }
}

#[test]
fn a_conversation_numbers_on_after_a_crash() {
    let mut broker = Broker::start();
    let (mut offline, _) = broker.durable("offline", V5);
    offline.subscribe("im/#", QoS::AtLeastOnce);
    offline.disconnect();
    let mut expected = 0;
    for _ in 0..3 {
        let mut publisher = broker.client("publisher", V5);
        for _ in 0..5 {
            expected += 1;
            let ack =
                publisher.publish(message("im/a", expected.to_string(), QoS::AtLeastOnce)).expect("an ack");
            assert_eq!(ack_seq(&ack), expected);
        }
        broker.crash_and_restart();
    }
    let (offline, _) = broker.durable("offline", V5);
    let mut offline = offline.acknowledging();
    for seq in 1..=expected {
        assert_eq!(seq_of(&offline.expect_message("im/a", seq.to_string())), seq);
    }
    offline.expect_no_message();
}

#[test]
fn nobody_needs_to_listen_for_a_message_to_be_numbered() {
    let broker = Broker::start();
    let mut publisher = broker.client("publisher", V5);
    for seq in 1..=3 {
        let ack = publisher.publish(message("im/alone", "x", QoS::AtLeastOnce)).expect("an ack");
        assert!(!ack.reason.is_failure(), "a conversation just stores it: {ack:?}");
        assert_eq!(ack_seq(&ack), seq);
    }
}

#[test]
fn qos_0_messages_are_numbered_too() {
    let broker = Broker::start();
    let mut subscriber = subscriber(&broker, "im/#");
    let mut publisher = broker.client("publisher", V5);
    for seq in 1..=6 {
        let qos = if seq % 2 == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        publisher.publish(message("im/a", seq.to_string(), qos));
        assert_eq!(seq_of(&subscriber.expect_message("im/a", seq.to_string())), seq);
    }
}

#[test]
fn v311_publishers_are_numbered_and_v311_subscribers_just_get_the_payload() {
    let broker = Broker::start();
    let mut subscriber = subscriber(&broker, "im/#");
    let mut old = broker.client("old-subscriber", V311).acknowledging();
    old.subscribe("im/#", QoS::AtLeastOnce);
    let mut publisher = broker.client("old-publisher", V311);
    for seq in 1..=5 {
        publisher.publish_accepted("im/a", seq.to_string());
        let got = subscriber.expect_message("im/a", seq.to_string());
        assert_eq!(seq_of(&got), seq);
        assert_eq!(property(&got.properties.user_properties, "im-from"), Some("anon:old-publisher"));
        old.expect_message("im/a", seq.to_string());
    }
}

#[test]
fn a_qos_2_publish_sent_again_keeps_its_seq() {
    let mut broker = Broker::start();
    let (mut publisher, _) = broker.durable("publisher", V5);
    let mut publish = message("im/a", "x", QoS::ExactlyOnce);
    publish.packet_id = Some(id(9));
    publisher.send(&Packet::Publish(publish.clone()));
    assert_eq!(ack_seq(&publisher.expect_pubrec(id(9))), 1);
    publish.dup = true;
    publisher.send(&Packet::Publish(publish.clone()));
    // "A repeated PUBREC carries the first one's im-seq", and packet-id rules come before dedup.
    let again = publisher.expect_pubrec(id(9));
    assert_eq!(ack_seq(&again), 1);
    assert_eq!(property(&again.properties.user_properties, "im-dup"), None);
    broker.crash_and_restart();
    let (mut publisher, present) = broker.durable("publisher", V5);
    assert!(present);
    publisher.send(&Packet::Publish(publish));
    assert_eq!(ack_seq(&publisher.expect_pubrec(id(9))), 1, "after a crash");
    publisher.pubrel(id(9));
    publisher.expect_pubcomp(id(9));
    let next = publisher.publish(message("im/a", "y", QoS::AtLeastOnce)).expect("an ack");
    assert_eq!(ack_seq(&next), 2);
}

#[test]
fn from_and_ts_are_set_on_every_topic() {
    let broker = Broker::start();
    let mut subscriber = subscriber(&broker, "#");
    let mut publisher = broker.client("truck-7", V5);
    for topic in ["im/a", "dev/truck-7/cmd", "anything/else"] {
        let before = unix_ms();
        publisher.publish_accepted(topic, "x");
        let after = unix_ms();
        let got = subscriber.expect_message(topic, "x").properties.into_inner().user_properties;
        assert_eq!(property(&got, "im-from"), Some("anon:truck-7"), "{topic}");
        let ts = number(&got, "im-ts").expect("im-ts");
        assert!((before..=after).contains(&ts), "{topic}: {ts} is not within {before} and {after}");
    }
}

#[test]
fn ts_never_decreases_within_a_conversation() {
    let mut broker = Broker::start();
    let (mut subscriber, _) = broker.durable("subscriber", V5);
    subscriber.subscribe("im/#", QoS::AtLeastOnce);
    subscriber.disconnect();
    for _ in 0..2 {
        let mut publisher = broker.client("publisher", V5);
        let ids: Vec<_> = (0..51)
            .map(|_| publisher.send_publish(message("im/a", "x", QoS::AtLeastOnce)).expect("an id"))
            .collect();
        for id in ids {
            publisher.expect_puback(id);
        }
        broker.crash_and_restart();
    }
    let (subscriber, _) = broker.durable("subscriber", V5);
    let mut subscriber = subscriber.acknowledging();
    let mut last = 0;
    for _ in 0..102 {
        let ts = number(&subscriber.receive_publish().properties.user_properties, "im-ts").expect("im-ts");
        assert!(ts >= last, "{ts} after {last}");
        last = ts;
    }
}

#[test]
fn the_senders_id_is_kept_and_a_missing_one_is_made() {
    let broker = Broker::start();
    let mut subscriber = subscriber(&broker, "im/#");
    let mut publisher = broker.client("publisher", V5);
    let named = with_properties(message("im/a", "named", QoS::AtLeastOnce), &[("im-id", "order-4711")]);
    let ack = publisher.publish(named).expect("an ack");
    assert_eq!(property(&ack.properties.user_properties, "im-id"), Some("order-4711"));
    let got = subscriber.expect_message("im/a", "named").properties.into_inner().user_properties;
    assert_eq!(property(&got, "im-id"), Some("order-4711"));
    assert_eq!(got.iter().filter(|(name, _)| name == "im-id").count(), 1, "{got:?}");

    let mut made = Vec::new();
    for _ in 0..2 {
        let ack = publisher.publish(message("im/a", "unnamed", QoS::AtLeastOnce)).expect("an ack");
        let id = property(&ack.properties.user_properties, "im-id").expect("the broker's id").to_owned();
        assert!((1..=64).contains(&id.chars().count()), "{id}");
        let got = subscriber.expect_message("im/a", "unnamed").properties.into_inner().user_properties;
        assert_eq!(property(&got, "im-id"), Some(&*id));
        made.push(id);
    }
    assert_ne!(made[0], made[1]);
}

#[test]
fn forged_properties_are_removed_and_others_stay_in_order() {
    let broker = Broker::start();
    let mut subscriber = subscriber(&broker, "#");
    let mut publisher = broker.client("forger", V5);
    let forged = [
        ("first", "1"),
        ("im-seq", "999"),
        ("im-from", "anon:victim"),
        ("second", "2"),
        ("im-ts", "0"),
        ("im-dup", "1"),
        ("im-gap", "5"),
        ("im-keepalive", "1"),
        ("im-from", "anon:victim"),
        ("first", "3"),
    ];
    for topic in ["im/a", "plain"] {
        publisher.publish(with_properties(message(topic, "x", QoS::AtLeastOnce), &forged));
        let got = subscriber.expect_message(topic, "x").properties.into_inner().user_properties;
        let mut count = BTreeMap::new();
        for (name, _) in &got {
            *count.entry(&**name).or_insert(0) += 1;
        }
        // The sender's come first, unaltered and in order; the broker's after them.
        let own = user_properties(&[("first", "1"), ("second", "2"), ("first", "3")]);
        assert_eq!(got[..3], own[..], "{topic}: {got:?}");
        assert_eq!((count.get("im-from"), count.get("im-ts")), (Some(&1), Some(&1)), "{topic}: {got:?}");
        assert_eq!(property(&got, "im-from"), Some("anon:forger"));
        assert_ne!(property(&got, "im-ts"), Some("0"));
        for name in ["im-dup", "im-gap", "im-keepalive"] {
            assert_eq!(property(&got, name), None, "{topic}");
        }
        let expected_seq = (topic == "im/a").then_some("1");
        assert_eq!(property(&got, "im-seq"), expected_seq, "{topic}");
    }
}

#[test]
fn forged_properties_are_removed_from_wills() {
    let broker = Broker::start();
    let mut subscriber = subscriber(&broker, "#");
    let mut connect = connect_packet("forger", V5);
    let mut the_will = will("im/gone", "x");
    the_will.properties.user_properties =
        user_properties(&[("im-seq", "77"), ("kept", "yes"), ("im-from", "anon:victim"), ("im-ts", "0")]);
    connect.will = Some(the_will);
    RawClient::connect_with(broker.address(), connect).0.lose();
    let got = subscriber.expect_message("im/gone", "x").properties.into_inner().user_properties;
    assert_eq!(got[0], ("kept".into(), "yes".into()));
    assert_eq!(property(&got, "im-from"), Some("anon:forger"));
    assert_eq!(property(&got, "im-seq"), Some("1"));
    assert_ne!(property(&got, "im-ts"), Some("0"));
}

#[test]
fn conversations_are_what_the_configuration_says() {
    let broker = Broker::start_configured("[[conversation]]\nfilter = \"room/+\"\n");
    let mut publisher = broker.client("publisher", V5);
    let ack = publisher.publish(message("room/1", "x", QoS::AtLeastOnce)).expect("an ack");
    assert_eq!(ack_seq(&ack), 1);
    let ack = publisher.publish(message("im/a", "x", QoS::AtLeastOnce)).expect("an ack");
    assert_eq!(property(&ack.properties.user_properties, "im-seq"), None, "the default rules are replaced");
}
