//! Reading committed records by their number, from any thread, while the log is written.
//!
//! The log tells what its files hold and up to where its commits vouch ([`Shared`]); readers look it up for each
//! block they read, so they go on when files are replaced or removed meanwhile. Every record's checksum is
//! checked when its block is read. Invariant: nothing above the watermark is ever shown.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use crate::disk::{Disk, DiskFile};
use crate::error::LogError;
use crate::file_disk::FileDisk;
use crate::format::{GROUP_HEADER_BYTES, GroupHeader, Kind, skip_record, split_next};
use crate::index::{GroupIndex, Stretch};
use crate::log::{Log, Lsn};
use crate::segment::{Sealed, name};

/// Files that a reader keeps open.
const FILES_OPEN_MAX: usize = 8;
/// How often a read is tried again because the file was replaced under it.
const TRIES_MAX: u32 = 16;
/// Memory for a block that is kept for the next read.
const BLOCK_BYTES_KEPT: usize = 1024 * 1024;

/// Reads committed records of a log, in any order, from any thread. A clone has a cache of its own: a thread should
/// have its clone.
pub struct LogReader<D: Disk = FileDisk> {
    pub(crate) shared: Arc<Shared<D>>,
    cache: Mutex<Cache<D::File>>,
}

/// What the log tells its readers.
#[derive(Debug)]
pub(crate) struct Shared<D> {
    disk: Arc<D>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Oldest first, without holes between them.
    sealed: VecDeque<Arc<Sealed>>,
    current: Option<Current>,
    /// The newest record that is shown.
    committed_lsn: u64,
    /// The newest record that a power cut leaves.
    synced_lsn: u64,
}

/// The segment that is written to.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    pub(crate) id: u64,
    pub(crate) nonce: u64,
    pub(crate) end: u64,
    pub(crate) index: GroupIndex,
}

/// Where to look for a record.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    kind: Kind,
    id: u64,
    nonce: u64,
    from: u64,
    to: u64,
    /// The first record behind it.
    next_lsn: u64,
}

#[derive(Debug)]
struct Cache<F> {
    /// By nonce, the newest last.
    files: VecDeque<(u64, F)>,
    block: Block,
}

/// The records of a place.
#[derive(Debug, Default)]
struct Block {
    place: Option<Place>,
    bytes: Vec<u8>,
    /// Number, start and end.
    records: Vec<(u64, usize, usize)>,
    /// The first place that does not decode; records behind it may be there.
    damage: Option<Damage>,
}

/// A place that does not decode.
#[derive(Clone, Copy, Debug)]
struct Damage {
    /// How many records come before it.
    before: usize,
    offset: u64,
    what: &'static str,
}

