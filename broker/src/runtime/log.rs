//! The shard's log from the runtime's side: opening, taking the state back, and compaction.
//!
//! The log is compacted when it has grown to several times what it was after the last time, so that the
//! work is a fixed share of what was written, whatever the state's size.

use std::{
    hash::{BuildHasher, RandomState},
    time::Instant,
};

use bytes::Bytes;
use engine::{Input, Now, RecoverError, Recovery, Ticket};
use storage::{Log, LogConfig, LogError, OpenError};

use super::{Core, clock::Clock};
use crate::{Config, config::Durability};

/// Largest record: more than the largest packet with the entries of its recipients.
const RECORD_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// An opened log and the state it holds.
pub(crate) struct Store {
    pub(super) log: Log,
    pub(super) engine: engine::Shard,
    pub(super) clock: Clock,
    pub(super) state: LogState,
    pub(crate) recovered: Recovered,
}

/// What was found at start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Sessions, all of them disconnected.
    pub sessions: u64,
    /// Messages that wait for a session.
    pub messages: u64,
    /// Retained messages.
    pub retained: u64,
    /// Records read.
    pub records: u64,
    /// Size of the log.
    pub log_bytes: u64,
    /// How long it took.
    pub took_ms: u64,
}

/// Why the store cannot be taken back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Read(#[from] LogError),
    #[error(transparent)]
    Recover(#[from] RecoverError),
}

/// After a look that found too little garbage, or no space to compact, the next one waits this long; it
/// doubles ...
const RETRY_MIN_MS: u64 = 250;

/// ... up to this long ...
const RETRY_MAX_MS: u64 = 5_000;

/// ... and is at least so many times what the look took.
const RETRY_COST_FACTOR: u64 = 20;

/// When to compact.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogState {
    is_full: bool,
    /// When to look for garbage at the earliest, and how long to wait after the next vain look.
    retry_ms: u64,
    retry_wait_ms: u64,
    look_took_ms: u64,
    /// The newest record at the last look, if there was one: without a newer one there is no more garbage.
    looked_at: Option<u64>,
    growth: u64,
    bytes_min: u64,
    quota_bytes: Option<u64>,
    /// Size after the last compaction; right after the start, what is known of it.
    compacted_bytes: u64,
    /// Size of the log when the compaction that runs was begun.
    compacting: Option<u64>,
}

impl Store {
    /// Opens the log and rebuilds the state from it.
    pub(crate) fn open(config: &Config) -> Result<Self, StoreError> {
        let (started, clock) = (Instant::now(), Clock::start());
        // The engine has no chance of its own: names it makes up must differ from start to start.
        let seed = RandomState::new().hash_one(clock.now().unix_ms);
        let log = Log::open(&config.store.data_dir, log_config(config))?;
        if let Some(torn) = log.torn_tail() {
            let (file, offset, bytes) = (torn.file.display(), torn.offset, torn.bytes);
            tracing::info!(%file, offset, bytes, "cut off what an unfinished write left, none of it acknowledged");
        }
        let mut records = 0;
        let mut failed = None;
        let replayed = log.replay()?.map_while(|record| match record {
            Ok((lsn, bytes)) => {
                records += 1;
                Some((Ticket(lsn.0), bytes))
            }
            Err(error) => {
                failed = Some(error);
                None
            }
        });
        let next = Ticket(log.next_lsn().0);
        let from = Recovery { rows: std::iter::empty(), applied: Ticket(0), records: replayed, next };
        let engine = engine::Shard::recover(config.engine(), seed, clock.now(), from);
        // A record that could not be read ends the replay early: the engine's own verdict means nothing then.
        if let Some(error) = failed {
            return Err(error.into());
        }
        let engine = engine?;
        let (stats, log_bytes) = (engine.stats(), log.bytes());
        let recovered = Recovered {
            sessions: stats.sessions,
            messages: stats.queued,
            retained: stats.retained,
            records,
            log_bytes,
            took_ms: started.elapsed().as_millis() as u64,
        };
        let state = LogState::new(config, &engine, log_bytes);
        Ok(Self { log, engine, clock, state, recovered })
    }
}

fn log_config(config: &Config) -> LogConfig {
    LogConfig {
        segment_bytes: config.store.segment_bytes,
        durability: match config.store.durability {
            Durability::Power => storage::Durability::Power,
            Durability::Process => storage::Durability::Process,
        },
        record_bytes_max: RECORD_BYTES_MAX,
        bytes_max: Some(config.store.bytes_max).filter(|bytes| *bytes > 0),
    }
}

