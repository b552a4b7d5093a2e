//! Whom the door lets through as whom.

use std::io::Write;

use super::*;
use crate::config::{ListenerConfig, Transport};

const LIMITS: HandshakeLimits = HandshakeLimits {
    handshakes_max: 10,
    handshake_timeout: Duration::from_secs(60),
    message_bytes_max: MESSAGE_BYTES_MIN,
};

/// Does the handshake of a client that sends these bytes.
fn attend_to(config: ListenerConfig, bytes: &[u8]) -> Result<Arrival, String> {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = std::net::TcpStream::connect(socket.local_addr().unwrap()).unwrap();
    client.write_all(bytes).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let (stream, address) = socket.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let listener = Arc::new(Listener { name: "test".to_owned(), is_loopback_only: false, config, tls: None });
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    executor.block_on(handshake(Waiting { stream, address, listener, seat: None }, LIMITS))
}

fn proxied(transport: Transport, proxy_identity: bool) -> ListenerConfig {
    ListenerConfig { transport, proxy_protocol: true, proxy_identity, ..ListenerConfig::default() }
}

/// A header of version 2 for 203.0.113.7:12345, with a verified certificate of this name.
fn header(name: &[u8]) -> Vec<u8> {
    let inner = [&[0x03, 0, 0, 0, 0, 0x22, 0, name.len() as u8][..], name].concat();
    let body =
        [&[203, 0, 113, 7, 127, 0, 0, 1, 0x30, 0x39, 0x07, 0x5b][..], &[0x20, 0, inner.len() as u8], &inner]
            .concat();
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0"[..], &[body.len() as u8], &body].concat()
}

#[test]
fn a_proxied_client_has_its_own_address_and_its_name_where_that_is_asked_for() {
    for (is_named, expected) in [(true, Some("truck-7")), (false, None)] {
        let arrival = attend_to(proxied(Transport::Tcp, is_named), &header(b"truck-7")).unwrap();
        assert_eq!(arrival.peer.address, PeerAddr::Ip("203.0.113.7:12345".parse().unwrap()));
        let identity = arrival.peer.certificate.map(|certificate| certificate.identity);
        assert_eq!(identity.as_deref(), expected);
        assert!(arrival.layers.are_none(), "after the header it is plain TCP");
    }
    let error = attend_to(proxied(Transport::Tcp, true), &header(b"line\nbreak")).unwrap_err();
    assert!(error.contains("control characters"), "{error}");
}

#[test]
fn a_proxy_that_speaks_for_itself_keeps_its_address() {
    let arrival = attend_to(proxied(Transport::Tcp, true), b"PROXY UNKNOWN\r\n").unwrap();
    assert!(arrival.peer.address.ip().unwrap().is_loopback());
    assert_eq!(arrival.peer.certificate, None);
}

#[test]
fn what_comes_after_the_request_waits_for_the_frames() {
    let request = "GET /mqtt HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Protocol: mqtt\r\n\r\nearly";
    let bytes = [&header(b"")[..], request.as_bytes()].concat();
    let arrival = attend_to(proxied(Transport::Ws, false), &bytes).unwrap();
    assert_eq!(arrival.layers.early[..], *b"early");
    assert!(arrival.layers.frames.is_some());
}
