//! The bad things at doors with a handshake: TLS, WebSocket, the PROXY protocol.

use fastrand::Rng;

use super::attack::Peer;
use super::deeds::{connect_bytes, random, version};

/// A good request to speak MQTT over WebSocket.
const UPGRADE: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

pub(super) async fn random_bytes(peer: &mut Peer, mut rng: Rng) {
    let len = rng.usize(100..20_000);
    peer.send(&random(&mut rng, len)).await;
    peer.until_closed().await;
}

/// Nothing comes after it: the handshake's time must end it.
pub(super) async fn half_a_hello(peer: &mut Peer, mut rng: Rng) {
    let mut hello = vec![0x16, 0x03, 0x01, 0x40, 0x00, 0x01, 0x00, 0x3f, 0xfc, 0x03, 0x03];
    let len = rng.usize(..8_000);
    hello.extend(random(&mut rng, len));
    peer.send(&hello).await;
    peer.until_closed().await;
}

pub(super) async fn endless_request(peer: &mut Peer, mut rng: Rng) {
    let endless = match rng.u8(..3) {
        0 => b"GET /mqtt HTTP/1.1\r\nX: ".iter().copied().chain(vec![b'x'; 100_000]).collect(),
        1 => b"GET /mqtt HTTP/1.1\r\n".iter().copied().chain(b"X: y\r\n".repeat(20_000)).collect(),
        _ => UPGRADE[..rng.usize(..UPGRADE.len())].to_vec(),
    };
    peer.send(&endless).await;
    peer.until_closed().await;
}

pub(super) async fn bad_requests(peer: &mut Peer, mut rng: Rng) {
    let bad: [&[u8]; 5] = [
        b"POST /mqtt HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET /mqtt HTTP/1.0\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
    ];
    peer.send(bad[rng.usize(..bad.len())]).await;
    peer.until_closed().await;
}

pub(super) async fn bad_frames(peer: &mut Peer, mut rng: Rng) {
    if !peer.send(UPGRADE).await || !peer.answered().await {
        return;
    }
    let frames: [&[u8]; 7] = [
        // Not masked, text, reserved bits, a reserved opcode, a length of 2^63, a long ping, a continuation of nothing.
        &[0x82, 0x02, 0xc0, 0x00],
        &[0x81, 0x82, 0, 0, 0, 0, b'h', b'i'],
        &[0xf2, 0x82, 0, 0, 0, 0, 0xc0, 0x00],
        &[0x83, 0x82, 0, 0, 0, 0, 0xc0, 0x00],
        &[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0x89, 0xfe, 0x40, 0x00, 0, 0, 0, 0],
        &[0x80, 0x82, 0, 0, 0, 0, 0xc0, 0x00],
    ];
    peer.send(frames[rng.usize(..frames.len())]).await;
    peer.until_closed().await;
}

/// MQTT in frames of one byte, with empty ones between, then pings of WebSocket without end.
pub(super) async fn tiny_frames(peer: &mut Peer, mut rng: Rng) {
    if !peer.send(UPGRADE).await || !peer.answered().await {
        return;
    }
    let connect = connect_bytes(peer, version(&mut rng));
    let mut frames = Vec::new();
    for (at, byte) in connect.iter().enumerate() {
        let first = if at == 0 { 0x02 } else { 0x00 };
        frames.extend([first, 0x81, 0, 0, 0, 0, *byte]);
        frames.extend([0x00, 0x80, 0, 0, 0, 0]);
    }
    frames.extend([0x80, 0x80, 0, 0, 0, 0]);
    frames.extend([0x89, 0x80, 0, 0, 0, 0].repeat(5_000));
    if peer.send(&frames).await {
        peer.answered().await;
    }
    peer.close().await;
}

pub(super) async fn bad_proxy_headers(peer: &mut Peer, mut rng: Rng) {
    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    let v2 = |rest: &[u8]| [V2, rest].concat();
    let headers: [Vec<u8>; 8] = [
        b"PROXY TCP4 256.0.0.1 1.2.3.4 1 2\r\n".to_vec(),
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 99999\r\n".to_vec(),
        [b"PROXY ".as_slice(), &[b'x'; 5_000]].concat(),
        b"PROXY TCP6 ::1".to_vec(),
        v2(&[0x21, 0x11, 0x00, 0x02, 1, 2]),
        v2(&[0x91, 0x11, 0x00, 0x0c]),
        v2(&[0x21, 0x11, 0xff, 0xff]),
        V2[..rng.usize(..V2.len())].to_vec(),
    ];
    peer.send(&headers[rng.usize(..headers.len())]).await;
    peer.until_closed().await;
}
