//! Records that the shard asked for come from the log.

use super::Op;
use crate::simulation::world::World;

pub(super) const OP: Op = Op { name: "fetch", weight: 60, is_needed: true, run };

fn run(world: &mut World) -> Result<(), String> {
    world.fetch()
}
