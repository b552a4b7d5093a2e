//! A program publishes something that another one cannot bear.

use protocol::QoS;

use super::{Op, publish};
use crate::simulation::history::Message;
use crate::simulation::world::World;

pub(super) const OP: Op = Op { name: "poison", weight: 3, is_needed: false, run };

fn run(world: &mut World) -> Result<(), String> {
    // Without the rule the two would go on for ever.
    if world.plan.poison_after == 0 {
        return Ok(());
    }
    let by = world.any_client(|role| role.publishes && role.hears_receipts());
    let qos = if world.rng.bool() { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
    world.make(Message { is_poison: true, ..publish::message(by, "t/a", qos) })
}
