//! The log on a simulated disk: random work, crashes at any operation, full disks, failing syncs; and a model
//! that knows what must be there.
//!
//! A failing seed is printed and can be run alone: `STORAGE_SEED=7 cargo test -p postrider-storage --test
//! simulation`; `STORAGE_SEEDS=100000` runs that many.

use std::collections::{BTreeSet, VecDeque};

use crate::support::{Record, records};
use bytes::Bytes;
use fastrand::Rng;
use storage::sim::SimDisk;
use storage::{Durability, Log, LogConfig, LogError, Lsn, Rewritten};

const SEEDS: u64 = 3000;
const STEPS: u32 = 60;

/// What a log must hold: `synced`, then `written`, then `loose`, consecutive.
#[derive(Clone, Debug, Default)]
struct Model {
    /// Must be there after anything.
    synced: VecDeque<Record>,
    /// Must be there after the end of the process.
    written: VecDeque<Record>,
    /// Appended only: a part from the front may be there.
    loose: VecDeque<Record>,
    /// Records below may be gone.
    dropped_below: u64,
    /// The number that was given last, of those that are `synced`.
    synced_lsn: u64,
}

impl Model {
    fn commit(&mut self, durability: Durability) {
        self.written.append(&mut self.loose);
        if durability == Durability::Power {
            self.sync();
        }
    }

    fn sync(&mut self) {
        self.synced.append(&mut self.written);
        self.synced_lsn = self.synced.back().map_or(self.synced_lsn, |last| last.0.max(self.synced_lsn));
    }

    /// Says what is wrong with what was found.
    fn check(&self, found: &[Record], next_lsn: u64, is_power_cut: bool) -> Result<(), String> {
        let first = found.first().map_or(next_lsn, |record| record.0);
        let mut wanted = self.synced.iter().chain(&self.written).chain(&self.loose);
        let mut next = wanted.next();
        while let Some(record) = next
            && record.0 < first.min(self.dropped_below)
        {
            next = wanted.next();
        }
        for record in found {
            if next != Some(record) {
                return Err(format!("found record {}, wanted {:?}", record.0, next.map(|record| record.0)));
            }
            next = wanted.next();
        }
        let written = if is_power_cut { None } else { self.written.back() };
        if let (Some(last), Some(next)) = (written.or(self.synced.back()), next)
            && last.0 >= next.0.max(self.dropped_below)
        {
            return Err(format!("records {} to {} were committed and are lost", next.0, last.0));
        }
        if next_lsn <= self.synced_lsn || found.last().is_some_and(|last| last.0 >= next_lsn) {
            return Err(format!("the next number is {next_lsn}, {} was given before", self.synced_lsn));
        }
        Ok(())
    }
}

/// How often what was met, so that a test can see that it met it at all.
#[derive(Debug, Default)]
struct Counts {
    power_cuts: u64,
    kills: u64,
    torn: u64,
    full: u64,
    failed_syncs: u64,
    checkpoints: u64,
    cut_checkpoints: u64,
    drops: u64,
    rewrites: u64,
    cut_rewrites: u64,
    late_rewrites: u64,
    reads: u64,
}

struct World<'a> {
    rng: Rng,
    disk: SimDisk,
    config: LogConfig,
    log: Option<Log<SimDisk>>,
    model: Model,
    /// What it may be instead: a checkpoint or a rewriting was under way when the power ended.
    replaced: Option<Model>,
    /// Made aside and not in its place yet, with what it leaves out.
    rewritten: Option<(Rewritten, BTreeSet<u64>)>,
    skips_sync: bool,
    counts: &'a mut Counts,
}

impl<'a> World<'a> {
    fn new(seed: u64, durability: Durability, counts: &'a mut Counts) -> Self {
        let mut rng = Rng::with_seed(seed);
        let bytes_max = (rng.u32(0..4) == 0).then(|| rng.u64(4096..64 * 1024));
        let config = LogConfig {
            segment_bytes: 4096,
            durability,
            record_bytes_max: 16 * 1024,
            bytes_max,
            keeps_reserve: seed.is_multiple_of(2),
        };
        let disk = SimDisk::new(rng.u64(..));
        let model = Model { dropped_below: 1, ..Model::default() };
        Self {
            rng,
            disk,
            config,
            log: None,
            model,
            replaced: None,
            rewritten: None,
            skips_sync: false,
            counts,
        }
    }

