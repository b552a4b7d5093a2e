//! How far a session is in the stored messages of conversations that it asked for (docs/protocol.md section 3).
//!
//! Owns the cursors, not the messages: while one is behind, its conversation's new messages are not queued for
//! the session, for they stand in the log behind the cursor. Cursors take turns, so that none waits for another's
//! end. Knows nothing of windows, subscriptions or the log.

use std::collections::VecDeque;
use std::sync::Arc;

use bytestring::ByteString;
use protocol::QoS;

use crate::memory::{Account, CURSOR_BYTES, Held};
use crate::message::{Message, MsgNo};
use crate::names::ByName;
use crate::record::Form;

/// Cursors whose turn comes next that are looked at for messages to be read.
const AHEAD_CURSORS: usize = 64;

/// Where stored messages are asked for from: `N` of `$im/from/{N}/{filter}` and `im-from-seq`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// This number.
    Seq(u64),
    /// The first that is kept.
    First,
    /// The first that was accepted at this time or later.
    Time { unix_ms: u64 },
}

impl Start {
    /// Reads `N`; `None` if it is none of the three forms.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let number = |digits: &str| {
            let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            // What is above every number is above the last one too.
            is_number.then(|| digits.parse().unwrap_or(u64::MAX))
        };
        match text.strip_prefix('@') {
            Some(time) => number(time).map(|unix_ms| Self::Time { unix_ms }),
            None if text == "first" => Some(Self::First),
            None => number(text).map(Self::Seq),
        }
    }
}

/// What the session's subscriptions that match a conversation say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Merged {
    pub(crate) qos: QoS,
    pub(crate) identifiers: Vec<u32>,
}

/// How far the session is in one conversation.
#[derive(Debug)]
pub(crate) struct Cursor {
    /// The next number.
    pub(crate) next: u64,
    /// The same as the log has it.
    pub(crate) logged: u64,
    /// The last message of the conversation that waits before those of the cursor.
    pub(crate) after: Option<MsgNo>,
    /// Messages from the next one on, their bodies in memory or not.
    pub(crate) ahead: VecDeque<Arc<Message>>,
    /// Found out when it is needed: for messages of others and for the client's own (No Local).
    pub(crate) merged: Option<[Option<Merged>; 2]>,
}

/// The cursors of one session, each with messages left.
#[derive(Debug)]
pub(crate) struct Replays {
    /// By form, then by topic.
    cursors: [ByName<Cursor>; 2],
    /// Whose turn it is.
    turns: VecDeque<(Form, ByteString)>,
    /// Those that have moved on since the log was told, some of them by messages in flight.
    moved: Vec<(Form, ByteString)>,
    held: Held,
    /// The queue had its turn: a cursor is next.
    pub(crate) is_next: bool,
}

impl Replays {
    pub(crate) fn new(account: &Account) -> Self {
        let cursors = [ByName::default(), ByName::default()];
        let (turns, moved) = (VecDeque::new(), Vec::new());
        Self { cursors, turns, moved, held: account.hold(0), is_next: false }
    }

    pub(crate) fn len(&self) -> usize {
        self.turns.len()
    }

    pub(crate) fn get(&self, topic: &str, form: Form) -> Option<&Cursor> {
        self.cursors[form as usize].get(topic)
    }

    pub(crate) fn get_mut(&mut self, topic: &str, form: Form) -> Option<&mut Cursor> {
        self.cursors[form as usize].get_mut(topic)
    }

    /// Whether a message of a conversation comes when its cursor does.
    pub(crate) fn covers(&self, topic: &str, form: Form, seq: u64) -> bool {
        self.get(topic, form).is_some_and(|cursor| cursor.next <= seq)
    }

    /// Makes or moves a cursor.
    pub(crate) fn set(&mut self, topic: &ByteString, form: Form, next: u64) {
        let cursor = Cursor { next, logged: next, after: None, ahead: VecDeque::new(), merged: None };
        if self.cursors[form as usize].insert(topic.clone(), cursor).is_none() {
            self.held.grow(CURSOR_BYTES + topic.len());
            self.turns.push_back((form, topic.clone()));
        }
    }

    /// Ends a cursor; says whether it was there.
    pub(crate) fn remove(&mut self, topic: &str, form: Form) -> Option<Cursor> {
        let removed = self.cursors[form as usize].remove(topic)?;
        self.held.shrink(CURSOR_BYTES + topic.len());
        let at = self.turns.iter().position(|(of, name)| *of == form && name == topic);
        at.map(|at| self.turns.remove(at));
        Some(removed)
    }

    /// Whose turn it is after so many others.
    pub(crate) fn turn(&self, place: usize) -> Option<&(Form, ByteString)> {
        self.turns.get(place)
    }

