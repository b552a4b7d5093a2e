//! One vehicle on one plan.

use std::sync::Arc;

use super::plan::{Corridor, Waypoint};
use super::progress::{Progress, Turn};
use super::stand::Stand;
use super::votes::Votes;
use super::{CorridorEvent, OnPlan, WatcherOptions};
use crate::fix::Fix;
use crate::route::Nearest;

/// How many standard deviations a fix is given before it counts as outside.
const SIGMAS: f64 = 2.0;
/// How far past a waypoint's circle a vehicle has skipped it, in metres.
const SKIPPED_M: f64 = 50.0;

/// Watches one vehicle in one corridor. Give it the fixes of [`crate::filter::Estimate::fix`], in the order of their time.
#[derive(Debug, Clone)]
pub struct Watcher {
    corridor: Arc<Corridor>,
    options: WatcherOptions,
    /// When the vehicle left, and its greatest distance since; `None` while it is on the route.
    away: Option<Away>,
    /// Fixes that speak for a change of that.
    turn: Votes,
    /// The greatest distance among the fixes of a turn that may become a departure.
    turn_distance_max_m: f64,
    progress: Progress,
    /// The first waypoint that was neither reached nor skipped, and whether it is known to be late.
    next_waypoint: usize,
    is_late: bool,
    stand: Option<Stand>,
    last: Option<OnPlan>,
    is_lost: bool,
}

#[derive(Debug, Clone, Copy)]
struct Away {
    since_ts_ms: i64,
    distance_max_m: f64,
}

/// What must be remembered of a vehicle to go on watching it after a restart.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Mark {
    /// Since when it is off its route, if it is, in milliseconds since the Unix epoch.
    pub off_route_since_ms: Option<i64>,
    /// How far along the plan it is, in metres, once that is known.
    pub along_m: Option<f64>,
    /// The first waypoint that was neither reached nor skipped.
    pub next_waypoint: usize,
}

impl Watcher {
    /// Watches a vehicle that is taken to be on its route.
    pub fn new(corridor: Arc<Corridor>, options: WatcherOptions) -> Watcher {
        Watcher::resume(corridor, options, Mark::default())
    }

    /// Goes on watching a vehicle that was reported off its route at `since_ts_ms`, say after a restart.
    pub fn resume_off_route(corridor: Arc<Corridor>, options: WatcherOptions, since_ts_ms: i64) -> Watcher {
        Watcher::resume(corridor, options, Mark { off_route_since_ms: Some(since_ts_ms), ..Mark::default() })
    }

    /// Goes on watching a vehicle from what [`Watcher::mark`] said of it.
    pub fn resume(corridor: Arc<Corridor>, options: WatcherOptions, mark: Mark) -> Watcher {
        Watcher {
            corridor,
            options,
            away: mark.off_route_since_ms.map(|since_ts_ms| Away { since_ts_ms, distance_max_m: 0.0 }),
            turn: Votes::default(),
            turn_distance_max_m: 0.0,
            progress: Progress::at(mark.along_m),
            next_waypoint: mark.next_waypoint,
            is_late: false,
            stand: None,
            last: None,
            is_lost: false,
        }
    }

    /// What must be remembered across a restart.
    pub fn mark(&self) -> Mark {
        Mark {
            off_route_since_ms: self.off_route_since_ms(),
            along_m: self.progress.along_m,
            next_waypoint: self.next_waypoint,
        }
    }

    /// Since when the vehicle is off its route, if it is.
    pub fn off_route_since_ms(&self) -> Option<i64> {
        self.away.map(|away| away.since_ts_ms)
    }

    /// How far along its plan the vehicle has come, in metres, once that is known.
    pub fn progress_m(&self) -> Option<f64> {
        self.progress.along_m.map(|_| self.progress.peak_m)
    }

    /// The corridor that is watched.
    pub fn corridor(&self) -> &Arc<Corridor> {
        &self.corridor
    }

