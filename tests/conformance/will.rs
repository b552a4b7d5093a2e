//! Wills: published when a client is lost, and not when it leaves.

use std::time::{Duration, Instant};

use protocol::ProtocolVersion::{self, V5};
use protocol::{Connect, QoS, ReasonCode, Will};

use crate::broker_process::Broker;
use crate::raw_client::{BOTH, RawClient, at, connect_packet, durable_connect, user_properties, will};

fn witness(broker: &Broker, version: ProtocolVersion) -> RawClient {
    let mut witness = broker.client("witness", version).acknowledging();
    witness.subscribe("gone/#", QoS::ExactlyOnce);
    witness
}

fn connect(broker: &Broker, connect: Connect, will: Box<Will>) -> RawClient {
    let (client, ack) = RawClient::connect_with(broker.address(), Connect { will: Some(will), ..connect });
    assert_eq!(ack.reason, ReasonCode::Success);
    client
}

#[test]
fn a_lost_connection_publishes_the_will() {
    let broker = Broker::start();
    for version in BOTH {
        let mut witness = witness(&broker, version);
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut the_will = will("gone/1", "lost");
            the_will.qos = qos;
            connect(&broker, connect_packet("mortal", version), the_will).lose();
            // [MQTT-3.1.2-8] [MQTT-3.1.2-14]
            let got = witness.expect_message("gone/1", "lost");
            assert_eq!((got.qos, got.retain), (qos, false));
        }
    }
}

#[test]
fn a_reset_connection_publishes_the_will() {
    let broker = Broker::start();
    let mut witness = witness(&broker, V5);
    let client = connect(&broker, connect_packet("mortal", V5), will("gone/1", "reset"));
    // Unread bytes at the close make the kernel send RST.
    drop(client);
    witness.expect_message("gone/1", "reset");
}

#[test]
fn a_disconnect_discards_the_will() {
    let broker = Broker::start();
    for version in BOTH {
        let mut witness = witness(&broker, version);
        connect(&broker, connect_packet("polite", version), will("gone/1", "must not come")).disconnect();
        // [MQTT-3.14.4-3] [MQTT-3.1.2-10]
        witness.publish_accepted("gone/barrier", "next");
        witness.expect_message("gone/barrier", "next");
    }
}

#[test]
fn a_disconnect_with_reason_4_publishes_the_will() {
    let broker = Broker::start();
    let mut witness = witness(&broker, V5);
    let client = connect(&broker, connect_packet("dramatic", V5), will("gone/1", "as asked"));
    // Section 3.14.2.1, 0x04
    client.disconnect_with(ReasonCode::DisconnectWithWill, None);
    witness.expect_message("gone/1", "as asked");
}

#[test]
fn a_disconnect_with_a_failure_publishes_the_will() {
    let broker = Broker::start();
    let mut witness = witness(&broker, V5);
    let client = connect(&broker, connect_packet("failing", V5), will("gone/1", "failed"));
    // [MQTT-3.1.2-8]: only DISCONNECT 0x00 discards it.
    client.disconnect_with(ReasonCode::UnspecifiedError, None);
    witness.expect_message("gone/1", "failed");
}

#[test]
fn a_silent_client_leaves_its_will() {
    let broker = Broker::start();
    for version in BOTH {
        let mut witness = witness(&broker, version);
        let mut silent = connect_packet("silent", version);
        silent.keep_alive_s = 1;
        let _open = connect(&broker, silent, will("gone/1", "silent"));
        // [MQTT-3.1.2-22] [MQTT-3.1.2-8]
        witness.expect_message("gone/1", "silent");
    }
}

#[test]
fn a_will_can_be_retained() {
    for version in BOTH {
        let broker = Broker::start();
        let topic = "gone/1";
        let mut the_will = will(topic, "stays");
        the_will.retain = true;
        let mut witness = witness(&broker, version);
        connect(&broker, connect_packet("mortal", version), the_will).lose();
        witness.expect_message(topic, "stays");
        // [MQTT-3.1.2-15]
        let mut late = broker.client("late", version);
        late.subscribe(topic, QoS::AtMostOnce);
        assert!(late.expect_message(topic, "stays").retain);
    }
}

#[test]
fn a_will_is_published_once() {
    let broker = Broker::start();
    for version in BOTH {
        let mut witness = witness(&broker, version);
        connect(&broker, durable_connect("mortal", version), will("gone/1", "once")).lose();
        witness.expect_message("gone/1", "once");
        // [MQTT-3.1.2-10]: it is removed; a connection without will leaves none.
        let (client, _) = broker.durable("mortal", version);
        client.lose();
        witness.publish_accepted("gone/barrier", "next");
        witness.expect_message("gone/barrier", "next");
    }
}

