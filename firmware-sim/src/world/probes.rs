//! The probes of devices whose heartbeat learns: short connections beside the main one, through the same NAT.
//!
//! What a probe says and what its answers mean is the SDK's ([`Probe`]), as is the client that says it. A probe that has no
//! connection is broken; nobody makes it again but the heartbeat.

use device_sdk::client::{Core, Input, Output};
use device_sdk::heartbeat::{Action, KnownNetwork, PROBE_GRACE_MS, PROBE_SETUP_MS, Probe, ProbeOutcome};
use device_sdk::{Options, QoS, StartError};

use super::device::{Device, options};
use super::events::Event;
use super::link::{Link, Way};
use super::{World, conn_of};
use crate::planted::Planted;

/// The name of the carrier's network, by which devices and broker know it again.
const NETWORK: &str = "carrier";

/// A probe under way.
pub(super) struct Running {
    probe: Probe,
    /// Part of its client identifier.
    slot: usize,
    core: Box<Core>,
    pub(super) link: Link,
    /// When it is overdue.
    until_ms: u64,
    is_silent: bool,
}

/// What a device's heartbeat has beside the core.
#[derive(Default)]
pub(super) struct Learning {
    pub(super) probes: Vec<Running>,
    /// What is kept over a restart.
    known: Vec<KnownNetwork>,
}

/// Makes a core whose heartbeat learns, if the scenario says so.
pub(super) fn core(options: &Options, known: Vec<KnownNetwork>) -> Result<Core, StartError> {
    let mut core = Core::with_heartbeat(options.core_config()?, options.heartbeat(known));
    if options.adaptive_keepalive.is_some() {
        core.handle_input(0, Input::Network(NETWORK.into()));
    }
    Ok(core)
}

impl Device {
    /// What was learned before.
    pub(super) fn known(&self) -> Vec<KnownNetwork> {
        self.learning.as_ref().map(|learning| learning.known.clone()).unwrap_or_default()
    }

    /// The probe on this connection.
    fn probe(&mut self, link: u32) -> Option<&mut Running> {
        let probes = &mut self.learning.as_mut()?.probes;
        probes.iter_mut().find(|running| running.link.number == link)
    }

    /// The connection with this number: the main one, or that of a probe.
    pub(super) fn link_of(&mut self, number: u32) -> Option<&mut Link> {
        self.link_and_chance(number).map(|(link, _)| link)
    }

    /// The same, with what decides about its packets.
    pub(super) fn link_and_chance(&mut self, number: u32) -> Option<(&mut Link, &mut fastrand::Rng)> {
        let Device { link, learning, chance, .. } = self;
        let probes = learning.iter_mut().flat_map(|learning| &mut learning.probes);
        let mut links =
            link.iter_mut().map(|link| &mut **link).chain(probes.map(|running| &mut running.link));
        links.find(|link| link.number == number).map(|link| (link, chance))
    }

    /// Whether this connection is not the main one.
    pub(super) fn is_probe(&self, link: u32) -> bool {
        let mut probes = self.learning.iter().flat_map(|learning| &learning.probes);
        probes.any(|running| running.link.number == link)
    }
}

