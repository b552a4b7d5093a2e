//! What every run keeps: all records arrive, the same seed gives the same ledger, policy is told.

use super::*;

const SMALL: &str = "name = \"small\"\nduration_s = 240\n[fleet]\ndevices = 4\n";

#[test]
fn every_record_of_a_quiet_day_arrives_within_a_second() {
    let outcome = run_text(&format!("{SMALL}[expect]\nlatency_p99_max_s = 2.0\n"), 3);
    assert_passed("quiet", &outcome);
    let counts = outcome.counts;
    assert!(counts.made > 800 && counts.delivered == counts.made, "{counts:?}");
}

#[test]
fn the_same_seed_gives_the_same_ledger_and_another_one_another() {
    let trouble = "[link]\ncuts_per_hour = 60.0\nnat_timeout_s = 100\n[[broker_power_cut]]\nat_s = 60\n[[power_cut]]\nat_s = 90\n";
    let run = |seed| run_text(&format!("{SMALL}{trouble}"), seed);
    let (first, again, other) = (run(5), run(5), run(6));
    assert_passed("trouble", &first);
    assert_eq!((first.hash, first.counts, &first.stats), (again.hash, again.counts, &again.stats));
    assert_eq!(first.latency, again.latency);
    assert_ne!(first.hash, other.hash);
    assert!(first.stats.link_drops > 0 && first.stats.power_cuts == 4 && first.stats.broker_power_cuts == 1);
}

#[test]
fn policy_is_no_loss_and_must_be_expected() {
    let short = "name = \"short\"\nduration_s = 240\n[fleet]\ndevices = 2\nrecord_class = \"debug\"\n\
                 queue_records_max = 40\nqueue_bytes_max = 262144\n\
                 [[outage]]\nat_s = 60\nfor_s = 100\n";
    let outcome = run_text(short, 1);
    assert!(outcome.counts.dropped > 50, "{:?}", outcome.counts);
    assert!(!outcome.has_passed() && outcome.broken.len() == 1, "only the bound is not kept");
    let outcome = run_text(&format!("{short}[expect]\ndropped_max = 1000\n"), 1);
    assert_passed("expected", &outcome);
}
