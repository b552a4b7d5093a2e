//! The command ids seen and what became of them, on disk.
//!
//! A log of small JSON records, and the same in memory. What a command is about to do is noted before it does it, and
//! durable on return. Ended and answered commands are
//! forgotten, oldest first, beyond [`COMMANDS_MAX`], [`KEPT_BYTES_MAX`], or after [`KEPT_MS`] (the last
//! [`COMMANDS_KEPT_MIN`] are kept whatever the clock says: it may have jumped). Nonces are kept longer, and never given up before their
//! approval has certainly expired ([`NONCES_MAX`]). The log is then rewritten with what is left.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use serde_json::Value;
use storage::{Disk, Durability, FileDisk, Log, LogConfig, LogError, OpenError};

use super::record::{Deadline, Record, decode, encode};
use super::{Command, CommandResult, Status, UsedNonce};

/// Most commands remembered.
pub const COMMANDS_MAX: usize = 10_000;
/// Most bytes of commands and results remembered.
pub const KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a command is remembered at most, milliseconds.
pub const KEPT_MS: u64 = 7 * 24 * 3600 * 1000;
/// Commands remembered whatever their age.
pub const COMMANDS_KEPT_MIN: usize = 1_000;
/// Largest result on disk, JSON bytes; a larger one becomes a failure that says so.
pub const RESULT_BYTES_MAX: usize = 64 * 1024;
/// Most approvals remembered. Beyond it those that have expired are forgotten, oldest first, and while none has, none is taken.
pub const NONCES_MAX: usize = 4_096;

const SEGMENT_BYTES: u64 = 256 * 1024;
/// Records beyond thrice what is remembered at which the log is rewritten.
const RECORDS_SLACK: usize = 1_000;
/// Why a command that began before a restart and has no result has failed.
const INTERRUPTED: &str = "interrupted by a restart, not run again";

/// The ids, states and final results of commands, durable.
///
/// ```
/// use device_sdk::commands::CommandJournal;
///
/// let dir = tempfile::tempdir()?;
/// let journal = CommandJournal::open(dir.path())?;
/// assert!(journal.is_empty() && journal.is_settled());
/// // One process at a time.
/// assert!(CommandJournal::open(dir.path()).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct CommandJournal<D: Disk = FileDisk> {
    log: Log<D>,
    by_id: HashMap<String, Kept>,
    /// Ids in the order they were accepted.
    order: BTreeMap<u64, String>,
    next_place: u64,
    kept_bytes: usize,
    nonces: BTreeSet<UsedNonce>,
    reached_unix_ms: u64,
    /// Records in the log.
    records: usize,
}

#[derive(Debug)]
struct Kept {
    at: u64,
    /// `None` for a command that was never accepted, or whose journal was of version 1.
    accepted_at: Option<u64>,
    executing_at: Option<u64>,
    /// What is to be run; gone once it is.
    pending: Option<Box<(Command, Deadline)>>,
    result: Option<CommandResult>,
    /// The statuses that the broker has.
    told: Vec<Status>,
    bytes: usize,
}

