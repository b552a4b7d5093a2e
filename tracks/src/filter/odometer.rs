//! The length of a drive from places that are never exact.
//!
//! A step counts when it is long enough to be a drive and not the noise of the place. Between fixes that lie far apart
//! vehicles take corners: the way is then between the arc and the two sides of the corner that the courses at both ends
//! make, and the reported speeds say where between.

use super::body::{Spot, Vector, length, offset_m};
use crate::geodesy::LatLon;

/// Slower than this a place only drifts, in metres a second.
pub(crate) const MOVES_MPS: f32 = 0.8;
/// From this speed on a course can be trusted, in metres a second.
const COURSE_FROM_MPS: f32 = 2.0;
/// Between fixes that are closer in time, in seconds, chords are taken as they are where courses come from places alone.
const CORNER_FROM_S: f32 = 4.0;
/// Shorter chords between equal courses show no more than the noise of their ends.
const DETOUR_FROM_M: f32 = 40.0;

/// Courses that differ by less are equal.
const TURN_SINE: f32 = 0.2;
/// Bends are driven at about one speed.
const CORNER_SPEED_SHARE: f32 = 0.6;

/// The metres so far, and the place up to which they count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Odometer {
    pub(crate) total_m: f64,
    point: Spot,
    velocity_mps: Vector,
    since_s: f32,
}

impl Odometer {
    pub(crate) fn at(place: LatLon, total_m: f64) -> Odometer {
        Odometer { total_m, point: Spot::of(place), velocity_mps: (0.0, 0.0), since_s: 0.0 }
    }

    /// The metres up to a place, the step that does not count yet among them.
    pub(crate) fn total_at_m(&self, place: LatLon) -> f64 {
        self.total_m + f64::from(length(offset_m(self.point.place(), place)))
    }

    /// Goes on to a place that was reached `elapsed_s` after the last call.
    pub(crate) fn advance(
        &mut self,
        to: LatLon,
        velocity_mps: Vector,
        elapsed_s: f32,
        step_m: f32,
        knows_course: bool,
    ) {
        self.since_s += elapsed_s;
        let chord = offset_m(self.point.place(), to);
        let straight_m = length(chord);
        let is_moving = length(velocity_mps) >= MOVES_MPS || straight_m > 3.0 * step_m;
        if straight_m < step_m || !is_moving {
            return;
        }
        let way_m = if knows_course || self.since_s >= CORNER_FROM_S {
            way_m(self.velocity_mps, chord, velocity_mps, self.since_s)
        } else {
            straight_m
        };
        self.total_m += f64::from(way_m);
        (self.point, self.velocity_mps, self.since_s) = (Spot::of(to), velocity_mps, 0.0);
    }
}

/// The length of a way with a chord, driven off and arrived at with these velocities.
fn way_m(from: Vector, chord: Vector, to: Vector, elapsed_s: f32) -> f32 {
    let straight_m = length(chord);
    let (speed0, speed1) = (length(from), length(to));
    let unit = |v: Vector, speed: f32| (v.0 / speed, v.1 / speed);
    let (u0, u1) = match (speed0 >= COURSE_FROM_MPS, speed1 >= COURSE_FROM_MPS) {
        (true, true) => (unit(from, speed0), unit(to, speed1)),
        (true, false) => (unit(from, speed0), unit(from, speed0)),
        (false, true) => (unit(to, speed1), unit(to, speed1)),
        (false, false) => return straight_m,
    };
    let cross = |a: Vector, b: Vector| a.0 * b.1 - a.1 * b.0;
    let dot = |a: Vector, b: Vector| a.0 * b.0 + a.1 * b.1;
    let by_speed_m = (speed0 + speed1) / 2.0 * elapsed_s;
    let (sine, cosine) = (cross(u0, u1), dot(u0, u1));
    if sine.abs() > TURN_SINE && cosine > -0.5 {
        // The chord as a sum of both directions: the corner.
        let (first_m, second_m) = (cross(chord, u1) / sine, cross(u0, chord) / sine);
        if first_m >= 0.0 && second_m >= 0.0 {
            let half_turn = sine.abs().atan2(cosine) / 2.0;
            let arc_m = straight_m * half_turn / half_turn.sin();
            let sides_m = first_m + second_m;
            // Who has braked or sped up that much took a corner rather than a bend.
            let took_corner = speed0.min(speed1) < CORNER_SPEED_SHARE * speed0.max(speed1);
            let least_m = if took_corner { (arc_m + sides_m) / 2.0 } else { arc_m };
            return by_speed_m.clamp(least_m.min(sides_m), sides_m);
        }
    }
    if straight_m < DETOUR_FROM_M && sine.abs() <= TURN_SINE {
        return straight_m;
    }
    // Two corners, or more: along the first course and across it.
    let detour_m = dot(chord, u0).abs() + cross(chord, u0).abs();
    by_speed_m.clamp(straight_m, detour_m.max(straight_m))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_between_two_fixes_are_chords_arcs_corners_and_detours() {
        // Driven off, chord, arrived, seconds; the way.
        let table = [
            ((10.0, 0.0), (300.0, 0.0), (10.0, 0.0), 30.0, 300.0),
            // A corner: 150 m east and 150 m north at 10 m/s.
            ((10.0, 0.0), (150.0, 150.0), (0.0, 10.0), 30.0, 300.0),
            // A quarter of a circle of 191 m.
            ((10.0, 0.0), (191.0, 191.0), (0.0, 10.0), 30.0, 300.0),
            // Waited at the corner: no more than its sides.
            ((10.0, 0.0), (100.0, 100.0), (0.0, 10.0), 60.0, 200.0),
            // Off a road, along another, on the same course again.
            ((10.0, 0.0), (200.0, 100.0), (10.0, 0.0), 30.0, 300.0),
            // Where only one course is known, the speeds say more than the chord.
            ((0.0, 0.0), (150.0, 150.0), (0.0, 10.0), 30.0, 212.13),
            ((0.0, 0.0), (150.0, 150.0), (0.0, 18.0), 30.0, 270.0),
            ((0.0, 0.0), (150.0, 150.0), (0.0, 0.0), 30.0, 212.13),
        ];
        for (from, chord, to, elapsed_s, want_m) in table {
            let got_m = way_m(from, chord, to, elapsed_s);
            assert!((got_m - want_m).abs() < 0.01 * want_m, "{from:?} {chord:?} {to:?}: {got_m}");
        }
    }

    #[test]
    fn a_place_that_drifts_drives_no_metre() {
        let home = LatLon::new(60.17, 24.94);
        let mut odometer = Odometer::at(home, 0.0);
        for s in 0..1_000 {
            let drift_m = 9.0 * (f64::from(s) / 20.0).sin();
            odometer.advance(home.destination(45.0, drift_m), (0.3, 0.3), 1.0, 10.0, false);
        }
        assert_eq!(odometer.total_m, 0.0);
    }
}
