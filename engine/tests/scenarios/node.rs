//! A shard and its log in memory, driven by hand: what the scenarios share.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use engine::{
    Answer, AskId, CloseReason, Config, ConnId, FetchId, Input, Now, Output, Principal, Question, Recovery,
    Shard, Ticket, view::Projector,
};
use protocol::*;

pub(crate) struct Node {
    config: Config,
    pub(crate) shard: Shard,
    pub(crate) now: Now,
    /// Every record appended, durable or not.
    pub(crate) log: Vec<Bytes>,
    pub(crate) appended: Ticket,
    /// Report each record as durable as soon as it is appended.
    pub(crate) auto_commit: bool,
    /// Answer what the shard asks of its log at once.
    pub(crate) auto_fetch: bool,
    pub(crate) fetches: Vec<(FetchId, Vec<Ticket>)>,
    /// Records that were asked for.
    pub(crate) fetched: usize,
    /// The most that was asked for at once.
    pub(crate) fetched_at_once: usize,
    sent: Vec<(ConnId, Packet)>,
    answers: Vec<(AskId, Answer)>,
    asked: u64,
    pub(crate) closed: BTreeMap<u64, CloseReason>,
    versions: BTreeMap<ConnId, ProtocolVersion>,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::with(Config::default())
    }

    pub(crate) fn with(config: Config) -> Self {
        let now = Now { monotonic_ms: 1_000, unix_ms: 1_800_000_000_000 };
        let shard = Shard::recover(config.clone(), 1, now, Recovery::of_log([])).unwrap();
        let (log, sent, answers, asked) = (Vec::new(), Vec::new(), Vec::new(), 0);
        let (closed, versions) = (BTreeMap::new(), BTreeMap::new());
        Self {
            config,
            shard,
            now,
            log,
            appended: Ticket(0),
            auto_commit: true,
            auto_fetch: true,
            fetches: Vec::new(),
            fetched: 0,
            fetched_at_once: 0,
            sent,
            answers,
            asked,
            closed,
            versions,
        }
    }

    /// Dies and comes back with the first `records` of its log.
    pub(crate) fn restart(&mut self, records: usize) {
        self.log.truncate(records);
        self.come_back();
    }

    /// Dies and comes back with what a checkpoint kept of its log.
    pub(crate) fn restart_from_checkpoint(&mut self) {
        self.log = self.shard.checkpoint();
        self.come_back();
    }

    /// Dies and comes back with the rows of a view that took in the whole log, in batches that end at these records.
    pub(crate) fn restart_from_view(&mut self, batches: &[usize]) {
        let (mut projector, mut rows, mut from) = (Projector::new(), BTreeMap::<Bytes, Bytes>::new(), 0);
        for to in batches.iter().copied().chain([self.log.len()]) {
            for at in from..to {
                projector.push(Ticket(at as u64 + 1), &self.log[at]).unwrap();
            }
            from = to;
            for (key, value) in projector.flush(|key| rows.get(key).cloned()).unwrap() {
                match value {
                    Some(value) => drop(rows.insert(key, value)),
                    None => drop(rows.remove(&key)),
                }
            }
        }
        let applied = Ticket(self.log.len() as u64);
        let (rows, next) = (rows.into_iter(), Ticket(applied.0 + 1));
        let recovery = Recovery { rows, applied, records: std::iter::empty(), next };
        self.come_back_from(Shard::recover(self.config.clone(), 2, self.now, recovery).unwrap());
    }

    /// Dies and comes back with another configuration.
    pub(crate) fn restart_with(&mut self, config: Config) {
        self.config = config;
        self.come_back();
    }

    /// Dies and comes back with another configuration.
    pub(crate) fn reconfigure(&mut self, config: Config) {
        self.config = config;
        self.come_back();
    }

    fn come_back(&mut self) {
        let recovery = Recovery::of_log(self.log.iter().cloned());
        self.come_back_from(Shard::recover(self.config.clone(), 2, self.now, recovery).unwrap());
    }

    fn come_back_from(&mut self, shard: Shard) {
        self.shard = shard;
        self.appended = Ticket(self.log.len() as u64);
        self.sent.clear();
        self.fetches.clear();
        self.pump();
    }

    pub(crate) fn input(&mut self, input: Input) {
        self.shard.handle(self.now, input);
        self.pump();
    }

    fn pump(&mut self) {
        self.take_outputs();
        if self.auto_commit {
            self.commit();
        }
        while self.auto_fetch && self.answer_fetches() {
            if self.auto_commit {
                self.commit();
            }
        }
    }

    /// Answers what the shard asks of its log, if it is durable; says whether it asked.
    fn answer_fetches(&mut self) -> bool {
        let fetches = std::mem::take(&mut self.fetches);
        let is_any = !fetches.is_empty();
        for (fetch, places) in fetches {
            self.fetched += places.len();
            self.fetched_at_once = self.fetched_at_once.max(places.len());
            let records = places.iter().map(|place| self.log.get(place.0 as usize - 1).cloned()).collect();
            self.shard.handle(self.now, Input::Fetched { fetch, records });
            self.take_outputs();
        }
        is_any
    }

    fn take_outputs(&mut self) {
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Append { ticket, record } => {
                    assert_eq!(ticket.0, self.appended.0 + 1);
                    self.appended = ticket;
                    self.log.push(record);
                }
                Output::Send { conn, packet } => {
                    let version = self.versions[&conn];
                    protocol::encode(&packet, version, &mut Default::default()).expect("it can be sent");
                    self.sent.push((conn, packet));
                }
                Output::Fetch { fetch, places } => {
                    self.fetches.push((fetch, places));
                }
                Output::Answered { ask, answer } => self.answers.push((ask, answer)),
                Output::Close { conn, reason } => {
                    assert!(self.closed.insert(conn.0, reason).is_none(), "closed twice");
                }
            }
        }
    }

    pub(crate) fn commit(&mut self) {
        let appended = self.appended;
        self.shard.handle(self.now, Input::Committed { ticket: appended });
        self.take_outputs();
        assert_eq!(self.appended, appended, "a commit makes no record");
    }

    pub(crate) fn pass_s(&mut self, s: u64) {
        self.pass_ms(s * 1000);
    }

    pub(crate) fn pass_ms(&mut self, ms: u64) {
        self.now.monotonic_ms += ms;
        self.now.unix_ms += ms;
        while self.shard.next_deadline_ms().is_some_and(|due| due <= self.now.monotonic_ms) {
            self.input(Input::Timer);
        }
    }

    /// What was sent to the connection since the last look.
    pub(crate) fn seen(&mut self, conn: u64) -> Vec<Packet> {
        let (mine, others) =
            std::mem::take(&mut self.sent).into_iter().partition(|(c, _)| *c == ConnId(conn));
        self.sent = others;
        let mine: Vec<(ConnId, Packet)> = mine;
        mine.into_iter().map(|(_, packet)| packet).collect()
    }

    pub(crate) fn publishes(&mut self, conn: u64) -> Vec<Publish> {
        let seen = self.seen(conn).into_iter();
        seen.filter_map(|p| if let Packet::Publish(p) = p { Some(p) } else { None }).collect()
    }

    pub(crate) fn packet(&mut self, conn: u64, packet: Packet) {
        self.input(Input::Packet { conn: ConnId(conn), packet });
    }

    pub(crate) fn connect_with(&mut self, conn: u64, connect: Connect) {
        self.connect_as(conn, connect, None);
    }

    pub(crate) fn connect_as(&mut self, conn: u64, connect: Connect, user: Option<&'static str>) {
        let principal = Principal { user: user.map(ByteString::from), ..Principal::default() };
        self.connect_principal(conn, connect, principal);
    }

    pub(crate) fn connect_principal(&mut self, conn: u64, connect: Connect, principal: Principal) {
        self.versions.insert(ConnId(conn), connect.version);
        let (connect, principal) = (Box::new(connect), Box::new(principal));
        let conn = ConnId(conn);
        self.input(Input::Connect { conn, connect, principal, authentication: None });
    }

    /// Connects a durable 5.0 session and returns whether it was there.
    pub(crate) fn connect(&mut self, conn: u64, client_id: &str) -> bool {
        self.connect_with(conn, durable(client_id));
        match &self.seen(conn)[..] {
            [Packet::ConnAck(connack), ..] if connack.reason == ReasonCode::Success => {
                connack.session_present
            }
            other => panic!("no CONNACK: {other:?}"),
        }
    }

    pub(crate) fn subscribe(&mut self, conn: u64, filter: &str, qos: QoS) {
        let options = SubscribeOptions { qos, ..SubscribeOptions::default() };
        self.packet(conn, subscribe(filter, options));
        assert!(self.seen(conn).iter().any(|p| matches!(p, Packet::SubAck(_))));
    }

    pub(crate) fn drop_connection(&mut self, conn: u64) {
        self.input(Input::Closed { conn: ConnId(conn) });
    }
}

