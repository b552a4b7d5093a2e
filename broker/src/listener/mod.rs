//! The ways in: what is bound and how it is spoken to.
//!
//! The plain listener of `[mqtt]` is one like the others, named "mqtt". Sockets are bound before anything
//! else of the broker starts, and let clients in when all of it has.

mod door;
mod frame;
#[doc(hidden)]
pub mod fuzzing;
mod proxy;
mod tls;
mod unix;
mod upgrade;
mod wire;

use std::{fmt, net::SocketAddr, path::PathBuf, sync::Arc};

pub(crate) use self::{
    door::{Arrival, GivenUp, HandshakeCounts, HandshakeDoor, HandshakeLimits, HeldSeat, Waiting, arrivals},
    frame::Frames,
    unix::{SocketFile, peer as unix_peer},
    upgrade::{Refusal, Request as UpgradeRequest, Rules},
    wire::{CIPHER_BYTES, Got, Layers, PLAIN_BYTES_MIN, Wire},
};
use self::{tls::Tls, unix::BoundUnix};
use crate::{
    Config,
    bind::{self, BindError, Bound},
    config::{ListenAddress, ListenerConfig, Transport},
    reload::Watch,
    start::StartError,
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
    /// Its certificates, if it speaks TLS.
    pub(crate) tls: Option<Tls>,
}

impl Listener {
    /// Says whether its connections have something to do before MQTT.
    pub(crate) fn has_handshake(&self) -> bool {
        let ListenerConfig { transport, proxy_protocol, .. } = self.config;
        transport.is_tls() || transport.is_web_socket() || proxy_protocol
    }

    /// Which WebSockets it takes.
    pub(crate) fn web_rules(&self) -> Rules<'_> {
        let ListenerConfig { path, origins, .. } = &self.config;
        Rules { path, origins, is_loopback_only: self.is_loopback_only }
    }

    /// The listener that the HTTP port is, for MQTT over WebSocket.
    pub(crate) fn of_http(config: &Config, address: SocketAddr) -> Self {
        let is_loopback_only = address.ip().to_canonical().is_loopback();
        let config = ListenerConfig {
            name: "http".to_owned(),
            transport: Transport::Ws,
            listen: ListenAddress::Ip(config.http.listen.clone()),
            origins: config.http.origins.clone(),
            ..ListenerConfig::default()
        };
        Self { name: config.name.clone(), is_loopback_only, config, tls: None }
    }
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

/// Binds every listener of the configuration, the one of `[mqtt]` first, and reads their certificates; says also
/// what to read again when it changes.
pub(crate) fn open_all(config: &Config) -> Result<(Vec<Opened>, Vec<Watch>), StartError> {
    let plain = ListenerConfig {
        name: "mqtt".to_owned(),
        listen: ListenAddress::Ip(config.mqtt.listen.clone()),
        ..ListenerConfig::default()
    };
    let plain = config.mqtt.enabled.then_some(plain);
    let mut watches = Vec::new();
    let all = plain.into_iter().chain(config.listener.iter().cloned());
    let opened: Result<_, _> = all.map(|config| Opened::new(config, &mut watches)).collect();
    Ok((opened?, watches))
}

impl Opened {
    fn new(config: ListenerConfig, watches: &mut Vec<Watch>) -> Result<Self, StartError> {
        let (address, socket) = match &config.listen {
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
        let before = config.transport.is_tls().then(|| {
            let what = format!("certificates of listener {:?}", config.name);
            Watch::before_reading(what, tls::files(&config))
        });
        let tls = config.transport.is_tls().then(|| Tls::load(&config)).transpose();
        let tls = tls.map_err(|what| StartError::Tls { listener: config.name.clone(), what })?;
        let listener = Arc::new(Listener {
            name: config.name.clone(),
            is_loopback_only: is_here && !config.proxy_protocol,
            config,
            tls,
        });
        watches.extend(before.map(|before| {
            let listener = Arc::clone(&listener);
            before.then(move || listener.tls.as_ref().map_or(Ok(String::new()), Tls::reload))
        }));
        Ok(Self { listener, address, socket })
    }

    /// Says whether its connections have something to do before MQTT.
    pub(crate) fn has_handshake(&self) -> bool {
        self.listener.has_handshake()
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
