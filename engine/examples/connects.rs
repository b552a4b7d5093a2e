//! What presence costs a connect: `cargo run --release -p postrider-engine --example connects`.
//!
//! Clients connect and disconnect, one after the other, with a log that commits at once. Prints time and log bytes of one
//! connect and its end, with presence, with it and one client that listens to everybody, and without.

use std::time::Instant;

use engine::{Config, ConnId, Input, Now, Output, Principal, Recovery, Shard};
use protocol::{
    Connect, ConnectProperties, Disconnect, Packet, PacketId, ProtocolVersion, ReasonCode, Subscribe,
    SubscribeFilter, SubscribeOptions,
};

const CLIENTS: u64 = 100_000;

struct Bench {
    shard: Shard,
    now: Now,
    log_bytes: usize,
    records: usize,
}

impl Bench {
    fn new(config: Config) -> Self {
        let now = Now { monotonic_ms: 1, unix_ms: 1_800_000_000_000 };
        let shard = Shard::recover(config, 1, now, Recovery::of_log([])).expect("an empty log");
        Self { shard, now, log_bytes: 0, records: 0 }
    }

    fn input(&mut self, input: Input) {
        self.shard.handle(self.now, input);
        let mut newest = None;
        while let Some(output) = self.shard.poll_output() {
            if let Output::Append { ticket, record } = output {
                self.log_bytes += record.len();
                self.records += 1;
                newest = Some(ticket);
            }
        }
        if let Some(ticket) = newest {
            self.shard.handle(self.now, Input::Committed { ticket });
            while self.shard.poll_output().is_some() {}
        }
    }

    fn connect(&mut self, conn: u64, client_id: String, expiry_s: u32) {
        let properties =
            ConnectProperties { session_expiry_interval_s: Some(expiry_s), ..ConnectProperties::default() };
        let connect = Connect {
            version: ProtocolVersion::V5,
            clean_start: true,
            keep_alive_s: 60,
            client_id: client_id.into(),
            will: None,
            username: None,
            password: None,
            properties,
        };
        let (connect, principal) = (Box::new(connect), Box::<Principal>::default());
        self.input(Input::Connect { conn: ConnId(conn), connect, principal, authentication: None });
    }
}

fn run(what: &str, presence: bool, listener: bool, expiry_s: u32) {
    let mut bench = Bench::new(Config { presence, ..Config::default() });
    if listener {
        bench.connect(0, "listener".to_owned(), 0);
        let filter =
            SubscribeFilter { filter: "$im/presence/+".into(), options: SubscribeOptions::default() };
        let subscribe = Subscribe {
            packet_id: PacketId::MIN,
            subscription_identifier: None,
            user_properties: Vec::new(),
            filters: vec![filter],
        };
        bench.input(Input::Packet { conn: ConnId(0), packet: Packet::Subscribe(subscribe) });
    }
    (bench.log_bytes, bench.records) = (0, 0);
    let begin = Instant::now();
    for conn in 1..=CLIENTS {
        bench.now.monotonic_ms += 1;
        bench.now.unix_ms += 1;
        bench.connect(conn, format!("client-{}", conn % 10_000), expiry_s);
        let disconnect = Disconnect { reason: ReasonCode::Success, properties: Default::default() };
        bench.input(Input::Packet { conn: ConnId(conn), packet: Packet::Disconnect(disconnect) });
    }
    let us = begin.elapsed().as_secs_f64() * 1e6 / CLIENTS as f64;
    println!(
        "{what}: {us:.2} us, {} bytes and {:.1} records in the log",
        bench.log_bytes / CLIENTS as usize,
        bench.records as f64 / CLIENTS as f64
    );
}

fn main() {
    for (kind, expiry_s) in [("session ends with its connection", 0), ("session lasts", 3_600)] {
        for (what, presence, listener) in [
            ("without presence", false, false),
            ("with presence", true, false),
            ("and a listener", true, true),
        ] {
            run(&format!("{kind}, {what}"), presence, listener, expiry_s);
        }
    }
}
