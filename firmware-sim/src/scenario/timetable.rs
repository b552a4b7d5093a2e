//! When what of a scenario happens.

use super::Scenario;
use super::trouble::repeated_ms;
use crate::ledger::mix;

/// Tells the timetable's chance from that of the devices.
const TIMETABLE: u64 = u64::MAX;

/// When each device is switched on, milliseconds after the start: a moment later, so that the office hears the first.
pub(crate) fn boots_ms(scenario: &Scenario, seed: u64) -> impl Iterator<Item = u64> {
    let within_ms = scenario.fleet.start_within_s * 1_000;
    let mut chance = fastrand::Rng::with_seed(mix(seed, 0));
    (0..scenario.fleet.devices).map(move |_| 10 + chance.u64(0..=within_ms))
}

/// One entry of the timetable; numbers are places in the scenario's lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happening {
    Outage(usize),
    Tunnel(usize),
    PowerCut(usize),
    BrokerPowerCut(usize),
    /// The carrier forgets sooner or later from now on.
    Nat(usize),
    /// A release is announced.
    Update(usize),
    /// What the heartbeats have learned is looked at.
    Heartbeats,
    FlashFails(usize),
    FlashWorks(usize),
    Command {
        index: usize,
        round: u64,
        copy: u32,
    },
}

/// Everything that happens by the clock, with its time. Power goes at any moment of its second.
pub(crate) fn timetable(scenario: &Scenario, seed: u64) -> Vec<(u64, Happening)> {
    let end_s = scenario.duration_s;
    let mut chance = fastrand::Rng::with_seed(mix(seed, TIMETABLE));
    let mut all = Vec::new();
    for (index, outage) in scenario.outages.iter().enumerate() {
        all.push((outage.at_s * 1_000, Happening::Outage(index)));
    }
    for (index, tunnel) in scenario.tunnels.iter().enumerate() {
        all.push((tunnel.at_s * 1_000, Happening::Tunnel(index)));
    }
    for (index, cut) in scenario.power_cuts.iter().enumerate() {
        let times = repeated_ms(cut.at_s, cut.every_s, cut.until_s.unwrap_or(end_s).min(end_s));
        all.extend(times.map(|ms| (ms + chance.u64(0..1_000), Happening::PowerCut(index))));
    }
    for (index, cut) in scenario.broker_power_cuts.iter().enumerate() {
        let times = repeated_ms(cut.at_s, cut.every_s, end_s);
        all.extend(times.map(|ms| (ms + chance.u64(0..1_000), Happening::BrokerPowerCut(index))));
    }
    for (index, fault) in scenario.flash_faults.iter().enumerate() {
        let (from_ms, to_ms) = fault.times().ms();
        all.extend([(from_ms, Happening::FlashFails(index)), (to_ms, Happening::FlashWorks(index))]);
    }
    for (index, nat) in scenario.nats.iter().enumerate() {
        all.push((nat.at_s * 1_000, Happening::Nat(index)));
    }
    for (index, update) in scenario.updates.iter().enumerate() {
        all.push((update.at_s * 1_000, Happening::Update(index)));
    }
    if scenario.expect.heartbeat_min_s.is_some() || scenario.expect.heartbeat_max_s.is_some() {
        all.push((end_s * 1_000, Happening::Heartbeats));
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
