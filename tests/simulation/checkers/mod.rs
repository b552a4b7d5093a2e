//! What must hold, whatever happened: one file a promise. Checkers see what clients saw, not the engine.

mod acked_once;
mod counted;
mod dedup;
mod envelopes;
mod expiry;
mod group;
mod heartbeat;
mod invented;
mod kept;
mod ledger;
mod memory;
mod once;
mod order;
mod packet_ids;
mod poison;
mod presence;
mod probe;
mod read_receipts;
mod receipts;
mod replay;
mod resent;
mod retained;
mod retention;
mod seqs;
mod unread;
mod wills;

use std::collections::BTreeMap;

use super::history::{Event, History};
use super::plan::Plan;
use super::world::World;
use super::world::cast::CONVERSATIONS;
use ledger::Ledger;

/// What a checker judges by.
pub(super) struct Evidence<'a> {
    pub(super) history: &'a History,
    pub(super) plan: Plan,
    /// Bytes that the shard counted as held in the end.
    pub(super) memory_bytes: u64,
    /// By how much it counted more after some messages more had gone through.
    pub(super) grown_bytes: u64,
    /// The numbers of each conversation's messages that the broker would list in the end, and when that was.
    pub(super) kept: BTreeMap<&'static str, Vec<u64>>,
    pub(super) end_unix_ms: u64,
    /// Ids of the messages that were set aside, as the broker lists them in the end.
    pub(super) set_aside: &'a [String],
    ledger: Ledger,
}

impl<'a> Evidence<'a> {
    pub(super) fn new(world: &'a World) -> Self {
        let (shard, history) = (&world.node.shard, &world.history);
        let kept = CONVERSATIONS.iter().map(|topic| (*topic, shard.kept_seqs(topic)));
        Self {
            history,
            plan: world.plan,
            memory_bytes: shard.stats().memory_bytes,
            grown_bytes: world.grown_bytes,
            kept: kept.collect(),
            end_unix_ms: world.unix_ms(),
            set_aside: &world.set_aside,
            ledger: Ledger::of(history),
        }
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
    retention::CHECKER,
    envelopes::CHECKER,
    counted::CHECKER,
    read_receipts::CHECKER,
    poison::CHECKER,
    heartbeat::CHECKER,
    probe::CHECKER,
];

/// Looks at a world after each step.
pub(super) fn watch(world: &World) -> Result<(), Finding> {
    let finding = |checker: &Checker, what| Finding { checker: checker.name, what };
    unread::watch(&world.node.shard).map_err(|what| finding(&unread::CHECKER, what))?;
    heartbeat::watch(world).map_err(|what| finding(&heartbeat::CHECKER, what))
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
