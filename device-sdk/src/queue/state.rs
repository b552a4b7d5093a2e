//! What the queue's handles and its writer share: the windows of all classes, and who goes next.

use std::collections::BTreeMap;

use protocol::{Bytes, Publish, im::IM_ID};
use tokio::sync::oneshot;

use super::pace::{Pace, Slots};
use super::place::Places;
use super::ranges::Ranges;
use super::relief::Relief;
use super::store::{Found, Store};
use super::window::{Known, Waiting, Window};
use super::{Class, DropReason, Dropped, GivenUp, Planted};
use crate::message::user_property;
use crate::{Event, QueueError, QueueOptions};

/// How full a disk queue is, and what became of what was put into it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStatus {
    /// Entries that the broker has not acknowledged.
    pub entries: u64,
    /// Most of them.
    pub entries_max: u64,
    /// Bytes on disk, preallocated ones included.
    pub bytes: u64,
    /// The quota.
    pub bytes_max: u64,
    /// Entries that left the queue without an acknowledgement since the client started.
    pub dropped: Dropped,
    /// How coarsely tracks were thinned since the client started, metres; 0 = not at all.
    pub tolerance_m: u32,
    /// Payload bytes accepted since the client started.
    pub payload_bytes: u64,
    /// Bytes handed to the disk for writing since the client started: entries, acknowledgements, headers, footers, what
    /// is left of thinned tracks. Space that is only reserved is not among them.
    pub written_bytes: u64,
    by_class: [u64; Class::ALL.len()],
}

impl QueueStatus {
    /// Returns the entries of a class that the broker has not acknowledged.
    pub fn entries_of(&self, class: Class) -> u64 {
        self.by_class[class.index()]
    }

    fn add(&mut self, class: Class, count: u64) {
        self.entries += count;
        self.by_class[class.index()] += count;
    }

    fn remove(&mut self, class: Class, count: u64) {
        self.entries = self.entries.saturating_sub(count);
        let of_class = &mut self.by_class[class.index()];
        *of_class = of_class.saturating_sub(count);
    }
}

/// An entry on its way to the broker.
#[derive(Debug)]
pub struct Entry {
    class: Class,
    number: u64,
    pub(crate) publish: Publish,
    bytes: usize,
    born_ms: Option<u64>,
    expires_ms: Option<u64>,
}

impl Entry {
    /// Returns its class.
    pub fn class(&self) -> Class {
        self.class
    }

    /// Returns its number in its class: they ascend, with gaps.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Returns its payload.
    pub fn payload(&self) -> &Bytes {
        &self.publish.payload
    }

    /// Returns the entry's `im-id`: the same over restarts.
    pub fn id(&self) -> &str {
        user_property(&self.publish.properties.user_properties, IM_ID).unwrap_or_default()
    }

    fn key(&self) -> (usize, u64) {
        (self.class.index(), self.number)
    }
}

/// An entry on its way to the disk.
#[derive(Debug)]
pub(super) struct Arriving {
    pub(super) class: Class,
    pub(super) publish: Publish,
    /// About what its record will have.
    pub(super) bytes: usize,
    /// When it came, on the queue's clock.
    pub(super) since_ms: u64,
    pub(super) reply: oneshot::Sender<Result<u64, QueueError>>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Of the classes that have been used.
    pub(super) windows: [Option<Box<Window>>; Class::ALL.len()],
    pace: Pace,
    pub(super) arriving: Vec<Arriving>,
    pub(super) arriving_bytes: usize,
    /// Acknowledgements that are not in a log yet.
    pub(super) acks_unwritten: usize,
    pub(super) status: QueueStatus,
    pub(super) is_online: bool,
    pub(super) closing: bool,
    pub(super) closed: bool,
    /// Why nothing can be written any more.
    pub(super) failed: Option<String>,
    /// Entries cannot even be read any more.
    pub(super) is_unreadable: bool,
    /// Dropped entries that the program has not heard of.
    news: BTreeMap<(Class, DropReason), u64>,
    /// The same one by one, where somebody wants to know.
    pub(super) given_up: Option<Vec<GivenUp>>,
    /// A mistake on purpose.
    pub(super) planted: Option<Planted>,
}

