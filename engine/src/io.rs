//! What goes into a shard and what comes out of it.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use protocol::{Connect, DecodeError, Packet, Publish, ReasonCode};

use crate::acl::Acl;
use crate::ask::{Answer, AskId, Question};
use crate::memory::MemoryLevel;
use crate::principal::{Authentication, Principal};

/// The time of one input, given by the caller: the engine has no clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds on a clock that never goes back; for intervals.
    pub monotonic_ms: u64,
    /// Milliseconds since the Unix epoch; for what people and other machines see, and what must
    /// outlive a restart.
    pub unix_ms: u64,
}

/// One network connection; the caller never uses a number twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// Number of a record in the log: 1, 2, 3 … over restarts, the log's own number of it. So it is also the place where what the record
/// holds can be read again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Number of a request for records; a shard never uses one twice while it lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FetchId(pub u64);

/// Something that happened to the shard.
#[derive(Clone, Debug)]
pub enum Input {
    /// The first packet of a connection, its user already authenticated.
    Connect {
        /// The connection; new to the shard.
        conn: ConnId,
        /// The packet.
        connect: Box<Connect>,
        /// Who it is.
        principal: Box<Principal>,
        /// The end of the enhanced authentication that CONNECT asked for; `None` if it asked for none.
        authentication: Option<Authentication>,
    },
    /// A connection's principal is another now: it authenticated again, or its rights changed. Its session's
    /// subscriptions and queue are checked again. The user must be the same.
    Principal {
        /// The connection; an unknown one is ignored.
        conn: ConnId,
        /// Who it is now.
        principal: Box<Principal>,
    },
    /// The node's rules are others now: every session is checked again.
    Acl {
        /// The rules.
        acl: Arc<Acl>,
    },
    /// A PUBLISH that the caller refuses (a rate): the engine answers it as it answers its own refusals.
    Refused {
        /// The connection.
        conn: ConnId,
        /// The packet.
        publish: Box<Publish>,
        /// The reason code.
        reason: ReasonCode,
        /// Why, with the values.
        what: String,
    },
    /// The caller ends a connection: an operator, a ban, a user that was removed. The will is published.
    End {
        /// The connection; an unknown one is ignored.
        conn: ConnId,
        /// The reason code of the DISCONNECT.
        reason: ReasonCode,
        /// Why, for the reason string and the log.
        what: String,
    },
    /// A message of the broker's own (`$SYS/...`): QoS 0, retained in memory, never logged.
    Inform {
        /// The topic.
        topic: ByteString,
        /// The payload; empty removes it.
        payload: Bytes,
    },
    /// Any later packet.
    Packet {
        /// The connection.
        conn: ConnId,
        /// The packet.
        packet: Packet,
    },
    /// The first filters of a SUBSCRIBE or UNSUBSCRIBE of many, so that others need not wait for all. What is left
    /// of the packet must come next for the connection, in parts and at last as [`Input::Packet`], which brings
    /// the answer to all.
    Part {
        /// The connection.
        conn: ConnId,
        /// The packet with the filters of this part.
        packet: Packet,
        /// So many filters follow in other parts.
        filters_left: usize,
    },
    /// The connection sent bytes that are no packet.
    Malformed {
        /// The connection.
        conn: ConnId,
        /// What was wrong.
        error: DecodeError,
    },
    /// The socket is gone, without DISCONNECT if none came before. Unknown connections are ignored,
    /// so the caller may say this of any connection once.
    Closed {
        /// The connection.
        conn: ConnId,
    },
    /// The connection's unsent bytes went over the caller's high-water mark: QoS 0 messages for it are
    /// dropped and queues wait until `Drained`.
    Congested {
        /// The connection.
        conn: ConnId,
    },
    /// The connection's unsent bytes are low again.
    Drained {
        /// The connection.
        conn: ConnId,
    },
    /// The caller stops reading from a connection for reasons of its own, or reads again: silence meanwhile
    /// says nothing about the client.
    Reading {
        /// The connection, `None` for all; an unknown one is ignored.
        conn: Option<ConnId>,
        /// Whether it stops.
        paused: bool,
    },
    /// All records up to and including this one are durable.
    Committed {
        /// The newest durable record.
        ticket: Ticket,
    },
    /// The records of an [`Output::Fetch`], in its order.
    Fetched {
        /// Which.
        fetch: FetchId,
        /// The records; `None` for one that the log does not have.
        records: Vec<Option<Bytes>>,
    },
    /// `next_deadline_ms` has come.
    Timer,
    /// The store cannot take more messages (`true`) or can again; publishes that need it are refused,
    /// the small records that end messages still pass.
    StoreFull {
        /// Whether it is full.
        full: bool,
    },
    /// Somebody who is no MQTT client asks for something; see [`Output::Answered`].
    Asked {
        /// Its number; the caller never uses one twice.
        ask: AskId,
        /// What is asked.
        question: Box<Question>,
    },
    /// The process ends in order: every client is told.
    Shutdown,
}

