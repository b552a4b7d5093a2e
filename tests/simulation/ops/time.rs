//! Time passes, mostly a little.

use super::Op;
use crate::simulation::world::World;

pub(super) const OP: Op = Op { name: "time", weight: 40, is_needed: true, run };

fn run(world: &mut World) -> Result<(), String> {
    if world.rng.u8(..) < 8 {
        // So long that nothing is still on its way to the disk.
        world.commit()?;
        let ms = world.rng.u64(1_000..12_000);
        return world.pass_time(ms);
    }
    let ms = world.rng.u64(0..500);
    world.pass_time(ms)
}
