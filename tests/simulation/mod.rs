//! The engine and the log in a world without real time, sockets or disks: seeded, with crashes.
//!
//! `world` joins one shard, one log on a simulated disk and a few clients; `client` plays the clients by the
//! standard; `checks` says what must hold. A failing seed is a test: add it to `SEEDS_THAT_FAILED_ONCE`.

mod checks;
mod client;
mod world;

use world::{Plan, World};

/// Seeds that found a bug once.
const SEEDS_THAT_FAILED_ONCE: &[u64] = &[1317];

/// Seeds tried at each run; `POSTRIDER_SIMULATION_SEEDS` asks for more.
const SEEDS: u64 = 400;

fn seeds() -> u64 {
    std::env::var("POSTRIDER_SIMULATION_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(SEEDS)
}

fn run(seed: u64, plan: Plan) -> Result<world::Counts, String> {
    let mut world = World::new(seed, plan);
    world.run().map_err(|what| format!("seed {seed}: {what}"))
}

#[test]
fn nothing_acknowledged_is_lost_whenever_the_node_dies() {
    let mut total = world::Counts::default();
    for seed in SEEDS_THAT_FAILED_ONCE.iter().copied().chain(0..seeds()) {
        match run(seed, Plan::default()) {
            Ok(counts) => total.add(&counts),
            Err(what) => panic!("{what}"),
        }
    }
    // The run must have met what it is about.
    assert!(total.crashes > seeds() && total.checkpoints > seeds(), "{total:?}");
    assert!(total.acknowledged > 50 * seeds() && total.receipts > seeds(), "{total:?}");
    assert!(total.shared > 50 * seeds() && total.ended > 2 * seeds(), "{total:?}");
    println!("{total:?}");
}

#[test]
fn a_planted_ack_before_commit_is_found() {
    let found = (0..50)
        .filter(|seed| run(*seed, Plan { ack_before_commit: true, ..Plan::default() }).is_err())
        .count();
    assert!(found > 0, "50 seeds with an acknowledgement before its commit were not told from right ones");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..5 {
        assert_eq!(run(seed, Plan::default()), run(seed, Plan::default()), "seed {seed}");
    }
}