/// Entries that an earlier run sent ahead and that are looked at again: far more than a run can send within the seconds in which
/// acknowledgements are not written.
const EARLIER_AHEAD_MAX: usize = 1_024;

/// Notes what this run will send ahead of the backlog, before it does: if the power ends before the acknowledgements are written, the next
/// run sends it ahead again. In its turn of the backlog it would come so late that the broker had forgotten its ids.
fn note_ahead<P: Places>(
    store: &mut Store<P>,
    class: Class,
    clock_s: u64,
    noted: &Ranges,
    window: &mut Window,
) {
    let mut ahead = Ranges::default();
    window.ahead().for_each(|number| ahead.insert(number));
    if ahead.count_without(noted) == 0 {
        return;
    }
    let noted = store.append_ahead(class, clock_s, &ahead).and_then(|number| {
        store.commit()?;
        Ok(number)
    });
    match noted {
        Ok(Some(number)) => window.appended_other(number),
        Ok(None) => tracing::warn!(class = class.name(), "no space to note what is sent first"),
        // The writer meets it too, and tells those who wait.
        Err(error) => tracing::warn!(class = class.name(), %error, "what is sent first was not noted"),
    }
}

impl State {
    /// Starts with what was found on disk.
    pub(super) fn recovered<P: Places>(
        options: &QueueOptions,
        store: &mut Store<P>,
        found: Vec<Found>,
    ) -> Self {
        let mut state = Self::default();
        for log in found {
            state.status.add(log.class, log.entries);
            let overtakes = log.class.overtakes() && log.entries > 0;
            let mut window = Window::recovered(log.first, log.done, log.entries > 0);
            if overtakes {
                // What cannot be read is told when it is read again for its turn.
                let newest = store.load(log.class, log.newest_after, usize::MAX).unwrap_or_default().0;
                let earlier = log.ahead.iter().flat_map(|(first, last)| {
                    store.load_range(log.class, first.max(log.first), last).unwrap_or_default()
                });
                for (number, waiting) in newest.into_iter().chain(earlier.take(EARLIER_AHEAD_MAX)) {
                    window.load_ahead(number, waiting);
                }
                note_ahead(store, log.class, log.clock_s, &log.ahead, &mut window);
            }
            state.windows[log.class.index()] = Some(Box::new(window));
        }
        state.status.bytes = store.disk_bytes();
        (state.status.bytes_max, state.status.entries_max) = (options.bytes_max, options.entries_max);
        state
    }

    pub(super) fn window(&mut self, class: Class) -> &mut Window {
        self.windows[class.index()].get_or_insert_default()
    }

    pub(super) fn known(&self, class: Class) -> Known {
        self.windows[class.index()]
            .as_ref()
            .map_or_else(|| Window::default().known(), |window| window.known())
    }

    pub(super) fn arrive(&mut self, entry: Arriving) {
        self.arriving_bytes += entry.bytes;
        self.arriving.push(entry);
    }

    pub(super) fn wants_load(&self) -> bool {
        !self.is_unreadable && self.windows.iter().flatten().any(|window| window.wants_load())
    }

    /// An entry is on disk.
    pub(super) fn appended(&mut self, class: Class, number: u64, waiting: Waiting) {
        self.status.add(class, 1);
        self.status.payload_bytes += waiting.publish.payload.len() as u64;
        self.window(class).appended(number, waiting, class.overtakes());
    }

