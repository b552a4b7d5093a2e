//! A device that was offline for long and whose power is cut again and again while it sends what it stored: a real device
//! process with the SDK's disk queue, killed with SIGKILL, and a real broker.
//!
//! `POSTRIDER_TEST_OUTAGE_RECORDS=259200` records what 72 hours at 1 Hz give; the pace is faster, the writes are those of 1 Hz.
//! What a cut leaves of a write, no kill shows: the simulation beside the queue does.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Lines};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use device_sdk::{Class, Client, Message, Options, QueueOptions, QueueStatus};
use protocol::ProtocolVersion::V5;
use protocol::{Packet, QoS};

use crate::broker_process::{Broker, Build};
use crate::raw_client::Next;

const RECORDS: &str = "POSTRIDER_TEST_OUTAGE_RECORDS";
const DEVICE: &str = "POSTRIDER_TEST_OUTAGE_DEVICE";
const TOPIC: &str = "dev/truck-7/telemetry/gps";
/// Live records during the upload: ten times the pace of 1 Hz, as the cuts are.
const LIVE_EVERY: Duration = Duration::from_millis(100);
const CUT_EVERY: Duration = Duration::from_secs(3);
/// The power is cut at the latest when another such part of the backlog is gone, however fast the machine is.
const CUT_AT_PARTS: u64 = 8;
/// How often the device says where it stands.
const STATUS_EVERY: Duration = Duration::from_millis(5);
/// Longest that a live record may take, 99 of 100 of them.
const LIVE_P99_MS: u64 = 2_000;
/// Bytes written for a byte of payload.
const WRITTEN_MAX: f64 = 1.5;

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// A fix as devices send it; the number is in the altitude.
fn fix(number: u64) -> String {
    format!(
        r#"{{"ts":{},"lat":31.23{:04},"lon":121.4737012,"alt":{number},"speed":13.89,"course":271.2,"hdop":0.9,"sats":11,"fix":3}}"#,
        now_ms(),
        number % 10_000,
    )
}

fn field(payload: &str, name: &str) -> u64 {
    let rest = payload.split_once(name).expect("the field is there").1;
    rest.split(',').next().unwrap().parse().unwrap()
}

/// What the device's process is told.
struct Device {
    dir: PathBuf,
    broker: String,
    from: u64,
    to: u64,
}

impl Device {
    fn of_this_process() -> Option<Self> {
        let text = std::env::var(DEVICE).ok()?;
        let mut words = text.split('|');
        let mut word = || words.next().expect("four words").to_owned();
        Some(Self {
            dir: word().into(),
            broker: word(),
            from: word().parse().unwrap(),
            to: word().parse().unwrap(),
        })
    }
}

struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(dir: &Path, broker: &str, from: u64, to: u64) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "e2e::outage::child_that_is_a_device", "--nocapture", "--test-threads=1"])
            .env(DEVICE, format!("{}|{broker}|{from}|{to}", dir.display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn child_that_is_a_device() {
    let Some(device) = Device::of_this_process() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(live(device));
}

async fn live(device: Device) {
    let began = Instant::now();
    // Two milliseconds for two seconds: two records share a write, as at 1 Hz.
    let queue = QueueOptions { group_ms: 2, ..QueueOptions::new(&device.dir, 256 * 1024 * 1024) };
    let options = Options { queue: Some(queue), ..Options::new(device.broker, "truck-7") };
    let (client, events) = Client::spawn(options).unwrap();
    drop(events);
    let opened_ms = began.elapsed().as_millis();
    println!("\nopened {opened_ms} {}", client.queue_status().unwrap().entries);
    if device.to > 0 {
        for number in (device.from..device.to).step_by(2) {
            let first = client.enqueue_soon(Class::Live, Message::new(TOPIC, fix(number))).await.unwrap();
            let second =
                client.enqueue_soon(Class::Live, Message::new(TOPIC, fix(number + 1))).await.unwrap();
            first.wait().await.unwrap();
            second.wait().await.unwrap();
            println!("accepted {} {}", number, number + 1);
        }
        tell(&client);
        println!("recorded");
        std::future::pending::<()>().await;
    }
    let (mut every, mut looks) = (tokio::time::interval(LIVE_EVERY), tokio::time::interval(STATUS_EVERY));
    for number in device.from.. {
        // Before the next record comes: with the last one gone nothing is left.
        loop {
            tokio::select! {
                _ = every.tick() => break,
                _ = looks.tick() => tell(&client),
            }
        }
        client.enqueue_as(Class::Live, Message::new(TOPIC, fix(number))).await.unwrap();
        println!("accepted {number}");
    }
}

fn tell(client: &Client) {
    let QueueStatus { entries, payload_bytes, written_bytes, .. } = client.queue_status().unwrap();
    println!("status {entries} {payload_bytes} {written_bytes} {}", resident_kb());
}

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0)
}

