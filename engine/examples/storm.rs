//! A storm: 50,000 sessions that were away come back at once, each with messages that left memory, while two clients
//! talk on. Told is what the two waited, in turns and in inputs of others, which no machine's load changes:
//! `cargo run --release -p postrider-engine --example storm [sessions]`.
//!
//! A turn is as the broker has it: the talker's message and 64 inputs of others, then what was read meanwhile, what
//! became durable, and the engine's own work. What is written or asked for in one turn is there in the next.

mod durable;

use std::collections::VecDeque;
use std::time::Instant;

use engine::{Config, ConnId, FetchId, Input, Now, Output, Recovery, Shard, Ticket};
use protocol::{Ack, ByteString, Bytes, Packet, PacketId, Publish, QoS, ReasonCode};

/// As the broker has it.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NOW: Now = Now { monotonic_ms: 1, unix_ms: 1_800_000_000_000 };
const SESSIONS: u64 = 50_000;
const MESSAGES_EACH: u64 = 10;
const PAYLOAD_BYTES: usize = 100;
const INPUTS_PER_TURN: usize = 64;

/// Who talks on: a publisher, and the session that it talks to.
const TALKER: u64 = 0;
const HEARER: u64 = u64::MAX;

/// What a message of the talker waited.
#[derive(Clone, Copy, Default)]
struct Waited {
    turns: u64,
    inputs: u64,
}

/// A shard with its log, and what its clients are about to say.
struct Node {
    shard: Shard,
    log: Vec<Bytes>,
    committed: usize,
    fetches: Vec<(FetchId, Vec<Ticket>)>,
    said: VecDeque<Input>,
    /// How many each session has got; they come in their order.
    got: Vec<u64>,
    turn: u64,
    inputs: u64,
    /// When the talker's messages were sent that are under way.
    talked: VecDeque<Waited>,
    waited: Vec<Waited>,
    /// Packets that one input made leave, at most.
    sent_most: u64,
    sent: u64,
}

impl Node {
    fn input(&mut self, input: Input) {
        let sent = self.sent;
        self.shard.handle(NOW, input);
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Append { record, .. } => self.log.push(record),
                Output::Fetch { fetch, places } => self.fetches.push((fetch, places)),
                Output::Send { conn, packet: Packet::Publish(publish) } => self.receive(conn, &publish),
                _ => {}
            }
        }
        self.inputs += 1;
        self.sent_most = self.sent_most.max(self.sent - sent);
    }

    fn receive(&mut self, conn: ConnId, publish: &Publish) {
        self.sent += 1;
        let packet_id = publish.packet_id.expect("all is QoS 1");
        let ack = Packet::PubAck(Ack::new(packet_id, ReasonCode::Success));
        let ack = Input::Packet { conn, packet: ack };
        if conn == ConnId(HEARER) {
            // Who says little is served before those who say much.
            self.said.push_front(ack);
            let since = self.talked.pop_front().expect("it was sent");
            self.waited.push(Waited { turns: self.turn - since.turns, inputs: self.inputs - since.inputs });
            return;
        }
        self.said.push_back(ack);
        let number = publish.payload.first_chunk().map_or(0, |number| u64::from_le_bytes(*number));
        let got = &mut self.got[conn.0 as usize];
        assert_eq!(number, *got, "client {} got another message than its next", conn.0);
        *got += 1;
    }

    fn commit(&mut self, to: usize) {
        if self.committed < to {
            self.committed = to;
            self.input(Input::Committed { ticket: Ticket(to as u64) });
        }
    }

    /// Does something and has it durable at once.
    fn now(&mut self, input: Input) {
        self.input(input);
        self.commit(self.log.len());
    }

    fn publish(topic: String, number: u64) -> Input {
        let mut payload = vec![b'x'; PAYLOAD_BYTES];
        payload[..8].copy_from_slice(&number.to_le_bytes());
        let (qos, packet_id) = (QoS::AtLeastOnce, Some(PacketId::MIN));
        let (topic, payload) = (ByteString::from(topic), payload.into());
        let packet = Packet::Publish(Publish { qos, packet_id, topic, payload, ..Publish::default() });
        Input::Packet { conn: ConnId(TALKER), packet }
    }

    fn arrive(&mut self, n: u64) {
        self.now(durable::connect(n));
        self.now(Input::Packet { conn: ConnId(n), packet: durable::subscribe(n) });
    }

    /// Says whether anything was left to do.
    fn turn(&mut self) -> bool {
        self.turn += 1;
        let (written, fetches) = (self.log.len(), std::mem::take(&mut self.fetches));
        self.talked.push_back(Waited { turns: self.turn, inputs: self.inputs });
        self.input(Self::publish(format!("q/{HEARER}/a"), 0));
        let said = self.said.len().min(INPUTS_PER_TURN);
        for input in self.said.drain(..said).collect::<Vec<_>>() {
            self.input(input);
        }
        let fetched = fetches.len();
        for (fetch, places) in fetches {
            let records = places.iter().map(|place| self.log.get(place.0 as usize - 1).cloned()).collect();
            self.input(Input::Fetched { fetch, records });
        }
        self.commit(written);
        if self.shard.next_deadline_ms() == Some(0) {
            self.input(Input::Timer);
        }
        said + fetched > 1
    }
}

