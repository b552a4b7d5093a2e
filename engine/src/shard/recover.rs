//! From the log to the state.

mod lines;
mod lost;
mod met;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use protocol::TopicFilter;

use super::Shard;
use super::backlog::Work;
use super::checkpoint::RECORD_BYTES;
use super::share::Remains;
use crate::behind::Behind;
use crate::conversation::{Head, SenderNo, Stored};
use crate::message::{Delivery, Expiry, Message, Origin};
use crate::planted::Planted;
use crate::poison::SetAside;
use crate::record::{
    Entry, Form, HeadFields, KeptMessage, MessageEntry, Queued, SessionNo, Source, TakeEach, read_each,
};
use crate::route::SessionKey;
use crate::session::{Incoming, Session, Subscription};
use crate::timers::Deadline;
use crate::waiting::Make;
use crate::{Config, Now, RecoverError, Recovery, Ticket, view};
use met::Met;

/// Takes the entries of rows and records back.
struct TakingBack<'a> {
    shard: &'a mut Shard,
    met: &'a mut Met,
    now: Now,
}

impl TakeEach for TakingBack<'_> {
    fn head(&mut self, head: HeadFields<'_>) -> Result<(), String> {
        self.shard.apply_all_queued(self.met, self.now)?;
        self.shard.apply_head(&head, self.met, self.now);
        Ok(())
    }

    fn queued(&mut self, queued: Queued) -> Result<(), String> {
        let before = &self.met.queued;
        if before.len() == QUEUED_MAX || before.first().is_some_and(|first| first.session != queued.session) {
            self.shard.apply_all_queued(self.met, self.now)?;
        }
        self.met.queued.push(queued);
        Ok(())
    }

    fn other(&mut self, entry: Entry) -> Result<(), String> {
        self.shard.apply_all_queued(self.met, self.now)?;
        self.shard.apply(entry, self.met, self.now)
    }
}

/// The highest Subscription Identifier that a packet can hold.
const IDENTIFIER_MAX: u32 = 268_435_455;

/// Places in queues that are taken back together at most.
const QUEUED_MAX: usize = 64;

impl Shard {
    /// Rebuilds a shard. Poll its outputs before the first input: what died with the process is told then.
    ///
    /// # Errors
    /// A row or a record is not one that this version writes, or contradicts those before it.
    pub fn recover<V, R>(
        config: Config,
        seed: u64,
        now: Now,
        from: Recovery<V, R>,
    ) -> Result<Self, RecoverError>
    where
        V: Iterator<Item = (Bytes, Bytes)>,
        R: Iterator<Item = (Ticket, Bytes)>,
    {
        let mut shard = Self::replay(config, seed, now, from)?;
        shard.resume_time(now);
        Ok(shard)
    }

    /// Takes the state back as rows and log say it, with all clocks standing.
    pub(super) fn replay<V, R>(
        config: Config,
        seed: u64,
        now: Now,
        from: Recovery<V, R>,
    ) -> Result<Self, RecoverError>
    where
        V: Iterator<Item = (Bytes, Bytes)>,
        R: Iterator<Item = (Ticket, Bytes)>,
    {
        let mut shard = Self::empty(config, seed, from.next);
        let mut met = Met::default();
        // What is not taken back comes last, and is not even read.
        for (key, value) in from.rows.take_while(|(key, _)| view::is_state(key)) {
            let applied = shard.apply_record(&value, &mut met, now);
            applied.map_err(|what| RecoverError::Row { key, what })?;
        }
        met.sweep(&shard.retained);
        for (ticket, record) in from.records {
            met.place = ticket.0;
            let applied = shard.apply_record(&record, &mut met, now);
            applied.map_err(|what| RecoverError::Record { ticket, what })?;
            met.sweep(&shard.retained);
            shard.bodies.evict(u64::MAX, |_, _| {});
        }
        #[cfg(test)]
        met.check_packed(shard.sessions.iter().map(|(_, session)| &*session.queue));
        drop(met);
        shard.pack_recovered();
        Ok(shard)
    }

