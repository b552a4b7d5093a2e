//! A program publishes to a topic, conversation or not, at any level.

use protocol::QoS;

use super::Op;
use crate::simulation::history::{Message, Who};
use crate::simulation::world::World;
use crate::simulation::world::cast::{self, TOPICS};

pub(super) const OP: Op = Op { name: "publish", weight: 110, is_needed: true, run };

/// A message without any wishes; its number is given later.
pub(in crate::simulation) fn message(by: Who, topic: &'static str, qos: QoS) -> Message {
    Message {
        number: 0,
        id_number: 0,
        by,
        topic,
        qos,
        retain: false,
        is_will: false,
        expiry_s: None,
        collapse: None,
        read: None,
        wish: None,
        is_poison: false,
        is_high: false,
        made_unix_ms: 0,
    }
}

fn run(world: &mut World) -> Result<(), String> {
    let by = world.any_client(|role| role.publishes);
    let topic = TOPICS[world.rng.usize(0..TOPICS.len())];
    // A QoS 0 message may be lost on the way out, which makes a hole in a conversation.
    let may_be_lost = topic.starts_with("t/") || topic == cast::LOSSY_CONVERSATION;
    let qos = QoS::from_u8(world.rng.u8(u8::from(!may_be_lost)..3)).expect("0, 1 or 2");
    let expires = topic == "t/b" && world.rng.u8(0..4) == 0;
    let expiry_s = expires.then(|| world.rng.u32(1..6));
    world.make(Message { expiry_s, ..message(by, topic, qos) })
}