impl LogState {
    fn new(config: &Config, engine: &engine::Shard, log_bytes: u64) -> Self {
        let store = &config.store;
        let state = Self {
            is_full: false,
            retry_ms: 0,
            retry_wait_ms: RETRY_MIN_MS,
            look_took_ms: 0,
            looked_at: None,
            growth: u64::from(store.compact_growth),
            bytes_min: store.compact_bytes_min,
            quota_bytes: Some(store.bytes_max).filter(|bytes| *bytes > 0),
            compacted_bytes: 0,
            compacting: None,
        };
        // Below the size that is compacted at all, the state's own size does not matter.
        if log_bytes <= state.limit() {
            return state;
        }
        Self { compacted_bytes: total(&engine.checkpoint()), ..state }
    }

    /// Returns the size above which the log is compacted.
    fn limit(&self) -> u64 {
        let limit = self.compacted_bytes.saturating_mul(self.growth).saturating_add(self.bytes_min);
        // Under a quota garbage must not fill the store before it is looked at.
        self.quota_bytes.map_or(limit, |quota| limit.min(quota / 2).max(self.worthwhile()))
    }

    /// Returns the size below which compaction gains too little.
    fn worthwhile(&self) -> u64 {
        self.compacted_bytes.saturating_mul(2)
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    /// Returns when a full log must be looked at.
    pub(super) fn retry_ms(&self, last_ticket: u64) -> Option<u64> {
        (self.is_full && self.compacting.is_none() && self.looked_at != Some(last_ticket))
            .then_some(self.retry_ms)
    }

    /// Puts the next look off, longer each time.
    fn put_off(&mut self, now: Now) {
        self.retry_ms = now.monotonic_ms + self.retry_wait_ms.max(self.look_took_ms * RETRY_COST_FACTOR);
        self.retry_wait_ms = (self.retry_wait_ms * 2).min(RETRY_MAX_MS);
    }
}

impl Core {
    /// Returns the bytes on their way to the disk.
    pub(super) fn pending_bytes(&self) -> usize {
        self.committer.as_ref().map_or(0, storage::Committer::pending_bytes)
    }

    /// Hands the turn's records to the committer.
    pub(super) fn submit(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let records = std::mem::take(&mut self.batch);
        if let Some(committer) = &self.committer {
            committer.submit(self.last_ticket, records);
        }
        if !self.reading_paused && self.pending_bytes() > self.limits.pending_bytes_max {
            self.reading_paused = true;
            tracing::debug!(pending_bytes = self.pending_bytes(), "reading waits for the disk");
        }
    }

    /// Notes that the store is full, or has space again.
    pub(super) fn store_full(&mut self, now: Now, full: bool) {
        if full == self.log.is_full {
            return;
        }
        self.log.is_full = full;
        self.log.retry_ms = now.monotonic_ms;
        self.log.retry_wait_ms = RETRY_MIN_MS;
        if full {
            tracing::warn!("the store is full: publishes that need it are refused");
        } else {
            tracing::info!("the store has space again");
        }
        self.input(now, Input::StoreFull { full });
    }

    /// Replaces the log by the state if that is worth its cost.
    pub(super) fn compact_if_due(&mut self, now: Now) {
        let log_bytes = self.inbox.log_bytes();
        let is_due = if self.log.is_full {
            self.log.retry_ms(self.last_ticket).is_some_and(|due| due <= now.monotonic_ms)
        } else {
            log_bytes > self.log.limit() && self.log.retry_ms <= now.monotonic_ms
        };
        if self.log.compacting.is_some() || !is_due {
            return;
        }
        self.submit();
        let started = Instant::now();
        let records = self.engine.checkpoint();
        let state_bytes = total(&records);
        self.log.looked_at = Some(self.last_ticket);
        self.log.look_took_ms = started.elapsed().as_millis() as u64;
        self.log.compacted_bytes = state_bytes;
        if state_bytes.saturating_mul(4) > log_bytes.saturating_mul(3) {
            return self.log.put_off(now);
        }
        tracing::info!(log_bytes, state_bytes, "compacting the log");
        if let Some(committer) = &self.committer {
            self.log.compacting = Some(log_bytes);
            self.counts.compactions += 1;
            committer.checkpoint(self.last_ticket, records);
        }
    }

    /// Notes that the compaction is done with.
    pub(super) fn compacted(&mut self, now: Now) {
        let log_bytes = self.inbox.log_bytes();
        let before = self.log.compacting.take();
        if before.is_some_and(|before| log_bytes < before) {
            self.log.compacted_bytes = log_bytes;
            self.log.retry_wait_ms = RETRY_MIN_MS;
            tracing::info!(log_bytes, "compacted the log");
        } else {
            self.log.put_off(now);
            tracing::warn!(log_bytes, "no space to compact the log, trying again later");
        }
    }
}

fn total(records: &[Bytes]) -> u64 {
    records.iter().map(|record| record.len() as u64).sum()
}
