//! The writer thread: order, grouping, a full disk, failures, the end.

use std::fs;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::support::records;
use bytes::Bytes;
use storage::sim::SimDisk;
use storage::{CommitEvent, Committer, Durability, Log, LogConfig, LogError};
use tempfile::tempdir;

/// Longest that any of these waits; passing takes far less.
const PATIENCE: Duration = Duration::from_secs(60);

fn config() -> LogConfig {
    LogConfig { segment_bytes: 4096, record_bytes_max: 16 * 1024, ..LogConfig::default() }
}

fn open(disk: &SimDisk) -> Log<SimDisk> {
    Log::open_on(disk.clone(), config()).unwrap()
}

fn spawn(disk: &SimDisk) -> (Committer, Receiver<CommitEvent>) {
    let (tell, events) = channel();
    (Committer::spawn(open(disk), move |event| drop(tell.send(event))), events)
}

fn bytes(count: usize, length: usize) -> Vec<Bytes> {
    (0..count).map(|number| Bytes::from(vec![number as u8 + 1; length])).collect()
}

/// Waits for the first event that this picks.
fn wait<T>(events: &Receiver<CommitEvent>, pick: impl Fn(&CommitEvent) -> Option<T>) -> T {
    loop {
        let event = events.recv_timeout(PATIENCE).expect("the event comes");
        if let Some(picked) = pick(&event) {
            return picked;
        }
    }
}

fn wait_committed(events: &Receiver<CommitEvent>, wanted: u64) {
    wait(events, |event| match event {
        CommitEvent::Committed { ticket, .. } => (*ticket >= wanted).then_some(()),
        CommitEvent::Failed(error) => panic!("{error}"),
        _ => None,
    });
}

fn contents(disk: &SimDisk) -> Vec<Vec<u8>> {
    records(&open(disk)).into_iter().map(|(_, content)| content).collect()
}

