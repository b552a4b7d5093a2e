//! What a scenario does to the world.

use super::commands::STEPS;
use super::events::Event;
use super::update::UPDATE_STEPS;
use super::{World, office_conn};
use crate::gps::COLD_AFTER_MS;
use crate::scenario::OutageMode;
use crate::scenario::timetable::Happening;

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
                    let device = &mut self.devices[number as usize - 1];
                    let step = u64::from(number - 1) % STEPS + 1;
                    if let Some(cab) = device.cab.as_mut().filter(|_| cut.in_command) {
                        cab.cut_at(step);
                    } else if let Some(slots) = device.slots.as_ref().filter(|_| cut.in_update) {
                        slots.cut_at(device.chance.u64(1..=UPDATE_STEPS));
                    } else if cut.in_write {
                        device.flash.cut_at(step);
                    } else {
                        self.switch_off(number - 1, cut.off_s * 1_000);
                    }
                }
            }
            Happening::BrokerPowerCut(index) => {
                self.cut_broker(scenario.broker_power_cuts[index].off_s * 1_000)?
            }
            Happening::Nat(index) => self.links.nat_timeout_s = scenario.nats[index].timeout_s,
            Happening::Update(index) => self.publish_release(index)?,
            Happening::Heartbeats => self.look_at_heartbeats(),
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
            self.devices[number as usize - 1].flash.set_failing(fails);
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

    pub(super) fn is_office(conn: u64) -> bool {
        conn & 0xffff_ffff == office_conn(0)
    }
}
