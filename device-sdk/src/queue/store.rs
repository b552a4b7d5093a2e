//! The queue on disk: a log for each class, and the names they share. One owner, no thread, no clock.
//!
//! Each class has a log of its own, so that what is given up is given back by whole segments. All share one quota. An
//! entry's id at the broker (`im-id`) follows from the queue's id, its class and its number in the log: it
//! costs nothing on disk and is the same after a crash. So nothing may leave the device before it is committed: what a
//! crash takes back, number and all, must never have been seen.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use protocol::{EncodeError, Publish, im::IM_ID};
use storage::{Disk, Durability, Log, LogConfig, LogError, Lsn, OpenError};

use super::Class;
use super::names::{Names, NamesError};
use super::place::{Metered, Places};
use super::ranges::Ranges;
use super::record::{self, RECORD_BYTES_MAX, Record, Stored};
use super::window::{ENTRY_OVERHEAD_BYTES, Waiting};
use crate::message::user_property;
use crate::{StartError, Thinning};

/// Directory of the names.
const NAMES_DIR: &str = "names";
const NAMES_SEGMENT_BYTES: u64 = 4096;
/// Segments are a 64th of the quota, within this: small, so that space comes back soon.
const SEGMENT_BYTES_RANGE: (u64, u64) = (4 * 1024, 256 * 1024);
/// Segments of the quota that only urgent entries may use.
const RESERVE_SEGMENTS: u64 = 4;

/// The newest entries that may have been sent ahead of the backlog by an earlier run: as many as are made and
/// acknowledged before the acknowledgement is written, at 100 a second.
const NEWEST_MAX: usize = 512;
const NEWEST_BYTES_MAX: usize = 128 * 1024;

/// What a store may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) bytes_max: u64,
    pub(super) thinning: Option<Thinning>,
}

/// The open store.
#[derive(Debug)]
pub(super) struct Store<P: Places> {
    places: P,
    pub(super) limits: Limits,
    written: Arc<AtomicU64>,
    names: Names<Metered<P::Disk>>,
    /// Most queues have one or two.
    lanes: [Option<Box<Lane<P::Disk>>>; Class::ALL.len()],
    planted_skip_sync: bool,
}

/// One class on disk.
#[derive(Debug)]
pub(super) struct Lane<D: Disk> {
    pub(super) log: Log<Metered<D>>,
    /// Number of the last record.
    pub(super) last: u64,
    /// Something is appended and not committed.
    is_dirty: bool,
    /// How its full segments were thinned, metres, by segment; 0 where it is not known.
    pub(super) thinned_m: BTreeMap<u64, u32>,
    /// The oldest full segment and when all of it has expired, as was found; on the queue's clock.
    pub(super) oldest_expires: Option<(u64, u64)>,
}

/// What a log was found to hold.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) class: Class,
    /// Number of its first record, or of the next one.
    pub(super) first: u64,
    pub(super) done: Ranges,
    /// Not acknowledged.
    pub(super) entries: u64,
    /// Above it are its newest entries.
    pub(super) newest_after: u64,
    /// What the last run sent ahead of the backlog.
    pub(super) ahead: Ranges,
    /// The latest time of the queue's clock that is told in it.
    pub(super) clock_s: u64,
}

/// Why an entry was not appended.
#[derive(Debug)]
pub(super) enum AppendError {
    /// There is no room, by the quota or on the disk.
    Full { needed: u64 },
    /// It is no message.
    Encode(EncodeError),
    /// The disk failed.
    Disk(String),
}

impl From<LogError> for AppendError {
    fn from(error: LogError) -> Self {
        Self::Disk(error.to_string())
    }
}

