//! A fleet on virtual time: one thread, no clock, no socket, no file; the same seed gives the same run.
//!
//! Each device is the SDK's own state machine ([`device_sdk::client::Core`]) with a simulated flash, clock, receiver, lock and
//! link; the broker is whatever fills the [`Broker`] port, in the binary the real engine. Everything that happens stands in
//! one queue by time (`events`). The [`Ledger`] holds every record against what arrives at the office.

mod broker;
mod commands;
mod device;
mod events;
mod flash;
mod link;
mod office;
mod probes;
mod trouble;
mod update;

use std::collections::{BTreeSet, VecDeque};

use device_sdk::client::{Input, Packet};

pub use crate::outcome::{Generator, Outcome, Stats};
pub use crate::ride::RideError;
pub use broker::{Broker, FromBroker, Moment, ToBroker};

use crate::acts::Acts;
use crate::ledger::{Counts, Ledger, mix};
use crate::outcome::Evidence;
use crate::planted::Planted;
use crate::ride;
use crate::route::Route;
use crate::scenario::timetable::{self, Happening};
use crate::scenario::{Links, Scenario};
use device::Device;
use events::{Event, Events};
use link::{Sent, Way};
use office::Office;
use update::{Releases, Slots};

/// How long a run goes on after everything has ended, to see what comes twice, milliseconds.
const WATCH_AFTER_MS: u64 = 30_000;
/// Tells the chance of the slots' flash from that of the device.
const SLOTS: u64 = 0x534c_4f54_5300;
/// The name of a device is this and its number.
pub(crate) const PREFIX: &str = "truck-";

/// What is run.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// What happens.
    pub scenario: &'a Scenario,
    /// Where trucks drive.
    pub routes: &'a [Route],
    /// Where all chance comes from.
    pub seed: u64,
    /// Test only: a mistake of the firmware, so that the harness can show that it finds it.
    #[doc(hidden)]
    pub planted: Option<Planted>,
}

impl<'a> Run<'a> {
    /// Makes a run without mistakes on purpose.
    pub fn new(scenario: &'a Scenario, routes: &'a [Route], seed: u64) -> Run<'a> {
        Run { scenario, routes, seed, planted: None }
    }
}

/// How far a run is, told once a simulated second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Simulated seconds since the start.
    pub second: u64,
    /// The last second it may take.
    pub end_s: u64,
    /// Records so far.
    pub counts: Counts,
}

/// Why a run did not come to a verdict.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// The trucks cannot drive.
    #[error(transparent)]
    Ride(#[from] RideError),
    /// The broker or a device cannot go on.
    #[error("at {second} s: {what}")]
    Broken {
        /// When, simulated seconds after the start.
        second: u64,
        /// What happened.
        what: String,
    },
}

/// Everything of a run.
struct World<'a> {
    scenario: &'a Scenario,
    planted: Option<Planted>,
    now_ms: u64,
    events: Events,
    timetable: Vec<(u64, Happening)>,
    /// As they are now.
    links: Links,
    releases: Releases,
    devices: Vec<Device>,
    office: Office,
    broker: &'a mut dyn Broker,
    broker_up: bool,
    broker_inbox: VecDeque<ToBroker>,
    is_serving: bool,
    commit_at_ms: Option<u64>,
    timer_at_ms: Option<u64>,
    /// Connections taken in this second, and which second that is.
    taken: (u64, u64),
    ledger: Ledger,
    stats: Stats,
    acts: Acts,
    arrived: BTreeSet<u32>,
    settled_at_ms: Option<u64>,
}

/// The number of a device's connection at the broker.
fn conn_of(at: u32, link: u32) -> u64 {
    (u64::from(link) << 32) | (u64::from(at) + 1)
}

/// The number of the office's connection.
fn office_conn(link: u32) -> u64 {
    u64::from(link) << 32
}

/// Runs a scenario with this broker to its verdict; `tell` is called once a simulated second.
///
/// # Errors
/// The trucks cannot drive, or the broker or the SDK cannot go on.
pub fn run(
    run: Run<'_>,
    broker: &mut dyn Broker,
    mut tell: impl FnMut(Progress),
) -> Result<Outcome, WorldError> {
    let scenario = run.scenario;
    let rides = ride::rides(scenario, run.routes, run.seed)?;
    let broken = |second: u64, what: String| WorldError::Broken { second, what };
    let devices = rides.into_iter().zip(1u64..);
    let devices = devices.map(|(ride, number)| Device::new(scenario, ride, mix(run.seed, number))).collect();
    let mut world = World {
        scenario,
        planted: run.planted,
        now_ms: 0,
        events: Events::default(),
        timetable: timetable::timetable(scenario, run.seed),
        links: scenario.link.clone(),
        releases: Releases::new(scenario, run.planted).map_err(|what| broken(0, what))?,
        devices,
        office: Office::new(&scenario.expect).map_err(|what| broken(0, what))?,
        broker,
        broker_up: true,
        broker_inbox: VecDeque::new(),
        is_serving: false,
        commit_at_ms: None,
        timer_at_ms: None,
        taken: (0, 0),
        ledger: Ledger::of(&scenario.fleet),
        stats: Stats::default(),
        acts: Acts::default(),
        arrived: BTreeSet::new(),
        settled_at_ms: None,
    };
    if !scenario.updates.is_empty() {
        for (device, number) in world.devices.iter_mut().zip(1u64..) {
            let slots = Slots::new(&world.releases, mix(run.seed ^ SLOTS, number));
            device.slots = Some(Box::new(slots.map_err(|what| broken(0, what))?));
        }
    }
    world.begin(run.seed);
    while let Some((ms, event)) = world.events.next(scenario.end_ms()) {
        world.now_ms = ms;
        let second = ms / 1_000;
        if event == Event::Tell {
            tell(Progress { second, end_s: scenario.end_ms() / 1_000, counts: world.ledger.counts() });
            if world.has_settled() {
                break;
            }
        }
        world.take(event).map_err(|what| broken(second, what))?;
    }
    Ok(world.end(run.seed))
}

