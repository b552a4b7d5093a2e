//! Takes new connections in.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use engine::ConnId;
use mio::{
    Interest, Registry, Token,
    event::Source,
    net::{TcpListener, TcpStream, UnixListener},
};

use super::{Core, SLOT_BITS, connection::Connection, transport::Transport};
use crate::{
    limits::Seat,
    listener::{
        Arrival, HandshakeDoor, HeldSeat, Listener, Socket, SocketFile, SocketKind, Waiting, Wire, unix_peer,
    },
    peer::{Peer, PeerAddr},
};

/// Connections above the limit that are let in to be told "server busy".
const REFUSALS_MAX: usize = 1024;

/// So many are accepted, at most, before those who are here have their turn.
const BUNCH: usize = 8;

/// How long accepting rests when the process or the machine is out of something.
const BACKOFF_MS: u64 = 100;

/// A failure that goes on is told this often.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// A listener's socket.
enum Listen {
    Tcp(TcpListener),
    Unix(UnixListener, #[allow(dead_code, reason = "its end removes the file")] SocketFile),
}

/// A listener that lets clients in.
pub(super) struct Door {
    listener: Arc<Listener>,
    listen: Listen,
    /// Where its connections have their handshake, if they have one.
    handshakes: Option<HandshakeDoor>,
    /// There may be somebody to be let in.
    is_ready: bool,
    /// Until then it rests.
    rests_until_ms: u64,
    told: Option<Instant>,
}

impl Door {
    /// Begins to listen for readiness.
    pub(super) fn open(
        socket: Socket,
        handshakes: Option<HandshakeDoor>,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        let Socket { listener, kind } = socket;
        let mut listen = match kind {
            SocketKind::Tcp(socket) => {
                set_options_of_all(&socket)?;
                Listen::Tcp(TcpListener::from_std(socket))
            }
            SocketKind::Unix(socket, file) => Listen::Unix(UnixListener::from_std(socket), file),
        };
        let source: &mut dyn Source = match &mut listen {
            Listen::Tcp(socket) => socket,
            Listen::Unix(socket, _) => socket,
        };
        registry.register(source, token, Interest::READABLE)?;
        let handshakes = handshakes.filter(|_| listener.has_handshake());
        Ok(Self { listener, listen, handshakes, is_ready: true, rests_until_ms: 0, told: None })
    }

    /// Notes that the look told of somebody.
    pub(super) fn ring(&mut self) {
        self.is_ready = true;
    }

    /// Says when it is to be looked at, if there may be somebody whom the look does not tell of again.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.is_ready.then_some(self.rests_until_ms)
    }

    /// Lets in who waits; many take turns with everything else.
    pub(super) fn accept(&mut self, core: &mut Core, registry: &Registry) {
        if !self.is_ready || self.rests_until_ms > core.clock.now().monotonic_ms {
            return;
        }
        for _ in 0..BUNCH {
            match self.accept_one() {
                Ok((transport, address)) => {
                    core.counts.accepted += 1;
                    self.let_in(core, registry, transport, address);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_ready = false;
                    return;
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    // Out of file descriptors or memory: trying at once would only burn the processor.
                    if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
                        let listener = &self.listener.name;
                        tracing::error!(%error, listener, "cannot accept connections, trying again until it works");
                        self.told = Some(Instant::now());
                    }
                    self.rests_until_ms = core.clock.now().monotonic_ms + BACKOFF_MS;
                    return;
                }
            }
        }
    }

    fn accept_one(&self) -> io::Result<(Transport, PeerAddr)> {
        match &self.listen {
            Listen::Tcp(socket) => {
                let (stream, address) = socket.accept()?;
                if !ARE_INHERITED {
                    set_options(&stream)?;
                }
                Ok((Transport::Tcp(stream), PeerAddr::Ip(address)))
            }
            Listen::Unix(socket, _file) => {
                let (stream, _unnamed) = socket.accept()?;
                let address = unix_peer(&stream);
                Ok((Transport::Unix(stream), address))
            }
        }
    }

    fn let_in(&self, core: &mut Core, registry: &Registry, transport: Transport, address: PeerAddr) {
        let listener = Arc::clone(&self.listener);
        match (&self.handshakes, transport, address) {
            (Some(handshakes), Transport::Tcp(stream), PeerAddr::Ip(address)) => {
                core.send_to_handshake(handshakes, stream, address, listener);
            }
            (_, transport, address) => {
                core.take(registry, transport, Peer { address, listener, certificate: None }, None);
            }
        }
    }
}

/// Whether what is accepted has the options of the socket that accepts it.
const ARE_INHERITED: bool = cfg!(target_os = "linux");

