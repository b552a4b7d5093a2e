//! What a message costs between the bytes that come and the bytes that go:
//! `cargo run --release -p postrider-engine --example messages`, or one row of it under
//! `valgrind --tool=callgrind --toggle-collect='*measured*'` with the row's name and a number of messages.
//!
//! Each row decodes what publishers sent, hands it to the shard, encodes what the shard sends and answers it as the
//! subscribers would; a row whose messages do not all arrive fails. Time depends on the machine, instructions do not.

use std::time::Instant;

use bytes::BytesMut;
use engine::{Config, ConnId, Input, Now, Output, Principal, Recovery, Shard};
use protocol::{
    Ack, Connect, ConnectProperties, Decoder, Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode,
    Role, Shared, Subscribe, SubscribeFilter, SubscribeOptions, encode,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Packets that one read brings, as a busy publisher sends them.
const AT_ONCE: usize = 20;

const PACKET_BYTES_MAX: u32 = 1024 * 1024;

/// One way of sending.
struct Row {
    name: &'static str,
    version: ProtocolVersion,
    qos: QoS,
    publishers: u64,
    subscribers: u64,
    /// Publisher 7 sends to subscriber 7; else all to all.
    is_paired: bool,
    payload_bytes: usize,
}

const fn row(name: &'static str, qos: QoS, publishers: u64, subscribers: u64) -> Row {
    let is_paired = publishers == subscribers;
    Row { name, version: ProtocolVersion::V311, qos, publishers, subscribers, is_paired, payload_bytes: 100 }
}

const fn of_5(row: Row, name: &'static str) -> Row {
    Row { name, version: ProtocolVersion::V5, ..row }
}

const ROWS: [Row; 11] = [
    row("pairs-0", QoS::AtMostOnce, 50, 50),
    row("pairs-1", QoS::AtLeastOnce, 50, 50),
    row("pairs-2", QoS::ExactlyOnce, 50, 50),
    row("fan-in-0", QoS::AtMostOnce, 50, 1),
    row("fan-in-1", QoS::AtLeastOnce, 50, 1),
    row("fan-out-0", QoS::AtMostOnce, 1, 1_000),
    row("fan-out-1", QoS::AtLeastOnce, 1, 1_000),
    of_5(row("", QoS::AtMostOnce, 50, 50), "pairs-0-v5"),
    of_5(row("", QoS::AtLeastOnce, 50, 50), "pairs-1-v5"),
    of_5(row("", QoS::AtMostOnce, 1, 1_000), "fan-out-0-v5"),
    of_5(row("", QoS::AtLeastOnce, 1, 1_000), "fan-out-1-v5"),
];

/// One client's end of a connection, and what the broker has of it.
struct Client {
    decoder: Decoder,
    /// What the broker wrote, not read.
    to_client: BytesMut,
    /// What the client wrote, not read.
    to_broker: BytesMut,
    /// Reads what the broker wrote.
    reader: Decoder,
}

struct Bench {
    shard: Shard,
    now: Now,
    version: ProtocolVersion,
    clients: Vec<Client>,
    /// Clients with something to read.
    written: Vec<usize>,
    delivered: u64,
    acknowledged: u64,
}

impl Bench {
    fn new(row: &Row) -> Self {
        let now = Now { monotonic_ms: 1, unix_ms: 1_800_000_000_000 };
        let config = Config { inflight_max: 1_024, bodies_bytes_max: 256 << 20, ..Config::default() };
        let shard = Shard::recover(config, 1, now, Recovery::of_log([])).expect("an empty log");
        let clients = Vec::new();
        let mut bench = Self {
            shard,
            now,
            version: row.version,
            clients,
            written: vec![],
            delivered: 0,
            acknowledged: 0,
        };
        for client in 0..row.publishers + row.subscribers {
            bench.connect(client);
        }
        for subscriber in 0..row.subscribers {
            let filter = topic(row, subscriber);
            let options = SubscribeOptions { qos: row.qos, ..SubscribeOptions::default() };
            let subscribe = Subscribe {
                packet_id: PacketId::MIN,
                subscription_identifier: None,
                user_properties: Vec::new(),
                filters: vec![SubscribeFilter { filter: filter.into(), options }],
            };
            let conn = ConnId(row.publishers + subscriber);
            bench.input(Input::Packet { conn, packet: Packet::Subscribe(subscribe) });
        }
        for client in &mut bench.clients {
            client.to_client.clear();
        }
        bench.written.clear();
        bench
    }

    fn connect(&mut self, client: u64) {
        let connect = Connect {
            version: self.version,
            clean_start: true,
            keep_alive_s: 60,
            client_id: format!("client-{client}").into(),
            will: None,
            username: None,
            password: None,
            properties: ConnectProperties::default(),
        };
        let version = Some(self.version);
        self.clients.push(Client {
            decoder: Decoder::new(Role::Broker, version, PACKET_BYTES_MAX),
            reader: Decoder::new(Role::Client, version, PACKET_BYTES_MAX),
            to_client: BytesMut::with_capacity(64 * 1024),
            to_broker: BytesMut::new(),
        });
        let (connect, principal) = (Box::new(connect), Box::<Principal>::default());
        self.input(Input::Connect { conn: ConnId(client), connect, principal, authentication: None });
    }

    /// As the runtime does it: one input, and all that it brings into the connections' buffers.
    fn input(&mut self, input: Input) {
        self.shard.handle(self.now, input);
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Send { conn, packet } => {
                    let at = conn.0 as usize;
                    let to = &mut self.clients[at].to_client;
                    if to.is_empty() {
                        self.written.push(at);
                    }
                    encode(&packet, self.version, to).expect("the shard sends what can be encoded");
                }
                Output::Append { ticket, .. } => self.shard.handle(self.now, Input::Committed { ticket }),
                other => panic!("nothing else happens here: {other:?}"),
            }
        }
    }

    #[inline(never)]
    fn measured(&mut self, client: usize) {
        let mut buf = BytesMut::from(&self.clients[client].to_broker[..]);
        while let Some(packet) =
            self.clients[client].decoder.decode(&mut buf).expect("packets that are right")
        {
            self.input(Input::Packet { conn: ConnId(client as u64), packet });
        }
    }

    /// The subscribers' and publishers' side: what comes is answered.
    fn answer(&mut self) {
        while let Some(client) = self.written.pop() {
            let of = &mut self.clients[client];
            of.to_broker.clear();
            while let Some(packet) = of.reader.decode(&mut of.to_client).expect("packets that are right") {
                let answer = match packet {
                    Packet::Publish(publish) => {
                        self.delivered += 1;
                        let ack = publish.packet_id.map(|id| Ack::new(id, ReasonCode::Success));
                        match publish.qos {
                            QoS::AtMostOnce => None,
                            QoS::AtLeastOnce => ack.map(Packet::PubAck),
                            QoS::ExactlyOnce => ack.map(Packet::PubRec),
                        }
                    }
                    Packet::PubRec(ack) => Some(Packet::PubRel(Ack::new(ack.packet_id, ReasonCode::Success))),
                    Packet::PubRel(ack) => {
                        Some(Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::Success)))
                    }
                    Packet::PubAck(_) | Packet::PubComp(_) => {
                        self.acknowledged += 1;
                        None
                    }
                    other => panic!("nothing else is sent here: {other:?}"),
                };
                if let Some(answer) = answer {
                    encode(&answer, self.version, &mut of.to_broker).expect("an answer can be encoded");
                }
            }
            of.to_client = BytesMut::with_capacity(64 * 1024);
            if !of.to_broker.is_empty() {
                self.measured(client);
            }
        }
    }
}

