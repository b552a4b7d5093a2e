//! Alerts on virtual time: episodes, words, sinks, quiet hours, escalations, what people do with them, and crashes in between.

use serde_json::json;

use super::{
    tests::{Bench, config, json_of, leave_route},
    *,
};
use crate::config::{Secret, SinkKind, SinkRule, Webhook};

/// The configuration of the other tests with two sinks, and rules as a file would have them.
fn with_rules(rules: &str) -> Config {
    let sinks = ["ops", "pager"]
        .map(|name| format!("[[sink]]\nname = {name:?}\ntype = \"webhook\"\nurl = \"http://x/\"\n"));
    let parsed = Config::parse(&format!("{}{rules}", sinks.concat()), "t", std::path::Path::new("")).unwrap();
    Config { sinks: parsed.sinks, rules: parsed.rules, ..config() }
}

fn sink(name: &str) -> Target {
    Target::Sink(name.to_owned())
}

fn come_back(bench: &mut Bench, from_second: i64) {
    for i in 0..12 {
        bench.gps(from_second + i, 200.0, (11 - i) as f64 * 18.0);
    }
}

fn door(bench: &mut Bench, now_ms: u64, id: &str, open: bool) {
    let payload = json!({"ts": now_ms, "open": open, "side": "rear"}).to_string();
    let message = Message {
        topic: "dev/truck-7/event/door",
        payload: payload.as_bytes(),
        id: Some(id),
        ts_ms: Some(now_ms),
        retain: false,
    };
    bench.handle(now_ms, Input::Message(message));
}

fn told(bench: &mut Bench, now_ms: u64, target: &Target) -> Vec<(String, String)> {
    let entries = bench.drain(now_ms, target);
    let word = |entry: &Entry, key: &str| json_of(entry)[key].as_str().unwrap_or_default().to_owned();
    entries.iter().map(|entry| (word(entry, "phase"), word(entry, "text"))).collect()
}

const OFF_ROUTE: &str = r#"
[[rule]]
name = "off-route"
on = ["route_deviation"]
devices = "truck-*"
severity = "critical"
title = "{{ device }} left its route"
text = "{{ device }} is {{ distance_m|round|int }} m beside its route"
to = ["dispatch", "ops"]
"#;

#[test]
fn a_departure_is_told_in_the_words_of_its_rule_to_its_sinks_and_so_is_its_end() {
    let mut bench = Bench::new(with_rules(OFF_ROUTE));
    leave_route(&mut bench, 1);
    let entries = bench.drain(20_000, &sink("ops"));
    let json = json_of(&entries[0]);
    assert_eq!((entries.len(), &json["phase"], &json["severity"]), (1, &"raised".into(), &"critical".into()));
    assert_eq!(json["title"], "truck-7 left its route");
    let text = json["text"].as_str().unwrap();
    assert!(text.starts_with("truck-7 is ") && text.ends_with(" m beside its route"), "{text}");
    assert_eq!((&json["rule"], &json["kind"]), (&"off-route".into(), &"route_deviation".into()));
    assert!(json["position"]["lat"].is_f64(), "what the event has is there: {json}");
    assert_eq!(json_of(&bench.drain(20_000, &Target::Broker)[0]), json, "the conversation has the same");
    assert_eq!(bench.drain(20_000, &sink("pager")), []);
    come_back(&mut bench, 21);
    let ended = told(&mut bench, 40_000, &sink("ops"));
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].0, "ended");
    assert!(
        ended[0].1.starts_with("over after ") && ended[0].1.contains("(back on route: truck-7"),
        "{ended:?}"
    );
    assert_eq!(bench.core.state.alerts.len(), 0);
    // The next departure is another alert.
    leave_route(&mut bench, 60);
    let next = bench.drain(80_000, &sink("ops"));
    assert_eq!(next.len(), 1);
    assert_ne!(json_of(&next[0])["alert"], json["alert"]);
}

#[test]
fn an_episode_is_one_alert_across_a_crash_and_a_message_that_comes_twice_is_one() {
    let rules = r#"
        [[rule]]
        name = "door"
        topic = "dev/+/event/door"
        when = "payload.open"
        clear = "not payload.open"
        text = "{{ payload.side }} door of {{ device }} is open"
        to = ["ops"]
    "#;
    let mut bench = Bench::new(with_rules(rules));
    door(&mut bench, 1_000, "m-1", true);
    door(&mut bench, 1_500, "m-1", true);
    bench.crash(2_000);
    door(&mut bench, 2_500, "m-1", true);
    door(&mut bench, 3_000, "m-2", true);
    assert_eq!(
        told(&mut bench, 3_000, &sink("ops")),
        [("raised".into(), "rear door of truck-7 is open".into())]
    );
    assert_eq!(bench.core.counts.alerts_suppressed, 2, "since the crash");
    door(&mut bench, 8_000, "m-3", false);
    bench.crash(8_500);
    door(&mut bench, 9_000, "m-3", false);
    let ended = told(&mut bench, 9_000, &sink("ops"));
    assert_eq!(ended.len(), 1, "{ended:?}");
    assert_eq!(ended[0].1, "over after 7 s: rear door of truck-7 is open");
    let retained = Message {
        topic: "dev/truck-7/event/door",
        payload: b"{\"open\":true}",
        id: None,
        ts_ms: None,
        retain: true,
    };
    assert_eq!(bench.handle(10_000, Input::Message(retained)), []);
}

