//! The device: the SDK's desk, guard and clock, and the few lines that a runner adds, with a place to crash between any two.

use std::collections::VecDeque;

use device_sdk::clock::{Clock, ClockRules, Expiry, Interval, Moment, Reading};
use device_sdk::commands::{
    Arrival, Command, CommandDesk, CommandGuard, CommandJournal, CommandResult, JournalError, LastLook,
    Report, Running, Status, Taken, UsedNonce,
};
use device_sdk::guard::{FixFeed, GuardRules, LockGuard};
use serde_json::json;
use storage::sim::SimDisk;

use super::Planted;
use super::sender::DEVICE;
use super::world::{Crash, Sim};

const SEGMENT_BYTES: u64 = 8 * 1024;

/// What is in the device's memory.
pub(super) struct Device {
    pub(super) desk: CommandDesk<SimDisk>,
    clock: Clock,
    raw: Option<Reading>,
    pub(super) feed: FixFeed,
    /// The guard once more, for devices that ask it at the wrong time.
    second_guard: LockGuard,
    pub(super) in_flight: VecDeque<Report>,
}

impl Device {
    pub(super) fn read(&mut self, reading: Reading) {
        self.raw = Some(reading);
        // What is refused is refused: the clock knows what to make of it.
        let _ = self.clock.offer(reading);
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.in_flight.is_empty() && self.desk.journal().is_settled()
    }

    fn moment(&mut self, monotonic_ms: u64, planted: Planted) -> Moment {
        let now = self.clock.now(monotonic_ms);
        match (planted, self.raw) {
            (Planted::ExpiryByWrongClock, Some(raw)) => {
                let unix_ms = raw.unix_ms + monotonic_ms.saturating_sub(raw.monotonic_ms);
                let time = Ok(Interval { earliest_unix_ms: unix_ms, latest_unix_ms: unix_ms });
                Moment { monotonic_ms, time, reached_unix_ms: 0 }
            }
            _ => now,
        }
    }
}

/// A guard that forgets to say which approval was used.
struct Forgetful(LockGuard);

impl CommandGuard for Forgetful {
    fn check(&mut self, command: &Command, moment: &Moment) -> Result<Option<UsedNonce>, String> {
        self.0.check(command, moment).map(|_| None)
    }
}

fn check(_: &Command, _: u64) -> Result<(), String> {
    Ok(())
}

impl Sim {
    /// Starts the device; the power may end in the middle of it.
    pub(super) fn boot(&mut self) {
        let journal = loop {
            match CommandJournal::open_on(self.disk.clone(), SEGMENT_BYTES) {
                Ok(journal) => break journal,
                Err(error) => {
                    assert!(!self.disk.has_power(), "the journal does not open: {error}");
                    self.disk = self.disk.crash(&mut self.rng.fork());
                }
            }
        };
        let is_first = self.oracle.verdict.crashes == 0;
        let guard = self.guard();
        let second_guard = self.guard();
        // Both see the same fixes.
        let feed = guard.feed();
        let second_guard = second_guard.fed_by(feed.clone());
        let guard: Option<Box<dyn CommandGuard>> = match self.planted {
            Planted::GuardGoneAfterRestart if !is_first => None,
            Planted::NonceForgotten => Some(Box::new(Forgetful(guard))),
            _ => Some(Box::new(guard)),
        };
        let believes_any = self.planted == Planted::BelievesAnyClock;
        let sources_min = if believes_any { 1 } else { 2 };
        let mut clock = Clock::new(ClockRules { sources_min, ..ClockRules::default() });
        if !believes_any {
            clock.at_least(self.monotonic_ms(), journal.reached_unix_ms());
        }
        let desk = CommandDesk::new(journal, guard);
        self.device = Some(Device { desk, clock, raw: None, feed, second_guard, in_flight: VecDeque::new() });
        let _ = self.resume();
    }

    fn guard(&self) -> LockGuard {
        let mut rules = GuardRules::inside(Sim::area());
        match self.planted {
            Planted::LeapBelieved => rules.settle_ms = 0,
            Planted::NoMargin => (rules.margin_accuracies, rules.start_mps2) = (0.0, 0.0),
            Planted::StaleFix => (rules.fix_age_ms_max, rules.start_mps2) = (u64::MAX, 0.0),
            _ => {}
        }
        let guard = LockGuard::new(DEVICE, ["unlock"], rules);
        if self.planted == Planted::ApprovalIgnored {
            return guard;
        }
        guard.approved_by(self.sender.approvers())
    }

    fn now(&mut self) -> Moment {
        let (monotonic_ms, planted) = (self.monotonic_ms(), self.planted);
        self.device().moment(monotonic_ms, planted)
    }

    fn device(&mut self) -> &mut Device {
        self.device.as_mut().expect("it is up while it works")
    }

