//! The parsers of what strangers send before any MQTT, for the fuzz targets. No interface: it changes with them.
//!
//! `fuzz/src/listener.rs` takes this file, `frame` and `proxy` in alone.

use std::{
    net::SocketAddr,
    pin::pin,
    task::{Context, Poll, Waker},
};

use super::{frame, proxy};

/// The WebSocket frames of one connection.
#[derive(Debug)]
pub struct Frames(frame::Frames);

impl Frames {
    /// Begins after the handshake.
    pub fn new(message_bytes_max: u64) -> Self {
        Self(frame::Frames::new(message_bytes_max))
    }

    /// Reads what came; the payload is moved to the front. Returns its length.
    ///
    /// # Errors
    /// The client broke the protocol.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize, String> {
        self.0.read(buf).map_err(|error| error.to_string())
    }

    /// Says whether the client has closed or broken the protocol.
    pub fn is_ended(&self) -> bool {
        self.0.is_ended()
    }

    /// Says that this end has nothing more to send.
    pub fn end(&mut self) {
        self.0.end();
    }

    /// Says whether something is to be sent that is no payload.
    pub fn wants_write(&self) -> bool {
        self.0.wants_write()
    }

    /// Says what goes out next: bytes of the frames' own, then so many of the payload.
    pub fn next_out(&mut self, available: usize) -> (Vec<u8>, usize) {
        let (head, payload) = self.0.next_out(available);
        (head.to_vec(), payload)
    }

    /// Takes note of what was sent of that; returns how much of it is payload.
    pub fn sent(&mut self, bytes: usize) -> usize {
        self.0.sent(bytes)
    }
}

/// Reads a header of the PROXY protocol: the client's address, its certificate's name, and the bytes read.
///
/// # Errors
/// It is none, or not whole.
pub fn proxy_header(mut stream: &[u8]) -> Result<(Option<SocketAddr>, Option<String>, usize), String> {
    let whole = stream.len();
    let header = {
        let reading = pin!(proxy::read_header(&mut stream));
        let Poll::Ready(header) = reading.poll(&mut Context::from_waker(Waker::noop())) else {
            return Err("bytes in memory are never waited for".to_owned());
        };
        header.map_err(|error| error.to_string())?
    };
    let proxied = proxy::parse(&header).map_err(|error| error.to_string())?;
    Ok((proxied.address, proxied.common_name, whole - stream.len()))
}
