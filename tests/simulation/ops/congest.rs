//! A socket's buffer fills up, or drains.

use super::Op;
use crate::simulation::world::World;

pub(super) const OP: Op = Op { name: "congest", weight: 10, is_needed: false, run };

fn run(world: &mut World) -> Result<(), String> {
    world.congest_one()
}
