//! Measures how long it takes to take back 1,000,000 queued messages of 100,000 sessions from the rows of a view, and
//! what they need in memory: `cargo run --release -p postrider-engine --example opening`.

mod durable;

use std::collections::BTreeMap;
use std::time::Instant;

use engine::view::Projector;
use engine::{Config, ConnId, Input, Now, Output, Recovery, Shard, Ticket};
use protocol::{ByteString, Bytes, Packet, PacketId, Publish, QoS};

/// As the broker has it.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NOW: Now = Now { monotonic_ms: 1, unix_ms: 1_800_000_000_000 };
const SESSIONS: u64 = 100_000;
const MESSAGES: u64 = 1_000_000;
const PAYLOAD_BYTES: usize = 200;

/// Bytes that wait in the projector when its rows are written.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

fn config() -> Config {
    Config { bodies_bytes_max: 64 * 1024 * 1024, ..Config::default() }
}

fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

/// Milliseconds that this process was on a processor: on a busy machine the time that passes says little.
fn on_processor_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0) / 1_000_000
}

/// A shard whose log is folded into rows and forgotten.
struct Filled {
    shard: Shard,
    projector: Projector,
    rows: BTreeMap<Bytes, Bytes>,
    newest: Ticket,
}

impl Filled {
    fn input(&mut self, input: Input) {
        self.shard.handle(NOW, input);
        self.drain();
        self.shard.handle(NOW, Input::Committed { ticket: self.newest });
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.shard.poll_output() {
            if let Output::Append { ticket, record } = output {
                self.newest = ticket;
                self.projector.push(ticket, &record).expect("the engine wrote it");
                if self.projector.pending_bytes() > BATCH_BYTES {
                    self.flush();
                }
            }
        }
    }

    fn flush(&mut self) {
        let rows = &self.rows;
        let written = self.projector.flush(|key| rows.get(key).cloned()).expect("rows and log agree");
        for (key, value) in written {
            match value {
                Some(value) => drop(self.rows.insert(key, value)),
                None => drop(self.rows.remove(&key)),
            }
        }
    }

    fn packet(&mut self, conn: u64, packet: Packet) {
        self.input(Input::Packet { conn: ConnId(conn), packet });
    }

    fn session(&mut self, n: u64) {
        self.input(durable::connect(n));
        self.packet(n, durable::subscribe(n));
        if n > 0 {
            self.input(Input::Closed { conn: ConnId(n) });
        }
    }

    fn publish(&mut self, to: u64) {
        let (qos, packet_id) = (QoS::AtLeastOnce, Some(PacketId::MIN));
        let (topic, payload) = (ByteString::from(format!("q/{to}/a")), vec![b'x'; PAYLOAD_BYTES].into());
        self.packet(0, Packet::Publish(Publish { qos, packet_id, topic, payload, ..Publish::default() }));
    }
}

fn main() {
    let shard = Shard::recover(config(), 1, NOW, Recovery::of_log([])).expect("an empty log");
    let mut filled = Filled { shard, projector: Projector::new(), rows: BTreeMap::new(), newest: Ticket(0) };
    let started = Instant::now();
    (0..=SESSIONS).for_each(|n| filled.session(n));
    let sessions_bytes = filled.shard.memory().bytes;
    (0..MESSAGES).for_each(|n| filled.publish(1 + n % SESSIONS));
    filled.flush();
    let queued = filled.shard.stats().queued;
    println!("filled in {:.1} s: {queued} messages queued", started.elapsed().as_secs_f64());
    let counted = filled.shard.memory().bytes;
    println!("counted: sessions {:.1} MB, all {:.1} MB", sessions_bytes as f64 / 1e6, counted as f64 / 1e6);
    let next = Ticket(filled.newest.0 + 1);
    let applied = filled.newest;
    let rows: Vec<_> = std::mem::take(&mut filled.rows).into_iter().collect();
    drop(filled);
    let row_bytes: usize = rows.iter().map(|(key, value)| key.len() + value.len()).sum();
    println!("{} rows of {:.1} MB", rows.len(), row_bytes as f64 / 1e6);
    let before = resident_bytes();
    let (started, ran_ms) = (Instant::now(), on_processor_ms());
    let from = Recovery { rows: rows.into_iter(), applied, records: std::iter::empty(), next };
    let shard = Shard::recover(config(), 2, NOW, from).expect("the rows are in order");
    let (took, ran_ms) = (started.elapsed(), on_processor_ms() - ran_ms);
    let grew = resident_bytes().saturating_sub(before);
    assert_eq!(shard.stats().queued, queued);
    let counted = shard.memory().bytes;
    println!(
        "taken back in {:.2} s, {ran_ms} ms of them on a processor; counted {:.1} MB, resident {:.1} MB more",
        took.as_secs_f64(),
        counted as f64 / 1e6,
        grew as f64 / 1e6
    );
    let per_message = (counted.saturating_sub(sessions_bytes)) as f64 / queued as f64;
    println!("{per_message:.0} bytes counted a queued message of {PAYLOAD_BYTES} bytes");
}
