//! Declared heartbeats, hints and probes over the wire (docs/protocol.md section 7).

use std::time::{Duration, Instant};

use protocol::{Connect, Packet, ProtocolVersion, QoS, ReasonCode, im};

use crate::broker_process::Broker;
use crate::raw_client::{BOTH, RawClient, connect_packet, message, property, user_properties};

fn on_net(client_id: &str, net: &str) -> Connect {
    let mut connect = connect_packet(client_id, ProtocolVersion::V5);
    connect.properties.user_properties = user_properties(&[(im::IM_NET, net)]);
    connect
}

#[test]
fn a_declared_heartbeat_ends_a_silent_connection_though_connect_asked_for_none() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client("phone", version);
        let declared = Instant::now();
        client.publish(message("$im/keepalive", r#"{"interval_s":1}"#, QoS::AtLeastOnce));
        client.expect_disconnect(ReasonCode::KeepAliveTimeout);
        let silent = declared.elapsed();
        assert!(silent >= Duration::from_millis(1_500), "{silent:?}: too early");
    }
}

#[test]
fn a_heartbeat_out_of_bounds_is_refused_and_told() {
    let broker = Broker::start_configured("[im]\nkeepalive_min_s = 10\nkeepalive_max_s = 20\n");
    for version in BOTH {
        let mut client = broker.client("phone", version);
        client.subscribe("$im/errors", QoS::AtMostOnce);
        let ack = client.publish(message("$im/keepalive", r#"{"interval_s":9}"#, QoS::AtLeastOnce));
        let refused = ack.is_some_and(|ack| ack.reason == ReasonCode::ImplementationSpecificError);
        assert_eq!(refused, version == ProtocolVersion::V5, "3.1.1 has no code for it");
        let told = client.receive_publish();
        let told: im::RequestError = serde_json::from_slice(&told.payload).expect("an error");
        assert!(told.request == "$im/keepalive" && told.error.contains("10 to 20"), "{told:?}");
    }
}

#[test]
fn a_probe_comes_after_its_silence_and_says_whether_it_was_one() {
    let broker = Broker::start();
    for version in BOTH {
        for spoils in [false, true] {
            let mut client = broker.client("phone", version);
            client.subscribe("$im/probe/+", QoS::AtLeastOnce);
            let asked = Instant::now();
            client.publish(message("$im/probe", r#"{"id":"p_1-A","after_s":1}"#, QoS::AtLeastOnce));
            if spoils {
                client.send(&Packet::PingReq);
                assert_eq!(client.receive(), Packet::PingResp);
            }
            let publish = client.receive_publish();
            // The broker's clock tells whole milliseconds, of which one had begun when it was asked.
            assert!(asked.elapsed() > Duration::from_millis(999), "{:?}", asked.elapsed());
            assert_eq!((&*publish.topic, publish.qos), ("$im/probe/p_1-A", QoS::AtMostOnce));
            let result: im::ProbeResult = serde_json::from_slice(&publish.payload).expect("a result");
            assert_eq!((&*result.id, result.spoiled), ("p_1-A", spoils));
        }
    }
}

#[test]
fn five_users_prove_an_interval_to_those_who_come_after_them_and_after_a_crash() {
    let mut broker = Broker::start();
    let mut clients: Vec<_> = (0..5)
        .map(|n| RawClient::connect_with(broker.address(), on_net(&format!("phone-{n}"), "lte")).0)
        .collect();
    // Each is silent for a second, and goes on after it.
    let quiet_until = Instant::now() + Duration::from_millis(1_100);
    for client in &mut clients {
        let left = quiet_until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        assert!(matches!(client.next_within(left), crate::raw_client::Next::Nothing));
        for _ in 0..2 {
            client.send(&Packet::PingReq);
            assert_eq!(client.receive(), Packet::PingResp);
        }
    }
    clients[0].make_durable();
    for crash in [false, true] {
        if crash {
            broker.crash_and_restart();
        }
        let (_, ack) = RawClient::connect_with(broker.address(), on_net("next", "lte"));
        let hint = property(&ack.properties.user_properties, im::IM_KEEPALIVE).expect("a hint");
        assert!((1..=60).contains(&hint.parse::<u32>().expect("seconds")), "{hint}");
        let (_, ack) = RawClient::connect_with(broker.address(), on_net("other", "wifi"));
        assert_eq!(property(&ack.properties.user_properties, im::IM_KEEPALIVE), None);
    }
}
