//! What is different for 3.1.1 clients.

use crate::node::*;
use engine::Config;
use protocol::*;

#[test]
fn a_session_without_clean_session_stays_as_long_as_the_broker_allows() {
    // [MQTT-3.1.2-4] (3.1.1), [MQTT-3.1.2-5] (3.1.1), [MQTT-3.2.2-1] (3.1.1), [MQTT-3.2.2-2] (3.1.1), [MQTT-3.2.2-3] (3.1.1)
    let mut node = Node::with(Config { session_expiry_max_s: 100, ..Config::default() });
    assert!(!node.connack(1, version_3("truck", false)).session_present);
    node.drop_connection(1);
    node.pass_s(99);
    assert!(node.connack(2, version_3("truck", false)).session_present);
    node.drop_connection(2);
    node.pass_s(100);
    assert!(!node.connack(3, version_3("truck", false)).session_present);
    node.drop_connection(3);
    assert!(!node.connack(4, version_3("truck", true)).session_present);
    node.drop_connection(4);
    // [MQTT-3.1.2-6] (3.1.1) a clean session is not reused.
    assert!(!node.connack(5, version_3("truck", false)).session_present);
}

#[test]
fn an_empty_client_id_needs_clean_session() {
    // [MQTT-3.1.3-7] (3.1.1), [MQTT-3.1.3-8] (3.1.1); [MQTT-3.1.3-7]
    let mut node = Node::new();
    assert_eq!(node.connack(1, version_3("", false)).reason, ReasonCode::ClientIdentifierNotValid);
    let connack = node.connack(2, version_3("", true));
    assert_eq!((connack.reason, connack.properties), (ReasonCode::Success, ConnAckProperties::default()));
    let assigned = node.connack(3, volatile("")).properties.assigned_client_id.unwrap();
    let second = node.connack(4, volatile("")).properties.assigned_client_id.unwrap();
    assert!(assigned != second && node.closed.len() == 1);
}

#[test]
fn messages_between_the_versions_keep_topic_payload_and_level() {
    let mut node = Node::new();
    node.connack(1, version_3("old", false));
    node.connect(2, "new");
    node.packet(1, subscribe("#", options(QoS::ExactlyOnce)));
    node.packet(2, subscribe("#", options(QoS::ExactlyOnce)));
    node.publish(1, publish("im/room", QoS::AtLeastOnce, 1, "from old"));
    let to_new = node.publishes(2).remove(0);
    let properties = &to_new.properties.user_properties;
    assert_eq!(
        (property(properties, im::IM_SEQ), property(properties, im::IM_FROM)),
        (Some("1"), Some("anon:old"))
    );
    let to_old = node.publishes(1).remove(0);
    assert_eq!(to_old.properties, PublishProperties::default());
    let expected = Publish { qos: QoS::AtLeastOnce, ..publish("im/room", QoS::AtLeastOnce, 1, "from old") };
    assert_eq!(to_old, expected);
}

#[test]
fn a_forbidden_publish_is_acknowledged_discarded_and_reported() {
    // [MQTT-3.3.5-2] (3.1.1), docs/protocol.md section 10
    let mut node = Node::new();
    node.connack(1, version_3("truck", false));
    node.packet(1, subscribe("$im/errors", options(QoS::AtMostOnce)));
    node.seen(1);
    for (qos, n) in [(QoS::AtMostOnce, 0), (QoS::AtLeastOnce, 1), (QoS::ExactlyOnce, 2)] {
        node.packet(1, Packet::Publish(publish("$SYS/x", qos, n, "x")));
        let seen = node.seen(1);
        let error = seen.iter().find_map(|p| if let Packet::Publish(p) = p { Some(p) } else { None });
        let error: serde_json::Value = serde_json::from_slice(&error.unwrap().payload).unwrap();
        assert_eq!(error["request"], "$SYS/x");
        assert!(error["error"].as_str().unwrap().contains("$SYS/x"), "{error}");
        assert_eq!(seen.len(), if qos == QoS::AtMostOnce { 1 } else { 2 });
    }
    // The QoS 2 flow goes on to its end.
    node.packet(1, Packet::PubRel(ack(2, ReasonCode::Success)));
    assert_eq!(node.seen(1), [Packet::PubComp(ack(2, ReasonCode::Success))]);
    assert!(node.closed.is_empty());
}

#[test]
fn a_violation_closes_without_a_disconnect() {
    let mut node = Node::new();
    node.connack(1, version_3("truck", true));
    node.packet(1, Packet::PingResp);
    assert_eq!(node.goodbye(1), None);
    node.connack(2, version_3("truck", true));
    node.connack(3, version_3("truck", true));
    assert_eq!(node.goodbye(2), None, "a takeover is not told");
}
