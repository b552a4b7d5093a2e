//! Who belongs to which conversation, how far each has read, and which sessions hear of it
//! (docs/protocol.md section 6).
//!
//! Owns the two tables that say it from both sides: a conversation's members, a user's conversations. Sessions
//! that asked for all of their user's conversations (`$im/mine`, `$im/inbox`) stand at each of them, so that a
//! message looks at sessions and not at members. Knows nothing of what a session is.
//!
//! Invariants: a user is a member on both sides or on none; a session hears exactly the conversations of its user;
//! a conversation without members and a user without conversations and sessions are not kept.

use bytestring::ByteString;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::conversation::Head;
use crate::inbox::{Reading, Tally};
use crate::memory::{Account, Held, MEMBER_BYTES, READER_BYTES, ROLL_BYTES, RUN_BYTES};
use crate::message::{MsgNo, compact};
use crate::names::ByName;
use crate::places::Places;
use crate::route::{Keyed, Listed, SessionKey, Subscriber};

/// A conversation that has members.
pub(crate) type RollKey = usize;

/// A user who is a member, or hears as one.
pub(crate) type ReaderKey = usize;

/// How many members there may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Of one conversation.
    pub(crate) members_max: usize,
    /// Conversations of one user.
    pub(crate) conversations_max: usize,
    /// All memberships together.
    pub(crate) memberships_max: usize,
}

/// A user in a conversation.
#[derive(Debug)]
pub(crate) struct Member {
    /// The highest number when it joined: what came before is not its.
    pub(crate) joined: u64,
    pub(crate) reading: Reading,
    /// The last change that only this member sees.
    pub(crate) version: u64,
}

/// The newest message of a conversation, for who looks at the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Last {
    pub(crate) seq: u64,
    pub(crate) from: ByteString,
    pub(crate) ts_unix_ms: u64,
    /// The beginning of its text, if it has any.
    pub(crate) preview: Option<ByteString>,
    /// Whether `preview` says so; otherwise it must be read.
    pub(crate) is_preview_known: bool,
}

/// A conversation with its members.
#[derive(Debug)]
pub(crate) struct Roll {
    pub(crate) topic: ByteString,
    pub(crate) members: FxHashMap<ReaderKey, Member>,
    pub(crate) tally: Tally,
    pub(crate) last: Option<Last>,
    /// When the newest message was accepted, kept or not.
    pub(crate) ts_unix_ms: u64,
    /// Its number among all messages, 0 = not known: it is not kept, or there is none.
    pub(crate) newest: MsgNo,
    /// The last change that every member sees.
    pub(crate) version: u64,
    /// Whether it waits to be told to those who watch.
    pub(crate) is_changed: bool,
    /// Sessions that get its messages.
    hearers: Listed<Subscriber>,
    /// Sessions that see it in their inbox.
    watchers: Listed<Watcher>,
}

impl Roll {
    /// The lowest read position of all members.
    pub(crate) fn lowest_read(&self) -> u64 {
        self.members.values().map(|member| member.reading.read).min().unwrap_or(u64::MAX)
    }
}

#[derive(Clone, Copy, Debug)]
struct Watcher(SessionKey);

impl Keyed for Watcher {
    fn key(&self) -> usize {
        self.0
    }
}

#[derive(Debug)]
struct Reader {
    name: ByteString,
    conversations: FxHashSet<RollKey>,
    hearers: Vec<Subscriber>,
    watchers: Vec<SessionKey>,
}

impl Reader {
    fn is_needed(&self) -> bool {
        !(self.conversations.is_empty() && self.hearers.is_empty() && self.watchers.is_empty())
    }
}

/// Why nobody more can be a member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooMany {
    #[error("the conversation has {0} members, its limit")]
    Members(usize),
    #[error("the user is a member of {0} conversations, the limit")]
    Conversations(usize),
    #[error("the broker keeps {0} memberships, its limit")]
    Memberships(usize),
}

