//! A client gives a subscription up.

use super::Op;
use crate::simulation::world::World;
use crate::simulation::world::cast::FICKLE_FILTERS;

pub(super) const OP: Op = Op { name: "unsubscribe", weight: 4, is_needed: false, run };

fn run(world: &mut World) -> Result<(), String> {
    let who = world.any_client(|role| role.is_fickle && !role.is_member());
    let (filter, _) = FICKLE_FILTERS[world.rng.usize(0..FICKLE_FILTERS.len())];
    if let Some(script) = world.actors[who].script().filter(|s| s.is_subscribed()) {
        script.unsubscribe(filter);
    }
    Ok(())
}