impl Node {
    /// Asks and returns the answer; `None` while it waits.
    pub(crate) fn ask(&mut self, question: Question) -> Option<Answer> {
        self.asked += 1;
        let ask = AskId(self.asked);
        self.input(Input::Asked { ask, question: Box::new(question) });
        self.answer(ask)
    }

    /// Takes an answer that was given meanwhile.
    pub(crate) fn answer(&mut self, ask: AskId) -> Option<Answer> {
        let at = self.answers.iter().position(|(answered, _)| *answered == ask)?;
        Some(self.answers.remove(at).1)
    }

    /// Counts the answers that were given and not taken.
    pub(crate) fn answers(&self) -> usize {
        self.answers.len()
    }

    /// Takes the CONNACK; what came with it stays unseen.
    pub(crate) fn take_connack(&mut self, conn: u64) {
        self.take(conn, |p| if let Packet::ConnAck(c) = p { Some(ConnAck::clone(c)) } else { None });
    }

    /// Makes a user a member of a conversation.
    pub(crate) fn join(&mut self, topic: &str, user: &str) {
        let (topic, user) = (topic.into(), user.into());
        assert_eq!(self.ask(Question::Join { topic, user, by: None }), Some(Answer::Done));
    }

    /// Ends its membership.
    pub(crate) fn leave(&mut self, topic: &str, user: &str) {
        let (topic, user) = (topic.into(), user.into());
        assert_eq!(self.ask(Question::Leave { topic, user }), Some(Answer::Done));
    }

