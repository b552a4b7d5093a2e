//! The other end: it takes every record and result, and sends the commands. Its session lasts, its link is good, and its
//! client is the SDK's as well; only the broker's power cuts disturb it.

use device_sdk::client::{Core, Input, Output};
use device_sdk::{Incoming, Message, Options, QoS};

use super::events::Event;
use super::{World, office_conn};
use crate::ledger::Wrong;
use crate::orders::{Orders, Sending};
use crate::payload::record_number;
use crate::scenario::{self, Expect};
use crate::watch::Watch;

/// How long after the loss of its connection the office connects again, milliseconds.
const AGAIN_MS: u64 = 200;
/// Its client identifier.
const CLIENT_ID: &str = "office";

/// The office.
pub(super) struct Office {
    core: Core,
    links: u32,
    is_open: bool,
    pub(super) orders: Orders,
    next_token: u64,
    pub(super) watch: Watch,
}

impl Office {
    pub(super) fn new(expect: &Expect) -> Result<Office, String> {
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
        let (orders, watch) = (Orders::default(), Watch::new(expect));
        Ok(Office { core, links: 0, is_open: false, orders, next_token: 1_000, watch })
    }

    /// How many connections it has opened: the number of the newest.
    pub(super) fn links(&self) -> u32 {
        self.links
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
                let (Some(at), Some(number)) = (self.place_of(id), record_number(&incoming.payload)) else {
                    let what = format!("a record on {} without its number", incoming.topic);
                    return self.ledger.wrong(Wrong::Invented, 0, 0, what);
                };
                self.ledger.arrived(at, number, self.now_ms, &incoming.payload, incoming.dup);
                let route = &self.devices[at as usize].ride.journey.route;
                let unix_ms = self.scenario.start_unix_s * 1_000 + self.now_ms;
                self.office.watch.take(at, route, &incoming.payload, unix_ms);
            }
            (Some("dev"), Some(_), Some("cmd")) => {
                self.office.orders.hear_result(&incoming.payload, &mut self.ledger)
            }
            _ => self.office.orders.hear_receipt(&incoming.payload),
        }
    }

    /// Sends a copy of a command to each of its devices.
    pub(super) fn send_commands(
        &mut self,
        command: &scenario::Command,
        round: u64,
        copy: u32,
    ) -> Result<(), String> {
        let sending = Sending { command, round, copy, unix_ms: self.unix_ms() };
        let numbers: Vec<u32> = command.devices.numbers(self.scenario.fleet.devices).collect();
        for number in numbers {
            let topic = format!("dev/{}/cmd", self.id(number - 1));
            let message =
                self.office.orders.send(sending, number, topic).map_err(|error| error.to_string())?;
            self.office_publish(message)?;
        }
        Ok(())
    }

    pub(super) fn office_publish(&mut self, message: Message) -> Result<(), String> {
        self.office.next_token += 1;
        let token = self.office.next_token;
        self.office_input(Input::publish(token, message))
    }
}
