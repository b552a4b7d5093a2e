//! Compares what the engine counts with what the process takes:
//! `cargo run --release -p postrider-engine --example memory`.

use engine::{Config, ConnId, Input, Now, Output, Principal, Recovery, Shard, Ticket};
use protocol::{
    ByteString, Connect, ConnectProperties, Packet, PacketId, ProtocolVersion, Publish, QoS, Subscribe,
    SubscribeFilter, SubscribeOptions,
};

const NOW: Now = Now { monotonic_ms: 1, unix_ms: 1 };

fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

struct Filled {
    shard: Shard,
    counted: usize,
    resident: usize,
}

impl Filled {
    fn new() -> Self {
        let shard = Shard::recover(Config::default(), 1, NOW, Recovery::of_log([])).expect("an empty log");
        Self { shard, counted: 0, resident: resident_bytes() }
    }

    fn input(&mut self, input: Input) {
        self.shard.handle(NOW, input);
        if let Some(ticket) = self.drain() {
            self.shard.handle(NOW, Input::Committed { ticket });
            self.drain();
        }
    }

    /// Does nothing of what the shard says; returns its last record.
    fn drain(&mut self) -> Option<Ticket> {
        let outputs = std::iter::from_fn(|| self.shard.poll_output());
        outputs.filter_map(|o| if let Output::Append { ticket, .. } = o { Some(ticket) } else { None }).last()
    }

    fn packet(&mut self, conn: u64, packet: Packet) {
        self.input(Input::Packet { conn: ConnId(conn), packet });
    }

    fn connect(&mut self, conn: u64) {
        let properties =
            ConnectProperties { session_expiry_interval_s: Some(3600), ..ConnectProperties::default() };
        let connect = Box::new(Connect {
            version: ProtocolVersion::V5,
            clean_start: false,
            keep_alive_s: 60,
            client_id: format!("client-{conn}").into(),
            will: None,
            username: None,
            password: None,
            properties,
        });
        let (conn, principal) = (ConnId(conn), Box::<Principal>::default());
        self.input(Input::Connect { conn, connect, principal, authentication: None });
    }

    fn subscribe(&mut self, conn: u64, filter: String) {
        let options = SubscribeOptions { qos: QoS::AtLeastOnce, ..SubscribeOptions::default() };
        let filters = vec![SubscribeFilter { filter: filter.into(), options }];
        let (packet_id, user_properties) = (PacketId::MIN, Vec::new());
        let subscribe = Subscribe { packet_id, subscription_identifier: None, user_properties, filters };
        self.packet(conn, Packet::Subscribe(subscribe));
    }

    fn publish(&mut self, topic: String, retain: bool) {
        let (qos, packet_id) = (QoS::AtLeastOnce, Some(PacketId::MIN));
        let (topic, payload) = (ByteString::from(topic), vec![b'x'; 200].into());
        let publish = Publish { qos, packet_id, topic, payload, retain, ..Publish::default() };
        self.packet(1, Packet::Publish(publish));
    }

    fn row(&mut self, what: &str) {
        let (counted, resident) = (self.shard.memory().bytes, resident_bytes());
        let grew = |now: usize, before: usize| (now as f64 - before as f64) / 1e6;
        let (of_count, of_process) = (grew(counted, self.counted), grew(resident, self.resident));
        println!("{what:50} counted {of_count:7.1} MB, resident {of_process:7.1} MB");
        (self.counted, self.resident) = (counted, resident);
    }
}

fn main() {
    let mut filled = Filled::new();
    (1..=100_000).for_each(|conn| filled.connect(conn));
    filled.row("100,000 connected sessions");
    (1..=100_000).for_each(|conn| filled.subscribe(conn, format!("dev/{conn}/cmd")));
    filled.row("a filter of three levels of its own each");
    (1..=100_000).for_each(|conn| filled.subscribe(conn, "fleet/+/alarm".to_owned()));
    filled.row("one filter for all");
    (2..=100_000).for_each(|conn| filled.input(Input::Closed { conn: ConnId(conn) }));
    filled.row("all but one gone, their sessions kept");
    (0..20).for_each(|n| filled.publish(format!("fleet/{n}/alarm"), false));
    filled.row("20 messages of 200 bytes in 100,000 queues");
    (0..200_000).for_each(|n| filled.publish(format!("dev/{}/cmd", 2 + n % 99_999), false));
    filled.row("200,000 messages of 200 bytes in one queue each");
    (0..200_000).for_each(|n| filled.publish(format!("state/{n}"), true));
    filled.row("200,000 retained messages of 200 bytes");
}
