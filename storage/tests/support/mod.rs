//! What several test files need.

use storage::{Disk, Durability, Log, LogConfig};

/// Small segments, so that a few records fill them.
pub fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 4096,
        durability: Durability::Power,
        record_bytes_max: 64 * 1024,
        bytes_max: None,
    }
}

/// All committed records.
pub fn records<D: Disk>(log: &Log<D>) -> Vec<(u64, Vec<u8>)> {
    log.replay().unwrap().map(|record| record.map(|(lsn, bytes)| (lsn.0, bytes.to_vec())).unwrap()).collect()
}
