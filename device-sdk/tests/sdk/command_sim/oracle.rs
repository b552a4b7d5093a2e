//! What must hold, judged by the truth that no device knows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use device_sdk::commands::{CommandResult, Status};

/// What the sender meant, and whether it was allowed.
#[derive(Clone, Debug)]
pub(super) struct Meant {
    pub(super) opens: bool,
    pub(super) expires_at: Option<u64>,
    /// The nonce of a good approval; `None` for one that is wrong.
    pub(super) nonce: Option<String>,
}

/// What happened, and what should not have.
#[derive(Clone, Debug, Default)]
pub(super) struct Verdict {
    pub(super) violations: Vec<String>,
    pub(super) fired: u64,
    pub(super) opened: u64,
    pub(super) crashes: u64,
    pub(super) spoofs: u64,
    pub(super) repeated: u64,
    pub(super) commands: u64,
    pub(super) done: u64,
    pub(super) failed: u64,
    pub(super) rejected: u64,
    pub(super) expired: u64,
}

impl Verdict {
    pub(super) fn add(&mut self, other: &Self) {
        self.violations.extend(other.violations.iter().cloned());
        self.fired += other.fired;
        self.opened += other.opened;
        self.crashes += other.crashes;
        self.spoofs += other.spoofs;
        self.repeated += other.repeated;
        self.commands += other.commands;
        self.done += other.done;
        self.failed += other.failed;
        self.rejected += other.rejected;
        self.expired += other.expired;
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} commands, {} actuations, {} of them opened; {} done, {} failed, {} rejected, {} expired; {} crashes, {} spoofs, {} repeats; {} violations",
            self.commands,
            self.fired,
            self.opened,
            self.done,
            self.failed,
            self.rejected,
            self.expired,
            self.crashes,
            self.spoofs,
            self.repeated,
            self.violations.len()
        )
    }
}

/// Sees everything.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    pub(super) meant: BTreeMap<String, Meant>,
    fired: BTreeMap<String, u32>,
    nonces: BTreeSet<String>,
    /// What the sender got, in its order.
    heard: BTreeMap<String, Vec<CommandResult>>,
    pub(super) verdict: Verdict,
}

impl Oracle {
    pub(super) fn means(&mut self, id: &str, meant: Meant) {
        self.meant.insert(id.to_owned(), meant);
        self.verdict.commands += 1;
    }

    fn wrong(&mut self, what: String) {
        self.verdict.violations.push(what);
    }

    /// The bolt moved: at this true time, so far inside the fence in truth.
    pub(super) fn fires(&mut self, id: &str, now_ms: u64, inside_m: f64) {
        self.verdict.fired += 1;
        let count = self.fired.entry(id.to_owned()).or_default();
        *count += 1;
        if *count > 1 {
            let count = *count;
            self.wrong(format!("{id} was run {count} times"));
        }
        let meant = self.meant[id].clone();
        if let Some(expires_at) = meant.expires_at.filter(|at| *at <= now_ms) {
            self.wrong(format!("{id} was run {} ms after its expiry", now_ms - expires_at));
        }
        if meant.opens && inside_m < 0.0 {
            self.wrong(format!("{id} opened {:.1} m outside the fence", -inside_m));
        }
        if meant.opens {
            self.verdict.opened += 1;
            match meant.nonce {
                None => self.wrong(format!("{id} opened without a good approval")),
                Some(nonce) if !self.nonces.insert(nonce.clone()) => {
                    self.wrong(format!("{id} opened with nonce {nonce}, which was used before"));
                }
                Some(_) => {}
            }
        }
    }

    /// The sender got a result.
    pub(super) fn hears(&mut self, result: CommandResult) {
        let so_far = self.heard.entry(result.id.clone()).or_default();
        let mut wrong = None;
        match so_far.last() {
            Some(last) if last.status.is_final() && *last != result => {
                wrong = Some(format!("{}: {:?} after {:?}", result.id, result.status, last.status));
            }
            Some(last) if !last.status.is_final() && rank(result.status) <= rank(last.status) => {
                wrong = Some(format!("{}: {:?} after {:?}", result.id, result.status, last.status));
            }
            _ => {}
        }
        let is_new = so_far.last() != Some(&result);
        if is_new {
            so_far.push(result);
        } else {
            self.verdict.repeated += 1;
        }
        self.verdict.violations.extend(wrong);
    }

    /// Nothing happens any more.
    pub(super) fn ends(mut self) -> Verdict {
        let ids: Vec<String> = self.meant.keys().cloned().collect();
        for id in ids {
            let fired = self.fired.get(&id).copied().unwrap_or(0);
            let last = self.heard.get(&id).and_then(|heard| heard.last()).map(|result| result.status);
            match last {
                Some(Status::Done) if fired == 0 => self.wrong(format!("{id} is done and was never run")),
                Some(Status::Rejected | Status::Expired) if fired > 0 => {
                    self.wrong(format!("{id} was run and is said not to have been"));
                }
                Some(Status::Done) => self.verdict.done += 1,
                Some(Status::Failed) => self.verdict.failed += 1,
                Some(Status::Rejected) => self.verdict.rejected += 1,
                Some(Status::Expired) => self.verdict.expired += 1,
                other => self.wrong(format!("{id} never ended at its sender: {other:?}")),
            }
        }
        self.verdict
    }
}

fn rank(status: Status) -> u8 {
    match status {
        Status::Accepted => 0,
        Status::Executing => 1,
        _ => 2,
    }
}
