//! The shard: where sessions, routes, retained messages, conversations and receipts meet.
//!
//! One input at a time: the handler changes the state, writes the durable part of the change into the
//! turn's record and its packets into the turn's sends; `finish` numbers the record and puts the sends
//! behind it. So one input is one atomic record, and nothing of it is seen before it is durable. What
//! follows from an input and could be much (`backlog`) comes in turns of its own.

mod accept;
mod answer;
mod asked;
mod backlog;
mod caller;
mod checkpoint;
mod connect;
mod dedup;
mod deliver;
mod end;
mod fan_out;
mod fetch;
mod gap;
mod heard;
mod inbox;
mod inbox_list;
mod incoming;
mod inform;
mod keepalive;
mod limits;
mod member;
mod memory;
mod mine;
mod poison;
mod presence;
mod preview;
mod probe;
mod publish;
mod queue;
mod reads;
mod recover;
mod replay;
mod request;
mod retention;
mod rights;
mod share;
mod stored;
mod subscribe;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use bytestring::ByteString;
use protocol::{Packet, ProtocolVersion, ReasonCode};
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::alias::TopicAliases;
use crate::body::Bodies;
use crate::conversation::Conversations;
use crate::dedup::Dedup;
use crate::directory::Directory;
use crate::gate::Gate;
use crate::member::{Limits, Members};
use crate::memory::{Account, Held, Memory};
use crate::message::Message;
use crate::names::ByName;
use crate::network::Networks;
use crate::planted::Planted;
use crate::presence::Presences;
use crate::principal::Principal;
use crate::reads::ReadWishes;
use crate::receipt::{Receipts, Told};
use crate::record::{Entry, RecordBuilder, SessionNo};
use crate::retained::Retained;
use crate::rights::{NodeRules, Rights};
use crate::route::{Matches, Routes, SessionKey};
use crate::seldom::Seldom;
use crate::share::Groups;
use crate::timers::{Deadline, Timers};
use crate::{CloseReason, Config, ConnId, Input, Now, OnFull, Output, Stats, Ticket};
use asked::Asked;
use backlog::Work;
use deliver::Outgoing;
use fan_out::FanOuts;
use fetch::Fetches;
use heard::Heard;
use inbox::Inboxes;
use keepalive::Path;
use share::Remains;

/// One shard of the broker. One owner, no locks. Same inputs, same outputs.
#[derive(Debug)]
pub struct Shard {
    config: Config,
    rules: Arc<NodeRules>,
    /// Counts the changes of `rules`.
    rights_epoch: u32,
    rng: fastrand::Rng,
    gate: Gate,
    sessions: Directory,
    conns: FxHashMap<ConnId, Box<Conn>>,
    /// The one that came last.
    principal: Arc<Principal>,
    routes: Routes,
    /// Subscriptions to envelopes, by what their messages' own topics are matched against.
    envelope_routes: Routes,
    groups: Groups,
    heard: Heard,
    outgoing: Outgoing,
    /// What sessions that ended left to their groups, until it is handed on.
    remains: FxHashMap<SessionNo, Remains>,
    retained: Retained,
    /// Messages of the broker's own.
    informed: Retained,
    conversations: Conversations,
    /// Ids of messages that were accepted.
    dedup: Dedup,
    /// Messages whose senders want to hear who read them.
    read_wishes: ReadWishes,
    /// Messages of conversations that are not durable yet, while a session has a cursor.
    uncommitted: VecDeque<Arc<Message>>,
    /// Sessions whose cursors are at messages that are not durable yet.
    waits_for_commit: BTreeSet<SessionNo>,
    receipts: Receipts,
    networks: Networks,
    /// Which messages have their bodies in memory.
    bodies: Bodies,
    fetches: Fetches,
    presences: Presences,
    members: Members,
    inboxes: Inboxes,
    /// What sessions, messages and the like hold.
    account: Account,
    memory: Memory,
    timers: Timers,
    backlog: VecDeque<Work>,
    /// What of it is done after each input: checks of rights.
    checks: VecDeque<Work>,
    /// How much of it is about what ended cursors left out, by conversation.
    uncovering: ByName<u32>,
    /// Messages to very many that not all of them have.
    fan_outs: FanOuts,
    /// `Work::Presences` is among it.
    is_telling_presences: bool,
    /// `Deadline::Presences` is set.
    is_presence_due: bool,
    /// The newest record that more than the presence of clients is in.
    promised: u64,
    /// What the work after this input has cost so far, in things looked at.
    effort: usize,
    next_message: u64,
    next_session: u64,
    store_full: bool,
    /// Whether a queue may be one that refuses publishes: then each recipient's is asked.
    some_reject: bool,
    /// Nothing is read from any connection for a while.
    is_unread: bool,
    /// Since when all are read.
    read_since_ms: u64,
    shut_down: bool,
    stats: Stats,
    turn: Turn,
}

