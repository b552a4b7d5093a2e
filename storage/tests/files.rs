//! The log on real files.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytes::Bytes;
use storage::{Durability, Log, LogConfig, LogError, Lsn, OpenError};
use support::{Record, records};
use tempfile::{TempDir, tempdir};

const FIRST: &str = "00000000000000000001.seg";

/// Small segments, so that a few records fill them.
fn config() -> LogConfig {
    LogConfig { segment_bytes: 4096, record_bytes_max: 64 * 1024, ..LogConfig::default() }
}

fn open(dir: &TempDir) -> Log {
    Log::open(dir.path(), config()).unwrap()
}

fn commit_each(log: &mut Log, numbers: impl Iterator<Item = u64>, length: usize) {
    for number in numbers {
        assert_eq!(log.append(&content(number, length)).unwrap(), Lsn(number));
        log.commit().unwrap();
    }
}

fn content(number: u64, length: usize) -> Vec<u8> {
    vec![number as u8; length]
}

fn expected(numbers: impl Iterator<Item = u64>, length: usize) -> Vec<Record> {
    numbers.map(|number| (number, content(number, length))).collect()
}

fn file_names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn read_all(dir: &Path) -> Vec<(String, Vec<u8>)> {
    file_names(dir).into_iter().map(|name| (name.clone(), fs::read(dir.join(name)).unwrap())).collect()
}

fn write_all(dir: &Path, files: &[(String, Vec<u8>)]) {
    for (name, bytes) in files {
        fs::write(dir.join(name), bytes).unwrap();
    }
}

/// Where the bytes that are not zero end.
fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

#[test]
fn what_was_committed_is_there_after_reopening() {
    let dir = tempdir().unwrap();
    let mut log = open(&dir);
    assert_eq!(log.append(b"one").unwrap(), Lsn(1));
    assert_eq!(log.append(b"").unwrap(), Lsn(2));
    assert_eq!(log.commit().unwrap(), Lsn(2));
    assert_eq!(log.append(b"three").unwrap(), Lsn(3));
    assert_eq!(records(&log), [(1, b"one".to_vec()), (2, vec![])], "uncommitted records do not appear");
    log.commit().unwrap();
    drop(log);

    let log = open(&dir);
    assert_eq!(records(&log), [(1, b"one".to_vec()), (2, vec![]), (3, b"three".to_vec())]);
    assert_eq!(log.next_lsn(), Lsn(4));
    assert_eq!(log.torn_tail(), None);
}

#[test]
fn a_directory_and_its_parents_are_made() {
    let dir = tempdir().unwrap();
    let deep = dir.path().join("a/b");
    drop(Log::open(&deep, config()).unwrap());
    assert_eq!(file_names(&deep), [FIRST, "00000000000000000002.seg", "LOCK"]);
}

#[test]
fn a_directory_in_use_is_refused_with_the_pid_of_its_owner() {
    let dir = tempdir().unwrap();
    let log = open(&dir);
    let error = Log::open(dir.path(), config()).unwrap_err();
    assert!(
        matches!(&error, OpenError::Locked { pid: Some(pid), .. } if *pid == std::process::id()),
        "{error}"
    );
    let message = format!("{} is in use by process {}", dir.path().display(), std::process::id());
    assert!(error.to_string().starts_with(&message), "{error}");
    drop(log);
    open(&dir);
}

#[test]
fn settings_out_of_range_are_refused_with_their_range() {
    let dir = tempdir().unwrap();
    let cases = [
        (
            LogConfig { segment_bytes: 10, ..config() },
            "segment_bytes = 10 is out of range, allowed are 4096 to 1073741824",
        ),
        (
            LogConfig { record_bytes_max: 2 << 30, ..config() },
            "record_bytes_max = 2147483648 is out of range, allowed are 1 to 1073741824",
        ),
    ];
    for (config, message) in cases {
        assert_eq!(Log::open(dir.path(), config).unwrap_err().to_string(), message);
    }
}

#[test]
fn a_directory_that_cannot_be_one_is_refused_with_its_path() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "no directory").unwrap();
    let error = Log::open(&path, config()).unwrap_err().to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
}

