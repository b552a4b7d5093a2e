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
    let got = node.publishes(2).remove(0).properties.user_properties;
    let names: Vec<_> = got.iter().map(|(n, _)| &**n).collect();
    assert_eq!(names, ["b", "a", "b", "im-id", "im-from", "im-ts"]);
    assert_eq!(property(&got, "im-from"), Some("anon:truck"));
}
