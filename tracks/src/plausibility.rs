//! Decides whether a fix can be true, given the ones before it.
//!
//! One [`Gate`] a device. Two kinds of rules:
//!
//! - about the fix alone: on Earth, computed by the receiver, precise enough, not from the future;
//! - about the way from the last accepted fix: time went on, and the distance was possible.
//!
//! A fix that breaks a rule of the second kind may be the first good one after a bad one that was accepted (the very
//! first fix cannot be checked against anything). So such fixes are compared with each other: when
//! [`GateOptions::adopt_after`] of them in a row fit together, the last one becomes the new truth. A reflection lasts a few
//! fixes and is outlived; a vehicle that really is elsewhere is believed after a few seconds.

use crate::fix::{Fix, FixKind};
use crate::geodesy::{LatLon, Plane};

/// How many standard deviations of both fixes together are added to the possible distance.
const SIGMAS: f64 = 2.0;

/// How wrong a reported velocity may be, in metres a second.
const VELOCITY_ERROR_MPS: f64 = 2.0;
/// How fast a velocity may change between two fixes, in metres a second squared (a car that brakes hard does 8).
const ACCELERATION_MAX_MPS2: f64 = 6.0;
/// Below this speed the course says nothing.
const COURSE_FROM_MPS: f64 = 1.0;

/// After how many fixes in a row that agree with their reported velocity the reports are believed again.
const VELOCITY_TRUST_AFTER: u32 = 60;

/// The limits of a gate.
#[derive(Debug, Clone, PartialEq)]
pub struct GateOptions {
    /// The highest speed between two fixes, in metres a second.
    pub speed_max_mps: f64,
    /// The highest horizontal dilution of precision.
    pub hdop_max: f64,
    /// How far a fix may be ahead of the clock of the host, in milliseconds.
    pub future_max_ms: i64,
    /// How many rejected fixes in a row that fit together are adopted as the truth; 0 counts as 1.
    pub adopt_after: u32,
}

impl Default for GateOptions {
    /// 60 m/s (216 km/h), HDOP 10, 10 s, 5 fixes.
    fn default() -> GateOptions {
        GateOptions { speed_max_mps: 60.0, hdop_max: 10.0, future_max_ms: 10_000, adopt_after: 5 }
    }
}

impl GateOptions {
    /// The rules about a fix alone.
    pub(crate) fn check_alone(&self, fix: &Fix, now_ms: i64) -> Result<(), Rejected> {
        if fix.fix == FixKind::None {
            return Err(Rejected::NoFix);
        }
        // Receivers that know nothing say 0, 0: a place in the sea.
        if !fix.position().is_valid() || (fix.lat == 0.0 && fix.lon == 0.0) {
            return Err(Rejected::NotOnEarth { lat: fix.lat, lon: fix.lon });
        }
        // An infinite hdop is above every limit; one that is not a number counts as not reported.
        if let Some(hdop) = fix.hdop.filter(|&hdop| hdop > self.hdop_max) {
            return Err(Rejected::Imprecise { hdop, limit: self.hdop_max });
        }
        let ahead_ms = fix.ts_ms.saturating_sub(now_ms);
        if ahead_ms > self.future_max_ms {
            return Err(Rejected::FromTheFuture { ahead_ms, limit_ms: self.future_max_ms });
        }
        Ok(())
    }
}

