//! How a truck moves along a line: it accelerates, slows for curves, waits at some corners, and stops at the end.
//!
//! The speed is bounded by a profile over the way: at each point of the line what the curve there allows, at the end 0, and
//! in between what the brakes can still bring down to that. The seed decides how briskly the driver drives and at which
//! corners the truck waits; nothing else is chance. A [`Detour`] bends the driven line off the planned one.

use tracks::LatLon;
use tracks::geodesy::wrap_longitude_deg;
use tracks::route::{Polyline, PolylineError};

use crate::detour::Detour;

/// The time step of the integration, in milliseconds.
const STEP_MS: u64 = 100;
/// The slowest a moving truck takes a curve, in metres a second.
const CRAWL_MPS: f64 = 1.5;
/// A corner is cut over at most so many metres on either side, and over at least so many.
const CORNER_M: std::ops::RangeInclusive<f64> = 2.0..=10.0;
/// From this turn on a point of the line is a corner at which a truck may have to wait, in degrees.
const WAIT_TURN_DEG: f64 = 45.0;
/// The share of the corners at which it does, and for how long, in milliseconds.
const WAIT_SHARE: f64 = 0.25;
const WAIT_MS: std::ops::Range<u64> = 4_000..20_000;
/// Closer than this to a stop a truck stands, in metres.
const AT_STOP_M: f64 = 0.1;
/// The longest drive that is simulated, in milliseconds: 30 days.
const DRIVE_MAX_MS: u64 = 30 * 24 * 3_600_000;

/// How a truck drives.
#[derive(Debug, Clone, PartialEq)]
pub struct DriveOptions {
    /// The speed limit in metres a second.
    pub speed_max_mps: f64,
    /// Acceleration in metres a second squared.
    pub accelerate_mps2: f64,
    /// Braking in metres a second squared.
    pub brake_mps2: f64,
    /// Sideways acceleration in curves in metres a second squared.
    pub sideways_mps2: f64,
    /// A way off the planned line.
    pub detour: Option<Detour>,
}

impl Default for DriveOptions {
    /// A loaded truck in a town: 50 km/h, 1.0, 1.5 and 1.8 m/s².
    fn default() -> DriveOptions {
        DriveOptions {
            speed_max_mps: 13.9,
            accelerate_mps2: 1.0,
            brake_mps2: 1.5,
            sideways_mps2: 1.8,
            detour: None,
        }
    }
}

/// Why a line cannot be driven so.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DriveError {
    /// The detour is not on the line.
    #[error(
        "a detour from {from_m} m to {to_m} m, {offset_m} m aside, does not fit a route of {length_m:.0} m: it must begin before it ends, within the route, and be at least four times as long as it is wide"
    )]
    Detour {
        /// Where it was to begin.
        from_m: f64,
        /// Where it was to end.
        to_m: f64,
        /// How far it was to be moved.
        offset_m: f64,
        /// How long the route is.
        length_m: f64,
    },
    /// The truck is to start behind the end of its line.
    #[error(
        "a truck cannot start {driven_m} m along a way of {length_m:.0} m: it must be 0 or more and less than that"
    )]
    Start {
        /// Where it was to start.
        driven_m: f64,
        /// How long the way is.
        length_m: f64,
    },
    /// The bent line is none.
    #[error(transparent)]
    Line(#[from] PolylineError),
    /// A speed or an acceleration is not above 0.
    #[error("{name} must be a number above 0 and up to {max}, not {value}")]
    Option {
        /// Which option.
        name: &'static str,
        /// The highest value.
        max: f64,
        /// What was given.
        value: f64,
    },
    /// It would take for ever.
    #[error("the drive of {length_m:.0} m would take more than 30 days")]
    TooLong {
        /// How long the route is.
        length_m: f64,
    },
}

/// Where a truck really is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truth {
    /// The place.
    pub position: LatLon,
    /// The speed in metres a second.
    pub speed_mps: f64,
    /// The direction in degrees from true north.
    pub course_deg: f64,
}

/// A truck on its way.
#[derive(Debug, Clone)]
pub struct Drive {
    line: Polyline,
    options: DriveOptions,
    /// Between which metres of `line` the truck is on its detour.
    detour_m: Option<(f64, f64)>,
    /// The highest speed at each point from which all that follows can still be met.
    allowed_mps: Vec<f64>,
    /// How long the truck waits at each point.
    wait_ms: Vec<u64>,
    /// Which segment the truck is on.
    segment: usize,
    driven_m: f64,
    speed_mps: f64,
    waiting_ms: u64,
    /// Time given that did not fill a step.
    rest_ms: u64,
}

