//! Damaged files: whatever happened to them, opening refuses with a clear error, or gives back records from the
//! front that are exactly what was written. It never panics and never makes anything up.

use std::collections::BTreeMap;

use crate::support::{Record, records};
use bytes::Bytes;
use fastrand::Rng;
use storage::sim::SimDisk;
use storage::{Disk, Log, LogConfig, LogError, OpenError};

const CASES: u64 = 20_000;

fn config() -> LogConfig {
    LogConfig { segment_bytes: 4096, record_bytes_max: 16 * 1024, ..LogConfig::default() }
}

/// Files with a checkpoint or a kept file, full segments and a current one; and what they hold.
fn written(is_rewritten: bool) -> (BTreeMap<String, Vec<u8>>, Vec<Record>) {
    let disk = SimDisk::new(1);
    let mut log = Log::open_on(disk.clone(), config()).unwrap();
    log.append(b"replaced").unwrap();
    log.checkpoint((1..4).map(|number: u8| Bytes::from(vec![number; 100]))).unwrap();
    for number in 0..60_u8 {
        log.append(&vec![number; usize::from(number) * 8]).unwrap();
        if number % 3 == 0 {
            log.commit().unwrap();
        }
    }
    log.commit().unwrap();
    if is_rewritten {
        let ids = log.sealed()[0].id..=log.sealed()[2].id;
        let rewritten = log.reader().rewrite(ids, |lsn, _| lsn.0 % 3 > 0).unwrap();
        assert!(log.swap(rewritten).unwrap());
    }
    let wanted = records(&log);
    log.close().unwrap();
    let files = disk.list().unwrap().into_iter().map(|name| (name.clone(), disk.read(&name).unwrap()));
    (files.collect(), wanted)
}

fn damage(rng: &mut Rng, files: &mut BTreeMap<String, Vec<u8>>) {
    let names: Vec<_> = files.keys().cloned().collect();
    let (name, other) = (&names[rng.usize(0..names.len())], &names[rng.usize(0..names.len())]);
    let source = files[other].clone();
    let bytes = files.get_mut(name).unwrap();
    let from = rng.usize(0..bytes.len());
    let length = (1 << rng.usize(0..12)).min(bytes.len() - from);
    match rng.u32(0..7) {
        0 => bytes[from] ^= 1 << rng.u32(0..8),
        1 => rng.fill(&mut bytes[from..from + length]),
        2 => bytes[from..from + length].fill(0),
        3 => bytes.truncate(from),
        // Old or foreign content, as after a misdirected write.
        4 => {
            let at = rng.usize(0..source.len()) & !511;
            let length = length.min(source.len() - at);
            bytes[from..from + length].copy_from_slice(&source[at..at + length]);
        }
        5 => bytes.extend((0..length).map(|_| rng.u8(..))),
        _ => {
            files.remove(name);
        }
    }
}

#[test]
fn damaged_files_are_refused_or_give_a_true_prefix() {
    let (plain, rewritten) = (written(false), written(true));
    assert_eq!((plain.0.len(), rewritten.0.len()), (7, 5), "{:?} {:?}", plain.0.keys(), rewritten.0.keys());
    let (mut refused, mut told) = (0, 0);
    for seed in 0..CASES {
        let (good, wanted) = &if seed % 2 == 0 { &plain } else { &rewritten };
        let mut rng = Rng::with_seed(seed);
        let mut files = good.clone();
        for _ in 0..rng.usize(1..4) {
            if files.len() > 1 {
                damage(&mut rng, &mut files);
            }
        }
        let disk = SimDisk::new(seed);
        for (name, bytes) in &files {
            disk.overwrite(name, bytes.clone());
        }
        match Log::open_on(disk.clone(), config()) {
            Ok(log) => {
                // Full segments are read only when their records are.
                let mut found: Vec<Record> = Vec::new();
                for record in log.replay().unwrap() {
                    match record {
                        Ok((lsn, bytes)) => found.push((lsn.0, bytes.to_vec())),
                        Err(LogError::Corrupt { .. }) => told += 1,
                        Err(error) => panic!("seed {seed}: {error}"),
                    }
                }
                assert_eq!(found, wanted[..found.len()], "seed {seed}");
            }
            Err(OpenError::Corrupt { .. }) => {
                refused += 1;
                for (name, bytes) in &files {
                    assert_eq!(disk.read(name).as_ref(), Some(bytes), "seed {seed}: {name} was changed");
                }
            }
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    assert!(refused > CASES / 4 && told > CASES / 8 && refused + told > CASES / 2, "{refused} {told}");
}

#[test]
fn a_payload_that_imitates_groups_is_only_a_payload() {
    let disk = SimDisk::new(9);
    let mut log = Log::open_on(disk.clone(), config()).unwrap();
    log.append(b"first").unwrap();
    log.commit().unwrap();
    // What a client could know at best: how groups look, not the nonce of this file.
    let other = SimDisk::new(10);
    let mut forged = Log::open_on(other.clone(), config()).unwrap();
    for _ in 0..20 {
        forged.append(b"forged").unwrap();
        forged.commit().unwrap();
    }
    drop(forged);
    let payload = other.read("00000000000000000001.seg").unwrap()[64..2064].to_vec();
    log.append(&payload).unwrap();
    log.append(b"last").unwrap();
    log.commit().unwrap();
    drop(log);
    let name = "00000000000000000001.seg";
    let mut bytes = disk.read(name).unwrap();
    let group_at = 64 + 72;
    bytes[group_at + 56] ^= 1;
    disk.overwrite(name, bytes);
    let log = Log::open_on(disk, config()).unwrap();
    assert_eq!(
        records(&log),
        [(1, b"first".to_vec())],
        "the last group was torn, the forged ones prove nothing"
    );
}