impl<P: Places> Store<P> {
    /// Opens every log that is there. `new_id` is the queue's id if it has none.
    pub(super) fn open(places: P, limits: Limits, new_id: u64) -> Result<(Self, Vec<Found>), StartError> {
        let written = Arc::new(AtomicU64::new(0));
        // The queue's own directory first: its lock is the queue's.
        let events = open_log(&places, Class::Event.dir(), segment_bytes(limits.bytes_max), &written)?;
        let names = open_log(&places, NAMES_DIR, NAMES_SEGMENT_BYTES, &written)?;
        let unreadable = |dir: &str, what: String| StartError::QueueRecords {
            dir: places.path(dir).display().to_string(),
            what,
        };
        let names = Names::open(names, new_id).map_err(|error| match error {
            NamesError::Log(error) => unreadable(NAMES_DIR, error.to_string()),
            NamesError::Record(what) => unreadable(NAMES_DIR, what),
        })?;
        let mut lanes = [const { None }; Class::ALL.len()];
        lanes[Class::Event.index()] = Some(Box::new(Lane::new(events)));
        let mut found = Vec::new();
        for class in Class::ALL {
            let lane = &mut lanes[class.index()];
            if lane.is_none() && places.exists(class.dir()) {
                let log = open_log(&places, class.dir(), segment_bytes(limits.bytes_max), &written)?;
                *lane = Some(Box::new(Lane::new(log)));
            }
            if let Some(lane) = lane {
                found.push(lane.find(class).map_err(|what| unreadable(class.dir(), what))?);
            }
        }
        let mut store = Self { places, limits, written, names, lanes, planted_skip_sync: false };
        for class in Class::ALL {
            store.share_quota(class, 0);
        }
        Ok((store, found))
    }

    /// Appends an entry and returns its number. It is on disk after [`Self::commit`].
    pub(super) fn append(&mut self, class: Class, publish: &Publish, now_s: u64) -> Result<u64, AppendError> {
        let topic_number = self.names.number(&publish.topic)?;
        let record = record::encode_entry(publish, topic_number, now_s).map_err(AppendError::Encode)?;
        let lane = self.lane_for(class)?;
        match lane.append(&record) {
            Err(LogError::Full { .. }) => Err(AppendError::Full { needed: record.len() as u64 }),
            result => Ok(result?),
        }
    }

    /// Notes that these entries are done with, and returns the record's number; `None` if there is no room for it now. Not
    /// bound by the quota, as it leads to space.
    pub(super) fn append_acks(
        &mut self,
        class: Class,
        now_s: u64,
        done: &Ranges,
    ) -> Result<Option<u64>, LogError> {
        self.append_note(class, &record::encode_acks(now_s, done))
    }

    /// Notes which entries go ahead of the backlog, as [`Self::append_acks`] does.
    pub(super) fn append_ahead(
        &mut self,
        class: Class,
        now_s: u64,
        entries: &Ranges,
    ) -> Result<Option<u64>, LogError> {
        self.append_note(class, &record::encode_ahead(now_s, entries))
    }

