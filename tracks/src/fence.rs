//! Watches whether a vehicle enters or leaves an area.
//!
//! Every area answers one question: how far is a place outside its border (negative: inside)? A fix says "inside" when it
//! is inside by a standard deviation, "outside" when it is outside by the hysteresis and two standard deviations, else
//! nothing. Several fixes that say the same make an event:
//!
//! ```text
//!             confirm × inside            confirm × outside
//!   unknown ------------------> inside <-------------------> outside
//!      \_______________________________________________________^
//!                        confirm × outside
//! ```
//!
//! Leaving `unknown` is no event unless asked for: a truck that stood in the yard when the fence was drawn did not arrive.

use crate::fix::Fix;
use crate::geodesy::{LatLon, Plane, nearest_on_segment};

/// The most corners a polygon may have.
pub const CORNERS_MAX: usize = 10_000;

/// How many standard deviations a fix must be outside.
const SIGMAS_OUT: f64 = 2.0;

/// Why there is no such area.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FenceError {
    /// A place is not on Earth.
    #[error(
        "place {index} of the fence is not on Earth: latitude {lat} must be within ±90, longitude {lon} within ±180 degrees"
    )]
    NotOnEarth {
        /// Which place, counted from 0.
        index: usize,
        /// Its latitude.
        lat: f64,
        /// Its longitude.
        lon: f64,
    },
    /// The radius is not a length.
    #[error("the radius of a fence must be a number of metres above 0 and up to 100000, not {radius_m}")]
    Radius {
        /// What was given.
        radius_m: f64,
    },
    /// Too few or too many corners.
    #[error("a fence needs 3 to {CORNERS_MAX} different corners, this one has {corners}")]
    Corners {
        /// How many there were.
        corners: usize,
    },
    /// The corners enclose nothing.
    #[error("the {corners} corners of the fence enclose no area")]
    Flat {
        /// How many there were.
        corners: usize,
    },
}

/// All places within a radius.
#[derive(Debug, Clone, PartialEq)]
pub struct Circle {
    centre: LatLon,
    radius_m: f64,
}

impl Circle {
    /// Makes a circle.
    ///
    /// # Errors
    /// A centre that is not on Earth; a radius that is not above 0 and at most 100 km.
    pub fn new(centre: LatLon, radius_m: f64) -> Result<Circle, FenceError> {
        check_place(0, centre)?;
        if radius_m > 0.0 && radius_m <= 100_000.0 {
            return Ok(Circle { centre, radius_m });
        }
        Err(FenceError::Radius { radius_m })
    }

    /// The middle.
    pub fn centre(&self) -> LatLon {
        self.centre
    }

    /// The radius in metres.
    pub fn radius_m(&self) -> f64 {
        self.radius_m
    }
}

/// All places inside a closed line that does not cross itself.
#[derive(Debug, Clone)]
pub struct Polygon {
    /// Flat coordinates around the first corner.
    plane: Plane,
    corners: Vec<(f64, f64)>,
    depth_m: f64,
}

impl Polygon {
    /// Makes a polygon of its corners in order, either way round; the last may repeat the first.
    ///
    /// It is flat: fit for yards and towns (up to about 100 km), not for countries.
    ///
    /// # Errors
    /// A corner that is not on Earth, fewer than 3 or more than [`CORNERS_MAX`] of them, or no area.
    pub fn new(corners: impl IntoIterator<Item = LatLon>) -> Result<Polygon, FenceError> {
        let mut places: Vec<LatLon> = Vec::new();
        for (index, place) in corners.into_iter().enumerate() {
            check_place(index, place)?;
            if index > CORNERS_MAX {
                return Err(FenceError::Corners { corners: index + 1 });
            }
            if places.last() != Some(&place) {
                places.push(place);
            }
        }
        if places.len() > 1 && places.first() == places.last() {
            places.pop();
        }
        if !(3..=CORNERS_MAX).contains(&places.len()) {
            return Err(FenceError::Corners { corners: places.len() });
        }
        let plane = Plane::at(places[0]);
        let corners: Vec<(f64, f64)> = places.iter().map(|&place| plane.xy_m(place)).collect();
        let (mut twice_area, mut around_m) = (0.0, 0.0);
        for (a, b) in sides(&corners) {
            twice_area += a.0 * b.1 - b.0 * a.1;
            around_m += (b.0 - a.0).hypot(b.1 - a.1);
        }
        // Area / perimeter is never more than the radius of the largest circle inside.
        let depth_m = twice_area.abs() / 2.0 / around_m;
        if depth_m.is_nan() || depth_m < 1e-3 {
            return Err(FenceError::Flat { corners: corners.len() });
        }
        Ok(Polygon { plane, corners, depth_m })
    }
}

