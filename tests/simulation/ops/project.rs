//! The view takes in what the log has that it has not.

use super::Op;
use crate::simulation::world::World;

pub(super) const OP: Op = Op { name: "project", weight: 15, is_needed: false, run };

fn run(world: &mut World) -> Result<(), String> {
    world.node.project(&mut world.rng)
}
