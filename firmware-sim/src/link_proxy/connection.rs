//! One connection through the network, from its opening to its end.
//!
//! ```text
//!   waiting for signal ──▶ open ──▶ ended in order (each direction by itself, when all has arrived)
//!                           ├─────▶ reset: both ends are told
//!                           ├─────▶ silent: what is sent vanishes; the device finds out by itself, and the broker too
//!                           └─────▶ forgotten by the carrier: silent, or a reset for whoever sends next
//! ```

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use device_sdk::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};

use super::frames::{Frames, Theft, is_accepted};
use super::lane::Lane;
use super::{Cut, Network, Radio, reset};
use crate::scenario::OutageMode;

/// Read at a time.
const PIECE_BYTES: usize = 16 * 1024;
/// What a device may send before there is signal.
const EARLY_BYTES_MAX: usize = 64 * 1024;
/// How long what nobody ends hangs in the air: longer than brokers wait for silent clients.
const IN_THE_AIR: Duration = Duration::from_secs(300);

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// Why the bytes of a connection flow no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// An end has reset it, or the network has.
    Reset,
    /// What is sent vanishes.
    Silent,
    /// The device has no power.
    Power,
    /// The device has given it up, and nobody hears that.
    GivenUp,
    /// The carrier has forgotten it, and told who sent.
    Forgotten(Way),
}

/// What both directions of a connection see.
struct Shared<'a> {
    network: &'a Network,
    radio: watch::Receiver<Radio>,
    /// When the carrier last saw a byte.
    passed_ms: AtomicU64,
    /// Whether the broker has accepted it.
    is_accepted: AtomicBool,
    theft: Option<&'a Theft>,
}

/// Carries a connection to its end.
pub(super) async fn run(
    mut device: TcpStream,
    network: &Network,
    mut radio: watch::Receiver<Radio>,
    mut chance: fastrand::Rng,
    theft: Option<&Theft>,
) {
    let cuts = radio.borrow().cuts;
    let mut early = Vec::new();
    let opened = tokio::select! {
        opened = open(network, radio.clone()) => opened,
        // A device that has given up meanwhile must not be heard afterwards.
        _ = hear_early(&mut device, &mut early) => return,
        _ = radio.wait_for(|radio| radio.cuts != cuts) => return reset(device),
    };
    let Ok(mut broker) = opened else { return reset(device) };
    let shared = Shared {
        network,
        radio: radio.clone(),
        passed_ms: AtomicU64::new(network.time.now_ms()),
        is_accepted: AtomicBool::new(false),
        theft,
    };
    // What is small waits for nothing.
    let _ = (device.set_nodelay(true), broker.set_nodelay(true));
    let end = {
        let (device_read, device_write) = device.split();
        let (broker_read, broker_write) = broker.split();
        let up = shared.carry(Way::Up, std::mem::take(&mut early), device_read, broker_write, chance.fork());
        let down = shared.carry(Way::Down, Vec::new(), broker_read, device_write, chance);
        tokio::select! {
            ended = both(up, down) => ended.err(),
            end = cut(radio, cuts) => Some(end),
        }
    };
    if end != Some(End::Power) && shared.is_accepted.load(Ordering::Relaxed) {
        network.counts().stats.link_drops += 1;
    }
    match end {
        None => {}
        Some(End::Reset) => {
            reset(device);
            reset(broker);
        }
        Some(End::Silent) => {
            tokio::join!(hang(device), hang(broker));
        }
        Some(End::Power | End::GivenUp) => {
            drop(device);
            hang(broker).await;
        }
        Some(End::Forgotten(Way::Up)) => {
            reset(device);
            hang(broker).await;
        }
        Some(End::Forgotten(Way::Down)) => {
            reset(broker);
            hang(device).await;
        }
    }
}

/// Waits for signal and a round trip, then connects to the broker.
async fn open(network: &Network, mut radio: watch::Receiver<Radio>) -> io::Result<TcpStream> {
    loop {
        let now_ms = network.time.now_ms();
        let until_ms = radio.borrow_and_update().no_signal_until_ms;
        if until_ms <= now_ms {
            break;
        }
        tokio::select! {
            () = sleep_until(network.time.at(until_ms)) => {}
            changed = radio.changed() => changed.map_err(|_| io::ErrorKind::NotConnected)?,
        }
    }
    tokio::time::sleep(Duration::from_millis(2 * network.links.delay_ms)).await;
    let broker = *network.broker.borrow();
    TcpStream::connect(broker).await
}

/// Keeps what a device says before its connection is open; returns when it has given up.
async fn hear_early(device: &mut TcpStream, early: &mut Vec<u8>) {
    let mut piece = [0; 1_024];
    loop {
        if early.len() >= EARLY_BYTES_MAX {
            return std::future::pending().await;
        }
        match device.read(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(count) => early.extend_from_slice(&piece[..count]),
        }
    }
}

