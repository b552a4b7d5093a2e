//! The messages that wait for one session, in the order in which they came and in that in which they will go out:
//! the oldest first, but before all others those that have priority.
//!
//! Knows nothing of windows, packet ids or the log. The oldest places may be packed ([`packed`]): then their messages
//! are in the log alone, and are made again, a run of them at once, when their turn comes. Taking a message out of the
//! middle costs no more than finding it: its place stays, empty, until everything before it is gone or most places are
//! empty.
//! Invariants: runs are not empty and stand before all in `places`; the first of `places` is not empty, nor is the last
//! while nothing has priority; `newest` never goes down along the places; the counts are of what is there.

mod packed;
mod priority;
mod runs;

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::num::NonZeroU64;
use std::sync::Arc;

use protocol::QoS;
use rustc_hash::FxHashMap;

use crate::memory::entry_bytes;
use crate::message::{Delivery, Message, MsgNo, Origin};
use crate::record::{GroupNo, SessionNo, Source};
use packed::can_be_packed;
pub(crate) use packed::{Outline, Written};
use priority::{PRIORITY_BYTES, Priority};
use runs::{Run, Seen};

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

/// Makes a message that is counted of one that is not, which was packed; says whether others wait for it too.
pub(crate) type Make<'a> = &'a mut dyn FnMut(Message, bool) -> Arc<Message>;

#[derive(Debug)]
pub(crate) struct Waiting {
    /// The oldest places, of which some are packed; most queues have none.
    #[expect(clippy::box_collection, reason = "three words less in each session")]
    runs: Option<Box<VecDeque<Run>>>,
    places: VecDeque<Place>,
    /// Number of the first of `places`.
    first: u64,
    len: usize,
    bytes: usize,
    /// Bytes of memory that the places need, messages excepted.
    held: usize,
    at_most_once: usize,
    /// A place that no QoS 0 message stands before.
    at_most_once_from: u64,
    /// How many came by each shared group; a group that brought none has no entry.
    by_group: Option<Box<FxHashMap<GroupNo, usize>>>,
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

/// Places below which `places` keeps its room.
const ROOM_MIN: usize = 16;

impl Waiting {
    /// A queue that nothing came to.
    pub(crate) const EMPTY: Self = Self {
        runs: None,
        places: VecDeque::new(),
        first: 0,
        len: 0,
        bytes: 0,
        held: 0,
        at_most_once: 0,
        at_most_once_from: 0,
        by_group: None,
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

    /// Bytes of memory that it needs, messages and what is fixed excepted.
    pub(crate) fn held_bytes(&self) -> usize {
        let ordered = if self.priority.is_some() { self.len * PRIORITY_BYTES } else { 0 };
        self.held + ordered + self.collapsing.as_ref().map_or(0, |keys| keys.len() * COLLAPSING_BYTES)
    }

    /// All whose messages are in memory, in the order in which they came.
    pub(crate) fn iter_whole(&self) -> impl Iterator<Item = &Delivery> {
        self.seen_from(0)
            .filter_map(|(_, seen)| if let Seen::Whole(delivery) = seen { Some(delivery) } else { None })
    }

    /// What decisions need of all, in the order in which they came.
    pub(crate) fn outlines(&self) -> impl Iterator<Item = Outline<'_>> {
        self.seen_from(0).map(|(_, seen)| seen.outline())
    }

    /// What decisions need of the next to go out, and its message if that is in memory.
    pub(crate) fn front(&self) -> Option<(Outline<'_>, Option<&Delivery>)> {
        let front = self.seen(self.front_place()?)?;
        Some((front.outline(), front.whole()))
    }

    /// Whether the next to go out is known to be packed, without a look at what it is.
    pub(crate) fn is_front_packed(&self) -> bool {
        let first_run = self.runs.as_ref().and_then(|runs| runs.front());
        self.priority.is_none() && first_run.is_some_and(Run::is_packed)
    }

