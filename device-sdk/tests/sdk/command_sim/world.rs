//! The true world: time, the truck, what its receiver says, which clock is wrong, when the power goes.

use std::collections::VecDeque;

use device_sdk::clock::{Reading, TimeSource};
use device_sdk::guard::{Area, GuardFix, Position};
use storage::sim::SimDisk;

use super::device::Device;
use super::oracle::{Oracle, Verdict};
use super::sender::{Broker, Sender};
use super::{Planted, SEEDS_TO_FIND};

const YARD: Position = Position { lat: 60.17, lon: 24.94 };
pub(super) const RADIUS_M: f64 = 100.0;
const METRES_A_DEGREE: f64 = 111_195.0;
const STEP_MS: u64 = 250;
/// How long things go wrong.
const ROUGH_MS: u64 = 150_000;
/// How long it may take afterwards until all is told.
const CALM_MS: u64 = 400_000;
const START_UNIX_MS: u64 = 1_800_000_000_000;

/// How rough a seed is: each happens once in so many seconds, or places.
#[derive(Debug)]
struct Rates {
    crash: u32,
    power_cut: u32,
    outage: u32,
    spoof: u32,
    wrong_clock: u32,
    silent_clock_ms: u64,
}

impl Rates {
    fn any(rng: &mut fastrand::Rng) -> Self {
        let mut one_of = |rates: [u32; 3]| rates[rng.usize(0..3)];
        Self {
            crash: one_of([15, 80, 1_000]),
            power_cut: one_of([30, 100, 500]),
            outage: one_of([40, 150, 500]),
            spoof: one_of([30, 100, 500]),
            wrong_clock: one_of([20, 50, 500]),
            silent_clock_ms: u64::from(one_of([1, 20_000, 90_000])),
        }
    }
}

/// The device is gone: what was being done is not done further.
#[derive(Debug)]
pub(super) struct Crash;

/// Where the truck is and goes, metres north of the yard's middle.
#[derive(Debug)]
struct Truck {
    at_m: f64,
    speed_mps: f64,
    to_m: f64,
    dwell_ms: u64,
}

impl Truck {
    fn drive(&mut self, rng: &mut fastrand::Rng) {
        let dt = STEP_MS as f64 / 1_000.0;
        let left_m = (self.to_m - self.at_m).abs();
        if left_m < 0.5 {
            self.speed_mps = 0.0;
            self.dwell_ms = self.dwell_ms.saturating_sub(STEP_MS);
            if self.dwell_ms == 0 {
                self.dwell_ms = rng.u64(10_000..120_000);
                let side = if rng.bool() { 1.0 } else { -1.0 };
                self.to_m = side
                    * match rng.u32(0..10) {
                        0..5 => rng.f64() * 60.0,
                        5..8 => 90.0 + rng.f64() * 30.0,
                        _ => 200.0 + rng.f64() * 300.0,
                    };
            }
            return;
        }
        // It brakes so that it stands where it wants to.
        let may_mps = (2.0 * 0.8 * left_m).sqrt().min(20.0);
        self.speed_mps = (self.speed_mps + 1.2 * dt).min(may_mps);
        self.at_m += (self.to_m - self.at_m).signum() * (self.speed_mps * dt).min(left_m);
    }
}

/// All of it.
pub(super) struct Sim {
    pub(super) rng: fastrand::Rng,
    pub(super) planted: Planted,
    pub(super) now_ms: u64,
    boot_ms: u64,
    /// From when on each clock speaks: a cold start, no network yet.
    speaks_from_ms: [u64; 3],
    drift_ppm: i64,
    truck: Truck,
    outage_ms: u64,
    spoof: Option<(f64, u64)>,
    spoof_pause_ms: u64,
    wrong_clock: Option<(TimeSource, i64, u64)>,
    clock_pause_ms: u64,
    link_up: bool,
    rates: Rates,
    pub(super) is_rough: bool,
    pub(super) disk: SimDisk,
    pub(super) device: Option<Device>,
    pub(super) broker: Broker,
    pub(super) sender: Sender,
    pub(super) oracle: Oracle,
}