#[derive(Debug)]
pub(crate) struct Members {
    rolls: Places<Roll>,
    by_topic: ByName<RollKey>,
    readers: Places<Reader>,
    by_user: ByName<ReaderKey>,
    memberships: usize,
    limits: Limits,
    /// Counts changes; each has its own number.
    version: u64,
    held: Held,
}

impl Members {
    pub(crate) fn new(limits: Limits, account: &Account) -> Self {
        Self {
            rolls: Places::new(),
            by_topic: ByName::default(),
            readers: Places::new(),
            by_user: ByName::default(),
            memberships: 0,
            limits,
            version: 0,
            held: account.hold(0),
        }
    }

    /// Says whether one more membership is within the limits; one that is there already is.
    pub(crate) fn check_join(&self, topic: &str, user: &str) -> Result<(), TooMany> {
        let roll = self.by_topic.get(topic).map(|key| &self.rolls[*key]);
        let reader = self.by_user.get(user).copied();
        if roll.zip(reader).is_some_and(|(roll, reader)| roll.members.contains_key(&reader)) {
            return Ok(());
        }
        let Limits { members_max, conversations_max, memberships_max } = self.limits;
        if roll.is_some_and(|roll| roll.members.len() >= members_max) {
            return Err(TooMany::Members(members_max));
        }
        if reader.is_some_and(|reader| self.readers[reader].conversations.len() >= conversations_max) {
            return Err(TooMany::Conversations(conversations_max));
        }
        if self.memberships >= memberships_max {
            return Err(TooMany::Memberships(memberships_max));
        }
        Ok(())
    }

    /// Makes a user a member; says whether it was none. `head` is the end of the conversation now.
    pub(crate) fn join(
        &mut self,
        topic: &ByteString,
        user: &ByteString,
        joined: u64,
        read: u64,
        head: Head,
    ) -> bool {
        let reader = self.reader_or_new(user);
        let roll = self.roll_or_new(topic, head);
        if self.rolls[roll].members.contains_key(&reader) {
            return false;
        }
        let version = self.next_version();
        let at = &mut self.rolls[roll];
        let reading = Reading { read: read.max(joined), ..Reading::default() };
        at.members.insert(reader, Member { joined, reading, version });
        let of = &mut self.readers[reader];
        of.conversations.insert(roll);
        for hearer in &of.hearers {
            at.hearers.insert(*hearer);
        }
        for watcher in &of.watchers {
            at.watchers.insert(Watcher(*watcher));
        }
        self.memberships += 1;
        self.held.grow(MEMBER_BYTES);
        true
    }

    /// Takes a membership back from the log: a new one, or how far it has read.
    pub(crate) fn restore(
        &mut self,
        topic: &ByteString,
        user: &ByteString,
        joined: u64,
        read: u64,
        head: Head,
    ) {
        if !self.join(topic, user, joined, read, head)
            && let (Some(&roll), Some(&reader)) = (self.by_topic.get(topic), self.by_user.get(user))
            && let Some(member) = self.rolls[roll].members.get_mut(&reader)
        {
            member.reading.move_to(read);
        }
    }

    /// Forgets what is known of a conversation's messages but the first that is kept and the end; returns the
    /// lowest read position.
    pub(crate) fn begin_again(&mut self, roll: RollKey, first: u64, head: Head) -> u64 {
        let at = &mut self.rolls[roll];
        self.held.shrink(size_of_counts(at));
        (at.tally, at.ts_unix_ms) = (Tally::of(first, head.seq), head.ts_unix_ms);
        at.members.values().map(|member| member.reading.read).min().unwrap_or(0)
    }

    /// Ends a membership; says whether there was one.
    pub(crate) fn leave(&mut self, topic: &str, user: &str) -> bool {
        let (Some(&roll), Some(&reader)) = (self.by_topic.get(topic), self.by_user.get(user)) else {
            return false;
        };
        let at = &mut self.rolls[roll];
        let Some(member) = at.members.remove(&reader) else { return false };
        let of = &mut self.readers[reader];
        of.conversations.remove(&roll);
        for hearer in &of.hearers {
            at.hearers.remove(hearer.session);
        }
        for watcher in &of.watchers {
            at.watchers.remove(*watcher);
        }
        self.memberships -= 1;
        self.held.shrink(MEMBER_BYTES + member.reading.own.len() * RUN_BYTES);
        self.version += 1;
        self.forget_roll(roll);
        self.forget_reader(reader);
        true
    }