    /// The first ones in the order in which they will go out, so many, or fewer if another run would be met in part: their outlines, and their messages that are in memory.
    pub(crate) fn ahead(&self, messages: usize) -> Vec<(Outline<'_>, Option<&Delivery>)> {
        let Some(priority) = self.priority.as_deref() else {
            let ahead = self.seen_from(0).take(self.whole_runs(messages));
            return ahead.map(|(_, seen)| (seen.outline(), seen.whole())).collect();
        };
        let ahead = self.places_out(priority, messages).into_iter().filter_map(|place| self.seen(place));
        ahead.map(|seen| (seen.outline(), seen.whole())).collect()
    }

    /// Makes the messages again that were packed among the next ones to go out. Tells of all that it made.
    pub(crate) fn unpack_ahead(&mut self, messages: usize, make: Make<'_>) {
        let Some(priority) = self.priority.as_deref() else { return self.unpack_first(messages, make) };
        for place in self.places_out(priority, messages) {
            self.unpack(place, make);
        }
    }

    /// Numbers of the places that go out first.
    fn places_out(&self, priority: &Priority, messages: usize) -> Vec<u64> {
        let forward = priority.forward().filter(|place| self.seen(*place).is_some());
        let is_other = |(place, seen): &(u64, Seen<'_>)| priority.is_ordinary(*place, seen.outline().topic);
        let others = self.seen_from(0).filter(is_other).map(|(place, _)| place);
        forward.chain(others).take(messages).collect()
    }

    /// The place that goes out next.
    fn front_place(&self) -> Option<u64> {
        match self.priority.as_ref().and_then(|priority| priority.front()) {
            Some(place) => Some(place),
            None => self.oldest_place(),
        }
    }

    /// What decisions need of the one that came first.
    pub(crate) fn oldest(&self) -> Option<Outline<'_>> {
        self.outline(PlaceNo(self.oldest_place()?))
    }