/// Why a fix was not believed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Rejected {
    /// The receiver says so itself.
    #[error("the receiver had no fix")]
    NoFix,
    /// Out of range, or not a number.
    #[error(
        "latitude {lat} or longitude {lon} is not on Earth (±90, ±180 degrees; 0, 0 is what receivers say that know nothing)"
    )]
    NotOnEarth {
        /// The latitude.
        lat: f64,
        /// The longitude.
        lon: f64,
    },
    /// Too few satellites in a good position.
    #[error("hdop {hdop} is above the limit of {limit}")]
    Imprecise {
        /// What the fix said.
        hdop: f64,
        /// [`GateOptions::hdop_max`].
        limit: f64,
    },
    /// The device's clock, or the host's, is wrong.
    #[error(
        "the fix is {ahead_ms} ms in the future, the limit is {limit_ms} ms: check the clocks of device and host"
    )]
    FromTheFuture {
        /// How far it is ahead.
        ahead_ms: i64,
        /// [`GateOptions::future_max_ms`].
        limit_ms: i64,
    },
    /// Old, or sent twice.
    #[error("ts {ts_ms} is not after the last accepted fix's, {last_ts_ms}")]
    NotNewer {
        /// The time of the fix.
        ts_ms: i64,
        /// The time of the last accepted fix.
        last_ts_ms: i64,
    },
    /// Nothing drives that fast.
    #[error(
        "{distance_m:.0} m in {elapsed_ms} ms is impossible: at {limit_mps:.1} m/s and with the accuracy of both fixes {possible_m:.0} m are"
    )]
    TooFast {
        /// How far it is from the last accepted fix.
        distance_m: f64,
        /// In what time.
        elapsed_ms: i64,
        /// [`GateOptions::speed_max_mps`].
        limit_mps: f64,
        /// What would have been possible.
        possible_m: f64,
    },
    /// The filter expected the vehicle elsewhere.
    #[error(
        "the place is {off_m:.0} m from where the vehicle was expected: χ² {chi2:.1}, the limit is {limit:.1}"
    )]
    Improbable {
        /// How far it is from where it was expected.
        off_m: f64,
        /// The square of that, measured by how exact both are known.
        chi2: f64,
        /// [`crate::filter::FilterOptions::chi2_max`].
        limit: f64,
    },
    /// A place from before, sent once more.
    #[error(
        "latitude {lat}, longitude {lon} is exactly where the vehicle was before, and it has moved on since"
    )]
    Stale {
        /// The latitude.
        lat: f64,
        /// The longitude.
        lon: f64,
    },
    /// The device's own velocity (measured by Doppler, which a reflection hardly changes) leads elsewhere.
    #[error(
        "the place is {off_m:.0} m from where the reported speed and course lead in {elapsed_ms} ms, {possible_m:.0} m are possible"
    )]
    AgainstItsVelocity {
        /// How far it is from where it should be.
        off_m: f64,
        /// The time since the last accepted fix.
        elapsed_ms: i64,
        /// What would have been possible.
        possible_m: f64,
    },
}

/// The judge of one device's fixes.
#[derive(Debug, Clone)]
pub struct Gate {
    options: GateOptions,
    last: Option<Seen>,
    /// The last of the rejected fixes that fit together, and how many they are.
    candidate: Option<(Seen, u32)>,
    /// Fixes in a row that agreed with their reported velocity; below [`VELOCITY_TRUST_AFTER`] it is not asked.
    velocity_agreed: u32,
}

/// What is kept of a fix.
#[derive(Debug, Clone, Copy)]
struct Seen {
    ts_ms: i64,
    position: LatLon,
    sigma_m: f64,
    /// East and north in metres a second, where the course is known …
    velocity_mps: Option<(f64, f64)>,
    /// … and its length alone.
    speed_mps: Option<f64>,
}

impl Gate {
    /// Makes a gate that has seen nothing.
    pub fn new(options: GateOptions) -> Gate {
        Gate { options, last: None, candidate: None, velocity_agreed: VELOCITY_TRUST_AFTER }
    }

    /// Judges the next fix of the device; `now_ms` is the host's time in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// The rule that the fix breaks, with the values. The fix is then not to be used.
    pub fn push(&mut self, fix: &Fix, now_ms: i64) -> Result<(), Rejected> {
        self.options.check_alone(fix, now_ms)?;
        let seen = Seen::from(fix);
        let Some(last) = self.last else {
            self.last = Some(seen);
            return Ok(());
        };
        if seen.ts_ms <= last.ts_ms {
            let rejected = Rejected::NotNewer { ts_ms: seen.ts_ms, last_ts_ms: last.ts_ms };
            // An old fix that arrives again is no evidence against the last one; a last one that is still ahead of the
            // host's clock may itself have had the wrong time.
            return if last.ts_ms > now_ms { self.doubt(seen, rejected) } else { Err(rejected) };
        }
        if let Err(rejected) = self.check_speed_max(&last, &seen) {
            return self.doubt(seen, rejected);
        }
        let by_report = check_reported_velocity(&last, &seen);
        if self.velocity_agreed >= VELOCITY_TRUST_AFTER
            && let Err(rejected) = by_report
        {
            return self.doubt(seen, rejected);
        }
        self.velocity_agreed = if by_report.is_ok() { self.velocity_agreed.saturating_add(1) } else { 0 };
        self.accept(seen);
        Ok(())
    }

    fn accept(&mut self, seen: Seen) {
        self.last = Some(seen);
        self.candidate = None;
    }

