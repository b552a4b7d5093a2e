//! What chapter 6 of both standards and RFC 6455 say of MQTT over WebSocket, asked of the running broker. That
//! MQTT itself is the same over it, the vectors show.

use std::io::{Read, Write};

use protocol::ProtocolVersion::V5;

use crate::broker_process::Broker;
use crate::raw_client::{BOTH, RawClient};
use crate::transport::{Door, Stream};
use crate::web_socket::{Answer, WebSocket, request};

const LISTENER: &str = "[[listener]]\nname = \"web\"\ntransport = \"ws\"\nlisten = \"127.0.0.1:0\"\n";

/// CONNECT of 3.1.1 with client id "ws".
const CONNECT: &[u8] = b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x00\x00\x02ws";

fn web(broker: &Broker) -> std::net::SocketAddr {
    broker.listener("web").parse().expect("an address")
}

fn asked(broker: &Broker, path: &str, protocols: Option<&str>) -> Answer {
    let mut stream: Box<dyn Stream> = Door::Tcp(web(broker)).open();
    request(&mut stream, path, protocols)
}

#[test]
fn the_subprotocol_is_mqtt_whatever_else_is_offered() {
    let broker = Broker::start_configured(LISTENER);
    for offered in ["mqtt", "mqtt, chat", "chat, mqtt", "chat,mqtt , soap"] {
        let answer = asked(&broker, "/mqtt", Some(offered));
        assert_eq!(answer.status, 101, "{offered}: {}", answer.head);
        // [MQTT-6.0.0-4], [MQTT-6.0.0-4] (3.1.1)
        assert_eq!(answer.header("sec-websocket-protocol"), Some("mqtt"), "{offered}: {}", answer.head);
    }
}

#[test]
fn another_subprotocol_or_path_is_refused() {
    let broker = Broker::start_configured(LISTENER);
    // [MQTT-6.0.0-3] binds the client; a server must not answer with another name.
    for offered in [None, Some("chat"), Some("MQTT5"), Some("mqttx")] {
        let answer = asked(&broker, "/mqtt", offered);
        assert!((400..500).contains(&answer.status), "{offered:?}: {}", answer.head);
    }
    let answer = asked(&broker, "/other", Some("mqtt"));
    assert_eq!(answer.status, 404, "{}", answer.head);
}

#[test]
fn a_text_frame_ends_the_connection() {
    let broker = Broker::start_configured(LISTENER);
    for before in [&b""[..], CONNECT] {
        let mut socket = WebSocket::connect(Door::Tcp(web(&broker)).open(), "/mqtt");
        socket.write_all(before).expect("the broker takes frames");
        socket.send_text("\u{10}hello");
        let mut got = Vec::new();
        // [MQTT-6.0.0-1], [MQTT-6.0.0-1] (3.1.1)
        socket.read_to_end(&mut got).expect("the broker closes");
        // What came before it may be answered, the text itself is not.
        assert!(got.is_empty() || (!before.is_empty() && got == b"\x20\x02\x00\x00"), "{got:02x?}");
    }
    broker.client("bystander", V5).expect_no_message();
}

#[test]
fn a_packet_may_be_cut_anywhere_into_frames() {
    let broker = Broker::start_configured(LISTENER);
    // CONNECT, a ping, and DISCONNECT.
    let stream = [CONNECT, b"\xc0\x00\xe0\x00"].concat();
    for cut in 0..=stream.len() {
        let mut socket = WebSocket::connect(Door::Tcp(web(&broker)).open(), "/mqtt");
        let (first, second) = stream.split_at(cut);
        // [MQTT-6.0.0-2], [MQTT-6.0.0-2] (3.1.1)
        socket.send_binary(first);
        socket.send_binary(second);
        let mut got = Vec::new();
        socket.read_to_end(&mut got).expect("the broker closes");
        assert_eq!(got, b"\x20\x02\x00\x00\xd0\x00", "cut after {cut} bytes");
    }
}

#[test]
fn many_packets_may_stand_in_one_frame() {
    let broker = Broker::start_configured(LISTENER);
    let mut socket = WebSocket::connect(Door::Tcp(web(&broker)).open(), "/mqtt");
    let stream = [CONNECT, &b"\xc0\x00".repeat(1000), b"\xe0\x00"].concat();
    // [MQTT-6.0.0-2], [MQTT-6.0.0-2] (3.1.1)
    socket.send_binary(&stream);
    let mut got = Vec::new();
    socket.read_to_end(&mut got).expect("the broker closes");
    assert_eq!(got, [&b"\x20\x02\x00\x00"[..], &b"\xd0\x00".repeat(1000)].concat());
}

#[test]
fn clients_of_both_ways_exchange_messages() {
    let broker = Broker::start_configured(LISTENER);
    for version in BOTH {
        let mut over_web = RawClient::connect(Door::WebSocket(web(&broker)), "over-web", version);
        let mut over_tcp = broker.client("over-tcp", version);
        over_web.subscribe("to/web", protocol::QoS::AtMostOnce);
        over_tcp.subscribe("to/tcp", protocol::QoS::AtMostOnce);
        over_tcp.publish_accepted("to/web", "from tcp");
        over_web.expect_message("to/web", "from tcp");
        over_web.publish_accepted("to/tcp", "from web");
        over_tcp.expect_message("to/tcp", "from web");
    }
}

#[test]
fn the_http_port_serves_it_too() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = RawClient::connect(Door::WebSocket(broker.http()), "at-http", version);
        client.subscribe("echo", protocol::QoS::AtMostOnce);
        client.publish_accepted("echo", "hello");
        client.expect_message("echo", "hello");
    }
}
