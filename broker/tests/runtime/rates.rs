//! How fast clients may publish and connect, and what becomes of those who do not keep to it.

use std::time::{Duration, Instant};

use broker::config::{Bounds, Counted, HostPort, UserLimit};
use protocol::{Packet, ProtocolVersion, QoS, ReasonCode};

use crate::{
    harness::{RawClient, TestBroker, connect, publish},
    http::{metric, request},
};

/// A broker with HTTP whose clients may publish 50 messages a second, 10 at once.
fn with_rate() -> TestBroker {
    TestBroker::start_with(|config| {
        config.client_limits.messages_per_s = 50;
        config.client_limits.messages_burst = 10;
        config.client_limits.refusals_burst = 1_000;
        with_http(config);
    })
}

fn with_http(config: &mut broker::Config) {
    config.http.enabled = true;
    config.http.listen = HostPort::new("127.0.0.1", 0);
}

fn count(broker: &TestBroker, name: &str) -> u64 {
    metric(broker.running().http_addr().unwrap(), name)
}

fn connected(broker: &TestBroker, version: ProtocolVersion, id: &str) -> RawClient {
    let mut client = RawClient::new(broker.addr(), version);
    client.send(&connect(version, id));
    client.expect_connack(ReasonCode::Success);
    client
}

/// Sends 40 messages at once, 30 over the burst, and returns how long it took until all were processed.
fn publish_40(client: &mut RawClient, qos: QoS) -> Duration {
    let started = Instant::now();
    let packets: Vec<_> = (1..=40).map(|id| publish("a", qos, id, b"x")).collect();
    let bytes = client.encode(&packets);
    client.send_bytes(&bytes);
    for id in (1..=40).filter(|_| qos > QoS::AtMostOnce) {
        assert_eq!(client.expect_puback(id).reason, ReasonCode::Success);
    }
    client.ping();
    started.elapsed()
}

#[test]
fn over_its_rate_a_client_of_3_1_1_is_read_later_and_loses_nothing() {
    let broker = with_rate();
    let mut reader = connected(&broker, ProtocolVersion::V5, "reader");
    reader.subscribe("a", QoS::AtMostOnce);
    for qos in [QoS::AtLeastOnce, QoS::AtMostOnce] {
        let mut client = connected(&broker, ProtocolVersion::V311, "fast");
        let took = publish_40(&mut client, qos);
        // 30 messages over the burst at 50 a second; a slower machine only takes longer.
        assert!(took >= Duration::from_millis(590), "{took:?}");
        for _ in 0..40 {
            reader.expect_publish();
        }
    }
    // Each of the 60 waits once, but for those that a slow machine comes to so late that they may go on.
    let waits = count(&broker, "postrider_reading_waits_total");
    assert!(waits >= 2, "{waits}");
}

#[test]
fn over_its_rate_a_client_of_5_0_waits_at_qos_0() {
    let broker = with_rate();
    let mut client = connected(&broker, ProtocolVersion::V5, "fast");
    assert!(publish_40(&mut client, QoS::AtMostOnce) >= Duration::from_millis(590));
}

#[test]
fn over_its_rate_a_client_of_5_0_is_refused_at_qos_1_and_2_and_told_the_rate() {
    let broker = with_rate();
    let mut client = connected(&broker, ProtocolVersion::V5, "fast");
    for (qos, what) in [(QoS::AtLeastOnce, "PUBACK"), (QoS::ExactlyOnce, "PUBREC")] {
        let packets: Vec<_> = (1..=200).map(|id| publish("a", qos, id, b"x")).collect();
        let bytes = client.encode(&packets);
        client.send_bytes(&bytes);
        let mut refused = 0;
        for _ in 1..=200 {
            let ack = match client.expect() {
                Packet::PubAck(ack) | Packet::PubRec(ack) => ack,
                other => panic!("expected {what}, got {other:?}"),
            };
            if ack.reason == ReasonCode::QuotaExceeded {
                let why = ack.properties.into_inner().reason_string.unwrap_or_default();
                assert!(why.ends_with("this client may publish 50 messages a second"), "{why}");
                refused += 1;
            }
        }
        assert!(refused > 0, "{what}");
    }
    client.ping();
    assert!(count(&broker, "postrider_publishes_refused_rate_total") > 0);
}

