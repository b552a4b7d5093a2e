//! The writer thread: takes everything that was submitted meanwhile, appends it, commits once.
//!
//! ```text
//!            submit, swap, sync                 no space for the next record, not even beyond the quota
//!  idle ──────────────────────▶ writing ◀──────────────────────────────────▶ waiting for space
//!    ▲                            │   │            retry each second
//!    └── all is committed ────────┘   └── a write or sync failed ──▶ failed, takes nothing more
//! ```

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::disk::Disk;
use crate::error::LogError;
use crate::log::Log;
use crate::rewrite::Rewritten;
use crate::spare::SpareOrder;

/// Bytes that one group takes before it is committed, if more is waiting: bounds memory and the wait of the
/// first.
const GROUP_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How often space is asked for while there is none.
const RETRY_SPACE: Duration = Duration::from_secs(1);
/// The space of a segment is filled ahead where the one before was filled in less time: at a higher pace the syncs that
/// this shortens are worth what it writes.
const FILL_WITHIN: Duration = Duration::from_secs(60);
/// What the queue needs per record beside its bytes.
const RECORD_OVERHEAD_BYTES: usize = size_of::<Bytes>();

/// What the writer thread tells.
#[derive(Debug)]
pub enum CommitEvent {
    /// Everything up to this ticket is kept, as the log's durability says.
    Committed {
        /// The newest ticket.
        ticket: u64,
        /// `Log::bytes`.
        log_bytes: u64,
    },
    /// There is no space for another segment (`true`), or there is again. Told at each change. While it is
    /// `true`, records are written as long as the reserve lasts; then they wait.
    Full(bool),
    /// A rewritten file is in its place, or was not wanted any more.
    Swapped {
        /// `Log::bytes`.
        log_bytes: u64,
        /// `Log::disk_bytes`.
        disk_bytes: u64,
    },
    /// The log failed and nothing more is written: the process must stop. The last event.
    Failed(LogError),
}

/// A handle to the thread that writes the log. Dropping it ends the thread after what was submitted, without
/// telling whether that was committed; `close` tells.
#[derive(Debug)]
pub struct Committer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<(), LogError>>>,
}

#[derive(Debug)]
enum Job {
    Append {
        ticket: u64,
        records: Vec<Bytes>,
    },
    Swap {
        rewritten: Rewritten,
        done: SyncSender<bool>,
    },
    Sync {
        done: SyncSender<bool>,
    },
    /// A segment that was ordered is there, or could not be made.
    Spare,
}

/// Asks the thread that writes the log for what looking after the log needs, from another thread.
#[derive(Clone, Debug)]
pub struct Swapper {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    pending_bytes: AtomicUsize,
}

/// Its length is bounded by the submitter, through `pending_bytes`.
#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    is_closing: bool,
    /// The log failed or was closed: jobs are ignored.
    is_ended: bool,
    /// The thread waits for a change.
    is_idle: bool,
}

impl Committer {
    /// Starts the thread. `on_event` is called on it.
    pub fn spawn<D: Disk>(log: Log<D>, on_event: impl FnMut(CommitEvent) + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let spares = SpareMaker::spawn(shared.clone());
        let writer =
            Writer { log, on_event, shared: shared.clone(), is_full: false, spares, ordered_at: None };
        let ended = Ended(shared.clone());
        let thread = thread::Builder::new().name("log-writer".to_owned()).spawn(move || {
            let _ended = ended;
            writer.run()
        });
        Self { shared, thread: Some(thread.expect("the operating system can start one more thread")) }
    }

    /// Hands over records to be appended; `Committed` with this ticket or a later one tells when they are
    /// kept. Never waits for the disk. Takes any amount: the caller stops at its own limit on
    /// `pending_bytes`.
    pub fn submit(&self, last_ticket: u64, records: Vec<Bytes>) {
        self.push(Job::Append { ticket: last_ticket, records });
    }

    /// Returns a handle for the thread that rewrites segments.
    pub fn swapper(&self) -> Swapper {
        Swapper { shared: self.shared.clone() }
    }

    /// Returns the bytes handed over and not committed yet, a small overhead per record included.
    pub fn pending_bytes(&self) -> usize {
        self.shared.pending_bytes.load(Ordering::Acquire)
    }

    /// Commits what was submitted, closes the log and ends the thread.
    ///
    /// # Errors
    /// The log failed, or there was no space for what was left.
    pub fn close(mut self) -> Result<(), LogError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), LogError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.shared.lock().is_closing = true;
        self.shared.changed.notify_one();
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    fn push(&self, job: Job) {
        self.shared.push(job);
    }
}

impl Swapper {
    /// Has a rewritten file put in its place, also while records wait for space; waits for it. Returns `false` if the
    /// segments are not in the log any more, or the log takes nothing more.
    pub fn swap(&self, rewritten: Rewritten) -> bool {
        let (done, is_done) = sync_channel(1);
        self.shared.push(Job::Swap { rewritten, done });
        // It is dropped unanswered when the writer ends first.
        is_done.recv().unwrap_or(false)
    }

