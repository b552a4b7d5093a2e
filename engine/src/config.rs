//! Limits and rules of a shard.

use protocol::TopicFilter;

use crate::dedup::DedupLimits;
use crate::planted::Planted;

/// Every limit and rule the engine knows; the caller parses them from its configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Largest packet taken, bytes, fixed header included.
    pub packet_bytes_max: u32,
    /// QoS 1/2 publishes a client may have unacknowledged (5.0: Receive Maximum in CONNACK).
    pub receive_maximum: u16,
    /// QoS 1/2 messages sent to one client and not acknowledged, however many it allows.
    pub inflight_max: u16,
    /// Topic aliases a client may use.
    pub topic_alias_max: u16,
    /// Topic aliases given to a client that takes them; 0 = none.
    pub topic_alias_out_max: u16,
    /// Response Information for clients that ask for it; `%c` stands for the client id, `%u` for the user.
    /// Empty = none.
    pub response_information: String,
    /// Where clients are sent instead: no CONNECT is taken. Empty = nowhere.
    pub server_reference: String,
    /// Topics with a message of the broker's own.
    pub informs_max: usize,
    /// Longest session expiry granted, seconds; 3.1.1 sessions without Clean Session get it.
    pub session_expiry_max_s: u32,
    /// Keep-alive above this, or 0, is answered with this as Server Keep Alive; 0 = no bound.
    pub keep_alive_max_s: u16,
    /// Sessions, connected or not.
    pub sessions_max: usize,
    /// Subscriptions of one session.
    pub subscriptions_max: usize,
    /// Messages queued for one session.
    pub queue_messages_max: usize,
    /// Bytes queued for one session.
    pub queue_bytes_max: usize,
    /// What a full queue does.
    pub on_full: OnFull,
    /// Retained messages of the node.
    pub retained_messages_max: usize,
    /// Bytes of all retained messages.
    pub retained_bytes_max: usize,
    /// Retained messages that one SUBSCRIBE may bring; a filter that would bring more is refused.
    pub retained_per_subscribe_max: usize,
    /// Retained topics that the wildcard filters of one SUBSCRIBE may be compared with, together.
    pub retained_compared_max: usize,
    /// Bytes of a client id.
    pub client_id_bytes_max: usize,
    /// Bytes that the recipients of one message may need in its record, about 40 each; a message with more
    /// durable recipients is refused. The log must take records of this and the largest packet.
    pub record_recipients_bytes_max: usize,
    /// Recipients of one message that are served before others are: more are served in portions of so many.
    pub recipients_per_portion: usize,
    /// Levels of a topic or filter.
    pub topic_levels_max: usize,
    /// Conversations of the node.
    pub conversations_max: usize,
    /// Which topics are conversations; the first rule that matches decides.
    pub conversations: Vec<ConversationRule>,
    /// Whether it is published who is connected.
    pub presence: bool,
    /// How long that is kept after a session ended, seconds.
    pub presence_keep_s: u32,
    /// Clients of which it is kept.
    pub presence_max: usize,
    /// Bounds of the heartbeat that a client may declare, seconds.
    pub keepalive_min_s: u16,
    /// See `keepalive_min_s`.
    pub keepalive_max_s: u16,
    /// Networks (`im-net`) whose survived silences are remembered; 0 = none.
    pub networks_max: usize,
    /// Connections in a row that must end within 1 s of sending a message, while it was alone in flight, for it to
    /// be set aside; 0 = never.
    pub poison_after: u32,
    /// Messages set aside at one session; the oldest go.
    pub set_aside_max: usize,
    /// How long the ids that senders give are known.
    pub dedup: DedupLimits,
    /// Conversations whose stored messages one session may be coming to at once; a SUBSCRIBE that asks for more is
    /// refused.
    pub replays_per_session_max: usize,
    /// Recipients of one message above which its receipts are counted, not listed.
    pub receipts_listed_max: usize,
    /// Bytes of the messages whose bodies are in memory though they could be read from the log again; 0 = no bound.
    pub bodies_bytes_max: usize,
    /// Members of one conversation.
    pub members_max: usize,
    /// Conversations that one user is a member of.
    pub conversations_per_user_max: usize,
    /// Memberships of the node.
    pub memberships_max: usize,
    /// Bytes that the shard may hold in memory, as it counts them; 0 = no bound. Near it QoS 0 messages are no
    /// longer queued, at it what would need more is refused; what was acknowledged stays.
    pub memory_bytes_max: usize,
    /// Test only: a mistake made on purpose, so that the simulation can show that it finds it.
    #[doc(hidden)]
    pub planted: Option<Planted>,
}

