//! Rights: who may publish and subscribe where, and what happens to what was there when they change.

use std::sync::Arc;

use crate::node::*;
use engine::{Access, Acl, AclRule, ConnId, Input, Principal, Who};
use protocol::*;

fn rule(allow: bool, who: Who, access: Access, filter: &'static str) -> AclRule {
    AclRule { allow, who, access, filter: filter.into() }
}

fn allow(filter: &'static str) -> AclRule {
    rule(true, Who::All, Access::Both, filter)
}

fn deny(filter: &'static str) -> AclRule {
    rule(false, Who::All, Access::Both, filter)
}

fn set_acl(node: &mut Node, rules: Vec<AclRule>) {
    node.input(Input::Acl { acl: Arc::new(Acl { rules }) });
    work_off(node);
}

/// Lets what was left for later be done.
fn work_off(node: &mut Node) {
    node.pass_ms(0);
}

fn user(name: &'static str) -> Principal {
    Principal { user: Some(name.into()), ..Principal::default() }
}

/// Connects a durable session and forgets its CONNACK.
fn join(node: &mut Node, conn: u64, client_id: &str) {
    node.connect(conn, client_id);
}

fn errors(node: &mut Node, conn: u64) -> Vec<(String, String)> {
    let publishes = node.publishes(conn).into_iter().filter(|p| p.topic == "$im/errors");
    publishes
        .map(|p| {
            let said: serde_json::Value = serde_json::from_slice(&p.payload).unwrap();
            let field = |name: &str| said[name].as_str().unwrap().to_owned();
            (field("request"), field("error"))
        })
        .collect()
}