    /// Puts the cursor at a place behind all others, if it is this one: one that has ended has no place.
    pub(crate) fn pass_turn(&mut self, place: usize, topic: &str, form: Form) {
        if self.turn(place).is_some_and(|(of, name)| *of == form && name == topic) {
            let turn = self.turns.remove(place);
            self.turns.extend(turn);
        }
    }

    /// Goes through the cursors in the order of their turns.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ByteString, Form, &Cursor)> {
        let of = |(form, topic): &(Form, ByteString)| self.get(topic, *form);
        self.turns.iter().filter_map(move |turn| Some((&turn.1, turn.0, of(turn)?)))
    }

    /// Moves a cursor on; messages before it that were read ahead are let go.
    pub(crate) fn move_to(&mut self, topic: &ByteString, form: Form, next: u64) {
        let Some(cursor) = self.cursors[form as usize].get_mut(topic) else { return };
        if cursor.next == cursor.logged {
            self.moved.push((form, topic.clone()));
        }
        cursor.next = next;
        while cursor.ahead.front().is_some_and(|message| message.seq < Some(next)) {
            cursor.ahead.pop_front();
        }
    }

    /// Notes that the log knows how far a cursor is.
    pub(crate) fn is_logged(&mut self, topic: &str, form: Form) {
        if let Some(cursor) = self.get_mut(topic, form) {
            cursor.logged = cursor.next;
        }
    }

    /// Returns how far those have come of which the log does not know it, and notes that it does now.
    pub(crate) fn take_unlogged(&mut self) -> Vec<(ByteString, Form, u64)> {
        let mut unlogged = Vec::new();
        for (form, topic) in std::mem::take(&mut self.moved) {
            let cursor = self.get_mut(&topic, form).filter(|cursor| cursor.next != cursor.logged);
            if let Some(cursor) = cursor {
                cursor.logged = cursor.next;
                unlogged.push((topic, form, cursor.next));
            }
        }
        unlogged
    }

    /// Messages that were read ahead: the next one of each cursor whose turn comes soon, then those that follow.
    pub(crate) fn ahead(&self) -> impl Iterator<Item = &Arc<Message>> {
        let cursors = || self.iter().take(AHEAD_CURSORS).map(|(_, _, cursor)| cursor);
        let next = cursors().filter_map(|cursor| cursor.ahead.front());
        next.chain(cursors().flat_map(|cursor| cursor.ahead.iter().skip(1)))
    }

    /// Has it found out again what the subscriptions say.
    pub(crate) fn forget_merged(&mut self) {
        self.cursors.iter_mut().flat_map(ByName::values_mut).for_each(|cursor| cursor.merged = None);
    }

    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> usize {
        self.held.bytes()
    }

    #[cfg(test)]
    pub(crate) fn recount(&self) -> usize {
        self.turns.iter().map(|(_, topic)| CURSOR_BYTES + topic.len()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_a_number_a_time_or_the_first_and_nothing_else() {
        for (text, start) in [
            ("1", Start::Seq(1)),
            ("0", Start::Seq(0)),
            ("007", Start::Seq(7)),
            ("99999999999999999999999", Start::Seq(u64::MAX)),
            ("first", Start::First),
            ("@1800000000000", Start::Time { unix_ms: 1_800_000_000_000 }),
        ] {
            assert_eq!(Start::parse(text), Some(start), "{text}");
        }
        for bad in ["", "@", "-1", "+1", "1.5", "First", "@first", "1 ", "last", "@-1", "0x1"] {
            assert_eq!(Start::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn cursors_take_turns_and_count_what_they_hold() {
        let account = Account::default();
        let mut replays = Replays::new(&account);
        for topic in ["a", "b", "c"] {
            replays.set(&topic.into(), Form::Plain, 1);
        }
        replays.set(&"b".into(), Form::Plain, 7);
        replays.set(&"b".into(), Form::Envelope, 3);
        assert_eq!((replays.len(), account.bytes()), (4, 4 * (CURSOR_BYTES + 1)));
        assert!(replays.covers("b", Form::Plain, 7) && !replays.covers("b", Form::Plain, 6));
        replays.pass_turn(0, "a", Form::Plain);
        replays.pass_turn(0, "a", Form::Plain);
        assert_eq!(replays.turn(0), Some(&(Form::Plain, "b".into())));
        assert!(replays.remove("b", Form::Plain).is_some() && replays.remove("b", Form::Plain).is_none());
        let order: Vec<_> =
            replays.iter().map(|(topic, form, cursor)| (&**topic, form, cursor.next)).collect();
        assert_eq!(order, [("c", Form::Plain, 1), ("b", Form::Envelope, 3), ("a", Form::Plain, 1)]);
        drop(replays);
        assert_eq!(account.bytes(), 0);
    }
}