    /// Packs what waits and was not read with its body; the rest may be packed later.
    fn pack_recovered(&mut self) {
        if self.config.bodies_bytes_max == 0 {
            return;
        }
        for key in 0..self.sessions.capacity() {
            let Some(session) = self.sessions.get_mut(key).filter(|session| !session.queue.is_empty()) else {
                continue;
            };
            session.pack_absent(u64::MAX);
            for delivery in session.queue.iter_whole() {
                self.bodies.waits(session.no, &delivery.message);
            }
        }
    }

    fn apply_record(&mut self, record: &Bytes, met: &mut Met, now: Now) -> Result<(), String> {
        read_each(record, &mut TakingBack { shard: self, met, now })?;
        self.apply_all_queued(met, now)
    }

    fn apply(&mut self, entry: Entry, met: &mut Met, now: Now) -> Result<(), String> {
        let planted = self.config.planted;
        let Some(entry) = remembered(planted, entry) else { return Ok(()) };
        match entry {
            Entry::SessionOpened { session: no, client_id, user } => {
                let mut session = Session::new(no, &client_id, &user, &self.account);
                session.durable = true;
                self.sessions.insert(session);
                self.next_session = self.next_session.max(no.0.saturating_add(1));
            }
            Entry::SessionConnected { session, expiry_s, will } => {
                let session = self.logged_session(session)?;
                (session.expiry_s, session.behind) = (expiry_s, None);
                session.set_disconnected(None);
                session.keep_will(will);
            }
            Entry::SessionDisconnected { session, expiry_s, at_unix_ms, will } => {
                let ago_ms = now.unix_ms.saturating_sub(at_unix_ms);
                let session = self.logged_session(session)?;
                session.set_disconnected(Some((now.monotonic_ms as i64 - ago_ms as i64, at_unix_ms)));
                session.expiry_s = expiry_s;
                session.keep_will(will);
            }
            Entry::SessionEnded { session } => self.forget_session(session, met)?,
            Entry::Subscribed { session, filter, options, identifier } => {
                let key = self.logged_key(session)?;
                if let Some(wrong) = identifier.filter(|id| !(1..=IDENTIFIER_MAX).contains(id)) {
                    return Err(format!(
                        "subscription identifier {wrong}, 1 to {IDENTIFIER_MAX} are possible"
                    ));
                }
                let filter = TopicFilter::parse(filter).map_err(|e| format!("a filter: {e}"))?;
                if filter.share.is_some() && self.groups.named(&filter.full).is_none() {
                    return Err(format!("the group {:?} is not in the log", filter.full));
                }
                self.add_subscription(key, &filter, Subscription { options, identifier });
            }
            Entry::Unsubscribed { session, filter } => {
                let key = self.logged_key(session)?;
                self.remove_subscription(key, &filter);
            }
            Entry::Message(entry) => self.apply_message(*entry, met, now),
            Entry::RetainedCleared { topic } => drop(self.retained.clear(&topic)),
            Entry::Conversation { topic, seq, ts_unix_ms } => {
                let seq = seq - u64::from(planted == Some(Planted::SeqReusedAfterRestart));
                self.conversations.restore(&topic, Head { seq, ts_unix_ms });
            }
            Entry::ConversationKept { topic, first_seq } => {
                self.conversations.give_up_before(&topic, first_seq);
            }
            Entry::ConversationPage { topic, messages } => self.apply_page(&topic, messages),
            Entry::Cursor { session, topic, form, next } => {
                let key = self.logged_key(session)?;
                self.restore_cursor(key, &topic, form, next);
            }
            Entry::Holes { session, topic, form, holes } => {
                let key = self.logged_key(session)?;
                self.restore_gaps(key, &topic, form, holes);
            }
            Entry::Tracked { message, topic, seq, id, sender, wanted, of, ended, recipients } => {
                self.next_message = self.next_message.max(message.0.saturating_add(1));
                self.receipts.track(message, topic, seq, id, sender, wanted, of, ended, recipients);
            }
            Entry::IncomingTaken { session, packet_id, seq, id } => {
                self.logged_session(session)?.take_incoming(packet_id, Incoming { seq, id: id.into() });
            }
            Entry::IncomingReleased { session, packet_id } => {
                self.logged_session(session)?.release_incoming(packet_id);
            }
            Entry::Group { group, filter } => {
                let filter = TopicFilter::parse(filter).map_err(|e| format!("a filter: {e}"))?;
                self.groups.restore(group, &filter.full)?;
            }
            Entry::GroupForgotten { group } => self.groups.forget(group),
            Entry::Published { user, first, ids } => self.dedup.restore(&user, first, &ids)?,
            Entry::SetAside { session, set_aside } => {
                let SetAside { message, qos, form, at_unix_ms } = *set_aside;
                self.next_message = self.next_message.max(message.no.0.saturating_add(1));
                let mut message = Message { is_pinned: true, ..Message::clone(&message) };
                message.expiry = message.expiry.map(|e| Expiry::from_unix(e.unix_ms(), now));
                let message = self.bodies.count(message.sized());
                let most = self.config.set_aside_max;
                let session = self.logged_session(session)?;
                session.push_set_aside(SetAside { message, qos, form, at_unix_ms }, most);
            }
            Entry::TakenBack { session, message } => {
                self.logged_session(session)?.take_set_aside(message);
            }
            Entry::Counters { message, session, group } => {
                self.groups.begin_at(group);
                self.next_message = self.next_message.max(message);
                self.next_session = self.next_session.max(session);
            }
            other => self.apply_reading(other, met, now)?,
        }
        Ok(())
    }

