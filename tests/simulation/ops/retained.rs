//! One publisher changes the state that it keeps at the broker.

use protocol::QoS;

use super::{Op, publish};
use crate::simulation::history::Message;
use crate::simulation::world::World;
use crate::simulation::world::cast::STATE_TOPIC;

pub(super) const OP: Op = Op { name: "retained", weight: 6, is_needed: false, run };

/// Always the same one, so that the last of its messages is the state.
const PUBLISHER: usize = 0;

fn run(world: &mut World) -> Result<(), String> {
    let message = publish::message(PUBLISHER, STATE_TOPIC, QoS::AtLeastOnce);
    world.make(Message { retain: true, ..message })
}
