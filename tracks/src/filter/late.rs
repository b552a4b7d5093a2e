//! Late and unordered fixes, put where their time says.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Estimate, Filter, FilterOptions};
use crate::fix::Fix;
use crate::plausibility::Rejected;

/// The most fixes that are kept for late ones to come between.
pub const LATE_FIXES_MAX: usize = 1_024;

/// A [`Filter`] that takes fixes as they come: a late one is put in its place by its own time, and what came after it is
/// judged again. Whatever the order, as long as a fix is no later than the fixes kept, the outcome is the same.
#[derive(Debug, Clone)]
pub struct Replay {
    /// The state before the first of the kept fixes.
    base: Filter,
    last: Filter,
    kept: VecDeque<(Fix, i64)>,
    kept_max: usize,
}

impl Replay {
    /// Makes one that keeps `kept_max` fixes, at most [`LATE_FIXES_MAX`].
    pub fn new(options: impl Into<Arc<FilterOptions>>, kept_max: usize) -> Replay {
        let base = Filter::new(options);
        Replay {
            last: base.clone(),
            base,
            kept: VecDeque::new(),
            kept_max: kept_max.clamp(1, LATE_FIXES_MAX),
        }
    }

    /// Takes a fix; `now_ms` is the host's time in milliseconds since the Unix epoch. Gives what is known after the newest
    /// fix, which is not this one if it was late.
    ///
    /// # Errors
    /// The rule that the fix breaks; for a fix that came again or is older than all that are kept
    /// [`Rejected::NotNewer`].
    pub fn push(&mut self, fix: &Fix, now_ms: i64) -> Result<Estimate, Rejected> {
        self.last.options.gate.check_alone(fix, now_ms)?;
        let place = self.kept.partition_point(|(kept, _)| kept.ts_ms < fix.ts_ms);
        let newest_ms = self.kept.back().map_or(i64::MIN, |(kept, _)| kept.ts_ms);
        let is_again = self.kept.get(place).is_some_and(|(kept, _)| kept.ts_ms == fix.ts_ms);
        let too_old = self.base.newest_ms().is_some_and(|base_ms| fix.ts_ms <= base_ms);
        if is_again || too_old || (place == 0 && self.kept.len() >= self.kept_max) {
            return Err(Rejected::NotNewer { ts_ms: fix.ts_ms, last_ts_ms: newest_ms });
        }
        self.kept.insert(place, (fix.clone(), now_ms));
        let outcome =
            if place + 1 == self.kept.len() { self.last.push(fix, now_ms) } else { self.again(place) };
        if self.kept.len() > self.kept_max
            && let Some((oldest, now_ms)) = self.kept.pop_front()
        {
            // Judged as it was judged before.
            let _ = self.base.push(&oldest, now_ms);
        }
        outcome
    }

    /// What is known after the newest fix.
    pub fn last(&self) -> Option<Estimate> {
        self.last.last()
    }

    /// Judges all kept fixes again and gives the verdict on the one at `place`.
    fn again(&mut self, place: usize) -> Result<Estimate, Rejected> {
        self.last = self.base.clone();
        let mut verdict = None;
        for (index, (fix, now_ms)) in self.kept.iter().enumerate() {
            let outcome = self.last.push(fix, *now_ms);
            if index == place {
                verdict = outcome.err();
            }
        }
        match (verdict, self.last.last()) {
            (None, Some(estimate)) => Ok(estimate),
            (Some(rejected), _) => Err(rejected),
            (None, None) => unreachable!("an accepted fix leaves an estimate"),
        }
    }
}
