//! The command ids seen and what became of them, on disk.
//!
//! A log of small JSON records, and the same in memory. `begin` and `end` return when their record is synced; `told` does
//! not wait, since undoing it costs a repeated answer only. Ended and answered commands are forgotten, oldest first, beyond
//! [`COMMANDS_MAX`], [`KEPT_BYTES_MAX`], or after [`KEPT_MS`] (the last [`COMMANDS_KEPT_MIN`] are kept whatever
//! the clock says: it may have jumped). The log is then rewritten with what is left.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use storage::{Durability, Log, LogConfig, LogError, OpenError};

use super::{CommandResult, Status};

/// Most commands remembered.
pub const COMMANDS_MAX: usize = 10_000;
/// Most bytes of results remembered.
pub const KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a command is remembered at most, milliseconds.
pub const KEPT_MS: u64 = 7 * 24 * 3600 * 1000;
/// Commands remembered whatever their age.
pub const COMMANDS_KEPT_MIN: usize = 1_000;
/// Largest result on disk, JSON bytes; a larger one becomes a failure that says so.
pub const RESULT_BYTES_MAX: usize = 64 * 1024;

/// First byte of each record.
const VERSION: u8 = 1;
const SEGMENT_BYTES: u64 = 256 * 1024;
/// Records beyond twice what is remembered at which the log is rewritten.
const RECORDS_SLACK: usize = 1_000;
/// Why a command that began before a restart and has no result has failed.
const INTERRUPTED: &str = "interrupted by a restart, not run again";

/// The ids and final results of commands, durable.
#[derive(Debug)]
pub struct CommandJournal {
    log: Log,
    by_id: HashMap<String, Kept>,
    /// Ids in the order they began.
    order: BTreeMap<u64, String>,
    next_place: u64,
    kept_bytes: usize,
    /// Records in the log.
    records: usize,
}

#[derive(Debug)]
struct Kept {
    at: u64,
    result: Option<CommandResult>,
    told: bool,
    bytes: usize,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Record {
    Began { id: String, at: u64 },
    Ended(CommandResult),
    Told { id: String },
}

/// Why the journal failed.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The directory is locked by another process, damaged, or not accessible.
    #[error("command journal: {0}")]
    Open(OpenError),
    /// A record is none of this journal.
    #[error(
        "command journal: record {number} cannot be read: {what}; move the directory away to start without a memory of commands"
    )]
    Record {
        /// Its number in the log.
        number: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The disk failed or is full.
    #[error("command journal: {0}")]
    Log(LogError),
    /// All remembered commands still wait for the broker to take their results.
    #[error(
        "command journal: {waiting} results wait to be published, that is the limit; no command is taken until some are"
    )]
    Full {
        /// How many.
        waiting: usize,
    },
}

impl CommandJournal {
    /// Opens the journal in this directory, made if absent; one process at a time. A command that began and has no result
    /// has failed: nobody knows whether it ran.
    ///
    /// # Errors
    /// The directory is locked by another process, damaged, or not accessible.
    pub fn open(dir: &Path) -> Result<Self, JournalError> {
        let config = LogConfig {
            segment_bytes: SEGMENT_BYTES,
            durability: Durability::Power,
            record_bytes_max: RESULT_BYTES_MAX + 1024,
            bytes_max: None,
            keeps_reserve: false,
        };
        let log = Log::open(dir, config).map_err(JournalError::Open)?;
        let mut journal = Self {
            log,
            by_id: HashMap::new(),
            order: BTreeMap::new(),
            next_place: 0,
            kept_bytes: 0,
            records: 0,
        };
        journal.read()?;
        let interrupted: Vec<(String, u64)> = journal
            .order
            .values()
            .filter_map(|id| {
                journal.by_id.get(id).filter(|kept| kept.result.is_none()).map(|kept| (id.clone(), kept.at))
            })
            .collect();
        for (id, at) in interrupted {
            let reason = Some(INTERRUPTED.to_owned());
            journal.end(CommandResult {
                id,
                status: Status::Failed,
                data: serde_json::Value::Null,
                reason,
                at,
            })?;
        }
        Ok(journal)
    }

    fn read(&mut self) -> Result<(), JournalError> {
        let mut records = Vec::new();
        for record in self.log.replay().map_err(JournalError::Log)? {
            let (lsn, bytes) = record.map_err(JournalError::Log)?;
            records.push(decode(&bytes).map_err(|what| JournalError::Record { number: lsn.0, what })?);
        }
        self.records = records.len();
        for record in records {
            match record {
                Record::Began { id, at } => self.note_began(&id, at),
                Record::Ended(result) => self.note_ended(result),
                Record::Told { id } => self.note_told(&id),
            }
        }
        Ok(())
    }

    /// Returns the command's final result, `None` for an id not known, `Some(None)` for one that has not ended.
    pub fn find(&self, id: &str) -> Option<Option<&CommandResult>> {
        self.by_id.get(id).map(|kept| kept.result.as_ref())
    }

