//! The open log: appending, committing, giving space back.
//!
//! Invariants: `tail[0]` is the segment that is written to, the ones after it are empty; ids are consecutive
//! from `sealed` through `tail`. Everything in `sealed` is synced. Whatever is appended has its place in a
//! preallocated segment, so a commit never runs out of space.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, LockError};
use crate::error::{LogError, OpenError};
use crate::file_disk::{FileDisk, is_no_space};
use crate::format::{FILE_HEADER_BYTES, GROUP_HEADER_BYTES, group_bytes, record_bytes};
use crate::index::GroupIndex;
use crate::pending::Pending;
use crate::reader::{Current, Shared};
use crate::recover::{Recovered, TornTail, recover};
use crate::segment::{Sealed, Segment};
use crate::spare::Ordered;

/// Least and most `segment_bytes`.
const SEGMENT_BYTES_RANGE: (u64, u64) = (4096, 1 << 30);
/// A commit is written in groups of about this size, so that a record is found without reading many others.
const GROUP_BYTES: u64 = 64 * 1024;
/// Kept free at the end of every segment: room for an empty group.
const MARKER_BYTES: u64 = GROUP_HEADER_BYTES as u64;
/// Least and most `record_bytes_max`.
const RECORD_BYTES_RANGE: (u64, u64) = (1, 1 << 30);

/// Number of a record: 1, 2, 3 … over the log's whole life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lsn(pub u64);

/// What a commit survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Durability {
    /// Power cuts: each commit syncs.
    #[default]
    Power,
    /// The end of the process, however it ends: each commit writes. A power cut may take the newest commits,
    /// up to one segment; what is left is whole and in order.
    Process,
}

/// The settings of a log.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Size of a segment, preallocated; 4 KiB to 1 GiB. A larger record gets a segment of its own size.
    pub segment_bytes: u64,
    /// What a commit survives.
    pub durability: Durability,
    /// Largest record taken, up to 1 GiB.
    pub record_bytes_max: usize,
    /// Bytes that the files may take, preallocated ones included. The segment that is written to and a
    /// checkpoint are made in any case: they let records that end others through. For the same reason a
    /// `Committer` goes one segment beyond it.
    pub bytes_max: Option<u64>,
    /// Whether a file of one segment's size is kept beside the log, and given up for a segment when the disk is full: what a
    /// `Committer` goes beyond the quota has its space then on a full disk too. Without room for it the log is full.
    pub keeps_reserve: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 16 * 1024 * 1024,
            durability: Durability::Power,
            record_bytes_max: 16 * 1024 * 1024,
            bytes_max: None,
            keeps_reserve: false,
        }
    }
}

/// A segmented log in a directory that it has for itself.
#[derive(Debug)]
pub struct Log<D: Disk = FileDisk> {
    pub(crate) disk: Arc<D>,
    pub(crate) config: LogConfig,
    _lock: D::Lock,
    /// What readers know.
    pub(crate) shared: Arc<Shared<D>>,
    pub(crate) sealed: VecDeque<Arc<Sealed>>,
    pub(crate) tail: VecDeque<Segment<D::File>>,
    pub(crate) pending: Pending,
    /// Number of the first record that is still needed; every group names it.
    pub(crate) start_lsn: u64,
    pub(crate) next_lsn: u64,
    /// What `commit` vouches for.
    pub(crate) committed_lsn: u64,
    /// What is synced; less than `committed_lsn` only with `Durability::Process`.
    pub(crate) synced_lsn: u64,
    /// The file in reserve is there and whole.
    pub(crate) has_reserve: bool,
    /// The next segment, if somebody else makes it now.
    pub(crate) ordered: Option<Ordered<D::File>>,
    /// The current segment was written to since its last sync.
    is_dirty: bool,
    pub(crate) is_full: bool,
    /// There are more bytes than the quota allows: full, although there may be a spare segment.
    pub(crate) is_over_quota: bool,
    poisoned: Option<String>,
    torn: Option<TornTail>,
    planted_skip_sync: bool,
}

