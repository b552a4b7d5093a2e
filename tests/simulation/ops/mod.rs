//! What may happen: one file an operation, and how often each is done.

mod again;
mod bit_flip;
mod carry;
mod collapse;
mod commit;
mod congest;
mod connect;
mod crash;
mod cut;
mod fetch;
mod freeze;
mod heartbeat;
mod leave;
mod membership;
mod ping;
mod poison;
mod power_cut;
mod priority;
mod probe;
mod project;
pub(super) mod publish;
mod race;
mod read;
mod replay;
mod retained;
mod rewrite;
mod session_end;
mod speak;
mod storm;
mod subscribe;
mod time;
mod twin;
mod unsubscribe;

use super::world::World;

/// An operation: one step of a run.
#[derive(Clone, Copy)]
pub(super) struct Op {
    pub(super) name: &'static str,
    /// How often of all, in thousandths, about.
    pub(super) weight: u32,
    /// Every run does it as often; others leave it out or do more of it.
    pub(super) is_needed: bool,
    pub(super) run: fn(&mut World) -> Result<(), String>,
}

/// All operations.
pub(super) const OPS: &[Op] = &[
    carry::OP,
    speak::OP,
    commit::OP,
    fetch::OP,
    publish::OP,
    connect::OP,
    time::OP,
    cut::OP,
    crash::OP,
    power_cut::OP,
    bit_flip::OP,
    rewrite::OP,
    project::OP,
    congest::OP,
    freeze::OP,
    leave::OP,
    retained::OP,
    session_end::OP,
    subscribe::OP,
    unsubscribe::OP,
    again::OP,
    race::OP,
    membership::OP,
    read::OP,
    replay::OP,
    collapse::OP,
    priority::OP,
    twin::OP,
    poison::OP,
    probe::OP,
    heartbeat::OP,
    ping::OP,
    storm::OP,
];

/// An operation and where its share of all ends.
pub(super) type Weighted = (u32, Op);

/// Gives each operation its share in one run: some are left out, some are done more often, so that runs differ.
pub(super) fn weighted(rng: &mut fastrand::Rng) -> Vec<Weighted> {
    let mut end = 0;
    let shares = OPS.iter().map(|op| {
        let factor = if op.is_needed { 4 } else { [0, 2, 4, 4, 4, 8][rng.usize(0..6)] };
        end += op.weight * factor;
        (end, *op)
    });
    shares.collect()
}

/// Chooses by the shares.
pub(super) fn pick(ops: &[Weighted], rng: &mut fastrand::Rng) -> Op {
    let all = ops.last().map_or(1, |(end, _)| *end);
    let at = rng.u32(0..all);
    ops[ops.partition_point(|(end, _)| *end <= at)].1
}
