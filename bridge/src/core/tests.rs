//! The whole bridge on virtual time: inputs in, stored changes out, no clock and no I/O.

use serde_json::{Value, json};

use super::*;
use crate::{
    config::{CommandRule, SecretUrl, SinkKind, SinkRule, Webhook},
    watch::tests::{fix, rule},
};

/// A core and the state that a crash would leave: the changes that it returned, and nothing else.
pub(super) struct Bench {
    pub(super) config: Arc<Config>,
    pub(super) core: Core,
    pub(super) stored: Vec<Change>,
}

impl Bench {
    pub(super) fn new(config: Config) -> Bench {
        let config = Arc::new(config);
        let (core, _) = Core::recover(Arc::clone(&config), State::default(), 0);
        Bench { config, core, stored: Vec::new() }
    }

    pub(super) fn handle(&mut self, now_ms: u64, input: Input<'_>) -> Vec<Change> {
        let changes = self.core.handle(now_ms, input);
        self.stored.extend(changes.clone());
        changes
    }

    pub(super) fn crash(&mut self, now_ms: u64) {
        let mut state = State::default();
        self.stored.iter().for_each(|change| state.apply(change));
        let (core, changes) = Core::recover(Arc::clone(&self.config), state, now_ms);
        self.core = core;
        self.stored.extend(changes);
    }

    pub(super) fn gps(&mut self, second: i64, along_m: f64, beside_m: f64) {
        let payload = serde_json::to_vec(&fix(second, along_m, beside_m)).unwrap();
        self.handle(second as u64 * 1_000, Input::Gps { device: "truck-7", payload: &payload });
    }

    pub(super) fn say(&mut self, now_ms: u64, seq: u64, text: &str) -> Vec<Change> {
        let id = format!("m-{seq}");
        let chat = Chat {
            payload: text.as_bytes(),
            id: Some(&id),
            seq: Some(seq),
            from: Some("alice"),
            ts_ms: Some(now_ms),
            ..Chat::default()
        };
        self.handle(now_ms, Input::Chat(chat))
    }

    pub(super) fn result(&mut self, now_ms: u64, device: &str, payload: Value) {
        self.handle(now_ms, Input::Result { device, payload: payload.to_string().as_bytes() });
    }

    pub(super) fn receipt(&mut self, now_ms: u64, id: &str, state: &str) {
        let payload = json!({"topic": "dev/truck-7/cmd", "seq": 1, "id": id, "state": state, "user": "u", "client": "truck-7", "at": now_ms, "qos": 1});
        self.handle(now_ms, Input::Receipt { payload: payload.to_string().as_bytes() });
    }

    /// Takes everything that waits for a target, as its sink would.
    pub(super) fn drain(&mut self, now_ms: u64, target: &Target) -> Vec<Entry> {
        let mut taken = Vec::new();
        while let Some(entry) = self.core.take(target, u64::MAX) {
            let changes = self.core.settle(now_ms, entry.clone(), Outcome::Delivered);
            self.stored.extend(changes);
            taken.push(entry);
        }
        taken
    }

    pub(super) fn texts(&mut self, now_ms: u64) -> Vec<String> {
        let entries = self.drain(now_ms, &Target::Broker);
        entries
            .iter()
            .map(|entry| json_of(entry)["text"].as_str().unwrap_or("(command)").to_owned())
            .collect()
    }
}

pub(super) fn json_of(entry: &Entry) -> Value {
    serde_json::from_str(&entry.payload).unwrap()
}

fn hook() -> Target {
    Target::Sink("ops".into())
}

pub(super) fn config() -> Config {
    let mut config = Config::new("localhost:1", "b", "/nowhere");
    config.vehicles = vec![rule()];
    config.commands = vec![CommandRule { name: "unlock".into(), ttl_s: 60 }];
    let webhook = Webhook {
        url: SecretUrl("http://x/".parse().unwrap()),
        headers: Default::default(),
        secret: None,
        format: Default::default(),
    };
    config.sinks = vec![SinkRule::new("ops", SinkKind::Webhook(webhook))];
    config
}

