//! Members of conversations, and sessions that get all of their user's (docs/protocol.md section 6).

use crate::node::*;
use engine::{Access, Acl, AclRule, Answer, Config, Input, Principal, Question, Who};
use protocol::*;

fn user(node: &mut Node, conn: u64, client: &str, name: &'static str) {
    node.connect_as(conn, durable(client), Some(name));
    node.take_connack(conn);
}

fn post(node: &mut Node, conn: u64, topic: &str, payload: &'static str) {
    assert_eq!(node.publish(conn, publish(topic, QoS::AtLeastOnce, 1, payload)), ReasonCode::Success);
}

/// What came, as `topic payload`, acknowledged.
fn got(node: &mut Node, conn: u64) -> Vec<String> {
    let publishes = node.publishes(conn);
    for p in &publishes {
        if let Some(id) = p.packet_id {
            node.packet(conn, Packet::PubAck(ack(id.get(), ReasonCode::Success)));
        }
    }
    let mut got: Vec<_> =
        publishes.iter().map(|p| format!("{} {}", p.topic, String::from_utf8_lossy(&p.payload))).collect();
    got.extend(node.publishes(conn).iter().map(|p| format!("{} later", p.topic)));
    got
}

#[test]
fn a_session_gets_every_conversation_of_its_user_also_those_joined_later() {
    let mut node = Node::new();
    node.join("im/a", "bob");
    user(&mut node, 1, "phone", "bob");
    user(&mut node, 2, "alice", "alice");
    node.subscribe(1, "$im/mine", QoS::AtLeastOnce);
    post(&mut node, 2, "im/a", "1");
    post(&mut node, 2, "im/b", "not yet");
    node.join("im/b", "bob");
    post(&mut node, 2, "im/b", "2");
    assert_eq!(got(&mut node, 1), ["im/a 1", "im/b 2"]);
    node.leave("im/a", "bob");
    post(&mut node, 2, "im/a", "3");
    post(&mut node, 2, "im/b", "4");
    assert_eq!(got(&mut node, 1), ["im/b 4"]);
    node.packet(
        1,
        Packet::Unsubscribe(Unsubscribe {
            packet_id: id(9),
            user_properties: Vec::new(),
            filters: vec!["$im/mine".into()],
        }),
    );
    node.seen(1);
    post(&mut node, 2, "im/b", "5");
    assert_eq!(got(&mut node, 1), Vec::<String>::new());
}

#[test]
fn overlapping_subscriptions_give_one_copy_with_all_identifiers_at_the_highest_level() {
    let mut node = Node::new();
    node.join("im/a", "bob");
    user(&mut node, 1, "phone", "bob");
    user(&mut node, 2, "alice", "alice");
    for (filter, qos, identifier) in [("$im/mine", QoS::AtMostOnce, 5), ("im/#", QoS::ExactlyOnce, 7)] {
        let Packet::Subscribe(mut packet) = subscribe(filter, options(qos)) else { unreachable!() };
        packet.subscription_identifier = Some(identifier);
        node.packet(1, Packet::Subscribe(packet));
    }
    node.seen(1);
    node.publish(2, publish("im/a", QoS::ExactlyOnce, 1, "x"));
    let got = node.publishes(1);
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].qos, QoS::ExactlyOnce);
    assert_eq!(got[0].properties.subscription_identifiers, [5, 7]);
}

#[test]
fn who_is_away_gets_in_order_what_came_meanwhile_over_restarts() {
    let mut node = Node::new();
    node.join("im/a", "bob");
    node.join("im/b", "bob");
    user(&mut node, 1, "phone", "bob");
    node.subscribe(1, "$im/mine", QoS::AtLeastOnce);
    user(&mut node, 2, "alice", "alice");
    post(&mut node, 2, "im/a", "live");
    assert_eq!(got(&mut node, 1), ["im/a live"]);
    node.drop_connection(1);
    for payload in ["1", "2", "3"] {
        post(&mut node, 2, "im/a", payload);
        post(&mut node, 2, "im/b", payload);
    }
    node.restart(usize::MAX);
    user(&mut node, 3, "alice", "alice");
    post(&mut node, 3, "im/a", "4");
    node.connect_as(4, durable("phone"), Some("bob"));
    let mut all = got(&mut node, 4);
    for _ in 0..20 {
        all.extend(got(&mut node, 4));
    }
    let of = |topic: &str| -> Vec<_> { all.iter().filter(|m| m.starts_with(topic)).cloned().collect() };
    assert_eq!(of("im/a"), ["im/a 1", "im/a 2", "im/a 3", "im/a 4"]);
    assert_eq!(of("im/b"), ["im/b 1", "im/b 2", "im/b 3"]);
    post(&mut node, 3, "im/a", "5");
    assert_eq!(got(&mut node, 4), ["im/a 5"]);
}

