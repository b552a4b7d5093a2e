//! A bit of the disk turns over, on a copy.

use super::Op;
use crate::simulation::world::World;

pub(super) const OP: Op = Op { name: "bit flip", weight: 3, is_needed: false, run };

fn run(world: &mut World) -> Result<(), String> {
    if world.node.flip_a_bit(&mut world.rng)? {
        world.met.flips += 1;
    }
    Ok(())
}
