//! Incoming QoS 2 messages over restarts of the program: none that it has done with is handed over again, none is lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use device_sdk::client::{Core, Input, Output, Received};
use device_sdk::{AckToken, Client, Event, Events, Options, ProtocolVersion, QoS, ReasonCode};
use protocol::{Ack, ConnAckProperties, Packet, PacketId, Publish};

use super::core_sim::config;
use super::model::connack;
use super::tcp_peer::{Connection, Listener, next_payload, soon};

fn publish(id: u16, payload: &str, dup: bool) -> Publish {
    Publish {
        dup,
        qos: QoS::ExactlyOnce,
        topic: "dev/truck-7/cmd".into(),
        packet_id: PacketId::new(id),
        payload: payload.to_owned().into(),
        ..Publish::default()
    }
}

fn ack(id: u16, reason: ReasonCode) -> Ack {
    Ack::new(PacketId::new(id).unwrap(), reason)
}

/// Where an exchange stands at the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exchange {
    Sent(u32),
    Released,
}

/// A broker that keeps its session, a device whose power fails, and what is on its disk.
struct World {
    rng: fastrand::Rng,
    core: Core,
    is_up: bool,
    /// Packets on their way to the broker.
    to_broker: VecDeque<Packet>,
    exchanges: BTreeMap<u16, Exchange>,
    next_message: u32,
    /// The program's, not acknowledged yet.
    in_hand: Vec<(u32, AckToken)>,
    /// Of the disk: asked for, and durable.
    asked: VecDeque<Output>,
    disk: BTreeMap<PacketId, Received>,
    /// Messages that were handed over, and those of them that the program has acknowledged durably.
    handed: BTreeSet<u32>,
    kept: BTreeSet<u32>,
    /// Messages whose PUBREC has left.
    answered: BTreeSet<u32>,
    message_of: BTreeMap<u64, u32>,
}

