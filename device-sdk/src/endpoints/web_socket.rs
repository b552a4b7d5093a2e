//! The client's side of WebSocket (RFC 6455): the request that begins it, and MQTT's bytes in binary frames.
//!
//! MQTT is a stream of bytes, so frames are not put together: payload is handed on as it comes, however frames and packets
//! cut each other. Invariants: nothing is read after a close; at most [`UNSENT_BYTES_MAX`] wait to be sent.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::Endpoint;
use super::endpoint::bracketed;
use super::http_head;

/// What every server appends to the client's key (RFC 6455, section 1.3).
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Bytes asked of the stream at a time.
const READ_BYTES: usize = 16 * 1024;
/// Frames that wait to be sent; nothing more is taken above.
const UNSENT_BYTES_MAX: usize = 64 * 1024;
/// The longest payload of one frame sent.
const FRAME_BYTES_MAX: usize = 32 * 1024;
/// The longest payload of a control frame.
const CONTROL_BYTES_MAX: u64 = 125;

const LAST: u8 = 0x80;
const MASKED: u8 = 0x80;
const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// Status codes of a close.
const NORMAL: u16 = 1000;
const PROTOCOL_ERROR: u16 = 1002;

/// Asks for a WebSocket and makes the stream one.
pub(super) async fn open<S>(mut stream: S, endpoint: &Endpoint, port: u16) -> io::Result<WebSocket<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let key = STANDARD.encode(random::<16>()?);
    let host = bracketed(&endpoint.host);
    // [MQTT-6.0.0-3], [MQTT-6.0.0-3] (3.1.1): the subprotocol is asked for.
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
        endpoint.path
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let head = http_head::read(&mut stream).await?;
    let bad = |what: String| Err(io::Error::other(format!("WebSocket: {what}")));
    if head.status != 101 {
        return bad(format!("the answer to {} is {}, not 101", endpoint.path, head.status));
    }
    let is = |name, wanted: &str| {
        head.header(name)
            .is_some_and(|value| value.split(',').any(|member| member.trim().eq_ignore_ascii_case(wanted)))
    };
    let accept = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{MAGIC}").as_bytes()));
    if !is("upgrade", "websocket") || !is("connection", "upgrade") {
        return bad("the server does not upgrade".to_owned());
    }
    if head.header("sec-websocket-accept") != Some(&accept) {
        return bad("the server did not prove that it read the key".to_owned());
    }
    // [MQTT-6.0.0-4], [MQTT-6.0.0-4] (3.1.1)
    if head.header("sec-websocket-protocol") != Some("mqtt") {
        return bad("the server does not speak MQTT: it chose another subprotocol".to_owned());
    }
    if head.header("sec-websocket-extensions").is_some_and(|value| !value.is_empty()) {
        return bad("the server chose an extension that was not offered".to_owned());
    }
    Ok(WebSocket::new(stream))
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| io::Error::other("the system gives no random numbers"))?;
    Ok(bytes)
}

/// What of a frame is to come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Incoming {
    Head,
    Payload {
        opcode: u8,
        left: u64,
    },
    /// The server has closed.
    Ended,
}

/// A stream whose bytes travel in frames.
#[derive(Debug)]
pub(super) struct WebSocket<S> {
    stream: S,
    incoming: Incoming,
    /// Whether a message in pieces is being read.
    is_in_message: bool,
    /// Read and not looked at.
    raw: BytesMut,
    /// Payload of the control frame that is being read.
    control: BytesMut,
    unsent: BytesMut,
    is_close_sent: bool,
    /// What is to be told when the payload before it was read.
    failed: Option<io::Error>,
}

impl<S> WebSocket<S> {
    fn new(stream: S) -> Self {
        Self {
            stream,
            incoming: Incoming::Head,
            is_in_message: false,
            raw: BytesMut::new(),
            control: BytesMut::new(),
            unsent: BytesMut::new(),
            is_close_sent: false,
            failed: None,
        }
    }

    /// Takes payload out of what was read, as much as there is room for; control frames are answered.
    fn take(&mut self, out: &mut ReadBuf<'_>) -> io::Result<()> {
        loop {
            match self.incoming {
                Incoming::Ended => return Ok(()),
                Incoming::Head => {
                    if !self.take_head().map_err(|what| {
                        self.put_close(PROTOCOL_ERROR);
                        self.incoming = Incoming::Ended;
                        io::Error::new(io::ErrorKind::InvalidData, format!("WebSocket: {what}"))
                    })? {
                        return Ok(());
                    }
                }
                Incoming::Payload { opcode, left: 0 } => {
                    self.incoming = Incoming::Head;
                    self.end_frame(opcode)?;
                }
                Incoming::Payload { opcode, left } => {
                    let room = if opcode >= CLOSE { usize::MAX } else { out.remaining() };
                    let len = self.raw.len().min(room).min(usize::try_from(left).unwrap_or(usize::MAX));
                    if len == 0 {
                        return Ok(());
                    }
                    let payload = self.raw.split_to(len);
                    if opcode >= CLOSE {
                        self.control.extend_from_slice(&payload);
                    } else {
                        out.put_slice(&payload);
                    }
                    self.incoming = Incoming::Payload { opcode, left: left - len as u64 };
                }
            }
        }
    }

