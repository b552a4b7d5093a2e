//! Exactly once: PUBLISH, PUBREC, PUBREL, PUBCOMP, both directions.

use protocol::ProtocolVersion::{self, V5};
use protocol::{Ack, Packet, Publish, QoS, ReasonCode};

use crate::broker_process::Broker;
use crate::raw_client::{BOTH, RawClient, connect_packet, id, message};

fn under_id(number: u16, topic: &str, payload: &str) -> Publish {
    Publish { packet_id: Some(id(number)), ..message(topic, payload, QoS::ExactlyOnce) }
}

fn forget(broker: &Broker, client_id: &str, version: ProtocolVersion) {
    RawClient::connect_with(broker.address(), connect_packet(client_id, version)).0.disconnect();
}

#[test]
fn the_four_steps_carry_one_packet_id_each_way() {
    let broker = Broker::start();
    for version in BOTH {
        let mut subscriber = broker.client("subscriber", version);
        subscriber.subscribe("a", QoS::ExactlyOnce);
        let mut publisher = broker.client("publisher", version);
        publisher.send(&Packet::Publish(under_id(77, "a", "x")));
        // [MQTT-4.3.3-8] [MQTT-4.3.3-11] [MQTT-2.2.1-5]
        assert_eq!(publisher.expect_pubrec(id(77)).reason, ReasonCode::Success);
        publisher.pubrel(id(77));
        assert_eq!(publisher.expect_pubcomp(id(77)).reason, ReasonCode::Success);
        let got = subscriber.expect_message("a", "x");
        assert_eq!((got.qos, got.dup), (QoS::ExactlyOnce, false), "[MQTT-4.3.3-2]");
        let its_id = got.packet_id.expect("an id");
        subscriber.pubrec(its_id);
        // [MQTT-4.3.3-4]
        subscriber.expect_pubrel(its_id);
        subscriber.pubcomp(its_id);
        subscriber.expect_no_message();
    }
}

#[test]
fn a_publish_sent_again_before_pubrel_is_acknowledged_and_delivered_once() {
    let broker = Broker::start();
    for version in BOTH {
        let mut subscriber = broker.client("subscriber", version).acknowledging();
        subscriber.subscribe("a", QoS::ExactlyOnce);
        let mut publisher = broker.client("publisher", version);
        publisher.send(&Packet::Publish(under_id(5, "a", "once")));
        publisher.expect_pubrec(id(5));
        for _ in 0..3 {
            // [MQTT-4.3.3-10]
            publisher.send(&Packet::Publish(Publish { dup: true, ..under_id(5, "a", "once") }));
            publisher.expect_pubrec(id(5));
        }
        publisher.pubrel(id(5));
        publisher.expect_pubcomp(id(5));
        subscriber.expect_message("a", "once");
        subscriber.expect_no_message();
        // [MQTT-4.3.3-12]: from here the id stands for a new message.
        publisher.send(&Packet::Publish(under_id(5, "a", "twice")));
        publisher.expect_pubrec(id(5));
        subscriber.expect_message("a", "twice");
    }
}

#[test]
fn a_publish_sent_again_after_a_reconnect_is_delivered_once() {
    let broker = Broker::start();
    for version in BOTH {
        let mut subscriber = broker.client("subscriber", version).acknowledging();
        subscriber.subscribe("a", QoS::ExactlyOnce);
        let (mut publisher, _) = broker.durable("publisher", version);
        publisher.send(&Packet::Publish(under_id(5, "a", "once")));
        publisher.expect_pubrec(id(5));
        publisher.lose();
        let (mut publisher, present) = broker.durable("publisher", version);
        assert!(present);
        publisher.send(&Packet::Publish(Publish { dup: true, ..under_id(5, "a", "once") }));
        publisher.expect_pubrec(id(5));
        publisher.pubrel(id(5));
        publisher.expect_pubcomp(id(5));
        subscriber.expect_message("a", "once");
        subscriber.expect_no_message();
        publisher.disconnect();
        forget(&broker, "publisher", version);
    }
}

