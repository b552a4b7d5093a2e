//! Fleets on virtual time against the real engine, through the adapter that the binary uses.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../../src/sim/shard_broker.rs"]
mod shard_broker;

mod mutations;
mod runs;
mod shipped;

use std::path::{Path, PathBuf};

use firmware_sim::scenario::Scenario;
use firmware_sim::world::{self, Outcome, Run};
use shard_broker::ShardBroker;

/// Runs a scenario against an engine with this configuration.
fn run_against(run: Run<'_>, config: engine::Config) -> Outcome {
    let mut broker = ShardBroker::new(config, run.seed, run.scenario.broker.keeps_log).unwrap();
    world::run(run, &mut broker, |_| {}).unwrap()
}

/// Runs a scenario given as text.
fn run_text(text: &str, seed: u64) -> Outcome {
    let scenario = Scenario::parse("test.toml", text).unwrap();
    let routes = firmware_sim::route::builtin();
    run_against(Run::new(&scenario, &routes, seed), engine::Config::default())
}

/// The scenarios that are shipped.
fn shipped() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/scenarios");
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    files
}

/// Asserts that nothing is wrong, and tells what is.
fn assert_passed(name: &str, outcome: &Outcome) {
    let told: Vec<String> =
        outcome.findings.iter().map(|finding| format!("{}: {finding}", finding.wrong.rule())).collect();
    assert!(outcome.has_passed(), "{name}, seed {}: {told:#?}", outcome.seed);
}
