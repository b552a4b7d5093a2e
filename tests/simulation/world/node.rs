//! The broker: one shard and one log on a simulated disk.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use engine::view::{Projector, live_places};
use engine::{
    Answer, AskId, CloseReason, Config, ConnId, FetchId, Input, Now, Output, Planted, Recovery, Shard, Ticket,
};
use protocol::Packet;
use storage::sim::{SimDisk, SimView};
use storage::{Log, LogConfig, Lsn, View};

use crate::simulation::plan::Plan;

/// What the broker does that others see.
#[derive(Debug)]
pub(super) enum Act {
    Send(ConnId, Packet),
    /// Whether it is for a silence.
    Close(ConnId, bool),
    Answered(AskId, Answer),
}

pub(in crate::simulation) struct Node {
    plan: Plan,
    pub(in crate::simulation) now: Now,
    disk: Arc<SimDisk>,
    log: Log<Arc<SimDisk>>,
    view: SimView,
    pub(in crate::simulation) shard: Shard,
    appended: Ticket,
    committed: Ticket,
    /// Records that the shard asked for and has not got yet.
    fetches: VecDeque<(FetchId, Vec<Ticket>)>,
    /// The power went in the middle of a write: only a restart helps.
    pub(super) is_dead: bool,
    pub(super) acts: Vec<Act>,
}

/// Small segments, so that a run crosses many.
fn log_config() -> LogConfig {
    LogConfig { segment_bytes: 16 * 1024, ..LogConfig::default() }
}

impl Node {
    pub(super) fn new(seed: u64, plan: Plan, unix_ms: u64) -> Self {
        let disk = Arc::new(SimDisk::new(seed));
        let log = Log::open_on(disk.clone(), log_config()).expect("an empty disk opens");
        let now = Now { monotonic_ms: 1, unix_ms };
        let shard =
            Shard::recover(config(&plan), seed, now, Recovery::of_log([])).expect("an empty log is right");
        let (appended, committed) = (Ticket(0), Ticket(0));
        let view = SimView::new(seed);
        let (fetches, acts) = (VecDeque::new(), Vec::new());
        let mut node =
            Self { plan, now, disk, log, view, shard, appended, committed, fetches, is_dead: false, acts };
        node.plant();
        node
    }

    fn plant(&mut self) {
        if self.plan.skips_sync {
            self.log.plant_skip_sync();
        }
    }

    pub(super) fn handle(&mut self, rng: &mut fastrand::Rng, input: Input) -> Result<(), String> {
        if self.is_dead {
            return Ok(());
        }
        self.shard.handle(self.now, input);
        self.pump(rng)
    }

    pub(super) fn tick(&mut self, rng: &mut fastrand::Rng) -> Result<(), String> {
        match self.shard.next_deadline_ms() {
            Some(due_ms) if due_ms <= self.now.monotonic_ms => self.handle(rng, Input::Timer),
            _ => Ok(()),
        }
    }

    /// Whether something is due that the shard was not told of.
    pub(super) fn is_due(&self) -> bool {
        self.shard.next_deadline_ms().is_some_and(|due_ms| due_ms <= self.now.monotonic_ms)
    }

