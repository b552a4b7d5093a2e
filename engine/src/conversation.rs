//! Conversations: topics with numbers without gaps (docs/protocol.md section 2).

use bytestring::ByteString;
use protocol::filter_matches;

use crate::config::{ConversationRule, ReceiptsWanted};
use crate::memory::{Account, CONVERSATION_BYTES, Held};
use crate::message::compact;
use crate::names::ByName;

/// The end of one conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// Highest number given.
    pub(crate) seq: u64,
    /// Accept time of that message; the next one's is never smaller.
    pub(crate) ts_unix_ms: u64,
}

#[derive(Debug)]
pub(crate) struct Conversations {
    rules: Vec<ConversationRule>,
    heads: ByName<Head>,
    heads_max: usize,
    held: Held,
}

/// The node holds as many conversations as its limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany {
    pub(crate) limit: usize,
}

impl Conversations {
    pub(crate) fn new(rules: Vec<ConversationRule>, heads_max: usize, account: &Account) -> Self {
        Self { rules, heads: ByName::default(), heads_max, held: account.hold(0) }
    }

    /// Returns the rule that makes this topic a conversation, and the receipts it gives unasked.
    pub(crate) fn rule(&self, topic: &str) -> Option<Option<ReceiptsWanted>> {
        self.rules.iter().find(|rule| filter_matches(&rule.filter.filter, topic)).map(|rule| rule.receipts)
    }

    /// Gives the next number and its accept time.
    ///
    /// # Errors
    /// The topic is new and there are too many.
    pub(crate) fn next(&mut self, topic: &ByteString, now_unix_ms: u64) -> Result<Head, TooMany> {
        if !self.heads.contains_key(topic) && self.heads.len() >= self.heads_max {
            return Err(TooMany { limit: self.heads_max });
        }
        let head = self.head(topic);
        *head = Head { seq: head.seq.saturating_add(1), ts_unix_ms: head.ts_unix_ms.max(now_unix_ms) };
        Ok(*head)
    }

    /// Takes a head back from the log; it never goes down.
    pub(crate) fn restore(&mut self, topic: &ByteString, head: Head) {
        let known = self.head(topic);
        known.seq = known.seq.max(head.seq);
        known.ts_unix_ms = known.ts_unix_ms.max(head.ts_unix_ms);
    }

    #[cfg(test)]
    pub(crate) fn recount(&self) -> usize {
        self.heads.keys().map(|topic| CONVERSATION_BYTES + topic.len()).sum()
    }

    fn head(&mut self, topic: &ByteString) -> &mut Head {
        if !self.heads.contains_key(topic) {
            self.held.grow(CONVERSATION_BYTES + topic.len());
            // A copy: a slice would keep the packet that it came in.
            self.heads.insert(compact(topic), Head::default());
        }
        self.heads.get_mut(topic).expect("it was there or put there")
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ByteString, &Head)> {
        self.heads.iter()
    }
}
