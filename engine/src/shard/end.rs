//! How things end: a message at a recipient, a connection, a session; and who is told.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use protocol::im::{ERRORS_TOPIC, RECEIPTS_TOPIC};
use protocol::{PacketId, QoS};

use super::Shard;
use super::accept::Publisher;
use super::backlog::{ENDS_PER_TURN_MAX, Work};
use super::share::Remains;
use crate::body::Body;
use crate::memory::Held;
use crate::message::{Delivery, Flag, Message, MessageId, MsgNo, Origin};
use crate::planted::Planted;
use crate::receipt::{Names, Outcome, Told};
use crate::record::{Entry, Recipient, SessionNo, Source};
use crate::route::SessionKey;
use crate::session::Session;
use crate::timers::Deadline;
use crate::{CloseReason, ConnId, Now};

/// Subscriptions of a session that ends taken away in one turn.
const SUBSCRIPTIONS_PER_TURN_MAX: usize = 16;

/// Taking one away, in things looked at: an input does no more than two such turns.
const EFFORT_OF_SUBSCRIPTION: usize = 160;

/// A message at a recipient whose end has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    pub(super) session: SessionNo,
    pub(super) message: MsgNo,
    pub(super) source: Source,
    /// The packet id it was in flight under.
    pub(super) packet_id: Option<PacketId>,
    /// Whether the log has it at this session.
    pub(super) logged: bool,
}

/// Counted receipts of one message and state come no more often; the last ones come at once.
const COUNT_EVERY_MS: u64 = 1_000;

impl Shard {
    /// Tells what is new of a message whose receipts are counted.
    pub(super) fn count_due(&mut self, now: Now, message: MsgNo) {
        self.turn.told.extend(self.receipts.count_now(message, now.unix_ms));
    }

    /// Has what was counted before a restart told again: nobody knows what the sender heard of it.
    pub(super) fn watch_counts(&mut self, now: Now) {
        let tracked: Vec<_> = self.receipts.iter().map(|(message, _)| message).collect();
        for message in tracked {
            if self.receipts.count_later(message) {
                self.timers.set(Deadline::Count(message), now.monotonic_ms + COUNT_EVERY_MS);
            }
        }
    }

    /// Ends a message at a recipient: log, receipt, counts.
    pub(super) fn end(&mut self, now: Now, ending: Ending, outcome: Outcome) {
        self.stats.dropped += u64::from(matches!(outcome, Outcome::Dropped(_) | Outcome::Expired));
        match outcome {
            Outcome::Dropped("too_large") => self.stats.dropped_too_large += 1,
            Outcome::Dropped("queue_full") => self.stats.dropped_queue_full += 1,
            Outcome::Expired => self.stats.expired += 1,
            _ => {}
        }
        let Ending { session, message, source, packet_id, logged } = ending;
        // Mostly nobody asks: then nothing more is looked up.
        let tracked = source.recipient(session).filter(|_| self.receipts.is_tracked(message));
        let told = tracked.and_then(|recipient| {
            let (sessions, remains) = (&self.sessions, &self.remains);
            let here = sessions.numbered(session).map(|key| &sessions[key]);
            let gone = remains.get(&session).filter(|r| !r.client_id.is_empty());
            let gone = || gone.map(|r| Names { client_id: &r.client_id, user: &r.user });
            let member = here.map(|s| Names { client_id: &s.client_id, user: &s.user }).or_else(gone);
            self.receipts.end(message, recipient, member, outcome, now.unix_ms)
        });
        if logged || told.is_some() {
            let state = told.is_some().then(|| outcome.state());
            self.write(&Entry::Ended { session, message, source, packet_id, state });
        }
        if told.is_some() && !self.receipts.is_tracked(message) {
            self.timers.clear(Deadline::MessageExpiry(message));
            self.timers.clear(Deadline::Count(message));
            if self.has_planted(Planted::LastReceiptNotTold) {
                return;
            }
        } else if told.is_some() && self.receipts.count_later(message) {
            self.timers.set(Deadline::Count(message), now.monotonic_ms + COUNT_EVERY_MS);
        }
        self.turn.told.extend(told.into_iter().flatten());
    }

