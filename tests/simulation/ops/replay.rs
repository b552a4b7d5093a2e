//! A client asks for the history of a conversation, from a number on that may lie far back or ahead.

use protocol::QoS;

use super::Op;
use crate::simulation::world::World;
use crate::simulation::world::cast::REPLAYED_FILTERS;

pub(super) const OP: Op = Op { name: "replay", weight: 6, is_needed: false, run };

fn run(world: &mut World) -> Result<(), String> {
    let who = world.any_client(|role| role.replays);
    let filter = REPLAYED_FILTERS[world.rng.usize(0..REPLAYED_FILTERS.len())];
    let qos = if world.rng.bool() { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
    let from = if world.rng.bool() { 1 } else { world.rng.u64(1..40) };
    if let Some(script) = world.actors[who].script().filter(|s| s.is_subscribed()) {
        script.subscribe(filter, qos, Some(from));
    }
    Ok(())
}
