//! `read` receipts: a user's read position moved (docs/protocol.md section 4).

use bytestring::ByteString;
use protocol::im::{Receipt, ReceiptState};

use super::Shard;
use crate::Now;
use crate::member::RollKey;
use crate::message::Message;
use crate::planted::Planted;
use crate::reads::{ReadCount, Wish};
use crate::receipt::Told;
use crate::record::Entry;
use crate::timers::Deadline;

/// Readers that are counted are told no more often.
const COUNT_EVERY_MS: u64 = 1_000;

impl Shard {
    /// Remembers a conversation's message whose sender wants to hear who read it, in its record. Readers are counted
    /// where its recipients are, or where so many may read it.
    pub(super) fn wish_read(
        &mut self,
        now: Now,
        message: &Message,
        id: &ByteString,
        sender: &ByteString,
        recipients: usize,
    ) {
        let Some(seq) = message.seq else { return };
        // Only members have read positions, and a new one has read all that is there.
        let Some(roll) = self.members.roll(&message.topic) else { return };
        let members = &self.members.get(roll).members;
        let readers = members.len() - usize::from(self.members.is_member(&message.topic, sender));
        let is_listed = self.receipts.are_listed(readers.max(recipients));
        let of = if is_listed { 0 } else { readers as u32 };
        let topic = message.topic.clone();
        if let Some(to_seq) = self.read_wishes.too_many(&topic) {
            self.settle_reads(now, &topic, to_seq);
        }
        let wish = Wish { seq, id: id.clone(), sender: sender.clone(), of, left: 0 };
        self.write(&Entry::ReadWished { topic: topic.clone(), wish: wish.clone() });
        self.read_wishes.add(&topic, wish);
    }

    /// Tells the senders whose messages a user's read position passed, each of its highest one, and forgets those
    /// that every member has read.
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
        if reached.is_counted && !self.timers.has(Deadline::ReadCount(roll as u64)) {
            self.timers.set(Deadline::ReadCount(roll as u64), now.monotonic_ms + COUNT_EVERY_MS);
        }
        // Who was before the first may have been the last to pass it.
        if after_seq < first {
            let lowest = self.members.get(roll).lowest_read();
            self.settle_reads(now, topic, lowest);
        }
    }

    /// Who leaves a conversation has read what it read.
    pub(super) fn reader_leaves(&mut self, user: &ByteString, topic: &ByteString) {
        let Some(member) = self.members.member(topic, user) else { return };
        let (joined, read) = (member.joined, member.reading.read);
        if self.read_wishes.reader_left(topic, user, joined, read) {
            let (topic, user) = (topic.clone(), user.clone());
            self.write(&Entry::ReaderLeft { topic, user, joined, read });
        }
    }

    /// Tells how many have read the messages of the conversation at this place.
    pub(super) fn read_count_due(&mut self, now: Now, roll: RollKey) {
        if self.members.has_roll(roll) {
            let topic = self.members.get(roll).topic.clone();
            self.tell_read_counts(now, &topic, u64::MAX, false);
        }
    }

    /// Counts again after a restart who has read what, and has it told: nobody knows what senders heard of it.
    pub(super) fn recount_reads(&mut self, now: Now) {
        for topic in self.read_wishes.counted() {
            let Some(roll) = self.members.roll(&topic) else { continue };
            let readers: Vec<_> = self.members.readers(roll).collect();
            for (user, joined, read) in readers {
                self.read_wishes.reach(&topic, &user, joined, joined, read);
            }
            self.timers.set(Deadline::ReadCount(roll as u64), now.monotonic_ms + COUNT_EVERY_MS);
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
