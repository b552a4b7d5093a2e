//! Members of conversations: joining and leaving, what a message does for them, and `$im/mine`.

use bytestring::ByteString;
use protocol::filter_matches;

use super::backlog::{ENDS_PER_TURN_MAX, Work};
use super::inbox::Page;
use super::share::Load;
use super::{Shard, Wait};
use crate::ask::{Answer, AskId, Question};
use crate::conversation::Head;
use crate::member::Last;
use crate::memory::MEMBER_BYTES;
use crate::message::{Message, compact};
use crate::planted::Planted;
use crate::principal::Principal;
use crate::receipt::Outcome;
use crate::record::{Entry, SessionNo, Source};
use crate::rights::Rights;
use crate::route::{SessionKey, Subscriber};
use crate::{ConnId, Now, Output};

/// Bytes of a user's name as a member.
const USER_BYTES_MAX: usize = 1024;

/// A connection that nobody has: what goes to no client waits for its record only.
const NOBODY: ConnId = ConnId(u64::MAX);

impl Shard {
    /// Answers somebody who is no MQTT client, when what the answer vouches for is durable.
    pub(super) fn asked(&mut self, now: Now, ask: AskId, question: Question) {
        let answer = match question {
            Question::Join { topic, user, by } => self.join(now, &topic, &user, by.as_deref()),
            Question::Leave { topic, user } => self.leave(now, &topic, &user),
            Question::SetAside { client } => self.list_set_aside(&client),
            Question::Replay { client, message } => self.replay_set_aside(now, &client, message),
            Question::Drop { client, message } => self.drop_set_aside(&client, message),
            Question::Inbox { user, by, cursor, limit } => {
                let page = Page { user, by, cursor, limit };
                return self.answer_inbox(now, ask, page);
            }
        };
        self.answer(ask, answer);
    }

    /// Answers who asked, when what the answer vouches for is durable.
    pub(super) fn answer(&mut self, ask: AskId, answer: Answer) {
        // What was done before and is not durable yet is answered for, too.
        let wait = Wait::Ticket(self.last_or_this_ticket());
        self.turn.sends.push((wait, NOBODY, Output::Answered { ask, answer }));
    }

    fn join(&mut self, now: Now, topic: &ByteString, user: &ByteString, by: Option<&Principal>) -> Answer {
        if let Err(answer) = self.check_membership(topic, user) {
            return answer;
        }
        if let Some(by) = by {
            let rights = Rights::new(&self.rules, by, "", user);
            if let Err(denied) = rights.may_subscribe(topic) {
                return Answer::Forbidden(format!("{user:?} may not read {topic:?}: {denied}"));
            }
        }
        if self.members.is_member(topic, user) {
            return Answer::Done;
        }
        if let Err(limit) = self.members.check_join(topic, user) {
            return Answer::Full(limit.to_string());
        }
        if self.store_full {
            return Answer::Full("the broker's store is full".to_owned());
        }
        let (topic, user) = (compact(topic), compact(user));
        if let Err(what) = self.memory.room_for(MEMBER_BYTES + topic.len() + user.len()) {
            return Answer::Full(what);
        }
        let head = self.conversations.end(&topic);
        let (joined, read) = (head.seq, head.seq);
        let is_first = self.members.roll(&topic).is_none();
        self.members.join(&topic, &user, joined, read, head);
        if is_first {
            self.find_last(&topic);
        }
        self.write(&Entry::Member { topic, user: user.clone(), joined, read });
        self.inbox_touched(now, &user);
        Answer::Done
    }

    fn leave(&mut self, now: Now, topic: &ByteString, user: &ByteString) -> Answer {
        if let Err(answer) = self.check_membership(topic, user) {
            return answer;
        }
        if !self.members.is_member(topic, user) {
            return Answer::Done;
        }
        let sessions = self.members.hearers_of(user).into_iter();
        let sessions: Vec<_> = sessions.map(|key| (key, self.leave_missed(key, topic))).collect();
        self.reader_leaves(user, topic);
        self.members.leave(topic, user);
        self.write(&Entry::MemberLeft { topic: compact(topic), user: compact(user) });
        self.inbox_left(now, user, topic);
        for (key, missed) in sessions {
            self.left_missed(key, missed);
            self.review_cursors(key);
            self.forget_mine_later(key, topic);
        }
        Answer::Done
    }

