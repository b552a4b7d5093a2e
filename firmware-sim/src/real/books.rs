//! What a run in real time has written down so far.

use std::collections::{BTreeMap, BTreeSet};

use device_sdk::Incoming;
use device_sdk::commands::Command;
use tracks::Fix;

use super::spoken::{Match, Spoken};
use super::stage::Stage;
use crate::acts::{Act, Acts};
use crate::ledger::{Fate, Latency, Ledger, Wrong};
use crate::orders::Orders;
use crate::payload::{record_number, written};
use crate::watch::Watch;

/// What the payload of a record may be off by in time, milliseconds.
const TS_SLACK_MS: i64 = 2_000;

/// How many records a device gave up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct GivenUp {
    /// As too old.
    pub(super) expired: u64,
    /// For want of room.
    pub(super) dropped: u64,
}

/// The books.
#[derive(Default)]
pub(super) struct Books {
    pub(super) ledger: Ledger,
    pub(super) orders: Orders,
    pub(super) acts: Acts,
    pub(super) watch: Option<Watch>,
    /// How late records were made.
    pub(super) late: Latency,
    pub(super) arrived: BTreeSet<u32>,
    /// What the receivers of gateways spoke.
    pub(super) spoken: Spoken,
    /// What devices say they gave up, without saying which.
    pub(super) given_up: BTreeMap<u32, GivenUp>,
    pub(super) power_cuts: u64,
    pub(super) broker_power_cuts: u64,
}

impl Books {
    /// Whether every record and every command has ended, as far as devices tell.
    pub(super) fn is_settled(&self) -> bool {
        self.orders.is_settled()
            && self.ledger.devices().all(|device| {
                let given_up = self.given_up.get(&device).copied().unwrap_or_default();
                self.ledger.open_of(device).count() as u64 <= given_up.expired + given_up.dropped
            })
    }

    /// Writes off what devices said they gave up: the oldest of what has not arrived.
    pub(super) fn settle_given_up(&mut self) {
        for (device, given_up) in std::mem::take(&mut self.given_up) {
            self.ledger.give_up_oldest(device, given_up.expired, Fate::Expired);
            self.ledger.give_up_oldest(device, given_up.dropped, Fate::Dropped);
        }
    }
}

impl Stage {
    /// A device makes a record now that was meant for a moment; returns its number. The fix has the scenario's date.
    pub(super) fn make(&self, at: u32, meant_ms: u64, fix: &Fix) -> u64 {
        let mut books = self.books();
        let number = books.ledger.next_number(at);
        books.ledger.made(at, meant_ms, &written(number, fix));
        let unix_ms = self.scenario.start_unix_s * 1_000 + meant_ms;
        let off_ms = fix.ts_ms - i64::try_from(unix_ms).unwrap_or(i64::MAX);
        if off_ms.abs() > TS_SLACK_MS {
            let what = format!("its time is {} s off", off_ms / 1_000);
            books.ledger.wrong(Wrong::WrongTime, at, number, what);
        }
        books.late.add(self.time.now_ms().saturating_sub(meant_ms));
        number
    }

    /// Something reaches the office.
    pub(super) fn office_hears(&self, incoming: &Incoming) {
        let mut levels = incoming.topic.split('/');
        let (first, id, kind) = (levels.next(), levels.next(), levels.next());
        let device = id.filter(|_| first == Some("dev")).and_then(|id| self.place_of(id));
        let books = &mut *self.books();
        match (device, kind) {
            (Some(at), Some("telemetry")) => self.hear_record(books, at, incoming),
            (Some(_), Some("cmd")) => books.orders.hear_result(&incoming.payload, &mut books.ledger),
            // Others may use the same broker.
            (None, _) if first == Some("dev") => {}
            _ => books.orders.hear_receipt(&incoming.payload),
        }
    }

    fn hear_record(&self, books: &mut Books, at: u32, incoming: &Incoming) {
        let now_ms = self.time.now_ms();
        let (number, payload) = match self.has_gateways {
            false => (record_number(&incoming.payload), self.in_scenario_time(&incoming.payload)),
            true => match self.find_spoken(books, at, &incoming.payload) {
                Match::Same(number, fix) => (Some(number), written(number, &fix)),
                Match::Changed(number) => (Some(number), incoming.payload.to_vec()),
                Match::After => return,
                Match::None => (None, incoming.payload.to_vec()),
            },
        };
        let Some(number) = number else {
            let what = format!("a record on {} that nobody made", incoming.topic);
            return books.ledger.wrong(Wrong::Invented, at, 0, what);
        };
        // What arrives was taken, though its device may not have heard so yet.
        books.ledger.accepted(at, number);
        books.ledger.arrived(at, number, now_ms, &payload, incoming.dup);
        if let Some(watch) = &mut books.watch {
            let route = &self.rides[at as usize].journey.route;
            watch.take(at, route, &payload, self.scenario.start_unix_s * 1_000 + now_ms);
        }
    }

    fn find_spoken(&self, books: &mut Books, at: u32, payload: &[u8]) -> Match {
        let last_s = self.scenario.start_unix_s + self.scenario.duration_s;
        let last_ts_ms = i64::try_from(last_s * 1_000).unwrap_or(i64::MAX);
        books.spoken.find(at, payload, self.shift_ms, last_ts_ms)
    }

    /// The lock of a gateway moves, for whichever command.
    pub(super) fn lock_moves(&self, at: u32, name: &str) {
        let now_ms = self.time.now_ms();
        let (ride, unix_ms) = (&self.rides[at as usize], self.time.unix_ms(now_ms));
        let books = &mut *self.books();
        let Some((number, expires_at)) = books.orders.claim(at, name, unix_ms) else {
            let what = format!("{name}, once more than commands asked for it");
            return books.ledger.wrong(Wrong::ActedTwice, at, 0, what);
        };
        let act = Act { device: at, number, ride, now_ms, unix_ms };
        books.acts.moved(act, name, expires_at, &mut books.ledger);
    }

    /// The actuator of a device fires.
    pub(super) fn fired(&self, at: u32, command: &Command) {
        let now_ms = self.time.now_ms();
        let books = &mut *self.books();
        let number = books.orders.number_of(&command.id);
        let (ride, unix_ms) = (&self.rides[at as usize], self.time.unix_ms(now_ms));
        let act = Act { device: at, number, ride, now_ms, unix_ms };
        books.acts.fired(act, command, &mut books.ledger);
    }

    /// A record as it goes out: today.
    pub(super) fn today(&self, number: u64, fix: &Fix) -> Vec<u8> {
        written(number, &Fix { ts_ms: fix.ts_ms + self.shift_ms, ..fix.clone() })
    }

    /// A payload as the ledger knows it; one that is not exactly a record's stays what it is.
    fn in_scenario_time(&self, payload: &[u8]) -> Vec<u8> {
        match (record_number(payload), serde_json::from_slice::<Fix>(payload)) {
            (Some(number), Ok(fix)) if written(number, &fix) == payload => {
                written(number, &Fix { ts_ms: fix.ts_ms.saturating_sub(self.shift_ms), ..fix })
            }
            _ => payload.to_vec(),
        }
    }
}
