//! Trackers that send places of before with the time of now.

use postrider_tracks::filter::{Filter, FilterOptions};
use postrider_tracks::smooth::believed;
use postrider_tracks::{Fix, LatLon};

use crate::roads;
use crate::sky::{Receiver, Sky};

/// A drive whose every second fix is one stale place with a fresh time; `true` marks the true ones.
fn alternating(
    route: usize,
    every_s: usize,
    stale_first: bool,
    has_doppler: bool,
    seed: u64,
) -> Vec<(Fix, bool)> {
    let line = &roads::routes()[route];
    let sky = Sky { sigma_m: 3.5, memory_s: 30.0, reflection_every_s: 0.0, has_doppler };
    let mut receiver = Receiver::new(sky, seed);
    let drive = roads::drive(line, seed);
    let last_drive = LatLon::new(60.1, 24.8);
    let seen = drive.iter().step_by(every_s).enumerate().map(|(n, (_, truth))| {
        let fix = receiver.observe(truth);
        if (n % 2 == 0) == stale_first {
            (Fix { lat: last_drive.lat, lon: last_drive.lon, ..fix }, false)
        } else {
            (fix, true)
        }
    });
    seen.collect()
}

#[test]
fn a_tracker_that_alternates_between_a_true_and_a_stale_place_loses_all_stale_and_no_true_fix() {
    for seed in 0..20 {
        for (every_s, has_doppler) in [(1, true), (1, false), (5, true), (10, false)] {
            let fixes = alternating(seed as usize % 4, every_s, false, has_doppler, seed);
            let mut filter = Filter::new(FilterOptions::default());
            for (n, (fix, is_true)) in fixes.iter().enumerate() {
                let outcome = filter.push(fix, fix.ts_ms);
                assert_eq!(outcome.is_ok(), *is_true, "seed {seed} every {every_s} fix {n}: {outcome:?}");
            }
            let all: Vec<Fix> = fixes.iter().map(|(fix, _)| fix.clone()).collect();
            let want: Vec<bool> = fixes.iter().map(|(_, is_true)| *is_true).collect();
            assert_eq!(believed(&all, &FilterOptions::default()), want, "seed {seed}");
        }
    }
}

#[test]
fn after_a_stale_first_fix_one_true_fix_waits_and_no_other_stale_one_is_believed() {
    for seed in 0..20 {
        let fixes = alternating(seed as usize % 4, 1, true, true, seed);
        let mut filter = Filter::new(FilterOptions::default());
        for (n, (fix, is_true)) in fixes.iter().enumerate() {
            let outcome = filter.push(fix, fix.ts_ms);
            // Of the second nobody can know; the stale place that comes again is the same fix again.
            let want = if n < 3 { n != 1 } else { *is_true };
            assert_eq!(outcome.is_ok(), want, "seed {seed} fix {n}: {outcome:?}");
        }
    }
}

#[test]
fn the_place_that_a_truck_has_just_left_is_stale_as_soon_as_it_drives() {
    let line = &roads::routes()[1];
    for seed in 0..20 {
        let sky = Sky { sigma_m: 3.5, memory_s: 30.0, reflection_every_s: 0.0, has_doppler: true };
        let mut receiver = Receiver::new(sky, seed);
        let mut filter = Filter::new(FilterOptions::default());
        let drive = roads::drive(line, seed);
        let start = receiver.observe(&drive[0].1);
        filter.push(&start, start.ts_ms).unwrap();
        for (n, (_, truth)) in drive.iter().enumerate().skip(1) {
            let fix = receiver.observe(truth);
            if n % 2 == 0 {
                filter.push(&fix, fix.ts_ms).unwrap_or_else(|why| panic!("seed {seed} second {n}: {why}"));
            } else {
                let stale = Fix { lat: start.lat, lon: start.lon, ..fix };
                let outcome = filter.push(&stale, fix.ts_ms);
                // A place within the noise of the truth is no error.
                let is_near = truth.place.distance_m(start.position()) < 20.0;
                assert!(outcome.is_err() || is_near, "seed {seed} second {n}: {outcome:?}");
            }
        }
    }
}