impl Sim {
    pub(super) fn run(seed: u64, planted: Planted) -> Verdict {
        let mut rng = fastrand::Rng::with_seed(seed ^ SEEDS_TO_FIND);
        let truck = Truck { at_m: rng.f64() * 200.0 - 100.0, speed_mps: 0.0, to_m: 0.0, dwell_ms: 20_000 };
        let mut sim = Self {
            planted,
            now_ms: START_UNIX_MS + rng.u64(0..1_000),
            boot_ms: START_UNIX_MS - 1_000_000,
            speaks_from_ms: [0; 3],
            drift_ppm: rng.i64(-80..=80),
            truck: Truck { to_m: truck.at_m, ..truck },
            outage_ms: 0,
            spoof: None,
            spoof_pause_ms: 0,
            wrong_clock: None,
            clock_pause_ms: 0,
            link_up: true,
            rates: Rates::any(&mut rng),
            is_rough: true,
            disk: SimDisk::new(seed),
            device: None,
            broker: Broker::default(),
            sender: Sender::new(),
            oracle: Oracle::default(),
            rng,
        };
        sim.boot();
        // Time to learn where and when it is.
        sim.advance(35_000);
        let rough_until = sim.now_ms + ROUGH_MS;
        while sim.now_ms < rough_until {
            sim.second();
        }
        sim.calm();
        sim.oracle.ends()
    }

    fn second(&mut self) {
        self.advance(1_000);
        // People ask when it stands, mostly.
        let asks = if self.truck.speed_mps == 0.0 { 12 } else { 40 };
        if self.rng.u32(0..asks) == 0 {
            let payload = self.sender.command(self.now_ms, &mut self.rng, &mut self.oracle);
            self.broker.accept(payload, self.now_ms, &mut self.rng);
        }
        if self.rng.u32(0..30) == 0 {
            self.link_up = !self.link_up;
        }
        if self.rng.u32(0..self.rates.power_cut) == 0 {
            self.cut_power_soon();
        }
        if let Some(payload) = self.replayed() {
            let _ = self.handle(&payload, None, self.now_ms);
        }
        self.talk();
    }

    /// Nothing goes wrong any more, until everything is told or it takes too long.
    fn calm(&mut self) {
        self.is_rough = false;
        self.link_up = true;
        self.wrong_clock = None;
        self.speaks_from_ms = [0; 3];
        // A cut may still be due.
        self.crash(false);
        let until = self.now_ms + CALM_MS;
        while self.now_ms < until && !(self.broker.is_empty() && self.is_quiet()) {
            self.advance(1_000);
            self.talk();
        }
    }

    fn replayed(&mut self) -> Option<Vec<u8>> {
        let is_due = !self.broker.old.is_empty() && self.rng.u32(0..25) == 0;
        is_due.then(|| self.broker.old[self.rng.usize(0..self.broker.old.len())].clone())
    }

    /// What goes over the link in a second.
    fn talk(&mut self) {
        if !self.link_up {
            return;
        }
        self.publish_reports();
        if self.rng.u32(0..3) > 0 {
            let offered = self.broker.offer(self.now_ms, &mut self.rng);
            if let Some(queued) = offered {
                let _ = self.handle(&queued.payload, Some(queued.number), queued.accepted_ms);
            }
        }
        self.publish_reports();
    }

    /// Lets the true time pass, with the device looking on if it is up.
    pub(super) fn advance(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        while self.now_ms < until {
            let step_ms = (STEP_MS - self.now_ms % STEP_MS).min(until - self.now_ms);
            self.now_ms += step_ms;
            if self.now_ms.is_multiple_of(STEP_MS) {
                self.truck.drive(&mut self.rng);
            }
            if self.now_ms.is_multiple_of(1_000) {
                self.spoil();
                self.receive_fix();
                self.read_clocks();
            }
        }
    }

