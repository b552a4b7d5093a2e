//! Conversations: topics with numbers without gaps, and what is kept of them (docs/protocol.md section 2).
//!
//! Knows which messages are kept and in which records of the log they stand, not what is in them. A
//! conversation that has no message left keeps its head: a number is never given twice.

mod index;
mod senders;

use std::collections::BTreeSet;
use std::ops::Bound;

use bytestring::ByteString;
use protocol::filter_matches;

pub(crate) use index::{STORED_BYTES, Stored};
pub(crate) use senders::SenderNo;

use crate::config::{ConversationRule, Retention};
use crate::memory::{Account, CONVERSATION_BYTES, Held};
use crate::message::{Message, MsgNo, compact};
use crate::names::ByName;
use index::Index;
use senders::Senders;

/// The end of one conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// Highest number given.
    pub(crate) seq: u64,
    /// Accept time of that message; the next one's is never smaller.
    pub(crate) ts_unix_ms: u64,
}

#[derive(Debug, Default)]
struct Conversation {
    head: Head,
    /// The first number that is kept, or would be: all before were given up. 0 and 1 = all.
    first_seq: u64,
    retention: Retention,
    index: Index,
    /// When its oldest message is too old, as `due` has it.
    due_unix_ms: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Conversations {
    rules: Vec<ConversationRule>,
    named: ByName<Conversation>,
    /// Their topics in order, to be found by filters.
    topics: BTreeSet<ByteString>,
    heads_max: usize,
    senders: Senders,
    /// Those whose oldest message becomes too old, the first one first.
    due: BTreeSet<(u64, ByteString)>,
    held: Held,
}

/// The node holds as many conversations as its limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany {
    pub(crate) limit: usize,
}

impl Conversations {
    pub(crate) fn new(rules: Vec<ConversationRule>, heads_max: usize, account: &Account) -> Self {
        Self {
            rules,
            named: ByName::default(),
            topics: BTreeSet::new(),
            heads_max,
            senders: Senders::new(account),
            due: BTreeSet::new(),
            held: account.hold(0),
        }
    }

    /// Returns the rule that makes this topic a conversation.
    pub(crate) fn rule(&self, topic: &str) -> Option<&ConversationRule> {
        self.rules.iter().find(|rule| filter_matches(&rule.filter.filter, topic))
    }

    /// Gives the next number and its accept time.
    ///
    /// # Errors
    /// The topic is new and there are too many.
    pub(crate) fn next(&mut self, topic: &ByteString, now_unix_ms: u64) -> Result<Head, TooMany> {
        if !self.named.contains_key(topic) && self.named.len() >= self.heads_max {
            return Err(TooMany { limit: self.heads_max });
        }
        let head = &mut self.named_mut(topic).head;
        *head = Head { seq: head.seq.saturating_add(1), ts_unix_ms: head.ts_unix_ms.max(now_unix_ms) };
        Ok(*head)
    }

    /// Takes a head back from the log; it never goes down.
    pub(crate) fn restore(&mut self, topic: &ByteString, head: Head) {
        let known = &mut self.named_mut(topic).head;
        known.seq = known.seq.max(head.seq);
        known.ts_unix_ms = known.ts_unix_ms.max(head.ts_unix_ms);
    }

    /// Notes that a numbered message is kept in the record with this number. It stands behind all that is
    /// kept of its conversation, or it is ignored: the log may hold a message twice. Says whether it is the only one
    /// that is kept.
    pub(crate) fn append(&mut self, message: &Message, place: u64) -> bool {
        let Some(seq) = message.seq else { return false };
        self.restore(&message.topic, Head { seq, ts_unix_ms: message.ts_unix_ms });
        let stored = Stored {
            seq,
            place,
            no: message.no,
            ts_unix_ms: message.ts_unix_ms,
            expiry_unix_ms: message.expiry.map_or(0, |expiry| expiry.unix_ms()),
            bytes: u32::try_from(message.bytes()).unwrap_or(u32::MAX),
            qos: message.qos,
            sender: SenderNo::default(),
        };
        self.append_stored(&message.topic, &message.from(), stored)
    }

