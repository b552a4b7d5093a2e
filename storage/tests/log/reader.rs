//! Reading by number while the log is written, given up and replaced.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use fastrand::Rng;
use storage::sim::SimDisk;
use storage::{CommitEvent, Committer, Durability, Log, LogConfig, LogError, Lsn};
use tempfile::tempdir;

use crate::support::{commit_each, config, content, open};

/// What record `number` holds in these tests: its length tells it too.
fn numbered(number: u64) -> Vec<u8> {
    let mut record = number.to_le_bytes().to_vec();
    record.resize(8 + (number * 37 % 900) as usize, number as u8);
    record
}

#[test]
fn every_committed_record_is_read_by_its_number_in_any_order() {
    for segment_bytes in [4096, 1 << 20] {
        let disk = SimDisk::new(3);
        let mut log = Log::open_on(disk.clone(), LogConfig { segment_bytes, ..config() }).unwrap();
        let reader = log.reader();
        let mut rng = Rng::with_seed(4);
        for number in 1..=2000 {
            log.append(&numbered(number)).unwrap();
            if rng.u32(0..50) == 0 {
                log.commit().unwrap();
                assert_eq!(reader.read(Lsn(number)).unwrap().unwrap(), numbered(number));
            }
        }
        let committed = log.commit().unwrap();
        assert_eq!((committed, reader.committed()), (Lsn(2000), Lsn(2000)));
        let after_reopening = || {
            let copy = disk.crash(&mut Rng::with_seed(1));
            Log::open_on(copy, config()).unwrap().reader()
        };
        for reader in [reader.clone(), after_reopening()] {
            let mut numbers: Vec<u64> = (1..=2000).collect();
            for order in 0..3 {
                match order {
                    0 => {}
                    1 => numbers.reverse(),
                    _ => rng.shuffle(&mut numbers),
                }
                for number in &numbers {
                    assert_eq!(reader.read(Lsn(*number)).unwrap().unwrap(), numbered(*number));
                }
            }
            for none in [0, 2001, u64::MAX] {
                assert_eq!(reader.read(Lsn(none)).unwrap(), None, "{none}");
            }
        }
    }
}

#[test]
fn what_is_not_committed_is_not_shown() {
    let dir = tempdir().unwrap();
    let mut log = open(&dir);
    let reader = log.reader();
    assert_eq!((reader.read(Lsn(1)).unwrap(), reader.committed()), (None, Lsn(0)));
    log.append(b"one").unwrap();
    assert_eq!(reader.read(Lsn(1)).unwrap(), None);
    let mut early = reader.replay_from(Lsn(1)).unwrap();
    log.commit().unwrap();
    assert_eq!(reader.read(Lsn(1)).unwrap().unwrap(), b"one".as_slice());
    assert!(early.next().is_none(), "it ends where the log ended when it began");
}

#[test]
fn what_is_written_and_not_synced_is_shown_and_not_said_to_be_synced() {
    let dir = tempdir().unwrap();
    let config = LogConfig { durability: Durability::Process, ..config() };
    let mut log = Log::open(dir.path(), config).unwrap();
    let reader = log.reader();
    commit_each(&mut log, 1..=7, 500);
    assert_eq!((reader.committed(), reader.synced()), (Lsn(7), Lsn(0)));
    commit_each(&mut log, 8..=8, 500);
    assert_eq!((reader.committed(), reader.synced()), (Lsn(8), Lsn(7)), "the full segment was synced");
    log.sync().unwrap();
    assert_eq!(reader.synced(), Lsn(8));
    drop(log);
    let log = open(&dir);
    assert_eq!((log.reader().committed(), log.reader().synced()), (Lsn(8), Lsn(8)));
    let mut log = log;
    commit_each(&mut log, 9..=9, 500);
    assert_eq!(log.reader().synced(), Lsn(9), "each commit syncs");
}

#[test]
fn readers_go_on_over_dropped_and_replaced_segments() {
    let dir = tempdir().unwrap();
    let mut log = open(&dir);
    commit_each(&mut log, 1..=60, 500);
    let reader = log.reader();
    let mut replayed = reader.replay_from(Lsn(1)).unwrap();
    assert_eq!(replayed.next().unwrap().unwrap().0, Lsn(1));
    assert_eq!(reader.read(Lsn(2)).unwrap().unwrap(), content(2, 500));
    log.drop_before(Lsn(30)).unwrap();
    assert_eq!(reader.read(Lsn(20)).unwrap(), None);
    assert_eq!(reader.read(Lsn(30)).unwrap().unwrap(), content(30, 500));
    let rest: Vec<u64> = replayed.map(|record| record.unwrap().0.0).collect();
    assert_eq!(rest.last(), Some(&60));
    assert!(rest.windows(2).all(|pair| pair[0] < pair[1]), "{rest:?}");
    assert!(rest.contains(&30), "{rest:?}");
    log.checkpoint([Bytes::from_static(b"state")].into_iter()).unwrap();
    assert_eq!(reader.read(Lsn(30)).unwrap(), None);
    assert_eq!(reader.read(Lsn(61)).unwrap().unwrap(), b"state".as_slice());
    log.append(b"next").unwrap();
    log.commit().unwrap();
    assert_eq!(reader.read(Lsn(62)).unwrap().unwrap(), b"next".as_slice());
}

