//! A truck that stands for a day, and what its receiver makes of it.

use postrider_tracks::LatLon;
use postrider_tracks::fence::{self, Circle, Fence};
use postrider_tracks::filter::{Filter, FilterOptions};

use crate::sky::{Receiver, Sky, Truth};

const YARD: LatLon = LatLon::new(60.17, 24.94);
const DAY_S: i64 = 24 * 3_600;

/// What a day of standing looked like.
#[derive(Debug)]
struct Day {
    raw_m: f64,
    odometer_m: f64,
    fence_events: usize,
}

fn parked_for_a_day(sky: Sky, every_s: i64, seed: u64) -> Day {
    let mut receiver = Receiver::new(sky, seed);
    let mut filter = Filter::new(FilterOptions::default());
    // The truck stands 20 m from the fence's border.
    let centre = YARD.destination(90.0, 80.0);
    let mut watcher = fence::Watcher::new(
        Fence::from(Circle::new(centre, 100.0).unwrap()),
        fence::WatcherOptions::default(),
    );
    let mut day = Day { raw_m: 0.0, odometer_m: 0.0, fence_events: 0 };
    let mut last = None::<LatLon>;
    for at_s in (0..DAY_S).step_by(every_s as usize) {
        let truth = Truth { at_ms: at_s * 1_000, place: YARD, speed_mps: 0.0, course_deg: 0.0 };
        let fix = receiver.observe(&truth);
        day.raw_m += last.replace(fix.position()).map_or(0.0, |last| last.distance_m(fix.position()));
        let Ok(estimate) = filter.push(&fix, fix.ts_ms) else { continue };
        day.odometer_m = day.odometer_m.max(estimate.odometer_m);
        day.fence_events += usize::from(!watcher.push(&estimate.fix(&fix)).is_empty());
    }
    day
}

#[test]
fn a_truck_parked_for_a_day_drives_at_most_50_m_and_crosses_no_fence() {
    // Memory of the error, seconds between fixes, Doppler. The first one's fixes alone would make about 33 km.
    let table = [
        (530.0, 1, false),
        (530.0, 1, true),
        (30.0, 1, false),
        (30.0, 10, false),
        (0.0, 30, false),
        (120.0, 30, true),
    ];
    for (n, (memory_s, every_s, has_doppler)) in table.into_iter().enumerate() {
        for seed in 0..3 {
            let sky = Sky {
                sigma_m: 5.0,
                memory_s,
                reflection_every_s: if n < 2 { 3_600.0 } else { 600.0 },
                has_doppler,
            };
            let day = parked_for_a_day(sky, every_s, seed);
            if n == 0 {
                assert!((30_000.0..37_000.0).contains(&day.raw_m), "{day:?}");
            }
            assert!(day.odometer_m <= 50.0, "case {n} seed {seed}: {day:?}");
            assert_eq!(day.fence_events, 0, "case {n} seed {seed}: {day:?}");
        }
    }
}

#[test]
fn a_parked_truck_that_drives_off_is_seen_to_within_20_s_and_loses_no_metre() {
    for has_doppler in [false, true] {
        for seed in 0..20 {
            let sky = Sky { sigma_m: 5.0, memory_s: 30.0, reflection_every_s: 0.0, has_doppler };
            let mut receiver = Receiver::new(sky, seed);
            let mut filter = Filter::new(FilterOptions::default());
            let mut seen_s = None;
            let mut last = None;
            for at_s in 0..900 {
                let (speed_mps, drives_s) = if at_s < 600 { (0.0, 0) } else { (10.0, at_s - 600) };
                let place = YARD.destination(90.0, 10.0 * drives_s as f64);
                let fix =
                    receiver.observe(&Truth { at_ms: at_s * 1_000, place, speed_mps, course_deg: 90.0 });
                let estimate = filter.push(&fix, fix.ts_ms).unwrap();
                assert!(
                    !(100..600).contains(&at_s) || estimate.parked_since_ms.is_some(),
                    "seed {seed} {at_s}"
                );
                if at_s >= 600 && estimate.parked_since_ms.is_none() {
                    seen_s.get_or_insert(drives_s);
                }
                last = Some(estimate);
            }
            let limit_s = if has_doppler { 8 } else { 20 };
            assert!(seen_s.unwrap() <= limit_s, "doppler {has_doppler} seed {seed}: {seen_s:?} s");
            let odometer_m = last.unwrap().odometer_m;
            assert!((odometer_m - 2_990.0).abs() < 40.0, "doppler {has_doppler} seed {seed}: {odometer_m}");
        }
    }
}
