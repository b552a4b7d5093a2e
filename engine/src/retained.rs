//! The retained message of each topic (MQTT 5.0 section 3.3.1.3).
//!
//! Found by topic through a hash, and by filter in the order of topics: a walk steps over what cannot match, so that
//! its cost follows what matches and the places where it could have.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::ops::Bound;
use std::sync::Arc;

use bytestring::ByteString;

use crate::edges::Edges;
use crate::message::Message;
use crate::places::Places;

/// The messages, each at a place of its own.
#[derive(Debug, Default)]
pub(crate) struct Retained {
    messages: Places<Arc<Message>>,
    /// Places by topic.
    by_topic: Edges,
    /// Keyed anew in each process, so that nobody can choose topics that all fall into one place.
    hasher: RandomState,
    /// Places in the order of topics.
    order: BTreeMap<Box<str>, u32>,
    /// Those that expire, the first one first.
    expiring: BTreeSet<(u64, ByteString)>,
    bytes: usize,
}

/// What one SUBSCRIBE may still bring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    /// Topics that may be compared with wildcard filters.
    pub(crate) compared: usize,
    /// Messages that may be found.
    pub(crate) found: usize,
}

/// Topics that could be compared while the order is searched for one.
const COMPARED_BY_SEARCH: usize = 4;

/// What a topic says about where the next match can be.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It matches itself.
    Match,
    /// Behind it, anywhere.
    Next,
    /// Not before the topic that was written down.
    Seek,
    /// Nowhere.
    End,
}

impl Retained {
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Bytes of all messages, as [`Message::bytes`] counts them.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn place(&self, topic: &str) -> Option<u32> {
        let is_there = |place| *self.messages[place as usize].topic == *topic;
        self.by_topic.find(self.hasher.hash_one(topic), is_there)
    }

    pub(crate) fn get(&self, topic: &str) -> Option<&Arc<Message>> {
        self.place(topic).map(|place| &self.messages[place as usize])
    }

    pub(crate) fn set(&mut self, message: Arc<Message>) {
        self.bytes += message.bytes();
        if let Some(expiry) = message.expiry {
            self.expiring.insert((expiry.monotonic_ms, message.topic.clone()));
        }
        if let Some(place) = self.place(&message.topic) {
            let old = std::mem::replace(&mut self.messages[place as usize], message);
            let new_expiry = self.messages[place as usize].expiry.map(|expiry| expiry.monotonic_ms);
            return self.forget(&old, new_expiry);
        }
        let (hash, topic) = (self.hasher.hash_one(&*message.topic), Box::from(&*message.topic));
        let place = self.messages.insert(message);
        let place = u32::try_from(place).expect("four billion messages are more than memory holds");
        let (messages, hasher) = (&self.messages, &self.hasher);
        self.by_topic.insert(hash, place, |place| hasher.hash_one(&*messages[place as usize].topic));
        self.order.insert(topic, place);
    }

    /// Takes a message out of the sums that was replaced by one with this expiry, or removed.
    fn forget(&mut self, old: &Message, new_expiry: Option<u64>) {
        self.bytes -= old.bytes();
        if let Some(expiry) = old.expiry.filter(|expiry| Some(expiry.monotonic_ms) != new_expiry) {
            self.expiring.remove(&(expiry.monotonic_ms, old.topic.clone()));
        }
    }

    /// Says whether there was one.
    pub(crate) fn clear(&mut self, topic: &str) -> bool {
        let Some(place) = self.place(topic) else { return false };
        self.by_topic.remove(self.hasher.hash_one(topic), place);
        self.order.remove(topic);
        let message = self.messages.remove(place as usize);
        self.forget(&message, None);
        true
    }

    /// Returns when the first one expires, monotonic.
    pub(crate) fn next_expiry_ms(&self) -> Option<u64> {
        self.expiring.first().map(|(at, _)| *at)
    }

    /// Removes the one that expired first, if one did.
    pub(crate) fn pop_expired(&mut self, monotonic_ms: u64) -> Option<ByteString> {
        let (_, topic) = self.expiring.first().filter(|(at, _)| *at <= monotonic_ms)?;
        let topic = topic.clone();
        self.clear(&topic);
        Some(topic)
    }

    /// Goes through all, in topic order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Message>> {
        self.order.values().map(|place| &self.messages[*place as usize])
    }

    /// Returns the messages whose topic matches, in topic order; `None` when that is more work or more
    /// messages than allowed.
    pub(crate) fn matching(&self, filter: &str, allowance: &mut Allowance) -> Option<Vec<Arc<Message>>> {
        let mut left = *allowance;
        let mut found = Vec::new();
        if !filter.contains(['+', '#']) {
            if let Some(message) = self.get(filter) {
                left.found = left.found.checked_sub(1)?;
                found.push(message.clone());
            }
            *allowance = left;
            return Some(found);
        }
        self.walk(filter, &mut left, &mut found)?;
        *allowance = left;
        Some(found)
    }

    fn walk(&self, filter: &str, left: &mut Allowance, found: &mut Vec<Arc<Message>>) -> Option<()> {
        let from = |topic: &str| self.order.range::<str, _>((Bound::Included(topic), Bound::Unbounded));
        let prefix = literal_beginning(filter);
        let (mut topics, mut sought) = (from(prefix), String::new());
        let mut next = topics.next();
        while let Some((topic, place)) = next.filter(|(topic, _)| topic.starts_with(prefix)) {
            left.compared = left.compared.checked_sub(1)?;
            next = topics.next();
            match step(filter, topic, &mut sought) {
                Step::Match => {
                    left.found = left.found.checked_sub(1)?;
                    found.push(self.messages[*place as usize].clone());
                }
                // Often it is the next one: a search costs more than to look.
                Step::Seek if next.is_some_and(|(topic, _)| **topic < *sought) => {
                    left.compared = left.compared.checked_sub(COMPARED_BY_SEARCH)?;
                    topics = from(&sought);
                    next = topics.next();
                }
                Step::Seek | Step::Next => {}
                Step::End => return Some(()),
            }
        }
        Some(())
    }
}

