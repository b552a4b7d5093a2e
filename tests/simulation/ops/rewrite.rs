//! Full segments of the log are written anew, some of them as one.

use super::Op;
use crate::simulation::world::World;

pub(super) const OP: Op = Op { name: "rewrite", weight: 6, is_needed: false, run };

fn run(world: &mut World) -> Result<(), String> {
    world.met.rewrites += u64::from(world.node.rewrite(&mut world.rng)?);
    world.act()
}
