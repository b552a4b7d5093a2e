//! What happens before MQTT: certificates and their change, slow and broken handshakes, PROXY headers.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Instant,
};

use broker::{
    Broker,
    config::{ClientCertificateMode, Counted, HostPort, ListenerConfig, TlsVersion, Transport},
};
use protocol::{ProtocolVersion, ReasonCode};
use rustls::{ClientConfig, HandshakeKind};

use crate::{
    harness::{PATIENCE, RawClient, TestBroker, config, connect, dial},
    http::metric,
    streams::{Authority, Tls, WebSocket, listener, tls},
    transports::addr,
};

const V5: ProtocolVersion = ProtocolVersion::V5;

fn start(listeners: Vec<ListenerConfig>) -> TestBroker {
    TestBroker::start_with(|config| config.listener = listeners)
}

fn connected(stream: Tls, id: &str) -> RawClient {
    let mut client = RawClient::over(stream, V5);
    client.send(&connect(V5, id));
    client.expect_connack(ReasonCode::Success);
    client
}

/// Says whether a client gets so far as to MQTT.
fn may_come_in(addr: SocketAddr, config: ClientConfig) -> bool {
    let mut stream = tls(addr, config);
    // With TLS 1.3 a client learns that its certificate is refused after its own handshake is done.
    let outcome = stream.write_all(&[0xc0, 0x00]).and_then(|()| stream.read(&mut [0; 64]));
    match outcome {
        // PINGREQ without CONNECT: closed in order, by whoever had it in MQTT.
        Ok(_) => true,
        Err(error) => {
            assert!(error.to_string().contains("alert"), "{error}");
            false
        }
    }
}

#[test]
fn clients_without_a_good_certificate_stay_outside_where_one_is_required() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.revoke(&[66]);
    let mut required = authority.mutual(ClientCertificateMode::Required);
    required.client_crl = vec![authority.path("ca.crl")];
    let mut optional = authority.mutual(ClientCertificateMode::Optional);
    optional.name = "optional".to_owned();
    let broker = start(vec![required, optional]);
    let (required, optional) = (addr(&broker, "tls"), addr(&broker, "optional"));
    let (good, revoked, foreign) =
        (authority.sign("truck-7", 7), authority.sign("truck-66", 66), stranger.sign("truck-7", 7));
    for (addr, pair, expected) in [
        (required, Some(&good), true),
        (required, None, false),
        (required, Some(&revoked), false),
        (required, Some(&foreign), false),
        (optional, Some(&good), true),
        (optional, None, true),
        (optional, Some(&foreign), false),
    ] {
        for version in [TlsVersion::V12, TlsVersion::V13] {
            assert_eq!(may_come_in(addr, authority.client_of(pair, version)), expected, "{version:?}");
        }
    }
}

#[test]
fn the_oldest_version_is_the_one_that_is_set() {
    let authority = Authority::new();
    let new_only = ListenerConfig {
        name: "new".to_owned(),
        tls_min: TlsVersion::V13,
        ..authority.listener(Transport::Tls)
    };
    let broker = start(vec![authority.listener(Transport::Tls), new_only]);
    for (name, version, expected) in [
        ("tls", TlsVersion::V12, true),
        ("tls", TlsVersion::V13, true),
        ("new", TlsVersion::V12, false),
        ("new", TlsVersion::V13, true),
    ] {
        let client = authority.client_of(None, version);
        assert_eq!(may_come_in(addr(&broker, name), client), expected, "{name} {version:?}");
    }
}

#[test]
fn the_protocol_name_is_taken_and_another_is_refused() {
    let authority = Authority::new();
    let broker = start(vec![authority.listener(Transport::Tls)]);
    for (name, expected) in [("mqtt", true), ("h2", false)] {
        let mut client = authority.client(None);
        client.alpn_protocols = vec![name.into()];
        assert_eq!(may_come_in(addr(&broker, "tls"), client), expected, "{name}");
    }
}

#[test]
fn a_client_that_comes_back_resumes_until_the_certificate_changes() {
    let authority = Authority::new();
    let broker = start(vec![authority.listener(Transport::Tls)]);
    let addr = addr(&broker, "tls");
    for version in [TlsVersion::V12, TlsVersion::V13] {
        let client = authority.client_of(None, version);
        let kind = |client: &ClientConfig| {
            let mut stream = tls(addr, client.clone());
            // PINGREQ first is no MQTT; the answer to it ends the stream, after the ticket.
            stream.write_all(&[0xc0, 0x00]).unwrap();
            let _ = stream.read(&mut [0; 16]);
            stream.conn.handshake_kind().unwrap()
        };
        assert_eq!(kind(&client), HandshakeKind::Full);
        assert_eq!(kind(&client), HandshakeKind::Resumed);
        broker.running().reload();
        let deadline = Instant::now() + PATIENCE;
        while kind(&client) == HandshakeKind::Resumed {
            assert!(Instant::now() < deadline, "old tickets are still taken");
        }
    }
}

