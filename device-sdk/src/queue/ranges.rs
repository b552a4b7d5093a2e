//! A set of record numbers as ranges: what is acknowledged is contiguous but for a few places.

use std::collections::BTreeMap;

/// Numbers, kept as ranges that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    /// The first number of a range, and its last.
    ranges: BTreeMap<u64, u64>,
}

impl Ranges {
    pub(super) fn contains(&self, number: u64) -> bool {
        self.ranges.range(..=number).next_back().is_some_and(|(_, last)| *last >= number)
    }

    pub(super) fn insert(&mut self, number: u64) {
        self.insert_range(number, number);
    }

    /// Adds `first` to `last`, both included.
    pub(super) fn insert_range(&mut self, first: u64, last: u64) {
        let (mut first, mut last) = (first, last);
        if let Some((before, end)) = self.ranges.range(..=first).next_back()
            && *end >= first.saturating_sub(1)
        {
            first = *before;
            last = last.max(*end);
        }
        while let Some((next, end)) = self.ranges.range(first..=last.saturating_add(1)).next() {
            let (next, end) = (*next, *end);
            last = last.max(end);
            self.ranges.remove(&next);
        }
        self.ranges.insert(first, last);
    }

    pub(super) fn extend(&mut self, other: &Self) {
        for (first, last) in other.iter() {
            self.insert_range(first, last);
        }
    }

    /// Forgets everything up to this number.
    pub(super) fn forget_to(&mut self, number: u64) {
        while let Some((first, last)) = self.ranges.first_key_value() {
            let (first, last) = (*first, *last);
            if first > number {
                break;
            }
            self.ranges.remove(&first);
            if last > number {
                self.ranges.insert(number + 1, last);
            }
        }
    }

    /// Returns the last number of the range that begins at or below `number` and reaches it; `number` - 1 without one.
    pub(super) fn run_from(&self, number: u64) -> u64 {
        match self.ranges.range(..=number).next_back() {
            Some((_, last)) if *last >= number => *last,
            _ => number - 1,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns the ranges, rising: first and last number of each.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().map(|(first, last)| (*first, *last))
    }

    /// Returns how many numbers are here and not there.
    pub(super) fn count_without(&self, other: &Self) -> u64 {
        let mut count = 0;
        for (first, last) in self.iter() {
            count += last - first + 1;
            let from = other.ranges.range(..=first).next_back().map_or(first, |(from, _)| *from);
            for (from, to) in other.ranges.range(from..=last) {
                let (from, to) = ((*from).max(first), (*to).min(last));
                count -= (to + 1).saturating_sub(from);
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ranges_hold_what_a_plain_set_holds() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            let (mut other, mut other_set) = (Ranges::default(), BTreeSet::new());
            for _ in 0..rng.usize(1..60) {
                let first = rng.u64(1..80);
                let last = first + rng.u64(0..6);
                match rng.u8(0..6) {
                    0 => {
                        ranges.forget_to(first);
                        set.retain(|number| *number > first);
                    }
                    1 => {
                        other.insert_range(first, last);
                        other_set.extend(first..=last);
                    }
                    2 => {
                        ranges.insert(first);
                        set.insert(first);
                    }
                    _ => {
                        ranges.insert_range(first, last);
                        set.extend(first..=last);
                    }
                }
            }
            let listed: Vec<u64> = ranges.iter().flat_map(|(first, last)| first..=last).collect();
            assert_eq!(listed, set.iter().copied().collect::<Vec<_>>(), "seed {seed}");
            assert!(ranges.iter().zip(ranges.iter().skip(1)).all(|(a, b)| a.1 + 1 < b.0), "seed {seed}");
            for number in 1..90 {
                assert_eq!(ranges.contains(number), set.contains(&number), "seed {seed}: {number}");
                let run = (number..).take_while(|number| set.contains(number)).last().unwrap_or(number - 1);
                assert_eq!(ranges.run_from(number), run, "seed {seed}: {number}");
            }
            assert_eq!(
                ranges.count_without(&other),
                set.difference(&other_set).count() as u64,
                "seed {seed}"
            );
        }
    }
}
