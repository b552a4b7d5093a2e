//! `$im/inbox` and `$im/read`: what of a user's conversations is unread, told at once and then at each change.
//!
//! Nothing of it is stored or queued: a session is sent the whole list when it subscribes and when it comes back,
//! then what changed since it was told last, at most every `CHANGES_EVERY_MS`. A message costs one mark at its
//! conversation; who watches it is looked at when the changes are told, in portions. Conversations that the user may not
//! read are not shown, and their messages not counted.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytestring::ByteString;
use protocol::QoS;
use protocol::im::{INBOX_ENTRIES_MAX, INBOX_TOPIC, Inbox, ReadRequest};
use rustc_hash::{FxHashMap, FxHashSet};

use super::Shard;
use super::accept::Refused;
use super::backlog::Work;
use super::inbox_list::Place;
use super::preview::{PreviewFor, Previews};
use super::queue::Way;
use crate::ask::{Answer, AskId};
use crate::conversation::Head;
use crate::member::{Last, Member, Roll, RollKey};
use crate::message::{Delivery, Message, Origin};
use crate::principal::Principal;
use crate::record::Entry;
use crate::rights::Rights;
use crate::route::SessionKey;
use crate::timers::Deadline;
use crate::{ConnId, Now};

/// Changes are told at most this often.
const CHANGES_EVERY_MS: u64 = 100;

/// Conversations a session's user left that are remembered to be told; with more the whole list is told.
const LEFT_MAX: usize = INBOX_ENTRIES_MAX;

/// What the inboxes are about to be told.
#[derive(Debug, Default)]
pub(super) struct Inboxes {
    sessions: FxHashMap<SessionKey, Watching>,
    /// Conversations that changed since changes were told last.
    changed: Vec<RollKey>,
    /// Sessions that have something to be told.
    due: BTreeSet<SessionKey>,
    told_ms: Option<u64>,
    /// The latest Unix time seen: what has expired stays so when the clock goes back.
    unix_ms: u64,
}

/// A session that watches its user's inbox.
#[derive(Debug, Default)]
struct Watching {
    /// The newest change that it was told of; `None` before it was told the list.
    told: Option<u64>,
    /// Conversations that its user left since.
    left: Vec<ByteString>,
    /// Conversations of its user that it may not read. A place in it may have become nobody's.
    hidden: FxHashSet<RollKey>,
    /// Previews are being read for it.
    is_reading: bool,
}

/// What is asked over HTTP.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) user: ByteString,
    /// Who asks, where its rights decide what is shown.
    pub(super) by: Option<Box<Principal>>,
    pub(super) cursor: Option<ByteString>,
    pub(super) limit: usize,
}

impl Shard {
    /// The session watches its user's inbox from now on, and is told the list.
    pub(super) fn watch_inbox(&mut self, key: SessionKey) {
        let user = self.sessions[key].user.clone();
        self.members.watch(&user, key);
        self.inboxes.sessions.insert(key, Watching::default());
    }

    pub(super) fn unwatch_inbox(&mut self, key: SessionKey, user: &str) {
        if self.inboxes.sessions.remove(&key).is_some() {
            self.members.unwatch(user, key);
            self.inboxes.due.remove(&key);
        }
    }

    /// A session that watches is connected, or subscribed again: it is told the list.
    pub(super) fn show_inbox(&mut self, now: Now, key: SessionKey) {
        if let Some(watching) = self.inboxes.sessions.get_mut(&key) {
            *watching = Watching::default();
            self.tell_inbox(now, key);
        }
    }

    /// A conversation changed for all its members.
    pub(super) fn inbox_changed(&mut self, now: Now, roll: RollKey) {
        if self.members.changed(roll) {
            self.inboxes.changed.push(roll);
            self.tell_changes_soon(now);
        }
    }

    /// Something changed for one user.
    pub(super) fn inbox_touched(&mut self, now: Now, user: &str) {
        let watchers = self.members.watchers_of(user);
        if !watchers.is_empty() {
            self.inboxes.due.extend(watchers);
            self.tell_changes_soon(now);
        }
    }

    /// A user is no member any more.
    pub(super) fn inbox_left(&mut self, now: Now, user: &str, topic: &ByteString) {
        for key in self.members.watchers_of(user) {
            if let Some(watching) = self.inboxes.sessions.get_mut(&key) {
                if watching.left.len() >= LEFT_MAX {
                    watching.told = None;
                } else {
                    watching.left.push(topic.clone());
                }
            }
        }
        self.inbox_touched(now, user);
    }

    fn tell_changes_soon(&mut self, now: Now) {
        let due_ms = self.inboxes.told_ms.map_or(now.monotonic_ms, |told| told + CHANGES_EVERY_MS);
        self.timers.set(Deadline::Inboxes, due_ms.max(now.monotonic_ms));
    }

