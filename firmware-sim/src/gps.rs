//! What a receiver in a street says about where the truck is.
//!
//! - The error drifts: each axis is a first-order autoregressive process, whose size follows the dilution of precision.
//! - Now and then a reflection from a building moves the position by tens of metres for several seconds. Most receivers
//!   notice (the dilution rises), some do not.
//! - A truck that stands has speed 0 and no course; the receiver then holds its position, so no new reflection begins.
//! - After being switched on it has no fix for a while.

use tracks::geodesy::Plane;
use tracks::{Fix, FixKind, LatLon};

use crate::motion::Truth;
use crate::scenario::Gps;

/// The error of one axis at a dilution of 1, one standard deviation, in metres: with both axes 4.9 m, about
/// [`tracks::fix::UERE_M`].
const AXIS_SIGMA_M: f64 = 3.5;
/// The time after which 1/e of an error is left, in seconds.
const DRIFT_S: f64 = 30.0;
/// The dilution of precision under an open sky, and what buildings do to it, in their own slow drift.
const HDOP_BASE: f64 = 0.8;
const HDOP_SPREAD: f64 = 0.25;
const HDOP_DRIFT_S: f64 = 120.0;
/// The share of the reflections that the receiver notices.
const NOTICED_SHARE: f64 = 0.7;
/// How long reflections last, in seconds.
const NOTICED_S: std::ops::RangeInclusive<u32> = 3..=10;
const UNNOTICED_S: std::ops::RangeInclusive<u32> = 2..=4;
/// Below this speed a truck stands, in metres a second.
const STANDS_MPS: f64 = 0.05;
/// The error of the Doppler speed in metres a second, and of the course in degrees at 10 m/s.
const SPEED_SIGMA_MPS: f64 = 0.1;
const COURSE_SIGMA_DEG: f64 = 1.0;
/// A week, and after how many of them the week number of GPS is 0 again.
const WEEK_MS: i64 = 7 * 24 * 3_600_000;
const ROLLOVER_MS: i64 = 1_024 * WEEK_MS;
/// When the firmware was made: no true date is before (1 January 2026).
pub(crate) const FIRMWARE_MADE_MS: i64 = 1_767_225_600_000;
/// A tunnel longer than that switches the receiver's memory of the sky off.
pub(crate) const COLD_AFTER_MS: u64 = 60_000;
/// The height of the streets, in metres.
const GROUND_M: f64 = 12.0;

/// How a receiver behaves.
#[derive(Debug, Clone, PartialEq)]
pub struct ReceiverOptions {
    /// From switching on to the first fix, in milliseconds.
    pub first_fix_ms: u64,
    /// How far a reflection moves the position, in metres.
    pub jump_m: f64,
    /// The mean time between reflections while driving, in seconds; 0 for none.
    pub jump_every_s: f64,
    /// The drifting error of one axis at a dilution of 1, one standard deviation, in metres.
    pub drift_m: f64,
    /// The error without memory that is added to it, the same way.
    pub white_m: f64,
    /// Weeks that its date lies in the past: after a rollover of the week number that its makers did not foresee.
    pub weeks_back: u32,
}

impl ReceiverOptions {
    /// Receivers of a scenario.
    pub(crate) fn of(gps: &Gps) -> ReceiverOptions {
        ReceiverOptions {
            first_fix_ms: gps.cold_start_s * 1_000,
            jump_m: gps.multipath_m,
            jump_every_s: gps.multipath_every_s,
            drift_m: gps.drift_m,
            white_m: gps.white_m,
            weeks_back: gps.weeks_back,
        }
    }
}

impl Default for ReceiverOptions {
    /// 4 s, 60 m, 180 s; an error that drifts and nothing else; the right date.
    fn default() -> ReceiverOptions {
        ReceiverOptions {
            first_fix_ms: 4_000,
            jump_m: 60.0,
            jump_every_s: 180.0,
            drift_m: AXIS_SIGMA_M,
            white_m: 0.0,
            weeks_back: 0,
        }
    }
}

/// A simulated receiver.
#[derive(Debug, Clone)]
pub struct Receiver {
    options: ReceiverOptions,
    chance: fastrand::Rng,
    /// When it was switched on: the time of the first observation.
    on_since_ms: Option<i64>,
    last_ms: Option<i64>,
    /// East and north, in units of sigma.
    error: (f64, f64),
    hdop_error: f64,
    jump: Option<Jump>,
}

#[derive(Debug, Clone, Copy)]
struct Jump {
    ends_ms: i64,
    offset_m: (f64, f64),
    noticed: bool,
}

