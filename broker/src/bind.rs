//! Binds listening sockets, and says clearly why one cannot be bound.

use std::{
    io,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    path::PathBuf,
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::HostPort;

/// Connections that wait to be accepted.
pub(crate) const BACKLOG: i32 = 4096;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody listens there.
    #[error("{address} is in use by another process; stop it or choose another with {how}")]
    InUse {
        /// The address.
        address: HostPort,
        /// What sets it.
        how: String,
    },
    /// The process may not.
    #[error(
        "{address} may not be listened on by this user (ports below 1024 need a privilege); \
         choose another with {how}"
    )]
    NotPermitted {
        /// The address.
        address: HostPort,
        /// What sets it.
        how: String,
    },
    /// The host is unknown, or not one of this machine's.
    #[error("{address} is no address of this machine ({source}); choose another with {how}")]
    NotHere {
        /// The address.
        address: HostPort,
        /// What sets it.
        how: String,
        /// What the system says.
        source: io::Error,
    },
    /// Somebody listens on the Unix socket.
    #[error("{path} is in use by another process; stop it or choose another `listen`")]
    UnixInUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else stands where the Unix socket should.
    #[error("{path} is a file but no socket; remove it or choose another `listen`")]
    NoSocket {
        /// The file.
        path: PathBuf,
    },
    /// The Unix socket cannot be made.
    #[error("cannot listen on {path}: {source}; its directory must exist and this user may write there")]
    Unix {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Anything else.
    #[error("cannot listen on {address}: {source}")]
    Io {
        /// The address.
        address: HostPort,
        /// What the system says.
        source: io::Error,
    },
}

impl BindError {
    fn new(address: &HostPort, how: &str, source: io::Error) -> Self {
        let (address, how) = (address.clone(), how.to_owned());
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { address, how },
            io::ErrorKind::PermissionDenied => Self::NotPermitted { address, how },
            io::ErrorKind::AddrNotAvailable => Self::NotHere { address, how, source },
            _ => Self::Io { address, source },
        }
    }
}

/// An address that is ours, not listened on yet: clients are let in when the broker is ready.
#[derive(Debug)]
pub(crate) struct Bound {
    socket: Socket,
    address: HostPort,
    how: String,
}

/// Takes the first address that `address` stands for and that works; `how` it is set is for messages.
pub(crate) fn bind(address: &HostPort, how: &str) -> Result<Bound, BindError> {
    let unknown = |source| BindError::NotHere { address: address.clone(), how: how.to_owned(), source };
    let candidates = (address.host(), address.port()).to_socket_addrs().map_err(unknown)?;
    let mut last = None;
    for candidate in candidates {
        match bind_socket(candidate) {
            Ok(socket) => return Ok(Bound { socket, address: address.clone(), how: how.to_owned() }),
            Err(error) => last = Some(error),
        }
    }
    let nothing = || io::Error::new(io::ErrorKind::AddrNotAvailable, "the host has no address");
    Err(BindError::new(address, how, last.unwrap_or_else(nothing)))
}

fn bind_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait until the connections of the last process are forgotten.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

impl Bound {
    /// Returns the address, its port chosen.
    pub(crate) fn local_addr(&self) -> Result<SocketAddr, BindError> {
        let address = self.socket.local_addr().map_err(|e| BindError::new(&self.address, &self.how, e))?;
        Ok(address.as_socket().expect("an IP socket has an IP address"))
    }

    /// Lets clients in.
    pub(crate) fn listen(self) -> Result<TcpListener, BindError> {
        let listening = self.socket.listen(BACKLOG).and_then(|()| self.socket.set_nonblocking(true));
        listening.map_err(|error| BindError::new(&self.address, &self.how, error))?;
        Ok(self.socket.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_use_is_told_with_what_to_do() {
        let first = bind(&HostPort::new("127.0.0.1", 0), "--listen HOST:PORT").unwrap();
        let port = first.local_addr().unwrap().port();
        let _listener = first.listen().unwrap();
        let error = bind(&HostPort::new("127.0.0.1", port), "--listen HOST:PORT").unwrap_err().to_string();
        let expected = format!(
            "127.0.0.1:{port} is in use by another process; stop it or choose another with --listen HOST:PORT"
        );
        assert_eq!(error, expected);
    }

    #[test]
    fn an_address_of_another_machine_is_told_as_such() {
        // 192.0.2.0/24 is set aside for documentation (RFC 5737).
        for host in ["192.0.2.1", "no-such-host.invalid"] {
            let error = bind(&HostPort::new(host, 0), "--http HOST:PORT").unwrap_err().to_string();
            assert!(error.starts_with(&format!("{host}:0 is no address of this machine (")), "{error}");
            assert!(error.ends_with("choose another with --http HOST:PORT"), "{error}");
        }
    }
}
