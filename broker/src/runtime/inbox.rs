//! What other threads tell the shard: levels and marks, so that nothing can pile up; and the answers to its fetches, of
//! which the engine has few open.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Release},
};

use storage::CommitEvent;
use tokio::sync::Notify;

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
    changed: Notify,
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
        self.changed.notify_one();
    }

    /// Notes the size of the log before the first event.
    pub(crate) fn set_log_bytes(&self, log_bytes: u64) {
        self.log_bytes.store(log_bytes, Release);
    }

    /// Takes the answer to a fetch; called on the reader's thread.
    pub(crate) fn fetched(&self, fetched: Fetched) {
        self.fetched.lock().expect("no holder of this lock panics").push(fetched);
        self.changed.notify_one();
    }

    /// Returns the answers to fetches that have come.
    pub(crate) fn take_fetched(&self) -> Vec<Fetched> {
        std::mem::take(&mut self.fetched.lock().expect("no holder of this lock panics"))
    }

    /// Asks the shard to look again at who is connected, and with which rights.
    pub(crate) fn auth_changed(&self) {
        self.auth_changed.store(true, Release);
        self.changed.notify_one();
    }

    /// Says, once, that it was asked to.
    pub(crate) fn take_auth_changed(&self) -> bool {
        self.auth_changed.swap(false, AcqRel)
    }

    /// Asks the shard to end in order.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Release);
        self.changed.notify_one();
    }

    /// Ends the shard at once; the first failure is the one told.
    pub(crate) fn fail(&self, error: FatalError) {
        self.failed.lock().expect("no holder of this lock panics").get_or_insert(error);
        self.changed.notify_one();
    }

    /// Makes the shard look at its inbox.
    pub(crate) fn wake(&self) {
        self.changed.notify_one();
    }

    /// Waits until something may have changed.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
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
