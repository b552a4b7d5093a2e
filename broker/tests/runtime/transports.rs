//! MQTT over every transport: the same bytes, however they are carried and cut.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    os::unix::net::UnixStream,
};

use broker::config::{HostPort, ListenerConfig, Transport};
use protocol::{Connect, Packet, ProtocolVersion, QoS, ReasonCode, Will};

use crate::{
    harness::{RawClient, Stream, TestBroker, connect, dial, publish, subscribe},
    http::metric,
    streams::{Authority, UPGRADE, WebSocket, frame, listener, read_head, unix_listener},
};

const V5: ProtocolVersion = ProtocolVersion::V5;

/// A broker with every transport.
struct Everything {
    broker: TestBroker,
    authority: Authority,
}

const ALL: [&str; 7] = ["mqtt", "tls", "ws", "wss", "unix", "proxied", "http"];

impl Everything {
    fn start() -> Self {
        let authority = Authority::new();
        let dir = tempfile::tempdir().unwrap();
        let unix = unix_listener(dir.path());
        let broker = TestBroker::start_in(dir, |config| {
            config.http.enabled = true;
            config.http.listen = HostPort::new("127.0.0.1", 0);
            config.listener = [Transport::Tls, Transport::Ws, Transport::Wss]
                .map(|transport| authority.listener(transport))
                .into_iter()
                .chain([unix, proxied()])
                .collect();
        });
        Self { broker, authority }
    }

    fn addr(&self, name: &str) -> SocketAddr {
        addr(&self.broker, name)
    }

    /// Connects by the listener of this name, ready to speak MQTT; frames are at most so long.
    fn stream(&self, name: &str, frame_bytes: usize) -> Box<dyn Stream> {
        match name {
            "tls" => Box::new(self.authority.tls(self.addr(name))),
            "ws" => Box::new(WebSocket::open(dial(self.addr(name)), frame_bytes)),
            "wss" => Box::new(WebSocket::open(self.authority.tls(self.addr(name)), frame_bytes)),
            "unix" => Box::new(UnixStream::connect(self.broker.dir().join("mqtt.sock")).unwrap()),
            "proxied" => {
                let mut stream = dial(self.addr(name));
                stream.write_all(b"PROXY TCP4 203.0.113.7 127.0.0.1 12345 1883\r\n").unwrap();
                Box::new(stream)
            }
            "http" => {
                let addr = self.broker.running().http_addr().unwrap();
                Box::new(WebSocket::open(dial(addr), frame_bytes))
            }
            _ => Box::new(dial(self.addr(name))),
        }
    }

    fn connected(&self, name: &str, id: &str) -> RawClient {
        let mut client = RawClient::over(self.stream(name, usize::MAX), V5);
        client.send(&connect(V5, id));
        client.expect_connack(ReasonCode::Success);
        client
    }
}

fn proxied() -> ListenerConfig {
    ListenerConfig {
        name: "proxied".to_owned(),
        proxy_protocol: true,
        anonymous: Some(true),
        ..listener(Transport::Tcp)
    }
}

pub(crate) fn addr(broker: &TestBroker, name: &str) -> SocketAddr {
    let found = broker.running().listeners().iter().find(|listening| listening.name == name);
    found.unwrap_or_else(|| panic!("no listener {name}")).address.ip().unwrap()
}

#[test]
fn messages_of_any_size_go_from_each_transport_to_each() {
    let all = Everything::start();
    let mut clients: Vec<_> = ALL
        .iter()
        .map(|name| {
            let mut client = all.connected(name, name);
            client.subscribe("t", QoS::AtLeastOnce);
            client
        })
        .collect();
    for (i, bytes) in [0, 1, 100, 5_000, 40_000, 200_000, 900_000].into_iter().enumerate() {
        let payload: Vec<u8> = (0..bytes).map(|at| (at / 3 + i) as u8).collect();
        clients[i].send(&publish("t", QoS::AtMostOnce, 0, &payload));
        for (client, name) in clients.iter_mut().zip(ALL) {
            assert_eq!(client.expect_publish().payload, payload, "{bytes} bytes to {name}");
        }
    }
    let http = all.broker.running().http_addr().unwrap();
    assert_eq!(metric(http, "postrider_connections"), 7);
    assert_eq!(metric(http, "postrider_connections_accepted_total"), 7);
    assert_eq!(metric(http, "postrider_handshakes_total"), 4);
}