#[test]
fn a_delayed_will_waits_for_its_delay() {
    let broker = Broker::start();
    let mut witness = witness(&broker, V5);
    let mut the_will = will("gone/1", "late");
    the_will.delay_interval_s = Some(1);
    let client = connect(&broker, durable_connect("mortal", V5), the_will);
    let lost = Instant::now();
    client.lose();
    // [MQTT-3.1.2-8]
    witness.expect_message("gone/1", "late");
    let after = lost.elapsed();
    assert!(after >= Duration::from_millis(950) && after < Duration::from_secs(5), "after {after:?}");
}

#[test]
fn a_delayed_will_is_silenced_by_a_return() {
    let broker = Broker::start();
    let mut witness = witness(&broker, V5);
    let mut the_will = will("gone/1", "must not come");
    the_will.delay_interval_s = Some(1);
    connect(&broker, durable_connect("returning", V5), the_will).lose();
    let (_client, present) = broker.durable("returning", V5);
    assert!(present);
    // Real time must pass: it is what is tested. [MQTT-3.1.3-9]
    std::thread::sleep(Duration::from_millis(2_000));
    witness.expect_no_message();
}

#[test]
fn a_delayed_will_is_published_when_the_session_ends_before() {
    let broker = Broker::start();
    let mut witness = witness(&broker, V5);
    let delayed = |payload| {
        let mut the_will = will("gone/1", payload);
        the_will.delay_interval_s = Some(3600);
        the_will
    };
    // Without session expiry the session ends with the connection. [MQTT-3.1.2-8]
    connect(&broker, connect_packet("mortal", V5), delayed("session of the connection")).lose();
    witness.expect_message("gone/1", "session of the connection");
    // A clean start ends the session before the delay is over.
    connect(&broker, durable_connect("mortal", V5), delayed("ended by a clean start")).lose();
    let _clean = broker.client("mortal", V5);
    witness.expect_message("gone/1", "ended by a clean start");
}

#[test]
fn a_will_carries_its_properties() {
    let broker = Broker::start();
    let mut witness = witness(&broker, V5);
    let mut the_will = will("gone/1", "x");
    the_will.properties.payload_format_utf8 = Some(true);
    the_will.properties.content_type = Some("text/plain".into());
    the_will.properties.response_topic = Some("answers".into());
    the_will.properties.correlation_data = Some("id".into());
    the_will.properties.message_expiry_interval_s = Some(1000);
    let pairs = [("b", "1"), ("a", "2"), ("b", "3")];
    the_will.properties.user_properties = user_properties(&pairs);
    connect(&broker, connect_packet("mortal", V5), the_will).lose();
    let got = witness.expect_message("gone/1", "x").properties;
    assert_eq!(got.payload_format_utf8, Some(true));
    assert_eq!(got.content_type.as_deref(), Some("text/plain"));
    assert_eq!(got.response_topic.as_deref(), Some("answers"));
    assert_eq!(got.correlation_data.as_deref(), Some(&b"id"[..]));
    assert!(got.message_expiry_interval_s.is_some_and(|s| (990..=1000).contains(&s)), "{got:?}");
    // [MQTT-3.1.3-10]
    assert_eq!(got.user_properties[..3], user_properties(&pairs)[..]);
}

#[test]
fn a_will_reaches_sessions_that_are_offline() {
    let broker = Broker::start();
    for version in BOTH {
        let (mut client, _) = broker.durable("offline", version);
        client.subscribe("gone/1", QoS::AtLeastOnce);
        client.disconnect();
        connect(&broker, connect_packet("mortal", version), will("gone/1", "kept")).lose();
        // A publish of the connection that follows comes after the will of the one before.
        let (client, _) = broker.durable("offline", version);
        let mut client = client.acknowledging();
        client.expect_message("gone/1", "kept");
        client.subscribe_raw(&[("other", at(QoS::AtMostOnce))], None);
        client.disconnect();
        RawClient::connect_with(broker.address(), connect_packet("offline", version)).0.disconnect();
    }
}

#[test]
fn wills_of_connections_that_died_with_the_broker_are_published() {
    let mut broker = Broker::start();
    for version in BOTH {
        let (mut waiting, _) = broker.durable("waiting", version);
        waiting.subscribe("gone/1", QoS::AtLeastOnce);
        waiting.disconnect();
        let _mortal =
            connect(&broker, durable_connect("mortal", version), will("gone/1", "died with the broker"));
        broker.client("barrier", version).make_durable();
        broker.crash_and_restart();
        // [MQTT-3.1.2-8]: the network connection is closed, and no DISCONNECT came.
        let (waiting, present) = broker.durable("waiting", version);
        assert!(present);
        let mut waiting = waiting.acknowledging();
        waiting.expect_message("gone/1", "died with the broker");
        waiting.disconnect();
        RawClient::connect_with(broker.address(), connect_packet("waiting", version)).0.disconnect();
        RawClient::connect_with(broker.address(), connect_packet("mortal", version)).0.disconnect();
    }
}
