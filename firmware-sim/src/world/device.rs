//! A simulated device: the SDK's state machine, a flash, a clock, a receiver and a lock, and the firmware that joins them.

use device_sdk::client::{Core, Input, Output, Packet};
use device_sdk::heartbeat::{AdaptiveKeepalive, KnownNetwork, ProbeOutcome};
use device_sdk::{Backoff, Options, QoS, StartError};
use tracks::Fix;

use super::commands::{Cab, OFF_MS, REPORT_TOKENS};
use super::events::Event;
use super::flash::{Flash, Halt, RESTART_MS};
use super::link::{Link, Sent, Way};
use super::probes::{self, Learning};
use super::update::Slots;
use super::{World, conn_of};
use crate::gps::{FIRMWARE_MADE_MS, Receiver, ReceiverOptions, unrolled_ms};
use crate::ledger::Wrong;
use crate::payload;
use crate::planted::Planted;
use crate::ride::Ride;
use crate::scenario::{OutageMode, Scenario};

/// How long a session lasts without its device, seconds.
const SESSION_EXPIRY_S: u32 = 14 * 24 * 3_600;
/// How long a device waits for a connection to open, and for CONNACK, milliseconds.
const CONNECT_TIMEOUT_MS: u64 = 10_000;
/// Messages on their way at a time.
const IN_FLIGHT_MAX: u16 = 64;
/// Longest silence of a device that pings though it never should, seconds.
const NO_PINGS_S: u16 = 20_000;
/// What the payload of a record may be off by in time, milliseconds.
const TS_SLACK_MS: i64 = 2_000;

/// A device.
pub(super) struct Device {
    /// `None` while it has no power.
    pub(super) core: Option<Box<Core>>,
    pub(super) link: Option<Box<Link>>,
    pub(super) flash: Flash,
    /// What its heartbeat has learned, if it learns.
    pub(super) learning: Option<Box<Learning>>,
    /// What its firmware starts from, if updates are to come.
    pub(super) slots: Option<Box<Slots>>,
    /// What carries commands out, if any are to come.
    pub(super) cab: Option<Box<Cab>>,
    pub(super) ride: Ride,
    receiver: Receiver,
    pub(super) chance: fastrand::Rng,
    /// Counts its lives, to tell events of an earlier one.
    pub(super) boot: u32,
    links: u32,
    pause_ms: u64,
    is_connected: bool,
    pub(super) no_signal_until_ms: u64,
    pub(super) refused_until_ms: u64,
    pub(super) no_fix_until_ms: u64,
    /// How far the clock that it has without any fix is ahead of the truth.
    ahead_ms: i64,
}

impl Device {
    pub(super) fn new(scenario: &Scenario, ride: Ride, seed: u64) -> Device {
        let mut chance = fastrand::Rng::with_seed(seed);
        let disk_seed = chance.u64(..);
        let flash_seed = chance.u64(..);
        let has_commands = !scenario.commands.is_empty();
        let cab = has_commands.then(|| Cab::new(&ride.journey.fence, disk_seed)).flatten().map(Box::new);
        Device {
            core: None,
            link: None,
            flash: Flash::new(flash_seed),
            learning: None,
            slots: None,
            cab,
            ride,
            receiver: Receiver::new(ReceiverOptions::of(&scenario.gps), chance.u64(..)),
            chance,
            boot: 0,
            links: 0,
            pause_ms: 0,
            is_connected: false,
            no_signal_until_ms: 0,
            refused_until_ms: 0,
            no_fix_until_ms: 0,
            ahead_ms: 0,
        }
    }

    /// What its clock says that nobody has set, milliseconds since the Unix epoch.
    pub(super) fn rtc_ms(&self, true_unix_ms: u64) -> i64 {
        i64::try_from(true_unix_ms).unwrap_or(i64::MAX).saturating_add(self.ahead_ms)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.is_connected
    }

    /// The number of its next connection.
    pub(super) fn next_link(&mut self) -> u32 {
        self.links += 1;
        self.links
    }

    pub(super) fn lose_receiver(&mut self) {
        self.receiver.switch_off();
    }

