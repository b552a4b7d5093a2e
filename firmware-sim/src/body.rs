//! A truck's body over simulated time: it waits, drives there, waits, drives back … and stands for good.
//!
//! One [`Body::tick`] is one simulated second. There is no clock in here: the same body ticks the same way as fast or as
//! slowly as it is asked to.

use tracks::Fix;
use tracks::route::Polyline;

use crate::gps::{Receiver, ReceiverOptions};
use crate::motion::{Drive, DriveError, DriveOptions, Truth};

/// One tick in milliseconds: GPS receivers give a fix a second.
pub const TICK_MS: u64 = 1_000;
/// How long a truck stands between two drives, in milliseconds.
const DWELL_MS: u64 = 60_000;

/// A simulated truck without its connection.
#[derive(Debug, Clone)]
pub struct Body {
    /// The drives to come, the next one last.
    to_come: Vec<Drive>,
    drive: Drive,
    receiver: Receiver,
    passed_ms: u64,
    /// The truck stands until then, counted as `passed_ms`.
    stands_until_ms: u64,
}

/// A truck at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    /// Simulated time since the start, in milliseconds.
    pub passed_ms: u64,
    /// Where the truck really is.
    pub truth: Truth,
    /// What its receiver says.
    pub fix: Option<Fix>,
    /// How far it has driven on this drive, in metres.
    pub driven_m: f64,
    /// How far this drive is, in metres.
    pub length_m: f64,
    /// Whether it is off its route on purpose.
    pub is_on_detour: bool,
    /// Whether it has arrived for good.
    pub is_finished: bool,
}

impl Body {
    /// Makes a truck that stands `start_m` metres along `line` and drives it `trips` times, there and back in turn; the
    /// detour of the options belongs to the first drive.
    ///
    /// # Errors
    /// The line cannot be driven so.
    pub fn new(
        line: &Polyline,
        options: DriveOptions,
        start_m: f64,
        trips: u32,
        depart_after_ms: u64,
        receiver: ReceiverOptions,
        seed: u64,
    ) -> Result<Body, DriveError> {
        let mut chance = fastrand::Rng::with_seed(seed);
        let receiver = Receiver::new(receiver, chance.u64(..));
        let plain = DriveOptions { detour: None, ..options.clone() };
        let drive = Drive::new(line, options, chance.u64(..))?.start_at(start_m)?;
        let back = Polyline::new(line.points().collect::<Vec<_>>().into_iter().rev())?;
        let mut to_come = Vec::new();
        for trip in 1..trips {
            let line = if trip % 2 == 1 { &back } else { line };
            to_come.push(Drive::new(line, plain.clone(), chance.u64(..))?);
        }
        to_come.reverse();
        Ok(Body { to_come, drive, receiver, passed_ms: 0, stands_until_ms: depart_after_ms })
    }

    /// How long it takes until the truck has arrived for good, in simulated milliseconds.
    ///
    /// # Errors
    /// A drive takes more than 30 days.
    pub fn journey_ms(&self) -> Result<u64, DriveError> {
        let mut total_ms = self.stands_until_ms.saturating_sub(self.passed_ms) + self.drive.remaining_ms()?;
        for drive in &self.to_come {
            total_ms += DWELL_MS + drive.remaining_ms()?;
        }
        Ok(total_ms)
    }

    /// Whether the truck has arrived for good.
    pub fn is_finished(&self) -> bool {
        self.drive.is_finished() && self.to_come.is_empty()
    }

    /// The truck as it is now, seen at `ts_ms` (milliseconds since the Unix epoch); then lets a second pass.
    pub fn tick(&mut self, ts_ms: i64) -> Tick {
        let truth = self.drive.truth();
        let tick = Tick {
            passed_ms: self.passed_ms,
            truth,
            fix: self.receiver.observe(ts_ms, &truth),
            driven_m: self.drive.driven_m(),
            length_m: self.drive.line().length_m(),
            is_on_detour: self.drive.is_on_detour(),
            is_finished: self.is_finished(),
        };
        self.pass();
        tick
    }

    fn pass(&mut self) {
        self.passed_ms += TICK_MS;
        if self.drive.is_finished() {
            if self.passed_ms >= self.stands_until_ms
                && let Some(next) = self.to_come.pop()
            {
                self.drive = next;
            }
            return;
        }
        if self.passed_ms <= self.stands_until_ms {
            return;
        }
        self.drive.advance((self.passed_ms - self.stands_until_ms).min(TICK_MS));
        if self.drive.is_finished() {
            self.stands_until_ms = self.passed_ms + DWELL_MS;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route;

    const START_MS: i64 = 1_800_000_000_000;

    fn body(trips: u32, seed: u64) -> Body {
        let line = route::builtin_named("route-1").unwrap().line;
        Body::new(&line, DriveOptions::default(), 0.0, trips, 10_500, ReceiverOptions::default(), seed)
            .unwrap()
    }

    /// Ticks until a minute after the end.
    fn ticks(mut body: Body) -> Vec<Tick> {
        let mut all = Vec::new();
        let mut after = 0;
        while after < 60 {
            let tick = body.tick(START_MS + 1_000 * all.len() as i64);
            after += u32::from(tick.is_finished);
            all.push(tick);
            assert!(all.len() < 20_000, "it never arrives");
        }
        all
    }

    #[test]
    fn the_same_seed_gives_the_same_places_and_the_same_fixes() {
        assert_eq!(ticks(body(2, 42)), ticks(body(2, 42)));
        let places = |seed| ticks(body(1, seed)).iter().map(|tick| tick.truth).collect::<Vec<_>>();
        assert_ne!(places(42), places(43));
    }

    #[test]
    fn a_truck_departs_when_it_is_told_and_arrives_when_it_was_foreseen() {
        for trips in [1, 2, 3] {
            let journey_ms = body(trips, 9).journey_ms().unwrap();
            let all = ticks(body(trips, 9));
            assert!(all[..=10].iter().all(|tick| tick.driven_m == 0.0) && all[13].driven_m > 0.0);
            let arrived_ms = all.iter().find(|tick| tick.is_finished).unwrap().passed_ms;
            // Each drive begins and ends at a whole second.
            assert!(arrived_ms.abs_diff(journey_ms) <= 2_000 * u64::from(trips), "{arrived_ms} {journey_ms}");
        }
    }

    #[test]
    fn a_second_drive_leads_back_after_a_stop() {
        let line = route::builtin_named("route-1").unwrap().line;
        let all = ticks(body(2, 5));
        assert!(all.last().unwrap().truth.position.distance_m(line.point_at(0.0)) < 0.01);
        let at_end = |tick: &&Tick| tick.truth.position.distance_m(line.point_at(line.length_m())) < 0.01;
        let stood_s = all.iter().filter(at_end).count();
        assert!((58..=64).contains(&stood_s), "{stood_s} s");
    }
}
