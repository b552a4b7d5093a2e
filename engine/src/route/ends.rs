//! What ends at a node of the tree: mostly one subscription.

use protocol::{QoS, RetainHandling, SubscribeOptions};
use rustc_hash::FxHashMap;

use super::{Matches, SessionKey, Subscriber};
use crate::share::GroupKey;

/// A subscription in eight bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packed {
    session: u32,
    /// The subscription identifier, which has 28 bits, No Local, Retain As Published, and the QoS.
    bits: u32,
}

const IDENTIFIER_BITS: u32 = 28;
const NO_LOCAL: u32 = 1 << IDENTIFIER_BITS;
const RETAIN_AS_PUBLISHED: u32 = 2 << IDENTIFIER_BITS;
const QOS_SHIFT: u32 = 30;

impl Packed {
    fn new(subscriber: Subscriber) -> Self {
        let Subscriber { session, options, identifier } = subscriber;
        debug_assert!(identifier >> IDENTIFIER_BITS == 0, "an identifier that no packet can hold");
        let flag = |is_set, bit| if is_set { bit } else { 0 };
        Self {
            session: session as u32,
            bits: identifier
                | flag(options.no_local, NO_LOCAL)
                | flag(options.retain_as_published, RETAIN_AS_PUBLISHED)
                | (options.qos as u32) << QOS_SHIFT,
        }
    }

    fn subscriber(self) -> Subscriber {
        let options = SubscribeOptions {
            qos: match self.bits >> QOS_SHIFT {
                0 => QoS::AtMostOnce,
                1 => QoS::AtLeastOnce,
                _ => QoS::ExactlyOnce,
            },
            no_local: self.bits & NO_LOCAL != 0,
            retain_as_published: self.bits & RETAIN_AS_PUBLISHED != 0,
            retain_handling: RetainHandling::default(),
        };
        let identifier = self.bits & (NO_LOCAL - 1);
        Subscriber { session: self.session as SessionKey, options, identifier }
    }
}

/// A shared group at the node where its filter ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupHere {
    pub(super) group: GroupKey,
    pub(super) is_hash: bool,
}

/// Subscriptions and groups.
#[derive(Debug, Default)]
pub(super) enum Ends {
    #[default]
    Nothing,
    /// One subscription that ends here.
    Here(Packed),
    /// One that ends here with `#`.
    Hash(Packed),
    Many(Box<Lists>),
}

#[derive(Debug, Default)]
pub(super) struct Lists {
    here: Listed<Packed>,
    hash: Listed<Packed>,
    groups: Listed<GroupHere>,
}

impl Lists {
    fn list(&mut self, is_hash: bool) -> &mut Listed<Packed> {
        if is_hash { &mut self.hash } else { &mut self.here }
    }
}

impl Ends {
    fn one(is_hash: bool, packed: Packed) -> Self {
        if is_hash { Self::Hash(packed) } else { Self::Here(packed) }
    }

    fn many(&mut self) -> &mut Lists {
        if let Self::Many(lists) = self {
            return lists;
        }
        let mut lists = Box::<Lists>::default();
        match self {
            Self::Here(one) => drop(lists.here.insert(*one)),
            Self::Hash(one) => drop(lists.hash.insert(*one)),
            Self::Nothing | Self::Many(_) => {}
        }
        *self = Self::Many(lists);
        self.many()
    }

    /// Adds a subscription, or replaces the session's; says whether it is new.
    pub(super) fn insert(&mut self, is_hash: bool, subscriber: Subscriber) -> bool {
        let packed = Packed::new(subscriber);
        match (&mut *self, is_hash) {
            (Self::Nothing, _) => {
                *self = Self::one(is_hash, packed);
                true
            }
            (Self::Here(one), false) | (Self::Hash(one), true) if one.session == packed.session => {
                *one = packed;
                false
            }
            _ => self.many().list(is_hash).insert(packed),
        }
    }

    pub(super) fn insert_group(&mut self, group: GroupHere) {
        self.many().groups.insert(group);
    }

    /// Says whether it was here.
    pub(super) fn remove(&mut self, is_hash: bool, session: SessionKey) -> bool {
        let was_here = match (&mut *self, is_hash) {
            (Self::Here(one), false) | (Self::Hash(one), true) => {
                let is_this = one.session as SessionKey == session;
                if is_this {
                    *self = Self::Nothing;
                }
                return is_this;
            }
            (Self::Many(lists), _) => lists.list(is_hash).remove(session),
            _ => false,
        };
        self.shrink();
        was_here
    }

