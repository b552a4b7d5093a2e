//! `$im/...` requests: who may ask, and how what cannot be met is told (docs/protocol.md sections 10 and 11).

use crate::node::*;
use engine::{Acl, AclRule, Config, Input};
use protocol::*;

const BAD: &str = r#"{"interval_s":0}"#;

/// What came on `$im/errors`, as `request: error`.
fn errors(node: &mut Node, conn: u64) -> Vec<String> {
    let told = node.publishes(conn).into_iter().filter(|p| p.topic == "$im/errors");
    let told = told.map(|p| serde_json::from_slice::<im::RequestError>(&p.payload).unwrap());
    told.map(|e| format!("{}: {}", e.request, e.error)).collect()
}

#[test]
fn a_request_that_cannot_be_met_is_told_in_the_ack_and_on_the_errors_topic() {
    let mut node = Node::new();
    node.connect(1, "phone");
    node.subscribe(1, "$im/errors", QoS::AtMostOnce);
    for (qos, n) in [(QoS::AtLeastOnce, 1), (QoS::ExactlyOnce, 2)] {
        let code = node.publish(1, publish("$im/keepalive", qos, n, BAD));
        assert_eq!(code, ReasonCode::ImplementationSpecificError, "{qos:?}");
        let told = errors(&mut node, 1);
        assert!(told[0].starts_with("$im/keepalive: ") && told[0].contains("1 to 7200"), "{told:?}");
    }
    node.packet(1, Packet::Publish(publish("$im/keepalive", QoS::AtMostOnce, 0, "nonsense")));
    assert!(errors(&mut node, 1)[0].contains("not {\"interval_s\""));
}

#[test]
fn a_3_1_1_client_is_acknowledged_and_told_on_the_errors_topic() {
    // [MQTT-3.3.5-2] (3.1.1)
    let mut node = Node::new();
    node.connack(1, version_3("phone", false));
    node.subscribe(1, "$im/errors", QoS::AtMostOnce);
    node.packet(1, Packet::Publish(publish("$im/keepalive", QoS::AtLeastOnce, 1, BAD)));
    let seen = node.seen(1);
    assert!(seen.contains(&Packet::PubAck(ack(1, ReasonCode::Success))), "{seen:?}");
    assert!(seen.iter().any(|p| matches!(p, Packet::Publish(p) if p.topic == "$im/errors")));
    node.packet(1, Packet::Publish(publish("$im/probe", QoS::ExactlyOnce, 2, BAD)));
    node.packet(1, Packet::PubRel(ack(2, ReasonCode::Success)));
    let seen = node.seen(1);
    assert!(seen.contains(&Packet::PubRec(ack(2, ReasonCode::Success))), "{seen:?}");
    assert!(seen.contains(&Packet::PubComp(ack(2, ReasonCode::Success))));
    assert!(node.closed.is_empty());
}

#[test]
fn a_qos_2_request_is_met_once_however_often_it_is_sent() {
    let mut node = Node::new();
    node.connect(1, "phone");
    node.subscribe(1, "$im/errors", QoS::AtMostOnce);
    let probe = publish("$im/probe", QoS::ExactlyOnce, 7, r#"{"id":"a","after_s":5}"#);
    for _ in 0..2 {
        node.packet(1, Packet::Publish(probe.clone()));
        let seen = node.seen(1);
        // A request is no message: it has no id.
        assert_eq!(seen, [Packet::PubRec(ack(7, ReasonCode::Success))]);
    }
    node.pass_s(5);
    assert_eq!(errors(&mut node, 1), Vec::<String>::new(), "the second would be refused as pending");
}

#[test]
fn nobody_receives_a_request_and_nothing_keeps_it() {
    let mut node = Node::new();
    node.connect(1, "phone");
    node.connect(2, "spy");
    for filter in ["#", "$im/#", "$im/keepalive", "$im/probe"] {
        node.subscribe_with(2, filter, options(QoS::AtLeastOnce));
    }
    let mut request = publish("$im/keepalive", QoS::AtLeastOnce, 1, r#"{"interval_s":30}"#);
    request.retain = true;
    assert_eq!(node.publish(1, request), ReasonCode::Success);
    assert_eq!((node.publishes(2), node.shard.stats().retained), (vec![], 0));
}

#[test]
fn requests_need_no_rule_and_a_will_is_none() {
    let mut node = Node::new();
    let rules = vec![AclRule {
        allow: false,
        who: engine::Who::All,
        access: engine::Access::Both,
        filter: "#".into(),
    }];
    node.input(Input::Acl { acl: Acl { rules }.into() });
    node.connect(1, "phone");
    let request = publish("$im/keepalive", QoS::AtLeastOnce, 1, r#"{"interval_s":30}"#);
    assert_eq!(node.publish(1, request), ReasonCode::Success);
    assert_eq!(node.subscribe_with(1, "$im/probe/+", options(QoS::AtLeastOnce)), ReasonCode::GrantedQoS1);
    let mut connect = durable("other");
    connect.will = Some(Box::new(Will {
        topic: "$im/keepalive".into(),
        payload: Bytes::new(),
        qos: QoS::AtMostOnce,
        retain: false,
        delay_interval_s: None,
        properties: PublishProperties::default(),
    }));
    assert_eq!(node.connack(2, connect).reason, ReasonCode::NotAuthorized);
}

#[test]
fn the_bounds_of_the_heartbeat_are_those_of_the_configuration() {
    let config = Config { keepalive_min_s: 20, keepalive_max_s: 40, ..Config::default() };
    let mut node = Node::with(config);
    node.connect(1, "phone");
    for (payload, is_met) in [
        (r#"{"interval_s":19}"#, false),
        (r#"{"interval_s":20}"#, true),
        (r#"{"interval_s":40}"#, true),
        (r#"{"interval_s":41}"#, false),
        (r#"{"interval_s":4294967296}"#, false),
        (r#"{"interval_s":65556}"#, false),
    ] {
        let code = node.publish(1, publish("$im/keepalive", QoS::AtLeastOnce, 1, payload));
        assert_eq!(!code.is_failure(), is_met, "{payload}");
    }
}
