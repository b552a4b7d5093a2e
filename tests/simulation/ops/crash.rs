//! The power goes between two writes.

use super::Op;
use crate::simulation::world::World;

pub(super) const OP: Op = Op { name: "crash", weight: 4, is_needed: false, run };

fn run(world: &mut World) -> Result<(), String> {
    world.crash()
}
