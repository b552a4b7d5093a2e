//! Rates: GCRA from crate `governor`, with the time as an argument.
//!
//! Invariant: what one call asks for is never more than the burst, so that waiting always helps.

use std::{cell::Cell, num::NonZeroU32, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, Reference},
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};

/// Nanoseconds that a burst may stand for: the arithmetic has 64 bits.
const BURST_NANOS_MAX: u64 = u64::MAX / 8;

/// A rate in force: so many at once, then so many in a period.
#[derive(Debug)]
pub(crate) struct Rate {
    limiter: RateLimiter<NotKeyed, InMemoryState, GivenTime, NoOpMiddleware<Nanos>>,
    burst: NonZeroU32,
}

/// A clock that shows what it was set to.
#[derive(Debug)]
struct GivenTime(Cell<Nanos>);

impl Clock for GivenTime {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.get()
    }
}

impl Rate {
    /// Makes a rate of `count` in each `period`; 0 is no rate. A burst of 0 is one period's worth.
    pub(crate) fn new(now_ms: u64, count: u64, period: Duration, burst: u64) -> Option<Self> {
        let one = (period.as_nanos() as u64).checked_div(count)?.max(1);
        let burst_max = (BURST_NANOS_MAX / one).clamp(1, u64::from(u32::MAX));
        let burst = if burst == 0 { count } else { burst }.clamp(1, burst_max);
        let burst = NonZeroU32::new(burst as u32)?;
        let quota = Quota::with_period(Duration::from_nanos(one))?.allow_burst(burst);
        let limiter = RateLimiter::direct_with_clock(quota, GivenTime(Cell::new(nanos(now_ms))));
        Some(Self { limiter, burst })
    }

    /// Takes `n` if the rate allows it, else says how many milliseconds to wait. More than the burst counts
    /// as the burst.
    pub(crate) fn take(&self, now_ms: u64, n: u64) -> Result<(), u64> {
        let now = nanos(now_ms);
        self.limiter.clock().0.set(now);
        let n = NonZeroU32::new(n.min(u64::from(self.burst.get())) as u32).unwrap_or(NonZeroU32::MIN);
        match self.limiter.check_n(n) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => {
                let wait = not_until.earliest_possible().duration_since(now);
                Err(wait.as_u64().div_ceil(1_000_000).max(1))
            }
            // `n` is within the burst, as `new` made it.
            Err(_) => Ok(()),
        }
    }
}

fn nanos(ms: u64) -> Nanos {
    Nanos::from(ms.saturating_mul(1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_passes_at_once_and_then_the_rate() {
        let rate = Rate::new(0, 10, SECOND, 3).unwrap();
        assert_eq!([0; 3].map(|now| rate.take(now, 1)), [Ok(()); 3]);
        assert_eq!(rate.take(0, 1), Err(100));
        assert_eq!(rate.take(99, 1), Err(1));
        assert_eq!(rate.take(100, 1), Ok(()));
        // A long rest gives the burst back and no more.
        assert_eq!([60_000; 3].map(|now| rate.take(now, 1)), [Ok(()); 3]);
        assert_eq!(rate.take(60_000, 1), Err(100));
    }

    #[test]
    fn over_any_time_no_more_passes_than_burst_and_rate_allow() {
        let rate = Rate::new(0, 50, SECOND, 7).unwrap();
        let passed = (0..10_000).filter(|now| rate.take(*now, 1).is_ok()).count();
        assert!((500..=507).contains(&passed), "{passed}");
    }

    #[test]
    fn more_than_the_burst_waits_for_the_whole_burst_and_passes() {
        let rate = Rate::new(0, 1_000, SECOND, 100).unwrap();
        assert_eq!(rate.take(0, 5_000), Ok(()));
        assert_eq!(rate.take(0, 5_000), Err(100));
        assert_eq!(rate.take(100, 5_000), Ok(()));
    }

    #[test]
    fn without_a_count_there_is_no_rate_and_no_number_is_too_large() {
        assert!(Rate::new(0, 0, SECOND, 5).is_none());
        let rate = Rate::new(u64::MAX / 2_000_000, u64::MAX, SECOND, u64::MAX).unwrap();
        assert_eq!(rate.take(u64::MAX / 2_000_000, u64::MAX), Ok(()));
        let slow = Rate::new(0, 1, Duration::from_secs(60), u64::MAX).unwrap();
        assert_eq!(slow.take(0, u64::MAX), Ok(()));
        assert!(slow.take(0, u64::MAX).is_err());
        // A clock that stands or goes back is no panic.
        assert!(slow.take(0, 1).is_err());
    }
}
