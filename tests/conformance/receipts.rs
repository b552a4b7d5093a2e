//! Receipts: what became of a message at each recipient (docs/protocol.md, receipts).

use std::time::{Duration, Instant};

use protocol::ProtocolVersion::{self, V5, V311};
use protocol::{Publish, QoS};
use serde_json::Value;

use crate::broker_process::Broker;
use crate::raw_client::{RawClient, message, property, user_properties};

fn asking(publish: Publish, wanted: &str) -> Publish {
    let mut publish = publish;
    publish.properties.user_properties.extend(user_properties(&[("im-receipt", wanted)]));
    publish
}

/// A sender that hears of its messages.
fn sender(broker: &Broker) -> RawClient {
    let mut sender = broker.client("sender", V5).acknowledging();
    sender.subscribe("$im/receipts", QoS::AtLeastOnce);
    sender
}

fn next_receipt(client: &mut RawClient) -> Value {
    let publish = client.receive_publish();
    assert_eq!(&*publish.topic, "$im/receipts");
    serde_json::from_slice(&publish.payload).unwrap_or_else(|e| panic!("{e}: {publish:?}"))
}

/// Checks the fields that name message, recipient and outcome.
fn expect_receipt(client: &mut RawClient, topic: &str, state: &str, recipient: &str) -> Value {
    let receipt = next_receipt(client);
    assert_eq!(receipt["topic"], topic, "{receipt}");
    assert_eq!(receipt["state"], state, "{receipt}");
    assert_eq!(receipt["client"], recipient, "{receipt}");
    assert_eq!(receipt["user"], format!("anon:{recipient}"), "{receipt}");
    assert!(receipt["at"].as_u64().is_some_and(|at| at > 1_700_000_000_000), "{receipt}");
    receipt
}

fn listener(broker: &Broker, client_id: &str, version: ProtocolVersion, filter: &str, qos: QoS) -> RawClient {
    let (mut client, _) = broker.durable(client_id, version);
    client.subscribe(filter, qos);
    client
}

#[test]
fn delivered_is_told_when_the_recipient_acknowledged_and_not_before() {
    let broker = Broker::start();
    for version in [V311, V5] {
        let mut sender = sender(&broker);
        let mut recipient = listener(&broker, "recipient", version, "im/a", QoS::AtLeastOnce);
        let ack =
            sender.publish(asking(message("im/a", "x", QoS::AtLeastOnce), "delivered")).expect("an ack");
        let its_id = recipient.expect_message("im/a", "x").packet_id.expect("an id");
        sender.expect_no_message();
        recipient.puback(its_id);
        let receipt = expect_receipt(&mut sender, "im/a", "delivered", "recipient");
        let acked = &ack.properties.user_properties;
        assert_eq!(receipt["seq"].as_u64().map(|seq| seq.to_string()).as_deref(), property(acked, "im-seq"));
        assert_eq!(receipt["id"].as_str(), property(acked, "im-id"));
        assert_eq!(receipt["qos"], 1);
        sender.expect_no_message();
    }
}

#[test]
fn delivered_at_qos_2_is_told_at_pubcomp() {
    let broker = Broker::start();
    let mut sender = sender(&broker);
    let mut recipient = listener(&broker, "recipient", V5, "im/a", QoS::ExactlyOnce);
    sender.publish(asking(message("im/a", "x", QoS::ExactlyOnce), "all"));
    let its_id = recipient.expect_message("im/a", "x").packet_id.expect("an id");
    recipient.pubrec(its_id);
    recipient.expect_pubrel(its_id);
    sender.expect_no_message();
    recipient.pubcomp(its_id);
    assert_eq!(expect_receipt(&mut sender, "im/a", "delivered", "recipient")["qos"], 2);
}

#[test]
fn delivered_at_qos_0_is_told_as_such() {
    let broker = Broker::start();
    let mut sender = sender(&broker);
    let mut recipient = listener(&broker, "recipient", V5, "im/a", QoS::AtMostOnce);
    sender.publish(asking(message("im/a", "x", QoS::AtLeastOnce), "delivered"));
    recipient.expect_message("im/a", "x");
    assert_eq!(expect_receipt(&mut sender, "im/a", "delivered", "recipient")["qos"], 0);
}

#[test]
fn each_recipient_has_its_own_receipt_and_the_sender_none() {
    let broker = Broker::start();
    let mut sender = sender(&broker);
    sender.subscribe("im/a", QoS::AtLeastOnce);
    let mut recipients: Vec<_> = ["one", "two", "three"]
        .iter()
        .map(|name| listener(&broker, name, V5, "im/a", QoS::AtLeastOnce).acknowledging())
        .collect();
    // Two matching subscriptions of one session are one recipient.
    recipients[0].subscribe("im/#", QoS::AtLeastOnce);
    sender.publish(asking(message("im/a", "x", QoS::AtLeastOnce), "delivered"));
    for recipient in &mut recipients {
        recipient.expect_message("im/a", "x");
        recipient.expect_no_message();
    }
    let messages = sender.messages_until_pong();
    let mut delivered: Vec<String> = messages
        .iter()
        .filter(|m| &*m.topic == "$im/receipts")
        .map(|m| serde_json::from_slice::<Value>(&m.payload).expect("JSON")["client"].to_string())
        .collect();
    delivered.sort();
    assert_eq!(delivered, ["\"one\"", "\"three\"", "\"two\""]);
}