    /// A session of a user hears all of its conversations from now on, or otherwise than before.
    pub(crate) fn hear(&mut self, user: &ByteString, hearer: Subscriber) {
        let reader = self.reader_or_new(user);
        let of = &mut self.readers[reader];
        match of.hearers.iter_mut().find(|h| h.session == hearer.session) {
            Some(known) => *known = hearer,
            None => of.hearers.push(hearer),
        }
        for roll in &of.conversations {
            self.rolls[*roll].hearers.insert(hearer);
        }
    }

    /// A session hears its user's conversations no more.
    pub(crate) fn unhear(&mut self, user: &str, session: SessionKey) {
        let Some(&reader) = self.by_user.get(user) else { return };
        let of = &mut self.readers[reader];
        if !of.hearers.iter().any(|h| h.session == session) {
            return;
        }
        of.hearers.retain(|h| h.session != session);
        for roll in &of.conversations {
            self.rolls[*roll].hearers.remove(session);
        }
        self.forget_reader(reader);
    }

    /// A session sees its user's inbox from now on.
    pub(crate) fn watch(&mut self, user: &ByteString, session: SessionKey) {
        let reader = self.reader_or_new(user);
        let of = &mut self.readers[reader];
        if !of.watchers.contains(&session) {
            of.watchers.push(session);
        }
        for roll in &of.conversations {
            self.rolls[*roll].watchers.insert(Watcher(session));
        }
    }

    /// A session sees its user's inbox no more.
    pub(crate) fn unwatch(&mut self, user: &str, session: SessionKey) {
        let Some(&reader) = self.by_user.get(user) else { return };
        let of = &mut self.readers[reader];
        if !of.watchers.contains(&session) {
            return;
        }
        of.watchers.retain(|s| *s != session);
        for roll in &of.conversations {
            self.rolls[*roll].watchers.remove(session);
        }
        self.forget_reader(reader);
    }

    /// The sessions that get a conversation's messages as its members'.
    pub(crate) fn hearers(&self, roll: RollKey) -> &[Subscriber] {
        self.rolls[roll].hearers.as_slice()
    }

    /// A user's sessions that get its conversations' messages.
    pub(crate) fn hearers_of(&self, user: &str) -> Vec<SessionKey> {
        let hearers = self.by_user.get(user).map(|key| &self.readers[*key].hearers);
        hearers.into_iter().flatten().map(|hearer| hearer.session).collect()
    }

    /// The sessions that see a conversation in their inbox.
    pub(crate) fn watchers(&self, roll: RollKey) -> impl Iterator<Item = SessionKey> {
        self.rolls[roll].watchers.as_slice().iter().map(|watcher| watcher.0)
    }

    /// The sessions that see a user's inbox.
    pub(crate) fn watchers_of(&self, user: &str) -> Vec<SessionKey> {
        self.by_user.get(user).map_or(Vec::new(), |key| self.readers[*key].watchers.clone())
    }

    pub(crate) fn roll(&self, topic: &str) -> Option<RollKey> {
        self.by_topic.get(topic).copied()
    }

    pub(crate) fn get(&self, roll: RollKey) -> &Roll {
        &self.rolls[roll]
    }

    pub(crate) fn member(&self, topic: &str, user: &str) -> Option<&Member> {
        let (roll, reader) = (self.by_topic.get(topic)?, self.by_user.get(user)?);
        self.rolls[*roll].members.get(reader)
    }

    pub(crate) fn is_member(&self, topic: &str, user: &str) -> bool {
        self.member(topic, user).is_some()
    }

    /// A user's conversations with what is its own in them, in no order.
    pub(crate) fn conversations_of(&self, user: &str) -> impl Iterator<Item = (RollKey, &Roll, &Member)> {
        let reader = self.by_user.get(user).copied();
        let rolls =
            reader.map(|reader| self.readers[reader].conversations.iter().map(move |roll| (reader, *roll)));
        rolls.into_iter().flatten().filter_map(|(reader, key)| {
            let roll = &self.rolls[key];
            Some((key, roll, roll.members.get(&reader)?))
        })
    }

