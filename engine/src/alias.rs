//! The topic aliases that the broker uses towards one client (MQTT 5.0 section 3.3.2.3.4).
//!
//! Owns which topic each number stands for at the client. Invariants: a number is never above the client's
//! Topic Alias Maximum; a topic is known here only once a PUBLISH that carries it with its number is on its
//! way, and a connection's packets leave in the order they were made, so the client knows it before any
//! PUBLISH that uses it; all of it ends with the connection.
//!
//! Policy: the first topics get a number with their first message, because a topic that comes once mostly
//! comes again. When all numbers are given, a topic takes the place of the one that was not used for the
//! longest time only if it came before not long ago: a client that watches very many topics in turn keeps
//! its numbers.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::num::NonZeroU16;

use bytestring::ByteString;
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::memory::ALIAS_BYTES;
use crate::message::compact;

/// Bytes of all topics with a number, of one connection; a longer topic gets none.
const TOPIC_BYTES_MAX: usize = 64 * 1024;

/// How a topic can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alias {
    /// The client knows this number: the topic is left out.
    Known(NonZeroU16),
    /// This number may be given to it: number and topic are sent, then [`TopicAliases::establish`].
    Free(NonZeroU16),
}

#[derive(Debug)]
struct Slot {
    topic: ByteString,
    /// When it was last used, in uses.
    used: u64,
}

#[derive(Debug)]
pub(crate) struct TopicAliases {
    max: NonZeroU16,
    /// Place in `slots`; the number is one more.
    by_topic: FxHashMap<ByteString, usize>,
    slots: Vec<Slot>,
    bytes: usize,
    uses: u64,
    /// Hashes of the topics that came last without a number.
    missed: VecDeque<u64>,
}

impl TopicAliases {
    /// Makes the table for a client that takes numbers up to `max`, 0 of them none.
    pub(crate) fn new(max: u16) -> Option<Box<Self>> {
        let max = NonZeroU16::new(max)?;
        let (by_topic, missed) = (FxHashMap::default(), VecDeque::new());
        Some(Box::new(Self { max, by_topic, slots: Vec::new(), bytes: 0, uses: 0, missed }))
    }

    /// Finds how a topic can be written.
    pub(crate) fn find(&mut self, topic: &str) -> Option<Alias> {
        self.uses += 1;
        if let Some(&at) = self.by_topic.get(topic) {
            self.slots[at].used = self.uses;
            return Some(Alias::Known(number(at)));
        }
        if topic.len() > TOPIC_BYTES_MAX {
            return None;
        }
        if self.slots.len() < usize::from(self.max.get()) {
            let fits = self.bytes + topic.len() <= TOPIC_BYTES_MAX;
            return fits.then(|| Alias::Free(number(self.slots.len())));
        }
        let at = (0..self.slots.len()).min_by_key(|at| self.slots[*at].used)?;
        let fits = self.bytes - self.slots[at].topic.len() + topic.len() <= TOPIC_BYTES_MAX;
        (fits && self.came_before(topic)).then(|| Alias::Free(number(at)))
    }

    /// Notes that a PUBLISH with the topic and its number is sent.
    pub(crate) fn establish(&mut self, alias: NonZeroU16, topic: &ByteString) {
        let at = usize::from(alias.get()) - 1;
        debug_assert!(alias <= self.max && at <= self.slots.len(), "a number that was not free");
        let slot = Slot { topic: compact(topic), used: self.uses };
        self.bytes += topic.len();
        self.by_topic.insert(slot.topic.clone(), at);
        if at == self.slots.len() {
            return self.slots.push(slot);
        }
        let replaced = std::mem::replace(&mut self.slots[at], slot);
        self.bytes -= replaced.topic.len();
        self.by_topic.remove(&replaced.topic);
    }

    /// Returns what the table holds in memory.
    pub(crate) fn held_bytes(&self) -> usize {
        self.bytes + self.slots.len() * ALIAS_BYTES
    }

    /// Whether the topic is among the last that came without a number; from now on it is.
    fn came_before(&mut self, topic: &str) -> bool {
        let hash = FxBuildHasher.hash_one(topic);
        if self.missed.contains(&hash) {
            return true;
        }
        if self.missed.len() >= usize::from(self.max.get()) {
            self.missed.pop_front();
        }
        self.missed.push_back(hash);
        false
    }
}

fn number(at: usize) -> NonZeroU16 {
    let number = u16::try_from(at + 1).ok().and_then(NonZeroU16::new);
    number.expect("there are never more slots than a u16 has numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends a topic; says whether it went by number only.
    fn send(aliases: &mut TopicAliases, topic: &str) -> Option<(u16, bool)> {
        match aliases.find(topic)? {
            Alias::Known(alias) => Some((alias.get(), true)),
            Alias::Free(alias) => {
                aliases.establish(alias, &topic.into());
                Some((alias.get(), false))
            }
        }
    }

    #[test]
    fn the_first_topics_get_numbers_and_keep_them_while_others_come_once() {
        let mut aliases = TopicAliases::new(2).unwrap();
        assert_eq!(send(&mut aliases, "a"), Some((1, false)));
        assert_eq!(send(&mut aliases, "b"), Some((2, false)));
        for round in 0..3 {
            for n in 0..5 {
                assert_eq!(send(&mut aliases, &format!("{round}/{n}")), None);
            }
            assert_eq!(send(&mut aliases, "a"), Some((1, true)));
        }
        assert!(TopicAliases::new(0).is_none());
    }

    #[test]
    fn a_topic_that_comes_again_takes_the_place_of_the_one_unused_for_the_longest_time() {
        let mut aliases = TopicAliases::new(2).unwrap();
        for topic in ["a", "b", "a", "c"] {
            send(&mut aliases, topic);
        }
        assert_eq!(send(&mut aliases, "c"), Some((2, false)));
        assert_eq!(send(&mut aliases, "c"), Some((2, true)));
        assert_eq!(send(&mut aliases, "a"), Some((1, true)));
        assert_eq!(send(&mut aliases, "b"), None);
    }

    #[test]
    fn the_topics_of_one_connection_are_bounded_in_bytes() {
        let mut aliases = TopicAliases::new(10).unwrap();
        let long = |c: &str| c.repeat(30_000);
        assert_eq!(send(&mut aliases, &long("a")), Some((1, false)));
        assert_eq!(send(&mut aliases, &long("b")), Some((2, false)));
        assert_eq!(send(&mut aliases, &long("c")), None);
        assert_eq!(send(&mut aliases, "short"), Some((3, false)));
        assert_eq!(send(&mut aliases, &"d".repeat(70_000)), None);
        assert_eq!(aliases.bytes, 60_005);
    }

    #[test]
    fn a_topic_is_not_known_before_its_number_was_sent_with_it() {
        let mut aliases = TopicAliases::new(1).unwrap();
        // Found, but too large for the client with its number: not sent so.
        assert!(matches!(aliases.find("a"), Some(Alias::Free(_))));
        assert!(matches!(aliases.find("a"), Some(Alias::Free(_))));
        assert!(matches!(aliases.find("b"), Some(Alias::Free(_))));
    }
}
