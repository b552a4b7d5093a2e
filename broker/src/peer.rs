//! Who is at the other end of a connection, as far as it is known before its CONNECT.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crate::listener::Listener;

/// The other end of one connection.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Where it is; behind a proxy that says so, the real client.
    pub(crate) address: PeerAddr,
    /// The listener it came in by.
    pub(crate) listener: Arc<Listener>,
    /// The certificate it proved to hold, where the listener asks for one.
    pub(crate) certificate: Option<Box<ClientCertificate>>,
}

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerAddr {
    /// Over TCP.
    Ip(SocketAddr),
    /// A process of this machine, over a Unix socket; what the system says of it, where it does.
    Unix {
        /// Its process id.
        pid: Option<i32>,
        /// Its user id.
        uid: Option<u32>,
    },
}

/// A client certificate that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientCertificate {
    /// Its common name or its alternative name, as the listener's `identity` says: never empty, at most
    /// 256 bytes, without control characters.
    pub(crate) identity: String,
}

impl PeerAddr {
    /// Returns the IP address, if it has one.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address.ip().to_canonical()),
            Self::Unix { .. } => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.address, self.listener.name)
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Unix { pid, uid } => {
                f.write_str("unix")?;
                if let Some(pid) = pid {
                    write!(f, " pid {pid}")?;
                }
                uid.map_or(Ok(()), |uid| write!(f, " uid {uid}"))
            }
        }
    }
}
