//! Messages in JSON envelopes, `$im/env/{filter}` (docs/protocol.md section 2).

use crate::node::*;
use protocol::im::Envelope;
use protocol::*;
use serde_json::{Value, json};

/// The envelopes that came, as topic and JSON.
fn envelopes(node: &mut Node, conn: u64) -> Vec<(String, Value)> {
    let publishes = node.publishes(conn).into_iter();
    publishes.map(|p| (p.topic.to_string(), serde_json::from_slice(&p.payload).unwrap())).collect()
}

#[test]
fn a_3_1_1_client_gets_number_id_sender_and_time_in_the_payload() {
    let mut node = Node::new();
    node.connack(1, version_3("old", false));
    node.connect(2, "truck");
    node.subscribe(1, "$im/env/im/#", QoS::AtLeastOnce);
    node.packet(
        2,
        with_property(publish("im/room", QoS::AtLeastOnce, 1, "hello \"you\""), im::IM_ID, "mine"),
    );
    let expected = json!({"topic": "im/room", "seq": 1, "id": "mine", "from": "anon:truck",
        "ts": 1_800_000_000_000_u64, "payload": "hello \"you\""});
    assert_eq!(envelopes(&mut node, 1), [("$im/env/im/room".to_owned(), expected)]);
    let bytes =
        Publish { payload: Bytes::from_static(b"\xff\xfe"), ..publish("im/x", QoS::AtLeastOnce, 1, "") };
    node.publish(2, bytes);
    let (topic, envelope) = envelopes(&mut node, 1).remove(0);
    assert_eq!(
        (&*topic, &envelope["payload64"], &envelope["payload"]),
        ("$im/env/im/x", &json!("//4="), &json!(null))
    );
}

#[test]
fn outside_conversations_the_number_is_left_out_and_the_rest_is_there() {
    let mut node = Node::new();
    node.connect(1, "reader");
    node.connect(2, "truck");
    node.subscribe(1, "$im/env/t/#", QoS::AtMostOnce);
    node.packet(2, Packet::Publish(publish("t/1", QoS::AtMostOnce, 0, "x")));
    let (topic, envelope) = envelopes(&mut node, 1).remove(0);
    assert_eq!(topic, "$im/env/t/1");
    assert_eq!(envelope.get("seq"), None);
    assert_eq!((&envelope["from"], &envelope["payload"]), (&json!("anon:truck"), &json!("x")));
}

#[test]
fn both_forms_come_where_both_are_subscribed_and_are_one_recipient() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    node.connect(2, "reader");
    node.subscribe(2, "im/room", QoS::AtLeastOnce);
    node.subscribe(2, "$im/env/#", QoS::AtLeastOnce);
    node.subscribe(2, "$im/env/im/+", QoS::AtLeastOnce);
    node.drop_connection(2);
    node.packet(1, tracked(publish("im/room", QoS::AtLeastOnce, 1, "x"), "m"));
    // Both wait over a crash.
    node.restart(usize::MAX);
    node.connect(3, "truck");
    node.connect_with(4, durable("reader"));
    let got: Vec<_> =
        node.publishes(4).into_iter().map(|p| (p.topic.to_string(), p.packet_id.unwrap().get())).collect();
    assert_eq!(got, [("im/room".to_owned(), 1), ("$im/env/im/room".to_owned(), 2)]);
    node.packet(4, Packet::PubAck(ack(2, ReasonCode::Success)));
    assert_eq!(receipts(&mut node, 3), ["m delivered reader -"]);
    node.packet(4, Packet::PubAck(ack(1, ReasonCode::Success)));
    assert_eq!(receipts(&mut node, 3), Vec::<String>::new(), "a recipient ends once");
}

#[test]
fn wildcards_in_envelopes_show_no_topic_that_starts_with_a_dollar_sign() {
    let mut node = Node::new();
    node.connect(1, "reader");
    node.subscribe(1, "$im/env/#", QoS::AtMostOnce);
    node.subscribe(1, "$im/env/+/broker", QoS::AtMostOnce);
    node.input(engine::Input::Inform { topic: "$SYS/broker".into(), payload: "1".into() });
    assert_eq!(envelopes(&mut node, 1), []);
    node.subscribe(1, "$im/env/$SYS/#", QoS::AtMostOnce);
    node.input(engine::Input::Inform { topic: "$SYS/broker".into(), payload: "2".into() });
    let (topic, envelope) = envelopes(&mut node, 1).remove(0);
    assert_eq!(
        (&*topic, &envelope["payload"], envelope.get("from")),
        ("$im/env/$SYS/broker", &json!("2"), None)
    );
}