/// The name on the certificate that the broker shows.
fn shown(authority: &Authority, addr: SocketAddr) -> Vec<u8> {
    let mut stream = authority.tls(addr);
    stream.flush().unwrap();
    stream.conn.complete_io(&mut stream.sock).unwrap();
    stream.conn.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn a_new_certificate_is_used_and_who_is_connected_stays() {
    let authority = Authority::new();
    let broker = start(vec![authority.listener(Transport::Tls), authority.listener(Transport::Wss)]);
    let (plain, web) = (addr(&broker, "tls"), addr(&broker, "wss"));
    let mut before = connected(authority.tls(plain), "before");
    let mut web_before = RawClient::over(WebSocket::open(authority.tls(web), 10), V5);
    web_before.send(&connect(V5, "web"));
    web_before.expect_connack(ReasonCode::Success);
    let first = shown(&authority, plain);

    // A pair that does not match is refused, and what was there stays.
    let key = std::fs::read_to_string(authority.path("server.key")).unwrap();
    authority.sign_server("second");
    let second_key = std::fs::read_to_string(authority.path("server.key")).unwrap();
    authority.write("server.key", &key);
    broker.running().reload();
    assert_eq!(shown(&authority, plain), first);

    // By itself: nobody asks for the reload.
    authority.write("server.key", &second_key);
    let deadline = Instant::now() + PATIENCE;
    while shown(&authority, plain) == first || shown(&authority, web) == first {
        assert!(Instant::now() < deadline, "the new certificate is not used");
    }
    before.ping();
    web_before.ping();
    connected(authority.tls(plain), "after").ping();
}

#[test]
fn a_certificate_that_cannot_be_used_is_told_at_the_start() {
    let authority = Authority::new();
    authority.write("server.crt", "nothing");
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.listener = vec![authority.listener(Transport::Tls)];
    let error = Broker::start(config).unwrap_err().to_string();
    let expected = format!(
        "listener \"tls\" cannot serve TLS: {} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)",
        authority.path("server.crt").display()
    );
    assert_eq!(error, expected);
}

/// Half a handshake of each kind.
fn halves(broker: &TestBroker) -> Vec<(SocketAddr, &'static [u8])> {
    let tls_hello: &[u8] = &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01];
    vec![
        (addr(broker, "tls"), b""),
        (addr(broker, "tls"), tls_hello),
        (addr(broker, "wss"), tls_hello),
        (addr(broker, "ws"), b"GET /mqtt HTTP/1.1\r\nHost: "),
        (addr(broker, "proxied"), b"PROXY TCP4 203.0.113.7 "),
        (addr(broker, "proxied"), b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x01"),
    ]
}

fn with_all(authority: &Authority, change: impl FnOnce(&mut broker::Config)) -> TestBroker {
    TestBroker::start_with(|config| {
        let proxied = ListenerConfig {
            name: "proxied".to_owned(),
            proxy_protocol: true,
            anonymous: Some(true),
            ..listener(Transport::Tcp)
        };
        config.listener = vec![
            authority.listener(Transport::Tls),
            authority.listener(Transport::Wss),
            listener(Transport::Ws),
            proxied,
        ];
        change(config);
    })
}

fn begin(addr: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = dial(addr);
    stream.write_all(bytes).unwrap();
    stream
}

#[test]
fn handshakes_that_hang_delay_nobody_and_give_way_to_newer_ones() {
    const HANGING_MAX: u64 = 50;
    const HANGING: u64 = 120;
    let authority = Authority::new();
    let broker = with_all(&authority, |config| {
        config.mqtt.handshakes_max = HANGING_MAX as u32;
        // Longer than the test has patience: whoever waits for one of these fails it.
        config.mqtt.handshake_timeout_s = 600;
        config.http.enabled = true;
        config.http.listen = HostPort::new("127.0.0.1", 0);
    });
    let halves = halves(&broker);
    let hanging: Vec<_> =
        halves.iter().cycle().take(HANGING as usize).map(|(addr, bytes)| begin(*addr, bytes)).collect();
    let failed = || metric(broker.running().http_addr().unwrap(), "postrider_handshakes_failed_total");
    let deadline = Instant::now() + PATIENCE;
    while failed() < HANGING - HANGING_MAX {
        assert!(Instant::now() < deadline, "only {} gave way", failed());
    }
    connected(authority.tls(addr(&broker, "tls")), "one").ping();
    let mut web = RawClient::over(WebSocket::open(dial(addr(&broker, "ws")), 100), V5);
    web.send(&connect(V5, "two"));
    web.expect_connack(ReasonCode::Success);
    // The first took the place of one, the second found it free.
    assert_eq!(failed(), HANGING - HANGING_MAX + 1);
    drop(hanging);
}

#[test]
fn a_handshake_that_takes_too_long_ends() {
    let authority = Authority::new();
    let broker = with_all(&authority, |config| config.mqtt.handshake_timeout_s = 1);
    for (addr, bytes) in halves(&broker) {
        let mut stream = begin(addr, bytes);
        let mut rest = Vec::new();
        // However it ends: nothing that was sent is answered.
        let _ = stream.read_to_end(&mut rest);
        assert_eq!(rest, b"", "after {bytes:?}");
    }
}

#[test]
fn garbage_in_a_handshake_ends_that_connection_only() {
    let authority = Authority::new();
    let broker = with_all(&authority, |_| {});
    let long = vec![b'A'; 200_000];
    for name in ["tls", "wss", "ws", "proxied"] {
        for bytes in
            [&b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00"[..], b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0", &long]
        {
            let mut stream = dial(addr(&broker, name));
            // The broker may close before all is written.
            let _ = stream.write_all(bytes);
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            assert!(rest.is_empty() || name != "proxied", "{name}: {rest:?}");
        }
    }
    connected(authority.tls(addr(&broker, "tls")), "one").ping();
}

#[test]
fn a_proxied_listener_takes_good_headers_and_nothing_else() {
    let authority = Authority::new();
    let proxied_tls = ListenerConfig {
        name: "proxied-tls".to_owned(),
        proxy_protocol: true,
        anonymous: Some(true),
        ..authority.listener(Transport::Tls)
    };
    let broker = with_all(&authority, |config| config.listener.push(proxied_tls));
    let v2 =
        [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c"[..], &[203, 0, 113, 7, 127, 0, 0, 1, 1, 2, 3, 4]].concat();
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
    for header in [&b"PROXY TCP6 2001:db8::9 ::1 80 1883\r\n"[..], b"PROXY UNKNOWN\r\n", &v2, local] {
        let mut client = RawClient::over(begin(addr(&broker, "proxied"), header), V5);
        client.send(&connect(V5, "one"));
        client.expect_connack(ReasonCode::Success);
        let mut stream = authority.tls(addr(&broker, "proxied-tls"));
        stream.sock.write_all(header).unwrap();
        connected(stream, "two").ping();
    }
    for header in [
        &b"PROXY TCP4 1.2.3.4 1.2.3.4 1 99999\r\n"[..],
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\x00\x00",
        b"GET / HTTP/1.1\r\n",
    ] {
        for name in ["proxied", "proxied-tls"] {
            let mut stream = begin(addr(&broker, name), header);
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            assert_eq!(rest, b"", "{header:?}");
        }
    }
}

/// The bounds by address are those of the client behind the proxy, not of the proxy.
#[test]
fn bounds_by_address_hold_for_the_address_that_the_proxy_tells() {
    let authority = Authority::new();
    let broker = with_all(&authority, |config| {
        config.limits.unconnected_per_address_max = 1;
        config.http.enabled = true;
        config.http.listen = HostPort::new("127.0.0.1", 0);
    });
    let http = broker.running().http_addr().unwrap();
    let from = |ip: &str| {
        begin(addr(&broker, "proxied"), format!("PROXY TCP4 {ip} 127.0.0.1 1 1883\r\n").as_bytes())
    };
    let _first = from("203.0.113.7");
    let deadline = Instant::now() + PATIENCE;
    while metric(http, "postrider_sockets") < 1 {
        assert!(Instant::now() < deadline, "the first one does not come in");
    }
    assert_eq!(from("203.0.113.7").read(&mut [0]).unwrap(), 0, "one too many from this address");
    let mut other = RawClient::over(from("203.0.113.8"), V5);
    other.send(&connect(V5, "other"));
    other.expect_connack(ReasonCode::Success);
}

#[test]
fn handshakes_that_failed_count_no_longer_against_their_address() {
    let authority = Authority::new();
    let broker = with_all(&authority, |config| {
        config.abuse.loopback = Counted::Address;
        config.limits.unconnected_per_address_max = 3;
        // Longer than the test has patience: no end is one of time.
        config.mqtt.handshake_timeout_s = 600;
    });
    for _ in 0..10 {
        let mut stream = begin(addr(&broker, "tls"), b"no TLS at all");
        // The alert, and the end.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    connected(authority.tls(addr(&broker, "tls")), "one").ping();
    // Those that hang do count: one more is closed at once.
    let _hanging: Vec<_> = (0..3).map(|_| begin(addr(&broker, "tls"), b"")).collect();
    let outcome = begin(addr(&broker, "tls"), b"").read(&mut [0]);
    assert!(matches!(outcome, Ok(0)), "{outcome:?}");
}
