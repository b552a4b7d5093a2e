//! The figures that the adaptive heartbeat is held to, on a virtual clock.

use std::fmt::Write;

use crate::nat::{Mode, Network, World};

const TIMEOUTS_S: [u64; 15] = [20, 30, 60, 120, 180, 240, 285, 300, 350, 420, 540, 600, 900, 1_740, 7_200];
const MODES: [Mode; 2] = [Mode::Reset, Mode::Silence];
const DAY_MS: u64 = 24 * 3_600 * 1_000;

fn network(timeout_s: u64, mode: Mode) -> Network {
    Network { name: "lte", timeout_ms: timeout_s * 1_000, mode }
}

fn day_of(times: &[u64], from_ms: u64) -> usize {
    times.iter().filter(|at| (from_ms..from_ms + DAY_MS).contains(*at)).count()
}

#[test]
fn every_timeout_is_learned_in_time_without_a_drop_and_with_few_pings() {
    let mut table = String::from(
        "\nT s   mode     interval s  of T  settled s  of T  drops  probes  at once  pings/day  of ideal\n",
    );
    for timeout_s in TIMEOUTS_S {
        for mode in MODES {
            let mut worst: Option<(f64, String)> = None;
            for seed in 0..10 {
                let mut world = World::new(network(timeout_s, mode), Vec::new(), seed);
                world.run_until_settled((8 * timeout_s + 60) * 1_000);
                let (settled_ms, drops) = (world.now_ms, world.drops.len());
                let (interval_s, probes) = (world.interval_s(), world.probes_started.len());
                world.run_until(settled_ms + 3 * DAY_MS);
                let t = timeout_s as f64;
                let share = interval_s / t;
                assert!((0.75..=0.95).contains(&share), "{timeout_s} {mode:?}: {interval_s}");
                assert_eq!(world.interval_s(), interval_s, "it stays");
                assert!(drops <= 1 && world.drops.len() == drops, "{timeout_s}: {:?}", world.drops);
                let pings = day_of(&world.pings, settled_ms + DAY_MS);
                let of_ideal = pings as f64 / (86_400.0 / (0.9 * t));
                assert!(of_ideal <= 1.35, "{timeout_s}: {pings} pings a day");
                assert!(world.probes_at_once <= 4 && probes <= 30, "{probes} probes");
                assert_eq!(world.declared_s, Some(interval_s.ceil() as u32));
                let took_s = settled_ms as f64 / 1_000.0;
                let row = format!(
                    "{timeout_s:<5} {:<8} {interval_s:>10.1} {share:>5.2} {took_s:>10.0} {:>5.1} {drops:>6} {probes:>7} {:>8} {pings:>10} {of_ideal:>9.2}",
                    format!("{mode:?}"),
                    took_s / t,
                    world.probes_at_once,
                );
                if worst.as_ref().is_none_or(|(slowest, _)| took_s > *slowest) {
                    worst = Some((took_s, row));
                }
            }
            let _ = writeln!(table, "{}", worst.expect("ten seeds ran").1);
        }
    }
    println!("{table}");
}

#[test]
fn a_timeout_that_falls_is_learned_again_within_ten_minutes_of_the_first_drop() {
    for mode in MODES {
        for (seed, phase_s) in (0..20).zip((0..).step_by(61)) {
            let mut world = World::new(network(900, mode), Vec::new(), seed);
            world.run_until_settled(8 * 900_000);
            world.run_until(world.now_ms + DAY_MS + phase_s * 1_000);
            let (changed_ms, before_s) = (world.now_ms, world.interval_s());
            assert!(world.drops.is_empty());
            world.network.timeout_ms = 120_000;
            // Nobody can know before the next packet.
            world.run_until(changed_ms + 900_000);
            let first_drop_ms = *world.drops.first().expect("the silence of before is not survived");
            assert!(first_drop_ms <= changed_ms + (before_s as u64 + 10) * 1_000);
            world.run_until_settled(DAY_MS);
            let settled_ago_s = world.heartbeat.known(world.now_ms)[0].settled_ago_s.unwrap();
            let took_s = ((world.now_ms - first_drop_ms) / 1_000).saturating_sub(settled_ago_s);
            assert!(took_s <= 600, "{mode:?} {seed}: {took_s} s");
            let share = world.interval_s() / 120.0;
            assert!((0.75..=0.95).contains(&share), "{share}");
            world.run_until(world.now_ms + 7 * DAY_MS);
            assert!(world.drops.len() <= 3, "{mode:?} {seed}: {:?}", world.drops);
        }
    }
}