impl Receiver {
    /// Makes a receiver that is switched on by its first observation.
    pub fn new(options: ReceiverOptions, seed: u64) -> Receiver {
        let mut chance = fastrand::Rng::with_seed(seed);
        let error = (gauss(&mut chance), gauss(&mut chance));
        let hdop_error = gauss(&mut chance);
        Receiver { options, chance, on_since_ms: None, last_ms: None, error, hdop_error, jump: None }
    }

    /// Switches it off: the next observation switches it on again, and it has no fix for a while.
    pub fn switch_off(&mut self) {
        self.on_since_ms = None;
        self.jump = None;
    }

    /// What the receiver says at `ts_ms` (milliseconds since the Unix epoch) about a truck that is really at `truth`; `None`
    /// while it has no fix yet. Call it in the order of time.
    pub fn observe(&mut self, ts_ms: i64, truth: &Truth) -> Option<Fix> {
        let on_since_ms = *self.on_since_ms.get_or_insert(ts_ms);
        let last_ms = self.last_ms.replace(ts_ms).unwrap_or(ts_ms);
        let elapsed_s = ts_ms.saturating_sub(last_ms).max(0) as f64 / 1_000.0;
        let stands = truth.speed_mps < STANDS_MPS;
        self.drift(elapsed_s);
        self.reflect(ts_ms, elapsed_s, stands);
        if ts_ms.saturating_sub(on_since_ms) < i64::try_from(self.options.first_fix_ms).unwrap_or(i64::MAX) {
            return None;
        }
        Some(self.fix(ts_ms, truth, stands))
    }

    fn drift(&mut self, elapsed_s: f64) {
        let (keep, hdop_keep) = ((-elapsed_s / DRIFT_S).exp(), (-elapsed_s / HDOP_DRIFT_S).exp());
        let fresh = (1.0 - keep * keep).sqrt();
        self.error.0 = keep * self.error.0 + fresh * gauss(&mut self.chance);
        self.error.1 = keep * self.error.1 + fresh * gauss(&mut self.chance);
        self.hdop_error =
            hdop_keep * self.hdop_error + (1.0 - hdop_keep * hdop_keep).sqrt() * gauss(&mut self.chance);
    }

    fn reflect(&mut self, ts_ms: i64, elapsed_s: f64, stands: bool) {
        // Drawn in any case, so that the rest of the sequence does not depend on whether the truck stands.
        let (begins, noticed) = (self.chance.f64(), self.chance.f64() < NOTICED_SHARE);
        let lasts_s = self.chance.u32(if noticed { NOTICED_S } else { UNNOTICED_S });
        let (sin, cos) = (self.chance.f64() * std::f64::consts::TAU).sin_cos();
        if self.jump.is_some_and(|jump| ts_ms >= jump.ends_ms) {
            self.jump = None;
        }
        let every_s = self.options.jump_every_s;
        if self.jump.is_none() && !stands && every_s > 0.0 && begins < elapsed_s / every_s {
            self.jump = Some(Jump {
                ends_ms: ts_ms.saturating_add(i64::from(lasts_s) * 1_000),
                offset_m: (self.options.jump_m * sin, self.options.jump_m * cos),
                noticed,
            });
        }
    }

    fn fix(&mut self, ts_ms: i64, truth: &Truth, stands: bool) -> Fix {
        let mut hdop = HDOP_BASE + HDOP_SPREAD * self.hdop_error.abs();
        let (jump_east_m, jump_north_m) = self.jump.map_or((0.0, 0.0), |jump| jump.offset_m);
        let sigma_m = self.options.drift_m * hdop;
        let white_m = self.options.white_m * hdop;
        let (mut white_east_m, mut white_north_m) = (0.0, 0.0);
        if white_m > 0.0 {
            (white_east_m, white_north_m) =
                (white_m * gauss(&mut self.chance), white_m * gauss(&mut self.chance));
        }
        let plane = Plane::at(truth.position);
        let place: LatLon = plane.place(
            sigma_m * self.error.0 + white_east_m + jump_east_m,
            sigma_m * self.error.1 + white_north_m + jump_north_m,
        );
        if let Some(jump) = self.jump.filter(|jump| jump.noticed) {
            // As much as the position is off by.
            hdop += jump.offset_m.0.hypot(jump.offset_m.1) / tracks::fix::UERE_M / 2.0;
        }
        let (speed_error, course_error) = (gauss(&mut self.chance), gauss(&mut self.chance));
        let speed_mps = (truth.speed_mps + SPEED_SIGMA_MPS * speed_error).max(STANDS_MPS);
        let course_deg =
            truth.course_deg + COURSE_SIGMA_DEG * course_error * (10.0 / truth.speed_mps.max(1.0));
        // Height is known about half as well as the place.
        let alt_m = GROUND_M + sigma_m * (self.error.0 + self.error.1);
        Fix {
            ts_ms: ts_ms - i64::from(self.options.weeks_back) * WEEK_MS,
            lat: rounded(place.lat, 1e7),
            lon: rounded(place.lon, 1e7),
            alt_m: Some(rounded(alt_m, 10.0)),
            speed_mps: Some(if stands { 0.0 } else { rounded(speed_mps, 100.0) }),
            course_deg: (!stands).then(|| rounded(course_deg.rem_euclid(360.0), 10.0) % 360.0),
            hdop: Some(rounded(hdop, 100.0)),
            sats: Some((14.0 / hdop).round().clamp(4.0, 14.0) as u8),
            fix: FixKind::ThreeD,
        }
    }
}

