//! Departures that happened and departures that did not, over thousands of kilometres.

use std::sync::Arc;

use postrider_tracks::corridor::{Corridor, CorridorEvent, Watcher, WatcherOptions};
use postrider_tracks::filter::{Filter, FilterOptions};
use postrider_tracks::route::Polyline;

use crate::roads;
use crate::sky::{Receiver, Sky, Truth};

const HALF_WIDTH_M: f64 = 40.0;

fn watcher(line: &Polyline) -> Watcher {
    let corridor = Corridor::new(line.clone(), HALF_WIDTH_M).unwrap();
    let options = WatcherOptions { stand_max_ms: None, ..WatcherOptions::default() };
    Watcher::new(Arc::new(corridor), options)
}

fn sky(sigma_m: f64, seed: u64) -> Sky {
    let has_doppler = seed.is_multiple_of(2);
    Sky { sigma_m, memory_s: 30.0, reflection_every_s: 0.0, has_doppler }
}

/// Events of a drive: departures, and anything else that did not happen either.
fn events(line: &Polyline, drive: &[(f64, Truth)], every_s: usize, sky: Sky, seed: u64) -> (usize, usize) {
    let (mut receiver, mut filter, mut watcher) =
        (Receiver::new(sky, seed), Filter::new(FilterOptions::default()), watcher(line));
    let (mut departures, mut others) = (0, 0);
    for (_, truth) in drive.iter().step_by(every_s) {
        let fix = receiver.observe(truth);
        let Ok(estimate) = filter.push(&fix, fix.ts_ms) else { continue };
        for event in watcher.push(&estimate.fix(&fix)) {
            match event {
                CorridorEvent::Deviated { .. } => departures += 1,
                CorridorEvent::Returned { .. } => {}
                _ => others += 1,
            }
        }
    }
    (departures, others)
}

/// False alarms per 100 km over so many drives of four routes.
fn false_alarms(sigma_m: f64, drives: u64) -> (f64, f64, f64) {
    let town = roads::routes();
    let (mut km, mut departures, mut others) = (0.0, 0, 0);
    for seed in 0..drives {
        let line = &town[seed as usize % town.len()];
        let drive = roads::drive(line, seed / 40);
        let every_s = [1, 5, 10][seed as usize / 4 % 3];
        let (false_departures, false_others) = events(line, &drive, every_s, sky(sigma_m, seed / 12), seed);
        km += line.length_m() / 1_000.0;
        (departures, others) = (departures + false_departures, others + false_others);
    }
    (km, departures as f64 / km * 100.0, others as f64 / km * 100.0)
}

#[test]
fn a_truck_on_its_route_is_not_told_to_have_left_it() {
    // At 20 m two places of a plan that lie together are told apart less surely.
    for (sigma_m, drives, limit, others_limit) in
        [(5.0, 100, 0.01, 0.01), (10.0, 250, 0.01, 0.01), (20.0, 400, 0.1, 0.5)]
    {
        let (km, departures, others) = false_alarms(sigma_m, drives);
        println!(
            "sigma {sigma_m} m, {km:.0} km: {departures:.4} departures and {others:.4} other events per 100 km"
        );
        assert!(departures <= limit, "sigma {sigma_m} m, {km:.0} km: {departures} per 100 km");
        assert!(others <= others_limit, "sigma {sigma_m} m, {km:.0} km: {others} others per 100 km");
    }
}

#[test]
fn every_departure_of_two_widths_is_found_within_three_fixes_and_ten_seconds() {
    let town = roads::routes();
    let (mut found, mut slowest) = (0, 0);
    for seed in 0..400 {
        let line = &town[seed as usize % 4];
        let every_s = [1, 5, 10, 30][seed as usize / 4 % 4];
        let sigma_m = [5.0, 10.0, 20.0][seed as usize / 16 % 3];
        let (mut receiver, mut filter) =
            (Receiver::new(sky(sigma_m, seed), seed), Filter::new(FilterOptions::default()));
        let mut watcher = watcher(line);
        let drive = roads::drive(line, seed);
        let leave = 60 + (seed as usize * 7) % (drive.len() / 2);
        let from = drive[leave].1;
        let turn_deg = if seed.is_multiple_of(2) { 90.0 } else { -90.0 };
        let course_deg = from.course_deg + turn_deg;
        let (mut beyond_since_s, mut is_found) = (None, false);
        for s in (0..leave + 600).step_by(every_s) {
            let truth = if s <= leave {
                drive[s].1
            } else {
                let far_m = 10.0 * (s - leave) as f64;
                let place = from.place.destination(course_deg, far_m);
                Truth { at_ms: s as i64 * 1_000, place, speed_mps: 10.0, course_deg }
            };
            // A straight way out may cross another part of the route; only what stays outside counts.
            let off_m = line.nearest(truth.place).distance_m;
            beyond_since_s =
                if off_m >= 2.0 * 2.0 * HALF_WIDTH_M { beyond_since_s.or(Some(s)) } else { None };
            let fix = receiver.observe(&truth);
            let outcome = filter.push(&fix, fix.ts_ms);
            let events = outcome.map(|estimate| watcher.push(&estimate.fix(&fix))).unwrap_or_default();
            if events.iter().any(|event| matches!(event, CorridorEvent::Deviated { .. })) {
                assert!(off_m > HALF_WIDTH_M, "seed {seed}: an alarm at {off_m:.0} m");
                is_found = true;
                slowest = slowest.max(beyond_since_s.map_or(0, |since_s| s - since_s));
                break;
            }
            if let Some(since_s) = beyond_since_s {
                let limit_s = 2 * every_s + 10;
                assert!(
                    s - since_s <= limit_s,
                    "seed {seed} every {every_s} s sigma {sigma_m}: {off_m:.0} m and no alarm"
                );
            }
        }
        assert!(is_found, "seed {seed}");
        found += 1;
    }
    println!("{found} departures found, at most {slowest} s after two widths");
}
