//! Presence: who is told that a client came or went (docs/protocol.md section 5).
//!
//! A change is written and published in a turn of its own, after the input that made it: neither CONNACK nor the end
//! of a socket waits for it, and a takeover is one change. What a subscriber sees waits for its record. The message
//! that a new subscription brings is made from the state when it is asked for, and stored for nobody.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use protocol::im::{PRESENCE_PREFIX, Presence, presence_client, presence_topic};
use protocol::{QoS, SubscribeFilter};

use super::Shard;
use super::backlog::{ENDS_PER_TURN_MAX, Work};
use super::checkpoint::RECORD_BYTES;
use super::share::Load;
use super::subscribe::retained_delivery;
use crate::message::Message;
use crate::planted::Planted;
use crate::presence::{Cause, Change, State};
use crate::record::Entry;
use crate::retained::Allowance;
use crate::rights::form_of;
use crate::route::SessionKey;
use crate::timers::Deadline;
use crate::{CloseReason, ConnId, Now};

/// Clients whose change is written and published in one turn.
const CHANGES_PER_TURN: usize = 16;

/// The same while nobody listens: then each is no more than an entry of a record.
const CHANGES_UNHEARD_PER_TURN: usize = 256;

/// How long changes wait while nobody listens. A client that comes and goes meanwhile is one change, and all of them
/// are one record. Nobody can tell what a crash loses of them: whoever asks for a state has it written first.
const TELL_NOBODY_MS: u64 = 1_000;

/// So many changes that wait are written at once.
const CHANGES_WAITING_MAX: usize = 4_096;

/// What a connection leaves to be told of it.
pub(super) struct LastSeen {
    unix_ms: u64,
    heartbeat_s: u16,
}

impl Shard {
    /// Notes a connection that has begun.
    pub(super) fn presence_began(&mut self, now: Now, key: SessionKey, keepalive_s: u16) {
        if !self.config.presence {
            return;
        }
        let session = &self.sessions[key];
        if self.config.planted == Some(Planted::PresenceEpochForgotten) {
            self.presences.cleared(&session.client_id);
        }
        self.presences.connected(&session.client_id, &session.user, keepalive_s, now.unix_ms);
        self.tell_presences_later(now);
    }

    /// Says when a connection that ends was heard of last.
    pub(super) fn last_seen(&self, now: Now, conn: ConnId) -> Option<LastSeen> {
        let c = self.conns.get(&conn)?;
        let ago_ms = now.monotonic_ms.saturating_sub(c.last_packet_ms);
        Some(LastSeen { unix_ms: now.unix_ms.saturating_sub(ago_ms), heartbeat_s: c.heartbeat_s() })
    }

    /// Notes a connection that has ended. When the broker ends, the log goes on saying that the client is online:
    /// the next start says otherwise, with `broker_restart`.
    pub(super) fn presence_ended(
        &mut self,
        now: Now,
        key: SessionKey,
        reason: &CloseReason,
        last_seen: &LastSeen,
    ) {
        if !self.config.presence || *reason == CloseReason::Shutdown {
            return;
        }
        let client = &self.sessions[key].client_id;
        let LastSeen { unix_ms, heartbeat_s } = *last_seen;
        self.presences.disconnected(client, Cause::of(reason), now.unix_ms, unix_ms, heartbeat_s);
        self.tell_presences_later(now);
    }

    /// Notes a session that has ended: some time later its topic is cleared.
    pub(super) fn presence_session_ended(&mut self, now: Now, client: &ByteString) {
        if self.config.presence {
            self.presences.session_ended(client, now.unix_ms);
            self.tell_presences_later(now);
            self.watch_presences(now);
        }
    }

    /// Goes on with what the last process left.
    pub(super) fn resume_presences(&mut self, now: Now) {
        if self.config.planted != Some(Planted::StalePresenceAfterRestart) {
            let sessions = &self.sessions;
            let has_session = |client: &str| sessions.of_client(client).is_some();
            self.presences.resume(self.config.presence, now.unix_ms, has_session);
        }
        self.tell_presences_later(now);
        self.watch_presences(now);
    }

    /// Sets the time at which the next topic is cleared, and has those cleared whose time has come.
    pub(super) fn watch_presences(&mut self, now: Now) {
        let keep_ms = u64::from(self.config.presence_keep_s) * 1000;
        match self.presences.clear_due(keep_ms, now.unix_ms, ENDS_PER_TURN_MAX) {
            Some(due_unix_ms) => {
                let left_ms = due_unix_ms.saturating_sub(now.unix_ms);
                self.timers.set(Deadline::PresenceEnd, now.monotonic_ms.saturating_add(left_ms));
            }
            None => self.timers.clear(Deadline::PresenceEnd),
        }
        self.tell_presences_later(now);
    }

    /// Has changes told after this turn, or if nobody listens soon. While the store is full they wait: what is told
    /// must be written.
    pub(super) fn tell_presences_later(&mut self, now: Now) {
        let changes = self.presences.changes();
        if changes == 0 || self.store_full || self.is_telling_presences {
            return;
        }
        if changes >= CHANGES_WAITING_MAX || self.hears("$im") {
            return self.tell_presences_soon();
        }
        if !std::mem::replace(&mut self.is_presence_due, true) {
            self.timers.set(Deadline::Presences, now.monotonic_ms + TELL_NOBODY_MS);
        }
    }

