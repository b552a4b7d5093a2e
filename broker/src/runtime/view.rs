//! Keeping the view behind the log, and giving back the log's space that nothing needs any more; on a thread of its own.
//!
//! About each second it takes what is synced into the view, in batches, each written and synced as one. Then it looks
//! at the full segments that the view has taken in whole, and rewrites those that are worth it, so that only records
//! with messages that are still needed stay. Nothing here is on a message's way: if it stops, the log grows, and the next
//! start replays more.
//!
//! Invariants: the view never knows more than what is synced, whatever the durability, so that a power cut leaves the
//! log ahead of it; a segment is only rewritten when all of it is in the view.

mod give_way;
mod hurry;
mod patience;
mod place;

use std::{
    cmp::Reverse,
    collections::BTreeSet,
    ops::Range,
    slice,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use engine::{
    Ticket,
    view::{ProjectError, Projector, live_places},
};
use storage::{FjallView, LogError, LogReader, Lsn, Swapper, View, ViewError};

use self::{give_way::give_way, hurry::Hurry, patience::is_due};
pub(super) use self::{patience::FullStore, place::ViewPlace};
use super::{
    Inbox,
    reclaim::{Garbage, Segment, plan},
};
use crate::FatalError;

/// How often the view catches up ...
const PERIOD: Duration = Duration::from_secs(1);

/// ... and how often while the store is full and whoever publishes waits for space.
const PERIOD_FULL: Duration = Duration::from_millis(100);

/// Looks after which what is committed is synced, with durability "process": bounds what a start replays.
const UNSYNCED_PASSES_MAX: u32 = 30;

/// Records behind the log from which on the view gets as much of the processors as everybody else: a start replays them in
/// well under a second.
const LATE_RECORDS: u64 = 100_000;

/// Looks in a row with nothing to take in after which the view is tidied if that is worth it.
const QUIET_PASSES: u32 = 3;

/// Bytes of records in one batch ...
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// ... and bytes that the projector holds for one.
const BATCH_PENDING_BYTES: usize = 32 * 1024 * 1024;

/// Segments looked at after each batch, one after the other over all of them.
const SEGMENTS_LOOKED_AT: usize = 32;

/// Runs rewritten after one batch.
const REWRITES_MAX: usize = 8;

/// While the store stays full, segments with little garbage are rewritten this often ...
const THRIFT_PERIOD: Duration = Duration::from_secs(10);

/// ... and what does not work for want of space is told this often.
const TOLD_PERIOD: Duration = Duration::from_secs(60);

/// What the thread has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ViewCounts {
    /// Records that are committed and not in the view.
    pub(crate) lag: u64,
    /// Size of the view on disk.
    pub(crate) disk_bytes: u64,
    pub(crate) batches: u64,
    pub(crate) rewrites: u64,
    /// What rewriting has given back.
    pub(crate) freed_bytes: u64,
    /// It does not follow the log any more.
    pub(crate) is_failed: bool,
}

/// The thread; dropping it ends it after the batch under way.
#[derive(Debug)]
pub(super) struct ViewThread {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    is_ending: AtomicBool,
    lag: AtomicU64,
    disk_bytes: AtomicU64,
    batches: AtomicU64,
    rewrites: AtomicU64,
    freed_bytes: AtomicU64,
    is_failed: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    is_woken: bool,
}

/// Why the view does not follow the log any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    View(#[from] ViewError),
    #[error(transparent)]
    Project(#[from] ProjectError),
    #[error("the view cannot say which records are needed: {0}")]
    Places(String),
}

/// What the thread owns.
pub(super) struct Follower {
    pub(super) view: FjallView,
    pub(super) place: ViewPlace,
    pub(super) reader: LogReader,
    pub(super) swapper: Swapper,
    pub(super) segment_bytes: u64,
    /// Looks at the log in a row that found something committed and not synced.
    pub(super) unsynced_passes: u32,
    /// Segments with records that cannot be read: they stay as they are.
    pub(super) damaged: BTreeSet<u64>,
    pub(super) full: FullStore,
}

