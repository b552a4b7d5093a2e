//! A table whose places are numbers, that grows without moving what it holds: a table of hundreds of thousands in
//! one piece would be copied when it is full, and everybody would wait for that.

use std::ops::{Index, IndexMut};

/// Places in one piece.
const PIECE: usize = 1_024;

/// No place.
const NONE: usize = usize::MAX;

#[derive(Debug)]
enum Place<T> {
    Used(T),
    /// Free; the next one that is.
    Free(usize),
}

/// The table. A place that was given back is used again first.
#[derive(Debug)]
pub(crate) struct Places<T> {
    /// All but the last are full to their capacity, which never changes.
    pieces: Vec<Vec<Place<T>>>,
    first_free: usize,
    len: usize,
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self { pieces: Vec::new(), first_free: NONE, len: 0 }
    }
}

impl<T> Places<T> {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Returns how many places are used.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns a number above every place that is used.
    pub(crate) fn capacity(&self) -> usize {
        self.pieces.last().map_or(0, |last| (self.pieces.len() - 1) * PIECE + last.len())
    }

    /// Puts something at a free place.
    pub(crate) fn insert(&mut self, new: T) -> usize {
        self.len += 1;
        let at = self.first_free;
        if at != NONE {
            let place = &mut self.pieces[at / PIECE][at % PIECE];
            if let Place::Free(next) = std::mem::replace(place, Place::Used(new)) {
                self.first_free = next;
            }
            return at;
        }
        if self.pieces.last().is_none_or(|last| last.len() == PIECE) {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        let piece = self.pieces.len() - 1;
        let last = &mut self.pieces[piece];
        last.push(Place::Used(new));
        piece * PIECE + last.len() - 1
    }

    /// Takes what is at a place, which is free then.
    ///
    /// # Panics
    /// Nothing is there: the number is none that `insert` gave, or it was removed before.
    pub(crate) fn remove(&mut self, at: usize) -> T {
        let place = &mut self.pieces[at / PIECE][at % PIECE];
        match std::mem::replace(place, Place::Free(self.first_free)) {
            Place::Used(old) => {
                self.first_free = at;
                self.len -= 1;
                if self.len == 0 {
                    *self = Self::default();
                }
                old
            }
            Place::Free(next) => {
                *place = Place::Free(next);
                panic!("nothing is at place {at}")
            }
        }
    }

    pub(crate) fn get(&self, at: usize) -> Option<&T> {
        match self.pieces.get(at / PIECE)?.get(at % PIECE)? {
            Place::Used(it) => Some(it),
            Place::Free(_) => None,
        }
    }

    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        match self.pieces.get_mut(at / PIECE)?.get_mut(at % PIECE)? {
            Place::Used(it) => Some(it),
            Place::Free(_) => None,
        }
    }

    /// Goes through what is there, by place.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.pieces.iter().flatten().enumerate().filter_map(|(at, place)| match place {
            Place::Used(it) => Some((at, it)),
            Place::Free(_) => None,
        })
    }
}

impl<T> Index<usize> for Places<T> {
    type Output = T;

    fn index(&self, at: usize) -> &T {
        self.get(at).expect("a place that is used")
    }
}

impl<T> IndexMut<usize> for Places<T> {
    fn index_mut(&mut self, at: usize) -> &mut T {
        self.get_mut(at).expect("a place that is used")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn it_holds_what_a_map_holds_over_any_inserts_and_removals() {
        let mut rng = fastrand::Rng::with_seed(7);
        let (mut places, mut map) = (Places::new(), BTreeMap::new());
        for i in 0..50_000_u32 {
            // It grows over several pieces, then shrinks to nothing.
            if rng.u32(..50_000) > i {
                let at = places.insert(i);
                assert_eq!(map.insert(at, i), None, "a place was given twice");
            } else if let Some(at) = map.keys().nth(rng.usize(..map.len().max(1))).copied() {
                assert_eq!(Some(places.remove(at)), map.remove(&at));
                assert_eq!(places.get(at), None);
            }
            assert_eq!(places.len(), map.len());
        }
        let all: BTreeMap<_, _> = places.iter().map(|(at, it)| (at, *it)).collect();
        assert_eq!(all, map);
        assert!(map.keys().all(|at| *at < places.capacity()));
        for (at, it) in map {
            places[at] += 1;
            assert_eq!(places.remove(at), it + 1);
        }
        assert_eq!((places.len(), places.capacity()), (0, 0), "an empty table holds no memory");
    }

    #[test]
    fn what_it_holds_never_moves() {
        let mut places = Places::new();
        let first = places.insert(0_u64);
        let before = std::ptr::from_ref(&places[first]);
        for i in 0..100_000 {
            places.insert(i);
        }
        assert_eq!(before, std::ptr::from_ref(&places[first]));
    }

    #[test]
    #[should_panic(expected = "nothing is at place 0")]
    fn a_place_is_not_given_back_twice() {
        let mut places = Places::new();
        places.insert(1);
        places.insert(2);
        places.remove(0);
        places.remove(0);
    }
}
