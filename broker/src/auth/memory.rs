//! What was answered before: a bounded number of answers, each for a limited time.
//!
//! Keys are fingerprints, so that a password is never kept. Time is an argument.

use std::collections::{HashMap, VecDeque};

use super::secret::Fingerprint;

/// Answers that are remembered.
#[derive(Debug)]
pub(crate) struct Memory<T> {
    entries: HashMap<Fingerprint, Entry<T>>,
    /// Keys in the order of their coming, with the number of the entry that they were put in for.
    order: VecDeque<(Fingerprint, u64)>,
    entries_max: usize,
    next: u64,
}

#[derive(Debug)]
struct Entry<T> {
    value: T,
    until_ms: u64,
    number: u64,
}

impl<T: Clone> Memory<T> {
    /// Makes one that keeps so many.
    pub(crate) fn new(entries_max: usize) -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new(), entries_max, next: 0 }
    }

    /// Returns what is remembered and not too old.
    pub(crate) fn get(&self, now_ms: u64, key: &Fingerprint) -> Option<T> {
        self.entries.get(key).filter(|entry| now_ms < entry.until_ms).map(|entry| entry.value.clone())
    }

    /// Remembers; the oldest makes room.
    pub(crate) fn put(&mut self, now_ms: u64, key: Fingerprint, value: T, for_ms: u64) {
        if for_ms == 0 || self.entries_max == 0 {
            return;
        }
        let number = self.next;
        self.next += 1;
        self.entries.insert(key, Entry { value, until_ms: now_ms + for_ms, number });
        self.order.push_back((key, number));
        while self.order.len() > self.entries_max || self.front_is_over(now_ms) {
            let Some((key, number)) = self.order.pop_front() else { break };
            // A key that came again since lives on by its later place.
            if self.entries.get(&key).is_some_and(|entry| entry.number == number) {
                self.entries.remove(&key);
            }
        }
    }

    fn front_is_over(&self, now_ms: u64) -> bool {
        self.order.front().is_some_and(|(key, number)| {
            self.entries.get(key).is_none_or(|entry| entry.number != *number || now_ms >= entry.until_ms)
        })
    }

    /// Returns how many are remembered, those that are over included.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> Fingerprint {
        [number; 32]
    }

    #[test]
    fn an_answer_is_remembered_for_its_time() {
        let mut memory = Memory::new(10);
        memory.put(1_000, key(1), "yes", 500);
        memory.put(1_000, key(2), "never", 0);
        assert_eq!(memory.get(1_499, &key(1)), Some("yes"));
        assert_eq!(memory.get(1_500, &key(1)), None);
        assert_eq!(memory.get(1_000, &key(2)), None);
        memory.clear();
        assert_eq!(memory.get(1_000, &key(1)), None);
    }

    #[test]
    fn no_more_than_the_bound_are_kept_and_the_oldest_goes_first() {
        let mut memory = Memory::new(3);
        for number in 0..100 {
            memory.put(0, key(number), number, 1_000);
            // The same one again and again is one place too few, never too many.
            memory.put(0, key(number), number, 1_000);
            assert!(memory.entries.len() <= 3 && memory.order.len() <= 3);
        }
        assert_eq!(memory.get(0, &key(99)), Some(99));
        assert_eq!(memory.get(0, &key(90)), None);
    }

    #[test]
    fn what_is_over_makes_room_by_itself() {
        let mut memory = Memory::new(1_000);
        (0..100).for_each(|number| memory.put(0, key(number), number, 10));
        memory.put(10, key(200), 200, 10);
        assert_eq!((memory.entries.len(), memory.order.len()), (1, 1));
    }
}