#[test]
fn a_refused_publish_gets_its_reason_code_and_goes_nowhere() {
    let mut node = Node::new();
    set_acl(&mut node, vec![rule(true, Who::All, Access::Subscribe, "#"), allow("a/#"), deny("b")]);
    join(&mut node, 1, "reader");
    node.subscribe(1, "#", QoS::AtLeastOnce);
    join(&mut node, 2, "writer");
    assert_eq!(node.publish(2, publish("a/b", QoS::AtLeastOnce, 1, "x")), ReasonCode::Success);
    node.packet(2, Packet::Publish(publish("b", QoS::AtLeastOnce, 2, "x")));
    match &node.seen(2)[..] {
        [Packet::PubAck(ack)] => {
            assert_eq!(ack.reason, ReasonCode::NotAuthorized);
            let reason = ack.properties.reason_string.as_deref();
            assert_eq!(reason, Some("publish to \"b\" refused: a rule denies \"b\""));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(node.publish(2, publish("c", QoS::ExactlyOnce, 3, "x")), ReasonCode::NotAuthorized);
    // Refused is ended: the id may be used again at once.
    assert_eq!(node.publish(2, publish("a", QoS::ExactlyOnce, 3, "x")), ReasonCode::Success);
    assert_eq!(node.publishes(1).len(), 2);
}

#[test]
fn version_3_and_qos_0_are_told_on_the_errors_topic() {
    // [MQTT-3.3.5-2] (3.1.1) what is forbidden is acknowledged and discarded.
    let mut node = Node::new();
    set_acl(&mut node, vec![rule(true, Who::All, Access::Subscribe, "t")]);
    join(&mut node, 1, "reader");
    node.subscribe(1, "t", QoS::AtLeastOnce);
    node.connect_with(2, version_3("old", true));
    node.subscribe(2, "$im/errors", QoS::AtMostOnce);
    assert_eq!(node.publish(2, publish("t", QoS::AtLeastOnce, 1, "x")), ReasonCode::Success);
    assert_eq!(errors(&mut node, 2)[0].0, "t");
    node.packet(2, Packet::Publish(publish("t", QoS::AtMostOnce, 0, "x")));
    let told = errors(&mut node, 2);
    assert_eq!(told, [("t".into(), "publish to \"t\" refused: no rule allows it".into())]);
    assert_eq!(node.publish(2, publish("t", QoS::ExactlyOnce, 2, "x")), ReasonCode::Success);
    node.packet(2, Packet::PubRel(ack(2, ReasonCode::Success)));
    assert_eq!(node.seen(2).last(), Some(&Packet::PubComp(ack(2, ReasonCode::Success))));
    assert!(!node.closed.contains_key(&2) && node.publishes(1).is_empty());
}

#[test]
fn a_refused_filter_leaves_the_others_of_its_packet_alone() {
    let mut node = Node::new();
    set_acl(&mut node, vec![deny("a/secret"), allow("a/#")]);
    join(&mut node, 1, "reader");
    let filter = |f: &str| SubscribeFilter { filter: f.into(), options: options(QoS::AtLeastOnce) };
    node.packet(
        1,
        Packet::Subscribe(Subscribe {
            packet_id: id(7),
            subscription_identifier: None,
            user_properties: Vec::new(),
            filters: ["a/b", "a/#", "b", "a/+/c", "$im/receipts"].map(filter).into(),
        }),
    );
    let [Packet::SubAck(suback)] = &node.seen(1)[..] else { panic!("no SUBACK") };
    let (yes, no) = (ReasonCode::GrantedQoS1, ReasonCode::NotAuthorized);
    assert_eq!(suback.reasons, [yes, no, no, yes, yes]);
    assert_eq!(suback.properties.reason_string.as_deref(), Some("\"a/#\": a rule denies \"a/secret\""));
    node.connect_with(2, version_3("old", true));
    node.seen(2);
    assert_eq!(node.subscribe_with(2, "b", options(QoS::AtMostOnce)), ReasonCode::NotAuthorized);
}

#[test]
fn without_rules_all_is_allowed_and_what_is_everyones_always() {
    let mut node = Node::new();
    join(&mut node, 1, "c");
    assert_eq!(node.subscribe_with(1, "$SYS/#", options(QoS::AtMostOnce)), ReasonCode::Success);
    set_acl(&mut node, vec![deny("#"), deny("$im/#"), deny("$SYS/#")]);
    join(&mut node, 2, "d");
    for (filter, reason) in [
        ("$im/receipts", ReasonCode::Success),
        ("$im/errors", ReasonCode::Success),
        ("$SYS/#", ReasonCode::NotAuthorized),
        ("t", ReasonCode::NotAuthorized),
    ] {
        assert_eq!(node.subscribe_with(2, filter, options(QoS::AtMostOnce)), reason, "{filter}");
    }
}

#[test]
fn a_principals_own_rules_come_before_the_nodes_and_its_groups_count() {
    let mut node = Node::new();
    let drivers = rule(true, Who::Group("drivers".into()), Access::Both, "trucks/%u/#");
    set_acl(&mut node, vec![drivers, deny("own")]);
    let principal = Principal {
        groups: ["drivers".into()].into(),
        rules: vec![rule(true, Who::All, Access::Publish, "own")].into(),
        ..user("alice")
    };
    node.connect_principal(1, volatile("phone"), principal);
    for (topic, expected) in [
        ("own", ReasonCode::NoMatchingSubscribers),
        ("trucks/alice/x", ReasonCode::NoMatchingSubscribers),
        ("trucks/bob/x", ReasonCode::NotAuthorized),
    ] {
        assert_eq!(node.publish(1, publish(topic, QoS::AtLeastOnce, 1, "x")), expected, "{topic}");
    }
}

#[test]
fn a_will_that_is_not_allowed_is_refused_at_connect_and_one_forbidden_later_is_not_published() {
    let mut node = Node::new();
    set_acl(&mut node, vec![allow("ok"), rule(true, Who::All, Access::Subscribe, "#")]);
    join(&mut node, 1, "reader");
    node.subscribe(1, "#", QoS::AtLeastOnce);
    let leaves = |topic: &str, delay_interval_s| {
        let (topic, payload) = (topic.into(), Bytes::from_static(b"gone"));
        let properties = PublishProperties::default();
        let (qos, retain) = (QoS::AtLeastOnce, false);
        let will = Will { topic, payload, qos, retain, delay_interval_s, properties };
        Connect { will: Some(Box::new(will)), ..durable("leaver") }
    };
    let connack = node.connack(2, leaves("other", None));
    assert_eq!(connack.reason, ReasonCode::NotAuthorized);
    let said = connack.properties.reason_string.unwrap();
    assert_eq!(said, "will on \"other\": no rule allows it");
    assert!(node.closed.contains_key(&2));
    // Neither at once nor after its delay, with the session gone or not.
    for (conn, delay) in [(3, None), (4, Some(10))] {
        set_acl(&mut node, vec![allow("ok"), rule(true, Who::All, Access::Subscribe, "#")]);
        assert_eq!(node.connack(conn, leaves("ok", delay)).reason, ReasonCode::Success);
        set_acl(&mut node, vec![rule(true, Who::All, Access::Subscribe, "#")]);
        node.drop_connection(conn);
        node.pass_s(11);
        assert_eq!(node.publishes(1), [], "delay {delay:?}");
    }
    set_acl(&mut node, vec![allow("#")]);
    node.connack(5, leaves("ok", None));
    node.drop_connection(5);
    assert_eq!(node.payloads(1), ["gone"]);
}

#[test]
fn new_rules_take_subscriptions_away_and_the_client_is_told() {
    let mut node = Node::new();
    join(&mut node, 1, "reader");
    for filter in ["$im/errors", "a/#", "b"] {
        node.subscribe(1, filter, QoS::AtLeastOnce);
    }
    set_acl(&mut node, vec![rule(true, Who::All, Access::Publish, "#"), allow("b")]);
    let told = errors(&mut node, 1);
    assert_eq!(told, [("a/#".into(), "subscription to \"a/#\" removed: no rule allows it".into())]);
    assert_eq!(node.shard.stats().subscriptions, 1);
    join(&mut node, 2, "writer");
    for (topic, reason) in [("a/x", ReasonCode::NoMatchingSubscribers), ("b", ReasonCode::Success)] {
        assert_eq!(node.publish(2, publish(topic, QoS::AtLeastOnce, 1, "x")), reason);
    }
    // Durably: a restart does not bring it back.
    let records = node.log.len();
    node.restart(records);
    assert_eq!(node.shard.stats().subscriptions, 1);
}

#[test]
fn subscriptions_that_rules_forbid_are_taken_away_at_once_while_other_work_waits() {
    let mut node = Node::new();
    join(&mut node, 1, "reader");
    node.subscribe(1, "a/#", QoS::AtLeastOnce);
    node.connect_with(2, volatile("much"));
    for n in 0..1_000 {
        node.subscribe(2, &format!("b/{n}"), QoS::AtLeastOnce);
    }
    node.drop_connection(2);
    let left = node.shard.stats().subscriptions;
    assert!((2..1_001).contains(&left), "{left} subscriptions are left: the end is not in portions");
    node.input(Input::Acl { acl: Arc::new(Acl { rules: vec![deny("a/#"), allow("#")] }) });
    assert_eq!(
        node.shard.stats().subscriptions,
        left - 1,
        "the forbidden one went, the others wait for the timer"
    );
    work_off(&mut node);
    assert_eq!(node.shard.stats().subscriptions, 0);
}

#[test]
fn what_waits_and_may_not_be_read_any_more_ends_as_dropped_and_the_rest_comes() {
    let mut node = Node::new();
    join(&mut node, 1, "sender");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    join(&mut node, 2, "reader");
    for filter in ["a/#", "b"] {
        node.subscribe(2, filter, QoS::AtLeastOnce);
    }
    node.drop_connection(2);
    for (n, (topic, name)) in [("a/1", "m1"), ("b", "m2"), ("a/2", "m3"), ("b", "m4")].into_iter().enumerate()
    {
        node.packet(1, tracked(publish(topic, QoS::AtLeastOnce, n as u16 + 1, name), name));
    }
    node.seen(1);
    set_acl(&mut node, vec![rule(true, Who::All, Access::Publish, "#"), allow("b")]);
    assert_eq!(
        receipts(&mut node, 1),
        ["m1 dropped reader not_authorized", "m3 dropped reader not_authorized"]
    );
    // The log says the same.
    let records = node.log.len();
    node.restart(records);
    set_acl(&mut node, vec![allow("b")]);
    node.connect_with(3, durable("reader"));
    assert_eq!(node.payloads(3), ["m2", "m4"]);
}

#[test]
fn after_a_restart_a_session_is_checked_when_its_client_comes_and_nothing_forbidden_is_sent() {
    let mut node = Node::new();
    join(&mut node, 1, "sender");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    join(&mut node, 2, "reader");
    for filter in ["a/#", "b"] {
        node.subscribe(2, filter, QoS::AtLeastOnce);
    }
    // One in flight, then some that wait.
    node.packet(1, tracked(publish("a/0", QoS::AtLeastOnce, 9, "m0"), "m0"));
    node.drop_connection(2);
    for (n, (topic, name)) in [("a/1", "m1"), ("b", "m2"), ("a/2", "m3")].into_iter().enumerate() {
        node.packet(1, tracked(publish(topic, QoS::AtLeastOnce, n as u16 + 1, name), name));
    }
    let records = node.log.len();
    node.restart(records);
    set_acl(&mut node, vec![rule(true, Who::Group("readers".into()), Access::Both, "a/#"), allow("b")]);
    // Nobody knows yet whether the reader is in the group.
    assert_eq!(node.shard.stats().queued, 4);
    node.connect_with(3, durable("sender"));
    node.connect_principal(4, durable("reader"), Principal::default());
    assert_eq!(node.payloads(4), ["m2"]);
    work_off(&mut node);
    assert_eq!(node.shard.stats().subscriptions, 1);
    let mut told = receipts(&mut node, 3);
    told.sort();
    assert_eq!(told, ["m0", "m1", "m3"].map(|m| format!("{m} dropped reader not_authorized")));
}

#[test]
fn a_client_that_may_still_read_gets_its_queue_after_a_restart() {
    let mut node = Node::new();
    join(&mut node, 1, "sender");
    let readers = || Principal { groups: ["readers".into()].into(), ..user("r") };
    node.connect_principal(2, durable("reader"), readers());
    node.subscribe(2, "a/#", QoS::AtLeastOnce);
    node.drop_connection(2);
    node.packet(1, Packet::Publish(publish("a/1", QoS::AtLeastOnce, 1, "m1")));
    let records = node.log.len();
    node.restart(records);
    set_acl(&mut node, vec![rule(true, Who::Group("readers".into()), Access::Both, "a/#")]);
    node.connect_principal(3, durable("reader"), readers());
    assert_eq!(node.payloads(3), ["m1"]);
    work_off(&mut node);
    assert_eq!(node.shard.stats().subscriptions, 1);
}

#[test]
fn what_is_with_the_client_stays_and_is_not_sent_again() {
    let mut node = Node::new();
    join(&mut node, 1, "sender");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    join(&mut node, 2, "reader");
    node.subscribe(2, "t", QoS::AtLeastOnce);
    node.packet(1, tracked(publish("t", QoS::AtLeastOnce, 1, "m1"), "m1"));
    node.packet(1, tracked(publish("t", QoS::AtLeastOnce, 2, "m2"), "m2"));
    set_acl(&mut node, vec![rule(true, Who::All, Access::Publish, "#")]);
    assert_eq!(node.publishes(2).len(), 2);
    // Sent before the change: it may be acknowledged to the end ...
    node.packet(2, Packet::PubAck(ack(1, ReasonCode::Success)));
    assert_eq!(receipts(&mut node, 1), ["m1 delivered reader -"]);
    // ... but not sent again.
    node.drop_connection(2);
    node.connect_with(3, durable("reader"));
    work_off(&mut node);
    assert_eq!(node.publishes(3), []);
    assert_eq!(receipts(&mut node, 1), ["m2 dropped reader not_authorized"]);
}

#[test]
fn a_forbidden_qos_2_message_in_flight_gives_its_packet_id_back_on_both_sides() {
    let mut node = Node::new();
    join(&mut node, 1, "sender");
    join(&mut node, 2, "reader");
    for filter in ["t", "u"] {
        node.subscribe(2, filter, QoS::ExactlyOnce);
    }
    node.packet(1, tracked(publish("t", QoS::ExactlyOnce, 1, "m1"), "m1"));
    let taken = node.publishes(2)[0].packet_id.unwrap();
    node.drop_connection(2);
    set_acl(&mut node, vec![rule(true, Who::All, Access::Publish, "#"), allow("u")]);
    let records = node.log.len();
    node.restart(records);
    set_acl(&mut node, vec![rule(true, Who::All, Access::Publish, "#"), allow("u")]);
    // The client may hold the id of the message it got: PUBREL ends it, no PUBLISH comes.
    node.connect_with(3, durable("reader"));
    work_off(&mut node);
    let seen = node.seen(3);
    let pubrel = Packet::PubRel(ack(taken.get(), ReasonCode::Success));
    assert!(matches!(&seen[..], [Packet::ConnAck(_), rel] if *rel == pubrel), "{seen:?}");
    node.packet(3, Packet::PubComp(ack(taken.get(), ReasonCode::Success)));
    assert_eq!(node.shard.stats().queued, 0);
}

#[test]
fn a_connection_that_authenticates_again_is_checked_again() {
    let mut node = Node::new();
    let only = |filter| Principal { rules: vec![allow(filter)].into(), ..user("u") };
    node.connect_principal(1, durable("c"), only("#"));
    for filter in ["a", "b", "$im/errors"] {
        node.subscribe(1, filter, QoS::AtLeastOnce);
    }
    let principal = Box::new(only("a"));
    node.input(Input::Principal { conn: ConnId(1), principal });
    work_off(&mut node);
    assert_eq!(errors(&mut node, 1)[0].0, "b");
    assert_eq!(node.subscribe_with(1, "b", options(QoS::AtMostOnce)), ReasonCode::NotAuthorized);
    assert_eq!(node.publish(1, publish("b", QoS::AtLeastOnce, 1, "x")), ReasonCode::NotAuthorized);
    // The session belongs to the user who created it.
    node.input(Input::Principal { conn: ConnId(1), principal: Box::new(user("other")) });
    assert_eq!(node.goodbye(1), Some(ReasonCode::NotAuthorized));
}

#[test]
fn a_group_is_joined_by_the_rights_to_its_filter_and_what_waits_goes_to_who_may_read_it() {
    let mut node = Node::new();
    let both = vec![allow("a/#"), rule(true, Who::All, Access::Publish, "#")];
    set_acl(&mut node, both);
    join(&mut node, 1, "sender");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    let mut one_at_a_time = durable("one");
    one_at_a_time.properties.receive_maximum = std::num::NonZeroU16::new(1);
    node.connect_with(2, one_at_a_time);
    node.seen(2);
    assert_eq!(node.subscribe_with(2, "$share/g/b", options(QoS::AtLeastOnce)), ReasonCode::NotAuthorized);
    node.subscribe(2, "$share/g/a/#", QoS::AtLeastOnce);
    for (n, name) in (1..).zip(["m0", "m1", "m2"]) {
        node.packet(1, tracked(publish("a/b", QoS::AtLeastOnce, n, name), name));
    }
    assert_eq!(node.payloads(2), ["m0"]);
    join(&mut node, 3, "two");
    node.subscribe(3, "$share/g/a/#", QoS::AtLeastOnce);
    // The others wait with the first member, who may not read them any more; the second one may.
    let only = |id: &'static str| vec![rule(true, Who::Client(id.into()), Access::Both, "a/#")];
    set_acl(&mut node, only("two"));
    assert_eq!(node.payloads(3), ["m1", "m2"]);
    assert_eq!(receipts(&mut node, 1), Vec::<String>::new(), "nothing has ended");
    assert_eq!(node.shard.stats().subscriptions, 1);
    set_acl(&mut node, only("nobody"));
    assert_eq!(node.shard.stats().subscriptions, 0);
    // What each was sent stays with it.
    node.packet(2, Packet::PubAck(ack(1, ReasonCode::Success)));
    assert_eq!(receipts(&mut node, 1), ["m0 delivered one -"]);
}

#[test]
fn many_sessions_are_checked_in_portions_and_none_gets_what_is_forbidden_meanwhile() {
    let mut node = Node::new();
    const READERS: u64 = 2_000;
    for conn in 1..=READERS {
        join(&mut node, conn, &format!("reader-{conn}"));
        node.subscribe(conn, "t", QoS::AtLeastOnce);
    }
    join(&mut node, 5_000, "sender");
    node.input(Input::Acl { acl: Arc::new(Acl { rules: vec![rule(true, Who::All, Access::Publish, "#")] }) });
    let left = node.shard.stats().subscriptions;
    assert!(left > 0, "{left} sessions are left: all were checked in one go");
    node.packet(5_000, Packet::Publish(publish("t", QoS::AtLeastOnce, 1, "x")));
    work_off(&mut node);
    assert_eq!(node.shard.stats().subscriptions, 0);
    assert_eq!(node.shard.stats().queued, 0);
    for conn in 1..=READERS {
        assert_eq!(node.publishes(conn), []);
    }
}

#[test]
fn an_acknowledgement_before_the_check_brings_nothing_that_is_forbidden_now() {
    let mut node = Node::new();
    // So many that the reader's turn has not come when it acknowledges.
    for conn in 100..2_100 {
        join(&mut node, conn, &format!("reader-{conn}"));
        node.subscribe(conn, "other", QoS::AtLeastOnce);
    }
    join(&mut node, 1, "sender");
    let mut one_at_a_time = durable("reader");
    one_at_a_time.properties.receive_maximum = std::num::NonZeroU16::new(1);
    node.connect_with(2, one_at_a_time);
    node.seen(2);
    node.subscribe(2, "+", QoS::AtLeastOnce);
    for (n, topic) in (1..).zip(["bad", "bad", "good"]) {
        node.packet(1, Packet::Publish(publish(topic, QoS::AtLeastOnce, n, topic)));
    }
    assert_eq!(node.payloads(2), ["bad"]);
    node.input(Input::Acl { acl: Arc::new(Acl { rules: vec![deny("bad"), allow("#")] }) });
    node.packet(2, Packet::PubAck(ack(1, ReasonCode::Success)));
    assert_eq!(node.payloads(2), ["good"]);
}

#[test]
fn a_queue_longer_than_a_portion_is_checked_to_its_end() {
    let mut node = Node::new();
    join(&mut node, 1, "sender");
    join(&mut node, 2, "reader");
    node.subscribe(2, "+", QoS::AtLeastOnce);
    node.drop_connection(2);
    for n in 0..500u16 {
        let topic = if n % 3 == 0 { "good" } else { "bad" };
        node.packet(1, Packet::Publish(publish(topic, QoS::AtLeastOnce, n + 1, "x")));
    }
    set_acl(&mut node, vec![deny("bad"), allow("#")]);
    assert_eq!(node.shard.stats().queued, 500u64.div_ceil(3));
    let records = node.log.len();
    node.restart(records);
    assert_eq!(node.shard.stats().queued, 500u64.div_ceil(3));
}
