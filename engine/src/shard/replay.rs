//! Stored messages of conversations for those who ask for them (docs/protocol.md section 3).
//!
//! A session has a cursor in each conversation that it asked for and is not at the end of. Until it is, what comes
//! new in that conversation is not queued for it: the cursor will come there. What a cursor brings goes into flight
//! like what a queue brings, turn by turn with it and with the other cursors. The message that brings a cursor to the
//! end and the first one that is live stand in one order, because both are found in the same turns.

use std::sync::Arc;

use bytestring::ByteString;
use protocol::im::MINE_FILTER;
use protocol::{ReasonCode, filter_matches};

use super::Shard;
use super::end::Ending;
use crate::Now;
use crate::message::{Message, MsgNo};
use crate::planted::Planted;
use crate::receipt::Outcome;
use crate::record::{Entry, FinalState, Form, Recipient, SessionNo, Source};
use crate::replay::{Cursor, Merged, Replays, Start};
use crate::retained::Allowance;
use crate::rights::{form_of, topics_of};
use crate::route::SessionKey;
use crate::waiting::Outline;

/// Numbers looked at in one turn for receipts that are open.
const NUMBERS_PER_TURN: usize = 1_024;

/// Conversations that a SUBSCRIBE asks for, and where each begins; `None` = behind all that is stored.
pub(super) type Starts = Vec<(ByteString, Option<u64>)>;

impl Shard {
    /// Finds the conversations that a filter asks for.
    ///
    /// # Errors
    /// They are too many for one session.
    pub(super) fn find_starts(
        &mut self,
        key: SessionKey,
        filter: &str,
        form: Form,
        start: Start,
        allowance: &mut Allowance,
    ) -> Result<Starts, (ReasonCode, String)> {
        let session = &self.sessions[key];
        let (max, bytes_max) = (self.config.replays_per_session_max, self.config.record_recipients_bytes_max);
        let has = |topic: &str| session.replays.as_ref().is_some_and(|r| r.get(topic, form).is_some());
        let (mut starts, mut bytes) = (Starts::new(), 0);
        let mut cursors = session.replays.as_ref().map_or(0, |replays| replays.len());
        let mut of_user: Vec<&ByteString> = Vec::new();
        if filter == MINE_FILTER {
            of_user.extend(self.members.conversations_of(&session.user).map(|(_, roll, _)| &roll.topic));
            of_user.sort_unstable();
        }
        let of_user = of_user.into_iter().map(|topic| (topic, true));
        for (topic, is_match) in of_user.chain(self.conversations.matching(filter)) {
            let compared = allowance.compared.checked_sub(1);
            allowance.compared = compared.ok_or_else(|| too_many("compared with the filter"))?;
            if !is_match || self.conversations.rule(topic).is_none() {
                continue;
            }
            let last_seq = self.conversations.last_seq(topic);
            let first_seq = self.conversations.first_seq(topic);
            // Who asks for the first one asks for the one before it too, if there was one: it is told what is gone.
            let or_before = |seq| if seq == first_seq { seq - 1 } else { seq };
            let first = match start {
                Start::Seq(seq) => Some(seq),
                Start::First => Some(or_before(first_seq)),
                Start::Time { unix_ms } => {
                    let kept = self.conversations.seq_at(topic, unix_ms).map(or_before);
                    let kept = kept.map(|seq| seq + u64::from(self.has_planted(Planted::TimeSkips)));
                    // The last one came since, and is given up as those before it: who asks is told.
                    let is_given_up = self.conversations.end(topic).ts_unix_ms >= unix_ms;
                    kept.or(is_given_up.then_some(last_seq))
                }
            };
            let first = first.filter(|seq| *seq <= last_seq);
            cursors += usize::from(first.is_some() && !has(topic));
            bytes += topic.len() + 32;
            if cursors > max || bytes > bytes_max {
                let what = format!("brought to one session at once, it may have {max}");
                return Err(too_many(&what));
            }
            starts.push((topic.clone(), first));
        }
        if bytes > 0 {
            self.memory.room_for(bytes * 3).map_err(|what| (ReasonCode::QuotaExceeded, what))?;
        }
        Ok(starts)
    }