    /// Takes the next fix; gives what it confirms. A fix without a place only tells the time.
    pub fn push(&mut self, fix: &Fix) -> Vec<CorridorEvent> {
        let mut events = self.tick(fix.ts_ms);
        if !fix.is_usable() || self.last.is_some_and(|last| fix.ts_ms < last.ts_ms) {
            return events;
        }
        if std::mem::take(&mut self.is_lost)
            && let Some(last) = self.last
        {
            events.push(CorridorEvent::GpsFound {
                ts_ms: fix.ts_ms,
                lost_ms: fix.ts_ms.saturating_sub(last.ts_ms),
            });
        }
        let (nearest, half_width_m) = self.corridor.nearest(fix.position());
        events.extend(match self.away {
            None => self.push_on_route(fix, nearest, half_width_m),
            Some(away) => self.push_off_route(fix, nearest, half_width_m, away),
        });
        let is_inside = nearest.distance_m <= half_width_m + SIGMAS * fix.sigma_m();
        let along_m = self.progress.along_m.unwrap_or(nearest.along_m);
        self.last = Some(OnPlan { ts_ms: fix.ts_ms, position: fix.position(), along_m });
        if self.away.is_none() && is_inside {
            self.push_inside(fix, &mut events);
        } else {
            self.stand = None;
            self.progress.leave();
        }
        events
    }

    /// Takes the time without a fix, in milliseconds since the Unix epoch: nothing comes, and a plan becomes late.
    pub fn tick(&mut self, now_ms: i64) -> Vec<CorridorEvent> {
        let mut events = Vec::new();
        let Some(last) = self.last else { return events };
        if !self.is_lost && now_ms.saturating_sub(last.ts_ms) > self.options.lost_after_ms {
            self.is_lost = true;
            self.stand = None;
            events.push(CorridorEvent::GpsLost { since_ts_ms: last.ts_ms });
        }
        let corridor = &self.corridor;
        if let Some(due) = corridor.waypoints().get(self.next_waypoint).and_then(|next| next.due_ms.as_ref())
            && !self.is_late
            && now_ms > *due.end()
        {
            self.is_late = true;
            let by_ms = now_ms.saturating_sub(*due.end());
            events.push(CorridorEvent::Late {
                waypoint: self.next_waypoint,
                by_ms,
                at: OnPlan { ts_ms: now_ms, ..last },
            });
        }
        events
    }

    fn push_on_route(&mut self, fix: &Fix, nearest: Nearest, half_width_m: f64) -> Option<CorridorEvent> {
        let threshold_m = half_width_m + SIGMAS * fix.sigma_m();
        let is_inside = nearest.distance_m <= half_width_m;
        if !is_inside && nearest.distance_m <= threshold_m {
            return None;
        }
        if !is_inside {
            let before_m = if self.turn.is_clear() { 0.0 } else { self.turn_distance_max_m };
            self.turn_distance_max_m = before_m.max(nearest.distance_m);
        }
        let since_ts_ms = self.vote(!is_inside, fix)?;
        self.away = Some(Away { since_ts_ms, distance_max_m: self.turn_distance_max_m });
        Some(CorridorEvent::Deviated {
            ts_ms: fix.ts_ms,
            since_ts_ms,
            position: fix.position(),
            distance_m: nearest.distance_m,
            threshold_m,
            along_m: nearest.along_m,
        })
    }

    fn push_off_route(
        &mut self,
        fix: &Fix,
        nearest: Nearest,
        half_width_m: f64,
        mut away: Away,
    ) -> Option<CorridorEvent> {
        if nearest.distance_m > half_width_m {
            away.distance_max_m = away.distance_max_m.max(nearest.distance_m);
            self.away = Some(away);
            self.vote(false, fix);
            return None;
        }
        // A fix that does not know its place to half the width cannot say that the vehicle is back.
        if nearest.distance_m > half_width_m * self.options.return_share || fix.sigma_m() > half_width_m {
            return None;
        }
        let back_ts_ms = self.vote(true, fix)?;
        self.away = None;
        Some(CorridorEvent::Returned {
            ts_ms: fix.ts_ms,
            away_ms: back_ts_ms.saturating_sub(away.since_ts_ms),
            position: fix.position(),
            distance_m: nearest.distance_m,
            distance_max_m: away.distance_max_m,
            along_m: nearest.along_m,
        })
    }

    fn vote(&mut self, is_yes: bool, fix: &Fix) -> Option<i64> {
        self.turn.push(is_yes, fix.ts_ms, self.options.confirm, self.options.of)
    }

