//! A client sends a PINGREQ.

use super::Op;
use crate::simulation::world::World;

pub(super) const OP: Op = Op { name: "ping", weight: 8, is_needed: false, run };

fn run(world: &mut World) -> Result<(), String> {
    let who = world.any_client(|role| role.is_watched);
    if let Some(script) = world.actors[who].script() {
        script.pings = 1;
    }
    Ok(())
}