    /// Connects and returns the CONNACK.
    pub(crate) fn connack(&mut self, conn: u64, connect: Connect) -> ConnAck {
        self.connect_with(conn, connect);
        self.take(conn, |p| if let Packet::ConnAck(c) = p { Some(ConnAck::clone(c)) } else { None })
    }

    /// Takes the first packet of a kind that was sent to the connection; the others stay unseen.
    fn take<T>(&mut self, conn: u64, kind: impl Fn(&Packet) -> Option<T>) -> T {
        let found = self.sent.iter().enumerate().filter(|(_, (c, _))| *c == ConnId(conn));
        let found = found.filter_map(|(at, (_, packet))| Some((at, kind(packet)?))).next();
        let (at, taken) = found.unwrap_or_else(|| panic!("not among {:?}", self.sent));
        self.sent.remove(at);
        taken
    }

    /// Subscribes with options and returns the SUBACK's code; what the subscription brought stays unseen.
    pub(crate) fn subscribe_with(
        &mut self,
        conn: u64,
        filter: &str,
        options: SubscribeOptions,
    ) -> ReasonCode {
        self.packet(conn, subscribe(filter, options));
        self.take(conn, |p| if let Packet::SubAck(s) = p { Some(s.reasons[0]) } else { None })
    }

    /// Publishes and returns what the publisher was told.
    pub(crate) fn publish(&mut self, conn: u64, publish: Publish) -> ReasonCode {
        self.packet(conn, Packet::Publish(publish));
        self.take(conn, |p| match p {
            Packet::PubAck(ack) | Packet::PubRec(ack) => Some(ack.reason),
            _ => None,
        })
    }

