//! The stop lock: a parked vehicle does not move, whatever the noise of its receiver does.
//!
//! ```text
//!                a minute (standing by Doppler: 10 s) within reach of one place
//!        driving -------------------------------------------------------------> parked
//!                <-------------------------------------------------------------
//!                away from it and driving by Doppler, or far away, or away for long
//! ```
//! While it is parked the place is the mean of the fixes. Reflections move fixes by tens of metres for a while; so without
//! a reported speed only what is far away, or away for two minutes, has left.

use super::body::{Body, Seen, Spot, length, moved, offset_m};
use super::odometer::Odometer;
use crate::geodesy::LatLon;

/// How far from the mean a vehicle that stands may seem to be, at least, in metres …
const REACH_M: f32 = 15.0;
/// … and in standard deviations of the fix.
const REACH_SIGMAS: f32 = 2.5;
/// The same for a vehicle that has parked.
const LEAVE_M: f32 = 25.0;
const LEAVE_SIGMAS: f32 = 5.0;
/// Further away than any reflection puts it, in metres.
const FAR_M: f32 = 150.0;
/// How long a vehicle is away before it has left although it does not seem to drive, in seconds.
const AWAY_S: f32 = 120.0;
/// The same if its receiver says all the time that it stands.
const AWAY_STANDING_S: f32 = 600.0;
/// How long it takes to have parked, and if the receiver says that it stands.
const PARKED_AFTER_MS: i64 = 60_000;
const STANDING_AFTER_MS: i64 = 10_000;
/// Reported speeds of a vehicle that stands, and of one that drives, in metres a second.
const STANDING_MPS: f32 = 0.5;
const DRIVING_MPS: f32 = 1.5;
/// Fixes that must say the same, where they come more often than [`SPARSE_S`].
const CONFIRM: u8 = 3;
const SPARSE_S: f32 = 5.0;
/// How many fixes the mean remembers.
const MEAN_MAX: u16 = 1_000;

/// Where the vehicle stands, or may come to stand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stop {
    pub(crate) anchor: LatLon,
    /// Where it began to stand, and the odometer there.
    start: Spot,
    start_total_m: f64,
    pub(crate) since_ms: i64,
    away_s: f32,
    fixes: u16,
    /// Fixes in a row with a reported speed of nothing; while parked, fixes in a row away from the place.
    row: u8,
    pub(crate) is_parked: bool,
}

impl Stop {
    pub(crate) fn at(body: &Body, odometer: &Odometer) -> Stop {
        Stop {
            anchor: body.place,
            start: Spot::of(body.place),
            start_total_m: odometer.total_at_m(body.place),
            since_ms: body.ts_ms,
            away_s: 0.0,
            fixes: 1,
            row: 0,
            is_parked: false,
        }
    }

    /// Takes a fix that the body has taken, `elapsed_s` after the one before it, and corrects the odometer.
    pub(crate) fn push(&mut self, seen: &Seen, body: &Body, odometer: &mut Odometer, elapsed_s: f32) {
        if self.is_parked {
            if self.has_left(seen, elapsed_s) {
                *odometer = Odometer::at(self.anchor, odometer.total_m);
                *self = Stop::at(body, odometer);
            }
            return;
        }
        let away_m = length(offset_m(self.anchor, body.place));
        let drives = seen.speed_mps.is_some_and(|speed| speed > DRIVING_MPS);
        if drives || away_m > REACH_M.max(REACH_SIGMAS * seen.sigma_m) {
            *self = Stop::at(body, odometer);
            return;
        }
        self.settle(seen);
        let stands = seen.speed_mps.is_some_and(|speed| speed < STANDING_MPS);
        self.row = if stands { self.row.saturating_add(1) } else { 0 };
        let since_ms = seen.ts_ms.saturating_sub(self.since_ms);
        let by_speed = self.row >= CONFIRM && since_ms >= STANDING_AFTER_MS;
        if by_speed || self.fixes >= u16::from(CONFIRM) && since_ms >= PARKED_AFTER_MS {
            let last_m = f64::from(length(offset_m(self.start.place(), self.anchor)));
            *odometer = Odometer::at(self.anchor, self.start_total_m + last_m);
            (self.is_parked, self.row) = (true, 0);
        }
    }

    fn settle(&mut self, seen: &Seen) {
        self.fixes = (self.fixes + 1).min(MEAN_MAX);
        let (east, north) = offset_m(self.anchor, seen.place);
        let share = 1.0 / f32::from(self.fixes);
        self.anchor = moved(self.anchor, (share * east, share * north));
    }

    fn has_left(&mut self, seen: &Seen, elapsed_s: f32) -> bool {
        let away_m = length(offset_m(self.anchor, seen.place));
        // Reflections hardly change what Doppler says: who drives, even round in a circle, has left.
        let drives = seen.speed_mps.is_some_and(|speed| speed > DRIVING_MPS);
        if !drives && away_m <= LEAVE_M.max(LEAVE_SIGMAS * seen.sigma_m) {
            self.row = 0;
            self.settle(seen);
            return false;
        }
        self.away_s = if self.row == 0 { 0.0 } else { self.away_s + elapsed_s };
        self.row = self.row.saturating_add(1);
        let confirmed = self.row >= CONFIRM || elapsed_s >= SPARSE_S;
        let is_far = away_m > FAR_M + LEAVE_SIGMAS * seen.sigma_m;
        match seen.speed_mps {
            Some(_) if drives => confirmed,
            Some(speed) if speed < STANDING_MPS => self.away_s >= AWAY_STANDING_S,
            _ => confirmed && is_far || self.row >= CONFIRM && self.away_s >= AWAY_S,
        }
    }
}
