//! One shard, its log in memory, and the connections to it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;
use engine::{
    Authentication, Config, ConnId, FetchId, Input, Now, Output, Principal, Recovery, Shard, Ticket,
};
use protocol::{Bytes, Connect, Decoder, Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode, Role};

use super::super::source::Source;
use super::keeper::{self, Keeper};
use super::link::Link;
use super::packets::{self, CLIENTS};

/// Outputs of one input: a run has few clients and short queues.
const OUTPUTS_PER_INPUT_MAX: usize = 20_000;
/// Rounds in which what is left must come to rest.
const ROUNDS_MAX: usize = 5_000;
/// Packet ids from here on are those of numbered messages.
const NUMBERED_FROM: u32 = 100;

pub(super) struct World {
    config: Config,
    now: Now,
    shard: Shard,
    seed: u64,
    /// Records on stable storage.
    durable: Vec<Bytes>,
    /// Records appended and not yet durable.
    pending: VecDeque<Bytes>,
    /// Records that the shard wants to read again.
    fetches: VecDeque<(FetchId, Vec<Ticket>)>,
    appended: u64,
    committed: u64,
    links: BTreeMap<ConnId, Link>,
    next_conn: u64,
    keeper: Keeper,
    keeper_qos: QoS,
    next_number: u32,
    /// Numbered messages whose acknowledgement the keeper can rely on.
    offered: BTreeMap<(ConnId, PacketId), u32>,
    shut_down: bool,
}

impl World {
    pub(super) fn new(source: &mut Source<'_>, config: Config) -> Self {
        let now = Now { monotonic_ms: 1, unix_ms: 1_800_000_000_000 };
        let seed = u64::from(source.byte());
        let shard =
            Shard::recover(config.clone(), seed, now, Recovery::of_log([])).expect("an empty log is right");
        let mut world = Self {
            config,
            now,
            shard,
            seed,
            durable: Vec::new(),
            pending: VecDeque::new(),
            fetches: VecDeque::new(),
            appended: 0,
            committed: 0,
            links: BTreeMap::new(),
            next_conn: 1,
            keeper: Keeper::default(),
            keeper_qos: source.pick(&[QoS::AtLeastOnce, QoS::ExactlyOnce]),
            next_number: 0,
            offered: BTreeMap::new(),
            shut_down: false,
        };
        world.connect_keeper(source);
        world
    }

    pub(super) fn step(&mut self, source: &mut Source<'_>) {
        match source.below(32) {
            0..3 => self.connect(source),
            3 => self.connect_keeper(source),
            4..8 => self.client_sends(source, |source| Packet::Publish(packets::publish(source))),
            8..11 => self.publish_numbered(source),
            11..14 => self.client_sends(source, packets::subscribe),
            14..16 => self.client_sends(source, packets::other),
            16..21 => self.answer(source),
            21 => self.raw(source),
            22 => self.cut(source),
            23 => self.on_any(source, |conn, _| Input::Congested { conn }),
            24 => self.on_any(source, |conn, _| Input::Drained { conn }),
            25..27 => self.commit(source),
            27 => self.pass_time(source),
            28 => self.crash(source),
            29 => self.fetch(),
            30 => self.change_rights(source),
            _ => self.caller(source),
        }
    }

    fn open(&mut self, client: usize, connect: Connect, principal: Principal) {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        self.links.insert(conn, Link::new(client, &connect));
        let method = connect.properties.authentication_method.clone();
        let authentication = method.map(|method| Authentication { method, data: None });
        let (connect, principal) = (Box::new(connect), Box::new(principal));
        self.handle(Input::Connect { conn, connect, principal, authentication });
    }

    fn connect(&mut self, source: &mut Source<'_>) {
        let client = 1 + source.below(CLIENTS.len() - 1);
        let connect = packets::connect(source, client);
        let principal = if source.one_in(2) { packets::principal(source) } else { Principal::default() };
        self.open(client, connect, principal);
    }

    fn connect_keeper(&mut self, source: &mut Source<'_>) {
        self.open(0, packets::keeper_connect(source), Principal::default());
    }

