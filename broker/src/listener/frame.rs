//! WebSocket frames (RFC 6455, server side), as a state machine over bytes.
//!
//! MQTT is a stream of bytes in binary frames, so nothing is put together here: payload is unmasked in place
//! and handed on as it comes, however frames and packets cut each other, and an idle connection holds no
//! buffer. Knows no socket.
//!
//! Invariants: a control frame is never put inside another frame; what is queued to be sent is at most one
//! header, one pong and one close; nothing is read after a close or an error.

use bytes::{BufMut, BytesMut};

/// The longest payload of a control frame.
const CONTROL_BYTES_MAX: usize = 125;

/// Two bytes, a length of eight, a mask of four.
const HEAD_BYTES_MAX: usize = 14;

mod opcode {
    pub(super) const CONTINUATION: u8 = 0;
    pub(super) const TEXT: u8 = 1;
    pub(super) const BINARY: u8 = 2;
    pub(super) const CLOSE: u8 = 8;
    pub(super) const PING: u8 = 9;
    pub(super) const PONG: u8 = 10;
}

/// Status codes of a close (RFC 6455, section 7.4.1).
mod status {
    pub(super) const NORMAL: u16 = 1000;
    pub(super) const PROTOCOL_ERROR: u16 = 1002;
    pub(super) const UNSUPPORTED: u16 = 1003;
    pub(super) const INVALID_TEXT: u16 = 1007;
    pub(super) const TOO_BIG: u16 = 1009;
}

/// Why the frames of a client cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// A frame that says it is text.
    #[error("a text frame: MQTT is carried in binary frames only")]
    Text,
    /// A frame without a mask.
    #[error("a frame that is not masked")]
    NotMasked,
    /// A reserved bit, for which nothing was agreed.
    #[error("a frame with reserved bits {0:#05b}")]
    Reserved(u8),
    /// An opcode that nobody has defined.
    #[error("a frame with opcode {0:#x}")]
    Opcode(u8),
    /// A control frame in pieces, or a long one.
    #[error("a control frame that is cut or longer than {CONTROL_BYTES_MAX} bytes")]
    Control,
    /// A continuation of nothing, or a new message within another.
    #[error("a frame that does not continue the message before it")]
    Continuation,
    /// A length in more bytes than it needs, or with its first bit set.
    #[error("a frame whose length is not written as it must be")]
    Length,
    /// More than is allowed.
    #[error("a message of {0} bytes or more")]
    TooBig(u64),
}

impl FrameError {
    fn status(self) -> u16 {
        match self {
            Self::Text => status::UNSUPPORTED,
            Self::TooBig(_) => status::TOO_BIG,
            _ => status::PROTOCOL_ERROR,
        }
    }
}

/// What of a frame has come.
#[derive(Clone, Copy, Debug)]
enum Incoming {
    /// Some of its header.
    Head { bytes: [u8; HEAD_BYTES_MAX], len: usize },
    /// Its header, and some of its payload.
    Payload { opcode: u8, left: u64, mask: [u8; 4], at: usize },
    /// The client has closed, or sent what is no frame.
    Ended,
}

const HEAD: Incoming = Incoming::Head { bytes: [0; HEAD_BYTES_MAX], len: 0 };

/// The frames of one connection, both ways.
#[derive(Debug)]
pub(crate) struct Frames {
    incoming: Incoming,
    /// Bytes of the message whose frames are being read, while it is in pieces or within one.
    message: Option<u64>,
    message_bytes_max: u64,
    /// Payload of the control frame that is being read.
    control: BytesMut,
    /// A ping that is not answered; a newer one takes its place (RFC 6455, section 5.5.3).
    ping: Option<BytesMut>,
    /// A close that is to be sent.
    close: Option<u16>,
    is_close_queued: bool,
    /// Bytes that stand before everything else: a header, or a control frame.
    head: BytesMut,
    /// Payload bytes of the frame begun that are still to be sent.
    body_left: usize,
}

