//! What several test files need.

use storage::{Disk, Log};

/// Number and content.
pub(crate) type Record = (u64, Vec<u8>);

/// All committed records.
pub(crate) fn records<D: Disk>(log: &Log<D>) -> Vec<Record> {
    log.replay().unwrap().map(|record| record.map(|(lsn, bytes)| (lsn.0, bytes.to_vec())).unwrap()).collect()
}
