//! Numbers of conversations that a session will not get, until it was told: `im-gap` (docs/protocol.md section 3).
//!
//! Kept only where a hole arose. The first message behind a hole tells of it; which one that is stays known until
//! the client has it, so that the same message tells it again when it is sent again.

use bytestring::ByteString;

use crate::memory::{Account, GAP_BYTES, Held};
use crate::message::compact;
use crate::names::ByName;
use crate::record::{Form, Hole};

/// Holes of one conversation that are told apart. What is forgotten beyond, the client asks for again, and learns
/// then that it is gone.
const HOLES_MAX: usize = 64;

/// Conversations of one session with holes.
const TOPICS_MAX: usize = 10_000;

/// Bytes of one hole.
const HOLE_BYTES: usize = size_of::<Hole>();

/// The holes of one session.
#[derive(Debug)]
pub(crate) struct Gaps {
    /// By form, then by topic; in the order of their numbers.
    holes: [ByName<Vec<Hole>>; 2],
    held: Held,
}

impl Gaps {
    pub(crate) fn new(account: &Account) -> Self {
        Self { holes: [ByName::default(), ByName::default()], held: account.hold(0) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.holes.iter().all(ByName::is_empty)
    }

    /// Returns the holes of a conversation.
    pub(crate) fn of(&self, topic: &str, form: Form) -> &[Hole] {
        self.holes[form as usize].get(topic).map_or(&[], Vec::as_slice)
    }

    /// Notes that a number will not come. If its message told of holes before, another one must.
    pub(crate) fn note(&mut self, topic: &ByteString, form: Form, seq: u64) {
        let others: usize = self.holes.iter().map(ByName::len).sum();
        let known = self.of(topic, form);
        if known.is_empty() && others >= TOPICS_MAX {
            return;
        }
        let mut holes = known.to_vec();
        holes.iter_mut().filter(|hole| hole.told_by == seq).for_each(|hole| hole.told_by = 0);
        let is_known = holes.iter().any(|hole| hole.last_seq == seq);
        match holes.iter_mut().find(|hole| hole.told_by == 0 && hole.last_seq + 1 == seq) {
            _ if is_known => {}
            Some(hole) => hole.last_seq = seq,
            None => holes.push(Hole { last_seq: seq, told_by: 0 }),
        }
        holes.sort_unstable_by_key(|hole| hole.last_seq);
        let too_many = holes.len().saturating_sub(HOLES_MAX);
        holes.drain(..too_many);
        self.set(topic, form, holes);
    }

    /// Whether a message is the one to tell of a hole; one that goes out again is no other than it was.
    pub(crate) fn is_told_by(&self, topic: &str, form: Form, seq: u64, is_again: bool) -> bool {
        let is_next = |hole: &Hole| !is_again && hole.told_by == 0 && hole.last_seq < seq;
        let is_behind = |hole: &Hole| hole.told_by == seq || is_next(hole);
        self.of(topic, form).iter().any(is_behind)
    }

    /// Notes that a message tells of what is before it; says whether that is new.
    pub(crate) fn tell(&mut self, topic: &str, form: Form, seq: u64) -> bool {
        let Some(holes) = self.holes[form as usize].get_mut(topic) else { return false };
        let mut untold = holes.iter_mut().filter(|hole| hole.told_by == 0 && hole.last_seq < seq).peekable();
        let is_new = untold.peek().is_some();
        untold.for_each(|hole| hole.told_by = seq);
        is_new
    }

    /// Whether a message told of holes.
    pub(crate) fn has_told(&self, topic: &str, form: Form, seq: u64) -> bool {
        self.of(topic, form).iter().any(|hole| hole.told_by == seq)
    }

    /// Forgets the holes that a message told of: the client has it. Says whether there were any.
    pub(crate) fn settle(&mut self, topic: &ByteString, form: Form, seq: u64) -> bool {
        let known = self.of(topic, form);
        if !known.iter().any(|hole| hole.told_by == seq) {
            return false;
        }
        let left = known.iter().filter(|hole| hole.told_by != seq).copied().collect();
        self.set(topic, form, left);
        true
    }

    /// Puts others in the place of a conversation's holes.
    pub(crate) fn set(&mut self, topic: &ByteString, form: Form, holes: Vec<Hole>) {
        let named = &mut self.holes[form as usize];
        if let Some(before) = named.get(topic) {
            self.held.shrink(before.len() * HOLE_BYTES);
        }
        self.held.grow(holes.len() * HOLE_BYTES);
        if holes.is_empty() {
            if named.remove(topic).is_some() {
                self.held.shrink(GAP_BYTES + topic.len());
            }
        } else if let Some(known) = named.get_mut(topic) {
            *known = holes;
        } else {
            self.held.grow(GAP_BYTES + topic.len());
            named.insert(compact(topic), holes);
        }
    }

    /// Goes through all conversations with holes, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ByteString, Form, &[Hole])> {
        let forms = [Form::Plain, Form::Envelope];
        let of =
            |form: Form| self.holes[form as usize].iter().map(move |(topic, h)| (topic, form, h.as_slice()));
        forms.into_iter().flat_map(of)
    }

    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> usize {
        self.held.bytes()
    }

