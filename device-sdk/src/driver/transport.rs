//! The socket: being opened, open, or waiting for the next attempt.

use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::BytesMut;
use protocol::{DecodeError, Decoder, Packet, ProtocolVersion, Role, encode};
use tokio::time::{Instant, timeout};

use super::stream::{Reader, Writer, split};
use crate::Options;
use crate::endpoints::{Dialing, Endpoint, Stream};

/// Bytes asked of the socket at a time.
const READ_BYTES: usize = 16 * 1024;
/// Unwritten bytes above which nothing more is read: what comes would only make more answers.
const UNWRITTEN_BYTES_MAX: usize = 1024 * 1024;
/// A write buffer larger than this is given back once it is empty.
const IDLE_BUFFER_BYTES_MAX: usize = 64 * 1024;

pub(super) enum Transport {
    Idle { retry_at: Instant },
    Connecting(Dialing),
    Open(Box<OpenConnection>),
}

pub(super) struct OpenConnection {
    read: Reader,
    write: Writer,
    version: ProtocolVersion,
    decoder: Decoder,
    received: BytesMut,
    unwritten: BytesMut,
    /// Why the core has given the connection up.
    pub(super) closing: Option<String>,
}

impl Transport {
    pub(super) fn unwritten(&self) -> usize {
        match self {
            Self::Open(open) => open.unwritten.len(),
            _ => 0,
        }
    }

    /// Returns the three things that can be waited for; each waits for ever when there is nothing to do. All may be
    /// cancelled without loss.
    pub(super) fn halves(
        &mut self,
        may_read: bool,
    ) -> (
        impl Future<Output = io::Result<(Stream, Endpoint)>>,
        impl Future<Output = io::Result<usize>>,
        impl Future<Output = io::Result<usize>>,
    ) {
        let (connecting, open) = match self {
            Self::Idle { .. } => (None, None),
            Self::Connecting(connecting) => (Some(connecting), None),
            Self::Open(open) => (None, Some(&mut **open)),
        };
        let (read, write) = match open {
            None => (None, None),
            Some(open) => {
                let may_read = may_read && open.unwritten.len() < UNWRITTEN_BYTES_MAX;
                let read = may_read.then_some((&mut open.read, &mut open.received));
                let has_bytes = !open.unwritten.is_empty() || open.write.is_unflushed();
                let write = has_bytes.then_some((&mut open.write, &mut open.unwritten));
                (read, write)
            }
        };
        (
            async move {
                match connecting {
                    Some(connecting) => connecting.await,
                    None => std::future::pending().await,
                }
            },
            async move {
                match read {
                    Some((half, buffer)) => {
                        buffer.reserve(READ_BYTES);
                        half.read(buffer).await
                    }
                    None => std::future::pending().await,
                }
            },
            async move {
                match write {
                    Some((half, buffer)) => half.write(buffer).await,
                    None => std::future::pending().await,
                }
            },
        )
    }
}

impl OpenConnection {
    pub(super) fn new(stream: Stream, options: &Options) -> Self {
        let (read, write) = split(stream);
        Self {
            read,
            write,
            version: options.version,
            decoder: Decoder::new(Role::Client, Some(options.version), options.packet_bytes_max),
            received: BytesMut::new(),
            unwritten: BytesMut::new(),
            closing: None,
        }
    }

    /// Appends a packet to what is to be written; returns its size.
    pub(super) fn send(&mut self, packet: &Packet) -> usize {
        if self.unwritten.is_empty() && self.unwritten.capacity() > IDLE_BUFFER_BYTES_MAX {
            self.unwritten = BytesMut::new();
        }
        let before = self.unwritten.len();
        // Everything a program gives in is checked for its length before it gets here.
        encode(packet, self.version, &mut self.unwritten)
            .expect("lengths are checked where messages are taken in");
        self.unwritten.len() - before
    }

    pub(super) fn receive(&mut self) -> Result<Option<Packet>, DecodeError> {
        self.decoder.decode(&mut self.received)
    }

    /// Writes what is left, within a time limit, and ends the stream.
    pub(super) async fn finish(&mut self, limit: Duration) {
        // The connection is over either way.
        let _ = timeout(limit, self.write.finish(&mut self.unwritten)).await;
    }
}