    /// Has the changes told after this turn.
    pub(super) fn tell_presences_soon(&mut self) {
        if self.presences.changes() > 0 && !self.store_full && !self.is_telling_presences {
            self.is_telling_presences = true;
            self.backlog.push_back(Work::Presences);
        }
    }

    /// The time has come at which changes are written that nobody listens to.
    pub(super) fn presences_due(&mut self) {
        self.is_presence_due = false;
        self.tell_presences_soon();
    }

    /// Writes what waits before the process ends: the next one goes on from there.
    pub(super) fn write_presences(&mut self, now: Now) {
        while self.presences.changes() > 0 && !self.store_full {
            self.tell_presences(now);
            self.finish(now);
        }
    }

    /// Writes and publishes the next changes.
    pub(super) fn tell_presences(&mut self, now: Now) {
        self.is_telling_presences = false;
        let is_heard = self.hears("$im");
        for _ in 0..if is_heard { CHANGES_PER_TURN } else { CHANGES_UNHEARD_PER_TURN } {
            if self.turn.record.len() >= RECORD_BYTES {
                break;
            }
            let forgotten = self.presences.forgotten_epoch();
            let Some((client, change, state)) = self.presences.take_change() else { break };
            self.effort += 1;
            if self.presences.forgotten_epoch() > forgotten {
                let epoch = self.presences.forgotten_epoch();
                self.write(&Entry::PresenceForgotten { epoch });
            }
            match change {
                Change::Clear => {
                    self.write(&Entry::PresenceCleared { client: client.clone() });
                    self.publish_presence(now, &client, None);
                }
                Change::Publish if is_heard => {
                    self.write(&Entry::Presence { client: client.clone(), state: state.clone() });
                    self.publish_presence(now, &client, Some(&state));
                }
                Change::Publish | Change::Write => self.write(&Entry::Presence { client, state }),
            }
        }
        // Nobody but those who are told waits for this record.
        self.turn.is_presence = true;
        // What has begun is brought to its end.
        self.tell_presences_soon();
    }

    /// Publishes a client's state to those who listen; without one its topic is empty now.
    fn publish_presence(&mut self, now: Now, client: &str, state: Option<&State>) {
        if !self.hears("$im") {
            return;
        }
        let message = self.presence_message(now, client, state);
        let targets = self.targets(Load::of(&message), None);
        self.effort += targets.len();
        if self.check_record(&targets, false).is_err() {
            self.stats.dropped += 1;
            return;
        }
        if targets.iter().any(|target| target.qos > QoS::AtMostOnce && self.is_logged(target)) {
            self.write_message(&message, false);
        }
        for target in &targets {
            self.deliver_to(now, target, &message);
        }
    }

    /// Makes the message on a client's topic. It waits for this turn's record.
    fn presence_message(&mut self, now: Now, client: &str, state: Option<&State>) -> Arc<Message> {
        let payload = state.map_or_else(Bytes::new, |state| {
            let presence = Presence {
                online: state.is_online(),
                epoch: state.epoch,
                since: state.since_unix_ms,
                last_seen: state.last_seen_unix_ms,
                user: state.user.to_string(),
                keepalive_s: state.keepalive_s,
                reason: state.cause.name().to_owned(),
            };
            serde_json::to_vec(&presence).expect("a presence is JSON").into()
        });
        let message = self.own_message(now, presence_topic(client).into(), payload, QoS::AtLeastOnce);
        Arc::new(Message { retain: true, ..Message::clone(&message) })
    }

    /// Returns the clients that a filter over presence asks for, in order; `None` when they are too many.
    pub(super) fn presences_for(&self, filter: &str, allowance: &mut Allowance) -> Option<Vec<ByteString>> {
        let Some(level) = filter.strip_prefix(PRESENCE_PREFIX) else { return Some(Vec::new()) };
        let mut clients: Vec<ByteString> = match level {
            "+" | "#" => self.presences.clients().map(ByteString::from).collect(),
            _ => {
                let client = presence_client(filter).filter(|client| presence_topic(client) == filter);
                client.filter(|client| self.presences.contains(client)).map(Into::into).into_iter().collect()
            }
        };
        allowance.compared = allowance.compared.checked_sub(clients.len())?;
        allowance.found = allowance.found.checked_sub(clients.len())?;
        clients.sort_unstable();
        Some(clients)
    }

    /// Brings a new subscription the states of clients, as it would retained messages.
    pub(super) fn bring_presences(
        &mut self,
        now: Now,
        key: SessionKey,
        clients: Vec<ByteString>,
        asked: &SubscribeFilter,
        identifier: Option<u32>,
    ) {
        let form = form_of(&asked.filter);
        for client in clients {
            let Some(state) = self.presences.get(&client) else { continue };
            if self.presences.is_changed(&client) {
                // The log does not say it yet, and now somebody sees it.
                self.write(&Entry::Presence { client: client.clone(), state: state.clone() });
            }
            let message = self.presence_message(now, &client, Some(&state));
            let delivery = retained_delivery(message, form, asked.options.qos, identifier);
            if delivery.qos > QoS::AtMostOnce && self.sessions[key].durable {
                self.write_message(&delivery.message, false);
            }
            self.deliver(now, key, delivery);
            if self.turn.record.len() >= RECORD_BYTES {
                self.finish(now);
            }
        }
    }
}
