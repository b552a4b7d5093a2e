//! The runtime of one shard: one thread that owns the engine, its sockets and its turn.
//!
//! A turn begins with a look at all sockets. What ready ones have goes into the engine, and what the engine
//! says is collected: so one turn takes in what they have, hands all its records to the committer in one batch and
//! writes once to each connection it touched. Nothing leaves the thread when nothing must be stored.
//!
//! Owns everything between sockets and engine. Knows nothing of sessions, topics or QoS: what the protocol
//! demands is decided in the engine, except what happens before a CONNECT is there.
//!
//! Invariants: the engine's outputs are drained before its next input; a panic ends the broker, because a half-done
//! change of the state must not be served on.

mod accept;
mod admission;
mod authenticate;
mod ban_file;
mod buffers;
mod clock;
mod connection;
mod event_loop;
mod fetch;
mod inbox;
mod input;
mod lanes;
mod log;
mod look;
mod memory;
mod output;
mod pause;
mod reclaim;
mod sys;
mod transport;
mod turn;
mod view;

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap, VecDeque},
    net::IpAddr,
    ops::Deref,
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use engine::{Answer, AskId, ConnId, Input, Now, Question};
use slab::Slab;
use storage::Committer;
use tokio::sync::{mpsc, oneshot};

pub use self::log::Recovered;
pub(crate) use self::log::{Store, StoreError};
use self::{clock::Clock, connection::Connection};
pub(crate) use self::{event_loop::run, inbox::Inbox, look::Look};
use crate::{
    Config, FatalError,
    auth::Auth,
    limits::{Abuse, Admission, BanKey, BanView},
    listener::{Arrival, CIPHER_BYTES, GivenUp, HandshakeCounts, HandshakeDoor, PLAIN_BYTES_MIN, Socket},
};

/// Bytes read from a socket at once.
const SCRATCH_BYTES: usize = 64 * 1024;
const _: () = assert!(SCRATCH_BYTES >= PLAIN_BYTES_MIN);

/// Counts of the runtime, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) packets_in: u64,
    pub(crate) packets_out: u64,
    pub(crate) malformed: u64,
    pub(crate) overflowed: u64,
    /// Closed at accept, unanswered: a ban, or a bound of the address or the listener.
    pub(crate) closed_at_accept: u64,
    /// CONNECTs refused: 0x97.
    pub(crate) refused_quota: u64,
    /// CONNECTs refused: 0x9F.
    pub(crate) refused_rate: u64,
    /// CONNECTs refused: 0x8A.
    pub(crate) refused_banned: u64,
    /// CONNECTs whose answer was slowed.
    pub(crate) delayed: u64,
    /// Connections closed to make room for others without CONNECT.
    pub(crate) unconnected_closed: u64,
    /// Times that a connection waited for its rate.
    pub(crate) paused: u64,
    /// PUBLISH packets refused by a rate.
    pub(crate) rate_refused: u64,
    /// Connections ended far above their rate.
    pub(crate) rate_ended: u64,
    /// Connections closed because the buffers of all were over their bound.
    pub(crate) shed: u64,
}

/// What the shard looks like from outside at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Snapshot {
    pub(crate) engine: engine::Stats,
    pub(crate) memory: engine::Memory,
    pub(crate) counts: Counts,
    pub(crate) sockets: u64,
    pub(crate) unconnected: u64,
    pub(crate) bans: u64,
    pub(crate) handshakes: u64,
    pub(crate) handshakes_failed: u64,
    pub(crate) buffered_bytes: u64,
    pub(crate) log_bytes: u64,
    pub(crate) pending_bytes: u64,
    pub(crate) store_full: bool,
    pub(crate) fetches: fetch::FetchCounts,
    pub(crate) view: view::ViewCounts,
    pub(crate) reading_paused: bool,
    pub(crate) stopping: bool,
    pub(crate) uptime_ms: u64,
}

/// What other threads ask of the shard; who asked may have gone when the answer is there.
#[derive(Debug)]
pub(crate) enum Ask {
    /// How it looks.
    Snapshot(oneshot::Sender<Snapshot>),
    /// Who is banned.
    Bans(oneshot::Sender<Vec<BanView>>),
    /// To end a ban; whether there was one.
    LiftBan(BanKey, oneshot::Sender<bool>),
    /// Whether somebody may try to log in without a connection to be counted.
    MayLogIn { address: IpAddr, user: Option<ByteString>, answer: oneshot::Sender<Admission> },
    /// Such a login was right.
    LoggedIn { address: IpAddr, user: ByteString },
    /// Such a login failed.
    LoginFailed { address: IpAddr, user: Option<ByteString> },
    /// What the engine answers, when that is durable.
    Engine(Box<Question>, oneshot::Sender<Answer>),
}

