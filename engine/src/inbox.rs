//! What of a conversation a member has not read (docs/protocol.md section 6): counted from what is there, never up
//! and down.
//!
//! Unread are the numbers above the read position that are still kept, without the member's own and without what
//! has expired. So a conversation needs to know where it begins and ends and which numbers between have expired,
//! and a member which numbers above its read position are its own; no message costs anything a member. Knows
//! nothing of sessions, messages or the log.
//!
//! Invariants: what has expired is no longer among anybody's own; a member's own all stand above its read
//! position.

use std::collections::BTreeSet;

use crate::member::ReaderKey;

/// What is kept of a conversation, as far as counting needs it.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// The lowest number that is kept, or one above the highest given.
    first: u64,
    /// The highest number given.
    last: u64,
    /// Kept numbers that have expired.
    expired: Runs,
    /// Kept numbers that will expire: when (Unix), which, and whose if that is a member's.
    expiring: BTreeSet<(u64, u64, Option<ReaderKey>)>,
    /// Up to when (Unix) those were taken out that have expired.
    settled_unix_ms: u64,
}

/// Numbers in ascending order, as runs without a gap: first and last of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs(Vec<(u64, u64)>);

/// How far a member has come in a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// The highest number that its user read.
    pub(crate) read: u64,
    /// Numbers above `read` of messages that its user sent.
    pub(crate) own: Runs,
}

impl Tally {
    /// Begins with the highest number given, when nothing below matters any more.
    pub(crate) fn new(last: u64) -> Self {
        Self { first: last + 1, last, ..Self::default() }
    }

    /// Begins anew with the first number that is kept and the highest.
    pub(crate) fn of(first: u64, last: u64) -> Self {
        Self { first: first.min(last + 1), last, ..Self::default() }
    }

    /// Whether a message that expires at this time counts no more.
    pub(crate) fn is_past(&self, expiry_unix_ms: u64) -> bool {
        expiry_unix_ms > 0 && expiry_unix_ms <= self.settled_unix_ms
    }

    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Takes the next message: its number, when it expires (Unix) and which member sent it.
    pub(crate) fn post(&mut self, seq: u64, expiry_unix_ms: Option<u64>, by: Option<ReaderKey>) {
        self.last = self.last.max(seq);
        self.first = self.first.min(seq);
        if let Some(at) = expiry_unix_ms {
            self.expiring.insert((at, seq, by));
        }
    }

    /// Notes that numbers are not kept though others before them are: an old store kept not all.
    pub(crate) fn miss(&mut self, first: u64, last: u64) {
        self.expired.push(first, last);
    }

    /// Forgets what is below the first number that is kept; says whether anything of it counted.
    pub(crate) fn keep_from(&mut self, first: u64) -> bool {
        let first = first.min(self.last + 1);
        let counted = first > self.first;
        if counted {
            self.first = first;
            self.expired.cut_below(first);
            self.expiring.retain(|(_, seq, _)| *seq >= first);
        }
        counted
    }

    /// Returns when the next message expires.
    pub(crate) fn next_expiry_unix_ms(&self) -> Option<u64> {
        self.expiring.first().map(|(at, ..)| *at)
    }

    /// Takes out one message that has expired: its number and which member sent it.
    pub(crate) fn expire(&mut self, now_unix_ms: u64) -> Option<(u64, Option<ReaderKey>)> {
        self.settled_unix_ms = self.settled_unix_ms.max(now_unix_ms);
        self.expiring.first().filter(|(at, ..)| *at <= now_unix_ms)?;
        let (_, seq, by) = self.expiring.pop_first()?;
        self.expired.insert(seq);
        Some((seq, by))
    }

    /// Whether a number is kept and has not expired.
    pub(crate) fn has(&self, seq: u64) -> bool {
        (self.first..=self.last).contains(&seq) && !self.expired.contains(seq)
    }

    /// Counts what a member has not read.
    pub(crate) fn unread(&self, reading: &Reading) -> u64 {
        let above = reading.read.max(self.first.saturating_sub(1));
        let kept = self.last.saturating_sub(above);
        kept.saturating_sub(self.expired.above(above)).saturating_sub(reading.own.above(above))
    }

    /// Things remembered besides the ends.
    pub(crate) fn len(&self) -> usize {
        self.expired.0.len() + self.expiring.len()
    }
}

impl Reading {
    /// Moves the read position; never back.
    pub(crate) fn move_to(&mut self, seq: u64) {
        if seq > self.read {
            self.read = seq;
            self.own.cut_below(seq + 1);
        }
    }
}

