//! What other threads tell the shard: levels and marks, so that nothing can pile up; the answers to its fetches, of
//! which the engine has few open; and which connections have their verdict, one mark each.
//!
//! Invariant: whoever leaves something here rings afterwards. A ring that comes while the shard does not sleep costs no
//! system call: the shard looks for it before it sleeps.

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{
            AtomicBool, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Release, Ordering::SeqCst,
        },
    },
    task::{Wake, Waker},
};

use engine::ConnId;
use storage::CommitEvent;

use super::fetch::Fetched;
use crate::FatalError;

/// Shared by the shard, the committer's thread and the handle of the broker.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    committed: AtomicU64,
    log_bytes: AtomicU64,
    full: AtomicBool,
    auth_changed: AtomicBool,
    stop: AtomicBool,
    fetched: Mutex<Vec<Fetched>>,
    failed: Mutex<Option<FatalError>>,
    verdicts: Mutex<Vec<ConnId>>,
    /// Something may have changed since the shard looked.
    is_rung: AtomicBool,
    is_asleep: AtomicBool,
    /// Ends the shard's sleep.
    bell: OnceLock<mio::Waker>,
}

impl Inbox {
    /// Takes an event of the committer; called on its thread.
    pub(crate) fn commit_event(&self, event: CommitEvent) {
        match event {
            CommitEvent::Committed { ticket, log_bytes } => {
                self.log_bytes.store(log_bytes, Release);
                self.committed.fetch_max(ticket, AcqRel);
            }
            CommitEvent::Full(full) => self.full.store(full, Release),
            CommitEvent::Swapped { log_bytes, .. } => self.log_bytes.store(log_bytes, Release),
            CommitEvent::Failed(error) => self.fail(FatalError::Store(error)),
        }
        self.ring();
    }

    /// Notes the size of the log before the first event.
    pub(crate) fn set_log_bytes(&self, log_bytes: u64) {
        self.log_bytes.store(log_bytes, Release);
    }

    /// Takes the answer to a fetch; called on the reader's thread.
    pub(crate) fn fetched(&self, fetched: Fetched) {
        self.fetched.lock().expect("no holder of this lock panics").push(fetched);
        self.ring();
    }

    /// Returns the answers to fetches that have come.
    pub(crate) fn take_fetched(&self) -> Vec<Fetched> {
        std::mem::take(&mut self.fetched.lock().expect("no holder of this lock panics"))
    }

    /// Asks the shard to look again at who is connected, and with which rights.
    pub(crate) fn auth_changed(&self) {
        self.auth_changed.store(true, Release);
        self.ring();
    }

    /// Says, once, that it was asked to.
    pub(crate) fn take_auth_changed(&self) -> bool {
        self.auth_changed.swap(false, AcqRel)
    }

    /// Asks the shard to end in order.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Release);
        self.ring();
    }

    /// Ends the shard at once; the first failure is the one told.
    pub(crate) fn fail(&self, error: FatalError) {
        self.failed.lock().expect("no holder of this lock panics").get_or_insert(error);
        self.ring();
    }

    /// Returns the connections whose verdict may be there.
    pub(crate) fn take_verdicts(&self) -> Vec<ConnId> {
        std::mem::take(&mut self.verdicts.lock().expect("no holder of this lock panics"))
    }

    /// Makes the shard look at its inbox.
    fn ring(&self) {
        self.is_rung.store(true, SeqCst);
        if self.is_asleep.swap(false, SeqCst)
            && let Some(bell) = self.bell.get()
        {
            // It fails only when the system has no memory left; the shard looks again at its next deadline.
            let _ = bell.wake();
        }
    }

    /// Gives the inbox what ends the shard's sleep; the first one stays.
    pub(crate) fn hang_bell(&self, bell: mio::Waker) {
        let _ = self.bell.set(bell);
    }

    /// Says whether the shard may sleep: whoever rings from now on ends its sleep.
    pub(crate) fn may_sleep(&self) -> bool {
        self.is_asleep.store(true, SeqCst);
        !self.is_rung.load(SeqCst)
    }

    /// Says, once, that somebody rang; called when the shard does not sleep any more.
    pub(crate) fn take_ring(&self) -> bool {
        self.is_asleep.store(false, SeqCst);
        self.is_rung.swap(false, SeqCst)
    }

    /// Returns what wakes the shard for one connection, when its verdict is there.
    pub(crate) fn verdict_waker(self: &Arc<Self>, id: ConnId) -> Waker {
        Waker::from(Arc::new(VerdictBell { inbox: Arc::clone(self), id }))
    }

    /// Returns the newest ticket that is durable.
    pub(crate) fn committed(&self) -> u64 {
        self.committed.load(Acquire)
    }

    /// Returns the size of the log at the last event.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.log_bytes.load(Acquire)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Acquire)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(Acquire)
    }

    pub(crate) fn take_failure(&self) -> Option<FatalError> {
        self.failed.lock().expect("no holder of this lock panics").take()
    }
}

impl Wake for Inbox {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

struct VerdictBell {
    inbox: Arc<Inbox>,
    id: ConnId,
}

impl Wake for VerdictBell {
    fn wake(self: Arc<Self>) {
        self.inbox.verdicts.lock().expect("no holder of this lock panics").push(self.id);
        self.inbox.ring();
    }
}
