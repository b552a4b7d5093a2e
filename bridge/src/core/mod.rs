//! The bridge as a pure state machine: what comes from the broker in, changes to store out.
//!
//! Invariants: a change is applied in memory when it is returned, so whatever [`Core::handle`] returns must be stored
//! before its input is acknowledged and before anything in it is sent; a target is handed its messages one at a time, in
//! the order they were put; the same input given twice puts nothing new.
//!
//! It knows no clock, socket, disk or task: time is an argument, and is the wall clock, since fixes and commands carry it.

#[cfg(test)]
mod alert_tests;
mod alerts;
mod commands;
mod letters;
mod outgoing;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, hash_map},
    sync::Arc,
};

use tracks::Fix;

use crate::{
    chat,
    config::Config,
    report::{self, Post},
    state::{Change, DeadLetter, Entry, State, Target, VehicleMark},
    watch::Vehicle,
};

/// Most vehicles that are watched at a time.
const VEHICLES_MAX: usize = 50_000;
/// A vehicle not heard of for so long may be forgotten for a new one, milliseconds.
const VEHICLE_IDLE_MS: u64 = 3_600_000;
/// Longest payload that is looked into, bytes.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// Something from the broker, or time that passed.
#[derive(Debug)]
pub(crate) enum Input<'a> {
    /// A message on `dev/{device}/telemetry/gps`.
    Gps {
        /// The device.
        device: &'a str,
        /// The fix in JSON.
        payload: &'a [u8],
    },
    /// A message in the conversation.
    Chat(Chat<'a>),
    /// A message on `dev/{device}/cmd/result`.
    Result {
        /// The device.
        device: &'a str,
        /// The result in JSON.
        payload: &'a [u8],
    },
    /// A message on a topic that a rule is about.
    Message(Message<'a>),
    /// A message on `$im/receipts`.
    Receipt {
        /// The receipt in JSON.
        payload: &'a [u8],
    },
    /// [`Core::next_deadline_ms`] may have passed.
    Tick,
}

/// A message in the conversation, with what the broker says about it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Chat<'a> {
    pub(crate) payload: &'a [u8],
    /// `im-id`.
    pub(crate) id: Option<&'a str>,
    /// `im-seq`.
    pub(crate) seq: Option<u64>,
    /// `im-from`.
    pub(crate) from: Option<&'a str>,
    /// `im-ts`.
    pub(crate) ts_ms: Option<u64>,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
}

/// A message on a topic that a rule is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
    /// `im-id`.
    pub(crate) id: Option<&'a str>,
    /// `im-ts`.
    pub(crate) ts_ms: Option<u64>,
    pub(crate) retain: bool,
}

/// What became of an entry at its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The target has it.
    Delivered,
    /// The target will never have it.
    Dead {
        /// Why.
        why: String,
    },
}

/// What a bridge has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Fixes of watched vehicles that were believed.
    pub fixes: u64,
    /// Fixes of watched vehicles that were not.
    pub fixes_rejected: u64,
    /// Fixes of devices that no rule matches, or for which there is no room.
    pub fixes_unwatched: u64,
    /// Alerts raised.
    pub alerts: u64,
    /// Commands given.
    pub commands: u64,
    /// Events that were not told because they belong to an open alert or are muted.
    pub alerts_suppressed: u64,
    /// Messages that their target took.
    pub delivered: u64,
    /// Messages that were told as one with others.
    pub digested: u64,
    /// Messages that were given up.
    pub dead_letters: u64,
}

/// The state machine, see the module.
#[derive(Debug)]
pub(crate) struct Core {
    config: Arc<Config>,
    state: State,
    vehicles: HashMap<String, Watched>,
    /// No search for an idle vehicle before this time: one costs a look at all of them.
    next_eviction_ms: u64,
    next_deadline_ms: Option<u64>,
    dead: Vec<DeadLetter>,
    /// How many of a target's first messages are with its task.
    under_way: HashMap<Target, usize>,
    pub(crate) counts: Counts,
}

