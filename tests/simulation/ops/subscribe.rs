//! A client subscribes to something more.

use super::Op;
use crate::simulation::world::World;
use crate::simulation::world::cast::FICKLE_FILTERS;

pub(super) const OP: Op = Op { name: "subscribe", weight: 6, is_needed: false, run };

fn run(world: &mut World) -> Result<(), String> {
    let who = world.any_client(|role| role.is_fickle && !role.is_member());
    let (filter, qos) = FICKLE_FILTERS[world.rng.usize(0..FICKLE_FILTERS.len())];
    if let Some(script) = world.actors[who].script().filter(|s| s.is_subscribed() && !s.wants(filter)) {
        script.subscribe(filter, qos, None);
    }
    Ok(())
}