    fn run(mut self) -> Result<(), String> {
        self.open(false)?;
        for _ in 0..STEPS {
            self.step()?;
        }
        self.counts.power_cuts += 1;
        self.crash();
        self.open(true)
    }

    /// Opens, checks, and takes over what is there.
    fn open(&mut self, is_power_cut: bool) -> Result<(), String> {
        let mut is_power_cut = is_power_cut;
        let log = loop {
            match Log::open_on(self.disk.clone(), self.config.clone()) {
                Ok(log) => break log,
                Err(storage::OpenError::Io { source, .. }) if source.to_string().starts_with("simulated") => {
                    is_power_cut = true;
                    self.crash();
                }
                Err(error) => return Err(format!("does not open: {error}")),
            }
        };
        self.counts.torn += u64::from(log.torn_tail().is_some());
        let (found, next_lsn) = (records(&log), log.next_lsn().0);
        let checked = self.model.check(&found, next_lsn, is_power_cut);
        if let Err(error) = checked {
            match self.replaced.take().map(|replaced| replaced.check(&found, next_lsn, is_power_cut)) {
                Some(Ok(())) => {}
                Some(Err(other)) => return Err(format!("{error}; as replaced: {other}")),
                None => return Err(error),
            }
        }
        // Opening syncs what it found: from now on all of it must stay.
        self.model.synced = found.into();
        self.model.synced_lsn = next_lsn - 1;
        self.model.written.clear();
        self.model.loose.clear();
        self.replaced = None;
        self.rewritten = None;
        let mut log = log;
        if self.skips_sync {
            log.plant_skip_sync();
        }
        self.log = Some(log);
        Ok(())
    }

    fn crash(&mut self) {
        self.log = None;
        self.disk = self.disk.crash(&mut self.rng);
        if self.rng.bool() {
            self.disk.set_capacity_bytes(None);
        }
        if self.rng.u32(0..4) == 0 {
            self.disk.cut_power(self.rng.u64(1..20));
        }
    }

    fn step(&mut self) -> Result<(), String> {
        let mut log = self.log.take().expect("open between steps");
        let result = match self.rng.u32(0..100) {
            0..45 => self.append(&mut log),
            45..50 if self.rewritten.is_none() => return self.rewrite(log),
            45..50 => self.swap(&mut log),
            50..75 => self.commit(&mut log),
            75..80 => self.drop_before(&mut log),
            80..85 => self.checkpoint(&mut log),
            85..88 => self.limit(&mut log),
            88..91 => {
                self.disk.cut_power(self.rng.u64(1..12));
                Ok(())
            }
            91..93 => {
                self.disk.fail_sync(self.rng.u64(1..5));
                Ok(())
            }
            93..96 => return self.kill(log),
            96..98 => {
                drop(log);
                self.counts.power_cuts += 1;
                self.crash();
                return self.open(true);
            }
            _ => return self.close(log),
        };
        match result {
            Ok(()) => {
                self.check_size(&log)?;
                self.check_read(&log)?;
                self.log = Some(log);
                Ok(())
            }
            Err(error @ (LogError::Io { .. } | LogError::Poisoned { .. })) => {
                self.fail(log, &error.to_string())
            }
            Err(error) => Err(format!("unexpected: {error}")),
        }
    }

    /// Whatever failed: the log must take nothing more, and what it holds must be found after a restart.
    fn fail(&mut self, mut log: Log<SimDisk>, why: &str) -> Result<(), String> {
        let again = log.commit();
        if !matches!(again, Err(LogError::Poisoned { .. })) {
            return Err(format!("a failure is forgotten: {again:?}"));
        }
        if why.contains("simulated sync failure") {
            self.counts.failed_syncs += 1;
            return self.kill(log);
        }
        drop(log);
        self.counts.power_cuts += 1;
        self.crash();
        self.open(true)
    }

