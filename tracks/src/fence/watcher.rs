//! One vehicle and one area.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::area::{Fence, Says};
use crate::fix::Fix;
use crate::geodesy::LatLon;

/// A longer way between two fixes may have led anywhere, in milliseconds.
const PASSING_MAX_MS: i64 = 600_000;

/// Where a vehicle is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// In the area.
    Inside,
    /// Not in it.
    Outside,
}

/// How a watcher decides.
#[derive(Debug, Clone, PartialEq)]
pub struct WatcherOptions {
    /// How many fixes must say the same; 0 counts as 1.
    pub confirm: u32,
    /// How far a vehicle must be out to have left, in metres, its fix's accuracy apart.
    pub hysteresis_m: f64,
    /// How far it must be in to have entered, the same way.
    pub hysteresis_in_m: f64,
    /// Whether a vehicle that is inside from the first fix on enters.
    pub enter_at_start: bool,
    /// How long a vehicle is inside until that is told, in milliseconds.
    pub dwell_ms: Option<i64>,
    /// When it should be inside, in milliseconds since the Unix epoch.
    pub inside_during_ms: Option<RangeInclusive<i64>>,
}

impl Default for WatcherOptions {
    /// 3 fixes, 10 m, 0 m, no, never, never.
    fn default() -> WatcherOptions {
        WatcherOptions {
            confirm: 3,
            hysteresis_m: 10.0,
            hysteresis_in_m: 0.0,
            enter_at_start: false,
            dwell_ms: None,
            inside_during_ms: None,
        }
    }
}

/// What a watcher saw happen.
#[derive(Debug, Clone, PartialEq)]
pub enum FenceEvent {
    /// The vehicle came in.
    Entered(Crossing),
    /// The vehicle left.
    Exited(Crossing),
    /// Between two fixes outside it went through.
    Passed {
        /// When it came in, in milliseconds since the Unix epoch, if it went straight and evenly.
        entered_ms: i64,
        /// When it left.
        exited_ms: i64,
        /// How deep inside its way led, in metres.
        inside_m: f64,
    },
    /// It has been inside for as long as was asked.
    Dwelled {
        /// Since when, in milliseconds since the Unix epoch.
        since_ts_ms: i64,
    },
    /// It should be inside and is not.
    Missing {
        /// Since when it should be, in milliseconds since the Unix epoch.
        since_ms: i64,
        /// Where it is, if that is known.
        position: Option<LatLon>,
    },
}

/// When and where a border was crossed.
#[derive(Debug, Clone, PartialEq)]
pub struct Crossing {
    /// Time of the fix that confirmed it, in milliseconds since the Unix epoch.
    pub ts_ms: i64,
    /// Time of the first fix on the new side.
    pub since_ts_ms: i64,
    /// Where the vehicle is.
    pub position: LatLon,
    /// How far it is outside the border, in metres; negative inside.
    pub outside_m: f64,
}

/// Watches one vehicle and one area. Give it the fixes of [`crate::filter::Estimate::fix`], in the order of their time.
#[derive(Debug, Clone)]
pub struct Watcher {
    fence: Arc<Fence>,
    options: WatcherOptions,
    side: Option<Side>,
    since_ms: i64,
    /// Fixes that say the vehicle is on another side: which, how many, and the time of the first.
    turn: Option<(Side, u32, i64)>,
    last: Option<(i64, LatLon)>,
    has_dwelled: bool,
    is_missed: bool,
}

impl Watcher {
    /// Watches a vehicle of which nothing is known yet.
    pub fn new(fence: impl Into<Arc<Fence>>, options: WatcherOptions) -> Watcher {
        Watcher {
            fence: fence.into(),
            options,
            side: None,
            since_ms: 0,
            turn: None,
            last: None,
            has_dwelled: false,
            is_missed: false,
        }
    }

    /// Goes on watching a vehicle that was on `side`, say after a restart: a crossing in between is an event. What it has
    /// dwelled until then is not told again.
    pub fn resume(fence: impl Into<Arc<Fence>>, options: WatcherOptions, side: Side) -> Watcher {
        let has_dwelled = side == Side::Inside;
        Watcher { side: Some(side), has_dwelled, ..Watcher::new(fence, options) }
    }

    /// Where the vehicle is, once that is known.
    pub fn side(&self) -> Option<Side> {
        self.side
    }

