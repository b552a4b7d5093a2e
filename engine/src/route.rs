//! Which subscriptions a topic matches: a tree of filter levels. Shared groups stand at their filter's node
//! by key; who belongs to them is not known here.
//!
//! Adding, replacing and removing cost the same however many sessions have the same filter, and a filter of
//! many levels costs no stack.

use bytestring::ByteString;
use protocol::SubscribeOptions;
use rustc_hash::FxHashMap;
use smallvec::{SmallVec, smallvec};

use crate::names::ByName;
use crate::places::Places;
use crate::share::GroupKey;

/// A session's place in the shard, valid while the session lives.
pub(crate) type SessionKey = usize;

/// One subscription as the tree holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subscriber {
    pub(crate) session: SessionKey,
    pub(crate) options: SubscribeOptions,
    /// Subscription identifier, 0 = none.
    pub(crate) identifier: u32,
}

#[derive(Debug, Default)]
struct Node {
    parent: usize,
    level: ByteString,
    children: ByName<usize>,
    plus: Option<usize>,
    /// Subscriptions that end here.
    here: Listed<Subscriber>,
    /// Subscriptions that end here with `#`.
    hash: Listed<Subscriber>,
    /// Shared groups whose filter ends here: mostly none.
    groups: Listed<GroupHere>,
}

/// A shared group at the node where its filter ends.
#[derive(Clone, Copy, Debug)]
struct GroupHere {
    group: GroupKey,
    is_hash: bool,
}

/// What a topic matches.
#[derive(Debug, Default)]
pub(crate) struct Matches {
    pub(crate) subscribers: Vec<Subscriber>,
    pub(crate) groups: Vec<GroupKey>,
}

impl Matches {
    pub(crate) fn clear(&mut self) {
        self.subscribers.clear();
        self.groups.clear();
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
    places: Option<Box<FxHashMap<usize, usize>>>,
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
            Some(places) => places.get(&key).copied(),
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
            Some(places) => drop(places.insert(key, self.list.len() - 1)),
            None if self.list.len() < INDEXED_FROM => {}
            None => {
                let places = self.list.iter().enumerate().map(|(place, s)| (s.key(), place)).collect();
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
            places.remove(&key);
            if let Some(moved) = self.list.get(place) {
                places.insert(moved.key(), place);
            }
        }
        true
    }
}

#[derive(Debug)]
pub(crate) struct Routes {
    nodes: Places<Node>,
    root: usize,
    len: usize,
    /// Counts its changes.
    epoch: u64,
}

impl Default for Routes {
    fn default() -> Self {
        let mut nodes = Places::new();
        let root = nodes.insert(Node::default());
        Self { nodes, root, len: 0, epoch: 0 }
    }
}

impl Routes {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Levels of all filters together, the same ones counted once.
    pub(crate) fn levels(&self) -> usize {
        self.nodes.len() - 1
    }

    /// Whether there is neither a subscription nor a group.
    pub(crate) fn is_empty(&self) -> bool {
        let root = &self.nodes[self.root];
        self.levels() == 0 && root.hash.list.is_empty() && root.groups.list.is_empty()
    }

    /// Another one after each change: what was found with this one holds as long as it is the same.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether a filter has this first level.
    pub(crate) fn begins_with(&self, level: &str) -> bool {
        self.nodes[self.root].children.contains_key(level)
    }

    /// Adds a subscription, or replaces the session's one with the same filter.
    pub(crate) fn insert(&mut self, filter: &str, subscriber: Subscriber) {
        self.epoch += 1;
        let (at, is_hash) = self.end_or_new(filter);
        let node = &mut self.nodes[at];
        let list = if is_hash { &mut node.hash } else { &mut node.here };
        self.len += usize::from(list.insert(subscriber));
    }

    /// Adds a shared group.
    pub(crate) fn insert_group(&mut self, filter: &str, group: GroupKey) {
        self.epoch += 1;
        let (at, is_hash) = self.end_or_new(filter);
        self.nodes[at].groups.insert(GroupHere { group, is_hash });
    }

