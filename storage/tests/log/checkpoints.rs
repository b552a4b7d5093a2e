//! Replacing the log by a checkpoint, on real files: the records, and every state that a crash can leave.

use std::fs;
use std::path::Path;

use crate::support::{Record, records};
use crate::support::{commit_each, config, file_names, open, read_all, write_all};
use bytes::Bytes;
use storage::{Log, Lsn, OpenError};
use tempfile::{TempDir, tempdir};

/// The files before and after a checkpoint, and what the log held.
struct Checkpointed {
    dir: TempDir,
    before: Vec<(String, Vec<u8>)>,
    after: Vec<(String, Vec<u8>)>,
    old: Vec<Record>,
    new: Vec<Record>,
}

fn checkpointed() -> Checkpointed {
    let dir = tempdir().unwrap();
    let mut log = open(&dir);
    commit_each(&mut log, 1..=30, 500);
    let (before, old) = (read_all(dir.path()), records(&log));
    log.append(b"replaced without having been committed").unwrap();
    log.checkpoint((0..5).map(|number: u8| Bytes::from(vec![number; 3000]))).unwrap();
    let new: Vec<Record> = (0..5).map(|number| (32 + u64::from(number), vec![number; 3000])).collect();
    assert_eq!((records(&log), log.next_lsn()), (new.clone(), Lsn(37)));
    drop(log);
    Checkpointed { before, after: read_all(dir.path()), old, new, dir }
}

fn restore(dir: &Path, files: impl Iterator<Item = (String, Vec<u8>)>) {
    for name in file_names(dir) {
        fs::remove_file(dir.join(name)).unwrap();
    }
    write_all(dir, &files.collect::<Vec<_>>());
}

#[test]
fn a_checkpoint_replaces_everything_and_the_log_goes_on_after_it() {
    let state = checkpointed();
    let mut log = open(&state.dir);
    assert_eq!(records(&log), state.new);
    log.append(b"next").unwrap();
    log.commit().unwrap();
    drop(log);
    let mut log = open(&state.dir);
    let mut wanted = state.new;
    wanted.push((37, b"next".to_vec()));
    assert_eq!(records(&log), wanted);
    log.checkpoint(std::iter::empty()).unwrap();
    drop(log);
    let log = open(&state.dir);
    assert_eq!((records(&log), log.next_lsn()), (vec![], Lsn(38)));
    assert_eq!(log.bytes(), 64 + 56 + 64, "an empty checkpoint and an empty segment");
}

#[test]
fn a_checkpoint_that_was_not_renamed_leaves_the_old_records() {
    let state = checkpointed();
    let (name, bytes) = state.after.iter().find(|(name, _)| name.ends_with(".ckpt")).unwrap();
    for length in [0, 10, 64, 3000, bytes.len()] {
        let unfinished = (format!("{name}.tmp"), bytes[..length].to_vec());
        restore(state.dir.path(), state.before.iter().cloned().chain([unfinished]));
        assert_eq!(records(&open(&state.dir)), state.old);
        assert!(!state.dir.path().join(format!("{name}.tmp")).exists());
    }
}

#[test]
fn a_checkpoint_whose_predecessors_were_not_all_removed_counts_alone() {
    let state = checkpointed();
    let after: Vec<_> = state.after.iter().map(|(name, _)| name.clone()).collect();
    let removed: Vec<_> = state.before.iter().filter(|(name, _)| !after.contains(name)).cloned().collect();
    assert!(removed.len() >= 4);
    for left in 0..removed.len() {
        let leftovers = removed.iter().enumerate().filter(|(index, _)| *index >= left || index % 2 == 0);
        restore(state.dir.path(), state.after.iter().cloned().chain(leftovers.map(|(_, file)| file.clone())));
        assert_eq!(records(&open(&state.dir)), state.new);
        assert_eq!(file_names(state.dir.path()), after);
    }
}

#[test]
fn a_damaged_checkpoint_is_refused_and_nothing_is_removed() {
    let state = checkpointed();
    let (name, bytes) = state.after.iter().find(|(name, _)| name.ends_with(".ckpt")).unwrap();
    let flipped = |at: usize| {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        bad
    };
    let no_end = bytes[..bytes.len() - 56].to_vec();
    for bad in [flipped(20), flipped(70), flipped(3000), flipped(bytes.len() - 1), no_end, vec![]] {
        restore(state.dir.path(), state.before.iter().cloned().chain([(name.clone(), bad)]));
        let files = read_all(state.dir.path());
        let error = Log::open(state.dir.path(), config()).unwrap_err();
        assert!(matches!(&error, OpenError::Corrupt { file, .. } if file.ends_with(name)), "{error}");
        let without_lock = |files: Vec<(String, Vec<u8>)>| -> Vec<_> {
            files.into_iter().filter(|(name, _)| name != "LOCK").collect()
        };
        assert_eq!(without_lock(read_all(state.dir.path())), without_lock(files));
    }
}
