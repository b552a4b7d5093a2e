//! What is known of each network path, and the learning of the one in use.
//!
//! ```text
//!                probes answered                   bounds found
//!   unknown ───────────────────────▶ learning ───────────────────▶ settled
//!      │                               ▲ ▲ ▲                        │ │ │
//!      │ no answer, twice              │ │ └── a week has passed ───┘ │ │
//!      ▼                               │ └──── the bound fails ◀────┐ │ │
//!   stepping on the main connection ───┘        (second failure)    │ ▼ │
//!                                                             suspected ◀── the main connection died after a
//!                                                                   │       silence (first failure)
//!                                                                   └─────▶ settled: the bound was survived again
//! ```
//!
//! Invariants: where the broker answers probes, the main connection is never silent longer than 0.85 times what two
//! probes have survived, or than the floor; where it does not, one drop ends a search; of one path at most [`AT_ONCE_MAX`](super::search::AT_ONCE_MAX) probes are under way.

use std::collections::VecDeque;

use super::known::{KnownNetwork, NETWORKS_MAX};
use super::search::{Search, Way};
use super::{Action, ProbeOutcome};

/// The share of a proven silence that is used.
const MARGIN_PERCENT: u64 = 85;
/// After this long bounds are looked at again.
pub(crate) const RECHECK_MS: u64 = 7 * 24 * 3_600 * 1_000;
/// The silence by which a broker is asked whether it answers probes, seconds.
const CHECK_S: u32 = 1;
/// Checks without an answer after which it does not.
const CHECKS_MAX: u8 = 2;
/// Pauses after a probe that could not be made, each twice the last.
const PAUSE_MS_MIN: u64 = 5_000;
const PAUSE_MS_MAX: u64 = 300_000;
/// Probes in a row that could not be made, after which there are none.
const BROKEN_MAX: u32 = 8;
/// Failures of the main connection after which a bound that probes cannot check is learned anew.
const STRIKES_MAX: u8 = 2;

/// Where a connection goes, and what its CONNACK said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// The network's name, empty when it has none.
    pub net: String,
    /// The broker's address: the way to another one may have other timeouts.
    pub broker: String,
    /// The Keep Alive in force, seconds, 0 = none: the longest interval.
    pub keep_alive_s: u16,
    /// What others proved on this network (`im-keepalive`), seconds.
    pub hint_s: Option<u32>,
}

#[derive(Debug)]
struct Probe {
    id: u64,
    after_s: u32,
}

/// A bound that a failure has put in doubt.
#[derive(Debug)]
struct Suspected {
    search: Search,
    settled_ms: i64,
}

#[derive(Debug)]
struct Path {
    net: String,
    broker: String,
    floor_s: u32,
    search: Search,
    /// The bound that counts although it is being looked at again, 0 = none.
    adopted_s: u32,
    /// Whether the broker answers probes.
    has_probes: Option<bool>,
    checks_failed: u8,
    /// When the bounds were found; negative for another run of the program.
    settled_ms: Option<i64>,
    suspected: Option<Suspected>,
    strikes: u8,
}

/// Knows paths, and learns the one in use.
#[derive(Debug)]
pub(crate) struct Learner {
    floor_s: u32,
    ceiling_s: u32,
    /// Used last first; while `is_up` the first is in use.
    paths: Vec<Path>,
    is_up: bool,
    running: Vec<Probe>,
    /// Silences of probes that heard nothing: failures as soon as the main connection proves that the network is there.
    unproved: Vec<u32>,
    next_probe: u64,
    retry_at_ms: u64,
    broken: u32,
    pub(super) actions: VecDeque<Action>,
}

impl Learner {
    pub(crate) fn new(floor_s: u32, ceiling_s: u32, known: Vec<KnownNetwork>) -> Self {
        let paths = known.into_iter().take(NETWORKS_MAX).map(|known| Path::recall(known, floor_s, ceiling_s));
        Self {
            floor_s,
            ceiling_s,
            paths: paths.collect(),
            is_up: false,
            running: Vec::new(),
            unproved: Vec::new(),
            next_probe: 1,
            retry_at_ms: 0,
            broken: 0,
            actions: VecDeque::new(),
        }
    }

