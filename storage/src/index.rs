//! Where a file's groups start, for finding a record without reading the file from its front.
//!
//! Sparse: an entry for about each [`STRIDE_BYTES`] of the file. Between two entries all groups are read.

/// Bytes of a file that one entry stands for, or one group if that is larger.
pub(crate) const STRIDE_BYTES: u64 = 64 * 1024;

/// The start of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The group's first record.
    pub(crate) first_lsn: u64,
    /// Where in the file.
    pub(crate) offset: u64,
}

/// Starts of groups, both numbers rising.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupIndex {
    entries: Vec<Entry>,
}

/// A part of a file that is read at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// Where its first group starts.
    pub(crate) from: u64,
    /// Where its last group ends; `None` at the end of the file.
    pub(crate) to: Option<u64>,
    /// The first record behind it; `None` at the end of the file.
    pub(crate) next_lsn: Option<u64>,
}

impl GroupIndex {
    /// Notes the next group of the file, which has records.
    pub(crate) fn note(&mut self, first_lsn: u64, offset: u64) {
        if self.entries.last().is_none_or(|last| offset >= last.offset + STRIDE_BYTES) {
            self.entries.push(Entry { first_lsn, offset });
        }
    }

    pub(crate) fn from_entries(entries: Vec<Entry>) -> Self {
        Self { entries }
    }

    /// Returns whether the entries rise and stay below these numbers.
    pub(crate) fn is_below(&self, lsn: u64, offset: u64) -> bool {
        let is_rising =
            |pair: &[Entry]| pair[0].first_lsn <= pair[1].first_lsn && pair[0].offset < pair[1].offset;
        self.entries.windows(2).all(is_rising)
            && self.entries.last().is_none_or(|last| last.first_lsn < lsn && last.offset < offset)
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns the part of the file in which this record is, if it is in the file; the first one for an earlier
    /// record. `None` if the file has no records.
    pub(crate) fn find(&self, lsn: u64) -> Option<Stretch> {
        let after = self.entries.partition_point(|entry| entry.first_lsn <= lsn).max(1);
        let entry = self.entries.get(after - 1)?;
        let next = self.entries.get(after);
        Some(Stretch {
            from: entry.offset,
            to: next.map(|next| next.offset),
            next_lsn: next.map(|next| next.first_lsn),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_looked_for_between_two_entries() {
        let mut index = GroupIndex::default();
        assert_eq!(index.find(1), None);
        for group in 0..100 {
            index.note(10 + group, 64 + group * STRIDE_BYTES / 4);
        }
        assert_eq!(index.entries().len(), 25);
        let stretch = |from: u64, next: Option<u64>| Stretch {
            from: 64 + from * STRIDE_BYTES,
            to: next.map(|next| 64 + next * STRIDE_BYTES),
            next_lsn: next.map(|next| 10 + next * 4),
        };
        assert_eq!(index.find(3), Some(stretch(0, Some(1))), "before the first");
        assert_eq!(index.find(13), Some(stretch(0, Some(1))));
        assert_eq!(index.find(14), Some(stretch(1, Some(2))));
        assert_eq!(index.find(106), Some(stretch(24, None)));
        assert_eq!(index.find(u64::MAX), Some(stretch(24, None)));
    }
}
