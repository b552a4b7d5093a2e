//! The state on disk: every step's changes as one record of a log, and now and then all of it anew.
//!
//! One record is `{"v":1,"changes":[…]}`; a record is there whole or not at all, so a step is, too. The log is replaced by
//! a checkpoint when as much was appended as the state is large, so that it stays within about twice the state.

use std::path::Path;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use storage::{Durability, Log, LogConfig, LogError, OpenError};

use crate::state::{Change, State};

/// The version of the records.
const VERSION: u32 = 1;
/// Appended bytes before a checkpoint is thought of.
const CHECKPOINT_BYTES_MIN: u64 = 1024 * 1024;
/// The log's segments.
const SEGMENT_BYTES: u64 = 1024 * 1024;
/// Largest record: one alert for every webhook is far below.
const RECORD_BYTES_MAX: usize = 512 * 1024;
/// Changes a checkpoint puts into one record.
const CHECKPOINT_CHANGES: usize = 64;

#[derive(Serialize)]
struct RecordOut<'a> {
    v: u32,
    changes: &'a [Change],
}

#[derive(Deserialize)]
struct RecordIn {
    v: u32,
    changes: Vec<Change>,
}

/// Why the journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Locked by another process, corrupt, or not accessible.
    #[error("{dir}: {source}")]
    Open {
        /// The directory.
        dir: String,
        /// Why.
        source: OpenError,
    },
    /// It opened but could not be read.
    #[error("{dir}: {source}")]
    Read {
        /// The directory.
        dir: String,
        /// Why.
        source: LogError,
    },
    /// A record that this version cannot read.
    #[error("{dir}: record {lsn} cannot be read: {what}; a newer version may have written it")]
    Record {
        /// The directory.
        dir: String,
        /// Its number.
        lsn: u64,
        /// What is wrong.
        what: String,
    },
}

/// Why changes were not stored.
#[derive(Debug)]
pub(crate) enum StoreError {
    /// No space; it may be tried again.
    Full { what: String },
    /// For good.
    Failed { what: String },
}

/// The open journal.
#[derive(Debug)]
pub(crate) struct Journal {
    log: Log,
    /// Bytes appended since the last checkpoint, or since it was opened.
    appended_bytes: u64,
    /// Bytes of the last checkpoint.
    checkpoint_bytes: u64,
}

impl Journal {
    /// Opens the journal, making it if there is none, and gives the state it holds.
    ///
    /// # Errors
    /// The directory is used by another process, damaged, not accessible, or from a newer version.
    pub(crate) fn open(dir: &Path, bytes_max: u64) -> Result<(Journal, State), JournalError> {
        let name = || dir.display().to_string();
        let config = LogConfig {
            segment_bytes: SEGMENT_BYTES,
            durability: Durability::Power,
            record_bytes_max: RECORD_BYTES_MAX,
            bytes_max: Some(bytes_max),
            keeps_reserve: false,
        };
        let log = Log::open(dir, config).map_err(|source| JournalError::Open { dir: name(), source })?;
        let mut state = State::default();
        let mut bytes = 0;
        let unreadable = |source| JournalError::Read { dir: name(), source };
        for record in log.replay().map_err(unreadable)? {
            let (lsn, record) = record.map_err(unreadable)?;
            bytes += record.len() as u64;
            let changes =
                decode(&record).map_err(|what| JournalError::Record { dir: name(), lsn: lsn.0, what })?;
            changes.iter().for_each(|change| state.apply(change));
        }
        Ok((Journal { log, appended_bytes: bytes, checkpoint_bytes: 0 }, state))
    }

    /// Appends the changes of one step and returns when they are durable.
    pub(crate) fn store(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let record = encode(changes);
        if self.log.is_full() {
            self.log.retry_space();
        }
        self.log.append(&record)?;
        self.log.commit()?;
        self.appended_bytes += record.len() as u64;
        Ok(())
    }

    /// Whether as much was appended as a checkpoint would write.
    pub(crate) fn wants_checkpoint(&self) -> bool {
        self.appended_bytes >= self.checkpoint_bytes.max(CHECKPOINT_BYTES_MIN)
    }

    /// Replaces everything by the changes that make the whole state.
    pub(crate) fn checkpoint(&mut self, all: &[Change]) -> Result<(), StoreError> {
        let records: Vec<Bytes> = all.chunks(CHECKPOINT_CHANGES).map(|part| encode(part).into()).collect();
        let bytes = records.iter().map(|record| record.len() as u64).sum();
        self.log.checkpoint(records.into_iter())?;
        self.checkpoint_bytes = bytes;
        self.appended_bytes = 0;
        Ok(())
    }

    /// Closes the log in order.
    pub(crate) fn close(self) -> Result<(), StoreError> {
        Ok(self.log.close()?)
    }
}

fn encode(changes: &[Change]) -> Vec<u8> {
    serde_json::to_vec(&RecordOut { v: VERSION, changes }).expect("keys are strings and numbers are whole")
}

