//! Measures how long it takes to take back 1,000,000 queued messages of 100,000 sessions from the rows of a view, and
//! what they need in memory, in a process that has done nothing else: `cargo run --release -p postrider-engine --example opening`.

mod durable;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

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

impl Filled {
    /// Writes the rows that a view has by now.
    fn save(&mut self, file: &Path) -> io::Result<()> {
        self.flush();
        let mut out = BufWriter::new(File::create(file)?);
        out.write_all(&self.newest.0.to_le_bytes())?;
        for (key, value) in &self.rows {
            for part in [key, value] {
                out.write_all(&(part.len() as u32).to_le_bytes())?;
                out.write_all(part)?;
            }
        }
        out.flush()
    }
}

/// The rows of a file, read one by one as a view gives them.
struct Rows(BufReader<File>);

impl Rows {
    fn part(&mut self) -> io::Result<Bytes> {
        let mut len = [0; 4];
        self.0.read_exact(&mut len)?;
        let mut part = vec![0; u32::from_le_bytes(len) as usize];
        self.0.read_exact(&mut part)?;
        Ok(part.into())
    }
}

impl Iterator for Rows {
    type Item = (Bytes, Bytes);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.part().ok()?;
        Some((key, self.part().expect("a value follows its key")))
    }
}

/// Opens what a file says, in a process that has done nothing else; returns the bytes that became resident.
fn take_back(file: &Path) -> io::Result<usize> {
    let mut from = BufReader::with_capacity(1 << 20, File::open(file)?);
    let mut applied = [0; 8];
    from.read_exact(&mut applied)?;
    let applied = Ticket(u64::from_le_bytes(applied));
    let before = resident_bytes();
    let (started, ran_ms) = (Instant::now(), on_processor_ms());
    let next = Ticket(applied.0 + 1);
    let from = Recovery { rows: Rows(from), applied, records: std::iter::empty(), next };
    let mut shard = Shard::recover(config(), 2, NOW, from).expect("the rows are in order");
    let (took, ran_ms) = (started.elapsed(), on_processor_ms() - ran_ms);
    while shard.poll_output().is_some() {}
    // What was freed goes back to the system a little later, when something is allocated.
    let at_once = resident_bytes().saturating_sub(before);
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(150));
        drop(Vec::<u8>::with_capacity(64 << 20));
        shard.handle(NOW, Input::Timer);
    }
    let later = resident_bytes().saturating_sub(before);
    let (queued, counted) = (shard.stats().queued, shard.memory().bytes);
    println!(
        "{queued} messages queued: taken back in {:.2} s, {ran_ms} ms of them on a processor; counted {:.1} MB, \
        resident {:.1} MB more at once, {:.1} MB when it was idle for 0.4 s",
        took.as_secs_f64(),
        counted as f64 / 1e6,
        at_once as f64 / 1e6,
        later as f64 / 1e6
    );
    std::fs::write(file.with_extension("resident"), format!("{later} {counted} {queued}"))?;
    Ok(later)
}

/// Has a file opened by a process of its own; returns what became resident, what was counted, and how many wait.
fn measured(file: &Path) -> [f64; 3] {
    let this = std::env::current_exe().expect("the program has a file");
    let status = std::process::Command::new(this).arg(file).status().expect("it starts again");
    assert!(status.success());
    let said = std::fs::read_to_string(file.with_extension("resident")).expect("it was written");
    let numbers: Vec<f64> = said.split(' ').filter_map(|number| number.parse().ok()).collect();
    numbers.try_into().expect("there are three")
}

fn main() -> io::Result<()> {
    if let Some(file) = std::env::args_os().nth(1) {
        return take_back(Path::new(&file)).map(drop);
    }
    let folder = std::env::temp_dir().join(format!("opening-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let shard = Shard::recover(config(), 1, NOW, Recovery::of_log([])).expect("an empty log");
    let mut filled = Filled { shard, projector: Projector::new(), rows: BTreeMap::new(), newest: Ticket(0) };
    let started = Instant::now();
    (0..=SESSIONS).for_each(|n| filled.session(n));
    let (sessions, messages) = (folder.join("sessions"), folder.join("messages"));
    filled.save(&sessions)?;
    (0..MESSAGES).for_each(|n| filled.publish(1 + n % SESSIONS));
    filled.save(&messages)?;
    let row_bytes: usize = filled.rows.iter().map(|(key, value)| key.len() + value.len()).sum();
    println!(
        "filled in {:.1} s: {} rows of {:.1} MB",
        started.elapsed().as_secs_f64(),
        filled.rows.len(),
        row_bytes as f64 / 1e6
    );
    drop(filled);
    let [of_sessions, counted_before, none] = measured(&sessions);
    let [of_all, counted, queued] = measured(&messages);
    std::fs::remove_dir_all(&folder)?;
    assert_eq!((none as u64, queued as u64), (0, MESSAGES));
    println!(
        "a queued message of {PAYLOAD_BYTES} bytes: {:.0} bytes counted, {:.0} resident",
        (counted - counted_before) / queued,
        (of_all - of_sessions) / queued
    );
    Ok(())
}
