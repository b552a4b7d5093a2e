//! Sessions that get all of their user's conversations, while they are away (docs/protocol.md section 6).
//!
//! Nothing is queued for them: when the connection of such a session ends, the number of the next message is noted,
//! and what its user gets as a member from then on stays in the conversations alone. When it comes back, a cursor
//! begins in each conversation that has newer messages, some hundred at a time; the others go on being missed until
//! then. So a message costs nothing a member that is away, neither in
//! the log nor in memory.

use bytestring::ByteString;

use super::Shard;
use super::backlog::Work;
use crate::behind::Behind;
use crate::message::MsgNo;
use crate::record::{Entry, Form, SessionNo, Source};
use crate::route::SessionKey;

/// Conversations with what a session has missed of them: the first number, in the order of topics.
pub(super) type Missed = Vec<(ByteString, u64)>;

/// Cursors that begin in one turn when a session comes back.
const CURSORS_PER_TURN: usize = 256;

/// Beginning one, in things looked at.
const EFFORT_OF_CURSOR: usize = 16;

impl Shard {
    /// The connection of a session has ended.
    pub(super) fn go_away(&mut self, key: SessionKey) {
        let since = MsgNo(self.next_message);
        let session = &mut self.sessions[key];
        if !session.is_hearer || !session.durable {
            session.behind = None;
            return;
        }
        let is_first = session.behind.is_none();
        let behind = session.behind.get_or_insert_default();
        behind.go_away(since);
        let (session, behind) = (session.no, Behind::clone(behind));
        self.write(&match is_first {
            true => Entry::Away { session, since },
            false => Entry::Behind { session, behind },
        });
    }

    /// A session is connected again: what it missed comes by cursors. The log has forgotten what it had missed.
    pub(super) fn come_back(&mut self, key: SessionKey) {
        if self.sessions[key].behind.is_some() {
            let missed = self.missed(key);
            self.cover_next(key, missed, false);
        }
    }

    /// Begins the next cursors of a session that came back.
    pub(super) fn go_on_coming_back(&mut self, no: SessionNo, mut missed: Missed) {
        let Some(key) = self.sessions.numbered(no) else { return };
        let session = &self.sessions[key];
        // It is away again, or has come back once more: then what is left has a list of its own.
        let Some(behind) = session.behind.as_ref().filter(|_| session.conn.is_some()) else { return };
        missed.retain(|(topic, _)| behind.since(topic).is_some());
        self.cover_next(key, missed, true);
        self.drain_later(key);
    }

    /// Begins all cursors at once that a session has not got yet.
    pub(super) fn come_back_now(&mut self, key: SessionKey) {
        if self.sessions[key].behind.is_some() {
            let missed = self.missed(key);
            self.caught_up(key, true);
            self.cover(key, missed);
        }
    }

    /// Begins the first of these cursors; the others come later. Until then their conversations are missed as before.
    fn cover_next(&mut self, key: SessionKey, mut missed: Missed, is_logged: bool) {
        if missed.is_empty() {
            // What came meanwhile in conversations that nothing was missed of.
            missed = self.missed(key);
        }
        let rest = missed.split_off(missed.len().min(CURSORS_PER_TURN));
        self.effort += missed.len() * EFFORT_OF_CURSOR;
        match missed.last().map(|(topic, _)| topic.clone()) {
            Some(last) if !rest.is_empty() || is_logged => {
                let session = &mut self.sessions[key];
                let no = session.no;
                if let Some(behind) = &mut session.behind {
                    behind.come_to(&last);
                    let behind = Behind::clone(behind);
                    self.write(&Entry::Behind { session: no, behind });
                }
                self.backlog.push_back(Work::ComeBack(no, rest));
            }
            _ => self.caught_up(key, is_logged),
        }
        self.cover(key, missed);
    }

    /// A session has missed nothing any more.
    fn caught_up(&mut self, key: SessionKey, is_logged: bool) {
        let session = &mut self.sessions[key];
        session.behind = None;
        if is_logged && session.durable {
            let (session, behind) = (session.no, Behind::default());
            self.write(&Entry::Behind { session, behind });
        }
    }

