//! A user says how far a conversation was read.

use protocol::QoS;
use protocol::im::READ_TOPIC;

use super::{Op, publish};
use crate::simulation::history::Message;
use crate::simulation::world::World;
use crate::simulation::world::cast::{MEMBERS, REPLAYED_TOPICS};

pub(super) const OP: Op = Op { name: "read", weight: 20, is_needed: false, run };

fn run(world: &mut World) -> Result<(), String> {
    let by = world.any_client(|role| role.publishes && role.user.is_some_and(|u| MEMBERS.contains(&u)));
    let topic = REPLAYED_TOPICS[world.rng.usize(0..REPLAYED_TOPICS.len())];
    // It may be far above the last: the position never is.
    let seq = world.rng.u64(1..40);
    let message = publish::message(by, READ_TOPIC, QoS::AtLeastOnce);
    world.make(Message { read: Some((topic, seq)), ..message })
}
