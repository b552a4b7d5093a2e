//! The core joined to the model on virtual time, with a connection that breaks at random points.

use std::collections::{BTreeMap, VecDeque};

use device_sdk::client::{Core, CoreConfig, Input, Output};
use device_sdk::{AckToken, ProtocolVersion, QoS};
use protocol::{Connect, ConnectProperties, Packet, SubscribeFilter, SubscribeOptions};

use super::model::{Peer, number, numbered};

pub(crate) fn config(version: ProtocolVersion, manual_ack: bool) -> CoreConfig {
    let mut properties = ConnectProperties::default();
    if version == ProtocolVersion::V5 {
        properties.session_expiry_interval_s = Some(3600);
        properties.receive_maximum = std::num::NonZeroU16::new(5);
    }
    CoreConfig {
        connect: Connect {
            version,
            clean_start: false,
            keep_alive_s: 10,
            client_id: "c".into(),
            will: None,
            username: None,
            password: None,
            properties,
        },
        inflight_max: 8,
        manual_ack,
        connect_timeout_ms: 5_000,
    }
}

/// Everything of one run. Packets on the way are lost when the connection breaks: a prefix arrives, as with TCP.
struct World {
    rng: fastrand::Rng,
    now_ms: u64,
    core: Core,
    peer: Peer,
    connected: bool,
    to_peer: VecDeque<Packet>,
    to_core: VecDeque<Packet>,
    sent: BTreeMap<u64, QoS>,
    ended: BTreeMap<u64, bool>,
    answered: Vec<u64>,
    /// What the program got: (QoS, number).
    received: Vec<(QoS, u32)>,
    tokens: Vec<AckToken>,
    deliveries: Vec<QoS>,
    closes: u32,
}

impl World {
    fn new(seed: u64, version: ProtocolVersion, manual_ack: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let receive_maximum = rng.u16(1..12);
        // 3.1.1 knows no Receive Maximum; there the client's own limit holds.
        let receive_maximum = if version == ProtocolVersion::V5 { receive_maximum } else { 8 };
        Self {
            rng,
            now_ms: 0,
            core: Core::new(config(version, manual_ack)),
            peer: Peer::new(receive_maximum),
            connected: false,
            to_peer: VecDeque::new(),
            to_core: VecDeque::new(),
            sent: BTreeMap::new(),
            ended: BTreeMap::new(),
            answered: Vec::new(),
            received: Vec::new(),
            tokens: Vec::new(),
            deliveries: Vec::new(),
            closes: 0,
        }
    }

    fn input(&mut self, input: Input) {
        self.core.handle_input(self.now_ms, input);
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Send(packet) => self.to_peer.push_back(packet),
                Output::Close { .. } => {
                    self.closes += 1;
                    self.cut();
                }
                Output::Message(incoming) => {
                    self.received.push((incoming.qos, number(&incoming.payload)));
                    self.tokens.extend(incoming.ack);
                }
                Output::Published { token, result } => {
                    let before = self.ended.insert(token, result.is_ok());
                    assert_eq!(before, None, "publish {token} ended twice");
                }
                Output::Answered { token, result } => {
                    assert!(result.is_ok());
                    self.answered.push(token);
                }
                Output::Connected { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn cut(&mut self) {
        self.connected = false;
        self.to_peer.clear();
        self.to_core.clear();
        self.peer.disconnected();
    }

    fn connect(&mut self) {
        if !self.connected {
            self.connected = true;
            self.input(Input::Opened);
        }
    }

    fn step_to_peer(&mut self) {
        if let Some(packet) = self.to_peer.pop_front() {
            self.peer.receive(packet);
            self.to_core.extend(self.peer.out.drain(..));
        }
    }

    fn step_to_core(&mut self) {
        if let Some(packet) = self.to_core.pop_front() {
            self.input(Input::Received(packet));
        }
    }

    fn publish(&mut self) {
        if self.core.can_accept() {
            let token = self.sent.len() as u64;
            let qos = [QoS::AtLeastOnce, QoS::ExactlyOnce][self.rng.usize(..2)];
            self.sent.insert(token, qos);
            self.input(Input::Publish { token, publish: numbered(u32::try_from(token).unwrap(), qos) });
        }
    }

    fn deliver(&mut self) {
        let qos = [QoS::AtLeastOnce, QoS::ExactlyOnce][self.rng.usize(..2)];
        let number = u32::try_from(self.deliveries.len()).unwrap();
        self.deliveries.push(qos);
        self.peer.deliver(numbered(number, qos));
        if self.connected {
            self.to_core.extend(self.peer.out.drain(..));
        }
    }

    fn ack_some(&mut self) {
        if !self.tokens.is_empty() {
            let token = self.tokens.swap_remove(self.rng.usize(..self.tokens.len()));
            self.input(Input::Ack(token));
        }
    }

    fn subscribe(&mut self, token: u64) {
        let filter =
            SubscribeFilter { filter: format!("f/{token}").into(), options: SubscribeOptions::default() };
        self.input(Input::Subscribe { token, filters: vec![filter], user_properties: Vec::new() });
    }

    fn run(&mut self, steps: u32, lose_sessions: bool) {
        self.subscribe(1);
        for step in 0..steps {
            self.now_ms += self.rng.u64(0..3);
            match self.rng.u32(0..100) {
                0..30 => self.step_to_peer(),
                30..60 => self.step_to_core(),
                60..72 => self.publish(),
                72..82 => self.deliver(),
                82..90 => self.ack_some(),
                90..92 if self.connected => {
                    self.input(Input::Closed { why: "cut".to_owned() });
                    if lose_sessions && self.rng.bool() {
                        self.peer.lose_session();
                    }
                }
                92..99 => self.connect(),
                _ if step == steps / 2 => self.subscribe(2),
                _ => {
                    self.now_ms += self.rng.u64(0..20_000);
                    self.input(Input::Tick);
                }
            }
        }
        self.settle();
    }

    /// Without faults: everything must come to its end.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            self.connect();
            self.step_to_peer();
            self.step_to_core();
            self.ack_some();
            let quiet = self.to_peer.is_empty() && self.to_core.is_empty() && self.tokens.is_empty();
            if quiet && self.ended.len() == self.sent.len() && self.peer.is_idle() {
                return;
            }
            self.now_ms += 1;
        }
        let open = self.sent.keys().filter(|token| !self.ended.contains_key(token)).count();
        panic!(
            "not settled: {open} of {} publishes open, peer idle {}",
            self.sent.len(),
            self.peer.is_idle()
        );
    }

