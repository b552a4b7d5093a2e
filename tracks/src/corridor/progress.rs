//! How far along its plan a vehicle is: only onwards.
//!
//! The nearest point of a line is the wrong one where the line comes by twice. So a fix is looked for where the vehicle can be
//! by now, from a little behind to as far ahead as it can have driven, at the cost of its distance from the line, of its
//! course against the line's, and of its distance from where it was expected. Only a vehicle that several fixes in a row
//! find elsewhere on the plan is looked for on all of it, ahead first.

use super::plan::Corridor;
use super::votes::Votes;
use crate::fix::Fix;
use crate::geodesy::wrap_longitude_deg;

/// The fastest a vehicle goes along its plan, in metres a second.
const SPEED_MAX_MPS: f64 = 45.0;
/// How far behind or ahead a fix may seem beyond that, in metres, and in standard deviations.
const SLACK_M: f64 = 50.0;
const SLACK_SIGMAS: f64 = 2.0;
/// What a course against the line's costs, in metres; and from which angle, and from which speed a course counts.
const AGAINST_M: f64 = 30.0;
const AGAINST_DEG: f64 = 100.0;
const COURSE_FROM_MPS: f64 = 3.0;
/// What a metre away from the expected place costs.
const UNEXPECTED: f64 = 0.05;
/// What a metre behind the furthest place so far costs: on a road driven there and back the way back is meant.
const BEHIND: f64 = 0.2;
/// What the whole plan costs in metres when nothing is expected: of places about equally near the earlier one is meant.
const LATER_M: f64 = 40.0;
/// After how many fixes in a row elsewhere on the plan the vehicle is looked for ahead, and behind.
const AHEAD_AFTER: u16 = 3;
const BEHIND_AFTER: u16 = 10;

/// Where a vehicle is along its plan.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    /// Now; `None` before the first fix on the plan.
    pub(super) along_m: Option<f64>,
    /// Where it was at the fix before, if it has followed the plan since.
    pub(super) came_from_m: Option<f64>,
    /// The furthest so far.
    pub(super) peak_m: f64,
    /// The least since it was driven backwards.
    trough_m: f64,
    pub(super) is_wrong_way: bool,
    followed: bool,
    matched_ms: i64,
    speed_mps: f64,
    /// Fixes in a row inside the corridor that were not found.
    elsewhere: u16,
    turn: Votes,
}

/// A change of direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Wrong,
    Right,
}

/// A way to look for a fix on a stretch of the plan.
struct Search<'a> {
    corridor: &'a Corridor,
    fix: &'a Fix,
    expected_m: Option<f64>,
    peak_m: f64,
}

impl Progress {
    pub(super) fn at(along_m: Option<f64>) -> Progress {
        let peak_m = along_m.unwrap_or(0.0);
        Progress {
            along_m,
            came_from_m: None,
            peak_m,
            trough_m: peak_m,
            is_wrong_way: false,
            followed: false,
            matched_ms: i64::MIN,
            speed_mps: 0.0,
            elsewhere: 0,
            turn: Votes::default(),
        }
    }

