//! The scenarios of configs/scenarios: each is one, and each passes with its own seed.

use super::*;

#[test]
fn every_shipped_scenario_is_one() {
    let files = shipped();
    assert!(!files.is_empty());
    for file in files {
        let (scenario, routes) = Scenario::load(&file).unwrap_or_else(|error| panic!("{error}"));
        assert!(!scenario.about.is_empty() && !routes.is_empty(), "{}", file.display());
    }
}

#[test]
fn every_shipped_scenario_passes_with_its_own_seed() {
    for file in shipped() {
        let (scenario, routes) = Scenario::load(&file).unwrap();
        let begun = std::time::Instant::now();
        let outcome = run_against(Run::new(&scenario, &routes, scenario.seed), engine::Config::default());
        println!(
            "{}: {:016x}, {} devices, {} records, {:.1} s",
            scenario.name,
            outcome.hash,
            outcome.devices,
            outcome.counts.made,
            begun.elapsed().as_secs_f64()
        );
        assert_passed(&scenario.name, &outcome);
    }
}