impl ViewThread {
    pub(super) fn spawn(follower: Follower, inbox: Arc<Inbox>) -> Self {
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let thread = thread::Builder::new().name("view".to_owned());
        let thread = thread.spawn(move || {
            let _alarm = PanicAlarm(Arc::clone(&own));
            own.follow(follower, &inbox);
        });
        Self { shared, thread: Some(thread.expect("the operating system can start one more thread")) }
    }

    /// Makes it look at once: the store is full.
    pub(super) fn wake(&self) {
        self.shared.lock().is_woken = true;
        self.shared.changed.notify_one();
    }

    pub(super) fn counts(&self) -> ViewCounts {
        let shared = &self.shared;
        ViewCounts {
            lag: shared.lag.load(Relaxed),
            disk_bytes: shared.disk_bytes.load(Relaxed),
            batches: shared.batches.load(Relaxed),
            rewrites: shared.rewrites.load(Relaxed),
            freed_bytes: shared.freed_bytes.load(Relaxed),
            is_failed: shared.is_failed.load(Relaxed),
        }
    }
}

/// Says that the view does not follow any more when it is dropped by a panic: everybody else goes on.
struct PanicAlarm(Arc<Shared>);

impl Drop for PanicAlarm {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.is_failed.store(true, Relaxed);
            tracing::error!(
                "a bug ended the view's thread (the panic message is above): no space is given back"
            );
        }
    }
}

impl Drop for ViewThread {
    fn drop(&mut self) {
        self.shared.is_ending.store(true, Relaxed);
        self.wake();
        if let Some(thread) = self.thread.take() {
            // It panics only by a bug, which it has told.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    fn is_ending(&self) -> bool {
        self.is_ending.load(Relaxed)
    }

    fn follow(&self, mut follower: Follower, inbox: &Inbox) {
        let (mut looked_at, mut quiet_passes) = (0, 0);
        let hurry = Hurry::spawn();
        give_way();
        loop {
            follower.sync(inbox);
            let applied = follower.view.applied();
            let done;
            (follower, done) = self.catch_up(follower, &hurry);
            let done = done.and_then(|()| {
                quiet_passes = if follower.view.applied() == applied { quiet_passes + 1 } else { 0 };
                if quiet_passes >= QUIET_PASSES && !inbox.is_full() {
                    follower.tidy()?;
                }
                if !inbox.is_full() {
                    follower.place.keep_reserve();
                }
                self.disk_bytes.store(follower.view.disk_bytes(), Relaxed);
                if self.is_ending() { Ok(()) } else { follower.reclaim(self, &mut looked_at, inbox) }
            });
            match done {
                Ok(()) => {
                    if self.is_failed.swap(false, Relaxed) {
                        tracing::info!("the view follows the log again");
                    }
                }
                // The log has everything: another try may find space, or a disk that works.
                Err(Failure::View(error)) => {
                    follower = match self.reopen(follower, &error) {
                        Some(follower) => follower,
                        None => return,
                    };
                }
                Err(Failure::Log(error)) => return inbox.fail(FatalError::Store(error)),
                // Nothing on disk is known to be wrong, and a restart would not change it.
                Err(error @ (Failure::Project(_) | Failure::Places(_))) => {
                    tracing::error!(%error, "the view does not follow the log any more, so no space is given back");
                    return self.is_failed.store(true, Relaxed);
                }
            }
            if !self.wait(if inbox.is_full() { PERIOD_FULL } else { PERIOD }) {
                // What came last is synced, whatever the durability, and taken in too: the next start replays nothing.
                // If the log takes nothing more, that is told by others.
                let _ = follower.swapper.sync();
                if let (_, Err(error)) = self.catch_up(follower, &hurry) {
                    tracing::warn!(%error, "the view is behind the log, the next start takes longer");
                }
                return;
            }
        }
    }

    /// Takes everything into the view that is synced now, in a hurry where it is late.
    fn catch_up(&self, mut follower: Follower, hurry: &Hurry) -> (Follower, Result<(), Failure>) {
        let synced = follower.reader.synced();
        let mut done = Ok(());
        while done.is_ok() && follower.view.applied() < synced {
            if follower.lag() > LATE_RECORDS || self.is_ending() {
                (follower, done) = hurry.take_batch(follower, synced);
            } else {
                done = follower.take_batch(synced);
            }
            self.batches.fetch_add(1, Relaxed);
            self.lag.store(follower.lag(), Relaxed);
        }
        self.lag.store(follower.lag(), Relaxed);
        (follower, done)
    }

    /// Waits for the next look; `false` at the end.
    fn wait(&self, period: Duration) -> bool {
        let mut state = self.lock();
        if !state.is_woken {
            let waited = self.changed.wait_timeout(state, period);
            state = waited.expect("no holder of this lock panics").0;
        }
        state.is_woken = false;
        !self.is_ending()
    }

    /// Opens the view again that failed, as often as it takes; `None` at the end.
    fn reopen(&self, follower: Follower, error: &ViewError) -> Option<Follower> {
        if !self.is_failed.swap(true, Relaxed) {
            tracing::error!(%error, "the view failed; the log grows until it can be written again");
        }
        let Follower { view, place, reader, swapper, segment_bytes, unsynced_passes, damaged, full } =
            follower;
        drop(view);
        // The most likely reason is a full disk.
        place.give_up_reserve();
        loop {
            match place.open() {
                Ok(view) => {
                    return Some(Follower {
                        view,
                        place,
                        reader,
                        swapper,
                        segment_bytes,
                        unsynced_passes,
                        damaged,
                        full,
                    });
                }
                Err(error) => tracing::debug!(%error, "the view cannot be opened again yet"),
            }
            if !self.wait(PERIOD) {
                return None;
            }
        }
    }
}

impl Follower {
    /// How many records are committed and not in the view.
    fn lag(&self) -> u64 {
        self.reader.committed().0.saturating_sub(self.view.applied().0)
    }