#[test]
fn retained_messages_come_in_envelopes_and_their_end_too() {
    let mut node = Node::new();
    node.connect(2, "truck");
    node.publish(2, Publish { retain: true, ..publish("t/1", QoS::AtLeastOnce, 1, "kept") });
    node.connect(1, "reader");
    node.packet(1, subscribe("$im/env/t/#", options(QoS::AtLeastOnce)));
    let got = node.publishes(1).remove(0);
    assert!(got.retain && got.topic == "$im/env/t/1", "{got:?}");
    let envelope: Envelope<'_> = serde_json::from_slice(&got.payload).unwrap();
    assert_eq!(envelope.bytes().unwrap().as_ref(), b"kept");
    // Not acknowledged: it comes again after a crash, in the same form.
    node.restart(usize::MAX);
    node.connect_with(3, durable("reader"));
    let again = node.publishes(3).remove(0);
    assert_eq!((again.topic, again.payload, again.dup), (got.topic, got.payload, true));
}

#[test]
fn members_of_a_group_of_envelopes_take_turns() {
    let mut node = Node::new();
    node.connack(1, version_3("one", true));
    node.connect(2, "two");
    node.connect(3, "truck");
    for conn in [1, 2] {
        node.subscribe(conn, "$share/g/$im/env/im/#", QoS::AtLeastOnce);
    }
    for text in ["a", "b"] {
        node.publish(3, publish("im/room", QoS::AtLeastOnce, 1, text));
    }
    let (one, two) = (envelopes(&mut node, 1), envelopes(&mut node, 2));
    assert_eq!((one.len(), two.len()), (1, 1));
    assert_eq!((&one[0].1["payload"], &two[0].1["payload"]), (&json!("a"), &json!("b")));
}

#[test]
fn the_client_s_packet_limit_is_about_the_envelope() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.subscribe(1, "$im/receipts", QoS::AtLeastOnce);
    let mut small = durable("reader");
    small.properties.packet_bytes_max = std::num::NonZeroU32::new(300);
    node.connack(2, small);
    node.subscribe(2, "$im/env/im/room", QoS::AtLeastOnce);
    // 60 bytes in the original, six times as many in JSON.
    let control = Publish { payload: vec![1; 60].into(), ..publish("im/room", QoS::AtLeastOnce, 1, "") };
    node.packet(1, tracked(control, "large"));
    node.packet(1, tracked(publish("im/room", QoS::AtLeastOnce, 1, "x"), "small"));
    assert_eq!(receipts(&mut node, 1), ["large dropped reader too_large"]);
    assert_eq!(envelopes(&mut node, 2)[0].1["id"], "small");
}

#[test]
fn aliases_are_of_the_envelope_s_topic() {
    let mut node = Node::new();
    node.connect(1, "truck");
    let mut reader = durable("reader");
    reader.properties.topic_alias_max = Some(5);
    node.connack(2, reader);
    node.subscribe(2, "im/room", QoS::AtMostOnce);
    node.subscribe(2, "$im/env/im/room", QoS::AtMostOnce);
    let mut seen = Vec::new();
    for _ in 0..2 {
        node.publish(1, publish("im/room", QoS::AtLeastOnce, 1, "x"));
        let got = node.publishes(2).into_iter();
        seen.extend(got.map(|p| (p.topic.to_string(), p.properties.topic_alias.unwrap().get())));
    }
    let topics = ["im/room", "$im/env/im/room", "", ""].map(str::to_owned);
    assert_eq!(seen, topics.into_iter().zip([1, 2, 1, 2]).collect::<Vec<_>>());
}

#[test]
fn filters_that_make_no_sense_in_an_envelope_are_refused() {
    let mut node = Node::new();
    node.connect(1, "reader");
    for filter in [
        "$im/env/",
        "$im/env",
        "$im/env/$im/receipts",
        "$im/env/$im/env/t",
        "$im/env/$share/g/t",
        "$im/env/$im/#",
    ] {
        let code = node.subscribe_with(1, filter, options(QoS::AtLeastOnce));
        assert_eq!(code, ReasonCode::TopicFilterInvalid, "{filter}");
    }
    assert_eq!(node.shard.stats().subscriptions, 0);
    for filter in ["$im/env/#", "$share/g/$im/env/t"] {
        assert_eq!(node.subscribe_with(1, filter, options(QoS::AtLeastOnce)), ReasonCode::GrantedQoS1);
    }
    assert_eq!(node.shard.stats().subscriptions, 2);
    node.packet(
        1,
        Packet::Unsubscribe(Unsubscribe {
            packet_id: id(9),
            user_properties: Vec::new(),
            filters: vec!["$im/env/#".into(), "$share/g/$im/env/t".into(), "#".into()],
        }),
    );
    let Packet::UnsubAck(unsuback) = node.seen(1).remove(0) else { panic!("no UNSUBACK") };
    let gone = ReasonCode::Success;
    assert_eq!(unsuback.reasons, [gone, gone, ReasonCode::NoSubscriptionExisted]);
    assert_eq!(node.shard.stats().subscriptions, 0);
}
