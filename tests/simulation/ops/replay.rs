//! A client asks for the history of a conversation, from a number on that may lie far back or ahead, from the first,
//! or from a time on.

use protocol::QoS;

use super::Op;
use crate::simulation::history::From;
use crate::simulation::world::World;

pub(super) const OP: Op = Op { name: "replay", weight: 6, is_needed: false, run };

fn run(world: &mut World) -> Result<(), String> {
    let who = world.any_client(|role| role.replays);
    let filters = world.role(who).replayed_filters();
    let filter = filters[world.rng.usize(0..filters.len())];
    let qos = if world.rng.bool() { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
    let unix_ms = world.unix_ms().saturating_sub(world.rng.u64(0..60_000));
    let from = match world.rng.u8(0..6) {
        0 | 1 => From::Seq(1),
        2 => From::First,
        3 => From::At { unix_ms },
        _ => From::Seq(world.rng.u64(1..40)),
    };
    if let Some(script) = world.actors[who].script().filter(|s| s.is_subscribed()) {
        script.subscribe(filter, qos, Some(from));
    }
    Ok(())
}
