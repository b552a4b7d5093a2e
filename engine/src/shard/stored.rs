//! Stored messages on their way to a session: read ahead in the log by the cursors of [`super::replay`], and sent.

use std::sync::Arc;

use bytestring::ByteString;
use protocol::{Packet, QoS};

use super::rights::NOT_AUTHORIZED;
use super::{Shard, Wait};
use crate::body::BodySlot;
use crate::conversation::Stored;
use crate::memory::Held;
use crate::message::{Delivery, Expiry, Flag, Message, Origin};
use crate::receipt::Outcome;
use crate::record::{Entry, Form};
use crate::replay::Merged;
use crate::route::SessionKey;
use crate::{ConnId, Now};

/// Messages read ahead for one session.
const AHEAD_MESSAGES: usize = 64;

/// Bytes of them, the last one's not counted.
const AHEAD_BYTES: usize = 256 * 1024;

/// What it costs to leave a message out, as bytes that are sent.
const SKIPPED_BYTES: usize = 1_024;

/// Where a cursor is.
enum Ahead {
    /// At its end; it is no more.
    Ended,
    /// Behind messages that do not come; that was as much work as so many bytes.
    Skipped(usize),
    /// Before messages that are not durable yet.
    Waits,
    /// Before this one; so many were read ahead.
    Messages(Arc<Message>, usize),
}

/// What one try to send a stored message came to.
pub(super) enum Replayed {
    /// So many bytes were sent, or given up.
    Bytes(usize),
    /// No cursor can go on now.
    Nothing,
}

impl Shard {
    /// Sends the next stored message of the session, of the first cursor in turn that can go on.
    pub(super) fn replay_next(&mut self, now: Now, key: SessionKey, conn: ConnId) -> Replayed {
        let (mut place, mut ahead, mut is_absent, mut waits) = (0, 0, false, false);
        for _ in 0..AHEAD_MESSAGES {
            let turn = self.sessions[key].replays.as_ref().and_then(|replays| replays.turn(place));
            let Some((form, topic)) = turn.cloned() else { break };
            self.effort += 1;
            if self.is_behind_queue(key, &topic, form) {
                place += 1;
                continue;
            }
            let next = match self.read_ahead(now, key, &topic, form) {
                Ahead::Ended => continue,
                Ahead::Skipped(bytes) => return Replayed::Bytes(bytes),
                Ahead::Waits => None,
                Ahead::Messages(first, count) => {
                    ahead += count;
                    is_absent |= !first.body.is_here();
                    Some(first)
                }
            };
            waits |= next.is_none();
            if let Some(message) = next.filter(|message| message.body.is_here()) {
                if is_absent {
                    self.fetch_for_session(key);
                }
                let bytes = self.replay_one(now, key, conn, form, message);
                if let Some(replays) = &mut self.sessions[key].replays {
                    replays.pass_turn(place, &topic, form);
                }
                return Replayed::Bytes(bytes);
            }
            place += 1;
            if ahead >= AHEAD_MESSAGES {
                break;
            }
        }
        if is_absent {
            self.fetch_for_session(key);
        }
        if waits {
            let session = self.sessions[key].no;
            self.waits_for_commit.insert(session);
        }
        Replayed::Nothing
    }

    /// Finds the next messages of a cursor, past those that have expired or are gone.
    fn read_ahead(&mut self, now: Now, key: SessionKey, topic: &ByteString, form: Form) -> Ahead {
        let (first_seq, last_seq) = (self.conversations.first_seq(topic), self.conversations.last_seq(topic));
        let Some(cursor) = self.cursor(key, topic, form) else { return Ahead::Ended };
        let next = cursor.next;
        if next > last_seq {
            self.set_cursor(key, topic, form, None);
            return Ahead::Ended;
        }
        if next < first_seq {
            // Given up meanwhile, whether it was read before or not.
            self.skip(key, topic, form, first_seq, true);
            return Ahead::Skipped(SKIPPED_BYTES);
        }
        if cursor.ahead.is_empty() {
            let found = self.stored_from(now, topic, next);
            if found.is_empty() {
                // It is not durable yet.
                return Ahead::Waits;
            }
            let Some(cursor) = self.cursor(key, topic, form) else { return Ahead::Ended };
            cursor.ahead.extend(found);
        }
        let Some(cursor) = self.cursor(key, topic, form) else { return Ahead::Ended };
        let is_expired = |message: &&Arc<Message>| message.expiry.is_some_and(|e| e.is_past(now));
        let expired: Vec<_> = cursor.ahead.iter().take_while(is_expired).cloned().collect();
        let Some(first) = cursor.ahead.get(expired.len()).cloned() else {
            return self.skip_expired(now, key, topic, form, &expired);
        };
        let count = cursor.ahead.len();
        if !expired.is_empty() {
            return self.skip_expired(now, key, topic, form, &expired);
        }
        match first.seq {
            // An older version of the broker did not keep every message.
            Some(seq) if seq > next => {
                self.skip(key, topic, form, seq, true);
                Ahead::Skipped(SKIPPED_BYTES)
            }
            _ => Ahead::Messages(first, count),
        }
    }

