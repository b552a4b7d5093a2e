//! The bytes on disk, held against files that were written once and are kept: what version 1 wrote must be
//! read for ever, and what is written must not change without a new version.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::{Record, records};
use bytes::Bytes;
use storage::sim::{SimDisk, SimFile, SimLock};
use storage::{Disk, LockError, Log, LogConfig, Lsn};
use tempfile::tempdir;

/// In each file's nonce, so that the bytes are always the same.
const NONCE: u64 = 0x0123_4567_89ab_cd00;
/// Set to write the fixtures anew, for a new version.
const WRITE: &str = "STORAGE_WRITE_FIXTURES";

/// A simulated disk without chance.
#[derive(Debug)]
struct FixedNonces {
    disk: SimDisk,
    given: AtomicU64,
}

impl Disk for FixedNonces {
    type File = SimFile;
    type Lock = SimLock;

    fn lock(&self) -> Result<SimLock, LockError> {
        self.disk.lock()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(&self, name: &str) -> io::Result<SimFile> {
        self.disk.create(name)
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        self.disk.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }

    fn nonce(&self) -> u64 {
        NONCE + self.given.fetch_add(1, Ordering::Relaxed)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }
}

fn config() -> LogConfig {
    LogConfig { segment_bytes: 4096, record_bytes_max: 16 * 1024, ..LogConfig::default() }
}

fn wanted() -> Vec<Record> {
    vec![
        (4, b"state".to_vec()),
        (5, vec![]),
        (6, vec![0xaa; 4000]),
        (7, b"a longer group:".to_vec()),
        (8, b"two records".to_vec()),
    ]
}

/// A checkpoint, a full segment, one that is written to and closed in order, and a spare.
fn write_log() -> SimDisk {
    let disk = SimDisk::new(0);
    let mut log =
        Log::open_on(FixedNonces { disk: disk.clone(), given: AtomicU64::new(0) }, config()).unwrap();
    for record in [b"one".as_slice(), b"two", b"three"] {
        log.append(record).unwrap();
        log.commit().unwrap();
    }
    log.checkpoint([Bytes::from_static(b"state"), Bytes::new()].into_iter()).unwrap();
    log.append(&[0xaa; 4000]).unwrap();
    log.append(b"a longer group:").unwrap();
    log.append(b"two records").unwrap();
    log.commit().unwrap();
    assert_eq!(records(&log), wanted());
    log.close().unwrap();
    disk
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1")
}

fn fixture_names() -> Vec<String> {
    let entries = std::fs::read_dir(fixtures()).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_files_written_are_those_of_version_1_byte_for_byte() {
    let disk = write_log();
    if std::env::var_os(WRITE).is_some() {
        std::fs::create_dir_all(fixtures()).unwrap();
        for name in disk.list().unwrap() {
            std::fs::write(fixtures().join(&name), disk.read(&name).unwrap()).unwrap();
        }
    }
    assert_eq!(disk.list().unwrap(), fixture_names());
    for name in fixture_names() {
        let (written, kept) = (disk.read(&name).unwrap(), std::fs::read(fixtures().join(&name)).unwrap());
        let difference = written.iter().zip(&kept).position(|(written, kept)| written != kept);
        assert_eq!((difference, written.len()), (None, kept.len()), "{name}");
    }
}

#[test]
fn the_files_of_version_1_are_read() {
    let dir = tempdir().unwrap();
    for name in fixture_names() {
        std::fs::copy(fixtures().join(&name), dir.path().join(&name)).unwrap();
    }
    let mut log = Log::open(dir.path(), config()).unwrap();
    assert_eq!((records(&log), log.torn_tail()), (wanted(), None));
    assert_eq!(log.append(b"next").unwrap(), Lsn(9));
    log.commit().unwrap();
}

/// The layout that `format` describes, counted by hand.
#[test]
fn a_segment_is_laid_out_as_described() {
    let bytes = std::fs::read(fixtures().join("00000000000000000003.seg")).unwrap();
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!((&bytes[..8], &bytes[8..12]), (b"POSTRLOG".as_slice(), [1, 0, 1, 0].as_slice()));
    assert_eq!((u64_at(16), u64_at(24)), (3, NONCE + 3));
    assert_eq!(u32_at(60), crc32fast::hash(&bytes[..60]));

    let group = 64;
    assert_eq!((u64_at(group), u64_at(group + 8)), (NONCE + 3, 64), "nonce and its own offset");
    assert_eq!((u64_at(group + 16), u64_at(group + 24)), (7, 6), "first and durable number");
    assert_eq!(u64_at(group + 32), 4, "first number that is still needed: the checkpoint's");
    assert_eq!((u32_at(group + 40), u32_at(group + 44), u32_at(group + 48)), (8 + 15 + 8 + 11, 2, 0));
    assert_eq!(u32_at(group + 52), crc32fast::hash(&bytes[group..group + 52]));

    let record = group + 56;
    assert_eq!(u32_at(record + 4), 15);
    assert_eq!(&bytes[record + 8..record + 23], b"a longer group:");
    let seed = (NONCE + 3) ^ 7;
    let mut crc = crc32fast::Hasher::new_with_initial((seed ^ (seed >> 32)) as u32);
    crc.update(&bytes[record + 4..record + 23]);
    assert_eq!(u32_at(record), crc.finalize());

    let marker = group + 104;
    assert_eq!((u64_at(marker), u64_at(marker + 16), u64_at(marker + 24)), (NONCE + 3, 9, 8));
    assert_eq!((u32_at(marker + 40), u32_at(marker + 44)), (0, 0), "the empty group of an orderly end");
    assert!(bytes[marker + 56..].iter().all(|byte| *byte == 0));
}