    /// Picks a connection, the keeper's only where it may be.
    fn any(&self, source: &mut Source<'_>, keeper_too: bool) -> Option<ConnId> {
        let may = |link: &Link| keeper_too || link.client != 0;
        let open: Vec<_> = self.links.iter().filter(|(_, link)| may(link)).map(|(conn, _)| *conn).collect();
        (!open.is_empty()).then(|| source.pick(&open))
    }

    fn on_any(&mut self, source: &mut Source<'_>, input: impl FnOnce(ConnId, &mut Source<'_>) -> Input) {
        if let Some(conn) = self.any(source, true) {
            let input = input(conn, source);
            self.handle(input);
        }
    }

    fn client_sends(&mut self, source: &mut Source<'_>, packet: impl FnOnce(&mut Source<'_>) -> Packet) {
        if let Some(conn) = self.any(source, false) {
            let packet = packet(source);
            self.send(conn, packet);
        }
    }

    fn send(&mut self, conn: ConnId, packet: Packet) {
        if let Some(link) = self.links.get_mut(&conn) {
            link.send(&packet);
            self.handle(Input::Packet { conn, packet });
        }
    }

    /// A message to the keeper that no other has, with a packet id that no other has.
    fn publish_numbered(&mut self, source: &mut Source<'_>) {
        let Some(conn) = self.any(source, false) else { return };
        let number = self.next_number;
        self.next_number += 1;
        let packet_id = u16::try_from(NUMBERED_FROM + number).ok().and_then(PacketId::new);
        let packet_id = packet_id.expect("a run has fewer steps than there are packet ids");
        let is_v5 = self.links[&conn].version == ProtocolVersion::V5;
        // 3.1.1 has no code for a refusal, so its PUBACK promises less.
        if is_v5 && self.keeper.subscribed {
            self.offered.insert((conn, packet_id), number);
        }
        let publish = Publish {
            qos: source.pick(&[QoS::AtLeastOnce, QoS::ExactlyOnce]),
            topic: source.pick(&["keep/a", "keep/im", "keep/b"]).into(),
            retain: source.one_in(5),
            packet_id: Some(packet_id),
            payload: keeper::payload(number).into(),
            ..Publish::default()
        };
        self.send(conn, Packet::Publish(publish));
    }

    /// A client sends one of the answers that it owes, in any order.
    fn answer(&mut self, source: &mut Source<'_>) {
        let Some(conn) = self.any(source, true) else { return };
        let link = self.links.get_mut(&conn).expect("it was picked from these");
        let at = source.below(link.answers.len().max(1));
        if let Some(packet) = link.answers.remove(at) {
            self.send(conn, packet);
        }
    }

    /// Bytes of a client that knows no protocol.
    fn raw(&mut self, source: &mut Source<'_>) {
        let Some(conn) = self.any(source, false) else { return };
        let version = self.links[&conn].version;
        let mut decoder = Decoder::new(Role::Broker, Some(version), self.config.packet_bytes_max);
        let mut bytes = BytesMut::from(source.bytes(80));
        loop {
            match decoder.decode(&mut bytes) {
                // Numbered messages are the keeper's business.
                Ok(Some(Packet::Publish(publish))) if publish.payload.starts_with(keeper::MARK) => {}
                Ok(Some(packet)) => self.send(conn, packet),
                Ok(None) => return,
                Err(error) => return self.handle(Input::Malformed { conn, error }),
            }
        }
    }

    fn cut(&mut self, source: &mut Source<'_>) {
        if let Some(conn) = self.any(source, true) {
            self.links.remove(&conn);
            self.handle(Input::Closed { conn });
        }
    }

    fn commit(&mut self, source: &mut Source<'_>) {
        let count = if source.one_in(2) { source.below(self.pending.len() + 1) } else { self.pending.len() };
        self.commit_records(count);
    }

    fn commit_records(&mut self, count: usize) {
        self.durable.extend(self.pending.drain(..count));
        self.committed += count as u64;
        if count > 0 {
            self.handle(Input::Committed { ticket: Ticket(self.committed) });
        }
    }

    fn commit_all(&mut self) {
        while !self.pending.is_empty() {
            self.commit_records(self.pending.len());
        }
    }

    fn pass_time(&mut self, source: &mut Source<'_>) {
        let ms = source.pick(&[1, 100, 1_600, 7_000, 100_000, 4_000_000, 1 << 41]);
        self.now.monotonic_ms += ms;
        self.now.unix_ms += ms;
        self.handle(Input::Timer);
    }

    /// The process dies; of what was not durable, the log keeps a part.
    fn crash(&mut self, source: &mut Source<'_>) {
        let kept = source.below(self.pending.len() + 1);
        self.durable.extend(self.pending.drain(..kept));
        self.pending.clear();
        self.fetches.clear();
        self.links.clear();
        self.offered.clear();
        let kept = self.durable.len() as u64;
        (self.appended, self.committed, self.shut_down) = (kept, kept, false);
        self.seed += 1;
        self.now.monotonic_ms = 1;
        self.shard = self.rebuilt(&self.durable);
        self.pump();
        self.check_checkpoint();
    }

    fn rebuilt(&self, records: &[Bytes]) -> Shard {
        Shard::recover(self.config.clone(), self.seed, self.now, Recovery::of_log(records.iter().cloned()))
            .expect("what the engine appended can be taken back")
    }

    /// A checkpoint must say the same as the log it stands for, while nobody is connected. Its first may name
    /// shared groups that nobody is in any more.
    fn check_checkpoint(&self) {
        let counts = |shard: &Shard| {
            let stats = shard.stats();
            (stats.sessions, stats.subscriptions, stats.retained, stats.queued)
        };
        let rebuilt = self.rebuilt(&self.shard.checkpoint());
        assert_eq!(counts(&rebuilt), counts(&self.shard), "a checkpoint rebuilds another state");
        let records = rebuilt.checkpoint();
        assert_eq!(self.rebuilt(&records).checkpoint(), records, "a checkpoint rebuilds another state");
    }

    /// The log answers what was asked first.
    fn fetch(&mut self) {
        let Some((fetch, places)) = self.fetches.pop_front() else { return };
        let records = places.iter().map(|place| Some(self.durable[place.0 as usize - 1].clone())).collect();
        self.handle(Input::Fetched { fetch, records });
    }

    fn change_rights(&mut self, source: &mut Source<'_>) {
        if source.one_in(2) {
            let acl = Arc::new(packets::acl(source));
            return self.handle(Input::Acl { acl });
        }
        if let Some(conn) = self.any(source, false) {
            let principal = Box::new(packets::principal(source));
            self.handle(Input::Principal { conn, principal });
        }
    }

    /// What the process around the engine decides.
    fn caller(&mut self, source: &mut Source<'_>) {
        match source.below(6) {
            0 => self.handle(Input::StoreFull { full: source.one_in(2) }),
            1 => {
                let Some(conn) = self.any(source, false) else { return };
                let publish = Box::new(packets::publish(source));
                self.handle(Input::Refused {
                    conn,
                    publish,
                    reason: ReasonCode::QuotaExceeded,
                    what: "rate".into(),
                });
            }
            2 => self.on_any(source, |conn, _| Input::End {
                conn,
                reason: ReasonCode::AdministrativeAction,
                what: "kicked".into(),
            }),
            3 if source.one_in(4) => {
                self.shut_down = true;
                self.handle(Input::Shutdown);
            }
            // Of a connection that the engine may have forgotten.
            4 => {
                self.handle(Input::Closed { conn: ConnId(source.below(self.next_conn as usize) as u64 + 1) })
            }
            _ => {
                let payload = Bytes::copy_from_slice(source.bytes(3));
                self.handle(Input::Inform { topic: "$SYS/broker/x".into(), payload });
            }
        }
    }

    fn handle(&mut self, input: Input) {
        if let Input::Closed { conn } = &input {
            self.links.remove(conn);
        }
        self.shard.handle(self.now, input);
        self.pump();
        self.check_stats();
    }

    fn pump(&mut self) {
        let mut outputs = 0;
        while let Some(output) = self.shard.poll_output() {
            outputs += 1;
            assert!(outputs < OUTPUTS_PER_INPUT_MAX, "one input has no end of outputs");
            match output {
                Output::Append { ticket, record } => {
                    assert_eq!(ticket.0, self.appended + 1, "records are numbered in order");
                    self.appended = ticket.0;
                    self.pending.push_back(record);
                }
                Output::Send { conn, packet } => self.deliver(conn, &packet),
                Output::Fetch { fetch, places } => {
                    let is_durable = places.iter().all(|place| place.0 <= self.committed);
                    assert!(is_durable, "reads {places:?}, {} are durable", self.committed);
                    self.fetches.push_back((fetch, places));
                }
                Output::Answered { ask, .. } => panic!("{ask:?} was never asked"),
                Output::Close { conn, .. } => drop(self.links.remove(&conn)),
            }
        }
    }

    fn deliver(&mut self, conn: ConnId, packet: &Packet) {
        // What was on its way to a connection that its client has closed.
        let Some(link) = self.links.get_mut(&conn) else { return };
        link.take(packet);
        if link.client == 0 {
            self.keeper.take(packet);
            if matches!(packet, Packet::ConnAck(_)) && link.connected && !self.keeper.subscribed {
                link.answers.push_back(packets::keeper_subscribe(self.keeper_qos));
            }
        }
        if let Packet::PubAck(ack) | Packet::PubRec(ack) = packet
            && let Some(number) = self.offered.remove(&(conn, ack.packet_id))
            && !ack.reason.is_failure()
            && packets::keeps_all(&self.config)
        {
            assert_eq!(ack.reason, ReasonCode::Success, "number {number} has a recipient");
            self.keeper.owe(number);
        }
    }

    fn check_stats(&self) {
        let (stats, config) = (self.shard.stats(), &self.config);
        // The engine forgets a connection before the last of its outputs has left, never after.
        assert!(stats.connections <= self.links.len() as u64, "{stats:?}, {} links", self.links.len());
        assert!(stats.sessions <= config.sessions_max as u64, "{stats:?}");
        assert!(stats.connections <= stats.sessions, "{stats:?}");
        assert_eq!(stats.bodies_lost, 0, "the log has every record");
        assert!(stats.subscriptions <= stats.sessions * config.subscriptions_max as u64, "{stats:?}");
        assert!(self.shard.next_deadline_ms().is_none() || !self.shut_down, "a deadline after the shutdown");
    }

    /// No more trouble: everything promised arrives, and everything comes to rest.
    pub(super) fn settle(&mut self) {
        if self.shut_down {
            self.crash(&mut Source::new(&[]));
        }
        self.handle(Input::StoreFull { full: false });
        for conn in self.links.keys().copied().collect::<Vec<_>>() {
            self.handle(Input::Closed { conn });
        }
        self.connect_keeper(&mut Source::new(&[]));
        self.rest();
        self.keeper.check();
        for conn in self.links.keys().copied().collect::<Vec<_>>() {
            self.handle(Input::Closed { conn });
        }
        // Whatever waits for a time gets it.
        for _ in 0..ROUNDS_MAX {
            let Some(due) = self.shard.next_deadline_ms() else { break };
            let ahead_ms = due.saturating_sub(self.now.monotonic_ms);
            self.now.monotonic_ms += ahead_ms;
            self.now.unix_ms += ahead_ms;
            self.handle(Input::Timer);
            self.commit_all();
        }
        assert_eq!(self.shard.next_deadline_ms(), None, "deadlines have no end");
        let stats = self.shard.stats();
        let held_max = self.config.queue_messages_max + usize::from(self.config.inflight_max);
        assert_eq!((stats.connections, stats.deadlines), (0, 0), "{stats:?}");
        assert!(stats.queued <= stats.sessions * held_max as u64, "{stats:?}");
        assert!(stats.retained <= self.config.retained_messages_max as u64 + 64, "{stats:?}");
        self.check_checkpoint();
        self.handle(Input::Shutdown);
        self.commit_all();
        assert_eq!(self.shard.poll_output(), None);
    }

    /// Commits, reads and lets the clients answer until nobody has anything to say.
    fn rest(&mut self) {
        for _ in 0..ROUNDS_MAX {
            self.commit_all();
            if !self.fetches.is_empty() {
                self.fetch();
                continue;
            }
            if self.shard.next_deadline_ms().is_some_and(|due| due <= self.now.monotonic_ms) {
                self.handle(Input::Timer);
                continue;
            }
            let waiting = self.links.iter().find(|(_, link)| !link.answers.is_empty());
            let Some((&conn, _)) = waiting else { return };
            let answer = self.links.get_mut(&conn).and_then(|link| link.answers.pop_front());
            self.send(conn, answer.expect("it was not empty"));
        }
        panic!("there is no end of answers");
    }
}
