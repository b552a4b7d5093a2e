//! Any clients, any order of packets, closes, timers, commits and crashes: no panic, no packet that cannot be
//! sent, and a state that is always the one the log tells.

mod given_up;
mod memory;
mod rights;
mod share;
mod strategies;
mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU16;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use protocol::*;

use self::strategies::{bounds, op};
use super::Shard;
use crate::message::Origin;
use crate::record::{Entry, read_record};
use crate::{
    Acl, AskId, Config, ConnId, DedupLimits, FetchId, Input, Now, OnFull, Output, Principal, Question,
    Recovery, Retention, Ticket,
};

const CLIENTS: [&str; 4] = ["a", "b", "c", "d"];
const TOPICS: [&str; 13] = [
    "t",
    "t/1",
    "im/room",
    "dev/a/cmd",
    "t",
    "t/1",
    "im/room",
    "dev/a/cmd",
    "$im/receipts",
    "$other",
    "$im/keepalive",
    "$im/probe",
    "$im/read",
];
const FILTERS: [&str; 25] = [
    "t",
    "t/#",
    "+/+",
    "#",
    "im/room",
    "dev/+/cmd",
    "$im/receipts",
    "$im/errors",
    "$im/presence/+",
    "$im/presence/a",
    "$im/probe/+",
    "$share/g/t",
    "$share/g/#",
    "$share/g/#",
    "$share/h/im/room",
    "$other/#",
    "$im/env/#",
    "$im/env/im/room",
    "$share/e/$im/env/im/#",
    "$im/from/1/im/#",
    "$im/from/first/#",
    "$im/from/2/$im/env/im/room",
    "$im/mine",
    "$im/mine",
    "$im/inbox",
];

/// What a full queue does, and the memory that there may be.
type Bounds = (OnFull, usize, usize);

/// Limits so small that runs reach them.
fn config((on_full, memory_bytes_max, bodies_bytes_max): Bounds) -> Config {
    let mut conversations = Config::default().conversations;
    conversations[0].retention = Retention { age_s: 40, messages: 4, bytes: 900 };
    Config {
        conversations,
        on_full,
        bodies_bytes_max,
        memory_bytes_max,
        receive_maximum: 3,
        inflight_max: 3,
        topic_alias_max: 1,
        topic_alias_out_max: 2,
        session_expiry_max_s: 100,
        keep_alive_max_s: 20,
        sessions_max: 3,
        subscriptions_max: 4,
        presence_max: 3,
        presence_keep_s: 150,
        networks_max: 1,
        queue_messages_max: 3,
        queue_bytes_max: 900,
        retained_messages_max: 2,
        retained_bytes_max: 400,
        retained_per_subscribe_max: 2,
        recipients_per_portion: 1,
        conversations_max: 2,
        replays_per_session_max: 2,
        receipts_listed_max: 1,
        poison_after: 2,
        set_aside_max: 1,
        dedup: DedupLimits { age_s: 40, ids_per_user_max: 3, ids_max: 4 },
        record_recipients_bytes_max: 260,
        ..Config::default()
    }
}

