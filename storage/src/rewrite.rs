//! Giving back the space of records that nobody needs, out of the middle of the log.
//!
//! Full segments are read and what is to be kept is written to one new file, aside, by any thread
//! ([`LogReader::rewrite`]); the owner of the log puts it in their place ([`Log::swap`]). Numbers do not change, and
//! neither does the range of numbers that the log covers. At any moment the directory holds the old segments or
//! the new file whole: it gets its name when it is synced, and only then they are removed.

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::error::LogError;
use crate::file_disk::is_no_space;
use crate::format::{
    ALIGN_BYTES, FILE_HEADER_BYTES, FileHeader, GROUP_HEADER_BYTES, GroupHeader, Kind, Replaces, SPARSE,
    encode_footer, encode_sparse_record, sparse_record_bytes,
};
use crate::index::GroupIndex;
use crate::log::{Log, Lsn};
use crate::reader::LogReader;
use crate::segment::{Sealed, TEMPORARY, name};

/// Records are written in groups of about this size.
const GROUP_BYTES: u64 = 64 * 1024;

/// A file of the log that is only read any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number; they rise from old to new, and a file that replaced several has the last of theirs.
    pub id: u64,
    /// The first record number that belongs to it, whether the record is still there or not.
    pub first: Lsn,
    /// The number after its last one.
    pub next: Lsn,
    /// Its size on disk.
    pub bytes: u64,
    /// How many records are in it.
    pub records: u64,
    /// Some records may have been left out of it.
    pub is_rewritten: bool,
}

/// A file that can take the place of segments. Does nothing until it is swapped in; if it never is, the log
/// removes it when it is opened the next time.
#[derive(Debug)]
pub struct Rewritten {
    temporary: String,
    sealed: Sealed,
    /// Nonces of the files that it replaces.
    sources: Vec<u64>,
    source_bytes: u64,
}

/// A file that is being written.
struct Writer<F> {
    file: F,
    nonce: u64,
    group: Vec<u8>,
    group_lsn: u64,
    count: u32,
    end: u64,
    index: GroupIndex,
    records: u64,
}

impl Rewritten {
    /// Returns how many records it keeps.
    pub fn records(&self) -> u64 {
        self.sealed.records
    }

    /// Returns its size.
    pub fn bytes(&self) -> u64 {
        self.sealed.capacity
    }

    /// Returns the size of the files that it replaces.
    pub fn source_bytes(&self) -> u64 {
        self.source_bytes
    }
}

impl<D: Disk> LogReader<D> {
    /// Returns the files that are only read any more, oldest first. Between them no number is missing.
    pub fn sealed(&self) -> Vec<SegmentInfo> {
        let info = |file: &Arc<Sealed>| SegmentInfo {
            id: file.id,
            first: Lsn(file.first_lsn),
            next: Lsn(file.next_lsn),
            bytes: file.capacity,
            records: file.records,
            is_rewritten: file.kind == Kind::Kept,
        };
        self.shared.sealed().iter().map(info).collect()
    }

    /// Writes a file with those records of neighbouring segments that are to be kept, aside from the log, which goes
    /// on meanwhile; [`Log::swap`] puts it in their place. `ids` are those of the first and the last one. Not
    /// bound by the quota, as it is what frees space. One at a time: a second one may overwrite the first.
    ///
    /// # Errors
    /// There are no such segments (`Gone`), no space, or a file cannot be read or written; the log is as before.
    pub fn rewrite(
        &self,
        ids: RangeInclusive<u64>,
        mut keep: impl FnMut(Lsn, &[u8]) -> bool,
    ) -> Result<Rewritten, LogError> {
        let all = self.shared.sealed();
        let sources: Vec<_> = all.iter().filter(|file| ids.contains(&file.id)).collect();
        let gone = || LogError::Gone { first_id: *ids.start(), last_id: *ids.end() };
        let (first, last) = sources.first().zip(sources.last()).ok_or_else(gone)?;
        let disk = self.shared.disk();
        let replaces =
            Replaces { first_id: first.first_id, first_lsn: first.first_lsn, next_lsn: last.next_lsn };
        let header = FileHeader { replaces, ..FileHeader::new(Kind::Kept, last.id, disk.nonce()) };
        let temporary = format!("{}{TEMPORARY}", name(Kind::Kept, last.id));
        let failed = |source: io::Error| {
            // It is not named, so it does no harm; opening removes it.
            let _ = disk.remove(&temporary);
            let file = disk.path(&temporary);
            if is_no_space(&source) {
                LogError::NoSpace { file }
            } else {
                LogError::Io { action: "write", file, source }
            }
        };
        let file = disk.create(&temporary).map_err(failed)?;
        let mut writer = Writer::begin(file, &header).map_err(failed)?;
        for record in self.replay_from(Lsn(first.first_lsn))? {
            let (lsn, bytes) = record.inspect_err(|_| drop(disk.remove(&temporary)))?;
            if lsn.0 >= last.next_lsn {
                break;
            }
            if keep(lsn, &bytes) {
                writer.push(lsn.0, &bytes).map_err(failed)?;
            }
        }
        let records = writer.records;
        let start_lsn = sources.iter().map(|file| file.start_lsn).max().unwrap_or(0);
        let (end, capacity, index) = writer.finish(replaces.next_lsn, start_lsn).map_err(failed)?;
        Ok(Rewritten {
            temporary: temporary.clone(),
            source_bytes: sources.iter().map(|file| file.capacity).sum(),
            sources: sources.iter().map(|file| file.nonce).collect(),
            sealed: Sealed {
                kind: Kind::Kept,
                id: header.id,
                first_id: replaces.first_id,
                nonce: header.nonce,
                capacity,
                end,
                first_lsn: replaces.first_lsn,
                next_lsn: replaces.next_lsn,
                records,
                start_lsn,
                index,
            },
        })
    }
}

