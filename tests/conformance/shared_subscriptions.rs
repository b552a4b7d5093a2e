//! Shared subscriptions, from clients of both versions (MQTT 5.0 section 4.8.2).

use std::collections::BTreeSet;

use protocol::ProtocolVersion::{self, V5, V311};
use protocol::{Ack, Packet, QoS, ReasonCode};

use crate::broker_process::Broker;
use crate::raw_client::{BOTH, RawClient, at, connect_packet, durable_connect, message, retained};

const GROUP: &str = "$share/workers/jobs/+";

/// Ends a client's session.
fn forget(broker: &Broker, client_id: &str, version: ProtocolVersion) {
    RawClient::connect_with(broker.address(), connect_packet(client_id, version)).0.disconnect();
}

/// Connects a member whose session lasts and that takes `window` messages at once (5.0).
fn member(broker: &Broker, client_id: &str, version: ProtocolVersion, window: u16) -> RawClient {
    let mut connect = durable_connect(client_id, version);
    if version == V5 {
        connect.properties.receive_maximum = std::num::NonZeroU16::new(window);
    }
    RawClient::connect_with(broker.address(), connect).0
}

fn payloads(messages: &[protocol::Publish]) -> Vec<String> {
    messages.iter().map(|m| String::from_utf8_lossy(&m.payload).into_owned()).collect()
}

#[test]
fn each_message_goes_to_one_member_at_the_level_of_its_own_subscription() {
    let broker = Broker::start();
    let mut members = Vec::new();
    for (version, qos) in [(V5, QoS::AtMostOnce), (V311, QoS::AtLeastOnce), (V5, QoS::ExactlyOnce)] {
        let mut member = broker.client(&format!("member {}", members.len()), version).acknowledging();
        member.subscribe(GROUP, qos);
        members.push((member, qos));
    }
    let mut publisher = broker.client("publisher", V311);
    for n in 0..30 {
        publisher.publish(message("jobs/1", n.to_string(), QoS::ExactlyOnce));
    }
    let mut all = BTreeSet::new();
    for (member, qos) in &mut members {
        let got = member.messages_until_pong();
        // [MQTT-4.8.2-3]
        assert!(got.iter().all(|m| m.qos == *qos), "{got:?}");
        assert_eq!(got.len(), 10, "they take turns");
        all.extend(payloads(&got));
    }
    assert_eq!(all.len(), 30);
}

#[test]
fn a_group_and_an_ordinary_subscription_bring_a_copy_each_with_their_identifiers() {
    let broker = Broker::start();
    let mut client = broker.client("both", V5);
    client.subscribe_raw(&[("jobs/#", at(QoS::AtLeastOnce))], Some(1));
    client.subscribe_raw(&[(GROUP, at(QoS::AtLeastOnce))], Some(2));
    client.subscribe_raw(&[("$share/others/jobs/1", at(QoS::AtLeastOnce))], Some(3));
    broker.client("publisher", V5).publish_accepted("jobs/1", "x");
    let mut identifiers: Vec<_> = client
        .messages_until_pong()
        .into_iter()
        .map(|m| m.properties.into_inner().subscription_identifiers)
        .collect();
    identifiers.sort_unstable();
    assert_eq!(identifiers, [[1], [2], [3]]);
}

#[test]
fn no_retained_messages_come_by_a_group() {
    let broker = Broker::start();
    for version in BOTH {
        broker.client("publisher", version).publish(retained("jobs/1", "kept", QoS::AtLeastOnce));
        let mut member = broker.client("member", version);
        member.subscribe(GROUP, QoS::AtLeastOnce);
        // Section 3.8.4: they are not sent for a shared subscription, new or not.
        member.subscribe(GROUP, QoS::AtLeastOnce);
        member.expect_no_message();
    }
}

#[test]
fn no_local_on_a_shared_subscription_ends_the_connection() {
    let broker = Broker::start();
    let mut client = broker.client("member", V5);
    // [MQTT-3.8.3-4]: in bytes, for the encoder refuses to make such a packet.
    client.send_bytes(b"\x82\x10\x00\x01\x00\x00\x0a$share/g/a\x05");
    client.expect_disconnect(ReasonCode::ProtocolError);
}

#[test]
fn a_group_is_left_by_its_whole_name_at_the_first_unsubscribe() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client("member", version);
        client.subscribe(GROUP, QoS::AtMostOnce);
        client.subscribe(GROUP, QoS::AtLeastOnce);
        let answer = client.unsubscribe(&["jobs/+", "$share/others/jobs/+", GROUP, GROUP]);
        let mut publisher = broker.client("publisher", V5);
        let ack = publisher.publish(message("jobs/1", "x", QoS::AtLeastOnce)).expect("an ack");
        assert_eq!(ack.reason, ReasonCode::NoMatchingSubscribers);
        client.expect_no_message();
        if version == V5 {
            let none = ReasonCode::NoSubscriptionExisted;
            assert_eq!(answer.reasons, [none, none, ReasonCode::Success, none]);
        }
    }
}

