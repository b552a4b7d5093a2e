//! The views on disk and in memory do the same, and neither half of a batch is ever there.

#![cfg(feature = "view")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use bytes::Bytes;
use fastrand::Rng;
use storage::sim::{SimDisk, SimView};
use storage::{FjallView, Log, LogConfig, Lsn, View, ViewConfig, ViewError};
use tempfile::tempdir;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

fn small() -> ViewConfig {
    // Small enough that the work of these tests becomes files.
    ViewConfig { cache_bytes: 1 << 20, memtable_bytes: 1 << 18 }
}

fn scan(view: &impl View, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    view.scan(prefix).map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap()).collect()
}

fn key(rng: &mut Rng) -> Vec<u8> {
    format!("{}/{:03}", ["a", "ab", "b", ""][rng.usize(0..4)], rng.u32(0..200)).into_bytes()
}

/// A batch of changes, taken into the model too.
fn batch(rng: &mut Rng, model: &mut Rows) -> Vec<(Bytes, Option<Bytes>)> {
    let mut changes = Vec::new();
    for _ in 0..rng.usize(0..40) {
        let key = key(rng);
        let value = (rng.u32(0..4) > 0).then(|| vec![rng.u8(..); rng.usize(0..3000)]);
        match &value {
            Some(value) => drop(model.insert(key.clone(), value.clone())),
            None => drop(model.remove(&key)),
        }
        changes.push((key.into(), value.map(Bytes::from)));
    }
    changes
}

fn check(view: &impl View, model: &Rows, rng: &mut Rng) {
    for prefix in [b"".as_slice(), b"a", b"ab/", b"ab/01", b"c", b"/"] {
        let wanted: Vec<_> = model.iter().filter(|(key, _)| key.starts_with(prefix)).collect();
        let found = scan(view, prefix);
        assert_eq!(found.iter().map(|(key, value)| (key, value)).collect::<Vec<_>>(), wanted, "{prefix:?}");
    }
    for _ in 0..20 {
        let key = key(rng);
        let found = view.get(&key).unwrap();
        assert_eq!(found.as_deref(), model.get(&key).map(Vec::as_slice), "{key:?}");
    }
}

#[test]
fn both_views_hold_what_was_written_and_the_one_on_disk_after_reopening_too() {
    let dir = tempdir().unwrap();
    let mut rng = Rng::with_seed(5);
    let (mut on_disk, mut simulated) = (FjallView::open(dir.path(), small()).unwrap(), SimView::new(5));
    let mut model = Rows::new();
    assert_eq!((on_disk.applied(), simulated.applied()), (Lsn(0), Lsn(0)));
    for round in 1..=120 {
        let changes = batch(&mut rng, &mut model);
        on_disk.write(changes.clone(), Lsn(round * 7)).unwrap();
        simulated.write(changes, Lsn(round * 7)).unwrap();
        if round % 15 == 0 {
            drop(on_disk);
            on_disk = FjallView::open(dir.path(), small()).unwrap();
        }
        if round % 10 == 0 {
            check(&on_disk, &model, &mut rng);
            check(&simulated, &model, &mut rng);
        }
        assert_eq!((on_disk.applied(), simulated.applied()), (Lsn(round * 7), Lsn(round * 7)));
    }
    assert!(on_disk.disk_bytes() > 0 && simulated.len() == model.len());
}

/// What a power cut leaves of the files on disk is at least what was synced: a copy of them.
#[test]
fn a_copy_of_the_files_right_after_a_write_has_all_of_it() {
    let dir = tempdir().unwrap();
    let mut rng = Rng::with_seed(6);
    let mut view = FjallView::open(dir.path(), small()).unwrap();
    let mut model = Rows::new();
    for round in 1..=30 {
        view.write(batch(&mut rng, &mut model), Lsn(round)).unwrap();
        if round % 6 == 0 {
            let copy = tempdir().unwrap();
            copy_all(dir.path(), copy.path());
            let copied = FjallView::open(copy.path(), small()).unwrap();
            assert_eq!(copied.applied(), Lsn(round));
            check(&copied, &model, &mut rng);
        }
    }
}

