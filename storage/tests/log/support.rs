//! What several tests need.

use std::fs;
use std::path::Path;

use storage::{Disk, Log, LogConfig, Lsn, Rewritten};
use tempfile::TempDir;

/// Number and content.
pub(crate) type Record = (u64, Vec<u8>);

/// All committed records.
pub(crate) fn records<D: Disk>(log: &Log<D>) -> Vec<Record> {
    log.replay().unwrap().map(|record| record.map(|(lsn, bytes)| (lsn.0, bytes.to_vec())).unwrap()).collect()
}
/// Writes what is left of a log's full segments; `None` if it has none.
pub(crate) fn rewrite_all<D: Disk>(log: &Log<D>, keep: impl Fn(u64) -> bool) -> Option<Rewritten> {
    let sealed = log.sealed();
    let ids = sealed.first()?.id..=sealed.last()?.id;
    Some(log.reader().rewrite(ids, |lsn, _| keep(lsn.0)).unwrap())
}

/// Small segments, so that a few records fill them.
pub(crate) fn config() -> LogConfig {
    LogConfig { segment_bytes: 4096, record_bytes_max: 64 * 1024, ..LogConfig::default() }
}

pub(crate) fn open(dir: &TempDir) -> Log {
    Log::open(dir.path(), config()).unwrap()
}

pub(crate) fn commit_each<D: Disk>(log: &mut Log<D>, numbers: impl Iterator<Item = u64>, length: usize) {
    for number in numbers {
        assert_eq!(log.append(&content(number, length)).unwrap(), Lsn(number));
        log.commit().unwrap();
    }
}

pub(crate) fn content(number: u64, length: usize) -> Vec<u8> {
    vec![number as u8; length]
}

pub(crate) fn expected(numbers: impl Iterator<Item = u64>, length: usize) -> Vec<Record> {
    numbers.map(|number| (number, content(number, length))).collect()
}

pub(crate) fn file_names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub(crate) fn read_all(dir: &Path) -> Vec<(String, Vec<u8>)> {
    file_names(dir).into_iter().map(|name| (name.clone(), fs::read(dir.join(name)).unwrap())).collect()
}

pub(crate) fn write_all(dir: &Path, files: &[(String, Vec<u8>)]) {
    for (name, bytes) in files {
        fs::write(dir.join(name), bytes).unwrap();
    }
}

/// Where the bytes that are not zero end.
pub(crate) fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}
