//! The queue of one session: how much it takes, what makes room in it, and what is refused for its sake.

use protocol::QoS;
use rustc_hash::FxHashMap;
use std::num::NonZeroU64;

use super::Shard;
use super::accept::{Refused, Target};
use super::backlog::{ENDS_PER_TURN_MAX, Work};
use super::checkpoint::RECORD_BYTES;
use crate::message::{Delivery, MsgNo, Origin};
use crate::planted::Planted;
use crate::principal::lower;
use crate::receipt::Outcome;
use crate::record::{Form, SessionNo, Source};
use crate::route::SessionKey;
use crate::{ConnId, Now, OnFull};
use protocol::ReasonCode;

/// Why a message ended that a newer one with the same collapse key took the place of.
const COLLAPSED: &str = "collapsed";

/// What one session's queue may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueLimits {
    pub(super) messages_max: usize,
    pub(super) bytes_max: usize,
    pub(super) on_full: OnFull,
}

/// Where a message for a session goes at this moment.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// To the client.
    Send(ConnId),
    /// Into the queue.
    Queue,
    /// Nowhere, with the reason as told.
    Drop(&'static str),
}

impl Shard {
    /// The limits of a session's queue: the lower of the node's and the principal's own.
    pub(super) fn queue_limits(&self, key: SessionKey) -> QueueLimits {
        let own = self.sessions[key].limits();
        QueueLimits {
            messages_max: lower(own.queue_messages_max, self.config.queue_messages_max),
            bytes_max: lower(own.queue_bytes_max, self.config.queue_bytes_max),
            on_full: own.on_full.unwrap_or(self.config.on_full),
        }
    }

    /// Decides where a message goes. Whatever waits keeps its place before what comes now, except before a
    /// QoS 0 message outside conversations.
    pub(super) fn way(&self, key: SessionKey, qos: QoS, in_conversation: bool) -> Way {
        let session = &self.sessions[key];
        let conn =
            session.conn.and_then(|id| Some((id, self.conns.get(&id).filter(|c| c.takes_publishes())?)));
        let room = session.queue.is_empty() && session.window_used == session.in_flight.len();
        match conn {
            Some((id, _)) if qos == QoS::AtMostOnce && (room || !in_conversation) => Way::Send(id),
            Some((id, c))
                if qos > QoS::AtMostOnce && room && session.window_used < self.window(key, c.window) =>
            {
                Way::Send(id)
            }
            _ if qos > QoS::AtMostOnce || in_conversation => Way::Queue,
            _ if session.conn.is_some() => Way::Drop("queue_full"),
            _ => Way::Drop("offline"),
        }
    }

    /// Refuses a message that the full queue of a recipient cannot take, where queues are set to do so: as
    /// a whole, before anything of it is stored.
    pub(super) fn check_queues(
        &self,
        qos: QoS,
        bytes: usize,
        targets: &[Target],
        in_conversation: bool,
        collapse: Option<NonZeroU64>,
    ) -> Result<(), Refused> {
        if !self.some_reject {
            return Ok(());
        }
        // A session may be a recipient several times: by its own subscriptions, and by groups.
        let mut queued: FxHashMap<SessionKey, usize> = FxHashMap::default();
        let is_shared = targets.iter().any(|t| t.share.is_some() || t.form == Form::Envelope);
        for target in targets {
            let limits = self.queue_limits(target.session);
            if limits.on_full != OnFull::Reject {
                continue;
            }
            if target.is_covered {
                continue;
            }
            let way = self.way(target.session, target.qos.min(qos), in_conversation);
            // What takes the place of another needs no room.
            let takes_place = collapse.is_some_and(|key| self.sessions[target.session].queue.has_key(key));
            if !matches!(way, Way::Queue) || takes_place {
                continue;
            }
            let copies = if is_shared { queued.entry(target.session).or_default() } else { &mut 0 };
            *copies += 1;
            if self.is_full_for(target.session, *copies, bytes) {
                let QueueLimits { messages_max, bytes_max, .. } = limits;
                let what = format!(
                    "the queue of a recipient is full, it may hold {messages_max} messages and {bytes_max} bytes"
                );
                return Err(Refused { reason: ReasonCode::QuotaExceeded, what });
            }
        }
        Ok(())
    }

    /// Whether the queue has no room for so many copies more of a message of so many bytes.
    pub(super) fn is_full_for(&self, key: SessionKey, copies: usize, bytes: usize) -> bool {
        self.is_full_within(self.queue_limits(key), key, copies, bytes)
    }

    fn is_full_within(&self, limits: QueueLimits, key: SessionKey, copies: usize, bytes: usize) -> bool {
        let session = &self.sessions[key];
        session.queue.len() + copies > limits.messages_max
            || session.queue.bytes() + bytes * copies > limits.bytes_max
    }

