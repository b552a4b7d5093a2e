//! A connection stands still for a while.

use super::Op;
use crate::simulation::world::World;

pub(super) const OP: Op = Op { name: "freeze", weight: 4, is_needed: false, run };

fn run(world: &mut World) -> Result<(), String> {
    world.freeze_one();
    Ok(())
}