impl<D: Disk> Log<D> {
    /// Returns the files that are only read any more; see [`LogReader::sealed`].
    pub fn sealed(&self) -> Vec<SegmentInfo> {
        self.reader().sealed()
    }

    /// Returns the number before which records may have been left out by rewriting: 1 if there is none.
    pub fn rewritten_before(&self) -> Lsn {
        let rewritten = self.sealed.iter().rev().find(|file| file.kind == Kind::Kept);
        Lsn(rewritten.map_or(1, |file| file.next_lsn))
    }

    /// Puts a rewritten file in the place of the segments that it was made from and removes them. Returns `false`, and
    /// removes the file, if they are not in the log any more.
    ///
    /// # Errors
    /// A failure poisons the log.
    pub fn swap(&mut self, rewritten: Rewritten) -> Result<bool, LogError> {
        self.check_poison()?;
        let Rewritten { temporary, sealed, sources, .. } = rewritten;
        let is_first = |file: &Arc<Sealed>| Some(&file.nonce) == sources.first();
        let first = self.sealed.iter().position(is_first).unwrap_or(self.sealed.len());
        let replaced = self.sealed.iter().skip(first).map(|file| file.nonce);
        if !replaced.take(sources.len()).eq(sources.iter().copied()) {
            self.remove_temporary(&temporary)?;
            return Ok(false);
        }
        let name = sealed.name();
        if let Err(source) = self.disk.rename(&temporary, &name) {
            return Err(self.poison("rename", &temporary, source));
        }
        self.sync_dir()?;
        let newer = self.sealed.split_off(first + sources.len());
        let old = self.sealed.split_off(first);
        self.sealed.push_back(Arc::new(sealed));
        self.sealed.extend(newer);
        self.tell_files();
        for file in old.iter().map(|file| file.name()).filter(|old| *old != name) {
            if let Err(source) = self.disk.remove(&file) {
                return Err(self.poison("remove", &file, source));
            }
        }
        self.sync_dir()?;
        if self.is_full {
            self.ensure_spare()?;
        }
        Ok(true)
    }
}

impl<F: DiskFile> Writer<F> {
    fn begin(file: F, header: &FileHeader) -> io::Result<Self> {
        let end = FILE_HEADER_BYTES as u64;
        file.allocate(end)?;
        file.write_at(&header.encode(), 0)?;
        Ok(Self {
            file,
            nonce: header.nonce,
            group: Vec::new(),
            group_lsn: 0,
            count: 0,
            end,
            index: GroupIndex::default(),
            records: 0,
        })
    }

    fn push(&mut self, lsn: u64, record: &[u8]) -> io::Result<()> {
        let bytes = self.group.len() as u64 + sparse_record_bytes(record.len());
        if self.count > 0 && (bytes > GROUP_BYTES || lsn - self.group_lsn > u64::from(u32::MAX)) {
            self.write_group()?;
        }
        if self.count == 0 {
            self.group.resize(GROUP_HEADER_BYTES, 0);
            self.group_lsn = lsn;
        }
        encode_sparse_record(&mut self.group, self.nonce, self.group_lsn, lsn, record);
        self.count += 1;
        self.records += 1;
        Ok(())
    }

    fn write_group(&mut self) -> io::Result<()> {
        let body_bytes = self.group.len() - GROUP_HEADER_BYTES;
        let header = GroupHeader {
            offset: self.end,
            first_lsn: self.group_lsn,
            durable_lsn: self.group_lsn - 1,
            start_lsn: 0,
            body_bytes: u32::try_from(body_bytes).expect("records are limited to 1 GiB"),
            count: self.count,
            flags: SPARSE,
        };
        self.group[..GROUP_HEADER_BYTES].copy_from_slice(&header.encode(self.nonce));
        self.group.resize(self.group.len().next_multiple_of(ALIGN_BYTES as usize), 0);
        self.index.note(self.group_lsn, self.end);
        let group = std::mem::take(&mut self.group);
        self.write(&group)?;
        self.group = group;
        self.group.clear();
        self.count = 0;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.end + bytes.len() as u64;
        // Space first: a file system that finds out at the sync would make a full disk look like a broken one.
        self.file.allocate(end)?;
        self.file.write_at(bytes, self.end)?;
        self.end = end;
        Ok(())
    }

    /// Ends and syncs the file; returns where its groups end, its size and its index.
    fn finish(mut self, next_lsn: u64, start_lsn: u64) -> io::Result<(u64, u64, GroupIndex)> {
        if self.count > 0 {
            self.write_group()?;
        }
        let groups_end = self.end;
        let footer = encode_footer(self.nonce, groups_end, next_lsn, start_lsn, self.records, &self.index);
        self.write(&footer)?;
        self.file.sync()?;
        Ok((groups_end, self.end, self.index))
    }
}