#[test]
fn records_larger_than_a_segment_are_kept_and_larger_than_the_limit_refused() {
    let dir = tempdir().unwrap();
    let mut log = open(&dir);
    let large = content(1, 64 * 1024);
    log.append(&large).unwrap();
    log.append(b"small").unwrap();
    let error = log.append(&content(3, 64 * 1024 + 1)).unwrap_err();
    assert_eq!(error.to_string(), "a record of 65537 bytes is above the limit of 65536 bytes");
    log.append(&large).unwrap();
    log.commit().unwrap();
    let wanted = [(1, large.clone()), (2, b"small".to_vec()), (3, large)];
    assert_eq!(records(&log), wanted);
    drop(log);
    assert_eq!(records(&open(&dir)), wanted);
}

#[test]
fn reading_from_a_number_on_leaves_out_the_ones_before() {
    let dir = tempdir().unwrap();
    let mut log = open(&dir);
    commit_each(&mut log, 1..=50, 500);
    for from in [1, 2, 7, 8, 9, 49, 50, 51, 1000] {
        let found: Vec<_> = log.replay_from(Lsn(from)).unwrap().map(|record| record.unwrap().0.0).collect();
        assert_eq!(found, (from..=50).collect::<Vec<_>>());
    }
}

#[test]
fn any_flipped_bit_below_the_last_group_is_refused_with_its_file_and_place() {
    let dir = tempdir().unwrap();
    let mut log = open(&dir);
    commit_each(&mut log, 1..=12, 500);
    drop(log);
    let good = read_all(dir.path());
    let last_group_at = 64 + 4 * 560;
    for (name, bytes) in good.iter().filter(|(name, _)| name != "LOCK") {
        let is_current = name.starts_with("00000000000000000002");
        for at in (0..used(bytes)).step_by(7) {
            if is_current && at >= last_group_at {
                break;
            }
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            fs::write(dir.path().join(name), &bad).unwrap();
            let padding = at >= 64 && (at - 64) % 560 >= 556;
            match Log::open(dir.path(), config()) {
                Err(OpenError::Corrupt { file, offset, .. }) => {
                    assert_eq!(file, dir.path().join(name));
                    let group = if at < 64 { 0 } else { at - (at - 64) % 560 };
                    assert!((group..=at).contains(&(offset as usize)), "{name}: flipped {at}, told {offset}");
                }
                Ok(log) if padding => assert_eq!(records(&log), expected(1..=12, 500)),
                other => panic!("{name}, byte {at}: {other:?}"),
            }
            if !padding {
                assert_eq!(fs::read(dir.path().join(name)).unwrap(), bad, "a refused log was changed");
            }
            write_all(dir.path(), &good);
        }
    }
}

#[test]
fn after_a_clean_close_damage_to_the_last_record_is_refused_too() {
    let dir = tempdir().unwrap();
    let mut log = open(&dir);
    commit_each(&mut log, 1..=3, 500);
    log.close().unwrap();
    let path = dir.path().join(FIRST);
    let good = fs::read(&path).unwrap();
    let last_group_at = 64 + 2 * 560;
    for at in (last_group_at..last_group_at + 556).step_by(13) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, bad).unwrap();
        let error = Log::open(dir.path(), config()).unwrap_err();
        assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
    }
    fs::write(&path, good).unwrap();
    let mut log = open(&dir);
    commit_each(&mut log, 4..=5, 500);
    drop(log);
    assert_eq!(records(&open(&dir)), expected(1..=5, 500));
}

#[test]
fn a_file_cut_inside_the_last_group_loses_that_group_only_and_says_so() {
    let dir = tempdir().unwrap();
    let mut log = open(&dir);
    commit_each(&mut log, 1..=3, 500);
    drop(log);
    let path = dir.path().join(FIRST);
    let good = fs::read(&path).unwrap();
    let last_group_at = 64 + 2 * 560;
    for cut_at in (last_group_at + 1..last_group_at + 555).step_by(19) {
        fs::write(&path, &good[..cut_at]).unwrap();
        let mut log = open(&dir);
        assert_eq!(records(&log), expected(1..=2, 500));
        let torn = log.torn_tail().unwrap();
        assert_eq!((&torn.file, torn.offset), (&path, last_group_at as u64));
        assert_eq!(torn.bytes as usize, used(&good[..cut_at]) - last_group_at);
        commit_each(&mut log, 3..=4, 100);
        drop(log);
        let log = open(&dir);
        assert_eq!(log.torn_tail(), None, "what was cut is gone for good");
        assert_eq!(log.next_lsn(), Lsn(5));
        drop(log);
    }
}