    #[cfg(test)]
    pub(crate) fn recount(&self) -> usize {
        self.iter().map(|(topic, _, holes)| GAP_BYTES + topic.len() + holes.len() * HOLE_BYTES).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holes noted, then which messages tell, in order.
    fn told(noted: &[u64], sent: &[u64]) -> Vec<u64> {
        let mut gaps = Gaps::new(&Account::default());
        let topic = ByteString::from("im/room");
        noted.iter().for_each(|seq| gaps.note(&topic, Form::Plain, *seq));
        let mut told = Vec::new();
        for seq in sent {
            if gaps.is_told_by(&topic, Form::Plain, *seq, false) {
                told.push(*seq);
                assert!(gaps.tell(&topic, Form::Plain, *seq));
                assert!(
                    gaps.is_told_by(&topic, Form::Plain, *seq, true),
                    "it tells again when it is sent again"
                );
            }
        }
        told.iter().for_each(|seq| assert!(gaps.settle(&topic, Form::Plain, *seq)));
        assert_eq!(gaps.held_bytes(), gaps.recount());
        told
    }

    #[test]
    fn the_first_message_behind_each_hole_tells_and_no_other() {
        assert_eq!(told(&[3], &[1, 2, 4, 5]), [4]);
        assert_eq!(told(&[3, 4, 5], &[1, 6, 7]), [6]);
        assert_eq!(told(&[7, 5], &[4, 6, 8, 9]), [6, 8]);
        assert_eq!(told(&[5, 7, 6], &[4, 8]), [8]);
        assert_eq!(told(&[2, 2], &[3]), [3]);
        assert_eq!(told(&[], &[1, 2]), [0; 0]);
    }

    #[test]
    fn what_a_lost_teller_told_is_told_by_the_next() {
        let mut gaps = Gaps::new(&Account::default());
        let topic = ByteString::from("im/room");
        gaps.note(&topic, Form::Plain, 3);
        gaps.tell(&topic, Form::Plain, 4);
        assert!(!gaps.is_told_by(&topic, Form::Plain, 6, false));
        gaps.note(&topic, Form::Plain, 4);
        assert!(gaps.is_told_by(&topic, Form::Plain, 6, false));
        assert!(!gaps.is_told_by(&topic, Form::Envelope, 6, false));
        gaps.tell(&topic, Form::Plain, 6);
        assert!(gaps.settle(&topic, Form::Plain, 6) && gaps.is_empty());
    }

    #[test]
    fn holes_and_conversations_with_holes_are_bounded() {
        let account = Account::default();
        let mut gaps = Gaps::new(&account);
        for seq in 0..1_000 {
            gaps.note(&"im/room".into(), Form::Plain, seq * 2);
        }
        assert_eq!(gaps.of("im/room", Form::Plain).len(), HOLES_MAX);
        for n in 0..TOPICS_MAX + 10 {
            gaps.note(&format!("im/{n}").into(), Form::Plain, 1);
        }
        assert_eq!(gaps.iter().count(), TOPICS_MAX);
        assert_eq!(account.bytes(), gaps.recount());
        drop(gaps);
        assert_eq!(account.bytes(), 0);
    }
}
