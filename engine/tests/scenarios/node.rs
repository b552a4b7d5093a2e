//! A shard and its log in memory, driven by hand: what the scenarios share.

use std::num::NonZeroU16;

use engine::{Config, ConnId, Input, Now, Output, Shard, Ticket};
use protocol::*;

pub(crate) struct Node {
    pub(crate) shard: Shard,
    pub(crate) now: Now,
    /// Every record appended, durable or not.
    pub(crate) log: Vec<Bytes>,
    pub(crate) appended: Ticket,
    /// Report each record as durable as soon as it is appended.
    pub(crate) auto_commit: bool,
    sent: Vec<(ConnId, Packet)>,
    pub(crate) closed: Vec<ConnId>,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::with(Config::default())
    }

    pub(crate) fn with(config: Config) -> Self {
        let now = Now { monotonic_ms: 1_000, unix_ms: 1_800_000_000_000 };
        let shard = Shard::recover(config, 1, now, std::iter::empty()).unwrap();
        let (log, sent, closed) = (Vec::new(), Vec::new(), Vec::new());
        Self { shard, now, log, appended: Ticket(0), auto_commit: true, sent, closed }
    }

    /// Dies and comes back with the first `records` of its log.
    pub(crate) fn restart(&mut self, records: usize) {
        self.log.truncate(records);
        self.shard = Shard::recover(Config::default(), 2, self.now, self.log.iter().cloned()).unwrap();
        self.appended = Ticket(0);
        self.sent.clear();
        self.pump();
    }

    pub(crate) fn input(&mut self, input: Input) {
        self.shard.handle(self.now, input);
        self.pump();
    }

    fn pump(&mut self) {
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Append { ticket, record } => {
                    self.appended = ticket;
                    self.log.push(record);
                }
                Output::Send { conn, packet } => self.sent.push((conn, packet)),
                Output::Close { conn, .. } => self.closed.push(conn),
            }
        }
        if self.auto_commit {
            self.commit();
        }
    }

    pub(crate) fn commit(&mut self) {
        self.shard.handle(self.now, Input::Committed { ticket: self.appended });
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Send { conn, packet } => self.sent.push((conn, packet)),
                Output::Close { conn, .. } => self.closed.push(conn),
                Output::Append { .. } => panic!("a commit makes no record"),
            }
        }
    }

    pub(crate) fn pass_ms(&mut self, ms: u64) {
        self.now.monotonic_ms += ms;
        self.now.unix_ms += ms;
        if self.shard.next_deadline_ms().is_some_and(|due| due <= self.now.monotonic_ms) {
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
        self.input(Input::Connect { conn: ConnId(conn), connect: Box::new(connect), user: None });
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
        assert!(matches!(self.seen(conn)[0], Packet::SubAck(_)));
    }

    pub(crate) fn drop_connection(&mut self, conn: u64) {
        self.input(Input::Closed { conn: ConnId(conn) });
    }
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