#[derive(Debug)]
struct Watched {
    vehicle: Vehicle,
    mark: VehicleMark,
    seen_ms: u64,
}

impl Core {
    /// Goes on from the stored state. Returns changes to store too: what waits for a sink that is not configured any
    /// more becomes a dead letter, and vehicles that no rule matches any more are forgotten.
    pub(crate) fn recover(config: Arc<Config>, state: State, now_ms: u64) -> (Core, Vec<Change>) {
        let mut core = Core {
            config,
            state,
            vehicles: HashMap::new(),
            next_eviction_ms: 0,
            next_deadline_ms: None,
            dead: Vec::new(),
            under_way: HashMap::new(),
            counts: Counts::default(),
        };
        let mut out = Vec::new();
        for (device, mark) in core.state.vehicles.clone() {
            if core.watch(now_ms, &device, mark).is_none() {
                core.change(&mut out, Change::VehicleGone { device });
            }
        }
        let targets = core.targets();
        let gone: Vec<_> = core.state.targets().filter(|target| !targets.contains(target)).cloned().collect();
        for target in gone {
            for entry in core.state.queue(&target).cloned().collect::<Vec<_>>() {
                core.bury(&mut out, now_ms, entry, "its sink is not configured any more".to_owned());
            }
        }
        core.find_deadline();
        (core, out)
    }

    /// Takes one input. What is returned must be stored before the input is acknowledged.
    pub(crate) fn handle(&mut self, now_ms: u64, input: Input<'_>) -> Vec<Change> {
        let mut out = Vec::new();
        match input {
            Input::Gps { device, payload } => self.gps(&mut out, now_ms, device, payload),
            Input::Chat(chat) => self.chat(&mut out, now_ms, &chat),
            Input::Result { device, payload } => self.result(&mut out, now_ms, device, payload),
            Input::Message(message) => self.message(&mut out, now_ms, &message),
            Input::Receipt { payload } => self.receipt(&mut out, now_ms, payload),
            Input::Tick => {
                self.tick_requests(&mut out, now_ms);
                self.tick_alerts(&mut out, now_ms);
                self.find_deadline();
            }
        }
        out
    }

    /// All targets there are.
    pub(crate) fn targets(&self) -> Vec<Target> {
        let sinks = self.config.sinks.iter().map(|sink| Target::Sink(sink.name.clone()));
        std::iter::once(Target::Broker).chain(sinks).collect()
    }

    /// Whether no more input may be taken until the broker takes messages.
    pub(crate) fn is_full(&self) -> bool {
        self.state.queue(&Target::Broker).len() >= self.config.outbox.entries_max
    }

    /// Whether a rule is about messages on a topic.
    pub(crate) fn has_rule_for(&self, topic: &str) -> bool {
        self.config.rules.filters().any(|filter| device_sdk::topic_matches(filter, topic))
    }

    /// When [`Input::Tick`] is due.
    pub(crate) fn next_deadline_ms(&self) -> Option<u64> {
        self.next_deadline_ms
    }

