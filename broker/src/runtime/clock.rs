//! The two clocks of one shard, as the engine wants them.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use engine::Now;

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
}