    /// What would be remembered over a restart.
    pub(crate) fn known(&self, now_ms: u64) -> Vec<KnownNetwork> {
        self.paths.iter().map(|path| path.known(now_ms)).collect()
    }

    pub(crate) fn connected(&mut self, now_ms: u64, accepted: Accepted) {
        let Accepted { net, broker, keep_alive_s, hint_s } = accepted;
        let ceiling_s = match u32::from(keep_alive_s) {
            0 => self.ceiling_s,
            keep_alive_s => self.ceiling_s.min(keep_alive_s),
        };
        let floor_s = self.floor_s.min(ceiling_s);
        let at = self.paths.iter().position(|path| path.net == net && path.broker == broker);
        let mut path = match at {
            Some(at) => self.paths.remove(at),
            None => Path::new(net, broker, floor_s, ceiling_s, hint_s),
        };
        path.limit(floor_s, ceiling_s, hint_s);
        if hint_s.is_some() {
            path.has_probes = Some(true);
        }
        self.paths.insert(0, path);
        self.paths.truncate(NETWORKS_MAX);
        self.is_up = true;
        (self.retry_at_ms, self.broken) = (now_ms, 0);
        self.plan(now_ms);
    }

    /// A byte came on the main connection, which proves that `survived_ms` of silence before were survived.
    pub(crate) fn received(&mut self, now_ms: u64, survived_ms: u64) {
        let Some(path) = self.paths.first_mut().filter(|_| self.is_up) else { return };
        // At the longest interval a PINGREQ is due by the Keep Alive, a round trip before the silence is whole.
        let is_whole = survived_ms.saturating_mul(100) >= path.interval_ms().saturating_mul(99);
        if path.way() == Way::Steps && is_whole {
            path.survived_step();
        } else if self.unproved.is_empty() {
            return;
        }
        for silence_s in self.unproved.drain(..) {
            path.search.failed(silence_s);
            // The second failure.
            path.suspected = None;
        }
        self.plan(now_ms);
    }

    pub(crate) fn probed(&mut self, now_ms: u64, id: u64, outcome: ProbeOutcome) {
        let Some(at) = self.running.iter().position(|probe| probe.id == id) else { return };
        let after_s = self.running.remove(at).after_s;
        let Some(path) = self.paths.first_mut().filter(|_| self.is_up) else { return };
        if matches!(outcome, ProbeOutcome::Broken | ProbeOutcome::Unsupported) {
            self.broken += 1;
            let pause_ms = PAUSE_MS_MIN << (self.broken - 1).min(6);
            self.retry_at_ms = now_ms + pause_ms.min(PAUSE_MS_MAX);
        } else {
            self.broken = 0;
        }
        match (path.has_probes, outcome) {
            (None, ProbeOutcome::Survived | ProbeOutcome::Spoiled { .. }) => {
                path.has_probes = Some(true);
                self.actions.push_back(Action::Learned);
            }
            (None, ProbeOutcome::Silent | ProbeOutcome::Unsupported) => path.checks_failed += 1,
            (_, ProbeOutcome::Survived) => {
                if path.survived(after_s) {
                    self.actions.push_back(Action::Learned);
                }
            }
            (_, ProbeOutcome::Silent) => {
                self.unproved.push(after_s);
                self.actions.push_back(Action::Ping);
            }
            // It proves nothing longer than it was silent.
            (_, ProbeOutcome::Spoiled { silent_s }) => path.search.survived(silent_s.min(after_s)),
            (_, ProbeOutcome::Broken | ProbeOutcome::Unsupported) => {}
        }
        if path.has_probes != Some(false) && (path.checks_failed >= CHECKS_MAX || self.broken >= BROKEN_MAX) {
            path.has_probes = Some(false);
            self.actions.push_back(Action::Learned);
        }
        self.plan(now_ms);
    }

    /// The main connection ended. `risked_ms` is the silence before what was sent last, if the end may be its answer.
    pub(crate) fn ended(&mut self, risked_ms: Option<u64>) {
        if !self.is_up {
            return;
        }
        self.is_up = false;
        self.stop_all();
        let Some(path) = self.paths.first_mut() else { return };
        let risked_s = risked_ms.map(|ms| u32::try_from(ms.div_ceil(1_000)).unwrap_or(u32::MAX));
        if let Some(risked_s) = risked_s.filter(|risked_s| *risked_s >= path.floor_s)
            && path.failed(risked_s)
        {
            self.actions.push_back(Action::Learned);
        }
    }

