//! Clients work on what they got and send a packet.

use super::Op;
use crate::simulation::world::World;

pub(super) const OP: Op = Op { name: "speak", weight: 200, is_needed: true, run };

fn run(world: &mut World) -> Result<(), String> {
    (0..world.rng.u8(1..5)).try_for_each(|_| world.client_speaks())
}
