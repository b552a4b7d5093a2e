//! What happened to one session since the last flush, in order.
//!
//! Nearly all of it is messages that come and go, so these steps are small, and a message that both came and went is
//! no step at all: under load that is nearly every one. Invariant: leaving such a pair out changes nothing, because
//! nothing between its two steps is about the same copy of the message.

use protocol::{PacketId, QoS};

use super::row::Part;
use crate::message::MsgNo;
use crate::record::{Entry, Queued, SessionNo, Source};

/// What happened to a session.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing: it came and went.
    Nothing,
    /// A message waits that the session's own subscriptions brought.
    Waits { message: MsgNo, qos: QoS, retain: bool },
    /// Such a message is gone.
    Waited { message: MsgNo },
    /// Such a message is in flight at QoS 1.
    Flies { message: MsgNo, retain: bool, packet_id: PacketId },
    /// A message in flight that the session's own subscriptions brought is gone.
    Landed { message: MsgNo, packet_id: PacketId },
    /// Anything else.
    Other(Box<Change>),
}

/// What happens less often, or takes more to say.
#[derive(Debug)]
pub(super) enum Change {
    /// A part of it is another now.
    Put(Part, Entry),
    /// A part of it is gone.
    Delete(Part),
    /// A message came, moved or ended.
    Moves(Entry),
    /// It ended.
    End,
}

/// The steps of one session.
#[derive(Debug, Default)]
pub(super) struct Steps {
    list: Vec<Step>,
    /// No message of [`Step::Waits`] that may still go stands before this.
    waits_from: usize,
    /// The same of [`Step::Flies`].
    flies_from: usize,
    /// How many are nothing.
    gone: usize,
    /// The session began here.
    is_new: bool,
    /// Its groups may get what it leaves.
    has_groups: bool,
}

/// What a change needs in memory besides strings, about.
const CHANGE_BYTES: usize = 200;

/// Steps below which those that are nothing stay.
const TIDY_MIN: usize = 64;

impl Step {
    /// Makes the step of an `Entry::Queued`.
    pub(super) fn queued(queued: Queued) -> Self {
        let Queued { message, qos, retain, packet_id, .. } = queued;
        match packet_id {
            _ if queued.source != Source::Subscriptions || !queued.identifiers.is_empty() => {}
            None => return Self::Waits { message, qos, retain },
            Some(packet_id) if qos == QoS::AtLeastOnce => return Self::Flies { message, retain, packet_id },
            Some(_) => {}
        }
        Self::moves(queued.into())
    }

    /// Makes the step of an `Entry::Ended` or any other that moves a message.
    pub(super) fn moves(entry: Entry) -> Self {
        match entry {
            Entry::Ended { message, source: Source::Subscriptions, packet_id, .. } => match packet_id {
                None => Self::Waited { message },
                Some(packet_id) => Self::Landed { message, packet_id },
            },
            other => Self::Other(Box::new(Change::Moves(other))),
        }
    }

    /// Returns the entry that a small step stands for; an end's state is of no interest here.
    pub(super) fn entry(&self, session: SessionNo) -> Option<Entry> {
        let (source, identifiers) = (Source::Subscriptions, Vec::new());
        let queued = |message, qos, retain, packet_id| Entry::Queued {
            session,
            message,
            qos,
            retain,
            source,
            identifiers,
            packet_id,
        };
        let ended = |message, packet_id| Entry::Ended { session, message, source, packet_id, state: None };
        match *self {
            Self::Waits { message, qos, retain } => Some(queued(message, qos, retain, None)),
            Self::Flies { message, retain, packet_id } => {
                Some(queued(message, QoS::AtLeastOnce, retain, Some(packet_id)))
            }
            Self::Waited { message } => Some(ended(message, None)),
            Self::Landed { message, packet_id } => Some(ended(message, Some(packet_id))),
            Self::Nothing | Self::Other(_) => None,
        }
    }
}

impl Steps {
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds the next step; returns by how much more memory is needed, about.
    pub(super) fn push(&mut self, step: Step) -> isize {
        let before = self.list.len();
        let mut bytes = 0;
        match &step {
            Step::Nothing => return 0,
            Step::Waited { message } if self.take_waiting(*message) => {}
            Step::Landed { message, packet_id } if self.take_flying(*message, *packet_id) => {}
            Step::Other(change) => {
                bytes = CHANGE_BYTES as isize;
                match &**change {
                    Change::Put(Part::Opened, _) => self.is_new = true,
                    // Nothing is left of a session that came and went.
                    Change::End if self.is_new && !self.has_groups => {
                        *self = Self::default();
                        return -((before * size_of::<Step>()) as isize);
                    }
                    Change::Moves(Entry::Queued { source: Source::Group(_), .. }) => self.has_groups = true,
                    _ => {}
                }
                // What was sent waits no more, and of a message in flight a receipt's end may be told as if it waited.
                let is_sent = matches!(**change, Change::Moves(Entry::Sent { .. }));
                self.list.push(step);
                if is_sent {
                    self.waits_from = self.list.len();
                }
            }
            _ => self.list.push(step),
        }
        self.tidy();
        bytes + (self.list.len() as isize - before as isize) * size_of::<Step>() as isize
    }

    /// Takes out the message that waits longest, if it is this one.
    fn take_waiting(&mut self, no: MsgNo) -> bool {
        let from = &mut self.waits_from;
        while self.list.get(*from).is_some_and(|step| !matches!(step, Step::Waits { .. })) {
            *from += 1;
        }
        let is_it = matches!(self.list.get(*from), Some(Step::Waits { message, .. }) if *message == no);
        if is_it {
            self.list[*from] = Step::Nothing;
            self.gone += 1;
        }
        is_it
    }

