//! A program publishes something urgent.

use protocol::QoS;

use super::{Op, publish};
use crate::simulation::history::Message;
use crate::simulation::world::World;
use crate::simulation::world::cast::TOPICS;

pub(super) const OP: Op = Op { name: "priority", weight: 8, is_needed: false, run };

fn run(world: &mut World) -> Result<(), String> {
    let by = world.any_client(|role| role.publishes);
    let topic = TOPICS[world.rng.usize(0..TOPICS.len())];
    let qos = if world.rng.bool() { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
    world.make(Message { is_high: true, ..publish::message(by, topic, qos) })
}
