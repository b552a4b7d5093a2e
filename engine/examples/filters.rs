//! What many filters and many retained topics cost: bytes each, and time to subscribe, to publish and to be answered.
//!
//! `cargo run --release -p postrider-engine --example filters -- FILTERS PUBLISHES` for filters,
//! `... -- retained TOPICS SUBSCRIBES` for retained messages, `... -- fan-out SUBSCRIBERS PUBLISHES` for messages to
//! very many. The input is fixed, so that two runs under callgrind
//! that differ in the second number tell the instructions of one publish, or one subscribe.

use std::time::Instant;

use engine::{Config, ConnId, Input, Now, Output, Principal, Recovery, Shard, Ticket};
use protocol::{
    Connect, ConnectProperties, Packet, PacketId, ProtocolVersion, Publish, QoS, Subscribe, SubscribeFilter,
    SubscribeOptions,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NOW: Now = Now { monotonic_ms: 1, unix_ms: 1 };

/// Clients that share the filters.
const CLIENTS: usize = 100;

/// Filters in one SUBSCRIBE.
const FILTERS_AT_ONCE: usize = 32;

/// Devices of a fleet.
const FLEET: usize = 1_000;

/// The client that publishes.
const PUBLISHER: ConnId = ConnId(1_000_000);

fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

/// Six in ten are exact, two end with `+`, the others with `#` or have `+` in the middle.
fn filter(device: usize) -> String {
    let fleet = device / FLEET;
    match device % 50 {
        0..30 => format!("fleets/{fleet}/device-{device}/state"),
        30..40 => format!("fleets/{fleet}/device-{device}/+"),
        40..49 => format!("fleets/{fleet}/device-{device}/#"),
        _ => format!("fleets/+/device-{device}/state"),
    }
}

fn topic(device: usize) -> String {
    format!("fleets/{}/device-{device}/state", device / FLEET)
}

/// Devices in an order that no cache foresees.
fn scattered(count: usize, of: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |n| (n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) as usize % of.max(1))
}

struct Node {
    shard: Shard,
    /// Packets that clients got.
    sent: usize,
}

impl Node {
    fn new() -> Self {
        let max = 2_000_000;
        let config = Config {
            subscriptions_max: max,
            retained_messages_max: max,
            retained_bytes_max: 1 << 40,
            memory_bytes_max: 0,
            ..Config::default()
        };
        let shard = Shard::recover(config, 1, NOW, Recovery::of_log([])).expect("an empty log");
        Self { shard, sent: 0 }
    }

    fn input(&mut self, input: Input) {
        self.shard.handle(NOW, input);
        while let Some(ticket) = self.drain() {
            self.shard.handle(NOW, Input::Committed { ticket });
        }
    }

    /// Takes what the shard says; returns its last record.
    fn drain(&mut self) -> Option<Ticket> {
        let mut newest = None;
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Append { ticket, .. } => newest = Some(ticket),
                Output::Send { .. } => self.sent += 1,
                _ => {}
            }
        }
        newest
    }

    /// Serves what the shard left for later.
    fn settle(&mut self) {
        while self.shard.next_deadline_ms() == Some(0) {
            self.input(Input::Timer);
        }
    }

    fn connect(&mut self, conn: ConnId) {
        let connect = Box::new(Connect {
            version: ProtocolVersion::V311,
            clean_start: true,
            keep_alive_s: 0,
            client_id: format!("client-{}", conn.0).into(),
            will: None,
            username: None,
            password: None,
            properties: ConnectProperties::default(),
        });
        let principal = Box::<Principal>::default();
        self.input(Input::Connect { conn, connect, principal, authentication: None });
    }

    fn subscribe(&mut self, conn: ConnId, filters: impl Iterator<Item = String>) {
        let options = SubscribeOptions::default();
        let filters = filters.map(|f| SubscribeFilter { filter: f.into(), options }).collect();
        let (packet_id, user_properties) = (PacketId::MIN, Vec::new());
        let subscribe = Subscribe { packet_id, subscription_identifier: None, user_properties, filters };
        self.input(Input::Packet { conn, packet: Packet::Subscribe(subscribe) });
    }

    fn publish(&mut self, topic: String, qos: QoS, retain: bool) {
        let packet_id = (qos > QoS::AtMostOnce).then_some(PacketId::MIN);
        let (topic, payload) = (topic.into(), vec![b'x'; 100].into());
        let publish = Publish { qos, packet_id, topic, payload, retain, ..Publish::default() };
        self.input(Input::Packet { conn: PUBLISHER, packet: Packet::Publish(publish) });
    }
}