#[test]
fn damage_that_came_after_opening_is_told_with_its_place() {
    let dir = tempdir().unwrap();
    let mut log = open(&dir);
    commit_each(&mut log, 1..=3, 500);
    let path = dir.path().join("00000000000000000001.seg");
    let mut bytes = fs::read(&path).unwrap();
    let second_at = 64 + 568;
    bytes[second_at + 100] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = log.reader().read(Lsn(2)).unwrap_err();
    assert!(
        matches!(&error, LogError::Corrupt { file, offset, .. } if *file == path && *offset == second_at as u64 + 56),
        "{error}"
    );
}

#[test]
fn damage_to_one_record_leaves_those_around_it_readable_and_stops_a_replay() {
    let disk = SimDisk::new(5);
    let mut log = Log::open_on(disk.clone(), LogConfig { segment_bytes: 1 << 16, ..config() }).unwrap();
    for number in 1..=20 {
        log.append(&content(number, 100)).unwrap();
        if number % 5 == 0 {
            log.commit().unwrap();
        }
    }
    let name = "00000000000000000001.seg";
    let good = disk.read(name).unwrap();
    // In the second group of five records: its third one's length, checksum and content, and the group's header.
    let group = 64 + (56 + 5 * 108_usize).next_multiple_of(8);
    let third = group + 56 + 2 * 108;
    let cases = [(third + 50, vec![8]), (third, vec![8]), (third + 6, vec![8, 9, 10]), (third + 4, vec![8])];
    for (at, missing) in cases {
        let mut bad = good.clone();
        bad[at] ^= 1;
        disk.overwrite(name, bad);
        let reader = log.reader();
        for number in 1..=20 {
            match reader.read(Lsn(number)) {
                Ok(record) => assert_eq!(record.unwrap(), content(number, 100)),
                Err(LogError::Corrupt { offset, .. }) => {
                    assert_eq!(offset, third as u64);
                    // A wrong length that is not too long misleads until the group's end.
                    assert!(missing.contains(&number) || (at == third + 4 && number <= 10), "{at}: {number}");
                }
                Err(other) => panic!("{other}"),
            }
        }
        let replayed: Vec<_> = reader.replay_from(Lsn(1)).unwrap().map(|r| r.map(|(lsn, _)| lsn.0)).collect();
        assert_eq!(replayed.len(), 8, "seven records and the error");
        assert!(replayed[7].is_err());
    }
}

#[test]
fn readers_on_other_threads_see_exactly_what_was_committed() {
    let dir = tempdir().unwrap();
    let config = LogConfig { segment_bytes: 64 * 1024, durability: Durability::Process, ..config() };
    let log = Log::open(dir.path(), config).unwrap();
    let reader = log.reader();
    let told = Arc::new(Mutex::new(0));
    let tell = told.clone();
    let committer = Committer::spawn(log, move |event| {
        if let CommitEvent::Committed { ticket, .. } = event {
            *tell.lock().unwrap() = ticket;
        }
    });
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let (reader, told, is_done) = (reader.clone(), &told, &is_done);
            scope.spawn(move || {
                let mut rng = Rng::with_seed(seed);
                let mut looked = 0;
                while !is_done.load(Ordering::Acquire) || looked < 1000 {
                    let committed = *told.lock().unwrap();
                    if committed == 0 {
                        std::thread::yield_now();
                        continue;
                    }
                    let number = if rng.bool() { committed } else { rng.u64(1..=committed) };
                    assert_eq!(reader.read(Lsn(number)).unwrap().unwrap(), numbered(number));
                    looked += 1;
                }
                let all = reader.replay_from(Lsn(1)).unwrap();
                for (number, record) in (1..).zip(all) {
                    assert_eq!(record.unwrap(), (Lsn(number), numbered(number).into()));
                }
            });
        }
        let mut number = 0;
        for _ in 0..300 {
            let records = (0..10).map(|_| {
                number += 1;
                Bytes::from(numbered(number))
            });
            let records = records.collect();
            committer.submit(number, records);
        }
        committer.close().unwrap();
        is_done.store(true, Ordering::Release);
    });
}