    /// Publishes a receipt to the sessions of its user that hear receipts.
    pub(super) fn tell(&mut self, now: Now, told: Told) {
        let hearers = self.receipts.hearers(&told.sender);
        let Some(qos) = hearers.iter().map(|(_, qos)| (*qos).min(QoS::AtLeastOnce)).max() else { return };
        let topic = ByteString::from_static(RECEIPTS_TOPIC);
        let message = self.own_message(now, topic, told.payload.into(), qos);
        if qos > QoS::AtMostOnce && hearers.iter().any(|(key, _)| self.sessions[*key].durable) {
            self.write_message(&message, false);
        }
        for (key, qos) in hearers {
            let delivery = self.own_delivery(key, &message, qos);
            self.deliver(now, key, delivery);
        }
    }

    /// Tells a client on `$im/errors` what could not be done for it, if it listens.
    pub(super) fn tell_error(&mut self, now: Now, key: SessionKey, request: &str, error: &str) {
        if !self.sessions[key].subscriptions.contains_key(ERRORS_TOPIC) {
            return;
        }
        if self.tell_after_probe(key, request, error) {
            return;
        }
        let payload = serde_json::json!({ "request": request, "error": error, "at": now.unix_ms });
        let topic = ByteString::from_static(ERRORS_TOPIC);
        let message = self.own_message(now, topic, payload.to_string().into(), QoS::AtMostOnce);
        let delivery = self.own_delivery(key, &message, QoS::AtMostOnce);
        self.deliver(now, key, delivery);
    }

    fn own_delivery(&self, key: SessionKey, message: &Arc<Message>, qos: QoS) -> Delivery {
        let subscription = self.sessions[key].subscriptions.get(&message.topic);
        // [MQTT-3.3.4-3] the subscription's identifier comes with what it brings.
        let subscription_identifiers = subscription.and_then(|s| s.identifier).into_iter().collect();
        let qos = qos.min(message.qos);
        let (message, origin) = (message.clone(), Origin::Subscriptions);
        Delivery { message, qos, retain: false, origin, subscription_identifiers }
    }

    /// Makes a message of the broker's own; it waits for this turn's record.
    pub(super) fn own_message(
        &mut self,
        now: Now,
        topic: ByteString,
        payload: Bytes,
        qos: QoS,
    ) -> Arc<Message> {
        let body = Body { payload, id: MessageId::Own(self.rng.u64(..)), ..Body::default() };
        let message = Message {
            no: self.take_message_no(),
            record: self.gate.next_ticket(),
            is_gated: !self.turn.record.is_empty() || qos > QoS::AtMostOnce,
            is_written: Flag::default(),
            is_pinned: false,
            is_high: false,
            qos,
            retain: false,
            topic,
            expiry: None,
            seq: None,
            ts_unix_ms: now.unix_ms,
            collapse: None,
            bytes: 0,
            payload_bytes: 0,
            body: body.into(),
            held: Held::default(),
        };
        self.bodies.count(message.sized())
    }

    /// Ends a connection, whoever ended it; the session may live on. Unknown connections are ignored.
    pub(super) fn connection_ended(&mut self, now: Now, conn: ConnId, reason: CloseReason) {
        let Some(key) = self.conns.get(&conn).map(|c| c.session) else { return };
        if let Some(last_seen) = self.last_seen(now, conn) {
            self.presence_ended(now, key, &reason, &last_seen);
        }
        let is_awaited = matches!(reason, CloseReason::TakenOver | CloseReason::Shutdown);
        self.watch_poison(now, conn, &reason);
        self.close(conn, reason);
        let session = &mut self.sessions[key];
        session.conn = None;
        session.set_disconnected(Some((now.monotonic_ms as i64, now.unix_ms)));
        session.tidy();
        let (no, expiry_s) = (session.no, session.expiry_s);
        if expiry_s == 0 {
            // [MQTT-4.1.0-2] without an expiry interval the session ends with its connection; its will goes with it.
            return if is_awaited { self.end_session(now, key) } else { self.begin_ending(now, key) };
        }
        let delay_s = session.will.as_ref().map(|w| w.delay_interval_s.unwrap_or(0));
        match delay_s {
            // [MQTT-3.1.2-8] the will is published when the connection ends without DISCONNECT.
            Some(0) => {
                if let Some(will) = session.take_will() {
                    self.publish_will(now, publisher(Some(key), &self.sessions[key]), *will);
                }
            }
            Some(delay_s) => {
                let due_ms = now.monotonic_ms + u64::from(delay_s) * 1000;
                session.will_due_ms = Some(due_ms as i64);
                self.timers.set(Deadline::WillDelay(no), due_ms);
            }
            None => {}
        }
        self.write_disconnected(key);
        self.go_away(key);
        self.member_moved(key);
        if expiry_s != u32::MAX {
            let due_ms = now.monotonic_ms + u64::from(expiry_s) * 1000;
            self.timers.set(Deadline::SessionExpiry(no), due_ms);
        }
    }