fn copy_all(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_power_cut_in_a_simulated_write_leaves_all_of_it_or_nothing() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..200 {
        let mut rng = Rng::with_seed(seed);
        let mut view = SimView::new(seed);
        let mut model = Rows::new();
        view.write(batch(&mut rng, &mut model), Lsn(1)).unwrap();
        let before = model.clone();
        view.cut_power(1);
        let error = view.write(batch(&mut rng, &mut model), Lsn(2)).unwrap_err();
        assert!(error.to_string().contains("simulated power cut"), "{error}");
        assert!(view.get(b"a/001").is_err() && view.write(Vec::new(), Lsn(3)).is_err());
        let left = view.crash(&mut rng);
        match left.applied() {
            Lsn(1) => check(&left, &before, &mut rng),
            Lsn(2) => check(&left, &model, &mut rng),
            other => panic!("{other:?}"),
        }
        (old, new) = (old + u64::from(left.applied() == Lsn(1)), new + u64::from(left.applied() == Lsn(2)));
    }
    assert!(old > 50 && new > 50, "{old} {new}");
}

#[test]
fn a_directory_that_holds_no_view_is_refused_with_its_path() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("view");
    std::fs::write(&path, "a file").unwrap();
    let error = FjallView::open(&path, small()).unwrap_err();
    assert!(matches!(error, ViewError::Open { .. }), "{error}");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
}

#[test]
fn a_view_behind_what_the_log_left_out_or_ahead_of_it_is_refused_and_says_what_to_do() {
    let config = LogConfig { segment_bytes: 4096, ..LogConfig::default() };
    let mut log = Log::open_on(SimDisk::new(1), config).unwrap();
    for number in 1..=50_u8 {
        log.append(&vec![number; 500]).unwrap();
        log.commit().unwrap();
    }
    for applied in [0, 1, 50] {
        log.check_view(Lsn(applied)).unwrap();
    }
    assert!(matches!(log.check_view(Lsn(51)), Err(ViewError::Ahead { applied: 51, last: 50 })));
    let sealed = log.sealed();
    let rewritten = log.reader().rewrite(sealed[0].id..=sealed[1].id, |_, _| false).unwrap();
    log.swap(rewritten).unwrap();
    let needed = sealed[1].next.0;
    log.check_view(Lsn(needed - 1)).unwrap();
    let error = log.check_view(Lsn(needed - 2)).unwrap_err();
    assert!(matches!(error, ViewError::Behind { .. }), "{error}");
    assert!(error.to_string().ends_with("Restore log and view from the same copy"), "{error}");
}

#[test]
fn only_its_owner_may_look_into_the_view() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempdir().unwrap();
    let path = dir.path().join("view");
    drop(FjallView::open(&path, small()).unwrap());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn tidying_gives_back_the_space_of_rows_that_are_gone_and_keeps_the_others() {
    let dir = tempdir().unwrap();
    let mut view = FjallView::open(dir.path(), small()).unwrap();
    assert!(!view.tidy().unwrap(), "nothing was written");
    let mut rng = Rng::with_seed(9);
    let row = |number: u32| Bytes::from(format!("row/{number:05}"));
    // Noise: it does not become smaller on disk.
    let mut value = || Bytes::from(std::iter::repeat_with(|| rng.u8(..)).take(4_000).collect::<Vec<_>>());
    for round in 0..30 {
        let rows = (0..200).map(|number| (row(round * 200 + number), Some(value()))).collect();
        view.write(rows, Lsn(u64::from(round) + 1)).unwrap();
    }
    for round in 0..30 {
        let rows = (0..200).map(|number| (row(round * 200 + number), None)).skip(1).collect();
        view.write(rows, Lsn(u64::from(round) + 31)).unwrap();
    }
    let before = view.disk_bytes();
    assert!(view.tidy().unwrap());
    let after = view.disk_bytes();
    assert!(after + 10_000_000 < before, "{before} bytes before, {after} after");
    assert!(!view.tidy().unwrap(), "nothing was written since");
    for again in [false, true] {
        if again {
            drop(view);
            view = FjallView::open(dir.path(), small()).unwrap();
        }
        assert_eq!((view.applied(), scan(&view, b"").len()), (Lsn(60), 30));
    }
}