    /// Has the log synced if that is worth it: with durability "process" only full segments are, and what ended messages
    /// may be in the current one for long.
    fn sync(&mut self, inbox: &Inbox) {
        if self.reader.synced() == self.reader.committed() {
            self.unsynced_passes = 0;
            return;
        }
        self.unsynced_passes += 1;
        if inbox.is_full() || self.unsynced_passes >= UNSYNCED_PASSES_MAX {
            self.unsynced_passes = 0;
            // If the log takes nothing more, the shard is told by others.
            let _ = self.swapper.sync();
        }
    }

    fn tidy(&mut self) -> Result<(), Failure> {
        let before = self.view.disk_bytes();
        if self.view.tidy()? {
            tracing::debug!(before, after = self.view.disk_bytes(), "tidied the view");
        }
        Ok(())
    }

    /// Takes one batch of what is synced into the view.
    pub(super) fn take_batch(&mut self, synced: Lsn) -> Result<(), Failure> {
        let mut projector = Projector::new();
        let newest = self.push_batch(&mut projector, synced)?;
        let mut failed = None;
        let rows = projector.flush(|key| get(&self.view, key, &mut failed));
        if let Some(error) = failed {
            return Err(error.into());
        }
        Ok(self.view.write(rows?, newest)?)
    }

    /// Reads one batch; returns up to where.
    fn push_batch(&mut self, projector: &mut Projector, synced: Lsn) -> Result<Lsn, Failure> {
        let mut bytes = 0;
        for record in self.reader.replay_from(Lsn(self.view.applied().0 + 1))? {
            let (lsn, record) = record?;
            if lsn > synced {
                break;
            }
            projector.push(Ticket(lsn.0), &record)?;
            bytes += record.len();
            if bytes >= BATCH_BYTES || projector.pending_bytes() >= BATCH_PENDING_BYTES {
                return Ok(lsn);
            }
        }
        Ok(synced)
    }

