//! The two clocks of one shard, as the engine wants them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use engine::Now;
use tokio::time::Instant;

/// Counts milliseconds since the start of the shard, and since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    pub(crate) fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { monotonic_ms: self.start.elapsed().as_millis() as u64, unix_ms: unix.as_millis() as u64 }
    }

    /// Returns when the monotonic clock will show `ms`.
    pub(crate) fn instant(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }
}
