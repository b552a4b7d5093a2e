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

#[test]
fn a_heartbeat_learns_on_connections_of_its_own_whatever_the_nat_does() {
    for (timeout_s, nat) in [(60, "silent"), (300, "reset")] {
        let text = format!(
            "name = \"nat\"\nduration_s = {}\n[fleet]\ndevices = 3\nadaptive_keep_alive = true\n\
             record_every_ms = 400000\n[link]\nnat_timeout_s = {timeout_s}\nnat = \"{nat}\"\n\
             [expect]\nlink_drops_max = 0\nheartbeat_min_s = {}\nheartbeat_max_s = {}\n",
            8 * timeout_s + 60,
            timeout_s * 3 / 4,
            timeout_s * 95 / 100
        );
        assert_passed(&format!("NAT of {timeout_s} s"), &run_text(&text, 2));
    }
}

#[test]
fn a_flash_that_fails_takes_nothing_and_loses_nothing_that_it_took() {
    let text = format!(
        "{SMALL}[[flash_fault]]\nat_s = 60\nfor_s = 60\ndevices = \"1-2\"\n[expect]\nrefused_max = 150\n"
    );
    let outcome = run_text(&text, 4);
    assert_passed("flash", &outcome);
    assert!((2..=150).contains(&outcome.counts.refused), "{:?}", outcome.counts);
}
