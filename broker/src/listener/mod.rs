//! The ways in: what is bound and how it is spoken to.
//!
//! The plain listener of `[mqtt]` is one like the others, named "mqtt". Sockets are bound before anything
//! else of the broker starts, and let clients in when all of it has.

mod unix;

use std::{fmt, net::SocketAddr, path::PathBuf, sync::Arc};

use self::unix::BoundUnix;
pub(crate) use self::unix::{SocketFile, peer as unix_peer};
use crate::{
    Config,
    bind::{self, BindError, Bound},
    config::{ListenAddress, ListenerConfig, Transport},
};

/// A way in, as each of its connections knows it.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Its name.
    pub(crate) name: String,
    /// Whether nobody outside this machine can reach it. A proxy before it brings clients from outside.
    pub(crate) is_loopback_only: bool,
    /// What the configuration says of it.
    pub(crate) config: ListenerConfig,
}

/// Where a listener listens; told by [`RunningBroker::listeners`](crate::RunningBroker::listeners).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// The listener's name; "mqtt" is the one of `[mqtt]`.
    pub name: String,
    /// What it speaks below MQTT.
    pub transport: Transport,
    /// Its address.
    pub address: BoundAddress,
}

/// An address that is bound, its port chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoundAddress {
    /// On a port.
    Ip(SocketAddr),
    /// On a socket in the file system.
    Unix(PathBuf),
}

impl BoundAddress {
    /// Returns the address and port, if it has one.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for BoundAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// A listener whose address is ours, not listened on yet.
#[derive(Debug)]
pub(crate) struct Opened {
    listener: Arc<Listener>,
    address: BoundAddress,
    socket: BoundSocket,
}

#[derive(Debug)]
enum BoundSocket {
    Ip(Bound),
    Unix(BoundUnix),
}

/// A listener that lets clients in.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) listener: Arc<Listener>,
    pub(crate) kind: SocketKind,
}

/// The socket of a listener.
#[derive(Debug)]
pub(crate) enum SocketKind {
    /// On a port.
    Tcp(std::net::TcpListener),
    /// In the file system; the file goes with the listener.
    Unix(std::os::unix::net::UnixListener, SocketFile),
}

/// Binds every listener of the configuration, the one of `[mqtt]` first.
pub(crate) fn open_all(config: &Config) -> Result<Vec<Opened>, BindError> {
    let plain = ListenerConfig {
        name: "mqtt".to_owned(),
        listen: ListenAddress::Ip(config.mqtt.listen.clone()),
        ..ListenerConfig::default()
    };
    let plain = config.mqtt.enabled.then_some(plain);
    plain.into_iter().chain(config.listener.iter().cloned()).map(Opened::new).collect()
}

impl Opened {
    fn new(config: ListenerConfig) -> Result<Self, BindError> {
        let (address, socket) = match &config.listen {
            ListenAddress::Ip(address) if config.transport != Transport::Tcp || config.proxy_protocol => {
                let source = std::io::Error::other("only transports tcp and unix are served yet");
                return Err(BindError::Io { address: address.clone(), source });
            }
            ListenAddress::Ip(address) => {
                let how = match config.name.as_str() {
                    "mqtt" => "--listen HOST:PORT".to_owned(),
                    name => format!("`listen` of [[listener]] {name:?}"),
                };
                let bound = bind::bind(address, &how)?;
                (BoundAddress::Ip(bound.local_addr()?), BoundSocket::Ip(bound))
            }
            ListenAddress::Unix(path) => {
                (BoundAddress::Unix(path.clone()), BoundSocket::Unix(unix::bind(path, config.mode)?))
            }
        };
        let is_here = address.ip().is_none_or(|address| address.ip().to_canonical().is_loopback());
        let listener = Listener {
            name: config.name.clone(),
            is_loopback_only: is_here && !config.proxy_protocol,
            config,
        };
        Ok(Self { listener: Arc::new(listener), address, socket })
    }

    /// Returns what its connections will know of it.
    pub(crate) fn listener(&self) -> &Listener {
        &self.listener
    }

    /// Tells where it is.
    pub(crate) fn listening(&self) -> Listening {
        let Listener { name, config, .. } = &*self.listener;
        Listening { name: name.clone(), transport: config.transport, address: self.address.clone() }
    }

    /// Lets clients in.
    pub(crate) fn listen(self) -> Result<Socket, BindError> {
        let kind = match self.socket {
            BoundSocket::Ip(bound) => SocketKind::Tcp(bound.listen()?),
            BoundSocket::Unix(bound) => {
                let (socket, file) = bound.listen()?;
                SocketKind::Unix(socket, file)
            }
        };
        Ok(Socket { listener: self.listener, kind })
    }
}