    /// The changes that make the whole state.
    pub(crate) fn snapshot(&self) -> impl Iterator<Item = Change> + '_ {
        self.state.snapshot()
    }

    fn gps(&mut self, out: &mut Vec<Change>, now_ms: u64, device: &str, payload: &[u8]) {
        if !chat::is_device(device) || !self.make_room(out, now_ms, device) {
            self.counts.fixes_unwatched += 1;
            return;
        }
        let Some(watched) = self.watch(now_ms, device, VehicleMark::default()) else {
            self.counts.fixes_unwatched += 1;
            return;
        };
        let fix: Result<Fix, _> = serde_json::from_slice(&payload[..payload.len().min(PAYLOAD_BYTES_MAX)]);
        let judged = fix
            .map_err(|error| error.to_string())
            .and_then(|fix| watched.vehicle.push(&fix, now_ms).map_err(|rejected| rejected.to_string()));
        let sightings = match judged {
            Ok(sightings) => sightings,
            Err(why) => {
                tracing::debug!(device, why, "fix rejected");
                self.counts.fixes_rejected += 1;
                return;
            }
        };
        let mark = watched.vehicle.mark();
        let moved = std::mem::replace(&mut watched.mark, mark) != mark;
        self.counts.fixes += 1;
        if moved {
            self.change(out, Change::Vehicle { device: device.to_owned(), mark });
        }
        for sighting in sightings {
            let post = report::alert(device, &sighting, now_ms);
            self.sighted(out, now_ms, device, &post);
        }
    }

    fn find_deadline(&mut self) {
        let alerts = self.next_alert_deadline_ms();
        self.next_deadline_ms = self.next_request_deadline_ms().into_iter().chain(alerts).min();
    }

    /// Finds the vehicle, or begins to watch it; `None` if no rule matches.
    fn watch(&mut self, now_ms: u64, device: &str, mark: VehicleMark) -> Option<&mut Watched> {
        match self.vehicles.entry(device.to_owned()) {
            hash_map::Entry::Occupied(entry) => {
                let watched = entry.into_mut();
                watched.seen_ms = now_ms;
                Some(watched)
            }
            hash_map::Entry::Vacant(entry) => {
                let rule = self.config.vehicles.iter().find(|rule| rule.devices.matches(device))?;
                let vehicle = Vehicle::new(&self.config.gate, rule, mark);
                Some(entry.insert(Watched { vehicle, mark, seen_ms: now_ms }))
            }
        }
    }

    /// Whether the vehicle is watched or there is room for it; forgets the longest idle one if need be.
    fn make_room(&mut self, out: &mut Vec<Change>, now_ms: u64, device: &str) -> bool {
        if self.vehicles.len() < VEHICLES_MAX || self.vehicles.contains_key(device) {
            return true;
        }
        if now_ms < self.next_eviction_ms {
            return false;
        }
        let idlest = self.vehicles.iter().min_by_key(|(_, watched)| watched.seen_ms);
        match idlest {
            Some((idle, watched)) if now_ms.saturating_sub(watched.seen_ms) >= VEHICLE_IDLE_MS => {
                let idle = idle.clone();
                self.vehicles.remove(&idle);
                self.change(out, Change::VehicleGone { device: idle });
                true
            }
            _ => {
                tracing::warn!(limit = VEHICLES_MAX, "no room to watch another vehicle");
                self.next_eviction_ms = now_ms + 60_000;
                false
            }
        }
    }

    fn put_post(&mut self, out: &mut Vec<Change>, now_ms: u64, target: Target, post: &Post) {
        let entry = self.entry(now_ms, target.clone(), post.id.clone(), post.kind.as_str(), post.to_json());
        self.put(out, now_ms, target, entry);
    }

    /// An entry for people; it gets its number when it is put.
    fn entry(&self, now_ms: u64, target: Target, id: String, kind: &str, payload: String) -> Entry {
        let topic = (target == Target::Broker).then(|| self.config.dispatch_topic.clone());
        let kind = kind.to_owned();
        Entry { no: 0, target, id, kind, created_ms: now_ms, payload, topic, expires_at_ms: None }
    }

    fn change(&mut self, out: &mut Vec<Change>, change: Change) {
        self.state.apply(&change);
        // Looking at all of them is for the tick; until then it may come early.
        let due_ms = match &change {
            Change::Request(request) => Some(commands::deadline_ms(request)),
            Change::Alert(alert) => Some(self.deadline_of(alert)),
            Change::Hold(held) => Some(held.until_ms),
            Change::Mute(mute) => Some(mute.until_ms),
            _ => None,
        };
        self.next_deadline_ms = self.next_deadline_ms.into_iter().chain(due_ms).min();
        out.push(change);
    }
}
