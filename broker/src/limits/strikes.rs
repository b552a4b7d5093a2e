//! Who does something too often: first let pass, then slowed, then to be banned.
//!
//! ```text
//! Free --over the rate--> strike 1: slowed --each one more--> slowed twice as long --strikes_max--> Ban
//!   ^------ a minute without anything -----------v------------------v
//! ```
//! Invariant: the table never has more than its capacity: when it is full, the part of it that was quiet
//! longest is forgotten at once, so that forgetting costs little for each entry.

use std::{collections::HashMap, hash::Hash, time::Duration};

use super::rate::Rate;

/// A minute, over which everything here is counted; also the quiet time after which all is forgiven.
const MINUTE: Duration = Duration::from_secs(60);
const QUIET_MS: u64 = 60_000;

/// One part of this many is forgotten when a table is full.
const FORGET: usize = 8;

/// What too often is, and what follows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    /// Times in a minute that are let pass; 0 = any number.
    pub(crate) per_minute: u32,
    /// Whether, once too often, each further time until a minute was quiet is a strike; else only those
    /// over the rate.
    pub(crate) is_strict: bool,
    /// The first delay; it doubles with each strike ...
    pub(crate) slow_first_ms: u64,
    /// ... up to this.
    pub(crate) slow_max_ms: u64,
    /// Strikes after which the next one is a ban.
    pub(crate) strikes_max: u32,
}

/// What to do with who did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Nothing.
    Free,
    /// Let the answer wait.
    Slow {
        /// So long.
        ms: u64,
    },
    /// Ban.
    Ban,
}

#[derive(Debug)]
struct Entry {
    rate: Rate,
    strikes: u32,
    last_ms: u64,
}

/// What was counted, by who did it.
#[derive(Debug)]
pub(crate) struct Strikes<K> {
    rule: Rule,
    capacity: usize,
    entries: HashMap<K, Entry>,
}

impl<K: Hash + Eq + Clone> Strikes<K> {
    pub(crate) fn new(rule: Rule, capacity: usize) -> Self {
        Self { rule, capacity: capacity.max(FORGET), entries: HashMap::new() }
    }

    /// Counts one time.
    pub(crate) fn count(&mut self, now_ms: u64, key: &K) -> Measure {
        let Rule { per_minute, is_strict, strikes_max, .. } = self.rule;
        if !self.entries.contains_key(key) {
            let Some(rate) = Rate::new(now_ms, u64::from(per_minute), MINUTE, 0) else {
                return Measure::Free;
            };
            self.make_room();
            self.entries.insert(key.clone(), Entry { rate, strikes: 0, last_ms: now_ms });
        }
        let Some(entry) = self.entries.get_mut(key) else { return Measure::Free };
        if now_ms.saturating_sub(entry.last_ms) >= QUIET_MS {
            entry.strikes = 0;
        }
        entry.last_ms = now_ms;
        let is_over = entry.rate.take(now_ms, 1).is_err();
        if is_over || (is_strict && entry.strikes > 0) {
            entry.strikes = entry.strikes.saturating_add(1);
        }
        match entry.strikes {
            strikes if strikes > strikes_max => {
                self.entries.remove(key);
                Measure::Ban
            }
            0 => Measure::Free,
            strikes if is_over || is_strict => Measure::Slow { ms: self.delay_ms(strikes) },
            _ => Measure::Free,
        }
    }

    /// Says how long the next answer to this one waits, without counting.
    pub(crate) fn slowed_ms(&self, now_ms: u64, key: &K) -> u64 {
        match self.entries.get(key) {
            Some(entry) if entry.strikes > 0 && now_ms.saturating_sub(entry.last_ms) < QUIET_MS => {
                self.delay_ms(entry.strikes)
            }
            _ => 0,
        }
    }

    /// Forgets one: it did what it should.
    pub(crate) fn forgive(&mut self, key: &K) {
        self.entries.remove(key);
    }

    fn delay_ms(&self, strikes: u32) -> u64 {
        let doubled = self.rule.slow_first_ms.saturating_mul(1 << (strikes - 1).min(32));
        doubled.min(self.rule.slow_max_ms)
    }

    fn make_room(&mut self) {
        if self.entries.len() < self.capacity {
            return;
        }
        let mut last: Vec<u64> = self.entries.values().map(|entry| entry.last_ms).collect();
        let at = self.capacity / FORGET;
        let (_, &mut newest_forgotten, _) = last.select_nth_unstable(at);
        let mut left = at + 1;
        self.entries.retain(|_, entry| {
            let forget = entry.last_ms <= newest_forgotten && left > 0;
            left -= usize::from(forget);
            !forget
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule =
        Rule { per_minute: 3, is_strict: false, slow_first_ms: 100, slow_max_ms: 350, strikes_max: 4 };

    fn counted(strikes: &mut Strikes<&str>, now_ms: u64, times: usize) -> Vec<Measure> {
        (0..times).map(|_| strikes.count(now_ms, &"x")).collect()
    }

    fn slow(ms: u64) -> Measure {
        Measure::Slow { ms }
    }

    #[test]
    fn too_often_is_slowed_longer_and_longer_and_then_banned() {
        let mut strikes = Strikes::new(RULE, 100);
        let expected = [
            Measure::Free,
            Measure::Free,
            Measure::Free,
            slow(100),
            slow(200),
            slow(350),
            slow(350),
            Measure::Ban,
            // It begins anew after the ban.
            Measure::Free,
        ];
        assert_eq!(counted(&mut strikes, 5, 9), expected);
        assert_eq!(strikes.count(5, &"y"), Measure::Free, "another one is not held responsible");
    }

    #[test]
    fn a_quiet_minute_forgives() {
        let mut strikes = Strikes::new(RULE, 100);
        assert_eq!(counted(&mut strikes, 0, 5)[4], slow(200));
        assert_eq!((strikes.slowed_ms(59_999, &"x"), strikes.slowed_ms(60_000, &"x")), (200, 0));
        assert_eq!(counted(&mut strikes, 60_000, 4)[3], slow(100));
        strikes.forgive(&"x");
        assert_eq!(strikes.slowed_ms(60_000, &"x"), 0);
    }

    #[test]
    fn within_the_rate_again_only_a_strict_rule_goes_on() {
        for (is_strict, expected) in [(false, Measure::Free), (true, slow(200))] {
            let mut strikes = Strikes::new(Rule { is_strict, ..RULE }, 100);
            assert_eq!(counted(&mut strikes, 0, 4)[3], slow(100));
            assert_eq!(strikes.count(30_000, &"x"), expected);
        }
    }

    #[test]
    fn a_rate_of_none_never_strikes_and_keeps_nothing() {
        let mut strikes = Strikes::new(Rule { per_minute: 0, ..RULE }, 100);
        assert!(counted(&mut strikes, 0, 1_000).iter().all(|measure| *measure == Measure::Free));
        assert!(strikes.entries.is_empty());
    }

    #[test]
    fn a_full_table_forgets_who_was_quiet_longest() {
        let mut strikes = Strikes::new(Rule { is_strict: true, ..RULE }, 80);
        for i in 0..80_u64 {
            strikes.count(i, &i);
        }
        for _ in 0..4 {
            strikes.count(90, &0);
        }
        for i in 1_000..100_000_u64 {
            strikes.count(90 + i, &i);
            assert!(strikes.entries.len() <= 80);
            // Who goes on is not forgotten however many others come.
            assert_ne!(strikes.count(90 + i, &0), Measure::Free);
            strikes.entries.get_mut(&0).unwrap().strikes = 1;
        }
    }
}