#[test]
fn members_survive_crashes_and_checkpoints() {
    let mut node = Node::new();
    node.join("im/a", "bob");
    node.join("im/a", "carol");
    node.join("im/b", "bob");
    node.leave("im/b", "bob");
    for checkpoint in [false, true, false] {
        match checkpoint {
            true => node.restart_from_checkpoint(),
            false => node.restart(usize::MAX),
        }
        let topics: Vec<_> = node.shard.unread("bob").into_iter().map(|(topic, _)| topic).collect();
        assert_eq!(topics, ["im/a"]);
        assert_eq!(node.shard.unread("carol").len(), 1);
    }
}

#[test]
fn an_answer_waits_for_the_record_behind_it() {
    let mut node = Node::new();
    node.auto_commit = false;
    let join = || Question::Join { topic: "im/a".into(), user: "bob".into(), by: None };
    assert_eq!(node.ask(join()), None);
    // The second changes nothing, but what it says is not durable either.
    assert_eq!(node.ask(join()), None);
    node.commit();
    assert_eq!(node.answers(), 2);
}

#[test]
fn what_is_no_conversation_or_user_and_what_is_too_much_is_refused() {
    let limits =
        Config { members_max: 2, conversations_per_user_max: 2, memberships_max: 4, ..Config::default() };
    let mut node = Node::with(limits);
    let mut join = |topic: &str, user: &str| {
        node.ask(Question::Join { topic: topic.into(), user: user.into(), by: None }).unwrap()
    };
    assert!(matches!(join("elsewhere", "bob"), Answer::NotFound(_)));
    let long = "x".repeat(1_025);
    for (topic, user) in [
        ("im/+", "bob"),
        ("im/#", "bob"),
        ("", "bob"),
        ("$im/x", "bob"),
        ("im/a", ""),
        ("im/a", "a\nb"),
        ("im/a", long.as_str()),
    ] {
        assert!(matches!(join(topic, user), Answer::Invalid(_)), "{topic:?} {user:?}");
    }
    for (topic, user, full) in [
        ("im/a", "bob", None),
        ("im/a", "carol", None),
        ("im/a", "dave", Some("the conversation has 2 members, its limit")),
        ("im/b", "bob", None),
        ("im/c", "bob", Some("the user is a member of 2 conversations, the limit")),
        ("im/c", "carol", None),
        ("im/d", "dave", Some("the broker keeps 4 memberships, its limit")),
        ("im/a", "bob", None),
    ] {
        let answer = full.map_or(Answer::Done, |what| Answer::Full(what.to_owned()));
        assert_eq!(join(topic, user), answer, "{topic} {user}");
    }
}

fn rule(allow: bool, filter: &str) -> AclRule {
    AclRule { allow, who: Who::All, access: Access::Both, filter: filter.into() }
}

