//! Presence: who is told that a client came or went (docs/protocol.md section 5).

use crate::node::*;
use engine::{Access, Acl, AclRule, Config, Input, Who};
use protocol::*;

const DAY_S: u64 = 24 * 3600;

fn topics(publishes: &[Publish]) -> Vec<&str> {
    publishes.iter().map(|p| &*p.topic).collect()
}

fn presence(publish: &Publish) -> im::Presence {
    serde_json::from_slice(&publish.payload).unwrap()
}

/// What came about clients since the last look, as `client reason`, in order.
fn told(node: &mut Node, conn: u64) -> Vec<String> {
    let publishes = node.publishes(conn);
    let told = publishes.iter().map(|p| {
        let client = im::presence_client(&p.topic).unwrap();
        let reason = if p.payload.is_empty() { "cleared".to_owned() } else { presence(p).reason };
        format!("{client} {reason}")
    });
    told.collect()
}

/// A node with somebody who listens on connection 1, to all but itself.
fn watched() -> Node {
    watched_with(Config::default())
}

fn watched_with(config: Config) -> Node {
    let mut node = Node::with(config);
    node.connect(1, "watcher");
    node.subscribe(1, "$im/presence/+", QoS::AtLeastOnce);
    node.seen(1);
    node
}

/// What a new subscription brings of one client.
fn retained(node: &mut Node, conn: u64, client: &str) -> Option<im::Presence> {
    node.connect_with(conn, volatile(&format!("asks-{conn}")));
    node.seen(conn);
    node.subscribe_with(conn, &im::presence_topic(client), options(QoS::AtMostOnce));
    let found = node.publishes(conn).iter().map(presence).next();
    node.drop_connection(conn);
    found
}

#[test]
fn a_connection_is_told_when_it_begins_and_when_it_ends() {
    let mut node = watched();
    let began = node.now.unix_ms;
    node.connect_as(2, Connect { keep_alive_s: 60, ..durable("truck") }, Some("ann"));
    let online = node.publishes(1);
    assert_eq!((topics(&online), online[0].retain), (vec!["$im/presence/truck"], false));
    let expected = im::Presence {
        online: true,
        epoch: began,
        since: began,
        last_seen: began,
        user: "ann".into(),
        keepalive_s: 60,
        reason: "connected".into(),
    };
    assert_eq!(presence(&online[0]), expected);
    node.pass_s(10);
    node.packet(2, Packet::PingReq);
    node.pass_s(5);
    node.drop_connection(2);
    let offline = node.publishes(1);
    let expected = im::Presence {
        online: false,
        since: began + 15_000,
        last_seen: began + 10_000,
        reason: "lost".into(),
        ..expected
    };
    assert_eq!(presence(&offline[0]), expected, "the epoch of the connection that ended");
    assert_eq!(offline.len(), 1);
}

