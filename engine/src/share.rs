//! Shared groups: who is a member, and whose turn it is (MQTT 5.0 section 4.8.2).
//!
//! A group is the whole filter `$share/{group}/{filter}`. Knows nothing of queues and connections: the
//! shard says who is connected and chooses. Invariants: a member stands in exactly one of its group's two
//! lists; the tree of filters names a group for as long as it has members; a group that has none lives on
//! while a delivery names it, so that whoever joins it next can be given what is left.

use std::sync::Arc;

use bytestring::ByteString;
use rustc_hash::{FxHashMap, FxHashSet};
use slab::Slab;

use crate::memory::{Account, GROUP_BYTES, Held};
use crate::message::Share;
use crate::names::ByName;
use crate::record::GroupNo;
use crate::rights::{form_of, topics_of};
use crate::route::{Listed, SessionKey, Subscriber};

/// A group's place in the shard, valid while the group lives.
pub(crate) type GroupKey = usize;

/// Members of a group, and who of them is looked at first for the next message.
#[derive(Debug, Default)]
pub(crate) struct Members {
    list: Listed<Subscriber>,
    turn: usize,
}

impl Members {
    /// The members, beginning with the one whose turn it is.
    pub(crate) fn in_turn(&self) -> impl Iterator<Item = &Subscriber> {
        let list = self.list.as_slice();
        let (before, from) = list.split_at(self.turn.min(list.len()));
        from.iter().chain(before)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.as_slice().is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.list.as_slice().len()
    }

    pub(crate) fn get(&self, place: usize) -> Option<&Subscriber> {
        self.list.as_slice().get(place)
    }

    fn find(&self, session: SessionKey) -> Option<Subscriber> {
        self.list.place(session).and_then(|place| self.get(place)).copied()
    }
}

/// One group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) share: Arc<Share>,
    /// What topics are matched against.
    pub(crate) filter: ByteString,
    pub(crate) connected: Members,
    pub(crate) away: Members,
    /// Members whose sessions outlive their connections.
    durable: usize,
    /// The shard is gathering what waits at members that are away, and has come so far in their list.
    gathering: Option<usize>,
}

impl Group {
    fn new(no: GroupNo, full: ByteString, filter: ByteString) -> Self {
        let share = Arc::new(Share { no, form: form_of(&full), full });
        let (connected, away) = (Members::default(), Members::default());
        Self { share, filter, connected, away, durable: 0, gathering: None }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.connected.is_empty() && self.away.is_empty()
    }

    /// Whether a member must not lose what the group gets.
    pub(crate) fn is_durable(&self) -> bool {
        self.durable > 0
    }

    pub(crate) fn has(&self, session: SessionKey) -> bool {
        self.connected.find(session).or_else(|| self.away.find(session)).is_some()
    }

    /// Gives the turn to whoever stands behind this member.
    pub(crate) fn chose(&mut self, session: SessionKey) {
        for members in [&mut self.connected, &mut self.away] {
            if let Some(place) = members.list.place(session) {
                members.turn = (place + 1) % members.len();
            }
        }
    }

    /// Where gathering goes on; `None` when it does not.
    pub(crate) fn gathering(&self) -> Option<usize> {
        self.gathering
    }

    /// Says how far gathering has come, or that it is done.
    pub(crate) fn set_gathering(&mut self, place: Option<usize>) {
        self.gathering = place;
    }

    /// The list of those who are away has changed: whoever was looked at may stand elsewhere.
    fn gather_anew(&mut self) {
        self.gathering = self.gathering.map(|_| 0);
    }

    fn is_unused(&self) -> bool {
        self.is_empty() && Arc::strong_count(&self.share) == 1
    }
}

/// The groups of a shard.
#[derive(Debug)]
pub(crate) struct Groups {
    table: Slab<Group>,
    by_name: ByName<GroupKey>,
    by_no: FxHashMap<GroupNo, GroupKey>,
    next_no: u64,
    /// Number of groups at which those that everything has left are let go.
    sweep_at: usize,
    members: usize,
    /// Their share of the shard's memory; members are counted where their subscriptions are.
    held: Held,
    /// Groups whose connected members had no room for all that waits at those who are away.
    unfinished: FxHashSet<GroupNo>,
    /// Groups that were let go, until that is written.
    forgotten: Vec<GroupNo>,
}

/// Number of groups below which none is looked for that everything has left.
const SWEPT_FROM: usize = 64;

impl Groups {
    pub(crate) fn new(account: &Account) -> Self {
        Self {
            held: account.hold(0),
            table: Slab::new(),
            by_name: ByName::default(),
            by_no: FxHashMap::default(),
            next_no: 1,
            sweep_at: SWEPT_FROM,
            members: 0,
            unfinished: FxHashSet::default(),
            forgotten: Vec::new(),
        }
    }

    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> usize {
        self.held.bytes()
    }

    /// Memberships over all groups.
    pub(crate) fn members(&self) -> usize {
        self.members
    }