const MESSAGES: u32 = 40;

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            rng: fastrand::Rng::with_seed(seed),
            core: Core::new(config(ProtocolVersion::V5, true)),
            is_up: false,
            to_broker: VecDeque::new(),
            exchanges: BTreeMap::new(),
            next_message: 0,
            in_hand: Vec::new(),
            asked: VecDeque::new(),
            disk: BTreeMap::new(),
            handed: BTreeSet::new(),
            kept: BTreeSet::new(),
            answered: BTreeSet::new(),
            message_of: BTreeMap::new(),
        };
        world.start();
        world
    }

    /// The program starts with what is on disk.
    fn start(&mut self) {
        self.core = Core::new(config(ProtocolVersion::V5, true));
        self.core.keep_received(self.disk.values().copied().collect());
        self.in_hand.clear();
        self.is_up = false;
    }

    fn input(&mut self, input: Input) {
        self.core.handle_input(0, input);
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Send(packet) => {
                    if let Packet::PubRec(answer) = &packet
                        && let Some(Exchange::Sent(number)) = self.exchanges.get(&answer.packet_id.get())
                    {
                        self.answered.insert(*number);
                    }
                    self.to_broker.push_back(packet);
                }
                Output::Message(incoming) => {
                    let number = std::str::from_utf8(&incoming.payload).unwrap().parse().unwrap();
                    let is_done = self.kept.contains(&number) || self.answered.contains(&number);
                    assert!(!is_done, "message {number} is handed over again");
                    self.handed.insert(number);
                    self.in_hand.push((number, incoming.ack.unwrap()));
                }
                Output::Keep(_) | Output::Forget(_) => self.asked.push_back(output),
                // Only when the world cuts the link, which has no words for it.
                Output::Close { why } => assert_eq!(why, ""),
                _ => {}
            }
        }
    }

    /// The disk has done the oldest of what was asked.
    fn write(&mut self) -> Option<Input> {
        Some(match self.asked.pop_front()? {
            Output::Keep(received) => {
                self.disk.insert(received.packet_id, received);
                self.kept.insert(self.message_of[&received.fingerprint]);
                Input::Kept(received)
            }
            Output::Forget(id) => {
                self.disk.remove(&id);
                Input::Forgotten(id)
            }
            _ => unreachable!("only these are asked"),
        })
    }

    fn connect(&mut self) {
        self.to_broker.clear();
        self.input(Input::Opened);
        self.to_broker.clear();
        self.is_up = true;
        self.input(Input::Received(connack(true, ConnAckProperties::default())));
        for (id, exchange) in self.exchanges.clone() {
            self.input(Input::Received(match exchange {
                Exchange::Sent(number) => Packet::Publish(publish(id, &number.to_string(), true)),
                Exchange::Released => Packet::PubRel(ack(id, ReasonCode::Success)),
            }));
        }
    }

    fn send_new(&mut self) {
        let id = 1 + self.rng.u16(..3);
        if self.is_up && self.next_message < MESSAGES && !self.exchanges.contains_key(&id) {
            let number = self.next_message;
            self.next_message += 1;
            self.exchanges.insert(id, Exchange::Sent(number));
            let publish = publish(id, &number.to_string(), false);
            self.message_of.insert(fingerprint(&publish), number);
            self.input(Input::Received(Packet::Publish(publish)));
        }
    }

    fn answer(&mut self) {
        match self.to_broker.pop_front() {
            Some(Packet::PubRec(got)) if self.is_up => {
                let id = got.packet_id.get();
                assert!(self.exchanges.contains_key(&id), "PUBREC for {id}, which is not in use");
                self.exchanges.insert(id, Exchange::Released);
                self.input(Input::Received(Packet::PubRel(ack(id, ReasonCode::Success))));
            }
            Some(Packet::PubComp(got)) if self.is_up => {
                let id = got.packet_id.get();
                // A second PUBCOMP of an exchange that was released twice may be there.
                if self.exchanges.get(&id) == Some(&Exchange::Released) {
                    self.exchanges.remove(&id);
                }
            }
            _ => {}
        }
    }

    fn step(&mut self) {
        match self.rng.u32(..100) {
            0..3 => {
                // Power cut: what was asked of the disk may be there or not.
                for _ in 0..self.rng.usize(..=self.asked.len()) {
                    self.write();
                }
                self.asked.clear();
                self.to_broker.clear();
                self.start();
            }
            3..8 if self.is_up => {
                self.is_up = false;
                self.input(Input::Closed { why: String::new() });
            }
            8..30 if !self.is_up => self.connect(),
            30..50 => self.send_new(),
            50..70 => self.answer(),
            70..85 if !self.in_hand.is_empty() => {
                let (_, token) = self.in_hand.swap_remove(self.rng.usize(..self.in_hand.len()));
                self.input(Input::Ack(token));
            }
            _ => {
                if let Some(input) = self.write() {
                    self.input(input);
                }
            }
        }
    }
}

/// As the core makes it, to know a message by.
fn fingerprint(publish: &Publish) -> u64 {
    let mut core = Core::new(config(ProtocolVersion::V5, false));
    core.keep_received(Vec::new());
    let inputs = [
        Input::Opened,
        Input::Received(connack(true, ConnAckProperties::default())),
        Input::Received(Packet::Publish(publish.clone())),
    ];
    for input in inputs {
        core.handle_input(0, input);
    }
    let kept = std::iter::from_fn(|| core.poll_output())
        .find_map(|output| if let Output::Keep(received) = output { Some(received) } else { None });
    kept.expect("an automatic acknowledgement is kept at once").fingerprint
}

#[test]
fn over_cuts_of_link_and_power_every_message_comes_and_none_again_that_was_done() {
    for seed in 0..300 {
        let mut world = World::new(seed);
        let mut steps = 0;
        while world.next_message < MESSAGES || !world.exchanges.is_empty() {
            world.step();
            steps += 1;
            assert!(steps < 50_000, "seed {seed} hangs: {:?}", world.exchanges);
        }
        let all: BTreeSet<u32> = (0..MESSAGES).collect();
        assert_eq!(world.handed, all, "seed {seed}");
        assert_eq!(world.kept, all, "seed {seed}");
    }
}

