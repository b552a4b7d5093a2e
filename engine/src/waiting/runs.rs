//! The oldest places of a queue in runs, each packed or with its messages in memory.
//!
//! What is packed first stays in its run until its turn comes; then the whole run is made again, and packed again when
//! its messages have been in memory for long and still wait. A place that cannot be packed stays as it is, in a run of
//! such.

use std::collections::VecDeque;
use std::sync::Arc;

use bytestring::ByteString;

use super::packed::{Iter, PLACES, Packed, Written};
use super::{Make, Outline, Place, ROOM_MIN, Waiting, can_be_packed, entry_bytes};
use crate::message::{Delivery, MsgNo};
use crate::record::Source;

/// Bytes of a run besides its places.
pub(super) const RUN_BYTES: usize = size_of::<Run>();

/// Places that follow each other.
#[derive(Debug)]
pub(super) struct Run {
    /// Number of the first place.
    pub(super) first: u64,
    /// The highest message number up to its end.
    pub(super) newest: MsgNo,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Packed(Packed),
    Whole(Whole),
}

/// Places whose messages are in memory.
#[derive(Debug, Default)]
struct Whole {
    places: Vec<Option<Delivery>>,
    /// How many of the first ones are empty.
    gone: usize,
    /// How many are not empty.
    left: usize,
}

impl Whole {
    fn push(&mut self, delivery: Option<Delivery>) {
        self.left += usize::from(delivery.is_some());
        self.places.push(delivery);
    }

    fn take(&mut self, at: usize) -> Option<Delivery> {
        let taken = self.places.get_mut(at)?.take()?;
        self.left -= 1;
        while self.places.get(self.gone).is_some_and(Option::is_none) {
            self.gone += 1;
        }
        Some(taken)
    }

    /// Those that are not empty, with their places.
    fn iter(&self) -> impl Iterator<Item = (usize, &Delivery)> {
        let places = self.places.iter().enumerate().skip(self.gone);
        places.filter_map(|(at, delivery)| Some((at, delivery.as_ref()?)))
    }
}

/// A place that is not empty.
#[derive(Debug)]
pub(super) enum Seen<'a> {
    Whole(&'a Delivery),
    Packed(Written<'a>),
}

impl<'a> Seen<'a> {
    pub(super) fn outline(&self) -> Outline<'a> {
        match self {
            Self::Whole(delivery) => Outline::from(*delivery),
            Self::Packed(written) => written.outline,
        }
    }

    /// The place as it is in memory, if it is.
    pub(super) fn whole(&self) -> Option<&'a Delivery> {
        match self {
            Self::Whole(delivery) => Some(delivery),
            Self::Packed(_) => None,
        }
    }

    pub(super) fn no(&self) -> MsgNo {
        match self {
            Self::Whole(delivery) => delivery.message.no,
            Self::Packed(written) => written.outline.no,
        }
    }

    pub(super) fn source(&self) -> Source {
        match self {
            Self::Whole(delivery) => delivery.source(),
            Self::Packed(written) => written.outline.source,
        }
    }
}

