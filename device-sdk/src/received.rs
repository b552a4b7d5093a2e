//! The identifiers of incoming QoS 2 messages, kept over restarts.
//!
//! A log of small records: one when the program has done with a message, before its PUBREC; one when the broker has released it, before its
//! PUBCOMP. What is kept is what is between the two. Bounded by the identifiers that there are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use protocol::PacketId;
use storage::{Disk, Durability, FileDisk, Log, LogConfig, LogError, OpenError};
use tokio::task::JoinHandle;

use crate::StartError;
use crate::client::Received;

const SEGMENT_BYTES: u64 = 64 * 1024;
const RECORD_BYTES_MAX: usize = 64;
/// Records, beside those of what is kept, at which the log is rewritten.
const ENDED_MAX: usize = 1_000;

const VERSION: u8 = 1;
const KEEP: u8 = b'k';
const FORGET: u8 = b'f';

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// [`crate::client::Output::Keep`].
    Keep(Received),
    /// [`crate::client::Output::Forget`].
    Forget(PacketId),
}

/// What is kept, and its log.
#[derive(Debug)]
pub(crate) struct ReceivedLog<D: Disk = FileDisk> {
    log: Log<D>,
    kept: BTreeMap<PacketId, Received>,
    records: usize,
}

impl ReceivedLog {
    /// Opens the log in this directory, made if absent; one process at a time.
    pub(crate) fn open(dir: &Path) -> Result<Self, StartError> {
        let unusable = |source| {
            StartError::Received(OpenError::Io { action: "open the directory", file: dir.to_owned(), source })
        };
        Self::open_on(FileDisk::open(dir).map_err(unusable)?)
    }
}

impl<D: Disk> ReceivedLog<D> {
    fn open_on(disk: D) -> Result<Self, StartError> {
        let config = LogConfig {
            segment_bytes: SEGMENT_BYTES,
            durability: Durability::Power,
            record_bytes_max: RECORD_BYTES_MAX,
            bytes_max: None,
            keeps_reserve: false,
        };
        let dir = disk.path("");
        let log = Log::open_on(disk, config).map_err(StartError::Received)?;
        let unreadable = |what: String| StartError::ReceivedRecords { dir: dir.display().to_string(), what };
        let mut kept = BTreeMap::new();
        let mut records = 0;
        for record in log.replay().map_err(|error| unreadable(error.to_string()))? {
            let (lsn, bytes) = record.map_err(|error| unreadable(error.to_string()))?;
            let change = decode(&bytes).ok_or_else(|| unreadable(format!("record {} is none", lsn.0)))?;
            note(&mut kept, change);
            records += 1;
        }
        Ok(Self { log, kept, records })
    }

    /// Returns what is kept.
    pub(crate) fn kept(&self) -> Vec<Received> {
        self.kept.values().copied().collect()
    }