#[derive(Clone, Debug)]
enum Op {
    Connect(usize, Box<Connect>),
    Packet(usize, Packet),
    /// The client answers what it got, as the standard says.
    Answer(usize),
    Closed(usize),
    Congested(usize),
    Drained(usize),
    Reading(Option<usize>, bool),
    Malformed(usize),
    Pass {
        ms: u64,
    },
    Commit,
    Crash {
        keeps_uncommitted: bool,
    },
    StoreFull(bool),
    Acl(Arc<Acl>),
    Principal(usize, Box<Principal>),
    Inform(&'static str, &'static str),
    /// A client's user joins a conversation, or leaves it.
    Member(usize, &'static str, bool),
}

struct World {
    bounds: Bounds,
    shard: Shard,
    now: Now,
    log: Vec<Bytes>,
    committed: usize,
    /// Each client's newest connection.
    conns: BTreeMap<usize, ConnId>,
    next_conn: u64,
    speaks: BTreeMap<ConnId, (ProtocolVersion, Option<usize>)>,
    /// The client's Topic Alias Maximum, and what it knows each alias for.
    aliases: BTreeMap<ConnId, (u16, BTreeMap<NonZeroU16, ByteString>)>,
    closed: BTreeSet<ConnId>,
    /// Records that the shard waits for.
    fetches: VecDeque<(FetchId, Vec<Ticket>)>,
    view: view::View,
    inbox: BTreeMap<ConnId, VecDeque<Packet>>,
}

impl World {
    fn new(bounds: Bounds) -> Self {
        let now = Now { monotonic_ms: 1_000, unix_ms: 1_800_000_000_000 };
        Self {
            bounds,
            shard: Shard::recover(config(bounds), 1, now, Recovery::of_log([])).unwrap(),
            now,
            log: Vec::new(),
            committed: 0,
            conns: BTreeMap::new(),
            next_conn: 1,
            speaks: BTreeMap::new(),
            aliases: BTreeMap::new(),
            closed: BTreeSet::new(),
            fetches: VecDeque::new(),
            view: view::View::default(),
            inbox: BTreeMap::new(),
        }
    }

    /// Three durable sessions with subscriptions: where most runs would never come to by chance.
    fn populate(&mut self) {
        for (client, filters) in
            [["#", "$share/g/#"], ["$im/receipts", "$share/g/#"], ["+/+", "$share/g/#"]].iter().enumerate()
        {
            let connect = Connect {
                version: ProtocolVersion::V5,
                clean_start: false,
                keep_alive_s: 0,
                client_id: CLIENTS[client].into(),
                will: None,
                username: None,
                password: None,
                properties: ConnectProperties { session_expiry_interval_s: Some(60), ..Default::default() },
            };
            self.run(Op::Connect(client, Box::new(connect)));
            let options = SubscribeOptions { qos: QoS::ExactlyOnce, ..Default::default() };
            let filters = filters.iter().map(|f| SubscribeFilter { filter: (*f).into(), options });
            let (packet_id, user_properties) = (PacketId::MIN, Vec::new());
            let filters = filters.collect();
            let subscribe = Subscribe { packet_id, subscription_identifier: None, user_properties, filters };
            self.run(Op::Packet(client, Packet::Subscribe(subscribe)));
        }
        self.run(Op::Commit);
    }

