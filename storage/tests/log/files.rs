//! The log on real files.

use std::fs;

use crate::support::{
    commit_each, config, content, expected, file_names, open, read_all, records, used, write_all,
};
use bytes::Bytes;
use storage::{Durability, Log, LogConfig, LogError, Lsn, OpenError};
use tempfile::tempdir;

const FIRST: &str = "00000000000000000001.seg";
/// A group of one record of 500 bytes: header, record header, record, 4 bytes of padding.
const GROUP: usize = 56 + 8 + 500 + 4;

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
    let last_group_at = 64 + 4 * GROUP;
    for (name, bytes) in good.iter().filter(|(name, _)| name != "LOCK") {
        let is_current = name.starts_with("00000000000000000002");
        for at in (0..used(bytes)).step_by(7) {
            if is_current && at >= last_group_at {
                break;
            }
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            fs::write(dir.path().join(name), &bad).unwrap();
            let padding = at >= 64 && (at - 64) % GROUP >= GROUP - 4;
            match Log::open(dir.path(), config()) {
                Err(OpenError::Corrupt { file, offset, .. }) => {
                    assert_eq!(file, dir.path().join(name));
                    let group = if at < 64 { 0 } else { at - (at - 64) % GROUP };
                    assert!((group..=at).contains(&(offset as usize)), "{name}: flipped {at}, told {offset}");
                }
                Ok(log) if padding => assert_eq!(records(&log), expected(1..=12, 500)),
                // A full segment is opened by its footer; its records are checked when they are read.
                Ok(log) if !is_current => {
                    assert!((64..64 + 7 * GROUP).contains(&at), "{name}: {at}");
                    let error =
                        log.replay().unwrap().find_map(Result::err).expect("it is found when it is read");
                    let LogError::Corrupt { file, offset, .. } = error else {
                        panic!("{name}, byte {at}: {error}")
                    };
                    assert_eq!(file, dir.path().join(name));
                    assert!(
                        (at - (at - 64) % GROUP..=at).contains(&(offset as usize)),
                        "{name}: {at}, told {offset}"
                    );
                }
                other => panic!("{name}, byte {at}: {other:?}"),
            }
            if !padding {
                assert_eq!(fs::read(dir.path().join(name)).unwrap(), bad, "damage was changed");
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
    let last_group_at = 64 + 2 * GROUP;
    for at in (last_group_at..last_group_at + GROUP - 4).step_by(13) {
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
    let last_group_at = 64 + 2 * GROUP;
    for cut_at in (last_group_at + 1..last_group_at + GROUP - 5).step_by(19) {
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
        bytes[64 + GROUP + 70] ^= 1;
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
fn a_missing_oldest_file_is_refused_be_it_a_segment_or_a_checkpoint() {
    for is_checkpoint in [false, true] {
        let dir = tempdir().unwrap();
        let mut log = open(&dir);
        commit_each(&mut log, 1..=30, 500);
        if is_checkpoint {
            log.checkpoint([Bytes::from_static(b"state")].into_iter()).unwrap();
            log.append(b"after").unwrap();
            log.commit().unwrap();
        } else {
            log.drop_before(Lsn(12)).unwrap();
        }
        drop(log);
        fs::remove_file(dir.path().join(&file_names(dir.path())[0])).unwrap();
        let oldest = dir.path().join(&file_names(dir.path())[0]);
        match Log::open(dir.path(), config()).unwrap_err() {
            OpenError::Corrupt { file, what, .. } => {
                assert_eq!(
                    (file, what.as_str()),
                    (oldest, "records before this file are missing, its groups say")
                );
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn another_format_version_is_refused_with_both_versions() {
    let dir = tempdir().unwrap();
    drop(open(&dir));
    let path = dir.path().join(FIRST);
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 3;
    let crc = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let error = Log::open(dir.path(), config()).unwrap_err();
    assert!(matches!(error, OpenError::Version { found: 3, supported: 2, .. }), "{error}");
    let message = format!("{} has format version 3, this program reads versions 1 to 2", path.display());
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
        matches!(refused, LogError::Full { record_bytes: 500, left_bytes } if left_bytes < GROUP as u64),
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

#[test]
fn damage_that_happens_while_the_log_is_open_is_told_by_the_replay() {
    let dir = tempdir().unwrap();
    let mut log = open(&dir);
    commit_each(&mut log, 1..=3, 500);
    let path = dir.path().join(FIRST);
    let mut bytes = fs::read(&path).unwrap();
    bytes[64 + GROUP + 100] ^= 1;
    fs::write(&path, bytes).unwrap();
    let mut replay = log.replay().unwrap();
    assert!(replay.next().unwrap().is_ok());
    match replay.next().unwrap().unwrap_err() {
        LogError::Corrupt { file, offset, .. } => assert_eq!((file, offset), (path, 64 + GROUP as u64 + 56)),
        other => panic!("{other}"),
    }
    assert!(replay.next().is_none());
}
