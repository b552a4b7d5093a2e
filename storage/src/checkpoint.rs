//! Replacing the whole log by fewer records that mean the same.
//!
//! The checkpoint N.ckpt holds what replaces all segments up to N. It is written under a temporary name,
//! synced, renamed, and the directory is synced before anything older is removed: at any moment the directory
//! holds the old records or the new ones whole, and opening removes the rest.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{Disk, DiskFile};
use crate::error::LogError;
use crate::file_disk::is_no_space;
use crate::format::{END_OF_CHECKPOINT, FILE_HEADER_BYTES, FileHeader, Kind};
use crate::index::GroupIndex;
use crate::log::Log;
use crate::pending::Pending;
use crate::segment::{Sealed, TEMPORARY, name};

/// Records are written in groups of about this size.
const GROUP_BYTES: u64 = 64 * 1024;

/// A checkpoint file that is being written.
struct Writer<F> {
    file: F,
    nonce: u64,
    pending: Pending,
    end: u64,
    first_lsn: u64,
    next_lsn: u64,
    index: GroupIndex,
}

/// Why a checkpoint was not written.
enum Failure {
    TooLarge { bytes: usize },
    Write(io::Error),
    Sync(io::Error),
}

impl<D: Disk> Log<D> {
    /// Replaces everything committed so far by these records, atomically: a crash leaves the old or the new.
    /// What is appended and not committed is committed first, and replaced too. The records get numbers like
    /// appended ones, consecutive from `next_lsn` on. Returns when they are synced, whatever the durability.
    /// Not bound by the quota, as it is what frees space.
    ///
    /// # Errors
    /// `NoSpace` or `TooLarge` leave the log as it was. A failed write or sync poisons it.
    pub fn checkpoint(&mut self, records: impl Iterator<Item = Bytes>) -> Result<(), LogError> {
        self.commit_pending()?;
        self.sync_current()?;
        // Of a kept file and a checkpoint with the same number the kept file counts.
        let follows_kept = self.sealed.back().is_some_and(|newest| newest.kind == Kind::Kept);
        let covers = match self.tail.front() {
            // The first segment is covered even if empty: then a segment 1 always starts with record 1.
            Some(current) if current.is_empty() && current.id > 1 && !follows_kept => current.id - 1,
            Some(current) => current.id,
            None => self.sealed.back().map_or(1, |file| file.id + u64::from(follows_kept)),
        };
        let name = name(Kind::Checkpoint, covers);
        let temporary = format!("{name}{TEMPORARY}");
        let new = match self.write_checkpoint(covers, &temporary, records) {
            Ok(new) => new,
            Err(Failure::TooLarge { bytes }) => {
                self.remove_temporary(&temporary)?;
                return Err(LogError::TooLarge { bytes, bytes_max: self.config.record_bytes_max });
            }
            Err(Failure::Write(source)) if is_no_space(&source) => {
                self.remove_temporary(&temporary)?;
                return Err(LogError::NoSpace { file: self.disk.path(&temporary) });
            }
            Err(Failure::Write(source)) => return Err(self.poison("write", &temporary, source)),
            Err(Failure::Sync(source)) => return Err(self.poison("sync", &temporary, source)),
        };
        if let Err(source) = self.disk.rename(&temporary, &name) {
            return Err(self.poison("rename", &temporary, source));
        }
        self.sync_dir()?;
        (self.start_lsn, self.next_lsn) = (self.next_lsn, new.next_lsn);
        (self.committed_lsn, self.synced_lsn) = (new.next_lsn - 1, new.next_lsn - 1);
        let mut old: Vec<_> =
            self.sealed.drain(..).map(|file| file.name()).filter(|old| *old != name).collect();
        self.sealed.push_back(Arc::new(new));
        if self.tail.front().is_some_and(|current| current.id <= covers) {
            old.extend(self.tail.pop_front().map(|current| current.name()));
        }
        self.tell_files();
        self.shared.tell_committed(self.committed_lsn, self.synced_lsn);
        for file in old {
            if let Err(source) = self.disk.remove(&file) {
                return Err(self.poison("remove", &file, source));
            }
        }
        self.sync_dir()?;
        self.ensure_spare()
    }

    fn write_checkpoint(
        &self,
        id: u64,
        temporary: &str,
        records: impl Iterator<Item = Bytes>,
    ) -> Result<Sealed, Failure> {
        let header = FileHeader::new(Kind::Checkpoint, id, self.disk.nonce());
        let first_lsn = self.next_lsn;
        let file = self.disk.create(temporary).map_err(Failure::Write)?;
        let mut writer = Writer::begin(file, header, first_lsn).map_err(Failure::Write)?;
        for record in records {
            if record.len() > self.config.record_bytes_max {
                return Err(Failure::TooLarge { bytes: record.len() });
            }
            writer.push(&record).map_err(Failure::Write)?;
        }
        writer.finish().map_err(Failure::Write)?;
        writer.file.sync().map_err(Failure::Sync)?;
        let (end, next_lsn, index) = (writer.end, writer.next_lsn, writer.index);
        Ok(Sealed {
            kind: Kind::Checkpoint,
            id,
            first_id: 0,
            nonce: header.nonce,
            capacity: end,
            end,
            first_lsn,
            next_lsn,
            records: next_lsn - first_lsn,
            start_lsn: first_lsn,
            index,
        })
    }
}

impl<F: DiskFile> Writer<F> {
    fn begin(file: F, header: FileHeader, first_lsn: u64) -> io::Result<Self> {
        file.allocate(FILE_HEADER_BYTES as u64)?;
        file.write_at(&header.encode(), 0)?;
        let end = FILE_HEADER_BYTES as u64;
        Ok(Self {
            file,
            nonce: header.nonce,
            pending: Pending::default(),
            end,
            first_lsn,
            next_lsn: first_lsn,
            index: GroupIndex::default(),
        })
    }

    fn push(&mut self, record: &[u8]) -> io::Result<()> {
        if self.pending.last().is_some_and(|group| group.end_with(record.len()) - group.offset > GROUP_BYTES)
        {
            self.write_group(0)?;
        }
        if self.pending.is_empty() {
            self.pending.begin(0, self.nonce, self.end, self.next_lsn);
        }
        self.pending.push(record);
        self.next_lsn += 1;
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        if !self.pending.is_empty() {
            self.write_group(0)?;
        }
        self.pending.begin(0, self.nonce, self.end, self.next_lsn);
        self.write_group(END_OF_CHECKPOINT)
    }

    fn write_group(&mut self, flags: u32) -> io::Result<()> {
        let group = self.pending.last().expect("the caller began one");
        if group.count > 0 {
            self.index.note(group.first_lsn, group.offset);
        }
        let (offset, end, durable_lsn) = (group.offset, group.end(), group.first_lsn - 1);
        // Space first: a file system that finds out at the sync would make a full disk look like a broken
        // one.
        self.file.allocate(end)?;
        self.file.write_at(self.pending.seal(0, durable_lsn, self.first_lsn, flags), offset)?;
        self.end = end;
        self.pending.clear();
        Ok(())
    }
}