    /// Bytes that it takes in memory, about; without what the SDK's core has on the heap.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Device>()
            + self.core.as_ref().map_or(0, |_| size_of::<Core>())
            + self.link.as_ref().map_or(0, |_| size_of::<Link>())
            + usize::try_from(self.flash.used_bytes()).unwrap_or(usize::MAX)
    }
}

/// The options of a device's client.
pub(super) fn options(scenario: &Scenario, id: &str, planted: Option<Planted>) -> Options {
    let has_no_pings = planted == Some(Planted::NoPings);
    let keep_alive_s = if has_no_pings { NO_PINGS_S } else { scenario.fleet.keep_alive_s };
    let is_adaptive = scenario.fleet.adaptive_keep_alive && !has_no_pings;
    Options {
        session_expiry_s: SESSION_EXPIRY_S,
        keep_alive_s,
        adaptive_keepalive: is_adaptive.then(AdaptiveKeepalive::default),
        manual_ack: true,
        inflight_max: IN_FLIGHT_MAX,
        connect_timeout_ms: CONNECT_TIMEOUT_MS,
        ..Options::new("virtual:1883", id)
    }
}

/// The core of a device as it is after being switched on.
fn core(
    scenario: &Scenario,
    id: &str,
    known: Vec<KnownNetwork>,
    planted: Option<Planted>,
) -> Result<Core, StartError> {
    let mut core = probes::core(&options(scenario, id, planted), known)?;
    if !scenario.commands.is_empty() {
        core.handle_input(0, Input::subscribe(u64::MAX, &format!("dev/{id}/cmd"), QoS::AtLeastOnce));
    }
    if !scenario.updates.is_empty() {
        core.handle_input(0, Input::subscribe(u64::MAX - 1, &format!("dev/{id}/update"), QoS::AtLeastOnce));
    }
    Ok(core)
}

