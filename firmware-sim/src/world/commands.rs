//! How a device carries commands out: the SDK's clock, guard and command desk, on a simulated disk that loses its power.
//!
//! The power can be cut in the middle of any write of the journal, and between the actuator and the journal's next record. A
//! command that was executing then and has no end has failed: nobody knows whether it ran.

use std::collections::BTreeMap;
use std::sync::Arc;

use device_sdk::client::Input;
use device_sdk::clock::{Clock, ClockRules, Moment, Reading, TimeSource};
use device_sdk::commands::{
    Arrival, Command, CommandDesk, CommandJournal, JournalError, LastLook, Report, Running, Taken,
};
use device_sdk::disk::SimDisk;
use device_sdk::guard::{Area, FixFeed, GuardFix};
use device_sdk::{Incoming, Message, QoS};
use serde_json::{Value, json};
use tracks::Fix;
use tracks::fence::Fence;

use super::World;
use crate::acts::Act;
use crate::lock::{self, LOCK, UNLOCK};
use crate::planted::Planted;

/// How long the power is away when it goes in the middle of a command, milliseconds.
pub(super) const OFF_MS: u64 = 5_000;
/// How exactly a receiver tells the time, in milliseconds.
const GNSS_ERROR_MS: u64 = 50;
/// One segment of a journal: a few hundred commands.
const SEGMENT_BYTES: u64 = 128 * 1024;
/// Reports have tokens from here on, records below.
pub(super) const REPORT_TOKENS: u64 = 1 << 60;
/// What is cut at: a write of the journal from the first on, or, as the last one, the moment after the actuator.
pub(super) const STEPS: u64 = 10;

/// What a device has for commands; it outlives its power where it is on disk or is metal.
pub(super) struct Cab {
    disk: Arc<SimDisk>,
    /// What runs while there is power.
    desk: Option<Desk>,
    area: Area,
    /// The doors.
    is_open: bool,
    /// Whether the power goes right after the actuator.
    cut_after_acting: bool,
    /// Counts attempts to publish a report.
    tokens: u64,
}

struct Desk {
    desk: CommandDesk<Arc<SimDisk>>,
    clock: Clock,
    feed: FixFeed,
    last_fix: Option<GuardFix>,
    booted_ms: u64,
    /// Reports on their way, by token.
    told: BTreeMap<u64, Report>,
}

impl Cab {
    /// Makes a closed one; `None` for a fence that is no area for the SDK's guard.
    pub(super) fn new(fence: &Fence, seed: u64) -> Option<Cab> {
        let area = lock::area(fence)?;
        let disk = Arc::new(SimDisk::new(seed));
        Some(Cab { disk, desk: None, area, is_open: false, cut_after_acting: false, tokens: REPORT_TOKENS })
    }

    /// Switches it on: the journal is read.
    pub(super) fn boot(
        &mut self,
        id: &str,
        now_ms: u64,
        planted: Option<Planted>,
    ) -> Result<(), JournalError> {
        let journal = CommandJournal::open_on(self.disk.clone(), SEGMENT_BYTES)?;
        let is_careless = planted == Some(Planted::FenceWithoutMargin);
        let margin_accuracies = if is_careless { 0.0 } else { lock::MARGIN_ACCURACIES };
        let guard = lock::guard(id, self.area.clone(), margin_accuracies);
        let feed = guard.feed();
        let mut clock = Clock::new(ClockRules::default());
        clock.at_least(0, journal.reached_unix_ms());
        let desk = CommandDesk::new(journal, Some(Box::new(guard)));
        self.desk =
            Some(Desk { desk, clock, feed, last_fix: None, booted_ms: now_ms, told: BTreeMap::new() });
        Ok(())
    }

    /// The power goes: the disk keeps what was synced and some of the rest.
    pub(super) fn power_cut(&mut self, planted: Option<Planted>, chance: &mut fastrand::Rng) {
        self.desk = None;
        let seed = chance.u64(..);
        self.disk = Arc::new(match planted {
            Some(Planted::JournalForgotten) => SimDisk::new(seed),
            _ => self.disk.crash(chance),
        });
    }

    /// Lets the power go at a step of the next command.
    pub(super) fn cut_at(&mut self, step: u64) {
        if step == STEPS {
            self.cut_after_acting = true;
        } else {
            self.disk.cut_power(step);
        }
    }