    /// Takes out the message that was sent first, if it is this one.
    fn take_flying(&mut self, no: MsgNo, id: PacketId) -> bool {
        let from = &mut self.flies_from;
        while self.list.get(*from).is_some_and(|step| !matches!(step, Step::Flies { .. })) {
            *from += 1;
        }
        let is_it = matches!(
            self.list.get(*from),
            Some(Step::Flies { message, packet_id, .. }) if *message == no && *packet_id == id
        );
        if is_it {
            self.list[*from] = Step::Nothing;
            self.gone += 1;
        }
        is_it
    }

    /// Takes away what is nothing when it is most of all.
    fn tidy(&mut self) {
        if self.gone < self.list.len() && (self.gone < TIDY_MIN || self.gone * 2 < self.list.len()) {
            return;
        }
        let left_before = |from: usize| {
            let before = &self.list[..from.min(self.list.len())];
            before.iter().filter(|step| !matches!(step, Step::Nothing)).count()
        };
        (self.waits_from, self.flies_from) = (left_before(self.waits_from), left_before(self.flies_from));
        self.list.retain(|step| !matches!(step, Step::Nothing));
        self.gone = 0;
    }
}

impl IntoIterator for Steps {
    type Item = Step;
    type IntoIter = std::vec::IntoIter<Step>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(message: u64) -> Step {
        Step::Waits { message: MsgNo(message), qos: QoS::AtLeastOnce, retain: false }
    }

    fn waited(message: u64) -> Step {
        Step::Waited { message: MsgNo(message) }
    }

    fn flies(message: u64, id: u16) -> Step {
        let packet_id = PacketId::new(id).unwrap();
        Step::Flies { message: MsgNo(message), retain: false, packet_id }
    }

    fn landed(message: u64, id: u16) -> Step {
        Step::Landed { message: MsgNo(message), packet_id: PacketId::new(id).unwrap() }
    }

    fn change(change: Change) -> Step {
        Step::Other(Box::new(change))
    }

    fn opened() -> Step {
        let session = SessionNo(1);
        let entry = Entry::SessionOpened { session, client_id: "c".into(), user: "u".into() };
        change(Change::Put(Part::Opened, entry))
    }

    /// What is left of steps, by message; 0 is anything else.
    fn left(steps: impl IntoIterator<Item = Step>) -> (Vec<(u8, u64)>, isize) {
        let (mut all, mut bytes) = (Steps::default(), 0);
        steps.into_iter().for_each(|step| bytes += all.push(step));
        let seen = |step| match step {
            Step::Waits { message, .. } => Some((1, message.0)),
            Step::Waited { message } => Some((2, message.0)),
            Step::Flies { message, .. } => Some((3, message.0)),
            Step::Landed { message, .. } => Some((4, message.0)),
            Step::Other(_) => Some((0, 0)),
            Step::Nothing => None,
        };
        (all.into_iter().filter_map(seen).collect(), bytes)
    }

    #[test]
    fn messages_that_came_and_went_in_their_order_leave_nothing_however_many() {
        let flood = (100..20_100).flat_map(|n| [waits(n), waited(n - 50)]);
        let (steps, bytes) = left(flood);
        let expected: Vec<_> = (50..100).map(|n| (2, n)).chain((20_050..20_100).map(|n| (1, n))).collect();
        assert_eq!(steps, expected, "the first went that were there before, the last still wait");
        assert!(bytes < 300 * size_of::<Step>() as isize, "{bytes} bytes are held");
        let (steps, bytes) = left((1..1_000).flat_map(|n| [flies(n, 7), landed(n, 7)]));
        assert_eq!((steps.len(), bytes), (0, 0));
    }

    #[test]
    fn what_goes_in_another_order_or_under_another_id_stays_as_it_was_told() {
        let (steps, _) = left([waits(1), waits(2), waited(2), waited(1)]);
        assert_eq!(steps, [(1, 2), (2, 2)], "only the one that waits longest is looked for");
        let sent = Entry::Sent { session: SessionNo(1), message: MsgNo(2), packet_id: PacketId::MIN };
        let (steps, _) = left([
            waits(1),
            waits(2),
            change(Change::Moves(sent)),
            waits(3),
            waited(2),
            waited(1),
            waited(3),
        ]);
        assert_eq!(steps, [(1, 1), (1, 2), (0, 0), (2, 2), (2, 1)], "one of those before may be in flight");
        let (steps, _) = left([flies(1, 7), landed(1, 8), landed(2, 7)]);
        assert_eq!(steps, [(3, 1), (4, 1), (4, 2)]);
    }

    #[test]
    fn a_session_that_came_and_went_is_nothing_unless_its_groups_may_get_what_it_leaves() {
        let (steps, _) = left([opened(), waits(1), flies(2, 3), change(Change::End)]);
        assert_eq!(steps, []);
        let (steps, _) = left([waits(1), change(Change::End)]);
        assert_eq!(steps.len(), 2, "it was there before");
        let queued = Queued {
            session: SessionNo(1),
            message: MsgNo(5),
            qos: QoS::AtLeastOnce,
            retain: false,
            source: Source::Group(crate::record::GroupNo(1)),
            identifiers: Vec::new(),
            packet_id: None,
        };
        let (steps, _) = left([opened(), Step::queued(queued), change(Change::End)]);
        assert_eq!(steps.len(), 3);
    }
}