/// Sets the options of all that a socket will accept, which saves two system calls a connection.
fn set_options_of_all(socket: &std::net::TcpListener) -> io::Result<()> {
    if ARE_INHERITED {
        let socket = socket2::SockRef::from(socket);
        socket.set_tcp_nodelay(true)?;
        socket.set_keepalive(true)?;
    }
    Ok(())
}

/// One write a turn is all there is to send: waiting for more would only delay it.
/// A client without Keep Alive whose machine is gone is found out by the system's probes.
fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream
        .set_nodelay(true)
        .and_then(|()| socket2::SockRef::from(stream).set_keepalive(true))
        // Only a connection that is gone refuses these.
        .map_err(|_| io::ErrorKind::ConnectionAborted.into())
}

/// Says whether the client itself went away, which says nothing about the next one.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

impl Core {
    /// Sends a connection to its handshake. Its seat goes with it, but for one whose address only a proxy knows.
    fn send_to_handshake(
        &mut self,
        handshakes: &HandshakeDoor,
        stream: TcpStream,
        address: SocketAddr,
        listener: Arc<Listener>,
    ) {
        let mut held = None;
        if !listener.config.proxy_protocol {
            let Some(seat) = self.seat(PeerAddr::Ip(address), &listener) else { return };
            held = Some(HeldSeat::new(seat, Arc::clone(&self.given_up)));
        }
        handshakes.hand_over(Waiting { stream: stream.into(), address, listener, seat: held });
    }

    /// Takes what comes back from its handshake.
    pub(super) fn arrive(&mut self, registry: &Registry, arrival: Arrival) {
        let Arrival { stream, layers, peer, seat } = arrival;
        let stream = TcpStream::from_std(stream);
        if let Err(error) = set_options(&stream) {
            return tracing::debug!(%peer, %error, "connection was gone after its handshake");
        }
        if seat.is_none() && !peer.listener.config.proxy_protocol {
            // It came by the HTTP port, and was not counted when that accepted it.
            self.counts.accepted += 1;
        }
        let transport = match layers.are_none() {
            true => Transport::Tcp(stream),
            false => Transport::Wire(Box::new(Wire::new(stream, layers))),
        };
        self.take(registry, transport, peer, seat.and_then(HeldSeat::take));
    }

    /// Makes a connection of what is ready to speak MQTT.
    fn take(&mut self, registry: &Registry, transport: Transport, peer: Peer, seat: Option<Seat>) {
        let Some(id) = self.admit(transport, peer, seat) else { return };
        let Some(connection) = self.connection(id) else { return };
        if let Err(error) = connection.transport.register(registry, Token(id.0 as usize)) {
            tracing::error!(peer = %connection.peer, %error, "a connection cannot be waited for, it is closed");
            self.remove(id);
        } else if connection.transport.may_have_early() {
            connection.is_readable = true;
            self.ready_later(id);
        }
    }

    /// Asks the limits whether somebody may come in.
    fn seat(&mut self, address: PeerAddr, listener: &Listener) -> Option<Seat> {
        for seat in self.given_up.take() {
            self.abuse.leave(seat);
        }
        let now_ms = self.clock.now().monotonic_ms;
        let bounds = listener.config.limits.listener();
        match self.abuse.admit(now_ms, address.ip(), &listener.name, bounds) {
            Ok(seat) => Some(seat),
            Err(why) => {
                self.counts.closed_at_accept += 1;
                tracing::debug!(peer = %address, listener = listener.name, why, "closed at accept");
                None
            }
        }
    }

    fn admit(&mut self, transport: Transport, peer: Peer, seat: Option<Seat>) -> Option<ConnId> {
        let seat = match seat {
            Some(seat) => seat,
            None => self.seat(peer.address, &peer.listener)?,
        };
        if self.connections.len() >= self.limits.connections_max + REFUSALS_MAX {
            self.counts.refused += 1;
            self.abuse.leave(seat);
            return None;
        }
        let now_ms = self.clock.now().monotonic_ms;
        let entry = self.connections.vacant_entry();
        self.next_serial += 1;
        let id = ConnId(self.next_serial << SLOT_BITS | entry.key() as u64);
        let (packet_bytes_max, debt) = (self.limits.packet_bytes_max, self.lanes.newcomer());
        let connection = Connection::new(id, peer, transport, packet_bytes_max, seat, debt);
        entry.insert(Box::new(connection));
        self.connect_deadlines.push_back((now_ms + self.limits.connect_timeout_ms, id));
        self.bound_unconnected();
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted_writes_at_once_and_is_probed() -> io::Result<()> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        set_options_of_all(&listener)?;
        let _client = std::net::TcpStream::connect(listener.local_addr()?)?;
        let (accepted, _) = listener.accept()?;
        let options = (accepted.nodelay()?, socket2::SockRef::from(&accepted).keepalive()?);
        assert_eq!(options, (ARE_INHERITED, ARE_INHERITED));
        Ok(())
    }
}
