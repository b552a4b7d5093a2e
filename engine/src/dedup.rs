//! Ids of messages that were accepted, so that a repeat is known (docs/protocol.md section 2).
//!
//! Owns the window: a user's last ids, no older than its age, and a bound over all users that ends the oldest
//! windows first. Knows nothing of messages: an id is a fingerprint of topic and id, with what the first
//! acknowledgement said. Invariants: the ids of a user stand in the order of their numbers, which have no gaps,
//! and their times never go back; `oldest` has each user with ids once.

use std::collections::{BTreeSet, VecDeque};
use std::hash::Hasher;

use bytestring::ByteString;
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::memory::{Account, Held};
use crate::message::compact;
use crate::names::ByName;

/// How long and how many ids are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DedupLimits {
    /// Age at which an id is forgotten, seconds; 0 = no id is known at all.
    pub age_s: u32,
    /// Ids of one user.
    pub ids_per_user_max: usize,
    /// Ids of all users.
    pub ids_max: usize,
}

impl Default for DedupLimits {
    fn default() -> Self {
        Self { age_s: 24 * 3600, ids_per_user_max: 100_000, ids_max: 4_000_000 }
    }
}

/// What stands for a topic and an id. 128 bits: one user's ids never meet those of others, so a collision
/// would have to be the user's own doing, and to its own cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(pub(crate) u128);

impl Fingerprint {
    pub(crate) fn of(topic: &str, id: &str) -> Self {
        // It is in the log: these keys never change.
        let mut hasher = SipHasher13::new_with_keys(0x706f_7374_7269_6465, 0x7220_696d_2d69_6421);
        hasher.write_u64(topic.len() as u64);
        hasher.write(topic.as_bytes());
        hasher.write(id.as_bytes());
        Self(hasher.finish128().as_u128())
    }
}

/// One id and what its first acknowledgement said; packed, because there are millions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    fingerprint: [u32; 4],
    /// The seq, 0 = none; its highest bit says that the message had no recipient.
    seq: [u32; 2],
    at_s: u32,
}

const NOBODY: u64 = 1 << 63;

impl Published {
    pub(crate) fn new(fingerprint: Fingerprint, seq: Option<u64>, had_nobody: bool, at_s: u32) -> Self {
        let Fingerprint(f) = fingerprint;
        let seq = seq.unwrap_or(0) & !NOBODY | if had_nobody { NOBODY } else { 0 };
        Self {
            fingerprint: [f as u32, (f >> 32) as u32, (f >> 64) as u32, (f >> 96) as u32],
            seq: [seq as u32, (seq >> 32) as u32],
            at_s,
        }
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let [a, b, c, d] = self.fingerprint.map(u128::from);
        Fingerprint(a | b << 32 | c << 64 | d << 96)
    }

    fn bits(&self) -> u64 {
        u64::from(self.seq[0]) | u64::from(self.seq[1]) << 32
    }

    /// The number that the message got.
    pub(crate) fn seq(&self) -> Option<u64> {
        Some(self.bits() & !NOBODY).filter(|seq| *seq > 0)
    }

    /// Whether the message had no recipient.
    pub(crate) fn had_nobody(&self) -> bool {
        self.bits() & NOBODY != 0
    }

    /// When it was accepted, seconds since the Unix epoch.
    pub(crate) fn at_s(&self) -> u32 {
        self.at_s
    }
}

/// Ids of one user that are no longer known: those numbered from `from` to before `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forgotten {
    pub(crate) user: ByteString,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// Ids that are looked through one by one.
const UNINDEXED_MAX: usize = 16;

/// A place of the index that is free.
const FREE: u32 = u32::MAX;

/// A user besides its name and its ids, here and in `oldest`.
const USER_BYTES: usize = 256;

/// The ids of one user.
#[derive(Debug, Default)]
struct Ids {
    ring: VecDeque<Published>,
    /// Number of the first; the user's very first is 0.
    first: u64,
    /// Open addressing over the labels of the ids; empty while there are few.
    index: Vec<u32>,
}

impl Ids {
    fn bytes(&self) -> usize {
        self.ring.capacity() * size_of::<Published>() + self.index.capacity() * size_of::<u32>()
    }

    fn next(&self) -> u64 {
        self.first + self.ring.len() as u64
    }

    /// What the index calls the id with this number: never `FREE`.
    fn label(number: u64) -> u32 {
        (number % u64::from(FREE)) as u32
    }

    fn by_label(&self, label: u32) -> Option<&Published> {
        let free = u64::from(FREE);
        let at = (u64::from(label) + free - self.first % free) % free;
        self.ring.get(at as usize)
    }