    pub(super) fn remove_group(&mut self, group: GroupKey) {
        if let Self::Many(lists) = self {
            lists.groups.remove(group);
            self.shrink();
        }
    }

    /// Needs no lists where one is left.
    fn shrink(&mut self) {
        let Self::Many(lists) = self else { return };
        match (lists.here.as_slice(), lists.hash.as_slice(), lists.groups.as_slice()) {
            ([], [], []) => *self = Self::Nothing,
            (&[one], [], []) => *self = Self::Here(one),
            ([], &[one], []) => *self = Self::Hash(one),
            _ => {}
        }
    }

    /// Collects what matches a topic that ends here or goes on, where `#` is allowed or not.
    pub(super) fn collect(&self, topic_ends: bool, wildcards: bool, found: &mut Matches) {
        found.nodes += 1;
        match self {
            Self::Nothing => {}
            Self::Here(one) if topic_ends => found.subscribers.push(one.subscriber()),
            Self::Hash(one) if wildcards => found.subscribers.push(one.subscriber()),
            Self::Here(_) | Self::Hash(_) => {}
            Self::Many(lists) => {
                let here = if topic_ends { lists.here.as_slice() } else { &[] };
                let hash = if wildcards { lists.hash.as_slice() } else { &[] };
                for list in [here, hash] {
                    found.subscribers.extend(list.iter().map(|one| one.subscriber()));
                }
                let groups = lists.groups.as_slice().iter();
                let matching = groups.filter(|g| if g.is_hash { wildcards } else { topic_ends });
                found.groups.extend(matching.map(|g| g.group));
            }
        }
    }
}

/// What stands in a list at most once.
pub(crate) trait Keyed {
    fn key(&self) -> usize;
}

impl Keyed for Subscriber {
    fn key(&self) -> usize {
        self.session
    }
}

impl Keyed for Packed {
    fn key(&self) -> usize {
        self.session as usize
    }
}

impl Keyed for GroupHere {
    fn key(&self) -> usize {
        self.group
    }
}

/// A list that is fast to go through, and to look one up in: the subscriptions of one filter, one a session.
#[derive(Debug)]
pub(crate) struct Listed<T> {
    list: Vec<T>,
    /// Where each key stands in `list`, kept from `INDEXED_FROM` on.
    places: Option<Box<FxHashMap<u32, u32>>>,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self { list: Vec::new(), places: None }
    }
}

/// Length from which on searching a list costs more than an index.
const INDEXED_FROM: usize = 32;

impl<T: Keyed> Listed<T> {
    pub(crate) fn as_slice(&self) -> &[T] {
        &self.list
    }

    pub(crate) fn place(&self, key: usize) -> Option<usize> {
        match &self.places {
            Some(places) => places.get(&(key as u32)).map(|place| *place as usize),
            None => self.list.iter().position(|s| s.key() == key),
        }
    }

    /// Adds one, or replaces the one with its key; says whether it is new here.
    pub(crate) fn insert(&mut self, new: T) -> bool {
        let key = new.key();
        if let Some(place) = self.place(key) {
            self.list[place] = new;
            return false;
        }
        self.list.push(new);
        match &mut self.places {
            Some(places) => drop(places.insert(key as u32, self.list.len() as u32 - 1)),
            None if self.list.len() < INDEXED_FROM => {}
            None => {
                let places = (0..).zip(&self.list).map(|(place, s)| (s.key() as u32, place)).collect();
                self.places = Some(Box::new(places));
            }
        }
        true
    }

    /// Says whether it was here.
    pub(crate) fn remove(&mut self, key: usize) -> bool {
        let Some(place) = self.place(key) else { return false };
        self.list.swap_remove(place);
        if let Some(places) = &mut self.places {
            places.remove(&(key as u32));
            if let Some(moved) = self.list.get(place) {
                places.insert(moved.key() as u32, place as u32);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_comes_out_of_its_eight_bytes_as_it_went_in() {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for (no_local, retain_as_published) in
                [(false, false), (true, false), (false, true), (true, true)]
            {
                for identifier in [0, 1, 268_435_455] {
                    let retain_handling = RetainHandling::default();
                    let options = SubscribeOptions { qos, no_local, retain_as_published, retain_handling };
                    let subscriber = Subscriber { session: 77, options, identifier };
                    assert_eq!(Packed::new(subscriber).subscriber(), subscriber);
                }
            }
        }
        assert_eq!((size_of::<Packed>(), size_of::<Ends>()), (8, 16));
    }
}
