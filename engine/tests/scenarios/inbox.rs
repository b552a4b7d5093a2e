//! The list of a user's conversations, what is unread in them, and read positions (docs/protocol.md section 6).

use crate::node::*;
use engine::{
    Access, Acl, AclRule, Answer, Config, ConversationRule, Input, Principal, Question, Retention, Who,
};
use protocol::im::Inbox;
use protocol::*;

fn user(node: &mut Node, conn: u64, client: &str, name: &'static str) {
    node.connect_as(conn, durable(client), Some(name));
    node.take_connack(conn);
}

fn post(node: &mut Node, conn: u64, topic: &str, payload: &'static str) {
    assert_eq!(node.publish(conn, publish(topic, QoS::AtLeastOnce, 1, payload)), ReasonCode::Success);
}

/// Publishes a read position and returns the acknowledgement's code.
fn read(node: &mut Node, conn: u64, payload: &'static str) -> ReasonCode {
    node.publish(conn, publish("$im/read", QoS::AtLeastOnce, 1, payload))
}

/// What the connection was told of its inbox, after the time in which changes are gathered.
fn told(node: &mut Node, conn: u64) -> Vec<Inbox> {
    node.pass_ms(101);
    let publishes = node.publishes(conn).into_iter().filter(|p| p.topic == "$im/inbox");
    publishes.map(|p| serde_json::from_slice(&p.payload).unwrap()).collect()
}

/// As `total: topic unread/last(read), ...`, with `...` where there is more.
fn shown(inbox: &Inbox) -> String {
    let entries = inbox.conversations.iter().map(|c| match c.left {
        true => format!("{} left", c.topic),
        false => format!("{} {}/{}({})", c.topic, c.unread, c.last_seq, c.read_seq),
    });
    let kind = match &inbox.next {
        None => "changed",
        Some(None) => "all",
        Some(Some(_)) => "first",
    };
    format!("{kind} {}: {}", inbox.unread, entries.collect::<Vec<_>>().join(", "))
}

fn show(inboxes: &[Inbox]) -> Vec<String> {
    inboxes.iter().map(shown).collect()
}

fn check(node: &Node, user: &str) {
    assert_eq!(node.shard.unread(user), node.shard.recount_unread(user), "{user}");
}