impl Frames {
    /// Begins after the handshake.
    pub(crate) fn new(message_bytes_max: u64) -> Self {
        Self {
            incoming: HEAD,
            message: None,
            message_bytes_max,
            control: BytesMut::new(),
            ping: None,
            close: None,
            is_close_queued: false,
            head: BytesMut::new(),
            body_left: 0,
        }
    }

    /// Reads what came; the payload of binary frames is moved to the front of `buf`. Returns its length.
    ///
    /// # Errors
    /// The client broke the protocol: a close with the right status is queued. What came before is lost with
    /// it, as the connection ends.
    pub(crate) fn read(&mut self, buf: &mut [u8]) -> Result<usize, FrameError> {
        let (mut read, mut payload) = (0, 0);
        while read < buf.len() {
            match self.incoming {
                Incoming::Ended => break,
                Incoming::Head { mut bytes, len } => {
                    bytes[len] = buf[read];
                    read += 1;
                    self.incoming = Incoming::Head { bytes, len: len + 1 };
                    self.head_byte(&bytes[..len + 1]).inspect_err(|error| self.fail(*error))?;
                }
                Incoming::Payload { opcode, left, mask, at } => {
                    let len = (buf.len() - read).min(usize::try_from(left).unwrap_or(usize::MAX));
                    unmask(&mut buf[read..read + len], mask, at);
                    if opcode >= opcode::CLOSE {
                        self.control.extend_from_slice(&buf[read..read + len]);
                    } else {
                        buf.copy_within(read..read + len, payload);
                        payload += len;
                    }
                    read += len;
                    self.incoming =
                        Incoming::Payload { opcode, left: left - len as u64, mask, at: (at + len) % 4 };
                    self.end_frame();
                }
            }
        }
        Ok(payload)
    }

