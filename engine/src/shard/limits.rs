//! Bounds of one session: the node's, or those of its principal where they are lower.

use std::num::{NonZeroU16, NonZeroU32};

use super::Shard;
use crate::principal::{SessionLimits, lower};
use crate::route::SessionKey;

/// Counts the levels of a topic or filter: every PUBLISH asks.
pub(super) fn levels_of(topic: &str) -> usize {
    1 + topic.bytes().filter(|byte| *byte == b'/').count()
}

impl Shard {
    /// Levels of a topic or filter; of a session that is gone the node's.
    pub(super) fn topic_levels_max(&self, key: Option<SessionKey>) -> usize {
        let own = key.and_then(|key| self.sessions[key].limits().topic_levels_max);
        lower(own, self.config.topic_levels_max)
    }

    /// QoS 1/2 messages in flight to a client.
    pub(super) fn inflight_max(&self, limits: &SessionLimits) -> usize {
        let max = lower(limits.inflight_max.map(NonZeroU16::get), self.config.inflight_max);
        usize::from(max.max(1))
    }

    /// QoS 1/2 publishes that a client may have unacknowledged.
    pub(super) fn receive_maximum(&self, limits: &SessionLimits) -> u16 {
        lower(limits.receive_maximum.map(NonZeroU16::get), self.config.receive_maximum)
    }

    /// Largest packet taken from a client.
    pub(super) fn packet_bytes_max(&self, limits: &SessionLimits) -> Option<NonZeroU32> {
        let node = NonZeroU32::new(self.config.packet_bytes_max);
        node.map_or(limits.packet_bytes_max, |node| Some(lower(limits.packet_bytes_max, node)))
    }

    /// Longest session expiry granted.
    pub(super) fn expiry_max_s(&self, limits: &SessionLimits) -> u32 {
        lower(limits.session_expiry_max_s, self.config.session_expiry_max_s)
    }
}