/// What the device said over all its lives.
#[derive(Default)]
struct Said {
    accepted: BTreeSet<u64>,
    entries: u64,
    payload_bytes: u64,
    written_bytes: u64,
    resident_kb: u64,
    opened_ms: Vec<u64>,
}

/// What one life said of itself.
#[derive(Default)]
struct Life {
    payload_bytes: u64,
    written_bytes: u64,
}

impl Said {
    /// Takes what a life says until `until` is reached; false when it ended.
    fn listen(
        &mut self,
        process: &mut Process,
        life: &mut Life,
        until: impl Fn(&Self, &str) -> bool,
    ) -> bool {
        for line in process.lines.by_ref().map_while(Result::ok) {
            let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
            let mut numbers = rest.split(' ').map_while(|number| number.parse::<u64>().ok());
            match word {
                "accepted" => self.accepted.extend(numbers),
                "opened" => self.opened_ms.extend(numbers.next()),
                "status" => {
                    let mut next = || numbers.next().unwrap_or(0);
                    self.entries = next();
                    (life.payload_bytes, life.written_bytes) = (next(), next());
                    self.resident_kb = self.resident_kb.max(next());
                }
                _ => {}
            }
            if until(self, word) {
                return true;
            }
        }
        false
    }

    fn end(&mut self, life: &Life) {
        self.payload_bytes += life.payload_bytes;
        self.written_bytes += life.written_bytes;
    }
}

/// What the subscriber got: how often, and when it came after it was made.
#[derive(Default)]
struct Got {
    times: BTreeMap<u64, u32>,
    took_ms: BTreeMap<u64, u64>,
}