pub(super) fn leave_route(bench: &mut Bench, from_second: i64) {
    for i in 0..10 {
        bench.gps(from_second + i, 200.0, i as f64 * 20.0);
    }
}

#[test]
fn a_departure_goes_to_the_conversation_and_to_a_sink_as_the_same_json() {
    let mut bench = Bench::new(config());
    leave_route(&mut bench, 1);
    let posted = bench.drain(20_000, &Target::Broker);
    let hooked = bench.drain(20_000, &hook());
    assert_eq!((posted.len(), hooked.len()), (1, 1));
    assert_eq!((&posted[0].payload, &posted[0].id), (&hooked[0].payload, &hooked[0].id));
    assert_eq!(posted[0].topic.as_deref(), Some("im/dispatch"));
    let json = json_of(&posted[0]);
    assert_eq!((&json["kind"], &json["device"]), (&"route_deviation".into(), &"truck-7".into()));
    assert!(json["distance_m"].as_f64().unwrap() > 60.0 && json["position"]["lat"].is_f64(), "{json}");
}

#[test]
fn a_crash_at_any_fix_loses_no_alert_and_tells_none_twice() {
    for crash_at in 0..40 {
        let mut bench = Bench::new(config());
        let out = (0..12).map(|i| (200.0, f64::from(i) * 18.0));
        let back = (0..12).rev().map(|i| (200.0, f64::from(i) * 18.0));
        let on = (0..16).map(|i| (200.0 + f64::from(i) * 18.0, 0.0));
        for (second, (along_m, beside_m)) in (1..).zip(out.chain(back).chain(on)) {
            bench.gps(second, along_m, beside_m);
            if second == crash_at {
                bench.crash(second as u64 * 1_000);
                // The broker sends the fix again that was not acknowledged.
                bench.gps(second, along_m, beside_m);
            }
        }
        let kinds: Vec<_> =
            bench.drain(99_000, &Target::Broker).into_iter().map(|entry| entry.kind).collect();
        assert_eq!(kinds, ["route_deviation", "back_on_route"], "crash at fix {crash_at}");
    }
}

#[test]
fn what_waits_in_the_outbox_is_there_after_a_crash_in_order_and_only_once() {
    let mut bench = Bench::new(config());
    for seq in 1..=5 {
        bench.say(seq * 1_000, seq, "/nonsense");
    }
    let first = bench.core.head(&Target::Broker).cloned().unwrap();
    let changes = bench.core.settle(6_000, first.clone(), Outcome::Delivered);
    bench.stored.extend(changes);
    bench.crash(7_000);
    bench.say(8_000, 6, "/nonsense");
    let waiting = bench.drain(9_000, &Target::Broker);
    assert_eq!(waiting.len(), 5);
    assert!(waiting.windows(2).all(|pair| pair[0].no < pair[1].no), "{waiting:?}");
    assert!(waiting.iter().all(|entry| entry.id != first.id));
}

#[test]
fn an_unlock_becomes_a_command_and_its_receipt_and_result_come_back() {
    let mut bench = Bench::new(config());
    bench.say(100_000, 7, "/unlock truck-7");
    let sent = bench.drain(100_000, &Target::Broker);
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].topic.as_deref(), sent[0].expires_at_ms), (Some("dev/truck-7/cmd"), Some(160_000)));
    let command = json_of(&sent[0]);
    let want = json!({"id": sent[0].id, "name": "unlock", "args": {}, "expires_at": 160_000});
    assert_eq!(command, want);
    let id = sent[0].id.clone();
    bench.receipt(100_100, &id, "delivered");
    bench.receipt(100_200, &id, "delivered");
    bench.crash(100_250);
    bench.receipt(100_300, &id, "delivered");
    for status in ["accepted", "executing", "done", "done"] {
        bench.result(101_000, "truck-7", json!({"id": id, "status": status, "at": 1}));
    }
    bench.crash(101_100);
    bench.result(101_200, "truck-7", json!({"id": id, "status": "done", "at": 1}));
    let posts = bench.drain(102_000, &Target::Broker);
    let texts: Vec<_> = posts.iter().map(|post| json_of(post)["text"].clone()).collect();
    assert_eq!(
        texts,
        ["unlock delivered to truck-7 (asked by alice)", "unlock done by truck-7 (asked by alice)"]
    );
    for post in &posts {
        assert_eq!(json_of(post)["request"], json!({"seq": 7, "id": "m-7", "from": "alice"}));
        assert_eq!(post.topic.as_deref(), Some("im/dispatch"));
    }
    assert!(bench.drain(102_000, &hook()).is_empty(), "answers are for the conversation");
}