/// What one input has produced so far.
#[derive(Debug, Default)]
struct Turn {
    record: RecordBuilder,
    sends: Vec<(Wait, ConnId, Output)>,
    /// Gate marks of connections that ended in this turn.
    closed: Vec<(ConnId, u64)>,
    /// Receipts to be published with this turn.
    told: Vec<Told>,
    /// Its record says who came and went, and no more.
    is_presence: bool,
    /// Scratch for route matches.
    matches: Matches,
    /// The recipients found last are those of any message of the topic, whoever publishes it.
    is_general: bool,
}

/// What a send waits for, besides everything sent on the connection before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// This turn's record, if it has one.
    Record,
    /// The record with this number; 0 = none.
    Ticket(u64),
}

/// One network connection, from its CONNECT on.
#[derive(Debug)]
struct Conn {
    session: SessionKey,
    rights: Rights,
    version: ProtocolVersion,
    keep_alive_s: u16,
    /// The heartbeat that the client declared since, seconds; 0 = none.
    declared_s: u16,
    last_packet_ms: u64,
    /// When a PUBLISH was made for it last.
    last_sent_ms: u64,
    /// A probe is pending: no PUBLISH is started.
    is_silent: bool,
    path: Option<Box<Path>>,
    /// Nothing is read from it for a while.
    is_unread: bool,
    /// Session Expiry Interval of the CONNECT was above 0: DISCONNECT may change it.
    may_change_expiry: bool,
    problem_information: bool,
    /// QoS 1/2 messages the client takes at once.
    receive_maximum_of_client: usize,
    /// The same, our own limit counted.
    window: usize,
    /// When a QoS 1 or 2 message was sent last.
    flight_sent_ms: Option<u64>,
    /// QoS 1/2 publishes that it was told it may have unacknowledged.
    receive_maximum: u16,
    packet_bytes_max: Option<NonZeroU32>,
    /// Topics that the client gave numbers to.
    aliases: Seldom<HashMap<NonZeroU16, ByteString, FxBuildHasher>>,
    /// Its share of the shard's memory.
    held: Held,
    /// Topics that it was given numbers for.
    topics: Option<Box<TopicAliases>>,
    /// The newest record that something sent here waits for.
    gate: u64,
    congested: bool,
    /// The client's QoS 1/2 publishes that were not acknowledged to the end yet.
    unacknowledged: u16,
    /// Packets other than PUBLISH that wait for their record.
    answers_waiting: u32,
    /// What came of a SUBSCRIBE or UNSUBSCRIBE that comes in parts.
    asked: Option<Box<Asked>>,
}

/// Answers that may wait for the store on one connection: all that its packet ids allow, and some.
const ANSWERS_WAITING_MAX: u32 = 70_000;

/// Deadlines served by one `Input::Timer`; what is left stays due.
const DEADLINES_PER_TIMER_MAX: usize = 1_000;

