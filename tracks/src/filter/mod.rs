//! From what a receiver says to where a vehicle is: the gate, a Kalman filter with two guesses, the stop lock and the
//! odometer, in one small state a device.
//!
//! A fix is held against the first guess. What cannot be true after it (too far for the time, against the reported velocity,
//! improbable by χ², or a place that was left already) goes to the second guess:
//!
//! ```text
//!   fits the first guess --------------------------> accepted
//!   else fits the second ----> as often as needed -> the second becomes the first: accepted
//!                         \--> not yet ------------> rejected
//!   fits none ---------------> begins a second ----> rejected
//! ```
//!
//! - A persistent jump is adopted after [`GateOptions::adopt_after`] fixes; a young first guess gives way sooner, the very
//!   first fix to two, or at once to a more exact one.
//! - An accepted fix that was improbable leaves the guess without it behind as the second one: if it was wrong, the next
//!   fix fits there, and is accepted at once.
//! - Fixes that fit the first guess take its count from the second one, unless they repeat an old place to the centimetre:
//!   a tracker that alternates between true and stale places is seen through.
//!
//! Fixes must come in the order of their time; [`Replay`] takes them as they come.

mod body;
mod late;
mod odometer;
mod stop;
#[cfg(test)]
mod tests;

use std::num::NonZeroU16;
use std::sync::Arc;

pub use late::{LATE_FIXES_MAX, Replay};

pub(crate) use body::{Body, Seen};
use body::{Spot, Vector, length, offset_m};
use odometer::{MOVES_MPS, Odometer};
use stop::Stop;

use crate::fix::Fix;
use crate::geodesy::LatLon;
use crate::plausibility::{GateOptions, Rejected, accuracy_m, possible_drift_m};

/// Above this χ² a fix is accepted with suspicion: one in fifty true ones.
const SUSPICIOUS_CHI2: f32 = 7.8;
/// So is one this far from where it was expected, however long ago that was, in metres.
const SUSPICIOUS_M: f32 = 100.0;
/// For how many accepted fixes a suspicion lasts.
const SUSPICION_FIXES: u16 = 3;
/// A first guess with fewer fixes than this is no reason for suspicion.
const SETTLED_FIXES: u16 = 3;
/// A fix with less than this share of another's error is better.
const BETTER_SHARE: f32 = 0.8;
/// A vehicle faster than this does not come back to the same centimetre, in metres a second.
const NO_RETURN_MPS: f32 = 1.5;
/// The shortest step of the odometer in metres, and in standard deviations of the guess.
const STEP_M: f32 = 10.0;
const STEP_SIGMAS: f32 = 1.0;
/// Below this speed there is no course, in metres a second.
const COURSE_FROM_MPS: f32 = 1.0;
/// Below this reported speed a vehicle stands, whatever its course.
const STANDS_MPS: f64 = 1.0;
/// After how many fixes in a row that agree with their reported velocity the reports are believed again.
const VELOCITY_TRUST_AFTER: u8 = 60;

/// How a filter judges.
#[derive(Debug, Clone, PartialEq)]
pub struct FilterOptions {
    /// The limits of single fixes and of speed.
    pub gate: GateOptions,
    /// The highest χ² (two degrees of freedom) of a fix's distance from where it was expected.
    pub chi2_max: f32,
    /// Whether the place of a parked vehicle is held.
    pub stop_lock: bool,
}

impl Default for FilterOptions {
    /// The gate's defaults; 13.8, which one true fix in a thousand exceeds; yes.
    fn default() -> FilterOptions {
        FilterOptions { gate: GateOptions::default(), chi2_max: 13.8, stop_lock: true }
    }
}

/// Where a vehicle is and how it moves, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Time of the fix, in milliseconds since the Unix epoch.
    pub ts_ms: i64,
    /// Where the vehicle is.
    pub position: LatLon,
    /// How exact that is: one standard deviation in metres, as far as errors of fixes are independent (those of one minute
    /// are not: for thresholds take [`Fix::sigma_m`]).
    pub sigma_m: f64,
    /// Its speed in metres a second; 0 while it is parked.
    pub speed_mps: f64,
    /// Its course in degrees from true north, if it moves.
    pub course_deg: Option<f64>,
    /// Since when it is parked, in milliseconds since the Unix epoch.
    pub parked_since_ms: Option<i64>,
    /// Metres driven since the first fix. It may step back a little when what was believed turns out wrong.
    pub odometer_m: f64,
    /// What this fix changed about those before it.
    pub revised: Revised,
}

