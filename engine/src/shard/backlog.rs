//! What follows from an input and could be much: it is done after the input's own turn, in turns and
//! records of its own, and in portions.
//!
//! A queue that one large message pushes over its limits may drop thousands, a session that ends may hold a
//! hundred thousand tracked messages, and each of them may be told to a session whose queue is full too.
//! Done at once that would be a record too large for the log, or a recursion as deep as the queues.
//!
//! What is left waits for the timer, so that it is not on the way of everybody who has an input meanwhile. Only rights
//! are checked after the very next input: whoever lost one must not get more by it.
//!
//! Nothing here is a promise yet, so a crash in between loses nothing: the log still has the queue, and a
//! tracked recipient without a session is found again by `recover`.

use bytestring::ByteString;

use super::Shard;
use super::end::Ending;
use super::mine::Missed;
use crate::Now;
use crate::message::MsgNo;
use crate::receipt::Outcome;
use crate::record::{GroupNo, Recipient, SessionNo, Source};
use crate::route::SessionKey;

/// Something left to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// A queue is over its limits: the oldest messages go.
    Trim(SessionNo),
    /// Messages wait at a session that has room.
    Drain(SessionNo),
    /// The node's rules changed: sessions from this place on are to be checked.
    CheckAll { next: SessionKey, epoch: u32 },
    /// Memory is short: QoS 0 messages that wait go, at sessions from this place on.
    Shed { next: SessionKey },
    /// A session's rights changed.
    Check(SessionNo),
    /// A session with many subscriptions ends.
    EndSession(SessionNo),
    /// A session ended and left messages to its groups.
    HandOver(SessionNo),
    /// Messages wait at a session by a group that it has left.
    PassOn { session: SessionNo, group: GroupNo },
    /// Messages may wait at members that are away, while others are connected.
    Gather(GroupNo),
    /// A message whose receipts are open has expired: it is looked for at the recipients after this one.
    Expire { message: MsgNo, after: Option<Recipient> },
    /// A cursor ended before these messages, which somebody may want receipts of.
    Uncovered { session: SessionNo, topic: ByteString, next: u64, to: u64, reason: &'static str },
    /// A message whose receipts are open was given up by its conversation: cursors bring it to nobody.
    GivenUp { message: MsgNo, after: Option<Recipient> },
    /// A conversation keeps more than its rule says.
    Retain(ByteString),
    /// Clients came or went.
    Presences,
    /// The user left this conversation, of which messages wait at the session.
    Left(SessionNo, ByteString),
    /// A session has come back: these conversations that it has missed have no cursors yet.
    ComeBack(SessionNo, Missed),
    /// Sessions that watch their inbox are to be told what changed.
    Inboxes,
    /// A recipient whose session is gone.
    Lost { message: MsgNo, session: SessionNo, source: Source },
}

/// What is done after one input, in things looked at: some 30 µs, for somebody waits.
const EFFORT_MAX: usize = 4_000;

/// What is done after each input of the checks that a change of rights asks for, in things looked at.
const CHECKS_EFFORT_MAX: usize = 20_000;

/// What a work costs besides what it looks at.
const EFFORT_OF_WORK: usize = 20;

/// Messages that end at one session in one turn.
pub(super) const ENDS_PER_TURN_MAX: usize = 64;

impl Shard {
    /// Does what is left to do, for a while. The more is left the longer, so that it never piles up.
    pub(super) fn work_off(&mut self, now: Now) {
        self.effort = 0;
        let effort_max = EFFORT_MAX.max(self.backlog.len());
        while self.effort < effort_max {
            let Some(work) = self.backlog.pop_front() else { return };
            self.do_work(now, work);
        }
    }

    /// Checks what a change of rights left to be checked, for a while.
    pub(super) fn work_off_checks(&mut self, now: Now) {
        self.effort = 0;
        while self.effort < CHECKS_EFFORT_MAX {
            let Some(work) = self.checks.pop_front() else { return };
            self.do_work(now, work);
        }
    }

    fn do_work(&mut self, now: Now, work: Work) {
        self.effort += EFFORT_OF_WORK;
        match work {
            Work::Trim(session) => self.trim(now, session),
            Work::Drain(session) => {
                if let Some(key) = self.sessions.numbered(session) {
                    self.sessions[key].is_draining = false;
                    self.drain(now, key);
                }
            }
            Work::CheckAll { next, epoch } => self.check_all(next, epoch),
            Work::Shed { next } => self.shed(now, next),
            Work::Check(session) => self.check(now, session),
            Work::EndSession(session) => self.go_on_ending(now, session),
            Work::HandOver(session) => self.hand_over(now, session),
            Work::PassOn { session, group } => self.pass_on(now, session, group),
            Work::Gather(group) => self.gather(now, group),
            Work::Expire { message, after } => self.expire(now, message, after),
            Work::Uncovered { session, topic, next, to, reason } => {
                self.uncovering_begins(&topic);
                self.uncovered(now, session, topic, next, to, reason);
            }
            Work::GivenUp { message, after } => self.given_up(now, message, after),
            Work::Retain(topic) => self.retain(now, &topic),
            Work::Presences => self.tell_presences(now),
            Work::Left(session, topic) => self.forget_left(now, session, topic),
            Work::ComeBack(session, missed) => self.go_on_coming_back(session, missed),
            Work::Inboxes => self.tell_inboxes(now),
            Work::Lost { message, session, source } => {
                let ending = Ending { session, message, source, packet_id: None, logged: false };
                self.end(now, ending, Outcome::Dropped("session_ended"));
            }
        }
        self.finish(now);
    }

    /// Has the messages ended, from one number to another, that a cursor left out.
    pub(super) fn uncover_later(
        &mut self,
        session: SessionNo,
        topic: &ByteString,
        next: u64,
        to: u64,
        reason: &'static str,
    ) {
        *self.uncovering.entry(topic.clone()).or_default() += 1;
        let topic = topic.clone();
        self.backlog.push_back(Work::Uncovered { session, topic, next, to, reason });
    }

    fn uncovering_begins(&mut self, topic: &ByteString) {
        if let Some(left) = self.uncovering.get_mut(topic) {
            *left -= 1;
            if *left == 0 {
                self.uncovering.remove(topic);
            }
        }
    }

    pub(super) fn drain_later(&mut self, key: usize) {
        let session = &mut self.sessions[key];
        if !session.is_draining {
            session.is_draining = true;
            self.backlog.push_back(Work::Drain(session.no));
        }
    }
}
