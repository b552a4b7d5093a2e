//! The client's side of WebSocket (RFC 6455) over any stream, for tests: it cuts what it sends into frames of odd
//! sizes, some of them fragments with pings in between, so that no packet stands in a frame of its own.
//!
//! Written by hand, so that the broker's implementation is not tested with itself.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::Duration;

use crate::transport::Stream;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
const LAST: u8 = 0x80;

/// The key of the RFC's example, whose answer is known.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Sizes of the frames sent, one after the other.
const CUTS: [usize; 9] = [1, 2, 3, 5, 1, 130, 7, 70_000, 11];

/// The answer to an upgrade request.
pub(crate) struct Answer {
    /// The status line's code.
    pub(crate) status: u16,
    /// The head, lower case, for looking at.
    pub(crate) head: String,
}

/// A connection whose bytes travel in binary frames.
pub(crate) struct WebSocket {
    stream: Box<dyn Stream>,
    /// Read from the stream and no whole frame yet.
    raw: Vec<u8>,
    /// What frames brought and was not read.
    ready: VecDeque<u8>,
    closed: bool,
    frames_sent: usize,
}

/// Asks for an upgrade and reads the head of the answer; the protocols are those offered.
pub(crate) fn request(stream: &mut Box<dyn Stream>, path: &str, protocols: Option<&str>) -> Answer {
    let protocols = protocols.map(|p| format!("Sec-WebSocket-Protocol: {p}\r\n")).unwrap_or_default();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{protocols}\r\n"
    );
    stream.write_all(request.as_bytes()).expect("the broker takes a request");
    stream.flush().expect("the broker takes a request");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            other => panic!("no answer to the upgrade: {other:?} after {:?}", String::from_utf8_lossy(&head)),
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Answer { status: status.unwrap_or_else(|| panic!("no status in {head}")), head }
}

impl Answer {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl WebSocket {
    /// Upgrades a stream.
    pub(crate) fn connect(mut stream: Box<dyn Stream>, path: &str) -> Self {
        let answer = request(&mut stream, path, Some("mqtt"));
        assert_eq!(answer.status, 101, "{}", answer.head);
        assert_eq!(answer.header("sec-websocket-accept"), Some(ACCEPT), "{}", answer.head);
        // [MQTT-6.0.0-4], [MQTT-6.0.0-4] (3.1.1)
        assert_eq!(answer.header("sec-websocket-protocol"), Some("mqtt"), "{}", answer.head);
        Self { stream, raw: Vec::new(), ready: VecDeque::new(), closed: false, frames_sent: 0 }
    }

    /// Sends one frame, masked as a client's must be.
    fn send_frame(&mut self, first: u8, payload: &[u8]) -> io::Result<()> {
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..=125 => frame.push(0x80 | length as u8),
            length @ 126..=0xffff => {
                frame.push(0x80 | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            length => {
                frame.push(0x80 | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        let mask = (self.frames_sent as u32).wrapping_mul(0x9e37_79b9).to_be_bytes();
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.frames_sent += 1;
        self.stream.write_all(&frame)
    }

    /// Sends a text frame, which MQTT does not allow.
    pub(crate) fn send_text(&mut self, text: &str) {
        self.send_frame(LAST | TEXT, text.as_bytes()).expect("the broker takes a frame");
    }

    /// Sends bytes in one binary frame.
    pub(crate) fn send_binary(&mut self, bytes: &[u8]) {
        self.send_frame(LAST | BINARY, bytes).expect("the broker takes a frame");
    }

    /// Takes a whole frame out of what was read; says whether there was one.
    fn take_frame(&mut self) -> io::Result<bool> {
        let (first, short) = match self.raw[..] {
            [first, length, ..] => (first, length),
            _ => return Ok(false),
        };
        assert!(short < 0x80, "a server's frames are not masked");
        let (head, length) = match (short, &self.raw[2..]) {
            (126, &[a, b, ..]) => (4, usize::from(u16::from_be_bytes([a, b]))),
            (127, rest) if rest.len() >= 8 => {
                let length = rest[..8].try_into().expect("eight bytes");
                (10, usize::try_from(u64::from_be_bytes(length)).expect("a frame that fits the memory"))
            }
            (126 | 127, _) => return Ok(false),
            (length, _) => (2, usize::from(length)),
        };
        if self.raw.len() < head + length {
            return Ok(false);
        }
        let rest = self.raw.split_off(head + length);
        let frame = std::mem::replace(&mut self.raw, rest);
        let payload = &frame[head..];
        match first & 0x0f {
            BINARY | CONTINUATION => self.ready.extend(payload),
            CLOSE => self.closed = true,
            PING => self.send_frame(LAST | PONG, payload)?,
            PONG => {}
            other => panic!("the broker sent a frame of type {other:#x}"),
        }
        Ok(true)
    }
}

impl Read for WebSocket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.ready.is_empty() {
                return self.ready.read(buf);
            }
            if self.closed {
                return Ok(0);
            }
            if self.take_frame()? {
                continue;
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk)? {
                0 => self.closed = true,
                n => self.raw.extend_from_slice(&chunk[..n]),
            }
        }
    }
}

impl Write for WebSocket {
    /// Cuts the bytes into frames. Every third frame is the first fragment of a message, with a ping behind it.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut rest = buf;
        while !rest.is_empty() {
            let cut = CUTS[self.frames_sent % CUTS.len()].min(rest.len());
            let (part, behind) = rest.split_at(cut);
            if self.frames_sent.is_multiple_of(3) && !behind.is_empty() {
                let (second, behind) = behind.split_at(cut.min(behind.len()));
                self.send_frame(BINARY, part)?;
                self.send_frame(LAST | PING, b"are you there")?;
                self.send_frame(LAST | CONTINUATION, second)?;
                rest = behind;
            } else {
                self.send_frame(LAST | BINARY, part)?;
                rest = behind;
            }
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Stream for WebSocket {
    fn set_read_patience(&self, patience: Duration) {
        self.stream.set_read_patience(patience);
    }

    fn end_writing(&self) {
        self.stream.end_writing();
    }
}