/// Tells how long others wait while messages go out to very many.
fn fan_out(subscribers: usize, publishes: usize) {
    let mut node = Node::new();
    node.connect(PUBLISHER);
    for client in (0..subscribers).map(|client| ConnId(client as u64)) {
        node.connect(client);
        node.subscribe(client, ["news/+".to_owned()].into_iter());
    }
    node.sent = 0;
    let (mut first, mut longest, began) = (0, 0, Instant::now());
    for _ in 0..publishes {
        let began = Instant::now();
        node.publish("news/today".to_owned(), QoS::AtMostOnce, false);
        first = first.max(began.elapsed().as_micros());
        while node.shard.next_deadline_ms() == Some(0) {
            let began = Instant::now();
            node.input(Input::Timer);
            longest = longest.max(began.elapsed().as_micros());
        }
    }
    assert_eq!(node.sent, subscribers * publishes, "each got each");
    tell("deliveries", node.sent, began, None);
    println!("the publish took {first} us at most, a portion after it {longest} us");
}

/// Tells what so many steps took, one by one.
fn tell(what: &str, count: usize, began: Instant, bytes: Option<usize>) {
    let ns = began.elapsed().as_nanos() as f64 / count.max(1) as f64;
    let bytes =
        bytes.map_or(String::new(), |bytes| format!(", {:.0} bytes each", bytes as f64 / count as f64));
    println!("{what}: {count} in {:.2} s, {ns:.0} ns each{bytes}", began.elapsed().as_secs_f64());
}

fn filters(count: usize, publishes: usize) {
    let mut node = Node::new();
    node.connect(PUBLISHER);
    (0..CLIENTS).for_each(|client| node.connect(ConnId(client as u64)));
    let (before, began) = (resident_bytes(), Instant::now());
    for (turn, first) in (0..count).step_by(FILTERS_AT_ONCE).enumerate() {
        let last = count.min(first + FILTERS_AT_ONCE);
        node.subscribe(ConnId((turn % CLIENTS) as u64), (first..last).map(filter));
    }
    tell("filters", count, began, Some(resident_bytes().saturating_sub(before)));
    println!("counted {} bytes each", node.shard.memory().bytes / count.max(1));
    node.sent = 0;
    let began = Instant::now();
    for device in scattered(publishes, count) {
        node.publish(topic(device), QoS::AtMostOnce, false);
    }
    tell("publishes", publishes, began, None);
    assert_eq!(node.sent, publishes, "each topic has one subscriber");
    let began = Instant::now();
    (0..CLIENTS).for_each(|client| node.input(Input::Closed { conn: ConnId(client as u64) }));
    node.settle();
    tell("filters gone", count, began, None);
}

fn retained(count: usize, subscribes: usize) {
    let mut node = Node::new();
    node.connect(PUBLISHER);
    node.connect(ConnId(1));
    let (before, began) = (resident_bytes(), Instant::now());
    (0..count).for_each(|device| node.publish(topic(device), QoS::AtLeastOnce, true));
    tell("retained set", count, began, Some(resident_bytes().saturating_sub(before)));
    let began = Instant::now();
    scattered(count, count).for_each(|device| node.publish(topic(device), QoS::AtLeastOnce, true));
    tell("retained set again", count, began, None);
    for (what, filter) in [
        ("one fleet of 1,000", "fleets/0/+/state"),
        ("one device in all fleets", "fleets/+/device-1/state"),
        ("none, by its end", "+/+/+/none"),
    ] {
        node.sent = 0;
        let began = Instant::now();
        for _ in 0..subscribes {
            node.subscribe(ConnId(1), [filter.to_owned()].into_iter());
            node.settle();
        }
        tell(
            &format!("SUBSCRIBE to {what}, {} packets", node.sent / subscribes.max(1)),
            subscribes,
            began,
            None,
        );
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|a| a.parse::<usize>().ok());
    match (arguments.first().map(String::as_str), number(0), number(1), number(2)) {
        (Some("retained"), _, Some(topics), Some(subscribes)) => retained(topics, subscribes),
        (Some("fan-out"), _, Some(subscribers), Some(publishes)) => fan_out(subscribers, publishes),
        (_, Some(count), Some(publishes), _) => filters(count, publishes),
        _ => {
            println!("filters FILTERS PUBLISHES | retained TOPICS SUBSCRIBES | fan-out SUBSCRIBERS PUBLISHES")
        }
    }
}
