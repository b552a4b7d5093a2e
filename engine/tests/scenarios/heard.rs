//! Topics that are published to again and again: whatever changes, the next message goes to whom it must.

use crate::node::*;
use engine::*;
use protocol::*;
use std::sync::Arc;

const TIMES: usize = 4;

/// Publishes until the topic is known; returns the last reason.
fn publish_often(node: &mut Node, conn: u64, topic: &str) -> ReasonCode {
    let sent = (0..TIMES).map(|_| node.publish(conn, publish(topic, QoS::AtLeastOnce, 1, "x")));
    sent.last().expect("it was sent")
}

#[test]
fn who_subscribes_and_unsubscribes_changes_the_next_message() {
    let mut node = Node::new();
    for (conn, client) in [(1, "truck"), (2, "one"), (3, "other")] {
        node.connect(conn, client);
    }
    assert_eq!(publish_often(&mut node, 1, "a/b"), ReasonCode::NoMatchingSubscribers);
    node.subscribe(2, "a/+", QoS::AtLeastOnce);
    assert_eq!(publish_often(&mut node, 1, "a/b"), ReasonCode::Success);
    assert_eq!(node.publishes(2).len(), TIMES);
    node.subscribe(3, "a/b", QoS::AtMostOnce);
    publish_often(&mut node, 1, "a/b");
    let of_other = node.publishes(3);
    assert_eq!((node.publishes(2).len(), of_other.len()), (TIMES, TIMES));
    assert!(of_other.iter().all(|p| p.qos == QoS::AtMostOnce && &*p.topic == "a/b" && p.payload == "x"));
    // Another QoS takes the place of the one before.
    node.subscribe(3, "a/b", QoS::AtLeastOnce);
    publish_often(&mut node, 1, "a/b");
    assert!(node.publishes(3).iter().all(|p| p.qos == QoS::AtLeastOnce));
    let filters = vec!["a/+".into()];
    node.packet(2, Packet::Unsubscribe(Unsubscribe { packet_id: id(9), user_properties: vec![], filters }));
    node.seen(2);
    publish_often(&mut node, 1, "a/b");
    assert_eq!((node.publishes(2).len(), node.publishes(3).len()), (0, TIMES));
    // One that is away is a recipient all the same.
    node.drop_connection(3);
    node.connect_with(4, volatile("third"));
    assert_eq!(publish_often(&mut node, 1, "a/b"), ReasonCode::Success, "the session of the other lasts");
    assert_eq!(node.publishes(4).len(), 0);
}

#[test]
fn what_depends_on_the_publisher_is_asked_each_time() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connect(2, "other");
    // [MQTT-3.8.3-3]
    node.subscribe_with(1, "t", SubscribeOptions { no_local: true, ..options(QoS::AtLeastOnce) });
    for _ in 0..TIMES {
        publish_often(&mut node, 1, "t");
        assert_eq!(node.publishes(1).len(), 0, "its own");
        publish_often(&mut node, 2, "t");
        assert_eq!(node.publishes(1).len(), TIMES);
    }
    node.input(Input::Acl { acl: Arc::new(Acl { rules: vec![] }) });
    publish_often(&mut node, 2, "known");
    let (who, access) = (Who::Client("truck".into()), Access::Both);
    let rule = AclRule { allow: true, who, access, filter: "known".into() };
    node.input(Input::Acl { acl: Arc::new(Acl { rules: vec![rule] }) });
    assert_eq!(publish_often(&mut node, 2, "known"), ReasonCode::NotAuthorized);
    assert_eq!(publish_often(&mut node, 1, "known"), ReasonCode::NoMatchingSubscribers);
}

#[test]
fn members_of_a_group_take_turns_and_envelopes_come_on_a_topic_that_was_known_before() {
    let mut node = Node::new();
    for (conn, client) in [(1, "truck"), (2, "one"), (3, "two"), (4, "three")] {
        node.connect(conn, client);
    }
    node.subscribe(4, "t", QoS::AtLeastOnce);
    publish_often(&mut node, 1, "t");
    for conn in [2, 3] {
        node.subscribe(conn, "$share/g/t", QoS::AtLeastOnce);
    }
    publish_often(&mut node, 1, "t");
    let (one, two) = (node.publishes(2).len(), node.publishes(3).len());
    assert_eq!((one, two), (TIMES / 2, TIMES / 2));
    node.publishes(4);
    node.subscribe(2, "$im/env/t", QoS::AtLeastOnce);
    publish_often(&mut node, 1, "t");
    let enveloped = node.publishes(2).iter().filter(|p| &*p.topic == "$im/env/t").count();
    assert_eq!((enveloped, node.publishes(4).len()), (TIMES, TIMES));
}
