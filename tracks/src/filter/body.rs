//! One guess of where a vehicle is and how it moves: a Kalman filter with constant velocity.
//!
//! East and north are filtered alike and independently, so both share one covariance of place and speed. The place is kept in
//! degrees: nothing has to be moved when a vehicle crosses a continent. Model: white acceleration of the spectral density
//! [`ACCELERATION_DENSITY`] (Bar-Shalom, Li, Kirubarajan, "Estimation with Applications to Tracking and Navigation", 6.2.2).

use std::num::NonZeroU16;

use crate::geodesy::{LatLon, METRES_PER_DEGREE, wrap_longitude_deg};

/// Spectral density of the acceleration in m²/s³: that a truck brakes, takes a corner and speeds up again between two fixes
/// 10 s apart stays probable.
const ACCELERATION_DENSITY: f32 = 8.0;
/// One standard deviation of the unknown speed of a vehicle that was seen once, in metres a second.
const SPEED_UNKNOWN_MPS: f32 = 20.0;
/// One standard deviation of each axis of a reported velocity, in metres a second.
const VELOCITY_SIGMA_MPS: f32 = 0.5;
/// Longer than this a velocity says nothing about the place, in seconds.
const PREDICT_MAX_S: f32 = 600.0;

/// East and north, in metres or metres a second.
pub(crate) type Vector = (f32, f32);

/// A place as receivers print it: ten millionths of a degree. What is equal to the centimetre is the same fix again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spot {
    lat_e7: i32,
    lon_e7: i32,
}

impl Spot {
    pub(crate) fn of(place: LatLon) -> Spot {
        // ±180° × 10⁷ fits; what is not on Earth never comes here, and would be clamped.
        Spot { lat_e7: (place.lat * 1e7).round() as i32, lon_e7: (place.lon * 1e7).round() as i32 }
    }

    pub(crate) fn place(self) -> LatLon {
        LatLon::new(f64::from(self.lat_e7) / 1e7, f64::from(self.lon_e7) / 1e7)
    }
}

/// East and north from one place to another on the plane at the first.
pub(crate) fn offset_m(from: LatLon, to: LatLon) -> Vector {
    let scale = METRES_PER_DEGREE * from.lat.to_radians().cos();
    let east = wrap_longitude_deg(to.lon - from.lon) * scale;
    (east as f32, ((to.lat - from.lat) * METRES_PER_DEGREE) as f32)
}

pub(crate) fn length(vector: Vector) -> f32 {
    vector.0.hypot(vector.1)
}

/// The place so many metres away on the same plane.
pub(crate) fn moved(from: LatLon, by_m: Vector) -> LatLon {
    // At a pole east has no meaning and stays small.
    let scale = (METRES_PER_DEGREE * from.lat.to_radians().cos()).max(1.0);
    LatLon {
        lat: (from.lat + f64::from(by_m.1) / METRES_PER_DEGREE).clamp(-90.0, 90.0),
        lon: wrap_longitude_deg(from.lon + f64::from(by_m.0) / scale),
    }
}

/// A fix as the filter takes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) ts_ms: i64,
    pub(crate) place: LatLon,
    pub(crate) sigma_m: f32,
    pub(crate) velocity_mps: Option<Vector>,
    pub(crate) speed_mps: Option<f32>,
}

/// One guess.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Body {
    pub(crate) ts_ms: i64,
    pub(crate) place: LatLon,
    pub(crate) velocity_mps: Vector,
    /// Variance of the place, covariance of place and speed, variance of the speed: of each axis.
    place_var: f32,
    cross: f32,
    speed_var: f32,
    /// The last fix that was taken.
    pub(crate) raw: Spot,
    /// Fixes in a row that fitted.
    pub(crate) hits: NonZeroU16,
}

