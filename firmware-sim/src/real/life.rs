//! What a device has power for and what its receiver says, second by second: the same as on virtual time.

use tracks::Fix;

use crate::gps::{COLD_AFTER_MS, FIRMWARE_MADE_MS, Receiver, ReceiverOptions, unrolled_ms};
use crate::ledger::mix;
use crate::ride::Ride;
use crate::scenario::Scenario;
use crate::scenario::timetable::{Happening, timetable};

/// A time in which a device has power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) from_ms: u64,
    /// When the power goes; `None`: it stays.
    pub(super) to_ms: Option<u64>,
}

/// The lives of a device that is first switched on at `boot_ms`.
pub(super) fn lives(scenario: &Scenario, seed: u64, number: u32, boot_ms: u64) -> Vec<Life> {
    let mut cuts: Vec<(u64, u64)> = Vec::new();
    for (ms, happening) in timetable(scenario, seed) {
        let Happening::PowerCut(index) = happening else { continue };
        let cut = &scenario.power_cuts[index];
        if !cut.in_command && cut.devices.contains(number) {
            cuts.push((ms, cut.off_s * 1_000));
        }
    }
    cuts.sort_by_key(|(ms, _)| *ms);
    let (mut lives, mut from_ms) = (Vec::new(), boot_ms);
    for (ms, off_ms) in cuts {
        // What is off cannot go off.
        if ms > from_ms {
            lives.push(Life { from_ms, to_ms: Some(ms) });
            from_ms = ms + off_ms;
        }
    }
    lives.push(Life { from_ms, to_ms: None });
    lives
}

/// How many lives a device has at most, those between power cuts in the middle of commands counted.
pub(super) fn lives_max(scenario: &Scenario, seed: u64, number: u32, boot_ms: u64) -> u64 {
    let in_command = scenario.power_cuts.iter().filter(|cut| cut.in_command && cut.devices.contains(number));
    (lives(scenario, seed, number, boot_ms).len() + in_command.count()) as u64
}

/// A device's receiver.
pub(super) struct Senses {
    receiver: Receiver,
    number: u32,
    /// Up to when tunnels have been driven into.
    seen_ms: u64,
}

impl Senses {
    /// Makes the receiver of the device with this number, from 1 on.
    pub(super) fn new(scenario: &Scenario, number: u32, seed: u64) -> Senses {
        let mut chance = fastrand::Rng::with_seed(mix(seed, number.into()));
        // The first two numbers are for the simulated disks of virtual time.
        let _disks = (chance.u64(..), chance.u64(..));
        Senses {
            receiver: Receiver::new(ReceiverOptions::of(&scenario.gps), chance.u64(..)),
            number,
            seen_ms: 0,
        }
    }

    /// The device is switched on, and its receiver with it.
    pub(super) fn switch_on(&mut self) {
        self.receiver.switch_off();
    }

    /// What it says at a whole second of the run, in the scenario's dates.
    pub(super) fn observe(&mut self, scenario: &Scenario, ride: &Ride, now_ms: u64) -> Option<Fix> {
        let tunnels = scenario.tunnels.iter().filter(|tunnel| tunnel.devices.contains(self.number));
        let mut is_in_tunnel = false;
        for tunnel in tunnels {
            let (from_ms, to_ms) = tunnel.times().ms();
            if (self.seen_ms + 1..=now_ms).contains(&from_ms) && to_ms - from_ms > COLD_AFTER_MS {
                self.receiver.switch_off();
            }
            is_in_tunnel |= (from_ms..to_ms).contains(&now_ms);
        }
        self.seen_ms = now_ms;
        if is_in_tunnel {
            return None;
        }
        let unix_ms = i64::try_from(scenario.start_unix_s * 1_000 + now_ms).unwrap_or(i64::MAX);
        let mut fix = self.receiver.observe(unix_ms, &ride.signal(scenario, self.number, now_ms))?;
        fix.ts_ms = unrolled_ms(fix.ts_ms, FIRMWARE_MADE_MS);
        Some(fix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_cuts_divide_a_device_into_lives_and_what_is_off_stays_off() {
        let text = "name = \"a\"\nduration_s = 100\n[fleet]\ndevices = 3\n\
                    [[power_cut]]\nat_s = 20\noff_s = 5\nevery_s = 30\nuntil_s = 60\ndevices = \"1-2\"\n\
                    [[power_cut]]\nat_s = 22\noff_s = 1\ndevices = \"2\"\n\
                    [[power_cut]]\nat_s = 1\noff_s = 2\ndevices = \"2\"\n";
        let scenario = Scenario::parse("a.toml", text).unwrap();
        // Power goes at some moment of its second.
        let seconds = |number, boot_ms| {
            let seconds = |ms: u64| ms / 1_000;
            let lives = lives(&scenario, 5, number, boot_ms).into_iter();
            lives.map(|life| (seconds(life.from_ms), life.to_ms.map(seconds))).collect::<Vec<_>>()
        };
        assert_eq!(seconds(1, 10), [(0, Some(20)), (25, Some(50)), (55, None)]);
        // Off already, and not on yet.
        assert_eq!(seconds(2, 3_500), [(3, Some(20)), (25, Some(50)), (55, None)]);
        assert_eq!(seconds(3, 7), [(0, None)]);
    }
}
