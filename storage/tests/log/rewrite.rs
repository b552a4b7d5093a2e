//! Giving space back out of the middle of the log, on real files and through the committer.

use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::Bytes;
use storage::sim::SimDisk;
use storage::{CommitEvent, Committer, Disk, Log, LogConfig, LogError, Lsn};
use tempfile::tempdir;

use crate::support::{commit_each, config, content, expected, file_names, open, records, rewrite_all};

/// Longest that any of these waits; passing takes far less.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn what_is_kept_keeps_its_number_and_the_rest_gives_its_space_back() {
    let dir = tempdir().unwrap();
    let mut log = open(&dir);
    commit_each(&mut log, 1..=50, 500);
    let (before, full) = (log.disk_bytes(), log.sealed());
    assert_eq!((full.len(), log.rewritten_before()), (7, Lsn(1)));
    let reader = log.reader();
    assert_eq!(reader.read(Lsn(3)).unwrap().unwrap(), content(3, 500));
    let rewritten = rewrite_all(&log, |lsn| lsn % 10 == 0).unwrap();
    assert_eq!(
        (rewritten.records(), log.disk_bytes()),
        (4, before),
        "nothing happens before it is swapped in"
    );
    assert!(rewritten.source_bytes() > 7 * 4000 && rewritten.bytes() < 2500);
    assert!(log.swap(rewritten).unwrap());

    let wanted: Vec<_> = expected(1..=50, 500).into_iter().filter(|(n, _)| n % 10 == 0 || *n == 50).collect();
    let mut rewritten = Some(log);
    for _ in 0..2 {
        let log = rewritten.take().unwrap_or_else(|| open(&dir));
        assert_eq!(records(&log), wanted);
        let sealed = log.sealed();
        assert_eq!((sealed.len(), sealed[0].first, sealed[0].next), (1, Lsn(1), Lsn(50)));
        assert_eq!((sealed[0].records, sealed[0].is_rewritten), (4, true));
        assert!(log.disk_bytes() < before - 7 * 4000 + 2500);
        assert_eq!((log.rewritten_before(), log.next_lsn()), (Lsn(50), Lsn(51)));
        for number in 1..=50 {
            let is_kept = wanted.iter().any(|(kept, _)| *kept == number);
            assert_eq!(log.reader().read(Lsn(number)).unwrap().is_some(), is_kept, "{number}");
        }
    }
    assert_eq!(reader.read(Lsn(3)).unwrap(), None, "a reader sees what is there now");
    assert_eq!(reader.read(Lsn(10)).unwrap().unwrap(), content(10, 500));
}

#[test]
fn small_neighbours_become_one_file_and_empty_ones_go() {
    let dir = tempdir().unwrap();
    let mut log = open(&dir);
    commit_each(&mut log, 1..=60, 500);
    for file in log.sealed() {
        let rewritten = log.reader().rewrite(file.id..=file.id, |lsn, _| lsn.0 == 30).unwrap();
        assert!(log.swap(rewritten).unwrap());
    }
    assert_eq!(log.sealed().len(), 8);
    let rewritten = rewrite_all(&log, |_| true).unwrap();
    assert_eq!(rewritten.records(), 1);
    assert!(log.swap(rewritten).unwrap());
    assert_eq!((log.sealed().len(), log.sealed()[0].first, log.sealed()[0].next), (1, Lsn(1), Lsn(57)));
    let rewritten = rewrite_all(&log, |_| false).unwrap();
    assert!(log.swap(rewritten).unwrap());
    assert!(log.sealed()[0].bytes < 200);
    drop(log);
    let mut log = open(&dir);
    assert_eq!(records(&log), expected(57..=60, 500));
    commit_each(&mut log, 61..=62, 500);
    assert_eq!(file_names(dir.path()).iter().filter(|name| name.ends_with(".kept")).count(), 1);
}

#[test]
fn a_replay_goes_on_while_its_segments_are_rewritten() {
    let dir = tempdir().unwrap();
    let mut log = open(&dir);
    commit_each(&mut log, 1..=50, 500);
    let mut replay = log.reader().replay_from(Lsn(1)).unwrap();
    assert_eq!(replay.next().unwrap().unwrap(), (Lsn(1), content(1, 500).into()));
    let rewritten = rewrite_all(&log, |lsn| lsn % 2 == 0).unwrap();
    assert!(log.swap(rewritten).unwrap());
    let rest: Vec<_> = replay.map(|record| record.unwrap()).collect();
    assert!(rest.iter().all(|(lsn, bytes)| *bytes == content(lsn.0, 500)));
    let numbers: Vec<_> = rest.iter().map(|(lsn, _)| lsn.0).collect();
    assert!((8..=49).filter(|number| number % 2 == 0).all(|number| numbers.contains(&number)), "{numbers:?}");
    assert!(numbers.contains(&50) && numbers.windows(2).all(|pair| pair[0] < pair[1]));
}