    /// What the journal says, or the crash that its error is.
    fn or_crash<T>(&mut self, outcome: Result<T, JournalError>) -> Result<T, Crash> {
        match outcome {
            Ok(value) => Ok(value),
            Err(error) => {
                assert!(!self.disk.has_power(), "the journal fails with power on: {error}");
                Err(self.crash(false))
            }
        }
    }

    fn resume(&mut self) -> Result<(), Crash> {
        loop {
            let now = self.now();
            let resumed = self.device().desk.resume(&now, &mut check);
            match self.or_crash(resumed)? {
                None => return Ok(()),
                Some(taken) => self.carry_out(taken)?,
            }
        }
    }

    /// Takes a message as a runner does, and acknowledges it if it came from the broker.
    pub(super) fn handle(
        &mut self,
        payload: &[u8],
        number: Option<u64>,
        accepted_ms: u64,
    ) -> Result<(), Crash> {
        if let Some(number) = number.filter(|_| self.planted == Planted::AckBeforeTaken) {
            self.broker.acknowledged(number);
            self.crash_point()?;
        }
        let monotonic_ms = self.monotonic_ms();
        if self.planted != Planted::BelievesAnyClock {
            self.device().clock.stamped(monotonic_ms, accepted_ms);
        }
        if self.planted == Planted::ActuatorBeforeJournal {
            self.fire_without_a_note(payload)?;
        }
        let now = self.now();
        let arrival = Arrival { payload, expires_in_ms: None };
        let taken = self.device().desk.take(arrival, &now, &mut check);
        let taken = self.or_crash(taken)?;
        self.crash_point()?;
        if let (Planted::RejectedRunsAgain, Taken::Repeated { status: Status::Rejected, .. }) =
            (self.planted, &taken)
        {
            self.fire_if_allowed(payload)?;
        }
        self.carry_out(taken)?;
        let arrives = !self.is_rough || self.rng.u32(0..5) > 0;
        if let Some(number) = number.filter(|_| arrives) {
            self.broker.acknowledged(number);
        }
        Ok(())
    }

    fn carry_out(&mut self, taken: Taken) -> Result<(), Crash> {
        let Taken::Run(running) = taken else { return Ok(()) };
        // The flash takes its time, and the truck does not wait for it.
        if self.rng.u32(0..3) == 0 {
            let ms = self.rng.u64(1..12_000);
            self.advance(ms);
        }
        let running = match self.planted {
            // It was written already that it is executing.
            Planted::ActuatorBeforeJournal | Planted::NoLastLook => running,
            _ => match self.last_look(running)? {
                Some(running) => running,
                None => return Ok(()),
            },
        };
        let command = running.command().clone();
        if self.planted != Planted::ActuatorBeforeJournal {
            self.fire(&command.id);
        }
        self.crash_point()?;
        let outcome =
            if self.rng.u32(0..8) == 0 { Err("the bolt is jammed".to_owned()) } else { Ok(json!(1)) };
        let now = self.now();
        if self.planted == Planted::ResultBeforeDurable {
            let status = if outcome.is_ok() { Status::Done } else { Status::Failed };
            let at = now.label_unix_ms();
            self.oracle.hears(CommandResult { id: command.id, status, data: None, reason: None, at });
            self.crash_point()?;
        }
        let ended = self.device().desk.end(running, outcome, &now);
        self.or_crash(ended)?;
        self.crash_point()
    }

    fn last_look(&mut self, running: Running) -> Result<Option<Running>, Crash> {
        let now = self.now();
        let looked = self.device().desk.last_look(running, &now, &mut check);
        match self.or_crash(looked)? {
            LastLook::Fire(running) => Ok(Some(running)),
            LastLook::Ended(_) => Ok(None),
        }
    }

    fn fire(&mut self, id: &str) {
        let (now_ms, inside_m) = (self.now_ms, self.inside_m());
        self.oracle.fires(id, now_ms, inside_m);
    }

    /// The bug: asks, acts, and writes later.
    fn fire_without_a_note(&mut self, payload: &[u8]) -> Result<(), Crash> {
        let command: Command = serde_json::from_slice(payload).expect("the sender writes commands");
        if self.device().desk.journal().find(&command.id).is_some() {
            return Ok(());
        }
        self.fire_if_allowed(payload)
    }

    fn fire_if_allowed(&mut self, payload: &[u8]) -> Result<(), Crash> {
        let command: Command = serde_json::from_slice(payload).expect("the sender writes commands");
        let now = self.now();
        let is_in_time = command.expires_at.is_none_or(|at| now.expiry(at) == Expiry::Ahead);
        let allowed = self.device().second_guard.check(&command, &now);
        if is_in_time && allowed.is_ok() {
            self.fire(&command.id);
            self.crash_point()?;
        }
        Ok(())
    }
}