impl Drive {
    /// Makes a truck that stands at the start of `planned`.
    ///
    /// # Errors
    /// A detour that is not on the line, or an option that is no speed or acceleration.
    pub fn new(planned: &Polyline, options: DriveOptions, seed: u64) -> Result<Drive, DriveError> {
        for (name, value) in [
            ("speed_max_mps", options.speed_max_mps),
            ("accelerate_mps2", options.accelerate_mps2),
            ("brake_mps2", options.brake_mps2),
            ("sideways_mps2", options.sideways_mps2),
        ] {
            let max = 100.0;
            if !(value > 0.0 && value <= max) {
                return Err(DriveError::Option { name, max, value });
            }
        }
        let (line, detour_m) = match &options.detour {
            None => (planned.clone(), None),
            Some(detour) => {
                let line = detour.bend(planned)?;
                // Behind the detour both lines are the same.
                let end_m = line.length_m() - (planned.length_m() - detour.to_m);
                (line, Some((detour.from_m, end_m)))
            }
        };
        let mut chance = fastrand::Rng::with_seed(seed);
        let brisk = 0.85 + 0.15 * chance.f64();
        let options = DriveOptions { speed_max_mps: options.speed_max_mps * brisk, ..options };
        let (allowed_mps, wait_ms) = profile(&line, &options, &mut chance);
        Ok(Drive {
            line,
            options,
            detour_m,
            allowed_mps,
            wait_ms,
            segment: 0,
            driven_m: 0.0,
            speed_mps: 0.0,
            waiting_ms: 0,
            rest_ms: 0,
        })
    }

    /// Puts the truck, standing, `driven_m` metres along the line that it drives.
    ///
    /// # Errors
    /// A place that is not on the line, or is its end.
    pub fn start_at(mut self, driven_m: f64) -> Result<Drive, DriveError> {
        let length_m = self.line.length_m();
        if !(0.0..length_m).contains(&driven_m) {
            return Err(DriveError::Start { driven_m, length_m });
        }
        let behind = self.line.along_m().partition_point(|&at_m| at_m <= driven_m);
        // `behind` is at least 1, since the line starts at 0 m, and no more than the last point, since the end is further.
        self.segment = behind - 1;
        self.driven_m = driven_m;
        Ok(self)
    }

    /// Lets `dt_ms` milliseconds pass.
    pub fn advance(&mut self, dt_ms: u64) {
        self.rest_ms = self.rest_ms.saturating_add(dt_ms);
        while self.rest_ms >= STEP_MS && !self.is_finished() {
            self.rest_ms -= STEP_MS;
            self.step();
        }
        self.rest_ms %= STEP_MS;
    }

    fn step(&mut self) {
        if self.waiting_ms > 0 {
            self.waiting_ms = self.waiting_ms.saturating_sub(STEP_MS);
            return;
        }
        let dt_s = STEP_MS as f64 / 1_000.0;
        let ahead_m = self.ahead_m();
        let at_end_mps = self.allowed_mps[self.segment + 1];
        let allowed_mps = (at_end_mps * at_end_mps + 2.0 * self.options.brake_mps2 * ahead_m).sqrt();
        let wanted_mps = allowed_mps.min(self.options.speed_max_mps);
        let faster_mps = self.speed_mps + self.options.accelerate_mps2 * dt_s;
        self.speed_mps = wanted_mps.min(faster_mps);
        self.driven_m += self.speed_mps * dt_s;
        while self.ahead_m() <= if self.allowed_mps[self.segment + 1] > 0.0 { 0.0 } else { AT_STOP_M } {
            if self.allowed_mps[self.segment + 1] == 0.0 {
                self.driven_m = self.line.along_m()[self.segment + 1];
                self.speed_mps = 0.0;
                self.waiting_ms = self.wait_ms[self.segment + 1];
            }
            if self.segment + 2 == self.allowed_mps.len() {
                return;
            }
            self.segment += 1;
        }
    }

    /// Metres to the end of the segment.
    fn ahead_m(&self) -> f64 {
        self.line.along_m()[self.segment + 1] - self.driven_m
    }

    /// Whether the truck stands at its destination.
    pub fn is_finished(&self) -> bool {
        self.driven_m >= self.line.length_m()
    }

    /// Where the truck is.
    pub fn truth(&self) -> Truth {
        Truth {
            position: self.line.point_at(self.driven_m),
            speed_mps: self.speed_mps,
            course_deg: self.line.bearing_at_deg(self.driven_m),
        }
    }

