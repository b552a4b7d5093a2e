//! Watches whether a vehicle keeps to its planned route.
//!
//! A corridor is a line and half a width. A fix speaks against the vehicle when it is further from the line than half the
//! width and two standard deviations of the fix together; it speaks for it when it is inside. What lies between says
//! nothing. An event needs several fixes that say the same, with none between them that says the opposite:
//!
//! ```text
//!            confirm × further than half width + 2 σ
//!   on route ---------------------------------------> off route
//!            <---------------------------------------
//!            confirm × nearer than return_share × half width
//! ```
//!
//! The way back needs a nearer line than the way out, so that a vehicle along the border gives one alarm and not fifty.

use std::sync::Arc;

use crate::fix::Fix;
use crate::geodesy::LatLon;
use crate::route::{Nearest, Polyline};

/// How many standard deviations a fix is given before it counts as outside.
const SIGMAS: f64 = 2.0;

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
}

/// A planned route and how far a vehicle may be from it.
#[derive(Debug, Clone)]
pub struct Corridor {
    line: Polyline,
    half_width_m: f64,
}

impl Corridor {
    /// Makes a corridor of `half_width_m` metres on either side of a line.
    ///
    /// # Errors
    /// A half width that is not above 0 and at most 100 km.
    pub fn new(line: Polyline, half_width_m: f64) -> Result<Corridor, CorridorError> {
        if half_width_m > 0.0 && half_width_m <= 100_000.0 {
            return Ok(Corridor { line, half_width_m });
        }
        Err(CorridorError::HalfWidth { half_width_m })
    }

    /// The planned route.
    pub fn line(&self) -> &Polyline {
        &self.line
    }

    /// How far a vehicle may be from the line, in metres.
    pub fn half_width_m(&self) -> f64 {
        self.half_width_m
    }
}

/// How a watcher decides.
#[derive(Debug, Clone, PartialEq)]
pub struct WatcherOptions {
    /// How many fixes must say the same; 0 counts as 1.
    pub confirm: u32,
    /// The share of the half width inside which a vehicle is back.
    pub return_share: f64,
}

impl Default for WatcherOptions {
    /// 3 fixes, 0.8.
    fn default() -> WatcherOptions {
        WatcherOptions { confirm: 3, return_share: 0.8 }
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
}

/// Watches one vehicle in one corridor. Give it fixes that passed a [`crate::plausibility::Gate`].
#[derive(Debug, Clone)]
pub struct Watcher {
    corridor: Arc<Corridor>,
    options: WatcherOptions,
    /// When the vehicle left, and its greatest distance since; `None` while it is on the route.
    away: Option<Away>,
    /// Fixes that speak for a change: how many, and the time of the first.
    turn: Option<(u32, i64)>,
    /// The greatest distance among the fixes of a turn that may become a departure.
    turn_distance_max_m: f64,
}

#[derive(Debug, Clone, Copy)]
struct Away {
    since_ts_ms: i64,
    distance_max_m: f64,
}

impl Watcher {
    /// Watches a vehicle that is taken to be on its route.
    pub fn new(corridor: Arc<Corridor>, options: WatcherOptions) -> Watcher {
        Watcher { corridor, options, away: None, turn: None, turn_distance_max_m: 0.0 }
    }

    /// Goes on watching a vehicle that was reported off its route at `since_ts_ms`, say after a restart.
    pub fn resume_off_route(corridor: Arc<Corridor>, options: WatcherOptions, since_ts_ms: i64) -> Watcher {
        let away = Some(Away { since_ts_ms, distance_max_m: 0.0 });
        Watcher { away, ..Watcher::new(corridor, options) }
    }

    /// Since when the vehicle is off its route, if it is.
    pub fn off_route_since_ms(&self) -> Option<i64> {
        self.away.map(|away| away.since_ts_ms)
    }

    /// The corridor that is watched.
    pub fn corridor(&self) -> &Arc<Corridor> {
        &self.corridor
    }

    /// Takes the next fix; gives an event when it confirms a change. A fix without a place is ignored.
    pub fn push(&mut self, fix: &Fix) -> Option<CorridorEvent> {
        if !fix.is_usable() {
            return None;
        }
        let nearest = self.corridor.line.nearest(fix.position());
        match self.away {
            None => self.push_on_route(fix, nearest),
            Some(away) => self.push_off_route(fix, nearest, away),
        }
    }