impl World<'_> {
    /// Puts what is certain into the queue.
    fn begin(&mut self, seed: u64) {
        self.events.at(0, Event::OfficeDials);
        for (device, at_ms) in (0u32..).zip(timetable::boots_ms(self.scenario, seed)) {
            self.events.at(at_ms, Event::Boot { device });
        }
        for (index, (ms, _)) in (0u32..).zip(&self.timetable) {
            self.events.at(*ms, Event::Happens { index });
        }
        self.events.at(1_000, Event::Tell);
    }

    fn take(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Boot { device } => self.boot(device),
            Event::Second { device, boot } => self.second(device, boot),
            Event::Dial { device, boot } => {
                self.dial(device, boot);
                Ok(())
            }
            Event::Opened { device, link } => self.opened(device, link),
            Event::Up { device, link } => self.up(device, link),
            Event::Down { device, link } => self.down(device, link),
            Event::Ended { device, link } => self.ended(device, link),
            Event::Gone { conn } => self.tell_broker(ToBroker::Closed { conn }),
            Event::Commit => self.commit(),
            Event::Timer => self.timer(),
            Event::BrokerUp => self.broker_returns(),
            Event::OfficeDials => self.office_dials(),
            Event::Happens { index } => self.happens(index),
            Event::Tell => {
                self.events.at(self.now_ms + 1_000, Event::Tell);
                Ok(())
            }
        }
    }

    /// Whether everything has ended, and long enough ago.
    fn has_settled(&mut self) -> bool {
        if self.now_ms <= self.scenario.duration_s * 1_000 {
            return false;
        }
        let is_settled = self.office.orders.is_settled() && self.updates_are_settled();
        if self.ledger.open() > 0 || !is_settled {
            self.settled_at_ms = None;
            return false;
        }
        let settled_at_ms = *self.settled_at_ms.get_or_insert(self.now_ms);
        self.now_ms >= settled_at_ms + WATCH_AFTER_MS
    }

    fn id(&self, at: u32) -> String {
        format!("{PREFIX}{}", at + 1)
    }

    fn place_of(&self, id: &str) -> Option<u32> {
        let number: u32 = id.strip_prefix(PREFIX)?.parse().ok()?;
        number.checked_sub(1).filter(|at| *at < self.scenario.fleet.devices)
    }

    /// The true time, milliseconds since the Unix epoch.
    fn unix_ms(&self) -> u64 {
        self.scenario.start_unix_s * 1_000 + self.now_ms
    }

    fn moment(&self) -> Moment {
        Moment { run_ms: self.now_ms, unix_ms: self.unix_ms() }
    }

    /// Whether the broker takes one more connection in this second.
    fn takes_connection(&mut self) -> bool {
        let most = self.scenario.broker.connects_per_s;
        let second = self.now_ms / 1_000;
        if self.taken.0 != second {
            self.taken = (second, 0);
        }
        self.taken.1 += 1;
        most == 0 || self.taken.1 <= most
    }

    /// A packet of a device reaches the broker.
    fn up(&mut self, at: u32, number: u32) -> Result<(), String> {
        let link = self.devices[at as usize].link_of(number);
        match link.and_then(|link| link.arrive(Way::Up)) {
            Some(packet) => self.give_broker(conn_of(at, number), packet),
            None => Ok(()),
        }
    }

    fn give_broker(&mut self, conn: u64, packet: Packet) -> Result<(), String> {
        self.tell_broker(ToBroker::Packet { conn, packet })
    }

    fn queue_for_broker(&mut self, conn: u64, packet: Packet) {
        if self.broker_up {
            self.broker_inbox.push_back(ToBroker::Packet { conn, packet });
        }
    }

    fn tell_broker(&mut self, input: ToBroker) -> Result<(), String> {
        if self.broker_up {
            self.broker_inbox.push_back(input);
        }
        self.serve_broker()
    }

    /// Gives the broker what has come, and the others what it sends.
    fn serve_broker(&mut self) -> Result<(), String> {
        if std::mem::replace(&mut self.is_serving, true) {
            // Who is serving goes on until nothing is left.
            return Ok(());
        }
        let served = self.serve();
        self.is_serving = false;
        served
    }

    fn serve(&mut self) -> Result<(), String> {
        while let Some(input) = self.broker_inbox.pop_front() {
            let now = self.moment();
            self.broker.handle(now, input)?;
            while let Some(output) = self.broker.poll() {
                self.take_from_broker(output)?;
            }
        }
        if !self.broker_up {
            return Ok(());
        }
        if self.commit_at_ms.is_none() && self.broker.waits_for_commit() {
            let at_ms = self.now_ms + self.scenario.broker.commit_ms;
            self.commit_at_ms = Some(at_ms);
            self.events.at(at_ms, Event::Commit);
        }
        if let Some(due_ms) = self.broker.next_deadline_ms().map(|due_ms| due_ms.max(self.now_ms))
            && self.timer_at_ms.is_none_or(|at_ms| due_ms < at_ms)
        {
            self.timer_at_ms = Some(due_ms);
            self.events.at(due_ms, Event::Timer);
        }
        Ok(())
    }

    fn take_from_broker(&mut self, output: FromBroker) -> Result<(), String> {
        match output {
            FromBroker::Send { conn, packet } if World::is_office(conn) => {
                if conn == office_conn(self.office_link()) {
                    self.office_input(Input::Received(packet))?;
                }
            }
            FromBroker::Close { conn } if World::is_office(conn) => {
                if conn == office_conn(self.office_link()) {
                    self.office_ended()?;
                }
            }
            FromBroker::Send { conn, packet } => self.send_down(conn, packet),
            FromBroker::Close { conn } => self.close_down(conn),
        }
        Ok(())
    }

    fn send_down(&mut self, conn: u64, packet: Packet) {
        let (at, number) = ((conn & 0xffff_ffff) as u32 - 1, (conn >> 32) as u32);
        let (now_ms, links) = (self.now_ms, &self.links);
        let device = &mut self.devices[at as usize];
        let no_signal_until_ms = device.no_signal_until_ms;
        let Some((link, chance)) = device.link_and_chance(number) else { return };
        match link.send(Way::Down, packet, now_ms, no_signal_until_ms, links, chance) {
            Sent::ArrivesAt(ms) => self.events.at(ms, Event::Down { device: at, link: number }),
            Sent::Vanished => {}
            Sent::Reset => self.events.at(now_ms + 2 * links.delay_ms, Event::Gone { conn }),
        }
    }

    /// The broker has closed a connection: the device sees it after all that was sent before.
    fn close_down(&mut self, conn: u64) {
        let (at, number) = ((conn & 0xffff_ffff) as u32 - 1, (conn >> 32) as u32);
        let (now_ms, delay_ms) = (self.now_ms, self.links.delay_ms);
        let device = &mut self.devices[at as usize];
        let no_signal_until_ms = device.no_signal_until_ms;
        if let Some(link) = device.link_of(number).filter(|link| !link.is_dead()) {
            let at_ms = link.down_done_ms(now_ms).max(no_signal_until_ms) + delay_ms;
            self.events.at(at_ms, Event::Ended { device: at, link: number });
        }
    }

    fn commit(&mut self) -> Result<(), String> {
        if self.commit_at_ms.take_if(|at_ms| *at_ms <= self.now_ms).is_none() {
            return Ok(());
        }
        self.tell_broker(ToBroker::Commit)
    }

    fn timer(&mut self) -> Result<(), String> {
        if self.timer_at_ms.take_if(|at_ms| *at_ms <= self.now_ms).is_none() {
            return Ok(());
        }
        self.tell_broker(ToBroker::Timer)
    }

    fn broker_returns(&mut self) -> Result<(), String> {
        let now = self.moment();
        self.broker.power_cut(now)?;
        self.broker_up = true;
        while let Some(output) = self.broker.poll() {
            self.take_from_broker(output)?;
        }
        self.office_dials()?;
        self.serve_broker()
    }

    fn office_link(&self) -> u32 {
        self.office.links()
    }

    fn end(mut self, seed: u64) -> Outcome {
        self.find_wrong_releases();
        self.stats.deviations = self.office.watch.deviations;
        self.stats.refusals = self.office.orders.refusals;
        self.stats.arrivals = self.arrived.len() as u64;
        self.stats.unlocks = self.acts.unlocks;
        let devices = self.devices.len().max(1);
        let bytes: usize = self.devices.iter().map(Device::memory_bytes).sum();
        let evidence = Evidence {
            seed,
            expect: &self.scenario.expect,
            devices: self.scenario.fleet.devices,
            now_ms: self.now_ms,
            ledger: self.ledger,
            stats: self.stats,
            orders: &self.office.orders,
        };
        let broker_bytes = self.broker.memory_bytes();
        Outcome { bytes_per_device: (bytes / devices) as u64, broker_bytes, ..evidence.verdict() }
    }
}
