//! Trips, stops and speeding, from estimates.
//!
//! ```text
//!            moves on from where it parked
//!   stopped -------------------------------> on a trip
//!           <-------------------------------
//!            parked for stop_after_ms, or silent for silent_after_ms
//! ```
//! A trip begins when the vehicle left its place and ends when it came to the next; short stops belong to it.

use crate::filter::Estimate;
use crate::geodesy::LatLon;

/// How trips are cut and speeding is told.
#[derive(Debug, Clone, PartialEq)]
pub struct TripOptions {
    /// How long a vehicle is parked until its trip is over, in milliseconds.
    pub stop_after_ms: i64,
    /// How long it is silent until its trip is over, in milliseconds.
    pub silent_after_ms: i64,
    /// A trip is at least so long, in metres; what is shorter is none.
    pub trip_min_m: f64,
    /// The speed above which it speeds, in metres a second.
    pub speed_limit_mps: Option<f64>,
    /// How long it must be above the limit, and then below it, in milliseconds.
    pub speeding_after_ms: i64,
}

impl Default for TripOptions {
    /// 5 minutes, 30 minutes, 300 m, none, 10 s.
    fn default() -> TripOptions {
        TripOptions {
            stop_after_ms: 5 * 60_000,
            silent_after_ms: 30 * 60_000,
            trip_min_m: 300.0,
            speed_limit_mps: None,
            speeding_after_ms: 10_000,
        }
    }
}

/// A time and a place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// Milliseconds since the Unix epoch.
    pub ts_ms: i64,
    /// The place.
    pub position: LatLon,
    /// What the odometer showed, in metres.
    pub odometer_m: f64,
}

/// What a vehicle did.
#[derive(Debug, Clone, PartialEq)]
pub enum TripEvent {
    /// It set out; known once it has gone [`TripOptions::trip_min_m`].
    Started {
        /// When and where it was before.
        from: Moment,
        /// How long it had stopped there, in milliseconds, if that is known.
        stopped_ms: Option<i64>,
    },
    /// It came to a stop that ends the trip.
    Ended {
        /// Where it set out.
        from: Moment,
        /// Where it stopped, and since when.
        to: Moment,
        /// How far it drove, in metres.
        distance_m: f64,
        /// Its highest speed, in metres a second.
        speed_max_mps: f64,
    },
    /// It has been faster than the limit for long enough.
    Speeding {
        /// Since when, in milliseconds since the Unix epoch.
        since_ms: i64,
        /// Its highest speed so far, in metres a second.
        speed_max_mps: f64,
        /// Where it is.
        position: LatLon,
    },
    /// It is slower again.
    SpeedingEnded {
        /// Since when it sped, in milliseconds since the Unix epoch.
        since_ms: i64,
        /// Until when.
        until_ms: i64,
        /// Its highest speed, in metres a second.
        speed_max_mps: f64,
    },
}

/// Follows one vehicle. Give it what [`crate::filter::Filter`] estimates, in the order of time.
#[derive(Debug, Clone)]
pub struct Trips {
    options: TripOptions,
    /// The last place that it stopped at, or set out from.
    from: Option<Moment>,
    stopped_since_ms: Option<i64>,
    is_under_way: bool,
    speed_max_mps: f64,
    last: Option<Moment>,
    speeding: Option<Speeding>,
}

#[derive(Debug, Clone, Copy)]
struct Speeding {
    since_ms: i64,
    /// The last moment above the limit.
    until_ms: i64,
    speed_max_mps: f64,
    is_told: bool,
}

impl Trips {
    /// Follows a vehicle of which nothing is known yet.
    pub fn new(options: TripOptions) -> Trips {
        Trips {
            options,
            from: None,
            stopped_since_ms: None,
            is_under_way: false,
            speed_max_mps: 0.0,
            last: None,
            speeding: None,
        }
    }

    /// Whether the vehicle is on a trip.
    pub fn is_under_way(&self) -> bool {
        self.is_under_way
    }

