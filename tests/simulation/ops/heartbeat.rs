//! A client says how often it will be heard from, more often or less than its CONNECT said.

use protocol::QoS;
use protocol::im::KEEPALIVE_TOPIC;

use super::{Op, publish};
use crate::simulation::history::{Message, Wish};
use crate::simulation::world::World;

pub(super) const OP: Op = Op { name: "heartbeat", weight: 4, is_needed: false, run };

fn run(world: &mut World) -> Result<(), String> {
    let by = world.any_client(|role| role.is_watched);
    let interval_s = world.rng.u32(1..30);
    let message = publish::message(by, KEEPALIVE_TOPIC, QoS::AtLeastOnce);
    world.make(Message { wish: Some(Wish::Heartbeat { interval_s }), ..message })
}