#[test]
fn the_list_comes_first_then_what_changes() {
    let mut node = Node::new();
    user(&mut node, 2, "alice", "alice");
    post(&mut node, 2, "im/old", "before bob joined");
    node.join("im/old", "bob");
    node.pass_ms(10);
    node.join("im/a", "bob");
    post(&mut node, 2, "im/a", r#"{"text":"hi"}"#);
    user(&mut node, 1, "phone", "bob");
    node.subscribe(1, "$im/inbox", QoS::AtLeastOnce);
    // Told with SUBACK.
    let mut list = Vec::new();
    node.packet(1, subscribe("$im/inbox", options(QoS::AtLeastOnce)));
    list.extend(told(&mut node, 1));
    assert_eq!(show(&list), ["all 1: im/a 1/1(0), im/old 0/1(1)"]);
    let last = list[0].conversations[0].last.clone().unwrap();
    assert_eq!((last.from.as_str(), last.preview.as_deref()), ("alice", Some("hi")));
    assert_eq!(last.ts, node.now.unix_ms - 101);

    post(&mut node, 2, "im/old", "now");
    assert_eq!(show(&told(&mut node, 1)), ["changed 2: im/old 1/2(1)"]);
    assert_eq!(read(&mut node, 1, r#"{"topic":"im/a","seq":1}"#), ReasonCode::Success);
    assert_eq!(show(&told(&mut node, 1)), ["changed 1: im/a 0/1(1)"]);
    node.leave("im/old", "bob");
    assert_eq!(show(&told(&mut node, 1)), ["changed 0: im/old left"]);
    node.join("im/old", "bob");
    assert_eq!(show(&told(&mut node, 1)), ["changed 0: im/old 0/2(2)"]);
    check(&node, "bob");
}

#[test]
fn own_messages_are_not_unread() {
    let mut node = Node::new();
    for name in ["alice", "bob"] {
        node.join("im/a", name);
    }
    user(&mut node, 1, "phone", "bob");
    user(&mut node, 2, "alice", "alice");
    for conn in [1, 2, 1, 1, 2] {
        post(&mut node, conn, "im/a", "x");
    }
    let of = |node: &Node, user: &str| node.shard.unread(user)[0].1;
    assert_eq!((of(&node, "alice"), of(&node, "bob")), (3, 2));
    for checkpoint in [false, true] {
        match checkpoint {
            true => node.restart_from_checkpoint(),
            false => node.restart(usize::MAX),
        }
        assert_eq!((of(&node, "alice"), of(&node, "bob")), (3, 2));
        check(&node, "alice");
        check(&node, "bob");
    }
}

#[test]
fn what_expired_or_was_given_up_is_not_unread_and_not_shown() {
    let rule = |filter: &str, messages| ConversationRule {
        retention: Retention { age_s: 0, messages, bytes: 0 },
        ..ConversationRule::new(TopicFilter::parse(filter.into()).unwrap())
    };
    let conversations = vec![rule("im/short", 2), rule("im/#", 0)];
    let mut node = Node::with(Config { conversations, ..Config::default() });
    for topic in ["im/a", "im/short"] {
        node.join(topic, "bob");
    }
    user(&mut node, 1, "phone", "bob");
    user(&mut node, 2, "alice", "alice");
    node.packet(1, subscribe("$im/inbox", options(QoS::AtMostOnce)));
    for expiry_s in [None, Some(5), Some(10)] {
        let mut message = publish("im/a", QoS::AtLeastOnce, 1, "x");
        message.properties.message_expiry_interval_s = expiry_s;
        node.publish(2, message);
    }
    for _ in 0..4 {
        post(&mut node, 2, "im/short", "y");
    }
    let last = told(&mut node, 1).pop().unwrap();
    assert_eq!(last.unread, 5);
    node.pass_s(6);
    assert_eq!(show(&told(&mut node, 1)), ["changed 4: im/a 2/3(0)"]);
    node.restart(usize::MAX);
    check(&node, "bob");
    assert_eq!(node.shard.unread("bob"), [("im/a".into(), 2), ("im/short".into(), 2)]);
    node.connect_as(3, durable("phone"), Some("bob"));
    assert_eq!(told(&mut node, 3).len(), 1, "a resumed session gets the list");
    node.pass_s(5);
    let changed = told(&mut node, 3);
    assert_eq!(show(&changed), ["changed 3: im/a 1/3(0)"]);
    assert_eq!(changed[0].conversations[0].last, None, "what has expired is not shown");
    check(&node, "bob");
}

#[test]
fn a_read_position_moves_up_only_and_not_above_the_last_message() {
    let mut node = Node::new();
    node.join("im/a", "bob");
    user(&mut node, 1, "phone", "bob");
    user(&mut node, 2, "alice", "alice");
    for _ in 0..3 {
        post(&mut node, 2, "im/a", "x");
    }
    for (payload, unread) in [
        (r#"{"topic":"im/a","seq":2}"#, 1),
        (r#"{"topic":"im/a","seq":1}"#, 1),
        (r#"{"topic":"im/a","seq":9}"#, 0),
    ] {
        assert_eq!(read(&mut node, 1, payload), ReasonCode::Success);
        assert_eq!(node.shard.unread("bob")[0].1, unread);
    }
    // It was 3, not 9.
    post(&mut node, 2, "im/a", "4");
    assert_eq!(node.shard.unread("bob")[0].1, 1);
    node.restart(usize::MAX);
    assert_eq!(node.shard.unread("bob")[0].1, 1);
}

#[test]
fn a_read_position_is_durable_before_it_is_acknowledged() {
    let mut node = Node::new();
    node.join("im/a", "bob");
    for (conn, client) in [(1, "phone"), (3, "tablet")] {
        user(&mut node, conn, client, "bob");
    }
    user(&mut node, 2, "alice", "alice");
    post(&mut node, 2, "im/a", "x");
    node.auto_commit = false;
    let request = publish("$im/read", QoS::AtLeastOnce, 1, r#"{"topic":"im/a","seq":1}"#);
    node.packet(1, Packet::Publish(request.clone()));
    // The other terminal says the same: nothing changes, but it is not durable yet either.
    node.packet(3, Packet::Publish(request));
    assert_eq!((node.seen(1), node.seen(3)), (vec![], vec![]));
    node.commit();
    for conn in [1, 3] {
        assert!(matches!(&node.seen(conn)[..], [Packet::PubAck(ack)] if ack.reason == ReasonCode::Success));
    }
}

#[test]
fn read_requests_that_cannot_be_met_say_why() {
    let mut node = Node::new();
    node.join("im/a", "bob");
    user(&mut node, 1, "phone", "bob");
    user(&mut node, 2, "alice", "alice");
    for (conn, payload) in [
        (2, r#"{"topic":"im/#","seq":1}"#),
        (1, r#"{"topic":"im/+","seq":1}"#),
        (1, r#"{"topic":"elsewhere","seq":1}"#),
        (1, r#"{"topic":"im/a"}"#),
        (1, "x"),
    ] {
        node.subscribe(conn, "$im/errors", QoS::AtMostOnce);
        node.packet(conn, Packet::Publish(publish("$im/read", QoS::AtLeastOnce, 1, payload)));
        let seen = node.seen(conn);
        let refused = seen.iter().any(|p| matches!(p, Packet::PubAck(ack) if ack.reason.is_failure()));
        let told = seen.iter().any(|p| matches!(p, Packet::Publish(p) if p.topic == "$im/errors"));
        assert!(refused && told, "{payload}: {seen:?}");
    }
    // Nobody has to be a member, and nothing need be there to be read.
    for payload in [r#"{"topic":"im/a","seq":1}"#, r#"{"topic":"im/b","seq":1}"#] {
        assert_eq!(read(&mut node, 2, payload), ReasonCode::Success);
    }
}

#[test]
fn all_terminals_of_a_user_see_a_change_and_others_do_not() {
    let mut node = Node::new();
    node.join("im/a", "bob");
    node.join("im/a", "alice");
    for (conn, client, name) in [(1, "phone", "bob"), (2, "tablet", "bob"), (3, "alice", "alice")] {
        user(&mut node, conn, client, name);
        node.packet(conn, subscribe("$im/inbox", options(QoS::AtMostOnce)));
    }
    post(&mut node, 3, "im/a", "x");
    for conn in [1, 2, 3] {
        told(&mut node, conn);
    }
    read(&mut node, 1, r#"{"topic":"im/a","seq":1}"#);
    assert_eq!(show(&told(&mut node, 1)), ["changed 0: im/a 0/1(1)"]);
    assert_eq!(show(&told(&mut node, 2)), ["changed 0: im/a 0/1(1)"]);
    assert_eq!(show(&told(&mut node, 3)), Vec::<String>::new());
}

#[test]
fn a_burst_is_told_in_few_changes_and_the_last_state_always() {
    let mut node = Node::new();
    node.join("im/a", "bob");
    user(&mut node, 1, "phone", "bob");
    node.packet(1, subscribe("$im/inbox", options(QoS::AtMostOnce)));
    user(&mut node, 2, "alice", "alice");
    node.seen(1);
    for _ in 0..500 {
        post(&mut node, 2, "im/a", "x");
        node.pass_ms(1);
    }
    let changes = told(&mut node, 1);
    assert!((2..=8).contains(&changes.len()), "{} in half a second", changes.len());
    assert_eq!(shown(changes.last().unwrap()), "changed 500: im/a 500/500(0)");
}

#[test]
fn nothing_is_queued_and_a_resumed_session_gets_the_list_anew() {
    let mut node = Node::new();
    node.join("im/a", "bob");
    user(&mut node, 1, "phone", "bob");
    node.packet(1, subscribe("$im/inbox", options(QoS::ExactlyOnce)));
    user(&mut node, 2, "alice", "alice");
    node.drop_connection(1);
    let queued = node.shard.stats().queued;
    for _ in 0..5 {
        post(&mut node, 2, "im/a", "x");
        node.pass_ms(200);
    }
    assert_eq!(node.shard.stats().queued, queued);
    node.connect_as(3, durable("phone"), Some("bob"));
    assert_eq!(show(&told(&mut node, 3)), ["all 5: im/a 5/5(0)"]);
    post(&mut node, 2, "im/a", "x");
    assert_eq!(show(&told(&mut node, 3)), ["changed 6: im/a 6/6(0)"]);
}

#[test]
fn what_a_slow_connection_missed_comes_when_it_reads_again() {
    let mut node = Node::new();
    node.join("im/a", "bob");
    user(&mut node, 1, "phone", "bob");
    node.packet(1, subscribe("$im/inbox", options(QoS::AtMostOnce)));
    user(&mut node, 2, "alice", "alice");
    told(&mut node, 1);
    node.input(engine::Input::Congested { conn: engine::ConnId(1) });
    post(&mut node, 2, "im/a", "x");
    assert_eq!(show(&told(&mut node, 1)), Vec::<String>::new());
    node.input(engine::Input::Drained { conn: engine::ConnId(1) });
    assert_eq!(show(&told(&mut node, 1)), ["changed 1: im/a 1/1(0)"]);
}

#[test]
fn a_long_list_comes_in_pages_the_newest_first() {
    let mut node = Node::new();
    user(&mut node, 2, "alice", "alice");
    for n in 0..450 {
        let topic = format!("im/{n:03}");
        node.join(&topic, "bob");
        post(&mut node, 2, &topic, "x");
        // Several come in one moment.
        node.pass_ms(u64::from(n % 4 == 0));
    }
    user(&mut node, 1, "phone", "bob");
    node.packet(1, subscribe("$im/inbox", options(QoS::AtMostOnce)));
    let list = told(&mut node, 1).remove(0);
    assert_eq!((list.unread, list.conversations.len()), (450, 200));
    let mut topics: Vec<_> = list.conversations.iter().map(|c| c.topic.clone()).collect();
    let mut next = list.next.unwrap();
    while let Some(cursor) = next {
        let page = node.ask(Question::Inbox {
            user: "bob".into(),
            by: None,
            cursor: Some(cursor.into()),
            limit: 100,
        });
        let Some(Answer::Json(json)) = page else { panic!("{page:?}") };
        let page: Inbox = serde_json::from_str(&json).unwrap();
        assert!(page.unread == 450 && page.conversations.len() <= 100);
        topics.extend(page.conversations.iter().map(|c| c.topic.clone()));
        next = page.next.unwrap();
    }
    let expected: Vec<_> = (0..450).rev().map(|n| format!("im/{n:03}")).collect();
    assert_eq!(topics, expected);
    for cursor in ["x", "5", "5-6", "5-6d", "5-1-6", "5-1-zz", "-1-6d", "5--6d"] {
        let page = Question::Inbox { user: "bob".into(), by: None, cursor: Some(cursor.into()), limit: 100 };
        assert!(matches!(node.ask(page), Some(Answer::Invalid(_))), "{cursor}");
    }
}

#[test]
fn a_client_with_a_small_packet_size_gets_as_much_as_fits() {
    let mut node = Node::new();
    for n in 0..50 {
        node.join(&format!("im/{n:02}"), "bob");
    }
    let mut connect = durable("phone");
    connect.properties.packet_bytes_max = std::num::NonZeroU32::new(2_000);
    node.connect_as(1, connect, Some("bob"));
    node.packet(1, subscribe("$im/inbox", options(QoS::AtMostOnce)));
    let list = told(&mut node, 1).remove(0);
    assert!((1..50).contains(&list.conversations.len()), "{}", list.conversations.len());
    assert!(list.next.unwrap().is_some());
}

#[test]
fn a_post_to_many_members_writes_one_message() {
    let mut node = Node::new();
    for n in 0..1_000 {
        node.join("im/a", &format!("user-{n}"));
    }
    user(&mut node, 2, "alice", "alice");
    let records = node.log.len();
    post(&mut node, 2, "im/a", "hello");
    assert_eq!(node.log.len(), records + 1);
    let with_members = node.log.last().unwrap().len();
    post(&mut node, 2, "im/b", "hello");
    assert_eq!(node.log.last().unwrap().len(), with_members, "as much as without members");
}

/// What a client knows that applies what it is told.
#[derive(Default)]
struct Seen {
    total: u64,
    parts: std::collections::BTreeMap<String, u64>,
}

impl Seen {
    fn apply(&mut self, inbox: &Inbox) {
        if inbox.next.is_some() {
            self.parts.clear();
        }
        for entry in &inbox.conversations {
            match entry.left {
                true => self.parts.remove(&entry.topic),
                false => self.parts.insert(entry.topic.clone(), entry.unread),
            };
        }
        self.total = inbox.unread;
        assert_eq!(
            self.total,
            self.parts.values().sum::<u64>(),
            "the total is the sum of the parts: {inbox:?}"
        );
    }
}

const USERS: [&str; 3] = ["alice", "bob", "carol"];
const TOPICS: [&str; 3] = ["im/a", "im/b", "im/short"];

/// Any order of messages that expire or not, reads, joins, leaves, time and ends of the broker: what the inbox says
/// is what a count of the messages says, and what a client sees that was told changes only.
#[test]
fn unread_is_what_a_count_says_at_every_step() {
    for seed in 0..40 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let rule = |filter: &str, messages, age_s| ConversationRule {
            retention: Retention { age_s, messages, bytes: 0 },
            ..ConversationRule::new(TopicFilter::parse(filter.into()).unwrap())
        };
        let conversations = vec![rule("im/short", 3, 0), rule("im/#", 0, 60)];
        let mut node = Node::with(Config { conversations, ..Config::default() });
        let mut next_conn = 0;
        let mut conns = [0; 3];
        let mut seen: [Seen; 3] = Default::default();
        for step in 0..250 {
            let at = rng.usize(0..3);
            let topic = *rng.choice(&TOPICS).unwrap();
            if conns[at] == 0 {
                next_conn += 1;
                conns[at] = next_conn;
                user(&mut node, next_conn, USERS[at], USERS[at]);
                node.packet(next_conn, subscribe("$im/inbox", options(QoS::AtMostOnce)));
            }
            match rng.u8(0..20) {
                0..8 => {
                    let mut message = publish(topic, QoS::AtLeastOnce, 1, "x");
                    message.properties.message_expiry_interval_s = rng.bool().then(|| rng.u32(1..40));
                    node.publish(conns[at], message);
                }
                8..12 => {
                    let request = format!(r#"{{"topic":"{topic}","seq":{}}}"#, rng.u64(0..30));
                    let message =
                        Publish { payload: request.into(), ..publish("$im/read", QoS::AtLeastOnce, 1, "") };
                    node.publish(conns[at], message);
                }
                12..14 => node.join(topic, USERS[at]),
                14 => node.leave(topic, USERS[at]),
                15..17 => node.pass_s(rng.u64(0..15)),
                17 => {
                    node.drop_connection(conns[at]);
                    conns[at] = 0;
                }
                18 if rng.bool() => {
                    match rng.bool() {
                        true => node.restart(usize::MAX),
                        false => node.restart_from_checkpoint(),
                    }
                    conns = [0; 3];
                }
                _ => {
                    node.input(engine::Input::Congested { conn: engine::ConnId(conns[at]) });
                    node.publish(conns[at], publish(topic, QoS::AtLeastOnce, 1, "x"));
                    node.input(engine::Input::Drained { conn: engine::ConnId(conns[at]) });
                }
            }
            for (at, name) in USERS.iter().enumerate() {
                assert_eq!(
                    node.shard.unread(name),
                    node.shard.recount_unread(name),
                    "seed {seed} step {step} {name}"
                );
                if conns[at] == 0 {
                    continue;
                }
                let mut sees = |node: &mut Node| {
                    told(node, conns[at]).iter().for_each(|inbox| seen[at].apply(inbox));
                    let known = seen[at].parts.iter().map(|(topic, n)| (topic.as_str().into(), *n));
                    known.collect::<Vec<_>>() == node.shard.unread(name)
                };
                // What expires in the time that passes meanwhile is told after it.
                let is_right = (0..3).any(|_| sees(&mut node));
                assert!(is_right, "seed {seed} step {step} {name}: {:?}", node.shard.unread(name));
            }
        }
    }
}

fn previews(inbox: &Inbox) -> Vec<&str> {
    let previews =
        inbox.conversations.iter().map(|c| c.last.as_ref().and_then(|last| last.preview.as_deref()));
    previews.map(|preview| preview.unwrap_or("-")).collect()
}

#[test]
fn previews_are_read_from_the_log_when_memory_has_forgotten_them() {
    const CONVERSATIONS: usize = 150;
    for from_view in [false, true] {
        let mut node = Node::new();
        user(&mut node, 2, "alice", "alice");
        for n in 0..CONVERSATIONS {
            let topic = format!("im/{n:03}");
            node.join(&topic, "bob");
            post(&mut node, 2, &topic, "old");
            // Bytes that are no text have none.
            let payload = if n == 0 { "\u{0}" } else { &*format!("text {n:03}").leak() };
            post(&mut node, 2, &topic, payload);
            node.pass_ms(1);
        }
        match from_view {
            true => node.restart_from_view(&[10]),
            false => node.restart(usize::MAX),
        }
        let expected: Vec<_> = (1..CONVERSATIONS).rev().map(|n| format!("text {n:03}")).collect();
        let page = |node: &mut Node| -> Option<Inbox> {
            let question = Question::Inbox { user: "bob".into(), by: None, cursor: None, limit: 200 };
            node.ask(question).map(|answer| match answer {
                Answer::Json(json) => serde_json::from_str(&json).unwrap(),
                other => panic!("{other:?}"),
            })
        };
        if from_view {
            let page = page(&mut node).unwrap();
            assert_eq!(previews(&page)[..CONVERSATIONS - 1], expected);
        }
        let fetched = node.fetched;
        user(&mut node, 3, "phone", "bob");
        node.packet(3, subscribe("$im/inbox", options(QoS::AtMostOnce)));
        let list = told(&mut node, 3);
        assert_eq!(list.len(), 1, "{:?}", show(&list));
        assert_eq!(previews(&list[0])[..CONVERSATIONS - 1], expected);
        assert!(node.fetched_at_once <= 64, "{} at once", node.fetched_at_once);
        // One that nobody could read a preview of is not read again.
        assert_eq!(node.fetched - fetched, if from_view { 0 } else { CONVERSATIONS });
        assert_eq!(previews(&page(&mut node).unwrap()).len(), CONVERSATIONS);
        assert_eq!(node.fetched - fetched, if from_view { 0 } else { CONVERSATIONS });
    }
}

#[test]
fn who_joins_a_conversation_sees_its_newest_message() {
    let mut node = Node::new();
    user(&mut node, 2, "alice", "alice");
    post(&mut node, 2, "im/room", "hello");
    node.join("im/room", "bob");
    user(&mut node, 1, "phone", "bob");
    node.packet(1, subscribe("$im/inbox", options(QoS::AtMostOnce)));
    let list = told(&mut node, 1);
    assert_eq!((show(&list), previews(&list[0])), (vec!["all 0: im/room 0/1(1)".to_owned()], vec!["hello"]));
}

#[test]
fn what_a_member_may_not_read_is_neither_shown_nor_counted() {
    let mut node = Node::new();
    user(&mut node, 2, "alice", "alice");
    user(&mut node, 1, "phone", "bob");
    for topic in ["im/open", "im/shut"] {
        node.join(topic, "bob");
        post(&mut node, 2, topic, "x");
    }
    node.packet(1, subscribe("$im/inbox", options(QoS::AtMostOnce)));
    assert_eq!(show(&told(&mut node, 1)), ["all 2: im/shut 1/1(0), im/open 1/1(0)"]);
    let rule = |allow, filter: &'static str| AclRule {
        allow,
        who: Who::All,
        access: Access::Both,
        filter: filter.into(),
    };
    let set = |node: &mut Node, rules| {
        node.input(Input::Acl { acl: std::sync::Arc::new(Acl { rules }) });
        node.pass_ms(0);
    };
    set(&mut node, vec![rule(true, "im/open"), rule(true, "im/+/new")]);
    assert_eq!(show(&told(&mut node, 1)), ["all 1: im/open 1/1(0)"]);
    // Alice may write to neither now, the broker's own change is one that she may not see.
    node.join("im/shut", "cid");
    node.join("im/a/new", "bob");
    assert_eq!(show(&told(&mut node, 1)), ["changed 1: im/a/new 0/0(0)"]);
    let ask = |node: &mut Node, by: Option<&'static str>| {
        let by = by.map(|user| Box::new(Principal { user: Some(user.into()), ..Principal::default() }));
        let question = Question::Inbox { user: "bob".into(), by, cursor: None, limit: 10 };
        let Some(Answer::Json(json)) = node.ask(question) else { panic!("no page") };
        shown(&serde_json::from_str(&json).unwrap())
    };
    assert_eq!(ask(&mut node, Some("bob")), "all 1: im/open 1/1(0), im/a/new 0/0(0)");
    assert_eq!(ask(&mut node, None), "all 2: im/shut 1/1(0), im/open 1/1(0), im/a/new 0/0(0)");
    set(&mut node, vec![rule(true, "#")]);
    assert_eq!(show(&told(&mut node, 1)), ["all 2: im/shut 1/1(0), im/open 1/1(0), im/a/new 0/0(0)"]);
}