impl World<'_> {
    pub(super) fn boot(&mut self, at: u32) -> Result<(), String> {
        let id = self.id(at);
        let wrong_s = self.scenario.clocks.iter().filter(|clock| clock.devices.contains(at + 1));
        let ahead_ms = wrong_s.map(|clock| clock.ahead_s * 1_000).next_back().unwrap_or(0);
        let known = self.devices[at as usize].known();
        let core = core(self.scenario, &id, known, self.planted).map_err(|error| error.to_string())?;
        if self.devices[at as usize].core.is_some() {
            return Ok(());
        }
        let is_started = self.start_release(at)?;
        let device = &mut self.devices[at as usize];
        if !is_started {
            if let Some(slots) = &mut device.slots {
                slots.power_cut(&mut device.chance);
            }
            self.events.at(self.now_ms + OFF_MS, Event::Boot { device: at });
            return Ok(());
        }
        let options = payload::queue(&self.scenario.fleet, "/");
        match device.flash.boot(self.now_ms, &options, self.planted, &mut device.chance) {
            Ok(()) => {}
            Err(halt) => {
                device.flash.power_cut(&mut device.chance);
                if let Some(slots) = &mut device.slots {
                    slots.power_cut(&mut device.chance);
                }
                let after_ms = if matches!(halt, Halt::Cut) { OFF_MS } else { RESTART_MS };
                self.events.at(self.now_ms + after_ms, Event::Boot { device: at });
                return Ok(());
            }
        }
        device.core = Some(Box::new(core));
        device.boot += 1;
        (device.pause_ms, device.is_connected) = (0, false);
        device.ahead_ms = ahead_ms;
        device.lose_receiver();
        if let Some(cab) = &mut device.cab {
            cab.boot(&id, self.now_ms, self.planted)
                .map_err(|error| format!("device {}: {error}", at + 1))?;
        }
        let boot = device.boot;
        // Seconds of life are whole seconds of the run, so that records lie where they are meant.
        let second_ms = self.now_ms.next_multiple_of(1_000);
        self.events.at(second_ms, Event::Second { device: at, boot });
        self.events.at(self.now_ms, Event::Dial { device: at, boot });
        self.resume_commands(at)
    }

    /// The power of a device goes.
    pub(super) fn switch_off(&mut self, at: u32, off_ms: u64) {
        let (planted, now_ms) = (self.planted, self.now_ms);
        let device = &mut self.devices[at as usize];
        if device.core.take().is_none() {
            return;
        }
        device.boot += 1;
        // Nobody tells the broker; what had left may still reach it.
        let has_signal = now_ms >= device.no_signal_until_ms;
        let link = device.link.take().filter(|link| !link.is_dead() && has_signal);
        let left = link.filter(|_| device.chance.bool()).map(|mut link| (link.number, link.rest_up()));
        device.flash.power_cut(&mut device.chance);
        if let Some(learning) = &mut device.learning {
            learning.probes.clear();
        }
        if let Some(slots) = &mut device.slots {
            slots.power_cut(&mut device.chance);
        }
        if let Some(cab) = &mut device.cab {
            cab.power_cut(planted, &mut device.chance);
        }
        if let Some((number, packets)) = left {
            for packet in packets {
                self.queue_for_broker(conn_of(at, number), packet);
            }
        }
        self.stats.power_cuts += 1;
        self.events.at(now_ms + off_ms, Event::Boot { device: at });
    }

    /// A second of a device's life: a fix, a record, timers of the SDK.
    pub(super) fn second(&mut self, at: u32, boot: u32) -> Result<(), String> {
        if self.devices[at as usize].boot != boot {
            return Ok(());
        }
        let now_ms = self.now_ms;
        if now_ms < self.scenario.end_ms() {
            self.events.at(now_ms + 1_000, Event::Second { device: at, boot });
        }
        let fix = self.observe(at);
        let records = now_ms <= self.scenario.duration_s * 1_000;
        if let Some(fix) =
            fix.filter(|_| records && now_ms.is_multiple_of(self.scenario.fleet.record_every_ms))
        {
            self.record(at, &fix);
        }
        let core = self.devices[at as usize].core.as_mut();
        if core.is_some_and(|core| core.next_deadline_ms().is_some_and(|due_ms| due_ms <= now_ms)) {
            self.give_core(at, Input::Tick)?;
        }
        self.tick_probes(at)?;
        if !self.update(at)? {
            return Ok(());
        }
        self.cut_by_chance(at)?;
        self.pump(at)
    }

    /// What the receiver says now; the clock and the lock are told.
    fn observe(&mut self, at: u32) -> Option<Fix> {
        let (true_unix_ms, now_ms) = (self.unix_ms(), self.now_ms);
        let (planted, scenario) = (self.planted, self.scenario);
        let device = &mut self.devices[at as usize];
        let truth = device.ride.signal(scenario, at + 1, now_ms);
        let mut fix = None;
        if now_ms >= device.no_fix_until_ms {
            fix = device.receiver.observe(i64::try_from(true_unix_ms).unwrap_or(i64::MAX), &truth);
        }
        if let Some(fix) = &mut fix
            && planted != Some(Planted::WeekNotUnrolled)
        {
            fix.ts_ms = unrolled_ms(fix.ts_ms, FIRMWARE_MADE_MS);
        }
        if let Some(cab) = &mut device.cab {
            cab.observe(now_ms, fix.as_ref(), planted);
        }
        let arrived = device.ride.has_arrived(now_ms / 1_000);
        if arrived && scenario.expect.arrivals_min.is_some() {
            self.arrived.insert(at);
        }
        fix
    }

    fn record(&mut self, at: u32, fix: &Fix) {
        let number = self.ledger.next_number(at);
        let payload = payload::written(number, fix);
        let now_ms = self.now_ms;
        self.ledger.made(at, now_ms, &payload);
        let off_ms = fix.ts_ms - i64::try_from(self.unix_ms()).unwrap_or(i64::MAX);
        if off_ms.abs() > TS_SLACK_MS {
            let what = format!("its time is {} s off", off_ms / 1_000);
            self.ledger.wrong(Wrong::WrongTime, at, number, what);
        }
        self.keep(at, number, payload);
    }

    /// A link is cut by chance, as often as the scenario says.
    fn cut_by_chance(&mut self, at: u32) -> Result<(), String> {
        let links = &self.links;
        let (share, mode) = (links.cuts_per_hour / 3_600.0, links.cut);
        let is_trouble = self.now_ms < self.scenario.duration_s * 1_000;
        let device = &mut self.devices[at as usize];
        if share > 0.0 && is_trouble && device.link.is_some() && device.chance.f64() < share {
            self.cut(at, mode);
        }
        Ok(())
    }

    /// Ends a device's connection.
    pub(super) fn cut(&mut self, at: u32, mode: OutageMode) {
        let now_ms = self.now_ms;
        let Some(link) = self.devices[at as usize].link.as_mut() else { return };
        link.kill(mode);
        if mode == OutageMode::Reset {
            let number = link.number;
            self.events.at(now_ms + 1, Event::Ended { device: at, link: number });
            self.events.at(now_ms + 1, Event::Gone { conn: conn_of(at, number) });
        }
    }

    pub(super) fn dial(&mut self, at: u32, boot: u32) {
        let (now_ms, delay_ms) = (self.now_ms, self.links.delay_ms);
        let device = &mut self.devices[at as usize];
        if device.boot != boot || device.link.is_some() || device.core.is_none() {
            return;
        }
        self.stats.dialled(now_ms);
        let has_signal = now_ms >= device.no_signal_until_ms && now_ms >= device.refused_until_ms;
        let is_taken = has_signal && self.broker_up && self.takes_connection();
        let device = &mut self.devices[at as usize];
        if !is_taken {
            // No answer takes the whole time, a refusal a round trip.
            let after_ms = if has_signal { 2 * delay_ms } else { CONNECT_TIMEOUT_MS };
            return self.dial_again(at, after_ms);
        }
        let link = device.next_link();
        device.link = Some(Box::new(Link::new(link, now_ms)));
        self.events.at(now_ms + 2 * delay_ms + 1, Event::Opened { device: at, link });
    }

    fn dial_again(&mut self, at: u32, after_ms: u64) {
        let fleet = &self.scenario.fleet;
        let backoff = Backoff { min_ms: fleet.backoff_min_ms, max_ms: fleet.backoff_max_ms };
        let (now_ms, planted) = (self.now_ms, self.planted);
        let device = &mut self.devices[at as usize];
        device.pause_ms = match planted {
            Some(Planted::NoBackoff) => 10,
            _ => backoff.next_ms(device.pause_ms, device.chance.u64(..)),
        };
        let boot = device.boot;
        self.events.at(now_ms + after_ms + device.pause_ms, Event::Dial { device: at, boot });
    }

    pub(super) fn opened(&mut self, at: u32, number: u32) -> Result<(), String> {
        let device = &mut self.devices[at as usize];
        match device.link_of(number) {
            Some(link) => link.is_open = true,
            None => return Ok(()),
        }
        if device.is_probe(number) {
            return self.give_probe(at, number, Input::Opened);
        }
        self.give_core(at, Input::Opened)
    }

    /// A packet reaches the device.
    pub(super) fn down(&mut self, at: u32, number: u32) -> Result<(), String> {
        if self.devices[at as usize].is_probe(number) {
            return self.probe_hears(at, number);
        }
        let link = self.devices[at as usize].link.as_mut().filter(|link| link.number == number);
        match link.and_then(|link| link.arrive(Way::Down)) {
            Some(packet) => {
                self.give_core(at, Input::Received(packet))?;
                self.pump(at)
            }
            None => Ok(()),
        }
    }

    /// The device is told that its connection is gone.
    pub(super) fn ended(&mut self, at: u32, number: u32) -> Result<(), String> {
        let device = &mut self.devices[at as usize];
        if device.is_probe(number) {
            return self.end_probe(at, number, Some(ProbeOutcome::Broken));
        }
        if device.link.as_ref().is_none_or(|link| link.number != number) {
            return Ok(());
        }
        device.link = None;
        self.give_core(at, Input::Reset { why: "reset by peer".to_owned() })?;
        self.is_off_line(at)
    }

    /// The device has no connection any more, whoever ended it.
    fn is_off_line(&mut self, at: u32) -> Result<(), String> {
        let device = &mut self.devices[at as usize];
        device.flash.set_online(false);
        if std::mem::take(&mut device.is_connected) {
            self.stats.link_drops += 1;
            device.pause_ms = 0;
        }
        if self.planted == Some(Planted::LostOnReconnect) {
            let id = self.id(at);
            let known = self.devices[at as usize].known();
            let core = core(self.scenario, &id, known, self.planted).map_err(|error| error.to_string())?;
            let device = &mut self.devices[at as usize];
            device.flash.forget_sent(self.now_ms);
            device.core = Some(Box::new(core));
        }
        self.dial_again(at, 0);
        Ok(())
    }

    pub(super) fn give_core(&mut self, at: u32, input: Input) -> Result<(), String> {
        let now_ms = self.now_ms;
        let Some(core) = self.devices[at as usize].core.as_mut() else { return Ok(()) };
        core.handle_input(now_ms, input);
        while let Some(output) = self.devices[at as usize].core.as_mut().and_then(|core| core.poll_output()) {
            self.take_from_core(at, output)?;
        }
        Ok(())
    }

    fn take_from_core(&mut self, at: u32, output: Output) -> Result<(), String> {
        match output {
            Output::Send(packet) => {
                let is_counted = self.now_ms <= self.scenario.duration_s * 1_000;
                self.stats.pings += u64::from(is_counted && packet == Packet::PingReq);
                if let Some(link) = self.devices[at as usize].link.as_ref().map(|link| link.number) {
                    self.send_up(at, link, packet);
                }
            }
            Output::Close { .. } => {
                let now_ms = self.now_ms;
                let device = &mut self.devices[at as usize];
                if let Some(mut link) = device.link.take() {
                    let conn = conn_of(at, link.number);
                    if !link.is_dead() && now_ms >= device.no_signal_until_ms {
                        for packet in link.rest_up() {
                            self.give_broker(conn, packet)?;
                        }
                        self.events.at(now_ms, Event::Gone { conn });
                    }
                    self.is_off_line(at)?;
                }
            }
            Output::Connected { .. } => {
                let device = &mut self.devices[at as usize];
                (device.is_connected, device.pause_ms) = (true, 0);
                device.flash.set_online(true);
                self.stats.connects += 1;
            }
            Output::Message(incoming) => self.device_hears(at, incoming)?,
            Output::Published { token, result } if token >= REPORT_TOKENS => {
                self.report_ended(at, token, result.is_ok())?;
            }
            Output::Published { token, result } => {
                self.devices[at as usize].flash.ended(self.now_ms, token, result.is_ok());
            }
            Output::SubscriptionRefused { reason, .. } => {
                return Err(format!("device {}: its subscription was refused: {reason:?}", at + 1));
            }
            Output::Heartbeat(action) => self.take_from_heartbeat(at, action)?,
            Output::ReconnectAtOnce => {
                let boot = self.devices[at as usize].boot;
                self.events.at(self.now_ms, Event::Dial { device: at, boot });
            }
            // Nothing asks for identifiers to be kept.
            Output::Keep(_) | Output::Forget(_) => {}
            Output::Refused { .. } | Output::Answered { .. } | Output::Referred { .. } => {}
        }
        Ok(())
    }

    /// Sends a packet on one of a device's connections.
    pub(super) fn send_up(&mut self, at: u32, number: u32, packet: Packet) {
        let (now_ms, links) = (self.now_ms, &self.links);
        let device = &mut self.devices[at as usize];
        let no_signal_until_ms = device.no_signal_until_ms;
        let Some((link, chance)) = device.link_and_chance(number) else { return };
        match link.send(Way::Up, packet, now_ms, no_signal_until_ms, links, chance) {
            Sent::ArrivesAt(ms) => self.events.at(ms, Event::Up { device: at, link: number }),
            Sent::Vanished => {}
            Sent::Reset => {
                self.events.at(now_ms + 2 * links.delay_ms, Event::Ended { device: at, link: number })
            }
        }
    }
}