    /// How far it has driven, in metres.
    pub fn driven_m(&self) -> f64 {
        self.driven_m
    }

    /// The line it drives, a detour included.
    pub fn line(&self) -> &Polyline {
        &self.line
    }

    /// Whether the truck is on its detour.
    pub fn is_on_detour(&self) -> bool {
        self.detour_m.is_some_and(|(from_m, to_m)| (from_m..to_m).contains(&self.driven_m))
    }

    /// How long the rest of the drive takes, in milliseconds, found by driving it.
    ///
    /// # Errors
    /// It takes more than 30 days.
    pub fn remaining_ms(&self) -> Result<u64, DriveError> {
        let mut twin = self.clone();
        let mut passed_ms = 0;
        while !twin.is_finished() {
            twin.step();
            passed_ms += STEP_MS;
            if passed_ms > DRIVE_MAX_MS {
                return Err(DriveError::TooLong { length_m: self.line.length_m() });
            }
        }
        Ok(passed_ms)
    }
}

/// The speeds that the line allows at its points, and the waits there.
fn profile(line: &Polyline, options: &DriveOptions, chance: &mut fastrand::Rng) -> (Vec<f64>, Vec<u64>) {
    let points: Vec<LatLon> = line.points().collect();
    let along_m = line.along_m();
    let last = points.len() - 1;
    let mut allowed_mps = vec![options.speed_max_mps; points.len()];
    let mut wait_ms = vec![0; points.len()];
    for i in 1..last {
        let (before_deg, after_deg) =
            (points[i - 1].bearing_deg(points[i]), points[i].bearing_deg(points[i + 1]));
        let turn_deg = wrap_longitude_deg(after_deg - before_deg).abs();
        // The circle that touches both segments where the corner is cut.
        let sides_m = (along_m[i] - along_m[i - 1]).min(along_m[i + 1] - along_m[i]);
        let cut_m = (sides_m / 2.0).clamp(*CORNER_M.start(), *CORNER_M.end());
        let radius_m = cut_m / (turn_deg.to_radians() / 2.0).tan().max(1e-6);
        allowed_mps[i] = (options.sideways_mps2 * radius_m).sqrt().max(CRAWL_MPS).min(options.speed_max_mps);
        if turn_deg >= WAIT_TURN_DEG && chance.f64() < WAIT_SHARE {
            allowed_mps[i] = 0.0;
            wait_ms[i] = chance.u64(WAIT_MS);
        }
    }
    allowed_mps[last] = 0.0;
    for i in (0..last).rev() {
        let brakes_mps =
            (allowed_mps[i + 1].powi(2) + 2.0 * options.brake_mps2 * (along_m[i + 1] - along_m[i])).sqrt();
        allowed_mps[i] = allowed_mps[i].min(brakes_mps);
    }
    (allowed_mps, wait_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route;

    fn drive(name: &str, options: DriveOptions, seed: u64) -> Drive {
        Drive::new(&route::builtin_named(name).unwrap().line, options, seed).unwrap()
    }

    /// The truth at every second until a minute after the end.
    fn seconds(mut drive: Drive) -> Vec<Truth> {
        let mut all = vec![drive.truth()];
        let mut after_s = 0;
        while after_s < 60 {
            drive.advance(1_000);
            all.push(drive.truth());
            after_s += u32::from(drive.is_finished());
            assert!(all.len() < 10_000, "the drive does not end");
        }
        all
    }

    #[test]
    fn the_same_seed_drives_the_same_way_and_another_does_not() {
        let of = |seed| seconds(drive("route-1", DriveOptions::default(), seed));
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }

    #[test]
    fn how_time_is_cut_into_steps_does_not_matter() {
        let (mut coarse, mut fine) =
            (drive("route-6", DriveOptions::default(), 3), drive("route-6", DriveOptions::default(), 3));
        for _ in 0..60 {
            coarse.advance(5_000);
            (0..200).for_each(|_| fine.advance(25));
            assert_eq!(coarse.truth(), fine.truth());
        }
    }

    #[test]
    fn a_drive_is_as_brisk_as_a_truck_in_a_town_and_ends_at_rest_at_its_destination() {
        for name in ["route-1", "route-6", "route-7", "route-8"] {
            for seed in 0..10 {
                let route = route::builtin_named(name).unwrap();
                let truths = seconds(drive(name, DriveOptions::default(), seed));
                let took_s = truths.len() as f64 - 60.0;
                assert!((200.0..1_400.0).contains(&took_s), "{name} seed {seed}: {took_s} s");
                let end = truths.last().unwrap();
                assert_eq!(end.speed_mps, 0.0);
                assert!(end.position.distance_m(route.destination()) < 0.01);
                for pair in truths.windows(2) {
                    let change = pair[1].speed_mps - pair[0].speed_mps;
                    assert!((-2.5..=1.01).contains(&change), "{name} seed {seed}: {change} m/s in a second");
                    assert!(pair[1].speed_mps <= 13.9);
                    let moved_m = pair[0].position.distance_m(pair[1].position);
                    assert!(
                        moved_m <= pair[0].speed_mps.max(pair[1].speed_mps) + 1.1,
                        "{name} seed {seed}: {moved_m} m"
                    );
                    assert!(route.line.nearest(pair[1].position).distance_m < 0.1);
                }
            }
        }
    }

    #[test]
    fn a_truck_may_start_on_the_way_and_needs_less_time() {
        let whole = drive("route-1", DriveOptions::default(), 1);
        let half = whole.clone().start_at(1_300.0).unwrap();
        assert_eq!((half.driven_m(), half.truth().speed_mps), (1_300.0, 0.0));
        assert!(half.remaining_ms().unwrap() < whole.remaining_ms().unwrap() * 3 / 4);
        assert_eq!(seconds(half).last().unwrap().position, seconds(whole).last().unwrap().position);
    }

    #[test]
    fn a_right_angle_is_taken_slowly_and_a_straight_road_is_not() {
        let start = LatLon::new(60.17, 24.94);
        let corner = start.destination(90.0, 400.0);
        let line = Polyline::new([start, corner, corner.destination(0.0, 400.0)]).unwrap();
        let mut slowest_at_corner: f64 = 99.0;
        let mut fastest: f64 = 0.0;
        for truth in seconds(Drive::new(&line, DriveOptions::default(), 1).unwrap()) {
            fastest = fastest.max(truth.speed_mps);
            if truth.position.distance_m(corner) < 6.0 {
                slowest_at_corner = slowest_at_corner.min(truth.speed_mps);
            }
        }
        assert!(slowest_at_corner < 5.5 && fastest > 11.0, "{slowest_at_corner} {fastest}");
    }

    #[test]
    fn a_detour_leaves_the_route_between_its_ends_and_nowhere_else() {
        let line = route::builtin_named("route-1").unwrap().line;
        let detour = Detour { from_m: 1_000.0, to_m: 1_800.0, offset_m: 120.0 };
        let mut drive = drive("route-1", DriveOptions { detour: Some(detour), ..DriveOptions::default() }, 5);
        let mut furthest_m: f64 = 0.0;
        let mut on_detour_s = 0;
        while !drive.is_finished() {
            drive.advance(1_000);
            let off_m = line.nearest(drive.truth().position).distance_m;
            furthest_m = furthest_m.max(off_m);
            on_detour_s += u32::from(drive.is_on_detour());
            assert!(drive.is_on_detour() || off_m < 0.1, "{off_m} m off at {} m", drive.driven_m());
        }
        assert!(furthest_m > 80.0 && on_detour_s > 30, "{furthest_m} m, {on_detour_s} s");
        assert!(drive.truth().position.distance_m(line.point_at(line.length_m())) < 0.01);
    }

    #[test]
    fn a_detour_that_does_not_fit_and_a_speed_that_is_none_are_refused_with_their_values() {
        let line = route::builtin_named("route-1").unwrap().line;
        for (from_m, to_m, offset_m) in [
            (-1.0, 900.0, 50.0),
            (100.0, 9_000.0, 50.0),
            (500.0, 400.0, 5.0),
            (100.0, 200.0, 50.0),
            (1.0, 900.0, f64::NAN),
            (f64::NAN, 900.0, 1.0),
        ] {
            let detour = Some(Detour { from_m, to_m, offset_m });
            let error = Drive::new(&line, DriveOptions { detour, ..DriveOptions::default() }, 1).unwrap_err();
            assert!(error.to_string().contains(&format!("{offset_m} m aside")), "{error}");
        }
        for speed_max_mps in [0.0, -3.0, f64::NAN, 1e9] {
            let error =
                Drive::new(&line, DriveOptions { speed_max_mps, ..DriveOptions::default() }, 1).unwrap_err();
            assert!(error.to_string().contains("speed_max_mps must be"), "{error}");
        }
        for driven_m in [-1.0, line.length_m(), f64::NAN] {
            let error = drive("route-1", DriveOptions::default(), 1).start_at(driven_m).unwrap_err();
            assert!(error.to_string().contains(&format!("start {driven_m} m along")), "{error}");
        }
    }
}
