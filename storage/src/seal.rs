//! Full segments: how the log leaves them, each with its footer, and how the oldest go.

use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::error::LogError;
use crate::file_disk::is_no_space;
use crate::format::{FOOTER_VERSION, Kind, encode_footer};
use crate::index::GroupIndex;
use crate::log::{Log, Lsn};
use crate::segment::{Sealed, Segment};

impl<D: Disk> Log<D> {
    /// Removes the segments whose records are all below `lsn`. The newest records stay, however low. Commits what
    /// was appended. With less space left than a note of it needs, nothing is removed until there is more.
    ///
    /// # Errors
    /// A failure poisons the log.
    pub fn drop_before(&mut self, lsn: Lsn) -> Result<(), LogError> {
        self.check_poison()?;
        let mut removable = self.sealed.iter().take_while(|file| file.next_lsn <= lsn.0).count();
        if removable == self.sealed.len() && self.tail.front().is_none_or(Segment::is_empty) {
            // These are the newest.
            removable = removable.saturating_sub(1);
        }
        if removable == 0 {
            return Ok(());
        }
        let start_lsn = self.sealed[removable - 1].next_lsn;
        // What stays must be durable, so that the numbers go on from it.
        self.sync_current()?;
        if start_lsn > self.start_lsn {
            // First a group that says so is durable: without it, missing files are damage.
            let before = std::mem::replace(&mut self.start_lsn, start_lsn);
            if !self.write_marker()? {
                self.start_lsn = before;
                return Ok(());
            }
        }
        for _ in 0..removable {
            let name = self.sealed.front().expect("counted above").name();
            if let Err(source) = self.disk.remove(&name) {
                return Err(self.poison("remove", &name, source));
            }
            // One after the other, oldest first: the names on disk are without a hole at any time.
            self.sync_dir()?;
            self.sealed.pop_front();
        }
        self.tell_files();
        if self.is_full { self.ensure_spare() } else { Ok(()) }
    }

    /// Leaves the current segment for the next one. The old one is synced first, whatever the durability:
    /// only the newest segment may be torn.
    pub(crate) fn rotate(&mut self) -> Result<(), LogError> {
        self.sync_current()?;
        let mut old = self.tail.pop_front().expect("there is a later segment, so there is this one");
        let index = self.shared.current().map(|current| current.index).unwrap_or_default();
        let next_lsn = self.committed_lsn + 1;
        if old.version >= FOOTER_VERSION {
            self.write_footer(&mut old, next_lsn, &index)?;
        }
        self.sealed.push_back(Arc::new(Sealed {
            kind: Kind::Segment,
            id: old.id,
            first_id: old.id,
            nonce: old.nonce,
            capacity: old.capacity,
            end: old.end,
            first_lsn: first_lsn(&index, next_lsn),
            next_lsn,
            records: next_lsn - first_lsn(&index, next_lsn),
            start_lsn: self.start_lsn,
            index,
        }));
        self.tell_files();
        Ok(())
    }

    /// Ends a full segment with its footer and gives back what it does not use. Without space for it the segment
    /// stays as it is: opening reads all of it then.
    fn write_footer(
        &mut self,
        segment: &mut Segment<D::File>,
        next_lsn: u64,
        index: &GroupIndex,
    ) -> Result<(), LogError> {
        let footer = encode_footer(
            segment.nonce,
            segment.end,
            next_lsn,
            self.start_lsn,
            next_lsn - first_lsn(index, next_lsn),
            index,
        );
        let end = segment.end + footer.len() as u64;
        if end > segment.capacity {
            if !self.is_within_quota(end) {
                return Ok(());
            }
            match segment.file.allocate(end) {
                Ok(()) => {}
                Err(error) if is_no_space(&error) => return Ok(()),
                Err(source) => return Err(self.poison("preallocate", &segment.name(), source)),
            }
        }
        let written = segment.file.write_at(&footer, segment.end).and_then(|()| segment.file.truncate(end));
        written.map_err(|source| self.poison("write", &segment.name(), source))?;
        segment.file.sync().map_err(|source| self.poison("sync", &segment.name(), source))?;
        segment.capacity = end;
        Ok(())
    }
}

fn first_lsn(index: &GroupIndex, next_lsn: u64) -> u64 {
    index.entries().first().map_or(next_lsn, |first| first.first_lsn)
}