    /// Takes the entries back that say who is a member, what was read, who was here and which ids are known no longer.
    fn apply_reading(&mut self, entry: Entry, met: &mut Met, now: Now) -> Result<(), String> {
        match entry {
            Entry::ReadWished { topic, wish } => self.read_wishes.add(&topic, wish),
            Entry::ReaderLeft { topic, user, joined, read } => {
                self.read_wishes.reader_left(&topic, &user, joined, read);
            }
            Entry::GuestRead { topic, user, read } => {
                self.read_wishes.guest_read(&topic, &user, read);
            }
            Entry::ReadSettled { topic, to_seq } => drop(self.read_wishes.forget(&topic, to_seq)),
            Entry::Presence { client, state } => self.presences.restore(&client, &state),
            Entry::PresenceCleared { client } => self.presences.cleared(&client),
            Entry::PresenceForgotten { epoch } => self.presences.restore_forgotten(epoch),
            Entry::NetVote { net, user, interval_s, at_unix_ms } => {
                self.networks.set(&net, &user, interval_s, at_unix_ms);
            }
            Entry::Away { session, since } => {
                let mut behind = Behind::default();
                behind.go_away(since);
                self.logged_session(session)?.behind = Some(Box::new(behind));
            }
            Entry::Behind { session, behind } => {
                let some = !behind.stretches().is_empty();
                self.logged_session(session)?.behind = some.then(|| Box::new(behind));
            }
            Entry::PublishedForgotten(forgotten) => self.dedup.forget(&forgotten),
            Entry::Member { topic, user, joined, read } => {
                let is_lost = self.has_planted(Planted::ReadPositionLostAtRestart);
                let read = if is_lost { joined } else { read };
                let head = self.conversations.end(&topic);
                self.members.restore(&topic, &user, joined, read, head);
            }
            Entry::MemberLeft { topic, user } => drop(self.members.leave(&topic, &user)),
            delivery => self.apply_delivery(delivery, met, now)?,
        }
        Ok(())
    }

    /// Takes back the places at a session that were put together.
    fn apply_all_queued(&mut self, met: &mut Met, now: Now) -> Result<(), String> {
        let Some(Queued { session, .. }) = met.queued.first() else { return Ok(()) };
        met.look_ahead();
        let key = self.sessions.numbered(*session);
        let mut all = std::mem::take(&mut met.queued);
        let mut left = all.len();
        let taken = all.drain(..).try_for_each(|queued| {
            left -= 1;
            match key.filter(|_| self.config.bodies_bytes_max > 0) {
                Some(key) if met.pack(&queued, &mut self.sessions[key], left + 1, now) => Ok(()),
                _ => self.apply_queued(queued, key, met, now),
            }
        });
        met.queued = all;
        taken
    }

