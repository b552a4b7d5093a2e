//! The fuzz targets on a stable compiler: the same bodies, driven by proptest instead of coverage.
//!
//! Each target first gets its seeds (`fuzz/seeds/`, where inputs that failed once are kept), then changed seeds and
//! random bytes for as many seconds as `POSTRIDER_FUZZ_SECONDS` says. The inputs are the same in every run; more
//! seconds mean more of them. With a nightly compiler `scripts/fuzz` lets libFuzzer choose better ones.

use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

// The fuzz package has its own workspace, so that nobody needs libFuzzer to build this one.
#[path = "../../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "they are public in the fuzz package")]
mod targets;

/// Seconds a target runs when nobody asks for more.
const SECONDS: u64 = 3;
/// Inputs between two looks at the clock.
const BATCH: u32 = 32;
/// Bytes of a random input.
const BYTES_MAX: usize = 400;

fn patience() -> Duration {
    let asked = std::env::var("POSTRIDER_FUZZ_SECONDS").ok();
    Duration::from_secs(asked.and_then(|seconds| seconds.parse().ok()).unwrap_or(SECONDS))
}

/// The seeds of a target: one input a line, in hexadecimal digits.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let path = format!("{}/fuzz/seeds/{target}.hex", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let bytes = |line: &str| {
        let digits = |at| u8::from_str_radix(&line[at..at + 2], 16);
        (0..line.len()).step_by(2).map(digits).collect::<Result<_, _>>()
    };
    lines.map(|line| bytes(line).unwrap_or_else(|error| panic!("{path}: {line}: {error}"))).collect()
}

/// One change of an input.
#[derive(Clone, Debug)]
enum Change {
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, u8),
    Repeat(Index, u8),
    Splice(Index, Vec<u8>),
}

fn change(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        4 => (at(), 1..=255u8).prop_map(|(at, bits)| Change::Flip(at, bits)),
        2 => (at(), vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        1 => (at(), 1..40u8).prop_map(|(at, count)| Change::Remove(at, count)),
        1 => (at(), 1..40u8).prop_map(|(at, count)| Change::Repeat(at, count)),
        2 => (at(), select(seeds)).prop_map(|(at, other)| Change::Splice(at, other)),
    ]
}

fn changed(mut input: Vec<u8>, changes: Vec<Change>) -> Vec<u8> {
    for change in changes {
        let length = input.len();
        let from = |at: Index| at.index(length + 1);
        match change {
            Change::Flip(at, bits) if length > 0 => input[at.index(length)] ^= bits,
            Change::Flip(_, bits) => input.push(bits),
            Change::Insert(at, bytes) => drop(input.splice(from(at)..from(at), bytes)),
            Change::Remove(at, count) => {
                drop(input.drain(from(at)..length.min(from(at) + usize::from(count))));
            }
            Change::Repeat(at, count) => {
                input.extend_from_within(from(at)..length.min(from(at) + usize::from(count)));
            }
            Change::Splice(at, other) => {
                input.truncate(from(at));
                input.extend(other);
            }
        }
    }
    input
}

fn inputs(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let random = vec(any::<u8>(), 0..BYTES_MAX);
    let changes = vec(change(seeds.clone()), 1..6);
    prop_oneof![
        1 => random,
        3 => (select(seeds), changes).prop_map(|(seed, changes)| changed(seed, changes)),
    ]
}

/// Looks for an input that the body does not stand, for so long; gives the smallest it finds.
fn search(seeds: Vec<Vec<u8>>, patience: Duration, body: impl Fn(&[u8])) -> Option<Vec<u8>> {
    let end = Instant::now() + patience;
    let strategy = inputs(seeds);
    let config =
        Config { cases: BATCH, failure_persistence: None, max_shrink_iters: 4_000, ..Config::default() };
    for batch in 0u64.. {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&batch.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let found = TestRunner::new_with_rng(config.clone(), rng).run(&strategy, |input| {
            body(&input);
            Ok(())
        });
        match found {
            Ok(()) if Instant::now() >= end => return None,
            Ok(()) => {}
            Err(TestError::Fail(_, input)) => return Some(input),
            Err(TestError::Abort(why)) => panic!("the search gave up: {why}"),
        }
    }
    None
}

fn stands_any_input(target: &str) {
    let seeds = seeds(target);
    assert!(seeds.len() >= 10, "{target} has only {} seeds", seeds.len());
    for seed in &seeds {
        targets::run(target, seed);
    }
    if let Some(input) = search(seeds, patience(), |input| targets::run(target, input)) {
        let digits: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!(
            "{target} does not stand this input; once right, add it to fuzz/seeds/{target}.hex:\n{digits}"
        );
    }
}

#[test]
fn decoders_stand_any_bytes_in_any_cuts() {
    stands_any_input("decode");
}

#[test]
fn filters_mean_what_their_levels_say() {
    stands_any_input("filters");
}

#[test]
fn sessions_keep_their_promises_in_any_sequence() {
    stands_any_input("session");
}

#[test]
fn websocket_frames_are_what_they_say_in_any_cuts() {
    stands_any_input("websocket");
}

#[test]
fn proxy_headers_are_read_to_the_byte() {
    stands_any_input("proxy");
}

#[test]
fn every_target_has_its_test_and_its_program() {
    let manifest = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/Cargo.toml")).unwrap();
    let this = include_str!("mod.rs");
    for (target, _) in targets::TARGETS {
        assert!(manifest.contains(&format!("name = \"{target}\"")), "{target} is no program");
        assert!(this.contains(&format!("stands_any_input(\"{target}\")")), "{target} has no test");
    }
}

#[test]
fn a_planted_ack_before_commit_is_found() {
    let found = search(seeds("session"), Duration::from_secs(60), targets::session_with_early_acks);
    assert!(found.is_some(), "acknowledgements before their commit were not told from right ones");
}