#[test]
fn a_publish_sent_again_after_a_crash_of_the_broker_is_delivered_once() {
    let mut broker = Broker::start();
    for version in BOTH {
        let (mut subscriber, _) = broker.durable("subscriber", version);
        subscriber.subscribe("a", QoS::ExactlyOnce);
        subscriber.disconnect();
        let (mut publisher, _) = broker.durable("publisher", version);
        publisher.send(&Packet::Publish(under_id(5, "a", "once")));
        publisher.expect_pubrec(id(5));
        broker.crash_and_restart();
        let (mut publisher, present) = broker.durable("publisher", version);
        assert!(present);
        publisher.send(&Packet::Publish(Publish { dup: true, ..under_id(5, "a", "once") }));
        publisher.expect_pubrec(id(5));
        broker.crash_and_restart();
        let (mut publisher, _) = broker.durable("publisher", version);
        publisher.pubrel(id(5));
        publisher.expect_pubcomp(id(5));
        let (subscriber, _) = broker.durable("subscriber", version);
        let mut subscriber = subscriber.acknowledging();
        subscriber.expect_message("a", "once");
        subscriber.expect_no_message();
        publisher.disconnect();
        forget(&broker, "publisher", version);
        forget(&broker, "subscriber", version);
    }
}

#[test]
fn a_packet_id_released_before_a_crash_stands_for_a_new_message_after_it() {
    let mut broker = Broker::start();
    for version in BOTH {
        let (mut subscriber, _) = broker.durable("subscriber", version);
        subscriber.subscribe("a", QoS::ExactlyOnce);
        subscriber.disconnect();
        let (mut publisher, _) = broker.durable("publisher", version);
        publisher.publish(under_id(5, "a", "first"));
        broker.crash_and_restart();
        let (mut publisher, _) = broker.durable("publisher", version);
        // [MQTT-4.3.3-12]: PUBCOMP was received, so this is no repetition.
        publisher.publish(under_id(5, "a", "second"));
        let (subscriber, _) = broker.durable("subscriber", version);
        let mut subscriber = subscriber.acknowledging();
        subscriber.expect_message("a", "first");
        subscriber.expect_message("a", "second");
        publisher.disconnect();
        forget(&broker, "publisher", version);
        forget(&broker, "subscriber", version);
    }
}

#[test]
fn a_pubrel_sent_again_is_completed_again() {
    let broker = Broker::start();
    for version in BOTH {
        let mut publisher = broker.client("publisher", version);
        publisher.publish(under_id(5, "a", "x"));
        publisher.pubrel(id(5));
        let again = publisher.expect_pubcomp(id(5));
        if version == V5 {
            // Section 3.7.2.1: not an error during recovery, but a mismatch otherwise.
            assert_eq!(again.reason, ReasonCode::PacketIdentifierNotFound);
        }
        publisher.expect_no_message();
    }
}

#[test]
fn a_message_without_pubrec_comes_again_as_publish_after_a_reconnect() {
    let broker = Broker::start();
    for version in BOTH {
        let (mut client, _) = broker.durable("slow", version);
        client.subscribe("a", QoS::ExactlyOnce);
        broker.client("publisher", version).publish(message("a", "x", QoS::ExactlyOnce));
        let first = client.expect_message("a", "x");
        client.lose();
        let (mut client, _) = broker.durable("slow", version);
        let again = client.expect_message("a", "x");
        // [MQTT-4.4.0-1] [MQTT-3.3.1-1]
        assert_eq!((again.packet_id, again.dup), (first.packet_id, true));
        let its_id = again.packet_id.expect("an id");
        client.pubrec(its_id);
        client.expect_pubrel(its_id);
        client.pubcomp(its_id);
        client.disconnect();
        forget(&broker, "slow", version);
    }
}

#[test]
fn after_pubrec_only_pubrel_comes_again_after_a_reconnect() {
    let broker = Broker::start();
    for version in BOTH {
        let (mut client, _) = broker.durable("slow", version);
        client.subscribe("a", QoS::ExactlyOnce);
        broker.client("publisher", version).publish(message("a", "x", QoS::ExactlyOnce));
        let its_id = client.expect_message("a", "x").packet_id.expect("an id");
        client.pubrec(its_id);
        client.expect_pubrel(its_id);
        client.lose();
        let (mut client, _) = broker.durable("slow", version);
        // [MQTT-4.4.0-1]; the message itself must not come [MQTT-4.3.3-6].
        let first = client.receive();
        assert_eq!(first, Packet::PubRel(Ack::new(its_id, ReasonCode::Success)));
        client.pubcomp(its_id);
        client.expect_no_message();
        client.disconnect();
        let (mut client, _) = broker.durable("slow", version);
        client.expect_no_message();
        client.disconnect();
        forget(&broker, "slow", version);
    }
}

