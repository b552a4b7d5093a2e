//! The time of a run: milliseconds since its start, on the clock that only goes on.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// When a run began, on both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timebase {
    start: Instant,
    start_unix_ms: u64,
}

impl Timebase {
    /// A run that begins now.
    pub(crate) fn now() -> Timebase {
        Timebase::after(Duration::ZERO)
    }

    /// A run that begins with a whole second of the clock, soon.
    pub(crate) fn next_second() -> Timebase {
        let unix_ms = Timebase::now().start_unix_ms;
        let mut time = Timebase::after(Duration::from_millis(1_000 - unix_ms % 1_000));
        // What passed between the two looks at the clock is below a millisecond, or makes the start so much later.
        time.start_unix_ms = (unix_ms / 1_000 + 1) * 1_000;
        time
    }

    fn after(pause: Duration) -> Timebase {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let start_unix_ms = u64::try_from((now + pause).as_millis()).unwrap_or(u64::MAX);
        Timebase { start: Instant::now() + pause, start_unix_ms }
    }

    /// Milliseconds since the start; 0 before it.
    pub(crate) fn now_ms(&self) -> u64 {
        let passed = Instant::now().saturating_duration_since(self.start);
        u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
    }

    /// The moment so many milliseconds after the start.
    pub(crate) fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    /// The date so many milliseconds after the start, milliseconds since the Unix epoch.
    pub(crate) fn unix_ms(&self, ms: u64) -> u64 {
        self.start_unix_ms + ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_begins_with_a_whole_second_that_is_not_over() {
        let time = Timebase::next_second();
        assert!(time.unix_ms(0).is_multiple_of(1_000));
        let ahead_ms = time.at(0).saturating_duration_since(Instant::now()).as_millis();
        assert!(ahead_ms <= 1_000 && time.now_ms() == 0, "{ahead_ms}");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        assert!(time.unix_ms(0).abs_diff(now) <= 1_100);
    }
}