/// What a fix changed about those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revised {
    /// Nothing.
    Nothing,
    /// It was the last of some that were rejected and are now believed.
    Adopted {
        /// Time of the first of them, in milliseconds since the Unix epoch.
        since_ms: i64,
    },
    /// What was accepted after this time is not believed any more.
    Undone {
        /// Time of the last fix that still is, in milliseconds since the Unix epoch.
        since_ms: i64,
    },
}

impl Estimate {
    /// The fix with the place, speed and course of the estimate, and the accuracy that the receiver gave: what watchers take.
    pub fn fix(&self, fix: &Fix) -> Fix {
        Fix {
            lat: self.position.lat,
            lon: self.position.lon,
            speed_mps: Some(self.speed_mps),
            course_deg: self.course_deg,
            ..fix.clone()
        }
    }
}

/// The state of one device: at most 256 bytes.
#[derive(Debug, Clone)]
pub struct Filter {
    options: Arc<FilterOptions>,
    first: Option<Body>,
    odometer: Odometer,
    second: Option<Second>,
    stop: Option<Stop>,
    /// What the last accepted fix said of its velocity.
    reported: Reported,
    /// The place before the last one, and one that came back.
    older: Spot,
    stale: Spot,
    /// Fixes in a row that agreed with their reported velocity; below [`VELOCITY_TRUST_AFTER`] it is not asked.
    velocity_agreed: u8,
}

#[derive(Debug, Clone, Copy)]
struct Second {
    body: Body,
    /// The odometer there.
    total_m: f64,
    /// Seconds from its first fix to its last.
    age_s: f32,
    /// Fixes in a row that fitted it and not the first guess.
    row: u16,
    /// For how many more accepted fixes the first guess is under suspicion; 0 for a guess that nothing vouches for.
    suspicion: u16,
}

#[derive(Debug, Clone, Copy)]
struct Reported {
    velocity_mps: Vector,
    speed_mps: f32,
    sigma_m: f32,
}

impl Reported {
    /// Not a number stands for what was not said.
    const NOTHING: Reported =
        Reported { velocity_mps: (f32::NAN, f32::NAN), speed_mps: f32::NAN, sigma_m: 0.0 };
}

/// A place where nobody is: beyond the pole.
const NOWHERE: LatLon = LatLon::new(200.0, 0.0);

impl Filter {
    /// Makes a filter that has seen nothing.
    pub fn new(options: impl Into<Arc<FilterOptions>>) -> Filter {
        Filter {
            options: options.into(),
            first: None,
            odometer: Odometer::at(NOWHERE, 0.0),
            second: None,
            stop: None,
            reported: Reported::NOTHING,
            older: Spot::of(NOWHERE),
            stale: Spot::of(NOWHERE),
            velocity_agreed: VELOCITY_TRUST_AFTER,
        }
    }

    /// Takes the next fix of the device; `now_ms` is the host's time in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// The rule that the fix breaks, with the values. The fix is then not to be used.
    pub fn push(&mut self, fix: &Fix, now_ms: i64) -> Result<Estimate, Rejected> {
        self.options.gate.check_alone(fix, now_ms)?;
        let seen = Seen::from(fix);
        let Some(first) = self.first else {
            self.begin(&seen);
            return Ok(self.estimate(Revised::Nothing).expect("it has just begun"));
        };
        if seen.ts_ms <= first.ts_ms {
            let rejected = Rejected::NotNewer { ts_ms: seen.ts_ms, last_ts_ms: first.ts_ms };
            // An old fix that arrives again is no evidence against the last one; a last one that is still ahead of the
            // host's clock may itself have had the wrong time.
            return if first.ts_ms > now_ms { self.doubt(&first, &seen, rejected) } else { Err(rejected) };
        }
        let predicted =
            if self.trusts_velocity() { first.predicted_with(&seen) } else { first.predicted(seen.ts_ms) };
        match self.judge(&first, &predicted, &seen) {
            Ok(chi2) => {
                self.accept(first, predicted, &seen, chi2);
                Ok(self.estimate(Revised::Nothing).expect("it has a guess"))
            }
            Err(rejected) => self.doubt(&first, &seen, rejected),
        }
    }

