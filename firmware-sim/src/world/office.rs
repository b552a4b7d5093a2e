//! The other end: it takes every record and result, and sends the commands. Its session lasts, its link is good, and its
//! client is the SDK's as well; only the broker's power cuts disturb it.

use std::collections::BTreeMap;
use std::sync::Arc;

use device_sdk::client::{Core, Input, Output};
use device_sdk::commands::{Command, CommandResult, Status};
use device_sdk::{Incoming, Message, Options, QoS};
use serde::Deserialize;
use tracks::Fix;
use tracks::corridor::{CorridorEvent, Watcher, WatcherOptions};
use tracks::plausibility::{Gate, GateOptions};

use super::device::record_number;
use super::events::Event;
use super::{World, office_conn};
use crate::ledger::{Wrong, mix};
use crate::scenario;

/// How long after the loss of its connection the office connects again, milliseconds.
const AGAIN_MS: u64 = 200;
/// Its client identifier.
const CLIENT_ID: &str = "office";

/// What is read of a receipt.
#[derive(Deserialize)]
struct Receipt {
    id: String,
    state: String,
}

/// A command as its sender sees it.
#[derive(Debug)]
struct Asked {
    device: u32,
    number: u64,
    copies: u32,
    /// Copies that the broker says it will not deliver.
    undelivered: u32,
    end: Option<Status>,
}

/// The office.
pub(super) struct Office {
    core: Core,
    links: u32,
    is_open: bool,
    asked: BTreeMap<String, Asked>,
    next_token: u64,
    watchers: BTreeMap<u32, (Gate, Watcher)>,
    pub(super) deviations: u64,
    pub(super) refusals: u64,
}

impl Office {
    pub(super) fn new() -> Result<Office, String> {
        let options = Options {
            session_expiry_s: u32::MAX,
            keep_alive_s: 0,
            inflight_max: 1_000,
            ..Options::new("virtual:1883", CLIENT_ID)
        };
        let mut core = Core::new(options.core_config().map_err(|error| error.to_string())?);
        for (token, filter) in ["dev/+/telemetry/gps", "dev/+/cmd/result", "$im/receipts"].iter().enumerate()
        {
            core.handle_input(0, Input::subscribe(token as u64, filter, QoS::AtLeastOnce));
        }
        let (asked, watchers) = (BTreeMap::new(), BTreeMap::new());
        Ok(Office {
            core,
            links: 0,
            is_open: false,
            asked,
            next_token: 1_000,
            watchers,
            deviations: 0,
            refusals: 0,
        })
    }

    /// How many connections it has opened: the number of the newest.
    pub(super) fn links(&self) -> u32 {
        self.links
    }

    /// The number of a command, for findings.
    pub(super) fn number_of(&self, id: &str) -> u64 {
        self.asked.get(id).map_or(0, |asked| asked.number)
    }

    /// Whether every command has an end.
    pub(super) fn is_settled(&self) -> bool {
        self.asked.values().all(Asked::has_ended)
    }

    /// Folds what became of the commands into a hash.
    pub(super) fn hash(&self, hash: u64) -> u64 {
        let end = |asked: &Asked| asked.end.map_or(0, |end| 1 + end as u64);
        self.asked.values().fold(hash, |hash, asked| mix(mix(hash, asked.number), end(asked)))
    }

    /// How many commands there were, by what became of them.
    pub(super) fn ends(&self) -> BTreeMap<&'static str, u64> {
        let mut ends = BTreeMap::new();
        for asked in self.asked.values() {
            let word = match asked.end {
                Some(Status::Done) => "done",
                Some(Status::Failed) => "failed",
                Some(Status::Rejected) => "rejected",
                Some(Status::Expired) => "expired",
                _ if asked.has_ended() => "undelivered",
                _ => "open",
            };
            *ends.entry(word).or_default() += 1;
        }
        ends
    }
}

impl Asked {
    fn has_ended(&self) -> bool {
        self.end.is_some() || self.undelivered >= self.copies
    }
}

