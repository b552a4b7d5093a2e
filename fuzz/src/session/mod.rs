//! Sequences of engine inputs: a few clients, virtual time, commits at odd moments, crashes.
//!
//! The input is read as a list of steps. Nothing may panic; each connection must see what the standard lets a
//! server say (`link`); what was vouched for must outlive every crash (`keeper`); counts must fit what is there;
//! and in the end all outputs drain.

mod keeper;
mod link;
mod packets;
mod world;

use super::source::Source;

/// Steps of one run; an input of the usual length is over before.
const STEPS_MAX: usize = 400;

pub(crate) fn run(input: &[u8]) {
    run_with(input, false);
}

/// Runs with the planted bug or without.
pub(crate) fn run_with(input: &[u8], acks_before_commit: bool) {
    let mut source = Source::new(input);
    let mut config = packets::config(&mut source);
    config.planted = acks_before_commit.then_some(engine::Planted::AckBeforeCommit);
    let mut world = world::World::new(&mut source, config);
    for _ in 0..STEPS_MAX {
        if source.is_empty() {
            break;
        }
        world.step(&mut source);
    }
    world.settle();
}