    fn run(&mut self, op: Op) {
        let conn = |of: usize| self.conns.get(&of).copied().unwrap_or(ConnId(0));
        let input = match op {
            Op::Connect(client, connect) => {
                let conn = ConnId(self.next_conn);
                self.next_conn += 1;
                self.conns.insert(client, conn);
                let limit = connect.properties.packet_bytes_max.map(|l| l.get() as usize);
                self.speaks.insert(conn, (connect.version, limit));
                let alias_max = connect.properties.topic_alias_max.unwrap_or(0);
                self.aliases.insert(conn, (alias_max, BTreeMap::new()));
                Input::Connect { conn, connect, principal: Box::default(), authentication: None }
            }
            Op::Packet(of, packet) => Input::Packet { conn: conn(of), packet },
            Op::Answer(of) => {
                let conn = conn(of);
                let got = self.inbox.get_mut(&conn).and_then(VecDeque::pop_front);
                let ok = |id| Ack::new(id, ReasonCode::Success);
                let packet = match got {
                    Some(Packet::Publish(Publish { packet_id: Some(id), qos, .. })) => match qos {
                        QoS::ExactlyOnce => Packet::PubRec(ok(id)),
                        _ => Packet::PubAck(ok(id)),
                    },
                    Some(Packet::PubRec(ack)) => Packet::PubRel(ok(ack.packet_id)),
                    Some(Packet::PubRel(ack)) => Packet::PubComp(ok(ack.packet_id)),
                    _ => return,
                };
                Input::Packet { conn, packet }
            }
            Op::Closed(of) => Input::Closed { conn: conn(of) },
            Op::Congested(of) => Input::Congested { conn: conn(of) },
            Op::Drained(of) => Input::Drained { conn: conn(of) },
            Op::Reading(of, paused) => Input::Reading { conn: of.map(conn), paused },
            Op::Malformed(of) => {
                let mut cut = bytes::BytesMut::from(&b"\xf0\x01\x00"[..]);
                let error = Decoder::new(Role::Broker, Some(ProtocolVersion::V5), 10).decode(&mut cut);
                Input::Malformed { conn: conn(of), error: error.unwrap_err() }
            }
            Op::Pass { ms } => {
                self.now.monotonic_ms += ms;
                self.now.unix_ms += ms;
                if self.shard.next_deadline_ms().is_none_or(|due| due > self.now.monotonic_ms) {
                    return;
                }
                Input::Timer
            }
            Op::Commit => {
                self.committed = self.log.len();
                Input::Committed { ticket: Ticket(self.log.len() as u64) }
            }
            Op::Crash { keeps_uncommitted } => return self.crash(keeps_uncommitted),
            Op::StoreFull(full) => Input::StoreFull { full },
            Op::Acl(acl) => Input::Acl { acl },
            Op::Principal(of, principal) => Input::Principal { conn: conn(of), principal },
            Op::Member(client, topic, joins) => {
                let (topic, user) = (topic.into(), format!("anon:{}", CLIENTS[client]).into());
                let question = match joins {
                    true => Question::Join { topic, user, by: None },
                    false => Question::Leave { topic, user },
                };
                Input::Asked { ask: AskId(0), question: Box::new(question) }
            }
            Op::Inform(topic, payload) => Input::Inform { topic: topic.into(), payload: payload.into() },
        };
        let is_commit = matches!(input, Input::Committed { .. });
        self.shard.handle(self.now, input);
        self.pump();
        // Reading takes its time.
        while (is_commit || self.log.len().is_multiple_of(3)) && self.answer_fetch() {}
    }

    /// Says whether the shard waited for records.
    fn answer_fetch(&mut self) -> bool {
        let Some((fetch, places)) = self.fetches.pop_front() else { return false };
        let records = places.iter().map(|place| self.log.get(place.0 as usize - 1).cloned()).collect();
        self.shard.handle(self.now, Input::Fetched { fetch, records });
        self.pump();
        true
    }

    fn crash(&mut self, keeps_uncommitted: bool) {
        if !keeps_uncommitted {
            self.log.truncate(self.committed);
        }
        self.committed = self.log.len();
        self.now.monotonic_ms = 1;
        self.conns.clear();
        self.fetches.clear();
        self.shard =
            Shard::recover(config(self.bounds), 2, self.now, Recovery::of_log(self.log.iter().cloned()))
                .unwrap();
        self.pump();
    }

