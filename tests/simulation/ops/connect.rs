//! A client comes, at times while its last connection is still there: the broker must take over.

use super::Op;
use crate::simulation::world::World;
use crate::simulation::world::cast::CAST;

pub(super) const OP: Op = Op { name: "connect", weight: 60, is_needed: true, run };

fn run(world: &mut World) -> Result<(), String> {
    let who = world.rng.usize(0..CAST.len());
    if world.is_linked(who) && world.rng.u8(..) > 20 {
        return Ok(());
    }
    world.connect(who)
}