    /// Removes a session's subscription; one that is not there is ignored.
    pub(crate) fn remove(&mut self, filter: &str, session: SessionKey) {
        self.epoch += 1;
        let Some((at, is_hash)) = self.end_of(filter) else { return };
        let node = &mut self.nodes[at];
        let list = if is_hash { &mut node.hash } else { &mut node.here };
        if list.remove(session) {
            self.len -= 1;
            self.prune(at);
        }
    }

    /// Removes a shared group; one that is not there is ignored.
    pub(crate) fn remove_group(&mut self, filter: &str, group: GroupKey) {
        self.epoch += 1;
        let Some((at, _)) = self.end_of(filter) else { return };
        self.nodes[at].groups.remove(group);
        self.prune(at);
    }

    /// Finds the node where a filter ends, and whether it ends there with `#`.
    fn end_of(&self, filter: &str) -> Option<(usize, bool)> {
        let mut at = self.root;
        for level in filter.split('/') {
            at = match level {
                "#" => return Some((at, true)),
                "+" => self.nodes[at].plus?,
                level => *self.nodes[at].children.get(level)?,
            };
        }
        Some((at, false))
    }

    fn end_or_new(&mut self, filter: &str) -> (usize, bool) {
        let mut at = self.root;
        for level in filter.split('/') {
            if level == "#" {
                return (at, true);
            }
            at = self.child_or_new(at, level);
        }
        (at, false)
    }

    /// Collects every subscription and group that matches the topic into `found`, in no order.
    pub(crate) fn matching(&self, topic: &str, found: &mut Matches) {
        // [MQTT-4.7.2-1] a filter that starts with a wildcard matches no topic that starts with `$`.
        let mut wildcards = !topic.starts_with('$');
        let mut to_visit: SmallVec<[(usize, Option<&str>); 16]> = smallvec![(self.root, Some(topic))];
        while let Some((at, rest)) = to_visit.pop() {
            let node = &self.nodes[at];
            if wildcards {
                // `#` stands for any number of levels, none included (section 4.7.1.2).
                found.subscribers.extend_from_slice(&node.hash.list);
            }
            for here in &node.groups.list {
                if if here.is_hash { wildcards } else { rest.is_none() } {
                    found.groups.push(here.group);
                }
            }
            let Some(rest) = rest else {
                found.subscribers.extend_from_slice(&node.here.list);
                continue;
            };
            // Levels are short: this is faster than a search made for long texts.
            let (level, rest) = match rest.bytes().position(|byte| byte == b'/') {
                Some(at) => (&rest[..at], Some(&rest[at + 1..])),
                None => (rest, None),
            };
            if let Some(plus) = node.plus.filter(|_| wildcards) {
                to_visit.push((plus, rest));
            }
            if let Some(&child) = node.children.get(level) {
                to_visit.push((child, rest));
            }
            // Only the root stands before the topic's first level.
            wildcards = true;
        }
    }

    fn child_or_new(&mut self, at: usize, level: &str) -> usize {
        let node = &self.nodes[at];
        let known = if level == "+" { node.plus } else { node.children.get(level).copied() };
        if let Some(known) = known {
            return known;
        }
        let level = ByteString::from(level);
        let new = self.nodes.insert(Node { parent: at, level: level.clone(), ..Node::default() });
        let node = &mut self.nodes[at];
        if level == "+" {
            node.plus = Some(new);
        } else {
            node.children.insert(level, new);
        }
        new
    }

