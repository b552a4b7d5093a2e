//! The thread that takes batches into the view when it is late.
//!
//! The view's own thread lets others go first. A thread that does so never gets its share back without privileges, so when
//! the view falls behind, another one works for it, which never did.

use std::{
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use storage::Lsn;

use super::{Failure, Follower};

/// The thread; dropping it ends it.
pub(super) struct Hurry {
    /// `None` at the end.
    asked: Option<SyncSender<(Follower, Lsn)>>,
    done: Receiver<(Follower, Result<(), Failure>)>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Hurry {
    pub(super) fn spawn() -> Self {
        let (asked, batches) = sync_channel::<(Follower, Lsn)>(1);
        let (tell, done) = sync_channel(1);
        let thread = thread::Builder::new().name("view-late".to_owned()).spawn(move || {
            for (mut follower, synced) in batches {
                let taken = follower.take_batch(synced);
                if tell.send((follower, taken)).is_err() {
                    return;
                }
            }
        });
        let thread = thread.expect("the operating system can start one more thread");
        Self { asked: Some(asked), done, thread: Some(thread) }
    }

    /// Takes one batch in, and waits for it.
    pub(super) fn take_batch(&self, follower: Follower, synced: Lsn) -> (Follower, Result<(), Failure>) {
        let asked = self.asked.as_ref().and_then(|asked| asked.send((follower, synced)).ok());
        asked.and_then(|()| self.done.recv().ok()).expect("the thread ends by a bug only, which it has told")
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        self.asked = None;
        if let Some(thread) = self.thread.take() {
            // It panics only by a bug, which it has told.
            let _ = thread.join();
        }
    }
}