#[test]
fn two_networks_in_turn_do_not_drop_once_both_are_known() {
    for mode in MODES {
        let lte = Network { name: "lte", timeout_ms: 285_000, mode };
        let yard = Network { name: "yard", timeout_ms: 60_000, mode };
        let mut world = World::new(lte.clone(), Vec::new(), 1);
        world.run_until_settled(8 * 285_000 + 60_000);
        world.roam(yard.clone());
        world.run_until(world.now_ms + 5_000);
        assert_eq!(world.interval_s(), 15.0, "the other network's bound means nothing here");
        world.run_until_settled(8 * 60_000 + 60_000);
        let (drops, probes) = (world.drops.len(), world.probes_started.len());
        assert_eq!(drops, 0);
        for turn in 0..40 {
            let network = if turn % 2 == 0 { &lte } else { &yard };
            world.roam(network.clone());
            world.run_until(world.now_ms + 3 * 3_600_000);
            let share = world.interval_s() * 1_000.0 / network.timeout_ms as f64;
            assert!((0.75..=0.95).contains(&share), "turn {turn}: {share}");
        }
        assert_eq!((world.drops.len(), world.probes_started.len()), (0, probes));
    }
}

#[test]
fn learning_goes_on_where_a_change_of_network_cut_it_off() {
    let lte = Network { name: "lte", timeout_ms: 285_000, mode: Mode::Silence };
    let yard = Network { name: "yard", timeout_ms: 60_000, mode: Mode::Silence };
    let mut world = World::new(lte.clone(), Vec::new(), 1);
    world.run_until(600_000);
    let interval_s = world.interval_s();
    assert!(interval_s > 100.0, "{interval_s}");
    world.roam(yard);
    world.run_until(660_000);
    world.roam(lte);
    world.run_until(661_500);
    assert_eq!(world.interval_s(), interval_s);
    world.run_until_settled(8 * 285_000);
}

#[test]
fn a_tunnel_costs_a_few_probes_and_not_what_is_known() {
    for mode in MODES {
        let mut world = World::new(network(285, mode), Vec::new(), 4);
        world.run_until_settled(8 * 285_000);
        let (interval_s, probes) = (world.interval_s(), world.probes_started.len());
        world.run_until(world.now_ms + DAY_MS);
        // Silence for ten minutes, as in a tunnel: one ping is not answered.
        world.outage_until_ms = world.now_ms + 600_000;
        world.run_until(world.outage_until_ms + 400_000);
        assert_eq!((world.drops.len(), world.interval_s()), (1, interval_s));
        assert!(world.heartbeat.status().is_settled);
        let more = world.probes_started.len() - probes;
        assert!((1..=5).contains(&more), "{more} probes");
    }
}

#[test]
fn a_bound_is_looked_at_again_every_week_and_may_have_grown() {
    let mut world = World::new(network(120, Mode::Reset), Vec::new(), 5);
    world.run_until_settled(8 * 120_000);
    let (interval_s, probes) = (world.interval_s(), world.probes_started.len());
    world.run_until(world.now_ms + 7 * DAY_MS + 600_000);
    assert_eq!(
        (world.probes_started.len() - probes, world.interval_s()),
        (2, interval_s),
        "two probes a week"
    );
    world.network.timeout_ms = 600_000;
    world.run_until(world.now_ms + 7 * DAY_MS + 8 * 600_000);
    let share = world.interval_s() / 600.0;
    assert!((0.75..=0.95).contains(&share) && world.drops.is_empty(), "{share}");
}