#[test]
fn a_refused_message_leaves_its_packet_id_free() {
    let broker = TestBroker::start_with(|config| {
        config.client_limits.messages_per_s = 1;
        config.client_limits.messages_burst = 1;
        config.mqtt.receive_maximum = 2;
    });
    let mut client = connected(&broker, ProtocolVersion::V5, "fast");
    let mut refused = 0;
    for _ in 0..20 {
        client.send(&publish("a", QoS::ExactlyOnce, 7, b"x"));
        match client.expect() {
            Packet::PubRec(ack) if ack.reason == ReasonCode::QuotaExceeded => refused += 1,
            Packet::PubRec(ack) => {
                client.send(&Packet::PubRel(protocol::Ack::new(ack.packet_id, ReasonCode::Success)));
                assert!(matches!(client.expect(), Packet::PubComp(_)));
            }
            other => panic!("expected PUBREC, got {other:?}"),
        }
    }
    assert!(refused > 0);
}

#[test]
fn a_client_of_5_0_that_goes_on_far_above_its_rate_is_disconnected() {
    let broker = TestBroker::start_with(|config| {
        config.client_limits.messages_per_s = 1;
        config.client_limits.refusals_burst = 20;
        with_http(config);
    });
    let mut client = connected(&broker, ProtocolVersion::V5, "flood");
    let packets: Vec<_> = (1..=1_000).map(|id| publish("a", QoS::AtLeastOnce, id, b"x")).collect();
    let bytes = client.encode(&packets);
    client.send_bytes(&bytes);
    loop {
        match client.expect() {
            Packet::PubAck(_) => {}
            Packet::Disconnect(disconnect) => {
                assert_eq!(disconnect.reason, ReasonCode::MessageRateTooHigh);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    client.expect_end();
    assert_eq!(count(&broker, "postrider_connections_ended_rate_total"), 1);
}

#[test]
fn bytes_are_bounded_like_messages() {
    let broker = TestBroker::start_with(|config| {
        config.client_limits.bytes_per_s = 100_000;
        config.mqtt.packet_bytes_max = 20_000;
    });
    let mut client = connected(&broker, ProtocolVersion::V311, "fat");
    let started = Instant::now();
    for _ in 0..15 {
        client.send(&publish("a", QoS::AtMostOnce, 0, &[1; 10_000]));
    }
    client.ping();
    assert!(started.elapsed() >= Duration::from_millis(450), "{:?}", started.elapsed());
}

#[test]
fn a_client_that_waits_for_its_rate_does_not_miss_its_keep_alive_and_stops_nobody() {
    let broker = TestBroker::start_with(|config| {
        config.client_limits.messages_per_s = 1;
        config.client_limits.messages_burst = 1;
    });
    let mut slow = RawClient::new(broker.addr(), ProtocolVersion::V311);
    let Packet::Connect(mut packet) = connect(ProtocolVersion::V311, "slow") else { unreachable!() };
    packet.keep_alive_s = 1;
    slow.send(&Packet::Connect(packet));
    slow.expect_connack(ReasonCode::Success);
    let packets: Vec<_> = (0..4).map(|_| publish("a", QoS::AtMostOnce, 0, b"x")).collect();
    let bytes = slow.encode(&packets);
    let started = Instant::now();
    slow.send_bytes(&bytes);
    slow.send(&Packet::PingReq);
    let mut other = connected(&broker, ProtocolVersion::V5, "other");
    other.ping();
    assert!(started.elapsed() < Duration::from_secs(3), "the other one waited");
    // Three seconds in which nothing is read: twice what its keep-alive allows.
    assert_eq!(slow.expect(), Packet::PingResp);
    assert!(started.elapsed() >= Duration::from_millis(2_900), "{:?}", started.elapsed());
}

#[test]
fn one_who_waits_and_leaves_leaves_nothing() {
    let broker = TestBroker::start_with(|config| {
        config.client_limits.messages_per_s = 1;
        config.client_limits.messages_burst = 1;
        with_http(config);
    });
    for i in 0..20 {
        let mut client = connected(&broker, ProtocolVersion::V311, &format!("c{i}"));
        for _ in 0..3 {
            client.send(&publish("a", QoS::AtMostOnce, 0, b"x"));
        }
    }
    let deadline = Instant::now() + crate::harness::PATIENCE;
    while count(&broker, "postrider_sockets") > 0 {
        assert!(Instant::now() < deadline, "sockets of clients that left stay");
    }
    assert_eq!(count(&broker, "postrider_buffered_bytes"), 0);
}

#[test]
fn connects_over_the_listeners_rate_are_told_the_reason() {
    let broker = TestBroker::start_with(|config| {
        config.limits.connects_per_client_per_minute = 2;
        with_http(config);
    });
    for _ in 0..2 {
        connected(&broker, ProtocolVersion::V5, "again");
    }
    for (version, reason) in [
        (ProtocolVersion::V5, ReasonCode::ConnectionRateExceeded),
        (ProtocolVersion::V311, ReasonCode::ServerUnavailable),
    ] {
        let mut client = RawClient::new(broker.addr(), version);
        client.send(&connect(version, "again"));
        let connack = client.expect_connack(reason);
        if version == ProtocolVersion::V5 {
            let why = "a client may connect 2 times a minute";
            assert_eq!(connack.properties.reason_string.as_deref(), Some(why));
        }
        client.expect_end();
    }
    connected(&broker, ProtocolVersion::V5, "another");
    assert_eq!(count(&broker, "postrider_connects_refused_rate_total"), 2);
}

#[test]
fn bounds_of_one_user_reach_its_session() {
    let broker = TestBroker::start_with(|config| {
        let bounds = Bounds { subscriptions_max: Some(1), topic_levels_max: Some(2), ..Bounds::default() };
        config.user_limit = vec![UserLimit { user: Some("anon:small".to_owned()), group: None, bounds }];
    });
    let mut small = connected(&broker, ProtocolVersion::V5, "small");
    let mut big = connected(&broker, ProtocolVersion::V5, "big");
    big.subscribe("a/b/c", QoS::AtMostOnce);
    big.subscribe("a/b/d", QoS::AtMostOnce);
    small.subscribe("a/b", QoS::AtMostOnce);
    small.send(&crate::harness::subscribe("a/c", QoS::AtMostOnce));
    match small.expect() {
        Packet::SubAck(ack) => assert_eq!(ack.reasons[..], [ReasonCode::QuotaExceeded]),
        other => panic!("{other:?}"),
    }
}

/// A flapping client at a broker that counts clients of this machine.
fn flap(broker: &TestBroker, times: usize) -> Vec<ReasonCode> {
    let answer = |_| {
        let mut client = broker.client();
        client.send(&connect(ProtocolVersion::V5, "flappy"));
        match client.expect() {
            Packet::ConnAck(connack) => connack.reason,
            other => panic!("{other:?}"),
        }
    };
    (0..times).map(answer).collect()
}

fn with_bans() -> TestBroker {
    TestBroker::start_with(|config| {
        config.abuse.loopback = Counted::Clients;
        config.abuse.flapping_per_minute = 5;
        config.abuse.slow_first_ms = 50;
        config.abuse.strikes_max = 2;
        with_http(config);
    })
}

#[test]
fn a_flapping_client_is_slowed_then_banned_listed_and_let_in_again_by_hand() {
    let broker = with_bans();
    let started = Instant::now();
    let answers = flap(&broker, 9);
    assert_eq!(answers[..7], [ReasonCode::Success; 7]);
    assert!(started.elapsed() >= Duration::from_millis(150), "the sixth and seventh are slowed");
    assert_eq!(answers[7..], [ReasonCode::Banned; 2]);
    assert_eq!(count(&broker, "postrider_connects_delayed_total"), 2);
    assert_eq!(count(&broker, "postrider_connects_refused_banned_total"), 2);
    connected(&broker, ProtocolVersion::V5, "steady");

    let http = broker.running().http_addr().unwrap();
    let (status, list) = request(http, "GET", "/api/v1/bans", "");
    assert_eq!(status, 200);
    let expected = r#""kind":"client","key":"flappy","reason":"connects again and again""#;
    assert!(list.contains(expected), "{list}");
    assert_eq!(request(http, "DELETE", "/api/v1/bans/client/flappy", "").0, 204);
    let (status, problem) = request(http, "DELETE", "/api/v1/bans/client/flappy", "");
    assert_eq!(status, 404);
    assert!(problem.contains(r#""detail":"client \"flappy\" is not banned""#), "{problem}");
    assert_eq!(request(http, "GET", "/api/v1/bans", ""), (200, r#"{"bans":[]}"#.to_owned()));
    assert_eq!(flap(&broker, 1), [ReasonCode::Success]);
}

#[test]
fn what_names_no_ban_is_a_problem_that_says_so() {
    let broker = with_bans();
    let http = broker.running().http_addr().unwrap();
    for (path, detail) in [
        ("/api/v1/bans/ip/127.0.0.1", "kinds are address, client, user"),
        ("/api/v1/bans/address/nowhere", "an address is an IP address"),
    ] {
        let (status, problem) = request(http, "DELETE", path, "");
        assert_eq!(status, 400);
        assert!(problem.contains(detail) && problem.contains("\"status\":400"), "{problem}");
    }
    assert_eq!(request(http, "DELETE", "/api/v1/bans/address/2001:db8::%2F64", "").0, 404);
}

#[test]
fn web_pages_may_not_ask_for_bans() {
    let broker = with_bans();
    let http = broker.running().http_addr().unwrap();
    assert_eq!(request(http, "GET", "/api/v1/bans", "Origin: http://localhost\r\n").0, 403);
    let (status, problem) = crate::http::request_as(http, "evil.example", "GET", "/api/v1/bans", "");
    assert_eq!(status, 403);
    assert!(problem.contains("to no web page"), "{problem}");
}

#[test]
fn the_oldest_connection_without_connect_makes_room() {
    let broker = TestBroker::start_with(|config| {
        config.limits.unconnected_max = 3;
        with_http(config);
    });
    let mut opened: Vec<_> = (0..3).map(|_| broker.client()).collect();
    let connected = connected(&broker, ProtocolVersion::V5, "in time");
    opened[0].expect_end();
    // Whoever is connected takes no place among those who are not.
    let more = broker.client();
    opened.remove(0);
    opened[0].send(&connect(ProtocolVersion::V5, "late"));
    opened[0].expect_connack(ReasonCode::Success);
    assert_eq!(count(&broker, "postrider_unconnected_closed_total"), 1);
    drop((connected, more));
}

#[test]
fn the_buffers_of_all_are_bounded_and_the_largest_goes_first() {
    let broker = TestBroker::start_with(|config| {
        config.limits.buffers_bytes_max = 1_048_576;
        with_http(config);
    });
    let mut greedy: Vec<_> = (0..6)
        .map(|i| {
            let mut client = connected(&broker, ProtocolVersion::V5, &format!("greedy{i}"));
            // A packet of 300 KB that never comes whole: more with each than the one before.
            let length = 300_000_u32 + i * 10_000;
            client.send_bytes(&[
                0x30,
                (length & 0x7f) as u8 | 0x80,
                (length >> 7) as u8 | 0x80,
                (length >> 14) as u8,
            ]);
            client.send_bytes(&vec![0; 200_000 + 10_000 * i as usize]);
            client
        })
        .collect();
    let deadline = Instant::now() + crate::harness::PATIENCE;
    while count(&broker, "postrider_connections_shed_total") == 0 {
        assert!(Instant::now() < deadline, "nothing was closed");
    }
    assert!(count(&broker, "postrider_buffered_bytes") <= 1_048_576);
    let mut small = connected(&broker, ProtocolVersion::V5, "small");
    small.ping();
    greedy.drain(..).for_each(drop);
}
