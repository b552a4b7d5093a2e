//! Sessions: how long they live, and when one is present.

use protocol::ProtocolVersion::{self, V5, V311};
use protocol::{QoS, ReasonCode};

use crate::broker_process::Broker;
use crate::raw_client::{BOTH, RawClient, connect_packet, durable_connect, message, will};

/// Connects with this expiry (5.0) and says whether a session was present.
fn resume(broker: &Broker, client_id: &str, expiry_s: Option<u32>) -> (RawClient, bool) {
    let mut connect = durable_connect(client_id, V5);
    connect.properties.session_expiry_interval_s = expiry_s;
    let (client, ack) = RawClient::connect_with(broker.address(), connect);
    assert_eq!(ack.reason, ReasonCode::Success);
    (client, ack.session_present)
}

#[test]
fn a_session_is_present_when_it_was_kept_and_not_cleaned() {
    let broker = Broker::start();
    for version in BOTH {
        let (client, present) = broker.durable("kept", version);
        assert!(!present, "[MQTT-3.2.2-3]: there was none before");
        client.disconnect();
        let (client, present) = broker.durable("kept", version);
        assert!(present, "[MQTT-3.1.2-5] [MQTT-3.2.2-3]");
        client.disconnect();
        let (client, ack) = RawClient::connect_with(broker.address(), connect_packet("kept", version));
        assert!(!ack.session_present, "[MQTT-3.2.2-2]");
        client.disconnect();
        let (client, present) = broker.durable("kept", version);
        assert!(!present, "[MQTT-3.1.2-4]: the clean start discarded it");
        client.disconnect();
        RawClient::connect_with(broker.address(), connect_packet("kept", version)).0.disconnect();
    }
}

#[test]
fn a_clean_start_discards_subscriptions_and_queue() {
    let broker = Broker::start();
    for version in BOTH {
        let (mut client, _) = broker.durable("cleaned", version);
        client.subscribe("a/b", QoS::AtLeastOnce);
        client.disconnect();
        let mut publisher = broker.client("publisher", version);
        publisher.publish_accepted("a/b", "queued");
        // [MQTT-3.1.2-4]
        let (mut client, _) = RawClient::connect_with(broker.address(), connect_packet("cleaned", version));
        publisher.publish_accepted("a/b", "live");
        client.expect_no_message();
    }
}

#[test]
fn offline_messages_come_in_order_at_their_qos() {
    let broker = Broker::start();
    for version in BOTH {
        let (mut client, _) = broker.durable("offline", version);
        client.subscribe("a/+", QoS::ExactlyOnce);
        client.disconnect();
        let mut publisher = broker.client("publisher", version);
        for n in 0..20 {
            let qos = if n % 2 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
            publisher.publish(message(&format!("a/{}", n % 3), n.to_string(), qos));
        }
        let (client, present) = broker.durable("offline", version);
        assert!(present);
        let mut client = client.acknowledging();
        for n in 0..20 {
            // [MQTT-4.5.0-1] [MQTT-4.6.0-5]
            let got = client.expect_message(&format!("a/{}", n % 3), n.to_string());
            assert_eq!(got.qos, if n % 2 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce });
            assert!(!got.dup, "[MQTT-4.3.2-2]: it is sent for the first time");
        }
        client.expect_no_message();
        client.disconnect();
        RawClient::connect_with(broker.address(), connect_packet("offline", version)).0.disconnect();
    }
}

#[test]
fn a_lost_connection_keeps_the_session_like_a_disconnect() {
    let broker = Broker::start();
    for version in BOTH {
        let (mut client, _) = broker.durable("lost", version);
        client.subscribe("a/b", QoS::AtLeastOnce);
        client.lose();
        broker.client("publisher", version).publish_accepted("a/b", "meanwhile");
        // [MQTT-3.1.2-23]
        let (client, present) = broker.durable("lost", version);
        assert!(present);
        client.acknowledging().expect_message("a/b", "meanwhile");
        RawClient::connect_with(broker.address(), connect_packet("lost", version)).0.disconnect();
    }
}

#[test]
fn an_expiry_of_0_or_none_ends_the_session_with_its_connection() {
    let broker = Broker::start();
    for expiry_s in [None, Some(0)] {
        resume(&broker, "short", expiry_s).0.disconnect();
        // Section 3.1.2.11.2: absent is 0.
        let (client, present) = resume(&broker, "short", expiry_s);
        assert!(!present, "expiry {expiry_s:?}");
        client.lose();
        assert!(!resume(&broker, "short", expiry_s).1, "expiry {expiry_s:?}, lost");
    }
}

#[test]
fn a_v311_session_without_clean_session_is_kept() {
    let broker = Broker::start();
    let (mut client, _) = broker.durable("old", V311);
    client.subscribe("a", QoS::AtLeastOnce);
    client.lose();
    // [MQTT-3.1.2-4] (3.1.1)
    assert!(broker.durable("old", V311).1);
}

#[test]
fn a_v311_clean_session_ends_with_its_connection() {
    let broker = Broker::start();
    let mut client = broker.client("old", V311);
    client.subscribe("a", QoS::AtLeastOnce);
    client.disconnect();
    // [MQTT-3.1.2-6] (3.1.1): state of a clean session must not be reused.
    assert!(!broker.durable("old", V311).1);
}

#[test]
fn a_session_goes_on_in_the_other_version() {
    let broker = Broker::start();
    for (before, after) in [(V311, V5), (V5, V311)] {
        let (mut client, _) = broker.durable("upgraded", before);
        client.subscribe("a/b", QoS::AtLeastOnce);
        client.disconnect();
        broker.client("publisher", V5).publish_accepted("a/b", "across");
        let (client, present) = broker.durable("upgraded", after);
        assert!(present);
        client.acknowledging().expect_message("a/b", "across");
        RawClient::connect_with(broker.address(), connect_packet("upgraded", after)).0.disconnect();
    }
}