    /// Takes the entry that is next. First what is urgent, then what is of now, then the backlog, each in the order of the
    /// classes; the backlog only as fast as its acknowledgements come.
    pub(super) fn pop(&mut self, now_ms: u64, slots: Slots) -> Option<Entry> {
        loop {
            let (class, number, waiting) = self.next(now_ms, slots)?;
            if waiting.is_expired(now_ms) {
                self.window(class).ack(number);
                self.pace.forget((class.index(), number));
                self.acks_unwritten += 1;
                self.drop_entries(class, DropReason::Expired, &[number]);
                continue;
            }
            if self.planted == Some(Planted::GoneWhenSent) && self.window(class).ack(number) {
                self.acks_unwritten += 1;
                self.status.remove(class, 1);
            }
            let Waiting { mut publish, bytes, born_ms, expires_ms } = waiting;
            // What is left of it, a second begun counted whole [MQTT-3.3.2-6].
            publish.properties.message_expiry_interval_s = expires_ms
                .map(|expires_ms| u32::try_from((expires_ms - now_ms).div_ceil(1_000)).unwrap_or(u32::MAX));
            return Some(Entry { class, number, publish, bytes, born_ms, expires_ms });
        }
    }

    fn next(&mut self, now_ms: u64, slots: Slots) -> Option<(Class, u64, Waiting)> {
        for class in Class::ALL {
            let Some(window) = &mut self.windows[class.index()] else { continue };
            let next = match class {
                Class::Alarm | Class::Result => window.pop(),
                Class::Event | Class::Live | Class::Track => window.pop_young(now_ms),
                Class::Debug => None,
            };
            if let Some((number, waiting)) = next {
                return Some((class, number, waiting));
            }
        }
        if !self.pace.has_room(slots) {
            return None;
        }
        Class::ALL.into_iter().find_map(|class| {
            let (number, waiting) = self.windows[class.index()].as_mut()?.pop()?;
            self.pace.sent((class.index(), number), now_ms, waiting.bytes);
            Some((class, number, waiting))
        })
    }

    pub(super) fn put_back(&mut self, entry: Entry) {
        self.pace.forget(entry.key());
        let Entry { class, number, publish, bytes, born_ms, expires_ms } = entry;
        self.window(class).put_back(number, Waiting { publish, bytes, born_ms, expires_ms });
    }

    /// The broker has answered for the entry; false if that was known.
    pub(super) fn ack(&mut self, entry: &Entry, now_ms: u64) -> bool {
        self.pace.acked(entry.key(), now_ms);
        let is_new = self.window(entry.class).ack(entry.number);
        if is_new {
            self.acks_unwritten += 1;
            self.status.remove(entry.class, 1);
        }
        is_new
    }

    /// The store gave something up.
    pub(super) fn relieved(&mut self, relief: &Relief) {
        let window = self.window(relief.class);
        // One that went to the broker meanwhile may still get its acknowledgement: it is counted by that.
        let gone = relief.gone.iter().copied().filter(|number| window.is_waiting(*number));
        let gone: Vec<u64> = gone.collect();
        if relief.before > 0 {
            window.dropped_before(relief.before);
        }
        if !gone.is_empty() {
            self.status.tolerance_m = self.status.tolerance_m.max(relief.tolerance_m);
            self.drop_entries(relief.class, relief.reason, &gone);
        }
    }

    fn drop_entries(&mut self, class: Class, reason: DropReason, numbers: &[u64]) {
        let count = numbers.len() as u64;
        self.status.remove(class, count);
        self.status.dropped.add(reason, count);
        if self.planted != Some(Planted::DroppedInSilence) {
            *self.news.entry((class, reason)).or_default() += count;
        }
        if let Some(given_up) = &mut self.given_up {
            given_up.extend(numbers.iter().map(|number| GivenUp { class, number: *number, reason }));
        }
    }

    /// Makes a mistake on purpose.
    pub(super) fn plant(&mut self, planted: Option<Planted>) {
        self.planted = planted;
        for window in self.windows.iter_mut().flatten() {
            match planted {
                Some(Planted::CursorSkips) => window.plant_skip(),
                Some(Planted::NewestFirst) => window.plant_newest_first(),
                _ => {}
            }
        }
    }

    pub(super) fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    pub(super) fn take_news(&mut self) -> Vec<Event> {
        let tolerance_m = self.status.tolerance_m;
        let event = |((class, reason), count)| Event::EntriesDropped { class, reason, count, tolerance_m };
        std::mem::take(&mut self.news).into_iter().map(event).collect()
    }
}
