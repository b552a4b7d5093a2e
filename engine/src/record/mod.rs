//! What the shard writes into the log, and how it reads it back.
//!
//! One log record holds the entries of one input, so that they become durable together or not at all.
//! Layout: a version byte, then entries, each a kind byte and its fields; integers are little-endian,
//! strings and byte fields have a `u32` length before them. A golden fixture pins each version; records of
//! versions 1, which knew no shared groups, and 2 are still read.

mod builder;
mod layout;

use bytestring::ByteString;
use protocol::{PacketId, QoS, SubscribeOptions, Will};

use crate::behind::Behind;
use crate::config::ReceiptsWanted;
use crate::dedup::{Forgotten, Published};
use crate::message::{Message, MsgNo};
use crate::poison::SetAside;
use crate::presence::State;
use crate::reads::Wish;

pub(crate) use builder::RecordBuilder;
pub use layout::messages_of;
pub(crate) use layout::{HeadFields, Queued, TakeEach, read_body, read_each, read_heads, read_record};

/// Version of the layout that is written; older ones are read, a newer one is refused.
pub(crate) const VERSION: u8 = 3;

/// Number of a session in this shard, over restarts; a client id that comes back after its session ended
/// gets a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SessionNo(pub(crate) u64);

/// Number of a shared group in this shard, over restarts; a group that everything has left gets a new one
/// when it is made again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct GroupNo(pub(crate) u64);

/// What brought a message to a session. With the session and the message it names one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Source {
    /// The session's own subscriptions, all that match together.
    Subscriptions,
    /// A new subscription, which brings retained messages: the session is no recipient of these, and may
    /// have the same message as a recipient too.
    Retained,
    /// A shared group, which chose this session.
    Group(GroupNo),
    /// The session's own subscriptions to envelopes, all that match together.
    Envelope,
    /// What [`Self::Retained`] is, in an envelope.
    RetainedEnvelope,
}

/// Who has one final state of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Recipient {
    Session(SessionNo),
    /// Whichever member has the message.
    Group(GroupNo),
}

impl Source {
    /// Whose final state a delivery of this source at a session is; a retained message has none.
    pub(crate) fn recipient(self, session: SessionNo) -> Option<Recipient> {
        match self {
            Self::Subscriptions | Self::Envelope => Some(Recipient::Session(session)),
            Self::Retained | Self::RetainedEnvelope => None,
            Self::Group(group) => Some(Recipient::Group(group)),
        }
    }
}

impl Recipient {
    /// The source of the delivery whose final state it has; it may have come in an envelope instead.
    pub(crate) fn source(self) -> Source {
        match self {
            Self::Session(_) => Source::Subscriptions,
            Self::Group(group) => Source::Group(group),
        }
    }
}

/// A message as logged: its ticket and the monotonic time of its expiry are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MessageEntry {
    pub(crate) message: Message,
    /// Whether it becomes its topic's retained message.
    pub(crate) set_retained: bool,
}

/// A message without its body, as logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeadEntry {
    pub(crate) message: Message,
    /// How many queues, flights and the like need it, where somebody counts.
    pub(crate) needed: u32,
}

/// A recipient whose final state the sender wants to hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TrackedRecipient {
    /// The session; of a group the member that it chose first.
    pub(crate) session: SessionNo,
    pub(crate) group: Option<GroupNo>,
    /// The session's names.
    pub(crate) client_id: ByteString,
    pub(crate) user: ByteString,
}

/// Recipients whose final states the sender wants to hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Recipients {
    /// Each is named in its receipt.
    Listed(Vec<TrackedRecipient>),
    /// They are only counted: sessions in ascending order, groups each with the member that it chose first.
    Counted { sessions: Vec<SessionNo>, groups: Vec<(GroupNo, SessionNo)> },
}

/// In which form messages come to a subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Form {
    /// As they were published.
    #[default]
    Plain = 0,
    /// In a JSON envelope on `$im/env/{topic}`.
    Envelope = 1,
}

/// Numbers without a gap between them that a session will not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    /// The last one.
    pub(crate) last_seq: u64,
    /// The message that tells of it, once it was sent; 0 = none yet.
    pub(crate) told_by: u64,
}

