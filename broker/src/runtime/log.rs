//! The shard's store from the runtime's side: opening log and view, taking the state back, and handing records over.

use std::{
    hash::{BuildHasher, RandomState},
    time::Instant,
};

use engine::{Input, Now, RecoverError, Recovery, Ticket};
use storage::{FjallView, Log, LogConfig, LogError, Lsn, OpenError, View, ViewError};

use super::{
    Core,
    clock::Clock,
    view::{ViewPlace, ViewThread},
};
use crate::{Config, config::Durability};

/// Largest record: more than the largest packet with the entries of its recipients.
const RECORD_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// An opened log and the state it holds.
pub(crate) struct Store {
    pub(super) log: Log,
    pub(super) view: FjallView,
    pub(super) place: ViewPlace,
    pub(super) engine: engine::Shard,
    pub(super) clock: Clock,
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
    /// Rows read from the view.
    pub rows: u64,
    /// Records read from the log, which the view had not taken in.
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
    View(#[from] ViewError),
    #[error(transparent)]
    Recover(#[from] RecoverError),
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
        let place = ViewPlace::new(&config.store.data_dir, config.store.segment_bytes);
        let view = place.open()?;
        log.check_view(view.applied())?;
        let (mut rows, mut records) = (0, 0);
        let (mut row_failed, mut failed) = (None, None);
        let viewed = view.scan(b"").map_while(|row| {
            rows += 1;
            row.map_err(|error| row_failed = Some(error)).ok()
        });
        let replayed = log.replay_from(Lsn(view.applied().0 + 1))?.map_while(|record| {
            records += 1;
            record.map(|(lsn, bytes)| (Ticket(lsn.0), bytes)).map_err(|error| failed = Some(error)).ok()
        });
        let (applied, next) = (Ticket(view.applied().0), Ticket(log.next_lsn().0));
        let from = Recovery { rows: viewed, applied, records: replayed, next };
        let engine = engine::Shard::recover(config.engine(), seed, clock.now(), from);
        if let Some(error) = row_failed {
            return Err(error.into());
        }
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
            rows,
            records,
            log_bytes,
            took_ms: started.elapsed().as_millis() as u64,
        };
        Ok(Self { log, view, place, engine, clock, recovered })
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
        keeps_reserve: true,
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
        if full == std::mem::replace(&mut self.is_store_full, full) {
            return;
        }
        if full {
            tracing::warn!("the store is full: publishes that need it are refused");
            self.view.iter().for_each(ViewThread::wake);
        } else {
            tracing::info!("the store has space again");
        }
        self.input(now, Input::StoreFull { full });
    }
}
