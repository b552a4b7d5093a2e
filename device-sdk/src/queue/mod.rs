//! Store and forward on disk: what is enqueued survives crashes, is sent by classes, and is removed when acknowledged.
//!
//! `Queue` is the face for [`crate::Client`]; a writer thread owns the logs (`writer`, `store`), and what is in memory is a
//! `window` for each class. [`DrivenQueue`] is the same without the thread.
//! An `enqueue` completes when its record is synced; concurrent ones share a sync. Acknowledgements are synced
//! some seconds later: those that a crash undoes lead to messages sent again, which their `im-id` makes
//! recognisable.

mod class;
mod driven;
mod names;
mod pace;
mod place;
mod planted;
mod ranges;
mod record;
mod relief;
#[cfg(test)]
mod simulation_tests;
mod state;
mod store;
mod window;
mod writer;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use protocol::{Packet, PacketId, ProtocolVersion, Publish, QoS, encoded_len, im::IM_ID};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use crate::message::user_property;
use crate::{Event, Message, QueueError, QueueOptions, StartError};
use state::{Arriving, State};
use store::{Found, Limits, Store};

pub use class::{Class, DropReason, Dropped};
pub use driven::{Arrival, DrivenQueue, GivenUp};
pub(crate) use pace::Slots;
pub use place::{OneDisk, Places, SubDisk};
#[doc(hidden)]
pub use planted::Planted;
pub use state::{Entry, QueueStatus};

/// Enqueues that may wait for the disk at a time; more wait in line.
const ENQUEUES_WAITING_MAX: usize = 1024;
/// The same in bytes of records.
const ENQUEUED_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Smallest quota: below it a segment is most of the queue.
pub(crate) const QUOTA_BYTES_MIN: u64 = 1024 * 1024;
/// Added to an entry's packet for what its record has beside it.
const RECORD_OVERHEAD_BYTES: usize = 64;

/// A cheap handle to the queue. The last one dropped ends the writer.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    shared: Arc<Shared>,
    _end: Arc<EndOnDrop>,
}

/// What handles and writer share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Wakes the writer.
    work: Condvar,
    /// Tells the driver that there may be entries, or something to tell.
    changed: Notify,
    /// Tells those who wait for an empty queue, or for the writer's end.
    progressed: Notify,
    enqueues: Arc<Semaphore>,
    enqueued_bytes: Arc<Semaphore>,
    clock: QueueClock,
}

/// The queue's clock: the time that all runs together took, as far as the disk tells. It never goes back and no wrong
/// clock disturbs it; it stands still while the device is off.
#[derive(Debug)]
struct QueueClock {
    /// What earlier runs took, milliseconds.
    before_ms: u64,
    run: RunClock,
}

/// How long this run has taken.
#[derive(Debug)]
enum RunClock {
    Since(Instant),
    /// As its owner says, milliseconds.
    Told(AtomicU64),
}

impl QueueClock {
    fn running(before_ms: u64) -> Self {
        Self { before_ms, run: RunClock::Since(Instant::now()) }
    }

    fn told(before_ms: u64) -> Self {
        Self { before_ms, run: RunClock::Told(AtomicU64::new(0)) }
    }

    fn now_ms(&self) -> u64 {
        let run_ms = match &self.run {
            RunClock::Since(started) => u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            RunClock::Told(now_ms) => now_ms.load(Ordering::Relaxed),
        };
        self.before_ms.saturating_add(run_ms)
    }

    /// Tells the time to a clock that does not run by itself.
    fn tell(&self, now_ms: u64) {
        if let RunClock::Told(told_ms) = &self.run {
            told_ms.store(now_ms, Ordering::Relaxed);
        }
    }
}

/// Ends the writer with the last handle.
#[derive(Debug)]
struct EndOnDrop(Arc<Shared>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.lock().closing = true;
        self.0.work.notify_one();
    }
}

