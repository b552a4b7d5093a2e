//! A mobile network in user space: what a device sends goes through a listener on loopback, late, in stalls, or not at all.
//!
//! One [`Proxy`] is one device's way to the broker. It does with bytes of real sockets what the simulated links do with packets:
//! delay, jitter, loss as stalls, a rate, times without signal, cuts and a carrier that forgets, each as a reset or as
//! silence. What is on its way is bounded; beyond it nobody reads, and TCP slows the sender down.
//!
//! ```text
//!   device ── socket ──▶ Proxy: lanes up and down, each with its pace ── socket ──▶ broker
//! ```

mod connection;
mod frames;
mod lane;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::outcome::Stats;
use crate::real::Timebase;
use crate::scenario::{Links, OutageMode};
use frames::Theft;

/// Connections of one device at a time, those that hang in the air included; more wait.
const CONNECTIONS_MAX: usize = 32;

/// What all ways of a run share.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) time: Timebase,
    pub(crate) links: Links,
    /// After which silence the carrier forgets a connection, milliseconds; 0 = never.
    pub(crate) nat_timeout_ms: AtomicU64,
    /// Where the broker is.
    pub(crate) broker: Arc<watch::Sender<SocketAddr>>,
    /// Connections that the broker takes in a second; 0 = no bound.
    pub(crate) connects_per_s: u64,
    pub(crate) counts: Mutex<Counts>,
}

/// What happened on all ways.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) stats: Stats,
    /// Connections taken in this second, and which second that is.
    taken: (u64, u64),
}

impl Network {
    pub(crate) fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an attempt; says whether the broker takes one more in this second.
    fn dialled(&self) -> bool {
        let now_ms = self.time.now_ms();
        let mut counts = self.counts();
        counts.stats.dialled(now_ms);
        if counts.taken.0 != now_ms / 1_000 {
            counts.taken = (now_ms / 1_000, 0);
        }
        counts.taken.1 += 1;
        self.connects_per_s == 0 || counts.taken.1 <= self.connects_per_s
    }
}

/// How the radio is, and what ends connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Radio {
    /// Nothing gets through before.
    pub(crate) no_signal_until_ms: u64,
    /// Attempts are refused before.
    pub(crate) refused_until_ms: u64,
    /// Counts cuts; each ends the connections there are.
    cuts: u64,
    last_cut: Cut,
}

/// How connections end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Cut {
    /// Both ends are told.
    #[default]
    Reset,
    /// Nobody is told.
    Silent,
    /// The device is off, and nobody tells the broker.
    Power,
}

/// A device's way to the broker.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    radio: Arc<watch::Sender<Radio>>,
    listener: AbortHandle,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Its connections end with it.
        self.listener.abort();
    }
}

impl Proxy {
    /// Opens a way; `seed` decides its stalls.
    pub(crate) async fn open(network: Arc<Network>, seed: u64) -> io::Result<Proxy> {
        Proxy::open_with(network, seed, None).await
    }

    /// As [`Proxy::open`]; the thief, if there is one, takes a record and acknowledges it.
    pub(crate) async fn open_with(
        network: Arc<Network>,
        seed: u64,
        steals_at: Option<u64>,
    ) -> io::Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let radio = Arc::new(watch::Sender::new(Radio::default()));
        let theft = steals_at.map(Theft::at).map(Arc::new);
        let serving = serve(listener, network, radio.clone(), fastrand::Rng::with_seed(seed), theft);
        Ok(Proxy { address, radio, listener: tokio::spawn(serving).abort_handle() })
    }

    /// Where the device connects to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing gets through before; connections stand still.
    pub(crate) fn no_signal_until(&self, ms: u64) {
        self.radio.send_modify(|radio| radio.no_signal_until_ms = radio.no_signal_until_ms.max(ms));
    }

    /// Attempts to connect are refused before.
    pub(crate) fn refused_until(&self, ms: u64) {
        self.radio.send_modify(|radio| radio.refused_until_ms = radio.refused_until_ms.max(ms));
    }

    /// Ends the connections there are.
    pub(crate) fn cut(&self, mode: OutageMode) {
        self.end(match mode {
            OutageMode::Reset => Cut::Reset,
            OutageMode::Silent => Cut::Silent,
        });
    }

    /// The device's power goes: what it still says is not heard.
    pub(crate) fn power_cut(&self) {
        self.end(Cut::Power);
    }

    fn end(&self, cut: Cut) {
        self.radio.send_modify(|radio| (radio.cuts, radio.last_cut) = (radio.cuts + 1, cut));
    }
}

async fn serve(
    listener: TcpListener,
    network: Arc<Network>,
    radio: Arc<watch::Sender<Radio>>,
    mut chance: fastrand::Rng,
    theft: Option<Arc<Theft>>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let device = match listener.accept().await {
            Ok((device, _)) => device,
            Err(error) => {
                // For want of files: whoever asks again finds them, or not.
                tracing::warn!(%error, "a simulated link cannot be opened");
                tokio::task::yield_now().await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let is_taken = network.dialled();
        let (network, radio) = (network.clone(), radio.subscribe());
        let (chance, theft) = (chance.fork(), theft.clone());
        connections.spawn(async move {
            if is_taken && network.time.now_ms() >= radio.borrow().refused_until_ms {
                connection::run(device, &network, radio, chance, theft.as_deref()).await;
            } else {
                reset(device);
            }
            drop(place);
        });
    }
}

/// Ends a socket so that its other end is told at once.
fn reset(socket: TcpStream) {
    // Without it the end is told in order; who cannot be told so is told otherwise.
    let _ = socket.set_zero_linger();
}

#[cfg(test)]
mod tests;