#[test]
fn membership_does_not_override_the_rules() {
    let mut node = Node::new();
    node.input(Input::Acl { acl: Acl { rules: vec![rule(false, "im/secret"), rule(true, "#")] }.into() });
    for topic in ["im/a", "im/secret"] {
        node.join(topic, "bob");
    }
    user(&mut node, 1, "phone", "bob");
    assert_eq!(node.subscribe_with(1, "$im/mine", options(QoS::AtLeastOnce)), ReasonCode::GrantedQoS1);
    user(&mut node, 2, "alice", "alice");
    let open = Acl { rules: vec![rule(true, "#")] };
    let closed = Acl { rules: vec![rule(false, "im/secret"), rule(true, "#")] };
    let say = |node: &mut Node, payload| {
        for topic in ["im/secret", "im/a"] {
            node.input(Input::Acl { acl: open.clone().into() });
            // Rules of the writer do not matter here, those of the reader are checked when it is sent.
            node.input(Input::Acl { acl: closed.clone().into() });
            let allowed = topic != "im/secret";
            let reason = node.publish(2, publish(topic, QoS::AtLeastOnce, 1, payload));
            assert_eq!(reason.is_failure(), !allowed);
        }
    };
    say(&mut node, "1");
    assert_eq!(got(&mut node, 1), ["im/a 1"]);
    // Queued while it was allowed, not sent when it is not any more.
    node.drop_connection(1);
    node.input(Input::Acl { acl: open.clone().into() });
    for topic in ["im/secret", "im/a"] {
        post(&mut node, 2, topic, "2");
    }
    node.input(Input::Acl { acl: closed.into() });
    node.connect_as(3, durable("phone"), Some("bob"));
    let mut all = got(&mut node, 3);
    all.extend(got(&mut node, 3));
    assert_eq!(all, ["im/a 2"]);
    // Who joins by itself must be allowed to read.
    let by = |topic: &str| Question::Join {
        topic: topic.into(),
        user: "eve".into(),
        by: Some(Box::new(Principal { user: Some("eve".into()), ..Principal::default() })),
    };
    assert!(matches!(node.ask(by("im/secret")), Some(Answer::Forbidden(_))));
    assert_eq!(node.ask(by("im/a")), Some(Answer::Done));
}

#[test]
fn leaving_takes_back_what_waits_of_the_conversation_and_nothing_else() {
    let mut node = Node::new();
    node.join("im/a", "bob");
    node.join("im/b", "bob");
    user(&mut node, 1, "phone", "bob");
    node.subscribe(1, "$im/mine", QoS::AtLeastOnce);
    user(&mut node, 3, "tablet", "bob");
    node.subscribe(3, "im/a", QoS::AtLeastOnce);
    user(&mut node, 2, "alice", "alice");
    node.drop_connection(1);
    node.drop_connection(3);
    for _ in 0..100 {
        post(&mut node, 2, "im/a", "a");
    }
    post(&mut node, 2, "im/b", "b");
    node.leave("im/a", "bob");
    node.pass_ms(1);
    node.restart(usize::MAX);
    node.connect_as(4, durable("phone"), Some("bob"));
    assert_eq!(got(&mut node, 4), ["im/b b"]);
    // Who subscribed by itself has it of its own right.
    node.connect_as(5, durable("tablet"), Some("bob"));
    assert_eq!(got(&mut node, 5).len(), 100);
}

#[test]
fn what_is_a_users_own_cannot_be_shared() {
    let mut node = Node::new();
    user(&mut node, 1, "phone", "bob");
    for filter in ["$share/g/$im/mine", "$share/g/$im/inbox"] {
        assert_eq!(node.subscribe_with(1, filter, options(QoS::AtLeastOnce)), ReasonCode::TopicFilterInvalid);
    }
}

#[test]
fn members_are_recipients_and_receipts_of_many_are_counted() {
    let mut node = Node::with(Config { receipts_listed_max: 1, ..Config::default() });
    for (conn, name) in [(1, "bob"), (2, "carol")] {
        node.join("im/a", name);
        user(&mut node, conn, name, name);
        node.subscribe(conn, "$im/mine", QoS::AtLeastOnce);
    }
    user(&mut node, 3, "alice", "alice");
    node.subscribe(3, "$im/receipts", QoS::AtMostOnce);
    node.packet(3, tracked(publish("im/a", QoS::AtLeastOnce, 1, "x"), "id"));
    for conn in [1, 2] {
        assert_eq!(got(&mut node, conn), ["im/a x"]);
    }
    node.pass_s(2);
    let told: Vec<_> = node.publishes(3).into_iter().filter(|p| p.topic == "$im/receipts").collect();
    let last: serde_json::Value = serde_json::from_slice(&told.last().unwrap().payload).unwrap();
    assert_eq!((&last["count"], &last["of"], &last["state"]), (&2.into(), &2.into(), &"delivered".into()));
}

