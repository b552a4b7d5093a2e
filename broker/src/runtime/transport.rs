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

/// The lower end of a connection.
#[derive(Debug)]
pub(super) enum Transport {
    /// Plain TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

impl Transport {
    /// Reads what there is, at most once from the socket; 0 is the end.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(into);
        ready!(match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, &mut buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, &mut buf),
        })?;
        Poll::Ready(Ok(buf.filled().len()))
    }

    /// Writes once and takes what went out off `out`; says how much. Nothing, if the socket takes nothing
    /// now.
    pub(super) fn try_send(&mut self, out: &mut BytesMut) -> io::Result<usize> {
        let written = match self {
            Self::Tcp(stream) => stream.try_write(out),
            Self::Unix(stream) => stream.try_write(out),
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
        }
    }

    /// Closes our half.
    pub(super) fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => socket2::SockRef::from(&*stream).shutdown(Shutdown::Write),
            Self::Unix(stream) => socket2::SockRef::from(&*stream).shutdown(Shutdown::Write),
        }
    }
}
