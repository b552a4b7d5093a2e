//! The mutation check: bugs planted in the firmware and in the broker, and the shipped scenarios with their own seeds.

use std::time::Instant;

use firmware_sim::planted::Planted;
use firmware_sim::scenario::Scenario;

use super::*;

/// Scenarios that find bugs, the cheapest first.
const HUNTERS: [&str; 10] = [
    "ota-bad-image.toml",
    "carrier-nat.toml",
    "wrong-clock.toml",
    "week-rollover.toml",
    "small-flash.toml",
    "tanker-unlock.toml",
    "power-cuts.toml",
    "fence-edge.toml",
    "jammed-yard.toml",
    "regional-outage.toml",
];

/// Bugs of the broker that a fleet can meet.
const BROKER_BUGS: [engine::Planted; 7] = [
    engine::Planted::AckBeforeCommit,
    engine::Planted::NotResent,
    engine::Planted::DedupForgottenAtRestart,
    engine::Planted::SubscriptionLostAtRestart,
    engine::Planted::DeliveryBeforeCommit,
    engine::Planted::ReceiptsLostAtRestart,
    engine::Planted::LastReceiptNotTold,
];

/// Bugs that may go unseen.
const UNSEEN_MAX: usize = 1;

/// The first scenario that finds the bug, and the rules that it broke.
fn found_by(planted: Option<Planted>, config: &engine::Config) -> Option<(String, String)> {
    HUNTERS.iter().find_map(|name| {
        let file = shipped().into_iter().find(|file| file.ends_with(name)).expect("a hunter is shipped");
        let (scenario, routes) = Scenario::load(&file).unwrap();
        let run = Run { planted, ..Run::new(&scenario, &routes, scenario.seed) };
        let mut broker = ShardBroker::new(config.clone(), run.seed, scenario.broker.keeps_log).unwrap();
        let rules = match world::run(run, &mut broker, |_| {}) {
            Ok(outcome) => outcome.broken.keys().map(|wrong| wrong.rule()).collect::<Vec<_>>().join("; "),
            Err(error) => error.to_string(),
        };
        (!rules.is_empty()).then(|| ((*name).to_owned(), rules))
    })
}

#[test]
fn planted_bugs_are_found_with_the_seeds_of_the_shipped_scenarios() {
    let mut bugs: Vec<(String, Option<Planted>, engine::Config)> = Vec::new();
    for bug in Planted::ALL {
        bugs.push((format!("{bug:?}"), Some(*bug), engine::Config::default()));
    }
    for bug in BROKER_BUGS {
        let config = engine::Config { planted: Some(bug), ..engine::Config::default() };
        bugs.push((format!("broker: {bug:?}"), None, config));
    }
    assert!(bugs.len() >= 20, "{} bugs", bugs.len());
    let mut unseen = Vec::new();
    for (name, planted, config) in &bugs {
        let begun = Instant::now();
        match found_by(*planted, config) {
            Some((file, rules)) => {
                println!("| {name} | {file} | {rules} | {:.1} s |", begun.elapsed().as_secs_f64());
            }
            None => {
                println!("| {name} | none | | {:.1} s |", begun.elapsed().as_secs_f64());
                unseen.push(name.clone());
            }
        }
    }
    assert!(unseen.len() <= UNSEEN_MAX, "bugs that no scenario finds: {unseen:?}");
}
