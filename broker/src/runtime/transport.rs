//! What carries a connection's bytes.
//!
//! Invariant: bytes are read into memory of the shard and written from the connection's own buffer; a
//! connection that is idle holds none here.

use std::{
    io,
    net::Shutdown,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, ReadBuf},
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
    Wire(Box<Wire>),
}

impl Transport {
    /// Reads what there is, at most once from a plain socket; no bytes are the end. `cipher` is memory for what is
    /// encrypted.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        cipher: &mut [u8],
        into: &mut [u8],
    ) -> Poll<io::Result<Got>> {
        let bytes_max = into.len();
        let mut buf = ReadBuf::new(into);
        ready!(match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, &mut buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, &mut buf),
            Self::Wire(wire) => return wire.poll_read(cx, cipher, into),
        })?;
        let bytes = buf.filled().len();
        Poll::Ready(Ok(Got { bytes, is_full: bytes == bytes_max }))
    }

    /// Reads what comes after the end, to be thrown away.
    pub(super) fn poll_discard(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<Got>> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => self.poll_read(cx, &mut [], into),
            Self::Wire(wire) => {
                let bytes_max = into.len();
                wire.poll_discard(cx, into).map_ok(|bytes| Got { bytes, is_full: bytes == bytes_max })
            }
        }
    }

    /// Writes what the socket takes, in one write if it takes all, and takes what went out off `out`; says how much.
    pub(super) fn try_send(&mut self, out: &mut BytesMut) -> io::Result<usize> {
        let written = match self {
            Self::Tcp(stream) => stream.try_write(out),
            Self::Unix(stream) => stream.try_write(out),
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

    /// Waits until the socket may take something.
    pub(super) fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(cx),
            Self::Unix(stream) => stream.poll_write_ready(cx),
            Self::Wire(wire) => wire.stream().poll_write_ready(cx),
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
            Self::Tcp(stream) => socket2::SockRef::from(&*stream).shutdown(Shutdown::Write),
            Self::Unix(stream) => socket2::SockRef::from(&*stream).shutdown(Shutdown::Write),
            Self::Wire(wire) => wire.shutdown(),
        }
    }
}
