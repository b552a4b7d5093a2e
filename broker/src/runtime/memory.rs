//! Says in the log when memory is short, and what to do.

use engine::{Memory, MemoryLevel};

use super::Core;

impl Core {
    /// Notes a change of the engine's memory level.
    pub(super) fn watch_memory(&mut self) {
        let Memory { bytes, bytes_max, level } = self.engine.memory();
        let before = std::mem::replace(&mut self.memory_level, level);
        match level {
            _ if level == before => {}
            MemoryLevel::Full => tracing::warn!(
                bytes,
                bytes_max,
                "memory is full: publishes that must be kept, new sessions and subscriptions are refused until \
                 queues are emptied; raise limits.memory_bytes_max, or lower queue.bytes_max or session.expiry_max_s"
            ),
            MemoryLevel::Shedding if before == MemoryLevel::Normal => tracing::warn!(
                bytes,
                bytes_max,
                "memory is short: QoS 0 messages that wait are dropped; at the bound publishes are refused"
            ),
            MemoryLevel::Shedding => tracing::info!(bytes, bytes_max, "memory has room again, but not much"),
            MemoryLevel::Normal => tracing::info!(bytes, bytes_max, "memory has room again"),
        }
    }
}