#[test]
fn how_a_connection_ended_is_its_reason() {
    let disconnect =
        Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties: Default::default() });
    let end =
        Input::End { conn: engine::ConnId(2), reason: ReasonCode::AdministrativeAction, what: "x".into() };
    for (input, reason) in [
        (Input::Packet { conn: engine::ConnId(2), packet: disconnect }, "disconnected"),
        (Input::Closed { conn: engine::ConnId(2) }, "lost"),
        (Input::Packet { conn: engine::ConnId(2), packet: Packet::PingResp }, "protocol_error"),
        (end, "kicked"),
    ] {
        let mut node = watched();
        node.connect_with(2, volatile("truck"));
        node.publishes(1);
        node.input(input);
        assert_eq!(told(&mut node, 1), [format!("truck {reason}")]);
    }
    let mut node = watched();
    node.connect_with(2, Connect { keep_alive_s: 10, ..volatile("truck") });
    node.publishes(1);
    node.packet(2, Packet::Publish(publish("$im/keepalive", QoS::AtMostOnce, 0, r#"{"interval_s":4}"#)));
    node.pass_s(6);
    let offline = presence(&node.publishes(1)[0]);
    assert_eq!((&*offline.reason, offline.keepalive_s), ("keep_alive", 4), "the one in force");
}

#[test]
fn a_takeover_is_one_change_with_a_higher_epoch() {
    let mut node = watched();
    node.connect(2, "truck");
    let first = presence(&node.publishes(1)[0]);
    node.connect(3, "truck");
    let second = node.publishes(1);
    assert_eq!(second.len(), 1, "no offline of the old connection");
    assert!(presence(&second[0]).online && presence(&second[0]).epoch > first.epoch);
    // The socket of the old connection closes late.
    node.drop_connection(2);
    assert_eq!(told(&mut node, 1), Vec::<String>::new());
}

#[test]
fn an_epoch_only_grows_though_the_clock_goes_back_and_the_broker_restarts() {
    let mut node = watched();
    let mut last = 0;
    for n in 0..10 {
        node.connect(10 + n, "truck");
        node.drop_connection(10 + n);
        match n % 4 {
            0 => node.now.unix_ms -= 3_600_000,
            1 => node.restart(usize::MAX),
            2 => node.restart_from_checkpoint(),
            _ => node.pass_s(1),
        }
        let epoch = retained(&mut node, 100 + n, "truck").unwrap().epoch;
        assert!(epoch > last, "{epoch} after {last}");
        last = epoch;
    }
}

#[test]
fn a_new_subscription_gets_what_is_known_of_every_client() {
    let mut node = Node::new();
    node.connect(1, "a/b+c#d%");
    node.connect(2, "truck");
    node.drop_connection(2);
    node.connect(3, "watcher");
    for (filter, expected) in [
        ("$im/presence/+", vec!["a/b+c#d%", "truck", "watcher"]),
        ("$im/presence/#", vec!["a/b+c#d%", "truck", "watcher"]),
        ("$im/presence/truck", vec!["truck"]),
        ("$im/presence/a%2Fb%2Bc%23d%25", vec!["a/b+c#d%"]),
        ("$im/presence/nobody", vec![]),
    ] {
        node.subscribe_with(3, filter, options(QoS::ExactlyOnce));
        let found = node.publishes(3);
        assert!(found.iter().all(|p| p.retain && p.qos == QoS::AtLeastOnce), "{found:?}");
        let clients: Vec<_> = found.iter().map(|p| im::presence_client(&p.topic).unwrap()).collect();
        assert_eq!(clients, expected, "{filter}");
    }
    let again = SubscribeOptions { retain_handling: RetainHandling::SendIfNew, ..options(QoS::AtMostOnce) };
    node.subscribe_with(3, "$im/presence/+", again);
    let never = SubscribeOptions { retain_handling: RetainHandling::DoNotSend, ..options(QoS::AtMostOnce) };
    node.subscribe_with(3, "$im/presence/never", never);
    assert_eq!(node.publishes(3), vec![]);
    let stats = node.shard.stats();
    assert_eq!((stats.retained, stats.presences), (0, 3), "they take nobody's place");
}

#[test]
fn retain_as_published_and_identifiers_hold_for_presence_too() {
    // [MQTT-3.3.1-13], [MQTT-3.3.4-3]
    let mut node = Node::new();
    node.connect(1, "watcher");
    let options = SubscribeOptions { retain_as_published: true, ..options(QoS::AtMostOnce) };
    let Packet::Subscribe(subscribe) = subscribe("$im/presence/+", options) else { unreachable!() };
    node.packet(1, Packet::Subscribe(Subscribe { subscription_identifier: Some(7), ..subscribe }));
    node.connect(2, "truck");
    let seen = node.publishes(1);
    assert_eq!(topics(&seen), ["$im/presence/watcher", "$im/presence/truck"]);
    assert!(seen.iter().all(|p| p.retain && p.properties.subscription_identifiers == [7]));
}

#[test]
fn more_clients_than_a_subscribe_may_bring_are_refused() {
    let mut node = Node::with(Config { retained_per_subscribe_max: 2, ..Config::default() });
    for (conn, client) in [(1, "a"), (2, "b"), (3, "c")] {
        node.connect(conn, client);
    }
    assert_eq!(node.subscribe_with(1, "$im/presence/+", options(QoS::AtMostOnce)), ReasonCode::QuotaExceeded);
    assert_eq!(node.subscribe_with(1, "$im/presence/a", options(QoS::AtMostOnce)), ReasonCode::Success);
}

#[test]
fn what_a_subscriber_sees_waits_for_its_record_and_connack_of_a_passing_session_does_not() {
    let mut node = watched();
    node.subscribe(1, "$im/presence/+", QoS::AtMostOnce);
    node.seen(1);
    node.auto_commit = false;
    node.connect_with(2, volatile("passing"));
    assert!(matches!(&node.seen(2)[..], [Packet::ConnAck(_)]));
    node.connect_with(3, volatile("next"));
    assert!(matches!(&node.seen(3)[..], [Packet::ConnAck(_)]), "nor does the next one's");
    node.packet(
        2,
        Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties: Default::default() }),
    );
    assert!(node.closed.contains_key(&2));
    assert_eq!(node.seen(1), vec![]);
    node.commit();
    assert_eq!(told(&mut node, 1), ["passing connected", "next connected", "passing disconnected"]);
}

