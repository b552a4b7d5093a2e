//! What a client can make the broker hold, and how long.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use broker::RunningBroker;
use protocol::{Packet, ProtocolVersion, QoS, ReasonCode};

use crate::{
    harness::{PATIENCE, RawClient, TestBroker, connect, dial, publish},
    http::metric,
};

#[test]
fn a_client_that_never_sends_connect_is_closed() {
    let broker = TestBroker::start_with(|config| config.mqtt.connect_timeout_s = 1);
    let started = Instant::now();
    let mut silent = broker.client();
    let mut slow = broker.client();
    slow.send_bytes(b"\x10\x0f\x00");
    silent.expect_end();
    slow.expect_end();
    assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
}

#[test]
fn a_connection_over_the_limit_is_told_that_the_server_is_busy() {
    let broker = TestBroker::start_with(|config| config.mqtt.connections_max = 2);
    let mut first = broker.connected("one");
    let second = broker.connected("two");
    let mut third = broker.client();
    third.send(&connect(ProtocolVersion::V5, "three"));
    third.expect_connack(ReasonCode::ServerBusy);
    third.expect_end();
    let mut old = RawClient::new(broker.addr(), ProtocolVersion::V311);
    old.send(&connect(ProtocolVersion::V311, "four"));
    old.expect_connack(ReasonCode::ServerUnavailable);
    old.expect_end();
    first.ping();
    drop((second, third, old));
    // The place is free again as soon as the broker has seen the end of the others.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut again = broker.client();
        again.send(&connect(ProtocolVersion::V5, "two"));
        match again.expect() {
            Packet::ConnAck(connack) if connack.reason == ReasonCode::Success => break,
            _ => assert!(Instant::now() < deadline, "the place was never free again"),
        }
    }
}

#[test]
fn a_subscriber_that_does_not_read_costs_a_bounded_buffer_and_nobody_else() {
    let broker = TestBroker::start_with(|config| {
        config.mqtt.unsent_bytes_high = 65_536;
        config.mqtt.unsent_bytes_low = 16_384;
        config.http.enabled = true;
        config.http.listen = broker::config::HostPort::new("127.0.0.1", 0);
    });
    let mut stuck = broker.connected("stuck");
    stuck.subscribe("flood", QoS::AtMostOnce);
    let mut reader = broker.connected("reader");
    reader.subscribe("flood", QoS::AtMostOnce);
    let mut publisher = broker.connected("publisher");
    // Far more than the sockets' own buffers take.
    let messages = 2_000;
    let payload = vec![7; 16_384];
    let (read, was_read) = std::sync::mpsc::channel();
    let reading = std::thread::spawn(move || {
        let mut bytes = 0;
        for _ in 0..messages {
            bytes += reader.expect_publish().payload.len();
            read.send(()).unwrap();
        }
        bytes
    });
    for _ in 0..messages {
        publisher.send(&publish("flood", QoS::AtMostOnce, 0, &payload));
        // The one that reads must never be behind by as much as the mark, however slow this machine is.
        was_read.recv_timeout(PATIENCE).unwrap();
    }
    publisher.ping();
    assert_eq!(reading.join().unwrap(), messages * payload.len());
    assert!(dropped(broker.running()) > 0);
    // What was not dropped arrives, and the connection lives on.
    stuck.send(&Packet::PingReq);
    let mut arrived = 0;
    while stuck.expect() != Packet::PingResp {
        arrived += 1;
    }
    assert_eq!(arrived + dropped(broker.running()), messages as u64);
    stuck.ping();
}

fn dropped(broker: &RunningBroker) -> u64 {
    metric(broker.http_addr().unwrap(), "postrider_messages_dropped_total")
}

#[test]
fn publishing_faster_than_the_disk_only_waits() {
    let broker = TestBroker::start_with(|config| {
        config.store.pending_bytes_max = 65_536;
        config.mqtt.receive_maximum = 65_535;
    });
    let mut durable = broker.client();
    durable.send(&crate::harness::connect_lasting("durable", true));
    durable.expect_connack(ReasonCode::Success);
    durable.subscribe("work", QoS::AtLeastOnce);
    drop(durable);
    let mut publisher = broker.connected("publisher");
    let packets: Vec<_> = (1..=4_000).map(|id| publish("work", QoS::AtLeastOnce, id, &[1; 1_000])).collect();
    let bytes = publisher.encode(&packets);
    publisher.send_bytes(&bytes);
    for id in 1..=4_000 {
        publisher.expect_puback(id);
    }
}

#[test]
fn a_client_that_takes_no_answers_is_asked_for_no_more() {
    let broker = TestBroker::start_with(|config| {
        config.mqtt.unsent_bytes_high = 65_536;
        config.mqtt.unsent_bytes_low = 16_384;
        config.http.enabled = true;
        config.http.listen = broker::config::HostPort::new("127.0.0.1", 0);
    });
    let stream = dial(broker.addr());
    // The system keeps little of what comes.
    socket2::SockRef::from(&stream).set_recv_buffer_size(128 * 1024).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let mut deaf = RawClient::over(stream, ProtocolVersion::V5);
    deaf.send(&connect(ProtocolVersion::V5, "deaf"));
    deaf.expect_connack(ReasonCode::Success);
    let http = broker.running().http_addr().unwrap();
    // Far more than the sockets' own buffers take.
    let pings = 4 * 1024 * 1024;
    let writing = std::thread::spawn(move || writer.write_all(&[0xc0, 0x00].repeat(pings)).unwrap());
    let mut seen = 0;
    loop {
        // Twice the mark, and what one slice brings.
        assert!(metric(http, "postrider_buffered_bytes") <= 4 * 65_536);
        let packets = metric(http, "postrider_packets_received_total");
        if packets == seen && packets > 100_000 {
            break;
        }
        seen = packets;
    }
    assert!(seen < pings as u64, "all was taken");
    broker.connected("another").ping();
    // It reads at last and gets every answer.
    deaf.expect_bytes(2 * pings);
    writing.join().unwrap();
    deaf.ping();
}
