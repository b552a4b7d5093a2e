//! Conversations and the properties of messages (docs/protocol.md section 2).

use crate::node::*;
use protocol::*;

#[test]
fn a_qos_0_publish_to_a_conversation_waits_for_its_number_to_be_durable() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "dispatcher");
    node.subscribe(2, "im/#", QoS::AtMostOnce);
    node.auto_commit = false;
    node.packet(1, Packet::Publish(publish("im/room", QoS::AtMostOnce, 0, "hello")));
    assert_eq!(node.seen(2), vec![]);
    node.commit();
    let got = node.publishes(2);
    assert_eq!(property(&got[0].properties.user_properties, im::IM_SEQ), Some("1"));
}

#[test]
fn forged_broker_properties_are_removed_and_the_others_kept_in_order() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "dispatcher");
    node.subscribe(2, "#", QoS::AtLeastOnce);
    let mut p = publish("t", QoS::AtLeastOnce, 1, "x");
    let given = [
        ("b", "1"),
        ("im-from", "boss"),
        ("im-seq", "9"),
        ("a", "2"),
        ("b", "3"),
        ("im-gap", "1"),
        ("im-ts", "5"),
    ];
    p.properties.user_properties = given.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
    node.packet(1, Packet::Publish(p));
    let got = node.publishes(2).remove(0).properties.into_inner().user_properties;
    let names: Vec<_> = got.iter().map(|(n, _)| &**n).collect();
    assert_eq!(names, ["b", "a", "b", "im-id", "im-from", "im-ts"]);
    assert_eq!(property(&got, "im-from"), Some("anon:truck"));
}

fn seqs(publishes: &[Publish]) -> Vec<String> {
    let seq = |p: &Publish| property(&p.properties.user_properties, im::IM_SEQ).map(str::to_owned);
    publishes.iter().filter_map(seq).collect()
}

#[test]
fn numbers_have_no_gaps_over_crashes_checkpoints_and_refusals() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "dispatcher");
    node.subscribe(2, "im/room", QoS::AtLeastOnce);
    node.publish(1, publish("im/room", QoS::AtLeastOnce, 1, "1"));
    // A refused one takes no number.
    let mut refused = publish("im/room", QoS::AtLeastOnce, 1, "x");
    refused.properties.user_properties = vec![(im::IM_ID.into(), "".into())];
    assert!(node.publish(1, refused).is_failure());
    // One that nobody gets, and one whose record was lost.
    node.packet(2, Packet::PubAck(ack(1, ReasonCode::Success)));
    node.drop_connection(2);
    let durable_records = node.log.len();
    node.auto_commit = false;
    node.packet(1, Packet::Publish(publish("im/room", QoS::AtLeastOnce, 1, "lost before its PUBACK")));
    node.auto_commit = true;
    node.restart(durable_records);
    node.connect(3, "truck");
    node.publish(3, publish("im/room", QoS::AtLeastOnce, 1, "2"));
    node.restart_from_checkpoint();
    node.connect(4, "truck");
    node.publish(4, publish("im/room", QoS::AtLeastOnce, 1, "3"));
    node.connect_with(5, durable("dispatcher"));
    assert_eq!(seqs(&node.publishes(5)), ["2", "3"]);
}

#[test]
fn acknowledgements_carry_number_and_id() {
    let mut node = Node::new();
    node.connect(1, "truck");
    for (qos, topic, id, seq) in [
        (QoS::AtLeastOnce, "im/room", "mine", Some("1")),
        (QoS::ExactlyOnce, "im/room", "also mine", Some("2")),
        (QoS::AtLeastOnce, "elsewhere", "mine", None),
    ] {
        let p = publish(topic, qos, 1, "x");
        node.packet(1, with_property(p, im::IM_ID, id));
        let seen = node.seen(1);
        let [Packet::PubAck(ack) | Packet::PubRec(ack)] = &seen[..] else { panic!("{seen:?}") };
        let properties = &ack.properties.user_properties;
        assert_eq!((property(properties, im::IM_ID), property(properties, im::IM_SEQ)), (Some(id), seq));
    }
}

#[test]
fn accept_times_never_go_back_in_a_conversation() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "dispatcher");
    node.subscribe(2, "im/room", QoS::AtLeastOnce);
    let mut times = Vec::new();
    for step in [0, -5_000, 1_000, 9_000i64] {
        node.now.unix_ms = node.now.unix_ms.checked_add_signed(step).unwrap();
        node.publish(1, publish("im/room", QoS::AtLeastOnce, 1, "x"));
        let p = node.publishes(2).remove(0);
        times.push(property(&p.properties.user_properties, im::IM_TS).unwrap().parse::<u64>().unwrap());
    }
    assert!(times.is_sorted() && times[0] < times[3], "{times:?}");
}

#[test]
fn a_qos_0_message_of_a_conversation_is_queued_for_who_is_away_and_others_are_not() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    node.connect(2, "dispatcher");
    node.subscribe(2, "#", QoS::AtMostOnce);
    node.drop_connection(2);
    node.packet(1, tracked(publish("im/room", QoS::AtMostOnce, 0, "kept"), "conversation"));
    node.packet(1, tracked(publish("elsewhere", QoS::AtMostOnce, 0, "gone"), "other"));
    assert_eq!(receipts(&mut node, 1), ["other dropped dispatcher offline"]);
    node.restart(usize::MAX);
    node.connect(3, "truck");
    node.connect_with(4, durable("dispatcher"));
    assert_eq!(node.payloads(4), ["kept"]);
    let told = receipts(&mut node, 3);
    assert_eq!(told.last().unwrap(), "conversation delivered dispatcher -");
}
