//! Messages that end their recipient's connections (docs/protocol.md section 4, reason `poison`).
//!
//! Owns what is suspected at one session, and what was set aside there. Knows nothing of the log or of sockets.
//!
//! ```text
//! quick end = a connection that ended, without DISCONNECT, within 1 s of sending a message that it did not acknowledge
//! trusted --2 quick ends in a row--> suspected: one message at a time --nothing is in flight any more--> trusted
//! the only message in flight at n quick ends in a row --> set aside
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use crate::message::{Message, MsgNo};
use crate::record::{Form, Source};
use protocol::QoS;

/// A connection that lives longer after a message was sent did not end because of it.
pub(crate) const QUICK_MS: u64 = 1_000;

/// Quick ends after which messages are sent one at a time.
const SUSPECTED_AFTER: u32 = 2;

/// Bytes of the messages set aside at one session.
const SET_ASIDE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A place among those set aside, and a session's table of them.
pub(crate) const SET_ASIDE_BYTES: usize = size_of::<SetAside>() * 2;

/// What a session's connections ended with.
#[derive(Debug, Default)]
pub(crate) struct Suspicion {
    quick_ends: u32,
    /// The message that was alone in flight at the last quick end, and at how many in a row.
    alone: Option<(MsgNo, Source, u32)>,
}

impl Suspicion {
    /// Notes a quick end; `alone` is what was the only message in flight. Returns at how many in a row it was.
    pub(crate) fn ended_quickly(&mut self, alone: Option<(MsgNo, Source)>) -> u32 {
        self.quick_ends = self.quick_ends.saturating_add(1);
        self.alone = alone.map(|(message, source)| {
            let before = self.alone.filter(|(no, by, _)| (*no, *by) == (message, source));
            (message, source, before.map_or(0, |(_, _, ends)| ends).saturating_add(1))
        });
        self.alone.map_or(0, |(_, _, ends)| ends)
    }

    /// Whether messages are sent one at a time.
    pub(crate) fn is_strong(&self) -> bool {
        self.quick_ends >= SUSPECTED_AFTER
    }
}

/// A message that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SetAside {
    /// As it was; it is in no other queue by this.
    pub(crate) message: Arc<Message>,
    pub(crate) qos: QoS,
    pub(crate) form: Form,
    pub(crate) at_unix_ms: u64,
}

/// The messages that were set aside at one session, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct SetAsides(VecDeque<SetAside>);

impl SetAsides {
    /// Adds one, and takes out the oldest that there is no room for, and the same message if it was set aside before:
    /// a retained one comes again.
    pub(crate) fn push(&mut self, new: SetAside, messages_max: usize) -> Vec<SetAside> {
        let mut gone: Vec<_> = self.take(new.message.no).into_iter().collect();
        // Rows come back in the order of their messages' numbers.
        let order = |s: &SetAside| (s.at_unix_ms, s.message.no);
        let at = self.0.partition_point(|before| order(before) < order(&new));
        self.0.insert(at, new);
        while self.0.len() > 1 && (self.0.len() > messages_max || self.bytes() > SET_ASIDE_BYTES_MAX) {
            gone.extend(self.0.pop_front());
        }
        gone
    }

    /// Takes one out by its message's number.
    pub(crate) fn take(&mut self, message: MsgNo) -> Option<SetAside> {
        let at = self.0.iter().position(|s| s.message.no == message)?;
        self.0.remove(at)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &SetAside> {
        self.0.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(|s| s.message.bytes()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::message_for_tests;

    #[test]
    fn only_ends_in_a_row_with_the_same_message_alone_count() {
        let mut suspicion = Suspicion::default();
        let one = Some((MsgNo(1), Source::Subscriptions));
        let other = Some((MsgNo(2), Source::Subscriptions));
        let ends: Vec<_> =
            [one, one, None, one, other, other, other].map(|alone| suspicion.ended_quickly(alone)).into();
        assert_eq!(ends, [1, 2, 0, 1, 1, 2, 3]);
        assert!(suspicion.is_strong());
    }

    #[test]
    fn the_oldest_goes_when_there_is_no_room() {
        let mut all = SetAsides::default();
        let of = |no| SetAside {
            message: Arc::new(Message { no: MsgNo(no), ..Message::clone(&message_for_tests()) }),
            qos: QoS::AtLeastOnce,
            form: Form::Plain,
            at_unix_ms: no,
        };
        assert_eq!([1, 2].map(|no| all.push(of(no), 2).len()), [0, 0]);
        let gone: Vec<_> = all.push(of(3), 2).into_iter().map(|s| s.message.no.0).collect();
        assert_eq!(gone, [1]);
        assert!(all.take(MsgNo(1)).is_none() && all.take(MsgNo(3)).is_some());
        assert_eq!(all.iter().count(), 1);
        // Whichever is taken back first, the oldest comes first, and goes first.
        let mut again = SetAsides::default();
        for (no, at_unix_ms) in [(1, 30), (2, 10), (3, 20)] {
            assert!(again.push(SetAside { at_unix_ms, ..of(no) }, 3).is_empty());
        }
        assert_eq!(again.iter().map(|s| s.message.no.0).collect::<Vec<_>>(), [2, 3, 1]);
        assert_eq!(again.push(of(40), 3)[0].message.no.0, 2);
        let large = Message { bytes: SET_ASIDE_BYTES_MAX as u32, ..Message::clone(&message_for_tests()) };
        assert_eq!(all.push(SetAside { message: Arc::new(large), ..of(4) }, 2).len(), 1);
        assert!(!all.is_empty());
    }
}
