//! `read` receipts: a user's read position moved (docs/protocol.md section 4).

use bytestring::ByteString;
use protocol::im::{Receipt, ReceiptState};

use super::Shard;
use crate::Now;
use crate::message::{Message, compact};
use crate::planted::Planted;
use crate::reads::{Reached, ReadCount, Wish};
use crate::receipt::Told;
use crate::record::Entry;
use crate::route::SessionKey;
use crate::timers::Deadline;

/// Readers that are counted are told no more often.
const COUNT_EVERY_MS: u64 = 1_000;

/// Conversations whose counts are told in one turn.
const COUNTED_PER_TURN: usize = 32;

impl Shard {
    /// Remembers a conversation's message whose sender wants to hear who read it, in its record. Readers are counted
    /// where its recipients are, or where so many may read it.
    pub(super) fn wish_read(
        &mut self,
        now: Now,
        message: &Message,
        id: &ByteString,
        sender: &ByteString,
        recipients: &[SessionKey],
    ) {
        let Some(seq) = message.seq else { return };
        let topic = message.topic.clone();
        let members = self.members.roll(&topic).map_or(0, |roll| self.members.get(roll).members.len());
        let readers = members - usize::from(self.members.is_member(&topic, sender));
        let mut users = recipients.iter().map(|key| &self.sessions[*key].user);
        let is_open = users.any(|user| user != sender && !self.members.is_member(&topic, user));
        if members == 0 && !is_open {
            return;
        }
        let is_listed = self.receipts.are_listed(readers.max(recipients.len()));
        let of = match (is_listed, is_open) {
            (true, _) => 0,
            (false, true) => readers.max(recipients.len()) as u32,
            (false, false) => readers as u32,
        };
        if let Some(to_seq) = self.read_wishes.too_many(&topic) {
            self.settle_reads(now, &topic, to_seq);
        }
        let wish = Wish { seq, id: id.clone(), sender: sender.clone(), of, left: 0, is_open };
        self.write(&Entry::ReadWished { topic: topic.clone(), wish: wish.clone() });
        self.read_wishes.add(&topic, wish);
    }

    /// Tells the senders whose messages a user's read position passed, each of its highest one, and forgets those
    /// that every member has read and nobody else may.
    pub(super) fn read_reached(
        &mut self,
        now: Now,
        user: &ByteString,
        topic: &ByteString,
        after_seq: u64,
        to_seq: u64,
    ) {
        if self.has_planted(Planted::ReadNotTold) {
            return;
        }
        let Some(first) = self.read_wishes.first_seq(topic) else { return };
        let Some(roll) = self.members.roll(topic) else { return };
        let joined = self.members.member(topic, user).map_or(0, |member| member.joined);
        let reached = self.read_wishes.reach(topic, user, joined, after_seq, to_seq);
        self.tell_reached(now, user, topic, to_seq, reached);
        // Who was before the first may have been the last to pass it.
        if after_seq < first {
            let lowest = self.read_wishes.closed_up_to(topic, self.members.get(roll).lowest_read());
            self.settle_reads(now, topic, lowest);
        }
    }

    /// A user who is no member has read a conversation up to a number: its position is kept where somebody waits for it.
    pub(super) fn guest_reached(&mut self, now: Now, user: &ByteString, topic: &ByteString, to_seq: u64) {
        let to_seq = to_seq.min(self.conversations.end(topic).seq);
        if !self.read_wishes.waits(topic, to_seq) || self.has_planted(Planted::ReadNotTold) {
            return;
        }
        if let Some(reached) = self.read_wishes.guest_read(topic, user, to_seq) {
            if self.read_wishes.guest(topic, user) == Some(to_seq) {
                self.write(&Entry::GuestRead { topic: compact(topic), user: user.clone(), read: to_seq });
            }
            self.tell_reached(now, user, topic, to_seq, reached);
        }
    }

    fn tell_reached(
        &mut self,
        now: Now,
        user: &ByteString,
        topic: &ByteString,
        to_seq: u64,
        reached: Reached,
    ) {
        for Wish { seq, id, sender, .. } in reached.named {
            let receipt = Receipt {
                topic: topic.to_string(),
                seq: Some(seq),
                id: id.to_string(),
                state: ReceiptState::Read,
                user: Some(user.to_string()),
                client: None,
                at: now.unix_ms,
                reason: None,
                qos: None,
            };
            let payload = serde_json::to_string(&receipt).expect("a struct of strings and numbers is JSON");
            self.turn.told.push(Told { sender, payload });
        }
        if reached.is_complete {
            self.tell_read_counts(now, topic, to_seq, true);
        }
        if reached.is_counted {
            self.tell_read_counts_later(now, topic);
        }
    }

    fn tell_read_counts_later(&mut self, now: Now, topic: &ByteString) {
        if self.read_wishes.is_due(topic) {
            self.timers.set(Deadline::ReadCounts, now.monotonic_ms + COUNT_EVERY_MS);
        }
    }

    /// Who leaves a conversation has read what it read, and may read on.
    pub(super) fn reader_leaves(&mut self, user: &ByteString, topic: &ByteString) {
        let Some(member) = self.members.member(topic, user) else { return };
        let (joined, read) = (member.joined, member.reading.read);
        if self.read_wishes.waits(topic, read) {
            self.read_wishes.reader_left(topic, user, joined, read);
            let (topic, user) = (topic.clone(), user.clone());
            self.write(&Entry::ReaderLeft { topic, user, joined, read });
        }
    }

    /// Tells how many have read the messages of conversations where that changed.
    pub(super) fn read_counts_due(&mut self, now: Now) {
        for _ in 0..COUNTED_PER_TURN {
            let Some(topic) = self.read_wishes.next_due() else { return };
            self.tell_read_counts(now, &topic, u64::MAX, false);
        }
        self.timers.set(Deadline::ReadCounts, now.monotonic_ms);
    }

    /// Counts again after a restart who has read what, and has it told: nobody knows what senders heard of it.
    pub(super) fn recount_reads(&mut self, now: Now) {
        for topic in self.read_wishes.counted() {
            let roll = self.members.roll(&topic);
            let readers: Vec<_> = roll.into_iter().flat_map(|roll| self.members.readers(roll)).collect();
            for (user, joined, read) in readers {
                self.read_wishes.reach(&topic, &user, joined, joined, read);
            }
            self.tell_read_counts_later(now, &topic);
        }
    }

    fn tell_read_counts(&mut self, now: Now, topic: &ByteString, to_seq: u64, only_complete: bool) {
        for ReadCount { seq, id, sender, count, of } in
            self.read_wishes.count_now(topic, to_seq, only_complete)
        {
            let payload = serde_json::json!({
                "topic": &**topic, "seq": seq, "id": &*id, "state": ReceiptState::Read,
                "count": count, "of": of, "at": now.unix_ms,
            });
            self.turn.told.push(Told { sender, payload: payload.to_string() });
        }
    }

    /// Forgets who waits for messages up to this number to be read: nobody will any more.
    pub(super) fn settle_reads(&mut self, now: Now, topic: &ByteString, to_seq: u64) {
        if self.read_wishes.first_seq(topic).is_none_or(|first| first > to_seq) {
            return;
        }
        self.tell_read_counts(now, topic, to_seq, false);
        self.read_wishes.forget(topic, to_seq);
        self.write(&Entry::ReadSettled { topic: topic.clone(), to_seq });
    }
}