/// What the shard's thread is started with.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) entry: Entry,
    pub(crate) auth: Auth,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) asked: mpsc::Receiver<Ask>,
}

/// How connections come in that had a handshake on another thread.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Where they are sent, if a listener needs it.
    pub(crate) door: Option<HandshakeDoor>,
    /// Where they come from.
    pub(crate) arrivals: mpsc::Receiver<Arrival>,
    pub(crate) counts: Arc<HandshakeCounts>,
}

/// The limits of the runtime.
#[derive(Clone, Copy, Debug)]
struct Limits {
    connections_max: usize,
    connect_timeout_ms: u64,
    close_timeout_ms: u64,
    packet_bytes_max: u32,
    unsent_bytes_high: usize,
    unsent_bytes_low: usize,
    unsent_bytes_max: usize,
    pending_bytes_max: usize,
    unconnected_max: u64,
    buffers_bytes_max: usize,
}

impl Limits {
    fn new(config: &Config) -> Self {
        let (mqtt, store) = (&config.mqtt, &config.store);
        Self {
            connections_max: mqtt.connections_max as usize,
            connect_timeout_ms: u64::from(mqtt.connect_timeout_s) * 1000,
            close_timeout_ms: u64::from(mqtt.close_timeout_s) * 1000,
            packet_bytes_max: mqtt.packet_bytes_max,
            unsent_bytes_high: mqtt.unsent_bytes_high as usize,
            unsent_bytes_low: mqtt.unsent_bytes_low as usize,
            unsent_bytes_max: mqtt.unsent_bytes_max as usize,
            pending_bytes_max: store.pending_bytes_max as usize,
            unconnected_max: config.limits.unconnected_max.into(),
            buffers_bytes_max: config.limits.buffers_bytes_max as usize,
        }
    }
}

/// Everything the shard's thread owns.
struct Core {
    engine: engine::Shard,
    sys: sys::Sys,
    clock: Clock,
    limits: Limits,
    counts: Counts,
    inbox: Arc<Inbox>,
    is_store_full: bool,
    view: Option<view::ViewThread>,
    committer: Option<Committer>,
    fetcher: fetch::Fetcher,
    /// Each where it was made: a table that grows moves pointers, and leaves nothing large behind.
    connections: Slab<Box<Connection>>,
    next_serial: u64,
    scratch: Box<[u8]>,
    /// What is read to be decrypted.
    cipher: Box<[u8]>,
    /// Seats of connections that did not come back from their handshake.
    given_up: Arc<GivenUp>,
    handshakes: Arc<HandshakeCounts>,
    /// Output buffers of connections that have nothing to send.
    #[allow(clippy::vec_box, reason = "a connection holds a word, which the box makes of it")]
    spare: Vec<Box<BytesMut>>,
    /// Connections with something to send or to close at the turn's end.
    dirty: VecDeque<ConnId>,
    /// Connections whose writes are shared by several slices.
    dirty_shared: VecDeque<ConnId>,
    /// So many of them, the first ones, are due.
    dirty_shared_due: usize,
    /// Connections whose packets cannot be encoded; closed after the outputs are drained.
    broken: Vec<ConnId>,
    /// Records that the committer does not have.
    batch: Vec<Bytes>,
    /// Whether one of them is of no slice.
    is_batch_due: bool,
    last_ticket: u64,
    /// The newest ticket the engine was told to be durable.
    committed: u64,
    /// Who waits for an answer of the engine.
    answers: HashMap<AskId, oneshot::Sender<Answer>>,
    next_ask: u64,
    /// How many records it is told of at once.
    committed_step: u64,
    /// Something is to be written, stored or looked at when the turn ends.
    is_turn_due: bool,
    /// Deadlines are not looked at before.
    timer_ms: u64,
    logins: authenticate::Logins,
    connect_deadlines: VecDeque<(u64, ConnId)>,
    close_deadlines: VecDeque<(u64, ConnId)>,
    /// When connections that wait go on, the first first.
    pauses: BinaryHeap<Reverse<(u64, ConnId)>>,
    abuse: Abuse,
    lanes: lanes::Lanes,
    grants: admission::Grants,
    /// Bytes in the buffers of all connections.
    buffered: usize,
    /// Connections whose unsent bytes went over the mark; the engine hears it before its next input.
    congested: Vec<ConnId>,
    memory_level: engine::MemoryLevel,
    reading_paused: bool,
    parked: Vec<ConnId>,
    stop: Option<turn::Stop>,
    /// Something happened that the end of the broker may wait for.
    is_stop_due: bool,
}

