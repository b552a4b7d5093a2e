//! The log on real files.

mod support;

use std::fs;
use std::path::Path;

use storage::{Durability, Log, LogConfig, LogError, Lsn, OpenError};
use support::{config, records};
use tempfile::tempdir;

#[test]
fn what_was_committed_is_there_after_reopening() {
    let dir = tempdir().unwrap();
    let mut log = Log::open(dir.path(), config()).unwrap();
    assert_eq!(log.append(b"one").unwrap(), Lsn(1));
    assert_eq!(log.append(b"").unwrap(), Lsn(2));
    assert_eq!(log.commit().unwrap(), Lsn(2));
    assert_eq!(log.append(b"three").unwrap(), Lsn(3));
    assert_eq!(records(&log), [(1, b"one".to_vec()), (2, vec![])], "uncommitted records do not appear");
    log.commit().unwrap();
    drop(log);

    let log = Log::open(dir.path(), config()).unwrap();
    assert_eq!(records(&log), [(1, b"one".to_vec()), (2, vec![]), (3, b"three".to_vec())]);
    assert_eq!(log.next_lsn(), Lsn(4));
    assert_eq!(log.torn_tail(), None);
}
