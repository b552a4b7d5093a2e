//! A client comes with Clean Start: what it has not acknowledged goes to the others of its group, or nowhere.

use super::Op;
use crate::simulation::world::World;

pub(super) const OP: Op = Op { name: "session end", weight: 4, is_needed: false, run };

fn run(world: &mut World) -> Result<(), String> {
    let who = world.any_client(|role| role.is_fickle);
    if let Some(script) = world.actors[who].script() {
        script.begin_anew();
    }
    world.connect(who)
}
