//! Pauses between connection attempts: exponential with decorrelated jitter.
//!
//! Each pause is drawn between the minimum and three times the one before, then capped (M. Brooker, "Exponential Backoff And
//! Jitter", AWS Architecture Blog, 2015). A fleet that lost its broker at one moment spreads over the whole range within a few
//! attempts, where plain doubling keeps it in step. At the cap two pauses of three are the longest, so a broker that is down for long
//! is not asked more often than the cap means.

/// Bounds of the pause between connection attempts.
///
/// ```
/// use device_sdk::Backoff;
///
/// // A fleet behind one broker: nobody comes sooner than after a second, nobody later than after five minutes.
/// let backoff = Backoff { min_ms: 1_000, max_ms: 300_000 };
/// let mut pause_ms = 0;
/// for chance in [7, 1_234_567, 99] {
///     pause_ms = backoff.next_ms(pause_ms, chance);
///     assert!((1_000..=300_000).contains(&pause_ms));
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Shortest pause, milliseconds, at least 1.
    pub min_ms: u64,
    /// Longest pause, milliseconds.
    pub max_ms: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { min_ms: 500, max_ms: 60_000 }
    }
}

impl Backoff {
    /// Returns the pause after one of `previous_ms` (0 = the first), `chance` being any random number; for programs that
    /// drive a [`crate::client::Core`] themselves.
    pub fn next_ms(self, previous_ms: u64, chance: u64) -> u64 {
        let upper = previous_ms.clamp(self.min_ms, self.max_ms.max(self.min_ms)).saturating_mul(3);
        let span = (upper - self.min_ms).saturating_add(1);
        (self.min_ms + chance % span).min(self.max_ms.max(self.min_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_within_their_bounds_and_grow_at_most_threefold() {
        let backoff = Backoff { min_ms: 100, max_ms: 5_000 };
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..200 {
            let mut pause = 0;
            for _ in 0..20 {
                let next = backoff.next_ms(pause, rng.u64(..));
                assert!((100..=5_000).contains(&next), "{next}");
                assert!(next <= pause.max(100) * 3, "{next} after {pause}");
                pause = next;
            }
        }
    }

    #[test]
    fn a_pause_is_drawn_first_and_capped_then() {
        let backoff = Backoff { min_ms: 100, max_ms: 1_000 };
        // Draws of 100 to 3,000, of which those from 1,000 on are the cap.
        let mut rng = fastrand::Rng::with_seed(3);
        let pauses: Vec<u64> = (0..10_000).map(|_| backoff.next_ms(1_000, rng.u64(..))).collect();
        let at_cap = pauses.iter().filter(|pause| **pause == 1_000).count();
        assert!((6_700..7_100).contains(&at_cap), "{at_cap} of 10000, 69 % are expected");
        // The first pause, at the ends of its range and just beyond.
        let first = [0, 200, 201].map(|chance| backoff.next_ms(0, chance));
        assert_eq!(first, [100, 300, 100]);
    }

    #[test]
    fn a_fleet_that_fails_at_one_moment_spreads() {
        let backoff = Backoff { min_ms: 100, max_ms: 60_000 };
        let mut rng = fastrand::Rng::with_seed(7);
        let mut at: Vec<u64> = vec![0; 1000];
        let mut pause = vec![0; 1000];
        for _ in 0..8 {
            for (pause, at) in pause.iter_mut().zip(&mut at) {
                *pause = backoff.next_ms(*pause, rng.u64(..));
                *at += *pause;
            }
        }
        at.sort_unstable();
        // No second sees more than a fifth of the fleet; with plain doubling one sees all of it.
        let busiest = (0..at.len()).map(|i| at[i..].iter().take_while(|t| **t < at[i] + 1_000).count()).max();
        assert!(busiest < Some(200), "{busiest:?} of 1000 in one second");
    }

    #[test]
    fn huge_bounds_do_not_overflow() {
        let backoff = Backoff { min_ms: 1, max_ms: u64::MAX - 1 };
        assert!(backoff.next_ms(u64::MAX, u64::MAX) >= 1);
    }
}
