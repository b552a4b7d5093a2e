//! Which subscriptions a topic matches: a tree of filter levels. Shared groups stand at their filter's node
//! by key; who belongs to them is not known here.
//!
//! A node stands for one level or, where nothing branches off, for several: its label. Which node follows which is
//! one table for the whole tree, by parent and first level; `+` has a place in its parent besides. Invariants: two
//! nodes with the same parent differ in their first level; every node but the root is where a filter ends, or has
//! more than one child. A filter that nobody else comes near to is one node, however many levels it has.
//!
//! Adding, replacing and removing cost the same however many sessions have the same filter, and a filter of
//! many levels costs no stack.

mod ends;
mod label;
mod overlap;

use std::hash::{BuildHasher, RandomState};

use protocol::SubscribeOptions;
use smallvec::{SmallVec, smallvec};

use crate::edges::Edges;
use crate::places::Places;
use crate::share::GroupKey;
use ends::{Ends, GroupHere};
pub(crate) use ends::{Keyed, Listed};
use label::{Label, first_level, follow, shared_levels, strip_levels};
use overlap::Overlap;

/// A session's place in the shard, valid while the session lives.
pub(crate) type SessionKey = usize;

/// One subscription as the tree tells it; its retain handling is not known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subscriber {
    pub(crate) session: SessionKey,
    pub(crate) options: SubscribeOptions,
    /// Subscription identifier, 0 = none.
    pub(crate) identifier: u32,
}

/// What a topic matches.
#[derive(Debug, Default)]
pub(crate) struct Matches {
    pub(crate) subscribers: Vec<Subscriber>,
    pub(crate) groups: Vec<GroupKey>,
    /// Nodes that the topic led to: each has a session once, or once and once with `#`.
    nodes: usize,
    overlap: Overlap,
}

impl Matches {
    pub(crate) fn clear(&mut self) {
        self.subscribers.clear();
        self.groups.clear();
        self.nodes = 0;
    }

    /// Takes the subscriptions of each session together, where that is much faster here than where they are sorted. Whom
    /// No Local leaves out is to be taken away before.
    pub(crate) fn merge_overlapping(&mut self) -> (&mut Vec<Subscriber>, &[GroupKey]) {
        self.overlap.merge(self.nodes, &mut self.subscribers);
        (&mut self.subscribers, &self.groups)
    }
}

/// Nodes that a topic leads to, and what is left of it there.
type ToVisit<'t> = SmallVec<[(u32, Option<&'t [u8]>); 16]>;

/// The root's number; no node has it as its child.
const ROOT: u32 = 0;

#[derive(Debug)]
struct Node {
    parent: u32,
    /// The child whose first level is `+`, or the root.
    plus: u32,
    /// Children, that one included ...
    children: u32,
    /// ... and their numbers, combined by exclusive or: of an only child that is its number.
    children_xor: u32,
    label: Label,
    /// Subscriptions and groups whose filters end here.
    ends: Ends,
}

impl Node {
    fn new(parent: u32, label: &[u8]) -> Self {
        let label = Label::new(label);
        Self { parent, plus: ROOT, children: 0, children_xor: 0, label, ends: Ends::Nothing }
    }

    /// Its child among those that are not `+`, if it is the only one.
    fn only_literal(&self) -> Option<u32> {
        let literals = self.children - u32::from(self.plus != ROOT);
        (literals == 1).then_some(self.children_xor ^ self.plus)
    }

    fn has_literals(&self) -> bool {
        self.children > u32::from(self.plus != ROOT)
    }
}

/// A node in memory, and its place in the table.
const NODE_BYTES: usize = size_of::<Node>() + 8;

#[derive(Debug)]
pub(crate) struct Routes {
    nodes: Places<Node>,
    edges: Edges,
    /// Keyed anew in each process, so that nobody can choose levels that all fall into one place.
    hasher: RandomState,
    len: usize,
    /// Counts its changes.
    epoch: u64,
    /// Bytes that nodes have besides themselves.
    besides: usize,
}

impl Default for Routes {
    fn default() -> Self {
        let mut nodes = Places::new();
        nodes.insert(Node::new(ROOT, b""));
        Self { nodes, edges: Edges::default(), hasher: RandomState::new(), len: 0, epoch: 0, besides: 0 }
    }
}

/// A filter as the tree has it: its levels without `#`, and whether it ends with that.
fn path_of(filter: &str) -> (Option<&[u8]>, bool) {
    let filter = filter.as_bytes();
    match filter.strip_suffix(b"#") {
        None => (Some(filter), false),
        Some(levels) => (levels.strip_suffix(b"/"), true),
    }
}

