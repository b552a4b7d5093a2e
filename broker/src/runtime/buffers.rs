//! The memory of connections: bytes that are not sent, and packets that have not come whole.
//!
//! Each connection has its own bound; here is the one of all together. Over it the connections with the most
//! go first: readers that are too slow, whatever else they are.

use engine::{ConnId, Now};

use super::Core;

impl Core {
    /// Counts a connection's buffers anew.
    pub(super) fn account(&mut self, id: ConnId) {
        let Some(connection) = self.connections.get_mut(super::slot(id)).filter(|c| c.id == id) else {
            return;
        };
        let below = if connection.is_blocked { connection.transport.unsent_bytes_max() } else { 0 };
        let bytes = connection.out.len() + connection.cut.len() + below;
        self.buffered = self.buffered + bytes - std::mem::replace(&mut connection.buffered, bytes);
        if self.buffered > self.limits.buffers_bytes_max {
            // Its end sheds.
            self.is_turn_due = true;
        }
    }

    /// Closes the connections with the largest buffers until all together are well below the bound.
    pub(super) fn shed(&mut self, now: Now) {
        let max = self.limits.buffers_bytes_max;
        if self.buffered <= max {
            return;
        }
        let mut largest: Vec<(usize, ConnId)> = self
            .connections
            .iter()
            .map(|(_, c)| (c.buffered, c.id))
            .filter(|(bytes, _)| *bytes > 0)
            .collect();
        largest.sort_unstable_by(|a, b| b.cmp(a));
        let (before, mut closed) = (self.buffered, 0_u64);
        for (_, id) in largest {
            if self.buffered <= max - max / 8 {
                break;
            }
            self.lose(now, id);
            closed += 1;
        }
        self.counts.shed += closed;
        tracing::warn!(
            closed,
            bytes_before = before,
            bytes = self.buffered,
            limit = max,
            "the connections' buffers were over limits.buffers_bytes_max: those with the most were closed"
        );
    }
}