impl<D: Disk> Shared<D> {
    pub(crate) fn new(disk: Arc<D>) -> Arc<Self> {
        Arc::new(Self { disk, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    pub(crate) fn disk(&self) -> &D {
        &self.disk
    }

    /// Returns the files that are only read any more and all of whose records are kept.
    pub(crate) fn sealed(&self) -> Vec<Arc<Sealed>> {
        let state = self.lock();
        // One that the commit under way has just filled is not among them.
        state.sealed.iter().filter(|file| file.next_lsn <= state.committed_lsn + 1).cloned().collect()
    }

    /// Tells which files there are.
    pub(crate) fn tell_files(&self, sealed: &VecDeque<Arc<Sealed>>, current: Option<Current>) {
        let mut state = self.lock();
        state.sealed.clone_from(sealed);
        state.current = current;
    }

    /// Tells that a group was added to the current segment, which is not kept yet; `first_lsn` if it has records.
    pub(crate) fn tell_group(&self, first_lsn: Option<u64>, offset: u64, end: u64) {
        if let Some(current) = &mut self.lock().current {
            if let Some(first_lsn) = first_lsn {
                current.index.note(first_lsn, offset);
            }
            current.end = end;
        }
    }

    /// Returns a description of the current segment.
    pub(crate) fn current(&self) -> Option<Current> {
        self.lock().current.clone()
    }

    /// Shows the records up to this one.
    pub(crate) fn tell_committed(&self, committed_lsn: u64, synced_lsn: u64) {
        let mut state = self.lock();
        (state.committed_lsn, state.synced_lsn) = (committed_lsn, synced_lsn);
    }
}

impl State {
    /// Returns where this record is, or the next one that may be there; `None` behind the watermark.
    fn find(&self, lsn: u64) -> Option<Place> {
        if lsn > self.committed_lsn {
            return None;
        }
        let at = self.sealed.partition_point(|file| file.next_lsn <= lsn);
        for file in self.sealed.range(at..) {
            if let Some(stretch) = file.index.find(lsn.max(file.first_lsn)) {
                let Stretch { from, to, next_lsn } = stretch;
                return Some(Place {
                    kind: file.kind,
                    id: file.id,
                    nonce: file.nonce,
                    from,
                    to: to.unwrap_or(file.end),
                    next_lsn: next_lsn.unwrap_or(file.next_lsn),
                });
            }
        }
        let current = self.current.as_ref()?;
        let Stretch { from, to, next_lsn } = current.index.find(lsn)?;
        Some(Place {
            kind: Kind::Segment,
            id: current.id,
            nonce: current.nonce,
            from,
            to: to.unwrap_or(current.end),
            next_lsn: next_lsn.unwrap_or(self.committed_lsn + 1),
        })
    }
}

impl<D: Disk> LogReader<D> {
    fn new(shared: Arc<Shared<D>>) -> Self {
        Self { shared, cache: Mutex::new(Cache { files: VecDeque::new(), block: Block::default() }) }
    }

    /// Returns a committed record; `None` if it is not committed yet, was given up, or left out when its segment
    /// was rewritten. Reads in rising order cost one access to the disk for many records.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn read(&self, lsn: Lsn) -> Result<Option<Bytes>, LogError> {
        let mut cache = self.cache.lock().expect("no holder of this lock panics");
        let Some(block) = self.block(&mut cache, lsn.0)? else { return Ok(None) };
        let found = block.records.binary_search_by_key(&lsn.0, |(number, ..)| *number);
        let Ok(at) = found else { return self.check(block).map(|()| None) };
        let (_, from, to) = block.records[at];
        // A copy: a slice would keep its whole block in memory.
        Ok(Some(Bytes::copy_from_slice(&block.bytes[from..to])))
    }

    /// Returns the newest record that is committed, 0 without any.
    pub fn committed(&self) -> Lsn {
        Lsn(self.shared.lock().committed_lsn)
    }

    /// Returns the newest record that is on disk for sure, whatever the durability.
    pub fn synced(&self) -> Lsn {
        Lsn(self.shared.lock().synced_lsn)
    }

    /// Returns the records from this number on that are committed now, oldest first; a block of them is in
    /// memory at a time. After an error it ends.
    ///
    /// # Errors
    /// Those of each block, as its records are asked for.
    pub fn replay_from(
        &self,
        lsn: Lsn,
    ) -> Result<impl Iterator<Item = Result<(Lsn, Bytes), LogError>> + Send + use<D>, LogError> {
        let end = self.committed().0;
        Ok(Replay {
            reader: self.clone(),
            next_lsn: lsn.0.max(1),
            end,
            records: VecDeque::new(),
            failed: None,
        })
    }

    /// Returns the block in which this record is, or the next one.
    fn block<'a>(&self, cache: &'a mut Cache<D::File>, lsn: u64) -> Result<Option<&'a Block>, LogError> {
        let mut tries = 0;
        loop {
            let Some(place) = self.shared.lock().find(lsn) else { return Ok(None) };
            if cache.block.place.as_ref() == Some(&place) {
                break;
            }
            let read = cache.read(self.shared.disk(), &place);
            if read.is_ok() && cache.block.damage.is_none() {
                break;
            }
            tries += 1;
            // The file may have been replaced by another one while it was read.
            let is_replaced = self.shared.lock().find(lsn).is_none_or(|now| now.nonce != place.nonce);
            if !is_replaced || tries >= TRIES_MAX {
                read.map_err(|(action, source)| LogError::Io { action, file: self.path(&place), source })?;
                break;
            }
        }
        Ok(Some(&cache.block))
    }

    fn path(&self, place: &Place) -> PathBuf {
        self.shared.disk.path(&name(place.kind, place.id))
    }

    fn check(&self, block: &Block) -> Result<(), LogError> {
        match (block.damage, &block.place) {
            (Some(Damage { offset, what, .. }), Some(place)) => {
                Err(LogError::Corrupt { file: self.path(place), offset, what: what.to_owned() })
            }
            _ => Ok(()),
        }
    }
}

impl<D: Disk> Clone for LogReader<D> {
    fn clone(&self) -> Self {
        Self::new(self.shared.clone())
    }
}

impl<D: Disk> fmt::Debug for LogReader<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogReader").field("committed", &self.committed()).finish_non_exhaustive()
    }
}

impl<F: DiskFile> Cache<F> {
    /// Reads a place; an error names what failed.
    fn read<D: Disk<File = F>>(&mut self, disk: &D, place: &Place) -> Result<(), (&'static str, io::Error)> {
        self.block.begin((place.to - place.from) as usize);
        if let Some(at) = self.files.iter().position(|(nonce, _)| *nonce == place.nonce) {
            self.files.rotate_left(at + 1);
        } else {
            let file = disk.open(&name(place.kind, place.id)).map_err(|source| ("open", source))?;
            if self.files.len() >= FILES_OPEN_MAX {
                self.files.pop_front();
            }
            self.files.push_back((place.nonce, file));
        }
        let (_, file) = self.files.back().expect("it was found or put there");
        let read = file.read_at(&mut self.block.bytes, place.from);
        if read.is_ok() {
            self.block.decode(place);
        }
        if read.is_err() || self.block.damage.is_some() {
            // It may be another file of this name.
            self.files.pop_back();
        }
        read.map_err(|source| ("read", source))
    }
}

