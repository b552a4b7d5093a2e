//! A line on the ground: its length, the point at a distance along it, the nearest point to a place.
//!
//! The nearest point is exact and cheap: consecutive segments lie close together, so a binary tree of bounding boxes
//! over the segments in their order is a good index, needs no tuning, and is built once. A search looks only into boxes
//! that are nearer than the best segment found so far.

use crate::geodesy::{LatLon, Plane, nearest_on_segment, wrap_longitude_deg};

/// The most points a line may have.
pub const POINTS_MAX: usize = 100_000;

/// How many segments one leaf of the search tree holds.
const LEAF_SEGMENTS: usize = 8;

/// Why points make no line.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PolylineError {
    /// A line needs two places.
    #[error("a route needs at least 2 different points, this one has {points}")]
    TooShort {
        /// How many different consecutive points there were.
        points: usize,
    },
    /// The line would cost too much memory.
    #[error("a route may have at most {POINTS_MAX} points, this one has {points}: simplify it")]
    TooLong {
        /// How many points there were.
        points: usize,
    },
    /// A point is not on Earth.
    #[error(
        "point {index} of the route is not on Earth: latitude {lat} must be within ±90, longitude {lon} within ±180 degrees"
    )]
    NotOnEarth {
        /// Which point, counted from 0.
        index: usize,
        /// Its latitude.
        lat: f64,
        /// Its longitude.
        lon: f64,
    },
}

/// A line through at least two different places, straight in latitude and longitude between them.
#[derive(Debug, Clone)]
pub struct Polyline {
    /// Longitudes are counted on past ±180, so that no segment jumps around the Earth.
    points: Vec<LatLon>,
    /// Metres from the start to each point; strictly growing, as long as `points`.
    along_m: Vec<f64>,
    tree: Vec<Node>,
}

/// The point of a line that is nearest to some place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Nearest {
    /// How far the place is from the line, in metres.
    pub distance_m: f64,
    /// How far along the line the nearest point is, in metres from its start.
    pub along_m: f64,
    /// The nearest point itself.
    pub point: LatLon,
}

/// A box around the segments `start..end`. The left child follows it; a leaf has no right child.
#[derive(Debug, Clone)]
struct Node {
    start: u32,
    end: u32,
    right: Option<u32>,
    south_west: LatLon,
    north_east: LatLon,
}

/// The best segment of a search so far.
struct Best {
    cost_m: f64,
    distance_m: f64,
    segment: usize,
    share: f64,
}

impl Polyline {
    /// Makes a line of points in their order; a point that repeats its predecessor is left out.
    ///
    /// # Errors
    /// Fewer than two different points, more than [`POINTS_MAX`], or a point that is not on Earth.
    pub fn new(points: impl IntoIterator<Item = LatLon>) -> Result<Polyline, PolylineError> {
        let mut kept: Vec<LatLon> = Vec::new();
        let mut along_m = Vec::new();
        let mut total_m = 0.0;
        for (index, point) in points.into_iter().enumerate() {
            if !point.is_valid() {
                return Err(PolylineError::NotOnEarth { index, lat: point.lat, lon: point.lon });
            }
            if index >= POINTS_MAX {
                return Err(PolylineError::TooLong { points: index + 1 });
            }
            let Some(last) = kept.last() else {
                kept.push(point);
                along_m.push(0.0);
                continue;
            };
            let next = LatLon::new(point.lat, last.lon + wrap_longitude_deg(point.lon - last.lon));
            let longer_m = total_m + last.distance_m(next);
            // Also leaves out steps too small to count in the sum.
            if longer_m > total_m {
                total_m = longer_m;
                kept.push(next);
                along_m.push(total_m);
            }
        }
        if kept.len() < 2 {
            return Err(PolylineError::TooShort { points: kept.len() });
        }
        let mut tree = Vec::with_capacity(2 * kept.len() / LEAF_SEGMENTS + 1);
        build(&kept, 0, kept.len() - 1, &mut tree);
        Ok(Polyline { points: kept, along_m, tree })
    }

