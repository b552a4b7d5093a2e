//! All deadlines of the shard, in one table.
//!
//! An entry is never removed before its time: whoever takes a due one checks that it still means something.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::ConnId;
use crate::message::MsgNo;
use crate::record::SessionNo;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Deadline {
    /// A connection may have been silent too long.
    KeepAlive(ConnId),
    /// A session without connection may have expired.
    SessionExpiry(SessionNo),
    /// A will's delay may have passed.
    WillDelay(SessionNo),
    /// A message whose sender wants to know may have expired in a queue.
    MessageExpiry(MsgNo),
}

#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(u64, Deadline)>>,
}

impl Timers {
    pub(crate) fn push(&mut self, at_monotonic_ms: u64, deadline: Deadline) {
        self.heap.push(Reverse((at_monotonic_ms, deadline)));
    }

    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    pub(crate) fn pop_due(&mut self, monotonic_ms: u64) -> Option<Deadline> {
        if self.next_ms()? > monotonic_ms {
            return None;
        }
        self.heap.pop().map(|Reverse((_, deadline))| deadline)
    }
}
