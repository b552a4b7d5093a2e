//! Publishes to sessions that are away and whose queues are full, so that each message takes the place of the oldest in each:
//! `cargo run --release -p postrider-engine --example full_queues`. What it costs is counted exactly, whatever else the machine does, by
//! `valgrind --tool=callgrind --toggle-collect='*publish_all*' target/release/examples/full_queues`, and what the view makes of it
//! with `'*take_in*'`.

mod durable;

use std::collections::BTreeMap;
use std::time::Instant;

use engine::view::Projector;
use engine::{Config, ConnId, Input, Now, Output, Recovery, Shard, Ticket};
use protocol::{Bytes, Packet, PacketId, Publish, QoS};

/// As the broker has it.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NOW: Now = Now { monotonic_ms: 1, unix_ms: 1_800_000_000_000 };
const SESSIONS: u64 = 66;
const PUBLISHER: u64 = SESSIONS;
const QUEUE_MESSAGES: usize = 1_000;
const MESSAGES: u64 = 20_000;

/// Bytes that the view holds for one batch, as the broker has it.
const BATCH_PENDING_BYTES: usize = 32 * 1024 * 1024;

struct Node {
    shard: Shard,
    log: Vec<Bytes>,
}

impl Node {
    fn input(&mut self, input: Input) {
        self.shard.handle(NOW, input);
        self.poll();
        while self.shard.next_deadline_ms() == Some(0) {
            self.shard.handle(NOW, Input::Timer);
            self.poll();
        }
        self.shard.handle(NOW, Input::Committed { ticket: Ticket(self.log.len() as u64) });
        self.poll();
    }

    fn poll(&mut self) {
        while let Some(output) = self.shard.poll_output() {
            if let Output::Append { record, .. } = output {
                self.log.push(record);
            }
        }
    }
}

#[inline(never)]
fn publish_all(node: &mut Node, publish: &Packet, messages: u64) {
    for _ in 0..messages {
        node.input(Input::Packet { conn: ConnId(PUBLISHER), packet: publish.clone() });
    }
}

/// Takes records into rows as the broker's view does; returns how many batches that were, and the rows written.
#[inline(never)]
fn take_in(rows: &mut BTreeMap<Bytes, Bytes>, log: &[Bytes], first: u64) -> (usize, usize) {
    let (mut projector, mut batches, mut written) = (Projector::new(), 0, 0);
    for (at, record) in log.iter().enumerate() {
        projector.push(Ticket(first + at as u64), record).expect("the engine wrote it");
        if projector.pending_bytes() < BATCH_PENDING_BYTES && at + 1 < log.len() {
            continue;
        }
        batches += 1;
        for (key, row) in projector.flush(|key| rows.get(key).cloned()).expect("rows and log agree") {
            written += 1;
            match row {
                Some(row) => drop(rows.insert(key, row)),
                None => drop(rows.remove(&key)),
            }
        }
    }
    (batches, written)
}

fn main() {
    let config = Config { queue_messages_max: QUEUE_MESSAGES, ..Config::default() };
    let shard = Shard::recover(config, 1, NOW, Recovery::of_log([])).expect("an empty log");
    let mut node = Node { shard, log: Vec::new() };
    for n in 0..SESSIONS {
        node.input(durable::connect(n));
        let mut subscribe = durable::subscribe(n);
        if let Packet::Subscribe(subscribe) = &mut subscribe {
            subscribe.filters[0].filter = "t".into();
        }
        node.input(Input::Packet { conn: ConnId(n), packet: subscribe });
        node.input(Input::Closed { conn: ConnId(n) });
    }
    node.input(durable::connect(PUBLISHER));
    let (qos, packet_id, payload) = (QoS::AtLeastOnce, Some(PacketId::MIN), vec![7; 50].into());
    let publish =
        Packet::Publish(Publish { qos, packet_id, topic: "t".into(), payload, ..Publish::default() });
    publish_all(&mut node, &publish, QUEUE_MESSAGES as u64);
    let mut rows = BTreeMap::new();
    take_in(&mut rows, &node.log, 1);

    let (filled, began) = (node.log.len(), Instant::now());
    publish_all(&mut node, &publish, MESSAGES);
    let published = began.elapsed();
    let bytes: usize = node.log[filled..].iter().map(Bytes::len).sum();
    let records = node.log.len() - filled;
    let began = Instant::now();
    let (batches, written) = take_in(&mut rows, &node.log[filled..], filled as u64 + 1);
    let taken = began.elapsed();
    assert_eq!(node.shard.stats().dropped_queue_full, SESSIONS * MESSAGES, "each took the place of one");

    let each = |count: u128| count as f64 / (SESSIONS * MESSAGES) as f64;
    let bytes = each(bytes as u128);
    println!(
        "{MESSAGES} messages to {SESSIONS} full queues: {records} records, {bytes:.1} bytes a recipient"
    );
    println!("shard: {:.0} ns a recipient", each(published.as_nanos()));
    println!("view:  {:.0} ns a recipient, {batches} batches, {written} rows", each(taken.as_nanos()));
}