#[test]
fn everything_submitted_is_committed_in_order_and_told_with_rising_tickets() {
    let dir = tempdir().unwrap();
    let (tell, events) = channel();
    let log = Log::open(dir.path(), config()).unwrap();
    let committer = Committer::spawn(log, move |event| drop(tell.send(event)));
    let mut wanted = Vec::new();
    for ticket in 1..=500_u64 {
        let records = [Bytes::from(format!("record {ticket}")), Bytes::from(vec![ticket as u8; 90])];
        wanted.extend(records.iter().map(|record| record.to_vec()));
        committer.submit(ticket, records.to_vec());
    }
    committer.close().unwrap();
    let mut last = 0;
    for event in events {
        match event {
            CommitEvent::Committed { ticket, log_bytes } => {
                assert!(ticket > last && log_bytes > 0);
                last = ticket;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(last, 500);
    let found = records(&Log::open(dir.path(), config()).unwrap());
    assert_eq!(found.into_iter().map(|(_, content)| content).collect::<Vec<_>>(), wanted);
}

#[test]
fn what_comes_while_a_group_is_written_becomes_one_group() {
    let disk = SimDisk::new(1);
    let (tell, events) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let committer = Committer::spawn(open(&disk), move |event| {
        drop(tell.send(event));
        // The other end is gone once the test has seen enough.
        let _ = may_go_on.recv();
    });
    committer.submit(1, bytes(1, 10));
    wait_committed(&events, 1);
    // The thread is inside its event now: what is submitted meanwhile waits for it.
    for ticket in 2..=20 {
        committer.submit(ticket, bytes(2, 10));
    }
    assert!(committer.pending_bytes() >= 19 * 2 * 10);
    let syncs = disk.syncs();
    go_on.send(()).unwrap();
    match events.recv_timeout(PATIENCE).unwrap() {
        CommitEvent::Committed { ticket: 20, .. } => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(disk.syncs() - syncs, 1, "one sync for all of them");
    assert_eq!(committer.pending_bytes(), 0);
    drop(go_on);
    committer.close().unwrap();
}

#[test]
fn records_are_there_after_a_power_cut_at_the_moment_they_are_told() {
    for seed in 0..50 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = SimDisk::new(seed);
        let (tell, crashed) = channel();
        let seen = disk.clone();
        let mut event_rng = rng.fork();
        let committer = Committer::spawn(open(&disk), move |event| {
            if let CommitEvent::Committed { ticket, .. } = event {
                drop(tell.send((ticket, seen.crash(&mut event_rng))));
            }
        });
        for ticket in 1..=20 {
            committer.submit(ticket, vec![Bytes::from(vec![ticket as u8; rng.usize(0..700)])]);
        }
        committer.close().unwrap();
        for (ticket, disk) in crashed {
            assert!(contents(&disk).len() as u64 >= ticket, "seed {seed}: {ticket} was told");
        }
    }
}

#[test]
fn a_full_disk_is_told_records_wait_and_go_on_when_there_is_space() {
    let disk = SimDisk::new(2);
    let (committer, events) = spawn(&disk);
    disk.set_capacity_bytes(Some(disk.used_bytes()));
    committer.submit(1, bytes(6, 1000));
    wait(&events, |event| matches!(event, CommitEvent::Full(true)).then_some(()));
    committer.submit(2, bytes(6, 1000));
    committer.submit(3, bytes(1, 10));
    assert!(committer.pending_bytes() > 6010, "there is no space for any of these");
    disk.set_capacity_bytes(None);
    let (mut is_full, mut committed) = (true, 0);
    while is_full || committed < 3 {
        match events.recv_timeout(PATIENCE).unwrap() {
            CommitEvent::Full(full) => is_full = full,
            CommitEvent::Committed { ticket, .. } => committed = ticket,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(committer.pending_bytes(), 0);
    committer.close().unwrap();
    let wanted = [bytes(6, 1000), bytes(6, 1000), bytes(1, 10)].concat();
    assert_eq!(contents(&disk), wanted);
}

#[test]
fn a_full_disk_takes_one_segment_more_out_of_the_reserve_which_is_made_again_when_there_is_space() {
    let reserve = |disk: &SimDisk| disk.read("log.reserve").map(|bytes| bytes.len());
    let disk = SimDisk::new(12);
    let log = Log::open_on(disk.clone(), LogConfig { keeps_reserve: true, ..config() }).unwrap();
    assert_eq!((log.is_full(), reserve(&disk)), (false, Some(4096)));
    let (tell, events) = channel();
    let committer = Committer::spawn(log, move |event| drop(tell.send(event)));
    disk.set_capacity_bytes(Some(disk.used_bytes()));
    // Three go into a segment, and there are two.
    for ticket in 1..=10 {
        committer.submit(ticket, bytes(1, 1000));
    }
    let mut is_full = false;
    let mut committed = 0;
    while committed < 9 {
        match events.recv_timeout(PATIENCE).unwrap() {
            CommitEvent::Full(full) => is_full = full,
            CommitEvent::Committed { ticket, .. } => committed = ticket,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((committed, is_full, reserve(&disk)), (9, true, None));
    disk.set_capacity_bytes(None);
    while is_full || committed < 10 {
        match events.recv_timeout(PATIENCE).unwrap() {
            CommitEvent::Full(full) => is_full = full,
            CommitEvent::Committed { ticket, .. } => committed = ticket,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(reserve(&disk), Some(4096));
    committer.close().unwrap();
    assert_eq!(contents(&disk), vec![vec![1; 1000]; 10]);
}

#[test]
fn a_log_without_room_for_its_reserve_is_full() {
    let disk = SimDisk::new(13);
    disk.set_capacity_bytes(Some(2 * 4096 + 1000));
    let with_reserve = LogConfig { keeps_reserve: true, ..config() };
    let mut log = Log::open_on(disk.clone(), with_reserve).unwrap();
    assert!(log.is_full() && disk.read("log.reserve").is_none());
    disk.set_capacity_bytes(None);
    assert!(!log.retry_space() && disk.read("log.reserve").is_some());
}

#[test]
fn segments_made_ahead_by_another_thread_hold_the_same_log() {
    for durability in [Durability::Power, Durability::Process] {
        let dir = tempdir().unwrap();
        let log = Log::open(dir.path(), LogConfig { durability, ..config() }).unwrap();
        let (tell, events) = channel();
        let committer = Committer::spawn(log, move |event| drop(tell.send(event)));
        let mut wanted = Vec::new();
        for ticket in 1..=200_u64 {
            // Some need a segment larger than the one that was ordered.
            let length = if ticket % 50 == 0 { 9_000 } else { 700 };
            wanted.push((ticket, vec![ticket as u8; length]));
            committer.submit(ticket, vec![vec![ticket as u8; length].into()]);
            if ticket % 3 == 0 {
                wait_committed(&events, ticket);
            }
        }
        committer.close().unwrap();
        let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let left = names.filter(|name| name.to_string_lossy().ends_with(".tmp"));
        assert_eq!(left.count(), 0, "a segment that is made when the log is closed is taken");
        assert_eq!(records(&Log::open(dir.path(), config()).unwrap()), wanted);
    }
}

#[test]
fn closing_a_full_log_with_records_left_says_so() {
    let disk = SimDisk::new(5);
    let (committer, _events) = spawn(&disk);
    disk.set_capacity_bytes(Some(disk.used_bytes()));
    committer.submit(1, bytes(20, 1000));
    let error = committer.close().unwrap_err();
    assert!(matches!(error, LogError::Full { record_bytes: 1000, .. }), "{error}");
    assert_eq!(contents(&disk), bytes(6, 1000), "what fits is kept");
}

#[test]
fn a_failure_is_told_once_and_everything_after_is_ignored() {
    let disk = SimDisk::new(7);
    let (committer, events) = spawn(&disk);
    committer.submit(1, bytes(1, 10));
    wait_committed(&events, 1);
    disk.fail_sync(1);
    committer.submit(2, bytes(1, 10));
    let error = wait(&events, |event| match event {
        CommitEvent::Failed(error) => Some(error.to_string()),
        _ => None,
    });
    assert!(error.contains("cannot sync") && error.contains("simulated sync failure"), "{error}");
    committer.submit(3, bytes(1, 10));
    assert_eq!(committer.pending_bytes(), 0);
    let error = committer.close().unwrap_err();
    assert!(matches!(error, LogError::Poisoned { .. }), "{error}");
    assert_eq!(events.into_iter().count(), 0, "nothing is told after the failure");
}

#[test]
fn dropping_the_handle_commits_the_rest() {
    let disk = SimDisk::new(8);
    let (committer, _events) = spawn(&disk);
    committer.submit(1, bytes(5, 100));
    drop(committer);
    assert_eq!(contents(&disk), bytes(5, 100));
}

#[test]
fn nobody_waits_for_a_writer_that_ended_by_a_panic() {
    let committer = Committer::spawn(open(&SimDisk::new(9)), |event| panic!("on purpose: {event:?}"));
    let swapper = committer.swapper();
    committer.submit(1, bytes(1, 10));
    assert!(!swapper.sync());
    let closed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| committer.close()));
    assert!(closed.is_err(), "the panic is passed on");
}