#[test]
fn a_file_whose_segments_are_gone_is_not_taken() {
    let dir = tempdir().unwrap();
    let mut log = open(&dir);
    commit_each(&mut log, 1..=50, 500);
    let rewritten = rewrite_all(&log, |_| true).unwrap();
    log.checkpoint([Bytes::from_static(b"state")].into_iter()).unwrap();
    assert!(!log.swap(rewritten).unwrap());
    assert_eq!(records(&log), [(51, b"state".to_vec())]);
    assert!(!file_names(dir.path()).iter().any(|name| name.ends_with(".tmp")));
    let error = log.reader().rewrite(1..=3, |_, _| true).unwrap_err();
    assert!(matches!(error, LogError::Gone { first_id: 1, last_id: 3 }), "{error}");
}

#[test]
fn damage_in_a_segment_keeps_it_from_being_rewritten() {
    let disk = SimDisk::new(1);
    let mut log = Log::open_on(disk.clone(), config()).unwrap();
    commit_each(&mut log, 1..=20, 500);
    let name = "00000000000000000001.seg";
    let mut bytes = disk.read(name).unwrap();
    bytes[1000] ^= 1;
    disk.overwrite(name, bytes);
    let error = log.reader().rewrite(1..=1, |_, _| false).unwrap_err();
    assert!(matches!(error, LogError::Corrupt { .. }), "{error}");
    assert!(!disk.list().unwrap().iter().any(|name| name.ends_with(".tmp")));
}

#[test]
fn records_that_wait_for_space_get_what_a_rewritten_file_gives_back() {
    let disk = SimDisk::new(2);
    let config = LogConfig { bytes_max: Some(5 * 4096), ..config() };
    let log = Log::open_on(disk.clone(), config.clone()).unwrap();
    let reader = log.reader();
    let (tell, events) = channel();
    let committer = Committer::spawn(log, move |event| drop(tell.send(event)));
    let swapper = committer.swapper();
    let records = |from: u8, to: u8| (from..to).map(|n| Bytes::from(vec![n; 500])).collect::<Vec<_>>();
    committer.submit(20, records(0, 20));
    committer.submit(60, records(20, 60));
    let next = || events.recv_timeout(PATIENCE).expect("the event comes");
    while !matches!(next(), CommitEvent::Full(true)) {}
    // What does not fit waits. Nothing is kept of the full segments, as often as there are new ones.
    let mut left_out = 0;
    while reader.committed() < Lsn(60) {
        let sealed = reader.sealed();
        if let (Some(first), Some(last)) = (sealed.first(), sealed.last())
            && !last.is_rewritten
        {
            let rewritten = reader.rewrite(first.id..=last.id, |_, _| false).unwrap();
            assert!(swapper.swap(rewritten));
            while !matches!(next(), CommitEvent::Swapped { disk_bytes, .. } if disk_bytes <= 5 * 4096) {}
            left_out = last.next.0;
        } else {
            next();
        }
    }
    let sealed = reader.sealed();
    let late = reader.rewrite(sealed[0].id..=sealed[0].id, |_, _| true).unwrap();
    committer.close().unwrap();
    assert!(!swapper.swap(late), "the writer has ended");
    let found = crate::support::records(&Log::open_on(disk, config).unwrap());
    assert!(left_out > 20 && found.first().is_some_and(|first| first.0 >= left_out), "{:?}", found.first());
    assert_eq!(found.last().map(|last| (last.0, last.1.len())), Some((60, 500)));
}

/// The oldest records are needed as long as the newest have not ended them, and there is no room for these.
#[test]
fn a_quota_is_left_by_one_segment_when_nothing_else_can_give_space_back() {
    let disk = SimDisk::new(3);
    let config = LogConfig { bytes_max: Some(5 * 4096), ..config() };
    let log = Log::open_on(disk.clone(), config.clone()).unwrap();
    let reader = log.reader();
    let (tell, events) = channel();
    let committer = Committer::spawn(log, move |event| drop(tell.send(event)));
    let swapper = committer.swapper();
    let records = |from: u8, to: u8| (from..to).map(|n| Bytes::from(vec![n; 500])).collect::<Vec<_>>();
    // Seven a segment: the first four are full of what is needed to the end.
    committer.submit(70, records(0, 70));
    let (mut is_full, mut most_bytes) = (false, 0);
    let began = std::time::Instant::now();
    while reader.committed() < Lsn(70) {
        assert!(began.elapsed() < PATIENCE, "it waits at record {:?}", reader.committed());
        let waited = events.recv_timeout(Duration::from_millis(5));
        let sealed = reader.sealed();
        for event in waited.into_iter().chain(events.try_iter()) {
            is_full = if let CommitEvent::Full(full) = event { full } else { is_full };
        }
        if let Some(newest) = sealed.last().filter(|newest| newest.first > Lsn(28) && !newest.is_rewritten) {
            assert!(is_full, "nobody is let in while it goes beyond the quota");
            most_bytes = most_bytes.max(sealed.iter().map(|file| file.bytes).sum());
            let rewritten = reader.rewrite(newest.id..=newest.id, |_, _| false).unwrap();
            assert!(swapper.swap(rewritten));
        }
    }
    committer.close().unwrap();
    assert!(most_bytes > 4 * 3600 && most_bytes <= 5 * 4096, "{most_bytes}, and the current one");
    let found = crate::support::records(&Log::open_on(disk, config).unwrap());
    assert_eq!(found.iter().filter(|(number, _)| *number <= 28).count(), 28);
    assert_eq!(found.last().map(|last| last.0), Some(70));
}
