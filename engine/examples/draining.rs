//! Fills the queues of sessions that are away, and drains them: `cargo run --release -p postrider-engine --example
//! draining`. What draining costs is counted exactly, whatever else the machine does, by
//! `valgrind --tool=callgrind --toggle-collect='*drain_all*' target/release/examples/draining`.

mod durable;

use std::collections::VecDeque;
use std::time::Instant;

use engine::{Config, ConnId, Input, Now, Output, Recovery, Shard, Ticket};
use protocol::{Ack, ByteString, Bytes, Packet, PacketId, Publish, QoS, ReasonCode};

/// As the broker has it.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NOW: Now = Now { monotonic_ms: 1, unix_ms: 1_800_000_000_000 };
const SESSIONS: u64 = 50;
const MESSAGES: u64 = 100_000;
const PAYLOAD_BYTES: usize = 100;

/// A shard with its log.
struct Node {
    shard: Shard,
    log: Vec<Bytes>,
    committed: usize,
    fetches: VecDeque<(engine::FetchId, Vec<Ticket>)>,
    received: Vec<(ConnId, PacketId)>,
}

impl Node {
    fn input(&mut self, input: Input) {
        self.shard.handle(NOW, input);
        self.poll();
    }

    fn poll(&mut self) {
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Append { record, .. } => self.log.push(record),
                Output::Fetch { fetch, places } => self.fetches.push_back((fetch, places)),
                Output::Send { conn, packet: Packet::Publish(publish) } => {
                    self.received.extend(publish.packet_id.map(|id| (conn, id)));
                }
                _ => {}
            }
        }
    }

    fn commit(&mut self) {
        if self.committed < self.log.len() {
            self.committed = self.log.len();
            self.input(Input::Committed { ticket: Ticket(self.committed as u64) });
        }
    }

    fn connect(&mut self, n: u64) {
        self.input(durable::connect(n));
        self.commit();
    }

    fn subscribe(&mut self, n: u64) {
        self.input(Input::Packet { conn: ConnId(n), packet: durable::subscribe(n) });
        self.commit();
    }

    fn publish(&mut self, to: u64) {
        let (qos, packet_id) = (QoS::AtLeastOnce, Some(PacketId::MIN));
        let (topic, payload) = (ByteString::from(format!("q/{to}/a")), vec![b'x'; PAYLOAD_BYTES].into());
        let publish = Publish { qos, packet_id, topic, payload, ..Publish::default() };
        self.input(Input::Packet { conn: ConnId(0), packet: Packet::Publish(publish) });
        self.commit();
    }

    fn queued(&self) -> f64 {
        self.shard.stats().queued as f64
    }
}

#[inline(never)]
fn drain_all(node: &mut Node) -> u64 {
    let mut delivered = 0;
    (1..=SESSIONS).for_each(|n| node.connect(n));
    loop {
        node.commit();
        for (fetch, places) in std::mem::take(&mut node.fetches) {
            let records = places.iter().map(|place| node.log.get(place.0 as usize - 1).cloned()).collect();
            node.input(Input::Fetched { fetch, records });
        }
        node.commit();
        let received = std::mem::take(&mut node.received);
        if received.is_empty() && node.fetches.is_empty() {
            return delivered;
        }
        delivered += received.len() as u64;
        for (conn, id) in received {
            let ack = Ack::new(id, ReasonCode::Success);
            node.input(Input::Packet { conn, packet: Packet::PubAck(ack) });
        }
    }
}

fn main() {
    let config = Config { bodies_bytes_max: 1024 * 1024, ..Config::default() };
    let shard = Shard::recover(config, 1, NOW, Recovery::of_log([])).expect("an empty log");
    let (fetches, received) = (VecDeque::new(), Vec::new());
    let mut node = Node { shard, log: Vec::new(), committed: 0, fetches, received };
    node.connect(0);
    for n in 1..=SESSIONS {
        node.connect(n);
        node.subscribe(n);
        node.input(Input::Closed { conn: ConnId(n) });
    }
    node.commit();
    let before = node.shard.memory().bytes;
    let started = Instant::now();
    (0..MESSAGES).for_each(|n| node.publish(1 + n % SESSIONS));
    let per_message = started.elapsed().as_nanos() / u128::from(MESSAGES);
    println!("filled: {per_message} ns a message, {} records", node.log.len());
    let counted = (node.shard.memory().bytes - before) as f64 - 1024.0 * 1024.0;
    println!("counted beyond the bound: {:.1} bytes a message", counted / node.queued());
    let started = Instant::now();
    let delivered = drain_all(&mut node);
    let per_message = started.elapsed().as_nanos() / u128::from(MESSAGES);
    assert_eq!((delivered, node.queued() as u64), (MESSAGES, 0));
    println!("drained: {per_message} ns a message, {} bodies read", node.shard.stats().bodies_fetched);
}