#[test]
fn what_a_new_subscription_sees_is_in_the_log_first() {
    let mut node = Node::new();
    node.connect_with(1, volatile("watcher"));
    node.auto_commit = false;
    node.connect_with(2, volatile("truck"));
    node.packet(1, subscribe("$im/presence/truck", options(QoS::AtMostOnce)));
    let seen = node.seen(1);
    assert!(!seen.iter().any(|p| matches!(p, Packet::Publish(_))), "{seen:?}");
    node.commit();
    assert_eq!(told(&mut node, 1), ["truck connected"]);
}

#[test]
fn a_restart_makes_every_client_offline_and_tells_so() {
    let mut node = watched();
    node.connect_as(2, durable("truck"), Some("ann"));
    node.connect_with(3, volatile("passing"));
    node.connect(4, "away");
    node.drop_connection(4);
    let epochs: Vec<_> = node.publishes(1).iter().map(|p| presence(p).epoch).collect();
    node.pass_s(60);
    node.restart(usize::MAX);
    let at = node.now.unix_ms;
    node.connect_with(5, durable("watcher"));
    let seen = node.publishes(5);
    assert!(seen.iter().all(|p| p.qos == QoS::AtLeastOnce));
    let of = |client: &str| {
        let topic = im::presence_topic(client);
        seen.iter().rfind(|p| p.topic == topic).map(presence).unwrap()
    };
    let truck = of("truck");
    assert_eq!((truck.online, &*truck.reason, truck.since), (false, "broker_restart", at));
    assert_eq!((truck.epoch, &*truck.user), (epochs[0], "ann"));
    assert_eq!((&*of("passing").reason, of("passing").epoch), ("broker_restart", epochs[1]));
    assert_eq!(retained(&mut node, 6, "away").unwrap().reason, "lost");
    // And once more: nothing happened since.
    node.restart_from_checkpoint();
    assert_eq!(retained(&mut node, 7, "truck").unwrap(), truck);
}

#[test]
fn an_orderly_end_of_the_broker_is_told_by_the_next_start() {
    for connect in [durable("truck"), volatile("truck")] {
        let mut node = watched();
        node.connect_with(2, connect);
        node.input(Input::Shutdown);
        node.restart(usize::MAX);
        assert_eq!(retained(&mut node, 3, "truck").unwrap().reason, "broker_restart");
    }
}

#[test]
fn a_topic_is_cleared_a_day_after_the_session_ended_over_restarts_too() {
    let mut node = watched();
    node.connect_with(2, volatile("passing"));
    node.drop_connection(2);
    let mut connect = durable("truck");
    connect.properties.session_expiry_interval_s = Some(100);
    node.connect_with(3, connect);
    node.drop_connection(3);
    node.publishes(1);
    node.pass_s(50);
    node.restart(usize::MAX);
    node.connect_with(4, durable("watcher"));
    node.subscribe(4, "$im/presence/+", QoS::AtMostOnce);
    node.publishes(4);
    node.pass_s(50);
    node.pass_s(DAY_S - 101);
    assert_eq!(told(&mut node, 4), Vec::<String>::new());
    node.pass_s(1);
    assert_eq!(told(&mut node, 4), ["passing cleared"]);
    node.restart_from_checkpoint();
    node.pass_s(98);
    assert!(retained(&mut node, 5, "truck").is_some());
    node.pass_s(2);
    assert!(retained(&mut node, 6, "truck").is_none() && retained(&mut node, 7, "passing").is_none());
}

