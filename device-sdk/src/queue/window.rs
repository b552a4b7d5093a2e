//! The part of one class that is in memory: what is next to send, and what is sent and unacknowledged.
//!
//! ```text
//!   appended ──▶ fresh (classes that overtake) ──┐ old, or too many
//!      │                                         ▼
//!      └───────▶ ready ◀── loaded ── on disk ── backlog     pop ──▶ sent ── ack ──▶ done
//! ```
//!
//! Invariants: everything on disk up to `loaded_to` is in `ready`, `fresh`, `again`, with the driver (`sent`), or done with;
//! what is above it and not in `fresh` or `again` is on disk only, and exists if `more_on_disk`. So the backlog leaves in order, and
//! memory is bounded whatever is on disk.

use std::collections::{BTreeMap, BTreeSet};

use protocol::Publish;

use super::ranges::Ranges;

/// Payload and property bytes of entries kept ready in memory; one entry is kept whatever its size.
const WINDOW_BYTES_MAX: usize = 256 * 1024;
/// More is loaded when less is ready.
const WINDOW_BYTES_LOW: usize = 64 * 1024;
/// The same of fresh entries: those beyond belong to the backlog.
const FRESH_BYTES_MAX: usize = 64 * 1024;
/// Counted for an entry beside its record.
pub(super) const ENTRY_OVERHEAD_BYTES: usize = 256;
/// An entry younger than this goes before the backlog of its class.
const FRESH_MS: u64 = 10_000;

/// An entry that waits in memory.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) publish: Publish,
    /// Of its record.
    pub(super) bytes: usize,
    /// When it was enqueued, `None` if by an earlier run; on the queue's clock, as is the next.
    pub(super) born_ms: Option<u64>,
    pub(super) expires_ms: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Window {
    ready: BTreeMap<u64, Waiting>,
    /// The newest of an earlier run: may have been sent ahead of the backlog then, so they go before it now.
    again: BTreeMap<u64, Waiting>,
    ready_bytes: usize,
    fresh: BTreeMap<u64, Waiting>,
    fresh_bytes: usize,
    sent: BTreeSet<u64>,
    /// Done with, and above the watermark.
    done: Ranges,
    /// Done with, and in no record yet.
    unwritten: Ranges,
    loaded_to: u64,
    more_on_disk: bool,
    planted_newest_first: bool,
}

impl Waiting {
    fn cost(&self) -> usize {
        self.bytes + ENTRY_OVERHEAD_BYTES
    }

    fn is_young(&self, now_ms: u64) -> bool {
        self.born_ms.is_some_and(|born_ms| now_ms.saturating_sub(born_ms) < FRESH_MS)
    }

    pub(super) fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms)
    }
}

impl Window {
    /// Starts with what a log holds from `first` on: nothing loaded, all of `done` acknowledged.
    pub(super) fn recovered(first: u64, done: Ranges, more_on_disk: bool) -> Self {
        let loaded_to = done.run_from(first);
        Self { loaded_to, done, more_on_disk, ..Self::default() }
    }

    /// An entry came to be on disk.
    pub(super) fn appended(&mut self, number: u64, waiting: Waiting, overtakes: bool) {
        if overtakes {
            self.fresh_bytes += waiting.cost();
            self.fresh.insert(number, waiting);
            while self.fresh_bytes > FRESH_BYTES_MAX && self.fresh.len() > 1 {
                self.let_oldest_age();
            }
        } else if self.more_on_disk || !self.load(number, waiting) {
            self.more_on_disk = true;
        }
    }

    /// A record that is no entry was appended: nothing waits for it.
    pub(super) fn appended_other(&mut self, number: u64) {
        self.done.insert(number);
    }

    /// Takes an entry read from disk; false if there is no room.
    pub(super) fn load(&mut self, number: u64, waiting: Waiting) -> bool {
        let is_known = self.done.contains(number) || self.sent.contains(&number) || self.is_ahead(number);
        if !is_known {
            if self.ready_bytes + waiting.cost() > WINDOW_BYTES_MAX && !self.ready.is_empty() {
                return false;
            }
            self.ready_bytes += waiting.cost();
            self.ready.insert(number, waiting);
        }
        self.loaded_to = self.loaded_to.max(number);
        true
    }

    /// Takes one of the newest entries of an earlier run, which go before the backlog.
    pub(super) fn load_ahead(&mut self, number: u64, waiting: Waiting) {
        if !self.done.contains(number) {
            self.again.insert(number, waiting);
        }
    }