    /// Takes the next estimate; gives what it shows.
    pub fn push(&mut self, estimate: &Estimate) -> Vec<TripEvent> {
        let now =
            Moment { ts_ms: estimate.ts_ms, position: estimate.position, odometer_m: estimate.odometer_m };
        let mut events = Vec::new();
        if let Some(last) = self.last
            && now.ts_ms.saturating_sub(last.ts_ms) > self.options.silent_after_ms
        {
            // Where it was silent it may have been anywhere: what comes is another trip.
            events.extend(self.end(last));
            events.extend(self.end_speeding());
            (self.from, self.stopped_since_ms) = (Some(now), None);
        }
        self.last = Some(now);
        self.from.get_or_insert(now);
        match estimate.parked_since_ms {
            Some(since_ms) => events.extend(self.park(Moment { ts_ms: since_ms, ..now }, now.ts_ms)),
            None => events.extend(self.drive(now, estimate.speed_mps)),
        }
        events.extend(self.judge_speed(estimate));
        events
    }

    fn park(&mut self, stop: Moment, now_ms: i64) -> Option<TripEvent> {
        if now_ms.saturating_sub(stop.ts_ms) < self.options.stop_after_ms && self.is_under_way {
            return None;
        }
        let ended = self.end(stop);
        if ended.is_some() || self.stopped_since_ms.is_none() {
            self.stopped_since_ms = Some(stop.ts_ms);
        }
        self.from = Some(Moment { ts_ms: now_ms, ..stop });
        ended
    }

    fn drive(&mut self, now: Moment, speed_mps: f64) -> Option<TripEvent> {
        self.speed_max_mps = self.speed_max_mps.max(speed_mps);
        let from = self.from?;
        if self.is_under_way || now.odometer_m - from.odometer_m < self.options.trip_min_m {
            return None;
        }
        self.is_under_way = true;
        let stopped_since_ms = self.stopped_since_ms.take();
        Some(TripEvent::Started {
            from,
            stopped_ms: stopped_since_ms.map(|since_ms| from.ts_ms.saturating_sub(since_ms)),
        })
    }

    fn end(&mut self, to: Moment) -> Option<TripEvent> {
        let speed_max_mps = std::mem::take(&mut self.speed_max_mps);
        if !std::mem::take(&mut self.is_under_way) {
            return None;
        }
        let from = self.from?;
        Some(TripEvent::Ended { from, to, distance_m: to.odometer_m - from.odometer_m, speed_max_mps })
    }

    fn judge_speed(&mut self, estimate: &Estimate) -> Option<TripEvent> {
        let limit_mps = self.options.speed_limit_mps?;
        let (ts_ms, speed_mps) = (estimate.ts_ms, estimate.speed_mps);
        if speed_mps <= limit_mps {
            let speeding = self.speeding?;
            // A moment below the limit, or one that was not long enough, ends nothing that was not told.
            let is_over = ts_ms.saturating_sub(speeding.until_ms) >= self.options.speeding_after_ms;
            return if is_over || !speeding.is_told { self.end_speeding() } else { None };
        }
        let mut speeding = self.speeding.unwrap_or(Speeding {
            since_ms: ts_ms,
            until_ms: ts_ms,
            speed_max_mps: speed_mps,
            is_told: false,
        });
        speeding.until_ms = ts_ms;
        speeding.speed_max_mps = speeding.speed_max_mps.max(speed_mps);
        let is_news =
            !speeding.is_told && ts_ms.saturating_sub(speeding.since_ms) >= self.options.speeding_after_ms;
        speeding.is_told |= is_news;
        self.speeding = Some(speeding);
        let Speeding { since_ms, speed_max_mps, .. } = speeding;
        is_news.then_some(TripEvent::Speeding { since_ms, speed_max_mps, position: estimate.position })
    }