impl Body {
    /// Begins with one fix.
    pub(crate) fn at(seen: &Seen) -> Body {
        let variance = seen.sigma_m * seen.sigma_m;
        let mut body = Body {
            ts_ms: seen.ts_ms,
            place: seen.place,
            velocity_mps: (0.0, 0.0),
            place_var: variance,
            cross: 0.0,
            speed_var: SPEED_UNKNOWN_MPS * SPEED_UNKNOWN_MPS,
            raw: Spot::of(seen.place),
            hits: NonZeroU16::MIN,
        };
        if let Some(velocity) = seen.velocity_mps {
            body.take_velocity(velocity);
        }
        body
    }

    /// One standard deviation of the place, both axes together, in metres.
    pub(crate) fn sigma_m(&self) -> f32 {
        (2.0 * self.place_var).sqrt()
    }

    pub(crate) fn speed_mps(&self) -> f32 {
        length(self.velocity_mps)
    }

    pub(crate) fn elapsed_s(&self, ts_ms: i64) -> f32 {
        // Far more than a day is as long as a day: the numbers must stay numbers.
        (ts_ms.saturating_sub(self.ts_ms).clamp(0, 86_400_000) as f32) / 1_000.0
    }

    /// This guess at the time of a fix, with what the fix says of its velocity: from it follows where the vehicle went
    /// in between, so it comes before the place.
    pub(crate) fn predicted_with(&self, seen: &Seen) -> Body {
        let mut body = self.predicted(seen.ts_ms);
        if let Some(velocity) = seen.velocity_mps {
            body.take_velocity(velocity);
        }
        body
    }

    /// This guess at a later time.
    pub(crate) fn predicted(&self, ts_ms: i64) -> Body {
        let t = self.elapsed_s(ts_ms);
        let go_s = t.min(PREDICT_MAX_S);
        let by_m = (self.velocity_mps.0 * go_s, self.velocity_mps.1 * go_s);
        let q = ACCELERATION_DENSITY;
        let place_var = self.place_var + 2.0 * self.cross * t + self.speed_var * t * t + q * t * t * t / 3.0;
        // Nothing drives faster than it might have been going unseen; a covariance must not outgrow what it is of.
        let speed_var = (self.speed_var + q * t).min(SPEED_UNKNOWN_MPS * SPEED_UNKNOWN_MPS);
        let cross =
            (self.cross + self.speed_var * t + q * t * t / 2.0).min(0.9 * (place_var * speed_var).sqrt());
        Body { ts_ms, place: moved(self.place, by_m), place_var, cross, speed_var, ..*self }
    }

    /// How improbable a place is for this guess, already predicted to the time of the fix: χ² with two degrees of freedom.
    pub(crate) fn chi2(&self, seen: &Seen) -> f32 {
        let (east, north) = offset_m(self.place, seen.place);
        (east * east + north * north) / (self.place_var + seen.sigma_m * seen.sigma_m)
    }

    /// Takes the place of a fix into a guess that was predicted to its time.
    pub(crate) fn take(&mut self, seen: &Seen) {
        let (east, north) = offset_m(self.place, seen.place);
        let sum = self.place_var + seen.sigma_m * seen.sigma_m;
        let (gain, speed_gain) = (self.place_var / sum, self.cross / sum);
        self.place = moved(self.place, (gain * east, gain * north));
        self.velocity_mps.0 += speed_gain * east;
        self.velocity_mps.1 += speed_gain * north;
        self.speed_var -= speed_gain * self.cross;
        self.cross *= 1.0 - gain;
        self.place_var *= 1.0 - gain;
        self.raw = Spot::of(seen.place);
        self.hits = self.hits.saturating_add(1);
    }