    /// Reads a frame's head, if it is whole.
    fn take_head(&mut self) -> Result<bool, String> {
        let [first, second, rest @ ..] = &self.raw[..] else { return Ok(false) };
        let (opcode, is_last) = (first & 0x0f, first & LAST != 0);
        if first & 0x70 != 0 {
            return Err("a frame with reserved bits".to_owned());
        }
        // RFC 6455, section 5.1: a server masks nothing.
        if second & MASKED != 0 {
            return Err("a masked frame from the server".to_owned());
        }
        let (head_bytes, left) = match (second & 0x7f, rest) {
            (126, [a, b, ..]) => (4, u64::from(u16::from_be_bytes([*a, *b]))),
            (127, [a, b, c, d, e, f, g, h, ..]) => (10, u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h])),
            (126 | 127, _) => return Ok(false),
            (length, _) => (2, u64::from(length)),
        };
        match opcode {
            CONTINUATION if self.is_in_message => self.is_in_message = !is_last,
            BINARY if !self.is_in_message => self.is_in_message = !is_last,
            CLOSE | PING | PONG if is_last && left <= CONTROL_BYTES_MAX => {}
            CLOSE | PING | PONG => return Err("a control frame that is cut or too long".to_owned()),
            CONTINUATION | BINARY => return Err("a frame that does not follow the one before it".to_owned()),
            // [MQTT-6.0.0-1], [MQTT-6.0.0-1] (3.1.1): binary frames only.
            other => return Err(format!("a frame of type {other}, MQTT is in binary frames")),
        }
        self.raw.advance(head_bytes);
        self.incoming = Incoming::Payload { opcode, left };
        Ok(true)
    }

    /// Answers a control frame that is whole.
    fn end_frame(&mut self, opcode: u8) -> io::Result<()> {
        let control = std::mem::take(&mut self.control);
        match opcode {
            // A server that pings faster than it reads gets no more answers.
            PING if self.unsent.len() < UNSENT_BYTES_MAX => self.put(PONG, &control),
            CLOSE => {
                self.put_close(NORMAL);
                self.incoming = Incoming::Ended;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Appends a frame to what is to be sent.
    fn put(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        let mask = random::<4>()?;
        self.unsent.reserve(payload.len() + 14);
        self.unsent.put_u8(LAST | opcode);
        match payload.len() {
            len @ 0..126 => self.unsent.put_u8(MASKED | len as u8),
            len @ 126..65_536 => {
                self.unsent.put_u8(MASKED | 126);
                self.unsent.put_u16(len as u16);
            }
            len => {
                self.unsent.put_u8(MASKED | 127);
                self.unsent.put_u64(len as u64);
            }
        }
        self.unsent.put_slice(&mask);
        let at = self.unsent.len();
        self.unsent.put_slice(payload);
        for (byte, mask) in self.unsent[at..].iter_mut().zip(mask.into_iter().cycle()) {
            *byte ^= mask;
        }
        Ok(())
    }

    fn put_close(&mut self, status: u16) {
        if !std::mem::replace(&mut self.is_close_sent, true) {
            // Without random numbers the stream just ends.
            let _ = self.put(CLOSE, &status.to_be_bytes());
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Writes frames until none is left.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.unsent))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.advance(written);
        }
        // Most of the time nothing is there.
        self.unsent = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// Sends what answers control frames, as far as it goes.
    fn answer(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.unsent.is_empty() && self.poll_send(cx)?.is_ready() {
            // What TLS keeps back now goes with the next bytes.
            let _ = Pin::new(&mut self.stream).poll_flush(cx)?;
        }
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = out.filled().len();
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Err(error));
        }
        loop {
            let taken = this.take(out);
            this.answer(cx)?;
            match taken {
                // What came before is good; a reader takes bytes or an error, not both.
                Err(error) if out.filled().len() > before => this.failed = Some(error),
                taken => taken?,
            }
            if out.filled().len() > before || out.remaining() == 0 || this.incoming == Incoming::Ended {
                return Poll::Ready(Ok(()));
            }
            this.raw.reserve(READ_BYTES);
            let read = pin!(this.stream.read_buf(&mut this.raw)).poll(cx);
            if read.is_pending() && this.raw.is_empty() {
                // An idle connection keeps no buffer.
                this.raw = BytesMut::new();
            }
            if ready!(read)? == 0 {
                this.incoming = Incoming::Ended;
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_close_sent {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if this.unsent.len() + bytes.len().min(FRAME_BYTES_MAX) > UNSENT_BYTES_MAX {
            ready!(this.poll_send(cx))?;
        }
        let len = bytes.len().min(FRAME_BYTES_MAX);
        this.put(BINARY, &bytes[..len])?;
        // What does not leave now leaves with the flush.
        let _ = this.poll_send(cx)?;
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.put_close(NORMAL);
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "web_socket_tests.rs"]
mod tests;