impl Shared {
    fn new(state: State, clock: QueueClock) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(state),
            work: Condvar::new(),
            changed: Notify::new(),
            progressed: Notify::new(),
            enqueues: Arc::new(Semaphore::new(ENQUEUES_WAITING_MAX)),
            enqueued_bytes: Arc::new(Semaphore::new(ENQUEUED_BYTES_MAX)),
            clock,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }
}

/// An entry on its way to the disk, see [`crate::Client::enqueue_soon`]. Dropping it does not take the entry back.
#[derive(Debug)]
pub struct PendingEntry {
    receiver: oneshot::Receiver<Result<u64, QueueError>>,
    _turn: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl PendingEntry {
    /// Waits until the entry is on disk: accepted.
    ///
    /// # Errors
    /// As [`crate::Client::enqueue`].
    pub async fn wait(self) -> Result<(), QueueError> {
        self.receiver.await.unwrap_or(Err(QueueError::Stopped)).map(drop)
    }
}

impl Queue {
    /// Opens the queue in its directory and reads what is there.
    pub(crate) fn open(options: &QueueOptions) -> Result<Self, StartError> {
        check(options)?;
        let limits = Limits { bytes_max: options.bytes_max, thinning: options.thinning };
        let places = place::FilePlaces { root: options.dir.clone() };
        let (mut store, found) = Store::open(places, limits, fastrand::u64(..))?;
        let before_ms = told_ms(&found);
        let shared =
            Shared::new(State::recovered(options, &mut store, found), QueueClock::running(before_ms));
        writer::spawn(store, options, shared.clone()).map_err(StartError::QueueThread)?;
        Ok(Self::with(shared))
    }

    fn with(shared: Arc<Shared>) -> Self {
        Self { _end: Arc::new(EndOnDrop(shared.clone())), shared }
    }

    /// Hands a message with a valid topic and valid lengths to the writer.
    pub(crate) async fn enqueue(&self, class: Class, message: Message) -> Result<PendingEntry, QueueError> {
        let publish = entry_publish(message)?;
        let bytes = entry_bytes(&publish)?;
        let stopped = |_| QueueError::Stopped;
        let turn = self.shared.enqueues.clone().acquire_owned().await.map_err(stopped)?;
        let share = u32::try_from(bytes.min(ENQUEUED_BYTES_MAX)).expect("8 MiB fit");
        let share = self.shared.enqueued_bytes.clone().acquire_many_owned(share).await.map_err(stopped)?;
        let (reply, receiver) = oneshot::channel();
        {
            let mut state = self.shared.lock();
            if let Some(what) = &state.failed {
                return Err(QueueError::Disk { what: what.clone() });
            }
            if state.closing {
                return Err(QueueError::Stopped);
            }
            let since_ms = self.shared.now_ms();
            state.arrive(Arriving { class, publish, bytes, since_ms, reply });
        }
        self.shared.work.notify_one();
        Ok(PendingEntry { receiver, _turn: (turn, share) })
    }

    /// Takes the entry that is next, `None` if there is none that may go now.
    pub(crate) fn pop(&self, slots: Slots) -> Option<Entry> {
        let mut state = self.shared.lock();
        let entry = state.pop(self.shared.now_ms(), slots);
        let (wants_load, is_empty) = (state.wants_load(), state.status.entries == 0);
        let has_news = state.has_news();
        drop(state);
        if has_news {
            self.shared.changed.notify_one();
        }
        if wants_load {
            self.shared.work.notify_one();
        }
        if entry.is_none() && is_empty {
            // The last ones may have expired.
            self.shared.progressed.notify_waiters();
        }
        entry
    }

    /// Gives an entry back that could not be sent now.
    pub(crate) fn put_back(&self, entry: Entry) {
        self.shared.lock().put_back(entry);
    }

    /// The broker has the entry.
    pub(crate) fn ack(&self, entry: &Entry) {
        self.end(entry, None);
    }

    /// The broker does not want the entry.
    pub(crate) fn refuse(&self, entry: &Entry) {
        self.end(entry, Some(DropReason::Refused));
    }