/// One `[[conversation]]` rule (docs/protocol.md section 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversationRule {
    /// Topics that match are conversations; never a shared filter.
    pub filter: TopicFilter,
    /// Receipts for messages whose sender did not say which it wants.
    pub receipts: Option<ReceiptsWanted>,
    /// Whether a message without a collapse key replaces older ones of its user and topic that wait in queues.
    pub collapse: bool,
    /// Whether queues are drained first of messages that do not say their priority.
    pub is_high: bool,
    /// How much of each conversation is kept.
    pub retention: Retention,
}

impl ConversationRule {
    /// Makes topics conversations, and asks nothing else.
    pub fn new(filter: TopicFilter) -> Self {
        Self { filter, receipts: None, collapse: false, is_high: false, retention: Retention::default() }
    }
}

/// How much of a conversation is kept for replay; whichever bound is met first decides, 0 = no bound. What
/// waits in queues stays there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Seconds since a message was accepted.
    pub age_s: u64,
    /// Messages of one conversation.
    pub messages: u64,
    /// Bytes of its messages, as queues count them.
    pub bytes: u64,
}

impl Default for Retention {
    /// 30 days, 100,000 messages, 1 GiB.
    fn default() -> Self {
        Self { age_s: 30 * 24 * 3600, messages: 100_000, bytes: 1024 * 1024 * 1024 }
    }
}

/// What happens to a message for a queue that is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFull {
    /// The oldest waiting messages make room, QoS 0 first; they end as `dropped`.
    #[default]
    DropOldest,
    /// The new message is dropped for this recipient.
    DropNewest,
    /// The publish is refused as a whole (0x97) before anything of it is stored.
    Reject,
}

/// Which receipts the sender of a message gets (docs/protocol.md section 2, `im-receipt`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ReceiptsWanted {
    /// The final state, whatever it is.
    Delivered = 1,
    /// `read`, and every final state except delivered.
    Read = 2,
    /// All states.
    All = 3,
}

impl ReceiptsWanted {
    /// Parses the value of `im-receipt`.
    pub fn parse(value: &str) -> Option<Self> {
        match value {
            "delivered" => Some(Self::Delivered),
            "read" => Some(Self::Read),
            "all" => Some(Self::All),
            _ => None,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        let filter = |f: &'static str| TopicFilter::parse(f.into()).expect("a valid constant filter");
        Self {
            packet_bytes_max: 1024 * 1024,
            receive_maximum: 1024,
            inflight_max: 1024,
            topic_alias_max: 64,
            topic_alias_out_max: 32,
            response_information: String::new(),
            server_reference: String::new(),
            informs_max: 1_000,
            session_expiry_max_s: 7 * 24 * 3600,
            keep_alive_max_s: 0,
            sessions_max: 1_000_000,
            subscriptions_max: 1_000,
            queue_messages_max: 100_000,
            queue_bytes_max: 256 * 1024 * 1024,
            on_full: OnFull::default(),
            retained_messages_max: 1_000_000,
            retained_bytes_max: 1024 * 1024 * 1024,
            retained_per_subscribe_max: 100_000,
            retained_compared_max: 4_000_000,
            client_id_bytes_max: 1024,
            record_recipients_bytes_max: 12 * 1024 * 1024,
            recipients_per_portion: 128,
            topic_levels_max: 200,
            conversations_max: 1_000_000,
            conversations: vec![
                ConversationRule::new(filter("im/#")),
                ConversationRule {
                    receipts: Some(ReceiptsWanted::All),
                    ..ConversationRule::new(filter("dev/+/cmd"))
                },
            ],
            presence: true,
            presence_keep_s: 24 * 3600,
            presence_max: 1_000_000,
            keepalive_min_s: 1,
            keepalive_max_s: 7_200,
            networks_max: 1_000,
            poison_after: 0,
            set_aside_max: 100,
            dedup: DedupLimits::default(),
            replays_per_session_max: 10_000,
            receipts_listed_max: 50,
            bodies_bytes_max: 64 * 1024 * 1024,
            members_max: 100_000,
            conversations_per_user_max: 20_000,
            memberships_max: 5_000_000,
            memory_bytes_max: 0,
            planted: None,
        }
    }
}
