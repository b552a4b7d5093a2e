//! Packets get from one end of a connection to the other.

use super::Op;
use crate::simulation::world::World;

pub(super) const OP: Op = Op { name: "carry", weight: 480, is_needed: true, run };

fn run(world: &mut World) -> Result<(), String> {
    // Mostly several at once.
    (0..world.rng.u8(1..6)).try_for_each(|_| world.carry_one())
}
