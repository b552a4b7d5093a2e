//! What a session costs, stage by stage: `cargo run --release -p postrider-engine --example sessions [sessions] [durable|clean]`.
//!
//! Clients connect, subscribe to a filter of their own and go. Prints what each stage adds a session: bytes that the
//! engine counts, bytes of the process, and time.

use std::time::Instant;

use engine::{Config, ConnId, Input, Now, Output, Principal, Recovery, Shard, Ticket};
use protocol::{
    Connect, ConnectProperties, Packet, PacketId, ProtocolVersion, QoS, Subscribe, SubscribeFilter,
    SubscribeOptions,
};

fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

struct Bench {
    shard: Shard,
    now: Now,
    sessions: u64,
}

impl Bench {
    fn input(&mut self, input: Input) {
        self.shard.handle(self.now, input);
        while let Some(ticket) = self.drain() {
            self.shard.handle(self.now, Input::Committed { ticket });
        }
    }

    /// Does nothing of what the shard says; returns its last record.
    fn drain(&mut self) -> Option<Ticket> {
        let outputs = std::iter::from_fn(|| self.shard.poll_output());
        outputs.filter_map(|o| if let Output::Append { ticket, .. } = o { Some(ticket) } else { None }).last()
    }

    fn connect(&mut self, conn: u64, round: u64, expiry_s: u32) {
        let properties =
            ConnectProperties { session_expiry_interval_s: Some(expiry_s), ..ConnectProperties::default() };
        let connect = Box::new(Connect {
            version: ProtocolVersion::V5,
            clean_start: false,
            keep_alive_s: 60,
            client_id: format!("client-{conn:07}").into(),
            will: None,
            username: None,
            password: None,
            properties,
        });
        let (conn, principal) = (ConnId(conn << 25 | round), Box::<Principal>::default());
        self.input(Input::Connect { conn, connect, principal, authentication: None });
    }

    fn subscribe(&mut self, conn: u64) {
        let options = SubscribeOptions { qos: QoS::AtLeastOnce, ..SubscribeOptions::default() };
        let filters = vec![SubscribeFilter { filter: format!("device/{conn:07}").into(), options }];
        let subscribe = Subscribe {
            packet_id: PacketId::MIN,
            subscription_identifier: None,
            user_properties: Vec::new(),
            filters,
        };
        self.input(Input::Packet { conn: ConnId(conn << 25), packet: Packet::Subscribe(subscribe) });
    }

    fn stage(&mut self, what: &str, mut each: impl FnMut(&mut Self, u64)) {
        let (counted, resident) = (self.shard.memory().bytes, resident_bytes());
        let begin = Instant::now();
        for n in 1..=self.sessions {
            // The clock goes on: what came together has no deadline together.
            self.now.monotonic_ms += n & 1;
            self.now.unix_ms += n & 1;
            each(self, n);
        }
        let us = begin.elapsed().as_secs_f64() * 1e6 / self.sessions as f64;
        let grew = |now: usize, before: usize| (now as f64 - before as f64) / self.sessions as f64;
        let counted = grew(self.shard.memory().bytes, counted);
        let resident = grew(resident_bytes(), resident);
        println!("{what:12} {counted:8.0} bytes counted {resident:8.0} bytes resident {us:8.2} us");
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let sessions = args.next().and_then(|n| n.parse().ok()).unwrap_or(100_000);
    let expiry_s = if args.next().as_deref() == Some("clean") { 0 } else { u32::MAX };
    let now = Now { monotonic_ms: 1, unix_ms: 1_800_000_000_000 };
    let config = Config {
        sessions_max: usize::MAX,
        presence_max: usize::MAX,
        memory_bytes_max: 0,
        ..Config::default()
    };
    let shard = Shard::recover(config, 1, now, Recovery::of_log([])).expect("an empty log");
    let mut bench = Bench { shard, now, sessions };
    bench.stage("connected", |bench, n| bench.connect(n, 0, expiry_s));
    bench.stage("subscribed", Bench::subscribe);
    bench.stage("gone", |bench, n| bench.input(Input::Closed { conn: ConnId(n << 25) }));
    bench.stage("came back", |bench, n| bench.connect(n, 1, expiry_s));
    bench.stage("ended", |bench, n| bench.connect(n, 2, 0));
    bench.stage("gone again", |bench, n| bench.input(Input::Closed { conn: ConnId(n << 25 | 2) }));
}