    /// Rewrites what is worth it of the segments whose turn it is; of all in a full store.
    fn reclaim(&mut self, shared: &Shared, looked_at: &mut usize, inbox: &Inbox) -> Result<(), Failure> {
        let is_full = inbox.is_full();
        let applied = self.view.applied();
        let mut sealed = self.reader.sealed();
        sealed.retain(|segment| segment.next.0 <= applied.0 + 1);
        if *looked_at >= sealed.len() {
            *looked_at = 0;
        }
        // One is looked at twice: it may be joined to the one before it and to the one after it.
        let from = if is_full { 0 } else { looked_at.saturating_sub(1) };
        let count = if is_full { sealed.len() } else { SEGMENTS_LOOKED_AT };
        *looked_at = (from + count).min(sealed.len());
        let mut segments = Vec::new();
        for info in sealed.into_iter().skip(from).take(count) {
            let live = self.live(info.first, info.next)?.len() as u64;
            let is_damaged = self.damaged.contains(&info.id);
            segments.push(Segment { info, live, is_damaged });
        }
        let wanted = if is_full { Garbage::FULL_STORE } else { Garbage::USUAL };
        let mut runs = plan(&segments, self.segment_bytes, wanted);
        if is_full && runs.is_empty() && is_due(&mut self.full.thrifty_at, THRIFT_PERIOD) {
            runs = plan(&segments, self.segment_bytes, Garbage::ANY);
        }
        // What gives back most comes first.
        let garbage =
            |run: &Range<usize>| segments[run.clone()].iter().map(Segment::garbage_bytes).sum::<u64>();
        runs.sort_by_key(|run| Reverse(garbage(run)));
        for run in runs.into_iter().take(REWRITES_MAX) {
            if shared.is_ending() || (is_full && !inbox.is_full()) {
                return Ok(());
            }
            self.rewrite_run(shared, &segments[run])?;
        }
        Ok(())
    }

    /// Rewrites neighbours to one file; if one of them is damaged, each of the others alone. A restart would not mend it, and
    /// what is lost is told when it is to be sent.
    fn rewrite_run(&mut self, shared: &Shared, run: &[Segment]) -> Result<(), Failure> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(()) };
        match self.rewrite(shared, first, last) {
            Err(Failure::Log(LogError::Corrupt { .. })) if run.len() > 1 => {
                run.iter().try_for_each(|segment| self.rewrite_run(shared, slice::from_ref(segment)))
            }
            Err(Failure::Log(error @ LogError::Corrupt { .. })) => {
                tracing::error!(%error, "a segment is damaged, its space is not given back");
                self.damaged.insert(first.info.id);
                Ok(())
            }
            other => other,
        }
    }

    fn live(&self, first: Lsn, next: Lsn) -> Result<Vec<Ticket>, Failure> {
        let mut failed = None;
        let live = live_places(Ticket(first.0), Ticket(next.0), |key| get(&self.view, key, &mut failed));
        match failed {
            Some(error) => Err(error.into()),
            None => live.map_err(Failure::Places),
        }
    }

    fn rewrite(&mut self, shared: &Shared, first: &Segment, last: &Segment) -> Result<(), Failure> {
        let live = self.live(first.info.first, last.info.next)?;
        let keep = |lsn: Lsn, _: &[u8]| live.binary_search(&Ticket(lsn.0)).is_ok();
        let rewritten = match self.reader.rewrite(first.info.id..=last.info.id, keep) {
            Ok(rewritten) => rewritten,
            Err(error @ LogError::NoSpace { .. }) => {
                // What is rewritten needs space before it gives some back.
                self.place.give_up_reserve();
                if is_due(&mut self.full.told_at, TOLD_PERIOD) {
                    tracing::warn!(%error, "a segment cannot be rewritten now");
                }
                return Ok(());
            }
            // Looked at again the next time.
            Err(LogError::Gone { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let freed_bytes = rewritten.source_bytes().saturating_sub(rewritten.bytes());
        if self.swapper.swap(rewritten) {
            shared.rewrites.fetch_add(1, Relaxed);
            shared.freed_bytes.fetch_add(freed_bytes, Relaxed);
            tracing::debug!(
                first = first.info.id,
                last = last.info.id,
                freed_bytes,
                "rewrote segments of the log"
            );
        }
        Ok(())
    }
}

/// Returns a row; keeps the first error aside.
fn get(view: &FjallView, key: &[u8], failed: &mut Option<ViewError>) -> Option<Bytes> {
    view.get(key).unwrap_or_else(|error| {
        failed.get_or_insert(error);
        None
    })
}
