//! A program publishes a message again, not knowing that it went through: on this client or the user's other one.

use super::Op;
use crate::simulation::history::Event;
use crate::simulation::world::World;
use crate::simulation::world::cast::CAST;

pub(super) const OP: Op = Op { name: "publish again", weight: 12, is_needed: false, run };

fn run(world: &mut World) -> Result<(), String> {
    let made = world.history.messages.len();
    if made == 0 {
        return Ok(());
    }
    // Mostly one of the last.
    let back = if world.rng.bool() { 8 } else { made };
    let at = world.rng.usize(made.saturating_sub(back)..made);
    let message = &world.history.messages[at];
    let (number, of) = (message.number, message.by);
    if !message.has_id() || message.is_will || message.retain || message.qos == protocol::QoS::AtMostOnce {
        return Ok(());
    }
    let same_user =
        (0..CAST.len()).filter(|who| CAST[*who].publishes && CAST[*who].user() == CAST[of].user());
    let terminals: Vec<_> = same_user.collect();
    let by = terminals[world.rng.usize(0..terminals.len())];
    if !world.actors[by].is_subscribed() {
        return Ok(());
    }
    world.history.push(Event::MadeAgain { number, by });
    let now_ms = world.now_ms();
    world.actors[by].publish(now_ms, number, &mut world.history)
}