    fn newest_ms(&self) -> Option<i64> {
        self.first.map(|body| body.ts_ms)
    }

    /// What is known after the last accepted fix.
    pub fn last(&self) -> Option<Estimate> {
        self.estimate(Revised::Nothing)
    }

    /// Whether reported velocities have been agreeing with the places.
    pub(crate) fn trusts_velocity(&self) -> bool {
        self.velocity_agreed >= VELOCITY_TRUST_AFTER
    }

    fn begin(&mut self, seen: &Seen) {
        let body = Body::at(seen);
        self.odometer = Odometer::at(seen.place, 0.0);
        self.stop = self.options.stop_lock.then(|| Stop::at(&body, &self.odometer));
        self.first = Some(body);
        self.reported = Reported::of(seen);
    }

    fn judge(&self, first: &Body, predicted: &Body, seen: &Seen) -> Result<f32, Rejected> {
        self.check_speed_max(first, seen)?;
        if self.trusts_velocity() {
            self.check_reported_velocity(first, seen)?;
        }
        let spot = Spot::of(seen.place);
        if spot != first.raw && spot == self.stale {
            let speed_mps = seen.speed_mps.unwrap_or(0.0).max(first.speed_mps());
            if speed_mps > NO_RETURN_MPS {
                return Err(Rejected::Stale { lat: seen.place.lat, lon: seen.place.lon });
            }
        }
        let chi2 = predicted.chi2(seen);
        if chi2 > self.options.chi2_max {
            let (chi2, limit) = (f64::from(chi2), f64::from(self.options.chi2_max));
            let off_m = f64::from(length(offset_m(predicted.place, seen.place)));
            return Err(Rejected::Improbable { off_m, chi2, limit });
        }
        Ok(chi2)
    }

    fn check_speed_max(&self, from: &Body, seen: &Seen) -> Result<(), Rejected> {
        let elapsed_ms = seen.ts_ms.saturating_sub(from.ts_ms);
        let distance_m = f64::from(length(offset_m(from.place, seen.place)));
        let limit_mps = self.options.gate.speed_max_mps;
        let accuracy_m = accuracy_m(f64::from(self.reported.sigma_m), f64::from(seen.sigma_m));
        let possible_m = limit_mps * elapsed_ms as f64 / 1_000.0 + accuracy_m;
        if distance_m <= possible_m {
            return Ok(());
        }
        // East is not as long at the other end of a way this long: now it must be exact.
        let distance_m = from.place.distance_m(seen.place);
        if distance_m <= possible_m {
            return Ok(());
        }
        Err(Rejected::TooFast { distance_m, elapsed_ms, limit_mps, possible_m })
    }

    /// Compares the way with the mean of the velocities reported at both ends.
    fn check_reported_velocity(&self, first: &Body, seen: &Seen) -> Result<(), Rejected> {
        let elapsed_s = first.elapsed_s(seen.ts_ms);
        let (east, north) = offset_m(first.raw.place(), seen.place);
        let before = &self.reported;
        let off_m = match (seen.velocity_mps, seen.speed_mps) {
            (Some(velocity), _) if !before.velocity_mps.0.is_nan() => {
                let mean = |a: f32, b: f32| (a + b) / 2.0 * elapsed_s;
                length((
                    east - mean(before.velocity_mps.0, velocity.0),
                    north - mean(before.velocity_mps.1, velocity.1),
                ))
            }
            // Without a course a vehicle may have gone anywhere at that speed.
            (_, Some(speed)) if !before.speed_mps.is_nan() => {
                length((east, north)) - (before.speed_mps + speed) / 2.0 * elapsed_s
            }
            _ => return Ok(()),
        };
        let possible_m = possible_drift_m(f64::from(elapsed_s))
            + accuracy_m(f64::from(before.sigma_m), f64::from(seen.sigma_m));
        let off_m = f64::from(off_m);
        if off_m <= possible_m {
            return Ok(());
        }
        let elapsed_ms = seen.ts_ms.saturating_sub(first.ts_ms);
        Err(Rejected::AgainstItsVelocity { off_m, elapsed_ms, possible_m })
    }

