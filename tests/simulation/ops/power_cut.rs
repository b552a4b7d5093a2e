//! The power goes in the middle of one of the next writes.

use super::Op;
use crate::simulation::world::World;

pub(super) const OP: Op = Op { name: "power cut", weight: 3, is_needed: false, run };

fn run(world: &mut World) -> Result<(), String> {
    let nth = world.rng.u64(1..12);
    world.node.cut_power(nth);
    Ok(())
}
