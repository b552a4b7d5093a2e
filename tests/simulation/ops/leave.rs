//! A client says goodbye.

use super::Op;
use crate::simulation::world::World;

pub(super) const OP: Op = Op { name: "leave", weight: 3, is_needed: false, run };

fn run(world: &mut World) -> Result<(), String> {
    world.leave_one()
}