    /// Takes a fix inside the corridor. Tells whether it was found.
    pub(super) fn push(&mut self, corridor: &Corridor, fix: &Fix) -> bool {
        let reach_m = SLACK_M + SLACK_SIGMAS * fix.sigma_m();
        let length_m = corridor.line().length_m();
        let Some(along_m) = self.along_m else {
            let search = Search { corridor, fix, expected_m: None, peak_m: 0.0 };
            let Some(found_m) = search.between(0.0, length_m) else { return false };
            *self = Progress { matched_ms: fix.ts_ms, followed: true, ..Progress::at(Some(found_m)) };
            return true;
        };
        // After a restart it is not known when the vehicle was where it was.
        let elapsed_s = match self.matched_ms {
            i64::MIN => 0.0,
            matched_ms => fix.ts_ms.saturating_sub(matched_ms).max(0) as f64 / 1_000.0,
        };
        let ahead_m = along_m + SPEED_MAX_MPS * elapsed_s + reach_m;
        let expected_m = Some(along_m + self.speed_mps * elapsed_s);
        let peak_m = if self.is_wrong_way { along_m } else { self.peak_m };
        let search = Search { corridor, fix, expected_m, peak_m };
        if let Some(found_m) = search.between(along_m - reach_m, ahead_m) {
            if elapsed_s > 0.0 {
                let speed_mps = ((found_m - along_m) / elapsed_s).clamp(0.0, SPEED_MAX_MPS);
                self.speed_mps = 0.7 * self.speed_mps + 0.3 * speed_mps;
            }
            self.go_to(found_m, fix);
            self.came_from_m = self.followed.then_some(along_m);
            self.followed = true;
            self.elsewhere = 0;
            return true;
        }
        self.elsewhere = self.elsewhere.saturating_add(1);
        let search = Search { corridor, fix, expected_m: None, peak_m: 0.0 };
        let mut found = None;
        if self.elsewhere >= AHEAD_AFTER {
            found = search.between(along_m, length_m);
        }
        if found.is_none() && self.elsewhere >= BEHIND_AFTER {
            found = search.between(0.0, along_m);
            // It begins again from there, which is not the wrong way.
            self.peak_m = found.unwrap_or(self.peak_m);
        }
        let Some(found_m) = found else { return false };
        self.go_to(found_m, fix);
        (self.came_from_m, self.followed, self.elsewhere) = (None, true, 0);
        true
    }

    /// Notes that the vehicle is beside its plan: how it comes back is not along it.
    pub(super) fn leave(&mut self) {
        self.followed = false;
    }

    fn go_to(&mut self, found_m: f64, fix: &Fix) {
        self.along_m = Some(found_m);
        self.matched_ms = fix.ts_ms;
        self.peak_m = self.peak_m.max(found_m);
        self.trough_m = if self.is_wrong_way { self.trough_m.min(found_m) } else { found_m };
    }

    /// Whether the vehicle has turned round by as much.
    pub(super) fn turn(&mut self, fix: &Fix, wrong_way_m: f64, confirm: u32, of: u32) -> Option<Turn> {
        let along_m = self.along_m?;
        let far_m = wrong_way_m + 6.0 * fix.sigma_m();
        let has_turned = if self.is_wrong_way {
            along_m > self.trough_m + far_m || along_m >= self.peak_m
        } else {
            along_m < self.peak_m - far_m
        };
        self.turn.push(has_turned, fix.ts_ms, confirm, of)?;
        self.is_wrong_way = !self.is_wrong_way;
        self.trough_m = along_m;
        if self.is_wrong_way {
            return Some(Turn::Wrong);
        }
        // From here on it counts anew: what lies between was driven back and is driven again.
        self.peak_m = along_m;
        Some(Turn::Right)
    }
}

impl Search<'_> {
    /// The place on a stretch where the fix costs least, if it is inside the corridor there.
    fn between(&self, from_m: f64, to_m: f64) -> Option<f64> {
        let course_deg =
            self.fix.course_deg.filter(|_| self.fix.speed_mps.is_some_and(|v| v >= COURSE_FROM_MPS));
        let margin_m = SLACK_SIGMAS * self.fix.sigma_m();
        let mut best: Option<(f64, f64)> = None;
        self.corridor.line().for_nearest_between(
            self.fix.position(),
            from_m,
            to_m,
            |nearest, bearing_deg| {
                if nearest.distance_m > self.corridor.half_width_at_m(nearest.along_m) + margin_m {
                    return;
                }
                let mut cost_m = nearest.distance_m;
                if course_deg
                    .is_some_and(|course| wrap_longitude_deg(course - bearing_deg()).abs() > AGAINST_DEG)
                {
                    cost_m += AGAINST_M;
                }
                cost_m += match self.expected_m {
                    Some(expected_m) => {
                        let behind_m = (self.peak_m - nearest.along_m).max(0.0);
                        UNEXPECTED * (nearest.along_m - expected_m).abs() + BEHIND * behind_m
                    }
                    None => LATER_M * nearest.along_m / self.corridor.line().length_m(),
                };
                if best.is_none_or(|(least_m, _)| cost_m < least_m) {
                    best = Some((cost_m, nearest.along_m));
                }
            },
        );
        best.map(|(_, along_m)| along_m)
    }
}
