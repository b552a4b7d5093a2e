//! `kill -9`: what was acknowledged before it is there after it, in order.

use protocol::ProtocolVersion::{self, V5, V311};
use protocol::{Packet, QoS};

use super::resuming_publisher::ResumingPublisher;
use crate::broker_process::{Broker, Build};
use crate::raw_client::RawClient;

const MESSAGES: u32 = 10_000;
const TOPIC: &str = "dev/truck-7/telemetry/gps";

fn offline_subscriber(broker: &Broker, version: ProtocolVersion, qos: QoS) {
    let (mut subscriber, present) = broker.durable("subscriber", version);
    assert!(!present);
    subscriber.subscribe("dev/+/telemetry/#", qos);
    subscriber.disconnect();
}

/// Reads the numbers that the subscriber's session holds, acknowledging each.
fn drain(broker: &Broker, version: ProtocolVersion, up_to: u32) -> (Vec<u32>, RawClient) {
    let (subscriber, present) = broker.durable("subscriber", version);
    assert!(present, "the session must have survived");
    let mut subscriber = subscriber.acknowledging();
    let mut numbers = Vec::new();
    while numbers.last() != Some(&(up_to - 1)) {
        let publish = subscriber.receive_publish();
        let text = std::str::from_utf8(&publish.payload).expect("a number");
        numbers.push(text.parse().expect("a number"));
    }
    (numbers, subscriber)
}

fn ten_thousand_survive_a_kill_after_the_last_ack(version: ProtocolVersion) {
    let mut broker = Broker::start_with(Build::Release, None);
    offline_subscriber(&broker, version, QoS::AtLeastOnce);
    let mut publisher = ResumingPublisher::new("publisher", version, TOPIC, QoS::AtLeastOnce);
    let connection = publisher.run(broker.address(), MESSAGES, MESSAGES);
    broker.kill();
    assert_eq!(publisher.acknowledged(), MESSAGES);
    drop(connection);
    broker.restart();
    let (numbers, mut subscriber) = drain(&broker, version, MESSAGES);
    assert_eq!(numbers.len(), MESSAGES as usize);
    assert!(numbers.iter().copied().eq(0..MESSAGES), "every message once and in order");
    subscriber.expect_no_message();
    // And they are done: a further crash brings none of them back.
    subscriber.make_durable();
    broker.crash_and_restart();
    let (mut subscriber, present) = broker.durable("subscriber", version);
    assert!(present);
    subscriber.expect_no_message();
}

#[test]
fn ten_thousand_messages_survive_a_kill_at_the_last_puback_in_v311() {
    ten_thousand_survive_a_kill_after_the_last_ack(V311);
}

#[test]
fn ten_thousand_messages_survive_a_kill_at_the_last_puback_in_v5() {
    ten_thousand_survive_a_kill_after_the_last_ack(V5);
}

/// Publishes through several kills in mid-stream; the publisher resumes each time.
fn published_through_kills(version: ProtocolVersion, qos: QoS) -> Vec<u32> {
    let mut broker = Broker::start_with(Build::Release, None);
    offline_subscriber(&broker, version, qos);
    let mut publisher = ResumingPublisher::new("publisher", version, TOPIC, qos);
    let mut chance = fastrand::Rng::with_seed(7);
    let mut kill_at = 0;
    for _ in 0..6 {
        kill_at += chance.u32(100..1_600);
        let connection = publisher.run(broker.address(), MESSAGES, kill_at);
        broker.kill();
        publisher.take_the_rest(connection);
        let acknowledged = publisher.acknowledged();
        assert!((kill_at..MESSAGES).contains(&acknowledged), "{acknowledged} when killed at {kill_at}");
        broker.restart();
    }
    publisher.run(broker.address(), MESSAGES, u32::MAX).disconnect();
    assert!(publisher.acknowledged() >= MESSAGES, "all acknowledged in the end");
    broker.crash_and_restart();
    let (numbers, mut subscriber) = drain(&broker, version, MESSAGES);
    subscriber.expect_no_message();
    numbers
}

#[test]
fn every_acknowledged_qos_1_message_survives_kills_in_mid_stream_in_order() {
    for version in [V311, V5] {
        let numbers = published_through_kills(version, QoS::AtLeastOnce);
        // A message whose ack died with the broker was sent again: it may be there twice, but the first of each
        // come in order [MQTT-4.6.0-5] and none is missing.
        let mut expected = 0;
        for number in numbers {
            assert!(number <= expected, "{expected} is missing before {number}");
            expected = expected.max(number + 1);
        }
        assert_eq!(expected, MESSAGES);
    }
}

#[test]
fn every_qos_2_message_survives_kills_in_mid_stream_once_and_in_order() {
    for version in [V311, V5] {
        let numbers = published_through_kills(version, QoS::ExactlyOnce);
        let repeated: Vec<_> = numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1).collect();
        assert!(repeated.is_empty(), "jumps or repetitions: {repeated:?}");
        assert_eq!(numbers.len(), MESSAGES as usize);
    }
}

#[test]
fn a_subscriber_killed_off_in_mid_stream_gets_the_rest_and_nothing_twice_at_qos_2() {
    let mut broker = Broker::start_with(Build::Release, None);
    offline_subscriber(&broker, V5, QoS::ExactlyOnce);
    let count = 2_000;
    let mut publisher = ResumingPublisher::new("publisher", V5, TOPIC, QoS::ExactlyOnce);
    publisher.run(broker.address(), count, u32::MAX).disconnect();
    let mut chance = fastrand::Rng::with_seed(11);
    // What a client must keep for QoS 2: the ids it has seen a PUBLISH of and no PUBREL yet [MQTT-4.3.3-10].
    let mut open = std::collections::BTreeSet::new();
    let mut numbers: Vec<u32> = Vec::new();
    while numbers.len() < count as usize {
        let until = (numbers.len() + chance.usize(50..500)).min(count as usize);
        let (mut subscriber, present) = broker.durable("subscriber", V5);
        assert!(present);
        while numbers.len() < until {
            match subscriber.receive() {
                Packet::Publish(publish) => {
                    let its_id = publish.packet_id.expect("an id");
                    if open.insert(its_id) {
                        let text = std::str::from_utf8(&publish.payload).expect("a number");
                        numbers.push(text.parse().expect("a number"));
                    }
                    subscriber.pubrec(its_id);
                }
                Packet::PubRel(ack) => {
                    open.remove(&ack.packet_id);
                    subscriber.pubcomp(ack.packet_id);
                }
                other => panic!("an unexpected {other:?}"),
            }
        }
        broker.crash_and_restart();
    }
    assert!(numbers.iter().copied().eq(0..count), "every message once and in order");
}