#[test]
fn a_delivery_between_pubrec_and_pubcomp_survives_a_crash_without_a_second_message() {
    let mut broker = Broker::start();
    for version in BOTH {
        let (mut client, _) = broker.durable("slow", version);
        client.subscribe("a", QoS::ExactlyOnce);
        broker.client("publisher", version).publish(message("a", "once", QoS::ExactlyOnce));
        let its_id = client.expect_message("a", "once").packet_id.expect("an id");
        client.pubrec(its_id);
        client.expect_pubrel(its_id);
        broker.crash_and_restart();
        let (mut client, present) = broker.durable("slow", version);
        assert!(present);
        // [MQTT-4.3.3-6]: PUBREL was seen, so PUBLISH must not come again.
        client.expect_pubrel(its_id);
        client.pubcomp(its_id);
        client.expect_no_message();
        client.disconnect();
        forget(&broker, "slow", version);
    }
}

#[test]
fn a_pubrec_sent_again_is_answered_with_pubrel_again() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client("slow", version);
        client.subscribe("a", QoS::ExactlyOnce);
        broker.client("publisher", version).publish(message("a", "x", QoS::ExactlyOnce));
        let its_id = client.expect_message("a", "x").packet_id.expect("an id");
        for _ in 0..2 {
            client.pubrec(its_id);
            client.expect_pubrel(its_id);
        }
        client.pubcomp(its_id);
        client.expect_no_message();
    }
}

#[test]
fn a_refusing_pubrec_ends_the_message() {
    let broker = Broker::start();
    let (mut client, _) = broker.durable("refusing", V5);
    client.subscribe("a", QoS::ExactlyOnce);
    broker.client("publisher", V5).publish(message("a", "refused", QoS::ExactlyOnce));
    let its_id = client.expect_message("a", "refused").packet_id.expect("an id");
    client.send(&Packet::PubRec(Ack::new(its_id, ReasonCode::UnspecifiedError)));
    // [MQTT-4.3.3-4]: PUBREL follows a PUBREC below 0x80 only; [MQTT-4.4.0-2]: nothing is sent again.
    client.send(&Packet::PingReq);
    assert_eq!(client.receive(), Packet::PingResp);
    client.disconnect();
    let (mut client, _) = broker.durable("refusing", V5);
    client.send(&Packet::PingReq);
    assert_eq!(client.receive(), Packet::PingResp);
}

#[test]
fn a_pubrec_of_an_unknown_packet_id_is_answered() {
    let broker = Broker::start();
    let mut client = broker.client("confused", V5);
    client.pubrec(id(4_711));
    // Section 3.6.2.1
    assert_eq!(client.expect_pubrel(id(4_711)).reason, ReasonCode::PacketIdentifierNotFound);
}

#[test]
fn pubrecs_and_messages_keep_the_order_of_the_publishes() {
    let broker = Broker::start();
    for version in BOTH {
        let mut subscriber = broker.client("subscriber", version).acknowledging();
        subscriber.subscribe("a", QoS::ExactlyOnce);
        let mut publisher = broker.client("publisher", version);
        let ids: Vec<_> = (0..100)
            .map(|n| publisher.send_publish(message("a", n.to_string(), QoS::ExactlyOnce)).expect("an id"))
            .collect();
        for id in &ids {
            // [MQTT-4.6.0-3]
            publisher.expect_pubrec(*id);
            publisher.pubrel(*id);
        }
        for id in &ids {
            publisher.expect_pubcomp(*id);
        }
        for n in 0..100 {
            // [MQTT-4.6.0-5]
            subscriber.expect_message("a", n.to_string());
        }
        subscriber.expect_no_message();
    }
}

#[test]
fn a_clean_start_forgets_packet_ids_of_open_flows() {
    let broker = Broker::start();
    for version in BOTH {
        let mut subscriber = broker.client("subscriber", version).acknowledging();
        subscriber.subscribe("a", QoS::ExactlyOnce);
        let mut publisher = broker.client("publisher", version);
        publisher.send(&Packet::Publish(under_id(5, "a", "first")));
        publisher.expect_pubrec(id(5));
        publisher.lose();
        let mut publisher = broker.client("publisher", version);
        // [MQTT-3.1.2-4]: the old session is gone, so is its open id; the first message is not, because PUBREC
        // means accepted (docs/protocol.md).
        publisher.publish(under_id(5, "a", "second"));
        subscriber.expect_message("a", "first");
        subscriber.expect_message("a", "second");
    }
}
