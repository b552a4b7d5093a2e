//! Takes new connections in.

use std::{net::SocketAddr, rc::Rc, time::Duration};

use engine::ConnId;
use tokio::{
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
    time::Instant,
};

use super::{Core, SLOT_BITS, Shared, connection::Connection, input};

/// Connections above the limit that are let in to be told "server busy".
const REFUSALS_MAX: usize = 1024;

/// How long accepting rests when the process or the machine is out of something.
const BACKOFF: Duration = Duration::from_millis(100);

/// A failure that goes on is told this often.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Accepts until it is aborted.
pub(super) async fn accept(shared: Rc<Shared>, listener: TcpListener) {
    let mut told: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if let Some((id, read)) = shared.with(|core| core.admit(stream, peer)) {
                    tokio::task::spawn_local(input::connection(Rc::clone(&shared), id, read));
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Out of file descriptors or memory: trying at once would only burn the processor.
                if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
                    tracing::error!(%error, "cannot accept connections, trying again until it works");
                    told = Some(Instant::now());
                }
                tokio::time::sleep(BACKOFF).await;
            }
        }
    }
}

/// Says whether the client itself went away, which says nothing about the next one.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

impl Core {
    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) -> Option<(ConnId, OwnedReadHalf)> {
        self.counts.accepted += 1;
        if self.connections.len() >= self.limits.connections_max + REFUSALS_MAX {
            self.counts.refused += 1;
            return None;
        }
        // One write a turn is all there is to send: waiting for more would only delay it.
        // A client without Keep Alive whose machine is gone is found out by the system's probes.
        let set = stream.set_nodelay(true).and_then(|()| socket2::SockRef::from(&stream).set_keepalive(true));
        if let Err(error) = set {
            tracing::debug!(%peer, %error, "connection was gone at once");
            return None;
        }
        let (read, write) = stream.into_split();
        let entry = self.connections.vacant_entry();
        self.next_serial += 1;
        let id = ConnId(self.next_serial << SLOT_BITS | entry.key() as u64);
        entry.insert(Connection::new(id, peer, write, self.limits.packet_bytes_max));
        let deadline_ms = self.clock.now().monotonic_ms + self.limits.connect_timeout_ms;
        self.connect_deadlines.push_back((deadline_ms, id));
        self.turn.raise();
        Some((id, read))
    }
}