    fn append_note(&mut self, class: Class, record: &[u8]) -> Result<Option<u64>, LogError> {
        let segment_bytes = segment_bytes(self.limits.bytes_max);
        self.share_quota(class, 2 * segment_bytes);
        let Some(lane) = self.lane_mut(class) else { return Ok(None) };
        match lane.append(record) {
            Ok(number) => Ok(Some(number)),
            Err(LogError::Full { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts on disk what was appended.
    pub(super) fn commit(&mut self) -> Result<(), LogError> {
        for class in Class::ALL {
            if self.lane(class).is_some_and(|lane| lane.is_dirty) {
                self.share_quota(class, 0);
                let lane = self.lane_mut(class).expect("it is there, as was seen");
                lane.log.commit()?;
                lane.is_dirty = false;
            }
        }
        Ok(())
    }

    /// Gives back the space of what is wholly below `number`.
    pub(super) fn drop_before(&mut self, class: Class, number: u64) -> Result<(), LogError> {
        match self.lane_mut(class) {
            Some(lane) => lane.log.drop_before(Lsn(number)),
            None => Ok(()),
        }
    }

    /// Reads entries with numbers above `after`, oldest first, until they take `bytes_max` in memory; says whether there are no more.
    /// Works on a store whose disk does not take writes any more.
    pub(super) fn load(
        &self,
        class: Class,
        after: u64,
        bytes_max: usize,
    ) -> Result<(Vec<(u64, Waiting)>, bool), String> {
        let (mut entries, mut bytes_read) = (Vec::new(), 0);
        let Some(lane) = self.lane(class) else { return Ok((entries, true)) };
        let mut is_complete = true;
        lane.each_record(after + 1, |number, bytes| {
            if let Record::Entry(stored) = record::decode(bytes)? {
                bytes_read += bytes.len() + ENTRY_OVERHEAD_BYTES;
                entries.push((number, self.waiting(class, number, stored, bytes.len())?));
                is_complete = bytes_read <= bytes_max;
            }
            Ok(is_complete)
        })?;
        Ok((entries, is_complete))
    }

    /// Reads the entries from `first` to `last`.
    pub(super) fn load_range(
        &self,
        class: Class,
        first: u64,
        last: u64,
    ) -> Result<Vec<(u64, Waiting)>, String> {
        let mut entries = Vec::new();
        let Some(lane) = self.lane(class) else { return Ok(entries) };
        lane.each_record(first, |number, bytes| {
            if number <= last
                && let Record::Entry(stored) = record::decode(bytes)?
            {
                entries.push((number, self.waiting(class, number, stored, bytes.len())?));
            }
            Ok(number < last)
        })?;
        Ok(entries)
    }

    /// Makes of an appended entry what goes to the broker.
    pub(super) fn outgoing(&self, class: Class, number: u64, mut publish: Publish) -> Publish {
        publish.properties.message_expiry_interval_s = None;
        if user_property(&publish.properties.user_properties, IM_ID).is_none() {
            // 16 + 1 + at most 16 characters of the 64 that there may be.
            let (queue, letter) = (self.names.id(), &class.name()[..1]);
            let id = format!("{queue:016x}{letter}{number:x}");
            publish.properties.user_properties.push((IM_ID.into(), id.into()));
        }
        publish
    }

    fn waiting(&self, class: Class, number: u64, stored: Stored, bytes: usize) -> Result<Waiting, String> {
        let Stored { mut publish, topic_number, expiry } = stored;
        if topic_number > 0 {
            let topic = self.names.topic(topic_number);
            publish.topic =
                topic.ok_or_else(|| format!("its topic's number {topic_number} has no name"))?.clone();
        }
        let expires_ms = expiry.map(|expiry| expiry.at_ms());
        let publish = self.outgoing(class, number, publish);
        Ok(Waiting { publish, bytes, born_ms: None, expires_ms })
    }

    /// Returns the bytes of all files, preallocated space included.
    pub(super) fn disk_bytes(&self) -> u64 {
        let lanes: u64 = self.lanes.iter().flatten().map(|lane| lane.log.disk_bytes()).sum();
        lanes + self.names.disk_bytes()
    }

    /// Returns the bytes handed to the disk for writing since the store was opened.
    pub(super) fn written_bytes(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Returns the number of the class's last record.
    pub(super) fn last(&self, class: Class) -> u64 {
        self.lane(class).map_or(0, |lane| lane.last)
    }

    /// Puts everything on disk, marks the ends, and unlocks the directories.
    pub(super) fn close(self) -> Result<(), LogError> {
        let mut result = Ok(());
        for lane in self.lanes.into_iter().flatten() {
            result = result.and(lane.log.close());
        }
        result.and(self.names.close())
    }

    /// Test only: shows that the simulation finds a store that does not sync.
    pub(super) fn plant_skip_sync(&mut self) {
        self.planted_skip_sync = true;
        for lane in self.lanes.iter_mut().flatten() {
            lane.log.plant_skip_sync();
        }
    }

    /// Test only: entries have other ids than before.
    pub(super) fn plant_id(&mut self, id: u64) {
        self.names.plant_id(id);
    }

    pub(super) fn lane(&self, class: Class) -> Option<&Lane<P::Disk>> {
        self.lanes[class.index()].as_deref()
    }

    pub(super) fn lane_mut(&mut self, class: Class) -> Option<&mut Lane<P::Disk>> {
        self.lanes[class.index()].as_deref_mut()
    }

    /// Returns the class's log with its share of the quota, made where it is missing.
    fn lane_for(&mut self, class: Class) -> Result<&mut Lane<P::Disk>, AppendError> {
        if self.lane(class).is_none() {
            let segment_bytes = segment_bytes(self.limits.bytes_max);
            let log = open_log(&self.places, class.dir(), segment_bytes, &self.written)
                .map_err(|error| AppendError::Disk(error.to_string()))?;
            let mut lane = Lane::new(log);
            if self.planted_skip_sync {
                lane.log.plant_skip_sync();
            }
            self.lanes[class.index()] = Some(Box::new(lane));
        }
        self.share_quota(class, 0);
        let lane = self.lane_mut(class).expect("it was made where it was missing");
        // What others gave back since may be enough.
        lane.log.retry_space();
        Ok(lane)
    }

    /// Gives a log what the others leave of the quota, and `more`.
    fn share_quota(&mut self, class: Class, more: u64) {
        let total = self.disk_bytes();
        let reserve =
            if class.uses_reserve() { 0 } else { RESERVE_SEGMENTS * segment_bytes(self.limits.bytes_max) };
        let bytes_max = self.limits.bytes_max - reserve + more;
        if let Some(lane) = self.lane_mut(class) {
            let others = total - lane.log.disk_bytes();
            lane.log.set_bytes_max(Some(bytes_max.saturating_sub(others)));
        }
    }
}

impl<D: Disk> Lane<D> {
    fn new(log: Log<Metered<D>>) -> Self {
        let last = log.next_lsn().0 - 1;
        Self { log, last, is_dirty: false, thinned_m: BTreeMap::new(), oldest_expires: None }
    }

    fn append(&mut self, record: &[u8]) -> Result<u64, LogError> {
        let Lsn(number) = self.log.append(record)?;
        self.last = number;
        self.is_dirty = true;
        Ok(number)
    }

    /// Reads the whole log once.
    fn find(&self, class: Class) -> Result<Found, String> {
        let mut found = Found {
            class,
            first: self.last + 1,
            done: Ranges::default(),
            entries: 0,
            newest_after: 0,
            ahead: Ranges::default(),
            clock_s: 0,
        };
        let mut present = Ranges::default();
        let (mut newest, mut newest_bytes) = (VecDeque::new(), 0);
        self.each_record(1, |number, bytes| {
            found.first = found.first.min(number);
            present.insert(number);
            if !record::is_known(bytes) {
                record::decode(bytes)?;
            }
            found.clock_s = found.clock_s.max(record::told_s(bytes));
            if record::is_entry(bytes) {
                newest.push_back((number, bytes.len()));
                newest_bytes += bytes.len();
                while newest.len() > NEWEST_MAX || newest_bytes > NEWEST_BYTES_MAX {
                    let Some((oldest, bytes)) = newest.pop_front() else { break };
                    (found.newest_after, newest_bytes) = (oldest, newest_bytes - bytes);
                }
            } else {
                found.done.insert(number);
                match record::decode(bytes)? {
                    Record::Acks { watermark, done, .. } => {
                        found.done.extend(&done);
                        if watermark > 0 {
                            found.done.insert_range(1, watermark);
                        }
                    }
                    Record::Ahead { entries, .. } => found.ahead = entries,
                    Record::Entry(_) => {}
                }
            }
            Ok(true)
        })?;
        found.entries = present.count_without(&found.done);
        found.done.forget_to(found.first - 1);
        Ok(found)
    }

    /// Calls `take` for each committed record from this number on, oldest first, until it returns false.
    pub(super) fn each_record(
        &self,
        from: u64,
        mut take: impl FnMut(u64, &Bytes) -> Result<bool, String>,
    ) -> Result<(), String> {
        // Through a reader, which goes on reading after the log has stopped writing.
        for record in self.log.reader().replay_from(Lsn(from)).map_err(|error| error.to_string())? {
            let (Lsn(number), bytes) = record.map_err(|error| error.to_string())?;
            if !take(number, &bytes).map_err(|what| format!("record {number}: {what}"))? {
                break;
            }
        }
        Ok(())
    }
}

/// Returns the size of the segments of a queue with this quota.
pub(super) fn segment_bytes(bytes_max: u64) -> u64 {
    (bytes_max / 64).clamp(SEGMENT_BYTES_RANGE.0, SEGMENT_BYTES_RANGE.1)
}

fn open_log<P: Places>(
    places: &P,
    dir: &str,
    segment_bytes: u64,
    written: &Arc<AtomicU64>,
) -> Result<Log<Metered<P::Disk>>, StartError> {
    let unusable = |source: io::Error| {
        StartError::Queue(OpenError::Io { action: "open the directory", file: places.path(dir), source })
    };
    let disk = Metered::new(places.open(dir).map_err(unusable)?, written.clone());
    let config = LogConfig {
        segment_bytes,
        durability: Durability::Power,
        record_bytes_max: RECORD_BYTES_MAX,
        bytes_max: None,
        keeps_reserve: false,
    };
    Log::open_on(disk, config).map_err(StartError::Queue)
}
