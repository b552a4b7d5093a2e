//! The messages that wait for one session, in the order in which they will go out.
//!
//! Knows nothing of windows, packet ids or the log. Taking a message out of the middle costs no more than
//! finding it: its place stays, empty, until everything before it is gone or most places are empty.
//! Invariants: neither the first place nor the last is empty; `newest` never goes down along the places; the
//! counts are of what is there.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;

use protocol::QoS;
use rustc_hash::FxHashMap;

use crate::message::{Delivery, MsgNo, Origin};
use crate::record::{GroupNo, Source};

/// Number of a place, valid until something is pushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PlaceNo(u64);

#[derive(Debug)]
struct Place {
    delivery: Option<Delivery>,
    /// The highest message number up to here.
    newest: MsgNo,
}

#[derive(Debug, Default)]
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
}

/// Empty places below which none are cleared away.
const EMPTY_MIN: usize = 64;

impl Waiting {
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

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.places.iter().filter_map(|place| place.delivery.as_ref())
    }

    /// The oldest.
    pub(crate) fn front(&self) -> Option<&Delivery> {
        self.places.front().and_then(|place| place.delivery.as_ref())
    }

    pub(crate) fn push(&mut self, delivery: Delivery) {
        if self.places.len() > self.len * 2 + EMPTY_MIN {
            self.places.retain(|place| place.delivery.is_some());
            (self.at_most_once_from, self.unchecked_from) = (self.first, self.first);
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

    /// Takes the oldest.
    pub(crate) fn pop(&mut self) -> Option<Delivery> {
        self.take_at(0)
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
        while self.places.back().is_some_and(|place| place.delivery.is_none()) {
            self.places.pop_back();
        }
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::message::{Message, Share, message_for_tests};
    use crate::record::Form;
    use proptest::prelude::*;

    fn delivery(no: u64, qos: QoS, group: Option<u64>) -> Delivery {
        let message = Arc::new(Message { no: MsgNo(no), ..Message::clone(&message_for_tests()) });
        let share = |no| Arc::new(Share { no: GroupNo(no), full: "$share/g/t".into(), form: Form::Plain });
        let origin =
            group.map_or(Origin::Subscriptions, |no| Origin::Group { share: share(no), kept: false });
        Delivery { message, qos, retain: false, origin, subscription_identifiers: Vec::new() }
    }

    proptest! {
        #[test]
        fn it_does_what_a_plain_list_does(
            steps in prop::collection::vec((0u8..7, any::<prop::sample::Index>()), 1..400),
        ) {
            let (mut waiting, mut list) = (Waiting::default(), Vec::<Delivery>::new());
            let mut next = 100;
            for (kind, index) in steps {
                let chosen = (!list.is_empty()).then(|| index.index(list.len()));
                match (kind, chosen) {
                    (0, _) => prop_assert_eq!(waiting.pop(), (!list.is_empty()).then(|| list.remove(0))),
                    (1, _) => {
                        let oldest = list.iter().position(|d| d.qos == QoS::AtMostOnce);
                        prop_assert_eq!(waiting.pop_at_most_once(), oldest.map(|at| list.remove(at)));
                    }
                    (2, Some(at)) => {
                        let (no, source) = (list[at].message.no, list[at].source());
                        prop_assert_eq!(waiting.remove(no, source), Some(list.remove(at)));
                        prop_assert_eq!(waiting.remove(no, source), None);
                    }
                    (3, _) => {
                        let of_group = |d: &Delivery| d.source() == Source::Group(GroupNo(1));
                        let expected = list.iter().position(of_group).map(|at| list.remove(at));
                        let found = waiting.next_of_group(GroupNo(1), PlaceNo::default());
                        prop_assert_eq!(found.and_then(|(place, _)| waiting.take(place)), expected);
                    }
                    _ => {
                        // What a group took from another member has an older number.
                        let (no, group) = match index.index(4) {
                            0 => (next - 70, Some(1)),
                            1 => (next, Some(2)),
                            _ => (next, None),
                        };
                        next += 1;
                        let qos = if index.index(3) == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
                        waiting.push(delivery(no, qos, group));
                        list.push(delivery(no, qos, group));
                        prop_assert!(waiting.places.len() <= waiting.len * 2 + EMPTY_MIN + 1);
                    }
                }
                prop_assert!(waiting.iter().eq(&list));
                prop_assert_eq!(waiting.front(), list.first());
                prop_assert_eq!((waiting.len(), waiting.is_empty()), (list.len(), list.is_empty()));
                prop_assert_eq!(waiting.bytes(), list.iter().map(|d| d.message.bytes()).sum::<usize>());
                for group in [1, 2].map(GroupNo) {
                    let is_there = list.iter().any(|d| d.source() == Source::Group(group));
                    prop_assert_eq!(waiting.has_group(group), is_there);
                }
            }
            waiting.check_anew();
            let checked = std::iter::from_fn(|| waiting.check_next()).count();
            prop_assert_eq!(checked, list.len());
        }
    }

    #[test]
    fn what_is_pushed_while_rights_are_checked_is_checked_too() {
        let mut waiting = Waiting::default();
        for no in 1..4 {
            waiting.push(delivery(no, QoS::AtLeastOnce, None));
        }
        let mut seen = Vec::new();
        while let Some(place) = waiting.check_next() {
            let no = waiting.get(place).unwrap().message.no;
            seen.push(no.0);
            if no.0 < 3 {
                waiting.take(place);
                waiting.push(delivery(no.0 + 10, QoS::AtLeastOnce, None));
            }
        }
        assert_eq!(seen, [1, 2, 3, 11, 12]);
    }
}
