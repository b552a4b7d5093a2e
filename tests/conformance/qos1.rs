//! At least once: PUBLISH and PUBACK, both directions.

use protocol::ProtocolVersion::V5;
use protocol::{Packet, QoS, ReasonCode};

use crate::broker_process::Broker;
use crate::raw_client::{BOTH, RawClient, connect_packet, id, message};

#[test]
fn puback_carries_the_packet_id_of_the_publish() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client("publisher", version);
        for number in [1, 2, 255, 256, 65_535] {
            let mut publish = message("a", "x", QoS::AtLeastOnce);
            publish.packet_id = Some(id(number));
            client.send(&Packet::Publish(publish));
            // [MQTT-4.3.2-4] [MQTT-2.2.1-5]
            client.expect_puback(id(number));
        }
    }
}

#[test]
fn puback_says_whether_anybody_was_subscribed() {
    let broker = Broker::start();
    let mut client = broker.client("publisher", V5);
    let ack = client.publish(message("a/b", "x", QoS::AtLeastOnce)).expect("an ack");
    // Section 3.4.2.1: 0x10 may be sent by a server that knows it.
    assert_eq!(ack.reason, ReasonCode::NoMatchingSubscribers);
    client.subscribe("a/+", QoS::AtMostOnce);
    let ack = client.publish(message("a/b", "x", QoS::AtLeastOnce)).expect("an ack");
    assert_eq!(ack.reason, ReasonCode::Success);
}

#[test]
fn a_packet_id_can_be_used_again_after_its_puback() {
    let broker = Broker::start();
    for version in BOTH {
        let mut subscriber = broker.client("subscriber", version).acknowledging();
        subscriber.subscribe("a", QoS::AtLeastOnce);
        let mut client = broker.client("publisher", version);
        for n in 0..3 {
            let mut publish = message("a", n.to_string(), QoS::AtLeastOnce);
            publish.packet_id = Some(id(7));
            client.send(&Packet::Publish(publish));
            client.expect_puback(id(7));
            // [MQTT-4.3.2-5]: a new message each time.
            subscriber.expect_message("a", n.to_string());
        }
    }
}

#[test]
fn a_publish_with_dup_is_taken_and_forwarded_without_it() {
    let broker = Broker::start();
    for version in BOTH {
        let mut subscriber = broker.client("subscriber", version);
        subscriber.subscribe("a", QoS::AtLeastOnce);
        let mut publish = message("a", "again", QoS::AtLeastOnce);
        publish.dup = true;
        broker.client("publisher", version).publish(publish);
        // [MQTT-3.3.1-3]
        assert!(!subscriber.expect_message("a", "again").dup);
    }
}

#[test]
fn an_unacknowledged_message_comes_again_with_dup_and_its_packet_id_after_a_reconnect() {
    let broker = Broker::start();
    for version in BOTH {
        let (mut client, _) = broker.durable("forgetful", version);
        client.subscribe("a", QoS::AtLeastOnce);
        let mut publisher = broker.client("publisher", version);
        for n in 0..5 {
            publisher.publish_accepted("a", n.to_string());
        }
        let first: Vec<_> = (0..5).map(|n| client.expect_message("a", n.to_string())).collect();
        // Acknowledges the second and the fourth.
        client.puback(first[1].packet_id.expect("an id"));
        client.puback(first[3].packet_id.expect("an id"));
        client.lose();
        let (mut client, present) = broker.durable("forgetful", version);
        assert!(present);
        for n in [0, 2, 4] {
            // [MQTT-4.4.0-1] [MQTT-3.3.1-1], in the order sent first [MQTT-4.6.0-1] (3.1.1)
            let again = client.expect_message("a", n.to_string());
            assert_eq!((again.packet_id, again.dup), (first[n].packet_id, true), "message {n}");
            client.puback(again.packet_id.expect("an id"));
        }
        client.expect_no_message();
        client.disconnect();
        // [MQTT-4.3.2-3]: once acknowledged they are done.
        let (mut client, _) = broker.durable("forgetful", version);
        client.expect_no_message();
        RawClient::connect_with(broker.address(), connect_packet("forgetful", version)).0.disconnect();
    }
}