    /// Puts a message into the session's queue, or drops what that takes.
    pub(super) fn enqueue(&mut self, now: Now, key: SessionKey, mut delivery: Delivery) {
        let limits = self.queue_limits(key);
        let bytes = delivery.message.bytes();
        let older = self.sessions[key].queue.with_key_of(&delivery);
        // A shared group may bring an older message later.
        if older.is_some_and(|waiting| waiting > delivery.message.no) {
            return self.end_unlogged(now, key, &delivery, Outcome::Dropped(COLLAPSED));
        }
        let is_full = match older {
            None => self.is_full_within(limits, key, 1, bytes),
            Some(older) => self.is_full_instead(limits, key, older, delivery.source(), bytes),
        };
        let is_shed = delivery.qos == QoS::AtMostOnce && !self.may_queue_at_most_once();
        let session = &mut self.sessions[key];
        // What can never fit empties no queue, and QoS 0 takes the place of QoS 0 only. A queue that refuses
        // publishes keeps what it accepted: messages that nobody can be refused, the broker's own and
        // retained ones, find no place either.
        let makes_room = limits.on_full == OnFull::DropOldest
            && bytes <= limits.bytes_max
            && (delivery.qos > QoS::AtMostOnce || session.queue.holds_at_most_once());
        if (is_full && !makes_room) || is_shed {
            // What it was to take the place of stays.
            return self.end_unlogged(now, key, &delivery, Outcome::Dropped("queue_full"));
        }
        if let Some(older) = older {
            self.collapse(now, key, older, delivery.source());
        }
        let session = &mut self.sessions[key];
        if session.logs(&delivery) {
            self.turn.record.push(&delivery.queued(session.no, None));
            if !matches!(delivery.origin, Origin::Group { .. }) {
                self.bodies.waits(session.no, &delivery.message);
            }
        } else {
            // Its record is not kept for this session's sake.
            delivery.message = self.bodies.pinned(&delivery.message);
        }
        session.push_waiting(delivery);
        if is_full {
            self.displace(now, key);
            self.trim_later(key);
        }
    }

    /// Drops the oldest message for the one that came: in the same record, for mostly that is all it takes. What is more
    /// comes later, and what somebody is to be told of.
    fn displace(&mut self, now: Now, key: SessionKey) {
        let session = &self.sessions[key];
        let oldest = session.queue.oldest().filter(|_| !session.queue.holds_at_most_once());
        let is_plain = oldest.is_some_and(|oldest| !self.receipts.is_tracked(oldest.no));
        if !is_plain || self.turn.record.len() >= RECORD_BYTES {
            return;
        }
        if let Some(dropped) = self.sessions[key].pop_oldest(&mut self.bodies) {
            self.end_waiting(now, key, &dropped, Outcome::Dropped("queue_full"));
        }
    }

    /// Whether the queue has no room for a message of so many bytes in the place of one that waits.
    fn is_full_instead(
        &self,
        limits: QueueLimits,
        key: SessionKey,
        older: MsgNo,
        source: Source,
        bytes: usize,
    ) -> bool {
        let session = &self.sessions[key];
        // Mostly there is room without looking for it.
        let fits = |of_older: usize| session.queue.bytes() - of_older + bytes <= limits.bytes_max;
        let older_bytes = || session.queue.waiting(older, source).map_or(0, |older| older.bytes as usize);
        session.queue.len() > limits.messages_max || (!fits(0) && !fits(older_bytes()))
    }

    /// Takes the message out whose place a newer one takes that has the same collapse key.
    fn collapse(&mut self, now: Now, key: SessionKey, older: MsgNo, source: Source) {
        if let Some(older) = self.sessions[key].remove_waiting(older, source, &mut self.bodies) {
            self.end_waiting(now, key, &older, Outcome::Dropped(COLLAPSED));
        }
    }

    /// Drops what is too much: QoS 0 first, then the oldest.
    pub(super) fn trim(&mut self, now: Now, no: SessionNo) {
        let Some(key) = self.sessions.numbered(no) else { return };
        self.sessions[key].is_over_limit = false;
        for _ in 0..ENDS_PER_TURN_MAX {
            if !self.is_over_limit(key) {
                return;
            }
            let (session, bodies) = (&mut self.sessions[key], &mut self.bodies);
            let dropped = session.pop_at_most_once(bodies).or_else(|| session.pop_oldest(bodies));
            let Some(dropped) = dropped else { return };
            if self.has_planted(Planted::DroppedInSilence) {
                continue;
            }
            self.end_waiting(now, key, &dropped, Outcome::Dropped("queue_full"));
        }
        self.trim_later(key);
    }

    /// Notes a queue that is over its limits.
    pub(super) fn trim_later(&mut self, key: usize) {
        if self.is_over_limit(key) && !self.sessions[key].is_over_limit {
            let session = &mut self.sessions[key];
            session.is_over_limit = true;
            self.backlog.push_back(Work::Trim(session.no));
        }
    }

    /// Whether messages must go. A queue that takes nothing new when it is full gets over its limits only
    /// when they are lowered, and then keeps what it has.
    fn is_over_limit(&self, key: usize) -> bool {
        let session = &self.sessions[key];
        let QueueLimits { messages_max, bytes_max, on_full } = self.queue_limits(key);
        on_full == OnFull::DropOldest
            && (session.queue.len() > messages_max || session.queue.bytes() > bytes_max)
    }
}