    /// Gives back nodes that lead nowhere.
    fn prune(&mut self, mut at: usize) {
        while at != self.root {
            let node = &self.nodes[at];
            if !(node.here.list.is_empty()
                && node.hash.list.is_empty()
                && node.groups.list.is_empty()
                && node.children.is_empty()
                && node.plus.is_none())
            {
                return;
            }
            let node = self.nodes.remove(at);
            at = node.parent;
            let parent = &mut self.nodes[at];
            if node.level == "+" {
                parent.plus = None;
            } else {
                parent.children.remove(&node.level);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use protocol::filter_matches;

    fn subscriber(session: usize) -> Subscriber {
        Subscriber { session, options: SubscribeOptions::default(), identifier: 0 }
    }

    fn sessions(routes: &Routes, topic: &str) -> Vec<usize> {
        let mut found = Matches::default();
        routes.matching(topic, &mut found);
        let mut sessions: Vec<_> = found.subscribers.iter().map(|s| s.session).collect();
        sessions.sort_unstable();
        sessions
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop_oneof![3 => "[ab]?", 1 => Just("+".to_owned()), 1 => Just("$x".to_owned())];
        (prop::collection::vec(level, 1..4), any::<bool>()).prop_filter_map("empty", |(levels, hash)| {
            let filter = levels.join("/") + if hash { "/#" } else { "" };
            (!filter.is_empty()).then_some(filter)
        })
    }

    proptest! {
        #[test]
        fn the_tree_finds_what_the_definition_of_matching_says(
            filters in prop::collection::vec(filter(), 0..12),
            removed in prop::collection::vec(any::<bool>(), 12),
            topic in "(\\$x|[ab]?)(/[ab]?){0,3}",
        ) {
            prop_assume!(!topic.is_empty());
            let mut routes = Routes::default();
            for (session, filter) in filters.iter().enumerate() {
                routes.insert(filter, subscriber(session));
                routes.insert_group(filter, session);
            }
            for (session, filter) in filters.iter().enumerate().filter(|(i, _)| removed[*i]) {
                routes.remove(filter, session);
                routes.remove_group(filter, session);
            }
            let expected: Vec<_> = (0..filters.len())
                .filter(|i| !removed[*i] && filter_matches(&filters[*i], &topic))
                .collect();
            prop_assert_eq!(&sessions(&routes, &topic), &expected);
            let mut found = Matches::default();
            routes.matching(&topic, &mut found);
            found.groups.sort_unstable();
            prop_assert_eq!(found.groups, expected);
            for (session, filter) in filters.iter().enumerate() {
                routes.remove(filter, session);
                routes.remove_group(filter, session);
            }
            prop_assert_eq!((routes.nodes.len(), routes.len()), (1, 0));
        }
    }

    #[test]
    fn a_second_subscription_with_the_same_filter_replaces_the_first() {
        let mut routes = Routes::default();
        routes.insert("a/#", subscriber(1));
        routes.insert("a/#", Subscriber { identifier: 7, ..subscriber(1) });
        let mut found = Matches::default();
        routes.matching("a/b", &mut found);
        assert_eq!(found.subscribers, [Subscriber { identifier: 7, ..subscriber(1) }]);
        assert_eq!(routes.len(), 1);
    }

    #[test]
    fn removing_the_last_subscription_gives_all_nodes_back() {
        let mut routes = Routes::default();
        for filter in ["a/b/c", "a/+/c/#", "#", "+"] {
            routes.insert(filter, subscriber(1));
        }
        for filter in ["a/b/c", "a/+/c/#", "#", "+", "never/there"] {
            routes.remove(filter, 1);
        }
        assert_eq!((routes.nodes.len(), routes.len()), (1, 0));
    }

    #[test]
    fn sessions_with_the_same_filter_come_go_and_change_in_any_order() {
        let mut routes = Routes::default();
        let mut rng = fastrand::Rng::with_seed(7);
        let mut expected = std::collections::BTreeMap::new();
        for step in 0..3_000 {
            let session = rng.usize(0..100);
            if rng.bool() {
                routes.insert("t", Subscriber { identifier: step, ..subscriber(session) });
                expected.insert(session, step);
            } else {
                routes.remove("t", session);
                expected.remove(&session);
            }
            let mut found = Matches::default();
            routes.matching("t", &mut found);
            let found: std::collections::BTreeMap<_, _> =
                found.subscribers.iter().map(|s| (s.session, s.identifier)).collect();
            assert_eq!((&found, routes.len()), (&expected, expected.len()), "step {step}");
        }
    }

    #[test]
    fn a_filter_of_many_levels_costs_no_stack() {
        let mut routes = Routes::default();
        let topic = "a/".repeat(32_000);
        routes.insert(&topic, subscriber(1));
        assert_eq!(sessions(&routes, &topic), [1]);
        routes.remove(&topic, 1);
        assert_eq!(routes.nodes.len(), 1);
    }
}