#[test]
fn a_chat_message_delivered_twice_is_one_command() {
    let mut bench = Bench::new(config());
    bench.say(1_000, 7, "/unlock truck-7");
    assert_eq!(bench.say(1_500, 7, "/unlock truck-7"), []);
    bench.crash(2_000);
    assert_eq!(bench.say(2_500, 7, "/unlock truck-7"), []);
    let first = bench.drain(3_000, &Target::Broker);
    assert_eq!(first.len(), 1);
    bench.say(4_000, 8, "/unlock truck-7");
    let second = bench.drain(4_000, &Target::Broker);
    assert_eq!(second.len(), 1);
    assert_ne!(first[0].id, second[0].id, "written twice it is two");
    // The crash came before the command was stored: the same message gives the same id.
    let mut other = Bench::new(config());
    other.say(1_700, 7, "/unlock truck-7");
    assert_eq!(other.core.head(&Target::Broker).unwrap().id, first[0].id);
}

#[test]
fn without_ids_from_the_broker_a_redelivery_is_told_by_its_dup_flag() {
    let mut bench = Bench::new(config());
    let chat = |dup| Chat { payload: b"/unlock truck-7", dup, ..Chat::default() };
    bench.handle(1_000, Input::Chat(chat(false)));
    bench.crash(1_500);
    bench.handle(2_000, Input::Chat(chat(true)));
    assert_eq!(bench.drain(2_000, &Target::Broker).len(), 1);
    bench.handle(3_000, Input::Chat(chat(false)));
    assert_eq!(bench.drain(3_000, &Target::Broker).len(), 1, "written again it is another");
}

#[test]
fn a_retained_message_is_no_command() {
    let mut bench = Bench::new(config());
    let chat = Chat { payload: b"/unlock truck-7", retain: true, ..Chat::default() };
    assert_eq!(bench.handle(1_000, Input::Chat(chat)), []);
}

#[test]
fn a_command_that_waited_too_long_for_the_bridge_is_not_sent_but_answered() {
    let mut bench = Bench::new(config());
    let chat = Chat { payload: b"/unlock truck-7", id: Some("m-1"), ts_ms: Some(10_000), ..Chat::default() };
    bench.handle(70_000, Input::Chat(chat));
    let texts = bench.texts(70_000);
    assert_eq!(texts.len(), 1);
    assert!(
        texts[0].contains("was not sent to truck-7: it was written 60 s ago and lives 60 s"),
        "{texts:?}"
    );
}

#[test]
fn only_the_device_that_was_asked_may_answer() {
    let mut bench = Bench::new(config());
    bench.say(1_000, 1, "/unlock truck-7");
    let id = bench.drain(1_000, &Target::Broker)[0].id.clone();
    bench.result(1_500, "truck-8", json!({"id": id, "status": "done"}));
    bench.result(1_500, "truck-7", json!({"id": "cmd-other", "status": "done"}));
    let elsewhere =
        json!({"topic": "dev/truck-8/cmd", "id": id, "state": "delivered", "client": "x"}).to_string();
    bench.handle(1_500, Input::Receipt { payload: elsewhere.as_bytes() });
    for junk in [&b"{"[..], b"[]", b"\xff", b"{\"id\":7}"] {
        assert_eq!(bench.handle(1_600, Input::Result { device: "truck-7", payload: junk }), []);
        assert_eq!(bench.handle(1_600, Input::Receipt { payload: junk }), []);
    }
    assert_eq!(bench.texts(2_000), Vec::<String>::new());
}

