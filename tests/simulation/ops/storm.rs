//! Every client loses its connection at once, and all come back at the same moment.

use super::Op;
use crate::simulation::world::World;
use crate::simulation::world::cast::CAST;

pub(super) const OP: Op = Op { name: "storm", weight: 2, is_needed: false, run };

fn run(world: &mut World) -> Result<(), String> {
    let mut all: Vec<_> = (0..CAST.len()).collect();
    world.rng.shuffle(&mut all);
    all.into_iter().try_for_each(|who| world.connect(who))
}
