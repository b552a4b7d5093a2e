//! The store when the disk is full, and when it was damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use protocol::ProtocolVersion::{V5, V311};
use protocol::{Packet, QoS, ReasonCode};

use crate::broker_process::{Broker, Build, postrider, wait_for_exit};
use crate::raw_client::{Next, PATIENCE, RawClient, message};

const SMALL_SEGMENTS: &str = "[store]\nsegment_bytes = 262144\n";
const PAYLOAD_BYTES: usize = 4_096;

fn payload(number: usize) -> Vec<u8> {
    let mut payload = format!("{number:08}").into_bytes();
    payload.resize(PAYLOAD_BYTES, b'.');
    payload
}

/// Publishes numbered messages until one is refused; returns how many were accepted, and the refusal.
fn fill(publisher: &mut RawClient) -> (usize, ReasonCode) {
    for number in 0..100_000 {
        let ack = publisher.publish(message("fill", payload(number), QoS::AtLeastOnce)).expect("an ack");
        if ack.reason.is_failure() {
            return (number, ack.reason);
        }
    }
    panic!("the store took 400 MB: it is not limited");
}

/// Fills the store of a broker and checks what the contract promises about it.
fn a_full_store_refuses_and_loses_nothing(broker: &mut Broker) {
    let (mut offline, _) = broker.durable("offline", V5);
    offline.subscribe("fill", QoS::AtLeastOnce);
    offline.disconnect();
    let mut bystander = broker.client("bystander", V5);
    bystander.subscribe("chat", QoS::AtMostOnce);
    let mut publisher = broker.client("publisher", V5);
    let (accepted, refusal) = fill(&mut publisher);
    assert_eq!(refusal, ReasonCode::QuotaExceeded);
    assert!(accepted > 100, "only {accepted} messages of {PAYLOAD_BYTES} bytes fitted");

    // 3.1.1 has no reason codes: not acknowledged, and closed.
    let mut old = broker.client("old-publisher", V311);
    old.send_publish(message("fill", payload(0), QoS::AtLeastOnce));
    old.expect_closed();

    // What needs no store goes on.
    for n in 0..10 {
        publisher.publish(message("chat", n.to_string(), QoS::AtMostOnce));
        bystander.expect_message("chat", n.to_string());
    }

    // Accepted means kept, through a crash with a full disk too.
    broker.crash_and_restart();
    let (offline, present) = broker.durable("offline", V5);
    assert!(present);
    let mut offline = offline.acknowledging();
    for number in 0..accepted {
        let got = offline.receive_publish();
        assert!(
            got.payload == payload(number),
            "message {number} of {accepted}, got {:?}",
            &got.payload[..8]
        );
    }
    offline.expect_no_message();

    // The queue is empty now: the store takes messages again.
    let mut publisher = broker.client("publisher", V5);
    let begin = std::time::Instant::now();
    loop {
        let ack = publisher.publish(message("fill", payload(0), QoS::AtLeastOnce)).expect("an ack");
        if !ack.reason.is_failure() {
            break;
        }
        assert!(
            begin.elapsed() < PATIENCE,
            "still refused {PATIENCE:?} after the queue was drained: {ack:?}"
        );
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    offline.expect_message("fill", payload(0));
}

#[test]
fn a_store_at_its_quota_refuses_and_loses_nothing() {
    let config = format!("{SMALL_SEGMENTS}bytes_max = 4194304\n");
    a_full_store_refuses_and_loses_nothing(&mut Broker::start_with(Build::Test, Some(&config)));
}

/// A small file system that ends with the value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        fs::create_dir_all(at).expect("a directory");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
            .arg(at)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        mounted.then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the broker that used it may not be gone yet.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    let disk_dir = tempfile::tempdir().expect("a temporary directory");
    let Some(disk) = SmallDisk::mount(disk_dir.path()) else {
        println!("not allowed to mount a small disk here: only the quota was tested");
        return;
    };
    let store = disk.0.join("store");
    let mut broker = Broker::start_in(Build::Test, Some(SMALL_SEGMENTS), &store);
    a_full_store_refuses_and_loses_nothing(&mut broker);
    broker.kill();
    drop(disk);
}

/// The segments of the log, oldest first, that hold more than `bytes_min`.
fn segments(store: &Path, bytes_min: u64) -> Vec<PathBuf> {
    let entries = fs::read_dir(store).expect("a directory").map(|entry| entry.expect("an entry"));
    // The broker may have renamed or removed it just now.
    let is_large = |entry: &fs::DirEntry| entry.metadata().is_ok_and(|about| about.len() > bytes_min);
    let mut files: Vec<_> = entries.filter(is_large).map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "seg" || extension == "kept"));
    files.sort();
    files
}

fn log_bytes(store: &Path) -> u64 {
    segments(store, 0).iter().map(|path| fs::metadata(path).map_or(0, |about| about.len())).sum()
}

