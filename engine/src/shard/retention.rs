//! What conversations give up by their rules: the oldest messages, by number, size and age.
//!
//! The number that is kept from then on stands in the log before anybody may reckon with the space.

use bytestring::ByteString;

use super::Shard;
use super::backlog::Work;
use crate::Now;
use crate::planted::Planted;
use crate::record::Entry;
use crate::timers::Deadline;

/// Messages given up in one turn.
const GIVEN_UP_PER_TURN: usize = 1_024;

impl Shard {
    /// Returns the numbers of the messages that a conversation keeps.
    pub fn kept_seqs(&self, topic: &str) -> Vec<u64> {
        self.conversations.range(topic, 0).map(|stored| stored.seq).collect()
    }

    /// Gives up what a conversation keeps beyond its rule; what is more than one turn's comes later.
    pub(super) fn retain(&mut self, now: Now, topic: &ByteString) {
        if !self.conversations.keeps_too_much(topic, now.unix_ms) || self.has_planted(Planted::KeptTooLong) {
            return;
        }
        // What a cursor that has ended left out is found by the index: first that.
        if self.uncovering.contains_key(topic) {
            return self.backlog.push_back(Work::Retain(topic.clone()));
        }
        let mut first_seq = None;
        for _ in 0..GIVEN_UP_PER_TURN {
            let Some(given_up) = self.conversations.give_up(topic, now.unix_ms) else { break };
            first_seq = Some(given_up.seq + 1);
            if self.receipts.is_tracked(given_up.no) {
                self.backlog.push_back(Work::GivenUp { message: given_up.no, after: None });
            }
        }
        let Some(first_seq) = first_seq else { return };
        self.write(&Entry::ConversationKept { topic: topic.clone(), first_seq });
        self.settle_reads(now, topic, first_seq - 1);
        self.members_given_up(now, topic);
        self.effort += GIVEN_UP_PER_TURN / 16;
        if self.conversations.keeps_too_much(topic, now.unix_ms) {
            self.backlog.push_back(Work::Retain(topic.clone()));
        }
        self.watch_retention(now);
    }

    /// The oldest messages of some conversations are too old.
    pub(super) fn retention_due(&mut self, now: Now) {
        let due = self.conversations.next_due().filter(|(at_unix_ms, _)| *at_unix_ms <= now.unix_ms);
        match due.map(|(_, topic)| topic.clone()) {
            Some(topic) => self.retain(now, &topic),
            // The clock went back, or the message went meanwhile.
            None => self.watch_retention(now),
        }
    }

    /// Sets the time at which the next message is too old.
    pub(super) fn watch_retention(&mut self, now: Now) {
        match self.conversations.next_due() {
            Some((at_unix_ms, _)) => {
                let left_ms = at_unix_ms.saturating_sub(now.unix_ms);
                self.timers.set(Deadline::Retention, now.monotonic_ms.saturating_add(left_ms));
            }
            None => self.timers.clear(Deadline::Retention),
        }
    }

    /// Does all of it anew: the rules may be others since the log was written.
    pub(super) fn resume_retention(&mut self, now: Now) {
        let mut topics = self.conversations.keeping_too_much(now.unix_ms);
        topics.sort_unstable();
        self.backlog.extend(topics.into_iter().map(Work::Retain));
        self.watch_retention(now);
    }
}