    /// Where the search for a fingerprint begins. `key` keeps clients from choosing ids that begin together.
    fn begin(&self, Fingerprint(f): Fingerprint, key: u64) -> usize {
        let mixed = (f as u64 ^ key).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (f >> 64) as u64;
        let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9 ^ key | 1);
        ((u128::from(mixed) * self.index.len() as u128) >> 64) as usize
    }

    fn find(&self, fingerprint: Fingerprint, key: u64) -> Option<&Published> {
        if self.index.is_empty() {
            return self.ring.iter().rev().find(|id| id.fingerprint() == fingerprint);
        }
        let mut at = self.begin(fingerprint, key);
        loop {
            let label = self.index[at];
            if label == FREE {
                return None;
            }
            if let Some(id) = self.by_label(label).filter(|id| id.fingerprint() == fingerprint) {
                return Some(id);
            }
            at = (at + 1) % self.index.len();
        }
    }

    fn push(&mut self, id: Published, key: u64) {
        if self.ring.len() == self.ring.capacity() {
            // A quarter more, not twice as much: the bound on the bytes of an id counts on it.
            self.ring.reserve_exact((self.ring.len() / 4).max(4));
        }
        let number = self.next();
        self.ring.push_back(id);
        if self.ring.len() > UNINDEXED_MAX && self.ring.len() * 5 > self.index.len() * 4 {
            return self.index_all(key);
        }
        if !self.index.is_empty() {
            self.index(id.fingerprint(), number, key);
        }
    }

    fn index(&mut self, fingerprint: Fingerprint, number: u64, key: u64) {
        let mut at = self.begin(fingerprint, key);
        while self.index[at] != FREE {
            at = (at + 1) % self.index.len();
        }
        self.index[at] = Self::label(number);
    }

    fn index_all(&mut self, key: u64) {
        let places = if self.ring.len() > UNINDEXED_MAX { self.ring.len() * 3 / 2 } else { 0 };
        self.index = vec![FREE; places];
        if places > 0 {
            for at in 0..self.ring.len() {
                self.index(self.ring[at].fingerprint(), self.first + at as u64, key);
            }
        }
    }

    fn pop(&mut self, key: u64) -> Option<Published> {
        let id = self.ring.pop_front()?;
        let label = Self::label(self.first);
        self.first += 1;
        if self.index.is_empty() {
            return Some(id);
        }
        let len = self.index.len();
        let mut hole = self.begin(id.fingerprint(), key);
        while self.index[hole] != label {
            hole = (hole + 1) % len;
        }
        // What stands behind moves up, unless it would come before the place where its search begins.
        let mut at = hole;
        loop {
            at = (at + 1) % len;
            let Some(next) = Some(self.index[at]).filter(|label| *label != FREE) else { break };
            let Some(fingerprint) = self.by_label(next).map(Published::fingerprint) else { break };
            let begin = self.begin(fingerprint, key);
            if (at + len - begin) % len >= (at + len - hole) % len {
                self.index[hole] = next;
                hole = at;
            }
        }
        self.index[hole] = FREE;
        Some(id)
    }

    /// Gives memory back when most of it is unused.
    fn shrink(&mut self, key: u64) {
        if self.ring.capacity() > self.ring.len() * 2 + UNINDEXED_MAX {
            self.ring.shrink_to_fit();
            self.index_all(key);
        }
    }
}

/// The ids of all users.
#[derive(Debug)]
pub(crate) struct Dedup {
    limits: DedupLimits,
    users: ByName<Ids>,
    /// Users by the time of their oldest id.
    oldest: BTreeSet<(u32, ByteString)>,
    len: usize,
    key: u64,
    held: Held,
}

impl Dedup {
    pub(crate) fn new(limits: DedupLimits, key: u64, account: &Account) -> Self {
        let (users, oldest) = Default::default();
        Self { limits, users, oldest, len: 0, key, held: account.hold(0) }
    }

    /// Whether ids are known at all.
    pub(crate) fn is_on(&self) -> bool {
        self.limits.age_s > 0 && self.limits.ids_per_user_max > 0 && self.limits.ids_max > 0
    }

    /// Ids known.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns what is known of an id inside the window.
    pub(crate) fn find(&self, user: &str, fingerprint: Fingerprint, unix_ms: u64) -> Option<Published> {
        let id = self.users.get(user)?.find(fingerprint, self.key)?;
        (!self.is_past(id.at_s, unix_ms)).then_some(*id)
    }