/// Waits until the log is not larger than this.
fn wait_for_log_bytes(store: &Path, bytes_max: u64) {
    let begin = std::time::Instant::now();
    while log_bytes(store) > bytes_max {
        let files = segments(store, 0);
        assert!(begin.elapsed() < PATIENCE, "{} bytes after {PATIENCE:?}: {files:?}", log_bytes(store));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Messages in a store that [`filled_and_stopped`] made.
const FILLED: usize = 300;

/// Fills several segments, so that damage to the first is no torn tail.
fn filled_and_stopped() -> Broker {
    let mut broker = Broker::start_configured(SMALL_SEGMENTS);
    let (mut offline, _) = broker.durable("offline", V5);
    offline.subscribe("fill", QoS::AtLeastOnce);
    offline.disconnect();
    let mut publisher = broker.client("publisher", V5);
    for number in 0..FILLED {
        publisher.publish_accepted("fill", payload(number));
    }
    broker.kill();
    broker
}

/// Flips a bit in the middle of the oldest segment; returns the file and where.
fn flip_a_bit(store: &Path) -> (PathBuf, usize) {
    let files = segments(store, 200_000);
    assert!(files.len() >= 3, "several segments: {files:?}");
    let mut bytes = fs::read(&files[0]).expect("the segment");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x01;
    fs::write(&files[0], &bytes).expect("the segment");
    (files[0].clone(), middle)
}

/// The file must be named, and an offset at or before the damage, where its record begins.
fn expect_told(told: &str, damaged: &Path, middle: usize) {
    let name = damaged.file_name().expect("a file").to_string_lossy();
    assert!(told.contains(&*name), "the file {name} must be named: {told}");
    let offsets: Vec<usize> =
        told.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
    let near = |offset: &usize| (middle - 2 * PAYLOAD_BYTES..=middle).contains(offset);
    assert!(offsets.iter().any(near), "an offset near {middle} must be told: {told}");
    assert!(!told.contains("panicked"), "{told}");
}

#[test]
fn a_flipped_bit_in_a_message_is_told_when_it_is_sent_and_the_others_come() {
    let mut broker = filled_and_stopped();
    broker.restart();
    // After an orderly end the view has everything: nothing but footers is read at the start.
    assert!(broker.terminate().success());
    let (damaged, middle) = flip_a_bit(&broker.data_dir());
    broker.restart();
    let (offline, present) = broker.durable("offline", V5);
    assert!(present);
    let mut offline = offline.acknowledging();
    let mut numbers = Vec::new();
    while numbers.last() != Some(&(FILLED - 1)) {
        let got = offline.receive_publish();
        let number = std::str::from_utf8(&got.payload[..8]).expect("digits").parse().expect("a number");
        assert!(got.payload == payload(number), "message {number}");
        numbers.push(number);
    }
    let missing: Vec<_> = (0..FILLED).filter(|number| !numbers.contains(number)).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]) && missing.len() == 1, "missing: {missing:?}");
    let told = fs::read_to_string(broker.dir().join("stderr")).expect("the broker's stderr");
    expect_told(&told, &damaged, middle);
}

#[test]
fn a_flipped_bit_in_what_must_be_replayed_is_refused_with_file_and_offset() {
    let broker = filled_and_stopped();
    // The log alone rebuilds it, as long as nothing was rewritten.
    fs::remove_dir_all(broker.data_dir().join("view")).expect("the view");
    let (damaged, middle) = flip_a_bit(&broker.data_dir());
    let bytes = fs::read(&damaged).expect("the segment");
    let mut child = postrider(Build::Test)
        .args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir"])
        .arg(broker.data_dir())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let status = wait_for_exit(&mut child);
    let mut told = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().expect("piped"), &mut told).expect("text");
    assert_eq!(status.code(), Some(1), "it must refuse to start: {told}");
    expect_told(&told, &damaged, middle);
    // Nothing was changed by the attempt.
    assert!(fs::read(&damaged).expect("the segment") == bytes);
}

/// The bytes of every segment.
fn snapshot(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    segments(dir, 0).into_iter().map(|path| (path.clone(), fs::read(path).expect("a file"))).collect()
}