fn check_place(index: usize, place: LatLon) -> Result<(), FenceError> {
    if place.is_valid() {
        Ok(())
    } else {
        Err(FenceError::NotOnEarth { index, lat: place.lat, lon: place.lon })
    }
}

fn sides(corners: &[(f64, f64)]) -> impl Iterator<Item = ((f64, f64), (f64, f64))> + '_ {
    corners.iter().copied().zip(corners.iter().copied().cycle().skip(1))
}

/// An area.
#[derive(Debug, Clone)]
pub enum Fence {
    /// A circle.
    Circle(Circle),
    /// A polygon.
    Polygon(Polygon),
}

impl Fence {
    /// How far a place is outside the border, in metres; negative inside. Not a number for a place that is none.
    pub fn outside_m(&self, place: LatLon) -> f64 {
        match self {
            Fence::Circle(circle) => circle.centre.distance_m(place) - circle.radius_m,
            Fence::Polygon(polygon) => polygon.outside_m(place),
        }
    }

    /// Whether a place is inside or on the border.
    pub fn contains(&self, place: LatLon) -> bool {
        self.outside_m(place) <= 0.0
    }

    /// How far inside a place can be at least somewhere: what an accuracy must be compared with.
    fn depth_m(&self) -> f64 {
        match self {
            Fence::Circle(circle) => circle.radius_m,
            Fence::Polygon(polygon) => polygon.depth_m,
        }
    }

    fn says(&self, fix: &Fix, hysteresis_m: f64) -> Option<Side> {
        let outside_m = self.outside_m(fix.position());
        let (sigma_m, depth_m) = (fix.sigma_m(), self.depth_m());
        if outside_m > hysteresis_m + SIGMAS_OUT * sigma_m {
            return Some(Side::Outside);
        }
        // A fix vaguer than the area is large cannot vouch for being in it; in a small area half its depth must do.
        (sigma_m <= depth_m && outside_m <= -sigma_m.min(depth_m / 2.0)).then_some(Side::Inside)
    }
}

impl Polygon {
    fn outside_m(&self, place: LatLon) -> f64 {
        let (x, y) = self.plane.xy_m(place);
        let mut inside = false;
        let mut border_m = f64::INFINITY;
        for (a, b) in sides(&self.corners) {
            let (a, b) = ((a.0 - x, a.1 - y), (b.0 - x, b.1 - y));
            border_m = border_m.min(nearest_on_segment(a, b).0);
            // Does the ray from the place to the east cross this side? Half-open, so that a corner counts once.
            if (a.1 > 0.0) != (b.1 > 0.0) && a.0 - a.1 * (b.0 - a.0) / (b.1 - a.1) > 0.0 {
                inside = !inside;
            }
        }
        if inside { -border_m } else { border_m }
    }
}

impl From<Circle> for Fence {
    fn from(circle: Circle) -> Fence {
        Fence::Circle(circle)
    }
}

impl From<Polygon> for Fence {
    fn from(polygon: Polygon) -> Fence {
        Fence::Polygon(polygon)
    }
}

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
    /// Whether a vehicle that is inside from the first fix on enters.
    pub enter_at_start: bool,
}

impl Default for WatcherOptions {
    /// 3 fixes, 10 m, no.
    fn default() -> WatcherOptions {
        WatcherOptions { confirm: 3, hysteresis_m: 10.0, enter_at_start: false }
    }
}

/// What a watcher saw happen.
#[derive(Debug, Clone, PartialEq)]
pub enum FenceEvent {
    /// The vehicle came in.
    Entered(Crossing),
    /// The vehicle left.
    Exited(Crossing),
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

/// Watches one vehicle and one area. Give it fixes that passed a [`crate::plausibility::Gate`].
#[derive(Debug, Clone)]
pub struct Watcher {
    fence: Fence,
    options: WatcherOptions,
    side: Option<Side>,
    /// Fixes that say the vehicle is on another side: which, how many, and the time of the first.
    turn: Option<(Side, u32, i64)>,
}

impl Watcher {
    /// Watches a vehicle of which nothing is known yet.
    pub fn new(fence: Fence, options: WatcherOptions) -> Watcher {
        Watcher { fence, options, side: None, turn: None }
    }

