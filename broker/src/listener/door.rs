//! The door: PROXY headers, TLS and WebSocket handshakes, on a thread of their own.
//!
//! A handshake costs a shard's turn many times over, and half of one costs nothing but patience. So the shard only
//! accepts such a connection and gets it back when it is ready to speak MQTT. Each handshake is a task with a deadline;
//! when there are too many, the oldest gives way: an honest client is done long before it is the oldest.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use bytes::BytesMut;
use rustls::ServerConnection;
use tokio::{
    net::TcpStream,
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::timeout,
};

use super::{
    Listener,
    frame::Frames,
    proxy,
    tls::checked_identity,
    upgrade::{self, Refusal},
    wire::{Got, Layers, Wire, plain_bytes_min},
};
use crate::{
    limits::Seat,
    peer::{ClientCertificate, Peer, PeerAddr},
};

/// Accepted connections that wait for the door, and ready ones that wait for the shard.
const QUEUE_MAX: usize = 1024;

/// The least that a WebSocket message may be long.
const MESSAGE_BYTES_MIN: u64 = 16 * 1024 * 1024;

/// A connection that needs a handshake.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) stream: std::net::TcpStream,
    pub(crate) address: SocketAddr,
    pub(crate) listener: Arc<Listener>,
    pub(crate) seat: Option<HeldSeat>,
}

/// A connection that is ready to speak MQTT.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) stream: std::net::TcpStream,
    pub(crate) layers: Layers,
    pub(crate) peer: Peer,
    /// What the limits counted of it at accept; none where they were not asked then.
    pub(crate) seat: Option<HeldSeat>,
}

/// Seats of connections that ended in their handshake, for the shard to take back; as many as there were.
#[derive(Debug, Default)]
pub(crate) struct GivenUp(Mutex<Vec<Seat>>);

impl GivenUp {
    /// Takes them.
    pub(crate) fn take(&self) -> Vec<Seat> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A seat on its way through a handshake, which comes back however that ends.
#[derive(Debug)]
pub(crate) struct HeldSeat {
    seat: Option<Seat>,
    back: Arc<GivenUp>,
}

impl HeldSeat {
    pub(crate) fn new(seat: Seat, back: Arc<GivenUp>) -> Self {
        Self { seat: Some(seat), back }
    }

    /// Takes it for good.
    pub(crate) fn take(mut self) -> Option<Seat> {
        self.seat.take()
    }
}

impl Drop for HeldSeat {
    fn drop(&mut self) {
        if let Some(seat) = self.seat.take() {
            self.back.0.lock().unwrap_or_else(PoisonError::into_inner).push(seat);
        }
    }
}

/// What handshakes may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HandshakeLimits {
    pub(crate) handshakes_max: usize,
    pub(crate) handshake_timeout: Duration,
    /// The longest WebSocket message.
    pub(crate) message_bytes_max: u64,
}

impl HandshakeLimits {
    pub(crate) fn new(mqtt: &crate::config::Mqtt) -> Self {
        Self {
            handshakes_max: mqtt.handshakes_max as usize,
            handshake_timeout: Duration::from_secs(u64::from(mqtt.handshake_timeout_s)),
            message_bytes_max: MESSAGE_BYTES_MIN.max(2 * u64::from(mqtt.packet_bytes_max)),
        }
    }
}

/// What became of handshakes, for metrics.
#[derive(Debug, Default)]
pub(crate) struct HandshakeCounts {
    done: AtomicU64,
    failed: AtomicU64,
}

impl HandshakeCounts {
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Relaxed)
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    pub(crate) fn count(&self, is_done: bool) {
        let count = if is_done { &self.done } else { &self.failed };
        count.fetch_add(1, Relaxed);
    }
}

/// The way to the door's thread; when the last one is dropped the thread ends, and its handshakes with it.
#[derive(Clone, Debug)]
pub(crate) struct HandshakeDoor {
    waiting: mpsc::Sender<Waiting>,
    counts: Arc<HandshakeCounts>,
}

/// Makes the way by which ready connections come to the shard.
pub(crate) fn arrivals() -> (mpsc::Sender<Arrival>, mpsc::Receiver<Arrival>) {
    mpsc::channel(QUEUE_MAX)
}