    /// Begins the replay of conversations, or begins it elsewhere: what waits of them unsent is replaced by it.
    pub(super) fn begin_replays(&mut self, key: SessionKey, form: Form, starts: Starts) {
        self.clear_queue_of(key, form, &starts);
        for (topic, start) in starts {
            let first_seq = self.conversations.first_seq(&topic);
            self.set_gaps(key, &topic, form, Vec::new());
            let is_cut = start.is_some_and(|start| start < first_seq) && first_seq > 1;
            if is_cut {
                self.note_hole(key, &topic, form, first_seq - 1);
            }
            let skipped = u64::from(self.has_planted(Planted::CursorSkips));
            let next = start.map(|start| start.max(first_seq) + skipped);
            self.set_cursor(
                key,
                &topic,
                form,
                next.filter(|next| *next <= self.conversations.last_seq(&topic)),
            );
        }
    }

    /// Takes messages of these conversations out of the queue that are not sent. Those that the replay brings have
    /// their receipts then, the others have none.
    fn clear_queue_of(&mut self, key: SessionKey, form: Form, starts: &Starts) {
        let session = &self.sessions[key];
        let start_of = |topic: &str| {
            let at = starts.binary_search_by(|(of, _)| (**of).cmp(topic)).ok()?;
            Some(starts[at].1.unwrap_or(u64::MAX))
        };
        let is_own = |m: &Outline<'_>| match m.source {
            Source::Subscriptions => form == Form::Plain,
            Source::Envelope => form == Form::Envelope,
            _ => false,
        };
        let waiting = session.queue.outlines().filter(is_own);
        let removed: Vec<_> =
            waiting.filter_map(|m| Some((m.no, m.source, m.seq?, start_of(m.topic)?))).collect();
        let (no, durable) = (session.no, session.durable);
        for (message, source, seq, start) in removed {
            self.sessions[key].remove_waiting(message, source, &mut self.bodies);
            let state = (seq < start).then_some(FinalState::Dropped);
            let recipient = Recipient::Session(no);
            let is_open = state.is_some() && self.receipts.is_open(message, recipient);
            if let Some(state) = state.filter(|_| is_open) {
                self.receipts.forget(message, recipient, state);
            }
            if durable || is_open {
                let state = state.filter(|_| is_open);
                self.write(&Entry::Ended { session: no, message, source, packet_id: None, state });
            }
        }
    }

    /// Sets or ends a session's cursor, and writes that down.
    pub(super) fn set_cursor(&mut self, key: SessionKey, topic: &ByteString, form: Form, next: Option<u64>) {
        let had = self.restore_cursor(key, topic, form, next);
        let session = &self.sessions[key];
        if session.durable && (had || next.is_some()) {
            let (session, topic) = (session.no, topic.clone());
            self.write(&Entry::Cursor { session, topic, form, next });
        }
    }

    /// Sets or ends a session's cursor; says whether it was there.
    pub(super) fn restore_cursor(
        &mut self,
        key: SessionKey,
        topic: &ByteString,
        form: Form,
        next: Option<u64>,
    ) -> bool {
        let session = &mut self.sessions[key];
        let had = session.replays.as_ref().is_some_and(|r| r.get(topic, form).is_some());
        match next {
            Some(next) => {
                let account = &self.account;
                let replays = session.replays.get_or_insert_with(|| Box::new(Replays::new(account)));
                replays.set(topic, form, next);
            }
            None => {
                if let Some(replays) = &mut session.replays {
                    replays.remove(topic, form);
                    if replays.len() == 0 {
                        session.replays = None;
                    }
                }
            }
        }
        had
    }

    /// Whether a subscription of the session brings a conversation in this form.
    pub(super) fn brings(&self, key: SessionKey, topic: &str, form: Form) -> bool {
        self.merge(key, topic, form, false).is_some()
    }

    /// Whether a message for a session comes to it by a cursor, not by its queue.
    pub(super) fn is_covered(&self, key: SessionKey, topic: &str, form: Form) -> bool {
        let replays = self.sessions[key].replays.as_ref();
        let is_replayed = replays.is_some_and(|replays| replays.get(topic, form).is_some());
        (is_replayed && !self.has_planted(Planted::RepeatedAtSwitch))
            || (form == Form::Plain && self.is_away_from(key, topic))
    }

    /// Remembers a message that is not durable yet while somebody may come to it by a cursor.
    pub(super) fn remember_uncommitted(&mut self, message: &Arc<Message>) {
        self.uncommitted.push_back(message.clone());
    }

    /// Forgets what is durable by now, and has those go on who waited for that.
    pub(super) fn committed_for_replays(&mut self) {
        let committed = self.gate.newest_committed();
        if self.uncommitted.is_empty() {
            return;
        }
        let is_kept = self.has_planted(Planted::MemoryKept);
        while self.uncommitted.front().is_some_and(|message| message.ticket() <= committed && !is_kept) {
            self.uncommitted.pop_front();
        }
        for session in std::mem::take(&mut self.waits_for_commit) {
            if let Some(key) = self.sessions.numbered(session) {
                self.drain_later(key);
            }
        }
        self.watch_memory();
    }

    pub(super) fn cursor(&mut self, key: SessionKey, topic: &str, form: Form) -> Option<&mut Cursor> {
        self.sessions[key].replays.as_mut()?.get_mut(topic, form)
    }

    /// Moves a cursor on; what is left out is a hole if the client has to be told.
    pub(super) fn skip(&mut self, key: SessionKey, topic: &ByteString, form: Form, next: u64, is_hole: bool) {
        let Some(replays) = &mut self.sessions[key].replays else { return };
        replays.move_to(topic, form, next);
        if is_hole {
            self.note_hole(key, topic, form, next - 1);
        }
    }

    /// Writes down how far cursors have come that no message in flight tells of.
    pub(super) fn log_cursors(&mut self, key: SessionKey) {
        let session = &mut self.sessions[key];
        let (no, durable) = (session.no, session.durable);
        let Some(replays) = session.replays.as_mut().filter(|_| durable) else { return };
        for (topic, form, next) in replays.take_unlogged() {
            self.turn.record.push(&Entry::Cursor { session: no, topic, form, next: Some(next) });
        }
    }

    /// What the session's subscriptions that match say together; `None` if none does, or none wants the client's
    /// own messages.
    pub(super) fn merged(
        &mut self,
        key: SessionKey,
        topic: &ByteString,
        form: Form,
        is_own: bool,
    ) -> Option<Merged> {
        let known = self.cursor(key, topic, form)?.merged.clone();
        let merged =
            known.unwrap_or_else(|| [false, true].map(|is_own| self.merge(key, topic, form, is_own)));
        let cursor = self.cursor(key, topic, form)?;
        cursor.merged.insert(merged)[usize::from(is_own)].clone()
    }

    fn merge(&self, key: SessionKey, topic: &str, form: Form, is_own: bool) -> Option<Merged> {
        let subscriptions = self.sessions[key].subscriptions.iter();
        let matching = subscriptions.filter(|(filter, subscription)| {
            is_of(filter, topic, form) && !(is_own && subscription.options.no_local)
        });
        let session = &self.sessions[key];
        let mine = session.subscriptions.get(MINE_FILTER).filter(|mine| !(is_own && mine.options.no_local));
        let is_mine = form == Form::Plain && mine.is_some() && self.members.is_member(topic, &session.user);
        let (mut qos, mut identifiers) = (None, Vec::new());
        for subscription in matching.map(|(_, subscription)| subscription).chain(mine.filter(|_| is_mine)) {
            qos = qos.max(Some(subscription.options.qos));
            identifiers.extend(subscription.identifier);
        }
        identifiers.sort_unstable();
        identifiers.truncate(usize::from(u16::MAX));
        qos.map(|qos| Merged { qos, identifiers })
    }

    /// Subscriptions changed: cursors that none matches any more end, with what they left out.
    pub(super) fn review_cursors(&mut self, key: SessionKey) {
        let Some(replays) = &mut self.sessions[key].replays else { return };
        replays.forget_merged();
        let cursors: Vec<_> = replays.iter().map(|(topic, form, _)| (topic.clone(), form)).collect();
        for (topic, form) in cursors {
            if !self.brings(key, &topic, form) {
                self.end_cursor(key, &topic, form, "unsubscribed");
            }
        }
    }

    /// Ends a cursor before its end.
    pub(super) fn end_cursor(
        &mut self,
        key: SessionKey,
        topic: &ByteString,
        form: Form,
        reason: &'static str,
    ) {
        let Some(next) = self.cursor(key, topic, form).map(|cursor| cursor.next) else { return };
        let session = self.sessions[key].no;
        self.set_cursor(key, topic, form, None);
        let to = self.conversations.last_seq(topic);
        self.uncover_later(session, topic, next, to, reason);
    }

    /// A session ends: so do its cursors.
    pub(super) fn end_cursors(&mut self, session: SessionNo, replays: &Replays) {
        for (topic, _, cursor) in replays.iter() {
            let to = self.conversations.last_seq(topic);
            self.uncover_later(session, topic, cursor.next, to, "session_ended");
        }
    }

    /// Ends the messages that a cursor would have brought to a recipient, a portion of them.
    pub(super) fn uncovered(
        &mut self,
        now: Now,
        session: SessionNo,
        topic: ByteString,
        next: u64,
        to: u64,
        reason: &'static str,
    ) {
        let portion = self.conversations.range(&topic, next).take_while(|stored| stored.seq <= to);
        let portion: Vec<_> = portion.take(NUMBERS_PER_TURN).map(|stored| (stored.seq, stored.no)).collect();
        self.effort += portion.len() / 16;
        for (_, message) in &portion {
            self.end_at(now, session, *message, Outcome::Dropped(reason));
        }
        if let Some((last, _)) = portion.last().filter(|_| portion.len() == NUMBERS_PER_TURN) {
            self.uncover_later(session, &topic, last + 1, to, reason);
        }
    }

    pub(super) fn end_covered_at(&mut self, now: Now, key: SessionKey, message: MsgNo, outcome: Outcome) {
        let session = self.sessions[key].no;
        self.end_at(now, session, message, outcome);
    }

    /// Ends a message at a recipient that has it neither waiting nor in flight, if its receipt is open.
    pub(super) fn end_at(&mut self, now: Now, session: SessionNo, message: MsgNo, outcome: Outcome) {
        if self.receipts.is_open(message, Recipient::Session(session)) {
            let source = Recipient::Session(session).source();
            self.end(now, Ending { session, message, source, packet_id: None, logged: false }, outcome);
        }
    }

    /// Whether a message that is neither waiting nor in flight at a session will come by a cursor.
    pub(super) fn comes_later(&self, key: SessionKey, topic: &str, seq: u64) -> bool {
        let replays = self.sessions[key].replays.as_ref();
        let covers = |replays: &Replays| {
            replays.covers(topic, Form::Plain, seq) || replays.covers(topic, Form::Envelope, seq)
        };
        replays.is_some_and(|replays| covers(replays))
    }
}

/// Whether a subscription brings a conversation in a form.
fn is_of(full: &str, topic: &str, form: Form) -> bool {
    !full.starts_with("$share/") && form_of(full) == form && filter_matches(topics_of(full), topic)
}

fn too_many(what: &str) -> (ReasonCode, String) {
    (ReasonCode::QuotaExceeded, format!("too many conversations are {what}: use narrower filters"))
}