    pub(crate) fn tick(&mut self, now_ms: u64) {
        if self.is_up && self.next_deadline_ms().is_some_and(|due_ms| now_ms >= due_ms) {
            self.plan(now_ms);
        }
    }

    pub(crate) fn next_deadline_ms(&self) -> Option<u64> {
        let path = self.paths.first().filter(|_| self.is_up)?;
        match path.settled_ms {
            Some(settled_ms) => {
                settled_ms.checked_add_unsigned(RECHECK_MS).map(|ms| ms.max(0).unsigned_abs())
            }
            None if path.has_probes == Some(false) => None,
            None => Some(self.retry_at_ms).filter(|_| self.running.is_empty() && self.unproved.is_empty()),
        }
    }

    /// The longest silence of the main connection now, milliseconds.
    pub(crate) fn interval_ms(&self) -> u64 {
        self.paths.first().map_or(u64::from(self.floor_s) * 1_000, Path::interval_ms)
    }

    /// Whether the broker is to be told the interval.
    pub(crate) fn may_declare(&self) -> bool {
        self.paths.first().is_some_and(|path| path.has_probes == Some(true))
    }

    /// Whether the bounds of the path in use are found, and the silence proven on it, seconds.
    pub(crate) fn found(&self) -> (bool, u32) {
        self.paths.first().map_or((false, 0), |path| {
            (path.settled_ms.is_some(), path.adopted_s.max(path.search.proven_s()))
        })
    }

    pub(crate) fn probes_running(&self) -> usize {
        self.running.len()
    }

    /// Ends what is over, and begins what is next.
    fn plan(&mut self, now_ms: u64) {
        let Some(path) = self.paths.first_mut().filter(|_| self.is_up) else { return };
        path.recheck_when_due(now_ms);
        let way = path.way();
        let is_probing = path.has_probes.is_some();
        if path.settled_ms.is_none() && is_probing && self.unproved.is_empty() && path.search.is_settled(way)
        {
            path.settle(now_ms);
            self.actions.push_back(Action::Learned);
        }
        if path.settled_ms.is_some() {
            self.stop_all();
            return;
        }
        let search = &path.search;
        let actions = &mut self.actions;
        self.running.retain(|probe| {
            let is_kept = !search.is_moot(probe.after_s) || !is_probing;
            if !is_kept {
                actions.push_back(Action::StopProbe { id: probe.id });
            }
            is_kept
        });
        if way == Way::Steps || now_ms < self.retry_at_ms {
            return;
        }
        let mut under_way: Vec<u32> = self.running.iter().map(|probe| probe.after_s).collect();
        under_way.extend(&self.unproved);
        let next = match path.has_probes {
            None if under_way.is_empty() => vec![CHECK_S],
            None => Vec::new(),
            Some(_) => search.next(way, &under_way),
        };
        for after_s in next {
            let id = self.next_probe;
            self.next_probe += 1;
            self.running.push(Probe { id, after_s });
            self.actions.push_back(Action::StartProbe { id, after_s });
        }
    }

    fn stop_all(&mut self) {
        self.unproved.clear();
        self.actions.extend(self.running.drain(..).map(|probe| Action::StopProbe { id: probe.id }));
    }
}

impl Path {
    fn new(net: String, broker: String, floor_s: u32, ceiling_s: u32, hint_s: Option<u32>) -> Self {
        Self {
            net,
            broker,
            floor_s,
            search: Search::new(floor_s, ceiling_s, hint_s),
            adopted_s: 0,
            has_probes: None,
            checks_failed: 0,
            settled_ms: None,
            suspected: None,
            strikes: 0,
        }
    }

    fn recall(known: KnownNetwork, floor_s: u32, ceiling_s: u32) -> Self {
        let mut path = Self::new(known.net, known.broker, floor_s, ceiling_s, None);
        path.search = path.search.with_findings(&known.survived, &known.failed);
        path.has_probes = known.has_probes;
        path.settled_ms =
            known.settled_ago_s.and_then(|ago_s| i64::try_from(ago_s).ok()?.checked_mul(-1_000));
        if path.settled_ms.is_some() {
            path.adopted_s = path.search.bound_s(path.way());
        }
        path
    }

