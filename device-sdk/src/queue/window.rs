//! The part of the queue that is in memory: its oldest unsent entries, and which of those sent are unacknowledged.
//!
//! Invariants: everything on disk up to `loaded_to` is either here (`ready`), with the driver (`sent`), or done with;
//! everything above it is on disk only, and exists if `more_on_disk`. So entries leave in the queue's one order.

use std::collections::{BTreeMap, BTreeSet};

use protocol::Publish;

use super::Entry;

/// Payload and property bytes of entries kept ready in memory; one entry is kept whatever its size.
pub(super) const WINDOW_BYTES_MAX: usize = 1024 * 1024;
/// Counted for an entry beside its record.
const ENTRY_OVERHEAD_BYTES: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Window {
    ready: BTreeMap<u64, (Publish, usize)>,
    ready_bytes: usize,
    sent: BTreeSet<u64>,
    /// Acknowledged, and above the watermark.
    done: BTreeSet<u64>,
    loaded_to: u64,
    more_on_disk: bool,
}

impl Window {
    /// Starts with what a log holds: nothing loaded, all up to the watermark and all of `done` acknowledged.
    pub(super) fn recovered(watermark: u64, done: BTreeSet<u64>, more_on_disk: bool) -> Self {
        Self { loaded_to: watermark, done, more_on_disk, ..Self::default() }
    }

    /// An entry came to be on disk.
    pub(super) fn appended(&mut self, number: u64, publish: Publish, record_bytes: usize) {
        if self.more_on_disk || !self.load(number, publish, record_bytes) {
            self.more_on_disk = true;
        }
    }

    /// Takes an entry read from disk; false if there is no room.
    pub(super) fn load(&mut self, number: u64, publish: Publish, record_bytes: usize) -> bool {
        let bytes = record_bytes + ENTRY_OVERHEAD_BYTES;
        if self.ready_bytes + bytes > WINDOW_BYTES_MAX && !self.ready.is_empty() {
            return false;
        }
        self.loaded_to = number;
        if !self.done.remove(&number) {
            self.ready_bytes += bytes;
            self.ready.insert(number, (publish, bytes));
        }
        true
    }

    /// Everything on disk is loaded.
    pub(super) fn loaded_all(&mut self) {
        self.more_on_disk = false;
    }

    pub(super) fn wants_load(&self) -> bool {
        self.more_on_disk && self.ready.is_empty()
    }

    pub(super) fn loaded_to(&self) -> u64 {
        self.loaded_to
    }

    pub(super) fn pop(&mut self) -> Option<Entry> {
        let (number, (publish, bytes)) = self.ready.pop_first()?;
        self.ready_bytes -= bytes;
        self.sent.insert(number);
        Some(Entry { number, publish, bytes })
    }

    pub(super) fn put_back(&mut self, entry: Entry) {
        if self.sent.remove(&entry.number) {
            self.ready_bytes += entry.bytes;
            self.ready.insert(entry.number, (entry.publish, entry.bytes));
        }
    }

    /// The broker has it; false if that was known.
    pub(super) fn ack(&mut self, number: u64) -> bool {
        let was_sent = self.sent.remove(&number);
        if was_sent {
            self.done.insert(number);
        }
        was_sent
    }

    /// Returns the highest number up to which every entry is done with; `last` is the last record of the log.
    pub(super) fn watermark(&mut self, last: u64) -> u64 {
        let unfinished = [self.ready.keys().next(), self.sent.first()].into_iter().flatten().min();
        let watermark = match unfinished {
            Some(number) => number - 1,
            None if self.more_on_disk => self.loaded_to,
            None => last,
        };
        self.done = self.done.split_off(&(watermark + 1));
        watermark
    }

    /// Returns what is done with above the watermark last asked for.
    pub(super) fn done_above(&self) -> impl Iterator<Item = u64> + '_ {
        self.done.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(window: &mut Window) -> Vec<u64> {
        std::iter::from_fn(|| window.pop()).map(|entry| entry.number).collect()
    }

    #[test]
    fn the_watermark_follows_the_oldest_unacknowledged_entry() {
        let mut window = Window::default();
        for number in [1, 2, 4] {
            window.appended(number, Publish::default(), 10);
        }
        assert_eq!(numbers(&mut window), [1, 2, 4]);
        assert_eq!(window.watermark(4), 0);
        assert!(window.ack(2));
        assert!(!window.ack(2));
        assert_eq!(window.watermark(5), 0);
        assert_eq!(window.done_above().collect::<Vec<_>>(), [2]);
        assert!(window.ack(1));
        // 3 was no entry.
        assert_eq!(window.watermark(6), 3);
        assert_eq!(window.done_above().count(), 0);
        assert!(window.ack(4));
        assert_eq!(window.watermark(9), 9);
    }

    #[test]
    fn entries_that_do_not_fit_wait_on_disk_and_come_in_order() {
        let mut window = Window::default();
        let half = WINDOW_BYTES_MAX / 2 + 1;
        for number in 1..=4 {
            window.appended(number, Publish::default(), half);
        }
        assert_eq!(numbers(&mut window), [1]);
        assert!(window.wants_load());
        // A small one must not overtake those on disk.
        window.appended(5, Publish::default(), 1);
        assert!(numbers(&mut window).is_empty());
        assert!(window.load(2, Publish::default(), half) && !window.load(3, Publish::default(), half));
        assert_eq!(numbers(&mut window), [2]);
        assert!(window.load(3, Publish::default(), 1));
        assert!(window.load(4, Publish::default(), 1));
        assert!(window.load(5, Publish::default(), 1));
        window.loaded_all();
        assert_eq!(numbers(&mut window), [3, 4, 5]);
        assert!(!window.wants_load());
    }

    #[test]
    fn an_entry_put_back_goes_out_before_those_behind_it() {
        let mut window = Window::default();
        for number in 1..=3 {
            window.appended(number, Publish::default(), 10);
        }
        let first = window.pop().unwrap();
        let second = window.pop().unwrap();
        window.put_back(second);
        window.put_back(first);
        assert_eq!(numbers(&mut window), [1, 2, 3]);
    }

    #[test]
    fn what_was_acknowledged_out_of_order_before_a_restart_is_not_sent_again() {
        let mut window = Window::recovered(3, BTreeSet::from([5]), true);
        for number in 4..=6 {
            assert!(window.load(number, Publish::default(), 10));
        }
        window.loaded_all();
        assert_eq!(numbers(&mut window), [4, 6]);
    }
}
