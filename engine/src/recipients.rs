//! The recipients of a message whose final state is not known yet.
//!
//! Where receipts name them each stands with its names; where receipts are only counted, as for a message to
//! thousands, a recipient is a number in a sorted list and a bit. Knows nothing of what became of them.
//!
//! Invariant: a recipient leaves once.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::memory::RECIPIENT_BYTES;
use crate::record::{GroupNo, Recipient, Recipients, SessionNo, TrackedRecipient};

/// Bytes of a recipient that is only counted.
const COUNTED_BYTES: usize = size_of::<SessionNo>() + 1;

/// Those that are left of a message's recipients.
#[derive(Clone, Debug)]
pub(crate) enum OpenRecipients {
    Listed(BTreeMap<Recipient, Listed>),
    Counted(Counted),
}

/// A recipient that is named in its receipt.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    named: TrackedRecipient,
    /// The session that has the message: of a group the member that has it now.
    holder: SessionNo,
}

/// Recipients that are counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted {
    /// In ascending order; some have ended.
    sessions: Vec<SessionNo>,
    /// Which have, a bit each.
    ended: Vec<u64>,
    /// How many have not.
    left: usize,
    /// Each with the member that it chose first, and the one that has the message now.
    groups: BTreeMap<GroupNo, [SessionNo; 2]>,
}

/// One of those that are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) recipient: Recipient,
    pub(crate) holder: SessionNo,
}

impl OpenRecipients {
    pub(crate) fn new(recipients: Recipients) -> Self {
        match recipients {
            Recipients::Listed(all) => {
                let all = all.into_iter();
                Self::Listed(all.map(|r| (r.recipient(), Listed { holder: r.session, named: r })).collect())
            }
            Recipients::Counted { sessions, groups } => {
                let (left, ended) = (sessions.len(), vec![0; sessions.len().div_ceil(64)]);
                let groups = groups.into_iter().map(|(group, first)| (group, [first, first])).collect();
                Self::Counted(Counted { sessions, ended, left, groups })
            }
        }
    }

    /// Those that are left, as the log says it.
    pub(crate) fn logged(&self) -> Recipients {
        match self {
            Self::Listed(all) => Recipients::Listed(all.values().map(|open| open.named.clone()).collect()),
            Self::Counted(all) => {
                let (sessions, groups) = (all.open_sessions(0).collect(), &all.groups);
                Recipients::Counted {
                    sessions,
                    groups: groups.iter().map(|(g, [first, _])| (*g, *first)).collect(),
                }
            }
        }
    }

    pub(crate) fn is_listed(&self) -> bool {
        matches!(self, Self::Listed(_))
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Listed(all) => all.is_empty(),
            Self::Counted(all) => all.left == 0 && all.groups.is_empty(),
        }
    }

    pub(crate) fn contains(&self, recipient: Recipient) -> bool {
        match (self, recipient) {
            (Self::Listed(all), _) => all.contains_key(&recipient),
            (Self::Counted(all), Recipient::Group(group)) => all.groups.contains_key(&group),
            (Self::Counted(all), Recipient::Session(session)) => all.open_at(session).is_some(),
        }
    }

    /// Notes which member of a group has the message now.
    pub(crate) fn hold(&mut self, group: GroupNo, member: SessionNo) {
        let holder = match self {
            Self::Listed(all) => all.get_mut(&Recipient::Group(group)).map(|open| &mut open.holder),
            Self::Counted(all) => all.groups.get_mut(&group).map(|[_, holder]| holder),
        };
        if let Some(holder) = holder {
            *holder = member;
        }
    }

    /// Takes one out; says whether it was there, and its names where they are known.
    pub(crate) fn take(&mut self, recipient: Recipient) -> Option<Option<TrackedRecipient>> {
        match (self, recipient) {
            (Self::Listed(all), _) => all.remove(&recipient).map(|open| Some(open.named)),
            (Self::Counted(all), Recipient::Group(group)) => all.groups.remove(&group).map(|_| None),
            (Self::Counted(all), Recipient::Session(session)) => all.end(session).then_some(None),
        }
    }

    /// Those that come after one in their order, all for `None`: sessions, then groups.
    pub(crate) fn after(&self, after: Option<Recipient>) -> impl Iterator<Item = Open> {
        let (listed, counted) = match self {
            Self::Listed(all) => (Some(all), None),
            Self::Counted(all) => (None, Some(all)),
        };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let listed = listed.into_iter().flat_map(move |all| all.range((from, Bound::Unbounded)));
        let listed = listed.map(|(recipient, open)| Open { recipient: *recipient, holder: open.holder });
        listed.chain(counted.into_iter().flat_map(move |all| all.after(after)))
    }

    /// Bytes in memory, the names' excepted.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Listed(all) => all.len() * RECIPIENT_BYTES,
            Self::Counted(all) => all.sessions.len() * COUNTED_BYTES + all.groups.len() * RECIPIENT_BYTES,
        }
    }
}