    fn oldest_place(&self) -> Option<u64> {
        match self.runs.as_ref().and_then(|runs| runs.front()) {
            Some(run) => run.oldest(),
            None => (!self.places.is_empty()).then_some(self.first),
        }
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

    pub(crate) fn push(&mut self, delivery: Delivery) {
        if self.places.len() > self.len * 2 + EMPTY_MIN {
            self.clear_empty();
        }
        let place = self.first + self.places.len() as u64;
        self.note_priority(place, &delivery);
        if let Origin::Group { share, .. } = &delivery.origin {
            *self.by_group.get_or_insert_default().entry(share.no).or_default() += 1;
        }
        let Message { no, collapse, .. } = *delivery.message;
        self.note_pushed(place, no, delivery.source(), delivery.qos, collapse, delivery.message.bytes());
        self.held += entry_bytes(&delivery);
        let newest = self.newest().max(delivery.message.no);
        self.places.push_back(Place { delivery: Some(delivery), newest });
    }

    /// Counts a message at a new last place.
    fn note_pushed(
        &mut self,
        place: u64,
        no: MsgNo,
        source: Source,
        qos: QoS,
        collapse: Option<NonZeroU64>,
        bytes: usize,
    ) {
        if let Some(collapse) = collapse.filter(|_| source.recipient(SessionNo(0)).is_some()) {
            self.collapsing.get_or_insert_default().insert((collapse, source), no);
        }
        if qos == QoS::AtMostOnce {
            if self.at_most_once == 0 {
                self.at_most_once_from = place;
            }
            self.at_most_once += 1;
        }
        self.len += 1;
        self.bytes += bytes;
    }

    /// The highest message number of all places.
    fn newest(&self) -> MsgNo {
        let last_run = || self.runs.as_ref().and_then(|runs| runs.back()).map(|run| run.newest);
        self.places.back().map(|place| place.newest).or_else(last_run).unwrap_or_default()
    }

    /// Takes the next to go out.
    pub(crate) fn pop(&mut self, make: Make<'_>) -> Option<Delivery> {
        self.take(PlaceNo(self.front_place()?), make)
    }

    /// Takes the one that came first.
    pub(crate) fn pop_oldest(&mut self, make: Make<'_>) -> Option<Delivery> {
        self.take(PlaceNo(self.oldest_place()?), make)
    }

    /// Takes a message whatever brought it; of several copies the one that came first.
    pub(crate) fn remove_first(&mut self, no: MsgNo, make: Make<'_>) -> Option<Delivery> {
        let place = self.place_of(no, |_| true).or_else(|| self.find(0, |outline| outline.no == no))?;
        self.take(PlaceNo(place), make)
    }

    fn clear_empty(&mut self) {
        let from = self.first;
        if let Some(mut priority) = self.priority.take() {
            let numbered = (from..).zip(&self.places);
            let kept: Vec<_> = numbered.filter(|(_, p)| p.delivery.is_some()).map(|(no, _)| no).collect();
            priority.renumber(|place| match place < from {
                true => self.seen(place).map(|_| place),
                false => kept.binary_search(&place).ok().map(|at| from + at as u64),
            });
            self.priority = Some(priority);
        }
        self.places.retain(|place| place.delivery.is_some());
        (self.at_most_once_from, self.unchecked_from) = (0, self.unchecked_from.min(from));
    }

    /// Notes where a message that is pushed will stand.
    fn note_priority(&mut self, place: u64, delivery: &Delivery) {
        let message = &delivery.message;
        if message.is_high && self.priority.is_none() {
            let mut priority = Priority::default();
            for (no, seen) in self.seen_from(0) {
                priority.push(no, &seen.outline().topic.into(), false);
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
    pub(crate) fn pop_at_most_once(&mut self, make: Make<'_>) -> Option<Delivery> {
        if self.at_most_once == 0 {
            return None;
        }
        let place = self.find(self.at_most_once_from, |outline| outline.qos == QoS::AtMostOnce)?;
        self.at_most_once_from = place;
        let oldest = self.seen(place)?.outline();
        // As the log says it: by its number, of several copies the first.
        let (no, source) = (oldest.no, oldest.source);
        self.remove(no, source, make)
    }

    /// Takes a certain message; of several retained copies the first.
    pub(crate) fn remove(&mut self, no: MsgNo, source: Source, make: Make<'_>) -> Option<Delivery> {
        self.take(PlaceNo(self.certain(no, source)?), make)
    }

    fn certain(&self, no: MsgNo, source: Source) -> Option<u64> {
        let in_order = || self.place_of(no, |outline| outline.source == source);
        // Retained copies, and what a group took from another member, may stand behind higher numbers than
        // their own.
        let anywhere = || self.find(0, |outline| outline.no == no && outline.source == source);
        match source {
            Source::Subscriptions | Source::Envelope => in_order(),
            Source::Group(_) => in_order().or_else(anywhere),
            Source::Retained | Source::RetainedEnvelope => anywhere(),
        }
    }

    /// Whether a message waits that the session's own subscriptions brought.
    pub(crate) fn contains(&self, no: MsgNo) -> bool {
        self.place_of(no, |outline| outline.source == Source::Subscriptions).is_some()
    }

    /// What decisions need of a certain message, as [`Self::remove`] finds it.
    pub(crate) fn waiting(&self, no: MsgNo, source: Source) -> Option<Outline<'_>> {
        self.outline(PlaceNo(self.certain(no, source)?))
    }

    /// Finds a message where its number says that it stands.
    fn place_of(&self, no: MsgNo, is_it: impl Fn(&Outline<'_>) -> bool) -> Option<u64> {
        let mut run = self.seen_from(self.place_of_newest(no)).take_while(|(_, seen)| seen.no() <= no);
        run.find(|(_, seen)| seen.no() == no && is_it(&seen.outline())).map(|(place, _)| place)
    }

    /// The first place that no lower number may stand behind, of those that came in order.
    fn place_of_newest(&self, no: MsgNo) -> u64 {
        let runs = self.runs.as_deref();
        let run = runs.and_then(|runs| runs.get(runs.partition_point(|run| run.newest < no)));
        match run {
            Some(run) => run.first,
            None => self.first + self.places.partition_point(|place| place.newest < no) as u64,
        }
    }

    /// The message at a place, if it is still there and in memory.
    pub(crate) fn get(&self, PlaceNo(place): PlaceNo) -> Option<&Delivery> {
        match self.seen(place)? {
            Seen::Whole(delivery) => Some(delivery),
            Seen::Packed(_) => None,
        }
    }

    /// What decisions need of the message at a place, if it is still there.
    pub(crate) fn outline(&self, PlaceNo(place): PlaceNo) -> Option<Outline<'_>> {
        self.seen(place).map(|seen| seen.outline())
    }

    /// Whether there is a message that came by this shared group.
    pub(crate) fn has_group(&self, group: GroupNo) -> bool {
        self.by_group.as_ref().is_some_and(|groups| groups.contains_key(&group))
    }

    /// The shared groups that brought something, in no order.
    pub(crate) fn groups(&self) -> impl Iterator<Item = GroupNo> {
        self.by_group.iter().flat_map(|groups| groups.keys().copied())
    }

    /// Finds the next message of a shared group, from this place on, and how many places were looked at.
    pub(crate) fn next_of_group(&self, group: GroupNo, PlaceNo(from): PlaceNo) -> Option<(PlaceNo, usize)> {
        if !self.has_group(group) {
            return None;
        }
        let from = from.max(self.oldest_place()?);
        let place = self.find(from, |outline| outline.source == Source::Group(group))?;
        Some((PlaceNo(place), (place - from) as usize + 1))
    }

    /// Takes all that came by shared groups.
    pub(crate) fn take_all_of_groups(&mut self) -> impl Iterator<Item = Delivery> {
        let mut taken = Vec::new();
        if self.by_group.is_some() {
            let by_group =
                |(place, seen): (u64, Seen<'_>)| matches!(seen.source(), Source::Group(_)).then_some(place);
            let places: Vec<_> = self.seen_from(0).filter_map(by_group).collect();
            // What came by a group is never packed.
            let make: Make<'_> = &mut |message, _| Arc::new(message);
            taken.extend(places.into_iter().filter_map(|place| self.take(PlaceNo(place), make)));
        }
        taken.into_iter()
    }

    /// Has all of it checked again.
    pub(crate) fn check_anew(&mut self) {
        self.unchecked_from = 0;
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
    fn find(&self, from: u64, is_it: impl Fn(&Outline<'_>) -> bool) -> Option<u64> {
        self.seen_from(from).find(|(_, seen)| is_it(&seen.outline())).map(|(place, _)| place)
    }

    /// Takes the message at a place.
    pub(crate) fn take(&mut self, PlaceNo(place): PlaceNo, make: Make<'_>) -> Option<Delivery> {
        let taken = match place.checked_sub(self.first) {
            Some(at) => {
                let taken = self.places.get_mut(usize::try_from(at).ok()?)?.delivery.take()?;
                self.held -= entry_bytes(&taken);
                taken
            }
            None => self.take_of_runs(place, make)?,
        };
        self.len -= 1;
        self.note_taken(place, &taken);
        self.bytes -= taken.message.bytes();
        self.at_most_once -= usize::from(taken.qos == QoS::AtMostOnce);
        if let Origin::Group { share, .. } = &taken.origin
            && let Some(groups) = &mut self.by_group
        {
            if let Entry::Occupied(mut count) = groups.entry(share.no) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
            if groups.is_empty() {
                self.by_group = None;
            }
        }
        self.clear_ends();
        Some(taken)
    }

    /// Takes empty places away from both ends of `places`.
    fn clear_ends(&mut self) {
        while self.places.front().is_some_and(|place| place.delivery.is_none()) {
            self.places.pop_front();
            self.first += 1;
        }
        // The number of a last place would be given again, and `priority` may still have it.
        while self.priority.is_none() && self.places.back().is_some_and(|place| place.delivery.is_none()) {
            self.places.pop_back();
        }
    }

    fn note_taken(&mut self, place: u64, taken: &Delivery) {
        if let Some(mut priority) = self.priority.take().filter(|_| self.len > 0) {
            priority.take(place, &taken.message.topic, |place| self.seen(place).is_some());
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