    pub(super) fn write_disconnected(&mut self, key: SessionKey) {
        let session = &self.sessions[key];
        let Some((_, at_unix_ms)) = session.disconnected() else { return };
        if session.durable {
            let (no, expiry_s, will) = (session.no, session.expiry_s, session.will.clone());
            self.write(&Entry::SessionDisconnected { session: no, expiry_s, at_unix_ms, will });
        }
    }

    /// Ends a session with all it holds. [MQTT-3.1.2-8] its will, if one waits, is published now.
    pub(super) fn end_session(&mut self, now: Now, key: SessionKey) {
        self.end_all_missed(key);
        let mut session = self.take_session(key);
        if let Some(will) = session.take_will() {
            self.publish_will(now, publisher(None, &session), *will);
        }
        self.timers.clear(Deadline::SessionExpiry(session.no));
        self.timers.clear(Deadline::WillDelay(session.no));
        self.presence_session_ended(now, &session.client_id);
        if let Some(remains) = Remains::of(&mut session, &self.account) {
            self.remains.insert(session.no, remains);
            self.backlog.push_back(Work::HandOver(session.no));
        }
        if let Some(replays) = session.replays.take() {
            self.end_cursors(session.no, &replays);
        }
        let in_flight = session.in_flight.iter().map(|f| (f.delivery.message.no, f.delivery.source()));
        let waiting = session.queue.outlines().map(|outline| (outline.no, outline.source));
        for (message, source) in in_flight.chain(waiting) {
            if source.recipient(session.no).is_some_and(|r| self.receipts.is_open(message, r)) {
                self.backlog.push_back(Work::Lost { message, session: session.no, source });
            } else {
                self.stats.dropped += 1;
            }
        }
        if session.durable {
            self.write(&Entry::SessionEnded { session: session.no });
        }
    }

    /// Takes a session out of every table.
    pub(super) fn take_session(&mut self, key: SessionKey) -> Session {
        self.forget_fan_outs(key);
        let session = self.sessions.remove(key);
        self.receipts.unhear(&session.user, key);
        self.members.unhear(&session.user, key);
        self.unwatch_inbox(key, &session.user);
        for filter in session.subscriptions.keys() {
            self.unroute(filter, key);
            self.leave_group(filter, key, session.durable);
        }
        session
    }

    pub(super) fn session_expiry_due(&mut self, now: Now, no: SessionNo) {
        let Some(key) = self.sessions.numbered(no) else { return };
        if self.sessions[key].is_expired(now.monotonic_ms) {
            // Without an expiry interval its end has begun already.
            self.stats.sessions_expired += u64::from(self.sessions[key].expiry_s > 0);
            self.end_session(now, key);
        }
    }

    /// Ends a session that nobody waits for: one with many subscriptions in portions, so that others need not wait
    /// until it is gone.
    fn begin_ending(&mut self, now: Now, key: SessionKey) {
        let session = &self.sessions[key];
        if session.subscriptions.len() <= SUBSCRIPTIONS_PER_TURN_MAX {
            return self.end_session(now, key);
        }
        self.backlog.push_back(Work::EndSession(session.no));
    }

    /// Takes some of the session's subscriptions away, and the session with the last of them. One whose client has
    /// come back is gone already.
    pub(super) fn go_on_ending(&mut self, now: Now, no: SessionNo) {
        let Some(key) = self.sessions.numbered(no) else { return };
        let filters = self.sessions[key].subscriptions.keys();
        let filters: Vec<_> = filters.take(SUBSCRIPTIONS_PER_TURN_MAX).map(ByteString::from).collect();
        self.effort += filters.len() * EFFORT_OF_SUBSCRIPTION;
        for filter in &filters {
            self.remove_subscription(key, filter);
        }
        self.begin_ending(now, key);
    }

    /// Ends at once what ends in portions.
    pub(super) fn end_sessions_now(&mut self, now: Now) {
        let ending = |work: &Work| if let Work::EndSession(no) = work { Some(*no) } else { None };
        let ending: Vec<_> = self.backlog.iter().filter_map(ending).collect();
        for key in ending.iter().filter_map(|no| self.sessions.numbered(*no)).collect::<Vec<_>>() {
            self.end_session(now, key);
            self.finish(now);
        }
    }