/// Goes through the places of a run that are not empty.
enum Places<'a> {
    Packed(Iter<'a>),
    Whole(std::iter::Skip<std::iter::Enumerate<std::slice::Iter<'a, Option<Delivery>>>>),
}

impl<'a> Iterator for Places<'a> {
    type Item = (usize, Seen<'a>);

    fn next(&mut self) -> Option<(usize, Seen<'a>)> {
        match self {
            Self::Packed(iter) => iter.next().map(|(at, written)| (at, Seen::Packed(written))),
            Self::Whole(iter) => {
                iter.find_map(|(at, delivery)| delivery.as_ref().map(|delivery| (at, Seen::Whole(delivery))))
            }
        }
    }
}

impl Run {
    fn new(first: u64, newest: MsgNo, form: Form) -> Self {
        Self { first, newest, form }
    }

    fn count(&self) -> usize {
        match &self.form {
            Form::Packed(packed) => packed.count(),
            Form::Whole(whole) => whole.places.len(),
        }
    }

    /// Places that are not empty.
    fn len(&self) -> usize {
        match &self.form {
            Form::Packed(packed) => packed.len(),
            Form::Whole(whole) => whole.left,
        }
    }

    /// The first place behind it.
    fn end(&self) -> u64 {
        self.first + self.count() as u64
    }

    fn is_empty(&self) -> bool {
        match &self.form {
            Form::Packed(packed) => packed.is_empty(),
            Form::Whole(whole) => whole.left == 0,
        }
    }

    /// The first place that is not empty.
    pub(super) fn oldest(&self) -> Option<u64> {
        let at = match &self.form {
            Form::Packed(packed) => packed.oldest(),
            Form::Whole(whole) => (whole.left > 0).then_some(whole.gone),
        };
        at.map(|at| self.first + at as u64)
    }

    pub(super) fn is_packed(&self) -> bool {
        matches!(self.form, Form::Packed(_))
    }

    fn held_bytes(&self) -> usize {
        RUN_BYTES
            + match &self.form {
                Form::Packed(packed) => packed.held_bytes(),
                Form::Whole(whole) => whole.iter().map(|(_, delivery)| entry_bytes(delivery)).sum(),
            }
    }

    fn iter(&self) -> Places<'_> {
        match &self.form {
            Form::Packed(packed) => Places::Packed(packed.iter()),
            Form::Whole(whole) => Places::Whole(whole.places.iter().enumerate().skip(whole.gone)),
        }
    }

    fn get(&self, at: usize) -> Option<Seen<'_>> {
        match &self.form {
            Form::Packed(packed) => packed.get(at).map(Seen::Packed),
            Form::Whole(whole) => whole.places.get(at)?.as_ref().map(Seen::Whole),
        }
    }

    fn take(&mut self, at: usize, make: Make<'_>) -> Option<Delivery> {
        match &mut self.form {
            Form::Packed(packed) => {
                let written = packed.get(at)?;
                let message = make(written.message(written.outline.topic.into()), written.is_shared);
                let taken = written.delivery(message);
                packed.take(at);
                Some(taken)
            }
            Form::Whole(whole) => whole.take(at),
        }
    }

    /// Makes its messages again.
    fn unpack(&mut self, make: Make<'_>) {
        let Form::Packed(packed) = &self.form else { return };
        let mut whole = Whole::default();
        let mut topic = ByteString::new();
        for (at, written) in packed.iter() {
            if topic != *written.outline.topic {
                topic = written.outline.topic.into();
            }
            let message = make(written.message(topic.clone()), written.is_shared);
            while whole.places.len() < at {
                whole.push(None);
            }
            whole.push(Some(written.delivery(message)));
        }
        while whole.places.len() < packed.count() {
            whole.push(None);
        }
        whole.gone = whole.places.iter().take_while(|delivery| delivery.is_none()).count();
        self.form = Form::Whole(whole);
    }

    /// Packs it if that is possible for all that is there.
    fn pack(&mut self, committed: u64) {
        let Form::Whole(whole) = &self.form else { return };
        if whole.iter().all(|(_, delivery)| can_be_packed(delivery, committed)) {
            let mut packed = Packed::default();
            whole.places.iter().for_each(|place| packed.push(place.as_ref().map(Written::from).as_ref()));
            self.form = Form::Packed(packed);
        }
    }
}