#[test]
fn a_client_that_comes_back_is_not_cleared() {
    let mut node = watched_with(Config { presence_keep_s: 100, ..Config::default() });
    node.connect_with(2, volatile("truck"));
    node.drop_connection(2);
    node.pass_s(99);
    node.connect_with(3, volatile("truck"));
    node.publishes(1);
    node.pass_s(500);
    assert_eq!(told(&mut node, 1), Vec::<String>::new());
    assert!(retained(&mut node, 4, "truck").unwrap().online);
}

#[test]
fn clients_are_bounded_and_who_left_first_makes_room() {
    let mut node = watched_with(Config { presence_max: 2, ..Config::default() });
    node.connect_with(2, volatile("a"));
    node.drop_connection(2);
    node.connect_with(3, volatile("b"));
    assert_eq!(told(&mut node, 1), ["a connected", "a lost", "a cleared", "b connected"]);
    node.connect_with(4, volatile("c"));
    assert_eq!(told(&mut node, 1), Vec::<String>::new(), "nobody makes room");
    node.drop_connection(4);
    assert_eq!((told(&mut node, 1), node.shard.stats().presences), (vec![], 2));
}

#[test]
fn while_the_store_is_full_nothing_is_told_and_then_the_newest() {
    let mut node = watched();
    node.subscribe(1, "$im/presence/+", QoS::AtMostOnce);
    node.publishes(1);
    node.input(Input::StoreFull { full: true });
    let records = node.log.len();
    node.connect_with(2, volatile("truck"));
    node.drop_connection(2);
    assert_eq!((told(&mut node, 1), node.log.len()), (vec![], records));
    node.input(Input::StoreFull { full: false });
    assert_eq!(told(&mut node, 1), ["truck lost"]);
}

#[test]
fn switched_off_it_is_refused_and_what_was_known_is_forgotten() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.reconfigure(Config { presence: false, ..Config::default() });
    node.connect(2, "truck");
    let reason = node.subscribe_with(2, "$im/presence/+", options(QoS::AtMostOnce));
    assert_eq!((reason, node.shard.stats().presences), (ReasonCode::TopicFilterInvalid, 0));
    node.restart_from_checkpoint();
    assert_eq!(node.shard.stats().presences, 0);
}

#[test]
fn presence_needs_a_rule_once_there_are_any_and_clients_publish_none() {
    let mut node = Node::new();
    let allow = |filter: &str, user: &str| AclRule {
        allow: true,
        who: Who::User(user.into()),
        access: Access::Subscribe,
        filter: filter.into(),
    };
    let rules = vec![allow("#", "ann"), allow("$im/presence/#", "bob"), allow("$im/presence/truck", "eve")];
    node.input(Input::Acl { acl: Acl { rules }.into() });
    for (conn, user, all, one) in [
        (1, "ann", ReasonCode::NotAuthorized, ReasonCode::NotAuthorized),
        (2, "bob", ReasonCode::Success, ReasonCode::Success),
        (3, "eve", ReasonCode::NotAuthorized, ReasonCode::Success),
    ] {
        node.connect_as(conn, volatile(user), Some(user));
        for (filter, expected) in [("$im/presence/+", all), ("$im/presence/truck", one)] {
            assert_eq!(
                node.subscribe_with(conn, filter, options(QoS::AtMostOnce)),
                expected,
                "{user} {filter}"
            );
        }
        for filter in ["$im/presence", "$im/presence/+/+", "$im/+", "$im/#", "$im/+/truck"] {
            let reason = node.subscribe_with(conn, filter, options(QoS::AtMostOnce));
            assert_eq!(reason, ReasonCode::TopicFilterInvalid, "{filter}");
        }
    }
    node.seen(2);
    let mut forged = publish("$im/presence/truck", QoS::AtLeastOnce, 1, "{}");
    forged.retain = true;
    assert_eq!(node.publish(2, forged), ReasonCode::NotAuthorized);
    assert_eq!(node.publishes(2), vec![]);
}

#[test]
fn an_offline_watcher_hears_it_all_when_it_comes_back() {
    let mut node = watched();
    node.drop_connection(1);
    node.connect_with(2, volatile("truck"));
    node.drop_connection(2);
    node.restart(usize::MAX);
    node.connect_with(3, durable("watcher"));
    let told = told(&mut node, 3);
    // The first is in flight, and comes again.
    assert_eq!(
        told,
        ["watcher connected", "watcher lost", "truck connected", "truck lost", "watcher connected"]
    );
}