impl Shard {
    fn empty(config: Config, seed: u64, next: Ticket) -> Self {
        let account = Account::default();
        let mut rng = fastrand::Rng::with_seed(seed);
        Self {
            gate: Gate::new(config.planted, next),
            dedup: Dedup::new(config.dedup, rng.u64(..), &account),
            read_wishes: ReadWishes::new(&account),
            rng,
            sessions: Directory::default(),
            conns: FxHashMap::default(),
            principal: Arc::default(),
            routes: Routes::default(),
            envelope_routes: Routes::default(),
            groups: Groups::new(&account),
            heard: Heard::default(),
            outgoing: Outgoing::default(),
            remains: FxHashMap::default(),
            retained: Retained::default(),
            informed: Retained::default(),
            conversations: Conversations::new(
                config.conversations.clone(),
                config.conversations_max,
                &account,
            ),
            uncommitted: VecDeque::new(),
            waits_for_commit: BTreeSet::new(),
            receipts: Receipts::new(config.receipts_listed_max, &account),
            networks: Networks::new(config.networks_max, &account),
            fetches: Fetches::default(),
            bodies: Bodies::new(config.bodies_bytes_max, &account),
            presences: Presences::new(config.presence_max, &account),
            members: Members::new(
                Limits {
                    members_max: config.members_max,
                    conversations_max: config.conversations_per_user_max,
                    memberships_max: config.memberships_max,
                },
                &account,
            ),
            inboxes: Inboxes::default(),
            memory: Memory { bytes_max: config.memory_bytes_max, ..Memory::default() },
            account,
            timers: Timers::default(),
            backlog: VecDeque::new(),
            checks: VecDeque::new(),
            uncovering: ByName::default(),
            fan_outs: FanOuts::default(),
            is_telling_presences: false,
            is_presence_due: false,
            promised: 0,
            effort: 0,
            next_message: 1,
            next_session: 1,
            store_full: false,
            some_reject: config.on_full == OnFull::Reject,
            is_unread: false,
            read_since_ms: 0,
            shut_down: false,
            stats: Stats::default(),
            turn: Turn::default(),
            rules: Arc::default(),
            rights_epoch: 1,
            config,
        }
    }

    /// Takes one input. Poll the outputs to `None` before the next one.
    pub fn handle(&mut self, now: Now, input: Input) {
        let does_what_is_left = matches!(input, Input::Timer) || self.backlog.is_empty();
        match input {
            Input::Committed { ticket: Ticket(ticket) } => {
                self.gate.committed(ticket);
                return self.committed_for_replays();
            }
            // Only what was accepted before is still brought to its end.
            _ if self.shut_down => {}
            Input::Connect { conn, connect, principal, authentication } => {
                self.connect(now, conn, *connect, *principal, authentication);
            }
            Input::Principal { conn, principal } => {
                self.finish_fanning_out(now);
                self.set_principal(now, conn, *principal);
            }
            Input::Acl { acl } => {
                // What waits there is of the rules before.
                self.finish_fanning_out(now);
                self.set_acl(now, acl);
            }
            Input::Refused { conn, publish, reason, what } => {
                self.refused_by_caller(now, conn, *publish, reason, what);
            }
            Input::End { conn, reason, what } => self.end_by_caller(now, conn, reason, what),
            Input::Inform { topic, payload } => self.inform(now, topic, payload),
            Input::Packet { conn, packet } => self.packet(now, conn, packet, 0),
            Input::Part { conn, packet, filters_left } => self.packet(now, conn, packet, filters_left),
            Input::Malformed { conn, error } => {
                self.malformed(now, conn, &error);
            }
            Input::Closed { conn } => self.connection_ended(now, conn, CloseReason::Lost),
            Input::Congested { conn } => {
                if let Some(conn) = self.conns.get_mut(&conn) {
                    conn.congested = true;
                }
            }
            Input::Drained { conn } => self.drained(now, conn),
            Input::Reading { conn, paused } => self.set_reading(now, conn, paused),
            Input::Fetched { fetch, records } => self.fetched(now, fetch, &records),
            Input::Timer => self.timer(now),
            Input::StoreFull { full } => {
                self.store_full = full;
                self.tell_presences_later(now);
            }
            Input::Asked { ask, question } => self.asked(now, ask, *question),
            Input::Shutdown => self.shut_down(now),
        }
        self.finish(now);
        self.watch_memory();
        if !self.shut_down && !self.checks.is_empty() {
            self.work_off_checks(now);
            self.watch_memory();
        }
        if does_what_is_left && self.has_backlog() {
            self.work_off(now);
            self.watch_memory();
        }
        self.start_fetches();
    }

