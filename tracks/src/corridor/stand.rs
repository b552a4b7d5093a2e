//! Whether a vehicle stands, from its fixes alone.

use crate::fix::Fix;
use crate::geodesy::LatLon;

/// How far a vehicle that stands may seem to move, at least, in metres, and in standard deviations of the fix.
const REACH_M: f64 = 30.0;
const REACH_SIGMAS: f64 = 3.0;

/// Where a vehicle has been for a while.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stand {
    pub(super) place: LatLon,
    pub(super) since_ms: i64,
    pub(super) is_told: bool,
}

impl Stand {
    pub(super) fn at(fix: &Fix) -> Stand {
        Stand { place: fix.position(), since_ms: fix.ts_ms, is_told: false }
    }

    pub(super) fn is_left_by(&self, fix: &Fix) -> bool {
        self.place.distance_m(fix.position()) > REACH_M.max(REACH_SIGMAS * fix.sigma_m())
    }
}