/// [MQTT-6.0.0-2]
#[test]
fn packets_may_be_cut_anywhere() {
    let all = Everything::start();
    let packets = [
        connect(V5, "cut"),
        subscribe("t", QoS::AtMostOnce),
        publish("t", QoS::AtMostOnce, 0, b"payload"),
        Packet::PingReq,
    ];
    for name in ["tls", "wss", "ws", "http", "unix", "proxied"] {
        let bytes = RawClient::over(std::io::Cursor::new(Vec::new()), V5).encode(&packets);
        for step in 1..=bytes.len() {
            let mut stream = all.stream(name, step);
            // Frames cut by themselves; else each piece is a record or a write of its own.
            for piece in bytes.chunks(if name.contains("ws") || name == "http" { bytes.len() } else { step })
            {
                stream.write_all(piece).unwrap();
                stream.flush().unwrap();
            }
            let mut client = RawClient::over(stream, V5);
            client.expect_connack(ReasonCode::Success);
            assert!(matches!(client.expect(), Packet::SubAck(_)));
            assert_eq!(client.expect_publish().payload, b"payload"[..], "{name} in pieces of {step}");
            assert_eq!(client.expect(), Packet::PingResp);
        }
    }
}

#[test]
fn a_slow_reader_gets_everything_over_each_transport() {
    let all = Everything::start();
    let mut publisher = all.broker.connected("publisher");
    for name in ALL {
        let mut slow = all.connected(name, &format!("slow-{name}"));
        slow.subscribe(name, QoS::AtLeastOnce);
        let payload = vec![7; 60_000];
        // Far more than sockets and TLS take: the rest waits in the broker.
        for id in 1..=200 {
            publisher.send(&publish(name, QoS::AtLeastOnce, id, &payload));
            publisher.expect_puback(id);
        }
        for _ in 0..200 {
            assert_eq!(slow.expect_publish().payload, payload);
        }
        slow.ping();
    }
}

#[test]
fn at_the_end_clients_of_each_transport_are_told_and_the_transport_is_closed_in_order() {
    let all = Everything::start();
    let mut clients: Vec<_> = ALL.iter().map(|name| all.connected(name, name)).collect();
    let socket = all.broker.dir().join("mqtt.sock");
    assert!(socket.exists());
    let _dir = all.broker.stop();
    for client in &mut clients {
        // A TLS stream that ends without close_notify would be an error here.
        client.expect_disconnect(ReasonCode::ServerShuttingDown);
    }
    assert!(!socket.exists());
}

#[test]
fn a_broker_may_serve_nothing_but_other_listeners() {
    let authority = Authority::new();
    let broker = TestBroker::start_with(|config| {
        config.mqtt.enabled = false;
        config.listener = vec![authority.listener(Transport::Tls)];
    });
    assert_eq!(broker.running().mqtt_addr(), None);
    let mut client = RawClient::over(authority.tls(addr(&broker, "tls")), V5);
    client.send(&connect(V5, "one"));
    client.expect_connack(ReasonCode::Success);
}