    /// Whether nothing has been said against where it is.
    pub(super) fn is_settled(&self) -> bool {
        self.turn.is_none()
    }

    /// Notes where the vehicle was at its last fix, outside.
    pub(super) fn was_at(&mut self, ts_ms: i64, place: LatLon) {
        self.last = Some((ts_ms, place));
    }

    /// How far a place is outside the border, in metres; negative inside.
    pub(super) fn outside_m(&self, place: LatLon) -> f64 {
        self.fence.outside_m(place)
    }

    /// Takes the next fix; gives what it confirms. A fix without a place only tells the time.
    pub fn push(&mut self, fix: &Fix) -> Vec<FenceEvent> {
        let mut events = Vec::new();
        if fix.is_usable() {
            let last = self.last.replace((fix.ts_ms, fix.position()));
            match self.fence.says(fix, self.options.hysteresis_m, self.options.hysteresis_in_m) {
                Some(Says::Inside) => events.extend(self.say(fix, Side::Inside)),
                Some(Says::Outside) => {
                    let passed = last.and_then(|last| self.passing(last, fix));
                    events.extend(passed.into_iter().chain(self.say(fix, Side::Outside)));
                }
                None => {}
            }
        }
        events.extend(self.tick(fix.ts_ms));
        events
    }

    /// Takes the time, in milliseconds since the Unix epoch: the vehicle dwells, or is missing.
    pub fn tick(&mut self, now_ms: i64) -> Vec<FenceEvent> {
        let mut events = Vec::new();
        let is_inside = self.side == Some(Side::Inside);
        if let Some(dwell_ms) = self.options.dwell_ms
            && is_inside
            && !self.has_dwelled
            && now_ms.saturating_sub(self.since_ms) >= dwell_ms
        {
            self.has_dwelled = true;
            events.push(FenceEvent::Dwelled { since_ts_ms: self.since_ms });
        }
        if let Some(during) = &self.options.inside_during_ms
            && self.side == Some(Side::Outside)
            && !self.is_missed
            && during.contains(&now_ms)
        {
            self.is_missed = true;
            let since_ms = (*during.start()).max(self.since_ms);
            events.push(FenceEvent::Missing { since_ms, position: self.last.map(|(_, place)| place) });
        }
        events
    }

    fn say(&mut self, fix: &Fix, says: Side) -> Option<FenceEvent> {
        if self.side == Some(says) {
            self.turn = None;
            return None;
        }
        let (count, since_ts_ms) = match self.turn {
            Some((side, count, since_ts_ms)) if side == says => (count + 1, since_ts_ms),
            _ => (1, fix.ts_ms),
        };
        if count < self.options.confirm {
            self.turn = Some((says, count, since_ts_ms));
            return None;
        }
        let before = self.side.replace(says);
        (self.turn, self.since_ms) = (None, since_ts_ms);
        (self.has_dwelled, self.is_missed) = (false, false);
        let crossing = Crossing {
            ts_ms: fix.ts_ms,
            since_ts_ms,
            position: fix.position(),
            outside_m: self.fence.outside_m(fix.position()),
        };
        match (before, says) {
            (None, Side::Outside) => None,
            (None, Side::Inside) if !self.options.enter_at_start => None,
            (_, Side::Inside) => Some(FenceEvent::Entered(crossing)),
            (_, Side::Outside) => Some(FenceEvent::Exited(crossing)),
        }
    }

    /// Whether the way from one fix outside to the next led through the area, by more than the fix may be wrong.
    fn passing(&self, (last_ms, last): (i64, LatLon), fix: &Fix) -> Option<FenceEvent> {
        let elapsed_ms = fix.ts_ms.saturating_sub(last_ms);
        if self.side != Some(Side::Outside)
            || self.turn.is_some()
            || !(1..=PASSING_MAX_MS).contains(&elapsed_ms)
            || self.fence.contains(last)
        {
            return None;
        }
        let (entered, exited, inside_m) = self.fence.passed(last, fix.position())?;
        let at_ms = |share: f64| last_ms + (share * elapsed_ms as f64) as i64;
        (inside_m >= self.options.hysteresis_in_m + fix.sigma_m()).then_some(FenceEvent::Passed {
            entered_ms: at_ms(entered),
            exited_ms: at_ms(exited),
            inside_m,
        })
    }
}
