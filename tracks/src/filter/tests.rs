//! Single rules of the filter, one by one; what they make together is in tests/oracles.

use proptest::prelude::*;

use super::*;

const NOW_MS: i64 = 1_000_000_000;
const HOME: LatLon = LatLon::new(60.17, 24.94);

/// A fix `at_s` seconds after the start, `east_m` metres east of home.
fn fix(at_s: i64, east_m: f64) -> Fix {
    Fix { hdop: Some(1.0), ..Fix::at(NOW_MS + at_s * 1_000, HOME.destination(90.0, east_m)) }
}

fn filter() -> Filter {
    Filter::new(FilterOptions::default())
}

/// A filter that has seen a drive of 10 m/s to the east for so many seconds.
fn driving(seconds: i64) -> Filter {
    let mut filter = filter();
    for s in 0..seconds {
        filter.push(&fix(s, 10.0 * s as f64), i64::MAX).unwrap();
    }
    filter
}

fn verdicts(filter: &mut Filter, fixes: &[Fix]) -> Vec<bool> {
    fixes.iter().map(|fix| filter.push(fix, i64::MAX).is_ok()).collect()
}

#[test]
fn a_device_takes_at_most_256_bytes() {
    assert!(size_of::<Filter>() <= 256, "{}", size_of::<Filter>());
}

#[test]
fn a_fix_that_cannot_be_true_is_refused_with_the_values() {
    let table = [
        (Fix { fix: crate::FixKind::None, ..fix(60, 600.0) }, "no fix"),
        (Fix { lat: 91.0, ..fix(60, 600.0) }, "latitude 91"),
        (Fix { lat: 0.0, lon: 0.0, ..fix(60, 600.0) }, "0, 0 is what receivers say"),
        (Fix { hdop: Some(30.0), ..fix(60, 600.0) }, "hdop 30"),
        (fix(59, 590.0), "not after"),
        (fix(60, 2_000.0), "60.0 m/s"),
        (fix(60, 660.0), "χ²"),
        (fix(61, 560.0), "χ²"),
        (fix(60, 500.0), "impossible"),
    ];
    for (fix, want) in table {
        let why = driving(60).push(&fix, i64::MAX).unwrap_err().to_string();
        assert!(why.contains(want), "{want}: {why}");
    }
    let future = driving(60).push(&fix(120, 1_200.0), NOW_MS + 60_000).unwrap_err().to_string();
    assert!(future.contains("60000 ms in the future"), "{future}");
}

#[test]
fn a_place_that_comes_back_again_while_the_vehicle_drives_is_stale_and_a_way_back_is_not() {
    let mut filter = driving(60);
    let left = fix(59, 590.0);
    let again = |s| Fix { lat: left.lat, lon: left.lon, ..fix(s, 0.0) };
    filter.push(&fix(60, 600.0), i64::MAX).unwrap();
    assert!(filter.push(&again(61), i64::MAX).is_ok());
    filter.push(&fix(62, 605.0), i64::MAX).unwrap();
    let why = filter.push(&again(63), i64::MAX).unwrap_err().to_string();
    assert!(why.contains("exactly where"), "{why}");
    let mut filter = driving(60);
    let there_and_back = (60..70).map(|s| fix(s, 1_180.0 - 10.0 * s as f64));
    assert!(there_and_back.map(|fix| filter.push(&fix, i64::MAX)).all(|outcome| outcome.is_ok()));
}

#[test]
fn a_persistent_jump_is_adopted_by_the_fifth_fix_and_a_reflection_of_four_is_not() {
    let elsewhere: Vec<Fix> = (60..70).map(|s| fix(s, 3_000.0 + 10.0 * s as f64)).collect();
    let mut jumped = driving(60);
    assert_eq!(verdicts(&mut jumped, &elsewhere[..4]), [false; 4]);
    let estimate = jumped.push(&elsewhere[4], i64::MAX).unwrap();
    assert_eq!(estimate.revised, Revised::Adopted { since_ms: NOW_MS + 60_000 });
    assert_eq!(verdicts(&mut jumped, &elsewhere[5..]), [true; 5]);
    // Nobody drove those three kilometres.
    assert!((jumped.last().unwrap().odometer_m - 690.0).abs() < 40.0, "{:?}", jumped.last());

    let mut reflected = driving(60);
    assert_eq!(verdicts(&mut reflected, &elsewhere[..4]), [false; 4]);
    assert!(reflected.push(&fix(64, 640.0), i64::MAX).is_ok());
}

#[test]
fn one_stray_fix_does_not_end_what_speaks_for_a_jump() {
    let mut filter = driving(60);
    let mut fixes: Vec<Fix> = (60..70).map(|s| fix(s, 3_000.0 + 10.0 * s as f64)).collect();
    fixes[3] = fix(63, -3_000.0);
    let got = verdicts(&mut filter, &fixes);
    assert_eq!(got, [false, false, false, false, false, false, true, true, true, true]);
}

#[test]
fn a_bad_fix_that_was_accepted_never_poisons_the_next() {
    for off_m in [-26.0, 26.0] {
        let mut filter = driving(60);
        let bad = filter.push(&fix(60, 600.0 + off_m), i64::MAX).unwrap();
        assert_eq!(bad.revised, Revised::Nothing);
        for s in 61..80 {
            let estimate = filter.push(&fix(s, 10.0 * s as f64), i64::MAX).unwrap();
            let error_m = estimate.position.distance_m(HOME.destination(90.0, 10.0 * s as f64));
            assert!(error_m < 15.0, "{off_m} {s}: {error_m}");
        }
    }
    // After half a minute without a fix the filter must believe a place 400 m off. The next one tells.
    let mut filter = driving(60);
    assert!(filter.push(&fix(90, 1_350.0), i64::MAX).is_ok());
    let estimate = filter.push(&fix(91, 910.0), i64::MAX).unwrap();
    assert_eq!(estimate.revised, Revised::Undone { since_ms: NOW_MS + 59_000 });
    assert!(estimate.position.distance_m(HOME.destination(90.0, 910.0)) < 10.0);
    assert!((estimate.odometer_m - 910.0).abs() < 20.0, "{estimate:?}");
}