    /// Takes a message's place at a session back.
    fn apply_queued(
        &mut self,
        queued: Queued,
        key: Option<SessionKey>,
        met: &mut Met,
        now: Now,
    ) -> Result<(), String> {
        let Queued { session: no, message, qos, retain, source, identifiers, packet_id } = queued;
        let message = met.get(message, &self.bodies, now)?;
        let (origin, subscription_identifiers) = (self.origin(no, source)?, identifiers.into());
        let delivery = Delivery { message, qos, retain, origin, subscription_identifiers };
        if delivery.is_kept() {
            self.next_session = self.next_session.max(no.0.saturating_add(1));
            let unknown = || Remains::unknown(&self.account);
            self.remains.entry(no).or_insert_with(unknown).push(packet_id, delivery);
            return Ok(());
        }
        let key = key.ok_or_else(|| format!("session {} is not in the log", no.0))?;
        let session = &mut self.sessions[key];
        match packet_id {
            Some(packet_id) => session.restore_in_flight(packet_id, delivery),
            None => session.push_waiting(delivery),
        }
        Ok(())
    }

    /// Takes the entries back that move one message at one session.
    fn apply_delivery(&mut self, entry: Entry, met: &mut Met, now: Now) -> Result<(), String> {
        match entry {
            Entry::Sent { session, message, packet_id } if self.sessions.numbered(session).is_none() => {
                let sent = self.remains.get_mut(&session).is_some_and(|r| r.sent(message, packet_id));
                return if sent { Ok(()) } else { Err(format!("message {} does not wait", message.0)) };
            }
            Entry::Replayed { session, topic, form, seq, message, qos, identifiers, packet_id } => {
                let key = self.logged_key(session)?;
                let stored = self.conversations.get(&topic, seq).filter(|stored| stored.no == message);
                let message = match stored {
                    Some(stored) => self.stored_message(now, &topic, stored),
                    // Its conversation has given it up since: its head is a row of its own then.
                    None => met.get(message, &self.bodies, now)?,
                };
                let origin = match form {
                    Form::Plain => Origin::Subscriptions,
                    Form::Envelope => Origin::Envelope,
                };
                let subscription_identifiers = identifiers.into();
                let delivery = Delivery { message, qos, retain: false, origin, subscription_identifiers };
                self.sessions[key].restore_in_flight(packet_id, delivery);
                self.restore_cursor(key, &topic, form, Some(seq + 1));
            }
            // It ends with its session.
            Entry::Received { session, .. } if self.remains.contains_key(&session) => {}
            Entry::Sent { session, message, packet_id } => {
                let key = self.logged_key(session)?;
                // Of several copies the one that came first is sent first; what went before it had priority.
                let (session, bodies) = (&mut self.sessions[key], &self.bodies);
                let delivery = session.remove_first_waiting_as(message, &mut |m, _| met.unpack(m, bodies));
                let delivery = delivery.ok_or_else(|| format!("message {} does not wait", message.0))?;
                session.restore_in_flight(packet_id, delivery);
            }
            Entry::Received { session, packet_id } => {
                let session = self.logged_session(session)?;
                session
                    .in_flight_mut(packet_id)
                    .ok_or_else(|| format!("packet id {packet_id} is not in flight"))?;
                session.release(packet_id);
            }
            Entry::Ended { session, message, source, packet_id, state } => {
                let told = state.filter(|_| !self.has_planted(Planted::ReceiptsReopenedAtRestart));
                if let Some((state, recipient)) = told.zip(source.recipient(session)) {
                    self.receipts.forget(message, recipient, state);
                }
                // Recipients whose session was not durable are named only for their receipts.
                if let Some(key) = self.sessions.numbered(session) {
                    let (session, bodies) = (&mut self.sessions[key], &self.bodies);
                    match packet_id {
                        Some(id) => drop(
                            session
                                .end_in_flight(id)
                                .ok_or_else(|| format!("packet id {id} is not in flight"))?,
                        ),
                        None => {
                            let make: Make<'_> = &mut |message, _| met.unpack(message, bodies);
                            drop(session.remove_waiting_as(message, source, make));
                        }
                    }
                } else if let Some(remains) = self.remains.get_mut(&session) {
                    remains.forget(message, source, packet_id);
                    if remains.len() == 0 {
                        self.remains.remove(&session);
                    }
                }
            }
            other => return Err(format!("{other:?} moves no message")),
        }
        Ok(())
    }