/// What every topic that matches begins with. `a/#` matches `a` too, so the level's own slash is no part of it.
fn literal_beginning(filter: &str) -> &str {
    let before = filter.find(['+', '#']).map_or(filter, |wildcard| &filter[..wildcard]);
    before.strip_suffix('/').unwrap_or(before)
}

/// Compares a topic with a filter. What cannot match behind the topic is stepped over: `sought` is where it ends.
///
/// A topic's own place and those of the levels below it are apart in the order: `a`, `a-b`, `a/b`. But all topics
/// with the same beginning, slash included, stand together.
fn step(filter: &str, topic: &str, sought: &mut String) -> Step {
    // [MQTT-4.7.2-1] a filter that starts with a wildcard matches no topic that starts with `$`.
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return seek(sought, &["%"]);
    }
    let mut levels = filter.split('/');
    // Where the topic's next level begins; behind its end when it has none.
    let mut at = 0;
    loop {
        let level = match levels.next() {
            Some("#") => return Step::Match,
            Some(level) => level,
            None if at > topic.len() => return Step::Match,
            // All below the last level has too many; the character behind the slash begins what follows them.
            None => return seek(sought, &[&topic[..at - 1], "0"]),
        };
        let Some(rest) = topic.get(at..) else { return Step::Next };
        let of_topic = rest.split('/').next().unwrap_or(rest);
        if level == "+" || level == of_topic {
            at += of_topic.len() + 1;
            continue;
        }
        let before = &topic[..at];
        let further = levels.next();
        if further.is_none_or(|further| further == "#") && is_less(rest, level, "") {
            return seek(sought, &[before, level]);
        }
        if further.is_some() && is_less(rest, level, "/") {
            return seek(sought, &[before, level, "/"]);
        }
        return match before.strip_suffix('/') {
            Some(above) => seek(sought, &[above, "0"]),
            None => Step::End,
        };
    }
}

/// Whether a text comes before another that is in two parts.
fn is_less(text: &str, first: &str, second: &str) -> bool {
    text.bytes().lt(first.bytes().chain(second.bytes()))
}

fn seek(sought: &mut String, parts: &[&str]) -> Step {
    sought.clear();
    sought.extend(parts.iter().copied());
    Step::Seek
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Expiry, message_for_tests};
    use proptest::prelude::*;
    use protocol::filter_matches;

    fn message(topic: &str, expires_ms: Option<u64>) -> Arc<Message> {
        let expiry = expires_ms.map(|ms| Expiry::new(ms, ms));
        Arc::new(Message { topic: topic.into(), expiry, ..Message::clone(&message_for_tests()) })
    }

    fn all() -> Allowance {
        Allowance { compared: usize::MAX, found: usize::MAX }
    }

    proptest! {
        #[test]
        fn the_walk_finds_what_the_definition_of_matching_says(
            // Characters before, at and behind the slash in the order of topics.
            topics in prop::collection::btree_set("(\\$x|[ab-]{0,2})(/[ab0-]{0,2}){0,3}", 0..30),
            filter in "(\\+|\\$x|[ab-]{0,2})(/(\\+|[ab0-]{0,2})){0,3}(/#)?|#",
        ) {
            prop_assume!(!filter.is_empty());
            let mut retained = Retained::default();
            for topic in topics.iter().filter(|t| !t.is_empty()) {
                retained.set(message(topic, None));
            }
            let found = retained.matching(&filter, &mut all()).unwrap();
            let found: Vec<_> = found.iter().map(|m| m.topic.to_string()).collect();
            let expected: Vec<_> =
                topics.into_iter().filter(|t| !t.is_empty() && filter_matches(&filter, t)).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn what_one_subscribe_brings_and_costs_is_limited() {
        let mut retained = Retained::default();
        for n in 0..10 {
            retained.set(message(&format!("a/{n}"), None));
        }
        let mut allowance = Allowance { compared: 18, found: 12 };
        assert_eq!(retained.matching("a/#", &mut allowance).unwrap().len(), 10);
        assert!(retained.matching("+/#", &mut allowance).is_none(), "more found than allowed");
        assert_eq!(retained.matching("a/1", &mut allowance).unwrap().len(), 1);
        assert_eq!(retained.matching("+/none", &mut allowance).unwrap().len(), 0);
        assert!(retained.matching("+/none", &mut allowance).is_none(), "more compared than allowed");
    }

    #[test]
    fn expired_messages_come_out_in_their_order_and_replaced_ones_do_not() {
        let mut retained = Retained::default();
        for (topic, at) in [("a", 30), ("b", 10), ("c", 20), ("b", 40)] {
            retained.set(message(topic, Some(at)));
        }
        retained.set(message("c", None));
        assert_eq!(retained.next_expiry_ms(), Some(30));
        assert_eq!(retained.pop_expired(29), None);
        assert_eq!(retained.pop_expired(40).as_deref(), Some("a"));
        assert_eq!(retained.pop_expired(40).as_deref(), Some("b"));
        assert_eq!((retained.pop_expired(40), retained.len()), (None, 1));
        retained.clear("c");
        assert_eq!(retained.bytes(), 0);
    }
}