    fn accept(&mut self, before: Body, predicted: Body, seen: &Seen, chi2: f32) {
        let agrees = self.check_reported_velocity(&before, seen).is_ok();
        self.velocity_agreed =
            if agrees { self.velocity_agreed.saturating_add(1).min(VELOCITY_TRUST_AFTER) } else { 0 };
        let is_new = Spot::of(seen.place) != before.raw;
        let off_m = length(offset_m(predicted.place, seen.place));
        let is_odd = chi2 > SUSPICIOUS_CHI2 || off_m > SUSPICIOUS_M;
        if is_odd && before.hits.get() >= SETTLED_FIXES {
            let total_m = self.odometer.total_m;
            self.second =
                Some(Second { body: before, total_m, age_s: 0.0, row: 0, suspicion: SUSPICION_FIXES });
        } else if let Some(second) = &mut self.second {
            match second.suspicion {
                0 if is_new => second.row = 0,
                0 => {}
                1 => self.second = None,
                _ => second.suspicion -= 1,
            }
        }
        if is_new {
            // Who turns round comes by a place once more; it takes a tracker to come back to it again and again.
            if Spot::of(seen.place) == self.older {
                self.stale = self.older;
            }
            self.older = before.raw;
        }
        let mut body = predicted;
        body.take(seen);
        self.go_on(&body, seen, before.elapsed_s(seen.ts_ms));
        self.first = Some(body);
        self.reported = Reported::of(seen);
    }

    /// Drives the odometer and the stop lock.
    fn go_on(&mut self, body: &Body, seen: &Seen, elapsed_s: f32) {
        if let Some(stop) = &mut self.stop {
            stop.push(seen, body, &mut self.odometer, elapsed_s);
            if stop.is_parked {
                return;
            }
        }
        let step_m = STEP_M.max(STEP_SIGMAS * body.sigma_m());
        let knows_course = self.trusts_velocity() && seen.velocity_mps.is_some();
        self.odometer.advance(body.place, body.velocity_mps, elapsed_s, step_m, knows_course);
    }

    /// Rejects a fix that contradicts the first guess, unless the second one now has more for it.
    fn doubt(&mut self, first: &Body, seen: &Seen, rejected: Rejected) -> Result<Estimate, Rejected> {
        let spot = Spot::of(seen.place);
        if matches!(rejected, Rejected::Stale { .. }) {
            self.stale = spot;
        }
        let adopt_after = u16::try_from(self.options.gate.adopt_after).unwrap_or(u16::MAX).max(1);
        // Of two fixes alone that contradict each other the more exact one counts, else the earlier.
        let is_better = first.hits.get() == 1 && seen.sigma_m < BETTER_SHARE * self.reported.sigma_m;
        let mut needed = if is_better { 1 } else { adopt_after.min(first.hits.get().max(2)) };
        let second = match self.second {
            // A place that is known to be stale does not vouch for what was there before.
            Some(second)
                if self.fits(&second.body, seen) && (second.suspicion == 0 || spot != self.stale) =>
            {
                if spot == second.body.raw {
                    // The same again is no news.
                    (needed, self.stale) = (adopt_after, spot);
                }
                second.with(seen)
            }
            // One that fits none does not end what has begun.
            Some(second) if second.row >= 2 && second.suspicion == 0 => {
                self.second = Some(Second { row: second.row - 1, ..second });
                return Err(rejected);
            }
            _ => Second::at(seen, first, self.odometer.total_m),
        };
        if second.suspicion == 0 && second.row < needed {
            self.second = Some(second);
            return Err(rejected);
        }
        if matches!(rejected, Rejected::AgainstItsVelocity { .. }) {
            self.velocity_agreed = 0;
        }
        let revised = if second.suspicion > 0 {
            Revised::Undone { since_ms: self.second.map_or(first.ts_ms, |second| second.body.ts_ms) }
        } else {
            // The guess holds the time of its last fix.
            let age_ms = (f64::from(second.age_s) * 1_000.0).round() as i64;
            Revised::Adopted { since_ms: seen.ts_ms.saturating_sub(age_ms) }
        };
        self.swap(first, second, seen);
        Ok(self.estimate(revised).expect("it has a guess"))
    }