    fn append(&mut self, log: &mut Log<SimDisk>) -> Result<(), LogError> {
        let length = match self.rng.u32(0..40) {
            0 => self.rng.usize(3_900..12_000),
            1..10 => 0,
            _ => self.rng.usize(1..600),
        };
        // Half of the records are zeros: what could be taken for the end.
        let mut record = vec![0; length];
        if self.rng.bool() {
            self.rng.fill(&mut record);
        }
        let expected = log.next_lsn();
        match log.append(&record) {
            Ok(lsn) => {
                assert_eq!(lsn, expected);
                self.model.loose.push_back((lsn.0, record));
                Ok(())
            }
            Err(LogError::Full { .. }) => {
                self.counts.full += 1;
                assert_eq!(log.next_lsn(), expected);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn commit(&mut self, log: &mut Log<SimDisk>) -> Result<(), LogError> {
        let lsn = log.commit()?;
        self.model.commit(self.config.durability);
        assert_eq!(lsn.0 + 1, log.next_lsn().0);
        Ok(())
    }

    fn drop_before(&mut self, log: &mut Log<SimDisk>) -> Result<(), LogError> {
        let below = log.next_lsn().0.saturating_sub(self.rng.u64(0..30));
        self.model.dropped_below = self.model.dropped_below.max(below);
        self.counts.drops += 1;
        log.drop_before(Lsn(below))
    }

    fn checkpoint(&mut self, log: &mut Log<SimDisk>) -> Result<(), LogError> {
        let new: Vec<_> =
            (0..self.rng.usize(0..30)).map(|_| vec![self.rng.u8(..); self.rng.usize(0..2000)]).collect();
        let first = log.next_lsn().0;
        let mut replaced = Model { dropped_below: self.model.dropped_below, ..Model::default() };
        replaced.synced = (first..).zip(new.iter().cloned()).collect();
        replaced.synced_lsn = first - 1 + new.len() as u64;
        self.replaced = Some(replaced.clone());
        let result = log.checkpoint(new.into_iter().map(Bytes::from));
        match result {
            Ok(()) => {
                self.model = replaced;
                self.counts.checkpoints += 1;
            }
            Err(LogError::NoSpace { .. }) => {
                self.counts.full += 1;
                self.model.commit(Durability::Power);
            }
            Err(error) => {
                self.counts.cut_checkpoints += 1;
                return Err(error);
            }
        }
        self.replaced = None;
        Ok(())
    }

    /// Makes a file of some of the full segments, which leaves out some of their records; does not use it yet.
    fn rewrite(&mut self, log: Log<SimDisk>) -> Result<(), String> {
        let sealed = log.sealed();
        if sealed.is_empty() {
            self.log = Some(log);
            return Ok(());
        }
        let (from, count) = (self.rng.usize(0..sealed.len()), self.rng.usize(1..4));
        let chosen = &sealed[from..sealed.len().min(from + count)];
        let kept_of_8 = self.rng.u32(0..=8);
        let (rng, mut left_out) = (&mut self.rng, BTreeSet::new());
        let result = log.reader().rewrite(chosen[0].id..=chosen[chosen.len() - 1].id, |lsn, _| {
            let keeps = rng.u32(0..8) < kept_of_8;
            if !keeps {
                left_out.insert(lsn.0);
            }
            keeps
        });
        match result {
            Ok(rewritten) => self.rewritten = Some((rewritten, left_out)),
            Err(LogError::NoSpace { .. }) => self.counts.full += 1,
            // The log has nothing to do with it.
            Err(LogError::Io { source, .. }) if source.to_string().contains("sync failure") => {}
            Err(LogError::Io { source, .. }) if source.to_string().contains("power cut") => {
                drop(log);
                self.counts.power_cuts += 1;
                self.crash();
                return self.open(true);
            }
            Err(error) => return Err(format!("rewriting: {error}")),
        }
        self.log = Some(log);
        Ok(())
    }

    /// Puts it in its place, which may be gone by now.
    fn swap(&mut self, log: &mut Log<SimDisk>) -> Result<(), LogError> {
        let Some((rewritten, left_out)) = self.rewritten.take() else { return Ok(()) };
        let mut replaced = self.model.clone();
        // Dropping commits, too: what is loose here may be in a full segment.
        for records in [&mut replaced.synced, &mut replaced.written, &mut replaced.loose] {
            records.retain(|record| !left_out.contains(&record.0));
        }
        self.replaced = Some(replaced.clone());
        match log.swap(rewritten) {
            Ok(true) => {
                self.model = replaced;
                self.counts.rewrites += 1;
            }
            Ok(false) => self.counts.late_rewrites += 1,
            Err(error) => {
                self.counts.cut_rewrites += 1;
                return Err(error);
            }
        }
        self.replaced = None;
        Ok(())
    }

    /// A reader sees what was committed, and nothing else.
    fn check_read(&mut self, log: &Log<SimDisk>) -> Result<(), String> {
        let lsn = self.rng.u64(1..log.next_lsn().0 + 2);
        let read = match log.reader().read(Lsn(lsn)) {
            Ok(read) => read,
            Err(error) if error.to_string().contains("power cut") => return Ok(()),
            Err(error) => return Err(format!("reading {lsn}: {error}")),
        };
        let wanted = self.model.synced.iter().chain(&self.model.written).find(|record| record.0 == lsn);
        let is_right = match (&read, wanted) {
            (Some(read), Some(wanted)) => *read == wanted.1,
            (None, None) => true,
            (None, Some(_)) => lsn < self.model.dropped_below,
            // Dropping commits, too, without saying so.
            (Some(read), None) => self.model.loose.iter().any(|record| *record == (lsn, read.to_vec())),
        };
        self.counts.reads += u64::from(read.is_some());
        if is_right { Ok(()) } else { Err(format!("reading {lsn} gives {:?}", read.map(|read| read.len()))) }
    }

    /// Fills the disk, or gives it space.
    fn limit(&mut self, log: &mut Log<SimDisk>) -> Result<(), LogError> {
        let is_full = self.rng.bool();
        self.disk.set_capacity_bytes(is_full.then(|| self.disk.used_bytes() + self.rng.u64(0..6000)));
        log.retry_space();
        // Which does not tell whether it failed.
        self.commit(log)
    }

    fn kill(&mut self, log: Log<SimDisk>) -> Result<(), String> {
        drop(log);
        self.counts.kills += 1;
        self.open(false)
    }

    fn close(&mut self, log: Log<SimDisk>) -> Result<(), String> {
        if log.close().is_ok() {
            self.model.commit(Durability::Power);
        }
        self.open(false)
    }

    /// What the log says of its size is true.
    fn check_size(&self, log: &Log<SimDisk>) -> Result<(), String> {
        let aside = self.rewritten.as_ref().map_or(0, |(rewritten, _)| rewritten.bytes());
        let reserve = self.disk.read("log.reserve").map_or(0, |bytes| bytes.len() as u64);
        let (said, used) = (log.disk_bytes(), self.disk.used_bytes() - aside - reserve);
        if said != used || log.bytes() > said {
            return Err(format!(
                "the files take {used} bytes, the log says {said}, {} of them used",
                log.bytes()
            ));
        }
        Ok(())
    }
}

fn seeds() -> Vec<u64> {
    if let Ok(seeds) = std::env::var("STORAGE_SEEDS") {
        return (0..seeds.parse().expect("STORAGE_SEEDS is a number")).collect();
    }
    match std::env::var("STORAGE_SEED") {
        Ok(seed) => vec![seed.parse().expect("STORAGE_SEED is a number")],
        Err(_) => (0..SEEDS).collect(),
    }
}

fn run(durability: Durability) -> Counts {
    let mut counts = Counts::default();
    for seed in seeds() {
        if let Err(error) = World::new(seed, durability, &mut counts).run() {
            panic!("seed {seed}, {durability:?}: {error}");
        }
    }
    counts
}

#[test]
fn with_power_durability_nothing_committed_is_lost_and_the_log_always_opens() {
    let counts = run(Durability::Power);
    println!("{counts:?}");
    if seeds().len() > 1 {
        let Counts { power_cuts, kills, torn, full, failed_syncs, drops, reads, .. } = counts;
        let Counts { checkpoints, cut_checkpoints, rewrites, cut_rewrites, late_rewrites, .. } = counts;
        let all = [power_cuts, kills, torn, full, failed_syncs, drops, reads];
        let replacing = [checkpoints, cut_checkpoints, rewrites, cut_rewrites, late_rewrites];
        assert!(replacing.iter().all(|met| *met > 100), "hardly tested: {replacing:?}");
        assert!(all.iter().all(|met| *met > 100), "hardly tested: {all:?}");
    }
}

#[test]
fn with_process_durability_the_end_of_the_process_loses_nothing_and_a_power_cut_leaves_a_prefix() {
    run(Durability::Process);
}

#[test]
fn the_simulation_finds_a_commit_that_does_not_sync() {
    let mut counts = Counts::default();
    let found = (0..SEEDS).find_map(|seed| {
        let mut world = World::new(seed, Durability::Power, &mut counts);
        world.skips_sync = true;
        world.run().err().map(|error| (seed, error))
    });
    let (seed, error) = found.expect("some seed loses a committed record");
    // A hole before a later commit is found by the log itself.
    assert!(error.contains("are lost") || error.contains("is damaged"), "seed {seed}: {error}");
    assert!(seed < 100, "found late, by seed {seed}");
}