    /// Rejects a fix that contradicts the last accepted one, unless enough of its kind contradict it together.
    fn doubt(&mut self, seen: Seen, rejected: Rejected) -> Result<(), Rejected> {
        let count = match &self.candidate {
            // Reported speeds are not asked here: a device whose speed is wrong must not be shut out for good.
            Some((before, count))
                if seen.ts_ms > before.ts_ms && self.check_speed_max(before, &seen).is_ok() =>
            {
                count + 1
            }
            _ => 1,
        };
        if count < self.options.adopt_after {
            self.candidate = Some((seen, count));
            return Err(rejected);
        }
        if matches!(rejected, Rejected::AgainstItsVelocity { .. }) {
            self.velocity_agreed = 0;
        }
        self.accept(seen);
        Ok(())
    }

    fn check_speed_max(&self, from: &Seen, to: &Seen) -> Result<(), Rejected> {
        let (distance_m, elapsed_ms) = way(from, to);
        let limit_mps = self.options.speed_max_mps;
        let possible_m = limit_mps * elapsed_ms as f64 / 1_000.0 + accuracy_m(from.sigma_m, to.sigma_m);
        if distance_m <= possible_m {
            return Ok(());
        }
        Err(Rejected::TooFast { distance_m, elapsed_ms, limit_mps, possible_m })
    }
}

/// How far off the way of the mean of two reported velocities a vehicle can be between them, fixes' accuracy apart.
///
/// Between two velocities an acceleration of at most A moves a body at most A t² / 4 off the mean's way.
pub(crate) fn possible_drift_m(elapsed_s: f64) -> f64 {
    VELOCITY_ERROR_MPS * elapsed_s + ACCELERATION_MAX_MPS2 * elapsed_s * elapsed_s / 4.0
}

/// Compares the way with the mean of the velocities reported at both ends.
fn check_reported_velocity(from: &Seen, to: &Seen) -> Result<(), Rejected> {
    let (distance_m, elapsed_ms) = way(from, to);
    let elapsed_s = elapsed_ms as f64 / 1_000.0;
    let off_m = match (from.velocity_mps, to.velocity_mps, from.speed_mps, to.speed_mps) {
        (Some((east0, north0)), Some((east1, north1)), ..) => {
            let (x, y) = Plane::at(from.position).xy_m(to.position);
            (x - (east0 + east1) / 2.0 * elapsed_s).hypot(y - (north0 + north1) / 2.0 * elapsed_s)
        }
        // Without a course a vehicle may have gone anywhere at that speed.
        (_, _, Some(speed0), Some(speed1)) => (distance_m - (speed0 + speed1) / 2.0 * elapsed_s).max(0.0),
        _ => return Ok(()),
    };
    let possible_m = possible_drift_m(elapsed_s) + accuracy_m(from.sigma_m, to.sigma_m);
    if off_m <= possible_m {
        return Ok(());
    }
    Err(Rejected::AgainstItsVelocity { off_m, elapsed_ms, possible_m })
}

fn way(from: &Seen, to: &Seen) -> (f64, i64) {
    (from.position.distance_m(to.position), to.ts_ms.saturating_sub(from.ts_ms))
}

/// What the accuracy of two fixes adds to the distance that is possible between them.
pub(crate) fn accuracy_m(from_sigma_m: f64, to_sigma_m: f64) -> f64 {
    SIGMAS * from_sigma_m.hypot(to_sigma_m)
}