/// How far a command is.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing<'a> {
    /// It is to be run.
    Accepted(&'a Command),
    /// It is being run.
    Executing,
    /// It has ended.
    Ended(&'a CommandResult),
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
    /// Opens the journal in this directory, made if absent; one process at a time. A command that was executing and has no
    /// result has failed: nobody knows whether it ran.
    ///
    /// # Errors
    /// The directory is locked by another process, damaged, or not accessible.
    pub fn open(dir: &Path) -> Result<Self, JournalError> {
        let unusable = |source| {
            JournalError::Open(OpenError::Io { action: "open the directory", file: dir.to_owned(), source })
        };
        Self::open_on(FileDisk::open(dir).map_err(unusable)?, SEGMENT_BYTES)
    }
}

impl<D: Disk> CommandJournal<D> {
    /// Opens the journal on this disk, with segments of this size: see [`CommandJournal::open`].
    ///
    /// # Errors
    /// As for `open`.
    pub fn open_on(disk: D, segment_bytes: u64) -> Result<Self, JournalError> {
        let config = LogConfig {
            segment_bytes,
            durability: Durability::Power,
            record_bytes_max: RESULT_BYTES_MAX + 1024,
            bytes_max: None,
            keeps_reserve: false,
        };
        let log = Log::open_on(disk, config).map_err(JournalError::Open)?;
        let mut journal = Self {
            log,
            by_id: HashMap::new(),
            order: BTreeMap::new(),
            next_place: 0,
            kept_bytes: 0,
            nonces: BTreeSet::new(),
            reached_unix_ms: 0,
            records: 0,
        };
        journal.read()?;
        let interrupted: Vec<(String, u64)> = journal
            .order
            .values()
            .filter_map(|id| journal.by_id.get(id).map(|kept| (id, kept)))
            .filter(|(_, kept)| kept.result.is_none() && kept.pending.is_none())
            .map(|(id, kept)| (id.clone(), kept.executing_at.unwrap_or(kept.at)))
            .collect();
        for (id, at) in interrupted {
            let reason = Some(INTERRUPTED.to_owned());
            let result = CommandResult { id, status: Status::Failed, data: None, reason, at };
            journal.end(result, journal.reached_unix_ms)?;
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
            self.note(record);
        }
        Ok(())
    }

    /// Returns how far a command is, `None` for an id not known.
    pub fn find(&self, id: &str) -> Option<Standing<'_>> {
        let kept = self.by_id.get(id)?;
        Some(match (&kept.result, &kept.pending) {
            (Some(result), _) => Standing::Ended(result),
            (None, Some(pending)) => Standing::Accepted(&pending.0),
            (None, None) => Standing::Executing,
        })
    }

    /// Returns the oldest command that was accepted and not begun.
    pub(super) fn next_pending(&self) -> Option<(Command, Deadline)> {
        let mut kept = self.order.values().filter_map(|id| self.by_id.get(id));
        kept.find_map(|kept| kept.pending.as_deref().cloned())
    }

    /// Returns an accepted command with its deadline.
    pub(super) fn pending(&self, id: &str) -> Option<(Command, Deadline)> {
        self.by_id.get(id)?.pending.as_deref().cloned()
    }

    /// Returns how many commands are remembered.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Says whether no command is remembered.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Returns what the true time had certainly reached when something was last noted, milliseconds since the Unix epoch.
    pub fn reached_unix_ms(&self) -> u64 {
        self.reached_unix_ms
    }

    /// Says whether an approval was used before.
    pub fn is_used(&self, nonce: &UsedNonce) -> bool {
        // The same nonce with another end is the same nonce.
        let first = UsedNonce { expires_at: 0, ..nonce.clone() };
        let mut from = self.nonces.range(first..);
        from.next().is_some_and(|used| used.approver == nonce.approver && used.nonce == nonce.nonce)
    }

    /// Says whether one more approval can be remembered.
    pub fn has_room_for_nonce(&self) -> bool {
        self.nonces.len() < NONCES_MAX
            || self.nonces.iter().any(|nonce| nonce.expires_at <= self.reached_unix_ms)
    }

    /// Returns the statuses that the broker has not acknowledged, in the order in which they are to be published.
    pub fn untold(&self) -> Vec<CommandResult> {
        let kept = self.order.values().filter_map(|id| self.by_id.get_key_value(id));
        kept.flat_map(|(id, kept)| kept.untold(id)).collect()
    }

    /// Says whether the broker has acknowledged every final result.
    pub fn is_settled(&self) -> bool {
        self.by_id.values().all(|kept| kept.result.is_none() || kept.is_told())
    }

    /// Notes a command that is going to be run; on return that is durable, and its approval used.
    ///
    /// # Errors
    /// The disk failed or is full, or all commands remembered still wait to be answered.
    pub(super) fn accept(
        &mut self,
        command: Command,
        at: u64,
        deadline: Deadline,
        nonce: Option<UsedNonce>,
    ) -> Result<(), JournalError> {
        self.make_room(at)?;
        self.commit(Record::Accepted { command, at, deadline, nonce })
    }

    /// Notes that a command that was accepted is about to run; on return that is durable: from here on this id never runs
    /// again.
    ///
    /// # Errors
    /// The disk failed or is full.
    pub(super) fn executing(&mut self, id: &str, at: u64, reached: u64) -> Result<(), JournalError> {
        self.commit(Record::Executing { id: id.to_owned(), at, reached })
    }

    /// Notes a command's final result; on return that is durable. An id that was never accepted gets its result all the same:
    /// it was not run.
    ///
    /// # Errors
    /// The disk failed or is full, or all commands remembered still wait to be answered.
    pub fn end(&mut self, result: CommandResult, reached_unix_ms: u64) -> Result<(), JournalError> {
        if !self.by_id.contains_key(&result.id) {
            self.make_room(result.at)?;
        }
        self.commit(Record::Ended { result, reached: reached_unix_ms })
    }

    /// Notes that the broker has acknowledged a command's status. On return that is durable for a final one; others are synced
    /// with the next record, since undoing them costs a repeated message only.
    ///
    /// # Errors
    /// The disk failed or is full.
    pub fn told(&mut self, id: &str, status: Status) -> Result<(), JournalError> {
        let record = Record::Told { id: id.to_owned(), status: Some(status) };
        if status.is_final() {
            return self.commit(record);
        }
        self.append(&record)?;
        self.note(record);
        Ok(())
    }

    fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        self.log.append(&encode(record)).map_err(JournalError::Log)?;
        self.records += 1;
        Ok(())
    }

    /// In memory only once it is on disk: what is found is answered, and an answer must outlive the power.
    fn commit(&mut self, record: Record) -> Result<(), JournalError> {
        self.append(&record)?;
        self.log.commit().map_err(JournalError::Log)?;
        self.note(record);
        Ok(())
    }

    fn note(&mut self, record: Record) {
        match record {
            Record::Began { id, at } => self.note_executing(&id, at),
            Record::Accepted { command, at, deadline, nonce } => {
                let bytes = encode(&Record::Accepted { command: command.clone(), at, deadline, nonce: None });
                let kept = self.keep(&command.id, at);
                kept.accepted_at = Some(at);
                kept.bytes += bytes.len();
                kept.pending = Some(Box::new((command, deadline)));
                self.kept_bytes += bytes.len();
                self.nonces.extend(nonce);
            }
            Record::Executing { id, at, reached } => {
                self.reached_unix_ms = self.reached_unix_ms.max(reached);
                self.note_executing(&id, at);
            }
            Record::Ended { result, reached } => {
                self.reached_unix_ms = self.reached_unix_ms.max(reached);
                let bytes = encode(&Record::Ended { result: result.clone(), reached }).len();
                let kept = self.keep(&result.id, result.at);
                kept.bytes += bytes;
                kept.pending = None;
                kept.result = Some(result);
                self.kept_bytes += bytes;
            }
            Record::Told { id, status } => {
                if let Some(kept) = self.by_id.get_mut(&id) {
                    let last = kept.result.as_ref().map(|result| result.status);
                    kept.told.extend(status.or(last).filter(|status| !kept.told.contains(status)));
                }
            }
            Record::Nonce(nonce) => drop(self.nonces.insert(nonce)),
        }
    }

    fn note_executing(&mut self, id: &str, at: u64) {
        let kept = self.keep(id, at);
        kept.executing_at = Some(at);
        kept.pending = None;
    }

    fn keep(&mut self, id: &str, at: u64) -> &mut Kept {
        if !self.by_id.contains_key(id) {
            self.order.insert(self.next_place, id.to_owned());
            self.next_place += 1;
            self.kept_bytes += id.len();
        }
        self.by_id.entry(id.to_owned()).or_insert_with(|| Kept {
            at,
            accepted_at: None,
            executing_at: None,
            pending: None,
            result: None,
            told: Vec::new(),
            bytes: id.len(),
        })
    }

    /// Forgets what is over a limit, and rewrites the log when most of it is forgotten.
    fn make_room(&mut self, now_unix_ms: u64) -> Result<(), JournalError> {
        let forgettable: Vec<u64> = self
            .order
            .iter()
            .filter(|(_, id)| self.by_id.get(*id).is_some_and(Kept::is_told))
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
        if self.nonces.len() >= NONCES_MAX {
            let first = self.nonces.iter().min_by_key(|nonce| nonce.expires_at).cloned();
            if let Some(first) = first.filter(|nonce| nonce.expires_at <= self.reached_unix_ms) {
                self.nonces.remove(&first);
            }
        }
        if self.records > 6 * self.by_id.len() + self.nonces.len() + RECORDS_SLACK {
            self.rewrite()?;
        }
        Ok(())
    }

    fn rewrite(&mut self) -> Result<(), JournalError> {
        let mut records: Vec<_> =
            self.nonces.iter().map(|nonce| encode(&Record::Nonce(nonce.clone()))).collect();
        for id in self.order.values() {
            let kept = &self.by_id[id];
            records.extend(kept.records(id, self.reached_unix_ms).iter().map(encode));
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

impl Kept {
    fn is_told(&self) -> bool {
        self.result.as_ref().is_some_and(|result| self.told.contains(&result.status))
    }

    fn untold(&self, id: &str) -> Vec<CommandResult> {
        // Who has the end needs no beginning any more.
        if self.is_told() {
            return Vec::new();
        }
        let on_the_way = |status, at: Option<u64>| {
            at.map(|at| CommandResult { id: id.to_owned(), status, data: None, reason: None, at })
        };
        let statuses = [
            on_the_way(Status::Accepted, self.accepted_at),
            on_the_way(Status::Executing, self.executing_at),
            self.result.clone(),
        ];
        statuses.into_iter().flatten().filter(|result| !self.told.contains(&result.status)).collect()
    }

    /// The records that make it again. A command that is not pending any more does not need its arguments.
    fn records(&self, id: &str, reached: u64) -> Vec<Record> {
        let mut records = Vec::new();
        if let Some(at) = self.accepted_at {
            let bare = || {
                let command =
                    Command { id: id.to_owned(), name: String::new(), args: Value::Null, expires_at: None };
                Box::new((command, Deadline::default()))
            };
            let (command, deadline) = *self.pending.clone().unwrap_or_else(bare);
            records.push(Record::Accepted { command, at, deadline, nonce: None });
        }
        records.extend(self.executing_at.map(|at| Record::Executing { id: id.to_owned(), at, reached }));
        records.extend(self.result.clone().map(|result| Record::Ended { result, reached }));
        let told = self.told.iter().map(|status| Record::Told { id: id.to_owned(), status: Some(*status) });
        records.extend(told);
        records
    }
}

#[cfg(test)]
mod tests;