#[test]
fn a_session_expires_after_its_interval() {
    let broker = Broker::start();
    let mut witness = broker.client("witness", V5);
    witness.subscribe("ended", QoS::AtLeastOnce);
    let mut connect = durable_connect("expiring", V5);
    connect.properties.session_expiry_interval_s = Some(1);
    // A will with a longer delay is published when the session ends: that is the event to wait for.
    let mut at_the_end = will("ended", "session ended");
    at_the_end.delay_interval_s = Some(3600);
    connect.will = Some(at_the_end);
    let (mut client, _) = RawClient::connect_with(broker.address(), connect);
    client.subscribe("a/b", QoS::AtLeastOnce);
    client.lose();
    let lost = std::time::Instant::now();
    // [MQTT-3.1.2-8] [MQTT-4.1.0-2]
    witness.expect_message("ended", "session ended");
    assert!(lost.elapsed().as_millis() >= 900, "ended after {:?}", lost.elapsed());
    assert!(!resume(&broker, "expiring", Some(1)).1, "[MQTT-4.1.0-2]");
}

#[test]
fn a_session_does_not_expire_while_connected() {
    let broker = Broker::start();
    let (mut client, _) = resume(&broker, "connected", Some(1));
    client.subscribe("a/b", QoS::AtLeastOnce);
    // Real time must pass: it is what is tested. [MQTT-4.1.0-1]
    std::thread::sleep(std::time::Duration::from_millis(2_500));
    client.publish(message("a/b", "still here", QoS::AtLeastOnce));
    client.expect_message("a/b", "still here");
    client.disconnect();
    assert!(resume(&broker, "connected", Some(1)).1);
}

#[test]
fn disconnect_can_change_the_expiry() {
    let broker = Broker::start();
    // Section 3.14.2.2.2
    resume(&broker, "changing", Some(3600)).0.disconnect_with(ReasonCode::Success, Some(0));
    let (client, present) = resume(&broker, "changing", Some(1));
    assert!(!present, "lowered to 0 at DISCONNECT");
    client.disconnect_with(ReasonCode::Success, Some(3600));
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    assert!(resume(&broker, "changing", Some(3600)).1, "raised at DISCONNECT");
}

#[test]
fn sessions_subscriptions_and_queues_outlive_the_broker() {
    let mut broker = Broker::start();
    for version in BOTH {
        let (mut client, _) = broker.durable("survivor", version);
        client.subscribe("a/b", QoS::AtLeastOnce);
        client.disconnect();
        broker.client("publisher", version).publish_accepted("a/b", "before the crash");
        broker.crash_and_restart();
        broker.client("publisher", version).publish_accepted("a/b", "after the crash");
        let (client, present) = broker.durable("survivor", version);
        assert!(present);
        let mut client = client.acknowledging();
        client.expect_message("a/b", "before the crash");
        client.expect_message("a/b", "after the crash");
        client.expect_no_message();
        RawClient::connect_with(broker.address(), connect_packet("survivor", version)).0.disconnect();
    }
}

#[test]
fn an_unsubscribe_and_a_clean_start_outlive_the_broker() {
    let mut broker = Broker::start();
    for version in BOTH {
        let (mut client, _) = broker.durable("changed", version);
        client.subscribe("a/b", QoS::AtLeastOnce);
        client.subscribe("a/c", QoS::AtLeastOnce);
        client.unsubscribe(&["a/b"]);
        broker.crash_and_restart();
        let mut publisher = broker.client("publisher", version);
        publisher.publish_accepted("a/b", "not wanted");
        publisher.publish_accepted("a/c", "wanted");
        let (client, present) = broker.durable("changed", version);
        assert!(present);
        let mut client = client.acknowledging();
        client.expect_message("a/c", "wanted");
        client.expect_no_message();
        RawClient::connect_with(broker.address(), connect_packet("changed", version)).0.disconnect();
        broker.crash_and_restart();
        assert!(!broker.durable("changed", version).1, "the session ended before the crash");
        RawClient::connect_with(broker.address(), connect_packet("changed", version)).0.disconnect();
    }
}

#[test]
fn what_was_acknowledged_by_the_subscriber_does_not_come_again_after_a_crash() {
    let mut broker = Broker::start();
    for version in BOTH {
        let (mut client, _) = broker.durable("done", version);
        client.subscribe("a/b", QoS::ExactlyOnce);
        let mut publisher = broker.client("publisher", version);
        publisher.publish(message("a/b", "once", QoS::ExactlyOnce));
        let mut client = client.acknowledging();
        client.expect_message("a/b", "once");
        client.receive_where("PUBREL", |p| matches!(p, protocol::Packet::PubRel(_)).then_some(()));
        client.make_durable();
        broker.crash_and_restart();
        let (mut client, present) = broker.durable("done", version);
        assert!(present);
        client.expect_no_message();
        RawClient::connect_with(broker.address(), connect_packet("done", version)).0.disconnect();
    }
}

#[test]
fn both_versions_can_be_mixed_on_one_topic() {
    let broker = Broker::start();
    let versions: [(ProtocolVersion, ProtocolVersion); 2] = [(V311, V5), (V5, V311)];
    for (from, to) in versions {
        let mut subscriber = broker.client("mixed-s", to).acknowledging();
        subscriber.subscribe("mixed", QoS::ExactlyOnce);
        let mut publisher = broker.client("mixed-p", from);
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            publisher.publish(message("mixed", "x", qos));
            assert_eq!(subscriber.expect_message("mixed", "x").qos, qos);
        }
    }
}