impl From<&Fix> for Seen {
    fn from(fix: &Fix) -> Seen {
        // Some receivers say -1 where they mean "unknown".
        let speed_mps = fix.speed_mps.filter(|v| v.is_finite() && *v >= 0.0);
        let course_rad = fix.course_deg.filter(|c| c.is_finite()).map(f64::to_radians);
        let velocity_mps = match (speed_mps, course_rad) {
            (Some(speed), _) if speed < COURSE_FROM_MPS => Some((0.0, 0.0)),
            (Some(speed), Some(course)) => Some((speed * course.sin(), speed * course.cos())),
            _ => None,
        };
        Seen { ts_ms: fix.ts_ms, position: fix.position(), sigma_m: fix.sigma_m(), velocity_mps, speed_mps }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW_MS: i64 = 1_000_000_000;
    const HOME: LatLon = LatLon::new(60.17, 24.94);

    /// A fix `at_s` seconds after the start, `east_m` metres east of home.
    fn fix(at_s: i64, east_m: f64) -> Fix {
        Fix { hdop: Some(1.0), ..Fix::at(NOW_MS + at_s * 1_000, HOME.destination(90.0, east_m)) }
    }

    fn with_speed(at_s: i64, east_m: f64, speed_mps: f64) -> Fix {
        Fix { speed_mps: Some(speed_mps), ..fix(at_s, east_m) }
    }

    fn gate_at_home() -> Gate {
        let mut gate = Gate::new(GateOptions::default());
        gate.push(&fix(0, 0.0), NOW_MS).unwrap();
        gate
    }

    /// Pushes in order, the host's clock being the fix's.
    fn verdicts(gate: &mut Gate, fixes: &[Fix]) -> Vec<bool> {
        fixes.iter().map(|fix| gate.push(fix, fix.ts_ms).is_ok()).collect()
    }

    #[test]
    fn a_fix_that_cannot_be_true_is_refused_with_its_values() {
        let table = [
            (Fix { fix: FixKind::None, ..fix(1, 0.0) }, "the receiver had no fix"),
            (Fix { lat: 91.0, ..fix(1, 0.0) }, "latitude 91"),
            (Fix { lon: f64::NAN, ..fix(1, 0.0) }, "longitude NaN"),
            (Fix { hdop: Some(12.5), ..fix(1, 0.0) }, "hdop 12.5 is above the limit of 10"),
            (Fix { hdop: Some(f64::INFINITY), ..fix(1, 0.0) }, "hdop inf"),
            (fix(12, 0.0), "the fix is 11000 ms in the future, the limit is 10000 ms"),
            (Fix { ts_ms: i64::MAX, ..fix(1, 0.0) }, "in the future"),
            (fix(0, 0.0), "is not after the last accepted fix's"),
            (fix(-3, 0.0), "is not after the last accepted fix's"),
            (Fix { ts_ms: i64::MIN, ..fix(1, 0.0) }, "is not after the last accepted fix's"),
            (
                fix(1, 500.0),
                "500 m in 1000 ms is impossible: at 60.0 m/s and with the accuracy of both fixes 74 m are",
            ),
        ];
        for (fix, want) in table {
            let error = gate_at_home().push(&fix, NOW_MS + 1_000).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn the_accuracy_of_both_fixes_widens_what_is_possible() {
        // 60 m/s for 1 s, and 2 × hypot(25, 25) = 70.7 m.
        let vague = |at_s, east_m| Fix { hdop: Some(5.0), ..fix(at_s, east_m) };
        for (east_m, want) in [(129.0, true), (132.0, false)] {
            let mut gate = Gate::new(GateOptions::default());
            assert_eq!(verdicts(&mut gate, &[vague(0, 0.0), vague(1, east_m)]), [true, want], "{east_m}");
        }
    }

    #[test]
    fn a_bad_first_fix_does_not_shut_out_the_good_ones() {
        let mut gate = Gate::new(GateOptions::default());
        gate.push(&fix(0, 40_000.0), NOW_MS).unwrap();
        let good: Vec<Fix> = (1..=8).map(|s| fix(s, 10.0 * s as f64)).collect();
        assert_eq!(verdicts(&mut gate, &good), [false, false, false, false, true, true, true, true]);
    }

    #[test]
    fn a_short_jump_is_outlived_and_the_true_track_goes_on_at_once() {
        let mut gate = gate_at_home();
        let track: Vec<Fix> =
            (1..=10).map(|s| fix(s, if (4..=7).contains(&s) { 3_000.0 } else { 10.0 * s as f64 })).collect();
        assert_eq!(
            verdicts(&mut gate, &track),
            [true, true, true, false, false, false, false, true, true, true]
        );
    }

    #[test]
    fn rejected_fixes_that_contradict_each_other_are_never_adopted() {
        let mut gate = gate_at_home();
        for s in 1..=40 {
            // They come nearer to each other than the limit, but never to the place before.
            let wild = fix(s, 5_000.0 * s as f64);
            assert!(gate.push(&wild, wild.ts_ms).is_err(), "{s}");
        }
        let back = fix(41, 0.0);
        assert!(gate.push(&back, back.ts_ms).is_ok());
    }

    #[test]
    fn a_reflection_of_60_m_contradicts_the_speed_that_the_device_reports() {
        for speed_mps in [0.0, 10.0, 20.0] {
            let mut gate = Gate::new(GateOptions::default());
            let drive =
                |s: i64| Fix { course_deg: Some(90.0), ..with_speed(s, speed_mps * s as f64, speed_mps) };
            let jumped = |s: i64| Fix { lat: HOME.destination(0.0, 60.0).lat, ..drive(s) };
            let got = verdicts(
                &mut gate,
                &[drive(0), drive(1), jumped(2), jumped(3), jumped(4), jumped(5), drive(6)],
            );
            assert_eq!(got, [true, true, false, false, false, false, true], "{speed_mps} m/s");
        }
    }

    #[test]
    fn a_hard_brake_and_a_sharp_turn_agree_with_the_reported_velocity() {
        let mut gate = Gate::new(GateOptions::default());
        let corner = HOME.destination(90.0, 27.5);
        let drive = |s: i64, position: LatLon, speed_mps, course_deg| Fix {
            hdop: Some(1.0),
            speed_mps: Some(speed_mps),
            course_deg: Some(course_deg),
            ..Fix::at(NOW_MS + s * 1_000, position)
        };
        let track = [
            drive(0, HOME, 14.0, 90.0),
            drive(1, HOME.destination(90.0, 11.0), 8.0, 90.0),
            drive(2, HOME.destination(90.0, 17.0), 4.0, 90.0),
            drive(4, corner.destination(0.0, 2.0), 5.0, 0.0),
            drive(5, corner.destination(0.0, 8.0), 8.0, 0.0),
        ];
        assert_eq!(verdicts(&mut gate, &track), [true; 5]);
    }

    #[test]
    fn a_speed_without_a_course_still_bounds_the_way() {
        let mut gate = Gate::new(GateOptions::default());
        let got = verdicts(
            &mut gate,
            &[with_speed(0, 0.0, 5.0), with_speed(1, 60.0, 5.0), with_speed(2, 12.0, 5.0)],
        );
        assert_eq!(got, [true, false, true]);
    }

    #[test]
    fn a_device_whose_speed_is_always_zero_is_not_shut_out_for_good() {
        let mut gate = Gate::new(GateOptions::default());
        let track: Vec<Fix> = (0..200).map(|s| with_speed(s, 30.0 * s as f64, 0.0)).collect();
        let refused = verdicts(&mut gate, &track).iter().filter(|ok| !**ok).count();
        assert!((1..=5).contains(&refused), "{refused} of 200 were refused");
    }

    #[test]
    fn a_time_from_the_near_future_mutes_a_device_for_a_few_fixes_only() {
        let mut gate = gate_at_home();
        let early = fix(9, 0.0);
        gate.push(&early, NOW_MS).unwrap();
        let track: Vec<Fix> = (1..=7).map(|s| fix(s, 10.0 * s as f64)).collect();
        assert_eq!(verdicts(&mut gate, &track), [false, false, false, false, true, true, true]);
    }

    #[test]
    fn old_fixes_that_arrive_again_never_turn_the_time_back() {
        let mut gate = gate_at_home();
        let track: Vec<Fix> = (1..=20).map(|s| fix(s, 10.0 * s as f64)).collect();
        assert!(verdicts(&mut gate, &track).iter().all(|ok| *ok));
        let now_ms = NOW_MS + 21_000;
        for old in &track {
            assert!(matches!(gate.push(old, now_ms), Err(Rejected::NotNewer { .. })));
        }
    }

    proptest! {
        #[test]
        fn any_numbers_are_judged_without_panic(
            fixes in prop::collection::vec((any::<i64>(), any::<f64>(), any::<f64>(), any::<Option<f64>>(), any::<Option<f64>>()), 0..30),
            now_ms in any::<i64>(),
        ) {
            let mut gate = Gate::new(GateOptions::default());
            for (ts_ms, lat, lon, hdop, speed_mps) in fixes {
                let fix = Fix { hdop, speed_mps, ..Fix::at(ts_ms, LatLon::new(lat, lon)) };
                if gate.push(&fix, now_ms).is_ok() {
                    prop_assert!(fix.is_usable());
                }
            }
        }

        #[test]
        fn after_any_fixes_a_true_track_is_believed_again_within_the_limit(
            noise in prop::collection::vec((-100..0i64, -89.0..89.0f64, -180.0..180.0f64), 0..30),
        ) {
            let options = GateOptions::default();
            let adopt_after = options.adopt_after as usize;
            let mut gate = Gate::new(options);
            for (at_s, lat, lon) in noise {
                let _ = gate.push(&Fix::at(NOW_MS + at_s * 1_000, LatLon::new(lat, lon)), NOW_MS);
            }
            let track: Vec<Fix> = (1..=20).map(|s| fix(s, 10.0 * s as f64)).collect();
            let got = verdicts(&mut gate, &track);
            prop_assert!(got[adopt_after - 1..].iter().all(|ok| *ok), "{got:?}");
        }
    }
}