#[test]
fn a_command_that_nobody_answers_is_told_after_its_time_and_a_late_result_still() {
    let mut bench = Bench::new(config());
    bench.say(1_000, 1, "/unlock truck-7");
    let id = bench.drain(1_000, &Target::Broker)[0].id.clone();
    assert_eq!(bench.core.next_deadline_ms(), Some(71_000));
    bench.handle(70_999, Input::Tick);
    assert_eq!(bench.texts(70_999), Vec::<String>::new());
    bench.crash(71_000);
    bench.handle(71_000, Input::Tick);
    bench.handle(71_000, Input::Tick);
    assert_eq!(
        bench.texts(71_000),
        ["unlock expired: truck-7 did not take it in time (away, or no such device) (asked by alice)"]
    );
    bench.result(80_000, "truck-7", json!({"id": id, "status": "rejected", "reason": "it moves"}));
    assert_eq!(bench.texts(80_000), ["unlock rejected by truck-7: it moves (asked by alice)"]);
    let forget_ms = bench.core.next_deadline_ms().unwrap();
    bench.handle(forget_ms, Input::Tick);
    assert!(bench.core.state.requests.is_empty() && bench.core.next_deadline_ms().is_none());
}

#[test]
fn an_expired_receipt_is_answer_enough() {
    let mut bench = Bench::new(config());
    bench.say(1_000, 1, "/unlock truck-7");
    let id = bench.drain(1_000, &Target::Broker)[0].id.clone();
    bench.receipt(62_000, &id, "expired");
    bench.handle(71_000, Input::Tick);
    assert_eq!(bench.texts(71_000), ["unlock expired before truck-7 took it (asked by alice)"]);
}

#[test]
fn a_command_that_the_broker_never_takes_is_told() {
    let mut bench = Bench::new(config());
    bench.say(1_000, 1, "/unlock truck-7");
    let entry = bench.core.head(&Target::Broker).cloned().unwrap();
    let why = "not authorized".to_owned();
    bench.core.settle(2_000, entry, Outcome::Dead { why });
    assert_eq!(bench.core.counts.dead_letters, 1);
    assert_eq!(bench.core.take_dead().len(), 1);
    bench.handle(71_000, Input::Tick);
    assert_eq!(bench.texts(71_000), ["unlock was not sent to truck-7: not authorized (asked by alice)"]);
}

#[test]
fn open_commands_are_bounded_and_answered_ones_make_room() {
    let mut bench = Bench::new(config());
    for seq in 1..=1_000 {
        bench.say(1_000, seq, "/unlock truck-7");
    }
    let sent = bench.drain(1_000, &Target::Broker);
    assert_eq!(sent.len(), 1_000);
    bench.say(1_000, 1_001, "/unlock truck-7");
    let texts = bench.texts(1_000);
    assert!(texts.len() == 1 && texts[0].contains("1000 commands are open already"), "{texts:?}");
    bench.result(1_000, "truck-7", json!({"id": sent[3].id, "status": "done"}));
    bench.drain(1_000, &Target::Broker);
    bench.say(1_000, 1_002, "/unlock truck-7");
    assert_eq!(bench.texts(1_000), ["(command)"]);
    assert_eq!(bench.core.state.requests.len(), 1_000);
}

#[test]
fn a_sink_that_is_hopelessly_behind_loses_its_oldest_as_dead_letters_and_the_one_in_flight_never() {
    let mut config = config();
    config.outbox.entries_max = 3;
    let mut bench = Bench::new(config);
    let mut told = 0;
    for round in 0..4 {
        leave_route(&mut bench, 1 + round * 40);
        for i in 0..10 {
            bench.gps(11 + round * 40 + i, 200.0, (9 - i) as f64 * 20.0);
        }
        for i in 0..10 {
            bench.gps(21 + round * 40 + i, 200.0, 0.0);
        }
        told += bench.drain(0, &Target::Broker).len();
    }
    assert_eq!(told, 8);
    let dead = bench.core.take_dead();
    let waiting = bench.drain(0, &hook());
    assert_eq!((dead.len(), waiting.len()), (5, 3));
    assert!(dead[0].why.contains("3 newer messages"), "{}", dead[0].why);
    assert!(waiting[0].no < dead[0].entry.no, "the first may be on its way");
}