    /// The same line with more points, at these distances along it in growing order.
    pub(crate) fn with_points_at(&self, along_m: impl IntoIterator<Item = f64>) -> Polyline {
        let (mut points, mut lengths_m) = (Vec::with_capacity(self.points.len()), Vec::new());
        let mut next = 0;
        for at_m in along_m.into_iter().filter(|at_m| *at_m < self.length_m()) {
            let before = self.along_m.partition_point(|&point_m| point_m < at_m);
            points.extend_from_slice(&self.points[next..before]);
            lengths_m.extend_from_slice(&self.along_m[next..before]);
            next = before;
            if self.along_m[before] > at_m {
                let (a, b) = (self.points[before - 1], self.points[before]);
                let share =
                    (at_m - self.along_m[before - 1]) / (self.along_m[before] - self.along_m[before - 1]);
                let mix = |from: f64, to: f64| from * (1.0 - share) + to * share;
                points.push(LatLon::new(mix(a.lat, b.lat), mix(a.lon, b.lon)));
                lengths_m.push(at_m);
            }
        }
        points.extend_from_slice(&self.points[next..]);
        lengths_m.extend_from_slice(&self.along_m[next..]);
        let mut tree = Vec::with_capacity(2 * points.len() / LEAF_SEGMENTS + 1);
        build(&points, 0, points.len() - 1, &mut tree);
        Polyline { points, along_m: lengths_m, tree }
    }

    /// The length in metres.
    pub fn length_m(&self) -> f64 {
        self.along_m[self.along_m.len() - 1]
    }

    /// The points, in order.
    pub fn points(&self) -> impl ExactSizeIterator<Item = LatLon> + '_ {
        self.points.iter().map(|p| LatLon::new(p.lat, wrap_longitude_deg(p.lon)))
    }

    /// Metres from the start to each of [`Polyline::points`].
    pub fn along_m(&self) -> &[f64] {
        &self.along_m
    }

    /// The place `along_m` metres from the start; before the start it is the start, past the end the end.
    pub fn point_at(&self, along_m: f64) -> LatLon {
        let segment = self.segment_at(along_m);
        let length_m = self.along_m[segment + 1] - self.along_m[segment];
        self.on_segment(segment, ((along_m - self.along_m[segment]) / length_m).clamp(0.0, 1.0))
    }

    /// The direction of travel `along_m` metres from the start, in degrees from true north.
    pub fn bearing_at_deg(&self, along_m: f64) -> f64 {
        let segment = self.segment_at(along_m);
        self.points[segment].bearing_deg(self.points[segment + 1])
    }

    /// The point of the line nearest to a place; of several equally near ones the earliest.
    ///
    /// Distances are those of the flat plane at the place: exact to 0.2 % within 10 km. For a place that is not valid the
    /// distance is not a number or infinite.
    pub fn nearest(&self, place: LatLon) -> Nearest {
        self.nearest_less(place, 0.0, |_| 0.0).0
    }

    /// The point of the line for which the distance less an allowance is the least, and how far along the middle of its
    /// segment is: on that the allowance depends, and it is never more than `allowance_max_m`.
    pub(crate) fn nearest_less(
        &self,
        place: LatLon,
        allowance_max_m: f64,
        allowance_m: impl Fn(f64) -> f64,
    ) -> (Nearest, f64) {
        let plane = self.plane_at(place);
        let mut best = Best { cost_m: f64::INFINITY, distance_m: f64::INFINITY, segment: 0, share: 0.0 };
        self.search(0, &plane, allowance_max_m, &allowance_m, &mut best);
        (self.nearest_on(best.segment, best.share, best.distance_m), self.middle_m(best.segment))
    }

    fn middle_m(&self, segment: usize) -> f64 {
        (self.along_m[segment] + self.along_m[segment + 1]) / 2.0
    }

    /// Calls `see` with the nearest point of every segment between two distances along the line, in their order, and with a
    /// way to ask for the direction there.
    pub(crate) fn for_nearest_between(
        &self,
        place: LatLon,
        from_m: f64,
        to_m: f64,
        mut see: impl FnMut(Nearest, &dyn Fn() -> f64),
    ) {
        let plane = self.plane_at(place);
        for segment in self.segment_at(from_m)..=self.segment_at(to_m) {
            let (a, b) = (self.points[segment], self.points[segment + 1]);
            let (a_xy, b_xy) = (plane.xy_unwrapped_m(a.lat, a.lon), plane.xy_unwrapped_m(b.lat, b.lon));
            let (start_m, end_m) = (self.along_m[segment], self.along_m[segment + 1]);
            let share_of = |along_m: f64| ((along_m - start_m) / (end_m - start_m)).clamp(0.0, 1.0);
            let (mut distance_m, mut share) = nearest_on_segment(a_xy, b_xy);
            let kept = share.clamp(share_of(from_m), share_of(to_m).max(share_of(from_m)));
            if kept != share {
                share = kept;
                let mix = |a: f64, b: f64| a * (1.0 - share) + b * share;
                distance_m = mix(a_xy.0, b_xy.0).hypot(mix(a_xy.1, b_xy.1));
            }
            see(self.nearest_on(segment, share, distance_m), &|| a.bearing_deg(b));
        }
    }

    /// The plane at a place, in the turn of the Earth in which the line was unwrapped.
    fn plane_at(&self, place: LatLon) -> Plane {
        let middle = self.points[self.points.len() / 2].lon;
        Plane::at(LatLon::new(place.lat, middle + wrap_longitude_deg(place.lon - middle)))
    }

    fn nearest_on(&self, segment: usize, share: f64, distance_m: f64) -> Nearest {
        let start_m = self.along_m[segment];
        Nearest {
            distance_m,
            along_m: start_m + share * (self.along_m[segment + 1] - start_m),
            point: self.on_segment(segment, share),
        }
    }

    fn search(
        &self,
        index: usize,
        plane: &Plane,
        allowance_max_m: f64,
        allowance_m: &impl Fn(f64) -> f64,
        best: &mut Best,
    ) {
        let node = &self.tree[index];
        let Some(right) = node.right else {
            for segment in node.start as usize..node.end as usize {
                let (a, b) = (self.points[segment], self.points[segment + 1]);
                let (distance_m, share) = nearest_on_segment(
                    plane.xy_unwrapped_m(a.lat, a.lon),
                    plane.xy_unwrapped_m(b.lat, b.lon),
                );
                let cost_m = distance_m - allowance_m(self.middle_m(segment));
                if cost_m < best.cost_m {
                    *best = Best { cost_m, distance_m, segment, share };
                }
            }
            return;
        };
        let (left, right) = (index + 1, right as usize);
        let (to_left_m, to_right_m) = (self.tree[left].distance_m(plane), self.tree[right].distance_m(plane));
        let nearer_first = if to_right_m < to_left_m {
            [(right, to_right_m), (left, to_left_m)]
        } else {
            [(left, to_left_m), (right, to_right_m)]
        };
        for (child, to_child_m) in nearer_first {
            if to_child_m - allowance_max_m < best.cost_m {
                self.search(child, plane, allowance_max_m, allowance_m, best);
            }
        }
    }

    /// The segment that holds the point `along_m` metres from the start.
    fn segment_at(&self, along_m: f64) -> usize {
        self.along_m
            .partition_point(|&start_m| start_m <= along_m)
            .saturating_sub(1)
            .min(self.points.len() - 2)
    }

    fn on_segment(&self, segment: usize, share: f64) -> LatLon {
        let (a, b) = (self.points[segment], self.points[segment + 1]);
        // Written so that a share of 1 gives b exactly.
        let mix = |from: f64, to: f64| from * (1.0 - share) + to * share;
        LatLon::new(mix(a.lat, b.lat), wrap_longitude_deg(mix(a.lon, b.lon)))
    }
}