impl HandshakeDoor {
    /// Starts the thread.
    pub(crate) fn open(
        limits: HandshakeLimits,
        arrivals: mpsc::Sender<Arrival>,
        counts: Arc<HandshakeCounts>,
    ) -> io::Result<Self> {
        let executor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (sender, waiting) = mpsc::channel(QUEUE_MAX);
        let door = Self { waiting: sender, counts: Arc::clone(&counts) };
        thread::Builder::new()
            .name("door".to_owned())
            .spawn(move || executor.block_on(serve(limits, waiting, arrivals, counts)))?;
        Ok(door)
    }

    /// Hands a connection over; it is closed when too many wait already.
    pub(crate) fn hand_over(&self, waiting: Waiting) {
        if let Err(error) = self.waiting.try_send(waiting) {
            self.counts.count(false);
            tracing::debug!(%error, "no handshake: too many connections wait for one");
        }
    }
}

async fn serve(
    limits: HandshakeLimits,
    mut waiting: mpsc::Receiver<Waiting>,
    arrivals: mpsc::Sender<Arrival>,
    counts: Arc<HandshakeCounts>,
) {
    let mut tasks = JoinSet::new();
    let mut running: BTreeMap<u64, AbortHandle> = BTreeMap::new();
    let mut next_serial = 0;
    loop {
        tokio::select! {
            taken = waiting.recv() => {
                let Some(taken) = taken else { return };
                while running.len() >= limits.handshakes_max
                    && let Some((_, oldest)) = running.pop_first()
                {
                    if !oldest.is_finished() {
                        oldest.abort();
                        counts.count(false);
                    }
                }
                next_serial += 1;
                let task = attend(next_serial, taken, limits, arrivals.clone(), Arc::clone(&counts));
                running.insert(next_serial, tasks.spawn(task));
            }
            Some(ended) = tasks.join_next() => match ended {
                Ok(serial) => {
                    running.remove(&serial);
                }
                Err(error) if error.is_panic() => {
                    // It has been printed; the map is cleaned by who is done.
                    running.retain(|_, task| !task.is_finished());
                }
                Err(_aborted) => {}
            },
        }
    }
}

/// One handshake, from its begin to the shard or its end.
async fn attend(
    serial: u64,
    waiting: Waiting,
    limits: HandshakeLimits,
    arrivals: mpsc::Sender<Arrival>,
    counts: Arc<HandshakeCounts>,
) -> u64 {
    let (address, listener) = (waiting.address, Arc::clone(&waiting.listener));
    let outcome = match timeout(limits.handshake_timeout, handshake(waiting, limits)).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => Err("it took too long".to_owned()),
    };
    counts.count(outcome.is_ok());
    match outcome {
        // The shard may be gone: then so is the connection.
        Ok(arrival) => drop(arrivals.send(arrival).await),
        Err(error) => {
            tracing::debug!(peer = %address, listener = %listener.name, error, "handshake failed");
        }
    }
    serial
}

async fn handshake(waiting: Waiting, limits: HandshakeLimits) -> Result<Arrival, String> {
    let Waiting { stream, mut address, listener, seat } = waiting;
    let told = |error: io::Error| error.to_string();
    let mut stream = TcpStream::from_std(stream).map_err(told)?;
    let mut certificate = None;
    if listener.config.proxy_protocol {
        let proxied = proxy::read(&mut stream).await.map_err(|error| error.to_string())?;
        address = proxied.address.unwrap_or(address);
        if let (true, Some(name)) = (listener.config.proxy_identity, proxied.common_name) {
            certificate = Some(ClientCertificate { identity: checked_identity(name)? });
        }
    }
    let mut layers = Layers::default();
    if let Some(tls) = &listener.tls {
        layers.tls = Some(Box::new(ServerConnection::new(tls.current()).map_err(|error| error.to_string())?));
    }
    let mut wire = Wire::new(stream, layers);
    if let Err(error) = wire.handshake().await {
        // A client that is still there reads why: closing at once could destroy the alert on its way.
        if error.kind() == io::ErrorKind::InvalidData && wire.shutdown().is_ok() {
            wire.wait_for_end(REFUSED_BYTES_MAX).await;
        }
        return Err(error.to_string());
    }
    if let (Some(tls), Some(session)) = (&listener.tls, wire.tls()) {
        certificate = tls.identify(session)?.or(certificate);
    }
    if listener.config.transport.is_web_socket() {
        let early = open_web_socket(&mut wire, &listener).await?;
        wire = wire.with_frames(Frames::new(limits.message_bytes_max), early);
    }
    let (stream, layers) = wire.into_parts();
    let certificate = certificate.map(Box::new);
    let peer = Peer { address: PeerAddr::Ip(address), listener, certificate };
    Ok(Arrival { stream: stream.into_std().map_err(told)?, layers, peer, seat })
}

