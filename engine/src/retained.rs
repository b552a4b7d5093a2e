//! The retained message of each topic (MQTT 5.0 section 3.3.1.3).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use bytestring::ByteString;
use protocol::filter_matches;

use crate::message::Message;

/// Ordered by topic, so that a filter scans only the topics that share its literal beginning.
#[derive(Debug, Default)]
pub(crate) struct Retained {
    topics: BTreeMap<ByteString, Arc<Message>>,
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

impl Retained {
    pub(crate) fn len(&self) -> usize {
        self.topics.len()
    }

    /// Bytes of all messages, as [`Message::bytes`] counts them.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn get(&self, topic: &str) -> Option<&Arc<Message>> {
        self.topics.get(topic)
    }

    pub(crate) fn set(&mut self, message: Arc<Message>) {
        self.clear(&message.topic);
        self.bytes += message.bytes();
        if let Some(expiry) = message.expiry {
            self.expiring.insert((expiry.monotonic_ms, message.topic.clone()));
        }
        self.topics.insert(message.topic.clone(), message);
    }

    /// Says whether there was one.
    pub(crate) fn clear(&mut self, topic: &str) -> bool {
        let Some(message) = self.topics.remove(topic) else { return false };
        self.bytes -= message.bytes();
        if let Some(expiry) = message.expiry {
            self.expiring.remove(&(expiry.monotonic_ms, message.topic.clone()));
        }
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

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Message>> {
        self.topics.values()
    }

    /// Returns the messages whose topic matches, in topic order; `None` when that is more work or more
    /// messages than allowed.
    pub(crate) fn matching(&self, filter: &str, allowance: &mut Allowance) -> Option<Vec<Arc<Message>>> {
        let mut left = *allowance;
        let mut found = Vec::new();
        let Some(wildcard) = filter.find(['+', '#']) else {
            if let Some(message) = self.topics.get(filter) {
                left.found = left.found.checked_sub(1)?;
                found.push(message.clone());
            }
            *allowance = left;
            return Some(found);
        };
        // `a/#` matches `a` too, so the level's own slash is not part of the beginning.
        let before = &filter[..wildcard];
        let prefix = before.strip_suffix('/').unwrap_or(before);
        let from = (Bound::Included(prefix), Bound::Unbounded);
        for (topic, message) in self.topics.range::<str, _>(from) {
            if !topic.starts_with(prefix) {
                break;
            }
            left.compared = left.compared.checked_sub(1)?;
            if filter_matches(filter, topic) {
                left.found = left.found.checked_sub(1)?;
                found.push(message.clone());
            }
        }
        *allowance = left;
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Expiry, message_for_tests};
    use proptest::prelude::*;

    fn message(topic: &str, expires_ms: Option<u64>) -> Arc<Message> {
        let expiry = expires_ms.map(|ms| Expiry::new(ms, ms));
        Arc::new(Message { topic: topic.into(), expiry, ..Message::clone(&message_for_tests()) })
    }

    fn all() -> Allowance {
        Allowance { compared: usize::MAX, found: usize::MAX }
    }

    proptest! {
        #[test]
        fn the_scan_finds_what_the_definition_of_matching_says(
            topics in prop::collection::btree_set("(\\$x|[ab]?)(/[ab]?){0,3}", 0..20),
            filter in "(\\+|[ab]?)(/(\\+|[ab]?)){0,2}(/#)?",
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
        let mut allowance = Allowance { compared: 25, found: 12 };
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