impl Waiting {
    /// Goes through the places that are not empty, from this one on.
    pub(super) fn seen_from(&self, from: u64) -> impl Iterator<Item = (u64, Seen<'_>)> {
        let runs = self.runs.as_deref();
        let at = runs.map_or(0, |runs| runs.partition_point(|run| run.end() <= from));
        let runs = runs.into_iter().flat_map(move |runs| runs.range(at.min(runs.len())..));
        let of_runs = runs.flat_map(|run| run.iter().map(|(at, seen)| (run.first + at as u64, seen)));
        let skipped =
            usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX).min(self.places.len());
        let places = (self.first + skipped as u64..).zip(self.places.range(skipped..));
        let of_places = places.filter_map(|(no, place)| Some((no, Seen::Whole(place.delivery.as_ref()?))));
        of_runs.skip_while(move |(place, _)| *place < from).chain(of_places)
    }

    /// How many of the first messages are whole runs, one at least.
    pub(super) fn whole_runs(&self, messages: usize) -> usize {
        let mut whole = 0;
        for run in self.runs.iter().flat_map(|runs| runs.iter()) {
            let left = run.len();
            if whole > 0 && whole + left > messages {
                return whole;
            }
            whole += left;
        }
        messages.max(whole)
    }

    /// A place that is not empty.
    pub(super) fn seen(&self, place: u64) -> Option<Seen<'_>> {
        if let Some(at) = place.checked_sub(self.first) {
            return self.places.get(usize::try_from(at).ok()?)?.delivery.as_ref().map(Seen::Whole);
        }
        let runs = self.runs.as_deref()?;
        let run = runs.get(runs.partition_point(|run| run.end() <= place))?;
        run.get(usize::try_from(place.checked_sub(run.first)?).ok()?)
    }

    pub(super) fn take_of_runs(&mut self, place: u64, make: Make<'_>) -> Option<Delivery> {
        let runs = self.runs.as_deref_mut()?;
        let number = runs.partition_point(|run| run.end() <= place);
        let run = runs.get_mut(number)?;
        let at = usize::try_from(place.checked_sub(run.first)?).ok()?;
        let taken = run.take(at, make)?;
        if matches!(run.form, Form::Whole(_)) {
            self.held -= entry_bytes(&taken);
        }
        if run.is_empty() {
            self.held -= run.held_bytes();
            runs.remove(number);
        }
        if runs.is_empty() {
            self.runs = None;
        }
        Some(taken)
    }

    /// Makes the messages of the first runs again: of as many as [`Self::whole_runs`] counts.
    pub(super) fn unpack_first(&mut self, messages: usize, make: Make<'_>) {
        let mut looked_at = 0;
        for run in self.runs.iter_mut().flat_map(|runs| runs.iter_mut()) {
            let left = run.len();
            if looked_at > 0 && looked_at + left > messages {
                break;
            }
            looked_at += left;
            if matches!(run.form, Form::Packed(_)) {
                self.held -= run.held_bytes();
                run.unpack(make);
                self.held += run.held_bytes();
            }
        }
    }

    /// Makes the messages of the run of this place again.
    pub(super) fn unpack(&mut self, place: u64, make: Make<'_>) {
        let Some(runs) = self.runs.as_deref_mut().filter(|_| place < self.first) else { return };
        let number = runs.partition_point(|run| run.end() <= place);
        if let Some(run) = runs.get_mut(number) {
            self.held -= run.held_bytes();
            run.unpack(make);
            self.held += run.held_bytes();
        }
    }

    /// Packs a message that has waited for long, and what came before it. What cannot be read again stays.
    pub(crate) fn pack(&mut self, no: MsgNo, committed: u64) {
        if let Some(runs) = self.runs.as_deref_mut() {
            let number = runs.partition_point(|run| run.newest < no);
            if let Some(run) = runs.get_mut(number) {
                self.held -= run.held_bytes();
                run.pack(committed);
                self.held += run.held_bytes();
                return;
            }
        }
        let from = self.places.partition_point(|place| place.newest < no);
        let mut same = self.places.range(from..).take_while(|place| place.newest == no);
        let is_it = |place: &Place| place.delivery.as_ref().is_some_and(|d| d.message.no == no);
        let Some(at) = same.position(is_it) else { return };
        self.pack_first(from + at + 1, committed);
    }

    /// Packs all up to the last one whose body is not in memory.
    pub(crate) fn pack_absent(&mut self, committed: u64) {
        let is_absent =
            |place: &Place| place.delivery.as_ref().is_some_and(|delivery| !delivery.message.body.is_here());
        self.pack_first(self.places.iter().rposition(is_absent).map_or(0, |last| last + 1), committed);
    }

    fn pack_first(&mut self, places: usize, committed: u64) {
        for _ in 0..places {
            let Some(place) = self.places.pop_front() else { break };
            self.put_into_runs(place, committed);
            self.first += 1;
        }
        if self.places.is_empty() {
            self.places = VecDeque::new();
        } else if self.places.capacity() > ROOM_MIN.max(self.places.len() * 4) {
            self.places.shrink_to(self.places.len() * 2);
        }
        self.clear_ends();
    }

    /// Puts what was the first of `places` at the end of the runs.
    fn put_into_runs(&mut self, Place { delivery, newest }: Place, committed: u64) {
        let number = self.first;
        // A queue of few messages has one run.
        let runs = self.runs.get_or_insert_with(|| Box::new(VecDeque::with_capacity(1)));
        let can_be_packed = delivery.as_ref().is_none_or(|delivery| can_be_packed(delivery, committed));
        let fits = |run: &Run| {
            run.end() == number
                && match &run.form {
                    Form::Packed(packed) => can_be_packed && !packed.is_full(),
                    Form::Whole(whole) => !can_be_packed && whole.places.len() < PLACES,
                }
        };
        if !runs.back().is_some_and(fits) {
            if delivery.is_none() {
                return;
            }
            let form =
                if can_be_packed { Form::Packed(Packed::default()) } else { Form::Whole(Whole::default()) };
            self.held += RUN_BYTES;
            runs.push_back(Run::new(number, newest, form));
        }
        let Some(run) = runs.back_mut() else { return };
        run.newest = newest;
        match &mut run.form {
            Form::Packed(packed) => {
                let before = packed.held_bytes();
                packed.push(delivery.as_ref().map(Written::from).as_ref());
                self.held =
                    self.held + packed.held_bytes() - before - delivery.as_ref().map_or(0, entry_bytes);
            }
            Form::Whole(whole) => whole.push(delivery),
        }
    }

    /// Puts a place at the end that is written down already, of a queue that about so many more come to. Says whether
    /// that can be: what stands before it must not be in `places`, and nothing may have priority.
    pub(crate) fn push_written(&mut self, written: &Written<'_>, more: usize) -> bool {
        if !self.places.is_empty() || self.priority.is_some() || written.is_high {
            return false;
        }
        let Outline { no, source, qos, topic, bytes, .. } = written.outline;
        let newest = self.newest().max(no);
        self.note_pushed(self.first, no, source, qos, written.collapse, bytes as usize);
        let runs = self.runs.get_or_insert_with(|| Box::new(VecDeque::with_capacity(1)));
        let fits = |run: &Run| {
            run.end() == self.first && matches!(&run.form, Form::Packed(packed) if !packed.is_full())
        };
        if !runs.back().is_some_and(fits) {
            let packed = Packed::with_room_for(more, topic);
            self.held += RUN_BYTES + packed.held_bytes();
            runs.push_back(Run::new(self.first, newest, Form::Packed(packed)));
        }
        if let Some(Run { newest: of_run, form: Form::Packed(packed), .. }) = runs.back_mut() {
            *of_run = newest;
            let before = packed.held_bytes();
            packed.push(Some(written));
            // It may be full, and have given its spare room back.
            self.held = self.held + packed.held_bytes() - before;
        }
        self.first += 1;
        true
    }

    /// Numbers of the messages that are packed.
    pub(crate) fn packed(&self) -> impl Iterator<Item = MsgNo> {
        let is_packed = |seen: &Seen<'_>| matches!(seen, Seen::Packed(_));
        self.seen_from(0).filter(move |(_, seen)| is_packed(seen)).map(|(_, seen)| seen.no())
    }

    /// Counts the bytes again that the places need.
    #[cfg(test)]
    pub(crate) fn check_held(&self) {
        let runs = self.runs.iter().flat_map(|runs| runs.iter()).map(Run::held_bytes).sum::<usize>();
        let places = self.places.iter().filter_map(|place| place.delivery.as_ref()).map(entry_bytes);
        assert_eq!(self.held, runs + places.sum::<usize>());
    }

    /// All, in the order in which they came; messages that are packed are made for that.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Delivery> {
        self.seen_from(0).map(|(_, seen)| match seen {
            Seen::Whole(delivery) => delivery.clone(),
            Seen::Packed(written) => {
                let message = written.message(written.outline.topic.into());
                written.delivery(Arc::new(message))
            }
        })
    }
}
