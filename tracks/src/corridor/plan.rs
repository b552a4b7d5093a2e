//! The plan: a line, how far a vehicle may be beside it, and where it should be when.

use std::ops::RangeInclusive;

use crate::geodesy::LatLon;
use crate::route::{Nearest, Polyline};

/// The most waypoints a plan may have.
pub const WAYPOINTS_MAX: usize = 10_000;

/// The widest a corridor may be on either side, in metres.
const HALF_WIDTH_MAX_M: f64 = 100_000.0;

/// Why a corridor cannot be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CorridorError {
    /// The width is not a length.
    #[error(
        "the half width of a corridor must be a number of metres above 0 and up to 100000, not {half_width_m}"
    )]
    HalfWidth {
        /// What was given.
        half_width_m: f64,
    },
    /// The stretches do not follow each other.
    #[error(
        "stretch {index} begins at {from_m} m: stretches begin at numbers of metres above 0 that grow from one to the next"
    )]
    Stretch {
        /// Which, counted from 0.
        index: usize,
        /// Where it begins.
        from_m: f64,
    },
    /// Too many waypoints.
    #[error("a plan may have at most {WAYPOINTS_MAX} waypoints, this one has {waypoints}")]
    TooManyWaypoints {
        /// How many there were.
        waypoints: usize,
    },
    /// The waypoint is not on the line, or comes before the one before it.
    #[error(
        "waypoint {index} at {along_m} m: waypoints are given in their order, from 0 to the line's {length_m:.0} m"
    )]
    Waypoint {
        /// Which, counted from 0.
        index: usize,
        /// Where it is.
        along_m: f64,
        /// The length of the line.
        length_m: f64,
    },
}

/// A place along the plan that the vehicle is to come to.
#[derive(Debug, Clone, PartialEq)]
pub struct Waypoint {
    /// How far along the line, in metres.
    pub along_m: f64,
    /// How near is near enough, in metres; it may stand there.
    pub radius_m: f64,
    /// When it is to be there, in milliseconds since the Unix epoch.
    pub due_ms: Option<RangeInclusive<i64>>,
}

/// A planned route and how far a vehicle may be from it.
#[derive(Debug, Clone)]
pub struct Corridor {
    line: Polyline,
    half_width_m: f64,
    half_width_max_m: f64,
    /// Where stretches of other widths begin, in metres along the line, growing; the line has points there.
    stretches: Vec<(f64, f64)>,
    waypoints: Vec<Waypoint>,
}

impl Corridor {
    /// Makes a corridor of `half_width_m` metres on either side of a line.
    ///
    /// # Errors
    /// A half width that is not above 0 and at most 100 km.
    pub fn new(line: Polyline, half_width_m: f64) -> Result<Corridor, CorridorError> {
        check_half_width(half_width_m)?;
        let (stretches, waypoints) = (Vec::new(), Vec::new());
        Ok(Corridor { line, half_width_m, half_width_max_m: half_width_m, stretches, waypoints })
    }

    /// Gives stretches other widths: each begins at so many metres along the line and has so many metres on either side.
    ///
    /// # Errors
    /// A half width as in [`Corridor::new`]; stretches that do not follow each other.
    pub fn with_stretches(mut self, stretches: Vec<(f64, f64)>) -> Result<Corridor, CorridorError> {
        let mut before_m = 0.0;
        for (index, &(from_m, half_width_m)) in stretches.iter().enumerate() {
            check_half_width(half_width_m)?;
            if from_m.is_nan() || from_m <= before_m {
                return Err(CorridorError::Stretch { index, from_m });
            }
            before_m = from_m;
            self.half_width_max_m = self.half_width_max_m.max(half_width_m);
        }
        self.line = self.line.with_points_at(stretches.iter().map(|&(from_m, _)| from_m));
        self.stretches = stretches;
        Ok(self)
    }

    /// Gives the plan its waypoints, in their order along the line.
    ///
    /// # Errors
    /// Waypoints beside the line or out of order, or more than [`WAYPOINTS_MAX`].
    pub fn with_waypoints(mut self, waypoints: Vec<Waypoint>) -> Result<Corridor, CorridorError> {
        if waypoints.len() > WAYPOINTS_MAX {
            return Err(CorridorError::TooManyWaypoints { waypoints: waypoints.len() });
        }
        let (mut before_m, length_m) = (0.0, self.line.length_m());
        for (index, waypoint) in waypoints.iter().enumerate() {
            let along_m = waypoint.along_m;
            if !(before_m..=length_m).contains(&along_m) {
                return Err(CorridorError::Waypoint { index, along_m, length_m });
            }
            before_m = along_m;
        }
        self.waypoints = waypoints;
        Ok(self)
    }

    /// The planned route.
    pub fn line(&self) -> &Polyline {
        &self.line
    }

    /// How far a vehicle may be from the line where no stretch says otherwise, in metres.
    pub fn half_width_m(&self) -> f64 {
        self.half_width_m
    }

    /// How far a vehicle may be from the line at a distance along it, in metres.
    pub fn half_width_at_m(&self, along_m: f64) -> f64 {
        let stretch = self.stretches.partition_point(|&(from_m, _)| from_m <= along_m);
        stretch.checked_sub(1).map_or(self.half_width_m, |index| self.stretches[index].1)
    }

    /// The waypoints, in their order.
    pub fn waypoints(&self) -> &[Waypoint] {
        &self.waypoints
    }

    /// The point of the line for which a place is the least far outside, and half the width there.
    pub(crate) fn nearest(&self, place: LatLon) -> (Nearest, f64) {
        if self.stretches.is_empty() {
            return (self.line.nearest(place), self.half_width_m);
        }
        // Of two stretches that meet the one that was looked at counts: its middle is in no other.
        let width_m = |middle_m: f64| self.half_width_at_m(middle_m);
        let (nearest, middle_m) = self.line.nearest_less(place, self.half_width_max_m, width_m);
        (nearest, self.half_width_at_m(middle_m))
    }
}

fn check_half_width(half_width_m: f64) -> Result<(), CorridorError> {
    if half_width_m > 0.0 && half_width_m <= HALF_WIDTH_MAX_M {
        return Ok(());
    }
    Err(CorridorError::HalfWidth { half_width_m })
}
