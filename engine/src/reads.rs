//! Whose messages wait to be read: what a `read` receipt will name (docs/protocol.md section 4).
//!
//! Owns, for each conversation, its newest messages whose senders want to hear of `read`. Knows nothing of members
//! or positions: it is told when one moves, and below which number nobody's position will move any more.
//! Invariant: the numbers of a conversation's wishes rise.

use std::collections::VecDeque;

use bytestring::ByteString;

use crate::memory::{Account, Held};
use crate::message::compact;
use crate::names::ByName;

/// Wishes kept of one conversation; the oldest go.
pub(crate) const WISHES_PER_CONVERSATION_MAX: usize = 1_000;

/// Wishes kept of all conversations; above it a conversation keeps only its newest.
const WISHES_MAX: usize = 1_000_000;

/// A conversation besides its topic, and a wish besides its id; senders' names are shared with sessions.
const TOPIC_BYTES: usize = 128;
const WISH_BYTES: usize = size_of::<Wish>() * 3 / 2 + 32;

/// A message whose sender wants to hear who read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) seq: u64,
    pub(crate) id: ByteString,
    pub(crate) sender: ByteString,
}

#[derive(Debug)]
pub(crate) struct ReadWishes {
    topics: ByName<VecDeque<Wish>>,
    len: usize,
    held: Held,
}

impl ReadWishes {
    pub(crate) fn new(account: &Account) -> Self {
        Self { topics: ByName::default(), len: 0, held: account.hold(0) }
    }

    /// Notes a message, behind those of its conversation that are known. Returns up to which number others were
    /// forgotten for want of room.
    pub(crate) fn add(&mut self, topic: &ByteString, wish: Wish) -> Option<u64> {
        if !self.topics.contains_key(topic) {
            self.held.grow(TOPIC_BYTES + topic.len());
            self.topics.insert(compact(topic), VecDeque::new());
        }
        let wishes = self.topics.get_mut(topic).expect("it was there or put there");
        if wishes.back().is_some_and(|last| last.seq >= wish.seq) {
            return None;
        }
        self.len += 1;
        self.held.grow(wish_bytes(&wish));
        wishes.push_back(wish);
        let most = if self.len > WISHES_MAX { 1 } else { WISHES_PER_CONVERSATION_MAX };
        let mut forgotten = None;
        while wishes.len() > most {
            let Some(oldest) = wishes.pop_front() else { break };
            self.len -= 1;
            self.held.shrink(wish_bytes(&oldest));
            forgotten = Some(oldest.seq);
        }
        forgotten
    }

    /// Returns the highest message of each sender from after one number up to another, the reader's own excepted.
    pub(crate) fn reached(&self, topic: &str, reader: &str, after: u64, to: u64) -> Vec<Wish> {
        let Some(wishes) = self.topics.get(topic) else { return Vec::new() };
        let from = wishes.partition_point(|wish| wish.seq <= after);
        let end = wishes.partition_point(|wish| wish.seq <= to);
        let mut seen = ByName::default();
        let mut highest = Vec::new();
        for wish in wishes.range(from..end.max(from)).rev().filter(|wish| wish.sender != *reader) {
            if seen.insert(wish.sender.clone(), ()).is_none() {
                highest.push(wish.clone());
            }
        }
        highest.reverse();
        highest
    }

    /// The first number that is waited for in a conversation.
    pub(crate) fn first_seq(&self, topic: &str) -> Option<u64> {
        self.topics.get(topic)?.front().map(|wish| wish.seq)
    }

    /// Forgets a conversation's wishes up to a number; says whether there were any.
    pub(crate) fn forget(&mut self, topic: &str, to: u64) -> bool {
        let Some(wishes) = self.topics.get_mut(topic) else { return false };
        let gone = wishes.partition_point(|wish| wish.seq <= to);
        for wish in wishes.drain(..gone) {
            self.len -= 1;
            self.held.shrink(wish_bytes(&wish));
        }
        if wishes.is_empty() {
            self.topics.remove(topic);
            self.held.shrink(TOPIC_BYTES + topic.len());
        }
        gone > 0
    }

    /// All wishes by topic, in no order of topics.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ByteString, &VecDeque<Wish>)> {
        self.topics.iter()
    }

    #[cfg(test)]
    pub(crate) fn recount(&self) -> usize {
        let of = |(topic, wishes): (&ByteString, &VecDeque<Wish>)| {
            TOPIC_BYTES + topic.len() + wishes.iter().map(wish_bytes).sum::<usize>()
        };
        self.topics.iter().map(of).sum()
    }
}

fn wish_bytes(wish: &Wish) -> usize {
    WISH_BYTES + wish.id.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(seq: u64, sender: &str) -> Wish {
        Wish { seq, id: format!("m{seq}").into(), sender: sender.into() }
    }

    #[test]
    fn each_sender_hears_of_its_highest_message_and_nobody_of_its_own_reading() {
        let account = Account::default();
        let mut wishes = ReadWishes::new(&account);
        let topic = ByteString::from_static("im/room");
        for (seq, sender) in [(1, "ann"), (2, "bob"), (4, "ann"), (5, "cid"), (9, "bob")] {
            wishes.add(&topic, wish(seq, sender));
        }
        let reached = |reader, after, to| -> Vec<_> {
            wishes.reached("im/room", reader, after, to).into_iter().map(|w| w.seq).collect()
        };
        assert_eq!(reached("dan", 0, 5), [2, 4, 5]);
        assert_eq!(reached("ann", 0, 4), [2]);
        assert_eq!(reached("dan", 4, 8), [5]);
        assert_eq!(reached("dan", 5, 8), [0; 0]);
        assert_eq!(reached("dan", 9, 3), [0; 0]);
        assert!(wishes.forget("im/room", 4) && !wishes.forget("im/room", 4));
        assert_eq!(wishes.first_seq("im/room"), Some(5));
        assert_eq!(account.bytes(), wishes.recount());
        assert!(wishes.forget("im/room", u64::MAX));
        assert_eq!((account.bytes(), wishes.len), (0, 0));
    }

    #[test]
    fn a_conversation_keeps_its_newest_wishes() {
        let account = Account::default();
        let mut wishes = ReadWishes::new(&account);
        let topic = ByteString::from_static("im/room");
        let most = WISHES_PER_CONVERSATION_MAX as u64;
        for seq in 1..=most + 7 {
            assert_eq!(wishes.add(&topic, wish(seq, "ann")), seq.checked_sub(most).filter(|gone| *gone > 0));
        }
        assert_eq!(wishes.first_seq("im/room"), Some(8));
        assert_eq!(wishes.len, WISHES_PER_CONVERSATION_MAX);
        assert_eq!(account.bytes(), wishes.recount());
    }
}