    /// Publishes a will whose delay has passed. [MQTT-3.1.3-9] a connection made before has cancelled it.
    pub(super) fn will_due(&mut self, now: Now, no: SessionNo) {
        let Some(key) = self.sessions.numbered(no) else { return };
        let session = &mut self.sessions[key];
        if session.will_due_ms.is_none_or(|due| due > now.monotonic_ms as i64) {
            return;
        }
        session.will_due_ms = None;
        if let Some(will) = session.take_will() {
            self.publish_will(now, publisher(Some(key), &self.sessions[key]), *will);
            self.write_disconnected(key);
        }
    }

    /// A tracked message is looked for in the queues when it expires, so that the sender hears of it then
    /// and not when the recipient comes back.
    pub(super) fn expire(&mut self, now: Now, message: MsgNo, after: Option<Recipient>) {
        let Some(tracking) = self.receipts.get(message) else { return };
        let next = tracking.open_after(after).take(ENDS_PER_TURN_MAX);
        let open: Vec<_> = next.map(|open| (open.holder, open.recipient)).collect();
        for (holder, recipient) in &open {
            let Some(key) = self.sessions.numbered(*holder) else { continue };
            let (session, bodies) = (&mut self.sessions[key], &mut self.bodies);
            let plain = session.remove_waiting(message, recipient.source(), bodies);
            let expired = plain.or_else(|| match recipient {
                Recipient::Session(_) => session.remove_waiting(message, Source::Envelope, bodies),
                Recipient::Group(_) => None,
            });
            // In flight it is past expiring: only what waits is taken out, or would have come by a cursor.
            match expired {
                Some(expired) => self.end_waiting(now, key, &expired, Outcome::Expired),
                None => self.end_if_covered(now, key, message, Outcome::Expired),
            }
        }
        if open.len() == ENDS_PER_TURN_MAX {
            let after = open.last().map(|(_, recipient)| *recipient);
            self.backlog.push_back(Work::Expire { message, after });
        }
    }

    /// Ends a message that its conversation gave up, for those who were to get it by a cursor: they do not hold it, and
    /// it will not come. The cursor may have ended or passed the message meanwhile, and the session may be gone.
    pub(super) fn given_up(&mut self, now: Now, message: MsgNo, after: Option<Recipient>) {
        let Some(tracking) = self.receipts.get(message) else { return };
        let next = tracking.open_after(after).take(ENDS_PER_TURN_MAX);
        let open: Vec<_> = next.map(|open| open.recipient).collect();
        for recipient in &open {
            // What a group has is at one of its members, or on its way to one.
            let Recipient::Session(session) = *recipient else { continue };
            let reason = match self.sessions.numbered(session) {
                Some(key) if self.sessions[key].holds(message) => continue,
                Some(_) => "retention",
                None => "session_ended",
            };
            self.end_at(now, session, message, Outcome::Dropped(reason));
        }
        if open.len() == ENDS_PER_TURN_MAX {
            self.backlog.push_back(Work::GivenUp { message, after: open.last().copied() });
        }
    }

    /// Ends a message that a session would have got by a cursor.
    fn end_if_covered(&mut self, now: Now, key: SessionKey, message: MsgNo, outcome: Outcome) {
        let Some(tracking) = self.receipts.get(message) else { return };
        let Some(seq) = tracking.seq else { return };
        let topic = &tracking.topic;
        if self.comes_later(key, topic, seq) || self.comes_then(key, topic, message) {
            let session = self.sessions[key].no;
            self.end_at(now, session, message, outcome);
        }
    }

    /// [MQTT-3.3.2-5] and section 3.3.2.3.3: what has expired is kept for nobody.
    pub(super) fn retained_expiry_due(&mut self, now: Now) {
        for _ in 0..ENDS_PER_TURN_MAX {
            let Some(topic) = self.retained.pop_expired(now.monotonic_ms) else { break };
            self.write(&Entry::RetainedCleared { topic });
        }
        self.watch_retained();
    }

    /// Sets the time of the next retained message that expires.
    pub(super) fn watch_retained(&mut self) {
        match self.retained.next_expiry_ms() {
            Some(at_ms) => self.timers.set(Deadline::RetainedExpiry, at_ms),
            None => self.timers.clear(Deadline::RetainedExpiry),
        }
    }

    pub(super) fn watch_expiry(&mut self, message: &Message) {
        if let Some(expiry) = message.expiry {
            self.timers.set(Deadline::MessageExpiry(message.no), expiry.monotonic_ms);
        }
    }
}

fn publisher(session: Option<SessionKey>, of: &Session) -> Publisher {
    let (user, client, principal) = (of.user.clone(), of.client_id.clone(), of.principal.clone());
    Publisher { session, user, client, principal }
}
