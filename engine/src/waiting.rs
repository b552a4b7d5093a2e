//! The messages that wait for one session, in the order in which they came and in that in which they will go out:
//! the oldest first, but before all others those that have priority.
//!
//! Knows nothing of windows, packet ids or the log. Taking a message out of the middle costs no more than
//! finding it: its place stays, empty, until everything before it is gone or most places are empty.
//! Invariants: the first place is not empty, nor is the last while nothing has priority; `newest` never goes down along the places; the
//! counts are of what is there.

mod priority;

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::num::NonZeroU64;

use protocol::QoS;
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::message::{Delivery, MsgNo, Origin};
use crate::record::{GroupNo, SessionNo, Source};
use priority::{PRIORITY_BYTES, Priority};

/// Bytes that a message with a collapse key needs besides.
const COLLAPSING_BYTES: usize = 48;

/// Number of a place, valid until something is pushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PlaceNo(u64);

#[derive(Debug)]
struct Place {
    delivery: Option<Delivery>,
    /// The highest message number up to here.
    newest: MsgNo,
}

#[derive(Debug)]
pub(crate) struct Waiting {
    places: VecDeque<Place>,
    /// Number of the first place.
    first: u64,
    len: usize,
    bytes: usize,
    at_most_once: usize,
    /// A place that no QoS 0 message stands before.
    at_most_once_from: u64,
    /// How many came by each shared group; a group that brought none has no entry.
    by_group: FxHashMap<GroupNo, usize>,
    /// The place that rights are to be checked from.
    unchecked_from: u64,
    /// Who goes first; most queues never have one.
    priority: Option<Box<Priority>>,
    /// The newest message of each collapse key and source; most queues have none.
    collapsing: Option<Box<FxHashMap<(NonZeroU64, Source), MsgNo>>>,
}

impl Default for Waiting {
    fn default() -> Self {
        Self::EMPTY
    }
}

/// Empty places below which none are cleared away.
const EMPTY_MIN: usize = 64;