/// Ends the broker when it is dropped by a panic.
struct PanicAlarm<I: Deref<Target = Inbox>>(I);

impl<I: Deref<Target = Inbox>> Drop for PanicAlarm<I> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(FatalError::Panicked);
        }
    }
}

impl Core {
    fn new(
        config: &Config,
        store: Store,
        auth: Auth,
        inbox: &Arc<Inbox>,
        handshakes: Arc<HandshakeCounts>,
    ) -> Self {
        let Store { log, view, place, engine, clock, .. } = store;
        let events = PanicAlarm(Arc::clone(inbox));
        inbox.set_log_bytes(log.bytes());
        // Records are numbered as the log does.
        let newest = log.next_lsn().0 - 1;
        let reader = log.reader();
        let committer = Committer::spawn(log, move |event| {
            let PanicAlarm(inbox) = &events;
            inbox.commit_event(event);
        });
        Self {
            engine,
            sys: sys::Sys::new(config.mqtt.sys_interval_s),
            clock,
            limits: Limits::new(config),
            counts: Counts::default(),
            inbox: Arc::clone(inbox),
            fetcher: fetch::Fetcher::spawn(reader.clone(), Arc::clone(inbox)),
            is_store_full: false,
            view: Some(view::ViewThread::spawn(
                view::Follower {
                    view,
                    place,
                    reader,
                    swapper: committer.swapper(),
                    segment_bytes: config.store.segment_bytes,
                    unsynced_passes: 0,
                    damaged: BTreeSet::new(),
                    full: view::FullStore::default(),
                },
                Arc::clone(inbox),
            )),
            committer: Some(committer),
            connections: Slab::new(),
            next_serial: 0,
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            cipher: vec![0; CIPHER_BYTES].into_boxed_slice(),
            given_up: Arc::default(),
            handshakes,
            spare: Vec::new(),
            dirty: VecDeque::new(),
            dirty_shared: VecDeque::new(),
            dirty_shared_due: 0,
            broken: Vec::new(),
            batch: Vec::new(),
            is_batch_due: false,
            last_ticket: newest,
            committed: newest,
            answers: HashMap::new(),
            next_ask: 0,
            committed_step: 1,
            is_turn_due: false,
            timer_ms: 0,
            logins: authenticate::Logins::new(auth),
            connect_deadlines: VecDeque::new(),
            close_deadlines: VecDeque::new(),
            pauses: BinaryHeap::new(),
            abuse: admission::abuse(config, clock.now()),
            lanes: lanes::Lanes::new(),
            grants: admission::Grants::new(config),
            buffered: 0,
            congested: Vec::new(),
            memory_level: engine::MemoryLevel::Normal,
            reading_paused: false,
            parked: Vec::new(),
            stop: None,
            is_stop_due: false,
        }
    }

    fn connection(&mut self, id: ConnId) -> Option<&mut Connection> {
        self.connections
            .get_mut(slot(id))
            .map(|connection| &mut **connection)
            .filter(|connection| connection.id == id)
    }

    /// Gives the engine one input and does what it says.
    fn input(&mut self, now: Now, input: Input) {
        self.engine.handle(now, input);
        self.drain();
        while let Some(id) = self.congested.pop() {
            self.engine.handle(now, Input::Congested { conn: id });
            self.drain();
        }
        while let Some(id) = self.broken.pop() {
            self.lose(now, id);
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            engine: self.engine.stats(),
            memory: self.engine.memory(),
            counts: self.counts,
            sockets: self.connections.len() as u64,
            unconnected: self.abuse.unconnected(),
            bans: self.abuse.bans_len(),
            handshakes: self.handshakes.done(),
            handshakes_failed: self.handshakes.failed(),
            buffered_bytes: self.buffered as u64,
            log_bytes: self.inbox.log_bytes(),
            pending_bytes: self.pending_bytes() as u64,
            store_full: self.is_store_full,
            view: self.view.as_ref().map(view::ViewThread::counts).unwrap_or_default(),
            fetches: self.fetcher.counts(),
            reading_paused: self.reading_paused,
            stopping: self.stop.is_some(),
            uptime_ms: self.clock.now().monotonic_ms,
        }
    }
}

/// Bits of a connection's number that are its place in the table; the others are never used twice.
const SLOT_BITS: u32 = 25;

fn slot(id: ConnId) -> usize {
    (id.0 & ((1 << SLOT_BITS) - 1)) as usize
}