#[test]
fn good_groups_behind_a_bad_one_are_damage_if_synced_and_a_torn_tail_if_not() {
    for durability in [Durability::Power, Durability::Process] {
        let dir = tempdir().unwrap();
        let config = LogConfig { durability, ..config() };
        let mut log = Log::open(dir.path(), config.clone()).unwrap();
        commit_each(&mut log, 1..=4, 500);
        drop(log);
        let path = dir.path().join(FIRST);
        let mut bytes = fs::read(&path).unwrap();
        bytes[64 + 560 + 60] ^= 1;
        fs::write(&path, bytes).unwrap();
        match (durability, Log::open(dir.path(), config)) {
            (Durability::Power, Err(OpenError::Corrupt { .. })) => {}
            (Durability::Process, Ok(log)) => assert_eq!(records(&log), expected(1..=1, 500)),
            (durability, other) => panic!("{durability:?}: {other:?}"),
        }
    }
}

#[test]
fn a_missing_segment_is_refused_with_its_name() {
    let dir = tempdir().unwrap();
    let mut log = open(&dir);
    commit_each(&mut log, 1..=30, 500);
    drop(log);
    let missing = dir.path().join("00000000000000000002.seg");
    fs::remove_file(&missing).unwrap();
    match Log::open(dir.path(), config()).unwrap_err() {
        OpenError::Corrupt { file, offset: 0, what } => {
            assert_eq!((file, what.as_str()), (missing, "the file is missing, later ones exist"));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn another_format_version_is_refused_with_both_versions() {
    let dir = tempdir().unwrap();
    drop(open(&dir));
    let path = dir.path().join(FIRST);
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 2;
    let crc = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let error = Log::open(dir.path(), config()).unwrap_err();
    assert!(matches!(error, OpenError::Version { found: 2, supported: 1, .. }), "{error}");
    let message = format!("{} has format version 2, this program reads version 1", path.display());
    assert!(error.to_string().starts_with(&message), "{error}");
}

#[test]
fn files_of_others_and_unfinished_ones_do_not_matter() {
    let dir = tempdir().unwrap();
    let mut log = open(&dir);
    commit_each(&mut log, 1..=3, 10);
    drop(log);
    let foreign = ["notes.txt", "1.seg", "7.ckpt.tmp"];
    let unfinished = ["00000000000000000009.seg.tmp", "00000000000000000001.ckpt.tmp"];
    for name in foreign.iter().chain(&unfinished) {
        fs::write(dir.path().join(name), "x").unwrap();
    }
    assert_eq!(records(&open(&dir)), expected(1..=3, 10));
    let names = file_names(dir.path());
    assert!(foreign.iter().all(|name| names.contains(&(*name).to_owned())), "{names:?}");
    assert!(unfinished.iter().all(|name| !names.contains(&(*name).to_owned())), "{names:?}");
}

#[test]
fn dropping_gives_whole_segments_back_and_numbers_go_on() {
    let dir = tempdir().unwrap();
    let mut log = open(&dir);
    commit_each(&mut log, 1..=100, 500);
    let (bytes, disk_bytes) = (log.bytes(), log.disk_bytes());
    log.drop_before(Lsn(50)).unwrap();
    assert!(log.bytes() < bytes * 6 / 10 && log.disk_bytes() < disk_bytes * 6 / 10);
    let left = records(&log);
    assert!(left[0].0 <= 50 && left[0].0 > 40, "{}", left[0].0);
    log.drop_before(Lsn(1_000_000)).unwrap();
    let left = records(&log);
    assert!(!left.is_empty() && left.len() < 8, "the newest stay: {}", left.len());
    assert_eq!(log.disk_bytes(), 2 * 4096);
    drop(log);
    let on_disk: u64 =
        read_all(dir.path()).iter().filter(|(name, _)| name != "LOCK").map(|(_, b)| b.len() as u64).sum();
    assert_eq!(on_disk, 2 * 4096);
    let log = open(&dir);
    assert_eq!((records(&log), log.next_lsn()), (left, Lsn(101)));
}

#[test]
fn an_oldest_segment_without_its_records_is_refused_after_dropping() {
    let dir = tempdir().unwrap();
    let mut log = open(&dir);
    commit_each(&mut log, 1..=10, 500);
    log.drop_before(Lsn(8)).unwrap();
    drop(log);
    let path = dir.path().join("00000000000000000002.seg");
    let mut bytes = fs::read(&path).unwrap();
    bytes[64..].fill(0);
    fs::write(&path, bytes).unwrap();
    let error = Log::open(dir.path(), config()).unwrap_err();
    assert!(matches!(&error, OpenError::Corrupt { file, offset: 64, .. } if *file == path), "{error}");
}

#[test]
fn a_quota_makes_the_log_full_with_a_reserve_and_dropping_ends_that() {
    let dir = tempdir().unwrap();
    let mut log = Log::open(dir.path(), LogConfig { bytes_max: Some(3 * 4096), ..config() }).unwrap();
    assert!(!log.is_full());
    let mut number = 0;
    while !log.is_full() {
        number += 1;
        commit_each(&mut log, number..=number, 500);
    }
    let reserve_from = number;
    let refused = loop {
        match log.append(&content(number + 1, 500)) {
            Ok(_) => number += 1,
            Err(error) => break error,
        }
    };
    assert!(number - reserve_from >= 6, "a segment of 7 records is the reserve, {}", number - reserve_from);
    assert!(
        matches!(refused, LogError::Full { record_bytes: 500, left_bytes } if left_bytes < 560),
        "{refused}"
    );
    log.append(b"tiny").unwrap();
    log.commit().unwrap();
    assert!(log.retry_space() && log.disk_bytes() <= 3 * 4096);
    assert_eq!(records(&log).len() as u64, number + 1);
    log.drop_before(log.next_lsn()).unwrap();
    assert!(!log.is_full());
    log.append(&content(0, 500)).unwrap();
}

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
    assert_eq!(log.bytes(), 64 + 48 + 64, "an empty checkpoint and an empty segment");
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
    let no_end = bytes[..bytes.len() - 48].to_vec();
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

#[test]
fn damage_that_happens_while_the_log_is_open_is_told_by_the_replay() {
    let dir = tempdir().unwrap();
    let mut log = open(&dir);
    commit_each(&mut log, 1..=3, 500);
    let path = dir.path().join(FIRST);
    let mut bytes = fs::read(&path).unwrap();
    bytes[64 + 560 + 100] ^= 1;
    fs::write(&path, bytes).unwrap();
    let mut replay = log.replay().unwrap();
    assert!(replay.next().unwrap().is_ok());
    match replay.next().unwrap().unwrap_err() {
        LogError::Corrupt { file, offset, .. } => assert_eq!((file, offset), (path, 64 + 560 + 48)),
        other => panic!("{other}"),
    }
    assert!(replay.next().is_none());
}

const CHILD_DIR: &str = "STORAGE_TEST_CHILD_DIR";

/// Not a test of its own: the process that the next one kills.
#[test]
fn child_that_commits_until_it_is_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let config = LogConfig { durability: Durability::Process, ..config() };
    let mut log = Log::open(&PathBuf::from(dir), config).unwrap();
    let mut out = std::io::stdout().lock();
    loop {
        for _ in 0..3 {
            let number = log.next_lsn().0;
            log.append(&content(number, 300)).unwrap();
        }
        writeln!(out, "committed {}", log.commit().unwrap().0).unwrap();
    }
}

#[test]
fn a_killed_process_loses_nothing_that_it_committed() {
    let dir = tempdir().unwrap();
    let mut committed = 0;
    for round in 1..=5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_commits_until_it_is_killed", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut see = |line: String| {
            if let Some(number) = line.split("committed ").nth(1) {
                committed = number.parse().unwrap();
            }
        };
        for line in lines.by_ref().take(20 * round) {
            see(line.unwrap());
        }
        child.kill().unwrap();
        // What it said before it died counts too; the last line may be cut.
        let rest: Vec<_> = lines.map_while(Result::ok).collect();
        rest.into_iter().rev().skip(1).take(1).for_each(&mut see);
        child.wait().unwrap();
        let found = records(&open(&dir));
        assert!(
            found.len() as u64 >= committed && committed > 0,
            "{committed} committed, {} found",
            found.len()
        );
        assert_eq!(found, expected(1..=found.len() as u64, 300));
    }
}
