//! The broker in a world without real time, sockets or disks: seeded, with crashes (docs/simulation.md).
//!
//! `world` joins the engine, the log on a simulated disk, the SDK's state machine and scripted clients; `ops` says what
//! may happen, one file each; `checkers` says what must hold, one file each, by what clients saw (`history`).
//! `SEED=n cargo test --test system simulation` runs one seed and prints all of it. A failing seed is a test: add it
//! to `SEEDS_THAT_FAILED_ONCE`.

mod checkers;
mod history;
mod ops;
mod plan;
mod planted;
mod world;

use checkers::{Evidence, Finding};
use history::{Event, History};
use plan::Plan;
use world::World;

/// Seeds that found a bug once.
const SEEDS_THAT_FAILED_ONCE: &[u64] = &[1317];

/// Seeds tried at each run; `POSTRIDER_SIMULATION_SEEDS` asks for more.
const SEEDS: u64 = 300;

/// Tests that share the seeds.
const PARTS: u64 = 4;

/// Names what is found before a checker looks: a client saw what the standard does not allow, the log could not be
/// opened or taken back, or the world did not come to rest.
const CONDUCT: &str = "conduct";

fn seeds() -> u64 {
    std::env::var("POSTRIDER_SIMULATION_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(SEEDS)
}

/// What became of one seed.
struct Run {
    findings: Vec<Finding>,
    history: History,
    met: world::Met,
}

fn run(seed: u64, plan: Plan) -> Run {
    let mut world = World::new(seed, plan);
    let early = world.run().err();
    let evidence = Evidence::new(&world);
    let findings = early.into_iter().chain(checkers::judge(&evidence)).collect();
    Run { findings, met: world.met, history: world.history }
}

fn one_seed() -> Option<u64> {
    std::env::var("SEED").ok().and_then(|seed| seed.parse().ok())
}

/// Seeds after whose failure no more are tried.
const BROKEN_MAX: usize = 12;

fn fail_if_broken(broken: &[(u64, Vec<Finding>)]) {
    if broken.is_empty() {
        return;
    }
    let mut text = String::new();
    for (seed, findings) in broken {
        text += &format!("seed {seed} broke a promise:\n");
        findings.iter().for_each(|f| text += &format!("  {}: {}\n", f.checker, f.what));
        text += &format!("  replay it: SEED={seed} cargo test --test system simulation -- --nocapture\n");
    }
    panic!("{text}");
}

/// Every promise holds, in each fourth seed from this one on: each part can have a processor of its own.
fn every_promise_holds(part: u64) {
    if let Some(seed) = one_seed() {
        if seed % PARTS != part {
            return;
        }
        let run = run(seed, Plan { is_traced: true, ..Plan::of(seed) });
        return fail_if_broken(&if run.findings.is_empty() { vec![] } else { vec![(seed, run.findings)] });
    }
    let mut met = world::Met::default();
    let (mut acked, mut taken) = (0, 0);
    let mut broken = Vec::new();
    for seed in SEEDS_THAT_FAILED_ONCE.iter().copied().chain(0..seeds()).filter(|seed| seed % PARTS == part) {
        let run = run(seed, Plan::of(seed));
        if !run.findings.is_empty() {
            broken.push((seed, run.findings));
            if broken.len() == BROKEN_MAX {
                break;
            }
        }
        met.crashes += run.met.crashes;
        met.rewrites += run.met.rewrites;
        met.connections += run.met.connections;
        met.flips += run.met.flips;
        acked += run.history.events.iter().filter(|e| matches!(e, Event::Acked { .. })).count() as u64;
        taken += run.history.taken().count() as u64;
    }
    fail_if_broken(&broken);
    println!("{met:?} acked {acked} taken {taken}");
    // The runs must have met what they are about.
    let seeds = seeds() / PARTS;
    assert!(met.crashes > seeds && met.rewrites > seeds && met.flips > 0, "{met:?}");
    assert!(acked > 50 * seeds && taken > 200 * seeds, "{acked} acknowledged, {taken} taken");
}

#[test]
fn every_promise_holds_whatever_happens_in_the_first_part_of_the_seeds() {
    every_promise_holds(0);
}

#[test]
fn every_promise_holds_whatever_happens_in_the_second_part_of_the_seeds() {
    every_promise_holds(1);
}

#[test]
fn every_promise_holds_whatever_happens_in_the_third_part_of_the_seeds() {
    every_promise_holds(2);
}

#[test]
fn every_promise_holds_whatever_happens_in_the_fourth_part_of_the_seeds() {
    every_promise_holds(3);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..5 {
        let (one, two) = (run(seed, Plan::of(seed)), run(seed, Plan::of(seed)));
        assert!(one.history == two.history, "seed {seed} went two ways");
        assert_eq!(one.met, two.met);
    }
}
