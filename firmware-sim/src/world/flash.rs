//! What a device keeps of its records over a power cut.
//!
//! The store-and-forward queue of the SDK owns files and a thread, which a hundred thousand devices in one process cannot
//! have. This is the same behaviour on memory: a record is accepted when it is synced; an acknowledgement is synced with the
//! second, so that a power cut makes records go out again. The real queue runs in real time ([`crate::truck`]).

use std::collections::VecDeque;

use crate::planted::Planted;

/// Where an entry is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Sent,
    /// Acknowledged, which is not synced yet.
    Acked,
    /// Acknowledged, synced.
    Done,
}

/// An entry of the queue.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Its number in the ledger.
    pub(super) number: u64,
    pub(super) made_ms: u64,
    pub(super) payload: Box<[u8]>,
    state: State,
    synced: bool,
    /// What it is told apart by at the broker.
    pub(super) id: u64,
}

/// A record that policy gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GivenUp {
    Expired(u64),
    Dropped(u64),
}

/// A device's flash.
#[derive(Debug, Default)]
pub(super) struct Flash {
    entries: VecDeque<Entry>,
    /// The place of the first entry in `entries`, ever counted on; tokens of the core are places.
    first: u64,
    /// The first place that may be `Waiting`.
    waiting_from: u64,
    /// Entries and acknowledgements that wait to be written.
    unsynced: usize,
    next_id: u64,
    pub(super) fails: bool,
}

impl Flash {
    /// Puts an entry into the queue; false when the flash fails: it is not accepted. `syncs` = false leaves it unsynced.
    pub(super) fn append(&mut self, number: u64, made_ms: u64, payload: Vec<u8>, syncs: bool) -> bool {
        if self.fails {
            return false;
        }
        self.next_id += 1;
        self.unsynced += usize::from(!syncs);
        let (payload, id) = (payload.into_boxed_slice(), self.next_id);
        self.entries.push_back(Entry { number, made_ms, payload, state: State::Waiting, synced: syncs, id });
        true
    }

    /// Writes what waits to be written.
    pub(super) fn sync(&mut self, with_entries: bool) {
        if self.fails || self.unsynced == 0 {
            return;
        }
        self.unsynced = 0;
        for entry in &mut self.entries {
            entry.synced |= with_entries;
            self.unsynced += usize::from(!entry.synced);
            if entry.state == State::Acked {
                entry.state = State::Done;
            }
        }
        self.give_back();
    }

    fn give_back(&mut self) {
        while self.entries.front().is_some_and(|entry| entry.state == State::Done) {
            self.entries.pop_front();
            self.first += 1;
        }
        if self.entries.is_empty() && self.entries.capacity() > 64 {
            self.entries.shrink_to_fit();
        }
        self.waiting_from = self.waiting_from.max(self.first);
    }

    /// The next entry to send, with its place.
    pub(super) fn take(&mut self, planted: Option<Planted>) -> Option<(u64, Entry)> {
        let from = usize::try_from(self.waiting_from.checked_sub(self.first)?).ok()?;
        let mut places = from..self.entries.len();
        let is_waiting = |place: &usize| self.entries[*place].state == State::Waiting;
        let place = match planted {
            Some(Planted::NewestFirst) => places.rev().find(is_waiting)?,
            _ => places.find(is_waiting)?,
        };
        if planted != Some(Planted::NewestFirst) {
            self.waiting_from = self.first + place as u64 + 1;
        }
        let entry = &mut self.entries[place];
        entry.state = State::Sent;
        Some((self.first + place as u64, entry.clone()))
    }

    /// The broker has the entry at this place.
    pub(super) fn ack(&mut self, place: u64) {
        if let Some(entry) = self.at(place) {
            entry.state = State::Acked;
            self.unsynced += 1;
        }
    }

    /// The entry at this place must be sent again.
    pub(super) fn put_back(&mut self, place: u64) {
        if let Some(entry) = self.at(place).filter(|entry| entry.state == State::Sent) {
            entry.state = State::Waiting;
            self.waiting_from = self.waiting_from.min(place);
        }
    }

    /// Takes what is on its way for delivered: a mistake made on purpose.
    pub(super) fn forget_sent(&mut self) {
        for entry in &mut self.entries {
            if entry.state == State::Sent {
                entry.state = State::Acked;
                self.unsynced += 1;
            }
        }
    }

    fn at(&mut self, place: u64) -> Option<&mut Entry> {
        let place = place.checked_sub(self.first)?;
        self.entries.get_mut(usize::try_from(place).ok()?)
    }

