//! Presence over the wire (docs/protocol.md section 5).

use protocol::ProtocolVersion::{V5, V311};
use protocol::{Publish, QoS, ReasonCode, im};

use crate::broker_process::Broker;
use crate::raw_client::{BOTH, RawClient, at, durable_connect};

fn presence(publish: &Publish) -> im::Presence {
    serde_json::from_slice(&publish.payload).unwrap_or_else(|e| panic!("{publish:?}: {e}"))
}

/// The next presence of a client.
fn next(watcher: &mut RawClient, client: &str) -> im::Presence {
    loop {
        let publish = watcher.receive_publish();
        if im::presence_client(&publish.topic).as_deref() == Some(client) {
            return presence(&publish);
        }
    }
}

#[test]
fn who_comes_and_goes_is_told_in_both_versions() {
    let broker = Broker::start();
    for (version, id) in BOTH.into_iter().zip(["a/3", "a/5"]) {
        let mut watcher = broker.client("watcher", version);
        watcher.subscribe("$im/presence/+", QoS::AtLeastOnce);
        let client = broker.client(id, version);
        let online = next(&mut watcher, id);
        assert!(
            online.online && online.reason == "connected" && online.user == format!("anon:{id}"),
            "{online:?}"
        );
        assert!(online.epoch >= online.since && online.since > 1_700_000_000_000, "{online:?}");
        client.lose();
        let offline = next(&mut watcher, id);
        assert_eq!((offline.online, &*offline.reason, offline.epoch), (false, "lost", online.epoch));
        let again = broker.client(id, version);
        assert!(next(&mut watcher, id).epoch > online.epoch);
        // A takeover is one change.
        let taker = broker.client(id, version);
        let taken = next(&mut watcher, id);
        assert!(taken.online && taken.epoch > online.epoch, "{taken:?}");
        taker.disconnect();
        assert_eq!(next(&mut watcher, id).reason, "disconnected");
        drop(again);
    }
}

#[test]
fn a_crash_of_the_broker_makes_everyone_offline_with_the_epoch_that_was_seen() {
    let mut broker = Broker::start();
    let mut watcher = broker.client("watcher", V5);
    watcher.subscribe("$im/presence/truck", QoS::AtMostOnce);
    let (_truck, _) = broker.durable("truck", V311);
    let online = next(&mut watcher, "truck");
    broker.crash_and_restart();
    let mut watcher = broker.client("watcher", V5);
    watcher.subscribe("$im/presence/truck", QoS::AtMostOnce);
    let publish = watcher.receive_publish();
    assert!(publish.retain, "what is known comes as a retained message does");
    let offline = presence(&publish);
    assert_eq!((offline.online, &*offline.reason, offline.epoch), (false, "broker_restart", online.epoch));
    let (_truck, present) = broker.durable("truck", V311);
    assert!(present && next(&mut watcher, "truck").epoch > online.epoch);
}

#[test]
fn what_a_client_sees_before_a_crash_is_not_taken_back_by_it() {
    let mut broker = Broker::start();
    let mut last = 0;
    for _ in 0..10 {
        let mut watcher = broker.client("watcher", V5);
        watcher.subscribe("$im/presence/truck", QoS::AtMostOnce);
        watcher.messages_until_pong();
        let (_truck, _) = broker.durable("truck", V5);
        let seen = next(&mut watcher, "truck");
        assert!(seen.online && seen.epoch > last, "{seen:?} after {last}");
        last = seen.epoch;
        broker.crash_and_restart();
    }
}

#[test]
fn switched_off_it_is_refused_with_its_reason() {
    let broker = Broker::start_configured("[im]\npresence = false\n");
    let mut client = broker.client("watcher", V5);
    let ack = client.subscribe_raw(&[("$im/presence/+", at(QoS::AtMostOnce))], None);
    assert_eq!(ack.reasons, [ReasonCode::TopicFilterInvalid]);
    assert!(ack.properties.reason_string.is_some_and(|why| why.contains("switched off")));
}

#[test]
fn a_topic_is_cleared_after_its_time() {
    let broker = Broker::start_configured("[im]\npresence_keep_s = 1\n");
    let mut watcher = broker.client("watcher", V5);
    watcher.subscribe("$im/presence/truck", QoS::AtMostOnce);
    let mut connect = durable_connect("truck", V5);
    connect.properties.session_expiry_interval_s = Some(0);
    let (truck, _) = RawClient::connect_with(broker.address(), connect);
    assert!(next(&mut watcher, "truck").online);
    truck.disconnect();
    assert!(!next(&mut watcher, "truck").online);
    let cleared = watcher.expect_message("$im/presence/truck", "");
    assert!(!cleared.retain);
    watcher.subscribe("$im/presence/truck", QoS::AtMostOnce);
    watcher.expect_no_message();
}