impl Waiting {
    /// A queue that nothing came to.
    pub(crate) const EMPTY: Self = Self {
        places: VecDeque::new(),
        first: 0,
        len: 0,
        bytes: 0,
        at_most_once: 0,
        at_most_once_from: 0,
        by_group: FxHashMap::with_hasher(FxBuildHasher),
        unchecked_from: 0,
        priority: None,
        collapsing: None,
    };

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of all messages, as [`Message::bytes`](crate::message::Message::bytes) counts them.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// All, in the order in which they came.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.places.iter().filter_map(|place| place.delivery.as_ref())
    }

    /// All, in the order in which they will go out.
    pub(crate) fn iter_out(&self) -> impl Iterator<Item = &Delivery> {
        let priority = self.priority.as_deref();
        let forward = priority.into_iter().flat_map(Priority::forward).filter_map(|p| self.get(PlaceNo(p)));
        let others = (self.first..).zip(&self.places);
        let others = others.filter_map(|(no, place)| Some((no, place.delivery.as_ref()?)));
        let is_other = move |(no, d): &(u64, &Delivery)| {
            priority.is_none_or(|priority| priority.is_ordinary(*no, &d.message.topic))
        };
        forward.chain(others.filter(is_other).map(|(_, delivery)| delivery))
    }

    /// The next to go out.
    pub(crate) fn front(&self) -> Option<&Delivery> {
        match self.priority.as_ref().and_then(|priority| priority.front()) {
            Some(place) => self.get(PlaceNo(place)),
            None => self.places.front().and_then(|place| place.delivery.as_ref()),
        }
    }

    /// Bytes held for priority and collapse keys.
    pub(crate) fn extra_bytes(&self) -> usize {
        let ordered = if self.priority.is_some() { self.len * PRIORITY_BYTES } else { 0 };
        ordered + self.collapsing.as_ref().map_or(0, |keys| keys.len() * COLLAPSING_BYTES)
    }

    /// The message that waits with the same collapse key, brought by the same source.
    pub(crate) fn with_key_of(&self, delivery: &Delivery) -> Option<MsgNo> {
        let key = (delivery.message.collapse?, delivery.source());
        self.collapsing.as_ref()?.get(&key).copied()
    }

    /// Whether a message with this collapse key waits.
    pub(crate) fn has_key(&self, collapse: NonZeroU64) -> bool {
        let of = |source| self.collapsing.as_ref().is_some_and(|keys| keys.contains_key(&(collapse, source)));
        of(Source::Subscriptions)
    }

    /// Makes room for so many more.
    pub(crate) fn reserve(&mut self, more: usize) {
        self.places.reserve(more);
    }

    pub(crate) fn push(&mut self, delivery: Delivery) {
        if self.places.len() > self.len * 2 + EMPTY_MIN {
            self.clear_empty();
        }
        let place = self.first + self.places.len() as u64;
        self.note_priority(place, &delivery);
        if let Some(collapse) = delivery.message.collapse
            && delivery.source().recipient(SessionNo(0)).is_some()
        {
            let keys = self.collapsing.get_or_insert_default();
            keys.insert((collapse, delivery.source()), delivery.message.no);
        }
        if delivery.qos == QoS::AtMostOnce {
            if self.at_most_once == 0 {
                self.at_most_once_from = self.first + self.places.len() as u64;
            }
            self.at_most_once += 1;
        }
        if let Origin::Group { share, .. } = &delivery.origin {
            *self.by_group.entry(share.no).or_default() += 1;
        }
        self.len += 1;
        self.bytes += delivery.message.bytes();
        let newest = self.places.back().map_or(delivery.message.no, |p| p.newest.max(delivery.message.no));
        self.places.push_back(Place { delivery: Some(delivery), newest });
    }

    /// Takes the next to go out.
    pub(crate) fn pop(&mut self) -> Option<Delivery> {
        match self.priority.as_ref().and_then(|priority| priority.front()) {
            Some(place) => self.take(PlaceNo(place)),
            None => self.take_at(0),
        }
    }

    /// Takes the one that came first.
    pub(crate) fn pop_oldest(&mut self) -> Option<Delivery> {
        self.take_at(0)
    }

    /// Takes a message whatever brought it; of several copies the one that came first.
    pub(crate) fn remove_first(&mut self, no: MsgNo) -> Option<Delivery> {
        let is_it = |place: &Place| place.delivery.as_ref().is_some_and(|d| d.message.no == no);
        let from = self.places.partition_point(|place| place.newest < no);
        let mut run = self.places.range(from..).take_while(|place| place.newest == no);
        let in_order = run.position(is_it).map(|at| from + at);
        let at = in_order.or_else(|| self.places.iter().position(is_it))?;
        self.take_at(at)
    }

    fn clear_empty(&mut self) {
        if let Some(priority) = &mut self.priority {
            let numbered = (self.first..).zip(&self.places);
            let kept: Vec<_> = numbered.filter(|(_, p)| p.delivery.is_some()).map(|(no, _)| no).collect();
            priority.renumber(&kept, self.first);
        }
        self.places.retain(|place| place.delivery.is_some());
        (self.at_most_once_from, self.unchecked_from) = (self.first, self.first);
    }

    /// Notes where a message that is pushed will stand.
    fn note_priority(&mut self, place: u64, delivery: &Delivery) {
        let message = &delivery.message;
        if message.is_high && self.priority.is_none() {
            let mut priority = Priority::default();
            for (no, place) in (self.first..).zip(&self.places) {
                if let Some(d) = &place.delivery {
                    priority.push(no, &d.message.topic, false);
                }
            }
            self.priority = Some(Box::new(priority));
        }
        if let Some(priority) = &mut self.priority {
            priority.push(place, &message.topic, message.is_high);
        }
    }

    /// Whether there is a QoS 0 message: one of a conversation.
    pub(crate) fn holds_at_most_once(&self) -> bool {
        self.at_most_once > 0
    }

    /// Takes the oldest of QoS 0.
    pub(crate) fn pop_at_most_once(&mut self) -> Option<Delivery> {
        if self.at_most_once == 0 {
            return None;
        }
        let place = self.find(self.at_most_once_from, |d| d.qos == QoS::AtMostOnce)?;
        self.at_most_once_from = place;
        let oldest = self.get(PlaceNo(place))?;
        // As the log says it: by its number, of several copies the first.
        let (no, source) = (oldest.message.no, oldest.source());
        self.remove(no, source)
    }

    /// Takes a certain message; of several retained copies the first.
    pub(crate) fn remove(&mut self, no: MsgNo, source: Source) -> Option<Delivery> {
        let is_it = |place: &Place| {
            place.delivery.as_ref().is_some_and(|d| d.message.no == no && d.source() == source)
        };
        let from = self.places.partition_point(|place| place.newest < no);
        let run = self.places.range(from..).take_while(|place| place.newest == no);
        let in_order = || Some(from + run.into_iter().position(is_it)?);
        // Retained copies, and what a group took from another member, may stand behind higher numbers than
        // their own.
        let anywhere = || self.places.iter().position(is_it);
        let at = match source {
            Source::Subscriptions | Source::Envelope => in_order(),
            Source::Group(_) => in_order().or_else(anywhere),
            Source::Retained | Source::RetainedEnvelope => anywhere(),
        };
        self.take_at(at?)
    }

    /// Whether a message waits that the session's own subscriptions brought.
    pub(crate) fn contains(&self, no: MsgNo) -> bool {
        let from = self.places.partition_point(|place| place.newest < no);
        let mut run = self.places.range(from..).take_while(|place| place.newest == no);
        run.any(|place| {
            place.delivery.as_ref().is_some_and(|d| d.message.no == no && d.source() == Source::Subscriptions)
        })
    }

    /// The message at a place, if it is still there.
    pub(crate) fn get(&self, PlaceNo(place): PlaceNo) -> Option<&Delivery> {
        let at = usize::try_from(place.checked_sub(self.first)?).ok()?;
        self.places.get(at)?.delivery.as_ref()
    }

    /// Takes the message at a place.
    pub(crate) fn take(&mut self, PlaceNo(place): PlaceNo) -> Option<Delivery> {
        self.take_at(usize::try_from(place.checked_sub(self.first)?).ok()?)
    }

    /// Whether there is a message that came by this shared group.
    pub(crate) fn has_group(&self, group: GroupNo) -> bool {
        self.by_group.contains_key(&group)
    }

    /// The shared groups that brought something, in no order.
    pub(crate) fn groups(&self) -> impl Iterator<Item = GroupNo> {
        self.by_group.keys().copied()
    }

    /// Finds the next message of a shared group, from this place on, and how many places were looked at.
    pub(crate) fn next_of_group(&self, group: GroupNo, PlaceNo(from): PlaceNo) -> Option<(PlaceNo, usize)> {
        if !self.has_group(group) {
            return None;
        }
        let place = self.find(from, |d| d.source() == Source::Group(group))?;
        Some((PlaceNo(place), (place - from.max(self.first)) as usize + 1))
    }

    /// Takes all that came by shared groups.
    pub(crate) fn take_all_of_groups(&mut self) -> impl Iterator<Item = Delivery> {
        let mut taken = Vec::new();
        if !self.by_group.is_empty() {
            for delivery in std::mem::take(self).places.into_iter().filter_map(|place| place.delivery) {
                match delivery.origin {
                    Origin::Group { .. } => taken.push(delivery),
                    _ => self.push(delivery),
                }
            }
        }
        taken.into_iter()
    }

    /// Has all of it checked again.
    pub(crate) fn check_anew(&mut self) {
        self.unchecked_from = self.first;
    }

    /// Has it checked again from this place on.
    pub(crate) fn check_from(&mut self, PlaceNo(place): PlaceNo) {
        self.unchecked_from = place;
    }

    /// Finds the first that was not checked, and notes that it is by now.
    pub(crate) fn check_next(&mut self) -> Option<PlaceNo> {
        let place = self.find(self.unchecked_from, |_| true)?;
        self.unchecked_from = place + 1;
        Some(PlaceNo(place))
    }

    /// Finds a place from this one on.
    fn find(&self, from: u64, is_it: impl Fn(&Delivery) -> bool) -> Option<u64> {
        let from = from.max(self.first);
        let at = usize::try_from(from - self.first).ok().filter(|at| *at < self.places.len())?;
        let mut places = self.places.range(at..);
        let found = places.position(|place| place.delivery.as_ref().is_some_and(&is_it))?;
        Some(from + found as u64)
    }

    fn take_at(&mut self, at: usize) -> Option<Delivery> {
        let taken = self.places.get_mut(at)?.delivery.take()?;
        self.len -= 1;
        self.note_taken(self.first + at as u64, &taken);
        self.bytes -= taken.message.bytes();
        self.at_most_once -= usize::from(taken.qos == QoS::AtMostOnce);
        if let Origin::Group { share, .. } = &taken.origin
            && let Entry::Occupied(mut count) = self.by_group.entry(share.no)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        while self.places.front().is_some_and(|place| place.delivery.is_none()) {
            self.places.pop_front();
            self.first += 1;
        }
        // The number of a last place would be given again, and `priority` may still have it.
        while self.priority.is_none() && self.places.back().is_some_and(|place| place.delivery.is_none()) {
            self.places.pop_back();
        }
        Some(taken)
    }
}

impl Waiting {
    fn note_taken(&mut self, place: u64, taken: &Delivery) {
        if let Some(mut priority) = self.priority.take().filter(|_| self.len > 0) {
            priority.take(place, &taken.message.topic, |place| self.get(PlaceNo(place)).is_some());
            self.priority = Some(priority);
        }
        if let (Some(collapse), Some(keys)) = (taken.message.collapse, &mut self.collapsing) {
            let key = (collapse, taken.source());
            if keys.get(&key) == Some(&taken.message.no) {
                keys.remove(&key);
            }
            if keys.is_empty() {
                self.collapsing = None;
            }
        }
    }
}

#[cfg(test)]
mod tests;