    /// The same for a message of which only this is known; its sender's number is given here.
    pub(crate) fn append_stored(&mut self, topic: &ByteString, sender: &ByteString, stored: Stored) -> bool {
        let known = self.named_mut(topic);
        if stored.seq < known.first_seq || known.index.last_seq().is_some_and(|last| stored.seq <= last) {
            return false;
        }
        let sender = self.senders.add(sender);
        let index = &mut self.named_mut(topic).index;
        let is_only = index.len() == 0;
        index.push(Stored { sender, ..stored });
        self.held.grow(STORED_BYTES);
        if is_only {
            self.watch(topic);
        }
        is_only
    }

    /// Takes the oldest message out if the conversation keeps more, or longer, than its rule says.
    pub(crate) fn give_up(&mut self, topic: &ByteString, now_unix_ms: u64) -> Option<Stored> {
        let known = self.named.get_mut(topic)?;
        if !known.keeps_too_much(now_unix_ms) {
            return None;
        }
        self.pop(topic)
    }

    /// Returns the topics of all that keep more than their rules say.
    pub(crate) fn keeping_too_much(&self, now_unix_ms: u64) -> Vec<ByteString> {
        let too_much = self.named.iter().filter(|(_, known)| known.keeps_too_much(now_unix_ms));
        too_much.map(|(topic, _)| topic.clone()).collect()
    }

    /// Whether there is something to give up.
    pub(crate) fn keeps_too_much(&self, topic: &str, now_unix_ms: u64) -> bool {
        self.named.get(topic).is_some_and(|known| known.keeps_too_much(now_unix_ms))
    }

    /// Takes out all before a number, as the log says it.
    pub(crate) fn give_up_before(&mut self, topic: &ByteString, first_seq: u64) {
        while self.named_mut(topic).index.first().is_some_and(|oldest| oldest.seq < first_seq) {
            self.pop(topic);
        }
        let known = self.named_mut(topic);
        known.first_seq = known.first_seq.max(first_seq);
    }

    fn pop(&mut self, topic: &ByteString) -> Option<Stored> {
        let known = self.named.get_mut(topic)?;
        let popped = known.index.pop()?;
        known.first_seq = popped.seq + 1;
        self.senders.remove(popped.sender);
        self.held.shrink(STORED_BYTES);
        self.watch(topic);
        Some(popped)
    }

    /// Keeps the time at which the oldest message is too old.
    fn watch(&mut self, topic: &ByteString) {
        let Some((name, _)) = self.named.get_key_value(topic) else { return };
        let name = name.clone();
        let Some(known) = self.named.get_mut(topic) else { return };
        let due = known.too_old_at();
        if known.due_unix_ms == due {
            return;
        }
        if let Some(before) = std::mem::replace(&mut known.due_unix_ms, due) {
            self.due.remove(&(before, name.clone()));
        }
        self.due.extend(due.map(|due| (due, name)));
    }

    /// Returns when the first message becomes too old, and whose it is.
    pub(crate) fn next_due(&self) -> Option<&(u64, ByteString)> {
        self.due.first()
    }

    /// Returns the highest number given, 0 for none.
    #[allow(dead_code, reason = "readers of stored messages use it")]
    pub(crate) fn last_seq(&self, topic: &str) -> u64 {
        self.named.get(topic).map_or(0, |known| known.head.seq)
    }

    /// Returns the end of a conversation; of one without messages it is 0.
    pub(crate) fn end(&self, topic: &str) -> Head {
        self.named.get(topic).map(|known| known.head).unwrap_or_default()
    }

