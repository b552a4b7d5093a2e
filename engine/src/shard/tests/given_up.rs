//! Messages with receipts that their conversation gives up before a cursor comes to them.

use super::*;
use crate::record::Recipient;

const ROOM: &str = "im/room";

fn publish(topic: &str, qos: QoS, receipt: bool, payload: Vec<u8>) -> Packet {
    let wish = receipt.then(|| (ByteString::from(im::IM_RECEIPT), "delivered".into()));
    let properties = PublishProperties { user_properties: wish.into_iter().collect(), ..Default::default() };
    let packet_id = (qos > QoS::AtMostOnce).then_some(PacketId::MIN);
    Packet::Publish(Publish {
        qos,
        packet_id,
        topic: topic.into(),
        payload: payload.into(),
        properties: properties.into(),
        ..Publish::default()
    })
}

fn subscribe(filter: &str) -> Packet {
    let filters = vec![SubscribeFilter { filter: filter.into(), options: SubscribeOptions::default() }];
    let (packet_id, user_properties) = (PacketId::MIN, Vec::new());
    Packet::Subscribe(Subscribe { packet_id, subscription_identifier: None, user_properties, filters })
}

/// A run whose first client has a cursor before all of the room, and a window with no room for more.
fn with_a_cursor() -> World {
    let mut world = World::new((OnFull::DropOldest, 0, 0));
    world.populate();
    for (client, topic) in [(0, ROOM), (1, "t"), (2, "t")] {
        world.run(Op::Packet(client, publish(topic, QoS::AtLeastOnce, false, Vec::new())));
    }
    world.run(Op::Packet(0, subscribe("$im/from/1/im/#")));
    let first = world.shard.sessions.of_client(CLIENTS[0]).unwrap();
    assert!(world.shard.comes_later(first, ROOM, 1), "the cursor waits");
    world
}

/// Whether a message has no final state yet at the session of the first client.
fn is_open_at_the_first(world: &World) -> bool {
    let session = world.shard.sessions.of_client(CLIENTS[0]).unwrap();
    let session = Recipient::Session(world.shard.sessions[session].no);
    world.shard.receipts.iter().any(|(_, tracking)| tracking.open().contains(session))
}

/// Found by a random run: retention and the session's end were due at once.
#[test]
fn the_receipt_closes_when_the_session_ends_before_its_cursor_meets_what_was_given_up() {
    let mut world = with_a_cursor();
    world.run(Op::Packet(1, publish(ROOM, QoS::AtMostOnce, true, Vec::new())));
    assert!(is_open_at_the_first(&world));
    world.run(Op::Closed(0));
    world.run(Op::Pass { ms: 200_000 });
    world.check();
    assert!(world.shard.sessions.of_client(CLIENTS[0]).is_none());
    world.check_emptied();
}

#[test]
fn the_receipt_closes_when_the_conversation_keeps_less_than_the_message() {
    let mut world = with_a_cursor();
    world.run(Op::Packet(1, publish(ROOM, QoS::AtMostOnce, true, vec![b'x'; 2_000])));
    assert_eq!(world.shard.kept_seqs(ROOM), [0_u64; 0], "it is over what the conversation may keep");
    assert!(!is_open_at_the_first(&world), "nobody brings it to the session");
    world.check();
    world.check_emptied();
}
