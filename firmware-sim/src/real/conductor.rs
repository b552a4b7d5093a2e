//! Lets happen what happens by the clock: outages, cuts, the broker's power, commands.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use device_sdk::{Client, PublishError};
use tokio::time::{sleep, sleep_until};

use super::BrokerProcess;
use super::stage::Stage;
use crate::ledger::mix;
use crate::link_proxy::Proxy;
use crate::orders::Sending;
use crate::scenario::timetable::{Happening, timetable};
use crate::scenario::{Devices, OutageMode, Scenario};

/// What chance of cuts begins with.
const CUTS_SEED: u64 = 0x4355_5453;

/// The broker's process, while nobody works with it.
type Process = Option<Box<dyn BrokerProcess>>;

/// One entry of the programme.
#[derive(Debug, Clone, Copy)]
enum Entry {
    Happens(Happening),
    /// A link is cut by chance.
    Cut {
        device: u32,
    },
}

/// Runs the timetable, and stays with the broker's process until the run ends.
pub(super) async fn run(stage: Arc<Stage>, office: Client, mut process: Process) {
    let mut chance = fastrand::Rng::with_seed(mix(stage.seed, CUTS_SEED));
    let mut entries = cuts_by_chance(&stage.scenario, &mut chance);
    entries.extend(
        timetable(&stage.scenario, stage.seed).into_iter().map(|(ms, entry)| (ms, Entry::Happens(entry))),
    );
    entries.sort_by_key(|(ms, _)| *ms);
    for (ms, entry) in entries {
        sleep_until(stage.time.at(ms)).await;
        match entry {
            Entry::Cut { device } => stage.ways[device as usize].cut(stage.scenario.link.cut),
            Entry::Happens(Happening::BrokerPowerCut(index)) => {
                process = cut_broker(&stage, process, index, &mut chance).await;
            }
            Entry::Happens(happening) => happens(&stage, &office, happening),
        }
    }
    std::future::pending().await
}

/// When which link is cut, as often as the scenario says.
fn cuts_by_chance(scenario: &Scenario, chance: &mut fastrand::Rng) -> Vec<(u64, Entry)> {
    let share = scenario.link.cuts_per_hour / 3_600.0;
    if share == 0.0 {
        return Vec::new();
    }
    let devices = 0..scenario.fleet.devices;
    let moments =
        (0..scenario.duration_s).flat_map(|second| devices.clone().map(move |device| (second, device)));
    let cut = moments.filter(|_| chance.f64() < share);
    cut.map(|(second, device)| (second * 1_000, Entry::Cut { device })).collect()
}

/// The ways of some devices.
fn ways<'a>(stage: &'a Stage, devices: &'a Devices) -> impl Iterator<Item = &'a Proxy> {
    devices.numbers(stage.scenario.fleet.devices).map(|number| &stage.ways[number as usize - 1])
}

fn happens(stage: &Arc<Stage>, office: &Client, happening: Happening) {
    let scenario = &stage.scenario;
    match happening {
        Happening::Outage(index) => {
            let outage = &scenario.outages[index];
            let (_, to_ms) = outage.times().ms();
            for way in ways(stage, &outage.devices) {
                match outage.mode {
                    OutageMode::Silent => way.no_signal_until(to_ms),
                    OutageMode::Reset => {
                        way.refused_until(to_ms);
                        way.cut(OutageMode::Reset);
                    }
                }
            }
        }
        Happening::Tunnel(index) => {
            let tunnel = &scenario.tunnels[index];
            let (_, to_ms) = tunnel.times().ms();
            if !tunnel.network {
                ways(stage, &tunnel.devices).for_each(|way| way.no_signal_until(to_ms));
            }
        }
        Happening::Command { index, round, copy } => send_commands(stage, office, index, round, copy),
        Happening::Nat(index) => {
            let timeout_ms = scenario.nats[index].timeout_s * 1_000;
            stage.network.nat_timeout_ms.store(timeout_ms, Ordering::Relaxed);
        }
        // Devices see to their power themselves, the conductor's loop to the broker's; the rest is not supported.
        Happening::PowerCut(_)
        | Happening::BrokerPowerCut(_)
        | Happening::Update(_)
        | Happening::Heartbeats
        | Happening::FlashFails(_)
        | Happening::FlashWorks(_) => {}
    }
}

/// Sends a copy of a command to each of its devices, while time goes on.
fn send_commands(stage: &Arc<Stage>, office: &Client, index: usize, round: u64, copy: u32) {
    let command = &stage.scenario.commands[index];
    let unix_ms = stage.time.unix_ms(stage.time.now_ms());
    let sending = Sending { command, round, copy, unix_ms };
    let mut messages = Vec::new();
    for number in command.devices.numbers(stage.scenario.fleet.devices) {
        let topic = format!("dev/{}/cmd", stage.id(number - 1));
        match stage.books().orders.send(sending, number, topic) {
            Ok(message) => messages.push(message),
            Err(error) => return stage.break_off(error.to_string()),
        }
    }
    let (stage, office) = (stage.clone(), office.clone());
    tokio::spawn(async move {
        for message in messages {
            match office.publish(message).await {
                Ok(_) => {}
                // The run has ended.
                Err(PublishError::Stopped) => return,
                Err(error) => return stage.break_off(format!("the office's command was refused: {error}")),
            }
        }
    });
}

/// The broker's power goes: its connections are gone, and half of the devices are not even told.
async fn cut_broker(
    stage: &Arc<Stage>,
    process: Process,
    index: usize,
    chance: &mut fastrand::Rng,
) -> Process {
    let off_ms = stage.scenario.broker_power_cuts[index].off_s * 1_000;
    for way in &stage.ways {
        way.cut(if chance.bool() { OutageMode::Silent } else { OutageMode::Reset });
    }
    stage.books().broker_power_cuts += 1;
    let mut process = process?;
    let killed = tokio::task::spawn_blocking(move || process.kill().map(|()| process));
    let killed = killed.await.map_err(std::io::Error::other).and_then(|killed| killed);
    let mut process = match killed {
        Ok(process) => process,
        Err(error) => {
            stage.break_off(format!("the broker cannot be killed: {error}"));
            return None;
        }
    };
    sleep(Duration::from_millis(off_ms)).await;
    let started = tokio::task::spawn_blocking(move || process.start().map(|address| (process, address)));
    match started.await.map_err(std::io::Error::other).and_then(|started| started) {
        Ok((process, address)) => {
            stage.network.broker.send_replace(address);
            Some(process)
        }
        Err(error) => {
            stage.break_off(format!("the broker does not start again: {error}"));
            None
        }
    }
}
