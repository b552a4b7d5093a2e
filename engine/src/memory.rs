//! What a shard keeps in memory, counted in bytes.
//!
//! Everything that clients can make grow holds a [`Held`]: it is counted where it is made and given back where
//! it ends, whoever ends it. A message body is counted once, however many queues it is in. The sums are what
//! the things are made of and what tables need for them, not what an allocator makes of it; the example
//! `memory` compares them with what the process takes.

use std::mem::size_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::body::Body;
use crate::message::{Delivery, Message};
use crate::principal::Principal;
use crate::session::{InFlight, Incoming, Session, Subscription};
use crate::waiting::Waiting;

/// A message's head besides its topic: itself, its reference counts.
pub(crate) const HEAD_BYTES: usize = size_of::<Message>() + 16;
/// A message's body besides what its sender filled: itself, its reference counts, its buffers' heads.
pub(crate) const BODY_BYTES: usize = size_of::<Body>() + 48;
/// A message besides what its sender filled.
pub(crate) const MESSAGE_BYTES: usize = HEAD_BYTES + BODY_BYTES;
/// A message's place in a queue or in flight, with a table's spare room.
pub(crate) const ENTRY_BYTES: usize = size_of::<InFlight>() * 3 / 2;
/// A subscription identifier of a place in a queue.
const IDENTIFIER_BYTES: usize = size_of::<u32>();
/// A session without names and will, its principal and its places in the tables.
pub(crate) const SESSION_BYTES: usize =
    size_of::<Session>() + size_of::<Principal>() + size_of::<Waiting>() + 128;
/// A connection: its place among the others, the rules that are about it.
pub(crate) const CONNECTION_BYTES: usize = 384;
/// A subscription besides its filter, in the session and among the routes.
pub(crate) const SUBSCRIPTION_BYTES: usize = size_of::<Subscription>() + 112;
/// A QoS 2 publish between PUBREC and PUBREL, besides its id.
pub(crate) const INCOMING_BYTES: usize = size_of::<Incoming>() * 3 / 2;
/// A retained message's places in the table and among those that expire.
pub(crate) const RETAINED_BYTES: usize = 128;
/// A shared group besides its name, and its places in the tables; its members are counted as subscriptions.
pub(crate) const GROUP_BYTES: usize = 384;
/// A conversation besides its topic and the messages that it keeps: its places in the tables.
pub(crate) const CONVERSATION_BYTES: usize = 320;
/// A session's cursor in a conversation besides the topic, which stands there three times.
pub(crate) const CURSOR_BYTES: usize = 256;
/// A conversation with holes at a session, besides the topic and the holes.
pub(crate) const GAP_BYTES: usize = 128;
/// A user whose messages are kept, besides the name.
pub(crate) const SENDER_BYTES: usize = 160;
/// A conversation with members besides its topic, in the tables of members.
pub(crate) const ROLL_BYTES: usize = 512;
/// A user who is a member, or hears as one, besides the name.
pub(crate) const READER_BYTES: usize = 256;
/// A membership: on both sides' tables.
pub(crate) const MEMBER_BYTES: usize = 160;
/// Numbers of a conversation without a gap between, or one that will expire.
pub(crate) const RUN_BYTES: usize = 48;
/// A message whose receipts are open, besides its strings; the tree of recipients has room for eleven.
pub(crate) const TRACKING_BYTES: usize = 1_152;
/// One of its recipients, besides the names.
pub(crate) const RECIPIENT_BYTES: usize = 112;
/// A deadline.
pub(crate) const DEADLINE_BYTES: usize = 64;
/// What is known of a client's presence, besides its names.
pub(crate) const PRESENCE_BYTES: usize = 112;
/// A user's vote about a network, besides the names.
pub(crate) const NETWORK_VOTE_BYTES: usize = 192;
/// A topic alias besides its topic.
pub(crate) const ALIAS_BYTES: usize = 64;

/// How near a shard is to its memory's bound; see [`Config::memory_bytes_max`](crate::Config).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemoryLevel {
    /// Everything is taken.
    #[default]
    Normal,
    /// QoS 0 messages are not queued, and those that are queued are dropped.
    Shedding,
    /// Besides, what would need more is refused: publishes, sessions, subscriptions.
    Full,
}

/// What a shard holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Bytes held, as the engine counts them.
    pub bytes: usize,
    /// The bound, 0 = none.
    pub bytes_max: usize,
    /// What follows from both.
    pub level: MemoryLevel,
}

/// Per cent of the bound at which a level begins, and below which it ends.
const SHEDDING: [usize; 2] = [85, 80];
const FULL: [usize; 2] = [100, 95];

