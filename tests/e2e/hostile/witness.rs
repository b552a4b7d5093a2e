//! A publisher and a subscriber that behave: they measure how long a message takes, and miss nothing.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use protocol::{Packet, ProtocolVersion, QoS};

use crate::raw_client::{Next, PATIENCE, RawClient};

/// A message every so often.
const EVERY: Duration = Duration::from_millis(5);

const TOPIC: &str = "witness/beat";

/// The two clients, each on a thread of its own.
pub(in crate::e2e) struct Witness {
    stop: Arc<AtomicBool>,
    latencies: Arc<Mutex<Vec<Duration>>>,
    publisher: JoinHandle<u64>,
    subscriber: JoinHandle<u64>,
}

/// What was measured.
pub(in crate::e2e) struct Summary {
    pub(in crate::e2e) p50: Duration,
    pub(in crate::e2e) p99: Duration,
    pub(in crate::e2e) max: Duration,
    pub(in crate::e2e) messages: usize,
    pub(in crate::e2e) lost: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |duration: Duration| duration.as_micros();
        let Self { p50, p99, max, messages, .. } = self;
        write!(f, "p50 {} us, p99 {} us, max {} us of {messages}", us(*p50), us(*p99), us(*max))
    }
}

impl Witness {
    /// Connects both and begins.
    pub(in crate::e2e) fn start(broker: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let latencies = Arc::new(Mutex::new(Vec::new()));
        let mut reader = RawClient::connect(broker, "witness-reader", ProtocolVersion::V5);
        reader.subscribe(TOPIC, QoS::AtLeastOnce);
        let writer = RawClient::connect(broker, "witness-writer", ProtocolVersion::V5);
        // Both count time from here.
        let began = Instant::now();
        let measured = Arc::clone(&latencies);
        let subscriber = thread::spawn(move || subscribe(reader, began, &measured));
        let stopped = Arc::clone(&stop);
        let publisher = thread::spawn(move || publish(writer, began, &stopped));
        Self { stop, latencies, publisher, subscriber }
    }

    /// Measures for a while, alone.
    pub(in crate::e2e) fn measure_for(&self, time: Duration) -> Summary {
        self.latencies.lock().expect("no holder panics").clear();
        thread::sleep(time);
        summary(&mut self.latencies.lock().expect("no holder panics"), 0)
    }

    /// Ends both; says what was measured since the last time, and what was lost since the start.
    pub(in crate::e2e) fn stop(self) -> Summary {
        self.stop.store(true, Ordering::Release);
        let sent = self.publisher.join().expect("the witness publishes to the end");
        let received = self.subscriber.join().expect("the witness receives to the end");
        summary(&mut self.latencies.lock().expect("no holder panics"), sent - received)
    }
}

/// Publishes numbers with the time, each acknowledged, and an empty message at the end; returns how many.
fn publish(mut client: RawClient, began: Instant, stop: &AtomicBool) -> u64 {
    let mut number = 0_u64;
    while !stop.load(Ordering::Acquire) {
        number += 1;
        let at = began.elapsed().as_nanos() as u64;
        client.publish_accepted(TOPIC, [number.to_be_bytes(), at.to_be_bytes()].concat());
        thread::sleep(EVERY);
    }
    client.publish_accepted(TOPIC, "");
    client.disconnect();
    number
}

/// Receives until the empty message; numbers must come one after the other. Returns the last.
fn subscribe(mut client: RawClient, began: Instant, latencies: &Mutex<Vec<Duration>>) -> u64 {
    let mut last = 0;
    loop {
        let publish = match client.next_within(PATIENCE) {
            Next::Packet(Packet::Publish(publish)) => publish,
            other => panic!("the witness got {other:?} after message {last}"),
        };
        let now = began.elapsed();
        client.puback(publish.packet_id.expect("QoS 1 has a packet id"));
        if publish.payload.is_empty() {
            client.disconnect();
            return last;
        }
        let (number, at) = publish.payload.split_at(8);
        let word = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
        assert_eq!(word(number), last + 1, "a message was lost or out of order");
        last += 1;
        let latency = now.saturating_sub(Duration::from_nanos(word(at)));
        latencies.lock().expect("no holder panics").push(latency);
    }
}

/// Sums up and begins anew.
fn summary(latencies: &mut Vec<Duration>, lost: u64) -> Summary {
    let mut sorted = std::mem::take(latencies);
    sorted.sort_unstable();
    let at =
        |part: f64| sorted.get(((sorted.len() as f64 * part) as usize).min(sorted.len().saturating_sub(1)));
    let at = |part| at(part).copied().unwrap_or_default();
    Summary { p50: at(0.5), p99: at(0.99), max: at(1.0), messages: sorted.len(), lost }
}

#[test]
fn a_summary_takes_the_ranks_that_it_names() {
    let mut latencies: Vec<_> = (1..=1_000).map(Duration::from_millis).collect();
    let got = summary(&mut latencies, 0);
    assert_eq!((got.p50, got.p99), (Duration::from_millis(501), Duration::from_millis(991)));
    assert_eq!((got.max, got.messages), (Duration::from_secs(1), 1_000));
    assert_eq!(summary(&mut latencies, 0).messages, 0);
}