/// A session that gets its user's conversations, and has been away.
fn away(node: &mut Node, conn: u64, name: &'static str) {
    user(node, conn, name, name);
    node.subscribe(conn, "$im/mine", QoS::AtLeastOnce);
    node.drop_connection(conn);
}

#[test]
fn a_message_costs_nothing_for_members_who_are_away() {
    let mut node = Node::new();
    user(&mut node, 1, "alice", "alice");
    let names: Vec<&'static str> = (0..300).map(|n| &*format!("user-{n}").leak()).collect();
    for (n, name) in names.iter().enumerate() {
        node.join("im/many", name);
        away(&mut node, 10 + n as u64, name);
    }
    post(&mut node, 1, "im/none", "x");
    post(&mut node, 1, "im/many", "x");
    let (held, queued) = (node.shard.memory().bytes, node.shard.stats().queued);
    post(&mut node, 1, "im/none", "x");
    let (plain, plain_held) = (node.log.last().unwrap().len(), node.shard.memory().bytes - held);
    let held = node.shard.memory().bytes;
    post(&mut node, 1, "im/many", "x");
    assert_eq!(node.log.last().unwrap().len(), plain, "in the log");
    assert_eq!(node.shard.memory().bytes - held, plain_held, "in memory");
    assert_eq!(node.shard.stats().queued, queued);
    user(&mut node, 2, "user-7", "user-7");
    assert_eq!(got(&mut node, 2).len(), 2);
}

#[test]
fn many_missed_messages_come_in_order_within_the_window_and_then_live_ones() {
    let mut node = Node::with(Config { inflight_max: 3, ..Config::default() });
    for topic in ["im/a", "im/b"] {
        node.join(topic, "bob");
    }
    away(&mut node, 1, "bob");
    user(&mut node, 2, "alice", "alice");
    let texts: Vec<&'static str> = (0..60).map(|n| &*format!("{n:02}").leak()).collect();
    for text in &texts[..30] {
        post(&mut node, 2, "im/a", text);
        post(&mut node, 2, "im/b", text);
    }
    user(&mut node, 3, "bob", "bob");
    let mut all = Vec::new();
    let mut restarted = false;
    for round in 0..200 {
        if round < 30 {
            post(&mut node, 2, "im/a", texts[30 + round]);
        }
        let publishes = node.publishes(3);
        assert!(publishes.len() <= 3);
        for p in publishes {
            let text = format!("{} {}", p.topic, String::from_utf8_lossy(&p.payload));
            // What was not acknowledged comes again after a crash.
            if all.last() != Some(&text) && !(p.dup && all.contains(&text)) {
                all.push(text);
            }
            if round != 10 || restarted {
                node.packet(3, Packet::PubAck(ack(p.packet_id.unwrap().get(), ReasonCode::Success)));
            }
        }
        if round == 10 && !restarted {
            restarted = true;
            node.restart(usize::MAX);
            user(&mut node, 2, "alice", "alice");
            user(&mut node, 3, "bob", "bob");
        }
    }
    let of = |topic: &str| -> Vec<_> { all.iter().filter(|m| m.starts_with(topic)).cloned().collect() };
    let expected =
        |topic: &str, n: usize| -> Vec<_> { texts[..n].iter().map(|t| format!("{topic} {t}")).collect() };
    assert_eq!(of("im/b"), expected("im/b", 30));
    assert_eq!(of("im/a"), expected("im/a", 60));
}