    fn pump(&mut self) {
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Append { ticket, record } => {
                    self.log.push(record);
                    assert_eq!(ticket.0 as usize, self.log.len());
                }
                Output::Send { conn, packet } => self.sent(conn, packet),
                Output::Answered { .. } => {}
                Output::Close { conn, .. } => assert!(self.closed.insert(conn), "{conn:?} closed twice"),
                Output::Fetch { fetch, places } => {
                    assert!(places.iter().all(|place| place.0 as usize <= self.committed), "{places:?}");
                    self.fetches.push_back((fetch, places));
                }
            }
        }
    }

    fn sent(&mut self, conn: ConnId, packet: Packet) {
        assert!(!self.closed.contains(&conn), "{packet:?} after the connection's end");
        let (version, limit) = self.speaks[&conn];
        let mut bytes = bytes::BytesMut::new();
        protocol::encode(&packet, version, &mut bytes).unwrap_or_else(|e| panic!("{packet:?}: {e}"));
        // [MQTT-3.1.2-24]
        assert!(
            limit.is_none_or(|limit| bytes.len() <= limit),
            "{} bytes over {limit:?}: {packet:?}",
            bytes.len()
        );
        if let Packet::Publish(publish) = &packet {
            self.check_alias(conn, publish);
        }
        self.inbox.entry(conn).or_default().push_back(packet);
    }

    /// [MQTT-3.1.2-26] no alias above the client's maximum, and none alone that this connection does not know.
    fn check_alias(&mut self, conn: ConnId, publish: &Publish) {
        let (max, known) = self.aliases.get_mut(&conn).unwrap();
        let Some(alias) = publish.properties.topic_alias else { return assert!(!publish.topic.is_empty()) };
        assert!(alias.get() <= *max, "alias {alias} above {max}");
        if publish.topic.is_empty() {
            assert!(known.contains_key(&alias), "alias {alias} has no topic");
        } else {
            known.insert(alias, publish.topic.clone());
        }
    }

    /// The log and the state say the same, and the state holds its own invariants.
    fn check(&mut self) {
        let mut replayed =
            Shard::replay(config(self.bounds), 3, self.now, Recovery::of_log(self.log.iter().cloned()))
                .unwrap();
        // Numbers that no record mentions are given again after a restart.
        replayed.next_message = self.shard.next_message;
        replayed.next_session = self.shard.next_session;
        replayed.groups.begin_at(self.shard.groups.next_no());
        replayed.groups.sweep_now();
        let (live, from_log) = (self.shard.state(), replayed.state());
        // While the store is full, what comes and goes is not written.
        let is_written = |entry: &Entry| !matches!(entry, Entry::Presence { client, .. } if self.shard.presences.is_changed(client));
        let written =
            |records: &[Bytes]| -> Vec<_> { share::named(records).into_iter().filter(is_written).collect() };
        assert_eq!(written(&live), written(&from_log), "live and replayed state differ");
        let records = self.shard.checkpoint();
        let again = Shard::replay(config(self.bounds), 4, self.now, Recovery::of_log(records)).unwrap();
        let again = share::named(&again.state());
        assert_eq!(again, share::named(&live), "a checkpoint rebuilds another state");
        self.check_sessions();
        view::check(self);
    }

    /// When all clients and sessions are gone, nothing is held but what stays without them.
    fn check_emptied(mut self) {
        while self.answer_fetch() {}
        self.now.monotonic_ms += 1_000_000;
        self.now.unix_ms += 1_000_000;
        for conn in self.shard.conns.keys().copied().collect::<Vec<_>>() {
            self.shard.handle(self.now, Input::Closed { conn });
            self.pump();
        }
        for key in self.shard.sessions.iter().map(|(key, _)| key).collect::<Vec<_>>() {
            self.shard.end_session(self.now, key);
            self.shard.finish(self.now);
        }
        while self.shard.next_deadline_ms() == Some(0) || self.answer_fetch() {
            self.shard.handle(self.now, Input::Timer);
            self.pump();
        }
        let ticket = Ticket(self.shard.gate.last_ticket());
        self.shard.handle(self.now, Input::Committed { ticket });
        for topic in self.shard.retained.iter().map(|m| m.topic.clone()).collect::<Vec<_>>() {
            self.shard.retained.clear(&topic);
        }
        for topic in self.shard.informed.iter().map(|m| m.topic.clone()).collect::<Vec<_>>() {
            self.shard.informed.clear(&topic);
        }
        assert_eq!((self.shard.receipts.iter().count(), self.shard.remains.len()), (0, 0));
        // Groups that were left while they had messages go with the next ones that are made.
        self.shard.groups.sweep_now();
        assert_eq!((self.shard.groups.iter().count(), self.shard.routes.nodes()), (0, 0));
        assert!(self.shard.envelope_routes.is_empty());
        let known =
            self.shard.presences.recount() + self.shard.networks.recount() + self.shard.members.recount();
        assert_eq!(
            self.shard.account.bytes(),
            self.shard.conversations.recount()
                + self.shard.dedup.recount()
                + self.shard.read_wishes.recount()
                + known
        );
    }

    fn check_sessions(&self) {
        memory::check(&self.shard);
        share::check(&self.shard);
        for user in CLIENTS.map(|client| format!("anon:{client}")) {
            assert_eq!(self.shard.unread(&user), self.shard.recount_unread(&user));
        }
        let config = config(self.bounds);
        assert!(self.shard.sessions.len() <= config.sessions_max);
        let subscriptions: usize = self.shard.sessions.iter().map(|(_, s)| s.subscriptions.len()).sum();
        assert!(self.shard.routes.len() <= subscriptions);
        for (key, s) in self.shard.sessions.iter() {
            assert_eq!(self.shard.sessions.of_client(&s.client_id), Some(key));
            assert_eq!(self.shard.sessions.numbered(s.no), Some(key));
            let ids: BTreeSet<_> = s.in_flight.iter().map(|f| f.packet_id).collect();
            assert_eq!(ids.len(), s.in_flight.len(), "packet ids repeat");
            let sent = s.in_flight.iter().filter(|f| f.on_this_connection).count();
            assert_eq!(sent, s.window_used);
            assert_eq!(s.queue.iter().map(|d| d.message.bytes()).sum::<usize>(), s.queue.bytes());
            let own = s.queue.iter().filter(|d| d.origin == Origin::Subscriptions);
            let numbers: Vec<_> = own.map(|d| d.message.no).collect();
            assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
            assert!(s.queue.len() <= config.queue_messages_max && s.queue.bytes() <= config.queue_bytes_max);
            assert!(s.subscriptions.len() <= config.subscriptions_max);
            assert_eq!(s.conn.is_some(), s.disconnected().is_none());
            let is_behind = s.behind.as_ref().is_some_and(|behind| !behind.stretches().is_empty());
            assert_eq!(s.behind.is_some(), is_behind, "behind nothing");
            assert!(s.is_hearer || !is_behind, "behind without hearing");
            assert_eq!(s.is_hearer, s.subscriptions.contains_key(im::MINE_FILTER));
            rights::check(&self.shard, s);
            if let Some(conn) = s.conn {
                assert_eq!(self.shard.conns[&conn].session, key);
            }
        }
        let most = 2 * self.shard.conns.len()
            + 2 * self.shard.sessions.len()
            + 2 * self.shard.receipts.iter().count()
            + self.shard.conversations.iter().count();
        assert!(self.shard.timers.len() <= most + 5, "deadlines pile up");
        assert!(self.shard.retained.len() <= config.retained_messages_max);
    }
}

