//! Ways off the planned line: where one fits, and how it bends the line that is driven.

use tracks::LatLon;
use tracks::route::Polyline;

use crate::motion::DriveError;

/// How far apart the points of a detour are, in metres.
const DETOUR_STEP_M: f64 = 10.0;

/// A way off the planned line: a stretch of it, moved sideways, with a ramp at either end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detour {
    /// Where it leaves the planned line, in metres from the start.
    pub from_m: f64,
    /// Where it is back, in metres from the start.
    pub to_m: f64,
    /// How far it is moved, in metres; to the right of the way from its start to its end when positive, else to the left.
    pub offset_m: f64,
}

impl Detour {
    /// Finds a detour of this width and length that comes near no part of the line, as seen from its middle half: a line
    /// that crosses itself in a town has few. It begins after the first tenth of the line and ends before the last.
    ///
    /// `None` when there is none that keeps seven tenths of the width.
    pub fn clear_of(line: &Polyline, offset_m: f64, length_m: f64) -> Option<Detour> {
        const TRY_EVERY_M: f64 = 50.0;
        let total_m = line.length_m();
        let starts = (total_m * 0.8 - length_m) / TRY_EVERY_M;
        // Not a number fails the comparison as well.
        if !(starts >= 0.0 && length_m > 0.0) {
            return None;
        }
        let mut best: Option<(f64, Detour)> = None;
        for start in 0..=starts as u32 {
            let from_m = total_m * 0.1 + f64::from(start) * TRY_EVERY_M;
            for offset_m in [offset_m, -offset_m] {
                let detour = Detour { from_m, to_m: from_m + length_m, offset_m };
                let clear_m = detour.clear_m(line);
                if clear_m >= 0.7 * offset_m.abs() && best.is_none_or(|(most_m, _)| clear_m > most_m) {
                    best = Some((clear_m, detour));
                }
            }
        }
        best.map(|(_, detour)| detour)
    }

    /// How near the middle half of the detour comes to the line, in metres.
    fn clear_m(&self, line: &Polyline) -> f64 {
        let quarter_m = (self.to_m - self.from_m) / 4.0;
        let steps = (2.0 * quarter_m / DETOUR_STEP_M).ceil().max(1.0);
        (0..=steps as u32)
            .map(|step| self.from_m + quarter_m + 2.0 * quarter_m * f64::from(step) / steps)
            .map(|along_m| line.nearest(self.moved(line, along_m)).distance_m)
            .fold(f64::INFINITY, f64::min)
    }

    /// The line with the stretch moved.
    pub(crate) fn bend(&self, line: &Polyline) -> Result<Polyline, DriveError> {
        let Detour { from_m, to_m, offset_m } = *self;
        let length_m = line.length_m();
        let long_enough = to_m - from_m >= 4.0 * offset_m.abs() && to_m > from_m;
        if !(from_m >= 0.0 && to_m <= length_m && long_enough && offset_m.is_finite()) {
            return Err(DriveError::Detour { from_m, to_m, offset_m, length_m });
        }
        let along = || line.points().zip(line.along_m().iter().copied());
        let before = along().take_while(|(_, along_m)| *along_m < from_m).map(|(point, _)| point);
        let after = along().skip_while(|(_, along_m)| *along_m <= to_m).map(|(point, _)| point);
        let steps = ((to_m - from_m) / DETOUR_STEP_M).ceil();
        let moved = (0..=steps as u32)
            .map(|step| self.moved(line, from_m + (to_m - from_m) * f64::from(step) / steps));
        Ok(Polyline::new(before.chain(moved).chain(after))?)
    }

    /// Where the point `along_m` metres along the planned line is moved to.
    ///
    /// All points are moved the same way, across the straight line from start to end: moved across the road itself,
    /// the inside of a curve would fold.
    fn moved(&self, line: &Polyline, along_m: f64) -> LatLon {
        let (start, end) = (line.point_at(self.from_m), line.point_at(self.to_m));
        let share = (along_m - self.from_m) / (self.to_m - self.from_m);
        // A quarter of the way out and a quarter back, without a kink.
        let ramp = (4.0 * share).min(4.0 * (1.0 - share)).clamp(0.0, 1.0);
        let smooth = (1.0 - (std::f64::consts::PI * ramp).cos()) / 2.0;
        line.point_at(along_m).destination(start.bearing_deg(end) + 90.0, self.offset_m * smooth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::motion::{Drive, DriveOptions};
    use crate::route;

    #[test]
    fn every_built_in_route_has_a_detour_that_is_clear_of_it() {
        for route in route::builtin() {
            let detour = Detour::clear_of(&route.line, 150.0, 900.0).expect("a clear detour");
            assert!(detour.clear_m(&route.line) >= 105.0, "{}: {detour:?}", route.name);
            let options = DriveOptions { detour: Some(detour), ..DriveOptions::default() };
            assert!(Drive::new(&route.line, options, 1).is_ok(), "{}: {detour:?}", route.name);
        }
    }

    #[test]
    fn a_route_without_room_has_no_detour() {
        let line = route::builtin_named("route-1").unwrap().line;
        assert_eq!(Detour::clear_of(&line, 150.0, 9_000.0), None);
        assert_eq!(Detour::clear_of(&line, f64::NAN, 900.0), None);
    }
}