impl Node {
    /// The distance from the origin of the plane to the box, in the plane's metres; 0 inside.
    fn distance_m(&self, plane: &Plane) -> f64 {
        // The plane is linear in latitude and longitude, so the box stays a box.
        let (west, south) = plane.xy_unwrapped_m(self.south_west.lat, self.south_west.lon);
        let (east, north) = plane.xy_unwrapped_m(self.north_east.lat, self.north_east.lon);
        west.max(-east).max(0.0).hypot(south.max(-north).max(0.0))
    }
}

/// Appends the tree over the segments `start..end` of `points` and gives its root's index.
fn build(points: &[LatLon], start: usize, end: usize, tree: &mut Vec<Node>) -> usize {
    let corner = |pick: fn(f64, f64) -> f64, from: f64| {
        points[start..=end]
            .iter()
            .fold(LatLon::new(from, from), |c, p| LatLon::new(pick(c.lat, p.lat), pick(c.lon, p.lon)))
    };
    let index = tree.len();
    tree.push(Node {
        start: start as u32,
        end: end as u32,
        right: None,
        south_west: corner(f64::min, f64::INFINITY),
        north_east: corner(f64::max, f64::NEG_INFINITY),
    });
    if end - start > LEAF_SEGMENTS {
        let middle = start + (end - start) / 2;
        build(points, start, middle, tree);
        let right = build(points, middle, end, tree);
        tree[index].right = Some(right as u32);
    }
    index
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(points: &[(f64, f64)]) -> Polyline {
        Polyline::new(points.iter().map(|&(lat, lon)| LatLon::new(lat, lon))).unwrap()
    }

    #[test]
    fn points_that_make_no_line_are_refused_with_their_values() {
        let point = LatLon::new(60.0, 24.0);
        let table: [(Vec<LatLon>, &str); 4] = [
            (vec![], "this one has 0"),
            (vec![point, point, point], "this one has 1"),
            (vec![point, LatLon::new(91.0, 24.0)], "point 1 of the route is not on Earth: latitude 91"),
            ((0..=POINTS_MAX).map(|i| LatLon::new(0.0, i as f64 * 1e-3)).collect(), "at most 100000 points"),
        ];
        for (points, want) in table {
            let error = Polyline::new(points).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn the_ends_the_middle_and_what_lies_beyond_are_found() {
        let line = line(&[(0.0, 0.0), (0.0, 1.0), (0.0, 1.0), (1.0, 1.0)]);
        assert_eq!(line.points().len(), 3);
        let length_m = line.length_m();
        assert!((length_m - 2.0 * 111_195.08).abs() < 0.1, "{length_m}");
        for (along_m, want) in [
            (-5.0, (0.0, 0.0)),
            (0.0, (0.0, 0.0)),
            (length_m / 4.0, (0.0, 0.5)),
            (length_m * 0.75, (0.5, 1.0)),
            (length_m, (1.0, 1.0)),
            (1e12, (1.0, 1.0)),
        ] {
            let got = line.point_at(along_m);
            assert!((got.lat - want.0).abs() < 1e-6 && (got.lon - want.1).abs() < 1e-6, "{along_m}: {got:?}");
        }
        assert!((line.bearing_at_deg(1.0) - 90.0).abs() < 1e-6);
        assert!(line.bearing_at_deg(length_m).abs() < 1e-6);
    }

    #[test]
    fn a_line_across_the_antimeridian_is_short_and_is_found_from_both_sides() {
        let line = line(&[(10.0, 179.9), (10.0, -179.9), (10.0, -179.8)]);
        assert!(line.length_m() < 33_000.0, "{}", line.length_m());
        for lon in [179.95, 180.0, -180.0, -179.95, -179.85] {
            let nearest = line.nearest(LatLon::new(10.001, lon));
            assert!((nearest.distance_m - 111.2).abs() < 0.1, "{lon}: {nearest:?}");
            assert!(nearest.point.is_valid());
        }
    }

    #[test]
    fn a_place_that_is_none_does_no_harm() {
        let line = line(&[(0.0, 0.0), (0.0, 1.0)]);
        assert!(!line.nearest(LatLon::new(f64::NAN, 0.0)).distance_m.is_finite());
        assert!(!line.nearest(LatLon::new(0.0, f64::INFINITY)).distance_m.is_finite());
    }

    fn walks() -> impl Strategy<Value = Vec<LatLon>> {
        let steps = prop::collection::vec((0.0..360.0f64, 1.0..400.0f64), 1..200);
        ((-60.0..60.0f64, -180.0..180.0f64), steps).prop_map(|((lat, lon), steps)| {
            let mut at = LatLon::new(lat, lon);
            let mut points = vec![at];
            for (bearing, far_m) in steps {
                at = at.destination(bearing, far_m);
                points.push(at);
            }
            points
        })
    }

    proptest! {
        #[test]
        fn the_tree_finds_what_looking_at_every_segment_finds(points in walks(), pick in 0.0..1.0f64, bearing in 0.0..360.0f64, off_m in 0.0..3_000.0f64) {
            let line = Polyline::new(points).unwrap();
            let place = line.point_at(pick * line.length_m()).destination(bearing, off_m);
            let found = line.nearest(place);
            let plane = Plane::at(place);
            let points: Vec<_> = line.points().collect();
            let slow = points.windows(2).map(|w| nearest_on_segment(plane.xy_m(w[0]), plane.xy_m(w[1])).0).fold(f64::INFINITY, f64::min);
            prop_assert!((found.distance_m - slow).abs() < 1e-6, "{} {slow}", found.distance_m);
            prop_assert!(found.distance_m <= off_m * 1.003 + 1e-6);
            prop_assert!((found.point.distance_m(place) - found.distance_m).abs() < 0.01 + found.distance_m * 3e-3);
            prop_assert!(line.point_at(found.along_m).distance_m(found.point) < 1e-3);
        }

        #[test]
        fn every_point_at_a_distance_lies_on_the_line(points in walks(), pick in -0.1..1.1f64) {
            let line = Polyline::new(points).unwrap();
            prop_assert!(line.nearest(line.point_at(pick * line.length_m())).distance_m < 1e-3);
        }
    }
}
