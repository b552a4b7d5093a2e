//! The odometer and the filter along drives of which every metre is known.

use postrider_tracks::filter::{Filter, FilterOptions, Replay};
use postrider_tracks::{Fix, LatLon};

use crate::roads;
use crate::sky::{Receiver, Sky, Truth};

fn odometer_m(fixes: &[Fix]) -> f64 {
    let mut filter = Filter::new(FilterOptions::default());
    let estimates = fixes.iter().filter_map(|fix| filter.push(fix, fix.ts_ms).ok());
    estimates.last().unwrap().odometer_m
}

/// How wrong the odometer was over all drives, and on the worst of them, as shares of what was driven.
fn odometer_error(drives: &[Vec<(f64, Truth)>], every_s: usize, has_doppler: bool) -> (f64, f64) {
    let (mut wrong_m, mut driven_m, mut worst) = (0.0, 0.0, 0.0f64);
    for (seed, drive) in drives.iter().enumerate() {
        let sky = Sky { sigma_m: 5.0, memory_s: 30.0, reflection_every_s: 0.0, has_doppler };
        let mut receiver = Receiver::new(sky, seed as u64);
        let seen = drive.iter().step_by(every_s);
        let upto_m = seen.clone().next_back().unwrap().0;
        let fixes: Vec<Fix> = seen.map(|(_, truth)| receiver.observe(truth)).collect();
        let error_m = odometer_m(&fixes) - upto_m;
        (wrong_m, driven_m) = (wrong_m + error_m, driven_m + upto_m);
        worst = worst.max(error_m.abs() / upto_m);
    }
    (wrong_m / driven_m, worst)
}

#[test]
fn the_odometer_of_a_drive_on_country_roads_is_right_within_1_percent_at_1_to_30_s() {
    let drives: Vec<_> = (0..10).map(|seed| roads::drive(&roads::country_road(seed), seed)).collect();
    for every_s in [1, 2, 5, 10, 15, 30] {
        let (all, worst) = odometer_error(&drives, every_s, true);
        // 30 s are two thirds of a kilometre with several bends.
        let worst_max = if every_s < 30 { 0.01 } else { 0.015 };
        assert!(all.abs() <= 0.01 && worst <= worst_max, "every {every_s} s: {all:.4}, worst {worst:.4}");
    }
    // Without speed and course of the receiver the bends between fixes far apart are not known.
    for every_s in [1, 2, 5, 10] {
        let (_, worst) = odometer_error(&drives, every_s, false);
        assert!(worst <= 0.01, "every {every_s} s without Doppler: {worst:.4}");
    }
}

#[test]
fn the_odometer_of_drives_in_a_town_with_lights_is_right_within_1_percent_at_1_to_10_s() {
    let town = roads::routes();
    let drives: Vec<_> = (0..48).map(|seed| roads::drive(&town[seed as usize % 4], seed)).collect();
    for every_s in [1, 2, 5, 10] {
        let (all, worst) = odometer_error(&drives, every_s, true);
        assert!(all.abs() <= 0.01 && worst <= 0.05, "every {every_s} s: {all:.4}, worst {worst:.4}");
    }
    // Where several corners lie between two fixes only the map knows.
    for every_s in [15, 30] {
        let (all, worst) = odometer_error(&drives, every_s, true);
        assert!(all.abs() <= 0.08 && worst <= 0.20, "every {every_s} s: {all:.4}, worst {worst:.4}");
    }
}

#[test]
fn noise_on_the_road_is_hardly_ever_refused() {
    let (mut refused, mut fixes) = (0, 0);
    for (r, line) in roads::routes().iter().enumerate() {
        for (seed, every_s) in [(1, 1), (2, 5), (3, 10), (4, 30)] {
            let sky =
                Sky { sigma_m: 5.0, memory_s: 0.0, reflection_every_s: 0.0, has_doppler: seed % 2 == 0 };
            let mut receiver = Receiver::new(sky, seed + 10 * r as u64);
            let mut filter = Filter::new(FilterOptions::default());
            for (_, truth) in roads::drive(line, seed).iter().step_by(every_s) {
                let fix = receiver.observe(truth);
                fixes += 1;
                refused += usize::from(filter.push(&fix, fix.ts_ms).is_err());
            }
        }
    }
    assert!(refused * 500 < fixes, "{refused} of {fixes}");
}

#[test]
fn late_fixes_give_the_same_as_fixes_in_order() {
    let line = &roads::routes()[0];
    for seed in 0..20 {
        let sky = Sky { sigma_m: 5.0, memory_s: 30.0, reflection_every_s: 120.0, has_doppler: true };
        let mut receiver = Receiver::new(sky, seed);
        let fixes: Vec<Fix> =
            roads::drive(line, seed).iter().take(300).map(|(_, truth)| receiver.observe(truth)).collect();
        let mut filter = Filter::new(FilterOptions::default());
        fixes.iter().for_each(|fix| drop(filter.push(fix, fix.ts_ms)));
        // Each fix is up to 20 places late, and one in five comes twice.
        let mut arrivals: Vec<(i64, &Fix)> =
            fixes.iter().map(|fix| (fix.ts_ms + receiver.chance.i64(0..20_000), fix)).collect();
        let again: Vec<(i64, &Fix)> =
            arrivals.iter().step_by(5).map(|(at_ms, fix)| (at_ms + 3_000, *fix)).collect();
        arrivals.extend(again);
        arrivals.sort_by_key(|(at_ms, _)| *at_ms);
        let mut replay = Replay::new(FilterOptions::default(), 64);
        for (at_ms, fix) in arrivals {
            let _ = replay.push(fix, at_ms);
        }
        assert_eq!(replay.last(), filter.last(), "seed {seed}");
    }
    let mut replay = Replay::new(FilterOptions::default(), 3);
    for s in [10, 11, 12, 13, 14] {
        replay.push(&Fix::at(s * 1_000, LatLon::new(60.0, 24.0)), 20_000).unwrap();
    }
    let too_late = replay.push(&Fix::at(9_000, LatLon::new(60.0, 24.0)), 20_000).unwrap_err();
    assert!(too_late.to_string().contains("not after"), "{too_late}");
}