#[test]
fn what_was_learned_serves_the_next_run_of_the_program() {
    let mut world = World::new(network(300, Mode::Silence), Vec::new(), 6);
    world.run_until_settled(8 * 300_000);
    let (interval_s, known) = (world.interval_s(), world.heartbeat.known(world.now_ms + DAY_MS));
    let mut next = World::new(network(300, Mode::Silence), known.clone(), 7);
    next.run_until(2 * DAY_MS);
    assert_eq!((next.interval_s(), next.drops.len(), next.probes_started.len()), (interval_s, 0, 0));
    // The week goes on over the restart: a day had passed before, five and a half more have now.
    next.run_until(6 * DAY_MS + DAY_MS / 2);
    assert_eq!(next.probes_started.len(), 2);
    assert!(next.heartbeat.known(next.now_ms)[0].settled_ago_s < Some(3 * 24 * 3_600));
}

#[test]
fn a_hint_shortens_the_search_and_a_wrong_one_does_no_harm() {
    let probes = |hint_s: Option<u32>, timeout_s: u64| {
        let mut world = World::new(network(timeout_s, Mode::Silence), Vec::new(), 8);
        world.hint_s = hint_s;
        // The first silence tried is an eighth of the hint.
        let first_s = u64::from(hint_s.unwrap_or(0).min(7_200)) / 8;
        world.run_until_settled((8 * timeout_s + 60 + first_s) * 1_000);
        world.run_until(world.now_ms + DAY_MS);
        let share = world.interval_s() / timeout_s as f64;
        assert!((0.75..=0.95).contains(&share) && world.drops.is_empty(), "{hint_s:?} {timeout_s}: {share}");
        world.probes_started.len()
    };
    assert!(probes(Some(810), 900) + 4 <= probes(None, 900));
    for wrong_s in [1, 16, 3_600, 1_000_000] {
        probes(Some(wrong_s), 120);
    }
}

#[test]
fn probes_lost_by_chance_delay_the_search_and_do_not_spoil_it() {
    let mut near = 0;
    for seed in 0..30 {
        let mut world = World::new(network(285, Mode::Silence), Vec::new(), seed);
        world.unlucky_one_in = 30;
        world.run_until_settled(30 * 285_000);
        let share = world.interval_s() / 285.0;
        assert!(share <= 0.95, "{seed}: {share}");
        near += usize::from(share >= 0.75);
        // Two lost probes beside each other look like a bound, until the week is over.
        world.unlucky_one_in = 0;
        world.run_until(world.now_ms + 8 * DAY_MS);
        let share = world.interval_s() / 285.0;
        assert!((0.75..=0.95).contains(&share) && world.drops.is_empty(), "{seed}: {share}");
    }
    assert!(near >= 25, "{near} of 30 at once");
}

#[test]
fn a_broker_without_probes_is_learned_by_steps_of_the_main_connection() {
    for timeout_s in TIMEOUTS_S {
        for mode in MODES {
            let mut world = World::new(network(timeout_s, mode), Vec::new(), 9);
            world.has_probes = false;
            world.run_until_settled((12 * timeout_s + 60) * 1_000);
            assert!(world.probes_started.len() == 2, "two checks: {:?}", world.probes_started);
            let share = world.interval_s() / timeout_s as f64;
            assert!((0.75..=0.95).contains(&share), "{timeout_s}: {share}");
            let drops = world.drops.len();
            assert!(drops <= 1, "{timeout_s}: {drops}");
            world.run_until(world.now_ms + 6 * DAY_MS);
            assert_eq!(world.drops.len(), drops, "{timeout_s} {mode:?}");
            // A smaller timeout is believed after the second failure.
            world.network.timeout_ms /= 4;
            if timeout_s >= 240 {
                world.run_until(world.now_ms + DAY_MS / 2);
                let share = world.interval_s() * 4.0 / timeout_s as f64;
                assert!((0.75..=0.95).contains(&share), "{timeout_s}: {share}");
                // Two failures of the old bound, and the one that ends the new search.
                assert!(world.drops.len() <= drops + 3, "{timeout_s}: {:?}", world.drops);
            }
        }
    }
}
