//! A virtual clock, a broker, and networks that forget idle connections, around one heartbeat.
//!
//! A network forgets a connection through which nothing has passed for its timeout. A packet of the client then meets
//! silence or is answered with a reset, as boxes on the way do; one of the broker is lost either way. Packets take time,
//! and every run of one seed is the same.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use device_sdk::heartbeat::{Accepted, Action, Ended, Heartbeat, KnownNetwork, ProbeOutcome};

/// What a client meets whose connection was forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Reset,
    Silence,
}

#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) name: &'static str,
    pub(crate) timeout_ms: u64,
    pub(crate) mode: Mode,
}

/// A connection as the network knows it.
#[derive(Clone, Copy, Debug)]
struct Flow {
    number: u64,
    passed_ms: u64,
    is_forgotten: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Connect,
    Accepted { flow: u64 },
    Answer { flow: u64 },
    Reset { flow: u64 },
    ProbeFires { id: u64 },
    ProbeEnds { id: u64, survived: bool },
}

/// A probe under way: its flow, and how it can go wrong.
#[derive(Clone, Copy, Debug)]
struct Probe {
    flow: Flow,
    is_unlucky: bool,
}

pub(crate) struct World {
    pub(crate) heartbeat: Heartbeat,
    pub(crate) now_ms: u64,
    pub(crate) network: Network,
    /// Whether the broker answers on `$im/probe`.
    pub(crate) has_probes: bool,
    /// What CONNACK tells as `im-keepalive`.
    pub(crate) hint_s: Option<u32>,
    /// Nothing passes until then.
    pub(crate) outage_until_ms: u64,
    /// One in so many probes hears nothing although its network forgot nothing; 0 = none.
    pub(crate) unlucky_one_in: u64,
    pub(crate) drops: Vec<u64>,
    pub(crate) pings: Vec<u64>,
    pub(crate) probes_started: Vec<u64>,
    pub(crate) probes_at_once: usize,
    pub(crate) declared_s: Option<u32>,
    main: Option<Flow>,
    probes: HashMap<u64, Probe>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    next: u64,
    rng: fastrand::Rng,
}

/// What a driver waits for a probe's answer beyond its silence.
const GRACE_MS: u64 = 4_000;

impl World {
    pub(crate) fn new(network: Network, known: Vec<KnownNetwork>, seed: u64) -> Self {
        let mut world = Self {
            heartbeat: Heartbeat::adaptive(15, 7_200, known),
            now_ms: 0,
            network,
            has_probes: true,
            hint_s: None,
            outage_until_ms: 0,
            unlucky_one_in: 0,
            drops: Vec::new(),
            pings: Vec::new(),
            probes_started: Vec::new(),
            probes_at_once: 0,
            declared_s: None,
            main: None,
            probes: HashMap::new(),
            events: BinaryHeap::new(),
            next: 0,
            rng: fastrand::Rng::with_seed(seed),
        };
        world.after(0, Event::Connect);
        world
    }

    /// Runs until a time.
    pub(crate) fn run_until(&mut self, end_ms: u64) {
        while self.step(end_ms) {}
        self.now_ms = end_ms;
    }

    /// Runs until the bounds are found; panics when that takes longer than `limit_ms` from now.
    pub(crate) fn run_until_settled(&mut self, limit_ms: u64) {
        let end_ms = self.now_ms + limit_ms;
        while !(self.main.is_some() && self.heartbeat.status().is_settled) {
            assert!(self.step(end_ms), "not settled after {limit_ms} ms: {:?}", self.heartbeat);
        }
    }

    /// Goes over to another network.
    pub(crate) fn roam(&mut self, network: Network) {
        self.network = network;
        self.end(Ended::Otherwise, 1_000);
    }

    pub(crate) fn interval_s(&self) -> f64 {
        self.heartbeat.status().interval_ms as f64 / 1_000.0
    }

    fn step(&mut self, end_ms: u64) -> bool {
        let event_ms = self.events.peek().map(|Reverse((at_ms, ..))| *at_ms);
        let tick_ms = self.heartbeat.next_deadline_ms().map(|at_ms| at_ms.max(self.now_ms));
        let Some(next_ms) = event_ms.into_iter().chain(tick_ms).min().filter(|at_ms| *at_ms <= end_ms) else {
            return false;
        };
        self.now_ms = next_ms;
        if event_ms == Some(next_ms) {
            let Reverse((_, _, event)) = self.events.pop().expect("it was peeked");
            self.happen(event);
        } else {
            self.heartbeat.tick(next_ms);
            let after_ms = self.heartbeat.next_deadline_ms();
            self.act();
            assert!(
                self.main.is_none() || after_ms != Some(next_ms),
                "a deadline that does nothing: {:?}",
                self.heartbeat
            );
        }
        true
    }

    fn after(&mut self, delay_ms: u64, event: Event) {
        self.next += 1;
        self.events.push(Reverse((self.now_ms + delay_ms, self.next, event)));
    }

    /// Milliseconds between the client and the network, and between the network and the broker.
    fn ways(&mut self) -> (u64, u64) {
        (self.rng.u64(20..80), self.rng.u64(10..30))
    }

