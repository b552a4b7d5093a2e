//! A program publishes what makes its earlier message superfluous.

use protocol::QoS;

use super::{Op, publish};
use crate::simulation::history::Message;
use crate::simulation::world::World;
use crate::simulation::world::cast::LOSSY_CONVERSATION;

pub(super) const OP: Op = Op { name: "collapse", weight: 10, is_needed: false, run };

const KEYS: [&str; 2] = ["position", "speed"];

fn run(world: &mut World) -> Result<(), String> {
    let by = world.any_client(|role| role.publishes);
    let topic = ["t/a", LOSSY_CONVERSATION][world.rng.usize(0..2)];
    let qos = if world.rng.bool() { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
    let collapse = Some(KEYS[world.rng.usize(0..KEYS.len())]);
    world.make(Message { collapse, ..publish::message(by, topic, qos) })
}
