//! What a view of the log is: rows by key that somebody made from its records, and up to which record.
//!
//! It is written behind the log, in whole batches. What the rows mean is not known here, and neither is how they are
//! made. A view may be lost and made again as long as the log has all records; once segments were rewritten only
//! the view has what they left out, so it must never be behind them.

use std::path::PathBuf;

use bytes::Bytes;

use crate::disk::Disk;
use crate::log::{Log, Lsn};

/// A row: its key and its value.
pub type Row = (Bytes, Bytes);

/// Rows by key, written in atomic batches.
pub trait View: Send + 'static {
    /// Returns the record up to which the rows tell the log; 0 for an empty view.
    fn applied(&self) -> Lsn;

    /// Returns a row's value.
    ///
    /// # Errors
    /// The view cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError>;

    /// Returns the rows whose keys start with this, in the order of their keys.
    ///
    /// # Errors
    /// The view cannot be read.
    fn scan(&self, prefix: &[u8]) -> impl Iterator<Item = Result<Row, ViewError>> + Send + use<Self>;

    /// Writes and removes (`None`) rows, all or none of them, and notes up to which record they tell the log now. It is
    /// synced when it returns. `applied` never goes back.
    ///
    /// # Errors
    /// It may be written or not; the view must be opened again.
    fn write(&mut self, rows: Vec<(Bytes, Option<Bytes>)>, applied: Lsn) -> Result<(), ViewError>;
}

/// Why a view cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// It cannot be opened.
    #[error("the view in {} cannot be opened: {why}", .dir.display())]
    Open {
        /// Its directory.
        dir: PathBuf,
        /// What the store below says.
        why: String,
    },
    /// It is of a layout that this version does not know.
    #[error(
        "the view in {} has version {found:?}, this program reads version {supported}: use the program version that \
         wrote it", .dir.display()
    )]
    Version {
        /// Its directory.
        dir: PathBuf,
        /// The version found, as bytes.
        found: Vec<u8>,
        /// The version that this program reads and writes.
        supported: u16,
    },
    /// It cannot be read or written.
    #[error("the view in {} failed: {why}; check the disk, then restart", .dir.display())]
    Failed {
        /// Its directory.
        dir: PathBuf,
        /// What the store below says.
        why: String,
    },
    /// The log has left out records that the view has not taken in.
    #[error(
        "the view knows the log up to record {applied}, but records before {needed} were left out of the log because \
         a view had them: this view is older than the log or was lost. Restore log and view from the same copy"
    )]
    Behind {
        /// What the view knows.
        applied: u64,
        /// What the log relies on.
        needed: u64,
    },
    /// The view tells of records that the log does not have.
    #[error(
        "the view knows the log up to record {applied}, but the log ends at record {last}: the log is older than the \
         view or lost its end. Restore log and view from the same copy"
    )]
    Ahead {
        /// What the view knows.
        applied: u64,
        /// The log's last record.
        last: u64,
    },
}

impl<D: Disk> Log<D> {
    /// Checks that a view which knows the log up to `applied` and the records after that are everything.
    ///
    /// # Errors
    /// `Behind` or `Ahead`.
    pub fn check_view(&self, applied: Lsn) -> Result<(), ViewError> {
        let (first, next) = (self.rewritten_before().0, self.next_lsn().0);
        if applied.0 + 1 < first {
            return Err(ViewError::Behind { applied: applied.0, needed: first });
        }
        if applied.0 >= next {
            return Err(ViewError::Ahead { applied: applied.0, last: next - 1 });
        }
        Ok(())
    }
}
