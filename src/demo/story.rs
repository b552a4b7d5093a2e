//! What must happen, what has happened, and the words for it. Pure: it is told what the dispatcher heard.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use device_sdk::Incoming;
use serde_json::Value;

/// One thing that must happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Positions,
    LeftRoute,
    BackOnRoute,
    RefusedOnTheWay,
    Arrived,
    Delivered,
    Unlocked,
    LockOpen,
}

const STEPS: [(Step, &str); 8] = [
    (Step::Positions, "positions of every truck came over MQTT"),
    (Step::LeftRoute, "a truck left its route and the bridge said so in im/dispatch"),
    (Step::BackOnRoute, "it came back and the bridge said so"),
    (Step::RefusedOnTheWay, "/unlock on the way was rejected by the truck itself"),
    (Step::Arrived, "a truck arrived and the bridge said so"),
    (Step::Delivered, "the receipt said that the unlock command was delivered"),
    (Step::Unlocked, "/unlock at the destination was done by the truck"),
    (Step::LockOpen, "the truck reported its lock as open"),
];

pub(super) struct Story {
    tanker: &'static str,
    wanderer: &'static str,
    trucks: u32,
    done: BTreeSet<Step>,
    seen: BTreeMap<String, Instant>,
    words: VecDeque<String>,
    /// `/unlock` messages that have no result yet.
    asked: u32,
}

/// How often a truck's position is shown.
const SHOWN_EVERY_MS: u128 = 3_000;
/// A truck this fast is on its way.
const DRIVING_MPS: f64 = 5.0;

impl Story {
    pub(super) fn new(tanker: &'static str, wanderer: &'static str, trucks: u32) -> Self {
        let (done, seen, words) = (BTreeSet::new(), BTreeMap::new(), VecDeque::new());
        Self { tanker, wanderer, trucks, done, seen, words, asked: 0 }
    }

    pub(super) fn is_over(&self) -> bool {
        self.done.len() == STEPS.len()
    }

    pub(super) fn done(&self) -> usize {
        self.done.len()
    }

    pub(super) fn missing(&self) -> impl Iterator<Item = &'static str> {
        STEPS.iter().filter(|(step, _)| !self.done.contains(step)).map(|(_, words)| *words)
    }

    /// What the dispatcher writes next.
    pub(super) fn next_words(&mut self) -> Option<String> {
        self.words.pop_front()
    }

    /// Takes a message; returns the lines to show.
    pub(super) fn hear(&mut self, message: &Incoming) -> Vec<String> {
        let json: Value = serde_json::from_slice(&message.payload).unwrap_or(Value::Null);
        let mut levels = message.topic.split('/');
        match (levels.next(), levels.next(), levels.next()) {
            (Some("im"), ..) => self.hear_dispatch(message, &json),
            (Some("dev"), Some(device), Some("telemetry")) => self.hear_position(device, &json),
            (Some("dev"), Some(device), Some("state")) => self.hear_state(device, &json),
            _ => Vec::new(),
        }
    }

    fn hear_position(&mut self, device: &str, fix: &Value) -> Vec<String> {
        let (Some(lat), Some(lon)) = (fix["lat"].as_f64(), fix["lon"].as_f64()) else { return Vec::new() };
        let speed_mps = fix["speed"].as_f64().unwrap_or(0.0);
        if device == self.tanker && self.would_ask(speed_mps) {
            self.ask();
        }
        let due = self.seen.get(device).is_none_or(|at| at.elapsed().as_millis() >= SHOWN_EVERY_MS);
        if !due {
            return Vec::new();
        }
        self.seen.insert(device.to_owned(), Instant::now());
        if self.seen.len() >= self.trucks as usize {
            self.done.insert(Step::Positions);
        }
        vec![line(device, &format!("at {lat:.5} {lon:.5}, {:.0} km/h", speed_mps * 3.6))]
    }

    /// Once too early, to see it refused; then when the truck has arrived and stands.
    fn would_ask(&self, speed_mps: f64) -> bool {
        if !self.done.contains(&Step::RefusedOnTheWay) && !self.done.contains(&Step::Arrived) {
            return speed_mps > DRIVING_MPS;
        }
        self.done.contains(&Step::Arrived) && !self.done.contains(&Step::Unlocked) && speed_mps == 0.0
    }

    /// Asks for the lock, one command at a time.
    fn ask(&mut self) {
        if self.asked == 0 {
            self.asked += 1;
            self.words.push_back(format!("/unlock {}", self.tanker));
        }
    }

    fn hear_dispatch(&mut self, message: &Incoming, post: &Value) -> Vec<String> {
        // What the dispatcher wrote itself is shown when it is written.
        let (Some(kind), Some(text)) = (post["kind"].as_str(), post["text"].as_str()) else {
            return Vec::new();
        };
        let device = post["device"].as_str().unwrap_or_default();
        let status = post["command"]["status"].as_str().unwrap_or_default();
        match kind {
            "route_deviation" if device == self.wanderer => self.finish(Step::LeftRoute),
            "back_on_route" if device == self.wanderer && self.done.contains(&Step::LeftRoute) => {
                self.finish(Step::BackOnRoute);
            }
            "arrived" if device == self.tanker => self.finish(Step::Arrived),
            "command_receipt" if device == self.tanker && status == "delivered" => {
                self.finish(Step::Delivered)
            }
            "command_result" if device == self.tanker => self.hear_result(status),
            _ => {}
        }
        let seq = message.seq().map_or_else(|| "?".to_owned(), |seq| seq.to_string());
        vec![line("im/dispatch", &format!("#{seq} {text}"))]
    }

    fn hear_result(&mut self, status: &str) {
        self.asked = self.asked.saturating_sub(1);
        match status {
            "done" => self.finish(Step::Unlocked),
            "rejected" if !self.done.contains(&Step::Arrived) => self.finish(Step::RefusedOnTheWay),
            // The next position of a standing truck asks again.
            _ => {}
        }
    }

    fn hear_state(&mut self, device: &str, state: &Value) -> Vec<String> {
        let Some(lock) = state["lock"].as_str() else { return Vec::new() };
        if device == self.tanker && lock == "open" {
            self.finish(Step::LockOpen);
        }
        vec![line(device, &format!("reports: lock {lock}"))]
    }

    fn finish(&mut self, step: Step) {
        self.done.insert(step);
    }
}

/// One line of the terminal: the time of day, who, what.
pub(super) fn line(who: &str, what: &str) -> String {
    let s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()) % 86_400;
    format!("{:02}:{:02}:{:02}Z  {who:<12} {what}", s / 3600, s / 60 % 60, s % 60)
}
