//! Which subscriptions a topic matches: a tree of filter levels.
//!
//! Adding, replacing and removing cost the same however many sessions have the same filter, and a filter of
//! many levels costs no stack.

use bytestring::ByteString;
use protocol::SubscribeOptions;
use rustc_hash::FxHashMap;
use slab::Slab;
use smallvec::{SmallVec, smallvec};

use crate::names::ByName;

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
    here: Subscribers,
    /// Subscriptions that end here with `#`.
    hash: Subscribers,
}

/// The subscriptions of one filter, at most one a session.
#[derive(Debug, Default)]
struct Subscribers {
    list: Vec<Subscriber>,
    /// Where each session stands in `list`, kept from `INDEXED_FROM` on.
    places: Option<Box<FxHashMap<SessionKey, usize>>>,
}

/// Length from which on searching a list costs more than an index.
const INDEXED_FROM: usize = 32;

impl Subscribers {
    fn place(&self, session: SessionKey) -> Option<usize> {
        match &self.places {
            Some(places) => places.get(&session).copied(),
            None => self.list.iter().position(|s| s.session == session),
        }
    }

    /// Says whether the session is new here.
    fn insert(&mut self, subscriber: Subscriber) -> bool {
        if let Some(place) = self.place(subscriber.session) {
            self.list[place] = subscriber;
            return false;
        }
        self.list.push(subscriber);
        match &mut self.places {
            Some(places) => drop(places.insert(subscriber.session, self.list.len() - 1)),
            None if self.list.len() < INDEXED_FROM => {}
            None => {
                let places = self.list.iter().enumerate().map(|(place, s)| (s.session, place)).collect();
                self.places = Some(Box::new(places));
            }
        }
        true
    }

    /// Says whether the session was here.
    fn remove(&mut self, session: SessionKey) -> bool {
        let Some(place) = self.place(session) else { return false };
        self.list.swap_remove(place);
        if let Some(places) = &mut self.places {
            places.remove(&session);
            if let Some(moved) = self.list.get(place) {
                places.insert(moved.session, place);
            }
        }
        true
    }
}

#[derive(Debug)]
pub(crate) struct Routes {
    nodes: Slab<Node>,
    root: usize,
    len: usize,
}

impl Default for Routes {
    fn default() -> Self {
        let mut nodes = Slab::new();
        let root = nodes.insert(Node::default());
        Self { nodes, root, len: 0 }
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

    /// Whether a filter has this first level.
    pub(crate) fn begins_with(&self, level: &str) -> bool {
        self.nodes[self.root].children.contains_key(level)
    }

    /// Adds a subscription, or replaces the session's one with the same filter.
    pub(crate) fn insert(&mut self, filter: &str, subscriber: Subscriber) {
        let mut at = self.root;
        let mut is_hash = false;
        for level in filter.split('/') {
            if level == "#" {
                is_hash = true;
                break;
            }
            at = self.child_or_new(at, level);
        }
        let node = &mut self.nodes[at];
        let list = if is_hash { &mut node.hash } else { &mut node.here };
        self.len += usize::from(list.insert(subscriber));
    }

    /// Removes a session's subscription; one that is not there is ignored.
    pub(crate) fn remove(&mut self, filter: &str, session: SessionKey) {
        let mut at = self.root;
        let mut is_hash = false;
        for level in filter.split('/') {
            if level == "#" {
                is_hash = true;
                break;
            }
            let next =
                if level == "+" { self.nodes[at].plus } else { self.nodes[at].children.get(level).copied() };
            let Some(next) = next else { return };
            at = next;
        }
        let node = &mut self.nodes[at];
        let list = if is_hash { &mut node.hash } else { &mut node.here };
        if list.remove(session) {
            self.len -= 1;
            self.prune(at);
        }
    }

    /// Collects every subscription that matches the topic into `found`, in no order.
    pub(crate) fn matching(&self, topic: &str, found: &mut Vec<Subscriber>) {
        // [MQTT-4.7.2-1] a filter that starts with a wildcard matches no topic that starts with `$`.
        let mut wildcards = !topic.starts_with('$');
        let mut to_visit: SmallVec<[(usize, Option<&str>); 16]> = smallvec![(self.root, Some(topic))];
        while let Some((at, rest)) = to_visit.pop() {
            let node = &self.nodes[at];
            if wildcards {
                // `#` stands for any number of levels, none included (section 4.7.1.2).
                found.extend_from_slice(&node.hash.list);
            }
            let Some(rest) = rest else {
                found.extend_from_slice(&node.here.list);
                continue;
            };
            let (level, rest) = match rest.split_once('/') {
                Some((level, rest)) => (level, Some(rest)),
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
        let mut found = Vec::new();
        routes.matching(topic, &mut found);
        let mut sessions: Vec<_> = found.iter().map(|s| s.session).collect();
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
            }
            for (session, filter) in filters.iter().enumerate().filter(|(i, _)| removed[*i]) {
                routes.remove(filter, session);
            }
            let expected: Vec<_> = (0..filters.len())
                .filter(|i| !removed[*i] && filter_matches(&filters[*i], &topic))
                .collect();
            prop_assert_eq!(sessions(&routes, &topic), expected);
        }
    }

    #[test]
    fn a_second_subscription_with_the_same_filter_replaces_the_first() {
        let mut routes = Routes::default();
        routes.insert("a/#", subscriber(1));
        routes.insert("a/#", Subscriber { identifier: 7, ..subscriber(1) });
        let mut found = Vec::new();
        routes.matching("a/b", &mut found);
        assert_eq!(found, [Subscriber { identifier: 7, ..subscriber(1) }]);
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
            let mut found = Vec::new();
            routes.matching("t", &mut found);
            let found: std::collections::BTreeMap<_, _> =
                found.iter().map(|s| (s.session, s.identifier)).collect();
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
