//! A client asks for a silence and a message after it.

use protocol::QoS;
use protocol::im::PROBE_TOPIC;

use super::{Op, publish};
use crate::simulation::history::{Message, Wish};
use crate::simulation::world::World;

pub(super) const OP: Op = Op { name: "probe", weight: 8, is_needed: false, run };

fn run(world: &mut World) -> Result<(), String> {
    let by = world.any_client(|role| role.is_watched);
    let after_s = world.rng.u32(1..4);
    let message = publish::message(by, PROBE_TOPIC, QoS::AtLeastOnce);
    world.make(Message { wish: Some(Wish::Probe { after_s }), ..message })
}
