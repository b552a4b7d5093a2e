//! The bytes on disk, held against files that were written once and are kept: what any version wrote must be
//! read for ever, and what is written must not change without a new version.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::{Record, records, rewrite_all};
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

/// What the files of each version hold.
fn wanted(version: u16) -> Vec<Record> {
    let mut wanted = vec![
        (4, b"state".to_vec()),
        (5, vec![]),
        (6, vec![0xaa; 4000]),
        (7, b"a longer group:".to_vec()),
        (8, b"two records".to_vec()),
    ];
    if version > 1 {
        // Rewriting the checkpoint and the first full segment left it out.
        wanted.remove(1);
    }
    wanted
}

/// A kept file in the place of a checkpoint and a full segment, a segment that is written to and closed in order, and
/// a spare.
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
    let ids = log.sealed()[0].id..=log.sealed()[1].id;
    let rewritten = log.reader().rewrite(ids, |lsn, _| lsn != Lsn(5)).unwrap();
    assert!(log.swap(rewritten).unwrap());
    assert_eq!(records(&log), wanted(2));
    log.close().unwrap();
    disk
}

fn fixtures(version: u16) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/v{version}"))
}

fn fixture_names(version: u16) -> Vec<String> {
    let entries = std::fs::read_dir(fixtures(version)).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_files_written_are_those_of_version_2_byte_for_byte() {
    let disk = write_log();
    if std::env::var_os(WRITE).is_some() {
        std::fs::create_dir_all(fixtures(2)).unwrap();
        for name in disk.list().unwrap() {
            std::fs::write(fixtures(2).join(&name), disk.read(&name).unwrap()).unwrap();
        }
    }
    assert_eq!(disk.list().unwrap(), fixture_names(2));
    for name in fixture_names(2) {
        let (written, kept) = (disk.read(&name).unwrap(), std::fs::read(fixtures(2).join(&name)).unwrap());
        let difference = written.iter().zip(&kept).position(|(written, kept)| written != kept);
        assert_eq!((difference, written.len()), (None, kept.len()), "{name}");
    }
}

#[test]
fn the_files_of_every_version_are_read_and_go_on() {
    for version in [1, 2] {
        let dir = tempdir().unwrap();
        for name in fixture_names(version) {
            std::fs::copy(fixtures(version).join(&name), dir.path().join(&name)).unwrap();
        }
        let mut log = Log::open(dir.path(), config()).unwrap();
        assert_eq!((records(&log), log.torn_tail()), (wanted(version), None), "version {version}");
        for number in 9..40 {
            assert_eq!(log.append(&[number as u8; 500]).unwrap(), Lsn(number));
            log.commit().unwrap();
        }
        let rewritten = rewrite_all(&log, |lsn| lsn % 2 == 0).unwrap();
        assert!(log.swap(rewritten).unwrap());
        let left = records(&log);
        assert!(left.starts_with(&[(4, b"state".to_vec()), (6, vec![0xaa; 4000])]), "version {version}");
        drop(log);
        assert_eq!(records(&Log::open(dir.path(), config()).unwrap()), left, "version {version}");
    }
}

/// The layout that `format` describes, counted by hand.
#[test]
fn a_segment_is_laid_out_as_described() {
    let bytes = std::fs::read(fixtures(2).join("00000000000000000003.seg")).unwrap();
    assert_eq!((&bytes[..8], &bytes[8..12]), (b"POSTRLOG".as_slice(), [2, 0, 1, 0].as_slice()));
    assert_eq!((u64_at(&bytes, 16), u64_at(&bytes, 24)), (3, NONCE + 3));
    assert!(bytes[32..60].iter().all(|byte| *byte == 0));
    assert_eq!(u32_at(&bytes, 60), crc32fast::hash(&bytes[..60]));

    let group = 64;
    assert_eq!(
        (u64_at(&bytes, group), u64_at(&bytes, group + 8)),
        (NONCE + 3, 64),
        "nonce and its own offset"
    );
    assert_eq!((u64_at(&bytes, group + 16), u64_at(&bytes, group + 24)), (7, 6), "first and durable number");
    assert_eq!(u64_at(&bytes, group + 32), 4, "first number that is still needed: the checkpoint's");
    assert_eq!(u32_at(&bytes, group + 40), 8 + 15 + 8 + 11);
    assert_eq!((u32_at(&bytes, group + 44), u32_at(&bytes, group + 48)), (2, 0));
    assert_eq!(u32_at(&bytes, group + 52), crc32fast::hash(&bytes[group..group + 52]));

    let record = group + 56;
    assert_eq!(u32_at(&bytes, record + 4), 15);
    assert_eq!(&bytes[record + 8..record + 23], b"a longer group:");
    assert_eq!(u32_at(&bytes, record), seeded_crc((NONCE + 3) ^ 7, &bytes[record + 4..record + 23]));

    let marker = group + 104;
    assert_eq!((u64_at(&bytes, marker), u64_at(&bytes, marker + 16)), (NONCE + 3, 9));
    assert_eq!(u64_at(&bytes, marker + 24), 8);
    assert_eq!((u32_at(&bytes, marker + 40), u32_at(&bytes, marker + 44)), (0, 0), "an orderly end");
    assert!(bytes[marker + 56..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_kept_file_and_its_footer_are_laid_out_as_described() {
    let bytes = std::fs::read(fixtures(2).join("00000000000000000002.kept")).unwrap();
    let nonce = u64_at(&bytes, 24);
    assert_eq!((&bytes[8..12], u64_at(&bytes, 16)), ([2, 0, 3, 0].as_slice(), 2));
    assert_eq!((u64_at(&bytes, 32), u64_at(&bytes, 40), u64_at(&bytes, 48)), (0, 4, 7), "what it replaces");

    let group = 64;
    assert_eq!((u64_at(&bytes, group), u64_at(&bytes, group + 16)), (nonce, 4));
    assert_eq!((u32_at(&bytes, group + 44), u32_at(&bytes, group + 48)), (2, 4), "two records, sparse");
    let first = group + 56;
    assert_eq!((u32_at(&bytes, first + 4), u32_at(&bytes, first + 8)), (4 + 5, 0));
    assert_eq!(&bytes[first + 12..first + 17], b"state");
    let second = first + 17;
    assert_eq!((u32_at(&bytes, second + 4), u32_at(&bytes, second + 8)), (4 + 4000, 2), "record 6");
    let second_end = second + 12 + 4000;
    assert_eq!(u32_at(&bytes, second), seeded_crc(nonce ^ 6, &bytes[second + 4..second_end]));

    let footer = second_end.next_multiple_of(8);
    assert_eq!((u64_at(&bytes, footer), u64_at(&bytes, footer + 8)), (nonce, footer as u64));
    assert_eq!((u64_at(&bytes, footer + 16), u64_at(&bytes, footer + 24)), (7, 6), "next and durable number");
    assert_eq!((u32_at(&bytes, footer + 44), u32_at(&bytes, footer + 48)), (0, 2), "no records, a footer");
    let index = footer + 56;
    assert_eq!((u64_at(&bytes, index), u64_at(&bytes, index + 8)), (4, 64), "the only entry");
    assert_eq!(u64_at(&bytes, index + 16), 2, "records");
    assert_eq!((u64_at(&bytes, index + 24), u32_at(&bytes, index + 32)), (footer as u64, 1));
    assert_eq!(u32_at(&bytes, index + 36), seeded_crc(nonce ^ footer as u64, &bytes[index..index + 36]));
    assert_eq!(bytes.len(), index + 40);
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn seeded_crc(seed: u64, bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial((seed ^ (seed >> 32)) as u32);
    crc.update(bytes);
    crc.finalize()
}