    /// Has everything synced that is committed, whatever the durability, and waits for it. Returns `false` if the log
    /// takes nothing more.
    pub fn sync(&self) -> bool {
        let (done, is_done) = sync_channel(1);
        self.shared.push(Job::Sync { done });
        is_done.recv().unwrap_or(false)
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        if !thread::panicking() {
            // `close` is there for who wants to know.
            let _ = self.end();
        }
    }
}

impl Job {
    fn bytes(&self) -> usize {
        match self {
            Self::Append { records, .. } => total(records),
            Self::Swap { .. } | Self::Sync { .. } | Self::Spare => 0,
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no holder of this lock panics")
    }

    fn push(&self, job: Job) {
        let bytes = job.bytes();
        let mut queue = self.lock();
        if queue.is_ended {
            return;
        }
        self.pending_bytes.fetch_add(bytes, Ordering::AcqRel);
        queue.jobs.push_back(job);
        let is_idle = std::mem::take(&mut queue.is_idle);
        drop(queue);
        if is_idle {
            self.changed.notify_one();
        }
    }

    /// Takes nothing more and forgets what is left.
    fn end(&self) {
        let Ok(mut queue) = self.queue.lock() else { return };
        queue.is_ended = true;
        queue.jobs.clear();
        self.pending_bytes.store(0, Ordering::Release);
    }

    fn done(&self, bytes: usize) {
        self.pending_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }
}

/// Marks the end of the thread, also by a panic: nobody waits for an answer then.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The thread that makes segments ahead; dropping it ends it after the one under way.
struct SpareMaker<D: Disk> {
    orders: Option<SyncSender<SpareOrder<D>>>,
    thread: Option<JoinHandle<()>>,
}

impl<D: Disk> SpareMaker<D> {
    fn spawn(shared: Arc<Shared>) -> Self {
        let (orders, ordered) = sync_channel::<SpareOrder<D>>(1);
        let thread = thread::Builder::new().name("log-spare".to_owned()).spawn(move || {
            for order in ordered {
                order.make();
                shared.push(Job::Spare);
            }
        });
        // Without the thread the log makes its segments itself.
        Self { orders: thread.is_ok().then_some(orders), thread: thread.ok() }
    }

    /// Has a segment made; one that is not is made when it is needed.
    fn make(&self, order: SpareOrder<D>) {
        if let Some(orders) = &self.orders {
            // The log has one order out at most, so there is room.
            let _ = orders.try_send(order);
        }
    }
}

impl<D: Disk> Drop for SpareMaker<D> {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // It panics only by a bug, and the log goes on without it.
            let _ = thread.join();
        }
    }
}

/// What the thread owns.
struct Writer<D: Disk, E> {
    /// Before the log: it must not write to the log's directory when that is not locked any more.
    spares: SpareMaker<D>,
    log: Log<D>,
    on_event: E,
    shared: Arc<Shared>,
    is_full: bool,
    /// When the newest segment was ordered.
    ordered_at: Option<Instant>,
}

/// Why a round ended.
enum Round {
    Goes,
    /// These records found no space.
    Stuck(u64, Vec<Bytes>, LogError),
}

impl<D: Disk, E: FnMut(CommitEvent)> Writer<D, E> {
    fn run(mut self) -> Result<(), LogError> {
        let result = self.work();
        if let Err(error) = result {
            if matches!(error, LogError::Full { .. }) {
                self.shared.end();
                return Err(error);
            }
            self.shared.end();
            let why = error.to_string();
            (self.on_event)(CommitEvent::Failed(error));
            return Err(LogError::Poisoned { why });
        }
        self.shared.end();
        let Self { spares, log, .. } = self;
        drop(spares);
        log.close()
    }

    /// Writes until the end; an error is the log's failure, or `Full` at the end.
    fn work(&mut self) -> Result<(), LogError> {
        self.tell_full(self.log.is_full());
        while let Some(mut jobs) = self.wait()? {
            while !jobs.is_empty() {
                if let Round::Stuck(ticket, records, error) = self.round(&mut jobs)? {
                    jobs.push_front(Job::Append { ticket, records });
                    self.wait_for_space(&mut jobs, error)?;
                }
            }
        }
        Ok(())
    }

    /// Takes everything that was submitted; `None` at the end.
    fn wait(&mut self) -> Result<Option<VecDeque<Job>>, LogError> {
        loop {
            {
                let mut queue = self.shared.lock();
                if !queue.jobs.is_empty() {
                    return Ok(Some(std::mem::take(&mut queue.jobs)));
                }
                if queue.is_closing {
                    return Ok(None);
                }
                queue.is_idle = true;
                if !self.is_full {
                    drop(self.shared.changed.wait(queue).expect("no holder of this lock panics"));
                    continue;
                }
                let waited = self.shared.changed.wait_timeout(queue, RETRY_SPACE);
                let (_queue, timeout) = waited.expect("no holder of this lock panics");
                if !timeout.timed_out() {
                    continue;
                }
            }
            self.log.ensure_spare()?;
            self.tell_full(self.log.is_full());
        }
    }