    /// Returns the first number that is kept; with nothing left the next one.
    pub(crate) fn first_seq(&self, topic: &str) -> u64 {
        let Some(known) = self.named.get(topic) else { return 1 };
        known.index.first().map_or(known.head.seq.saturating_add(1), |first| first.seq)
    }

    /// Returns what is kept of one message.
    pub(crate) fn get(&self, topic: &str, seq: u64) -> Option<Stored> {
        self.named.get(topic)?.index.get(seq)
    }

    /// Goes through what is kept from a number on.
    pub(crate) fn range(&self, topic: &str, from_seq: u64) -> impl Iterator<Item = Stored> + '_ {
        self.named.get(topic).into_iter().flat_map(move |known| known.index.range(from_seq))
    }

    /// Returns the first number that was accepted at this time or later and is kept.
    pub(crate) fn seq_at(&self, topic: &str, ts_unix_ms: u64) -> Option<u64> {
        self.named.get(topic)?.index.seq_at(ts_unix_ms)
    }

    /// Returns the first number whose message has this number among all messages or a higher one and is kept.
    pub(crate) fn seq_of(&self, topic: &str, no: MsgNo) -> Option<u64> {
        self.named.get(topic)?.index.seq_of(no)
    }

    /// Returns the user with this number.
    pub(crate) fn sender(&self, no: SenderNo) -> Option<&ByteString> {
        self.senders.name(no)
    }

    /// Goes through the conversations whose topic a filter matches, in the order of their topics; the second
    /// is false for a topic that was only looked at.
    pub(crate) fn matching<'a>(&'a self, filter: &'a str) -> impl Iterator<Item = (&'a ByteString, bool)> {
        let wildcard = filter.find(['+', '#']);
        // `a/#` matches `a` too, so the level's own slash is not part of the beginning.
        let before = &filter[..wildcard.unwrap_or(filter.len())];
        let prefix = if wildcard.is_some() { before.strip_suffix('/').unwrap_or(before) } else { before };
        let exact = self.topics.get(filter).filter(|_| wildcard.is_none()).into_iter();
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let from = wildcard.map(|_| self.topics.range::<str, _>(from)).into_iter().flatten();
        let scanned = from.take_while(move |topic| topic.starts_with(prefix));
        exact.chain(scanned).map(move |topic| (topic, filter_matches(filter, topic)))
    }

    #[cfg(test)]
    pub(crate) fn recount(&self) -> usize {
        let known = self.named.iter();
        let known = known.map(|(topic, c)| CONVERSATION_BYTES + topic.len() + c.index.len() * STORED_BYTES);
        known.sum::<usize>() + self.senders.recount()
    }

    fn named_mut(&mut self, topic: &ByteString) -> &mut Conversation {
        if !self.named.contains_key(topic) {
            self.held.grow(CONVERSATION_BYTES + topic.len());
            let retention = self.rule(topic).map(|rule| rule.retention).unwrap_or_default();
            // A copy: a slice would keep the packet that it came in.
            let topic = compact(topic);
            self.topics.insert(topic.clone());
            self.named.insert(topic, Conversation { retention, ..Conversation::default() });
        }
        self.named.get_mut(topic).expect("it was there or put there")
    }

    /// Goes through all of them: topic, head and the first number that is not given up.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ByteString, Head, u64)> {
        self.named.iter().map(|(topic, known)| (topic, known.head, known.first_seq))
    }
}

impl Conversation {
    fn too_old_at(&self) -> Option<u64> {
        let age_s = self.retention.age_s;
        let oldest = self.index.first().filter(|_| age_s > 0)?;
        Some(oldest.ts_unix_ms.saturating_add(age_s.saturating_mul(1000)))
    }

    fn keeps_too_much(&self, now_unix_ms: u64) -> bool {
        let Retention { messages, bytes, .. } = self.retention;
        (messages > 0 && self.index.len() as u64 > messages)
            || (bytes > 0 && self.index.bytes() > bytes)
            || self.too_old_at().is_some_and(|at| at <= now_unix_ms)
    }
}
