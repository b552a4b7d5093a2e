//! The power ends in the middle of every single operation of every kind of work, one after the other.

use std::ops::Range;

use bytes::Bytes;
use fastrand::Rng;
use storage::sim::SimDisk;
use storage::{Log, LogError, Lsn};

use crate::support::{Record, config, records};

/// How differently each power cut is looked at.
const CUTS: u64 = 8;

/// A step of work, and its name for messages.
type Step = (&'static str, fn(&mut Log<SimDisk>) -> Result<(), LogError>);

const STEPS: [Step; 14] = [
    ("a commit", |log| commit(log, 3, 100)),
    ("a commit over several segments", |log| commit(log, 30, 500)),
    ("a record larger than a segment", |log| commit(log, 1, 9_000)),
    ("dropping segments", |log| log.drop_before(Lsn(20))),
    ("rewriting a full segment", |log| rewrite(log, 1..2)),
    ("rewriting it with its neighbours", |log| rewrite(log, 0..3)),
    ("rewriting everything to nothing", |log| rewrite_to_nothing(log)),
    ("a commit after that", |log| commit(log, 20, 500)),
    ("a checkpoint", |log| log.checkpoint((0..5).map(|number: u8| Bytes::from(vec![number; 900])))),
    ("a checkpoint of nothing right after", |log| log.checkpoint(std::iter::empty())),
    ("rewriting a checkpoint", |log| rewrite(log, 0..1)),
    ("a checkpoint after that", |log| log.checkpoint(std::iter::once(Bytes::from_static(b"again")))),
    ("a commit after it", |log| commit(log, 8, 500)),
    ("dropping the checkpoint", |log| log.drop_before(log.next_lsn())),
];

fn commit(log: &mut Log<SimDisk>, count: u64, length: usize) -> Result<(), LogError> {
    for _ in 0..count {
        let number = log.next_lsn().0;
        log.append(&vec![number as u8; length])?;
    }
    log.commit()?;
    Ok(())
}

/// Keeps every third record of some of the full segments.
fn rewrite(log: &mut Log<SimDisk>, which: Range<usize>) -> Result<(), LogError> {
    rewrite_keeping(log, which, |lsn| lsn.0 % 3 == 0)
}

fn rewrite_to_nothing(log: &mut Log<SimDisk>) -> Result<(), LogError> {
    rewrite_keeping(log, 0..log.sealed().len(), |_| false)
}

fn rewrite_keeping(
    log: &mut Log<SimDisk>,
    which: Range<usize>,
    keep: impl Fn(Lsn) -> bool,
) -> Result<(), LogError> {
    let sealed = &log.sealed()[which];
    let ids = sealed[0].id..=sealed[sealed.len() - 1].id;
    let rewritten = log.reader().rewrite(ids, |lsn, _| keep(lsn))?;
    assert!(log.swap(rewritten)?, "nothing else changes the log");
    Ok(())
}

fn open(disk: &SimDisk) -> Log<SimDisk> {
    Log::open_on(disk.clone(), config()).unwrap()
}

/// Whether a crash between these two states may leave this one.
fn is_between(found: &[Record], before: &[Record], after: &[Record]) -> bool {
    let grows = found.starts_with(before) && after.starts_with(found);
    let shrinks = before.ends_with(found) && found.ends_with(after);
    found == before || found == after || grows || shrinks
}

/// Opens what each of several power cuts leaves, and checks it.
fn check_cuts(disk: &SimDisk, before: &[Record], after: &[Record], place: &str) {
    for seed in 0..CUTS {
        let cut = disk.crash(&mut Rng::with_seed(seed));
        let found = records(&open(&cut));
        let numbers = |records: &[Record]| records.iter().map(|record| record.0).collect::<Vec<_>>();
        let shown = (numbers(&found), numbers(before), numbers(after));
        assert!(is_between(&found, before, after), "{place}, cut {seed}: {shown:?}");
        // Once found, for ever found.
        let again = cut.crash(&mut Rng::with_seed(seed));
        assert_eq!(records(&open(&again)), found, "{place}, cut {seed}");
    }
}

/// A log that has done the first steps, and the records before and after the next one.
fn run(steps: usize) -> (SimDisk, Log<SimDisk>, Vec<Record>, Vec<Record>) {
    let prepare = |steps: usize| {
        let disk = SimDisk::new(7);
        let mut log = open(&disk);
        for (name, step) in &STEPS[..steps] {
            step(&mut log).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        (disk, log)
    };
    let after = records(&prepare(steps + 1).1);
    let (disk, log) = prepare(steps);
    let before = records(&log);
    (disk, log, before, after)
}

#[test]
fn a_power_cut_in_any_operation_of_any_step_leaves_what_was_before_or_comes_after() {
    for (index, (name, step)) in STEPS.iter().enumerate() {
        for operation in 1.. {
            let (disk, mut log, before, after) = run(index);
            disk.cut_power(operation);
            let result = step(&mut log);
            check_cuts(&disk, &before, &after, &format!("{name}, operation {operation}"));
            if result.is_ok() {
                assert!(operation > 2, "{name} does too little to be tested");
                break;
            }
        }
    }
}

#[test]
fn after_any_failed_sync_a_restart_and_a_power_cut_in_it_lose_nothing() {
    for (index, (name, step)) in STEPS.iter().enumerate() {
        for failing in 1.. {
            let (disk, mut log, before, after) = run(index);
            disk.fail_sync(failing);
            let result = step(&mut log);
            drop(log);
            if result.is_ok() {
                break;
            }
            // Opening may end by the cut at any operation; what it leaves must still be good.
            for operation in 1..20 {
                let (disk, mut log, ..) = run(index);
                disk.fail_sync(failing);
                assert!(step(&mut log).is_err());
                drop(log);
                disk.cut_power(operation);
                let reopened = Log::open_on(disk.clone(), config());
                let place = format!("{name}, sync {failing} failed, then operation {operation} of opening");
                check_cuts(&disk, &before, &after, &place);
                if let Ok(log) = reopened {
                    let found = records(&log);
                    drop(log);
                    check_cuts(&disk, &found, &found, &format!("{place}, after it"));
                }
            }
        }
    }
}
