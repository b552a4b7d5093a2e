//! What members cost: `cargo run --release -p postrider-engine --example inbox`.
//!
//! A user with 10,000 conversations opens the inbox, one of them changes, a page is asked for; a message comes to a
//! conversation with 10,000 members, all of them away.

use std::time::{Duration, Instant};

use engine::{AskId, Config, ConnId, Input, Now, Output, Principal, Question, Recovery, Shard, Ticket};
use protocol::{
    ByteString, Connect, ConnectProperties, Packet, PacketId, ProtocolVersion, Publish, QoS, Subscribe,
    SubscribeFilter, SubscribeOptions,
};

const MANY: u64 = 10_000;

struct Node {
    shard: Shard,
    now: Now,
    asked: u64,
    record_bytes: usize,
}

impl Node {
    fn new() -> Self {
        let now = Now { monotonic_ms: 1, unix_ms: 1 };
        let shard = Shard::recover(Config::default(), 1, now, Recovery::of_log([])).expect("an empty log");
        Self { shard, now, asked: 0, record_bytes: 0 }
    }

    /// Gives one input and does nothing of what the shard says; returns what it took and the bytes of messages sent.
    fn input(&mut self, input: Input) -> (Duration, usize) {
        let began = Instant::now();
        self.shard.handle(self.now, input);
        let (mut took, mut newest, mut sent) = (began.elapsed(), None, 0);
        self.record_bytes = 0;
        loop {
            let began = Instant::now();
            while let Some(output) = self.shard.poll_output() {
                match output {
                    Output::Append { ticket, record } => {
                        newest = Some(ticket);
                        self.record_bytes += record.len();
                    }
                    Output::Send { packet: Packet::Publish(publish), .. } => sent += publish.payload.len(),
                    _ => {}
                }
            }
            let Some(Ticket(ticket)) = newest.take() else { break };
            self.shard.handle(self.now, Input::Committed { ticket: Ticket(ticket) });
            took += began.elapsed();
        }
        (took, sent)
    }

    fn pass_ms(&mut self, ms: u64) -> (Duration, usize) {
        self.now = Now { monotonic_ms: self.now.monotonic_ms + ms, unix_ms: self.now.unix_ms + ms };
        let (mut took, mut sent) = (Duration::ZERO, 0);
        while self.shard.next_deadline_ms().is_some_and(|due| due <= self.now.monotonic_ms) {
            let (more, bytes) = self.input(Input::Timer);
            (took, sent) = (took + more, sent + bytes);
        }
        (took, sent)
    }

    fn connect(&mut self, conn: u64, user: &str) {
        let properties =
            ConnectProperties { session_expiry_interval_s: Some(3600), ..ConnectProperties::default() };
        let connect = Box::new(Connect {
            version: ProtocolVersion::V5,
            clean_start: false,
            keep_alive_s: 0,
            client_id: user.into(),
            will: None,
            username: None,
            password: None,
            properties,
        });
        let principal = Box::new(Principal { user: Some(user.into()), ..Principal::default() });
        self.input(Input::Connect { conn: ConnId(conn), connect, principal, authentication: None });
    }

    fn subscribe(&mut self, conn: u64, filter: &str) -> (Duration, usize) {
        let options = SubscribeOptions { qos: QoS::AtLeastOnce, ..SubscribeOptions::default() };
        let filters = vec![SubscribeFilter { filter: filter.into(), options }];
        let (packet_id, user_properties) = (PacketId::MIN, Vec::new());
        let subscribe = Subscribe { packet_id, subscription_identifier: None, user_properties, filters };
        self.input(Input::Packet { conn: ConnId(conn), packet: Packet::Subscribe(subscribe) })
    }

    fn publish(&mut self, conn: u64, topic: String) -> Duration {
        let (qos, packet_id) = (QoS::AtLeastOnce, Some(PacketId::MIN));
        let (topic, payload) = (ByteString::from(topic), vec![b'x'; 200].into());
        let publish = Publish { qos, packet_id, topic, payload, ..Publish::default() };
        self.input(Input::Packet { conn: ConnId(conn), packet: Packet::Publish(publish) }).0
    }

    fn ask(&mut self, question: Question) -> Duration {
        self.asked += 1;
        self.input(Input::Asked { ask: AskId(self.asked), question: Box::new(question) }).0
    }

    fn join(&mut self, topic: &str, user: &str) {
        self.ask(Question::Join { topic: topic.into(), user: user.into(), by: None });
    }
}

fn main() {
    let mut node = Node::new();
    node.connect(1, "alice");
    for n in 0..MANY {
        let topic = format!("im/{n:05}");
        node.join(&topic, "bob");
        node.publish(1, topic);
        node.now.unix_ms += 1;
    }
    node.connect(2, "bob");
    let (took, bytes) = node.subscribe(2, "$im/inbox");
    println!("the list of {MANY} conversations: {took:?}, {bytes} bytes");
    let posting = node.publish(1, "im/00007".to_owned());
    let (took, bytes) = node.pass_ms(101);
    println!("a message in one of them: {posting:?}, the change: {took:?}, {bytes} bytes");
    let took = node.ask(Question::Inbox { user: "bob".into(), by: None, cursor: None, limit: 200 });
    println!("a page over HTTP: {took:?}");

    let mut node = Node::new();
    node.connect(1, "alice");
    node.publish(1, "im/empty".to_owned());
    node.publish(1, "im/empty".to_owned());
    let plain = node.record_bytes;
    for n in 0..MANY {
        let user = format!("user-{n}");
        node.join("im/all", &user);
        node.connect(10 + n, &user);
        node.subscribe(10 + n, "$im/mine");
        node.input(Input::Closed { conn: ConnId(10 + n) });
    }
    node.publish(1, "im/all".to_owned());
    let before = node.shard.memory().bytes;
    let took = node.publish(1, "im/all".to_owned());
    let memory = node.shard.memory().bytes - before;
    println!(
        "a message to {MANY} members who are away: {took:?}, {} bytes in the log ({plain} without members), {memory} bytes in memory",
        node.record_bytes
    );
    node.connect(5, "user-7");
}