    /// Looks at a header that has grown by a byte.
    fn head_byte(&mut self, head: &[u8]) -> Result<(), FrameError> {
        let &[first, second, ref rest @ ..] = head else {
            // The first byte is judged at once: nobody needs to wait for the rest of what is no frame.
            return self.check_first(head[0]);
        };
        let is_masked = second & 0x80 != 0;
        if !is_masked {
            return Err(FrameError::NotMasked);
        }
        let (length_bytes, short) = match second & 0x7f {
            126 => (2, 126),
            127 => (8, 65_536),
            length => (0, u64::from(length)),
        };
        let is_control = first & 0x0f >= opcode::CLOSE;
        if is_control && length_bytes > 0 {
            return Err(FrameError::Control);
        }
        if rest.len() < length_bytes + 4 {
            return Ok(());
        }
        let (length, mask) = rest.split_at(length_bytes);
        let left = match length_bytes {
            0 => short,
            _ => length.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        if left < short || left >> 63 != 0 {
            return Err(FrameError::Length);
        }
        if !is_control {
            let whole = self.message.unwrap_or(0).saturating_add(left);
            if whole > self.message_bytes_max {
                return Err(FrameError::TooBig(self.message_bytes_max));
            }
            let is_last = first & 0x80 != 0;
            self.message = (!is_last).then_some(whole);
        }
        let mask = [mask[0], mask[1], mask[2], mask[3]];
        self.incoming = Incoming::Payload { opcode: first & 0x0f, left, mask, at: 0 };
        self.end_frame();
        Ok(())
    }

    fn check_first(&self, first: u8) -> Result<(), FrameError> {
        let (is_last, reserved) = (first & 0x80 != 0, first >> 4 & 0b111);
        if reserved != 0 {
            return Err(FrameError::Reserved(reserved));
        }
        match first & 0x0f {
            opcode::CONTINUATION if self.message.is_some() => Ok(()),
            opcode::BINARY if self.message.is_none() => Ok(()),
            // [MQTT-6.0.0-1], [MQTT-6.0.0-1] (3.1.1)
            opcode::TEXT => Err(FrameError::Text),
            opcode::CONTINUATION | opcode::BINARY => Err(FrameError::Continuation),
            opcode::CLOSE | opcode::PING | opcode::PONG if is_last => Ok(()),
            opcode::CLOSE | opcode::PING | opcode::PONG => Err(FrameError::Control),
            opcode => Err(FrameError::Opcode(opcode)),
        }
    }

    /// Ends a frame whose payload is whole.
    fn end_frame(&mut self) {
        let Incoming::Payload { opcode, left: 0, .. } = self.incoming else { return };
        self.incoming = HEAD;
        match opcode {
            opcode::PING => self.ping = Some(std::mem::take(&mut self.control)),
            opcode::CLOSE => {
                let status = self.control.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]]));
                self.close(match status {
                    None if !self.control.is_empty() => status::PROTOCOL_ERROR,
                    None => status::NORMAL,
                    // Codes that are never sent (section 7.4.2).
                    Some(0..1000 | 1004..1007 | 1015..3000 | 5000..) => status::PROTOCOL_ERROR,
                    // Section 5.5.1: the reason behind the code is text.
                    Some(_) if std::str::from_utf8(&self.control[2..]).is_err() => status::INVALID_TEXT,
                    Some(status) => status,
                });
                self.incoming = Incoming::Ended;
                self.control = BytesMut::new();
            }
            _ => self.control = BytesMut::new(),
        }
    }

    fn fail(&mut self, error: FrameError) {
        self.incoming = Incoming::Ended;
        self.close(error.status());
    }

    fn close(&mut self, status: u16) {
        if !std::mem::replace(&mut self.is_close_queued, true) {
            self.close = Some(status);
        }
    }

    /// Says that this end has nothing more to send after what is there.
    pub(crate) fn end(&mut self) {
        self.close(status::NORMAL);
    }

    /// Says whether the client has closed or broken the protocol.
    pub(crate) fn is_ended(&self) -> bool {
        matches!(self.incoming, Incoming::Ended)
    }

    /// Says whether something is to be sent that is no payload.
    pub(crate) fn wants_write(&self) -> bool {
        !self.head.is_empty() || self.ping.is_some() || self.close.is_some()
    }

    /// Says what goes out next when `available` bytes of payload wait: bytes of the frames' own, then so many of
    /// the payload.
    pub(crate) fn next_out(&mut self, available: usize) -> (&[u8], usize) {
        if self.head.is_empty() && self.body_left == 0 {
            if let Some(ping) = self.ping.take() {
                put_head(&mut self.head, opcode::PONG, ping.len());
                self.head.extend_from_slice(&ping);
            } else if available > 0 {
                put_head(&mut self.head, opcode::BINARY, available);
                self.body_left = available;
            } else if let Some(status) = self.close.take() {
                put_head(&mut self.head, opcode::CLOSE, 2);
                self.head.put_u16(status);
            }
        }
        (&self.head, self.body_left)
    }

    /// Takes note of what of [`Frames::next_out`] was taken; returns how much of that is payload.
    pub(crate) fn sent(&mut self, bytes: usize) -> usize {
        let of_head = bytes.min(self.head.len());
        if of_head == self.head.len() {
            // Its memory goes too: most of the time nothing is there.
            self.head = BytesMut::new();
        } else {
            let _sent = self.head.split_to(of_head);
        }
        let of_body = bytes - of_head;
        self.body_left -= of_body;
        of_body
    }
}

fn put_head(out: &mut BytesMut, opcode: u8, len: usize) {
    out.put_u8(0x80 | opcode);
    match len {
        0..126 => out.put_u8(len as u8),
        126..65_536 => {
            out.put_u8(126);
            out.put_u16(len as u16);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(len as u64);
        }
    }
}

/// Takes the mask off; `at` is the place of the first byte in its frame.
fn unmask(bytes: &mut [u8], mask: [u8; 4], at: usize) {
    let turned: [u8; 4] = std::array::from_fn(|i| mask[(at + i) % 4]);
    let word = u32::from_ne_bytes(turned);
    let (words, rest) = bytes.as_chunks_mut::<4>();
    for bytes in words {
        *bytes = (u32::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(turned) {
        *byte ^= mask;
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
