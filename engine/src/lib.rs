//! The broker as a pure state machine: sessions, routes, retained messages, conversations, receipts.
//!
//! No clock, socket, thread or randomness: [`Shard::handle`] takes the time and an [`Input`],
//! [`Shard::poll_output`] gives what the caller must do. The same inputs give the same outputs, so a
//! seeded simulation drives it through thousands of crashes a second.

mod config;
mod io;

pub use config::Config;
pub use io::{CloseReason, ConnId, Input, Now, Output, Stats, Ticket};

/// One shard of the broker. One owner, no locks.
pub struct Shard {}

/// Why records of a log cannot be taken back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {index} of the log is not one of this version: {what}")]
pub struct RecoverError {
    /// Which record, from 0.
    pub index: u64,
    /// What is wrong.
    pub what: String,
}

impl Shard {
    /// Rebuilds a shard from its log, oldest record first. The caller then sends the outputs that
    /// polling gives (wills of connections that died with the process).
    ///
    /// # Errors
    /// A record is not one that this version writes.
    pub fn recover(
        config: Config,
        seed: u64,
        now: Now,
        records: impl Iterator<Item = bytes::Bytes>,
    ) -> Result<Self, RecoverError> {
        let _ = (config, seed, now, records.count());
        Ok(Self {})
    }

    /// Takes one input. Poll the outputs to `None` before the next one.
    pub fn handle(&mut self, now: Now, input: Input) {
        let _ = (now, input);
    }

    /// Returns the next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }

    /// Returns when `Input::Timer` is due, on the monotonic clock.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        None
    }

    /// Returns records that rebuild the state as it is after the last `Append`: what a compacted log holds.
    pub fn checkpoint(&self) -> Vec<bytes::Bytes> {
        Vec::new()
    }

    /// Counts for metrics.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
}
