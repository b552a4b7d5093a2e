//! Keep Alive, and connections that never become one.

use std::thread;
use std::time::{Duration, Instant};

use protocol::{ProtocolVersion, QoS, ReasonCode};

use crate::broker_process::Broker;
use crate::raw_client::{BOTH, Next, PATIENCE, RawClient, connect_packet, message};

#[test]
fn a_silent_client_is_closed_after_one_and_a_half_keep_alives() {
    let broker = Broker::start();
    for version in BOTH {
        let mut connect = connect_packet("silent", version);
        connect.keep_alive_s = 1;
        let (mut client, _) = RawClient::connect_with(broker.address(), connect);
        let since = Instant::now();
        // [MQTT-3.1.2-22]
        client.expect_disconnect(ReasonCode::KeepAliveTimeout);
        let after = since.elapsed();
        assert!(after >= Duration::from_millis(1_400), "closed too early: {after:?}");
        assert!(after < Duration::from_secs(5), "closed too late: {after:?}");
    }
}

#[test]
fn any_packet_keeps_a_client_alive() {
    let broker = Broker::start();
    for version in BOTH {
        let mut connect = connect_packet("busy", version);
        connect.keep_alive_s = 1;
        let (mut client, _) = RawClient::connect_with(broker.address(), connect);
        for round in 0..5 {
            // Real time must pass: it is what is tested.
            thread::sleep(Duration::from_millis(600));
            if round % 2 == 0 {
                client.expect_no_message();
            } else {
                client.publish_accepted("still/here", "x");
            }
        }
    }
}

#[test]
fn what_the_broker_sends_does_not_keep_a_client_alive() {
    let broker = Broker::start();
    let mut publisher = broker.client("publisher", ProtocolVersion::V5);
    let mut connect = connect_packet("listener", ProtocolVersion::V5);
    connect.keep_alive_s = 1;
    let (mut client, _) = RawClient::connect_with(broker.address(), connect);
    client.subscribe("news", QoS::AtMostOnce);
    let since = Instant::now();
    loop {
        publisher.publish_accepted("news", "x");
        match client.next_within(Duration::from_millis(50)) {
            Next::Closed => break,
            _ => assert!(since.elapsed() < PATIENCE, "the client was never closed"),
        }
    }
    assert!(since.elapsed() >= Duration::from_millis(1_400), "closed too early: {:?}", since.elapsed());
}

#[test]
fn keep_alive_0_never_closes() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client("patient", version);
        assert!(matches!(client.next_within(Duration::from_millis(2_500)), Next::Nothing));
        client.expect_no_message();
    }
}

#[test]
fn the_brokers_keep_alive_holds_when_it_gave_one() {
    let broker = Broker::start_configured("[mqtt]\nkeep_alive_max_s = 1\n");
    let mut connect = connect_packet("lazy", ProtocolVersion::V5);
    connect.keep_alive_s = 600;
    let (mut client, ack) = RawClient::connect_with(broker.address(), connect);
    // [MQTT-3.2.2-21]
    assert_eq!(ack.properties.server_keep_alive_s, Some(1));
    client.expect_disconnect(ReasonCode::KeepAliveTimeout);
}

#[test]
fn a_connection_without_connect_is_closed() {
    let broker = Broker::start_configured("[mqtt]\nconnect_timeout_s = 1\n");
    let mut bystander = broker.client("bystander", ProtocolVersion::V5);
    let since = Instant::now();
    let mut mute = RawClient::open(broker.address(), ProtocolVersion::V5);
    assert_eq!(mute.bytes_until_closed(), b"");
    assert!(since.elapsed() >= Duration::from_millis(900), "closed too early: {:?}", since.elapsed());
    bystander.publish(message("a", "x", QoS::AtLeastOnce));
}

#[test]
fn a_connect_that_comes_byte_by_byte_does_not_get_more_time() {
    let broker = Broker::start_configured("[mqtt]\nconnect_timeout_s = 1\n");
    let mut slow = RawClient::open(broker.address(), ProtocolVersion::V5);
    let since = Instant::now();
    // A CONNECT of 100 bytes, of which one comes every 100 ms.
    slow.send_bytes(b"\x10\x62\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x55");
    loop {
        slow.send_bytes_to_closing(b"x");
        match slow.next_within(Duration::from_millis(100)) {
            Next::Closed => break,
            Next::Nothing => assert!(since.elapsed() < Duration::from_secs(5), "still open"),
            Next::Packet(packet) => panic!("an answer to half a CONNECT: {packet:?}"),
        }
    }
}