#[test]
fn an_unacknowledged_message_does_not_come_again_on_the_same_connection() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client("slow", version);
        client.subscribe("a", QoS::AtLeastOnce);
        client.publish_accepted("a", "once");
        client.expect_message("a", "once");
        // [MQTT-4.4.0-1]: a reconnect is the only occasion. Real time must pass: a resend timer is what is excluded.
        std::thread::sleep(std::time::Duration::from_millis(1_500));
        client.expect_no_message();
    }
}

#[test]
fn an_unacknowledged_message_survives_a_crash_of_the_broker() {
    let mut broker = Broker::start();
    for version in BOTH {
        let (mut client, _) = broker.durable("forgetful", version);
        client.subscribe("a", QoS::AtLeastOnce);
        client.publish_accepted("a", "unacknowledged");
        client.expect_message("a", "unacknowledged");
        broker.crash_and_restart();
        let (mut client, present) = broker.durable("forgetful", version);
        assert!(present);
        let again = client.expect_message("a", "unacknowledged");
        client.puback(again.packet_id.expect("an id"));
        client.expect_no_message();
        RawClient::connect_with(broker.address(), connect_packet("forgetful", version)).0.disconnect();
    }
}

#[test]
fn a_refusing_puback_ends_the_message() {
    let broker = Broker::start();
    let (mut client, _) = broker.durable("refusing", V5);
    client.subscribe("a", QoS::AtLeastOnce);
    client.publish_accepted("a", "refused");
    let got = client.expect_message("a", "refused");
    let refusal = protocol::Ack::new(got.packet_id.expect("an id"), ReasonCode::ImplementationSpecificError);
    client.send(&Packet::PubAck(refusal));
    client.disconnect();
    // [MQTT-4.4.0-2]: treated as acknowledged.
    let (mut client, _) = broker.durable("refusing", V5);
    client.expect_no_message();
}

#[test]
fn a_puback_of_an_unknown_packet_id_disturbs_nothing() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client("confused", version);
        client.subscribe("a", QoS::AtLeastOnce);
        client.puback(id(4_711));
        client.publish_accepted("a", "x");
        client.expect_message("a", "x");
    }
}

#[test]
fn pubacks_come_in_the_order_of_the_publishes() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client("burst", version);
        let ids: Vec<_> = (0..200)
            .map(|n: u32| {
                let topic = if n.is_multiple_of(3) { "im/burst" } else { "burst" };
                client.send_publish(message(topic, n.to_string(), QoS::AtLeastOnce)).expect("an id")
            })
            .collect();
        for id in ids {
            // [MQTT-4.6.0-2]
            client.expect_puback(id);
        }
    }
}

#[test]
fn messages_of_one_publisher_keep_their_order_per_topic() {
    let broker = Broker::start();
    for version in BOTH {
        let mut subscriber = broker.client("subscriber", version).acknowledging();
        subscriber.subscribe("order/#", QoS::AtLeastOnce);
        let mut publisher = broker.client("publisher", version);
        for n in 0..300 {
            publisher.send_publish(message(&format!("order/{}", n % 2), n.to_string(), QoS::AtLeastOnce));
        }
        for n in 0..300 {
            // [MQTT-4.6.0-5]; with one connection to read from also across topics.
            subscriber.expect_message(&format!("order/{}", n % 2), n.to_string());
        }
    }
}

#[test]
fn packet_ids_of_both_directions_are_independent() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client("echo", version);
        client.subscribe("a", QoS::AtLeastOnce);
        let mut publish = message("a", "x", QoS::AtLeastOnce);
        publish.packet_id = Some(id(1));
        client.send(&Packet::Publish(publish.clone()));
        client.expect_puback(id(1));
        let got = client.expect_message("a", "x").packet_id.expect("an id");
        // The broker's id is still open while the client uses the same number.
        publish.packet_id = Some(got);
        client.send(&Packet::Publish(publish));
        client.expect_puback(got);
        let second = client.expect_message("a", "x").packet_id.expect("an id");
        // [MQTT-2.2.1-4]
        assert_ne!(second, got, "the first is not acknowledged yet");
    }
}