fn topic(row: &Row, of: u64) -> String {
    if row.is_paired { format!("bench/pair/{of}") } else { "bench/all".to_owned() }
}

/// Sends at least so many messages; returns how many were delivered and the nanoseconds of one.
fn run(row: &Row, messages: u64) -> (u64, f64) {
    let mut bench = Bench::new(row);
    let copies = if row.is_paired { 1 } else { row.subscribers };
    let rounds = messages.div_ceil(row.publishers * copies * AT_ONCE as u64);
    let (mut sent, mut spent) = (0, 0.0);
    for _ in 0..rounds {
        for publisher in 0..row.publishers {
            let mut bytes = BytesMut::new();
            for at in 0..AT_ONCE {
                let packet_id = (row.qos > QoS::AtMostOnce).then(|| PacketId::MIN.saturating_add(at as u16));
                let publish = Publish {
                    dup: false,
                    qos: row.qos,
                    retain: false,
                    topic: topic(row, publisher).into(),
                    packet_id,
                    properties: Shared::NONE,
                    payload: vec![b'x'; row.payload_bytes].into(),
                };
                encode(&Packet::Publish(publish), row.version, &mut bytes).expect("it can be encoded");
                sent += 1;
            }
            bench.clients[publisher as usize].to_broker = bytes;
            let began = Instant::now();
            bench.measured(publisher as usize);
            spent += began.elapsed().as_secs_f64();
            bench.answer();
        }
    }
    assert_eq!(bench.delivered, sent * copies, "{}: messages are missing", row.name);
    let acknowledged = if row.qos == QoS::AtMostOnce { 0 } else { sent };
    assert_eq!(bench.acknowledged, acknowledged, "{}: acknowledgements are missing", row.name);
    (bench.delivered, spent * 1e9 / bench.delivered as f64)
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let wanted = arguments.next();
    let messages = arguments.next().map_or(1_000_000, |n| n.parse().expect("a number of messages"));
    for row in ROWS.iter().filter(|row| wanted.as_ref().is_none_or(|wanted| wanted == row.name)) {
        let (delivered, ns) = run(row, messages);
        println!("{}: {delivered} delivered, publishing {ns:.0} ns each", row.name);
    }
}
