//! The byte stream of a connection, TCP or TLS over it, in two halves.

use std::io;

use bytes::BytesMut;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How to begin TLS: whom to expect, and by what to know them.
#[derive(Clone)]
pub(crate) struct TlsSettings {
    pub(crate) connector: TlsConnector,
    pub(crate) server_name: ServerName<'static>,
}

/// A stream over which MQTT can begin.
pub(super) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

pub(super) enum Reader {
    Tcp(OwnedReadHalf),
    Tls(ReadHalf<Box<TlsStream<TcpStream>>>),
}

pub(super) enum Writer {
    Tcp(OwnedWriteHalf),
    Tls {
        half: WriteHalf<Box<TlsStream<TcpStream>>>,
        /// Encrypted bytes may still be in TLS's own buffer.
        is_unflushed: bool,
    },
}

impl Stream {
    pub(super) async fn connect(address: &str, tls: Option<TlsSettings>) -> io::Result<Self> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let Some(TlsSettings { connector, server_name }) = tls else { return Ok(Self::Tcp(tcp)) };
        let stream = connector
            .connect(server_name, tcp)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("TLS handshake: {error}")))?;
        Ok(Self::Tls(Box::new(stream)))
    }

    pub(super) fn split(self) -> (Reader, Writer) {
        match self {
            Self::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (Reader::Tcp(read), Writer::Tcp(write))
            }
            Self::Tls(stream) => {
                let (read, half) = tokio::io::split(stream);
                (Reader::Tls(read), Writer::Tls { half, is_unflushed: false })
            }
        }
    }
}

impl Reader {
    /// Appends what is there; 0 = the end. May be cancelled without loss.
    pub(super) async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.read_buf(buffer).await,
            Self::Tls(half) => half.read_buf(buffer).await,
        }
    }
}

impl Writer {
    /// Whether [`Self::write`] has something to do although nothing is given to it.
    pub(super) fn is_unflushed(&self) -> bool {
        matches!(self, Self::Tls { is_unflushed: true, .. })
    }

    /// Takes bytes off the buffer; with none left it brings out what TLS holds. May be cancelled without loss.
    pub(super) async fn write(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.write_buf(buffer).await,
            Self::Tls { half, is_unflushed } if buffer.is_empty() => {
                half.flush().await?;
                *is_unflushed = false;
                Ok(0)
            }
            Self::Tls { half, is_unflushed } => {
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
            Self::Tls { half, .. } => {
                half.write_all_buf(buffer).await?;
                half.shutdown().await
            }
        }
    }
}
