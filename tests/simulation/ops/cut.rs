//! A connection breaks, or the broker hears of one that broke long ago.

use super::Op;
use crate::simulation::world::World;

pub(super) const OP: Op = Op { name: "cut", weight: 10, is_needed: false, run };

fn run(world: &mut World) -> Result<(), String> {
    if world.rng.bool() { world.cut_one() } else { world.lay_a_ghost() }
}