#[test]
fn a_shared_subscription_gets_each_change_once() {
    let mut node = Node::new();
    for (conn, client) in [(1, "one"), (2, "two")] {
        node.connect(conn, client);
        node.subscribe(conn, "$share/g/$im/presence/+", QoS::AtLeastOnce);
        node.seen(conn);
    }
    node.publishes(1);
    node.connect_with(3, volatile("truck"));
    let both = [told(&mut node, 1), told(&mut node, 2)].concat();
    assert_eq!(both, ["truck connected"]);
}

#[test]
fn presence_comes_in_envelopes_too() {
    let mut node = Node::new();
    node.connect(1, "truck");
    node.connack(2, version_3("old", true));
    node.packet(2, subscribe("$im/env/$im/presence/+", options(QoS::AtMostOnce)));
    node.drop_connection(1);
    let seen = node.publishes(2);
    let inner = seen.iter().filter(|p| p.topic == "$im/env/$im/presence/truck").map(|p| {
        let envelope: serde_json::Value = serde_json::from_slice(&p.payload).unwrap();
        let presence: im::Presence = serde_json::from_str(envelope["payload"].as_str().unwrap()).unwrap();
        (p.retain, presence.online)
    });
    assert_eq!(inner.collect::<Vec<_>>(), [(true, true), (false, false)]);
}

#[test]
fn a_client_that_was_forgotten_begins_no_lower_when_the_clock_has_gone_back() {
    for (from_view, back_s) in [(false, 3 * DAY_S), (true, 3 * DAY_S), (true, 0)] {
        let mut node = watched();
        node.connect_with(2, volatile("truck"));
        let first = presence(node.publishes(1).last().unwrap());
        node.drop_connection(2);
        node.pass_s(DAY_S);
        assert_eq!(told(&mut node, 1).last().unwrap(), "truck cleared");
        node.now.unix_ms -= back_s * 1000;
        if from_view {
            node.restart_from_view(&[3]);
            node.connect(1, "watcher");
            node.seen(1);
        }
        node.connect_with(3, volatile("truck"));
        let second = presence(node.publishes(1).iter().rfind(|p| p.topic.ends_with("truck")).unwrap());
        assert!(second.online && second.epoch > first.epoch, "{first:?} {second:?}");
    }
}

#[test]
fn while_nobody_listens_clients_that_come_and_go_are_one_record_a_second_later() {
    let mut node = Node::new();
    let client = |n: u64| volatile(&format!("c{n}"));
    let before = node.log.len();
    for conn in 1..=300 {
        node.connect_with(conn, client(conn % 100));
        node.drop_connection(conn);
    }
    assert_eq!(node.log.len(), before, "nobody waits for it");
    node.pass_s(1);
    assert!(node.log.len() - before <= 2, "{} records for 300 connections", node.log.len() - before);
    node.restart(node.log.len());
    let brought = retained(&mut node, 1_000, "c7").unwrap();
    assert!(!brought.online && brought.reason == "lost", "{brought:?}");
}

#[test]
fn who_begins_to_listen_sees_what_was_not_written_yet_once_and_not_again() {
    let mut node = Node::new();
    node.connect(2, "truck");
    node.connect(1, "watcher");
    node.seen(1);
    node.subscribe_with(1, "$im/presence/+", options(QoS::AtMostOnce));
    assert_eq!(told(&mut node, 1), ["truck connected", "watcher connected"]);
    node.pass_s(5);
    assert_eq!(told(&mut node, 1), [""; 0]);
    node.drop_connection(2);
    assert_eq!(told(&mut node, 1), ["truck lost"], "at once now");
}

#[test]
fn what_waits_is_written_when_the_broker_ends() {
    let mut node = Node::new();
    node.connect(2, "truck");
    let began = node.now.unix_ms;
    node.input(Input::Shutdown);
    node.restart(node.log.len());
    let brought = retained(&mut node, 1_000, "truck").unwrap();
    assert_eq!((brought.epoch, &*brought.reason), (began, "broker_restart"));
}
