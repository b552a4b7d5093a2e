//! A program uses the id of another message: on another topic, or it is another user. Both are messages of their own.

use super::Op;
use crate::simulation::history::Message;
use crate::simulation::world::World;
use crate::simulation::world::cast::{CAST, TOPICS};

pub(super) const OP: Op = Op { name: "same id, other message", weight: 6, is_needed: false, run };

fn run(world: &mut World) -> Result<(), String> {
    let made = world.history.messages.len();
    if made == 0 {
        return Ok(());
    }
    let at = world.rng.usize(made.saturating_sub(10)..made);
    let first = world.history.messages[at].clone();
    if !first.has_id()
        || first.is_will
        || first.retain
        || first.expiry_s.is_some()
        || first.id_number != first.number
    {
        return Ok(());
    }
    let others = TOPICS.iter().filter(|topic| **topic != first.topic && topic.starts_with("t/"));
    let topics: Vec<_> = others.collect();
    let (by, topic) = if world.rng.bool() {
        (first.by, *topics[world.rng.usize(0..topics.len())])
    } else {
        let user = CAST[first.by].user();
        (world.any_client(|role| role.publishes && role.user() != user), first.topic)
    };
    // Who had the id before with this topic and user, as an id stands for one message there.
    let is_taken = world
        .history
        .messages
        .iter()
        .any(|m| m.id_number == first.number && m.topic == topic && CAST[m.by].user() == CAST[by].user());
    if is_taken {
        return Ok(());
    }
    world.make(Message { by, topic, id_number: first.number, ..first })
}