#[test]
fn no_receipt_comes_without_asking() {
    let broker = Broker::start();
    let mut sender = sender(&broker);
    let mut recipient = listener(&broker, "recipient", V5, "im/a", QoS::AtLeastOnce).acknowledging();
    sender.publish_accepted("im/a", "x");
    recipient.expect_message("im/a", "x");
    recipient.make_durable();
    sender.expect_no_message();
}

#[test]
fn a_rule_can_ask_for_those_who_cannot() {
    let broker = Broker::start_configured("[[conversation]]\nfilter = \"im/#\"\nreceipts = \"all\"\n");
    let mut sender = broker.client("old-sender", V311).acknowledging();
    sender.subscribe("$im/receipts", QoS::AtLeastOnce);
    let mut recipient = listener(&broker, "recipient", V5, "im/a", QoS::AtLeastOnce).acknowledging();
    sender.publish_accepted("im/a", "x");
    recipient.expect_message("im/a", "x");
    expect_receipt(&mut sender, "im/a", "delivered", "recipient");
}

#[test]
fn commands_have_receipts_by_default() {
    let broker = Broker::start();
    let mut sender = sender(&broker);
    let mut truck = listener(&broker, "truck-7", V5, "dev/truck-7/cmd", QoS::AtLeastOnce).acknowledging();
    sender.publish_accepted("dev/truck-7/cmd", "{}");
    truck.expect_message("dev/truck-7/cmd", "{}");
    expect_receipt(&mut sender, "dev/truck-7/cmd", "delivered", "truck-7");
}

#[test]
fn expired_is_told_within_five_seconds() {
    let broker = Broker::start();
    let mut sender = sender(&broker);
    for topic in ["im/a", "plain/a"] {
        listener(&broker, "offline", V5, topic, QoS::AtLeastOnce).disconnect();
        let mut publish = message(topic, "x", QoS::AtLeastOnce);
        publish.properties.message_expiry_interval_s = Some(1);
        let sent = Instant::now();
        sender.publish(asking(publish, "delivered"));
        expect_receipt(&mut sender, topic, "expired", "offline");
        let after = sent.elapsed();
        assert!(after >= Duration::from_millis(950) && after < Duration::from_secs(6), "after {after:?}");
    }
}

#[test]
fn undeliverable_is_told_outside_conversations_only() {
    let broker = Broker::start();
    let mut sender = sender(&broker);
    sender.publish(asking(message("nobody/listens", "x", QoS::AtLeastOnce), "delivered"));
    let receipt = next_receipt(&mut sender);
    assert_eq!((&receipt["topic"], &receipt["state"]), (&"nobody/listens".into(), &"undeliverable".into()));
    sender.publish(asking(message("im/nobody", "x", QoS::AtLeastOnce), "delivered"));
    sender.expect_no_message();
}

#[test]
fn receipts_are_for_their_sender_alone() {
    let broker = Broker::start();
    let mut curious = broker.client("curious", V5);
    curious.subscribe("$im/receipts", QoS::AtLeastOnce);
    let mut sender = sender(&broker);
    sender.publish(asking(message("nobody/listens", "x", QoS::AtLeastOnce), "all"));
    next_receipt(&mut sender);
    curious.expect_no_message();
}

#[test]
fn receipts_wait_for_a_sender_that_is_offline_and_outlive_a_crash() {
    let mut broker = Broker::start();
    let mut recipient = listener(&broker, "recipient", V5, "im/a", QoS::AtLeastOnce);
    recipient.make_durable();
    recipient.disconnect();
    let (mut sender, _) = broker.durable("sender", V5);
    sender.subscribe("$im/receipts", QoS::AtLeastOnce);
    sender.publish(asking(message("im/a", "x", QoS::AtLeastOnce), "delivered"));
    sender.disconnect();
    // The request itself is durable ...
    broker.crash_and_restart();
    let (mut recipient, _) = broker.durable("recipient", V5);
    let its_id = recipient.expect_message("im/a", "x").packet_id.expect("an id");
    recipient.puback(its_id);
    recipient.make_durable();
    // ... and so is the receipt.
    broker.crash_and_restart();
    let (sender, present) = broker.durable("sender", V5);
    assert!(present);
    let mut sender = sender.acknowledging();
    expect_receipt(&mut sender, "im/a", "delivered", "recipient");
}

#[test]
fn a_bad_receipt_request_does_not_cost_the_message() {
    let broker = Broker::start();
    let mut sender = sender(&broker);
    let mut recipient = listener(&broker, "recipient", V5, "im/a", QoS::AtLeastOnce).acknowledging();
    sender.publish(asking(message("im/a", "x", QoS::AtLeastOnce), "everything, please"));
    recipient.expect_message("im/a", "x");
}