    /// Gives up records that are too old or too many. What is on its way stays.
    pub(super) fn trim(&mut self, now_ms: u64, expiry_ms: u64, records_max: usize) -> Vec<GivenUp> {
        let mut given_up = Vec::new();
        let has_old = |entry: &Entry| expiry_ms > 0 && now_ms.saturating_sub(entry.made_ms) > expiry_ms;
        let mut spare = 0;
        if self.entries.len() > records_max {
            let kept = self.entries.iter().filter(|entry| entry.state != State::Done).count();
            spare = kept.saturating_sub(records_max);
        }
        if spare == 0 && !self.entries.front().is_some_and(has_old) {
            return given_up;
        }
        for entry in &mut self.entries {
            let is_old = expiry_ms > 0 && now_ms.saturating_sub(entry.made_ms) > expiry_ms;
            if !is_old && spare == 0 {
                break;
            }
            if entry.state != State::Waiting {
                continue;
            }
            let number = entry.number;
            if is_old {
                given_up.push(GivenUp::Expired(number));
            } else {
                given_up.push(GivenUp::Dropped(number));
            }
            spare = spare.saturating_sub(1);
            entry.state = State::Done;
            entry.payload = Box::default();
        }
        self.give_back();
        given_up
    }

    /// The power goes: what was not synced is gone, and what was on its way is sent again.
    pub(super) fn power_cut(&mut self, planted: Option<Planted>) {
        self.entries.retain(|entry| entry.synced);
        let mut may_skip = planted == Some(Planted::CursorSkips);
        for entry in &mut self.entries {
            if matches!(entry.state, State::Sent | State::Acked) {
                entry.state = State::Waiting;
            }
            if planted == Some(Planted::NewIdsAfterRestart) {
                self.next_id += 1;
                entry.id = self.next_id + (1 << 40);
            }
            if may_skip && entry.state == State::Waiting {
                (entry.state, may_skip) = (State::Done, false);
            }
        }
        self.waiting_from = self.first;
        self.unsynced = 0;
        self.give_back();
    }

    /// Bytes that it takes in memory, about.
    pub(super) fn memory_bytes(&self) -> usize {
        let payloads: usize = self.entries.iter().map(|entry| entry.payload.len()).sum();
        self.entries.capacity() * size_of::<Entry>() + payloads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flash(records: u64) -> Flash {
        let mut flash = Flash::default();
        for number in 0..records {
            assert!(flash.append(number, number * 1_000, vec![1], true));
        }
        flash
    }

    fn take(flash: &mut Flash) -> Option<u64> {
        flash.take(None).map(|(_, entry)| entry.number)
    }

    #[test]
    fn a_power_cut_takes_what_is_not_synced_and_brings_back_what_was_not_acknowledged() {
        let mut flash = flash(3);
        assert!(flash.append(3, 0, vec![1], false));
        assert_eq!((take(&mut flash), take(&mut flash)), (Some(0), Some(1)));
        flash.ack(0);
        flash.sync(false);
        flash.ack(1);
        flash.power_cut(None);
        let again: Vec<u64> = std::iter::from_fn(|| take(&mut flash)).collect();
        assert_eq!(again, [1, 2], "the acknowledgement of 1 was not synced, 3 was not accepted");
    }

    #[test]
    fn what_is_put_back_is_sent_again_in_its_place() {
        let mut flash = flash(3);
        let (place, _) = flash.take(None).unwrap();
        take(&mut flash);
        flash.put_back(place);
        assert_eq!((take(&mut flash), take(&mut flash), take(&mut flash)), (Some(0), Some(2), None));
    }

    #[test]
    fn policy_gives_up_the_old_and_then_the_oldest() {
        let mut flash = flash(5);
        assert_eq!(take(&mut flash), Some(0));
        assert_eq!(flash.trim(4_500, 3_000, 100), [GivenUp::Expired(1)], "0 is on its way");
        assert_eq!(flash.trim(4_500, 0, 2), [GivenUp::Dropped(2), GivenUp::Dropped(3)]);
        assert_eq!((take(&mut flash), take(&mut flash)), (Some(4), None));
    }

    #[test]
    fn a_flash_that_fails_accepts_nothing() {
        let mut flash = flash(1);
        flash.fails = true;
        assert!(!flash.append(1, 0, vec![1], true));
        assert_eq!((take(&mut flash), take(&mut flash)), (Some(0), None));
    }
}
