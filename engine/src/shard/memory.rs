//! The bound of the node's memory, and what goes first when it is near: QoS 0 messages that wait, then what
//! would need more. What was acknowledged is never given up.

use bytestring::ByteString;
use protocol::{QoS, ReasonCode};

use super::Shard;
use super::accept::{Refused, Target};
use super::backlog::{ENDS_PER_TURN_MAX, Work};
use crate::Now;
use crate::memory::{
    DEADLINE_BYTES, ENTRY_BYTES, MESSAGE_BYTES, Memory, MemoryLevel, RECIPIENT_BYTES, RETAINED_BYTES,
    SESSION_BYTES, SUBSCRIPTION_BYTES,
};
use crate::receipt::Outcome;
use crate::route::{Routes, SessionKey};

/// Places of the session table looked at in one turn.
const SESSIONS_PER_TURN: usize = 256;

impl Shard {
    /// Returns what the shard holds in memory and how near that is to its bound.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// Counts all that is held: what holds an account, and tables that know their length.
    pub(super) fn held_bytes(&self) -> usize {
        self.account.bytes()
            + (self.retained.len() + self.informed.len()) * RETAINED_BYTES
            + self.routes.bytes()
            + self.envelope_routes.bytes()
            + self.timers.len() * DEADLINE_BYTES
    }

    /// Lets bodies leave and counts again after an input; QoS 0 messages that wait begin to go when there is much.
    pub(super) fn watch_memory(&mut self) {
        self.evict(self.gate.newest_committed());
        let before = self.memory.level;
        self.memory.update(self.held_bytes());
        if before == MemoryLevel::Normal && self.memory.level > before {
            self.backlog.push_back(Work::Shed { next: 0 });
        }
    }

    /// Lets bodies of messages leave, and packs the places of those that wait.
    fn evict(&mut self, committed: u64) {
        let Self { bodies, sessions, .. } = self;
        bodies.evict(committed, |session, message| {
            if let Some(key) = sessions.numbered(session) {
                sessions[key].pack_waiting(message, committed);
            }
        });
    }

    /// Says whether QoS 0 messages may wait.
    pub(super) fn may_queue_at_most_once(&self) -> bool {
        self.memory.level == MemoryLevel::Normal
    }

    /// Drops QoS 0 messages that wait at the next sessions, while there is too much.
    pub(super) fn shed(&mut self, now: Now, next: SessionKey) {
        let mut ended = 0;
        self.effort += SESSIONS_PER_TURN;
        let end = self.sessions.capacity().min(next + SESSIONS_PER_TURN);
        for key in next..end {
            while let Some(session) = self.sessions.get_mut(key) {
                let Some(dropped) = session.pop_at_most_once(&mut self.bodies) else { break };
                self.end_waiting(now, key, &dropped, Outcome::Dropped("queue_full"));
                ended += 1;
                if ended >= ENDS_PER_TURN_MAX {
                    return self.shed_on(key);
                }
            }
        }
        if end < self.sessions.capacity() {
            self.shed_on(end);
        }
    }

    fn shed_on(&mut self, next: SessionKey) {
        self.memory.update(self.held_bytes());
        if !self.may_queue_at_most_once() {
            self.backlog.push_back(Work::Shed { next });
        }
    }

    /// Refuses a message of so many bytes when there is no memory for it: before anything of it is stored.
    pub(super) fn check_memory(
        &mut self,
        qos: QoS,
        bytes: usize,
        targets: &[Target],
        is_kept: bool,
        is_tracked: bool,
    ) -> Result<(), Refused> {
        let entries = targets.iter().filter(|t| t.holds(qos) && !t.is_covered).count();
        if !is_kept && entries == 0 {
            return Ok(());
        }
        let recipients = if is_tracked { targets.len() } else { 0 };
        let bytes = MESSAGE_BYTES + bytes + entries * ENTRY_BYTES + recipients * RECIPIENT_BYTES;
        self.memory.room_for(bytes).map_err(|what| Refused { reason: ReasonCode::QuotaExceeded, what })
    }

    /// Says why there is no room for another session.
    pub(super) fn room_for_session(&mut self) -> Result<(), String> {
        self.memory.room_for(SESSION_BYTES)
    }

    /// Says why there is no room for another subscription.
    pub(super) fn room_for_subscription(&mut self, filter: &ByteString) -> Result<(), String> {
        self.memory.room_for(SUBSCRIPTION_BYTES + filter.len() + Routes::bytes_max(filter.len()))
    }
}