    /// Finds out who is to be told what changed.
    pub(super) fn inboxes_due(&mut self, now: Now) {
        self.inboxes.told_ms = Some(now.monotonic_ms);
        for roll in std::mem::take(&mut self.inboxes.changed) {
            // Its place may be another conversation's by now.
            if self.members.take_changed(roll) {
                self.inboxes.due.extend(self.members.watchers(roll));
            }
        }
        self.backlog.push_back(Work::Inboxes);
    }

    /// Tells the next sessions.
    pub(super) fn tell_inboxes(&mut self, now: Now) {
        let before = self.effort;
        while let Some(key) = self.inboxes.due.pop_first() {
            self.tell_inbox(now, key);
            if self.effort - before > EFFORT_PER_TURN {
                self.backlog.push_back(Work::Inboxes);
                return;
            }
        }
    }

    /// The connection takes more again: what it missed is told now.
    pub(super) fn inbox_drained(&mut self, now: Now, key: SessionKey) {
        if self.inboxes.sessions.contains_key(&key) {
            self.inboxes.due.insert(key);
            self.tell_changes_soon(now);
        }
    }

    /// Tells a session what changed, or the whole list. One that is away or reads too slowly is told later what it
    /// has missed until then.
    fn tell_inbox(&mut self, now: Now, key: SessionKey) {
        if !self.inboxes.sessions.contains_key(&key) {
            return;
        }
        let Way::Send(conn) = self.way(key, QoS::AtMostOnce, false) else { return };
        let user = self.sessions[key].user.clone();
        self.effort += self.members.conversations_of(&user).count() / 4;
        self.find_hidden(key, conn, &user);
        let Some(watching) = self.inboxes.sessions.get(&key) else { return };
        let (told, is_list) = (watching.told, watching.told.is_none());
        let is_seen = |roll: RollKey, _: &Roll| !watching.hidden.contains(&roll);
        let list = || self.list((&user, &is_seen), None, INBOX_ENTRIES_MAX, self.list_bytes_max(conn));
        let inbox = match told {
            Some(told) => match self.changes((&user, &is_seen), told, &watching.left) {
                Some(changes) if changes.conversations.is_empty() => None,
                Some(changes) => Some(changes),
                None => Some(list()),
            },
            None => Some(list()),
        };
        let unknown = inbox.as_ref().map_or(Vec::new(), |inbox| self.unknown_previews(now, inbox));
        if !unknown.is_empty() {
            return self.read_previews(key, unknown);
        }
        let version = self.members.version();
        if let Some(watching) = self.inboxes.sessions.get_mut(&key) {
            (watching.told, watching.left) = (Some(version), Vec::new());
        }
        let Some(inbox) = inbox else { return };
        if !self.send_inbox(now, key, conn, &inbox) && !is_list {
            // Too large as changes: as a list it is cut to what the client takes.
            let Some(Watching { hidden, .. }) = self.inboxes.sessions.get(&key) else { return };
            let is_seen = |roll: RollKey, _: &Roll| !hidden.contains(&roll);
            let list = self.list((&user, &is_seen), None, INBOX_ENTRIES_MAX, self.list_bytes_max(conn));
            self.send_inbox(now, key, conn, &list);
        }
    }

    /// Finds which conversations a session may not read, of those that are new to it or changed; all of them where it is
    /// to be told the whole list.
    fn find_hidden(&mut self, key: SessionKey, conn: ConnId, user: &str) {
        // Brings them up to the rules of now.
        self.may_send(conn, INBOX_TOPIC);
        let Some(rights) = self.conns.get(&conn).map(|c| &c.rights) else { return };
        let Some(watching) = self.inboxes.sessions.get_mut(&key) else { return };
        if watching.told.is_none() {
            watching.hidden.clear();
        }
        if rights.is_unrestricted() {
            return;
        }
        let mut asked = 0;
        for (roll, at, member) in self.members.conversations_of(user) {
            if watching.told.is_some_and(|told| at.version.max(member.version) <= told) {
                continue;
            }
            asked += 1;
            match rights.may_read(&at.topic) {
                true => watching.hidden.remove(&roll),
                false => watching.hidden.insert(roll),
            };
        }
        self.effort += asked * (1 + rights.rules()) / 8;
    }

    /// The node's rules changed, or those of one session: who watches is told the list by those of now.
    pub(super) fn show_inboxes_again(&mut self, now: Now, only: Option<SessionKey>) {
        let sessions = self.inboxes.sessions.iter_mut();
        for (key, watching) in sessions.filter(|(key, _)| only.is_none_or(|only| only == **key)) {
            watching.told = None;
            self.inboxes.due.insert(*key);
        }
        self.tell_changes_soon(now);
    }