    fn skip_expired(
        &mut self,
        now: Now,
        key: SessionKey,
        topic: &ByteString,
        form: Form,
        expired: &[Arc<Message>],
    ) -> Ahead {
        for message in expired {
            self.end_covered_at(now, key, message.no, Outcome::Expired);
        }
        let last_seq = expired.last().and_then(|message| message.seq).unwrap_or_default();
        self.skip(key, topic, form, last_seq + 1, true);
        Ahead::Skipped(expired.len() * SKIPPED_BYTES)
    }

    /// Makes the next messages of a conversation, without bodies: as many as are read at once.
    fn stored_from(&mut self, now: Now, topic: &ByteString, next: u64) -> Vec<Arc<Message>> {
        let committed = self.gate.newest_committed();
        let (mut found, mut bytes) = (Vec::new(), 0);
        let next: Vec<_> = self.conversations.range(topic, next).take(AHEAD_MESSAGES).collect();
        for stored in next {
            if bytes >= AHEAD_BYTES {
                break;
            }
            bytes += stored.bytes as usize;
            if stored.place <= committed {
                found.push(self.stored_message(now, topic, stored));
                continue;
            }
            // Readers follow what is durable; what is not goes out when it is, like what is live.
            let at = self.uncommitted.binary_search_by_key(&stored.no, |message| message.no);
            let Ok(at) = at else { break };
            found.push(self.uncommitted[at].clone());
        }
        found
    }

    /// Makes a message of what the index knows of it: its body is in the log.
    pub(super) fn stored_message(&mut self, now: Now, topic: &ByteString, stored: Stored) -> Arc<Message> {
        let is_written = Flag::default();
        is_written.set();
        let expires = (stored.expiry_unix_ms > 0).then_some(stored.expiry_unix_ms);
        self.bodies.count(Message {
            no: stored.no,
            record: stored.place,
            is_gated: true,
            is_written,
            is_pinned: false,
            is_high: false,
            topic: topic.clone(),
            qos: stored.qos,
            retain: false,
            expiry: expires.map(|unix_ms| Expiry::from_unix(unix_ms, now)),
            seq: Some(stored.seq),
            ts_unix_ms: stored.ts_unix_ms,
            collapse: None,
            bytes: stored.bytes,
            payload_bytes: 0,
            body: BodySlot::default(),
            held: Held::default(),
        })
    }

    /// Sends one stored message to whom it is for; returns its bytes.
    fn replay_one(
        &mut self,
        now: Now,
        key: SessionKey,
        conn: ConnId,
        form: Form,
        message: Arc<Message>,
    ) -> usize {
        let (topic, seq, bytes) = (message.topic.clone(), message.seq.unwrap_or_default(), message.bytes());
        let merged = self.merged(key, &topic, form, message.is_by(&self.sessions[key].client_id));
        let Some(Merged { qos, identifiers }) = merged else {
            // No Local keeps it away: no hole, the client has it.
            self.skip(key, &topic, form, seq + 1, false);
            return bytes;
        };
        let origin = match form {
            Form::Plain => Origin::Subscriptions,
            Form::Envelope => Origin::Envelope,
        };
        // [MQTT-3.8.4-8] the lower of the two levels.
        let qos = qos.min(message.qos);
        let delivery =
            Delivery { message, qos, retain: false, origin, subscription_identifiers: identifiers.into() };
        let packet_id = match qos {
            QoS::AtMostOnce => None,
            _ => self.sessions[key].take_packet_id(),
        };
        let publish = match self.prepare(now, key, conn, &delivery, packet_id, false) {
            Ok(publish) => publish,
            Err(NOT_AUTHORIZED) => {
                self.end_cursor(key, &topic, form, NOT_AUTHORIZED);
                return bytes;
            }
            Err(reason) => {
                self.end_covered_at(now, key, delivery.message.no, Outcome::Dropped(reason));
                self.skip(key, &topic, form, seq + 1, true);
                return bytes;
            }
        };
        let session = &self.sessions[key];
        let (no, durable, message) = (session.no, session.durable, delivery.message.no);
        let mut wait = Wait::Ticket(delivery.message.ticket());
        if let Some(packet_id) = packet_id.filter(|_| durable) {
            let (topic, identifiers) = (topic.clone(), delivery.subscription_identifiers.to_vec());
            self.write(&Entry::Replayed {
                session: no,
                topic,
                form,
                seq,
                message,
                qos,
                identifiers,
                packet_id,
            });
            wait = Wait::Ticket(self.gate.next_ticket());
        } else if durable {
            // [MQTT-4.3.1-1] at most once: the cursor must stand behind it in the log, or it would come again after a
            // crash. `drain` writes that into this turn's record.
            wait = Wait::Record;
        }
        self.skip(key, &topic, form, seq + 1, false);
        if let Some(replays) = self.sessions[key].replays.as_mut().filter(|_| packet_id.is_some()) {
            replays.is_logged(&topic, form);
        }
        self.send(conn, wait, Packet::Publish(publish));
        match packet_id {
            Some(packet_id) => self.sessions[key].push_in_flight(packet_id, delivery, true),
            None => self.end_unlogged(now, key, &delivery, Outcome::Delivered(QoS::AtMostOnce)),
        }
        if self.conversations.last_seq(&topic) == seq {
            self.set_cursor(key, &topic, form, None);
        }
        bytes
    }
}