    /// What the receiver says; `clock_ms` is the date of the device that it believes in without any fix.
    pub(super) fn observe(&mut self, now_ms: u64, fix: Option<&Fix>, planted: Option<Planted>) {
        let Some(desk) = &mut self.desk else { return };
        let monotonic_ms = now_ms - desk.booted_ms;
        let Some(fix) = fix else {
            if planted == Some(Planted::StaleFixTrusted)
                && let Some(last) = desk.last_fix
            {
                desk.feed.observe(GuardFix { monotonic_ms, ..last });
            }
            return;
        };
        if let Ok(unix_ms) = u64::try_from(fix.ts_ms) {
            let error_ms = GNSS_ERROR_MS;
            let reading = Reading { source: TimeSource::Gnss, monotonic_ms, unix_ms, error_ms };
            if let Err(error) = desk.clock.offer(reading) {
                tracing::debug!(%error, "a device does not believe its receiver's time");
            }
        }
        let fix = lock::guard_fix(fix, monotonic_ms);
        desk.feed.observe(fix);
        desk.last_fix = Some(fix);
    }

    /// What the device knows of the time; `rtc_ms` is what its clock says that nobody has set.
    fn moment(&mut self, now_ms: u64, rtc_ms: i64, planted: Option<Planted>) -> Option<Moment> {
        let desk = self.desk.as_mut()?;
        let monotonic_ms = now_ms - desk.booted_ms;
        let moment = desk.clock.now(monotonic_ms);
        let rtc_ms = u64::try_from(rtc_ms).unwrap_or(0);
        Some(match planted {
            Some(Planted::LateUnlock) => Moment { monotonic_ms, ..Moment::exact(1_735_689_600_000) },
            Some(Planted::ExpiryByWrongClock) => Moment { monotonic_ms, ..Moment::exact(rtc_ms) },
            _ => moment,
        })
    }
}

/// The actuator's own opinion.
fn known(command: &Command, _at_ms: u64) -> Result<(), String> {
    match command.name.as_str() {
        UNLOCK | LOCK => Ok(()),
        other => Err(format!("there is no command {other:?}")),
    }
}

/// Why a command went no further.
enum Stop {
    /// The power is gone.
    Cut,
    /// The journal failed.
    Broken(String),
}

