//! The log's commit ends, and the shard hears of it.

use super::Op;
use crate::simulation::world::World;

pub(super) const OP: Op = Op { name: "commit", weight: 100, is_needed: true, run };

fn run(world: &mut World) -> Result<(), String> {
    world.commit()
}