    /// Returns how many commands are remembered.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Says whether no command is remembered.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Returns the final results that the broker has not acknowledged, oldest first.
    pub fn untold(&self) -> Vec<CommandResult> {
        let kept = self.order.values().filter_map(|id| self.by_id.get(id));
        kept.filter(|kept| !kept.told).filter_map(|kept| kept.result.clone()).collect()
    }

    /// Notes a command that is about to run; on return that is durable.
    ///
    /// # Errors
    /// The disk failed or is full, or all commands remembered still wait to be answered.
    pub fn begin(&mut self, id: &str, now_unix_ms: u64) -> Result<(), JournalError> {
        self.make_room(now_unix_ms)?;
        self.append(&Record::Began { id: id.to_owned(), at: now_unix_ms })?;
        self.log.commit().map_err(JournalError::Log)?;
        self.note_began(id, now_unix_ms);
        Ok(())
    }

    /// Notes a command's final result; on return that is durable. An id that did not begin gets its result all the same:
    /// it was not run.
    ///
    /// # Errors
    /// The disk failed or is full, or all commands remembered still wait to be answered.
    pub fn end(&mut self, result: CommandResult) -> Result<(), JournalError> {
        if !self.by_id.contains_key(&result.id) {
            self.make_room(result.at)?;
        }
        let record = Record::Ended(result);
        self.append(&record)?;
        self.log.commit().map_err(JournalError::Log)?;
        if let Record::Ended(result) = record {
            self.note_ended(result);
        }
        Ok(())
    }

    /// Notes that the broker has acknowledged the command's result. Synced with the next record.
    ///
    /// # Errors
    /// The disk failed or is full.
    pub fn told(&mut self, id: &str) -> Result<(), JournalError> {
        self.append(&Record::Told { id: id.to_owned() })?;
        self.note_told(id);
        Ok(())
    }

    fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        self.log.append(&encode(record)).map_err(JournalError::Log)?;
        self.records += 1;
        Ok(())
    }

    fn note_began(&mut self, id: &str, at: u64) {
        let place = self.next_place;
        self.next_place += 1;
        let bytes = id.len();
        self.kept_bytes += bytes;
        self.order.insert(place, id.to_owned());
        self.by_id.insert(id.to_owned(), Kept { at, result: None, told: false, bytes });
    }

    fn note_ended(&mut self, result: CommandResult) {
        if !self.by_id.contains_key(&result.id) {
            self.note_began(&result.id, result.at);
        }
        let kept = self.by_id.get_mut(&result.id).expect("noted above");
        let bytes = encode(&Record::Ended(result.clone())).len();
        self.kept_bytes += bytes;
        kept.bytes += bytes;
        kept.result = Some(result);
    }

    fn note_told(&mut self, id: &str) {
        if let Some(kept) = self.by_id.get_mut(id) {
            kept.told = true;
        }
    }

    /// Forgets what is over a limit, and rewrites the log when most of it is forgotten.
    fn make_room(&mut self, now_unix_ms: u64) -> Result<(), JournalError> {
        let forgettable: Vec<u64> = self
            .order
            .iter()
            .filter(|(_, id)| self.by_id.get(*id).is_some_and(|kept| kept.told && kept.result.is_some()))
            .map(|(place, _)| *place)
            .collect();
        for place in forgettable {
            let id = &self.order[&place];
            let old = self.by_id[id].at.saturating_add(KEPT_MS) < now_unix_ms;
            let many = self.by_id.len() >= COMMANDS_MAX || self.kept_bytes >= KEPT_BYTES_MAX;
            let aged = old && self.by_id.len() > COMMANDS_KEPT_MIN;
            if !many && !aged {
                break;
            }
            let id = self.order.remove(&place).expect("listed above");
            let kept = self.by_id.remove(&id).expect("both list the same ids");
            self.kept_bytes -= kept.bytes;
        }
        if self.by_id.len() >= COMMANDS_MAX {
            return Err(JournalError::Full { waiting: self.by_id.len() });
        }
        if self.records > 3 * self.by_id.len() + RECORDS_SLACK {
            self.rewrite()?;
        }
        Ok(())
    }

    fn rewrite(&mut self) -> Result<(), JournalError> {
        let mut records = Vec::new();
        for id in self.order.values() {
            let kept = &self.by_id[id];
            records.push(encode(&Record::Began { id: id.clone(), at: kept.at }));
            records.extend(kept.result.clone().map(|result| encode(&Record::Ended(result))));
            records.extend(kept.told.then(|| encode(&Record::Told { id: id.clone() })));
        }
        // A checkpoint replaces what is committed; `told` records may not be yet.
        self.log.commit().map_err(JournalError::Log)?;
        let count = records.len();
        match self.log.checkpoint(records.into_iter()) {
            Ok(()) => self.records = count,
            // The journal works without, as long as its records fit.
            Err(LogError::NoSpace { .. }) => tracing::warn!("no space to rewrite the command journal"),
            Err(error) => return Err(JournalError::Log(error)),
        }
        Ok(())
    }
}