    fn push_on_route(&mut self, fix: &Fix, nearest: Nearest) -> Option<CorridorEvent> {
        let threshold_m = self.corridor.half_width_m + SIGMAS * fix.sigma_m();
        if nearest.distance_m <= self.corridor.half_width_m {
            self.turn = None;
            return None;
        }
        if nearest.distance_m <= threshold_m {
            return None;
        }
        let since_ts_ms = self.count_turn(fix, nearest)?;
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

    fn push_off_route(&mut self, fix: &Fix, nearest: Nearest, mut away: Away) -> Option<CorridorEvent> {
        let half_width_m = self.corridor.half_width_m;
        if nearest.distance_m > half_width_m {
            away.distance_max_m = away.distance_max_m.max(nearest.distance_m);
            self.away = Some(away);
            self.turn = None;
            return None;
        }
        // A fix that does not know its place to half the width cannot say that the vehicle is back.
        if nearest.distance_m > half_width_m * self.options.return_share || fix.sigma_m() > half_width_m {
            return None;
        }
        let back_ts_ms = self.count_turn(fix, nearest)?;
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

    /// Counts a fix that speaks for a change; gives the time of the first one when they are enough.
    fn count_turn(&mut self, fix: &Fix, nearest: Nearest) -> Option<i64> {
        let (count, since_ts_ms) = self.turn.map_or((1, fix.ts_ms), |(count, since)| (count + 1, since));
        self.turn_distance_max_m =
            if count == 1 { nearest.distance_m } else { self.turn_distance_max_m.max(nearest.distance_m) };
        if count < self.options.confirm {
            self.turn = Some((count, since_ts_ms));
            return None;
        }
        self.turn = None;
        Some(since_ts_ms)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Metres of fix after fix, and the events they make: which fix, which event.
    type Case<'a> = (&'a [f64], &'a [(usize, char)]);

    const START: LatLon = LatLon::new(60.17, 24.90);

    /// 10 km to the east, 50 m on either side.
    fn corridor() -> Arc<Corridor> {
        let line = Polyline::new([START, START.destination(90.0, 10_000.0)]).unwrap();
        Arc::new(Corridor::new(line, 50.0).unwrap())
    }

    fn watcher() -> Watcher {
        Watcher::new(corridor(), WatcherOptions::default())
    }

    /// A fix with sigma 5 m, `off_m` metres beside the line.
    fn fix(at_s: i64, off_m: f64) -> Fix {
        let on_line = corridor().line().point_at(1_000.0 + 10.0 * at_s as f64);
        Fix { hdop: Some(1.0), ..Fix::at(at_s * 1_000, on_line.destination(0.0, off_m)) }
    }

    /// The events for fixes beside the line by these metres, as (index of the fix, letter).
    fn story(watcher: &mut Watcher, offs_m: &[f64]) -> Vec<(usize, char)> {
        offs_m
            .iter()
            .enumerate()
            .filter_map(|(i, &off_m)| match watcher.push(&fix(i as i64, off_m))? {
                CorridorEvent::Deviated { .. } => Some((i, 'D')),
                CorridorEvent::Returned { .. } => Some((i, 'R')),
            })
            .collect()
    }

    #[test]
    fn the_third_fix_outside_is_the_alarm_and_the_third_well_inside_ends_it() {
        // The threshold out is 50 + 2 × 5 = 60 m, the one back 40 m.
        let table: [Case; 8] = [
            (&[0.0, 61.0, 62.0, 63.0, 64.0, 65.0], &[(3, 'D')]),
            (&[61.0, 62.0, 0.0, 61.0, 62.0, 0.0], &[]),
            // Between 50 and 60 m nothing is said, and nothing is unsaid.
            (&[61.0, 55.0, 62.0, 55.0, 63.0], &[(4, 'D')]),
            (&[55.0, 59.0, 55.0, 59.0, 55.0], &[]),
            (&[70.0, 70.0, 70.0, 45.0, 45.0, 45.0, 45.0], &[(2, 'D')]),
            (&[70.0, 70.0, 70.0, 39.0, 39.0, 39.0], &[(2, 'D'), (5, 'R')]),
            (&[70.0, 70.0, 70.0, 39.0, 39.0, 70.0, 39.0, 39.0], &[(2, 'D')]),
            (&[70.0, 70.0, 70.0, 0.0, 0.0, 0.0, 70.0, 70.0, 70.0], &[(2, 'D'), (5, 'R'), (8, 'D')]),
        ];
        for (offs_m, want) in table {
            assert_eq!(story(&mut watcher(), offs_m), want, "{offs_m:?}");
        }
    }

    #[test]
    fn an_event_tells_what_was_measured() {
        let mut watcher = watcher();
        for (s, off_m) in [(10, 90.0), (11, 130.0)] {
            assert_eq!(watcher.push(&fix(s, off_m)), None);
        }
        let Some(CorridorEvent::Deviated { ts_ms, since_ts_ms, distance_m, threshold_m, along_m, .. }) =
            watcher.push(&fix(12, 100.0))
        else {
            panic!("no departure");
        };
        assert_eq!((ts_ms, since_ts_ms, threshold_m), (12_000, 10_000, 60.0));
        assert!(
            (distance_m - 100.0).abs() < 0.5 && (along_m - 1_120.0).abs() < 2.0,
            "{distance_m} {along_m}"
        );
        assert_eq!(watcher.off_route_since_ms(), Some(10_000));
        for s in 20..22 {
            assert_eq!(watcher.push(&fix(s, 5.0)), None);
        }
        let Some(CorridorEvent::Returned { ts_ms, away_ms, distance_max_m, .. }) =
            watcher.push(&fix(22, 5.0))
        else {
            panic!("no return");
        };
        assert_eq!((ts_ms, away_ms), (22_000, 10_000));
        assert!((distance_max_m - 130.0).abs() < 0.5, "{distance_max_m}");
        assert_eq!(watcher.off_route_since_ms(), None);
    }

    #[test]
    fn a_vague_fix_neither_alarms_nor_ends_an_alarm() {
        let vague = |s, off_m| Fix { hdop: Some(12.0), ..fix(s, off_m) };
        let mut on_route = watcher();
        assert!((0..20).all(|s| on_route.push(&vague(s, 150.0)).is_none()));
        let mut away = Watcher::resume_off_route(corridor(), WatcherOptions::default(), 0);
        assert!((0..20).all(|s| away.push(&vague(s, 0.0)).is_none()));
        assert_eq!(away.off_route_since_ms(), Some(0));
    }

    #[test]
    fn a_resumed_alarm_is_not_raised_again_and_ends_once() {
        let mut watcher = Watcher::resume_off_route(corridor(), WatcherOptions::default(), 0);
        assert_eq!(story(&mut watcher, &[90.0, 90.0, 90.0, 90.0, 0.0, 0.0, 0.0, 0.0]), [(6, 'R')]);
    }

    #[test]
    fn a_width_that_is_no_length_is_refused_with_its_value() {
        for half_width_m in [0.0, -5.0, f64::NAN, f64::INFINITY] {
            let error = Corridor::new(corridor().line().clone(), half_width_m).unwrap_err().to_string();
            assert!(error.contains(&half_width_m.to_string()), "{error}");
        }
    }

    proptest! {
        #[test]
        fn departures_and_returns_alternate_whatever_comes(offs_m in prop::collection::vec(0.0..150.0f64, 0..200)) {
            let story = story(&mut watcher(), &offs_m);
            for (n, (_, letter)) in story.iter().enumerate() {
                prop_assert_eq!(*letter, if n % 2 == 0 { 'D' } else { 'R' });
            }
        }

        #[test]
        fn any_numbers_are_taken_without_panic(fixes in prop::collection::vec((any::<i64>(), any::<f64>(), any::<f64>(), any::<Option<f64>>()), 0..30)) {
            let mut watcher = watcher();
            for (ts_ms, lat, lon, hdop) in fixes {
                let _ = watcher.push(&Fix { hdop, ..Fix::at(ts_ms, LatLon::new(lat, lon)) });
            }
        }
    }
}
