//! The files of a log as the open log knows them: their names, and what is in them.

use crate::format::{FILE_HEADER_BYTES, Kind};
use crate::index::GroupIndex;

/// Suffix of a file that is being made; such files are removed when a log is opened.
pub(crate) const TEMPORARY: &str = ".tmp";

/// A segment that is written to, or preallocated for it.
#[derive(Debug)]
pub(crate) struct Segment<F> {
    pub(crate) id: u64,
    pub(crate) nonce: u64,
    /// Of its format.
    pub(crate) version: u16,
    pub(crate) file: F,
    /// Length of the file, preallocated.
    pub(crate) capacity: u64,
    /// Where the next group goes.
    pub(crate) end: u64,
}

/// A file that is only read any more.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    pub(crate) kind: Kind,
    pub(crate) id: u64,
    /// The oldest segment that it replaces; its own id for a segment, 0 for a checkpoint.
    pub(crate) first_id: u64,
    pub(crate) nonce: u64,
    pub(crate) capacity: u64,
    /// Where its groups end.
    pub(crate) end: u64,
    /// Number of its first record, or of the first that could be there.
    pub(crate) first_lsn: u64,
    /// Number after its last record.
    pub(crate) next_lsn: u64,
    /// How many records are in it.
    pub(crate) records: u64,
    /// The highest start that its groups name.
    pub(crate) start_lsn: u64,
    pub(crate) index: GroupIndex,
}

impl<F> Segment<F> {
    pub(crate) fn name(&self) -> String {
        name(Kind::Segment, self.id)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.end == FILE_HEADER_BYTES as u64
    }
}

impl Sealed {
    pub(crate) fn name(&self) -> String {
        name(self.kind, self.id)
    }
}

/// Returns the file's name: 20 digits, so that names sort as numbers do.
pub(crate) fn name(kind: Kind, id: u64) -> String {
    let suffix = match kind {
        Kind::Segment => "seg",
        Kind::Checkpoint => "ckpt",
        Kind::Kept => "kept",
    };
    format!("{id:020}.{suffix}")
}

/// Reads a name back; `None` for files that are not the log's.
pub(crate) fn parse_name(file: &str) -> Option<(Kind, u64)> {
    let (digits, suffix) = file.split_once('.')?;
    let kind = match suffix {
        "seg" => Kind::Segment,
        "ckpt" => Kind::Checkpoint,
        "kept" => Kind::Kept,
        _ => return None,
    };
    let id = digits.parse().ok()?;
    (name(kind, id) == file).then_some((kind, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_foreign_names_are_not() {
        for (kind, id) in [(Kind::Segment, 1), (Kind::Checkpoint, u64::MAX), (Kind::Kept, 3)] {
            assert_eq!(parse_name(&name(kind, id)), Some((kind, id)));
        }
        for foreign in
            ["LOCK", "1.seg", "00000000000000000001.seg.tmp", "0000000000000000000a.seg", ".seg", ""]
        {
            assert_eq!(parse_name(foreign), None, "{foreign}");
        }
    }
}