#[test]
fn a_full_outbox_for_the_broker_stops_the_intake() {
    let mut config = config();
    config.outbox.entries_max = 3;
    let mut bench = Bench::new(config);
    for seq in 1..=2 {
        bench.say(1_000, seq, "/nonsense");
    }
    assert!(!bench.core.is_full());
    bench.say(1_000, 3, "/nonsense");
    assert!(bench.core.is_full());
    bench.drain(1_000, &Target::Broker);
    assert!(!bench.core.is_full());
}

#[test]
fn what_waits_for_a_sink_that_is_gone_from_the_configuration_is_a_dead_letter() {
    let mut bench = Bench::new(config());
    leave_route(&mut bench, 1);
    bench.config = Arc::new(Config { sinks: Vec::new(), ..config() });
    bench.crash(20_000);
    assert_eq!(bench.core.take_dead().len(), 1);
    assert_eq!(bench.core.head(&hook()), None);
    bench.crash(21_000);
    assert_eq!(bench.core.take_dead().len(), 0, "once");
    assert_eq!(bench.drain(21_000, &Target::Broker).len(), 1);
}

#[test]
fn junk_on_the_gps_topic_costs_nothing() {
    let mut bench = Bench::new(config());
    let huge = vec![b'['; PAYLOAD_BYTES_MAX * 2];
    for payload in [&b""[..], b"{", b"null", b"\xff\xff", b"{\"ts\":1}", &huge] {
        assert_eq!(bench.handle(1_000, Input::Gps { device: "truck-7", payload }), []);
    }
    assert_eq!(bench.core.counts.fixes_rejected, 6);
    bench.handle(1_000, Input::Gps { device: "van-1", payload: b"{}" });
    assert_eq!((bench.core.counts.fixes_unwatched, bench.core.vehicles.len()), (1, 1));
}

#[test]
fn the_number_of_watched_vehicles_is_bounded_and_idle_ones_make_room() {
    let mut bench = Bench::new(config());
    for n in 0..VEHICLES_MAX {
        bench.handle(1_000 + n as u64, Input::Gps { device: &format!("truck-{n}"), payload: b"" });
    }
    bench.handle(60_000, Input::Gps { device: "truck-new", payload: b"" });
    assert_eq!((bench.core.vehicles.len(), bench.core.counts.fixes_unwatched), (VEHICLES_MAX, 1));
    bench.handle(VEHICLE_IDLE_MS + 120_000, Input::Gps { device: "truck-new", payload: b"" });
    assert_eq!(bench.core.vehicles.len(), VEHICLES_MAX);
    assert!(bench.core.vehicles.contains_key("truck-new") && !bench.core.vehicles.contains_key("truck-0"));
}

#[test]
fn dead_letters_have_a_bound_and_a_command_is_none() {
    let mut bench = Bench::new(config());
    let payload = "x".repeat(10_000);
    for i in 0..2_000 {
        let entry = bench.core.entry(1_000, hook(), format!("ev-{i}"), "arrived", payload.clone());
        let mut out = Vec::new();
        bench.core.bury(&mut out, 1_000, Entry { no: i, ..entry }, "refused".to_owned());
        bench.stored.extend(out);
    }
    let kept = bench.core.state.letters.len();
    assert!((1_500..1_700).contains(&kept), "16 MiB of 10 kB each: {kept}");
    assert!(bench.core.state.letters.contains_key(&1_999), "the newest stay");
    bench.crash(2_000);
    assert_eq!(bench.core.state.letters.len(), kept);
    bench.say(100_000, 7, "/unlock truck-7");
    let command = bench.core.take(&Target::Broker, u64::MAX).unwrap();
    bench.core.settle(101_000, command, Outcome::Dead { why: "refused".into() });
    assert_eq!(bench.core.state.letters.len(), kept, "sent later it would be another command");
}
