//! What MQTT 5.0 adds to subscriptions: No Local, Subscription Identifiers, shared subscriptions.

use std::collections::BTreeSet;

use protocol::ProtocolVersion::V5;
use protocol::{QoS, ReasonCode, SubscribeOptions};

use crate::broker_process::Broker;
use crate::raw_client::{RawClient, at, connect_packet, message, retained};

#[test]
fn no_local_leaves_out_the_clients_own_messages() {
    let broker = Broker::start();
    let mut client = broker.client("self", V5);
    client.subscribe_with("a", SubscribeOptions { no_local: true, ..at(QoS::AtLeastOnce) });
    client.publish_accepted("a", "own");
    // [MQTT-3.8.3-3]
    client.expect_no_message();
    broker.client("other", V5).publish_accepted("a", "foreign");
    client.expect_message("a", "foreign");
}

#[test]
fn a_second_subscription_without_no_local_gives_own_messages() {
    let broker = Broker::start();
    let mut client = broker.client("self", V5);
    client.subscribe_with("a/#", SubscribeOptions { no_local: true, ..at(QoS::AtLeastOnce) });
    client.subscribe("a/b", QoS::AtMostOnce);
    client.publish_accepted("a/b", "own");
    assert_eq!(client.expect_message("a/b", "own").qos, QoS::AtMostOnce, "only a/b forwards it");
    client.expect_no_message();
}

#[test]
fn the_subscription_identifier_comes_with_the_message() {
    let broker = Broker::start();
    let mut client = broker.client("subscriber", V5);
    for (filter, identifier) in [("a", 1), ("b", 268_435_455)] {
        client.subscribe_raw(&[(filter, at(QoS::AtMostOnce))], Some(identifier));
        client.publish_accepted(filter, "x");
        // [MQTT-3.3.4-3]
        assert_eq!(client.expect_message(filter, "x").properties.subscription_identifiers, [identifier]);
    }
    client.subscribe("c", QoS::AtMostOnce);
    client.publish_accepted("c", "x");
    assert!(client.expect_message("c", "x").properties.subscription_identifiers.is_empty());
}

#[test]
fn overlapping_subscriptions_give_all_their_identifiers() {
    let broker = Broker::start();
    let mut client = broker.client("subscriber", V5);
    client.subscribe_raw(&[("a/#", at(QoS::AtMostOnce))], Some(7));
    client.subscribe_raw(&[("a/+", at(QoS::AtMostOnce))], Some(8));
    client.subscribe("a/b", QoS::AtMostOnce);
    client.publish_accepted("a/b", "x");
    // [MQTT-3.3.4-4]
    let got: BTreeSet<u32> = client
        .expect_message("a/b", "x")
        .properties
        .into_inner()
        .subscription_identifiers
        .into_iter()
        .collect();
    assert_eq!(got, BTreeSet::from([7, 8]));
    client.expect_no_message();
}

#[test]
fn a_repeated_subscribe_replaces_the_identifier() {
    let broker = Broker::start();
    let mut client = broker.client("subscriber", V5);
    client.subscribe_raw(&[("a", at(QoS::AtMostOnce))], Some(1));
    client.subscribe_raw(&[("a", at(QoS::AtMostOnce))], Some(2));
    client.publish_accepted("a", "x");
    // [MQTT-3.8.4-3]
    assert_eq!(client.expect_message("a", "x").properties.subscription_identifiers, [2]);
    client.subscribe_raw(&[("a", at(QoS::AtMostOnce))], None);
    client.publish_accepted("a", "y");
    assert!(client.expect_message("a", "y").properties.subscription_identifiers.is_empty());
}

#[test]
fn retained_messages_carry_the_identifier_of_the_new_subscription() {
    let broker = Broker::start();
    let mut client = broker.client("subscriber", V5);
    client.publish(retained("a", "x", QoS::AtLeastOnce));
    client.subscribe_raw(&[("a", at(QoS::AtMostOnce))], Some(5));
    // [MQTT-3.3.4-3]
    assert_eq!(client.expect_message("a", "x").properties.subscription_identifiers, [5]);
}

#[test]
fn identifiers_outlive_the_connection_and_the_broker() {
    let mut broker = Broker::start();
    let (mut client, _) = broker.durable("subscriber", V5);
    client.subscribe_raw(&[("a", at(QoS::AtLeastOnce))], Some(9));
    client.disconnect();
    broker.client("publisher", V5).publish_accepted("a", "before");
    broker.crash_and_restart();
    broker.client("publisher", V5).publish_accepted("a", "after");
    let (client, _) = broker.durable("subscriber", V5);
    let mut client = client.acknowledging();
    for payload in ["before", "after"] {
        assert_eq!(client.expect_message("a", payload).properties.subscription_identifiers, [9]);
    }
}

#[test]
fn a_shared_subscription_gives_each_message_to_one_member() {
    let broker = Broker::start();
    let (mut first, ack) = RawClient::connect_with(broker.address(), connect_packet("first", V5));
    let answer = first.subscribe_raw(&[("$share/g/a", at(QoS::AtMostOnce))], None);
    assert_ne!(ack.properties.shared_subscription_available, Some(false));
    assert_eq!(answer.reasons, [ReasonCode::Success]);
    let mut second = broker.client("second", V5);
    second.subscribe_raw(&[("$share/g/a", at(QoS::AtMostOnce))], None);
    let mut publisher = broker.client("publisher", V5);
    for n in 0..20 {
        publisher.publish(message("a", n.to_string(), QoS::AtLeastOnce));
    }
    // Section 4.8.2: each message goes to one of the group.
    let mut all: Vec<u32> = first
        .messages_until_pong()
        .into_iter()
        .chain(second.messages_until_pong())
        .map(|m| String::from_utf8_lossy(&m.payload).parse().expect("a number"))
        .collect();
    all.sort_unstable();
    assert_eq!(all, (0..20).collect::<Vec<_>>());
}
