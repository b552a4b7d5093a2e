//! The byte stream of a connection in two halves: TCP, or whatever lies over it.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::endpoints::{Duplex, Stream};

pub(super) enum Reader {
    Tcp(OwnedReadHalf),
    Layered(ReadHalf<Box<dyn Duplex>>),
}

pub(super) enum Writer {
    Tcp(OwnedWriteHalf),
    Layered {
        half: WriteHalf<Box<dyn Duplex>>,
        /// Bytes may still be in the buffer of TLS or WebSocket.
        is_unflushed: bool,
    },
}

pub(super) fn split(stream: Stream) -> (Reader, Writer) {
    match stream {
        Stream::Tcp(stream) => {
            let (read, write) = stream.into_split();
            (Reader::Tcp(read), Writer::Tcp(write))
        }
        Stream::Layered(stream) => {
            let (read, half) = tokio::io::split(stream);
            (Reader::Layered(read), Writer::Layered { half, is_unflushed: false })
        }
    }
}

impl Reader {
    /// Appends what is there; 0 = the end. May be cancelled without loss.
    pub(super) async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.read_buf(buffer).await,
            Self::Layered(half) => half.read_buf(buffer).await,
        }
    }
}

impl Writer {
    /// Whether [`Self::write`] has something to do although nothing is given to it.
    pub(super) fn is_unflushed(&self) -> bool {
        matches!(self, Self::Layered { is_unflushed: true, .. })
    }

    /// Takes bytes off the buffer; with none left it brings out what TLS or WebSocket hold. May be cancelled without loss.
    pub(super) async fn write(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.write_buf(buffer).await,
            Self::Layered { half, is_unflushed } if buffer.is_empty() => {
                half.flush().await?;
                *is_unflushed = false;
                Ok(0)
            }
            Self::Layered { half, is_unflushed } => {
                let written = half.write_buf(buffer).await?;
                *is_unflushed = true;
                Ok(written)
            }
        }
    }

    /// Writes everything and ends the stream.
    pub(super) async fn finish(&mut self, buffer: &mut BytesMut) -> io::Result<()> {
        match self {
            Self::Tcp(half) => {
                half.write_all_buf(buffer).await?;
                half.shutdown().await
            }
            Self::Layered { half, .. } => {
                half.write_all_buf(buffer).await?;
                half.shutdown().await
            }
        }
    }
}
