//! The subscriptions of one session, by filter: mostly one or a few, sometimes thousands.

use std::collections::HashMap;

use crate::session::Subscription;

/// Subscriptions up to which a list is searched.
const LISTED_MAX: usize = 16;

/// The table. Its order means nothing.
#[derive(Debug)]
pub(crate) enum Subscriptions {
    /// As many as there are: the list has no spare room.
    Listed(Vec<(Box<str>, Subscription)>),
    /// Its hash is keyed anew in each process, so that nobody can choose filters that all fall into one place.
    #[expect(clippy::box_collection, reason = "most sessions have a list, and each has room for this")]
    Mapped(Box<HashMap<Box<str>, Subscription>>),
}

impl Default for Subscriptions {
    fn default() -> Self {
        Self::Listed(Vec::new())
    }
}

impl Subscriptions {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Listed(list) => list.len(),
            Self::Mapped(map) => map.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn get(&self, filter: &str) -> Option<&Subscription> {
        match self {
            Self::Listed(list) => list.iter().find(|(f, _)| **f == *filter).map(|(_, s)| s),
            Self::Mapped(map) => map.get(filter),
        }
    }

    pub(crate) fn contains_key(&self, filter: &str) -> bool {
        self.get(filter).is_some()
    }

    /// Adds one, or replaces the one with its filter, which it returns.
    pub(crate) fn insert(&mut self, filter: &str, new: Subscription) -> Option<Subscription> {
        let list = match self {
            Self::Mapped(map) => return map.insert(filter.into(), new),
            Self::Listed(list) => list,
        };
        if let Some((_, before)) = list.iter_mut().find(|(f, _)| **f == *filter) {
            return Some(std::mem::replace(before, new));
        }
        if list.len() < LISTED_MAX {
            list.reserve_exact(1);
            list.push((filter.into(), new));
        } else {
            let mut map: HashMap<_, _> = list.drain(..).collect();
            map.insert(filter.into(), new);
            *self = Self::Mapped(Box::new(map));
        }
        None
    }

    pub(crate) fn remove(&mut self, filter: &str) -> Option<Subscription> {
        match self {
            Self::Listed(list) => {
                let at = list.iter().position(|(f, _)| **f == *filter)?;
                let (_, removed) = list.swap_remove(at);
                list.shrink_to_fit();
                Some(removed)
            }
            Self::Mapped(map) => {
                let removed = map.remove(filter)?;
                // Well below the length at which it became a table, so that it does not change with each one.
                if map.len() <= LISTED_MAX / 2 {
                    *self = Self::Listed(map.drain().collect());
                }
                Some(removed)
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Subscription)> {
        let (listed, mapped) = match self {
            Self::Listed(list) => (list.as_slice(), None),
            Self::Mapped(map) => (&[][..], Some(map)),
        };
        let listed = listed.iter().map(|(filter, subscription)| (&**filter, subscription));
        listed.chain(mapped.into_iter().flat_map(|map| map.iter().map(|(f, s)| (&**f, s))))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(filter, _)| filter)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use protocol::SubscribeOptions;

    #[test]
    fn it_holds_what_a_map_holds_whether_few_or_many() {
        let mut rng = fastrand::Rng::with_seed(3);
        let (mut subscriptions, mut map) = (Subscriptions::default(), BTreeMap::new());
        let (mut was_mapped, mut was_listed_again) = (false, false);
        for round in 0..4_000_u32 {
            // It grows, shrinks to nothing and grows again.
            let grows = (round / 1_000) % 2 == 0;
            let filter = format!("a/{}", rng.u32(..60));
            let new = Subscription { options: SubscribeOptions::default(), identifier: Some(round) };
            if rng.u32(..10) < if grows { 8 } else { 2 } {
                assert_eq!(subscriptions.insert(&filter, new), map.insert(filter, new));
            } else {
                assert_eq!(subscriptions.remove(&filter), map.remove(&filter));
            }
            let all: BTreeMap<_, _> = subscriptions.iter().map(|(f, s)| (f.to_owned(), *s)).collect();
            assert_eq!((subscriptions.len(), &all), (map.len(), &map));
            assert!(map.keys().all(|f| subscriptions.get(f) == map.get(f)));
            let is_mapped = matches!(subscriptions, Subscriptions::Mapped(_));
            was_listed_again |= was_mapped && !is_mapped;
            was_mapped |= is_mapped;
        }
        assert!(was_mapped && was_listed_again);
        assert_eq!(size_of::<Subscriptions>(), 24);
    }
}
