//! Which node follows which in a tree: one table for all of its nodes, found by hash.
//!
//! Knows nothing of nodes but their numbers: the tree says what a node's hash is, and whether it is the one that is
//! looked for. The table stands in parts that split when they are full, so that no insertion waits until all of it is
//! copied.

use hashbrown::HashTable;

/// Nodes in one part: a table of 4,096 places as full as it gets.
const PART_MAX: usize = 4_096 / 8 * 7;

/// Parts are told apart by these bits of a hash, which a part's own table looks at last.
const PART_SHIFT: u32 = 32;

/// Hashes that agree in so many of those bits stay together.
const DEPTH_MAX: u32 = 24;

#[derive(Debug, Default)]
struct Part {
    /// It holds the nodes whose hashes agree in so many bits.
    depth: u32,
    table: HashTable<u32>,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Edges {
    /// The part of each hash, by its bits; the length is a power of two.
    directory: Vec<u32>,
    parts: Vec<Part>,
    len: usize,
}

impl Default for Edges {
    fn default() -> Self {
        Self { directory: vec![0], parts: vec![Part::default()], len: 0 }
    }
}

impl Edges {
    fn part(&self, hash: u64) -> usize {
        self.directory[(hash >> PART_SHIFT) as usize & (self.directory.len() - 1)] as usize
    }

    pub(crate) fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        self.parts[self.part(hash)].table.find(hash, |node| is(*node)).copied()
    }

    /// Adds a node that is not there; `hash_of` tells the hashes of those that are.
    pub(crate) fn insert(&mut self, hash: u64, node: u32, hash_of: impl Fn(u32) -> u64) {
        let mut part = self.part(hash);
        while self.parts[part].table.len() >= PART_MAX && self.parts[part].depth < DEPTH_MAX {
            self.split(part, &hash_of);
            part = self.part(hash);
        }
        self.parts[part].table.insert_unique(hash, node, |node| hash_of(*node));
        self.len += 1;
    }

    /// Puts a node in the place of one with the same hash.
    pub(crate) fn replace(&mut self, hash: u64, old: u32, new: u32) {
        let part = self.part(hash);
        if let Some(node) = self.parts[part].table.find_mut(hash, |node| *node == old) {
            *node = new;
        }
    }

    /// Removes a node; one that is not there is ignored.
    pub(crate) fn remove(&mut self, hash: u64, node: u32) {
        let part = self.part(hash);
        let table = &mut self.parts[part].table;
        let Ok(entry) = table.find_entry(hash, |it| *it == node) else { return };
        entry.remove();
        if table.is_empty() {
            *table = HashTable::new();
        }
        self.len -= 1;
        if self.len == 0 {
            *self = Self::default();
        }
    }

    fn split(&mut self, part: usize, hash_of: &impl Fn(u32) -> u64) {
        let new = self.parts.len();
        let depth = self.parts[part].depth;
        if 1 << depth == self.directory.len() {
            self.directory.extend_from_within(..);
        }
        let bit = 1 << depth;
        for (at, of) in self.directory.iter_mut().enumerate() {
            if *of as usize == part && at & bit != 0 {
                *of = new as u32;
            }
        }
        let nodes = std::mem::take(&mut self.parts[part].table);
        self.parts[part].depth = depth + 1;
        self.parts.push(Part { depth: depth + 1, table: HashTable::new() });
        for node in nodes {
            let hash = hash_of(node);
            let to = if (hash >> PART_SHIFT) as usize & bit == 0 { part } else { new };
            self.parts[to].table.insert_unique(hash, node, |node| hash_of(*node));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn hash_of(node: u32) -> u64 {
        u64::from(node).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    #[test]
    fn it_finds_what_was_inserted_and_not_removed_over_many_parts() {
        let mut rng = fastrand::Rng::with_seed(7);
        let (mut edges, mut there) = (Edges::default(), BTreeSet::new());
        for _ in 0..100_000 {
            let node = rng.u32(0..60_000);
            match there.insert(node) {
                true => edges.insert(hash_of(node), node, hash_of),
                false => {
                    there.remove(&node);
                    edges.remove(hash_of(node), node);
                }
            }
        }
        assert!(edges.parts.len() > 4 && edges.len == there.len());
        for node in 0..60_000 {
            let found = edges.find(hash_of(node), |it| it == node);
            assert_eq!(found.is_some(), there.contains(&node), "{node}");
        }
        for node in there {
            edges.remove(hash_of(node), node);
        }
        assert_eq!((edges.len, edges.parts.len()), (0, 1), "an empty table holds no memory");
    }

    #[test]
    fn one_that_takes_anothers_place_is_found_there() {
        let mut edges = Edges::default();
        edges.insert(5, 1, |_| 5);
        edges.insert(5, 2, |_| 5);
        edges.replace(5, 1, 3);
        assert_eq!(edges.find(5, |it| it == 1), None);
        assert_eq!(edges.find(5, |it| it == 3), Some(3));
        edges.remove(5, 3);
        edges.remove(5, 3);
        assert_eq!((edges.find(5, |_| true), edges.len), (Some(2), 1));
    }

    #[test]
    fn hashes_that_agree_do_not_split_it_for_ever() {
        let mut edges = Edges::default();
        for node in 0..10_000 {
            edges.insert(7, node, |_| 7);
        }
        assert_eq!(edges.find(7, |it| it == 9_999), Some(9_999));
    }
}