    /// What the broker said at the end of a connection.
    pub(crate) fn goodbye(&mut self, conn: u64) -> Option<ReasonCode> {
        assert!(self.closed.contains_key(&conn), "connection {conn} is open");
        match self.seen(conn).last() {
            Some(Packet::Disconnect(disconnect)) => Some(disconnect.reason),
            _ => None,
        }
    }

    /// Payloads of the messages sent to the connection since the last look.
    pub(crate) fn payloads(&mut self, conn: u64) -> Vec<String> {
        self.publishes(conn).iter().map(|p| String::from_utf8(p.payload.to_vec()).unwrap()).collect()
    }
}

pub(crate) fn ack(packet_id: u16, reason: ReasonCode) -> Ack {
    Ack::new(id(packet_id), reason)
}

pub(crate) fn options(qos: QoS) -> SubscribeOptions {
    SubscribeOptions { qos, ..SubscribeOptions::default() }
}

/// Receipts that came to the connection, as `id state client reason`.
pub(crate) fn receipts(node: &mut Node, conn: u64) -> Vec<String> {
    let publishes = node.publishes(conn).into_iter().filter(|p| p.topic == "$im/receipts");
    publishes
        .map(|p| {
            let r: serde_json::Value = serde_json::from_slice(&p.payload).unwrap();
            let field = |name: &str| r[name].as_str().unwrap_or("-").to_owned();
            format!("{} {} {} {}", field("id"), field("state"), field("client"), field("reason"))
        })
        .collect()
}

/// Makes a publish with an id that asks for all receipts.
pub(crate) fn tracked(mut publish: Publish, message_id: &str) -> Packet {
    let properties = &mut publish.properties.user_properties;
    properties.push((im::IM_ID.into(), message_id.into()));
    properties.push((im::IM_RECEIPT.into(), "all".into()));
    Packet::Publish(publish)
}

/// Makes a 3.1.1 CONNECT.
pub(crate) fn version_3(client_id: &str, clean_session: bool) -> Connect {
    Connect { version: ProtocolVersion::V311, clean_start: clean_session, ..volatile(client_id) }
}

pub(crate) fn volatile(client_id: &str) -> Connect {
    Connect {
        version: ProtocolVersion::V5,
        clean_start: true,
        keep_alive_s: 0,
        client_id: client_id.into(),
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

pub(crate) fn durable(client_id: &str) -> Connect {
    let mut connect = volatile(client_id);
    connect.clean_start = false;
    connect.properties.session_expiry_interval_s = Some(3600);
    connect
}

pub(crate) fn subscribe(filter: &str, options: SubscribeOptions) -> Packet {
    Packet::Subscribe(Subscribe {
        packet_id: id(1),
        subscription_identifier: None,
        user_properties: Vec::new(),
        filters: vec![SubscribeFilter { filter: filter.into(), options }],
    })
}

pub(crate) fn publish(topic: &str, qos: QoS, packet_id: u16, payload: &'static str) -> Publish {
    Publish {
        qos,
        topic: topic.into(),
        packet_id: NonZeroU16::new(packet_id),
        payload: Bytes::from_static(payload.as_bytes()),
        ..Publish::default()
    }
}

pub(crate) fn with_property(mut publish: Publish, name: &str, value: &str) -> Packet {
    publish.properties.user_properties.push((name.into(), value.into()));
    Packet::Publish(publish)
}

pub(crate) fn id(packet_id: u16) -> PacketId {
    NonZeroU16::new(packet_id).unwrap()
}

pub(crate) fn property<'a>(properties: &'a UserProperties, name: &str) -> Option<&'a str> {
    properties.iter().find(|(n, _)| n == name).map(|(_, v)| &**v)
}