/// The highest of all but so many in a thousand.
fn highest(waited: &[Waited], but: usize, what: impl Fn(&Waited) -> u64) -> u64 {
    let mut all: Vec<_> = waited.iter().map(what).collect();
    all.sort_unstable();
    all[(all.len() - 1) * (1_000 - but) / 1_000]
}

fn main() {
    let sessions = std::env::args().nth(1).map_or(SESSIONS, |text| text.parse().expect("a number"));
    let config = Config { bodies_bytes_max: 16 << 20, sessions_max: 1 << 20, ..Config::default() };
    let shard = Shard::recover(config, 1, NOW, Recovery::of_log([])).expect("an empty log");
    let mut node = Node {
        shard,
        log: Vec::new(),
        committed: 0,
        fetches: Vec::new(),
        said: VecDeque::new(),
        got: vec![0; sessions as usize + 1],
        turn: 0,
        inputs: 0,
        talked: VecDeque::new(),
        waited: Vec::new(),
        sent_most: 0,
        sent: 0,
    };
    node.arrive(TALKER);
    node.arrive(HEARER);
    for n in 1..=sessions {
        node.arrive(n);
        node.now(Input::Closed { conn: ConnId(n) });
    }
    for number in 0..MESSAGES_EACH {
        (1..=sessions).for_each(|n| node.now(Node::publish(format!("q/{n}/a"), number)));
    }
    let memory = node.shard.memory().bytes;
    // All of them at once.
    node.said.extend((1..=sessions).map(durable::connect));
    (node.inputs, node.sent_most) = (0, 0);
    let started = Instant::now();
    let mut memory_most = memory;
    while node.turn() {
        memory_most = memory_most.max(node.shard.memory().bytes);
    }
    node.turn();
    let took = started.elapsed();
    assert!(node.got.iter().skip(1).all(|got| *got == MESSAGES_EACH), "somebody was forgotten");
    assert!(node.talked.len() <= 1, "the hearer was forgotten");
    let (waited, drained) = (&node.waited, sessions * MESSAGES_EACH);
    println!("{sessions} sessions came back and got {MESSAGES_EACH} messages each, in their order");
    println!(
        "{} turns, {} inputs, {:.2} us a message, {} bodies read again, memory {:.0} MB at rest, {:.0} MB at most",
        node.turn,
        node.inputs,
        took.as_secs_f64() * 1e6 / drained as f64,
        node.shard.stats().bodies_fetched,
        memory as f64 / 1e6,
        memory_most as f64 / 1e6
    );
    println!(
        "the hearer got {} messages, each after {} turns at most (99.9 %: {}) and {} inputs of others (99.9 %: {})",
        waited.len(),
        highest(waited, 0, |w| w.turns),
        highest(waited, 1, |w| w.turns),
        highest(waited, 0, |w| w.inputs),
        highest(waited, 1, |w| w.inputs)
    );
    println!("one input made {} packets leave at most", node.sent_most);
}