    /// Returns the entries of an earlier run that go before the backlog.
    pub(super) fn ahead(&self) -> impl Iterator<Item = u64> + '_ {
        self.again.keys().copied()
    }

    fn is_ahead(&self, number: u64) -> bool {
        self.fresh.contains_key(&number) || self.again.contains_key(&number)
    }

    /// Everything on disk is loaded.
    pub(super) fn loaded_all(&mut self) {
        self.more_on_disk = false;
    }

    pub(super) fn wants_load(&self) -> bool {
        self.more_on_disk && self.ready_bytes < WINDOW_BYTES_LOW
    }

    /// Returns how much may be loaded.
    pub(super) fn room_bytes(&self) -> usize {
        WINDOW_BYTES_MAX.saturating_sub(self.ready_bytes)
    }

    pub(super) fn loaded_to(&self) -> u64 {
        self.loaded_to
    }

    /// Takes the next entry if it is one of now: not older than a few seconds, or of a class that has no backlog.
    pub(super) fn pop_young(&mut self, now_ms: u64) -> Option<(u64, Waiting)> {
        while self.fresh.first_key_value().is_some_and(|(_, oldest)| !oldest.is_young(now_ms)) {
            self.let_oldest_age();
        }
        if let Some((number, waiting)) = self.fresh.pop_first() {
            if self.fresh.is_empty() {
                self.fresh = BTreeMap::new();
            }
            self.fresh_bytes -= waiting.cost();
            self.sent.insert(number);
            return Some((number, waiting));
        }
        let is_young = self.ready.first_key_value().is_some_and(|(_, oldest)| oldest.is_young(now_ms));
        if is_young { self.pop() } else { None }
    }

    /// Takes the oldest entry of the backlog.
    pub(super) fn pop(&mut self) -> Option<(u64, Waiting)> {
        if let Some((number, waiting)) = self.again.pop_first() {
            self.sent.insert(number);
            return Some((number, waiting));
        }
        let next = if self.planted_newest_first { self.ready.pop_last() } else { self.ready.pop_first() };
        let (number, waiting) = next?;
        if self.ready.is_empty() {
            // An empty map keeps a node, room for eleven entries.
            self.ready = BTreeMap::new();
        }
        self.ready_bytes -= waiting.cost();
        self.sent.insert(number);
        Some((number, waiting))
    }

    /// Takes back an entry that could not be sent now.
    pub(super) fn put_back(&mut self, number: u64, waiting: Waiting) {
        if self.sent.remove(&number) {
            self.ready_bytes += waiting.cost();
            self.ready.insert(number, waiting);
        }
    }

    /// An entry that was sent is done with; false if that was known.
    pub(super) fn ack(&mut self, number: u64) -> bool {
        let was_sent = self.sent.remove(&number);
        if was_sent {
            self.done.insert(number);
            self.unwritten.insert(number);
        }
        was_sent
    }

    /// Everything below `number` has left the disk: what waits of it is forgotten.
    pub(super) fn dropped_before(&mut self, number: u64) {
        self.ready = self.ready.split_off(&number);
        self.fresh = self.fresh.split_off(&number);
        self.again = self.again.split_off(&number);
        self.ready_bytes = self.ready.values().map(Waiting::cost).sum();
        self.fresh_bytes = self.fresh.values().map(Waiting::cost).sum();
        if number > 0 {
            self.done.forget_to(number - 1);
            self.unwritten.forget_to(number - 1);
            self.loaded_to = self.loaded_to.max(number - 1);
        }
    }

    /// Returns the highest number up to which every entry is done with; `last` is the last record of the log.
    pub(super) fn watermark(&mut self, last: u64) -> u64 {
        let unfinished = self.first_unfinished().map_or(last, |number| number - 1);
        let watermark = if self.more_on_disk { unfinished.min(self.loaded_to) } else { unfinished };
        self.done.forget_to(watermark);
        // What is forgotten must not be loaded again.
        self.loaded_to = self.loaded_to.max(watermark);
        watermark
    }

    /// Takes what is done with and in no record yet.
    pub(super) fn take_unwritten(&mut self) -> Ranges {
        std::mem::take(&mut self.unwritten)
    }

    /// Puts back what could not be written.
    pub(super) fn still_unwritten(&mut self, ranges: &Ranges) {
        self.unwritten.extend(ranges);
    }

    /// Says whether an entry has neither been sent nor is done with.
    pub(super) fn is_waiting(&self, number: u64) -> bool {
        number > self.done_to() && !self.done.contains(number) && !self.sent.contains(&number)
    }

    /// Test only: begins one entry too late.
    pub(super) fn plant_skip(&mut self) {
        self.loaded_to += u64::from(self.more_on_disk);
    }

    /// Test only: the backlog leaves from its end.
    pub(super) fn plant_newest_first(&mut self) {
        self.planted_newest_first = true;
    }

    /// Returns a view of what is in memory, for the look at what is on disk.
    pub(super) fn known(&self) -> Known {
        let mut held: BTreeSet<u64> = self.sent.clone();
        held.extend(self.ready.keys().chain(self.fresh.keys()).chain(self.again.keys()));
        Known { done: self.done.clone(), held, done_to: self.done_to() }
    }

    /// The lowest number in memory that is not done with.
    fn first_unfinished(&self) -> Option<u64> {
        let waiting = [&self.ready, &self.fresh, &self.again].map(|waiting| waiting.keys().next());
        waiting.into_iter().chain([self.sent.first()]).flatten().min().copied()
    }

    /// Below it everything is done with, also where `done` has forgotten it.
    fn done_to(&self) -> u64 {
        let unfinished = self.first_unfinished().map_or(u64::MAX, |number| number - 1);
        if self.more_on_disk { unfinished.min(self.loaded_to) } else { unfinished }
    }

    /// The oldest fresh entry becomes one of the backlog.
    fn let_oldest_age(&mut self) {
        let Some((number, waiting)) = self.fresh.pop_first() else { return };
        self.fresh_bytes -= waiting.cost();
        if number > self.loaded_to && self.more_on_disk {
            return;
        }
        if number <= self.loaded_to || self.ready_bytes + waiting.cost() <= WINDOW_BYTES_MAX {
            // With nothing else on disk it is next; else what was loaded went past it.
            self.loaded_to = self.loaded_to.max(number);
            self.ready_bytes += waiting.cost();
            self.ready.insert(number, waiting);
        } else {
            self.more_on_disk = true;
        }
    }
}

/// What a window knows of records on disk.
#[derive(Debug)]
pub(super) struct Known {
    done: Ranges,
    held: BTreeSet<u64>,
    done_to: u64,
}

impl Known {
    /// Nobody needs the entry any more.
    pub(super) fn is_done(&self, number: u64) -> bool {
        number <= self.done_to || self.done.contains(number)
    }

    /// It is in memory, on its way or about to be.
    pub(super) fn is_held(&self, number: u64) -> bool {
        self.held.contains(&number)
    }
}