    fn happen(&mut self, event: Event) {
        let is_main = |flow| self.main.is_some_and(|main| main.number == flow);
        match event {
            Event::Connect if self.now_ms < self.outage_until_ms => self.after(3_000, Event::Connect),
            Event::Connect => {
                let (near, far) = self.ways();
                self.next += 1;
                let flow = self.next;
                self.main = Some(Flow { number: flow, passed_ms: self.now_ms, is_forgotten: false });
                self.after(4 * (near + far), Event::Accepted { flow });
            }
            Event::Accepted { flow } if is_main(flow) => {
                self.main = Some(Flow { number: flow, passed_ms: self.now_ms, is_forgotten: false });
                let accepted = Accepted {
                    net: self.network.name.to_owned(),
                    broker: "broker:1883".to_owned(),
                    keep_alive_s: 7_200,
                    hint_s: self.hint_s,
                };
                self.declared_s = None;
                self.heartbeat.connected(self.now_ms, 150, accepted);
            }
            Event::Answer { flow } if is_main(flow) => self.heartbeat.received(self.now_ms),
            Event::Reset { flow } if is_main(flow) => self.end(Ended::Reset, 0),
            Event::ProbeFires { id } => {
                let Some(probe) = self.probes.get(&id) else { return };
                let survived = !probe.is_unlucky && self.passes(probe.flow, self.now_ms);
                let (near, _) = self.ways();
                self.after(if survived { near } else { GRACE_MS }, Event::ProbeEnds { id, survived });
            }
            Event::ProbeEnds { id, survived } => {
                if self.probes.remove(&id).is_some() {
                    let outcome = if survived { ProbeOutcome::Survived } else { ProbeOutcome::Silent };
                    self.heartbeat.probed(self.now_ms, id, outcome);
                }
            }
            Event::Accepted { .. } | Event::Answer { .. } | Event::Reset { .. } => {}
        }
        self.act();
    }

    fn passes(&self, flow: Flow, at_ms: u64) -> bool {
        !flow.is_forgotten
            && at_ms >= self.outage_until_ms
            && at_ms.saturating_sub(flow.passed_ms) < self.network.timeout_ms
    }

    fn act(&mut self) {
        while let Some(action) = self.heartbeat.poll_action() {
            match action {
                Action::Ping => self.ping(),
                Action::Declare { interval_s } => self.declare(interval_s),
                Action::StartProbe { id, after_s } => self.start_probe(id, after_s),
                Action::StopProbe { id } => {
                    self.probes.remove(&id);
                }
                Action::Dead { .. } => self.end(Ended::Silence, 1_000),
                Action::Learned => {}
            }
        }
    }

    /// A packet of the client passes, or is not answered. Says whether it passed.
    fn send(&mut self) -> bool {
        let (near, far) = self.ways();
        let Some(flow) = self.main else { return false };
        let at_ms = self.now_ms + near;
        if self.passes(flow, at_ms) {
            self.main = Some(Flow { passed_ms: at_ms + 2 * far, ..flow });
            self.after(2 * (near + far), Event::Answer { flow: flow.number });
            return true;
        }
        if at_ms < self.outage_until_ms {
            return false;
        }
        // What was forgotten once stays forgotten.
        self.main = Some(Flow { is_forgotten: true, ..flow });
        if self.network.mode == Mode::Reset {
            self.after(2 * near, Event::Reset { flow: flow.number });
        }
        false
    }

    fn ping(&mut self) {
        self.pings.push(self.now_ms);
        self.send();
    }

    fn declare(&mut self, interval_s: u32) {
        assert!(self.has_probes, "a foreign broker is told nothing");
        self.declared_s = Some(interval_s);
        // At QoS 0: it passes like a ping, and nothing answers.
        let (near, _) = self.ways();
        self.heartbeat.sent(self.now_ms, 60, false);
        if let Some(flow) = self.main.filter(|flow| self.passes(*flow, self.now_ms + near)) {
            self.main = Some(Flow { passed_ms: self.now_ms + near, ..flow });
        }
    }

    fn start_probe(&mut self, id: u64, after_s: u32) {
        self.probes_started.push(self.now_ms);
        let (near, far) = self.ways();
        // TCP, CONNECT, SUBSCRIBE, PUBLISH, and the acknowledgement of its PUBACK.
        let begun_ms = self.now_ms + 7 * (near + far);
        let flow = Flow { number: 0, passed_ms: begun_ms + 2 * (near + far), is_forgotten: false };
        let is_unlucky =
            !self.has_probes || (self.unlucky_one_in > 0 && self.rng.u64(..self.unlucky_one_in) == 0);
        self.probes.insert(id, Probe { flow, is_unlucky });
        self.probes_at_once = self.probes_at_once.max(self.probes.len());
        let fires_ms = begun_ms + 2 * far + u64::from(after_s) * 1_000;
        self.after(fires_ms - self.now_ms, Event::ProbeFires { id });
    }

    fn end(&mut self, ended: Ended, pause_ms: u64) {
        self.main = None;
        if ended != Ended::Otherwise {
            self.drops.push(self.now_ms);
        }
        let at_once = self.heartbeat.ended(self.now_ms, ended);
        assert_eq!(at_once, ended == Ended::Reset, "a reset is no reason to wait");
        self.act();
        assert!(self.probes.is_empty(), "probes end with the connection");
        self.after(if at_once { 0 } else { pause_ms }, Event::Connect);
    }
}