/// Something the caller must do, in the order polled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Write this packet to the connection.
    Send {
        /// The connection.
        conn: ConnId,
        /// The packet, in the connection's version.
        packet: Packet,
    },
    /// Write what was sent before, then close the socket. The shard has forgotten the connection.
    Close {
        /// The connection.
        conn: ConnId,
        /// Why, for the log.
        reason: CloseReason,
    },
    /// The answer to [`Input::Asked`]; what it vouches for is durable.
    Answered {
        /// Which.
        ask: AskId,
        /// What came of it.
        answer: Answer,
    },
    /// Append this record to the log, in order; say `Committed` when it is durable.
    Append {
        /// Its number.
        ticket: Ticket,
        /// Its bytes; `Shard::recover` takes them back.
        record: Bytes,
    },
    /// Read these records, all of them durable, and say `Fetched`. What comes meanwhile is served.
    Fetch {
        /// Its number.
        fetch: FetchId,
        /// Numbers of the records.
        places: Vec<Ticket>,
    },
}

/// Why the shard ends a connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The client sent DISCONNECT.
    #[error("client disconnected")]
    Disconnected,
    /// The socket was closed without DISCONNECT.
    #[error("connection lost")]
    Lost,
    /// Nothing came for 1.5 times the keep-alive.
    #[error("keep-alive of {keep_alive_s} s passed one and a half times without a packet")]
    KeepAlive {
        /// The client's keep-alive.
        keep_alive_s: u16,
    },
    /// Another connection uses the client id.
    #[error("session taken over by a newer connection")]
    TakenOver,
    /// CONNECT was refused.
    #[error("connect refused: {0}")]
    Refused(String),
    /// The client broke the protocol.
    #[error("{0}")]
    Violation(String),
    /// The caller ended it.
    #[error("{0}")]
    Ended(String),
    /// The process ends.
    #[error("broker is shutting down")]
    Shutdown,
}

/// Counts of one shard, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Open connections.
    pub connections: u64,
    /// Sessions, connected or not.
    pub sessions: u64,
    /// Subscriptions over all sessions.
    pub subscriptions: u64,
    /// Retained messages.
    pub retained: u64,
    /// Messages queued or in flight, over all sessions.
    pub queued: u64,
    /// Clients whose presence is known.
    pub presences: u64,
    /// Deadlines that wait for their time.
    pub deadlines: u64,
    /// Bytes held in memory, as the engine counts them.
    pub memory_bytes: u64,
    /// How near that is to the bound.
    pub memory_level: MemoryLevel,
    /// PUBLISH packets taken since start.
    pub publishes_in: u64,
    /// Of these, repeats of messages accepted before, by their id.
    pub duplicates: u64,
    /// PUBLISH packets sent since start.
    pub publishes_out: u64,
    /// Messages dropped since start, all reasons.
    pub dropped: u64,
    /// Of these, for the Maximum Packet Size of their recipient.
    pub dropped_too_large: u64,
    /// Of these, for a full queue or a slow connection.
    pub dropped_queue_full: u64,
    /// Of these, for their Message Expiry Interval.
    pub expired: u64,
    /// Messages set aside since start, because they ended their recipients' connections.
    pub set_aside: u64,
    /// Bodies of messages that were read from the log again since start.
    pub bodies_fetched: u64,
    /// Bodies that the log did not have any more: their messages ended as dropped, reason `storage_error`.
    pub bodies_lost: u64,
    /// CONNECT packets accepted since start.
    pub connects: u64,
    /// Most connections at once since start.
    pub connections_peak: u64,
    /// Sessions that ended by their expiry since start.
    pub sessions_expired: u64,
    /// Messages of the broker's own (`$SYS`) that are kept.
    pub informs: u64,
    /// Bytes of the payloads of PUBLISH packets taken since start.
    pub payload_bytes_in: u64,
    /// Bytes of the payloads of PUBLISH packets sent since start.
    pub payload_bytes_out: u64,
}