    pub(crate) fn next_no(&self) -> u64 {
        self.next_no
    }

    /// Lets no number up to this one be given.
    pub(crate) fn begin_at(&mut self, next_no: u64) {
        self.next_no = self.next_no.max(next_no);
    }

    pub(crate) fn get(&self, key: GroupKey) -> &Group {
        &self.table[key]
    }

    pub(crate) fn get_mut(&mut self, key: GroupKey) -> &mut Group {
        &mut self.table[key]
    }

    pub(crate) fn named(&self, full: &str) -> Option<GroupKey> {
        self.by_name.get(full).copied()
    }

    pub(crate) fn numbered(&self, no: GroupNo) -> Option<GroupKey> {
        self.by_no.get(&no).copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.table.iter().map(|(_, group)| group)
    }

    /// Makes a group that is not there yet.
    pub(crate) fn open(&mut self, full: &ByteString) -> GroupNo {
        self.sweep();
        let no = GroupNo(self.next_no);
        self.insert(no, full);
        no
    }

    /// Takes a group back from the log.
    ///
    /// # Errors
    /// It is there already, with members.
    pub(crate) fn restore(&mut self, no: GroupNo, full: &ByteString) -> Result<(), String> {
        if self.by_no.contains_key(&no) || self.named(full).is_some_and(|key| !self.table[key].is_empty()) {
            return Err(format!("group {} is there already", no.0));
        }
        self.insert(no, full);
        Ok(())
    }

    fn insert(&mut self, no: GroupNo, full: &ByteString) {
        self.held.grow(GROUP_BYTES + full.len());
        let filter = full.slice_ref(topics_of(full));
        let key = self.table.insert(Group::new(no, full.clone(), filter));
        self.by_name.insert(full.clone(), key);
        self.by_no.insert(no, key);
        self.begin_at(no.0.saturating_add(1));
    }

    /// Adds a member, or replaces its subscription; says whether it is the group's first.
    pub(crate) fn join(
        &mut self,
        key: GroupKey,
        member: Subscriber,
        is_connected: bool,
        is_durable: bool,
    ) -> bool {
        let was_empty = self.table[key].is_empty();
        if self.place(key, member, is_connected) {
            self.members += 1;
            self.table[key].durable += usize::from(is_durable);
        }
        was_empty
    }

    /// Puts a member into one of the lists; says whether it is new.
    fn place(&mut self, key: GroupKey, member: Subscriber, is_connected: bool) -> bool {
        let group = &mut self.table[key];
        let (here, other) = match is_connected {
            true => (&mut group.connected, &mut group.away),
            false => (&mut group.away, &mut group.connected),
        };
        let moved = other.list.remove(member.session);
        let added = here.list.insert(member);
        group.gather_anew();
        added && !moved
    }

    /// Removes a member; one that is not there is ignored. Returns the filter that the tree must forget when
    /// it was the last.
    pub(crate) fn leave(
        &mut self,
        key: GroupKey,
        session: SessionKey,
        is_durable: bool,
    ) -> Option<ByteString> {
        let group = &mut self.table[key];
        let was_here = group.connected.list.remove(session) || group.away.list.remove(session);
        self.members -= usize::from(was_here);
        group.durable -= usize::from(was_here && is_durable);
        group.gather_anew();
        // A group that is unused now is let go later: while the log is replayed, members that it does not know
        // may still have been there.
        (was_here && group.is_empty()).then(|| group.filter.clone())
    }

    /// Moves a member to the others that are connected, or away; says whether it was elsewhere.
    pub(crate) fn set_connected(&mut self, key: GroupKey, session: SessionKey, is_connected: bool) -> bool {
        let group = &self.table[key];
        let from = if is_connected { &group.away } else { &group.connected };
        let Some(member) = from.find(session) else { return false };
        self.place(key, member, is_connected);
        true
    }

    /// Notes that not all that waits at members who are away found room, or that it is tried again; says
    /// whether the note was there.
    pub(crate) fn set_unfinished(&mut self, no: GroupNo, is_unfinished: bool) -> bool {
        if is_unfinished { !self.unfinished.insert(no) } else { self.unfinished.remove(&no) }
    }

