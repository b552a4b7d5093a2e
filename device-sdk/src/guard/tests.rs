//! Every reason against opening, and its sentence.

use super::*;

const YARD: Position = Position { lat: 60.17, lon: 24.94 };
/// Metres to degrees of latitude.
const METRE: f64 = 1.0 / 111_195.0;

fn rules() -> GuardRules {
    GuardRules::inside(Area::circle(YARD, 100.0).unwrap())
}

fn north(metres: f64) -> Position {
    Position { lat: YARD.lat + metres * METRE, ..YARD }
}

fn fix(monotonic_ms: u64) -> GuardFix {
    GuardFix { monotonic_ms, position: YARD, accuracy_m: 5.0, speed_mps: Some(0.0) }
}

/// A minute of standing at 1 Hz, each fix changed by its second.
fn minute(change: impl Fn(u64, &mut GuardFix)) -> Fixes {
    let mut fixes = Fixes::default();
    for second in 0..=60 {
        let mut fix = fix(second * 1_000);
        change(second, &mut fix);
        fixes.observe(fix);
    }
    fixes
}

const NOW: u64 = 60_000;

#[test]
fn a_truck_that_stands_in_its_yard_may_open() {
    assert_eq!(judge(&rules(), &minute(|_, _| {}), NOW), Ok(()));
    // Noise is no drift and no leap.
    let noisy = minute(|second, fix| fix.position = north(if second % 2 == 0 { 6.0 } else { -6.0 }));
    assert_eq!(judge(&rules(), &noisy, NOW), Ok(()));
}

#[test]
fn every_reason_against_opening_is_a_sentence_with_its_values() {
    let table: [(Fixes, u64, &str); 14] = [
        (Fixes::default(), NOW, "there is no position fix yet"),
        (minute(|_, _| {}), 65_001, "the last position fix is 5.0 s old, the limit is 5.0 s"),
        (minute(|_, _| {}), 72_500, "the last position fix is 12.5 s old, the limit is 5.0 s"),
        (minute(|_, fix| fix.accuracy_m = 30.0), NOW, "position is known to 30 m only, must be to 25 m"),
        (minute(|_, fix| fix.accuracy_m = 0.0), NOW, "position is known to 0 m only, must be to 25 m"),
        (minute(|_, fix| fix.speed_mps = Some(12.0 / 3.6)), NOW, "speed is 12 km/h, must be 0"),
        (minute(|_, fix| fix.speed_mps = Some(0.05)), NOW, "speed is 1 km/h, must be 0"),
        (minute(|_, fix| fix.speed_mps = Some(-2.0)), NOW, "speed is 7 km/h, must be 0"),
        (minute(|_, fix| fix.speed_mps = None), NOW, "speed is not known, must be 0"),
        (
            minute(|second, fix| fix.speed_mps = Some(if second < 57 { 2.0 } else { 0.0 })),
            NOW,
            "has stood still for 3 s, must be 5 s",
        ),
        (
            minute(|second, fix| fix.position = north(second as f64 * 6.0 - 360.0)),
            NOW,
            "position has moved 30 m although speed is said to be 0",
        ),
        (
            minute(|second, fix| fix.position = north(if second < 45 { 5_000.0 } else { 0.0 })),
            NOW,
            "position is not trusted yet: steady for 15 s, must be 30 s",
        ),
        (minute(|_, fix| fix.position = north(140.0)), NOW, "position is 40 m outside the fence"),
        (
            minute(|_, fix| fix.position = north(95.0)),
            NOW,
            "position is 5 m inside the fence, must be 10 m to be sure",
        ),
    ];
    for (fixes, now, expected) in table {
        assert_eq!(judge(&rules(), &fixes, now).unwrap_err().to_string(), expected);
    }
}

#[test]
fn speeds_that_are_no_numbers_are_refused() {
    for speed in [f64::NAN, f64::INFINITY] {
        assert!(judge(&rules(), &minute(|_, fix| fix.speed_mps = Some(speed)), NOW).is_err());
    }
    assert!(judge(&rules(), &minute(|_, fix| fix.accuracy_m = f64::INFINITY), NOW).is_err());
}

#[test]
fn the_margin_grows_with_the_fixs_age() {
    // 5 s at 1.5 m/s² are 18.75 m.
    let fixes = minute(|_, fix| fix.position = north(80.0));
    assert_eq!(judge(&rules(), &fixes, NOW), Ok(()));
    let why = judge(&rules(), &fixes, NOW + 5_000).unwrap_err();
    assert_eq!(why.to_string(), "position is 20 m inside the fence, must be 29 m to be sure");
}

#[test]
fn a_pause_or_a_leap_away_and_back_begins_the_waiting_anew() {
    let with_pause = minute(|second, fix| {
        if (30..=35).contains(&second) {
            fix.position.lat = f64::NAN;
        }
    });
    let why = judge(&rules(), &with_pause, NOW).unwrap_err();
    assert!(matches!(why, Refusal::NotSettled { steady_ms: 24_000, .. }), "{why}");
    let there_and_back = minute(|second, fix| {
        if second == 50 {
            fix.position = north(400.0);
        }
    });
    let why = judge(&rules(), &there_and_back, NOW).unwrap_err();
    assert!(matches!(why, Refusal::NotSettled { steady_ms: 9_000, .. }), "{why}");
    // As after a start: what was before is not known.
    let mut fixes = Fixes::default();
    for second in 0..30 {
        fixes.observe(fix(second * 1_000));
        assert!(judge(&rules(), &fixes, second * 1_000).is_err(), "after {second} s");
    }
    fixes.observe(fix(30_000));
    assert_eq!(judge(&rules(), &fixes, 30_000), Ok(()));
}