impl World<'_> {
    /// A message reaches the firmware of a device.
    pub(super) fn device_hears(&mut self, at: u32, mut incoming: Incoming) -> Result<(), String> {
        if incoming.topic.ends_with("/update") {
            return self.hear_manifest(at, incoming);
        }
        let mut token = incoming.ack.take();
        let early = self.planted == Some(Planted::CommandAcknowledgedEarly);
        if early && let Some(token) = token.take() {
            self.give_core(at, Input::Ack(token))?;
        }
        match self.carry_out(at, &incoming) {
            Ok(()) => {}
            Err(Stop::Cut) => {
                self.switch_off(at, OFF_MS);
                return Ok(());
            }
            Err(Stop::Broken(what)) => return Err(format!("device {}: {what}", at + 1)),
        }
        match token {
            Some(token) => self.give_core(at, Input::Ack(token)),
            None => Ok(()),
        }
    }

    fn carry_out(&mut self, at: u32, incoming: &Incoming) -> Result<(), Stop> {
        let accepted_at = incoming.user_property("im-ts").and_then(|ts| ts.parse().ok());
        let (now_ms, planted) = (self.now_ms, self.planted);
        let looks = !matches!(planted, Some(Planted::LateUnlock | Planted::ExpiryByWrongClock));
        let expiry_s = incoming.properties.message_expiry_interval_s.filter(|_| looks);
        let arrival =
            Arrival { payload: &incoming.payload, expires_in_ms: expiry_s.map(|s| u64::from(s) * 1_000) };
        if planted == Some(Planted::ActuatorBeforeJournal)
            && let Ok(command) = serde_json::from_slice::<Command>(&incoming.payload)
            && command.name == LOCK
        {
            // Whatever the journal will say; a repeated one is looked up there first, as the desk does.
            self.act_unless_known(at, &command);
        }
        let rtc_ms = self.devices[at as usize].rtc_ms(self.unix_ms());
        let Some(cab) = self.devices[at as usize].cab.as_mut() else { return Ok(()) };
        if let (Some(desk), Some(accepted_at)) = (&mut cab.desk, accepted_at) {
            desk.clock.at_least(now_ms - desk.booted_ms, accepted_at);
        }
        let Some(moment) = cab.moment(now_ms, rtc_ms, planted) else { return Ok(()) };
        let Some(desk) = &mut cab.desk else { return Ok(()) };
        let taken = desk.desk.take(arrival, &moment, &mut known).map_err(|error| stop(&cab.disk, error))?;
        self.go_on(at, taken, &moment)?;
        self.publish_reports(at).map_err(Stop::Broken)
    }

    fn go_on(&mut self, at: u32, taken: Taken, moment: &Moment) -> Result<(), Stop> {
        let running = match taken {
            Taken::Run(running) => running,
            Taken::Malformed { why } => return Err(Stop::Broken(format!("no command came: {why}"))),
            Taken::Repeated { .. } | Taken::Ended(_) => return Ok(()),
        };
        let Some(cab) = self.devices[at as usize].cab.as_mut() else { return Ok(()) };
        let Some(desk) = &mut cab.desk else { return Ok(()) };
        let looked = desk.desk.last_look(running, moment, &mut known);
        let LastLook::Fire(running) = looked.map_err(|error| stop(&cab.disk, error))? else { return Ok(()) };
        self.fire(at, running, moment)
    }

    fn fire(&mut self, at: u32, running: Running, moment: &Moment) -> Result<(), Stop> {
        let acted_before =
            self.planted == Some(Planted::ActuatorBeforeJournal) && running.command().name == LOCK;
        if !acted_before {
            self.act(at, running.command());
        }
        let Some(cab) = self.devices[at as usize].cab.as_mut() else { return Ok(()) };
        if std::mem::take(&mut cab.cut_after_acting) {
            return Err(Stop::Cut);
        }
        let data = json!({ "lock": if cab.is_open { "open" } else { "closed" } });
        let Some(desk) = &mut cab.desk else { return Ok(()) };
        let ended = desk.desk.end(running, Ok::<Value, String>(data), moment);
        ended.map(drop).map_err(|error| stop(&cab.disk, error))
    }

    fn act_unless_known(&mut self, at: u32, command: &Command) {
        let Some(cab) = self.devices[at as usize].cab.as_ref() else { return };
        let is_known = cab.desk.as_ref().is_some_and(|desk| desk.desk.journal().find(&command.id).is_some());
        if !is_known {
            self.act(at, command);
        }
    }

    /// The actuator fires; the truth is asked whether it may.
    fn act(&mut self, at: u32, command: &Command) {
        let (now_ms, unix_ms) = (self.now_ms, self.unix_ms());
        let number = self.office.orders.number_of(&command.id);
        let device = &mut self.devices[at as usize];
        if let Some(cab) = &mut device.cab {
            cab.is_open = command.name == UNLOCK;
        }
        let act = Act { device: at, number, ride: &device.ride, now_ms, unix_ms };
        self.acts.fired(act, command, &mut self.ledger);
    }

    /// After a restart: what was accepted and not begun goes on, and what the broker has not acknowledged is told again.
    pub(super) fn resume_commands(&mut self, at: u32) -> Result<(), String> {
        let (now_ms, planted) = (self.now_ms, self.planted);
        let rtc_ms = self.devices[at as usize].rtc_ms(self.unix_ms());
        loop {
            let Some(cab) = self.devices[at as usize].cab.as_mut() else { return Ok(()) };
            let Some(moment) = cab.moment(now_ms, rtc_ms, planted) else { return Ok(()) };
            let Some(desk) = &mut cab.desk else { return Ok(()) };
            let resumed = desk.desk.resume(&moment, &mut known).map_err(|error| error.to_string())?;
            let Some(taken) = resumed else { break };
            match self.go_on(at, taken, &moment) {
                Ok(()) => {}
                Err(Stop::Cut) => {
                    self.switch_off(at, OFF_MS);
                    return Ok(());
                }
                Err(Stop::Broken(what)) => return Err(what),
            }
        }
        self.publish_reports(at)
    }

    /// Gives the core what the desk has to say.
    fn publish_reports(&mut self, at: u32) -> Result<(), String> {
        let topic = format!("dev/{}/cmd/result", self.id(at));
        loop {
            let Some(cab) = self.devices[at as usize].cab.as_mut() else { return Ok(()) };
            let Some(desk) = &mut cab.desk else { return Ok(()) };
            let Some(report) = desk.desk.poll_report() else { return Ok(()) };
            let payload = serde_json::to_vec(&report.result).map_err(|error| error.to_string())?;
            let message = Message::new(topic.as_str(), payload).qos(QoS::AtLeastOnce);
            cab.tokens += 1;
            let token = cab.tokens;
            desk.told.insert(token, report);
            self.give_core(at, Input::publish(token, message))?;
        }
    }

    /// The broker has taken a report, or not.
    pub(super) fn report_ended(&mut self, at: u32, token: u64, is_taken: bool) -> Result<(), String> {
        let Some(cab) = self.devices[at as usize].cab.as_mut() else { return Ok(()) };
        let Some(desk) = &mut cab.desk else { return Ok(()) };
        let Some(report) = desk.told.remove(&token).filter(|_| is_taken) else { return Ok(()) };
        match desk.desk.told(&report).map_err(|error| stop(&cab.disk, error)) {
            Ok(()) => Ok(()),
            Err(Stop::Cut) => {
                self.switch_off(at, OFF_MS);
                Ok(())
            }
            Err(Stop::Broken(what)) => Err(what),
        }
    }
}

/// A journal that fails because the power has gone is no bug.
fn stop(disk: &SimDisk, error: JournalError) -> Stop {
    if disk.has_power() { Stop::Broken(error.to_string()) } else { Stop::Cut }
}