fn encode(record: &Record) -> Bytes {
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, record).expect("strings, numbers and JSON values serialise");
    bytes.into()
}

fn decode(bytes: &[u8]) -> Result<Record, String> {
    match bytes.split_first() {
        Some((&VERSION, json)) => serde_json::from_slice(json).map_err(|error| error.to_string()),
        Some((version, _)) => Err(format!("it has version {version}, this program reads version {VERSION}")),
        None => Err("it is empty".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn result(id: &str, at: u64) -> CommandResult {
        CommandResult { id: id.to_owned(), status: Status::Done, data: json!({ "at": at }), reason: None, at }
    }

    #[test]
    fn records_on_disk_keep_their_form() {
        let golden: [&[u8]; 3] = [
            b"\x01{\"began\":{\"id\":\"c1\",\"at\":5}}",
            b"\x01{\"ended\":{\"id\":\"c1\",\"status\":\"failed\",\"data\":null,\"reason\":\"why\",\"at\":6}}",
            b"\x01{\"told\":{\"id\":\"c1\"}}",
        ];
        for bytes in golden {
            let record = decode(bytes).unwrap();
            assert_eq!(encode(&record), bytes);
        }
        assert!(decode(b"\x02{}").unwrap_err().contains("version 2"));
        assert!(decode(b"").is_err() && decode(b"\x01{").is_err());
    }

    #[test]
    fn what_is_noted_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = CommandJournal::open(dir.path()).unwrap();
        journal.begin("ran", 1).unwrap();
        journal.end(result("ran", 2)).unwrap();
        journal.end(result("refused", 3)).unwrap();
        journal.told("ran").unwrap();
        journal.begin("cut", 4).unwrap();
        drop(journal);
        let journal = CommandJournal::open(dir.path()).unwrap();
        assert_eq!(journal.find("ran"), Some(Some(&result("ran", 2))));
        assert_eq!(journal.find("never"), None);
        let cut = journal.find("cut").unwrap().unwrap();
        assert_eq!((cut.status, cut.reason.as_deref()), (Status::Failed, Some(INTERRUPTED)));
        let untold: Vec<String> = journal.untold().into_iter().map(|result| result.id).collect();
        assert_eq!(untold, ["refused", "cut"]);
        let error = CommandJournal::open(dir.path()).unwrap_err();
        assert!(matches!(error, JournalError::Open(OpenError::Locked { .. })), "{error}");
    }

    #[test]
    fn the_oldest_answered_commands_are_forgotten_and_the_log_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = CommandJournal::open(dir.path()).unwrap();
        let week = KEPT_MS;
        for number in 0..COMMANDS_KEPT_MIN as u64 + 200 {
            let id = format!("c{number}");
            journal.end(result(&id, number)).unwrap();
            if number != 7 {
                journal.told(&id).unwrap();
            }
        }
        assert_eq!(journal.len(), COMMANDS_KEPT_MIN + 200);
        // A week later the old ones go, down to the minimum; the unanswered one stays.
        journal.begin("later", week + 10_000).unwrap();
        assert_eq!(journal.len(), COMMANDS_KEPT_MIN + 1);
        assert!(
            journal.find("c0").is_none() && journal.find("c7").is_some() && journal.find("c1199").is_some()
        );
        let before = journal.log.bytes();
        journal.rewrite().unwrap();
        assert!(journal.log.bytes() <= before);
        drop(journal);
        let journal = CommandJournal::open(dir.path()).unwrap();
        assert_eq!(journal.len(), COMMANDS_KEPT_MIN + 1);
        assert!(journal.find("c0").is_none() && journal.find("c1199").is_some());
    }

    #[test]
    fn a_journal_of_unanswered_commands_takes_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = CommandJournal::open(dir.path()).unwrap();
        // In memory only: ten thousand syncs would take long and prove nothing more.
        for number in 0..COMMANDS_MAX as u64 {
            journal.note_ended(result(&format!("c{number}"), number));
        }
        let error = journal.begin("more", 0).unwrap_err();
        assert!(matches!(error, JournalError::Full { waiting: COMMANDS_MAX }), "{error}");
        journal.note_told("c5");
        journal.begin("more", 0).unwrap();
        assert!(journal.find("c5").is_none());
    }

    #[test]
    fn results_are_forgotten_by_their_bytes_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = CommandJournal::open(dir.path()).unwrap();
        for number in 0..200 {
            let id = format!("c{number}");
            let data = Value::String("x".repeat(RESULT_BYTES_MAX - 1_000));
            journal.note_ended(CommandResult { data, ..result(&id, 0) });
            journal.note_told(&id);
        }
        journal.begin("more", 0).unwrap();
        assert!(journal.kept_bytes < KEPT_BYTES_MAX + RESULT_BYTES_MAX, "{} bytes", journal.kept_bytes);
    }
}