    fn end(&self, entry: &Entry, dropped: Option<DropReason>) {
        let mut state = self.shared.lock();
        if !state.ack(entry, self.shared.now_ms()) {
            return;
        }
        if let Some(reason) = dropped {
            state.status.dropped.add(reason, 1);
        }
        let is_empty = state.status.entries == 0;
        drop(state);
        self.shared.work.notify_one();
        if is_empty {
            self.shared.progressed.notify_waiters();
        }
    }

    /// Tells whether there is a connection to the broker.
    pub(crate) fn set_online(&self, is_online: bool) {
        self.shared.lock().is_online = is_online;
        // Live entries wait for others no longer.
        self.shared.work.notify_one();
    }

    /// Takes what is to be told about entries that were dropped.
    pub(crate) fn take_news(&self) -> Vec<Event> {
        self.shared.lock().take_news()
    }

    /// Waits until there may be new entries or news.
    pub(crate) async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    pub(crate) fn status(&self) -> QueueStatus {
        self.shared.lock().status
    }

    /// Waits until no entry is left.
    pub(crate) async fn drained(&self) {
        self.wait_until(|state| state.status.entries == 0 || state.closed).await;
    }

    /// Writes what is to be written, ends the writer and unlocks the directory.
    pub(crate) async fn close(&self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_one();
        self.wait_until(|state| state.closed).await;
    }

    async fn wait_until(&self, reached: impl Fn(&State) -> bool) {
        loop {
            let progressed = self.shared.progressed.notified();
            tokio::pin!(progressed);
            // Registered before the look, so that nothing between the two is missed.
            progressed.as_mut().enable();
            if reached(&self.shared.lock()) {
                return;
            }
            progressed.await;
        }
    }
}

/// Returns about how many bytes an entry's record has.
fn entry_bytes(publish: &Publish) -> Result<usize, QueueError> {
    let packet = Packet::Publish(Publish { packet_id: Some(PacketId::MIN), ..publish.clone() });
    let bytes = encoded_len(&packet, ProtocolVersion::V5) + RECORD_OVERHEAD_BYTES;
    if bytes > record::RECORD_BYTES_MAX {
        let limit = record::RECORD_BYTES_MAX;
        return Err(QueueError::Unencodable {
            what: format!("it has {bytes} bytes, an entry has {limit} at most"),
        });
    }
    Ok(bytes)
}

/// Returns how far the queue's clock had come.
fn told_ms(found: &[Found]) -> u64 {
    found.iter().map(|log| log.clock_s).max().unwrap_or(0).saturating_mul(1_000)
}

fn check(options: &QueueOptions) -> Result<(), StartError> {
    let bad = |what: String| Err(StartError::Options { what });
    if options.bytes_max < QUOTA_BYTES_MIN {
        return bad(format!(
            "queue bytes_max is {}, it must be at least {QUOTA_BYTES_MIN}",
            options.bytes_max
        ));
    }
    if options.entries_max == 0 {
        return bad("queue entries_max is 0, it must be at least 1".to_owned());
    }
    if let Some(thinning) = options.thinning
        && !(1..=thinning.tolerance_m_max).contains(&thinning.tolerance_m)
    {
        return bad(format!(
            "queue thinning from {} to {} m: the first must be 1 or more and not above the last",
            thinning.tolerance_m, thinning.tolerance_m_max
        ));
    }
    if options.dir == Path::new("") {
        return bad("queue dir is empty".to_owned());
    }
    Ok(())
}

/// Makes what goes into the queue: at least QoS 1; an `im-id` of its own must be one that the broker takes.
fn entry_publish(mut message: Message) -> Result<Publish, QueueError> {
    message.qos = message.qos.max(QoS::AtLeastOnce);
    if let Some(id) = user_property(&message.properties.user_properties, IM_ID) {
        let chars = id.chars().count();
        if !(1..=64).contains(&chars) {
            return Err(QueueError::Id { id: id.chars().take(128).collect(), chars });
        }
    }
    Ok(message.into_publish())
}
