//! Frames over a pipe in memory: cut anywhere, with control frames between, and frames that break the rules.

use tokio::io::{DuplexStream, duplex};

use super::*;

fn pair(bytes: usize) -> (WebSocket<DuplexStream>, DuplexStream) {
    let (ours, theirs) = duplex(bytes);
    (WebSocket::new(ours), theirs)
}

/// A frame as servers send it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(len as u8),
        len @ 126..65_536 => {
            bytes.push(126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            bytes.push(127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// Reads a frame as a server does: opcode and payload.
async fn read_frame(stream: &mut DuplexStream) -> (u8, Vec<u8>) {
    let [first, second] = [stream.read_u8().await.unwrap(), stream.read_u8().await.unwrap()];
    assert_eq!((first & 0xf0, second & MASKED), (LAST, MASKED), "whole, without reserved bits, masked");
    let length = match second & 0x7f {
        126 => u64::from(stream.read_u16().await.unwrap()),
        127 => stream.read_u64().await.unwrap(),
        length => u64::from(length),
    };
    let mut mask = [0; 4];
    stream.read_exact(&mut mask).await.unwrap();
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut payload).await.unwrap();
    for (at, byte) in payload.iter_mut().enumerate() {
        *byte ^= mask[at % 4];
    }
    (first & 0x0f, payload)
}

#[tokio::test]
async fn payload_comes_through_however_frames_are_cut_and_pings_are_answered() {
    let mut sent = Vec::new();
    let mut expected = Vec::new();
    for (at, len) in [0_usize, 1, 125, 126, 65_535, 65_536, 70_000].into_iter().enumerate() {
        let payload = vec![at as u8 + 1; len];
        let (a, b) = payload.split_at(len / 2);
        sent.extend(frame(BINARY, a));
        sent.extend(frame(LAST | PING, &[at as u8; 100]));
        sent.extend(frame(LAST | PONG, b"unasked"));
        sent.extend(frame(LAST | CONTINUATION, b));
        sent.extend(frame(LAST | BINARY, b"."));
        expected.extend(payload);
        expected.push(b'.');
    }
    sent.extend(frame(LAST | CLOSE, &[]));
    for (pipe, cut) in [(7, 1), (1_000, 13), (1 << 20, 1 << 20)] {
        let (mut socket, mut server) = pair(pipe);
        let sent = sent.clone();
        let serving = tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(&mut server);
            let writing = async {
                for piece in sent.chunks(cut) {
                    write.write_all(piece).await.unwrap();
                }
            };
            let mut answers = Vec::new();
            let reading = async {
                read.read_to_end(&mut answers).await.unwrap();
            };
            tokio::join!(writing, reading);
            answers
        });
        let mut received = Vec::new();
        let mut piece = [0; 777];
        loop {
            match socket.read(&mut piece).await.unwrap() {
                0 => break,
                len => received.extend_from_slice(&piece[..len]),
            }
        }
        assert!(received == expected, "pipe of {pipe}, pieces of {cut}");
        socket.shutdown().await.unwrap();
        drop(socket);
        let (mut client, mut answers) = duplex(1 << 20);
        client.write_all(&serving.await.unwrap()).await.unwrap();
        for at in 0..7 {
            assert_eq!(read_frame(&mut answers).await, (PONG, vec![at; 100]));
        }
        assert_eq!(read_frame(&mut answers).await, (CLOSE, NORMAL.to_be_bytes().to_vec()));
    }
}

#[tokio::test]
async fn what_is_written_arrives_in_masked_frames_whatever_its_size_and_the_end_is_a_close() {
    let (socket, mut server) = pair(5_000);
    let lengths = [1, 125, 126, 30_000, FRAME_BYTES_MAX, FRAME_BYTES_MAX + 1, 300_000];
    let writing = tokio::spawn(async move {
        let (_read, mut write) = tokio::io::split(socket);
        for (at, len) in lengths.into_iter().enumerate() {
            write.write_all(&vec![at as u8; len]).await.unwrap();
        }
        write.flush().await.unwrap();
        write.shutdown().await.unwrap();
        assert!(write.write(b"x").await.is_err(), "nothing follows a close");
    });
    let mut received = Vec::new();
    loop {
        match read_frame(&mut server).await {
            (BINARY, payload) => received.extend(payload),
            (opcode, payload) => {
                assert_eq!((opcode, payload), (CLOSE, NORMAL.to_be_bytes().to_vec()));
                break;
            }
        }
    }
    let expected: Vec<u8> = lengths.iter().enumerate().flat_map(|(at, len)| vec![at as u8; *len]).collect();
    assert!(received == expected);
    writing.await.unwrap();
}

#[tokio::test]
async fn frames_that_break_the_rules_end_the_connection_with_a_close() {
    for (bytes, expected) in [
        (frame(LAST | 1, b"text"), "type 1"),
        (frame(LAST | 0x40 | BINARY, b""), "reserved bits"),
        (frame(LAST | CONTINUATION, b""), "does not follow"),
        ([frame(BINARY, b"a"), frame(LAST | BINARY, b"b")].concat(), "does not follow"),
        (frame(PING, b""), "cut or too long"),
        (frame(LAST | PING, &[0; 126]), "cut or too long"),
        (vec![LAST | BINARY, MASKED | 1, 0, 0, 0, 0, 0], "masked"),
        (frame(LAST | 11, b""), "type 11"),
    ] {
        let (mut socket, mut server) = pair(1_000);
        server.write_all(&bytes).await.unwrap();
        let mut out = Vec::new();
        let error = socket.read_to_end(&mut out).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(read_frame(&mut server).await, (CLOSE, PROTOCOL_ERROR.to_be_bytes().to_vec()));
        assert_eq!(socket.read(&mut [0; 8]).await.unwrap(), 0, "nothing is read after it");
    }
}

#[tokio::test]
async fn a_server_that_is_no_web_socket_for_mqtt_is_told_from_one() {
    let endpoint: Endpoint = "ws://[::1]:80/mqtt".parse().unwrap();
    let good = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
                Sec-WebSocket-Accept: ACCEPT\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
    for (from, to, expected) in [
        ("", "", None),
        ("101 Switching Protocols", "404 Not Found", Some("the answer to /mqtt is 404")),
        ("Upgrade: WebSocket", "Upgrade: h2c", Some("does not upgrade")),
        ("ACCEPT", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", Some("did not prove")),
        ("Protocol: mqtt", "Protocol: chat", Some("another subprotocol")),
        ("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n", Some("extension")),
    ] {
        let (client, mut server) = duplex(10_000);
        let serving = tokio::spawn(async move {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(server.read_u8().await.unwrap());
            }
            let request = String::from_utf8(request).unwrap();
            assert!(request.starts_with("GET /mqtt HTTP/1.1\r\nHost: [::1]:80\r\n"), "{request}");
            assert!(request.contains("Sec-WebSocket-Protocol: mqtt\r\n"), "{request}");
            let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
            let accept =
                STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{MAGIC}").as_bytes()));
            let answer = good.replacen(from, to, usize::from(!from.is_empty())).replace("ACCEPT", &accept);
            server.write_all(answer.as_bytes()).await.unwrap();
            server
        });
        let opened = open(client, &endpoint, 80).await;
        match (opened, expected) {
            (Ok(_), None) => {}
            (Err(error), Some(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (opened, expected) => panic!("{:?} instead of {expected:?}", opened.map(drop)),
        }
        serving.await.unwrap();
    }
}