    fn check_membership(&self, topic: &ByteString, user: &str) -> Result<(), Answer> {
        let levels_max = self.config.topic_levels_max;
        if let Err(refused) = self.check_topic(topic, levels_max) {
            return Err(Answer::Invalid(format!("topic {topic:?}: {}", refused.what)));
        }
        if topic.is_empty() || topic.contains(['+', '#', '\0']) || topic.len() > usize::from(u16::MAX) {
            return Err(Answer::Invalid(format!(
                "{topic:?} is no topic: it is empty, too long or has a wildcard"
            )));
        }
        if user.is_empty() || user.len() > USER_BYTES_MAX || user.contains(char::is_control) {
            let what = format!("a user's name has 1 to {USER_BYTES_MAX} bytes and no control characters");
            return Err(Answer::Invalid(what));
        }
        if self.conversations.rule(topic).is_none() {
            let what =
                format!("{topic:?} is no conversation: no [[conversation]] rule of the broker matches it");
            return Err(Answer::NotFound(what));
        }
        Ok(())
    }

    /// What a message of a conversation means for its members: nothing is stored for any of them.
    pub(super) fn posted(&mut self, now: Now, message: &Message) {
        let Some(seq) = message.seq else { return };
        let Some(roll) = self.members.roll(&message.topic) else { return };
        let head = Head { seq, ts_unix_ms: message.ts_unix_ms };
        let from = message.from();
        let by = if self.has_planted(Planted::OwnCountedAsUnread) { "" } else { &*from };
        self.members.post(roll, (message.no, head), message.expiry.map(|e| e.unix_ms()), by);
        let body = message.body.load();
        let preview = body.as_deref().and_then(|body| protocol::im::preview(&body.payload));
        let preview = preview.map(ByteString::from);
        let last = Last {
            seq,
            from: compact(&from),
            ts_unix_ms: message.ts_unix_ms,
            preview,
            is_preview_known: true,
        };
        self.members.set_last(roll, Some(last));
        self.unread_due(now, roll);
        self.inbox_changed(now, roll);
    }

    /// A session hears all of its user's conversations from now on.
    pub(super) fn hear_mine(&mut self, key: SessionKey, subscriber: Subscriber) {
        let session = &mut self.sessions[key];
        session.is_hearer = true;
        self.members.hear(&session.user, subscriber);
    }

    pub(super) fn unhear_mine(&mut self, key: SessionKey) {
        let session = &mut self.sessions[key];
        session.is_hearer = false;
        session.behind = None;
        self.members.unhear(&session.user, key);
    }

    /// Adds the sessions that get a conversation's message as their user's: those that are connected only if they
    /// may read it. Of the others nobody knows what they may; they are asked for when it is sent. Those that will find
    /// it in the conversation are only looked up when somebody wants to know what becomes of it there.
    pub(super) fn add_hearers(&mut self, load: Load<'_>, found: &mut Vec<Subscriber>) {
        let Some(roll) = self.members.roll(load.topic) else { return };
        for at in 0..self.members.hearers(roll).len() {
            let hearer = self.members.hearers(roll)[at];
            let session = &self.sessions[hearer.session];
            let is_later = session.behind.as_ref().is_some_and(|behind| behind.since(load.topic).is_some());
            if is_later && !load.is_tracked {
                continue;
            }
            if session.conn.is_none_or(|conn| self.may_send(conn, load.topic)) {
                found.push(hearer);
            }
        }
    }

    /// Whether a session may have a message only because its user is a member: its rights were not asked for when
    /// it subscribed.
    pub(super) fn is_as_member(&self, key: SessionKey, message: &Message) -> bool {
        message.seq.is_some() && self.sessions[key].is_hearer
    }

    /// Takes out what waits of a conversation that a session's user has left, unless it subscribed to it itself.
    fn forget_mine_later(&mut self, key: SessionKey, topic: &ByteString) {
        let session = &self.sessions[key];
        let is_own = session.subscriptions.keys().any(|filter| filter_matches(filter, topic));
        if !is_own && !session.queue.is_empty() {
            self.backlog.push_back(Work::Left(session.no, compact(topic)));
        }
    }

    /// Ends the next messages of those.
    pub(super) fn forget_left(&mut self, now: Now, no: SessionNo, topic: ByteString) {
        let Some(key) = self.sessions.numbered(no) else { return };
        let queue = &self.sessions[key].queue;
        self.effort += queue.len() / 8;
        let of_topic = queue.outlines().filter(|m| m.source == Source::Subscriptions && *topic == *m.topic);
        let next: Vec<_> = of_topic.map(|m| m.no).take(ENDS_PER_TURN_MAX).collect();
        for message in &next {
            if let Some(dropped) =
                self.sessions[key].remove_waiting(*message, Source::Subscriptions, &mut self.bodies)
            {
                self.end_waiting(now, key, &dropped, Outcome::Dropped("left"));
            }
        }
        if next.len() == ENDS_PER_TURN_MAX {
            self.backlog.push_back(Work::Left(no, topic));
        }
    }
}