    /// What a fix inside the corridor says of the way along it.
    fn push_inside(&mut self, fix: &Fix, events: &mut Vec<CorridorEvent>) {
        let is_first = self.progress.along_m.is_none();
        if !self.progress.push(&self.corridor, fix) {
            return;
        }
        let Some(along_m) = self.progress.along_m else { return };
        if is_first && self.next_waypoint == 0 {
            // Whether it was where nobody watched is not known.
            let passed = |waypoint: &Waypoint| waypoint.along_m + waypoint.radius_m < along_m;
            self.next_waypoint =
                self.corridor.waypoints().iter().take_while(|waypoint| passed(waypoint)).count();
        }
        let at = OnPlan { ts_ms: fix.ts_ms, position: fix.position(), along_m };
        self.last = Some(at);
        let (confirm, of) = (self.options.confirm, self.options.of);
        match self.progress.turn(fix, self.options.wrong_way_m, confirm, of) {
            Some(Turn::Wrong) => events.push(CorridorEvent::WrongWay(at)),
            Some(Turn::Right) => events.push(CorridorEvent::RightWay(at)),
            None => {}
        }
        self.pass_waypoints(fix, at, events);
        self.push_stand(fix, at, events);
    }

    fn pass_waypoints(&mut self, fix: &Fix, at: OnPlan, events: &mut Vec<CorridorEvent>) {
        while let Some(next) = self.corridor.waypoints().get(self.next_waypoint) {
            let waypoint = self.next_waypoint;
            let place = self.corridor.line().point_at(next.along_m);
            let reach_m = next.radius_m.max(SIGMAS * fix.sigma_m());
            // Near on the ground and on the plan: a plan may come by a waypoint before it is due.
            let is_near =
                (at.along_m - next.along_m).abs() <= next.radius_m + SKIPPED_M + SIGMAS * fix.sigma_m();
            // Between two fixes a vehicle may go through the whole circle.
            let is_passed = at.along_m > next.along_m && self.has_come_by(next.along_m, fix);
            if is_near && place.distance_m(fix.position()) <= reach_m || is_passed {
                events.push(CorridorEvent::Reached { waypoint, at });
                if let Some(due) = next.due_ms.as_ref().filter(|due| fix.ts_ms < *due.start()) {
                    events.push(CorridorEvent::Early { waypoint, by_ms: due.start() - fix.ts_ms, at });
                }
            } else if at.along_m > next.along_m + next.radius_m + SKIPPED_M + SIGMAS * fix.sigma_m() {
                events.push(CorridorEvent::Skipped { waypoint, at });
            } else {
                return;
            }
            (self.next_waypoint, self.is_late) = (waypoint + 1, false);
        }
    }

    /// Whether the vehicle went along the plan from before a place to behind it since its last fix.
    fn has_come_by(&self, along_m: f64, fix: &Fix) -> bool {
        self.progress.came_from_m.is_some_and(|from_m| from_m <= along_m + SIGMAS * fix.sigma_m())
    }

    fn push_stand(&mut self, fix: &Fix, at: OnPlan, events: &mut Vec<CorridorEvent>) {
        let Some(stand) = self.stand.filter(|stand| !stand.is_left_by(fix)) else {
            if let Some(stand) = self.stand.filter(|stand| stand.is_told) {
                events
                    .push(CorridorEvent::MovedOn { stood_ms: fix.ts_ms.saturating_sub(stand.since_ms), at });
            }
            self.stand = Some(Stand::at(fix));
            return;
        };
        let Some(stand_max_ms) = self.options.stand_max_ms else { return };
        if stand.is_told || fix.ts_ms.saturating_sub(stand.since_ms) <= stand_max_ms {
            return;
        }
        let may_stand = self.corridor.waypoints().iter().any(|waypoint| {
            let place = self.corridor.line().point_at(waypoint.along_m);
            place.distance_m(fix.position()) <= waypoint.radius_m + SIGMAS * fix.sigma_m()
        });
        if !may_stand {
            self.stand = Some(Stand { is_told: true, ..stand });
            events.push(CorridorEvent::Stands { since_ts_ms: stand.since_ms, at });
        }
    }
}