    /// Writes one group, or does one other thing.
    fn round(&mut self, jobs: &mut VecDeque<Job>) -> Result<Round, LogError> {
        let (mut bytes, mut committed, mut round) = (0, None, Round::Goes);
        while bytes < GROUP_BYTES_MAX {
            match jobs.pop_front() {
                Some(Job::Append { ticket, records }) => {
                    match self.append(&records) {
                        Ok(()) => {}
                        Err((done, error @ LogError::Full { .. })) => {
                            let left = records[done..].to_vec();
                            bytes += total(&records[..done]);
                            round = Round::Stuck(ticket, left, error);
                            break;
                        }
                        Err((_, error)) => return Err(error),
                    }
                    bytes += total(&records);
                    committed = Some(ticket);
                }
                Some(other) if bytes > 0 || committed.is_some() => {
                    jobs.push_front(other);
                    break;
                }
                Some(Job::Swap { rewritten, done }) => {
                    self.swap(rewritten, &done)?;
                    return Ok(Round::Goes);
                }
                Some(Job::Sync { done }) => {
                    self.sync(&done)?;
                    return Ok(Round::Goes);
                }
                Some(Job::Spare) => {
                    self.take_spare()?;
                    return Ok(Round::Goes);
                }
                None => break,
            }
        }
        self.log.commit_pending()?;
        self.shared.done(bytes);
        if let Some(ticket) = committed {
            (self.on_event)(CommitEvent::Committed { ticket, log_bytes: self.log.bytes() });
        }
        // After the event: nobody waits for the next segment yet.
        self.order_spare()?;
        self.tell_full(self.log.is_full() || matches!(round, Round::Stuck(..)));
        Ok(round)
    }

    /// Has the next segment made while this one is written to.
    fn order_spare(&mut self) -> Result<(), LogError> {
        let is_busy = self.ordered_at.is_some_and(|at| at.elapsed() < FILL_WITHIN);
        if let Some(order) = self.log.order_spare(is_busy)? {
            self.ordered_at = Some(Instant::now());
            self.spares.make(order);
        } else if self.log.lacks_spare() {
            // The quota has no room for it.
            self.log.ensure_spare()?;
        }
        Ok(())
    }

    fn take_spare(&mut self) -> Result<(), LogError> {
        // Who needed it did not wait for this message.
        if !self.log.take_spare(false)? && self.log.lacks_spare() {
            self.log.ensure_spare()?;
            self.tell_full(self.log.is_full());
        }
        Ok(())
    }

    /// Appends in order; on an error tells how many were appended.
    fn append(&mut self, records: &[Bytes]) -> Result<(), (usize, LogError)> {
        for (done, record) in records.iter().enumerate() {
            self.log.append(record).map_err(|error| (done, error))?;
        }
        Ok(())
    }

    fn swap(&mut self, rewritten: Rewritten, done: &SyncSender<bool>) -> Result<(), LogError> {
        let is_swapped = self.log.swap(rewritten)?;
        // Who asked may have gone.
        let _ = done.send(is_swapped);
        let (log_bytes, disk_bytes) = (self.log.bytes(), self.log.disk_bytes());
        (self.on_event)(CommitEvent::Swapped { log_bytes, disk_bytes });
        self.tell_full(self.log.is_full());
        Ok(())
    }

    fn sync(&mut self, done: &SyncSender<bool>) -> Result<(), LogError> {
        self.log.sync()?;
        let _ = done.send(true);
        Ok(())
    }

    /// Waits until another try is worth it: a second passed, or a rewritten file came, which is taken at
    /// once.
    fn wait_for_space(&mut self, jobs: &mut VecDeque<Job>, error: LogError) -> Result<(), LogError> {
        if self.log.make_way()? {
            return Ok(());
        }
        let shared = self.shared.clone();
        let mut queue = shared.lock();
        loop {
            jobs.append(&mut queue.jobs);
            if let Some(at) = jobs.iter().position(|job| matches!(job, Job::Swap { .. })) {
                drop(queue);
                let Some(Job::Swap { rewritten, done }) = jobs.remove(at) else {
                    unreachable!("it was just found there")
                };
                self.swap(rewritten, &done)?;
                return self.log.ensure_spare();
            }
            if let Some(at) = jobs.iter().position(|job| matches!(job, Job::Sync { .. })) {
                drop(queue);
                let Some(Job::Sync { done }) = jobs.remove(at) else {
                    unreachable!("it was just found there")
                };
                return self.sync(&done);
            }
            if queue.is_closing {
                return Err(error);
            }
            queue.is_idle = true;
            let waited = shared.changed.wait_timeout(queue, RETRY_SPACE);
            let (again, timeout) = waited.expect("no holder of this lock panics");
            queue = again;
            if timeout.timed_out() {
                drop(queue);
                return self.log.ensure_spare();
            }
        }
    }

    fn tell_full(&mut self, is_full: bool) {
        if self.is_full != is_full {
            self.is_full = is_full;
            (self.on_event)(CommitEvent::Full(is_full));
        }
    }
}

fn total(records: &[Bytes]) -> usize {
    records.iter().map(|record| record.len() + RECORD_OVERHEAD_BYTES).sum()
}