    /// Returns the next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.gate.poll()?;
        if let Output::Send { conn, packet } = &output {
            self.left(*conn, packet);
        }
        Some(output)
    }

    /// Counts a packet that passed the gate.
    fn left(&mut self, conn: ConnId, packet: &Packet) {
        if let Packet::Publish(publish) = packet {
            self.stats.publishes_out += 1;
            self.stats.payload_bytes_out += publish.payload.len() as u64;
            return;
        }
        let Some(c) = self.conns.get_mut(&conn) else { return };
        c.answers_waiting = c.answers_waiting.saturating_sub(1);
        let acknowledges = match packet {
            Packet::PubAck(_) | Packet::PubComp(_) => true,
            Packet::PubRec(ack) => ack.reason.is_failure(),
            _ => false,
        };
        c.unacknowledged = c.unacknowledged.saturating_sub(u16::from(acknowledges));
    }

    /// Returns when `Input::Timer` is due, on the monotonic clock.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        if self.shut_down {
            return None;
        }
        if self.has_backlog() || !self.fan_outs.is_empty() { Some(0) } else { self.timers.next_ms() }
    }

    /// Whether something is left to do after an input, for `Input::Timer` to go on with.
    fn has_backlog(&self) -> bool {
        let is_empty = self.backlog.is_empty() && self.checks.is_empty();
        !self.shut_down && !is_empty
    }

    /// Whether a client is connected.
    pub fn has_connections(&self) -> bool {
        !self.conns.is_empty()
    }

    /// Counts for metrics.
    pub fn stats(&self) -> Stats {
        Stats { queued: self.held(), ..self.counters() }
    }

    /// The counts that need no walk over the sessions; the others are 0.
    pub fn counters(&self) -> Stats {
        Stats {
            connections: self.conns.len() as u64,
            sessions: self.sessions.len() as u64,
            subscriptions: (self.routes.len() + self.envelope_routes.len() + self.groups.members()) as u64,
            retained: self.retained.len() as u64,
            informs: self.informed.len() as u64,
            presences: self.presences.len() as u64,
            deadlines: self.timers.len() as u64,
            memory_bytes: self.memory.bytes as u64,
            memory_level: self.memory.level,
            ..self.stats
        }
    }

    /// Messages that wait or are in flight.
    fn held(&self) -> u64 {
        let sessions: usize = self.sessions.iter().map(|(_, s)| s.held()).sum();
        let remains: usize = self.remains.values().map(Remains::len).sum();
        (sessions + remains) as u64
    }

    /// Closes the turn: its record gets the next number, its sends wait for what they must.
    fn finish(&mut self, now: Now) {
        // Receipts come last, so that messages stand in every queue in the order of their numbers.
        for told in std::mem::take(&mut self.turn.told) {
            self.tell(now, told);
        }
        for group in self.groups.take_forgotten() {
            self.write(&Entry::GroupForgotten { group });
        }
        let ticket = if self.turn.record.is_empty() {
            0
        } else {
            self.gate.append(self.turn.record.take());
            self.gate.last_ticket()
        };
        if !std::mem::take(&mut self.turn.is_presence) {
            self.promised = self.promised.max(ticket);
        }
        let mut sends = std::mem::take(&mut self.turn.sends);
        for (wait, conn, output) in sends.drain(..) {
            let ticket = match wait {
                Wait::Record => ticket,
                // One that no record followed has nothing to wait for.
                Wait::Ticket(ticket) => ticket.min(self.gate.last_ticket()),
            };
            let closed = self.turn.closed.iter_mut().find(|(c, _)| *c == conn).map(|(_, gate)| gate);
            let mut nothing = 0;
            let mark = closed.or(self.conns.get_mut(&conn).map(|c| &mut c.gate)).unwrap_or(&mut nothing);
            self.gate.push(output, ticket, mark);
        }
        self.turn.sends = sends;
        self.turn.closed.clear();
    }

    /// Test only: whether this mistake is to be made.
    fn has_planted(&self, bug: Planted) -> bool {
        self.config.planted == Some(bug)
    }

    fn write(&mut self, entry: &Entry) {
        self.turn.record.push(entry);
    }

    fn send(&mut self, conn: ConnId, wait: Wait, packet: Packet) {
        if !matches!(packet, Packet::Publish(_))
            && let Some(c) = self.conns.get_mut(&conn)
        {
            c.answers_waiting += 1;
        }
        self.turn.sends.push((wait, conn, Output::Send { conn, packet }));
    }

    /// Forgets the connection and has its socket closed after what was sent.
    fn close(&mut self, conn: ConnId, reason: CloseReason) {
        if let Some(gone) = self.conns.remove(&conn) {
            self.turn.closed.push((conn, gone.gate));
            self.timers.clear(Deadline::KeepAlive(conn));
            if gone.is_silent {
                self.timers.clear(Deadline::Probe(conn));
            }
        }
        self.turn.sends.push((Wait::Record, conn, Output::Close { conn, reason }));
    }

    /// Each due deadline is a turn of its own, so that no record grows with their number.
    fn timer(&mut self, now: Now) {
        self.go_on_fanning_out(now);
        self.finish(now);
        for _ in 0..DEADLINES_PER_TIMER_MAX {
            let Some(deadline) = self.timers.pop_due(now.monotonic_ms) else { return };
            match deadline {
                Deadline::KeepAlive(conn) => self.keep_alive_due(now, conn),
                Deadline::PresenceEnd => self.watch_presences(now),
                Deadline::Presences => self.presences_due(),
                Deadline::Probe(conn) => self.probe_due(now, conn),
                Deadline::SessionExpiry(session) => self.session_expiry_due(now, session),
                Deadline::WillDelay(session) => self.will_due(now, session),
                Deadline::MessageExpiry(message) => {
                    self.backlog.push_back(Work::Expire { message, after: None });
                }
                Deadline::RetainedExpiry => self.retained_expiry_due(now),
                Deadline::Retention => self.retention_due(now),
                Deadline::Count(message) => self.count_due(now, message),
                Deadline::ReadCounts => self.read_counts_due(now),
                Deadline::DedupExpiry => self.dedup_expiry_due(now),
                Deadline::Inboxes => self.inboxes_due(now),
                Deadline::Unread(roll) => self.unread_due(now, roll as usize),
            }
            self.finish(now);
        }
    }

    /// Tells every client; the log keeps its sessions as connected, so that a restart treats an orderly end
    /// like any other: their wills are published then (section 3.1.2.5). Sessions that end with their
    /// connection end now, or nobody would publish theirs.
    fn shut_down(&mut self, now: Now) {
        self.finish_fanning_out(now);
        self.finish(now);
        self.end_sessions_now(now);
        let mut conns: Vec<_> = self.conns.iter().map(|(conn, c)| (*conn, c.session)).collect();
        conns.sort_unstable();
        for (conn, key) in conns {
            // docs/protocol.md section 10: moving is 0x9C with a Server Reference.
            let reason = match self.config.server_reference.is_empty() {
                true => ReasonCode::ServerShuttingDown,
                false => ReasonCode::UseAnotherServer,
            };
            self.send_disconnect(conn, reason, "the broker is shutting down");
            if self.sessions[key].durable {
                self.close(conn, CloseReason::Shutdown);
            } else {
                self.connection_ended(now, conn, CloseReason::Shutdown);
            }
            self.finish(now);
        }
        // What ended sessions leave to members that stay is theirs before the process ends.
        // What waits for its bodies is in the log.
        while !self.remains.is_empty() && !self.backlog.is_empty() {
            self.work_off(now);
        }
        self.write_presences(now);
        self.shut_down = true;
    }
}

#[cfg(test)]
mod tests;
