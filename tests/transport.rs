//! How tests reach a broker: TCP, and what runs over it.
//!
//! Every stream stands on a TCP socket, which gives timeouts and half-closing to all of them alike.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::raw_client::PATIENCE;

/// A byte stream to a broker.
pub(crate) trait Stream: Read + Write + Send {
    /// The socket under it.
    fn tcp(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

/// Where a broker is reached, and by which transport.
#[derive(Clone, Debug)]
pub(crate) enum Door {
    /// Plain TCP.
    Tcp(SocketAddr),
}

impl Door {
    /// Opens a connection, its handshakes done.
    pub(crate) fn open(&self) -> Box<dyn Stream> {
        match self {
            Self::Tcp(address) => Box::new(connect_tcp(*address)),
        }
    }
}

impl From<SocketAddr> for Door {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

fn connect_tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap_or_else(|e| panic!("cannot connect to {address}: {e}"));
    stream.set_nodelay(true).expect("a TCP socket takes TCP_NODELAY");
    stream.set_read_timeout(Some(PATIENCE)).expect("a duration above 0");
    stream.set_write_timeout(Some(PATIENCE)).expect("a duration above 0");
    stream
}

/// Says whether an error is the end of a connection rather than of the test's patience.
pub(crate) fn is_end(error: &io::Error) -> bool {
    !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