    /// Makes changes durable, all with one write.
    pub(crate) fn apply(&mut self, changes: &[Change]) -> Result<(), LogError> {
        for change in changes {
            self.log.append(&encode(*change))?;
        }
        self.log.commit()?;
        changes.iter().for_each(|change| note(&mut self.kept, *change));
        self.records += changes.len();
        if self.records > self.kept.len() + ENDED_MAX {
            let records: Vec<_> = self.kept.values().map(|kept| encode(Change::Keep(*kept))).collect();
            match self.log.checkpoint(records.into_iter()) {
                Ok(()) => self.records = self.kept.len(),
                // The next change tries again.
                Err(LogError::NoSpace { .. }) => {
                    tracing::warn!("no space to rewrite the identifiers of messages")
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn note(kept: &mut BTreeMap<PacketId, Received>, change: Change) {
    match change {
        Change::Keep(received) => drop(kept.insert(received.packet_id, received)),
        Change::Forget(id) => drop(kept.remove(&id)),
    }
}

fn encode(change: Change) -> bytes::Bytes {
    let (kind, id, fingerprint) = match change {
        Change::Keep(received) => (KEEP, received.packet_id, Some(received.fingerprint)),
        Change::Forget(id) => (FORGET, id, None),
    };
    let mut bytes = vec![VERSION, kind];
    bytes.extend(id.get().to_be_bytes());
    bytes.extend(fingerprint.into_iter().flat_map(u64::to_be_bytes));
    bytes.into()
}

fn decode(bytes: &[u8]) -> Option<Change> {
    let (&[version, kind], rest) = bytes.split_first_chunk()?;
    let (id, rest) = rest.split_first_chunk()?;
    let packet_id = PacketId::new(u16::from_be_bytes(*id))?;
    match (version, kind, rest) {
        (VERSION, KEEP, rest) => {
            Some(Change::Keep(Received { packet_id, fingerprint: u64::from_be_bytes(rest.try_into().ok()?) }))
        }
        (VERSION, FORGET, []) => Some(Change::Forget(packet_id)),
        _ => None,
    }
}

/// Makes changes durable beside the driver, several at a time and in order.
#[derive(Debug)]
pub(crate) struct Keeper {
    dir: PathBuf,
    /// With the thread that writes, while one does; `None` for good once the disk has failed.
    log: Option<ReceivedLog>,
    waiting: Vec<Change>,
    writing: Option<JoinHandle<Written>>,
}

/// The log, the changes that were given to it, and whether they are durable.
type Written = (ReceivedLog, Vec<Change>, Result<(), LogError>);

impl Keeper {
    pub(crate) fn new(dir: PathBuf, log: ReceivedLog) -> Self {
        Self { dir, log: Some(log), waiting: Vec::new(), writing: None }
    }

    pub(crate) fn add(&mut self, change: Change) {
        self.waiting.push(change);
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.writing.is_some() || !self.waiting.is_empty()
    }

    /// Returns the next changes that are done; waits for ever when there are none to do. May be cancelled without loss.
    pub(crate) async fn done(&mut self) -> Vec<Change> {
        if self.writing.is_none() && self.waiting.is_empty() {
            return std::future::pending().await;
        }
        if self.writing.is_none() {
            let Some(mut log) = self.log.take() else {
                // Messages go on coming once as long as the program runs.
                return std::mem::take(&mut self.waiting);
            };
            let changes = std::mem::take(&mut self.waiting);
            self.writing = Some(tokio::task::spawn_blocking(move || {
                let result = log.apply(&changes);
                (log, changes, result)
            }));
        }
        let Some(writing) = &mut self.writing else { return Vec::new() };
        let ended = writing.await;
        self.writing = None;
        match ended {
            Ok((log, changes, result)) => {
                match result {
                    Ok(()) => self.log = Some(log),
                    Err(error) => {
                        let dir = self.dir.display().to_string();
                        tracing::error!(dir, %error, "identifiers of messages are not kept any more");
                    }
                }
                changes
            }
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime ends, and this future with it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use storage::sim::SimDisk;

    use super::*;

    fn keep(id: u16, fingerprint: u64) -> Change {
        Change::Keep(Received { packet_id: PacketId::new(id).unwrap(), fingerprint })
    }

    fn forget(id: u16) -> Change {
        Change::Forget(PacketId::new(id).unwrap())
    }

    fn ids(log: &ReceivedLog<SimDisk>) -> Vec<u16> {
        log.kept().iter().map(|kept| kept.packet_id.get()).collect()
    }

    #[test]
    fn what_is_kept_is_there_after_a_power_cut_and_what_is_forgotten_is_not() {
        let disk = SimDisk::new(3);
        let mut log = ReceivedLog::open_on(disk.clone()).unwrap();
        log.apply(&[keep(7, 70), keep(8, 80)]).unwrap();
        log.apply(&[forget(7), keep(9, 90)]).unwrap();
        drop(log);
        let disk = disk.crash(&mut fastrand::Rng::with_seed(3));
        let log = ReceivedLog::open_on(disk).unwrap();
        assert_eq!(ids(&log), [8, 9]);
        assert_eq!(log.kept()[1].fingerprint, 90);
    }

    #[test]
    fn the_log_stays_small_however_many_messages_come() {
        let disk = SimDisk::new(4);
        let mut log = ReceivedLog::open_on(disk.clone()).unwrap();
        for number in 0..5_000_u64 {
            let id = 1 + (number % 50) as u16;
            log.apply(&[keep(id, number)]).unwrap();
            if id > 10 {
                log.apply(&[forget(id)]).unwrap();
            }
            assert!(log.records <= log.kept.len() + ENDED_MAX);
        }
        drop(log);
        let log = ReceivedLog::open_on(disk).unwrap();
        assert_eq!(ids(&log), (1..=10).collect::<Vec<_>>());
        assert!(log.records <= 10 + ENDED_MAX);
    }

    // The format on disk.
    #[test]
    fn records_are_as_they_were_and_others_are_refused() {
        let golden: [(Change, &[u8]); 2] = [
            (keep(258, 0x0102_0304_0506_0708), &[1, b'k', 1, 2, 1, 2, 3, 4, 5, 6, 7, 8]),
            (forget(3), &[1, b'f', 0, 3]),
        ];
        for (change, bytes) in golden {
            assert_eq!(encode(change), bytes);
            assert_eq!(decode(bytes), Some(change));
        }
        for wrong in [&[][..], &[1, b'k', 1, 2, 1], &[1, b'f', 0, 3, 0], &[2, b'f', 0, 3], &[1, b'f', 0, 0]] {
            assert_eq!(decode(wrong), None, "{wrong:?}");
        }
    }
}