impl World<'_> {
    pub(super) fn office_dials(&mut self) -> Result<(), String> {
        if self.office.is_open || !self.broker_up {
            return Ok(());
        }
        self.office.links += 1;
        self.office.is_open = true;
        self.office_input(Input::Opened)
    }

    /// Its connection is gone.
    pub(super) fn office_ended(&mut self) -> Result<(), String> {
        if !std::mem::take(&mut self.office.is_open) {
            return Ok(());
        }
        self.events.at(self.now_ms + AGAIN_MS, Event::OfficeDials);
        self.office_input(Input::Closed { why: "the broker is gone".to_owned() })
    }

    pub(super) fn office_input(&mut self, input: Input) -> Result<(), String> {
        self.office.core.handle_input(self.now_ms, input);
        while let Some(output) = self.office.core.poll_output() {
            match output {
                Output::Send(packet) => self.queue_for_broker(office_conn(self.office.links), packet),
                Output::Close { why } => {
                    self.office.is_open = false;
                    self.events.at(self.now_ms + AGAIN_MS, Event::OfficeDials);
                    tracing::debug!(why, "the office lost its connection");
                }
                Output::Message(incoming) => self.office_hears(&incoming),
                Output::Published { result: Err(error), .. } => {
                    return Err(format!("the office's command was refused: {error}"));
                }
                _ => {}
            }
        }
        self.serve_broker()
    }

    fn office_hears(&mut self, incoming: &Incoming) {
        let mut levels = incoming.topic.split('/');
        match (levels.next(), levels.next(), levels.next()) {
            (Some("dev"), Some(id), Some("telemetry")) => {
                let (Some(at), Some(number)) = (self.place_of(id), record_number(incoming)) else {
                    let what = format!("a record on {} without its number", incoming.topic);
                    return self.ledger.wrong(Wrong::Invented, 0, 0, what);
                };
                self.ledger.arrived(at, number, self.now_ms, &incoming.payload, incoming.dup);
                self.watch(at, &incoming.payload);
            }
            (Some("dev"), Some(_), Some("cmd")) => self.hear_result(&incoming.payload),
            _ => self.hear_receipt(&incoming.payload),
        }
    }

    /// Looks whether a truck leaves its route, if the scenario asks that.
    fn watch(&mut self, at: u32, payload: &[u8]) {
        let expect = &self.scenario.expect;
        if expect.deviations_min.is_none() && expect.deviations_max.is_none() {
            return;
        }
        let Ok(fix) = serde_json::from_slice::<Fix>(payload) else { return };
        let route = &self.devices[at as usize].ride.journey.route;
        let (gate, watcher) = self.office.watchers.entry(at).or_insert_with(|| {
            let watcher = Watcher::new(Arc::new(route.corridor()), WatcherOptions::default());
            (Gate::new(GateOptions::default()), watcher)
        });
        let arrived_ms = i64::try_from(self.scenario.start_unix_s * 1_000 + self.now_ms).unwrap_or(i64::MAX);
        if gate.push(&fix, arrived_ms).is_ok()
            && let Some(CorridorEvent::Deviated { .. }) = watcher.push(&fix)
        {
            self.office.deviations += 1;
        }
    }

    fn hear_result(&mut self, payload: &[u8]) {
        let Ok(result) = serde_json::from_slice::<CommandResult>(payload) else {
            return self.ledger.wrong(Wrong::Invented, 0, 0, "a result that is none".to_owned());
        };
        if !result.status.is_final() {
            return;
        }
        let Some(asked) = self.office.asked.get_mut(&result.id) else {
            let what = format!("a result of command {} that nobody sent", result.id);
            return self.ledger.wrong(Wrong::Invented, 0, 0, what);
        };
        match asked.end {
            None => {
                asked.end = Some(result.status);
                self.office.refusals +=
                    u64::from(matches!(result.status, Status::Rejected | Status::Expired));
            }
            Some(end) if end != result.status => {
                let what = format!("command {} ended as {end:?} and as {:?}", result.id, result.status);
                self.ledger.wrong(Wrong::TwoEnds, asked.device, asked.number, what);
            }
            Some(_) => {}
        }
    }

    fn hear_receipt(&mut self, payload: &[u8]) {
        let Ok(receipt) = serde_json::from_slice::<Receipt>(payload) else { return };
        let Some((id, _)) = receipt.id.rsplit_once('.') else { return };
        if let Some(asked) = self.office.asked.get_mut(id) {
            asked.undelivered += u32::from(!matches!(receipt.state.as_str(), "delivered" | "read"));
        }
    }

    /// Sends a copy of a command to each of its devices.
    pub(super) fn send_commands(
        &mut self,
        command: &scenario::Command,
        round: u64,
        copy: u32,
    ) -> Result<(), String> {
        let sent_unix_ms = self.unix_ms() - u64::from(copy) * command.copy_every_s * 1_000;
        let expires_at = (command.ttl_s > 0).then(|| sent_unix_ms + command.ttl_s * 1_000);
        let numbers: Vec<u32> = command.devices.numbers(self.scenario.fleet.devices).collect();
        for number in numbers {
            let id = format!("c{round}-{number}");
            if copy == 0 {
                let asked = Asked {
                    device: number - 1,
                    number: round,
                    copies: command.copies,
                    undelivered: 0,
                    end: None,
                };
                self.office.asked.insert(id.clone(), asked);
            }
            let payload = Command {
                id: id.clone(),
                name: command.name.clone(),
                args: serde_json::Value::Null,
                expires_at,
            };
            let payload = serde_json::to_vec(&payload).map_err(|error| error.to_string())?;
            let mut message = Message::new(format!("dev/{}/cmd", self.id(number - 1)), payload)
                .qos(QoS::AtLeastOnce)
                .user_property("im-id", format!("{id}.{copy}"));
            // A broker gives up what is too old by itself; a copy sent late is as old as the first.
            let left_s = expires_at.map(|at| at.saturating_sub(self.unix_ms()).div_ceil(1_000).max(1));
            if let Some(left_s) = left_s.and_then(|left_s| u32::try_from(left_s).ok()) {
                message = message.expiry_s(left_s);
            }
            self.office.next_token += 1;
            let token = self.office.next_token;
            self.office_input(Input::publish(token, message))?;
        }
        Ok(())
    }

    /// What has no end at its sender.
    pub(super) fn find_endless(&mut self) {
        for (id, asked) in &self.office.asked {
            if !asked.has_ended() {
                let what = format!("command {id} was sent {} times and has no end", asked.copies);
                self.ledger.wrong(Wrong::NoEnd, asked.device, asked.number, what);
            }
        }
    }
}