#[test]
fn what_waits_in_the_queue_is_not_overtaken_by_what_was_missed() {
    let mut node = Node::with(Config { inflight_max: 1, ..Config::default() });
    node.join("im/a", "bob");
    user(&mut node, 1, "bob", "bob");
    node.subscribe(1, "$im/mine", QoS::AtLeastOnce);
    user(&mut node, 2, "alice", "alice");
    for text in ["1", "2", "3"] {
        post(&mut node, 2, "im/a", text);
    }
    node.drop_connection(1);
    for text in ["4", "5"] {
        post(&mut node, 2, "im/a", text);
    }
    for restarts in [false, true] {
        if restarts {
            node.restart(usize::MAX);
        }
        user(&mut node, 3 + u64::from(restarts), "bob", "bob");
    }
    let mut all = Vec::new();
    for _ in 0..6 {
        for p in node.publishes(4) {
            all.push(String::from_utf8(p.payload.to_vec()).unwrap());
            node.packet(4, Packet::PubAck(ack(p.packet_id.unwrap().get(), ReasonCode::Success)));
        }
    }
    assert_eq!(all.len(), 5, "{all:?}");
    assert!(all.is_sorted(), "{all:?}");
}

#[test]
fn members_who_are_away_are_recipients_and_each_gets_one_final_state() {
    let mut node = Node::new();
    for name in ["bob", "carol", "dave", "eve"] {
        node.join("im/a", name);
    }
    for (conn, name) in [(1, "bob"), (2, "carol"), (3, "dave"), (4, "eve")] {
        away(&mut node, conn, name);
    }
    user(&mut node, 5, "alice", "alice");
    node.subscribe(5, "$im/receipts", QoS::AtMostOnce);
    let mut expiring = publish("im/a", QoS::AtLeastOnce, 1, "short");
    expiring.properties.message_expiry_interval_s = Some(10);
    node.packet(5, tracked(expiring, "short"));
    node.packet(5, tracked(publish("im/a", QoS::AtLeastOnce, 1, "long"), "long"));
    node.restart(usize::MAX);
    user(&mut node, 6, "alice", "alice");
    user(&mut node, 7, "bob", "bob");
    assert_eq!(got(&mut node, 7), ["im/a short", "im/a long"]);
    node.pass_s(11);
    node.leave("im/a", "carol");
    node.pass_ms(1);
    // The session of dave ends.
    node.connect_as(8, volatile("dave"), Some("dave"));
    node.pass_ms(1);
    user(&mut node, 9, "eve", "eve");
    assert_eq!(got(&mut node, 9), ["im/a long"]);
    let mut told = receipts(&mut node, 6);
    told.sort_unstable();
    assert_eq!(
        told,
        [
            "long delivered bob -",
            "long delivered eve -",
            "long dropped carol left",
            "long dropped dave session_ended",
            "short delivered bob -",
            "short expired carol -",
            "short expired dave -",
            "short expired eve -",
        ]
    );
}

#[test]
fn what_a_session_subscribed_to_itself_comes_after_its_user_left() {
    let mut node = Node::new();
    node.join("im/a", "bob");
    user(&mut node, 1, "bob", "bob");
    node.subscribe(1, "$im/mine", QoS::AtLeastOnce);
    node.subscribe(1, "im/#", QoS::AtLeastOnce);
    node.drop_connection(1);
    user(&mut node, 2, "alice", "alice");
    post(&mut node, 2, "im/a", "1");
    node.leave("im/a", "bob");
    post(&mut node, 2, "im/a", "2");
    node.join("im/a", "bob");
    post(&mut node, 2, "im/a", "3");
    user(&mut node, 3, "bob", "bob");
    let mut all = got(&mut node, 3);
    all.extend(got(&mut node, 3));
    assert_eq!(all, ["im/a 1", "im/a 2", "im/a 3"]);
}

#[test]
fn what_was_given_up_meanwhile_is_told() {
    let rule = engine::ConversationRule {
        retention: engine::Retention { age_s: 0, messages: 2, bytes: 0 },
        ..engine::Config::default().conversations.remove(0)
    };
    let mut node = Node::with(Config { conversations: vec![rule], ..Config::default() });
    node.join("im/a", "bob");
    away(&mut node, 1, "bob");
    user(&mut node, 2, "alice", "alice");
    for text in ["1", "2", "3", "4"] {
        post(&mut node, 2, "im/a", text);
    }
    user(&mut node, 3, "bob", "bob");
    let first = node.publishes(3).remove(0);
    assert_eq!(property(&first.properties.user_properties, im::IM_SEQ), Some("3"));
    assert_eq!(property(&first.properties.user_properties, "im-gap"), Some("3"));
}
