//! Which waiting messages go out before the others: the high ones, and before each of them the earlier ones of its
//! topic, so that order inside a topic never changes.
//!
//! Made when the first high message comes to a queue, and kept until the queue is empty. Invariant: every message
//! that waits is once in `forward` or once in `by_topic`, whose places rise in each topic.

use std::collections::VecDeque;

use bytestring::ByteString;

use crate::names::ByName;

/// Bytes that a message in a queue with high ones needs besides.
pub(super) const PRIORITY_BYTES: usize = 96;

/// Places in `forward` that are empty, below which none are cleared away.
const STALE_MIN: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Priority {
    /// Places in the order in which they go out; some may be empty by now.
    forward: VecDeque<u64>,
    stale: usize,
    /// Places of the others.
    by_topic: ByName<VecDeque<u64>>,
}

impl Priority {
    pub(super) fn push(&mut self, place: u64, topic: &ByteString, is_high: bool) {
        if is_high {
            self.forward.extend(self.by_topic.remove(topic).into_iter().flatten());
            self.forward.push_back(place);
        } else if let Some(places) = self.by_topic.get_mut(topic) {
            places.push_back(place);
        } else {
            self.by_topic.insert(topic.clone(), VecDeque::from([place]));
        }
    }

    /// Notes that a place is empty now; `is_there` says which are not.
    pub(super) fn take(&mut self, place: u64, topic: &str, is_there: impl Fn(u64) -> bool) {
        if let Some(places) = self.by_topic.get_mut(topic)
            && let Ok(at) = places.binary_search(&place)
        {
            places.remove(at);
            if places.is_empty() {
                self.by_topic.remove(topic);
            }
            return;
        }
        if self.forward.front() == Some(&place) {
            self.forward.pop_front();
        } else {
            self.stale += 1;
        }
        if self.stale > self.forward.len() / 2 + STALE_MIN {
            self.forward.retain(|place| is_there(*place));
            self.stale = 0;
        }
        while self.stale > 0 && self.forward.front().is_some_and(|place| !is_there(*place)) {
            self.forward.pop_front();
            self.stale -= 1;
        }
    }

    /// The place that goes out first, if one goes before the oldest.
    pub(super) fn front(&self) -> Option<u64> {
        // Empty places at the front are cleared away when they become empty.
        self.forward.front().copied()
    }

    /// The places that go out before the others; some may be empty.
    pub(super) fn forward(&self) -> impl Iterator<Item = u64> {
        self.forward.iter().copied()
    }

    /// Whether a place that is not empty is one of the others.
    pub(super) fn is_ordinary(&self, place: u64, topic: &str) -> bool {
        self.by_topic.get(topic).is_some_and(|places| places.binary_search(&place).is_ok())
    }

    /// Gives places other numbers; `new` says which, `None` for one that is empty.
    pub(super) fn renumber(&mut self, new: impl Fn(u64) -> Option<u64>) {
        let new = |place: &u64| new(*place);
        self.forward = self.forward.iter().filter_map(&new).collect();
        self.stale = 0;
        for places in self.by_topic.values_mut() {
            *places = places.iter().filter_map(&new).collect();
        }
    }
}
