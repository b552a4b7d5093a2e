//! A message that is published again: it is acknowledged like the first one, and nothing else happens
//! (docs/protocol.md section 2).

use protocol::{PublishProperties, ReasonCode, im};

use super::Shard;
use super::accept::{Accepted, Offer};
use crate::Now;
use crate::dedup::{Fingerprint, Published};
use crate::message::{Message, MessageId, user_property};
use crate::planted::Planted;
use crate::record::Entry;
use crate::timers::Deadline;

/// Ids forgotten in one turn.
const FORGOTTEN_PER_TURN_MAX: usize = 1_000;

/// Ids that are past are not found; that their memory is given back may wait so long.
const EXPIRY_SLACK_MS: u64 = 60_000;

impl Shard {
    /// Returns what stands for the id of a message if its sender gave it one: those of the broker's own are new.
    pub(super) fn given_id(&self, topic: &str, properties: &PublishProperties) -> Option<Fingerprint> {
        let id = user_property(&properties.user_properties, im::IM_ID)?;
        let topic = if self.has_planted(Planted::DedupWithoutTopic) { "" } else { topic };
        self.dedup.is_on().then(|| Fingerprint::of(topic, id))
    }

    /// Answers a message that was accepted before. A QoS 2 packet id is taken like any other.
    pub(super) fn accept_again(&mut self, offer: &Offer, known: Published) -> Accepted {
        self.stats.duplicates += 1;
        let id = user_property(&offer.properties.user_properties, im::IM_ID);
        let id = MessageId::Given(id.map(crate::message::compact).unwrap_or_default());
        if let Some((packet_id, key)) = offer.incoming.zip(offer.by.session) {
            self.take_incoming(key, packet_id, known.seq(), id.clone());
        }
        let reason = if known.had_nobody() { ReasonCode::NoMatchingSubscribers } else { ReasonCode::Success };
        Accepted { reason, seq: known.seq(), id, is_repeat: true }
    }

    /// Remembers the id of a message that is accepted now, in its record.
    pub(super) fn remember_id(&mut self, now: Now, message: &Message, id: Fingerprint, had_nobody: bool) {
        let at_s = u32::try_from(now.unix_ms / 1000).unwrap_or(u32::MAX);
        let published = Published::new(id, message.seq, had_nobody, at_s);
        let was_empty = self.dedup.len() == 0;
        let from = message.from();
        let (first, published, forgotten) = self.dedup.insert(&from, published, now.unix_ms);
        for forgotten in forgotten {
            self.write(&Entry::PublishedForgotten(forgotten));
        }
        self.write(&Entry::Published { user: from, first, ids: vec![published] });
        if was_empty {
            self.watch_dedup(now);
        }
    }

    pub(super) fn dedup_expiry_due(&mut self, now: Now) {
        let (forgotten, _) = self.dedup.expire(now.unix_ms, FORGOTTEN_PER_TURN_MAX);
        for forgotten in forgotten {
            self.write(&Entry::PublishedForgotten(forgotten));
        }
        self.watch_dedup(now);
    }

    /// Sets the time at which ids are forgotten.
    pub(super) fn watch_dedup(&mut self, now: Now) {
        let Some(due_unix_ms) = self.dedup.next_expiry_unix_ms() else {
            return self.timers.clear(Deadline::DedupExpiry);
        };
        let in_ms = match due_unix_ms.checked_sub(now.unix_ms) {
            // More are past already.
            None => 0,
            Some(in_ms) => in_ms + EXPIRY_SLACK_MS,
        };
        self.timers.set(Deadline::DedupExpiry, now.monotonic_ms.saturating_add(in_ms));
    }
}
