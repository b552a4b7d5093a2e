//! Starting, failing to start, and ending.

use broker::{Broker, config::HostPort};
use protocol::{Packet, ProtocolVersion, QoS, ReasonCode};

use crate::harness::{RawClient, TestBroker, block_on, config, connect, connect_lasting, publish};

#[test]
fn a_port_in_use_is_told_with_what_to_do() {
    let broker = TestBroker::start();
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.mqtt.listen = HostPort::new("127.0.0.1", broker.addr().port());
    let error = Broker::start(config).unwrap_err().to_string();
    let expected = format!(
        "{} is in use by another process; stop it or choose another with --listen HOST:PORT",
        broker.addr()
    );
    assert_eq!(error, expected);
    assert!(!dir.path().join("store").exists(), "the store was touched");
}

#[test]
fn a_data_directory_in_use_is_told_with_its_owner() {
    let broker = TestBroker::start();
    let error = Broker::start(config(broker.dir())).unwrap_err().to_string();
    assert!(error.contains(&broker.dir().join("store").display().to_string()), "{error}");
    assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    assert!(error.contains("--data-dir"), "{error}");
    broker.connected("one").ping();
}

#[test]
fn a_data_directory_that_is_a_file_is_told() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("store"), "a file").unwrap();
    let error = Broker::start(config(dir.path())).unwrap_err().to_string();
    assert!(error.contains(&dir.path().join("store").display().to_string()), "{error}");
}

/// docs/protocol.md section 10
#[test]
fn at_the_end_connected_clients_are_told() {
    let broker = TestBroker::start();
    let mut five = broker.connected("five");
    let mut three = RawClient::new(broker.addr(), ProtocolVersion::V311);
    three.send(&connect(ProtocolVersion::V311, "three"));
    three.expect_connack(ReasonCode::Success);
    let _silent = broker.client();
    broker.stop();
    five.expect_disconnect(ReasonCode::ServerShuttingDown);
    three.expect_end();
}

/// docs/protocol.md section 10
#[test]
fn who_comes_while_the_broker_ends_is_told() {
    let broker = TestBroker::start_with(|config| config.mqtt.close_timeout_s = 60);
    let addr = broker.addr();
    // It does not take what it is sent, so that the broker waits for it.
    let mut stuck = broker.connected("stuck");
    stuck.subscribe("a", QoS::AtMostOnce);
    let mut connected = broker.connected("connected");
    let payload = [0; 64 * 1024];
    for _ in 0..256 {
        connected.send(&publish("a", QoS::AtMostOnce, 0, &payload));
    }
    connected.ping();
    let ending = std::thread::spawn(move || broker.stop());
    connected.expect_disconnect(ReasonCode::ServerShuttingDown);
    for version in [ProtocolVersion::V5, ProtocolVersion::V311] {
        let mut new = RawClient::new(addr, version);
        new.send(&connect(version, "new"));
        new.expect_connack(ReasonCode::ServerUnavailable);
        new.expect_end();
    }
    drop(stuck);
    ending.join().unwrap();
}

#[test]
fn what_was_published_just_before_the_end_is_acknowledged_and_kept() {
    let broker = TestBroker::start();
    let mut durable = broker.client();
    durable.send(&connect_lasting("durable", true));
    durable.expect_connack(ReasonCode::Success);
    durable.subscribe("t", QoS::AtLeastOnce);
    drop(durable);
    let mut publisher = broker.connected("publisher");
    let packets: Vec<_> = (1..=200).map(|id| publish("t", QoS::AtLeastOnce, id, &id.to_be_bytes())).collect();
    let bytes = publisher.encode(&packets);
    publisher.send_bytes(&bytes);
    publisher.expect_puback(1);
    let dir = broker.stop();
    let mut acknowledged = 1;
    while let Some(Packet::PubAck(ack)) = publisher.next() {
        acknowledged = ack.packet_id.get();
    }

    let broker = TestBroker::start_in(dir, |_| {});
    assert_eq!(broker.running().recovered().sessions, 1);
    let mut durable = broker.client();
    durable.send(&connect_lasting("durable", false));
    assert!(durable.expect_connack(ReasonCode::Success).session_present);
    for id in 1..=acknowledged {
        assert_eq!(durable.expect_publish().payload[..], id.to_be_bytes());
    }
}

#[test]
fn a_broker_that_is_dropped_ends_too() {
    let broker = TestBroker::start();
    let mut client = broker.connected("one");
    drop(broker);
    client.expect_disconnect(ReasonCode::ServerShuttingDown);
}

#[test]
fn waiting_for_a_failure_may_be_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = Broker::start(config(dir.path())).unwrap();
    block_on(async {
        tokio::select! {
            biased;
            error = running.failed() => panic!("{error}"),
            () = std::future::ready(()) => {}
        }
        running.stop().await.unwrap();
    });
}