#[test]
fn an_alert_is_told_again_after_its_pause_and_not_before() {
    let rules = r#"
        [[rule]]
        name = "door"
        topic = "dev/+/event/door"
        when = "payload.open"
        repeat_s = 60
        to = ["ops"]
    "#;
    let mut bench = Bench::new(with_rules(rules));
    for second in 0..130 {
        door(&mut bench, 1_000 + second * 1_000, &format!("m-{second}"), true);
    }
    let phases: Vec<_> =
        told(&mut bench, 200_000, &sink("ops")).into_iter().map(|(phase, _)| phase).collect();
    assert_eq!(phases, ["raised", "repeated", "repeated"]);
}

#[test]
fn nobody_acknowledges_and_the_next_is_told_until_somebody_does() {
    let rules = format!(
        "{OFF_ROUTE}escalate = [{{ after_s = 60, to = [\"pager\"] }}, {{ after_s = 120, to = [\"pager\", \"dispatch\"] }}]"
    );
    let mut bench = Bench::new(with_rules(&rules));
    leave_route(&mut bench, 1);
    let raised_ms = bench.core.state.alerts.values().next().unwrap().raised_ms;
    bench.drain(20_000, &Target::Broker);
    assert_eq!(bench.core.next_deadline_ms(), Some(raised_ms + 60_000));
    bench.handle(raised_ms + 59_999, Input::Tick);
    assert_eq!(bench.drain(0, &sink("pager")), []);
    bench.handle(raised_ms + 60_000, Input::Tick);
    bench.crash(raised_ms + 60_001);
    bench.handle(raised_ms + 60_002, Input::Tick);
    let paged = told(&mut bench, 90_000, &sink("pager"));
    assert_eq!(paged.len(), 1, "{paged:?}");
    assert!(paged[0].1.starts_with("nobody acknowledged for 60 s: truck-7 is "), "{paged:?}");
    bench.say(100_000, 1, "/ack truck-7");
    assert!(bench.texts(100_000)[0].starts_with("alice acknowledged: truck-7 is "));
    bench.crash(100_001);
    bench.handle(raised_ms + 500_000, Input::Tick);
    assert_eq!(bench.drain(0, &sink("pager")), []);
    bench.say(110_000, 2, "/ack truck-8");
    assert_eq!(bench.texts(110_000), ["no open alert has the id or the device \"truck-8\""]);
    // It ends all the same, and the pager that was told hears of it.
    come_back(&mut bench, 700);
    assert_eq!(told(&mut bench, 800_000, &sink("pager"))[0].0, "ended");
}

#[test]
fn what_is_muted_is_not_told_and_afterwards_it_is() {
    let mut bench = Bench::new(with_rules(OFF_ROUTE));
    bench.say(500, 1, "/mute 1m truck-7");
    assert_eq!(bench.texts(600), ["alerts of truck-7 are not told for 60 s (alice)"]);
    bench.crash(700);
    leave_route(&mut bench, 1);
    come_back(&mut bench, 20);
    assert_eq!((bench.drain(40_000, &sink("ops")), bench.drain(40_000, &Target::Broker)), (vec![], vec![]));
    bench.handle(61_000, Input::Tick);
    leave_route(&mut bench, 100);
    assert_eq!(bench.drain(120_000, &sink("ops")).len(), 1);
    bench.say(130_000, 2, "/mute 2h");
    bench.say(131_000, 3, "/unmute");
    bench.say(132_000, 4, "/unmute");
    bench.say(133_000, 5, "/mute soon");
    let texts = bench.texts(140_000);
    assert_eq!(
        texts[1..4],
        [
            "alerts of everything are not told for 2 h (alice)",
            "everything is told again (alice)",
            "everything was not muted"
        ]
    );
    assert!(texts[4].starts_with("\"soon\" is no time to be quiet"), "{}", texts[4]);
}

