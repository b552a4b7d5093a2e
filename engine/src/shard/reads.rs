//! `read` receipts: a user's read position moved (docs/protocol.md section 4).

use bytestring::ByteString;
use protocol::im::{Receipt, ReceiptState};

use super::Shard;
use crate::Now;
use crate::message::Message;
use crate::reads::Wish;
use crate::receipt::Told;
use crate::record::Entry;

impl Shard {
    /// Remembers a conversation's message whose sender wants to hear who read it, in its record.
    pub(super) fn wish_read(&mut self, message: &Message, id: &ByteString, sender: &ByteString) {
        let Some(seq) = message.seq else { return };
        // Only members have read positions, and a new one has read all that is there.
        if self.members.roll(&message.topic).is_none() {
            return;
        }
        let wish = Wish { seq, id: id.clone(), sender: sender.clone() };
        let topic = message.topic.clone();
        self.write(&Entry::ReadWished { topic: topic.clone(), wish: wish.clone() });
        if let Some(to_seq) = self.read_wishes.add(&topic, wish) {
            self.write(&Entry::ReadSettled { topic, to_seq });
        }
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
        let Some(first) = self.read_wishes.first_seq(topic) else { return };
        for Wish { seq, id, sender } in self.read_wishes.reached(topic, user, after_seq, to_seq) {
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
        // Who was before the first may have been the last to pass it.
        if after_seq < first
            && let Some(roll) = self.members.roll(topic)
        {
            let lowest = self.members.get(roll).lowest_read();
            self.settle_reads(topic, lowest);
        }
    }

    /// Forgets who waits for messages up to this number to be read: nobody will any more.
    pub(super) fn settle_reads(&mut self, topic: &ByteString, to_seq: u64) {
        if self.read_wishes.forget(topic, to_seq) {
            self.write(&Entry::ReadSettled { topic: topic.clone(), to_seq });
        }
    }
}