    /// A conversation's members, in no order: each with where it joined and how far it has read.
    pub(crate) fn readers(&self, roll: RollKey) -> impl Iterator<Item = (ByteString, u64, u64)> {
        let members = self.rolls[roll].members.iter();
        members.map(|(reader, m)| (self.readers[*reader].name.clone(), m.joined, m.reading.read))
    }

    /// All memberships, in no order: topic, user, and how far it is.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ByteString, &ByteString, &Member)> {
        self.rolls.iter().flat_map(|(_, roll)| {
            roll.members.iter().map(|(reader, member)| (&roll.topic, &self.readers[*reader].name, member))
        })
    }

    /// Every conversation with members, in no order.
    pub(crate) fn rolls(&self) -> impl Iterator<Item = (RollKey, &Roll)> {
        self.rolls.iter()
    }

    /// Notes that every member sees a conversation changed; says whether it is news to be told.
    pub(crate) fn changed(&mut self, roll: RollKey) -> bool {
        let version = self.next_version();
        let at = &mut self.rolls[roll];
        at.version = version;
        !at.watchers.as_slice().is_empty() && !std::mem::replace(&mut at.is_changed, true)
    }

    /// Says, once, whether a conversation waits to be told; there may be none at the place any more.
    pub(crate) fn take_changed(&mut self, roll: RollKey) -> bool {
        self.rolls.get_mut(roll).is_some_and(|roll| std::mem::take(&mut roll.is_changed))
    }

    pub(crate) fn has_roll(&self, roll: RollKey) -> bool {
        self.rolls.get(roll).is_some()
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Takes a message of a conversation with members.
    pub(crate) fn post(
        &mut self,
        roll: RollKey,
        (message, head): (MsgNo, Head),
        expiry_unix_ms: Option<u64>,
        from: &str,
    ) {
        let by = self.by_user.get(from).copied();
        let at = &mut self.rolls[roll];
        let seq = head.seq;
        (at.ts_unix_ms, at.newest) = (head.ts_unix_ms, message);
        let by = by.filter(|by| at.members.contains_key(by));
        let before = at.tally.len();
        at.tally.post(seq, expiry_unix_ms, by);
        let mut grown = at.tally.len() - before;
        if let Some(member) = by.and_then(|by| at.members.get_mut(&by))
            && seq > member.reading.read
        {
            let before = member.reading.own.len();
            member.reading.own.insert(seq);
            grown += member.reading.own.len() - before;
        }
        self.held.grow(grown * RUN_BYTES);
    }

    /// Notes that a conversation does not keep these numbers, see [`Tally::miss`].
    pub(crate) fn miss(&mut self, roll: RollKey, first: u64, last: u64) {
        let tally = &mut self.rolls[roll].tally;
        let before = tally.len();
        tally.miss(first, last);
        self.held.grow((tally.len() - before) * RUN_BYTES);
    }

    /// Counts a conversation's messages that have expired no more; says whether there were any.
    pub(crate) fn expire(&mut self, roll: RollKey, now_unix_ms: u64) -> bool {
        let at = &mut self.rolls[roll];
        let before = size_of_counts(at);
        let mut any = false;
        while let Some((seq, by)) = at.tally.expire(now_unix_ms) {
            any = true;
            if let Some(member) = by.and_then(|by| at.members.get_mut(&by)) {
                let runs = member.reading.own.len();
                member.reading.own.remove(seq);
                self.held.grow(member.reading.own.len().saturating_sub(runs) * RUN_BYTES);
                self.held.shrink(runs.saturating_sub(member.reading.own.len()) * RUN_BYTES);
            }
        }
        let after = size_of_counts(at);
        self.held.shrink(before.saturating_sub(after));
        self.held.grow(after.saturating_sub(before));
        any
    }

    /// Counts what is below the first kept number no more; says whether that changed anything.
    pub(crate) fn keep_from(&mut self, roll: RollKey, first: u64) -> bool {
        let at = &mut self.rolls[roll];
        let before = size_of_counts(at);
        let changed = at.tally.keep_from(first);
        self.held.shrink(before - size_of_counts(at));
        changed
    }

    /// Moves a member's read position up; returns where it was, `None` if it does not move.
    pub(crate) fn read(&mut self, topic: &str, user: &str, seq: u64) -> Option<u64> {
        let (roll, reader) = (*self.by_topic.get(topic)?, *self.by_user.get(user)?);
        let version = self.next_version();
        let at = &mut self.rolls[roll];
        let seq = seq.min(at.tally.last());
        let member = at.members.get_mut(&reader)?;
        let before = member.reading.read;
        if seq <= before {
            return None;
        }
        let runs = member.reading.own.len();
        member.reading.move_to(seq);
        member.version = version;
        self.held.shrink((runs - member.reading.own.len()) * RUN_BYTES);
        Some(before)
    }

    fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    fn roll_or_new(&mut self, topic: &ByteString, head: Head) -> RollKey {
        if let Some(key) = self.by_topic.get(topic) {
            return *key;
        }
        let topic = compact(topic);
        self.held.grow(ROLL_BYTES + topic.len());
        let key = self.rolls.insert(Roll {
            topic: topic.clone(),
            members: FxHashMap::default(),
            tally: Tally::new(head.seq),
            last: None,
            ts_unix_ms: head.ts_unix_ms,
            newest: MsgNo(0),
            version: 0,
            is_changed: false,
            hearers: Listed::default(),
            watchers: Listed::default(),
        });
        self.by_topic.insert(topic, key);
        key
    }

    fn forget_roll(&mut self, key: RollKey) {
        if self.rolls[key].members.is_empty() {
            let roll = self.rolls.remove(key);
            self.by_topic.remove(&roll.topic);
            self.held
                .shrink(ROLL_BYTES + roll.topic.len() + size_of_counts(&roll) + size_of_last(&roll.last));
        }
    }

    fn reader_or_new(&mut self, user: &ByteString) -> ReaderKey {
        if let Some(key) = self.by_user.get(user) {
            return *key;
        }
        let name = compact(user);
        self.held.grow(READER_BYTES + name.len());
        let reader = Reader {
            name: name.clone(),
            conversations: FxHashSet::default(),
            hearers: Vec::new(),
            watchers: Vec::new(),
        };
        let key = self.readers.insert(reader);
        self.by_user.insert(name, key);
        key
    }

    fn forget_reader(&mut self, key: ReaderKey) {
        if !self.readers[key].is_needed() {
            let reader = self.readers.remove(key);
            self.by_user.remove(&reader.name);
            self.held.shrink(READER_BYTES + reader.name.len());
        }
    }

    /// Keeps the newest message for who looks at the list.
    pub(crate) fn set_last(&mut self, roll: RollKey, last: Option<Last>) {
        let at = &mut self.rolls[roll];
        self.held.shrink(size_of_last(&at.last));
        self.held.grow(size_of_last(&last));
        at.last = last;
    }

    #[cfg(test)]
    pub(crate) fn recount(&self) -> usize {
        let rolls = self.rolls.iter().map(|(_, roll)| {
            let runs: usize = roll.members.values().map(|m| m.reading.own.len()).sum();
            let counts = size_of_counts(roll) + size_of_last(&roll.last) + runs * RUN_BYTES;
            ROLL_BYTES + roll.topic.len() + roll.members.len() * MEMBER_BYTES + counts
        });
        let readers = self.readers.iter().map(|(_, reader)| READER_BYTES + reader.name.len());
        rolls.sum::<usize>() + readers.sum::<usize>()
    }
}

fn size_of_counts(roll: &Roll) -> usize {
    roll.tally.len() * RUN_BYTES
}

fn size_of_last(last: &Option<Last>) -> usize {
    last.as_ref().map_or(0, |l| l.from.len() + l.preview.as_ref().map_or(0, |p| p.len()))
}