fn subscribe(broker: &Broker, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<Got> {
    let (mut subscriber, _) = broker.durable("office", V5);
    subscriber.subscribe("dev/+/telemetry/#", QoS::AtLeastOnce);
    std::thread::spawn(move || {
        let mut subscriber = subscriber.acknowledging();
        let mut got = Got::default();
        loop {
            match subscriber.next_within(Duration::from_millis(200)) {
                Next::Packet(Packet::Publish(publish)) => {
                    let payload = std::str::from_utf8(&publish.payload).expect("JSON");
                    let number = field(payload, "\"alt\":");
                    *got.times.entry(number).or_default() += 1;
                    got.took_ms.entry(number).or_insert(now_ms().saturating_sub(field(payload, "\"ts\":")));
                }
                Next::Packet(_) => {}
                Next::Nothing if stop.load(Ordering::Acquire) => return got,
                Next::Nothing => {}
                Next::Closed => panic!("the broker closed the subscriber's connection"),
            }
        }
    })
}

#[test]
fn nothing_stored_offline_is_lost_or_doubled_by_power_cuts_during_the_upload() {
    let records: u64 = std::env::var(RECORDS).map_or(6_000, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut said = Said::default();

    // Offline: nobody listens there any more.
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut process = Process::start(dir.path(), &nowhere.to_string(), 0, records);
    let mut life = Life::default();
    assert!(said.listen(&mut process, &mut life, |_, word| word == "recorded"), "the device ended");
    process.kill();
    said.end(&life);
    assert_eq!(said.accepted.len() as u64, records);

    // As small a memory for ids beside so large a backlog as a broker has whose users are many: what comes again must come soon. It is
    // larger than what a device may send again at once: the 4,096 acknowledgements that it has not written down yet, and what is under way.
    let config = format!("[im]\ndedup_ids_max = {}\n", (records / 3).max(10_000));
    let broker = Broker::start_with(Build::Release, Some(&config));
    let stop = Arc::new(AtomicBool::new(false));
    let subscriber = subscribe(&broker, stop.clone());
    let (mut cuts, began) = (0, Instant::now());
    let mut chance = fastrand::Rng::with_seed(7);
    // The first cuts come soon, so that a short upload sees some.
    let (mut lasts, mut left_min) =
        (Duration::from_millis(chance.u64(200..400)), records - records / CUT_AT_PARTS);
    loop {
        let from = said.accepted.last().unwrap() + 1_000;
        let mut process = Process::start(dir.path(), &broker.address().to_string(), from, 0);
        let (mut life, started) = (Life::default(), Instant::now());
        let is_up = said.listen(&mut process, &mut life, |said, word| {
            word == "status" && (said.entries <= left_min || started.elapsed() >= lasts)
        });
        assert!(is_up, "the device ended");
        process.kill();
        // What it said before it died counts too.
        said.listen(&mut process, &mut life, |_, _| false);
        said.end(&life);
        if said.entries == 0 {
            break;
        }
        cuts += 1;
        left_min = said.entries.min(left_min).saturating_sub(records / CUT_AT_PARTS);
        lasts = (lasts * 2).min(CUT_EVERY) + Duration::from_millis(chance.u64(0..200));
    }
    let upload = began.elapsed();
    // The last life's newest record may have been under way.
    let mut process = Process::start(dir.path(), &broker.address().to_string(), u64::MAX / 2, 0);
    assert!(
        said.listen(&mut process, &mut Life::default(), |said, word| word == "status" && said.entries == 0)
    );
    process.kill();
    said.listen(&mut process, &mut Life::default(), |_, _| false);
    let last_life: Vec<u64> = said.accepted.range(u64::MAX / 2..).copied().collect();
    stop.store(true, Ordering::Release);
    let got = subscriber.join().unwrap();

    let lost: Vec<_> =
        said.accepted.iter().filter(|n| !got.times.contains_key(n) && !last_life.contains(n)).collect();
    let doubled: Vec<_> = got.times.iter().filter(|(_, times)| **times > 1).collect();
    let mut live_ms: Vec<u64> =
        got.took_ms.range(records..u64::MAX / 2).map(|(_, took_ms)| *took_ms).collect();
    live_ms.sort_unstable();
    let p99 = live_ms.get(live_ms.len() * 99 / 100).copied().unwrap_or(0);
    let ratio = said.written_bytes as f64 / said.payload_bytes as f64;
    println!(
        "{records} records offline, {} live; {cuts} cuts in {upload:.1?}; {} lost, {} doubled; {ratio:.3} bytes written a byte; \
         live p50 {} ms, p99 {p99} ms, max {} ms; opened in {:?} ms; resident {} KB at most",
        live_ms.len(),
        lost.len(),
        doubled.len(),
        live_ms.get(live_ms.len() / 2).copied().unwrap_or(0),
        live_ms.last().copied().unwrap_or(0),
        said.opened_ms,
        said.resident_kb,
    );
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert!(doubled.is_empty(), "doubled: {doubled:?}");
    assert!(cuts >= 2, "{cuts} cuts");
    assert!(ratio <= WRITTEN_MAX, "{ratio:.3}");
    assert!(p99 <= LIVE_P99_MS, "{p99} ms");
}