/// A message that a conversation keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptMessage {
    pub(crate) seq: u64,
    /// Number of the record that holds it.
    pub(crate) place: u64,
    pub(crate) message: MsgNo,
    pub(crate) ts_unix_ms: u64,
    /// 0 = never.
    pub(crate) expiry_unix_ms: u64,
    pub(crate) bytes: u32,
    pub(crate) qos: QoS,
    pub(crate) sender: ByteString,
}

/// How a message ended at a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum FinalState {
    Delivered = 1,
    Expired = 2,
    Dropped = 3,
    Refused = 4,
}

impl TrackedRecipient {
    pub(crate) fn recipient(&self) -> Recipient {
        self.group.map_or(Recipient::Session(self.session), Recipient::Group)
    }
}

impl Recipients {
    /// Takes one out; says whether it was there.
    pub(crate) fn remove(&mut self, recipient: Recipient) -> bool {
        let before = self.len();
        match (&mut *self, recipient) {
            (Self::Listed(all), _) => all.retain(|open| open.recipient() != recipient),
            (Self::Counted { groups, .. }, Recipient::Group(no)) => groups.retain(|(group, _)| *group != no),
            (Self::Counted { sessions, .. }, Recipient::Session(session)) => {
                if let Ok(at) = sessions.binary_search(&session) {
                    sessions.remove(at);
                }
            }
        }
        self.len() < before
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Listed(all) => all.len(),
            Self::Counted { sessions, groups } => sessions.len() + groups.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl FinalState {
    pub(crate) const ALL: [Self; 4] = [Self::Delivered, Self::Expired, Self::Dropped, Self::Refused];
}

/// How many recipients ended in each state, in the order of `FinalState::ALL`.
pub(crate) type EndCounts = [u32; 4];

/// One change of the durable state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A durable session began.
    SessionOpened {
        session: SessionNo,
        client_id: ByteString,
        user: ByteString,
    },
    /// A connection to it began.
    SessionConnected {
        session: SessionNo,
        expiry_s: u32,
        will: Option<Box<Will>>,
    },
    /// Its connection ended; a will still to be published stays.
    SessionDisconnected {
        session: SessionNo,
        expiry_s: u32,
        at_unix_ms: u64,
        will: Option<Box<Will>>,
    },
    /// It ended, with all it held; what another member of a shared group may still get waits for that.
    SessionEnded {
        session: SessionNo,
    },
    Subscribed {
        session: SessionNo,
        filter: ByteString,
        options: SubscribeOptions,
        identifier: Option<u32>,
    },
    Unsubscribed {
        session: SessionNo,
        filter: ByteString,
    },
    Message(Box<MessageEntry>),
    /// A message that was written before, without its body: that is in the record it names.
    Head(Box<HeadEntry>),
    /// A topic has no retained message any more.
    RetainedCleared {
        topic: ByteString,
    },
    /// A shared group and its name: the whole filter, `$share/...`.
    Group {
        group: GroupNo,
        filter: ByteString,
    },
    /// A shared group that everything has left is forgotten.
    GroupForgotten {
        group: GroupNo,
    },
    /// A message is for a session; with a packet id it is in flight, else it waits.
    Queued {
        session: SessionNo,
        message: MsgNo,
        qos: QoS,
        retain: bool,
        source: Source,
        identifiers: Vec<u32>,
        packet_id: Option<PacketId>,
    },
    /// A waiting message got its packet id.
    Sent {
        session: SessionNo,
        message: MsgNo,
        packet_id: PacketId,
    },
    /// The recipient's PUBREC came: only the packet id is left.
    Received {
        session: SessionNo,
        packet_id: PacketId,
    },
    /// The message is no longer at this session, where it was in flight under this packet id or waited. It
    /// has a final state if its receipt here was open.
    Ended {
        session: SessionNo,
        message: MsgNo,
        source: Source,
        packet_id: Option<PacketId>,
        state: Option<FinalState>,
    },
    /// The sender wants receipts of these recipients; those ended already are left out.
    Tracked {
        message: MsgNo,
        topic: ByteString,
        seq: Option<u64>,
        id: ByteString,
        sender: ByteString,
        wanted: ReceiptsWanted,
        of: u32,
        ended: EndCounts,
        recipients: Recipients,
    },
    /// A client's QoS 2 publish was accepted under this packet id.
    IncomingTaken {
        session: SessionNo,
        packet_id: PacketId,
        seq: Option<u64>,
        id: ByteString,
    },
    /// Its PUBREL came.
    IncomingReleased {
        session: SessionNo,
        packet_id: PacketId,
    },
    /// The highest number of a conversation.
    Conversation {
        topic: ByteString,
        seq: u64,
        ts_unix_ms: u64,
    },
    /// A conversation's messages before this number were given up.
    ConversationKept {
        topic: ByteString,
        first_seq: u64,
    },
    /// Messages that a conversation keeps, in order, without their bodies: a log of changes needs none, the
    /// messages themselves say it.
    ConversationPage {
        topic: ByteString,
        messages: Vec<KeptMessage>,
    },
    /// How far a session has come in the stored messages of a conversation: this one is next. `None` = to the
    /// end; from then on its messages come as they are published.
    Cursor {
        session: SessionNo,
        topic: ByteString,
        form: Form,
        next: Option<u64>,
    },
    /// The next stored message of a conversation is in flight to a session; its cursor is behind it now.
    Replayed {
        session: SessionNo,
        topic: ByteString,
        form: Form,
        seq: u64,
        message: MsgNo,
        qos: QoS,
        identifiers: Vec<u32>,
        packet_id: PacketId,
    },
    /// Numbers of a conversation that a session will not get, all that it was not told of; none = the session
    /// knows.
    Holes {
        session: SessionNo,
        topic: ByteString,
        form: Form,
        holes: Vec<Hole>,
    },
    /// Whether a client is connected.
    Presence {
        client: ByteString,
        state: State,
    },
    /// Nothing is known of a client's presence any more.
    PresenceCleared {
        client: ByteString,
    },
    /// The highest epoch of a client of which nothing is known any more.
    PresenceForgotten {
        epoch: u64,
    },
    /// A user's vote about a network; an interval of 0 takes it back.
    NetVote {
        net: ByteString,
        user: ByteString,
        interval_s: u16,
        at_unix_ms: u64,
    },
    /// Ids that a user gave to messages that were accepted; the first has this number among the user's.
    Published {
        user: ByteString,
        first: u64,
        ids: Vec<Published>,
    },
    /// Ids are no longer known.
    PublishedForgotten(Forgotten),
    /// A message was set aside at a session, which it ends at in the same record; all of it, for nothing else keeps it.
    SetAside {
        session: SessionNo,
        set_aside: Box<SetAside>,
    },
    /// A message is no longer set aside at a session.
    TakenBack {
        session: SessionNo,
        message: MsgNo,
    },
    /// The sender of a conversation's message wants to hear who reads it.
    ReadWished {
        topic: ByteString,
        wish: Wish,
    },
    /// A user is about to be no member any more, who joined a conversation after one number and read up to another:
    /// who counts readers counts it on.
    ReaderLeft {
        topic: ByteString,
        user: ByteString,
        joined: u64,
        read: u64,
    },
    /// A user who is no member of a conversation has read up to this number.
    GuestRead {
        topic: ByteString,
        user: ByteString,
        read: u64,
    },
    /// Nobody waits any more for a conversation's messages up to this number to be read.
    ReadSettled {
        topic: ByteString,
        to_seq: u64,
    },
    /// A user is a member of a conversation since this number, and read up to that one.
    Member {
        topic: ByteString,
        user: ByteString,
        joined: u64,
        read: u64,
    },
    /// It is none any more.
    MemberLeft {
        topic: ByteString,
        user: ByteString,
    },
    /// A session that gets its user's conversations has no connection; what came from this message on comes to
    /// it by cursors.
    Away {
        session: SessionNo,
        since: MsgNo,
    },
    /// The same when it has not got all its cursors since it was away before: all that it has missed, none = nothing.
    Behind {
        session: SessionNo,
        behind: Behind,
    },
    /// The next numbers to give.
    Counters {
        message: u64,
        session: u64,
        group: u64,
    },
}

#[cfg(test)]
mod tests;
