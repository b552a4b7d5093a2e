//! All deadlines of the shard, in one table.
//!
//! Invariant: what is due has one entry, however often it was set: a client that comes and goes leaves
//! nothing behind.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use crate::ConnId;
use crate::message::MsgNo;
use crate::record::SessionNo;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Deadline {
    /// A connection may have been silent too long.
    KeepAlive(ConnId),
    /// A connection's probe is over.
    Probe(ConnId),
    /// What is known of a client's presence has been kept long enough.
    PresenceEnd,
    /// Changes of presences that nobody listens to wait to be written.
    Presences,
    /// A session without connection has expired.
    SessionExpiry(SessionNo),
    /// A will's delay has passed.
    WillDelay(SessionNo),
    /// The sender of a message whose receipts are counted is to hear of new ones.
    Count(MsgNo),
    /// Senders are to hear how many have read their messages.
    ReadCounts,
    /// A message whose sender wants to know may have expired in a queue.
    MessageExpiry(MsgNo),
    /// The retained message that expires first has expired.
    RetainedExpiry,
    /// The oldest message of a conversation is older than its rule allows.
    Retention,
    /// The oldest id of a published message is past.
    DedupExpiry,
    /// Changes wait to be told to those who watch their inbox.
    Inboxes,
    /// A message of the conversation with members at this place has expired.
    Unread(u64),
}

#[derive(Debug, Default)]
pub(crate) struct Timers {
    in_order: BTreeSet<(u64, Deadline)>,
    due_ms: FxHashMap<Deadline, u64>,
}

impl Timers {
    /// Sets a deadline, instead of the same one's time before.
    pub(crate) fn set(&mut self, deadline: Deadline, at_monotonic_ms: u64) {
        if let Some(before) = self.due_ms.insert(deadline, at_monotonic_ms) {
            self.in_order.remove(&(before, deadline));
        }
        self.in_order.insert((at_monotonic_ms, deadline));
    }

    /// Forgets a deadline; one that is not set is ignored.
    pub(crate) fn clear(&mut self, deadline: Deadline) {
        if let Some(at) = self.due_ms.remove(&deadline) {
            self.in_order.remove(&(at, deadline));
        }
    }

    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.in_order.first().map(|(at, _)| *at)
    }

    pub(crate) fn pop_due(&mut self, monotonic_ms: u64) -> Option<Deadline> {
        if self.next_ms()? > monotonic_ms {
            return None;
        }
        let (_, deadline) = self.in_order.pop_first()?;
        self.due_ms.remove(&deadline);
        Some(deadline)
    }

    pub(crate) fn len(&self) -> usize {
        self.in_order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_set_again_is_due_once_at_its_new_time() {
        let mut timers = Timers::default();
        let (one, two) = (Deadline::SessionExpiry(SessionNo(1)), Deadline::WillDelay(SessionNo(1)));
        for at in [500, 100, 300] {
            timers.set(one, at);
        }
        timers.set(two, 200);
        timers.set(Deadline::KeepAlive(ConnId(1)), 1);
        timers.clear(Deadline::KeepAlive(ConnId(1)));
        timers.clear(Deadline::KeepAlive(ConnId(2)));
        assert_eq!((timers.len(), timers.next_ms()), (2, Some(200)));
        assert_eq!(timers.pop_due(199), None);
        assert_eq!(
            [timers.pop_due(400), timers.pop_due(400), timers.pop_due(400)],
            [Some(two), Some(one), None]
        );
        assert_eq!(timers.len(), 0);
    }
}