impl Counted {
    /// Where a session stands that has not ended.
    fn open_at(&self, session: SessionNo) -> Option<usize> {
        let at = self.sessions.binary_search(&session).ok()?;
        (!self.has_ended(at)).then_some(at)
    }

    fn has_ended(&self, at: usize) -> bool {
        self.ended[at / 64] >> (at % 64) & 1 == 1
    }

    fn end(&mut self, session: SessionNo) -> bool {
        let Some(at) = self.open_at(session) else { return false };
        self.ended[at / 64] |= 1 << (at % 64);
        self.left -= 1;
        // What is left of a message to many may be left for long: those who are away.
        if self.left * 2 < self.sessions.len() {
            self.sessions = self.open_sessions(0).collect();
            self.ended = vec![0; self.left.div_ceil(64)];
        }
        true
    }

    fn open_sessions(&self, from: usize) -> impl Iterator<Item = SessionNo> {
        let all = self.sessions.iter().enumerate().skip(from);
        all.filter(|(at, _)| !self.has_ended(*at)).map(|(_, session)| *session)
    }

    fn after(&self, after: Option<Recipient>) -> impl Iterator<Item = Open> {
        let (from, groups) = match after {
            None => (0, Bound::Unbounded),
            Some(Recipient::Session(session)) => {
                (self.sessions.partition_point(|s| *s <= session), Bound::Unbounded)
            }
            Some(Recipient::Group(group)) => (self.sessions.len(), Bound::Excluded(group)),
        };
        let sessions = self.open_sessions(from);
        let sessions = sessions.map(|holder| Open { recipient: Recipient::Session(holder), holder });
        let groups = self.groups.range((groups, Bound::Unbounded));
        let of = |(group, holders): (&GroupNo, &[SessionNo; 2])| Open {
            recipient: Recipient::Group(*group),
            holder: holders[1],
        };
        sessions.chain(groups.map(of))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn listed(sessions: &[SessionNo], groups: &[(GroupNo, SessionNo)]) -> OpenRecipients {
        let of = |session: SessionNo, group| TrackedRecipient {
            session,
            group,
            client_id: "c".into(),
            user: "u".into(),
        };
        let own = sessions.iter().map(|session| of(*session, None));
        let by_group = groups.iter().map(|(group, session)| of(*session, Some(*group)));
        OpenRecipients::new(Recipients::Listed(own.chain(by_group).collect()))
    }

    proptest! {
        #[test]
        fn the_compact_form_behaves_as_the_list(
            sessions in prop::collection::btree_set(1u64..300, 0..150),
            groups in prop::collection::btree_map(1u64..5, 1u64..9, 0..4),
            steps in prop::collection::vec((any::<bool>(), 0u64..300, 1u64..9), 0..300),
        ) {
            let sessions: Vec<_> = sessions.into_iter().map(SessionNo).collect();
            let groups: Vec<_> = groups.into_iter().map(|(g, s)| (GroupNo(g), SessionNo(s))).collect();
            let mut list = listed(&sessions, &groups);
            let mut compact = OpenRecipients::new(Recipients::Counted { sessions, groups });
            for (is_group, number, member) in steps {
                let recipient = match is_group {
                    true => Recipient::Group(GroupNo(number % 6)),
                    false => Recipient::Session(SessionNo(number)),
                };
                prop_assert_eq!(list.contains(recipient), compact.contains(recipient));
                let after = |of: &OpenRecipients| of.after(Some(recipient)).collect::<Vec<_>>();
                prop_assert_eq!(after(&list), after(&compact));
                prop_assert_eq!(list.take(recipient).is_some(), compact.take(recipient).is_some());
                for of in [&mut list, &mut compact] {
                    of.hold(GroupNo(number % 7), SessionNo(member));
                }
                let all = |of: &OpenRecipients| of.after(None).collect::<Vec<_>>();
                prop_assert_eq!(all(&list), all(&compact));
                prop_assert_eq!(list.is_empty(), compact.is_empty());
                prop_assert!(compact.bytes() <= list.bytes() + COUNTED_BYTES);
            }
        }
    }

    #[test]
    fn ten_thousand_that_are_counted_take_nine_bytes_each_and_less_when_most_have_ended() {
        let sessions: Vec<_> = (1..=10_000).map(SessionNo).collect();
        let mut open = OpenRecipients::new(Recipients::Counted { sessions, groups: Vec::new() });
        assert_eq!(open.bytes(), 90_000);
        for no in 1..=9_900 {
            assert!(open.take(Recipient::Session(SessionNo(no))).is_some());
        }
        assert!(open.bytes() < 2_000 && !open.is_empty(), "{}", open.bytes());
    }
}