    fn check_everything_arrived_once(&self) {
        assert!(self.ended.values().all(|ok| *ok));
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let out: Vec<u32> = of(&self.peer.accepted, qos);
            let sent: Vec<u32> = self
                .sent
                .iter()
                .filter(|(_, q)| **q == qos)
                .map(|(t, _)| u32::try_from(*t).unwrap())
                .collect();
            let delivered: Vec<u32> =
                (0..).zip(&self.deliveries).filter(|(_, q)| **q == qos).map(|(number, _)| number).collect();
            let received = of(&self.received, qos);
            if qos == QoS::ExactlyOnce {
                // [MQTT-4.3.3-1] [MQTT-4.3.3-8]: exactly once each way, in order.
                assert_eq!(out, sent);
                assert_eq!(received, delivered);
            } else {
                // [MQTT-4.3.2-1]: at least once each way, first arrivals in order.
                assert_eq!(first_arrivals(&out), sent);
                assert_eq!(first_arrivals(&received), delivered);
            }
        }
    }
}

fn of(list: &[(QoS, u32)], qos: QoS) -> Vec<u32> {
    list.iter().filter(|(q, _)| *q == qos).map(|(_, number)| *number).collect()
}

fn first_arrivals(numbers: &[u32]) -> Vec<u32> {
    let mut seen = std::collections::BTreeSet::new();
    numbers.iter().copied().filter(|number| seen.insert(*number)).collect()
}

const SEEDS: u64 = 300;

#[test]
fn whatever_breaks_qos_2_arrives_once_and_qos_1_at_least_once_in_order() {
    let mut messages = 0;
    let mut twice = 0;
    for version in [ProtocolVersion::V5, ProtocolVersion::V311] {
        for manual_ack in [false, true] {
            for seed in 0..SEEDS {
                let mut world = World::new(seed, version, manual_ack);
                world.run(1_500, false);
                world.check_everything_arrived_once();
                assert!(world.answered.contains(&1));
                messages += world.sent.len() + world.deliveries.len();
                twice += world.peer.accepted.len() - world.sent.len();
            }
        }
    }
    // The test would prove nothing if the faults did nothing.
    assert!(messages > 100_000 && twice > 1_000, "{messages} messages, {twice} resends arrived");
}

#[test]
fn when_the_broker_loses_sessions_nothing_is_lost_and_subscriptions_come_back() {
    let mut sessions = 0;
    for seed in 0..SEEDS {
        let mut world = World::new(seed, ProtocolVersion::V5, seed % 2 == 0);
        world.run(1_500, true);
        assert!(world.ended.values().all(|ok| *ok));
        let mut accepted: Vec<u32> = world.peer.accepted.iter().map(|(_, number)| *number).collect();
        accepted.sort_unstable();
        accepted.dedup();
        assert_eq!(accepted.len(), world.sent.len(), "seed {seed}");
        for token in &world.answered {
            assert!(
                world.peer.subscriptions.contains(&format!("f/{token}")),
                "seed {seed}: f/{token} is not renewed"
            );
        }
        let mut received: Vec<u32> = world.received.iter().map(|(_, number)| *number).collect();
        received.sort_unstable();
        received.dedup();
        assert_eq!(received.len(), world.deliveries.len(), "seed {seed}");
        sessions += world.peer.sessions_begun;
    }
    assert!(sessions > 600, "{sessions} sessions");
}
