//! `[[conversation]]`: which topics are conversations, and what holds for their messages.

use protocol::TopicFilter;
use serde::{Deserialize, Serialize};

/// One rule that makes topics conversations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConversationRule {
    /// The topics, as an MQTT topic filter.
    pub filter: String,
    /// Receipts for messages whose sender did not say which it wants; absent = none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipts: Option<Receipts>,
    /// Whether messages without `im-collapse` collapse as if all of a topic had the same key; absent = no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collapse: Option<bool>,
    /// Priority of messages without `im-priority`; absent = normal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// Seconds that a message is kept, 0 = no bound.
    #[serde(default = "default_retention_age_s")]
    pub retention_age_s: u64,
    /// Messages that each conversation keeps, 0 = no bound.
    #[serde(default = "default_retention_messages")]
    pub retention_messages: u64,
    /// Bytes of the messages that each conversation keeps, 0 = no bound.
    #[serde(default = "default_retention_bytes")]
    pub retention_bytes: u64,
}

fn default_retention_age_s() -> u64 {
    engine::Retention::default().age_s
}

fn default_retention_messages() -> u64 {
    engine::Retention::default().messages
}

fn default_retention_bytes() -> u64 {
    engine::Retention::default().bytes
}

/// Which receipts the sender of a message gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Receipts {
    /// The final state, whatever it is.
    Delivered,
    /// `read`, and every final state except delivered.
    Read,
    /// All states.
    All,
}

/// Which messages queues are drained of first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Before others, with the earlier ones of their topics.
    High,
    /// In the order of their coming.
    Normal,
}

/// Documentation of `[[conversation]]` and its keys.
pub(crate) const CONVERSATION_DOC: &[&str] = &[
    " Which topics are conversations: each is one ordered, durable log with numbered messages.",
    " Rules in a file or in POSTRIDER_CONVERSATION replace these two.",
];

/// The keys of one `[[conversation]]`, with their documentation.
pub(crate) const CONVERSATION_KEYS: &[(&str, &str)] = &[
    ("filter", " filter: the topics, as an MQTT topic filter."),
    (
        "receipts",
        " receipts: \"delivered\", \"read\" or \"all\" for messages whose sender asks for none; absent = none.",
    ),
    (
        "collapse",
        " collapse: true = a message without `im-collapse` replaces older ones of its user and topic that wait in queues.",
    ),
    ("priority", " priority: \"high\" or \"normal\" for messages without `im-priority`; absent = normal."),
    (
        "retention_age_s",
        " retention_age_s: seconds that a message is kept for replay, 0 = no bound; absent = 2592000 (30 days).",
    ),
    (
        "retention_messages",
        " retention_messages: messages that each conversation keeps, 0 = no bound; absent = 100000.",
    ),
    (
        "retention_bytes",
        " retention_bytes: bytes of the messages that each keeps, 0 = no bound; absent = 1073741824 (1 GiB).",
    ),
];

/// `[[conversation]]` rules at most.
pub(crate) const CONVERSATIONS_RULES_MAX: usize = 1_000;

pub(super) fn default_conversations() -> Vec<ConversationRule> {
    [("im/#", None), ("dev/+/cmd", Some(Receipts::All))]
        .map(|(filter, receipts)| ConversationRule { receipts, ..ConversationRule::new(filter) })
        .into()
}

impl ConversationRule {
    /// Makes topics conversations, and says nothing else.
    pub fn new(filter: &str) -> Self {
        Self {
            filter: filter.to_owned(),
            receipts: None,
            collapse: None,
            priority: None,
            retention_age_s: default_retention_age_s(),
            retention_messages: default_retention_messages(),
            retention_bytes: default_retention_bytes(),
        }
    }

    pub(super) fn engine(&self) -> Option<engine::ConversationRule> {
        let filter = TopicFilter::parse(self.filter.as_str().into()).ok()?;
        let receipts = self.receipts.map(|wanted| match wanted {
            Receipts::Delivered => engine::ReceiptsWanted::Delivered,
            Receipts::Read => engine::ReceiptsWanted::Read,
            Receipts::All => engine::ReceiptsWanted::All,
        });
        let retention = engine::Retention {
            age_s: self.retention_age_s,
            messages: self.retention_messages,
            bytes: self.retention_bytes,
        };
        let (collapse, is_high) = (self.collapse == Some(true), self.priority == Some(Priority::High));
        Some(engine::ConversationRule { filter, receipts, collapse, is_high, retention })
    }
}