    fn fits(&self, body: &Body, seen: &Seen) -> bool {
        // Reported speeds are not asked: a device whose speed is wrong must not be shut out for good.
        seen.ts_ms > body.ts_ms
            && self.check_speed_max(body, seen).is_ok()
            && body.predicted(seen.ts_ms).chi2(seen) <= self.options.chi2_max
    }

    fn swap(&mut self, first: &Body, second: Second, seen: &Seen) {
        let mut body = second.body;
        if second.suspicion == 0 {
            body.hits = NonZeroU16::new(second.row).unwrap_or(NonZeroU16::MIN);
        }
        let total_m = self.odometer.total_m;
        if self.stop.is_none_or(|stop| !stop.is_parked) {
            self.odometer = Odometer::at(body.place, second.total_m);
        }
        self.go_on(&body, seen, 0.0);
        self.first = Some(body);
        self.second = Some(Second { body: *first, total_m, age_s: 0.0, row: 0, suspicion: 0 });
        self.reported = Reported { sigma_m: seen.sigma_m, ..Reported::NOTHING };
    }

    fn estimate(&self, revised: Revised) -> Option<Estimate> {
        let body = self.first?;
        let parked = self.stop.filter(|stop| stop.is_parked);
        let (east, north) = body.velocity_mps;
        let speed_mps = if parked.is_some() { 0.0 } else { body.speed_mps() };
        let course_deg = f64::from(east.atan2(north).to_degrees().rem_euclid(360.0)) % 360.0;
        Some(Estimate {
            ts_ms: body.ts_ms,
            position: parked.map_or(body.place, |stop| stop.anchor),
            sigma_m: f64::from(body.sigma_m()),
            speed_mps: f64::from(speed_mps),
            course_deg: (speed_mps >= COURSE_FROM_MPS).then_some(course_deg),
            parked_since_ms: parked.map(|stop| stop.since_ms),
            odometer_m: self.odometer.total_m,
            revised,
        })
    }
}

impl Second {
    /// Begins a second guess; its odometer counts no more than the first would have driven in the time.
    fn at(seen: &Seen, first: &Body, total_m: f64) -> Second {
        let chord_m = length(offset_m(first.place, seen.place));
        let driven_m = chord_m.min(first.speed_mps() * first.elapsed_s(seen.ts_ms));
        let body = Body::at(&Seen { velocity_mps: None, ..*seen });
        Second { body, total_m: total_m + f64::from(driven_m), age_s: 0.0, row: 1, suspicion: 0 }
    }

    fn with(mut self, seen: &Seen) -> Second {
        let before = self.body;
        self.body = before.predicted(seen.ts_ms);
        self.body.take(seen);
        if self.body.speed_mps() >= MOVES_MPS {
            self.total_m += f64::from(length(offset_m(before.place, self.body.place)));
        }
        (self.age_s, self.row) = (self.age_s + before.elapsed_s(seen.ts_ms), self.row.saturating_add(1));
        self
    }
}

impl Reported {
    fn of(seen: &Seen) -> Reported {
        Reported {
            velocity_mps: seen.velocity_mps.unwrap_or(Reported::NOTHING.velocity_mps),
            speed_mps: seen.speed_mps.unwrap_or(f32::NAN),
            sigma_m: seen.sigma_m,
        }
    }
}

impl From<&Fix> for Seen {
    fn from(fix: &Fix) -> Seen {
        // Some receivers say -1 where they mean "unknown".
        let speed = fix.speed_mps.filter(|v| (0.0..1e4).contains(v));
        let course = fix.course_deg.filter(|c| c.is_finite()).map(f64::to_radians);
        let velocity_mps = match (speed, course) {
            (Some(speed), _) if speed < STANDS_MPS => Some((0.0, 0.0)),
            (Some(speed), Some(course)) => {
                let (sine, cosine) = course.sin_cos();
                Some(((speed * sine) as f32, (speed * cosine) as f32))
            }
            _ => None,
        };
        Seen {
            ts_ms: fix.ts_ms,
            place: fix.position(),
            // A receiver that says it is exact to a millimetre is not believed.
            sigma_m: (fix.sigma_m() as f32).clamp(0.5, 1e6),
            velocity_mps,
            speed_mps: speed.map(|speed| speed as f32),
        }
    }
}