    /// Carries back what is known of the same vehicle at a later time: the step of Rauch, Tung and Striebel.
    pub(crate) fn smooth_with(&mut self, later: &Body) {
        let (t, ahead) = (self.elapsed_s(later.ts_ms), self.predicted(later.ts_ms));
        let determinant = ahead.place_var * ahead.speed_var - ahead.cross * ahead.cross;
        if determinant.is_nan() || determinant <= 0.0 {
            return;
        }
        // Gain = P Fᵀ P₊⁻¹; rows place and speed.
        let (from_place, from_speed) = (
            (self.place_var + t * self.cross, self.cross),
            (self.cross + t * self.speed_var, self.speed_var),
        );
        let row = |(a, b): Vector| {
            (
                (a * ahead.speed_var - b * ahead.cross) / determinant,
                (b * ahead.place_var - a * ahead.cross) / determinant,
            )
        };
        let (place_gain, speed_gain) = (row(from_place), row(from_speed));
        let (east, north) = offset_m(ahead.place, later.place);
        let (faster_east, faster_north) =
            (later.velocity_mps.0 - ahead.velocity_mps.0, later.velocity_mps.1 - ahead.velocity_mps.1);
        let mix = |gain: Vector, place: f32, speed: f32| gain.0 * place + gain.1 * speed;
        self.place =
            moved(self.place, (mix(place_gain, east, faster_east), mix(place_gain, north, faster_north)));
        self.velocity_mps.0 += mix(speed_gain, east, faster_east);
        self.velocity_mps.1 += mix(speed_gain, north, faster_north);
        let (place, cross, speed) =
            (later.place_var - ahead.place_var, later.cross - ahead.cross, later.speed_var - ahead.speed_var);
        let spread =
            |a: Vector, b: Vector| a.0 * (place * b.0 + cross * b.1) + a.1 * (cross * b.0 + speed * b.1);
        self.place_var = (self.place_var + spread(place_gain, place_gain)).max(0.0);
        self.cross += spread(place_gain, speed_gain);
        self.speed_var = (self.speed_var + spread(speed_gain, speed_gain)).max(0.0);
    }

    fn take_velocity(&mut self, velocity_mps: Vector) {
        let (east, north) = (velocity_mps.0 - self.velocity_mps.0, velocity_mps.1 - self.velocity_mps.1);
        let sum = self.speed_var + VELOCITY_SIGMA_MPS * VELOCITY_SIGMA_MPS;
        let (gain, place_gain) = (self.speed_var / sum, self.cross / sum);
        self.velocity_mps.0 += gain * east;
        self.velocity_mps.1 += gain * north;
        self.place = moved(self.place, (place_gain * east, place_gain * north));
        self.place_var -= place_gain * self.cross;
        self.cross *= 1.0 - gain;
        self.speed_var *= 1.0 - gain;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: LatLon = LatLon::new(60.17, 24.94);

    fn seen(at_s: i64, east_m: f64) -> Seen {
        let place = HOME.destination(90.0, east_m);
        Seen { ts_ms: at_s * 1_000, place, sigma_m: 5.0, velocity_mps: None, speed_mps: None }
    }

    #[test]
    fn a_steady_drive_is_learned_and_predicted() {
        let mut body = Body::at(&seen(0, 0.0));
        for s in 1..60 {
            body = body.predicted(s * 1_000);
            body.take(&seen(s, 15.0 * s as f64));
        }
        assert!((body.velocity_mps.0 - 15.0).abs() < 0.1 && body.velocity_mps.1.abs() < 0.1, "{body:?}");
        let later = body.predicted(69_000);
        assert!(later.place.distance_m(HOME.destination(90.0, 15.0 * 69.0)) < 3.0, "{later:?}");
        assert!(later.sigma_m() > 3.0 * body.sigma_m());
        assert!(later.chi2(&seen(69, 15.0 * 69.0)) < 0.1);
        assert!(body.predicted(60_000).chi2(&seen(60, 15.0 * 60.0 + 60.0)) > 13.8);
    }

    #[test]
    fn a_reported_velocity_counts_at_once() {
        let with = Seen { velocity_mps: Some((20.0, 0.0)), ..seen(0, 0.0) };
        let body = Body::at(&with).predicted(10_000);
        assert!((HOME.distance_m(body.place) - 200.0).abs() < 1.0, "{body:?}");
    }

    #[test]
    fn any_span_of_time_leaves_numbers() {
        let body = Body::at(&seen(0, 0.0)).predicted(i64::MAX);
        assert!(body.place.is_valid() && body.sigma_m().is_finite(), "{body:?}");
        assert!(Body::at(&seen(0, 0.0)).predicted(i64::MIN).sigma_m().is_finite());
    }
}