    /// Has previews read that a session is to be told, unless that is under way.
    fn read_previews(&mut self, key: SessionKey, messages: Vec<(RollKey, Arc<Message>)>) {
        let Some(watching) = self.inboxes.sessions.get_mut(&key) else { return };
        if !std::mem::replace(&mut watching.is_reading, true) {
            let waiting = PreviewFor::Session(self.sessions[key].no);
            self.fetch_previews(Previews { messages, waiting });
        }
    }

    /// Previews were read for a session.
    pub(super) fn go_on_telling_inbox(&mut self, now: Now, key: SessionKey) {
        if let Some(watching) = self.inboxes.sessions.get_mut(&key) {
            watching.is_reading = false;
            self.tell_inbox(now, key);
        }
    }

    fn send_inbox(&mut self, now: Now, key: SessionKey, conn: ConnId, inbox: &Inbox) -> bool {
        let payload = serde_json::to_string(inbox).expect("a struct of strings and numbers is JSON");
        let topic = ByteString::from_static(INBOX_TOPIC);
        let message = self.own_message(now, topic, payload.into(), QoS::AtMostOnce);
        // It speaks of what may not be durable yet.
        let (record, is_gated) = (self.last_or_this_ticket(), true);
        let message = Arc::new(Message { record, is_gated, ..Message::clone(&message) });
        let subscription = self.sessions[key].subscriptions.get(INBOX_TOPIC);
        let subscription_identifiers = subscription.and_then(|s| s.identifier).into_iter().collect();
        let (qos, retain, origin) = (QoS::AtMostOnce, false, Origin::Retained);
        let delivery = Delivery { message, qos, retain, origin, subscription_identifiers };
        let sent = self.turn.sends.len();
        self.send_at_most_once(now, key, conn, delivery);
        self.turn.sends.len() > sent
    }

    /// Answers who asks over HTTP.
    pub(super) fn answer_inbox(&mut self, now: Now, ask: AskId, page: Page) {
        let after = match page.cursor.as_deref().map(Place::parse) {
            None => None,
            Some(Some(after)) => Some(after),
            Some(None) => {
                let what = "the cursor is not one of the field next";
                return self.answer(ask, Answer::Invalid(what.to_owned()));
            }
        };
        let limit = page.limit.clamp(1, INBOX_ENTRIES_MAX);
        let rights = page.by.as_ref().map(|by| Rights::new(&self.rules, by, "", &page.user));
        let is_seen = |_, roll: &Roll| rights.as_ref().is_none_or(|rights| rights.may_read(&roll.topic));
        let list = self.list((&page.user, &is_seen), after.as_ref(), limit, usize::MAX);
        let messages = self.unknown_previews(now, &list);
        if !messages.is_empty() {
            let waiting = PreviewFor::Page(ask, page);
            return self.fetch_previews(Previews { messages, waiting });
        }
        let list = serde_json::to_string(&list).expect("a struct of strings and numbers is JSON");
        self.answer(ask, Answer::Json(list));
    }

    /// Moves a user's read position; the change is in the turn's record.
    pub(super) fn read_up_to(&mut self, now: Now, conn: ConnId, payload: &[u8]) -> Result<(), Refused> {
        let request = ReadRequest::parse(payload).map_err(Refused::request)?;
        let Some(key) = self.conns.get(&conn).map(|c| c.session) else { return Ok(()) };
        let (user, topic) = (self.sessions[key].user.clone(), request.topic.as_str());
        if !self.may_send(conn, topic) {
            return Err(Refused::not_authorized(&format!("{topic:?} may not be read")));
        }
        if topic.contains(['+', '#']) || self.conversations.rule(topic).is_none() {
            return Err(Refused::request(format!("{topic:?} is no conversation")));
        }
        let Some(roll) = self.members.roll(topic).filter(|_| self.members.is_member(topic, &user)) else {
            self.guest_reached(now, &user, &ByteString::from(topic), request.seq);
            return Ok(());
        };
        let Some(before) = self.members.read(topic, &user, request.seq) else { return Ok(()) };
        let topic = self.members.get(roll).topic.clone();
        if let Some(member) = self.members.member(&topic, &user) {
            let (joined, read) = (member.joined, member.reading.read);
            self.write(&Entry::Member { topic: topic.clone(), user: user.clone(), joined, read });
            self.read_reached(now, &user, &topic, before, read);
        }
        self.inbox_touched(now, &user);
        Ok(())
    }