impl Memory {
    /// Takes a new count; a level ends a little below where it begins, so that it does not flicker.
    pub(crate) fn update(&mut self, bytes: usize) {
        self.bytes = bytes;
        if self.bytes_max == 0 {
            return;
        }
        let level = self.level;
        let holds = |[begins, ends]: [usize; 2], of| self.is_at(if level >= of { ends } else { begins });
        self.level = if holds(FULL, MemoryLevel::Full) {
            MemoryLevel::Full
        } else if holds(SHEDDING, MemoryLevel::Shedding) {
            MemoryLevel::Shedding
        } else {
            MemoryLevel::Normal
        };
    }

    fn is_at(&self, percent: usize) -> bool {
        self.bytes as u128 * 100 >= self.bytes_max as u128 * percent as u128
    }

    /// Says why so much more may not be held. What finds no room near the bound makes it full: the bound
    /// itself is seldom met exactly.
    pub(crate) fn room_for(&mut self, bytes: usize) -> Result<(), String> {
        if self.bytes_max == 0 || (self.level < MemoryLevel::Full && self.bytes + bytes <= self.bytes_max) {
            return Ok(());
        }
        if self.is_at(FULL[1]) {
            self.level = MemoryLevel::Full;
        }
        let Self { bytes: held, bytes_max, .. } = self;
        Err(format!("the broker's memory is full: {held} of {bytes_max} bytes are taken, {bytes} are needed"))
    }
}

/// The bytes that everything of a shard holds together. Shared by whatever holds some; one thread uses it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account(Arc<AtomicUsize>);

impl Account {
    pub(crate) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn hold(&self, bytes: usize) -> Held {
        let mut held = Held { account: Some(self.clone()), bytes: 0 };
        held.grow(bytes);
        held
    }
}

/// Bytes that are counted until this is dropped; without an account none are.
#[derive(Debug, Default)]
pub(crate) struct Held {
    account: Option<Account>,
    bytes: usize,
}

impl Held {
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn grow(&mut self, bytes: usize) {
        if let Some(Account(all)) = &self.account {
            // One thread counts, so this needs no read-modify-write that others could see.
            all.store(all.load(Ordering::Relaxed).wrapping_add(bytes), Ordering::Relaxed);
            self.bytes += bytes;
        }
    }

    pub(crate) fn shrink(&mut self, bytes: usize) {
        if let Some(Account(all)) = &self.account {
            debug_assert!(bytes <= self.bytes, "more is given back than was held");
            all.store(all.load(Ordering::Relaxed).wrapping_sub(bytes), Ordering::Relaxed);
            self.bytes -= bytes;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

/// A copy holds as much again.
impl Clone for Held {
    fn clone(&self) -> Self {
        self.account.as_ref().map_or_else(Self::default, |account| account.hold(self.bytes))
    }
}

/// Two things are the same whoever counts them.
impl PartialEq for Held {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Held {}

/// Returns what a message's place at a session needs.
pub(crate) fn entry_bytes(delivery: &Delivery) -> usize {
    ENTRY_BYTES
        + match delivery.subscription_identifiers.len() {
            0 => 0,
            identifiers => size_of::<Vec<u32>>() + identifiers * IDENTIFIER_BYTES,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_counted_until_it_is_gone() {
        let account = Account::default();
        let mut one = account.hold(10);
        let copy = one.clone();
        one.grow(5);
        assert_eq!((account.bytes(), one.bytes(), copy.bytes()), (25, 15, 10));
        one.shrink(15);
        drop(copy);
        assert_eq!(account.bytes(), 0);
        let mut nobodys = Held::default();
        nobodys.grow(7);
        nobodys.shrink(3);
        assert_eq!(nobodys.bytes(), 0);
    }

    #[test]
    fn levels_begin_at_their_bound_and_end_a_little_below() {
        use MemoryLevel::{Full, Normal, Shedding};
        let mut memory = Memory { bytes_max: 1_000, ..Memory::default() };
        for (bytes, level) in [
            (849, Normal),
            (850, Shedding),
            (800, Shedding),
            (799, Normal),
            (1_000, Full),
            (950, Full),
            (949, Shedding),
            (999, Shedding),
            (1_500, Full),
            (700, Normal),
        ] {
            memory.update(bytes);
            assert_eq!(memory.level, level, "{bytes}");
        }
        memory.update(900);
        assert!(memory.room_for(100).is_ok() && memory.room_for(101).is_err());
        assert_eq!(memory.level, Shedding, "a large message makes no small one wait");
        memory.update(950);
        assert!(memory.room_for(50).is_ok() && memory.room_for(51).is_err());
        assert_eq!(memory.level, Full);
        assert!(memory.room_for(1).is_err());
        memory.update(1_000);
        memory.update(960);
        assert!(memory.room_for(0).is_err());
        let mut unbounded = Memory::default();
        unbounded.update(usize::MAX / 2);
        assert!(unbounded.room_for(1).is_ok() && unbounded.level == Normal);
    }
}