#[test]
fn a_kept_identifier_hides_no_other_message() {
    let kept = |payload: &str| {
        let fingerprint = fingerprint(&publish(5, payload, false));
        let mut core = Core::new(config(ProtocolVersion::V5, true));
        core.keep_received(vec![Received { packet_id: PacketId::new(5).unwrap(), fingerprint }]);
        core
    };
    for (session_present, payload, dup, is_handed_over) in [
        (true, "open", true, false),
        // Another session's: the broker forgot, began anew, or served another program in between.
        (true, "open", false, true),
        (true, "close", true, true),
        (false, "open", true, true),
    ] {
        let mut core = kept("open");
        core.handle_input(0, Input::Opened);
        core.handle_input(0, Input::Received(connack(session_present, ConnAckProperties::default())));
        core.handle_input(0, Input::Received(Packet::Publish(publish(5, payload, dup))));
        let outputs: Vec<Output> = std::iter::from_fn(|| core.poll_output()).collect();
        let handed_over = outputs.iter().any(|output| matches!(output, Output::Message(_)));
        assert_eq!(handed_over, is_handed_over, "{payload} dup={dup} session={session_present}");
        let answer = Packet::PubRec(ack(5, ReasonCode::Success));
        let answered =
            outputs.iter().any(|output| matches!(output, Output::Send(packet) if *packet == answer));
        assert_eq!(answered, !is_handed_over, "what was done is answered at once");
    }
}

async fn start(options: &Options, listener: &Listener, present: bool) -> (Client, Events, Connection) {
    let (client, mut events) = Client::spawn(options.clone()).unwrap();
    let connection = listener.session(present).await;
    assert!(matches!(soon("a connection", events.next()).await, Some(Event::Connected { .. })));
    (client, events, connection)
}

#[tokio::test]
async fn after_a_restart_a_message_whose_pubrec_was_lost_is_answered_and_not_handed_over() {
    let dir = tempfile::tempdir().unwrap();
    let listener = Listener::new().await;
    let mut options = listener.options();
    options.received_dir = Some(dir.path().join("received"));
    let (client, mut events, mut connection) = start(&options, &listener, false).await;
    connection.send(Packet::Publish(publish(5, "open", false))).await;
    assert_eq!(next_payload(&mut events).await, b"open");
    assert_eq!(connection.packet().await, Packet::PubRec(ack(5, ReasonCode::Success)));
    // The directory is this client's alone.
    let error = Client::spawn(options.clone()).map(drop).unwrap_err().to_string();
    assert!(error.contains("received messages: "), "{error}");
    client.disconnect().await.unwrap();

    // The broker never got that PUBREC.
    let (client, mut events, mut connection) = start(&options, &listener, true).await;
    connection.send(Packet::Publish(publish(5, "open", true))).await;
    assert_eq!(connection.packet().await, Packet::PubRec(ack(5, ReasonCode::Success)));
    connection.send(Packet::PubRel(ack(5, ReasonCode::Success))).await;
    assert_eq!(connection.packet().await, Packet::PubComp(ack(5, ReasonCode::Success)));
    // The identifier is free again: the same words are another message.
    connection.send(Packet::Publish(publish(5, "open", false))).await;
    assert_eq!(next_payload(&mut events).await, b"open");
    assert_eq!(connection.packet().await, Packet::PubRec(ack(5, ReasonCode::Success)));
    client.disconnect().await.unwrap();

    // It did get this one, and lost only the end.
    let (client, mut events, mut connection) = start(&options, &listener, true).await;
    connection.send(Packet::PubRel(ack(5, ReasonCode::Success))).await;
    assert_eq!(connection.packet().await, Packet::PubComp(ack(5, ReasonCode::Success)));
    connection.send(Packet::Publish(publish(6, "last", false))).await;
    assert_eq!(next_payload(&mut events).await, b"last");
    client.disconnect().await.unwrap();
}
