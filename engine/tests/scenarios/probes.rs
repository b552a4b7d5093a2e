//! `$im/probe`: the silence that a client asks for (docs/protocol.md section 7).

use crate::node::*;
use protocol::*;

const TEN: &str = r#"{"id":"p-1","after_s":10}"#;

fn probe(node: &mut Node, conn: u64, payload: &'static str) -> ReasonCode {
    node.publish(conn, publish("$im/probe", QoS::AtLeastOnce, 9, payload))
}

/// A client that waits for the results of its probes.
fn prober() -> Node {
    let mut node = Node::new();
    node.connect(1, "phone");
    node.subscribe(1, "$im/probe/+", QoS::AtLeastOnce);
    node
}

fn results(node: &mut Node, conn: u64) -> Vec<im::ProbeResult> {
    let told = node.publishes(conn).into_iter().filter(|p| p.topic.starts_with("$im/probe/"));
    told.map(|p| {
        assert_eq!((p.qos, p.retain), (QoS::AtMostOnce, false));
        let result: im::ProbeResult = serde_json::from_slice(&p.payload).unwrap();
        assert_eq!(p.topic, im::probe_topic(&result.id));
        result
    })
    .collect()
}

#[test]
fn a_probe_is_acknowledged_at_once_and_told_when_its_silence_is_over() {
    let mut node = prober();
    assert_eq!(probe(&mut node, 1, TEN), ReasonCode::Success);
    node.pass_ms(9_999);
    assert_eq!(node.seen(1), vec![]);
    node.pass_ms(1);
    let at = node.now.unix_ms;
    assert_eq!(results(&mut node, 1), [im::ProbeResult { id: "p-1".into(), at, spoiled: false }]);
    assert_eq!(probe(&mut node, 1, TEN), ReasonCode::Success, "and then another one");
}

#[test]
fn nothing_is_started_before_the_result_and_what_waited_comes_after_it() {
    let mut node = prober();
    node.connect(2, "talker");
    node.subscribe(1, "t/#", QoS::AtLeastOnce);
    probe(&mut node, 1, TEN);
    node.publish(2, publish("t/1", QoS::AtLeastOnce, 1, "waits"));
    node.packet(2, Packet::Publish(publish("t/2", QoS::AtMostOnce, 0, "is dropped")));
    node.pass_s(9);
    assert_eq!(node.seen(1), vec![]);
    node.pass_s(1);
    let topics: Vec<_> = node.publishes(1).iter().map(|p| p.topic.to_string()).collect();
    assert_eq!(topics, ["$im/probe/p-1", "t/1"]);
}

#[test]
fn what_the_standard_demands_is_sent_and_spoils_the_probe() {
    for packet in [
        Packet::PingReq,
        Packet::Publish(publish("t", QoS::AtLeastOnce, 5, "x")),
        Packet::Publish(publish("t", QoS::AtMostOnce, 0, "x")),
        subscribe("x", options(QoS::AtMostOnce)),
    ] {
        let mut node = prober();
        probe(&mut node, 1, TEN);
        node.pass_s(5);
        node.packet(1, packet.clone());
        let answered = !node.seen(1).is_empty();
        assert_eq!(answered, !matches!(&packet, Packet::Publish(p) if p.qos == QoS::AtMostOnce));
        node.pass_s(5);
        assert!(results(&mut node, 1)[0].spoiled, "{packet:?}");
    }
}

#[test]
fn a_second_probe_is_refused_and_the_error_waits_for_the_end_of_the_first() {
    let mut node = prober();
    node.subscribe(1, "$im/errors", QoS::AtMostOnce);
    probe(&mut node, 1, TEN);
    let second = r#"{"id":"p-2","after_s":1}"#;
    assert_eq!(probe(&mut node, 1, second), ReasonCode::ImplementationSpecificError);
    node.pass_s(9);
    assert_eq!(node.publishes(1), vec![]);
    node.pass_s(1);
    let told = node.publishes(1);
    let topics: Vec<_> = told.iter().map(|p| &*p.topic).collect();
    assert_eq!(topics, ["$im/probe/p-1", "$im/errors"], "and never one of the second");
    let error: im::RequestError = serde_json::from_slice(&told[1].payload).unwrap();
    assert!(error.error.contains("a probe is pending"), "{error:?}");
}

#[test]
fn a_probe_ends_with_its_connection() {
    let mut node = prober();
    probe(&mut node, 1, TEN);
    node.drop_connection(1);
    assert!(node.connect(2, "phone"));
    node.pass_s(20);
    assert_eq!(node.seen(2), vec![]);
    assert_eq!(node.shard.stats().deadlines, 0);
}

#[test]
fn a_result_is_for_the_client_that_asked_and_only_if_it_listens() {
    let mut node = prober();
    node.connect(2, "other");
    node.subscribe(2, "$im/probe/+", QoS::AtMostOnce);
    node.connect(3, "deaf");
    probe(&mut node, 3, TEN);
    probe(&mut node, 1, TEN);
    node.pass_s(10);
    assert_eq!((results(&mut node, 1).len(), node.seen(2), node.seen(3)), (1, vec![], vec![]));
    node.packet(
        1,
        Packet::Unsubscribe(Unsubscribe {
            packet_id: id(3),
            user_properties: Vec::new(),
            filters: vec!["$im/probe/+".into()],
        }),
    );
    node.subscribe(1, "$im/probe/p-1", QoS::AtMostOnce);
    probe(&mut node, 1, TEN);
    node.pass_s(10);
    assert_eq!(results(&mut node, 1).len(), 1, "by its own name too");
}

#[test]
fn what_cannot_be_a_probe_is_refused() {
    let mut node = prober();
    for bad in
        ["", "{}", r#"{"id":"a","after_s":0}"#, r#"{"id":"a","after_s":7201}"#, r#"{"id":"a/b","after_s":1}"#]
    {
        let reason = node.publish(1, publish("$im/probe", QoS::AtLeastOnce, 9, bad));
        assert_eq!(reason, ReasonCode::ImplementationSpecificError, "{bad}");
    }
    for filter in ["$im/probe", "$im/probe/#", "$im/probe/a/b", "$share/g/$im/probe/+"] {
        let reason = node.subscribe_with(1, filter, options(QoS::AtMostOnce));
        assert_eq!(reason, ReasonCode::TopicFilterInvalid, "{filter}");
    }
}

#[test]
fn a_probe_that_was_not_spoiled_counts_as_a_survived_silence() {
    let mut node = Node::new();
    for (n, user) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        let conn = 10 + n as u64;
        let mut connect = volatile(user);
        connect.properties.user_properties.push((im::IM_NET.into(), "lte".into()));
        node.connect_as(conn, connect.clone(), Some(user));
        probe(&mut node, conn, r#"{"id":"a","after_s":600}"#);
        node.pass_s(600);
        node.packet(conn, Packet::PingReq);
        let connack = node.connack(20 + n as u64, Connect { client_id: "x".into(), ..connect });
        let hint = property(&connack.properties.user_properties, im::IM_KEEPALIVE);
        assert_eq!(hint, (n == 4).then_some("600"));
    }
}