/// Answers the HTTP request; returns what came after it.
async fn open_web_socket(wire: &mut Wire<TcpStream>, listener: &Listener) -> Result<BytesMut, String> {
    let mut read = BytesMut::new();
    let accepted = loop {
        if wire.read_some(&mut read).await.map_err(|error| error.to_string())? == 0 {
            return Err("it ended before its request was whole".to_owned());
        }
        let judged = upgrade::parse(&read).and_then(|parsed| match parsed {
            Some((request, len)) => {
                request.judge(&listener.web_rules()).map(|accepted| Some((accepted, len)))
            }
            None => Ok(None),
        });
        match judged {
            Ok(Some((accepted, len))) => {
                let _request = read.split_to(len);
                break accepted;
            }
            Ok(None) => {}
            Err(refusal) => return Err(refuse(wire, refusal).await),
        }
    };
    let mut response = BytesMut::from(accepted.response().as_str());
    wire.send_all(&mut response).await.map_err(|error| error.to_string())?;
    Ok(read)
}

/// Sends the refusal and waits, within the handshake's time, until the client has it.
async fn refuse(wire: &mut Wire<TcpStream>, refusal: Refusal) -> String {
    let mut response = BytesMut::from(refusal.response().as_str());
    wire.end();
    if wire.send_all(&mut response).await.is_ok() && wire.shutdown().is_ok() {
        wire.wait_for_end(REFUSED_BYTES_MAX).await;
    }
    let Refusal { status, what, .. } = refusal;
    format!("answered with HTTP {status}: {what}")
}

/// Bytes that are thrown away of a client that was refused.
const REFUSED_BYTES_MAX: usize = 64 * 1024;

impl Wire<TcpStream> {
    /// Reads a piece behind what is there.
    async fn read_some(&mut self, read: &mut BytesMut) -> io::Result<usize> {
        loop {
            let got = self.try_read_some(read)?;
            if got.bytes > 0 || got.is_end {
                return Ok(got.bytes);
            }
            if got.has_more {
                tokio::task::yield_now().await;
            } else {
                self.stream().readable().await?;
            }
        }
    }

    /// The buffers are for one call: while it waits it has none.
    fn try_read_some(&mut self, read: &mut BytesMut) -> io::Result<Got> {
        let (mut cipher, mut plain) = ([0; 4096], vec![0; plain_bytes_min(4096)]);
        let got = self.try_read(&mut cipher, &mut plain)?;
        read.extend_from_slice(&plain[..got.bytes]);
        Ok(got)
    }

    /// Sends all of `out`.
    async fn send_all(&mut self, out: &mut BytesMut) -> io::Result<()> {
        loop {
            self.try_send(out)?;
            if out.is_empty() && !self.wants_write() {
                return Ok(());
            }
            self.stream().writable().await?;
        }
    }

    /// Waits until the client has closed, or sent so much.
    async fn wait_for_end(&mut self, mut bytes_left: usize) {
        while bytes_left > 0 {
            match self.try_discard(&mut [0; 4096]) {
                Ok(got) if got.is_end => return,
                Ok(got) if got.bytes > 0 => bytes_left = bytes_left.saturating_sub(got.bytes),
                Ok(_) if self.stream().readable().await.is_ok() => {}
                _ => return,
            }
        }
    }
}

#[cfg(test)]
#[path = "door_tests.rs"]
mod tests;