    fn known(&self, now_ms: u64) -> KnownNetwork {
        let (survived, failed) = self.search.findings();
        let ago = |settled_ms: i64| now_ms.saturating_add_signed(settled_ms.saturating_neg()) / 1_000;
        KnownNetwork {
            net: self.net.clone(),
            broker: self.broker.clone(),
            survived: survived.to_vec(),
            failed: failed.to_vec(),
            has_probes: self.has_probes,
            settled_ago_s: self.settled_ms.map(ago),
        }
    }

    /// Holds the search to bounds that the broker may have changed.
    fn limit(&mut self, floor_s: u32, ceiling_s: u32, hint_s: Option<u32>) {
        self.floor_s = floor_s;
        self.adopted_s = self.adopted_s.min(ceiling_s);
        self.search.limit(floor_s, ceiling_s, hint_s);
        if !self.search.is_settled(self.way()) {
            self.settled_ms = None;
        }
    }

    fn way(&self) -> Way {
        if self.has_probes == Some(false) { Way::Steps } else { Way::Probes }
    }

    fn interval_ms(&self) -> u64 {
        let safe_ms =
            |bound_s: u32| (u64::from(bound_s) * 10 * MARGIN_PERCENT).max(u64::from(self.floor_s) * 1_000);
        match (self.way(), self.settled_ms) {
            (Way::Steps, None) => match self.search.next(Way::Steps, &[]).first() {
                Some(step_s) => u64::from(*step_s) * 1_000,
                None => safe_ms(self.search.bound_s(Way::Steps)),
            },
            _ => safe_ms(self.adopted_s.max(self.search.proven_s())),
        }
    }

    /// The main connection survived its silence.
    fn survived_step(&mut self) {
        match self.settled_ms {
            Some(_) => self.strikes = 0,
            None => {
                if let Some(step_s) = self.search.next(Way::Steps, &[]).first() {
                    self.search.survived(*step_s);
                }
            }
        }
    }

    /// A probe survived its silence. Says whether this brings a suspected bound back.
    fn survived(&mut self, silence_s: u32) -> bool {
        self.search.survived(silence_s);
        let Some(suspected) = self.suspected.take_if(|s| silence_s >= s.search.proven_s()) else {
            return false;
        };
        // It was something else that failed.
        self.adopted_s = suspected.search.proven_s();
        (self.search, self.settled_ms) = (suspected.search, Some(suspected.settled_ms));
        true
    }

    fn settle(&mut self, now_ms: u64) {
        self.adopted_s = self.search.bound_s(self.way());
        self.settled_ms = Some(i64::try_from(now_ms).unwrap_or(i64::MAX));
        self.suspected = None;
        self.strikes = 0;
    }

    /// The main connection did not survive a silence. Says whether this changed what is known.
    fn failed(&mut self, silence_s: u32) -> bool {
        match (self.way(), self.settled_ms) {
            (Way::Steps, None) => {
                self.search.failed(silence_s);
                true
            }
            (Way::Steps, Some(_)) => {
                self.strikes += 1;
                let is_over = self.strikes >= STRIKES_MAX;
                if is_over {
                    self.start_over(None);
                }
                is_over
            }
            (Way::Probes, settled_ms) => {
                let bound_s = self.adopted_s.max(self.search.proven_s());
                if bound_s <= self.floor_s {
                    return false;
                }
                let search = self.start_over(Some(bound_s));
                if let Some(settled_ms) = settled_ms {
                    self.suspected = Some(Suspected { search, settled_ms });
                }
                true
            }
        }
    }

    /// Begins a search that finds an unchanged bound again at once; returns the old one.
    fn start_over(&mut self, hint_s: Option<u32>) -> Search {
        self.adopted_s = 0;
        self.settled_ms = None;
        self.strikes = 0;
        let fresh = self.search.fresh(hint_s);
        std::mem::replace(&mut self.search, fresh)
    }

    fn recheck_when_due(&mut self, now_ms: u64) {
        let is_due =
            |settled_ms: i64| now_ms.saturating_add_signed(settled_ms.saturating_neg()) >= RECHECK_MS;
        if self.settled_ms.is_some_and(is_due) {
            self.settled_ms = None;
            self.checks_failed = 0;
            let way = self.way();
            self.search.recheck(way);
        }
    }
}