impl World<'_> {
    /// Does what a heartbeat wants done beside the main connection.
    pub(super) fn take_from_heartbeat(&mut self, at: u32, action: Action) -> Result<(), String> {
        match action {
            Action::StartProbe { id, after_s } => self.start_probe(at, Probe { id, after_s }),
            Action::StopProbe { id } => {
                let probes = self.devices[at as usize].learning.iter().flat_map(|learning| &learning.probes);
                let mut found =
                    probes.filter(|running| running.probe.id == id).map(|running| running.link.number);
                match found.next() {
                    Some(link) => self.end_probe(at, link, None),
                    None => Ok(()),
                }
            }
            Action::Learned => {
                let device = &mut self.devices[at as usize];
                let known = device.core.as_ref().map(|core| core.known_networks(self.now_ms));
                if let Some(known) = known {
                    device.learning.get_or_insert_default().known = known;
                }
                Ok(())
            }
            // The core does these itself.
            Action::Ping | Action::Declare { .. } | Action::Dead { .. } => Ok(()),
        }
    }

    fn start_probe(&mut self, at: u32, probe: Probe) -> Result<(), String> {
        let (now_ms, id) = (self.now_ms, self.id(at));
        let device = &self.devices[at as usize];
        let has_signal = now_ms >= device.no_signal_until_ms && now_ms >= device.refused_until_ms;
        if !has_signal || !self.broker_up || !self.takes_connection() {
            return self.give_core(at, Input::Probed { id: probe.id, outcome: ProbeOutcome::Broken });
        }
        let main = options(self.scenario, &id, self.planted);
        let delay_ms = self.links.delay_ms;
        let device = &mut self.devices[at as usize];
        let number = device.next_link();
        let running = &mut device.learning.get_or_insert_default().probes;
        let slot = (1..).find(|slot| running.iter().all(|other| other.slot != *slot)).unwrap_or(1);
        let core = Core::new(probe.options(&main, slot).core_config().map_err(|error| error.to_string())?);
        running.push(Running {
            probe,
            slot,
            core: Box::new(core),
            link: Link::new(number, now_ms),
            until_ms: now_ms + PROBE_SETUP_MS,
            is_silent: false,
        });
        self.events.at(now_ms + 2 * delay_ms + 1, Event::Opened { device: at, link: number });
        Ok(())
    }

    /// Something happens to a probe's client.
    pub(super) fn give_probe(&mut self, at: u32, link: u32, input: Input) -> Result<(), String> {
        let now_ms = self.now_ms;
        if let Some(running) = self.devices[at as usize].probe(link) {
            running.core.handle_input(now_ms, input);
        }
        while let Some(output) =
            self.devices[at as usize].probe(link).and_then(|running| running.core.poll_output())
        {
            self.take_from_probe(at, link, output)?;
        }
        Ok(())
    }

    fn take_from_probe(&mut self, at: u32, link: u32, output: Output) -> Result<(), String> {
        let now_ms = self.now_ms;
        let Some(running) = self.devices[at as usize].probe(link) else { return Ok(()) };
        let probe = running.probe;
        match output {
            Output::Send(packet) => self.send_up(at, link, packet),
            Output::Connected { .. } => {
                let subscribe = Input::subscribe(0, &probe.filter(), QoS::AtMostOnce);
                self.give_probe(at, link, subscribe)?;
            }
            Output::Answered { result, .. } => match result.map(|codes| Probe::subscribed(&codes)) {
                Ok(Ok(())) => self.give_probe(at, link, Input::publish(0, probe.request()))?,
                Ok(Err(outcome)) => self.end_probe(at, link, Some(outcome))?,
                Err(_) => self.end_probe(at, link, Some(ProbeOutcome::Broken))?,
            },
            Output::Published { result, .. } => match Probe::asked(&result) {
                Ok(()) => {
                    running.until_ms = now_ms + u64::from(probe.after_s) * 1_000 + PROBE_GRACE_MS;
                    running.is_silent = true;
                }
                Err(outcome) => self.end_probe(at, link, Some(outcome))?,
            },
            Output::Message(message) => {
                if let Some(outcome) = probe.heard(&message) {
                    self.end_probe(at, link, Some(outcome))?;
                }
            }
            Output::Close { .. } => self.end_probe(at, link, Some(ProbeOutcome::Broken))?,
            _ => {}
        }
        Ok(())
    }

    /// Looks which probes are overdue.
    pub(super) fn tick_probes(&mut self, at: u32) -> Result<(), String> {
        let now_ms = self.now_ms;
        let Some(learning) = &self.devices[at as usize].learning else { return Ok(()) };
        let numbers: Vec<u32> = learning.probes.iter().map(|running| running.link.number).collect();
        for link in numbers {
            let Some(running) = self.devices[at as usize].probe(link) else { continue };
            if now_ms >= running.until_ms {
                let silent = if running.is_silent { ProbeOutcome::Silent } else { ProbeOutcome::Broken };
                self.end_probe(at, link, Some(silent))?;
            } else if running.core.next_deadline_ms().is_some_and(|due_ms| due_ms <= now_ms) {
                self.give_probe(at, link, Input::Tick)?;
            }
        }
        Ok(())
    }

    /// Ends a probe's connection; the heartbeat is told how, unless it has ended it itself.
    pub(super) fn end_probe(
        &mut self,
        at: u32,
        link: u32,
        outcome: Option<ProbeOutcome>,
    ) -> Result<(), String> {
        let now_ms = self.now_ms;
        let device = &mut self.devices[at as usize];
        let has_signal = now_ms >= device.no_signal_until_ms;
        let Some(learning) = &mut device.learning else { return Ok(()) };
        let Some(place) = learning.probes.iter().position(|running| running.link.number == link) else {
            return Ok(());
        };
        let running = learning.probes.swap_remove(place);
        if !running.link.is_dead() && has_signal {
            self.events.at(now_ms, Event::Gone { conn: conn_of(at, link) });
        }
        let outcome = match outcome {
            Some(ProbeOutcome::Silent) if self.planted == Some(Planted::SilenceTakenForSurvival) => {
                Some(ProbeOutcome::Survived)
            }
            outcome => outcome,
        };
        match outcome {
            Some(outcome) => self.give_core(at, Input::Probed { id: running.probe.id, outcome }),
            None => Ok(()),
        }
    }

    /// A packet reaches a probe.
    pub(super) fn probe_hears(&mut self, at: u32, number: u32) -> Result<(), String> {
        let link = self.devices[at as usize].link_of(number);
        match link.and_then(|link| link.arrive(Way::Down)) {
            Some(packet) => self.give_probe(at, number, Input::Received(packet)),
            None => Ok(()),
        }
    }

    /// Holds what the heartbeats have come to against what the scenario wants.
    pub(super) fn look_at_heartbeats(&mut self) {
        let (min_s, max_s) = (self.scenario.expect.heartbeat_min_s, self.scenario.expect.heartbeat_max_s);
        let bounds_ms = min_s.unwrap_or(0) * 1_000..=max_s.map_or(u64::MAX, |max_s| max_s * 1_000);
        for at in 0..self.scenario.fleet.devices {
            let Some(core) = &self.devices[at as usize].core else { continue };
            let status = core.heartbeat_status();
            if !status.is_settled || !bounds_ms.contains(&status.interval_ms) {
                let state = if status.is_settled { "settled" } else { "not settled" };
                let what = format!("its heartbeat is {} ms, {state}", status.interval_ms);
                self.ledger.wrong(crate::ledger::Wrong::Unexpected, at, 0, what);
            }
        }
    }
}
