//! The last fixes of a receiver, and what they say together: since when they are consistent, since when it stands.

use std::collections::VecDeque;

use super::{GuardRules, Position};

/// Most fixes kept: a minute and more at 10 Hz.
pub const FIXES_MAX: usize = 1_024;
/// Fixes older than this are not kept, milliseconds.
const KEPT_MS: u64 = 120_000;
/// How many standard deviations a place may be off.
const NOISE_ACCURACIES: f64 = 2.0;
/// How wrong a receiver's speed may be, metres a second.
const SPEED_NOISE_MPS: f64 = 2.0;

/// A position fix as the guard needs it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GuardFix {
    /// When it was received, by the monotonic clock, milliseconds: the receiver's own time may lie.
    pub monotonic_ms: u64,
    /// Where.
    pub position: Position,
    /// How exactly: one standard deviation, metres (from HDOP: times about 5).
    pub accuracy_m: f64,
    /// The receiver's speed, metres a second.
    pub speed_mps: Option<f64>,
}

/// The last fixes, oldest first.
///
/// ```
/// use device_sdk::guard::{Fixes, GuardFix, Position};
///
/// let position = Position { lat: 60.1708, lon: 24.9375 };
/// let fix = GuardFix { monotonic_ms: 1_000, position, accuracy_m: 3.0, speed_mps: Some(0.0) };
/// let mut fixes = Fixes::default();
/// fixes.observe(fix);
/// // Not later than the last: left out.
/// fixes.observe(GuardFix { accuracy_m: 1.0, ..fix });
/// assert_eq!(fixes.last(), Some(&fix));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fixes {
    kept: VecDeque<GuardFix>,
}

impl Fixes {
    /// Takes a fix. One that is not later than the last, or that is no position, is left out: a receiver that says only such
    /// falls silent for the guard.
    pub fn observe(&mut self, fix: GuardFix) {
        let is_later = self.last().is_none_or(|last| last.monotonic_ms < fix.monotonic_ms);
        if !is_later || !fix.position.is_valid() || !fix.accuracy_m.is_finite() {
            return;
        }
        self.kept.push_back(fix);
        let oldest_ms = fix.monotonic_ms.saturating_sub(KEPT_MS);
        while self.kept.len() > FIXES_MAX || self.kept.front().is_some_and(|old| old.monotonic_ms < oldest_ms)
        {
            self.kept.pop_front();
        }
    }

    /// Returns the newest.
    pub fn last(&self) -> Option<&GuardFix> {
        self.kept.back()
    }

    /// How long, up to the last fix, one followed the other without a pause and without a leap. Counting begins with the first
    /// fix there is: after a restart nobody knows what was before.
    pub(super) fn steady_ms(&self, rules: &GuardRules) -> u64 {
        self.run_ms(|earlier, later| {
            let noise_m = NOISE_ACCURACIES * (earlier.accuracy_m + later.accuracy_m);
            let way_m = earlier.position.distance_m(later.position);
            later.monotonic_ms - earlier.monotonic_ms <= rules.pause_ms_max
                && way_m <= reach_m(earlier, later, rules) + noise_m
        })
    }

    /// How long, up to the last fix, all of them said that it stands.
    pub(super) fn still_ms(&self, rules: &GuardRules) -> u64 {
        let stands = |fix: &GuardFix| fix.speed_mps.is_some_and(|speed| speed.abs() <= rules.speed_mps_max);
        self.run_ms(|earlier, later| {
            later.monotonic_ms - earlier.monotonic_ms <= rules.pause_ms_max
                && stands(earlier)
                && stands(later)
        })
    }

    /// How far the place went while it was said to stand, if that is more than noise.
    pub(super) fn drift_m(&self, rules: &GuardRules) -> Option<f64> {
        let last = self.last()?;
        let from_ms = last.monotonic_ms.saturating_sub(rules.still_ms);
        let standing = self.kept.iter().rev().take_while(|fix| fix.monotonic_ms >= from_ms);
        let moved = standing.map(|fix| {
            let elapsed_s = (last.monotonic_ms - fix.monotonic_ms) as f64 / 1_000.0;
            let noise_m = NOISE_ACCURACIES * (fix.accuracy_m + last.accuracy_m);
            let moved_m = fix.position.distance_m(last.position);
            (moved_m, moved_m > noise_m + rules.speed_mps_max * elapsed_s)
        });
        moved.filter(|(_, is_more)| *is_more).map(|(moved_m, _)| moved_m).reduce(f64::max)
    }

    /// How far back from the last fix each pair of neighbours is as asked.
    fn run_ms(&self, holds: impl Fn(&GuardFix, &GuardFix) -> bool) -> u64 {
        let Some(last) = self.last() else { return 0 };
        let mut first_ms = last.monotonic_ms;
        let newest_first = self.kept.iter().rev();
        for (later, earlier) in newest_first.clone().zip(newest_first.skip(1)) {
            if !holds(earlier, later) {
                break;
            }
            first_ms = earlier.monotonic_ms;
        }
        last.monotonic_ms - first_ms
    }
}

/// How far a truck can have come from one fix to the next: no faster than any truck, and from the speed that it had not faster than
/// it can gain more.
fn reach_m(earlier: &GuardFix, later: &GuardFix, rules: &GuardRules) -> f64 {
    let elapsed_s = (later.monotonic_ms - earlier.monotonic_ms) as f64 / 1_000.0;
    let fastest_m = rules.leap_mps * elapsed_s;
    let Some(speed_mps) = earlier.speed_mps else { return fastest_m };
    let started_m = (speed_mps.abs() + SPEED_NOISE_MPS) * elapsed_s;
    fastest_m.min(started_m + 0.5 * rules.start_mps2 * elapsed_s * elapsed_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fix(monotonic_ms: u64) -> GuardFix {
        let position = Position { lat: 60.0, lon: 25.0 };
        GuardFix { monotonic_ms, position, accuracy_m: 5.0, speed_mps: Some(0.0) }
    }

    #[test]
    fn only_so_many_and_only_later_fixes_are_kept() {
        let mut fixes = Fixes::default();
        for number in 0..2 * FIXES_MAX as u64 {
            fixes.observe(fix(number));
        }
        assert_eq!(fixes.kept.len(), FIXES_MAX);
        fixes.observe(fix(5));
        fixes.observe(GuardFix { accuracy_m: f64::NAN, ..fix(9_000) });
        fixes.observe(GuardFix { position: Position { lat: 91.0, lon: 0.0 }, ..fix(9_000) });
        assert_eq!(fixes.last().unwrap().monotonic_ms, 2 * FIXES_MAX as u64 - 1);
        fixes.observe(fix(10 * KEPT_MS));
        assert_eq!(fixes.kept.len(), 1);
    }
}