async fn cut(mut radio: watch::Receiver<Radio>, cuts: u64) -> End {
    let Ok(radio) = radio.wait_for(|radio| radio.cuts != cuts).await else { return End::Reset };
    match radio.last_cut {
        Cut::Reset => End::Reset,
        Cut::Silent => End::Silent,
        Cut::Power => End::Power,
    }
}

/// Both directions to their end in order, or the first that breaks.
async fn both(
    up: impl Future<Output = Result<(), End>>,
    down: impl Future<Output = Result<(), End>>,
) -> Result<(), End> {
    tokio::try_join!(up, down).map(drop)
}

/// A socket whose other end is not told: what comes vanishes, until whoever sends gives up.
async fn hang(mut socket: TcpStream) {
    let mut piece = [0; 1_024];
    let vanish = async { while matches!(socket.read(&mut piece).await, Ok(1..)) {} };
    // It ends as it is; a reset tells the other end at least now.
    let _ = timeout(IN_THE_AIR, vanish).await;
    reset(socket);
}

impl Shared<'_> {
    /// Carries one direction until the sender has ended it in order and all has arrived.
    async fn carry(
        &self,
        way: Way,
        early: Vec<u8>,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        mut chance: fastrand::Rng,
    ) -> Result<(), End> {
        let (mut lane, mut frames) = (Lane::default(), Frames::default());
        let mut piece = vec![0; PIECE_BYTES];
        let mut is_ended = false;
        self.send(way, &mut lane, &mut frames, &early, &mut chance)?;
        loop {
            while let Some(arrived) = lane.arrive(self.network.time.now_ms()) {
                if way == Way::Down
                    && is_accepted(&arrived)
                    && !self.is_accepted.swap(true, Ordering::Relaxed)
                {
                    self.network.counts().stats.connects += 1;
                }
                to.write_all(&arrived).await.map_err(|_| End::Reset)?;
            }
            let next_ms = lane.next_ms();
            if is_ended && next_ms.is_none() {
                to.shutdown().await.map_err(|_| End::Reset)?;
                return Ok(());
            }
            tokio::select! {
                read = from.read(&mut piece), if !is_ended && lane.has_room() => match read {
                    // Nobody hears how a device without signal ends its connection.
                    Ok(0) | Err(_) if way == Way::Up && self.has_no_signal() => return Err(End::GivenUp),
                    Ok(0) => is_ended = true,
                    Ok(count) => self.send(way, &mut lane, &mut frames, &piece[..count], &mut chance)?,
                    Err(_) => return Err(End::Reset),
                },
                () = self.until(next_ms), if next_ms.is_some() => {}
                forged = self.forged(way) => {
                    lane.push(forged, self.network.time.now_ms(), 0, &self.network.links, &mut chance);
                }
            }
        }
    }

    /// Puts what was read on its way.
    fn send(
        &self,
        way: Way,
        lane: &mut Lane,
        frames: &mut Frames,
        bytes: &[u8],
        chance: &mut fastrand::Rng,
    ) -> Result<(), End> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (now_ms, links) = (self.network.time.now_ms(), &self.network.links);
        let timeout_ms = self.network.nat_timeout_ms.load(Ordering::Relaxed);
        let passed_ms = self.passed_ms.load(Ordering::Relaxed);
        if timeout_ms > 0 && now_ms > passed_ms + timeout_ms {
            return Err(match links.nat {
                OutageMode::Silent => End::Silent,
                OutageMode::Reset => End::Forgotten(way),
            });
        }
        let pieces = match self.theft {
            None => vec![Bytes::copy_from_slice(bytes)],
            // Whole packets, so that what is forged finds a place between two.
            Some(theft) => {
                let packets = frames.push(bytes).into_iter();
                packets
                    .filter_map(|packet| if way == Way::Up { theft.look(packet) } else { Some(packet) })
                    .collect()
            }
        };
        let no_signal_until_ms = self.radio.borrow().no_signal_until_ms;
        for piece in pieces {
            let arrives_ms = lane.push(piece, now_ms, no_signal_until_ms, links, chance);
            self.passed_ms.fetch_max(arrives_ms, Ordering::Relaxed);
        }
        Ok(())
    }

    fn has_no_signal(&self) -> bool {
        self.radio.borrow().no_signal_until_ms > self.network.time.now_ms()
    }

    async fn until(&self, ms: Option<u64>) {
        if let Some(ms) = ms {
            sleep_until(self.network.time.at(ms)).await;
        }
    }

    /// What the thief forges, on its way to the device.
    async fn forged(&self, way: Way) -> Bytes {
        let Some(theft) = self.theft.filter(|_| way == Way::Down) else {
            let never: Infallible = std::future::pending().await;
            match never {}
        };
        loop {
            if let Some(forged) = theft.take_forged() {
                return forged;
            }
            theft.has_forged.notified().await;
        }
    }
}