    /// Notes an id that is not known yet; returns its number among the user's, and what it took the place of.
    pub(crate) fn insert(
        &mut self,
        user: &ByteString,
        id: Published,
        unix_ms: u64,
    ) -> (u64, Published, Vec<Forgotten>) {
        let mut forgotten = Vec::new();
        while let Some(ids) = self.users.get(user) {
            let is_past = ids.ring.front().is_some_and(|id| self.is_past(id.at_s, unix_ms));
            if !is_past && ids.ring.len() < self.limits.ids_per_user_max {
                break;
            }
            self.pop(user, &mut forgotten);
        }
        while self.len >= self.limits.ids_max {
            let Some((_, user)) = self.oldest.first().cloned() else { break };
            self.pop(&user, &mut forgotten);
        }
        let last_s = self.users.get(user).and_then(|ids| ids.ring.back()).map_or(0, |last| last.at_s);
        let id = Published { at_s: id.at_s.max(last_s), ..id };
        (self.push(user, id), id, forgotten)
    }

    /// Takes ids back from the log, where they stand in the order of their numbers.
    ///
    /// # Errors
    /// Ids in between are missing.
    pub(crate) fn restore(&mut self, user: &ByteString, first: u64, all: &[Published]) -> Result<(), String> {
        for (number, id) in (first..).zip(all) {
            if let Some(ids) = self.users.get(user).filter(|ids| ids.next() != number) {
                return Err(format!("id {number} of {user:?} follows after {} others", ids.next()));
            }
            if self.push(user, *id) != number {
                let ids = self.users.get_mut(user).expect("it was pushed");
                ids.first = number;
                ids.index_all(self.key);
            }
        }
        Ok(())
    }

    /// Forgets ids again that the log says were forgotten.
    pub(crate) fn forget(&mut self, Forgotten { user, to, .. }: &Forgotten) {
        while self.users.get(user).is_some_and(|ids| ids.first < *to) {
            self.pop(user, &mut Vec::new());
        }
    }

    /// Forgets ids that are past, at most so many; says whether there may be more.
    pub(crate) fn expire(&mut self, unix_ms: u64, at_most: usize) -> (Vec<Forgotten>, bool) {
        let mut forgotten = Vec::new();
        for _ in 0..at_most {
            let oldest = self.oldest.first().filter(|(at_s, _)| self.is_past(*at_s, unix_ms));
            let Some(user) = oldest.map(|(_, user)| user.clone()) else { return (forgotten, false) };
            self.pop(&user, &mut forgotten);
        }
        (forgotten, true)
    }

    /// When the oldest id is past, milliseconds since the Unix epoch.
    pub(crate) fn next_expiry_unix_ms(&self) -> Option<u64> {
        let (at_s, _) = self.oldest.first()?;
        Some((u64::from(*at_s) + u64::from(self.limits.age_s)) * 1000)
    }

    /// All that is known, by user: the number of the first and the ids from it on.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ByteString, u64, &VecDeque<Published>)> {
        self.users.iter().map(|(user, ids)| (user, ids.first, &ids.ring))
    }

    #[cfg(test)]
    pub(crate) fn recount(&self) -> usize {
        self.users.iter().map(|(user, ids)| user_bytes(user) + ids.bytes()).sum()
    }

    fn is_past(&self, at_s: u32, unix_ms: u64) -> bool {
        (u64::from(at_s) + u64::from(self.limits.age_s)) * 1000 <= unix_ms
    }

    fn push(&mut self, user: &ByteString, id: Published) -> u64 {
        if !self.users.contains_key(user) {
            self.held.grow(user_bytes(user));
            self.users.insert(compact(user), Ids::default());
            self.oldest.insert((id.at_s, compact(user)));
        }
        let ids = self.users.get_mut(user).expect("it was there or put there");
        let (number, before) = (ids.next(), ids.bytes());
        ids.push(id, self.key);
        self.len += 1;
        self.held.grow(ids.bytes() - before);
        number
    }

    /// Forgets a user's oldest id, and a user without ids: its numbers begin anew.
    fn pop(&mut self, user: &ByteString, forgotten: &mut Vec<Forgotten>) {
        let Some(ids) = self.users.get_mut(user) else { return };
        let Some(popped) = ids.pop(self.key) else { return };
        match forgotten.last_mut().filter(|last| last.user == *user && last.to == ids.first - 1) {
            Some(last) => last.to += 1,
            None => forgotten.push(Forgotten { user: user.clone(), from: ids.first - 1, to: ids.first }),
        }
        self.len -= 1;
        let (before, next) = (ids.bytes(), ids.ring.front().map(|id| id.at_s));
        if next != Some(popped.at_s) {
            self.oldest.remove(&(popped.at_s, user.clone()));
            self.oldest.extend(next.map(|at_s| (at_s, compact(user))));
        }
        if next.is_none() {
            self.users.remove(user);
            self.held.shrink(user_bytes(user) + before);
        } else {
            ids.shrink(self.key);
            self.held.shrink(before - ids.bytes());
        }
    }
}

/// A user without its ids.
fn user_bytes(user: &str) -> usize {
    USER_BYTES + user.len() * 2
}

#[cfg(test)]
mod tests;