    /// Notes when the next message of a conversation expires for those who have not read it.
    pub(super) fn watch_unread(&mut self, now: Now, roll: RollKey) {
        let deadline = Deadline::Unread(roll as u64);
        match self.members.get(roll).tally.next_expiry_unix_ms() {
            Some(at) => {
                let left_ms = at.saturating_sub(self.unix_seen(now));
                self.timers.set(deadline, now.monotonic_ms.saturating_add(left_ms));
            }
            None => self.timers.clear(deadline),
        }
    }

    /// Counts messages of a conversation no more that have expired.
    pub(super) fn unread_due(&mut self, now: Now, roll: RollKey) {
        let unix_ms = self.unix_seen(now);
        if !self.members.has_roll(roll) {
            return;
        }
        if self.members.expire(roll, unix_ms) {
            self.forget_last_gone(roll);
            self.inbox_changed(now, roll);
        }
        self.watch_unread(now, roll);
    }

    /// Counts anew what members have not read, from what is kept of their conversations.
    pub(super) fn recount_members(&mut self, now: Now) {
        let rolls: Vec<_> = self.members.rolls().map(|(key, roll)| (key, roll.topic.clone())).collect();
        for (roll, topic) in rolls {
            let (first, end) = (self.conversations.first_seq(&topic), self.conversations.end(&topic));
            let read = self.members.begin_again(roll, first, end);
            let mut next = first.max(read + 1);
            for stored in self.conversations.range(&topic, next) {
                if stored.seq > next {
                    self.members.miss(roll, next, stored.seq - 1);
                }
                next = stored.seq + 1;
                let head = Head { seq: stored.seq, ts_unix_ms: stored.ts_unix_ms };
                let expiry = Some(stored.expiry_unix_ms).filter(|at| *at > 0);
                let from = self.conversations.sender(stored.sender).map_or("", |name| name);
                self.members.post(roll, (stored.no, head), expiry, from);
            }
            if next <= end.seq {
                self.members.miss(roll, next, end.seq);
            }
            self.find_last(&topic);
            self.unread_due(now, roll);
        }
    }

    /// Finds the newest message of a conversation with members; its preview is read when it is asked for.
    pub(super) fn find_last(&mut self, topic: &ByteString) {
        let Some(roll) = self.members.roll(topic) else { return };
        let newest = self.conversations.get(topic, self.conversations.last_seq(topic)).map(|stored| {
            let from = self.conversations.sender(stored.sender).cloned().unwrap_or_default();
            let (seq, ts_unix_ms) = (stored.seq, stored.ts_unix_ms);
            Last { seq, from, ts_unix_ms, preview: None, is_preview_known: false }
        });
        self.members.set_last(roll, newest);
    }

    /// The oldest messages of a conversation are not kept any more.
    pub(super) fn members_given_up(&mut self, now: Now, topic: &str) {
        let Some(roll) = self.members.roll(topic) else { return };
        if self.members.keep_from(roll, self.conversations.first_seq(topic)) {
            self.forget_last_gone(roll);
            self.watch_unread(now, roll);
            self.inbox_changed(now, roll);
        }
    }

    /// Counts one by one what a user has not read: what the inbox says must be the same at every moment.
    #[doc(hidden)]
    pub fn recount_unread(&self, user: &str) -> Vec<(ByteString, u64)> {
        let one = |(_, roll, member): (RollKey, &Roll, &Member)| {
            let above = self.conversations.range(&roll.topic, member.reading.read + 1);
            let others =
                above.filter(|s| self.conversations.sender(s.sender).is_none_or(|from| from != user));
            let unread = others.filter(|stored| !roll.tally.is_past(stored.expiry_unix_ms)).count() as u64;
            (roll.topic.clone(), unread)
        };
        let mut all: Vec<_> = self.members.conversations_of(user).map(one).collect();
        all.sort_unstable();
        all
    }

    /// What the inbox says of each of a user's conversations.
    #[doc(hidden)]
    pub fn unread(&self, user: &str) -> Vec<(ByteString, u64)> {
        let all = self.members.conversations_of(user);
        let one =
            |(_, roll, member): (_, &Roll, &Member)| (roll.topic.clone(), roll.tally.unread(&member.reading));
        let mut all: Vec<_> = all.map(one).collect();
        all.sort_unstable();
        all
    }

    /// A message that is not kept any more is not shown.
    pub(super) fn forget_last_gone(&mut self, roll: RollKey) {
        let at = self.members.get(roll);
        if at.last.as_ref().is_some_and(|last| !at.tally.has(last.seq)) {
            self.members.set_last(roll, None);
        }
    }

    /// Returns the Unix time, never less than before.
    fn unix_seen(&mut self, now: Now) -> u64 {
        self.inboxes.unix_ms = self.inboxes.unix_ms.max(now.unix_ms);
        self.inboxes.unix_ms
    }
}

/// Conversations that are gone through in one turn, as effort.
const EFFORT_PER_TURN: usize = 2_000;
