//! Takes new connections in.

use std::{io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use engine::ConnId;
use tokio::{
    net::{TcpListener, TcpStream, UnixListener},
    sync::mpsc,
    time::Instant,
};

use super::{Core, SLOT_BITS, Shared, connection::Connection, input, transport::Transport};
use crate::{
    limits::Seat,
    listener::{
        Arrival, HandshakeDoor, HeldSeat, Listener, Socket, SocketFile, SocketKind, Waiting, Wire, unix_peer,
    },
    peer::{Peer, PeerAddr},
};

/// Connections above the limit that are let in to be told "server busy".
const REFUSALS_MAX: usize = 1024;

/// How long accepting rests when the process or the machine is out of something.
const BACKOFF: Duration = Duration::from_millis(100);

/// A failure that goes on is told this often.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// A listener's socket, known to this thread's executor.
enum Listen {
    Tcp(TcpListener),
    Unix(UnixListener, #[allow(dead_code, reason = "its end removes the file")] SocketFile),
}

/// Returns the task that accepts until it is aborted.
pub(super) fn accept(
    shared: Rc<Shared>,
    socket: Socket,
    door: Option<HandshakeDoor>,
) -> io::Result<impl Future<Output = ()>> {
    let Socket { listener, kind } = socket;
    let listen = match kind {
        SocketKind::Tcp(socket) => {
            set_options_of_all(&socket)?;
            Listen::Tcp(TcpListener::from_std(socket)?)
        }
        SocketKind::Unix(socket, file) => Listen::Unix(UnixListener::from_std(socket)?, file),
    };
    let door = door.filter(|_| listener.has_handshake());
    Ok(accept_all(shared, listener, listen, door))
}

async fn accept_all(
    shared: Rc<Shared>,
    listener: Arc<Listener>,
    listen: Listen,
    door: Option<HandshakeDoor>,
) {
    let mut told: Option<Instant> = None;
    loop {
        match accept_one(&listen).await {
            Ok((transport, address)) => {
                let listener = Arc::clone(&listener);
                shared.with(|core| core.counts.accepted += 1);
                match (&door, transport, address) {
                    (Some(door), Transport::Tcp(stream), PeerAddr::Ip(address)) => {
                        send_to_door(&shared, door, stream, address, listener);
                    }
                    (_, transport, address) => {
                        take(&shared, transport, Peer { address, listener, certificate: None }, None);
                    }
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Out of file descriptors or memory: trying at once would only burn the processor.
                if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
                    let listener = &listener.name;
                    tracing::error!(%error, listener, "cannot accept connections, trying again until it works");
                    told = Some(Instant::now());
                }
                tokio::time::sleep(BACKOFF).await;
            }
        }
    }
}

async fn accept_one(listen: &Listen) -> io::Result<(Transport, PeerAddr)> {
    match listen {
        Listen::Tcp(socket) => {
            let (stream, address) = socket.accept().await?;
            if !ARE_INHERITED {
                set_options(&stream)?;
            }
            Ok((Transport::Tcp(stream), PeerAddr::Ip(address)))
        }
        Listen::Unix(socket, _file) => {
            let (stream, _unnamed) = socket.accept().await?;
            let address = unix_peer(&stream);
            Ok((Transport::Unix(stream), address))
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

/// Sends a connection to its handshake. Its seat goes with it, but for one whose address only a proxy knows.
fn send_to_door(
    shared: &Rc<Shared>,
    door: &HandshakeDoor,
    stream: TcpStream,
    address: SocketAddr,
    listener: Arc<Listener>,
) {
    let mut held = None;
    if !listener.config.proxy_protocol {
        let seat = shared.with(|core| {
            let seat = core.seat(PeerAddr::Ip(address), &listener)?;
            Some(HeldSeat::new(seat, Arc::clone(&core.given_up)))
        });
        let Some(seat) = seat else { return };
        held = Some(seat);
    }
    match stream.into_std() {
        Ok(stream) => door.hand_over(Waiting { stream, address, listener, seat: held }),
        Err(error) => tracing::debug!(%address, %error, "connection was gone at once"),
    }
}

/// Takes what comes back from handshakes, until it is aborted.
pub(super) async fn arrive(shared: Rc<Shared>, mut arrivals: mpsc::Receiver<Arrival>) {
    while let Some(Arrival { stream, layers, peer, seat }) = arrivals.recv().await {
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::error!(%peer, %error, "a connection cannot be taken over from its handshake");
                continue;
            }
        };
        if let Err(error) = set_options(&stream) {
            tracing::debug!(%peer, %error, "connection was gone after its handshake");
            continue;
        }
        if seat.is_none() && !peer.listener.config.proxy_protocol {
            // It came by the HTTP port, and was not counted when that accepted it.
            shared.with(|core| core.counts.accepted += 1);
        }
        let transport = match layers.are_none() {
            true => Transport::Tcp(stream),
            false => Transport::Wire(Box::new(Wire::new(stream, layers))),
        };
        take(&shared, transport, peer, seat.and_then(HeldSeat::take));
    }
}

/// Makes a connection of what is ready to speak MQTT.
fn take(shared: &Rc<Shared>, transport: Transport, peer: Peer, seat: Option<Seat>) {
    if let Some(id) = shared.with(|core| core.admit(transport, peer, seat)) {
        tokio::task::spawn_local(input::connection(Rc::clone(shared), id));
    }
}

/// Says whether the client itself went away, which says nothing about the next one.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

impl Core {
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
        let connection = Connection::new(id, Arc::new(peer), transport, packet_bytes_max, seat, debt);
        entry.insert(Box::new(connection));
        self.connect_deadlines.push_back((now_ms + self.limits.connect_timeout_ms, id));
        self.bound_unconnected();
        self.turn.raise();
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