impl Runs {
    /// Adds a number; mostly it is the highest.
    pub(crate) fn insert(&mut self, number: u64) {
        match self.0.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            Some((_, last)) if *last >= number => self.insert_inside(number),
            _ => self.0.push((number, number)),
        }
    }

    /// Adds a run behind all others.
    fn push(&mut self, first: u64, last: u64) {
        match self.0.last_mut() {
            Some((_, before)) if *before + 1 == first => *before = last,
            _ => self.0.push((first, last)),
        }
    }

    fn insert_inside(&mut self, number: u64) {
        let at = self.0.partition_point(|(_, last)| *last < number);
        let Some((first, _)) = self.0.get(at).copied() else { return self.0.push((number, number)) };
        if first <= number {
            return;
        }
        let joins_before = at > 0 && self.0[at - 1].1 + 1 == number;
        match (joins_before, first == number + 1) {
            (true, true) => {
                self.0[at - 1].1 = self.0[at].1;
                self.0.remove(at);
            }
            (true, false) => self.0[at - 1].1 = number,
            (false, true) => self.0[at].0 = number,
            (false, false) => self.0.insert(at, (number, number)),
        }
    }

    /// Takes a number out; one that is not there is ignored.
    pub(crate) fn remove(&mut self, number: u64) {
        let at = self.0.partition_point(|(_, last)| *last < number);
        let Some((first, last)) = self.0.get(at).copied().filter(|(first, _)| *first <= number) else {
            return;
        };
        match (first == number, last == number) {
            (true, true) => drop(self.0.remove(at)),
            (true, false) => self.0[at].0 = number + 1,
            (false, true) => self.0[at].1 = number - 1,
            (false, false) => {
                self.0[at].1 = number - 1;
                self.0.insert(at + 1, (number + 1, last));
            }
        }
    }

    /// Forgets all numbers below one.
    pub(crate) fn cut_below(&mut self, number: u64) {
        let gone = self.0.partition_point(|(_, last)| *last < number);
        self.0.drain(..gone);
        if let Some((first, _)) = self.0.first_mut() {
            *first = (*first).max(number);
        }
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < number);
        self.0.get(at).is_some_and(|(first, _)| *first <= number)
    }

    /// Counts the numbers above one.
    pub(crate) fn above(&self, number: u64) -> u64 {
        let from = self.0.partition_point(|(_, last)| *last <= number);
        self.0[from..].iter().map(|(first, last)| last - (*first).max(number + 1) + 1).sum()
    }

    /// Runs remembered.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_unread_is_what_is_kept_above_the_read_position_of_others_and_not_expired() {
        let mut tally = Tally::new(0);
        let mut reading = Reading::default();
        for seq in 1..=10 {
            let expiry = (seq == 4 || seq == 5).then_some(1_000 + seq);
            let own = seq % 5 == 0;
            tally.post(seq, expiry, own.then_some(7));
            if own {
                reading.own.insert(seq);
            }
        }
        assert_eq!(tally.unread(&reading), 8, "5 and 10 are its own");
        assert_eq!((tally.next_expiry_unix_ms(), tally.expire(1_003)), (Some(1_004), None));
        assert_eq!(tally.expire(1_005), Some((4, None)));
        assert_eq!(tally.expire(1_005), Some((5, Some(7))));
        reading.own.remove(5);
        assert_eq!((tally.expire(1_005), tally.unread(&reading)), (None, 7));
        assert!(tally.keep_from(3) && !tally.keep_from(3));
        assert_eq!(tally.unread(&reading), 5);
        reading.move_to(8);
        assert_eq!(tally.unread(&reading), 1);
        reading.move_to(2);
        assert_eq!((reading.read, tally.unread(&reading)), (8, 1), "a read position never goes back");
        assert!(tally.keep_from(u64::MAX));
        assert_eq!((tally.unread(&reading), tally.len(), tally.has(9)), (0, 0, false));
        tally.post(11, None, None);
        assert_eq!((tally.unread(&reading), tally.has(11)), (1, true));
    }

    proptest! {
        #[test]
        fn runs_are_a_set(steps in prop::collection::vec((0u8..8, 1u64..40), 1..120)) {
            let (mut runs, mut set) = (Runs::default(), BTreeSet::new());
            for (kind, number) in steps {
                match kind {
                    0..=4 => {
                        runs.insert(number);
                        set.insert(number);
                    }
                    5 | 6 => {
                        runs.remove(number);
                        set.remove(&number);
                    }
                    _ => {
                        runs.cut_below(number);
                        set.retain(|n| *n >= number);
                    }
                }
                prop_assert!(runs.0.windows(2).all(|w| w[0].1 + 1 < w[1].0), "{runs:?}");
                for number in 0..42 {
                    prop_assert_eq!(runs.contains(number), set.contains(&number));
                    prop_assert_eq!(runs.above(number), set.range(number + 1..).count() as u64);
                }
            }
        }
    }
}
