//! When what of a scenario happens.

use tracks::LatLon;
use tracks::geodesy::Plane;

use super::commands::STEPS;
use super::device::COLD_AFTER_MS;
use super::events::Event;
use super::{World, office_conn};
use crate::scenario::trouble::repeated_ms;
use crate::scenario::{OutageMode, Scenario};

/// One entry of the timetable; numbers are places in the scenario's lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Happening {
    Outage(usize),
    Tunnel(usize),
    PowerCut(usize),
    BrokerPowerCut(usize),
    FlashFails(usize),
    FlashWorks(usize),
    Command { index: usize, round: u64, copy: u32 },
}

/// Everything that happens by the clock, with its time.
pub(super) fn timetable(scenario: &Scenario) -> Vec<(u64, Happening)> {
    let end_s = scenario.duration_s;
    let mut all = Vec::new();
    for (index, outage) in scenario.outages.iter().enumerate() {
        all.push((outage.at_s * 1_000, Happening::Outage(index)));
    }
    for (index, tunnel) in scenario.tunnels.iter().enumerate() {
        all.push((tunnel.at_s * 1_000, Happening::Tunnel(index)));
    }
    for (index, cut) in scenario.power_cuts.iter().enumerate() {
        let times = repeated_ms(cut.at_s, cut.every_s, cut.until_s.unwrap_or(end_s).min(end_s));
        all.extend(times.map(|ms| (ms, Happening::PowerCut(index))));
    }
    for (index, cut) in scenario.broker_power_cuts.iter().enumerate() {
        let times = repeated_ms(cut.at_s, cut.every_s, end_s);
        all.extend(times.map(|ms| (ms, Happening::BrokerPowerCut(index))));
    }
    for (index, fault) in scenario.flash_faults.iter().enumerate() {
        let (from_ms, to_ms) = fault.times().ms();
        all.extend([(from_ms, Happening::FlashFails(index)), (to_ms, Happening::FlashWorks(index))]);
    }
    let mut round = 0;
    for (index, command) in scenario.commands.iter().enumerate() {
        for ms in repeated_ms(command.at_s, command.every_s, command.until_s.unwrap_or(end_s).min(end_s)) {
            round += 1;
            for copy in 0..command.copies {
                let at_ms = ms + u64::from(copy) * command.copy_every_s * 1_000;
                all.push((at_ms, Happening::Command { index, round, copy }));
            }
        }
    }
    all
}

impl World<'_> {
    pub(super) fn happens(&mut self, index: u32) -> Result<(), String> {
        let scenario = self.scenario;
        let devices = scenario.fleet.devices;
        match self.timetable[index as usize].1 {
            Happening::Outage(index) => {
                let outage = &scenario.outages[index];
                let (_, to_ms) = outage.times().ms();
                for number in outage.devices.numbers(devices) {
                    let device = &mut self.devices[number as usize - 1];
                    match outage.mode {
                        OutageMode::Silent => {
                            device.no_signal_until_ms = device.no_signal_until_ms.max(to_ms)
                        }
                        OutageMode::Reset => {
                            device.refused_until_ms = device.refused_until_ms.max(to_ms);
                            self.cut(number - 1, OutageMode::Reset);
                        }
                    }
                }
            }
            Happening::Tunnel(index) => {
                let tunnel = &scenario.tunnels[index];
                let (from_ms, to_ms) = tunnel.times().ms();
                for number in tunnel.devices.numbers(devices) {
                    let device = &mut self.devices[number as usize - 1];
                    if !tunnel.network {
                        device.no_signal_until_ms = device.no_signal_until_ms.max(to_ms);
                    }
                    device.no_fix_until_ms = device.no_fix_until_ms.max(to_ms);
                    if to_ms - from_ms > COLD_AFTER_MS {
                        device.lose_receiver();
                    }
                }
            }
            Happening::PowerCut(index) => {
                let cut = &scenario.power_cuts[index];
                for number in cut.devices.numbers(devices) {
                    let cab = self.devices[number as usize - 1].cab.as_mut();
                    if let Some(cab) = cab.filter(|_| cut.in_command) {
                        cab.cut_at(u64::from(number - 1) % STEPS + 1);
                    } else {
                        self.switch_off(number - 1, cut.off_s * 1_000);
                    }
                }
            }
            Happening::BrokerPowerCut(index) => {
                self.cut_broker(scenario.broker_power_cuts[index].off_s * 1_000)?
            }
            Happening::FlashFails(index) => self.set_flash(index, true),
            Happening::FlashWorks(index) => self.set_flash(index, false),
            Happening::Command { index, round, copy } => {
                self.send_commands(&scenario.commands[index], round, copy)?;
            }
        }
        Ok(())
    }

    fn set_flash(&mut self, index: usize, fails: bool) {
        for number in self.scenario.flash_faults[index].devices.numbers(self.scenario.fleet.devices) {
            self.devices[number as usize - 1].flash.fails = fails;
        }
    }

    /// The broker's power goes: its connections are gone, and half of the devices are not even told.
    fn cut_broker(&mut self, off_ms: u64) -> Result<(), String> {
        if !self.broker_up {
            return Ok(());
        }
        self.broker_up = false;
        self.broker_inbox.clear();
        (self.commit_at_ms, self.timer_at_ms) = (None, None);
        self.stats.broker_power_cuts += 1;
        for at in 0..self.scenario.fleet.devices {
            let silent = self.devices[at as usize].chance.bool();
            self.cut(at, if silent { OutageMode::Silent } else { OutageMode::Reset });
        }
        self.events.at(self.now_ms + off_ms, Event::BrokerUp);
        self.office_ended()
    }

    /// Where a false signal makes a device seem to be, and whether it makes it seem to stand.
    pub(super) fn spoofed(&self, at: u32) -> Option<(LatLon, bool)> {
        let is_now = |(from_ms, to_ms): (u64, u64)| (from_ms..to_ms).contains(&self.now_ms);
        let mut spoofs = self.scenario.spoofs.iter();
        let spoof = spoofs.find(|spoof| is_now(spoof.times().ms()) && spoof.devices.contains(at + 1))?;
        let ride = &self.devices[at as usize].ride;
        Some(match (spoof.east_m, spoof.north_m) {
            (Some(east_m), Some(north_m)) => {
                let truth = ride.truth(self.now_ms / 1_000);
                (Plane::at(truth.position).place(east_m, north_m), false)
            }
            _ => (ride.journey.route.destination(), true),
        })
    }

    pub(super) fn is_office(conn: u64) -> bool {
        conn & 0xffff_ffff == office_conn(0)
    }
}