    pub(crate) fn is_any_unfinished(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// The groups of a member that are noted so, in the order of their numbers.
    pub(crate) fn unfinished_of(&self, session: SessionKey) -> Vec<GroupKey> {
        let mut noted: Vec<_> = self.unfinished.iter().copied().collect();
        noted.sort_unstable();
        let keys = noted.into_iter().filter_map(|no| self.numbered(no));
        keys.filter(|key| self.table[*key].has(session)).collect()
    }

    /// Lets groups go that everything has left.
    pub(crate) fn sweep(&mut self) {
        if self.table.len() < self.sweep_at {
            return;
        }
        self.sweep_now();
        self.sweep_at = (self.table.len() * 2).max(SWEPT_FROM);
    }

    pub(crate) fn sweep_now(&mut self) {
        let unused = self.table.iter().filter(|(_, group)| group.is_unused()).map(|(key, _)| key);
        for key in unused.collect::<Vec<_>>() {
            self.forgotten.push(self.table[key].share.no);
            self.remove(key);
        }
    }

    /// Takes the groups that were let go since the last look.
    pub(crate) fn take_forgotten(&mut self) -> Vec<GroupNo> {
        std::mem::take(&mut self.forgotten)
    }

    /// Lets a group go as the log says it; one that is used stays.
    pub(crate) fn forget(&mut self, no: GroupNo) {
        if let Some(key) = self.numbered(no).filter(|key| self.table[*key].is_unused()) {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: GroupKey) {
        let group = self.table.remove(key);
        self.held.shrink(GROUP_BYTES + group.share.full.len());
        self.by_no.remove(&group.share.no);
        self.unfinished.remove(&group.share.no);
        // A log that contradicts itself may name two groups alike.
        if self.named(&group.share.full) == Some(key) {
            self.by_name.remove(&group.share.full);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use protocol::SubscribeOptions;

    fn member(session: SessionKey) -> Subscriber {
        Subscriber { session, options: SubscribeOptions::default(), identifier: 0 }
    }

    fn group(groups: &mut Groups) -> GroupKey {
        let no = groups.open(&"$share/g/t".into());
        groups.numbered(no).unwrap()
    }

    #[test]
    fn turns_go_round_and_a_member_that_leaves_takes_nobodys_turn() {
        let mut groups = Groups::new(&Account::default());
        let key = group(&mut groups);
        for session in [1, 2, 3] {
            groups.join(key, member(session), true, true);
        }
        let mut chosen = Vec::new();
        for _ in 0..4 {
            let next = groups.get(key).connected.in_turn().next().unwrap().session;
            groups.get_mut(key).chose(next);
            chosen.push(next);
        }
        assert_eq!(chosen, [1, 2, 3, 1]);
        groups.leave(key, 3, true);
        assert_eq!(groups.get(key).connected.in_turn().map(|m| m.session).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn a_group_is_let_go_with_its_last_member_and_its_last_message() {
        let mut groups = Groups::new(&Account::default());
        let key = group(&mut groups);
        groups.join(key, member(1), true, false);
        let message = groups.get(key).share.clone();
        assert_eq!(groups.leave(key, 1, false), Some("t".into()));
        groups.sweep_now();
        assert_eq!(groups.named("$share/g/t"), Some(key));
        // Who comes now belongs to the same group.
        assert!(groups.join(key, member(2), false, true));
        assert_eq!(groups.leave(key, 2, true), Some("t".into()));
        drop(message);
        groups.sweep_now();
        assert_eq!((groups.named("$share/g/t"), groups.numbered(GroupNo(1))), (None, None));
        let again = group(&mut groups);
        assert_eq!(groups.get(again).share.no, GroupNo(2));
    }

    #[test]
    fn groups_that_everything_has_left_do_not_pile_up() {
        let mut groups = Groups::new(&Account::default());
        for n in 0..10_000 {
            let full = ByteString::from(format!("$share/{n}/t"));
            let no = groups.open(&full);
            let key = groups.numbered(no).unwrap();
            groups.join(key, member(1), true, false);
            let held = groups.get(key).share.clone();
            groups.leave(key, 1, false);
            drop(held);
        }
        assert!(groups.iter().count() <= SWEPT_FROM, "{} groups", groups.iter().count());
    }

    proptest! {
        #[test]
        fn a_member_stands_in_one_list_however_it_comes_and_goes(
            steps in prop::collection::vec((0usize..5, 0u8..4), 0..60),
        ) {
            let mut groups = Groups::new(&Account::default());
            let key = group(&mut groups);
            let keeps_it = groups.get(key).share.clone();
            let mut expected = BTreeMap::new();
            for (session, step) in steps {
                match step {
                    0 => drop(expected.insert(session, true)),
                    1 => drop(expected.insert(session, false)),
                    2 => drop(expected.remove(&session)),
                    _ => drop(expected.get_mut(&session).map(|connected| *connected = !*connected)),
                }
                match step {
                    0 | 1 => drop(groups.join(key, member(session), step == 0, session % 2 == 0)),
                    2 => drop(groups.leave(key, session, session % 2 == 0)),
                    _ => {
                        let is_connected = expected.get(&session) == Some(&true);
                        groups.set_connected(key, session, is_connected);
                    }
                }
                groups.get_mut(key).chose(session);
                let group = groups.get(key);
                let listed = |members: &Members, is: bool| {
                    members.in_turn().map(|m| (m.session, is)).collect::<Vec<_>>()
                };
                let mut found = listed(&group.connected, true);
                found.extend(listed(&group.away, false));
                found.sort_unstable();
                prop_assert_eq!(found, expected.clone().into_iter().collect::<Vec<_>>());
                prop_assert_eq!(groups.members(), expected.len());
                prop_assert_eq!(group.is_durable(), expected.keys().any(|s| s % 2 == 0));
            }
            drop(keeps_it);
        }
    }
}
