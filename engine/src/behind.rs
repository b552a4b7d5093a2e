//! What a session that gets all of its user's conversations has missed: since which message, conversation by
//! conversation in the order of their topics.
//!
//! A session that comes back gets cursors for what it missed, in portions; when its connection ends in between, the
//! rest is missed since longer ago than what has its cursors. So this is a list of stretches: all topics behind a
//! certain one are missed since a certain message, and where several stretches say it, since the oldest.
//!
//! Invariant: no two stretches begin behind the same topic; those that begin later are older.

use bytestring::ByteString;

use crate::message::MsgNo;

/// A session's backlog of conversations. Without stretches there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Behind(Vec<Stretch>);

/// Topics behind one of them, all for an empty one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) after: ByteString,
    /// The first message that is missed.
    pub(crate) since: MsgNo,
}

impl Behind {
    pub(crate) fn of(stretches: Vec<Stretch>) -> Self {
        Self(stretches)
    }

    pub(crate) fn stretches(&self) -> &[Stretch] {
        &self.0
    }

    /// From now on everything is missed.
    pub(crate) fn go_away(&mut self, since: MsgNo) {
        // What is missed since longer ago says so already.
        if self.0.first().is_none_or(|first| !first.after.is_empty()) {
            self.0.insert(0, Stretch { after: ByteString::new(), since });
        }
    }

    /// Topics up to this one are missed no more.
    pub(crate) fn come_to(&mut self, topic: &ByteString) {
        let passed = self.0.partition_point(|stretch| stretch.after <= *topic);
        // The last of those passed is the oldest.
        if let Some(last) = passed.checked_sub(1) {
            self.0.drain(..last);
            self.0[0].after = topic.clone();
        }
    }

    /// The first message of a conversation that is missed.
    pub(crate) fn since(&self, topic: &str) -> Option<MsgNo> {
        self.0.iter().rev().find(|stretch| *stretch.after < *topic).map(|stretch| stretch.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn stretches_say_what_a_table_of_all_topics_would(
            steps in prop::collection::vec((any::<bool>(), 0usize..10), 0..40),
        ) {
            let topics: Vec<_> = ('a'..='j').map(|c| ByteString::from(c.to_string())).collect();
            let (mut behind, mut table) = (Behind::default(), BTreeMap::<ByteString, MsgNo>::new());
            for (no, (goes, at)) in (1..).zip(steps) {
                if goes {
                    behind.go_away(MsgNo(no));
                    topics.iter().for_each(|topic| _ = table.entry(topic.clone()).or_insert(MsgNo(no)));
                } else {
                    behind.come_to(&topics[at]);
                    table.retain(|topic, _| *topic > topics[at]);
                }
                for topic in &topics {
                    prop_assert_eq!(behind.since(topic), table.get(topic).copied());
                }
                prop_assert!(behind.0.windows(2).all(|w| w[0].after < w[1].after && w[0].since > w[1].since));
            }
        }
    }
}