impl Block {
    fn begin(&mut self, bytes: usize) {
        (self.place, self.damage) = (None, None);
        self.records.clear();
        self.bytes.clear();
        self.bytes.shrink_to(BLOCK_BYTES_KEPT);
        self.bytes.resize(bytes, 0);
    }

    /// Finds the records, checking every checksum. Damage to one of them leaves the others.
    fn decode(&mut self, place: &Place) {
        self.place = Some(place.clone());
        let mut at = 0;
        while at < self.bytes.len() {
            match self.decode_group(place, at) {
                Ok(bytes) => at += bytes,
                Err(what) => return self.note_damage(place, at, what),
            }
        }
    }

    fn note_damage(&mut self, place: &Place, at: usize, what: &'static str) {
        let (before, offset) = (self.records.len(), place.from + at as u64);
        self.damage.get_or_insert(Damage { before, offset, what });
    }

    /// Finds the records of the group that starts here; returns its length.
    fn decode_group(&mut self, place: &Place, at: usize) -> Result<usize, &'static str> {
        let header = GroupHeader::decode(&self.bytes[at..], place.nonce, place.from + at as u64);
        let header = header?;
        let body_at = at + GROUP_HEADER_BYTES;
        let body_end = body_at + header.body_bytes as usize;
        let mut rest =
            self.bytes.get(body_at..body_end).ok_or("a group goes beyond the end of its file")?.len();
        let mut next_lsn = header.first_lsn;
        for _ in 0..header.count {
            let record_at = body_end - rest;
            let body = &self.bytes[record_at..body_end];
            match split_next(body, place.nonce, &header, next_lsn) {
                Ok((lsn, payload, after)) => {
                    let end = body_end - after.len();
                    self.records.push((lsn, end - payload.len(), end));
                    (next_lsn, rest) = (lsn + 1, after.len());
                }
                Err(what) => {
                    let skipped = skip_record(body).map(<[u8]>::len);
                    self.note_damage(place, record_at, what);
                    let Some(after) = skipped else { break };
                    (next_lsn, rest) = (next_lsn + 1, after);
                }
            }
        }
        Ok(header.stride() as usize)
    }
}

/// The committed records from some number on.
struct Replay<D: Disk> {
    reader: LogReader<D>,
    next_lsn: u64,
    /// The last one.
    end: u64,
    records: VecDeque<(Lsn, Bytes)>,
    failed: Option<LogError>,
}

impl<D: Disk> Replay<D> {
    /// Reads the next block; `false` at the end.
    fn fill(&mut self) -> Result<bool, LogError> {
        if self.next_lsn > self.end {
            return Ok(false);
        }
        let mut cache = self.reader.cache.lock().expect("no holder of this lock panics");
        let Some(block) = self.reader.block(&mut cache, self.next_lsn)? else { return Ok(false) };
        let wanted = self.next_lsn..=self.end;
        let whole = block.damage.map_or(block.records.len(), |damage| damage.before);
        for (lsn, from, to) in block.records[..whole].iter().filter(|(lsn, ..)| wanted.contains(lsn)) {
            self.records.push_back((Lsn(*lsn), Bytes::copy_from_slice(&block.bytes[*from..*to])));
        }
        self.failed = self.reader.check(block).err();
        let next_lsn = block.place.as_ref().map_or(0, |place| place.next_lsn);
        self.next_lsn = next_lsn.max(self.next_lsn + 1);
        Ok(true)
    }
}

impl<D: Disk> Iterator for Replay<D> {
    type Item = Result<(Lsn, Bytes), LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.records.pop_front() {
                return Some(Ok(record));
            }
            if let Some(error) = self.failed.take() {
                self.next_lsn = u64::MAX;
                return Some(Err(error));
            }
            match self.fill() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => self.failed = Some(error),
            }
        }
    }
}

impl<D: Disk> Log<D> {
    /// Returns a reader of the committed records, for any thread.
    pub fn reader(&self) -> LogReader<D> {
        LogReader::new(self.shared.clone())
    }

    /// Returns all committed records that are still in the log, oldest first; appended records that are not
    /// committed do not appear. After an error it ends.
    ///
    /// # Errors
    /// `Poisoned`.
    pub fn replay(&self) -> Result<impl Iterator<Item = Result<(Lsn, Bytes), LogError>> + use<D>, LogError> {
        self.replay_from(Lsn(1))
    }

    /// Returns the committed records from this number on; see [`Log::replay`].
    ///
    /// # Errors
    /// `Poisoned`.
    pub fn replay_from(
        &self,
        lsn: Lsn,
    ) -> Result<impl Iterator<Item = Result<(Lsn, Bytes), LogError>> + use<D>, LogError> {
        self.check_poison()?;
        self.reader().replay_from(lsn)
    }
}