    fn end_speeding(&mut self) -> Option<TripEvent> {
        let Speeding { since_ms, until_ms, speed_max_mps, is_told } = self.speeding.take()?;
        is_told.then_some(TripEvent::SpeedingEnded { since_ms, until_ms, speed_max_mps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::{Filter, FilterOptions};
    use crate::fix::Fix;

    const HOME: LatLon = LatLon::new(60.17, 24.94);

    /// Every second of a day of phases: how long, how fast; the events as words with minutes.
    fn story(options: TripOptions, phases: &[(i64, f64)]) -> Vec<TripEvent> {
        let mut filter = Filter::new(FilterOptions::default());
        let mut trips = Trips::new(options);
        let (mut at_s, mut along_m) = (0, 0.0);
        let mut events = Vec::new();
        for &(for_s, speed_mps) in phases {
            for _ in 0..for_s {
                (at_s, along_m) = (at_s + 1, along_m + speed_mps);
                if speed_mps.is_nan() {
                    along_m = 0.0;
                    continue;
                }
                let place = HOME.destination(90.0, along_m);
                let course_deg = (speed_mps > 0.0).then_some(90.0);
                let fix = Fix {
                    hdop: Some(1.0),
                    speed_mps: Some(speed_mps),
                    course_deg,
                    ..Fix::at(at_s * 1_000, place)
                };
                let estimate = filter.push(&fix, fix.ts_ms).unwrap();
                events.extend(trips.push(&estimate));
            }
        }
        events
    }

    #[test]
    fn a_day_with_two_trips_and_a_light_on_the_way_is_two_trips() {
        let day = [(600, 0.0), (300, 15.0), (90, 0.0), (300, 15.0), (900, 0.0), (200, 20.0), (600, 0.0)];
        let events = story(TripOptions::default(), &day);
        let [
            TripEvent::Started { from: out, stopped_ms: Some(waited_ms) },
            TripEvent::Ended { from, to, distance_m, speed_max_mps },
            TripEvent::Started { stopped_ms: Some(stopped_ms), .. },
            TripEvent::Ended { distance_m: second_m, .. },
        ] = &events[..]
        else {
            panic!("{events:?}");
        };
        assert_eq!(out, from);
        assert!(
            (out.ts_ms - 600_000).abs() < 10_000 && (to.ts_ms - 1_290_000).abs() < 10_000,
            "{out:?} {to:?}"
        );
        assert!(
            (distance_m - 9_000.0).abs() < 45.0 && (second_m - 4_000.0).abs() < 20.0,
            "{distance_m} {second_m}"
        );
        assert!((speed_max_mps - 15.0).abs() < 0.5);
        assert!(
            (stopped_ms - 900_000).abs() < 15_000 && (waited_ms - 600_000).abs() < 15_000,
            "{stopped_ms} {waited_ms}"
        );
    }

    #[test]
    fn moving_a_truck_in_the_yard_is_no_trip_and_silence_ends_one() {
        assert_eq!(story(TripOptions::default(), &[(400, 0.0), (20, 5.0), (900, 0.0)]), []);
        let events = story(TripOptions::default(), &[(400, 0.0), (200, 15.0), (3_600, f64::NAN), (400, 0.0)]);
        assert!(matches!(events[..], [TripEvent::Started { .. }, TripEvent::Ended { .. }]), "{events:?}");
    }

    #[test]
    fn speeding_is_told_once_after_a_while_and_when_it_is_over() {
        let options = TripOptions { speed_limit_mps: Some(22.3), ..TripOptions::default() };
        let drive = [(100, 20.0), (5, 26.0), (60, 20.0), (30, 26.0), (3, 22.0), (30, 27.0), (60, 20.0)];
        let events = story(options, &drive);
        let speeding: Vec<_> =
            events.iter().filter(|event| !matches!(event, TripEvent::Started { .. })).collect();
        let [TripEvent::Speeding { since_ms, .. }, TripEvent::SpeedingEnded { until_ms, speed_max_mps, .. }] =
            speeding[..]
        else {
            panic!("{speeding:?}");
        };
        assert!(
            (since_ms - 166_000).abs() <= 3_000 && (until_ms - 228_000).abs() <= 3_000,
            "{since_ms} {until_ms}"
        );
        assert!((speed_max_mps - 27.0).abs() < 0.5);
    }
}
