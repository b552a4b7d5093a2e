//! What must hold, whatever happened: one file a promise. Checkers see what clients saw, not the engine.

mod acked_once;
mod dedup;
mod expiry;
mod group;
mod invented;
mod kept;
mod ledger;
mod memory;
mod once;
mod order;
mod packet_ids;
mod presence;
mod receipts;
mod replay;
mod resent;
mod retained;
mod seqs;
mod unread;
mod wills;

use engine::Shard;

use super::history::{Event, History};
use super::plan::Plan;
use ledger::Ledger;

/// What a checker judges by.
pub(super) struct Evidence<'a> {
    pub(super) history: &'a History,
    pub(super) plan: Plan,
    /// Bytes that the shard counted as held in the end.
    pub(super) memory_bytes: u64,
    ledger: Ledger,
}

impl<'a> Evidence<'a> {
    pub(super) fn new(history: &'a History, plan: Plan, memory_bytes: u64) -> Self {
        Self { history, plan, memory_bytes, ledger: Ledger::of(history) }
    }
}

/// A promise and how it is checked.
#[derive(Clone, Copy)]
pub(super) struct Checker {
    pub(super) name: &'static str,
    /// It can say something only of a run that came to rest.
    needs_rest: bool,
    check: fn(&Evidence<'_>) -> Result<(), String>,
}

/// All checkers.
pub(super) const CHECKERS: &[Checker] = &[
    kept::CHECKER,
    invented::CHECKER,
    order::CHECKER,
    once::CHECKER,
    seqs::CHECKER,
    acked_once::CHECKER,
    dedup::CHECKER,
    receipts::CHECKER,
    group::CHECKER,
    packet_ids::CHECKER,
    resent::CHECKER,
    retained::CHECKER,
    presence::CHECKER,
    replay::CHECKER,
    unread::CHECKER,
    wills::CHECKER,
    expiry::CHECKER,
    memory::CHECKER,
];

/// Looks at a shard after each step.
pub(super) fn watch(shard: &Shard) -> Result<(), Finding> {
    unread::watch(shard).map_err(|what| Finding { checker: unread::CHECKER.name, what })
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) checker: &'static str,
    pub(super) what: String,
}

/// Asks every checker.
pub(super) fn judge(evidence: &Evidence<'_>) -> Vec<Finding> {
    let has_rested = evidence.history.events.last() == Some(&Event::Rested);
    let asked = CHECKERS.iter().filter(|c| has_rested || !c.needs_rest);
    asked
        .filter_map(|c| {
            let what = (c.check)(evidence).err()?;
            Some(Finding { checker: c.name, what })
        })
        .collect()
}
