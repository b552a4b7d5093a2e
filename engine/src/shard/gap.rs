//! Which numbers of a conversation a session will not get, and which message tells it: `im-gap`.

use bytestring::ByteString;

use super::Shard;
use super::rights::NOT_AUTHORIZED;
use crate::gap::Gaps;
use crate::message::{Delivery, Origin};
use crate::planted::Planted;
use crate::receipt::Outcome;
use crate::record::{Entry, Form, Hole};
use crate::route::SessionKey;
use crate::session::InFlight;

impl Shard {
    /// Notes what became of a message at a session: a hole if it will not come.
    pub(super) fn note_end(&mut self, key: SessionKey, delivery: &Delivery, outcome: Outcome) {
        let Some(seq) = delivery.message.seq.filter(|_| has_gaps(delivery)) else { return };
        let (topic, form) = (&delivery.message.topic, delivery.form());
        match outcome {
            // Who may not read it has no conversation any more.
            Outcome::Dropped(NOT_AUTHORIZED) => {}
            Outcome::Dropped(_) | Outcome::Expired | Outcome::Poison => {
                self.note_hole(key, topic, form, seq);
            }
            Outcome::Delivered(_) | Outcome::Refused(_) => {
                let session = &mut self.sessions[key];
                let Some(gaps) = session.gaps.as_mut().filter(|gaps| gaps.has_told(topic, form, seq)) else {
                    return;
                };
                // A newer SUBSCRIBE has it in flight a second time: that one told, and tells again if it must.
                let message = delivery.message.no;
                let is_in_flight =
                    |f: &InFlight| f.delivery.message.no == message && f.delivery.form() == form;
                if session.in_flight.iter().any(is_in_flight) {
                    return;
                }
                if gaps.settle(topic, form, seq) {
                    self.log_gaps(key, topic, form);
                }
            }
        }
    }

    /// Notes that a session will not get a number.
    pub(super) fn note_hole(&mut self, key: SessionKey, topic: &ByteString, form: Form, seq: u64) {
        let account = &self.account;
        let gaps = self.sessions[key].gaps.get_or_insert_with(|| Box::new(Gaps::new(account)));
        gaps.note(topic, form, seq);
        self.log_gaps(key, topic, form);
    }

    /// Puts others in the place of a conversation's holes, or of none.
    pub(super) fn set_gaps(&mut self, key: SessionKey, topic: &ByteString, form: Form, holes: Vec<Hole>) {
        let known = self.sessions[key].gaps.as_ref().map_or(&[][..], |gaps| gaps.of(topic, form));
        if *known != holes[..] {
            self.restore_gaps(key, topic, form, holes);
            self.log_gaps(key, topic, form);
        }
    }

    pub(super) fn restore_gaps(&mut self, key: SessionKey, topic: &ByteString, form: Form, holes: Vec<Hole>) {
        let account = &self.account;
        let session = &mut self.sessions[key];
        let gaps = session.gaps.get_or_insert_with(|| Box::new(Gaps::new(account)));
        gaps.set(topic, form, holes);
        if gaps.is_empty() {
            session.gaps = None;
        }
    }

    /// Whether a message that goes out now has to tell of numbers before it. One that goes out again tells what it
    /// told before: the client may have it already, and not look at it again.
    pub(super) fn tells_gap(&self, key: SessionKey, delivery: &Delivery, is_again: bool) -> bool {
        let gaps = self.sessions[key].gaps.as_ref().filter(|_| !self.has_planted(Planted::GapNotTold));
        let Some(gaps) = gaps else { return false };
        let Some(seq) = delivery.message.seq.filter(|_| has_gaps(delivery)) else { return false };
        gaps.is_told_by(&delivery.message.topic, delivery.form(), seq, is_again)
    }

    /// Notes that a message told it.
    pub(super) fn told_gap(&mut self, key: SessionKey, delivery: &Delivery) {
        let (topic, form) = (&delivery.message.topic, delivery.form());
        let seq = delivery.message.seq.unwrap_or_default();
        let gaps = &mut self.sessions[key].gaps;
        if gaps.as_mut().is_some_and(|gaps| gaps.tell(topic, form, seq)) {
            self.log_gaps(key, topic, form);
        }
    }

    /// Forgets the holes of conversations that no subscription of the session brings any more.
    pub(super) fn review_gaps(&mut self, key: SessionKey) {
        let Some(gaps) = &self.sessions[key].gaps else { return };
        let mut topics: Vec<_> = gaps.iter().map(|(topic, form, _)| (topic.clone(), form)).collect();
        topics.sort_unstable();
        for (topic, form) in topics {
            if !self.brings(key, &topic, form) {
                self.set_gaps(key, &topic, form, Vec::new());
            }
        }
    }

    fn log_gaps(&mut self, key: SessionKey, topic: &ByteString, form: Form) {
        let session = &mut self.sessions[key];
        let Some(gaps) = session.gaps.as_ref() else {
            return self.write_holes(key, topic, form, Vec::new());
        };
        let (holes, is_empty) = (gaps.of(topic, form).to_vec(), gaps.is_empty());
        if is_empty {
            session.gaps = None;
        }
        self.write_holes(key, topic, form, holes);
    }

    fn write_holes(&mut self, key: SessionKey, topic: &ByteString, form: Form, holes: Vec<Hole>) {
        let session = &self.sessions[key];
        if session.durable {
            let (session, topic) = (session.no, topic.clone());
            self.write(&Entry::Holes { session, topic, form, holes });
        }
    }
}

/// Shared groups jump by nature, and retained messages are no part of the conversation's order.
fn has_gaps(delivery: &Delivery) -> bool {
    matches!(delivery.origin, Origin::Subscriptions | Origin::Envelope)
}
