//! Ids are known while the window holds them, and no longer.

use std::collections::BTreeMap;

use super::*;
use proptest::prelude::*;

const NOW_MS: u64 = 1_800_000_000_000;

fn dedup(limits: DedupLimits, account: &Account) -> Dedup {
    Dedup::new(limits, 7, account)
}

fn id(n: u64, unix_ms: u64) -> Published {
    Published::new(Fingerprint::of("t", &n.to_string()), Some(n + 1), false, (unix_ms / 1000) as u32)
}

#[test]
fn what_is_packed_comes_back() {
    for (seq, had_nobody) in [(None, false), (None, true), (Some(1), false), (Some(u64::MAX >> 1), true)] {
        let fingerprint = Fingerprint(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
        let id = Published::new(fingerprint, seq, had_nobody, 9);
        assert_eq!(id.fingerprint(), fingerprint);
        assert_eq!((id.seq(), id.had_nobody(), id.at_s()), (seq, had_nobody, 9));
    }
}

/// It is in logs: a change would forget every id that an older program wrote.
#[test]
fn fingerprints_never_change_and_topic_and_id_are_told_apart() {
    assert_eq!(Fingerprint::of("im/room", "m1").0, FINGERPRINT);
    assert_ne!(Fingerprint::of("a", "bc"), Fingerprint::of("ab", "c"));
}

const FINGERPRINT: u128 = 1_537_424_836_430_589_326_327_011_140_460_302_703;

#[test]
fn an_id_costs_at_most_48_bytes_however_many_there_are() {
    let account = Account::default();
    let mut dedup = dedup(DedupLimits::default(), &account);
    let user = ByteString::from_static("u");
    for n in 0..100_000 {
        dedup.insert(&user, id(n, NOW_MS), NOW_MS);
        if n > 1_000 {
            let each = (account.bytes() - user_bytes(&user)) / dedup.len();
            assert!(each <= 48, "{each} bytes for each of {}", dedup.len());
        }
    }
    assert_eq!(account.bytes(), dedup.recount());
}

#[test]
fn ids_that_a_client_chose_to_begin_together_are_found_quickly() {
    // All have the same low half, which is what an index without a key would begin with.
    let mut ids = Ids::default();
    let of = |n: u64| Published::new(Fingerprint(u128::from(n) << 64 | 5), None, false, 0);
    for n in 0..50_000 {
        ids.push(of(n), 0x1234_5678);
    }
    let run = |at: usize| ids.index[at..].iter().take_while(|label| **label != FREE).count();
    let longest = (0..ids.index.len()).step_by(61).map(run).max().unwrap();
    assert!(longest < 400, "{longest} places in a row");
}

#[test]
fn the_oldest_windows_end_first_when_all_users_have_too_many() {
    let account = Account::default();
    let limits = DedupLimits { ids_max: 3, ..DedupLimits::default() };
    let mut dedup = dedup(limits, &account);
    let [a, b] = ["a", "b"].map(ByteString::from);
    dedup.insert(&a, id(1, NOW_MS), NOW_MS);
    dedup.insert(&b, id(2, NOW_MS + 1_000), NOW_MS + 1_000);
    dedup.insert(&b, id(3, NOW_MS + 2_000), NOW_MS + 2_000);
    let (_, _, forgotten) = dedup.insert(&b, id(4, NOW_MS + 3_000), NOW_MS + 3_000);
    assert_eq!(forgotten, [Forgotten { user: a.clone(), from: 0, to: 1 }]);
    let known = |user: &str, n| dedup.find(user, id(n, 0).fingerprint(), NOW_MS).is_some();
    assert_eq!([known("a", 1), known("b", 2), known("b", 3), known("b", 4)], [false, true, true, true]);
}

proptest! {
    /// Against a plain list, with a replay of what was logged at every step that says so.
    #[test]
    fn it_does_what_a_plain_list_does_and_the_log_says_the_same(
        steps in prop::collection::vec((0u8..12, 0u64..40, 0u8..3), 1..600),
        (ids_per_user_max, ids_max) in (1usize..40, 1usize..60),
    ) {
        let limits = DedupLimits { age_s: 100, ids_per_user_max, ids_max };
        let account = Account::default();
        let mut dedup = dedup(limits, &account);
        let mut list: Vec<(String, u64, u64)> = Vec::new();
        let mut now = NOW_MS;
        let mut log: Vec<Result<(ByteString, u64, Published), Forgotten>> = Vec::new();
        for (kind, n, user) in steps {
            let name = ByteString::from(format!("u{user}"));
            match kind {
                0 => now += n * 1_000,
                1 => {
                    let (forgotten, more) = dedup.expire(now, 5);
                    log.extend(forgotten.into_iter().map(Err));
                    if !more {
                        list.retain(|(_, _, at)| at + 100_000 > now);
                    }
                }
                2 => {
                    let mut again = Dedup::new(limits, 9, &Account::default());
                    for step in &log {
                        match step {
                            Ok((user, number, id)) => again.restore(user, *number, &[*id]).unwrap(),
                            Err(forgotten) => again.forget(forgotten),
                        }
                    }
                    let all = |d: &Dedup| -> BTreeMap<_, _> {
                        d.iter().map(|(user, first, ids)| (user.clone(), (first, ids.clone()))).collect()
                    };
                    prop_assert_eq!(all(&again), all(&dedup));
                    prop_assert_eq!(&again.oldest, &dedup.oldest);
                    dedup = again;
                    dedup.held = account.hold(dedup.recount());
                }
                _ => {
                    let inside = |(_, _, at): &&(String, u64, u64)| at + 100_000 > now;
                    let known = list.iter().filter(inside).any(|(u, i, _)| **u == *name && *i == n);
                    let found = dedup.find(&name, id(n, 0).fingerprint(), now);
                    prop_assert_eq!(found.is_some(), known);
                    if let Some(found) = found {
                        prop_assert_eq!(found.seq(), Some(n + 1));
                        continue;
                    }
                    list.retain(|(u, _, at)| **u != *name || at + 100_000 > now);
                    let own: Vec<_> = list.iter().filter(|(u, _, _)| **u == *name).cloned().collect();
                    if own.len() >= ids_per_user_max {
                        list.retain(|entry| *entry != own[0]);
                    }
                    if list.len() >= ids_max {
                        let (_, _, at) = *list.iter().min_by_key(|(u, _, at)| (*at, u.clone())).unwrap();
                        let oldest = list.iter().filter(|(_, _, a)| *a == at).min_by_key(|(u, _, _)| u.clone());
                        let oldest = oldest.unwrap().clone();
                        list.retain(|entry| *entry != oldest);
                    }
                    let (number, published, forgotten) = dedup.insert(&name, id(n, now), now);
                    log.extend(forgotten.into_iter().map(Err));
                    log.push(Ok((name.clone(), number, published)));
                    list.push((name.to_string(), n, now));
                }
            }
            prop_assert!(dedup.len() <= ids_max);
            prop_assert_eq!(dedup.len(), dedup.users.values().map(|ids| ids.ring.len()).sum::<usize>());
            prop_assert_eq!(dedup.oldest.len(), dedup.users.len());
            prop_assert_eq!(account.bytes(), dedup.recount());
        }
    }

    /// The index finds all and only what the ring has, over many rounds.
    #[test]
    fn the_index_says_what_the_ring_says(pops in prop::collection::vec(0usize..200, 1..12), seed: u64) {
        let mut ids = Ids { first: u64::from(FREE) - 300, ..Ids::default() };
        let mut n = 0;
        for pop in pops {
            for _ in 0..150 {
                ids.push(id(n, 0), seed);
                n += 1;
            }
            for _ in 0..pop {
                ids.pop(seed);
            }
            ids.shrink(seed);
            for of in 0..n {
                let there = ids.ring.iter().any(|i| i.seq() == Some(of + 1));
                prop_assert_eq!(ids.find(id(of, 0).fingerprint(), seed).is_some(), there);
            }
        }
    }
}