    pub(super) fn monotonic_ms(&self) -> u64 {
        let elapsed = self.now_ms - self.boot_ms;
        (elapsed as i64 + elapsed as i64 * self.drift_ppm / 1_000_000) as u64
    }

    /// How far inside the fence the truck is in truth.
    pub(super) fn inside_m(&self) -> f64 {
        RADIUS_M - self.truck.at_m.abs()
    }

    pub(super) fn area() -> Area {
        Area::circle(YARD, RADIUS_M).expect("it is a circle")
    }

    /// Once a second: which receiver and which clock is wrong from now on.
    fn spoil(&mut self) {
        self.outage_ms = self.outage_ms.saturating_sub(1_000);
        self.spoof_pause_ms = self.spoof_pause_ms.saturating_sub(1_000);
        self.clock_pause_ms = self.clock_pause_ms.saturating_sub(1_000);
        if self.spoof.is_some_and(|(_, until)| until <= self.now_ms) {
            self.spoof = None;
            self.spoof_pause_ms = 5_000;
        }
        if let Some((source, ..)) = self.wrong_clock.filter(|(.., until)| *until <= self.now_ms) {
            self.wrong_clock = None;
            self.clock_pause_ms = 20_000;
            self.speaks_from_ms[source as usize] = 0;
            self.read_clock(source);
        }
        if !self.is_rough {
            (self.spoof, self.wrong_clock) = (None, None);
            return;
        }
        if self.rng.u32(0..self.rates.outage) == 0 {
            let longest_s = if self.rng.u32(0..4) == 0 { 60 } else { 10 };
            self.outage_ms = self.rng.u64(1..longest_s) * 1_000;
        }
        if self.spoof.is_none() && self.spoof_pause_ms == 0 && self.rng.u32(0..self.rates.spoof) == 0 {
            let to_m = self.rng.f64() * 120.0 - 60.0;
            if (to_m - self.truck.at_m).abs() >= 60.0 {
                self.spoof = Some((to_m, self.now_ms + self.rng.u64(5..=28) * 1_000));
                self.oracle.verdict.spoofs += 1;
            }
        }
        if self.wrong_clock.is_none()
            && self.clock_pause_ms == 0
            && self.rng.u32(0..self.rates.wrong_clock) == 0
        {
            let source = [TimeSource::Gnss, TimeSource::Ntp, TimeSource::Broker][self.rng.usize(0..3)];
            let by_ms = match self.rng.u32(0..4) {
                0 => self.rng.i64(100..5_000),
                1 => self.rng.i64(5_000..120_000),
                2 => self.rng.i64(3_600_000..36_000_000),
                _ => 1024 * 7 * 86_400_000,
            };
            let by_ms = if self.rng.u32(0..4) > 0 { -by_ms } else { by_ms };
            self.wrong_clock = Some((source, by_ms, self.now_ms + self.rng.u64(20..100) * 1_000));
        }
    }

    fn receive_fix(&mut self) {
        let accuracy_m = 3.0 + self.rng.f64() * 5.0;
        let noise_m = (self.rng.f64() * 2.0 - 1.0) * 1.8 * accuracy_m;
        let (north_m, speed_mps) = match self.spoof {
            Some((to_m, _)) => (to_m, 0.0),
            None if self.outage_ms > 0 => return,
            None if self.truck.speed_mps < 0.05 => (self.truck.at_m + noise_m, 0.0),
            None => {
                (self.truck.at_m + noise_m, (self.truck.speed_mps + self.rng.f64() * 0.4 - 0.2).max(0.05))
            }
        };
        let position = Position { lat: YARD.lat + north_m / METRES_A_DEGREE, ..YARD };
        let monotonic_ms = self.monotonic_ms();
        if let Some(device) = &mut self.device {
            device.feed.observe(GuardFix { monotonic_ms, position, accuracy_m, speed_mps: Some(speed_mps) });
        }
    }