fn entries(records: &[Bytes]) -> Vec<Entry> {
    records.iter().flat_map(|r| read_record(r).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150,
        max_shrink_iters: 3_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_clients_do_nothing_panics_and_the_log_tells_the_state(
        bounds in bounds(),
        ops in prop::collection::vec(op(), 1..200),
    ) {
        let mut world = World::new(bounds);
        world.populate();
        for op in ops {
            world.run(op);
            world.check();
        }
        world.check_emptied();
    }

    #[test]
    fn a_log_that_contradicts_itself_is_refused_or_taken_without_a_panic(
        bounds in bounds(),
        ops in prop::collection::vec(op(), 20..120),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0u8..4), 1..4),
    ) {
        let mut world = World::new(bounds);
        world.populate();
        for op in ops {
            world.run(op);
        }
        let mut log: Vec<_> = world.log.iter().map(|record| record.to_vec()).collect();
        for (one, other, kind) in damage {
            let (a, b) = (one.index(log.len()), other.index(log.len()));
            match kind {
                0 => log.swap(a, b),
                1 => log[a] = log[b].clone(),
                2 => {
                    let len = other.index(log[a].len()) + 1;
                    log[a].truncate(len);
                }
                _ => {
                    let at = other.index(log[a].len());
                    log[a][at] ^= 1 << one.index(8);
                }
            }
        }
        let recovered = Shard::recover(config(bounds), 1, world.now, Recovery::of_log(log.into_iter().map(Bytes::from)));
        if let Ok(mut shard) = recovered {
            world.now.monotonic_ms += 200_000;
            world.now.unix_ms += 200_000;
            shard.handle(world.now, Input::Timer);
            shard.checkpoint();
        }
    }
}