    /// Finds what a session has missed.
    fn missed(&self, key: SessionKey) -> Missed {
        let session = &self.sessions[key];
        let Some(behind) = session.behind.as_ref().filter(|_| session.is_hearer) else {
            return Missed::new();
        };
        let all = self.members.conversations_of(&session.user);
        let first = all.filter_map(|(_, roll, member)| {
            let since = behind.since(&roll.topic)?;
            let first = self.conversations.seq_of(&roll.topic, since)?.max(member.joined + 1);
            (first <= self.conversations.last_seq(&roll.topic)).then(|| (roll.topic.clone(), first))
        });
        let mut missed: Missed = first.collect();
        missed.sort_unstable();
        missed
    }

    /// Has conversations come to a session by cursors from these numbers on.
    fn cover(&mut self, key: SessionKey, missed: Missed) {
        for (topic, first) in missed {
            if self.cursor(key, &topic, Form::Plain).is_some() {
                continue;
            }
            let kept = self.conversations.first_seq(&topic);
            let joined =
                self.members.member(&topic, &self.sessions[key].user).map_or(0, |member| member.joined);
            // What was given up while it was away is not known by number: all before was.
            if kept > 1 && first == kept && kept > joined + 1 {
                self.note_hole(key, &topic, Form::Plain, kept - 1);
            }
            self.set_cursor(key, &topic, Form::Plain, Some(first.max(kept)));
        }
        self.put_behind_queue(key);
    }

    /// Puts cursors behind what waits of their conversations before them.
    pub(super) fn put_behind_queue(&mut self, key: SessionKey) {
        let session = &mut self.sessions[key];
        let Some(replays) = &mut session.replays else { return };
        for message in session.queue.outlines().filter(|m| m.source == Source::Subscriptions) {
            let Some(seq) = message.seq else { continue };
            if let Some(cursor) = replays.get_mut(message.topic, Form::Plain).filter(|c| seq < c.next) {
                cursor.after = cursor.after.max(Some(message.no));
            }
        }
    }

    /// Whether messages of a cursor's conversation wait in the queue before it.
    pub(super) fn is_behind_queue(&mut self, key: SessionKey, topic: &ByteString, form: Form) -> bool {
        let session = &mut self.sessions[key];
        let replays = session.replays.as_mut();
        let Some(cursor) = replays.and_then(|replays| replays.get_mut(topic, form)) else { return false };
        let Some(last) = cursor.after else { return false };
        if !session.queue.contains(last) {
            // It was the last one, or went before its time.
            let own = session.queue.outlines().filter(|m| m.source == Source::Subscriptions && m.no < last);
            let before = own.filter(|m| *topic == *m.topic).map(|m| m.no);
            cursor.after = before.max();
        }
        cursor.after.is_some()
    }

    /// Whether a conversation's messages are not queued for a session because it is away.
    pub(super) fn is_away_from(&self, key: SessionKey, topic: &str) -> bool {
        self.missed_since(key, topic).is_some()
    }

    /// Whether a message comes to a session when that comes back.
    pub(super) fn comes_then(&self, key: SessionKey, topic: &str, message: MsgNo) -> bool {
        self.missed_since(key, topic).is_some_and(|since| message >= since)
    }

    fn missed_since(&self, key: SessionKey, topic: &str) -> Option<MsgNo> {
        let session = &self.sessions[key];
        let since = session.behind.as_ref().filter(|_| session.is_hearer)?.since(topic)?;
        self.members.is_member(topic, &session.user).then_some(since)
    }

    /// The user of a session is about to leave a conversation; what the session has missed of it comes only if
    /// another of its subscriptions brings it.
    pub(super) fn leave_missed(&mut self, key: SessionKey, topic: &str) -> Missed {
        let mut missed = self.missed(key);
        missed.retain(|(missed, _)| missed == topic);
        missed
    }

    /// The user of a session has left a conversation of which it had missed this.
    pub(super) fn left_missed(&mut self, key: SessionKey, missed: Missed) {
        let (stays, gone) = missed.into_iter().partition(|(topic, _)| self.brings(key, topic, Form::Plain));
        self.cover(key, stays);
        self.end_missed(key, gone, "left");
    }

    /// A session that may be away ends: nobody gets what it has missed.
    pub(super) fn end_all_missed(&mut self, key: SessionKey) {
        if self.sessions[key].behind.is_some() {
            let missed = self.missed(key);
            self.end_missed(key, missed, "session_ended");
        }
    }

    fn end_missed(&mut self, key: SessionKey, missed: Missed, reason: &'static str) {
        let session = self.sessions[key].no;
        for (topic, next) in missed {
            let to = self.conversations.last_seq(&topic);
            self.uncover_later(session, &topic, next, to, reason);
        }
    }
}