    fn apply_message(&mut self, entry: MessageEntry, met: &mut Met, now: Now) {
        let MessageEntry { mut message, set_retained } = entry;
        message.record = met.place;
        match message.seq {
            // The row of a retained message: the conversation has rows of its own.
            Some(_) if met.place == 0 => {}
            Some(seq) if self.has_planted(Planted::SeqReusedAfterRestart) => {
                let (seq, ts_unix_ms) = (seq - 1, message.ts_unix_ms);
                self.conversations.restore(&message.topic, Head { seq, ts_unix_ms });
            }
            _ => _ = self.conversations.append(&message, met.place),
        }
        // The same message again: it went from a session that the log does not know to one that it does, or it is
        // the row of a retained message. Who needs it needs it where it was first.
        let is_known = met.is_needed(message.no, &self.retained);
        let topic = std::mem::take(&mut message.topic);
        let message = self.take_back(message, &topic, met, now);
        let message = self.bodies.count(message);
        let is_logged = met.place > 0 && !is_known;
        if is_logged {
            self.bodies.written(&message);
        }
        if set_retained && !self.has_planted(Planted::RetainedLostAtRestart) {
            let pinned = if is_logged { self.bodies.pinned(&message) } else { message.clone() };
            met.retained.insert(message.no, pinned.clone());
            self.retained.set(pinned);
        }
        if !is_known && (is_logged || !set_retained) {
            met.fresh.push(message.no);
            met.by_no.insert(message.no, message);
        }
    }

    /// A message whose body is elsewhere.
    fn apply_head(&mut self, head: &HeadFields<'_>, met: &mut Met, now: Now) {
        // A row stands alone for its message.
        if met.place > 0 && met.is_needed(head.no, &self.retained) {
            return;
        }
        self.next_message = self.next_message.max(head.no.0.saturating_add(1));
        if met.insert_line(head) {
            return;
        }
        let expiry = head.expiry_unix_ms.map(|unix_ms| Expiry::from_unix(unix_ms, now));
        let held = self.bodies.hold_head(head.topic);
        let topic = met.share_topic(head.topic);
        met.insert_head(Arc::new(head.message(topic, expiry, held)));
    }

    fn take_back(&mut self, mut message: Message, topic: &str, met: &mut Met, now: Now) -> Message {
        message.expiry = message.expiry.map(|e| Expiry::from_unix(e.unix_ms(), now));
        message.topic = met.share_topic(topic);
        self.next_message = self.next_message.max(message.no.0.saturating_add(1));
        message
    }

    fn apply_page(&mut self, topic: &ByteString, messages: Vec<KeptMessage>) {
        for kept in messages {
            let KeptMessage { seq, place, message: no, ts_unix_ms, expiry_unix_ms, bytes, qos, sender } =
                kept;
            self.next_message = self.next_message.max(no.0.saturating_add(1));
            let stored = Stored {
                seq,
                place,
                no,
                ts_unix_ms,
                expiry_unix_ms,
                bytes,
                qos,
                sender: SenderNo::default(),
            };
            self.conversations.append_stored(topic, &sender, stored);
        }
    }

    fn origin(&self, session: SessionNo, source: Source) -> Result<Origin, String> {
        Ok(match source {
            Source::Subscriptions => Origin::Subscriptions,
            Source::Retained => Origin::Retained,
            Source::Envelope => Origin::Envelope,
            Source::RetainedEnvelope => Origin::RetainedEnvelope,
            Source::Group(no) => {
                let key = self.groups.numbered(no);
                let key = key.ok_or_else(|| format!("group {} is not in the log", no.0))?;
                let share = self.groups.get(key).share.clone();
                Origin::Group { share, kept: self.sessions.numbered(session).is_none() }
            }
        })
    }

    fn logged_key(&self, no: SessionNo) -> Result<SessionKey, String> {
        self.sessions.numbered(no).ok_or_else(|| format!("session {} is not in the log", no.0))
    }

    fn logged_session(&mut self, no: SessionNo) -> Result<&mut Session, String> {
        let key = self.logged_key(no)?;
        Ok(&mut self.sessions[key])
    }

