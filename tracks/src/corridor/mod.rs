//! Watches whether a vehicle keeps to its planned route: where, which way round, and in time.
//!
//! A corridor is a line and half a width for each of its stretches. A fix speaks against the vehicle when it is further
//! outside than two standard deviations; it speaks for it when it is inside. What lies between says nothing. An event needs
//! several of the last fixes to say the same:
//!
//! ```text
//!            N of M further outside than 2 sigma
//!   on route ------------------------------------> off route
//!            <------------------------------------
//!            N of M nearer than return_share x half width
//! ```
//!
//! The way back needs a nearer line than the way out, so that a vehicle along the border gives one alarm and not fifty.
//! Where a vehicle is along its plan only goes on (`progress`): the two directions of a road that is driven there and
//! back are two places of the plan.

mod plan;
mod progress;
mod stand;
#[cfg(test)]
mod tests;
mod votes;
mod watcher;

pub use plan::{Corridor, CorridorError, WAYPOINTS_MAX, Waypoint};
pub use watcher::{Mark, Watcher};

use crate::geodesy::LatLon;

/// How a watcher decides.
#[derive(Debug, Clone, PartialEq)]
pub struct WatcherOptions {
    /// How many fixes must say the same; 0 counts as 1 …
    pub confirm: u32,
    /// … of how many that say anything; at most 16, at least `confirm`.
    pub of: u32,
    /// The share of the half width inside which a vehicle is back.
    pub return_share: f64,
    /// How far back along the plan a vehicle has turned round, in metres, the accuracy of its fixes apart.
    pub wrong_way_m: f64,
    /// How long a vehicle may stand where no waypoint is, in milliseconds; `None`: as long as it likes.
    pub stand_max_ms: Option<i64>,
    /// After how long without a fix it is lost, in milliseconds.
    pub lost_after_ms: i64,
}

impl Default for WatcherOptions {
    /// 3 of 4 fixes, 0.8, 60 m, 15 minutes, 2 minutes.
    fn default() -> WatcherOptions {
        WatcherOptions {
            confirm: 3,
            of: 4,
            return_share: 0.8,
            wrong_way_m: 60.0,
            stand_max_ms: Some(15 * 60_000),
            lost_after_ms: 120_000,
        }
    }
}

/// What a watcher saw happen.
#[derive(Debug, Clone, PartialEq)]
pub enum CorridorEvent {
    /// The vehicle has left the corridor.
    Deviated {
        /// Time of the fix that confirmed it, in milliseconds since the Unix epoch.
        ts_ms: i64,
        /// Time of the first fix outside.
        since_ts_ms: i64,
        /// Where the vehicle is.
        position: LatLon,
        /// How far it is from the line, in metres.
        distance_m: f64,
        /// How far it might have been, with the accuracy of the fix counted, in metres.
        threshold_m: f64,
        /// How far along the route the nearest point is, in metres.
        along_m: f64,
    },
    /// The vehicle is back in the corridor.
    Returned {
        /// Time of the fix that confirmed it, in milliseconds since the Unix epoch.
        ts_ms: i64,
        /// How long it was away: from the first fix outside to the first one back, in milliseconds.
        away_ms: i64,
        /// Where the vehicle is.
        position: LatLon,
        /// How far it is from the line, in metres.
        distance_m: f64,
        /// How far it was away at most, in metres.
        distance_max_m: f64,
        /// How far along the route the nearest point is, in metres.
        along_m: f64,
    },
    /// The vehicle drives its plan backwards.
    WrongWay(OnPlan),
    /// It drives it forwards again.
    RightWay(OnPlan),
    /// It came to a waypoint.
    Reached {
        /// Which, counted from 0.
        waypoint: usize,
        /// Where it is.
        at: OnPlan,
    },
    /// It went on without having been at a waypoint.
    Skipped {
        /// Which, counted from 0.
        waypoint: usize,
        /// Where it is.
        at: OnPlan,
    },
    /// It came to a waypoint before the time.
    Early {
        /// Which, counted from 0.
        waypoint: usize,
        /// How many milliseconds before the first planned moment.
        by_ms: i64,
        /// Where it is.
        at: OnPlan,
    },
    /// The last planned moment at a waypoint is over and it has not come; told once, when that is known.
    Late {
        /// Which, counted from 0.
        waypoint: usize,
        /// How many milliseconds after the last planned moment.
        by_ms: i64,
        /// Where it is.
        at: OnPlan,
    },
    /// It stands inside the corridor, not at a waypoint, for longer than it may.
    Stands {
        /// Since when, in milliseconds since the Unix epoch.
        since_ts_ms: i64,
        /// Where.
        at: OnPlan,
    },
    /// It has moved on.
    MovedOn {
        /// How long it stood, in milliseconds.
        stood_ms: i64,
        /// Where it is.
        at: OnPlan,
    },
    /// No fix came for too long.
    GpsLost {
        /// Time of the last one, in milliseconds since the Unix epoch.
        since_ts_ms: i64,
    },
    /// Fixes come again.
    GpsFound {
        /// Time of the first one, in milliseconds since the Unix epoch.
        ts_ms: i64,
        /// How long there were none, in milliseconds.
        lost_ms: i64,
    },
}

/// A moment along the plan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OnPlan {
    /// Time, in milliseconds since the Unix epoch.
    pub ts_ms: i64,
    /// Where the vehicle is.
    pub position: LatLon,
    /// How far along the plan, in metres from its start.
    pub along_m: f64,
}