impl Log<FileDisk> {
    /// Opens the log in a directory, making both where they are missing. Locks the directory, checks every
    /// checksum, cuts what an unfinished write left at the end, and syncs what it found.
    ///
    /// # Errors
    /// See [`OpenError`]; then nothing was changed.
    pub fn open(dir: &Path, config: LogConfig) -> Result<Self, OpenError> {
        let unusable = |source| OpenError::Io { action: "open the directory", file: dir.to_owned(), source };
        Log::open_on(FileDisk::open(dir).map_err(unusable)?, config)
    }
}

impl<D: Disk> Log<D> {
    /// Opens the log on this disk; see [`Log::open`].
    ///
    /// # Errors
    /// See [`OpenError`]; then nothing was changed.
    pub fn open_on(disk: D, config: LogConfig) -> Result<Self, OpenError> {
        check("segment_bytes", config.segment_bytes, SEGMENT_BYTES_RANGE)?;
        check("record_bytes_max", config.record_bytes_max as u64, RECORD_BYTES_RANGE)?;
        let lock = disk.lock().map_err(|error| match error {
            LockError::Locked { pid } => OpenError::Locked { dir: disk.path(""), pid },
            LockError::Io { file, source } => OpenError::Io { action: "lock", file, source },
        })?;
        let Recovered { sealed, tail, current_index, start_lsn, next_lsn, torn } =
            recover(&disk, config.segment_bytes)?;
        let disk = Arc::new(disk);
        let mut log = Self {
            shared: Shared::new(disk.clone()),
            disk,
            config,
            _lock: lock,
            sealed: sealed.into_iter().map(Arc::new).collect(),
            tail,
            pending: Pending::default(),
            start_lsn,
            next_lsn,
            committed_lsn: next_lsn - 1,
            synced_lsn: next_lsn - 1,
            has_reserve: false,
            ordered: None,
            is_dirty: false,
            is_full: false,
            is_over_quota: false,
            poisoned: None,
            torn,
            planted_skip_sync: false,
        };
        log.shared.tell_files(&log.sealed, log.describe_current(current_index));
        log.shared.tell_committed(next_lsn - 1, next_lsn - 1);
        log.is_over_quota = !log.is_within_quota(0);
        // The dropping may have been cut short.
        let finished = log.ensure_spare().and_then(|()| log.drop_before(Lsn(start_lsn)));
        finished.map_err(|error| match error {
            LogError::Io { action, file, source } => OpenError::Io { action, file, source },
            other => unreachable!("making and removing files fails with an I/O error only, not {other}"),
        })?;
        Ok(log)
    }

    /// Returns what opening cut off.
    pub fn torn_tail(&self) -> Option<&TornTail> {
        self.torn.as_ref()
    }

    /// Returns the number that the next record gets.
    pub fn next_lsn(&self) -> Lsn {
        Lsn(self.next_lsn)
    }

    /// Takes a record into memory; `commit` writes it.
    ///
    /// # Errors
    /// `TooLarge`, `Full` (the log is unchanged then), or `Poisoned`.
    pub fn append(&mut self, record: &[u8]) -> Result<Lsn, LogError> {
        self.check_poison()?;
        if record.len() > self.config.record_bytes_max {
            return Err(LogError::TooLarge { bytes: record.len(), bytes_max: self.config.record_bytes_max });
        }
        let fits = self.pending.last().is_some_and(|group| {
            (group.count == 0 || group.end_with(record.len()) - group.offset <= GROUP_BYTES)
                && group.end_with(record.len()) + MARKER_BYTES <= self.tail[group.tail_index].capacity
        });
        if !fits {
            self.begin_group(record.len())?;
        }
        self.pending.push(record);
        let lsn = Lsn(self.next_lsn);
        self.next_lsn += 1;
        Ok(lsn)
    }