/// The date of a receiver, with the weeks added back that its week number of ten bits has lost: the first date that is not
/// before `not_before_ms`, the day on which the firmware was made.
pub fn unrolled_ms(ts_ms: i64, not_before_ms: i64) -> i64 {
    let short_ms = not_before_ms.saturating_sub(ts_ms).max(0);
    let rollovers = (short_ms + ROLLOVER_MS - 1) / ROLLOVER_MS;
    ts_ms.saturating_add(rollovers * ROLLOVER_MS)
}

/// Cuts a number to the digits that a receiver prints.
fn rounded(value: f64, per_unit: f64) -> f64 {
    (value * per_unit).round() / per_unit
}

/// A number of the standard normal distribution (Box–Muller).
fn gauss(chance: &mut fastrand::Rng) -> f64 {
    let (u, v) = (1.0 - chance.f64(), chance.f64());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracks::corridor::{Watcher, WatcherOptions};
    use tracks::filter::{Filter, FilterOptions};

    use super::*;
    use crate::motion::{Drive, DriveOptions};
    use crate::route;

    const START_MS: i64 = 1_800_000_000_000;

    /// Every second of a drive and ten minutes after it, as it was and as it was seen.
    fn drive(route: &str, options: ReceiverOptions, seed: u64) -> Vec<(Truth, Option<Fix>)> {
        let line = route::builtin_named(route).unwrap().line;
        let mut drive = Drive::new(&line, DriveOptions::default(), seed).unwrap();
        let mut receiver = Receiver::new(options, seed);
        let mut seen = Vec::new();
        let mut after_s = 0;
        while after_s < 600 {
            let truth = drive.truth();
            seen.push((truth, receiver.observe(START_MS + 1_000 * seen.len() as i64, &truth)));
            drive.advance(1_000);
            after_s += u32::from(drive.is_finished());
        }
        seen
    }

    #[test]
    fn a_date_that_rolled_over_is_the_first_one_after_the_firmware_was_made() {
        let made_ms = START_MS - 90 * 24 * 3_600_000;
        for rollovers in 0..4 {
            assert_eq!(unrolled_ms(START_MS - rollovers * ROLLOVER_MS, made_ms), START_MS);
        }
        let back = ReceiverOptions { weeks_back: 1_024, first_fix_ms: 0, ..ReceiverOptions::default() };
        let truth = Truth { position: LatLon::new(60.0, 24.0), speed_mps: 0.0, course_deg: 0.0 };
        let fix = Receiver::new(back, 1).observe(START_MS, &truth).unwrap();
        assert_eq!((fix.ts_ms, unrolled_ms(fix.ts_ms, made_ms)), (START_MS - ROLLOVER_MS, START_MS));
    }

    #[test]
    fn a_receiver_that_was_switched_off_needs_its_time_again() {
        let truth = Truth { position: LatLon::new(60.0, 24.0), speed_mps: 0.0, course_deg: 0.0 };
        let mut receiver = Receiver::new(ReceiverOptions::default(), 1);
        let mut at = |second: i64| receiver.observe(START_MS + 1_000 * second, &truth).is_some();
        assert_eq!((at(0), at(3), at(4)), (false, false, true));
        receiver.switch_off();
        let mut at = |second: i64| receiver.observe(START_MS + 1_000 * second, &truth).is_some();
        assert_eq!((at(10), at(13), at(14)), (false, false, true));
    }

    #[test]
    fn white_noise_shows_between_neighbours_and_drift_does_not() {
        let truth = Truth { position: LatLon::new(60.0, 24.0), speed_mps: 0.0, course_deg: 0.0 };
        let step_m = |white_m, drift_m| {
            let options = ReceiverOptions { white_m, drift_m, first_fix_ms: 0, ..ReceiverOptions::default() };
            let mut receiver = Receiver::new(options, 3);
            let fixes: Vec<_> =
                (0..500).filter_map(|s| receiver.observe(START_MS + 1_000 * s, &truth)).collect();
            let steps = fixes.windows(2).map(|two| two[0].position().distance_m(two[1].position()));
            steps.sum::<f64>() / 499.0
        };
        assert!((3.0..12.0).contains(&step_m(3.5, 0.0)), "{}", step_m(3.5, 0.0));
        assert!(step_m(0.0, 3.5) < 2.5, "{}", step_m(0.0, 3.5));
    }

    fn errors_m(seen: &[(Truth, Option<Fix>)]) -> Vec<f64> {
        seen.iter()
            .filter_map(|(truth, fix)| Some(truth.position.distance_m(fix.as_ref()?.position())))
            .collect()
    }

    #[test]
    fn the_same_seed_sees_the_same_and_another_does_not() {
        let of = |seed| drive("route-1", ReceiverOptions::default(), seed);
        assert_eq!(of(11), of(11));
        assert_ne!(of(11), of(12));
    }

    #[test]
    fn without_reflections_the_error_has_the_size_that_hdop_says_and_drifts_slowly() {
        let options = ReceiverOptions { jump_every_s: 0.0, ..ReceiverOptions::default() };
        let mut squares = Vec::new();
        let mut promised = Vec::new();
        let mut steps = Vec::new();
        for seed in 0..20 {
            let seen = drive("route-6", options.clone(), seed);
            promised.extend(seen.iter().filter_map(|(_, fix)| Some(fix.as_ref()?.sigma_m().powi(2))));
            let errors = errors_m(&seen);
            squares.extend(errors.iter().map(|e| e * e));
            steps.extend(errors.windows(2).map(|pair| (pair[1] - pair[0]).powi(2)));
        }
        let mean = |of: &[f64]| (of.iter().sum::<f64>() / of.len() as f64).sqrt();
        let (size_m, promised_m, step_m) = (mean(&squares), mean(&promised), mean(&steps));
        assert!((0.8..1.2).contains(&(size_m / promised_m)), "{size_m} m, promised {promised_m} m");
        assert!(step_m < size_m / 3.0, "{step_m} m a second against {size_m} m");
    }

    #[test]
    fn reflections_of_60_m_last_several_fixes_and_some_go_unnoticed() {
        let (mut noticed, mut unnoticed) = (0, 0);
        for seed in 0..20 {
            let seen = drive("route-7", ReceiverOptions::default(), seed);
            for (truth, fix) in &seen {
                let Some(fix) = fix else { continue };
                if truth.position.distance_m(fix.position()) > 45.0 {
                    *if fix.hdop.unwrap() > 5.0 { &mut noticed } else { &mut unnoticed } += 1;
                }
            }
        }
        assert!(noticed > 100 && unnoticed > 20, "{noticed} {unnoticed}");
    }

    #[test]
    fn there_is_no_fix_before_the_first_and_speed_0_without_course_when_parked() {
        let seen = drive("route-1", ReceiverOptions { first_fix_ms: 7_000, ..ReceiverOptions::default() }, 1);
        assert!(
            seen[..7].iter().all(|(_, fix)| fix.is_none()) && seen[7..].iter().all(|(_, fix)| fix.is_some())
        );
        let parked = seen.last().unwrap().1.as_ref().unwrap();
        assert_eq!((parked.speed_mps, parked.course_deg), (Some(0.0), None));
        for (truth, fix) in &seen[7..] {
            let fix = fix.as_ref().unwrap();
            assert_eq!(fix.speed_mps == Some(0.0), truth.speed_mps == 0.0, "{truth:?}");
            assert!((fix.speed_mps.unwrap() - truth.speed_mps).abs() < 0.6);
        }
        let error_m = seen
            .iter()
            .rev()
            .take(500)
            .map(|(truth, fix)| fix.as_ref().unwrap().position().distance_m(truth.position));
        assert!(error_m.fold(0.0, f64::max) < 30.0, "a reflection began while parked");
    }

    #[test]
    fn with_all_the_noise_a_truck_on_its_route_is_never_taken_to_be_off_it() {
        for route in route::builtin() {
            let corridor = Arc::new(route.corridor());
            for seed in 0..50 {
                let mut filter = Filter::new(FilterOptions::default());
                let mut watcher = Watcher::new(corridor.clone(), WatcherOptions::default());
                let mut refused = 0;
                for (_, fix) in drive(&route.name, ReceiverOptions::default(), seed) {
                    let Some(fix) = fix else { continue };
                    match filter.push(&fix, fix.ts_ms) {
                        Ok(estimate) => {
                            assert_eq!(watcher.push(&estimate.fix(&fix)), [], "{} seed {seed}", route.name);
                        }
                        Err(_) => refused += 1,
                    }
                }
                assert!(refused < 150, "{} seed {seed}: {refused} fixes refused", route.name);
            }
        }
    }
}