/// Sends a request and returns the head and body of the answer.
fn answer(addr: SocketAddr, request: &str) -> (String, String) {
    let mut stream = dial(addr);
    stream.write_all(request.as_bytes()).unwrap();
    let head = read_head(&mut stream);
    let length = head
        .to_lowercase()
        .split("content-length: ")
        .nth(1)
        .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

#[test]
fn requests_that_are_no_websocket_get_the_answer_that_says_why() {
    let all = Everything::start();
    let http = all.broker.running().http_addr().unwrap();
    for addr in [all.addr("ws"), http] {
        for (request, status, header) in [
            ("GET /mqtt HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 426, "upgrade: websocket"),
            ("GET /other HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 404, ""),
            ("POST /mqtt HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".to_owned(), 405, "allow: GET"),
            (UPGRADE.replace("Version: 13", "Version: 7"), 426, "sec-websocket-version: 13"),
            (UPGRADE.replace("Protocol: mqtt", "Protocol: chat"), 400, ""),
            (UPGRADE.replace("dGhlIHNhbXBsZSBub25jZQ==", "eA=="), 400, ""),
            (UPGRADE.replace("Host:", "Origin: https://evil.example\r\nHost:"), 403, ""),
        ] {
            let (head, body) = answer(addr, &request);
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request}\n{head}");
            assert!(head.to_lowercase().contains(&header.to_lowercase()), "{head}");
            assert!(status == 404 || body.len() > 10, "{status}: {body:?}");
        }
    }
    assert!(answer(all.addr("ws"), "\x16\x03\x01 no HTTP\r\n\r\n").0.starts_with("HTTP/1.1 400 "));
    all.connected("ws", "after").ping();
}

#[test]
fn the_old_subprotocol_and_an_allowed_page_are_taken() {
    let broker = TestBroker::start_with(|config| {
        config.listener = vec![ListenerConfig {
            path: "/".to_owned(),
            origins: vec!["https://app.example".to_owned()],
            ..listener(Transport::Ws)
        }];
    });
    let request = UPGRADE
        .replace("/mqtt HTTP", "/ HTTP")
        .replace("Protocol: mqtt", "Protocol: mqttv3.1")
        .replace("Host:", "Origin: https://app.example\r\nHost:");
    let (head, _) = answer(addr(&broker, "ws"), &request);
    assert!(head.contains("Sec-WebSocket-Protocol: mqttv3.1\r\n"), "{head}");
}

/// Reads frames to the end of the stream and returns the control frames.
fn control_frames(mut socket: WebSocket<impl Stream>) -> Vec<(u8, Vec<u8>)> {
    while socket.read_frame().unwrap() {}
    socket.control
}

fn connect_bytes(id: &str) -> Vec<u8> {
    RawClient::over(std::io::Cursor::new(Vec::new()), V5).encode(&[connect(V5, id)]).to_vec()
}

/// [MQTT-6.0.0-1]
#[test]
fn a_text_frame_ends_the_connection_and_publishes_its_will() {
    let all = Everything::start();
    let mut watcher = all.broker.connected("watcher");
    watcher.subscribe("will", QoS::AtMostOnce);
    let Packet::Connect(base) = connect(V5, "will") else { unreachable!() };
    let will = Will {
        topic: "will".into(),
        payload: b"gone"[..].into(),
        qos: QoS::AtMostOnce,
        retain: false,
        delay_interval_s: None,
        properties: Default::default(),
    };
    let with_will = Packet::Connect(Box::new(Connect { will: Some(Box::new(will)), ..*base }));
    let bytes = RawClient::over(std::io::Cursor::new(Vec::new()), V5).encode(&[with_will]);
    for (first, payload, status) in
        [(0x81, &b"text"[..], 1003_u16), (0xc2, b"", 1002), (0x88, &1001_u16.to_be_bytes(), 1001)]
    {
        let mut socket = WebSocket::open(dial(all.addr("ws")), usize::MAX);
        socket.write_all(&bytes).unwrap();
        assert!(socket.read_frame().unwrap(), "CONNACK");
        socket.send_frame(first, payload);
        assert_eq!(control_frames(socket), [(0x88, status.to_be_bytes().to_vec())]);
        assert_eq!(watcher.expect_publish().payload, b"gone"[..]);
    }
}

#[test]
fn pings_are_answered_and_pongs_taken() {
    let all = Everything::start();
    for name in ["ws", "http"] {
        let addr = if name == "http" { all.broker.running().http_addr().unwrap() } else { all.addr(name) };
        let mut socket = WebSocket::open(dial(addr), usize::MAX);
        socket.send_frame(0x8a, b"unasked");
        socket.send_frame(0x89, b"are you there?");
        while socket.control.is_empty() {
            assert!(socket.read_frame().unwrap());
        }
        assert_eq!(socket.control, [(0x8a, b"are you there?".to_vec())]);
        socket.write_all(&connect_bytes("one")).unwrap();
        assert!(socket.read_frame().unwrap(), "CONNACK");
    }
}

/// A client may send before it has the answer; what came with the request belongs to the frames.
#[test]
fn bytes_that_come_with_the_handshake_are_not_lost() {
    let all = Everything::start();
    let http = all.broker.running().http_addr().unwrap();
    let together = [UPGRADE.as_bytes(), &frame(0x82, &connect_bytes("early"))].concat();
    for addr in [all.addr("ws"), http] {
        let mut stream = dial(addr);
        stream.write_all(&together).unwrap();
        assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).unwrap();
        assert_eq!((connack[0], connack[2]), (0x82, 0x20));
    }
    let mut proxied = dial(all.addr("proxied"));
    proxied.write_all(&[b"PROXY UNKNOWN\r\n", &connect_bytes("early")[..]].concat()).unwrap();
    let mut connack = [0; 1];
    proxied.read_exact(&mut connack).unwrap();
    assert_eq!(connack, [0x20]);
}

#[test]
fn a_client_that_leaves_is_answered_in_each_layer() {
    let all = Everything::start();
    let mut socket = WebSocket::open(all.authority.tls(all.addr("wss")), usize::MAX);
    socket.write_all(&connect_bytes("one")).unwrap();
    assert!(socket.read_frame().unwrap(), "CONNACK");
    // DISCONNECT, then a close of the WebSocket: both are answered, TLS ends with close_notify.
    socket.write_all(&[0xe0, 0x00]).unwrap();
    socket.send_frame(0x88, &1000_u16.to_be_bytes());
    assert_eq!(control_frames(socket), [(0x88, 1000_u16.to_be_bytes().to_vec())]);

    let mut tls = all.authority.tls(all.addr("tls"));
    tls.write_all(&connect_bytes("two")).unwrap();
    tls.read_exact(&mut [0; 2]).unwrap();
    tls.conn.send_close_notify();
    tls.flush().unwrap();
    let mut rest = Vec::new();
    tls.read_to_end(&mut rest).expect("close_notify before the end");
}
