//! The verdict of a run: the ledger closed, the scenario's bounds held against what happened.

use std::collections::BTreeMap;

use crate::ledger::{Counts, Finding, Latency, Ledger, Wrong, mix};
use crate::orders::Orders;
use crate::scenario::Expect;

/// What else happened in a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections that were accepted.
    pub connects: u64,
    /// Attempts to connect.
    pub dials: u64,
    /// Of these, in the busiest second.
    pub dials_peak: u64,
    /// Connections that ended other than by the device's power.
    pub link_drops: u64,
    /// Pings of the main connections until records ended.
    pub pings: u64,
    /// Power cuts of devices.
    pub power_cuts: u64,
    /// Power cuts of the broker.
    pub broker_power_cuts: u64,
    /// Locks that opened.
    pub unlocks: u64,
    /// Commands that were rejected or expired at the device.
    pub refusals: u64,
    /// Releases that devices confirmed.
    pub updates: u64,
    /// Trials that ended with the old release.
    pub rollbacks: u64,
    /// Manifests that devices refused.
    pub updates_refused: u64,
    /// Trucks seen off their route.
    pub deviations: u64,
    /// Trucks that arrived for good, where the scenario asks for it.
    pub arrivals: u64,
    /// The second of the last attempt to connect, and how many there were in it.
    pub(crate) dials_now: (u64, u64),
}

impl Stats {
    pub(crate) fn dialled(&mut self, now_ms: u64) {
        let second = now_ms / 1_000;
        if self.dials_now.0 != second {
            self.dials_now = (second, 0);
        }
        self.dials_now.1 += 1;
        self.dials += 1;
        self.dials_peak = self.dials_peak.max(self.dials_now.1);
    }
}

/// How late a run in real time made its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generator {
    /// 99 of 100 records were no later than that, milliseconds.
    pub p99_ms: u64,
    /// The latest.
    pub longest_ms: u64,
    /// What is allowed.
    pub allowed_ms: u64,
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The seed it ran with.
    pub seed: u64,
    /// The hash of its ledger: the same seed gives the same one.
    pub hash: u64,
    /// Simulated seconds that it took.
    pub seconds: u64,
    /// The devices.
    pub devices: u32,
    /// Records by what became of them.
    pub counts: Counts,
    /// How long they took.
    pub latency: Latency,
    /// What else happened.
    pub stats: Stats,
    /// Commands by what became of them.
    pub commands: BTreeMap<&'static str, u64>,
    /// Bytes that a device's simulation takes in memory, on average; what the SDK's core has on the heap not counted.
    pub bytes_per_device: u64,
    /// Bytes that the broker counts in its memory.
    pub broker_bytes: u64,
    /// How late records were made, in real time.
    pub generator: Option<Generator>,
    /// How often each rule was broken.
    pub broken: BTreeMap<Wrong, u64>,
    /// The first findings of each kind, in words.
    pub findings: Vec<Finding>,
}

impl Outcome {
    /// Whether nothing is wrong.
    pub fn has_passed(&self) -> bool {
        self.broken.is_empty()
    }
}

/// What a verdict is made of.
pub(crate) struct Evidence<'a> {
    pub(crate) seed: u64,
    pub(crate) expect: &'a Expect,
    pub(crate) devices: u32,
    pub(crate) now_ms: u64,
    pub(crate) ledger: Ledger,
    pub(crate) stats: Stats,
    pub(crate) orders: &'a Orders,
}

impl Evidence<'_> {
    /// Closes the accounts and holds the scenario's bounds against what happened.
    pub(crate) fn verdict(mut self) -> Outcome {
        let hash = self.orders.hash(self.ledger.close());
        self.orders.find_endless(&mut self.ledger);
        self.hold_against_bounds();
        let findings = self.ledger.findings();
        let broken = Wrong::ALL.iter().map(|wrong| (*wrong, findings.count(*wrong)));
        let broken: BTreeMap<Wrong, u64> = broken.filter(|(_, count)| *count > 0).collect();
        Outcome {
            seed: self.seed,
            hash: mix(hash, broken.values().sum()),
            seconds: self.now_ms / 1_000,
            devices: self.devices,
            counts: self.ledger.counts(),
            latency: self.ledger.latency().clone(),
            commands: self.orders.ends(),
            bytes_per_device: 0,
            broker_bytes: 0,
            generator: None,
            broken,
            findings: findings.told().to_vec(),
            stats: self.stats,
        }
    }

    fn hold_against_bounds(&mut self) {
        let (expect, counts, stats) = (self.expect, self.ledger.counts(), self.stats.clone());
        let (p50_ms, p99_ms) =
            (self.ledger.latency().percentile_ms(50.0), self.ledger.latency().percentile_ms(99.0));
        let ms = |seconds: Option<f64>| seconds.map(|seconds| (seconds * 1_000.0) as u64);
        let bounds = [
            ("records dropped", counts.dropped, None, Some(expect.dropped_max)),
            ("records expired", counts.expired, None, Some(expect.expired_max)),
            ("records refused", counts.refused, None, Some(expect.refused_max)),
            ("median latency, ms", p50_ms, None, ms(expect.latency_p50_max_s)),
            ("latency of 99 %, ms", p99_ms, None, ms(expect.latency_p99_max_s)),
            ("links dropped", stats.link_drops, None, expect.link_drops_max),
            ("pings", stats.pings, None, expect.pings_max),
            ("attempts to connect in a second", stats.dials_peak, None, expect.connects_per_s_max),
            ("locks opened", stats.unlocks, expect.unlocks_min, expect.unlocks_max),
            ("commands refused", stats.refusals, expect.refusals_min, None),
            ("releases confirmed", stats.updates, expect.updates_min, None),
            ("releases rolled back", stats.rollbacks, expect.rollbacks_min, None),
            ("manifests refused", stats.updates_refused, expect.updates_refused_min, None),
            ("trucks arrived", stats.arrivals, expect.arrivals_min, None),
            ("trucks off their route", stats.deviations, expect.deviations_min, expect.deviations_max),
            ("records delivered", counts.delivered, Some(1), None),
        ];
        for (what, value, min, max) in bounds {
            if min.is_some_and(|min| value < min) || max.is_some_and(|max| value > max) {
                let least = min.map(|min| format!(", at least {min}")).unwrap_or_default();
                let most = max.map(|max| format!(", at most {max}")).unwrap_or_default();
                let what = format!("{what}: {value}{least}{most}");
                self.ledger.wrong(Wrong::Unexpected, 0, 0, what);
            }
        }
    }
}