    /// Goes on watching a vehicle that was on `side`, say after a restart: a crossing in between is an event.
    pub fn resume(fence: Fence, options: WatcherOptions, side: Side) -> Watcher {
        Watcher { side: Some(side), ..Watcher::new(fence, options) }
    }

    /// Where the vehicle is, once that is known.
    pub fn side(&self) -> Option<Side> {
        self.side
    }

    /// Takes the next fix; gives an event when it confirms a crossing. A fix without a place is ignored.
    pub fn push(&mut self, fix: &Fix) -> Option<FenceEvent> {
        if !fix.is_usable() {
            return None;
        }
        let says = self.fence.says(fix, self.options.hysteresis_m)?;
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
        self.turn = None;
        let before = self.side.replace(says);
        let crossing = || Crossing {
            ts_ms: fix.ts_ms,
            since_ts_ms,
            position: fix.position(),
            outside_m: self.fence.outside_m(fix.position()),
        };
        match (before, says) {
            (None, Side::Outside) => None,
            (None, Side::Inside) if !self.options.enter_at_start => None,
            (_, Side::Inside) => Some(FenceEvent::Entered(crossing())),
            (_, Side::Outside) => Some(FenceEvent::Exited(crossing())),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Metres of fix after fix, and the events they make: which fix, which event.
    type Case<'a> = (&'a [f64], &'a [(usize, char)]);

    const YARD: LatLon = LatLon::new(60.17, 24.94);

    fn circle() -> Fence {
        Circle::new(YARD, 100.0).unwrap().into()
    }

    /// A fix with sigma 5 m, so many metres east of the yard's middle.
    fn fix(at_s: i64, east_m: f64) -> Fix {
        Fix { hdop: Some(1.0), ..Fix::at(at_s * 1_000, YARD.destination(90.0, east_m)) }
    }

    fn story(watcher: &mut Watcher, easts_m: &[f64]) -> Vec<(usize, char)> {
        easts_m
            .iter()
            .enumerate()
            .filter_map(|(i, &east_m)| match watcher.push(&fix(i as i64, east_m))? {
                FenceEvent::Entered(_) => Some((i, 'E')),
                FenceEvent::Exited(_) => Some((i, 'X')),
            })
            .collect()
    }

    #[test]
    fn three_fixes_inside_are_an_arrival_and_three_outside_a_departure() {
        // Inside is up to 95 m from the middle, outside from 120 m on.
        let out = [300.0, 300.0, 300.0];
        let table: [Case; 6] = [
            (&[90.0, 90.0, 90.0, 90.0], &[(5, 'E')]),
            (&[90.0, 90.0, 200.0, 90.0, 90.0, 200.0], &[]),
            (&[97.0, 97.0, 97.0, 97.0], &[]),
            (&[90.0, 97.0, 90.0, 97.0, 90.0], &[(7, 'E')]),
            (&[0.0, 0.0, 0.0, 115.0, 115.0, 115.0, 0.0, 0.0, 0.0], &[(5, 'E')]),
            (&[0.0, 0.0, 0.0, 125.0, 125.0, 125.0, 0.0, 0.0, 0.0], &[(5, 'E'), (8, 'X'), (11, 'E')]),
        ];
        for (easts_m, want) in table {
            let mut watcher = Watcher::new(circle(), WatcherOptions::default());
            assert_eq!(story(&mut watcher, &[&out[..], easts_m].concat()), want, "{easts_m:?}");
        }
    }

    #[test]
    fn a_truck_that_stands_in_the_yard_when_the_fence_is_drawn_enters_only_if_asked() {
        let easts_m = [0.0, 0.0, 0.0, 0.0, 150.0, 150.0, 150.0, 0.0, 0.0, 0.0];
        let mut quiet = Watcher::new(circle(), WatcherOptions::default());
        assert_eq!(story(&mut quiet, &easts_m), [(6, 'X'), (9, 'E')]);
        let mut asked =
            Watcher::new(circle(), WatcherOptions { enter_at_start: true, ..WatcherOptions::default() });
        assert_eq!(story(&mut asked, &easts_m), [(2, 'E'), (6, 'X'), (9, 'E')]);
    }

    #[test]
    fn an_arrival_during_a_restart_is_told_when_the_side_before_is_known() {
        let mut resumed = Watcher::resume(circle(), WatcherOptions::default(), Side::Outside);
        assert_eq!(story(&mut resumed, &[0.0, 0.0, 0.0, 0.0]), [(2, 'E')]);
        assert_eq!(resumed.side(), Some(Side::Inside));
        let mut still_there = Watcher::resume(circle(), WatcherOptions::default(), Side::Inside);
        assert_eq!(story(&mut still_there, &[0.0; 6]), []);
    }

    #[test]
    fn a_fix_vaguer_than_the_area_says_nothing() {
        let mut watcher = Watcher::resume(circle(), WatcherOptions::default(), Side::Outside);
        for s in 0..10 {
            assert_eq!(watcher.push(&Fix { hdop: Some(21.0), ..fix(s, 0.0) }), None);
        }
    }

    #[test]
    fn a_polygon_knows_its_inside_its_outside_and_the_distance_to_its_border() {
        let corner = |x_m, y_m| Plane::at(YARD).place(x_m, y_m);
        // An L: 200 m wide and high, its north-east quarter missing.
        let shape = [(0.0, 0.0), (200.0, 0.0), (200.0, 100.0), (100.0, 100.0), (100.0, 200.0), (0.0, 200.0)];
        let turned: Vec<(f64, f64)> = shape.iter().rev().copied().collect();
        for corners in [&shape[..], &turned[..]] {
            let fence = Fence::from(Polygon::new(corners.iter().map(|&(x, y)| corner(x, y))).unwrap());
            for ((x, y), want_m) in [
                ((50.0, 50.0), -50.0),
                ((150.0, 50.0), -50.0),
                ((150.0, 150.0), 50.0),
                ((-30.0, 100.0), 30.0),
                ((250.0, 50.0), 50.0),
                ((103.0, 104.0), 3.0),
                ((203.0, 104.0), 5.0),
            ] {
                let got_m = fence.outside_m(corner(x, y));
                assert!((got_m - want_m).abs() < 0.01, "{x} {y}: {got_m} is not {want_m}");
                assert_eq!(fence.contains(corner(x, y)), want_m <= 0.0);
            }
        }
    }

    #[test]
    fn areas_that_are_none_are_refused_with_their_values() {
        let polygon = |corners: &[(f64, f64)]| {
            Polygon::new(corners.iter().map(|&(a, b)| LatLon::new(a, b))).unwrap_err()
        };
        let table = [
            (Circle::new(YARD, -1.0).unwrap_err(), "not -1"),
            (Circle::new(YARD, f64::NAN).unwrap_err(), "not NaN"),
            (Circle::new(LatLon::new(95.0, 0.0), 5.0).unwrap_err(), "latitude 95"),
            (polygon(&[]), "has 0"),
            (polygon(&[(60.0, 24.0), (60.1, 24.0), (60.0, 24.0)]), "has 2"),
            (polygon(&[(60.0, 24.0), (60.1, 24.0), (60.2, 24.0)]), "enclose no area"),
            (polygon(&[(60.0, 24.0), (60.1, 24.0), (60.2, 200.0)]), "place 2 of the fence is not on Earth"),
            (
                Polygon::new((0..20_000).map(|i| LatLon::new(0.0, f64::from(i) * 1e-3))).unwrap_err(),
                "3 to 10000",
            ),
        ];
        for (error, want) in table {
            assert!(error.to_string().contains(want), "{error}");
        }
    }

    proptest! {
        #[test]
        fn entering_and_leaving_alternate_whatever_comes(easts_m in prop::collection::vec(0.0..250.0f64, 0..200)) {
            let story = story(&mut Watcher::resume(circle(), WatcherOptions::default(), Side::Outside), &easts_m);
            for (n, (_, letter)) in story.iter().enumerate() {
                prop_assert_eq!(*letter, if n % 2 == 0 { 'E' } else { 'X' });
            }
        }

        #[test]
        fn a_polygon_with_many_corners_agrees_with_its_circle(bearing in 0.0..360.0f64, far_m in 0.0..400.0f64) {
            let ring = (0..360).map(|deg| YARD.destination(f64::from(deg), 200.0));
            let (polygon, circle) = (Fence::from(Polygon::new(ring).unwrap()), Fence::from(Circle::new(YARD, 200.0).unwrap()));
            let place = YARD.destination(bearing, far_m);
            prop_assert!((polygon.outside_m(place) - circle.outside_m(place)).abs() < 0.5);
        }

        #[test]
        fn any_numbers_are_taken_without_panic(fixes in prop::collection::vec((any::<i64>(), any::<f64>(), any::<f64>(), any::<Option<f64>>()), 0..30)) {
            let mut watcher = Watcher::new(circle(), WatcherOptions::default());
            for (ts_ms, lat, lon, hdop) in fixes {
                let _ = watcher.push(&Fix { hdop, ..Fix::at(ts_ms, LatLon::new(lat, lon)) });
            }
        }
    }
}
