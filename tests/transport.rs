//! How tests reach a broker: TCP, a Unix socket, and what runs over them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use crate::raw_client::PATIENCE;

/// A byte stream to a broker.
pub(crate) trait Stream: Read + Write + Send {
    /// Sets how long a read waits.
    fn set_read_patience(&self, patience: Duration);
    /// Ends the client's half as a lost network does: nothing above the socket says goodbye.
    fn end_writing(&self);
}

impl Stream for TcpStream {
    fn set_read_patience(&self, patience: Duration) {
        self.set_read_timeout(Some(patience)).expect("a duration above 0");
    }

    fn end_writing(&self) {
        // It fails only when the broker has closed already.
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Stream for UnixStream {
    fn set_read_patience(&self, patience: Duration) {
        self.set_read_timeout(Some(patience)).expect("a duration above 0");
    }

    fn end_writing(&self) {
        // It fails only when the broker has closed already.
        let _ = self.shutdown(Shutdown::Write);
    }
}

/// Where a broker is reached, and by which transport.
#[derive(Clone, Debug)]
pub(crate) enum Door {
    /// Plain TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Door {
    /// Opens a connection, its handshakes done.
    pub(crate) fn open(&self) -> Box<dyn Stream> {
        match self {
            Self::Tcp(address) => Box::new(connect_tcp(*address)),
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)
                    .unwrap_or_else(|e| panic!("cannot connect to {}: {e}", path.display()));
                stream.set_write_timeout(Some(PATIENCE)).expect("a duration above 0");
                Box::new(stream)
            }
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
