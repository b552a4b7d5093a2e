//! A user becomes a member of a conversation, or is one no longer.

use super::Op;
use crate::simulation::world::World;
use crate::simulation::world::cast::{MEMBERS, REPLAYED_TOPICS};

pub(super) const OP: Op = Op { name: "membership", weight: 5, is_needed: false, run };

fn run(world: &mut World) -> Result<(), String> {
    let user = MEMBERS[world.rng.usize(0..MEMBERS.len())];
    let topic = REPLAYED_TOPICS[world.rng.usize(0..REPLAYED_TOPICS.len())];
    let joins = world.rng.u8(0..4) > 0;
    world.ask_membership(user, topic, joins)
}
