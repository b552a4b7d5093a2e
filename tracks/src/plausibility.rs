//! What can be true of a fix: the limits, and the reasons for which a fix is refused.
//!
//! Rules about the fix alone: on Earth, computed by the receiver, precise enough, not from the future. Rules about the way
//! from the last fix are applied by [`crate::filter`], with the possible distances from here.

use crate::fix::{Fix, FixKind};

/// How many standard deviations of both fixes together are added to the possible distance.
const SIGMAS: f64 = 2.0;

/// How wrong a reported velocity may be, in metres a second.
const VELOCITY_ERROR_MPS: f64 = 2.0;
/// How fast a velocity may change between two fixes, in metres a second squared (a car that brakes hard does 8).
const ACCELERATION_MAX_MPS2: f64 = 6.0;

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

/// How far off the way of the mean of two reported velocities a vehicle can be between them, fixes' accuracy apart.
///
/// Between two velocities an acceleration of at most A moves a body at most A t² / 4 off the mean's way.
pub(crate) fn possible_drift_m(elapsed_s: f64) -> f64 {
    VELOCITY_ERROR_MPS * elapsed_s + ACCELERATION_MAX_MPS2 * elapsed_s * elapsed_s / 4.0
}

/// What the accuracy of two fixes adds to the distance that is possible between them.
pub(crate) fn accuracy_m(from_sigma_m: f64, to_sigma_m: f64) -> f64 {
    SIGMAS * from_sigma_m.hypot(to_sigma_m)
}