    /// Ends a session without telling anybody: whoever had to know was told in the same record.
    fn forget_session(&mut self, no: SessionNo, met: &mut Met) -> Result<(), String> {
        let key = self.logged_key(no)?;
        met.forget_packed(&self.sessions[key].queue);
        let mut session = self.take_session(key);
        if let Some(remains) = Remains::of(&mut session, &self.account) {
            self.remains.insert(no, remains);
        }
        Ok(())
    }

    /// Starts the clocks again, and notes what died with the process to be told.
    fn resume_time(&mut self, now: Now) {
        let mut keys: Vec<_> = self.sessions.iter().map(|(key, s)| (s.no, key)).collect();
        keys.sort_unstable();
        for (no, key) in keys {
            let session = &mut self.sessions[key];
            let was_connected = session.disconnected().is_none();
            // Connected when the process died: the connection ended then. The log says so from now on, or
            // the session would begin its last days anew at each restart.
            let ended = session.disconnected().unwrap_or((now.monotonic_ms as i64, now.unix_ms));
            session.set_disconnected(Some(ended));
            let (since_ms, _) = ended;
            if let Some(will) = &session.will {
                let due_ms = since_ms + i64::from(will.delay_interval_s.unwrap_or(0)) * 1000;
                session.will_due_ms = Some(due_ms);
                self.timers.set(Deadline::WillDelay(no), due_ms.max(0) as u64);
            }
            if let Some(due_ms) = session.expires_ms() {
                self.timers.set(Deadline::SessionExpiry(no), due_ms.max(0) as u64);
            }
            if was_connected {
                self.write_disconnected(key);
                self.go_away(key);
            }
            if self.sessions[key].replays.is_some() {
                self.put_behind_queue(key);
            }
            self.trim_later(key);
            if self.turn.record.len() > RECORD_BYTES {
                self.finish(now);
            }
        }
        self.finish(now);
        self.recount_members(now);
        self.watch_retained();
        self.resume_retention(now);
        self.watch_recovered_expiries(now);
        self.watch_dedup(now);
        self.watch_counts(now);
        self.recount_reads(now);
        self.resume_groups();
        self.find_lost();
        self.resume_presences(now);
        self.work_off(now);
        // The log names groups for as long as it is; those that nothing is left of go now.
        self.groups.sweep_now();
        self.finish(now);
        self.watch_memory();
        self.start_fetches();
    }

    /// Goes on with the handing over that the process left unfinished. Nobody is connected yet.
    fn resume_groups(&mut self) {
        let mut remains: Vec<_> = self.remains.keys().copied().collect();
        remains.sort_unstable();
        self.backlog.extend(remains.into_iter().map(Work::HandOver));
        let mut left = BTreeSet::new();
        for (key, session) in self.sessions.iter() {
            for no in session.queue.groups() {
                if self.groups.numbered(no).is_some_and(|group| !self.groups.get(group).has(key)) {
                    left.insert((session.no, no));
                }
            }
        }
        self.backlog.extend(left.into_iter().map(|(session, group)| Work::PassOn { session, group }));
    }
}

/// Test only: what a restart that makes this mistake still knows of an entry.
fn remembered(planted: Option<Planted>, entry: Entry) -> Option<Entry> {
    let forgets = match &entry {
        Entry::Cursor { .. } => Planted::CursorForgottenAtRestart,
        Entry::IncomingTaken { .. } => Planted::Qos2IdForgottenAtRestart,
        Entry::Published { .. } => Planted::DedupForgottenAtRestart,
        Entry::Member { .. } => Planted::MemberLostAtRestart,
        Entry::Subscribed { .. } => Planted::SubscriptionLostAtRestart,
        Entry::Tracked { .. } => Planted::ReceiptsLostAtRestart,
        Entry::SetAside { .. } => Planted::SetAsideLostAtRestart,
        _ => Planted::WillLostAtRestart,
    };
    match entry {
        Entry::SessionConnected { session, expiry_s, .. } if planted == Some(forgets) => {
            Some(Entry::SessionConnected { session, expiry_s, will: None })
        }
        _ if planted == Some(forgets) && forgets != Planted::WillLostAtRestart => None,
        entry => Some(entry),
    }
}