fn decode(record: &[u8]) -> Result<Vec<Change>, String> {
    let record: RecordIn = serde_json::from_slice(record).map_err(|error| error.to_string())?;
    if record.v != VERSION {
        return Err(format!("it has version {}, this program reads version {VERSION}", record.v));
    }
    Ok(record.changes)
}

impl From<LogError> for StoreError {
    fn from(error: LogError) -> StoreError {
        let what = error.to_string();
        match error {
            LogError::Full { .. } | LogError::NoSpace { .. } => StoreError::Full { what },
            _ => StoreError::Failed { what },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Entry, Target, VehicleMark};

    const BYTES_MAX: u64 = 64 * 1024 * 1024;

    fn put(no: u64, payload: &str) -> Change {
        Change::Put(Entry {
            no,
            target: Target::Sink("ops".into()),
            id: format!("ev-{no}"),
            kind: "arrived".into(),
            created_ms: 1,
            payload: payload.into(),
            topic: None,
            expires_at_ms: None,
        })
    }

    fn numbers(state: &State) -> Vec<u64> {
        state.queue(&Target::Sink("ops".into())).map(|entry| entry.no).collect()
    }

    #[test]
    fn what_was_stored_is_there_when_it_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, state) = Journal::open(dir.path(), BYTES_MAX).unwrap();
        assert_eq!(numbers(&state), [0_u64; 0]);
        let mark = VehicleMark { off_route_since_ms: Some(5), inside: None };
        journal.store(&[put(0, "{}"), Change::Vehicle { device: "a".into(), mark }]).unwrap();
        journal.store(&[put(1, "{}")]).unwrap();
        journal.store(&[Change::Done { no: 0 }]).unwrap();
        drop(journal);
        let (mut journal, state) = Journal::open(dir.path(), BYTES_MAX).unwrap();
        assert_eq!((numbers(&state), state.vehicles["a"]), (vec![1], mark));
        journal.checkpoint(&state.snapshot().collect::<Vec<_>>()).unwrap();
        journal.store(&[put(2, "{}")]).unwrap();
        drop(journal);
        let (_journal, state) = Journal::open(dir.path(), BYTES_MAX).unwrap();
        assert_eq!((numbers(&state), state.vehicles["a"], state.next_no()), (vec![1, 2], mark, 3));
    }

    #[test]
    fn a_log_that_is_written_to_for_long_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, mut state) = Journal::open(dir.path(), BYTES_MAX).unwrap();
        let payload = "x".repeat(50_000);
        for no in 0..300 {
            for changes in [[put(no, &payload)], [Change::Done { no }]] {
                changes.iter().for_each(|change| state.apply(change));
                if journal.wants_checkpoint() {
                    journal.checkpoint(&state.snapshot().collect::<Vec<_>>()).unwrap();
                } else {
                    journal.store(&changes).unwrap();
                }
            }
        }
        assert!(journal.log.bytes() < 5 * SEGMENT_BYTES, "{} bytes for nothing", journal.log.bytes());
        drop(journal);
        let (_, state) = Journal::open(dir.path(), BYTES_MAX).unwrap();
        assert_eq!((numbers(&state).len(), state.next_no()), (0, 300));
    }

    #[test]
    fn a_quota_that_is_reached_is_told_and_what_is_stored_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path(), 4 * SEGMENT_BYTES).unwrap();
        let payload = "x".repeat(100_000);
        let mut stored = 0;
        let full = loop {
            match journal.store(&[put(stored, &payload)]) {
                Ok(()) => stored += 1,
                Err(error) => break error,
            }
            assert!(stored < 1_000, "the quota never comes");
        };
        assert!(matches!(full, StoreError::Full { .. }), "{full:?}");
        assert!(stored > 10, "{stored}");
        drop(journal);
        let (_, state) = Journal::open(dir.path(), 4 * SEGMENT_BYTES).unwrap();
        assert_eq!(numbers(&state).len() as u64, stored);
    }

    #[test]
    fn a_directory_in_use_and_a_record_from_the_future_are_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path(), BYTES_MAX).unwrap();
        let error = Journal::open(dir.path(), BYTES_MAX).unwrap_err().to_string();
        assert!(error.contains("in use"), "{error}");
        journal.log.append(br#"{"v":2,"changes":[]}"#).unwrap();
        journal.log.commit().unwrap();
        drop(journal);
        let error = Journal::open(dir.path(), BYTES_MAX).unwrap_err().to_string();
        assert!(error.contains("record 1 cannot be read: it has version 2"), "{error}");
    }

    #[test]
    fn records_of_the_first_version_stay_readable() {
        let golden = br#"{"v":1,"changes":[{"put":{"no":7,"target":"broker","id":"ev-7","kind":"arrived","created_ms":5,"payload":"{}","topic":"im/dispatch"}},{"done":{"no":7}}]}"#;
        let changes = decode(golden).unwrap();
        assert_eq!(changes.len(), 2);
        assert_eq!(encode(&changes), golden);
    }
}