#[test]
fn in_quiet_hours_only_the_conversation_is_told_and_the_others_when_they_end() {
    // The tests' clock begins at midnight UTC.
    let rules = r#"
        [[rule]]
        name = "door"
        topic = "dev/+/event/door"
        when = "payload.open"
        clear = "not payload.open"
        quiet = "22:00-06:00"
    "#;
    let mut bench = Bench::new(with_rules(rules));
    let hour_ms = 3_600_000;
    door(&mut bench, hour_ms, "m-1", true);
    bench.crash(hour_ms + 1);
    assert_eq!(told(&mut bench, hour_ms, &Target::Broker).len(), 1);
    assert_eq!(bench.drain(hour_ms, &sink("ops")), []);
    assert_eq!(bench.core.next_deadline_ms(), Some(6 * hour_ms));
    bench.handle(6 * hour_ms, Input::Tick);
    bench.crash(6 * hour_ms + 1);
    assert_eq!(told(&mut bench, 6 * hour_ms, &sink("ops")).len(), 1);
    door(&mut bench, 7 * hour_ms, "m-2", false);
    assert_eq!(told(&mut bench, 7 * hour_ms, &sink("ops"))[0].0, "ended");
    // What begins and ends in one night is told to nobody who sleeps.
    door(&mut bench, 25 * hour_ms, "m-3", true);
    door(&mut bench, 26 * hour_ms, "m-4", false);
    bench.handle(30 * hour_ms, Input::Tick);
    assert_eq!(bench.drain(31 * hour_ms, &sink("ops")), []);
    assert_eq!(bench.core.state.held.len(), 0);
}

#[test]
fn a_template_that_fails_does_not_cost_the_alert() {
    let rules = r#"
        [[rule]]
        name = "off-route"
        on = ["route_deviation"]
        text = "{{ no.such.thing }}"
        to = ["ops"]
    "#;
    let mut bench = Bench::new(with_rules(rules));
    leave_route(&mut bench, 1);
    let told = told(&mut bench, 20_000, &sink("ops"));
    assert!(told[0].1.starts_with("route deviation: truck-7 is "), "{told:?}");
}

#[test]
fn open_alerts_have_a_bound_and_beyond_it_are_told_all_the_same() {
    let rules = "[[rule]]\nname = \"any\"\ntopic = \"x/#\"\nrepeat_s = 3600\nto = [\"ops\"]";
    let mut config = with_rules(rules);
    config.outbox.entries_max = 100_000;
    let mut bench = Bench::new(config);
    for i in 0..10_050 {
        let topic = format!("x/{i}");
        let message = Message { topic: &topic, payload: b"1", id: Some("m"), ts_ms: None, retain: false };
        bench.core.handle(1_000, Input::Message(message));
    }
    assert_eq!(bench.core.state.alerts.len(), 10_000);
    assert_eq!(bench.core.counts.alerts, 10_050);
}

#[test]
fn what_the_quota_of_a_sink_does_not_let_through_is_told_as_one_and_a_crash_repeats_nothing() {
    let rules = r#"
        [[sink]]
        name = "phones"
        type = "ntfy"
        url = "http://x/"
        quota = "20/min"
        [[rule]]
        name = "any"
        topic = "dev/+/event/door"
        to = ["phones"]
    "#;
    let mut bench = Bench::new(with_rules(rules));
    let phones = sink("phones");
    for at in 0..19 {
        door(&mut bench, 1_000 + at, &format!("m-{at}"), true);
    }
    // 19 take 19 × 3.15 s, which is below a minute.
    assert_eq!(bench.core.digest(2_000), []);
    let first = bench.core.take(&phones, u64::MAX).unwrap();
    door(&mut bench, 2_000, "m-19", true);
    door(&mut bench, 2_000, "m-20", true);
    assert_eq!(bench.core.digest(2_000), [], "while one is under way more may come to be joined");
    let changes = bench.core.settle(3_000, first, Outcome::Delivered);
    bench.stored.extend(changes);
    let joined = bench.core.digest(3_000);
    assert_eq!(joined.len(), 1);
    bench.stored.extend(joined);
    bench.crash(3_500);
    assert_eq!(bench.core.digest(3_500), [], "once");
    let told = bench.drain(4_000, &phones);
    assert_eq!(told.len(), 1);
    let json = json_of(&told[0]);
    assert_eq!(
        (&json["kind"], &json["count"], &json["title"]),
        (&"digest".into(), &20.into(), &"20 alerts: 20 message".into())
    );
    assert_eq!(json["ids"].as_array().unwrap().len(), 20);
    assert_eq!(json["text"].as_str().unwrap().lines().count(), 21);
}

#[test]
fn secrets_of_sinks_are_not_shown() {
    let webhook = Webhook {
        url: crate::config::SecretUrl("http://x/T0K3N".parse().unwrap()),
        headers: [("authorization".to_owned(), Secret("hunter2".into()))].into(),
        secret: Some(Secret("whsec_hunter2".into())),
        format: Default::default(),
    };
    let shown = format!("{:?}", SinkRule::new("ops", SinkKind::Webhook(webhook)));
    assert!(!shown.contains("T0K3N") && !shown.contains("hunter2"), "{shown}");
}
