//! Adaptive keepalive: declared heartbeats, and what networks were seen to let pass (docs/protocol.md section 7).

use crate::node::*;
use engine::Config;
use protocol::*;

fn with_keep_alive(client_id: &str, keep_alive_s: u16) -> Connect {
    Connect { keep_alive_s, ..volatile(client_id) }
}

fn on_net(client_id: &str, net: &str) -> Connect {
    let mut connect = volatile(client_id);
    connect.properties.user_properties.push((im::IM_NET.into(), net.into()));
    connect
}

fn declare(node: &mut Node, conn: u64, payload: &'static str) {
    let reason = node.publish(conn, publish("$im/keepalive", QoS::AtLeastOnce, 1, payload));
    assert_eq!(reason, ReasonCode::Success, "{payload}");
}

/// Seconds after which the connection ends in silence, up to a bound.
fn silence_s(node: &mut Node, conn: u64, up_to_s: u64) -> Option<u64> {
    for s in 0..=up_to_s {
        if node.closed.contains_key(&conn) {
            assert_eq!(node.goodbye(conn), Some(ReasonCode::KeepAliveTimeout));
            return Some(s);
        }
        node.pass_s(1);
    }
    None
}

#[test]
fn a_declared_heartbeat_replaces_the_keep_alive_only_downwards() {
    // [MQTT-3.1.2-22]
    for (keep_alive_s, declared, expected) in [
        (100, r#"{"interval_s":20}"#, Some(30)),
        (100, r#"{"interval_s":100}"#, Some(150)),
        (20, r#"{"interval_s":100}"#, Some(30)),
        (0, r#"{"interval_s":40}"#, Some(60)),
    ] {
        let mut node = Node::new();
        node.connect_with(1, with_keep_alive("phone", keep_alive_s));
        node.seen(1);
        node.pass_s(5);
        declare(&mut node, 1, declared);
        assert_eq!(silence_s(&mut node, 1, 200), expected, "{keep_alive_s} {declared}");
    }
}

#[test]
fn a_heartbeat_may_be_declared_anew_at_any_time_and_from_3_1_1() {
    let mut node = Node::new();
    node.connect_with(1, Connect { keep_alive_s: 200, ..version_3("phone", true) });
    node.seen(1);
    for payload in [r#"{"interval_s":10}"#, r#"{"interval_s":60,"net":"lte"}"#] {
        node.packet(1, Packet::Publish(publish("$im/keepalive", QoS::AtLeastOnce, 1, payload)));
        assert_eq!(node.seen(1), [Packet::PubAck(ack(1, ReasonCode::Success))]);
    }
    node.pass_s(89);
    assert!(node.closed.is_empty(), "1.5 times the second one, not the first");
    node.pass_s(1);
    assert_eq!(node.goodbye(1), None);
}

#[test]
fn a_refused_heartbeat_changes_nothing() {
    let mut node = Node::new();
    node.connect_with(1, with_keep_alive("phone", 40));
    node.seen(1);
    let bad = r#"{"interval_s":7201}"#;
    assert!(node.publish(1, publish("$im/keepalive", QoS::AtLeastOnce, 1, bad)).is_failure());
    assert_eq!(silence_s(&mut node, 1, 100), Some(60));
}

/// Lets a client of a user prove a silence: two heartbeats with it between, and one that shows that the
/// connection went on.
fn prove(node: &mut Node, conn: u64, user: &'static str, silence_s: u64) {
    node.connect_as(conn, on_net(user, "lte"), Some(user));
    for _ in 0..2 {
        node.pass_s(silence_s);
        node.packet(conn, Packet::PingReq);
    }
    node.packet(
        conn,
        Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties: Default::default() }),
    );
    node.seen(conn);
}

fn hint(node: &mut Node, conn: u64, connect: Connect) -> Option<String> {
    let connack = node.connack(conn, connect);
    assert_eq!(connack.reason, ReasonCode::Success);
    property(&connack.properties.user_properties, im::IM_KEEPALIVE).map(str::to_owned)
}

const USERS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

#[test]
fn five_users_of_a_network_give_those_who_come_the_interval_that_they_proved() {
    let mut node = Node::new();
    for (n, user) in USERS[..4].iter().enumerate() {
        prove(&mut node, 10 + n as u64, user, 240 + 10 * n as u64);
        prove(&mut node, 20 + n as u64, user, 120);
    }
    assert_eq!(
        hint(&mut node, 1, on_net("x", "lte")),
        None,
        "four users are too few, however often they vote"
    );
    prove(&mut node, 30, USERS[4], 300);
    assert_eq!(hint(&mut node, 2, on_net("x", "lte")).as_deref(), Some("240"));
    assert_eq!(hint(&mut node, 3, on_net("x", "wifi")), None);
    assert_eq!(hint(&mut node, 4, volatile("x")), None);
    let connack = node.connack(5, version_3("y", true));
    assert_eq!(connack.properties, ConnAckProperties::default(), "3.1.1 cannot be told");
    for (conn, way) in
        [(6, Node::restart_from_checkpoint as fn(&mut Node)), (7, |node| node.restart(usize::MAX))]
    {
        way(&mut node);
        assert_eq!(
            hint(&mut node, conn, on_net("x", "lte")).as_deref(),
            Some("240"),
            "it survives a restart"
        );
    }
    node.pass_s(30 * 24 * 3600);
    assert_eq!(hint(&mut node, 8, on_net("x", "lte")), None, "it does not hold for ever");
}

#[test]
fn what_the_hint_says_is_within_the_bounds() {
    let mut node = Node::with(Config { keepalive_max_s: 200, ..Config::default() });
    for (n, user) in USERS.iter().enumerate() {
        prove(&mut node, 10 + n as u64, user, 500);
    }
    assert_eq!(hint(&mut node, 1, on_net("x", "lte")).as_deref(), Some("200"));
}

#[test]
fn the_hint_is_left_out_where_the_client_has_no_room_for_it() {
    let mut node = Node::new();
    for (n, user) in USERS.iter().enumerate() {
        prove(&mut node, 10 + n as u64, user, 240);
    }
    let mut connect = on_net("x", "lte");
    connect.properties.packet_bytes_max = std::num::NonZeroU32::new(30);
    assert_eq!(hint(&mut node, 1, connect), None);
}

/// Whether a client that does this has a vote: four others have one each.
fn has_vote(does: impl Fn(&mut Node)) -> bool {
    let mut node = Node::new();
    for (n, user) in USERS[..4].iter().enumerate() {
        prove(&mut node, 10 + n as u64, user, 240);
    }
    node.connect_as(1, on_net("e", "lte"), Some("e"));
    does(&mut node);
    hint(&mut node, 2, on_net("x", "lte")).is_some()
}

#[test]
fn only_silences_that_were_seen_to_be_survived_count() {
    let ping = |node: &mut Node| node.packet(1, Packet::PingReq);
    let say = |node: &mut Node| node.packet(1, Packet::Publish(publish("t", QoS::AtMostOnce, 0, "x")));
    assert!(has_vote(|node| {
        node.pass_s(50);
        ping(node);
        ping(node);
    }));
    assert!(has_vote(|node| {
        node.pass_s(50);
        say(node);
        say(node);
    }));
    assert!(!has_vote(|node| node.pass_s(50)), "nothing came after it");
    assert!(
        !has_vote(|node| {
            node.pass_s(50);
            ping(node);
            node.drop_connection(1);
        }),
        "the connection did not go on"
    );
    assert!(
        !has_vote(|node| {
            for _ in 0..10 {
                node.pass_s(5);
                say(node);
            }
        }),
        "a client that always has something to say proves nothing"
    );
    assert!(
        !has_vote(|node| {
            for _ in 0..10 {
                node.pass_ms(900);
                ping(node);
            }
        }),
        "below the shortest heartbeat"
    );
}

#[test]
fn a_silence_that_the_broker_broke_does_not_count() {
    let mut node = Node::new();
    for (n, user) in USERS[..4].iter().enumerate() {
        prove(&mut node, 10 + n as u64, user, 240);
    }
    node.connect(3, "talker");
    node.connect_as(1, on_net("e", "lte"), Some("e"));
    node.subscribe(1, "t", QoS::AtMostOnce);
    for _ in 0..10 {
        node.pass_s(29);
        node.packet(3, Packet::Publish(publish("t", QoS::AtMostOnce, 0, "x")));
        node.pass_s(5);
        node.packet(1, Packet::PingReq);
    }
    assert_eq!(hint(&mut node, 2, on_net("x", "lte")).as_deref(), Some("5"));
}

#[test]
fn what_is_not_read_is_no_silence() {
    let mut node = Node::new();
    for (n, user) in USERS[..4].iter().enumerate() {
        prove(&mut node, 10 + n as u64, user, 240);
    }
    node.connect_as(1, on_net("e", "lte"), Some("e"));
    for conn in [None, Some(engine::ConnId(1))] {
        node.input(engine::Input::Reading { conn, paused: true });
        node.pass_s(500);
        node.input(engine::Input::Reading { conn, paused: false });
        node.packet(1, Packet::PingReq);
        node.packet(1, Packet::PingReq);
    }
    assert_eq!(hint(&mut node, 2, on_net("x", "lte")), None);
}

#[test]
fn a_network_with_too_long_a_name_is_ignored_and_told() {
    let mut node = Node::new();
    node.connect(1, "phone");
    node.subscribe(1, "$im/errors", QoS::AtMostOnce);
    node.drop_connection(1);
    let mut connect = durable("phone");
    connect.properties.user_properties.push((im::IM_NET.into(), "n".repeat(65).into()));
    node.connect_with(2, connect);
    let told = node.publishes(2);
    assert!(matches!(&told[..], [p] if p.topic == "$im/errors"), "{told:?}");
    let error: im::RequestError = serde_json::from_slice(&told[0].payload).unwrap();
    assert!(error.request == "im-net" && error.error.contains("65 bytes"), "{error:?}");
}

#[test]
fn networks_are_bounded() {
    let mut node = Node::with(Config { networks_max: 1, ..Config::default() });
    for (n, user) in USERS.iter().enumerate() {
        prove(&mut node, 10 + n as u64, user, 240);
    }
    node.connect_as(1, on_net("e", "other"), Some("e"));
    for _ in 0..2 {
        node.pass_s(50);
        node.packet(1, Packet::PingReq);
    }
    assert_eq!(hint(&mut node, 2, on_net("x", "lte")), None, "forgotten for the newer one");
    node.restart(usize::MAX);
    let kept = node.shard.checkpoint().concat();
    assert!(!kept.windows(3).any(|bytes| bytes == b"lte"), "the log says so too");
}
