//! Both terminals of a user publish the same message at once, and the power goes as soon as they heard of it.

use protocol::QoS;

use super::{Op, publish};
use crate::simulation::history::Event;
use crate::simulation::world::World;
use crate::simulation::world::cast::CAST;

pub(super) const OP: Op = Op { name: "race", weight: 3, is_needed: false, run };

/// A conversation that neither of them subscribes to.
const TOPIC: &str = "dev/1/cmd";

fn run(world: &mut World) -> Result<(), String> {
    let terminals: Vec<_> = (0..CAST.len()).filter(|who| CAST[*who].user == Some("ann")).collect();
    let [one, other] = terminals[..] else { return Err("a user with two terminals is in the cast".into()) };
    if !world.actors[one].is_connected() || !world.actors[other].is_connected() {
        return Ok(());
    }
    world.commit()?;
    let before = world.history.messages.len();
    world.make(publish::message(one, TOPIC, QoS::AtLeastOnce))?;
    let number = world.history.messages.len() as u64;
    if before as u64 == number || !world.actors[other].is_subscribed() {
        return Ok(());
    }
    world.hurry(one)?;
    world.history.push(Event::MadeAgain { number, by: other });
    let now_ms = world.now_ms();
    world.actors[other].publish(now_ms, number, &mut world.history)?;
    world.hurry(other)?;
    world.crash()?;
    // Somebody else is faster than they are.
    let faster = world.any_client(|role| role.publishes && role.user.is_none());
    world.connect(faster)?;
    world.make(publish::message(faster, TOPIC, QoS::AtLeastOnce))?;
    world.commit()?;
    world.hurry(faster)
}