    fn read_clocks(&mut self) {
        for source in [TimeSource::Gnss, TimeSource::Ntp, TimeSource::Broker] {
            let speaks = self.speaks_from_ms[source as usize] <= self.now_ms;
            if self.rng.u32(0..4) == 0 && speaks && (source != TimeSource::Broker || self.link_up) {
                self.read_clock(source);
            }
        }
    }

    fn read_clock(&mut self, source: TimeSource) {
        let error_ms = match source {
            TimeSource::Gnss => 50,
            TimeSource::Ntp => 200,
            TimeSource::Broker => self.rng.u64(20..300),
        };
        let off_ms = self.rng.i64(2 - error_ms as i64..=error_ms as i64 - 2);
        let wrong_ms =
            self.wrong_clock.filter(|(wrong, ..)| *wrong == source).map_or(0, |(_, by_ms, _)| by_ms);
        let unix_ms = self.now_ms.saturating_add_signed(off_ms + wrong_ms);
        let reading = Reading { source, monotonic_ms: self.monotonic_ms(), unix_ms, error_ms };
        if let Some(device) = &mut self.device {
            device.read(reading);
        }
    }

    fn cut_power_soon(&mut self) {
        let within = self.rng.u64(1..16);
        self.disk.cut_power(within);
    }

    /// A place where the device may end: by SIGKILL or with the power.
    pub(super) fn crash_point(&mut self) -> Result<(), Crash> {
        if !self.is_rough || self.rng.u32(0..self.rates.crash) > 0 {
            return Ok(());
        }
        let keeps_power = self.rng.bool();
        Err(self.crash(keeps_power))
    }

    /// Ends the device and starts it again after a while.
    pub(super) fn crash(&mut self, keeps_power: bool) -> Crash {
        self.oracle.verdict.crashes += 1;
        self.device = None;
        let mut rng = self.rng.fork();
        self.disk = match self.planted {
            Planted::JournalInMemory => SimDisk::new(rng.u64(..)),
            _ if keeps_power && self.disk.has_power() => self.disk.clone(),
            _ => self.disk.crash(&mut rng),
        };
        let down_ms = self.rng.u64(0..15_000);
        self.advance(down_ms);
        if !keeps_power {
            self.boot_ms = self.now_ms - 1_000;
        }
        if self.is_rough {
            self.speaks_from_ms =
                std::array::from_fn(|_| self.now_ms + self.rng.u64(0..self.rates.silent_clock_ms));
        }
        self.boot();
        Crash
    }

    /// What is still to be told or to be run.
    fn is_quiet(&self) -> bool {
        self.device.as_ref().is_some_and(Device::is_quiet)
    }

    fn publish_reports(&mut self) {
        let Some(device) = &mut self.device else { return };
        let told_when_sent = self.planted == Planted::ToldWhenSent;
        let mut failed = false;
        while let Some(report) = device.desk.poll_report() {
            if told_when_sent {
                failed |= device.desk.told(&report).is_err();
            }
            device.in_flight.push_back(report);
        }
        let mut kept = VecDeque::new();
        let loses = |rng: &mut fastrand::Rng, rough: bool| rough && rng.u32(0..4) == 0;
        let mut is_cut = false;
        for report in std::mem::take(&mut device.in_flight) {
            // What is sent is sent in order: behind one that was lost nothing arrives.
            is_cut |= loses(&mut self.rng, self.is_rough);
            if is_cut {
                kept.push_back(report);
                continue;
            }
            self.broker.publish(&report);
            if loses(&mut self.rng, self.is_rough) {
                kept.push_back(report);
            } else if !told_when_sent {
                failed |= device.desk.told(&report).is_err();
            }
        }
        device.in_flight = kept;
        let results: Vec<_> = self.broker.results().collect();
        results.into_iter().for_each(|result| self.oracle.hears(result));
        if failed {
            self.crash(false);
        } else if self.rng.u32(0..5) == 0 {
            let _ = self.crash_point();
        }
    }
}
