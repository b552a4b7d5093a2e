//! The runtime and its store: coming back, giving space back, running full.

use broker::{Config, config::HostPort};
use protocol::{Packet, QoS, ReasonCode};

use crate::{
    harness::{PATIENCE, RawClient, TestBroker, connect_lasting, publish},
    http::metric,
};

fn lasting(broker: &TestBroker, id: &str, clean_start: bool) -> RawClient {
    let mut client = broker.client();
    client.send(&connect_lasting(id, clean_start));
    assert_eq!(client.expect_connack(ReasonCode::Success).session_present, !clean_start);
    client
}

/// Comes back for its messages and acknowledges so many.
fn take_all(broker: &TestBroker, id: &str, messages: u32) {
    let mut client = lasting(broker, id, false);
    for _ in 0..messages {
        let packet_id = client.expect_publish().packet_id.unwrap();
        client.send(&Packet::PubAck(protocol::Ack::new(packet_id, ReasonCode::Success)));
    }
    client.ping();
}

/// Publishes until a full store has space again.
fn publish_until_taken(publisher: &mut RawClient) {
    let begin = std::time::Instant::now();
    loop {
        publisher.send(&publish("t", QoS::AtLeastOnce, 1, b"again"));
        if !publisher.expect_puback(1).reason.is_failure() {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "the store never took a message again");
    }
}

fn small_store(config: &mut Config) {
    config.store.segment_bytes = 262_144;
    config.http.enabled = true;
    config.http.listen = HostPort::new("127.0.0.1", 0);
}

#[test]
fn sessions_retained_and_queued_messages_come_back_after_a_restart() {
    let broker = TestBroker::start();
    lasting(&broker, "durable", true).subscribe("t/#", QoS::AtLeastOnce);
    let mut publisher = broker.connected("publisher");
    for id in 1..=3 {
        publisher.send(&publish("t/x", QoS::AtLeastOnce, id, &[id as u8]));
        publisher.expect_puback(id);
    }
    let Packet::Publish(mut retained) = publish("kept", QoS::AtLeastOnce, 4, b"value") else {
        unreachable!()
    };
    retained.retain = true;
    publisher.send(&Packet::Publish(retained));
    publisher.expect_puback(4);
    let dir = broker.stop();

    let broker = TestBroker::start_in(dir, |_| {});
    let recovered = broker.running().recovered();
    assert_eq!((recovered.sessions, recovered.messages, recovered.retained), (1, 3, 1));
    assert_eq!(recovered.records, 0, "a clean stop leaves nothing to replay, whatever the durability");
    let mut durable = lasting(&broker, "durable", false);
    for id in 1..=3 {
        assert_eq!(durable.expect_publish().payload[..], [id]);
    }
    durable.subscribe("kept", QoS::AtLeastOnce);
    assert_eq!(durable.expect_publish().payload[..], *b"value");
}

#[test]
fn segments_of_mostly_garbage_are_rewritten_and_still_hold_the_state() {
    let broker = TestBroker::start_with(small_store);
    let http = broker.running().http_addr().unwrap();
    lasting(&broker, "offline", true).subscribe("keep", QoS::AtLeastOnce);
    let mut publisher = broker.connected("publisher");
    for id in 1..=10 {
        publisher.send(&publish("keep", QoS::AtLeastOnce, id, &id.to_be_bytes()));
        publisher.expect_puback(id);
    }
    let mut worker = lasting(&broker, "worker", true);
    worker.subscribe("work", QoS::AtLeastOnce);
    let mut written = 0;
    for _ in 0..2 {
        let before = metric(http, "postrider_store_rewrites_total");
        for id in 1..=1_000 {
            publisher.send(&publish("work", QoS::AtLeastOnce, id, &[1; 4_000]));
            publisher.expect_puback(id);
            let packet_id = worker.expect_publish().packet_id.unwrap();
            worker.send(&Packet::PubAck(protocol::Ack::new(packet_id, ReasonCode::Success)));
            written += 4_000;
        }
        worker.ping();
        // Full segments are synced, whatever the durability, so the view takes them in at its next look.
        let begin = std::time::Instant::now();
        while metric(http, "postrider_store_rewrites_total") == before {
            assert!(begin.elapsed() < PATIENCE, "nothing was rewritten after {written} bytes");
        }
    }
    let dir = broker.stop();

    let broker = TestBroker::start_in(dir, small_store);
    assert!(broker.running().recovered().log_bytes < written);
    let mut offline = lasting(&broker, "offline", false);
    for id in 1..=10u16 {
        assert_eq!(offline.expect_publish().payload[..], id.to_be_bytes());
    }
}

#[test]
fn a_full_store_refuses_what_needs_it_and_takes_messages_again_when_there_is_space() {
    let broker = TestBroker::start_with(|config| {
        small_store(config);
        config.store.bytes_max = 2 * 1024 * 1024;
    });
    lasting(&broker, "offline", true).subscribe("t", QoS::AtLeastOnce);
    let mut publisher = broker.connected("publisher");
    let mut accepted = 0;
    let refused = (1..=2_000).find_map(|id| {
        publisher.send(&publish("t", QoS::AtLeastOnce, id, &[2; 4_000]));
        let reason = publisher.expect_puback(id).reason;
        accepted += u32::from(!reason.is_failure());
        reason.is_failure().then_some(reason)
    });
    assert_eq!(refused, Some(ReasonCode::QuotaExceeded));
    // Others go on: what needs no store passes.
    publisher.ping();

    take_all(&broker, "offline", accepted);
    publish_until_taken(&mut publisher);
}

#[test]
fn a_full_store_goes_on_when_every_message_waits_for_many_who_come_one_after_the_other() {
    let broker = TestBroker::start_with(|config| {
        small_store(config);
        config.store.bytes_max = 2 * 1024 * 1024;
    });
    let names: Vec<_> = (0..40).map(|number| format!("offline-{number}")).collect();
    for name in &names {
        lasting(&broker, name, true).subscribe("t", QoS::AtLeastOnce);
    }
    let mut publisher = broker.connected("publisher");
    let mut accepted = 0;
    for id in 1..=4_000 {
        publisher.send(&publish("t", QoS::AtLeastOnce, id, &[2; 2_000]));
        if publisher.expect_puback(id).reason.is_failure() {
            break;
        }
        accepted += 1;
    }
    assert!(accepted > 200, "{accepted}");
    // Nothing that they acknowledge gives space back before the last one has come.
    for name in &names {
        take_all(&broker, name, accepted);
    }
    publish_until_taken(&mut publisher);
}
