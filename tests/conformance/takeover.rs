//! A client id that connects again while it is connected.

use protocol::{ProtocolVersion, QoS, ReasonCode};

use crate::broker_process::Broker;
use crate::raw_client::{BOTH, RawClient, connect_packet, durable_connect, message, will};

#[test]
fn the_older_connection_is_told_and_closed() {
    let broker = Broker::start();
    for old in BOTH {
        for new in BOTH {
            let mut first = broker.client("same", old);
            let mut second = broker.client("same", new);
            // [MQTT-3.1.4-3]; [MQTT-3.1.4-2] (3.1.1)
            first.expect_disconnect(ReasonCode::SessionTakenOver);
            second.expect_no_message();
        }
    }
}

#[test]
fn the_session_moves_to_the_new_connection() {
    let broker = Broker::start();
    for version in BOTH {
        let (mut first, _) = broker.durable("moving", version);
        first.subscribe("a/b", QoS::AtLeastOnce);
        let (mut second, present) = broker.durable("moving", version);
        assert!(present, "[MQTT-3.2.2-3]");
        first.expect_disconnect(ReasonCode::SessionTakenOver);
        second.publish(message("a/b", "to the new one", QoS::AtLeastOnce));
        let got = second.expect_message("a/b", "to the new one");
        second.puback(got.packet_id.expect("QoS 1 has a packet id"));
        let (_, ack) = RawClient::connect_with(broker.address(), connect_packet("moving", version));
        assert!(!ack.session_present, "[MQTT-3.2.2-2]");
    }
}

#[test]
fn messages_in_flight_at_the_takeover_come_again_on_the_new_connection() {
    let broker = Broker::start();
    for version in BOTH {
        let (mut first, _) = broker.durable("flying", version);
        first.subscribe("a/b", QoS::AtLeastOnce);
        broker.client("publisher", version).publish_accepted("a/b", "unacknowledged");
        let before = first.expect_message("a/b", "unacknowledged");
        let (mut second, _) = broker.durable("flying", version);
        let again = second.expect_message("a/b", "unacknowledged");
        // [MQTT-4.4.0-1] [MQTT-3.3.1-1]
        assert_eq!((again.packet_id, again.dup), (before.packet_id, true));
        second.puback(again.packet_id.expect("QoS 1 has a packet id"));
        second.disconnect();
        RawClient::connect_with(broker.address(), connect_packet("flying", version)).0.disconnect();
    }
}

#[test]
fn a_takeover_publishes_the_will_of_the_older_connection() {
    let broker = Broker::start();
    for version in BOTH {
        let mut witness = broker.client("witness", version);
        witness.subscribe("gone", QoS::AtLeastOnce);
        let mut connect = durable_connect("mortal", version);
        connect.will = Some(will("gone", "taken over"));
        let (_first, _) = RawClient::connect_with(broker.address(), connect);
        let (_second, _) = broker.durable("mortal", version);
        // [MQTT-3.1.2-8]: the network connection was closed without DISCONNECT 0x00.
        witness.expect_message("gone", "taken over");
    }
}

#[test]
fn a_takeover_before_the_will_delay_silences_the_will() {
    let broker = Broker::start();
    let mut witness = broker.client("witness", ProtocolVersion::V5);
    witness.subscribe("gone", QoS::AtLeastOnce);
    let mut connect = durable_connect("patient", ProtocolVersion::V5);
    let mut delayed = will("gone", "must not come");
    delayed.delay_interval_s = Some(60);
    connect.will = Some(delayed);
    let (mut first, _) = RawClient::connect_with(broker.address(), connect);
    let (second, _) = broker.durable("patient", ProtocolVersion::V5);
    first.expect_disconnect(ReasonCode::SessionTakenOver);
    second.disconnect();
    // [MQTT-3.1.3-9]
    witness.expect_no_message();
}