#[test]
fn of_two_fixes_that_contradict_each_other_the_more_exact_one_counts() {
    for (first_hdop, second_hdop, want) in [(3.0, 1.0, true), (1.0, 1.0, false), (1.0, 3.0, false)] {
        let mut filter = filter();
        filter.push(&Fix { hdop: Some(first_hdop), ..fix(0, 5_000.0) }, i64::MAX).unwrap();
        let second = filter.push(&Fix { hdop: Some(second_hdop), ..fix(1, 0.0) }, i64::MAX);
        assert_eq!(second.is_ok(), want, "{first_hdop} {second_hdop}: {second:?}");
        assert!(filter.push(&Fix { hdop: Some(second_hdop), ..fix(2, 1.0) }, i64::MAX).is_ok());
    }
}

#[test]
fn a_device_whose_speed_is_in_the_wrong_unit_is_not_shut_out() {
    let mut filter = filter();
    let mut refused = 0;
    for s in 0..120 {
        let wrong = Fix { speed_mps: Some(36.0), course_deg: Some(90.0), ..fix(s, 10.0 * s as f64) };
        refused += u32::from(filter.push(&wrong, i64::MAX).is_err());
    }
    assert!(refused <= 4, "{refused}");
    assert!((filter.last().unwrap().speed_mps - 10.0).abs() < 2.0, "{:?}", filter.last());
}

#[test]
fn a_last_fix_from_the_future_gives_way_to_the_present() {
    let mut filter = filter();
    filter.push(&fix(9, 0.0), NOW_MS).unwrap();
    let got: Vec<bool> =
        (1..4).map(|s| filter.push(&fix(s, 10.0 + s as f64), NOW_MS + s * 1_000).is_ok()).collect();
    assert_eq!(got, [false, true, true]);
}

#[test]
fn an_estimate_has_speed_course_and_place_of_a_drive() {
    let estimate = driving(60).last().unwrap();
    assert!((estimate.speed_mps - 10.0).abs() < 0.2 && (estimate.course_deg.unwrap() - 90.0).abs() < 1.0);
    assert_eq!((estimate.ts_ms, estimate.parked_since_ms), (NOW_MS + 59_000, None));
    assert!((estimate.odometer_m - 590.0).abs() < 20.0 && estimate.sigma_m < 6.0, "{estimate:?}");
    let watched = estimate.fix(&fix(59, 590.0));
    assert_eq!((watched.position(), watched.hdop), (estimate.position, Some(1.0)));
}

proptest! {
    #[test]
    fn any_numbers_are_taken_without_panic_and_leave_numbers(
        fixes in prop::collection::vec((any::<i64>(), any::<f64>(), any::<f64>(), any::<Option<f64>>(), any::<Option<f64>>(), any::<Option<f64>>()), 0..30),
        now_ms in any::<i64>(),
    ) {
        let (mut filter, mut replay) = (filter(), Replay::new(FilterOptions::default(), 5));
        for (ts_ms, lat, lon, hdop, speed_mps, course_deg) in fixes {
            let fix = Fix { hdop, speed_mps, course_deg, ..Fix::at(ts_ms, LatLon::new(lat, lon)) };
            let _ = replay.push(&fix, now_ms);
            if let Ok(estimate) = filter.push(&fix, now_ms) {
                prop_assert!(fix.is_usable());
                prop_assert!(estimate.position.is_valid() && estimate.speed_mps.is_finite() && estimate.odometer_m.is_finite(), "{estimate:?}");
            }
        }
    }

    #[test]
    fn fixes_on_earth_at_any_time_leave_numbers(
        fixes in prop::collection::vec((0..10_000_000_000i64, -90.0..=90.0f64, -180.0..=180.0f64, 0.0..20.0f64, 0.0..100.0f64), 0..50),
    ) {
        let mut filter = filter();
        let mut at_ms = 0;
        for (step_ms, lat, lon, hdop, speed_mps) in fixes {
            at_ms += step_ms;
            let fix = Fix { hdop: Some(hdop), speed_mps: Some(speed_mps), ..Fix::at(at_ms, LatLon::new(lat, lon)) };
            if let Ok(estimate) = filter.push(&fix, at_ms) {
                prop_assert!(estimate.position.is_valid() && estimate.sigma_m.is_finite() && estimate.odometer_m.is_finite(), "{estimate:?}");
            }
        }
    }

    #[test]
    fn after_any_fixes_a_true_track_is_believed_again_within_the_limit(
        noise in prop::collection::vec((-100..0i64, -89.0..89.0f64, -180.0..180.0f64), 0..30),
    ) {
        let mut filter = filter();
        for (at_s, lat, lon) in noise {
            let _ = filter.push(&Fix::at(NOW_MS + at_s * 1_000, LatLon::new(lat, lon)), NOW_MS);
        }
        let track: Vec<Fix> = (1..=20).map(|s| fix(s, 10.0 * s as f64)).collect();
        let got = verdicts(&mut filter, &track);
        // One round for each guess that may be wrong.
        prop_assert!(got[2 * 5 - 1..].iter().all(|ok| *ok), "{got:?}");
    }
}
