//! What carries a connection's bytes.
//!
//! Invariant: bytes are read into memory of the shard and written from the connection's own buffer; a
//! connection that is idle holds none here.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
};

use bytes::{Buf, BytesMut};
use mio::{
    Interest, Registry, Token,
    event::Source,
    net::{TcpStream, UnixStream},
};

use crate::listener::{Got, Wire};

/// The lower end of a connection.
#[derive(Debug)]
pub(super) enum Transport {
    /// Plain TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TLS, WebSocket or both over TCP.
    Wire(Box<Wire<TcpStream>>),
}

impl Transport {
    /// Has readiness told from now on: each change of it once. Closing the socket ends that.
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let socket: &mut dyn Source = match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
            Self::Wire(wire) => wire.stream_mut(),
        };
        registry.register(socket, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Says whether something may be there that came with a handshake: no readiness tells of that.
    pub(super) fn may_have_early(&self) -> bool {
        matches!(self, Self::Wire(_))
    }

    /// Reads what there is, at most once from a plain socket. `cipher` is memory for what is encrypted.
    pub(super) fn try_read(&mut self, cipher: &mut [u8], into: &mut [u8]) -> io::Result<Got> {
        match self {
            Self::Tcp(stream) => Got::of(stream.read(into), into.len()),
            Self::Unix(stream) => Got::of(stream.read(into), into.len()),
            Self::Wire(wire) => wire.try_read(cipher, into),
        }
    }

    /// Reads what comes after the end, to be thrown away.
    pub(super) fn try_discard(&mut self, into: &mut [u8]) -> io::Result<Got> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => self.try_read(&mut [], into),
            Self::Wire(wire) => wire.try_discard(into),
        }
    }

    /// Writes what the socket takes, in one write if it takes all, and takes what went out off `out`; says how much.
    pub(super) fn try_send(&mut self, out: &mut BytesMut) -> io::Result<usize> {
        let written = match self {
            Self::Tcp(stream) => stream.write(out),
            Self::Unix(stream) => stream.write(out),
            Self::Wire(wire) => return wire.try_send(out),
        };
        match written {
            Ok(written) => {
                out.advance(written);
                Ok(written)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Says whether something is to be sent beside what the connection has in its buffer.
    pub(super) fn wants_write(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => false,
            Self::Wire(wire) => wire.wants_write(),
        }
    }

    /// Says how much it may hold of what the socket did not take.
    pub(super) fn unsent_bytes_max(&self) -> usize {
        match self {
            Self::Tcp(_) | Self::Unix(_) => 0,
            Self::Wire(wire) => wire.unsent_bytes_max(),
        }
    }

    /// Says goodbye where the transport has a word for it, which may have to be sent.
    pub(super) fn end(&mut self) {
        if let Self::Wire(wire) = self {
            wire.end();
        }
    }

    /// Says whether the socket can carry a goodbye after the bytes of MQTT have ended.
    pub(super) fn can_end(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => false,
            Self::Wire(wire) => wire.can_end(),
        }
    }

    /// Says whether the client answers a goodbye, so that its end is always waited for.
    pub(super) fn is_answered(&self) -> bool {
        matches!(self, Self::Wire(_))
    }

    /// Closes our half.
    pub(super) fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
            Self::Wire(wire) => wire.shutdown(),
        }
    }
}