    /// Writes what was appended, syncs it if the durability says so, and returns the number up to which all
    /// records are kept.
    ///
    /// # Errors
    /// A failed write or sync poisons the log: this and every later call fails. What was appended since the
    /// last commit may be on disk or not.
    pub fn commit(&mut self) -> Result<Lsn, LogError> {
        let committed = self.commit_pending()?;
        if self.tail.len() < 2 && !self.is_full {
            self.ensure_spare()?;
        }
        Ok(committed)
    }

    /// Commits, and syncs whatever the durability.
    ///
    /// # Errors
    /// As for `commit`.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.commit_pending()?;
        self.sync_current()?;
        self.shared.tell_committed(self.committed_lsn, self.synced_lsn);
        Ok(())
    }

    /// Returns the bytes that the log's records take on disk, frames included, and the unused rest of
    /// preallocated segments not.
    pub fn bytes(&self) -> u64 {
        let sealed: u64 = self.sealed.iter().map(|file| file.end).sum();
        sealed + self.tail.front().map_or(0, |current| current.end)
    }

    /// Returns the size of all files, preallocated space included: what `bytes_max` limits.
    pub fn disk_bytes(&self) -> u64 {
        let sealed: u64 = self.sealed.iter().map(|file| file.capacity).sum();
        let ordered = self.ordered.as_ref().map_or(0, |ordered| ordered.capacity);
        sealed + ordered + self.tail.iter().map(|segment| segment.capacity).sum::<u64>()
    }

    /// Returns whether the next segment could not be preallocated, for want of space or by the quota. What is
    /// left in the current segment is the reserve.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// Changes what the files may take from now on; [`Log::retry_space`] finds out whether there is room now. For several logs
    /// that share one quota.
    pub fn set_bytes_max(&mut self, bytes_max: Option<u64>) {
        self.config.bytes_max = bytes_max;
    }

    /// Tries again to preallocate the next segment; returns `is_full`. A failure other than want of space
    /// poisons the log, which the next call tells.
    pub fn retry_space(&mut self) -> bool {
        if self.is_full && self.poisoned.is_none() {
            // The error is kept as the poison.
            let _ = self.ensure_spare();
        }
        self.is_full
    }

    /// Commits, and marks the end as synced, so that later damage to the newest records cannot be taken for a
    /// torn tail.
    ///
    /// # Errors
    /// As for `commit`.
    pub fn close(mut self) -> Result<(), LogError> {
        self.commit_pending()?;
        self.sync_current()?;
        self.take_spare(true)?;
        if self.tail.front().is_some_and(|current| !current.is_empty()) {
            self.write_marker()?;
        }
        Ok(())
    }

    /// Test only: commits without syncing. Exists so that the simulation can show that it finds this bug.
    #[doc(hidden)]
    pub fn plant_skip_sync(&mut self) {
        self.planted_skip_sync = true;
    }

    /// Writes and syncs the pending groups.
    pub(crate) fn commit_pending(&mut self) -> Result<Lsn, LogError> {
        self.check_poison()?;
        if !self.pending.is_empty() {
            let mut pending = std::mem::take(&mut self.pending);
            let written = self.write_groups(&mut pending);
            pending.clear();
            self.pending = pending;
            written?;
            self.shared.tell_committed(self.committed_lsn, self.synced_lsn);
        }
        Ok(Lsn(self.committed_lsn))
    }

    /// Commits, then writes a group without records and syncs it; returns whether there was room for it.
    pub(crate) fn write_marker(&mut self) -> Result<bool, LogError> {
        self.commit_pending()?;
        self.sync_current()?;
        let start = FILE_HEADER_BYTES as u64;
        match (self.tail.front(), self.tail.get(1)) {
            (Some(current), _) if current.end + MARKER_BYTES <= current.capacity => {
                self.pending.begin(0, current.nonce, current.end, self.next_lsn);
            }
            (_, Some(spare)) => self.pending.begin(1, spare.nonce, start, self.next_lsn),
            _ => return Ok(false),
        }
        self.commit_pending()?;
        self.sync_current()?;
        Ok(true)
    }

    fn write_groups(&mut self, pending: &mut Pending) -> Result<(), LogError> {
        let mut rotations = 0;
        for index in 0..pending.groups().len() {
            let group = &pending.groups()[index];
            let (tail_index, offset, end) = (group.tail_index, group.offset, group.end());
            let (first_lsn, next_lsn) = (group.first_lsn, group.next_lsn());
            while rotations < tail_index {
                self.rotate()?;
                rotations += 1;
            }
            let bytes = pending.seal(index, self.synced_lsn, self.start_lsn, 0);
            let current = self.tail.front_mut().expect("appending found a place in it");
            if let Err(source) = current.file.write_at(bytes, offset) {
                let name = current.name();
                return Err(self.poison("write", &name, source));
            }
            current.end = end;
            self.shared.tell_group((next_lsn > first_lsn).then_some(first_lsn), offset, end);
            self.is_dirty = true;
            self.committed_lsn = next_lsn - 1;
        }
        match self.config.durability {
            Durability::Power if !self.planted_skip_sync => self.sync_current(),
            Durability::Power => {
                (self.is_dirty, self.synced_lsn) = (false, self.committed_lsn);
                Ok(())
            }
            Durability::Process => Ok(()),
        }
    }

    /// Tells the readers which files there are.
    pub(crate) fn tell_files(&self) {
        let known = self.shared.current();
        let index = match (known, self.tail.front()) {
            (Some(known), Some(current)) if known.id == current.id => known.index,
            _ => GroupIndex::default(),
        };
        self.shared.tell_files(&self.sealed, self.describe_current(index));
    }

    fn describe_current(&self, index: GroupIndex) -> Option<Current> {
        let current = self.tail.front()?;
        Some(Current { id: current.id, nonce: current.nonce, end: current.end, index })
    }

    pub(crate) fn sync_current(&mut self) -> Result<(), LogError> {
        if self.is_dirty
            && let Some(current) = self.tail.front()
        {
            if let Err(source) = current.file.sync() {
                let name = current.name();
                return Err(self.poison("sync", &name, source));
            }
            self.is_dirty = false;
            self.synced_lsn = self.committed_lsn;
        }
        Ok(())
    }

    pub(crate) fn sync_dir(&mut self) -> Result<(), LogError> {
        self.disk.sync_dir().map_err(|source| self.poison("sync the directory", "", source))
    }

    /// Finds the place for a group whose first record has this size.
    fn begin_group(&mut self, payload_bytes: usize) -> Result<(), LogError> {
        let start = FILE_HEADER_BYTES as u64;
        let need = group_bytes(record_bytes(payload_bytes));
        let (mut index, mut offset) = match self.pending.last() {
            Some(group) => (group.tail_index, group.end()),
            None => (0, self.tail.front().map_or(start, |current| current.end)),
        };
        let has_room = |segment: &Segment<D::File>, offset| offset + need + MARKER_BYTES <= segment.capacity;
        if offset > start && !self.tail.get(index).is_some_and(|segment| has_room(segment, offset)) {
            (index, offset) = (index + 1, start);
        }
        if !self.tail.get(index).is_some_and(|segment| has_room(segment, offset))
            && !self.make_room(index, start + need + MARKER_BYTES)?
        {
            let left_bytes = match self.pending.last() {
                Some(group) => self.tail[group.tail_index].capacity - group.end(),
                None => self.tail.front().map_or(0, |current| current.capacity - current.end),
            };
            let left_bytes = left_bytes.saturating_sub(MARKER_BYTES);
            return Err(LogError::Full { record_bytes: payload_bytes, left_bytes });
        }
        self.pending.begin(index, self.tail[index].nonce, offset, self.next_lsn);
        Ok(())
    }

    /// Makes an empty segment of at least this size at `tail[index]`; returns whether there was space for it.
    fn make_room(&mut self, index: usize, bytes_min: u64) -> Result<bool, LogError> {
        if self.tail.get(index).is_none() && !self.take_spare(true)? {
            if self.is_full {
                return Ok(false);
            }
            let made = self.make_segment(bytes_min.max(self.config.segment_bytes))?;
            self.is_full = !made;
            if !made {
                return Ok(false);
            }
        }
        let segment = &self.tail[index];
        // One that was ordered may be too small for a large record.
        if segment.capacity >= bytes_min {
            return Ok(true);
        }
        let more = bytes_min - segment.capacity;
        if index > 0 && !self.is_within_quota(more) {
            return Ok(false);
        }
        match segment.file.allocate(bytes_min) {
            Ok(()) => {}
            Err(error) if is_no_space(&error) => return Ok(false),
            Err(source) => {
                let name = segment.name();
                return Err(self.poison("preallocate", &name, source));
            }
        }
        self.tail[index].capacity = bytes_min;
        Ok(true)
    }

    /// Preallocates the current segment and the one after it where they are missing, and sets `is_full`.
    pub(crate) fn ensure_spare(&mut self) -> Result<(), LogError> {
        self.check_poison()?;
        let mut is_full = false;
        self.take_spare(true)?;
        while self.tail.len() < 2 && !is_full {
            is_full = !self.make_segment(self.config.segment_bytes)?;
        }
        self.is_over_quota &= !self.is_within_quota(0);
        self.is_full = is_full || self.is_over_quota || !self.keep_reserve()?;
        Ok(())
    }

    pub(crate) fn is_within_quota(&self, more: u64) -> bool {
        self.config.bytes_max.is_none_or(|bytes_max| self.disk_bytes() + more <= bytes_max)
    }

    /// Adds an empty segment to the tail, if the quota allows it; returns whether there was space for it.
    fn make_segment(&mut self, capacity: u64) -> Result<bool, LogError> {
        if !self.tail.is_empty() && !self.is_within_quota(capacity) {
            return Ok(false);
        }
        self.add_segment(capacity)
    }

    pub(crate) fn add_segment(&mut self, capacity: u64) -> Result<bool, LogError> {
        let id = self.next_segment_id();
        let made = crate::spare::make(&*self.disk, id, capacity, false);
        self.add_made(id, made)
    }

    /// Returns the number of the segment that is made next.
    pub(crate) fn next_segment_id(&self) -> u64 {
        let newest = self.tail.back().map(|segment| segment.id).or(self.sealed.back().map(|file| file.id));
        newest.map_or(1, |newest| newest + 1)
    }

    /// Removes a file that was not finished; one that is not there is fine.
    pub(crate) fn remove_temporary(&mut self, name: &str) -> Result<(), LogError> {
        match self.disk.remove(name) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(self.poison("remove", name, source))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn check_poison(&self) -> Result<(), LogError> {
        match &self.poisoned {
            Some(why) => Err(LogError::Poisoned { why: why.clone() }),
            None => Ok(()),
        }
    }

    /// Notes a failure after which it is not known what is on disk.
    pub(crate) fn poison(&mut self, action: &'static str, name: &str, source: io::Error) -> LogError {
        let error = LogError::Io { action, file: self.disk.path(name), source };
        self.poisoned.get_or_insert_with(|| error.to_string());
        error
    }
}

fn check(name: &'static str, value: u64, (min, max): (u64, u64)) -> Result<(), OpenError> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(OpenError::Config { name, value, min, max }) }
}

// Every segment has room for a group: appending never finds one too small for its own header.
const _: () = assert!(SEGMENT_BYTES_RANGE.0 > (FILE_HEADER_BYTES + GROUP_HEADER_BYTES) as u64 * 2);
