//! Which full segments are worth rewriting.
//!
//! Pure: it is told what each segment holds and how much of it is still needed. A segment is rewritten when half of its
//! records are garbage, in a full store an eighth, and when that gives nothing any, which is not tried often. Small neighbours become one file on the way, so that the number of files
//! follows what is kept and not what was ever written.

use std::ops::Range;

use storage::SegmentInfo;

/// A segment, and how many of its records hold something that is still needed.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) info: SegmentInfo,
    pub(super) live: u64,
    /// It cannot be rewritten.
    pub(super) is_damaged: bool,
}

/// How much of a segment must be garbage: one part of this many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Garbage(u64);

impl Garbage {
    pub(super) const USUAL: Self = Self(2);
    /// What is written again is seven times what comes back at worst.
    pub(super) const FULL_STORE: Self = Self(8);
    /// A single record.
    pub(super) const ANY: Self = Self(u64::MAX);
}

impl Segment {
    /// Returns what is needed of it, about.
    fn live_bytes(&self) -> u64 {
        match self.info.records {
            0 => self.info.bytes,
            records => (u128::from(self.info.bytes) * u128::from(self.live) / u128::from(records)) as u64,
        }
    }

    /// Returns what rewriting it would give back, about.
    pub(super) fn garbage_bytes(&self) -> u64 {
        self.info.bytes.saturating_sub(self.live_bytes())
    }

    /// Returns whether rewriting it alone gains enough.
    fn is_worth_it(&self, wanted: Garbage) -> bool {
        let garbage = self.info.records.saturating_sub(self.live);
        !self.is_damaged && garbage > 0 && garbage.saturating_mul(wanted.0) >= self.info.records
    }

    /// Returns whether it may be joined to its neighbours though it has no garbage.
    fn is_small(&self, segment_bytes: u64) -> bool {
        !self.is_damaged && self.info.is_rewritten && self.info.bytes < segment_bytes / 4
    }
}

/// Returns runs of neighbouring segments, each to become one file of at most about `segment_bytes`.
pub(super) fn plan(segments: &[Segment], segment_bytes: u64, wanted: Garbage) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let mut at = 0;
    while at < segments.len() {
        let (mut end, mut bytes) = (at, 0);
        while let Some(next) = segments.get(end)
            && (next.is_worth_it(wanted) || next.is_small(segment_bytes))
            && (end == at || bytes + next.live_bytes() <= segment_bytes)
        {
            bytes += next.live_bytes();
            end += 1;
        }
        let run = &segments[at..end];
        // One that is only small gains nothing alone.
        if run.len() > 1 || run.iter().any(|segment| segment.is_worth_it(wanted)) {
            runs.push(at..end);
        }
        at = end.max(at + 1);
    }
    runs
}

#[cfg(test)]
mod tests {
    use storage::Lsn;

    use super::*;

    const SEGMENT_BYTES: u64 = 1000;

    /// (bytes, records, live, rewritten)
    fn segments(all: &[(u64, u64, u64, bool)]) -> Vec<Segment> {
        let segment = |(id, (bytes, records, live, is_rewritten)): (u64, &(u64, u64, u64, bool))| Segment {
            info: SegmentInfo {
                id,
                first: Lsn(id * 100),
                next: Lsn(id * 100 + 100),
                bytes: *bytes,
                records: *records,
                is_rewritten: *is_rewritten,
            },
            live: *live,
            is_damaged: false,
        };
        (1..).zip(all).map(segment).collect()
    }

    fn check(all: &[(u64, u64, u64, bool)], garbage: Garbage, wanted: &[(usize, usize)]) {
        let runs: Vec<_> =
            plan(&segments(all), SEGMENT_BYTES, garbage).iter().map(|run| (run.start, run.end)).collect();
        assert_eq!(runs, wanted, "{all:?}");
    }

    #[test]
    fn segments_are_rewritten_when_half_of_them_is_garbage_and_in_a_full_store_when_less_is() {
        check(&[], Garbage::USUAL, &[]);
        check(&[(1000, 100, 100, false)], Garbage::ANY, &[]);
        check(&[(1000, 100, 51, false)], Garbage::USUAL, &[]);
        check(&[(1000, 100, 51, false)], Garbage::FULL_STORE, &[(0, 1)]);
        check(&[(1000, 100, 87, false)], Garbage::FULL_STORE, &[(0, 1)]);
        check(&[(1000, 100, 88, false)], Garbage::FULL_STORE, &[]);
        check(&[(1000, 100, 99, false)], Garbage::ANY, &[(0, 1)]);
        check(&[(1000, 100, 50, false)], Garbage::USUAL, &[(0, 1)]);
        check(&[(1000, 100, 0, false)], Garbage::USUAL, &[(0, 1)]);
    }

    #[test]
    fn neighbours_become_one_file_until_it_is_as_large_as_a_segment() {
        let tenth = (1000, 100, 10, false);
        check(&[tenth; 12], Garbage::USUAL, &[(0, 10), (10, 12)]);
        let full = (1000, 100, 100, false);
        check(&[tenth, full, tenth, tenth], Garbage::USUAL, &[(0, 1), (2, 4)]);
        check(&[(1000, 100, 0, false); 500], Garbage::USUAL, &[(0, 500)]);
    }

    #[test]
    fn small_files_are_joined_and_one_alone_stays_as_it_is() {
        let small = (60, 3, 3, true);
        check(&[small], Garbage::USUAL, &[]);
        check(&[small, small], Garbage::USUAL, &[(0, 2)]);
        check(&[small, (1000, 100, 100, false), small], Garbage::USUAL, &[]);
        check(&[(200, 0, 0, true), (1000, 100, 0, false)], Garbage::USUAL, &[(0, 2)]);
        check(&[(600, 30, 30, true), (600, 30, 30, true)], Garbage::ANY, &[]);
    }

    #[test]
    fn what_was_rewritten_is_not_again_for_nothing() {
        check(&[(500, 50, 50, true), (1000, 100, 90, false)], Garbage::USUAL, &[]);
        check(&[(200, 0, 0, true)], Garbage::ANY, &[]);
    }

    #[test]
    fn what_is_damaged_stays_and_is_joined_to_nothing() {
        let tenth = (1000, 100, 10, false);
        let mut all = segments(&[tenth; 3]);
        all[1].is_damaged = true;
        assert_eq!(plan(&all, SEGMENT_BYTES, Garbage::ANY), [0..1, 2..3]);
    }
}