#[test]
fn qos_1_goes_on_when_its_members_session_ends_and_qos_2_in_flight_does_not() {
    for version in BOTH {
        for (qos, window) in [(QoS::AtLeastOnce, 2), (QoS::ExactlyOnce, 2)] {
            let broker = Broker::start();
            let mut leaver = member(&broker, "leaver", version, window);
            leaver.subscribe(GROUP, qos);
            let mut publisher = broker.client("publisher", version);
            for n in 0..4 {
                publisher.publish(message("jobs/1", n.to_string(), qos));
            }
            let sent = payloads(&leaver.messages_until_pong());
            let mut stayer = member(&broker, "stayer", version, 10).acknowledging();
            stayer.subscribe(GROUP, qos);
            stayer.expect_no_message();
            leaver.lose();
            forget(&broker, "leaver", version);
            // [MQTT-4.8.2-5] what had begun at QoS 2 is sent to nobody else.
            let goes_on = |n: &String| qos == QoS::AtLeastOnce || !sent.contains(n);
            let expected: BTreeSet<_> = (0..4).map(|n| n.to_string()).filter(goes_on).collect();
            // What waited came first, when the connection was lost.
            let got: Vec<_> = expected.iter().map(|_| stayer.receive_publish()).collect();
            assert_eq!(payloads(&got).into_iter().collect::<BTreeSet<_>>(), expected);
            stayer.expect_no_message();
        }
    }
}

#[test]
fn qos_2_is_completed_with_its_member_over_a_crash_and_a_reconnect() {
    let mut broker = Broker::start();
    let mut first = member(&broker, "first", V5, 10);
    first.subscribe(GROUP, QoS::ExactlyOnce);
    broker.client("publisher", V5).publish(message("jobs/1", "x", QoS::ExactlyOnce));
    let its_id = first.expect_message("jobs/1", "x").packet_id;
    let mut second = member(&broker, "second", V5, 10).acknowledging();
    second.subscribe(GROUP, QoS::ExactlyOnce);
    drop((first, second));
    broker.crash_and_restart();
    let mut second = member(&broker, "second", V5, 10).acknowledging();
    second.expect_no_message();
    // [MQTT-4.8.2-4]
    let mut first = member(&broker, "first", V5, 10).acknowledging();
    let again = first.expect_message("jobs/1", "x");
    assert_eq!((again.packet_id, again.dup), (its_id, true));
    second.expect_no_message();
}

#[test]
fn a_message_that_a_member_refuses_goes_to_nobody_else() {
    let broker = Broker::start();
    let mut first = member(&broker, "first", V5, 10);
    first.subscribe(GROUP, QoS::ExactlyOnce);
    let mut publisher = broker.client("publisher", V5);
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        publisher.publish(message("jobs/1", "x", qos));
        let its_id = first.expect_message("jobs/1", "x").packet_id.expect("an id");
        let ack = Ack::new(its_id, ReasonCode::QuotaExceeded);
        // [MQTT-4.8.2-6]
        first.send(&if qos == QoS::AtLeastOnce { Packet::PubAck(ack) } else { Packet::PubRec(ack) });
    }
    let mut second = member(&broker, "second", V5, 10);
    second.subscribe(GROUP, QoS::ExactlyOnce);
    first.expect_no_message();
    first.lose();
    forget(&broker, "first", V5);
    second.expect_no_message();
}

#[test]
fn nothing_acknowledged_is_lost_to_a_group_when_the_broker_dies() {
    for version in BOTH {
        let mut broker = Broker::start();
        for client in ["first", "second"] {
            let mut away = member(&broker, client, version, 10);
            away.subscribe(GROUP, QoS::AtLeastOnce);
            away.lose();
        }
        let mut publisher = broker.client("publisher", version);
        for n in 0..100 {
            publisher.publish_accepted("jobs/1", n.to_string());
        }
        broker.crash_and_restart();
        let mut first = member(&broker, "first", version, 65_535).acknowledging();
        let mut all = BTreeSet::new();
        while all.len() < 100 {
            let message = first.receive_publish();
            assert!(all.insert(message.payload), "one copy each");
        }
        let mut second = member(&broker, "second", version, 65_535);
        second.expect_no_message();
        first.expect_no_message();
    }
}

#[test]
fn what_cannot_be_shared_is_refused() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client("member", version);
        for (filter, reason) in [
            ("$share/g/$im/from/1/im/room", ReasonCode::ImplementationSpecificError),
            ("$share/g/$im/receipts", ReasonCode::TopicFilterInvalid),
            ("$share/g/$im/#", ReasonCode::TopicFilterInvalid),
        ] {
            let answer = client.subscribe_raw(&[(filter, at(QoS::AtLeastOnce))], None);
            let expected = if version == V5 { reason } else { ReasonCode::UnspecifiedError };
            assert_eq!(answer.reasons, [expected], "{filter}");
        }
    }
}