#[test]
fn a_half_written_end_is_cut_off_and_all_before_it_is_there() {
    let mut broker = filled_and_stopped();
    broker.restart();
    let before = snapshot(&broker.data_dir());
    broker.client("publisher", V5).publish_accepted("fill", payload(FILLED));
    broker.kill();
    // What a power cut leaves that came in the middle of this last write: its first half.
    let mut torn = None;
    for (path, now) in snapshot(&broker.data_dir()) {
        let Some((_, old)) = before.iter().find(|(old_path, _)| *old_path == path) else { continue };
        let differs = |at: &usize| old.get(*at).copied().unwrap_or(0) != now[*at];
        let (first, last) = ((0..now.len()).find(differs), (0..now.len()).rev().find(differs));
        if let (Some(first), Some(last)) = (first, last) {
            let mut bytes = now.clone();
            bytes[first + (last - first) / 2..].fill(0);
            torn = Some((path, bytes));
        }
    }
    let (path, bytes) = torn.expect("the last message was written to a file that was there");
    // It would know of the message, which a real power cut cannot bring about: it follows what is synced.
    fs::remove_dir_all(broker.data_dir().join("view")).expect("the view");
    fs::write(path, bytes).expect("the segment");
    broker.restart();
    let (offline, present) = broker.durable("offline", V5);
    assert!(present);
    let mut offline = offline.acknowledging();
    for number in 0..FILLED {
        assert!(offline.receive_publish().payload == payload(number), "message {number}");
    }
    offline.publish_accepted("fill", "after the repair");
    offline.expect_message("fill", "after the repair");
}

#[test]
fn a_broker_that_dies_in_a_flood_leaves_a_store_that_opens() {
    let mut broker = Broker::start_configured(SMALL_SEGMENTS);
    for round in 0..5 {
        let mut publisher = broker.client("publisher", V5);
        for number in 0..200 {
            publisher.send_publish(message("im/flood", payload(number), QoS::AtLeastOnce));
        }
        for _ in 0..round * 20 {
            assert!(matches!(publisher.next_within(PATIENCE), Next::Packet(Packet::PubAck(_))));
        }
        broker.crash_and_restart();
    }
}

#[test]
fn the_space_of_a_drained_queue_comes_back_while_serving() {
    let mut broker = Broker::start_configured(SMALL_SEGMENTS);
    let store = broker.data_dir();
    let (mut keeper, _) = broker.durable("keeper", V5);
    keeper.subscribe("kept/#", QoS::AtLeastOnce);
    keeper.disconnect();
    let (mut offline, _) = broker.durable("offline", V5);
    offline.subscribe("fill", QoS::AtLeastOnce);
    offline.disconnect();
    let mut publisher = broker.client("publisher", V5);
    // A message in each segment or so stays needed.
    for number in 0..1_000 {
        publisher.publish_accepted("fill", payload(number));
        if number % 50 == 0 {
            publisher.publish_accepted("kept/message", payload(number));
        }
    }
    let filled = log_bytes(&store);
    assert!(filled > 4_000_000, "{filled}");
    let mut offline = broker.durable("offline", V5).0.acknowledging();
    for number in 0..1_000 {
        assert!(offline.receive_publish().payload == payload(number), "message {number}");
    }
    // The current segment, its spare, and one or two files with what is kept.
    wait_for_log_bytes(&store, 5 * 262_144);
    publisher.publish_accepted("kept/message", payload(1_000));
    broker.crash_and_restart();
    let (keeper, present) = broker.durable("keeper", V5);
    assert!(present);
    let mut keeper = keeper.acknowledging();
    for number in (0..1_000).step_by(50).chain([1_000]) {
        assert!(keeper.receive_publish().payload == payload(number), "kept message {number}");
    }
    keeper.expect_no_message();
    let (mut offline, present) = broker.durable("offline", V5);
    assert!(present);
    offline.expect_no_message();
}

#[test]
fn a_store_without_view_whose_log_was_compacted_opens() {
    let mut broker = filled_and_stopped();
    // As earlier versions left it: a checkpoint in the place of the log, and no view.
    fs::remove_dir_all(broker.data_dir().join("view")).expect("the view");
    let mut log = storage::Log::open(&broker.data_dir(), storage::LogConfig::default()).expect("the log");
    let records: Vec<_> = log.replay().expect("it").map(|record| record.expect("a record").1).collect();
    log.checkpoint(records.into_iter()).expect("space for it");
    log.close().expect("the log");
    for _ in 0..2 {
        broker.restart();
        let (offline, present) = broker.durable("offline", V5);
        assert!(present);
        offline.disconnect();
        assert!(broker.terminate().success());
    }
    broker.restart();
    let mut offline = broker.durable("offline", V5).0.acknowledging();
    for number in 0..FILLED {
        assert!(offline.receive_publish().payload == payload(number), "message {number}");
    }
    offline.expect_no_message();
}

#[test]
fn a_view_that_is_lost_after_segments_were_rewritten_is_refused_with_what_to_do() {
    let mut broker = filled_and_stopped();
    broker.restart();
    let mut offline = broker.durable("offline", V5).0.acknowledging();
    for number in 0..FILLED {
        assert!(offline.receive_publish().payload == payload(number), "message {number}");
    }
    wait_for_log_bytes(&broker.data_dir(), 4 * 262_144);
    broker.kill();
    fs::remove_dir_all(broker.data_dir().join("view")).expect("the view");
    let mut serve = postrider(Build::Test);
    serve.args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir"]);
    let refused = serve.arg(broker.data_dir()).output().expect("the binary starts");
    let told = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(told.contains("Restore log and view from the same copy"), "{told}");
}