    fn pump(&mut self, rng: &mut fastrand::Rng) -> Result<(), String> {
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Append { ticket, record } => {
                    if ticket.0 != self.appended.0 + 1 {
                        return Err(format!("record {} after {}", ticket.0, self.appended.0));
                    }
                    let appended = self.log.append(&record).map(drop);
                    self.survives(appended)?;
                    self.appended = ticket;
                    // The disk may be ahead of what the shard was told, in the middle of one input's records.
                    if rng.u8(..) < 16 {
                        let committed = self.log.commit().map(drop);
                        self.survives(committed)?;
                    }
                }
                Output::Send { conn, packet } => self.acts.push(Act::Send(conn, packet)),
                Output::Close { conn, reason } => {
                    let is_silent = matches!(reason, CloseReason::KeepAlive { .. });
                    self.acts.push(Act::Close(conn, is_silent));
                }
                Output::Answered { ask, answer } => self.acts.push(Act::Answered(ask, answer)),
                Output::Fetch { fetch, places } => self.fetches.push_back((fetch, places)),
            }
        }
        Ok(())
    }

    /// Reads what the shard asked for first.
    pub(in crate::simulation) fn fetch(&mut self, rng: &mut fastrand::Rng) -> Result<(), String> {
        let Some((fetch, places)) = self.fetches.pop_front() else {
            return Ok(());
        };
        let reader = self.log.reader();
        let records: Result<Vec<_>, _> = places.iter().map(|place| reader.read(Lsn(place.0))).collect();
        match records {
            Ok(records) => self.handle(rng, Input::Fetched { fetch, records }),
            Err(error) => self.survives(Err(error)),
        }
    }

    /// A failed write is the end of the process; only a power cut may make one fail.
    fn survives(&mut self, result: Result<(), storage::LogError>) -> Result<(), String> {
        match result {
            Err(error) if self.disk.has_power() => Err(format!("the log: {error}")),
            Err(_) => {
                self.is_dead = true;
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    pub(super) fn is_committed(&self) -> bool {
        self.committed == self.appended && self.fetches.is_empty()
    }

    pub(in crate::simulation) fn commit(&mut self, rng: &mut fastrand::Rng) -> Result<(), String> {
        if self.committed == self.appended || self.is_dead {
            return Ok(());
        }
        let committed = self.log.commit().map(drop);
        self.survives(committed)?;
        if self.is_dead {
            return Ok(());
        }
        self.committed = self.appended;
        self.handle(rng, Input::Committed { ticket: self.committed })
    }

    /// Takes the next records into the view, some or all.
    pub(in crate::simulation) fn project(&mut self, rng: &mut fastrand::Rng) -> Result<(), String> {
        let most = if rng.bool() { usize::MAX } else { rng.usize(1..20) };
        let (mut projector, mut last) = (Projector::new(), None);
        let from = Lsn(self.view.applied().0 + 1);
        if self.is_dead || self.log.reader().committed() < from {
            return Ok(());
        }
        let records = self.log.reader().replay_from(from).map_err(|e| format!("replay: {e}"))?;
        for record in records.take(most) {
            let (lsn, record) = record.map_err(|e| format!("replay: {e}"))?;
            projector.push(Ticket(lsn.0), &record).map_err(|e| format!("project: {e:?}"))?;
            last = Some(lsn);
        }
        let Some(last) = last else { return Ok(()) };
        let rows = projector.flush(get_from(&self.view)).map_err(|e| format!("project: {e:?}"))?;
        if rng.u8(..) < 8 {
            self.view.cut_power(1);
        }
        // A view that fails is the end of the process.
        self.is_dead |= self.view.write(rows, last).is_err();
        Ok(())
    }

    /// Writes some neighbouring segments anew; says whether there were any.
    pub(in crate::simulation) fn rewrite(&mut self, rng: &mut fastrand::Rng) -> Result<bool, String> {
        let sealed = self.log.sealed();
        if sealed.is_empty() || self.is_dead {
            return Ok(false);
        }
        let first = rng.usize(0..sealed.len());
        let last = rng.usize(first..sealed.len().min(first + 4));
        let (from, next) = (Ticket(sealed[first].first.0), Ticket(sealed[last].next.0));
        // What the view has not taken in is still the only copy.
        if next.0 > self.view.applied().0 + 1 {
            return Ok(false);
        }
        let live: BTreeSet<_> = live_places(from, next, get_from(&self.view))
            .map_err(|e| format!("live places: {e}"))?
            .into_iter()
            .collect();
        let ids = sealed[first].id..=sealed[last].id;
        let rewritten = self.log.reader().rewrite(ids, |lsn, _| live.contains(&Ticket(lsn.0)));
        let swapped = rewritten.and_then(|rewritten| self.log.swap(rewritten)).map(drop);
        self.survives(swapped)?;
        Ok(true)
    }

    /// Lets the power go in the middle of the `nth` change of the disk from now.
    pub(in crate::simulation) fn cut_power(&mut self, nth: u64) {
        self.disk.cut_power(nth);
    }

    /// The power goes, and comes back: the disk keeps what was synced and some of the rest.
    pub(super) fn restart(&mut self, rng: &mut fastrand::Rng) -> Result<(), String> {
        self.acts.clear();
        self.fetches.clear();
        let before = self.disk.clone();
        self.disk = Arc::new(before.crash(rng));
        self.log =
            Log::open_on(self.disk.clone(), log_config()).map_err(|e| format!("open after a crash: {e}"))?;
        self.plant();
        self.view = self.view.crash(rng);
        let applied = self.view.applied();
        self.log.check_view(applied).map_err(|e| format!("after a crash: {e}"))?;
        let rows: Result<Vec<_>, _> = self.view.scan(b"").collect();
        let rows = rows.map_err(|e| format!("read the view: {e}"))?;
        let records = replay(&self.log, Lsn(applied.0 + 1))?;
        self.now.monotonic_ms = 1;
        let seed = rng.u64(..);
        let next = Ticket(self.log.next_lsn().0);
        let (rows, applied, records) = (rows.into_iter(), Ticket(applied.0), records.into_iter());
        let from = Recovery { rows, applied, records, next };
        let shard = Shard::recover(config(&self.plan), seed, self.now, from);
        self.shard = shard.map_err(|e| format!("recover: {e}"))?;
        (self.appended, self.committed) = (Ticket(next.0 - 1), Ticket(next.0 - 1));
        self.is_dead = false;
        self.pump(rng)
    }

    /// One bit of what is on the disk now turns over, on a copy: opening it must say so, or find nothing
    /// but what was written.
    pub(in crate::simulation) fn flip_a_bit(&mut self, rng: &mut fastrand::Rng) -> Result<bool, String> {
        let damaged = self.disk.crash(rng);
        let whole = Arc::new(damaged.crash(rng));
        let log = Log::open_on(whole, log_config()).map_err(|e| format!("open a copy: {e}"))?;
        let written = replay(&log, Lsn(1))?;
        let names = damaged.names();
        let name = names.get(rng.usize(0..names.len().max(1))).ok_or("an empty disk")?.clone();
        let mut bytes = damaged.read(&name).ok_or("a file that is listed is there")?;
        if bytes.is_empty() {
            return Ok(false);
        }
        let at = rng.usize(0..bytes.len());
        bytes[at] ^= 1 << rng.u8(0..8);
        damaged.overwrite(&name, bytes);
        let Ok(log) = Log::open_on(Arc::new(damaged), log_config()) else {
            return Ok(true);
        };
        let Ok(found) = replay(&log, Lsn(1)) else {
            return Ok(true);
        };
        if !written.starts_with(&found) {
            return Err(format!("a flipped bit at {at} of {name} gave other records without a word"));
        }
        if found.len() < written.len() && log.torn_tail().is_none() {
            return Err(format!("a flipped bit at {at} of {name} took records without a word"));
        }
        Ok(found.len() < written.len())
    }
}

/// Rows of a view that can be read.
fn get_from(view: &SimView) -> impl FnMut(&[u8]) -> Option<protocol::Bytes> {
    |key| view.get(key).ok().flatten()
}

fn replay(log: &Log<Arc<SimDisk>>, from: Lsn) -> Result<Vec<(Ticket, protocol::Bytes)>, String> {
    let records = log.replay_from(from).map_err(|e| format!("replay: {e}"))?;
    records
        .map(|r| r.map(|(lsn, record)| (Ticket(lsn.0), record)).map_err(|e| format!("replay: {e}")))
        .collect()
}

fn config(plan: &Plan) -> Config {
    let mut config = Config::default();
    config.conversations.iter_mut().for_each(|rule| rule.retention = plan.retention);
    Config {
        planted: plan.planted,
        bodies_bytes_max: plan.bodies_bytes_max,
        poison_after: plan.poison_after,
        receipts_listed_max: plan.receipts_listed_max,
        session_expiry_max_s: u32::MAX,
        // So few that most messages go out in portions.
        recipients_per_portion: 1,
        ..config
    }
}

/// Which mistake a node makes, for the trace.
pub(super) fn planted_name(planted: Option<Planted>) -> String {
    planted.map_or_else(|| "none".to_owned(), |bug| format!("{bug:?}"))
}