fn hash_of(hasher: &RandomState, parent: u32, level: &[u8]) -> u64 {
    // The level's hash is secret, so this needs no secret of its own.
    hasher.hash_one(level).wrapping_add(u64::from(parent).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

fn hash_of_node(hasher: &RandomState, nodes: &Places<Node>, node: u32) -> u64 {
    let node = &nodes[node as usize];
    hash_of(hasher, node.parent, first_level(node.label.as_bytes()))
}

impl Routes {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Nodes besides the root.
    #[cfg(test)]
    pub(crate) fn nodes(&self) -> usize {
        self.nodes.len() - 1
    }

    /// Bytes of the tree; the sessions count what they have in it themselves.
    pub(crate) fn bytes(&self) -> usize {
        (self.nodes.len() - 1) * NODE_BYTES + self.besides
    }

    /// Most bytes that a filter of so many needs in a tree, besides what its session counts.
    pub(crate) fn bytes_max(filter: usize) -> usize {
        2 * NODE_BYTES + filter
    }

    /// Whether there is neither a subscription nor a group.
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.len() == 1 && matches!(self.nodes[ROOT as usize].ends, Ends::Nothing)
    }

    /// Another one after each change: what was found with this one holds as long as it is the same.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether a filter has this first level.
    pub(crate) fn begins_with(&self, level: &str) -> bool {
        self.literal_child(ROOT, level.as_bytes()).is_some()
    }

    /// Adds a subscription, or replaces the session's one with the same filter.
    pub(crate) fn insert(&mut self, filter: &str, subscriber: Subscriber) {
        self.epoch += 1;
        let (at, is_hash) = self.end_or_new(filter);
        self.len += usize::from(self.nodes[at as usize].ends.insert(is_hash, subscriber));
    }

    /// Adds a shared group.
    pub(crate) fn insert_group(&mut self, filter: &str, group: GroupKey) {
        self.epoch += 1;
        let (at, is_hash) = self.end_or_new(filter);
        self.nodes[at as usize].ends.insert_group(GroupHere { group, is_hash });
    }

    /// Removes a session's subscription; one that is not there is ignored.
    pub(crate) fn remove(&mut self, filter: &str, session: SessionKey) {
        self.epoch += 1;
        let Some((at, is_hash)) = self.end_of(filter) else { return };
        if self.nodes[at as usize].ends.remove(is_hash, session) {
            self.len -= 1;
            self.prune(at);
        }
    }

    /// Removes a shared group; one that is not there is ignored.
    pub(crate) fn remove_group(&mut self, filter: &str, group: GroupKey) {
        self.epoch += 1;
        let Some((at, _)) = self.end_of(filter) else { return };
        self.nodes[at as usize].ends.remove_group(group);
        self.prune(at);
    }

    /// Collects every subscription and group that matches the topic into `found`, in no order.
    pub(crate) fn matching(&self, topic: &str, found: &mut Matches) {
        // [MQTT-4.7.2-1] a filter that starts with a wildcard matches no topic that starts with `$`.
        let mut wildcards = !topic.starts_with('$');
        let mut to_visit: ToVisit<'_> = smallvec![(ROOT, Some(topic.as_bytes()))];
        while let Some((at, rest)) = to_visit.pop() {
            let node = &self.nodes[at as usize];
            // `#` stands for any number of levels, none included (section 4.7.1.2).
            node.ends.collect(rest.is_none(), wildcards, found);
            let Some(rest) = rest else { continue };
            if node.plus != ROOT && wildcards {
                self.visit(node.plus, rest, &mut to_visit);
            }
            let literal = match node.only_literal() {
                None if node.has_literals() => self.find_literal(at, first_level(rest)),
                only => only,
            };
            if let Some(literal) = literal {
                self.visit(literal, rest, &mut to_visit);
            }
            // Only the root stands before the topic's first level.
            wildcards = true;
        }
    }

    fn visit<'t>(&self, child: u32, topic: &'t [u8], to_visit: &mut ToVisit<'t>) {
        if let Some(rest) = follow(self.nodes[child as usize].label.as_bytes(), topic) {
            to_visit.push((child, rest));
        }
    }

    /// Finds the child with this first level, which is not `+`.
    fn literal_child(&self, at: u32, level: &[u8]) -> Option<u32> {
        let node = &self.nodes[at as usize];
        match node.only_literal() {
            None if !node.has_literals() => None,
            None => self.find_literal(at, level),
            only => only.filter(|child| first_level(self.nodes[*child as usize].label.as_bytes()) == level),
        }
    }

    fn find_literal(&self, at: u32, level: &[u8]) -> Option<u32> {
        self.edges.find(hash_of(&self.hasher, at, level), |child| {
            let child = &self.nodes[child as usize];
            child.parent == at && first_level(child.label.as_bytes()) == level
        })
    }

    fn child(&self, at: u32, level: &[u8]) -> Option<u32> {
        match level {
            b"+" => Some(self.nodes[at as usize].plus).filter(|plus| *plus != ROOT),
            level => self.literal_child(at, level),
        }
    }

    /// Finds the node where a filter ends, and whether it ends there with `#`.
    fn end_of(&self, filter: &str) -> Option<(u32, bool)> {
        let (mut rest, is_hash) = path_of(filter);
        let mut at = ROOT;
        while let Some(levels) = rest {
            at = self.child(at, first_level(levels))?;
            rest = strip_levels(levels, self.nodes[at as usize].label.as_bytes())?;
        }
        Some((at, is_hash))
    }

    fn end_or_new(&mut self, filter: &str) -> (u32, bool) {
        let (mut rest, is_hash) = path_of(filter);
        let mut at = ROOT;
        while let Some(levels) = rest {
            let Some(child) = self.child(at, first_level(levels)) else {
                return (self.add_child(at, levels), is_hash);
            };
            let label = self.nodes[child as usize].label.as_bytes();
            let shared = shared_levels(label, levels);
            at = if shared == label.len() { child } else { self.split(child, shared) };
            rest = levels.get(shared + 1..);
        }
        (at, is_hash)
    }

    fn add(&mut self, node: Node) -> u32 {
        self.besides += node.label.besides();
        let new = self.nodes.insert(node);
        u32::try_from(new).expect("four billion nodes are more than memory holds")
    }

    /// Adds a child that is not there.
    fn add_child(&mut self, at: u32, label: &[u8]) -> u32 {
        let new = self.add(Node::new(at, label));
        let parent = &mut self.nodes[at as usize];
        parent.children += 1;
        parent.children_xor ^= new;
        self.find_by_level(at, new);
        new
    }

    /// Makes a child be found by its first level.
    fn find_by_level(&mut self, at: u32, child: u32) {
        let Self { nodes, edges, hasher, .. } = self;
        if first_level(nodes[child as usize].label.as_bytes()) == b"+" {
            nodes[at as usize].plus = child;
        } else {
            let hash = hash_of_node(hasher, nodes, child);
            edges.insert(hash, child, |node| hash_of_node(hasher, nodes, node));
        }
    }

    /// The reverse of `find_by_level`.
    fn lose_by_level(&mut self, at: u32, child: u32) {
        let Self { nodes, edges, hasher, .. } = self;
        let parent = &mut nodes[at as usize];
        if parent.plus == child {
            parent.plus = ROOT;
        } else {
            edges.remove(hash_of_node(hasher, nodes, child), child);
        }
    }

    /// Puts another node with the same first level in a child's place.
    fn replace_child(&mut self, at: u32, old: u32, new: u32) {
        let Self { nodes, edges, hasher, .. } = self;
        let parent = &mut nodes[at as usize];
        parent.children_xor ^= old ^ new;
        if parent.plus == old {
            parent.plus = new;
        } else {
            edges.replace(hash_of_node(hasher, nodes, old), old, new);
        }
    }

    fn relabel(&mut self, node: u32, parent: u32, label: Label) {
        let node = &mut self.nodes[node as usize];
        self.besides += label.besides();
        self.besides -= node.label.besides();
        (node.parent, node.label) = (parent, label);
    }

    /// Puts a node of its own where the first levels of a label, so many bytes, end; returns it.
    fn split(&mut self, child: u32, shared: usize) -> u32 {
        let Node { parent, label, .. } = &self.nodes[child as usize];
        let (parent, label) = (*parent, label.as_bytes());
        let lower = Label::new(&label[shared + 1..]);
        let between = Node { children: 1, children_xor: child, ..Node::new(parent, &label[..shared]) };
        let between = self.add(between);
        self.replace_child(parent, child, between);
        self.relabel(child, between, lower);
        self.find_by_level(between, child);
        between
    }

    /// Gives back nodes that lead nowhere, and joins one that leads only to another with it.
    fn prune(&mut self, mut at: u32) {
        while at != ROOT {
            let node = &self.nodes[at as usize];
            match node.children {
                _ if !matches!(node.ends, Ends::Nothing) => return,
                0 => {}
                1 => return self.join(at),
                _ => return,
            }
            let parent = node.parent;
            self.lose_by_level(parent, at);
            self.forget(at);
            let node = &mut self.nodes[parent as usize];
            node.children -= 1;
            node.children_xor ^= at;
            at = parent;
        }
    }

    fn forget(&mut self, node: u32) {
        self.besides -= self.nodes.remove(node as usize).label.besides();
    }

    /// Joins a node where nothing ends with its only child.
    fn join(&mut self, at: u32) {
        let Node { parent, children_xor: child, label, .. } = &self.nodes[at as usize];
        let (parent, child) = (*parent, *child);
        let joined = [label.as_bytes(), self.nodes[child as usize].label.as_bytes()].join(&b'/');
        self.lose_by_level(at, child);
        // Its own place in the table is found while both are as they were.
        self.replace_child(parent, at, child);
        self.relabel(child, parent, Label::new(&joined));
        self.forget(at);
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
