//! Areas: what is inside, and how far a place is from the border.

use crate::fix::Fix;
use crate::geodesy::{LatLon, Plane, nearest_on_segment};

/// The most corners a polygon may have, those of its holes among them.
pub const CORNERS_MAX: usize = 10_000;
/// The most holes a polygon may have.
pub const HOLES_MAX: usize = 1_000;

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
    /// Too many holes.
    #[error("a fence may have at most {HOLES_MAX} holes, this one has {holes}")]
    Holes {
        /// How many there were.
        holes: usize,
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

/// A closed line in degrees, east first; longitudes are counted on past ±180 where it crosses the antimeridian.
type Ring = Vec<(f64, f64)>;

/// All places inside a closed line that does not cross itself, without those inside its holes.
///
/// Sides are straight in latitude and longitude, as GeoJSON has them. What is inside is exact to the last digit;
/// distances from the border are those of a flat plane, fit for yards and towns (up to about 100 km).
#[derive(Debug, Clone)]
pub struct Polygon {
    plane: Plane,
    /// The outer ring first.
    rings: Vec<Ring>,
    depth_m: f64,
}

impl Polygon {
    /// Makes a polygon of its corners in order, either way round; the last may repeat the first.
    ///
    /// # Errors
    /// A corner that is not on Earth, fewer than 3 or more than [`CORNERS_MAX`] of them, or no area.
    pub fn new(corners: impl IntoIterator<Item = LatLon>) -> Result<Polygon, FenceError> {
        let (ring, first) = ring(corners, None)?;
        let plane = Plane::at(first);
        let depth_m = depth_m(&plane, &ring);
        if depth_m.is_nan() || depth_m < 1e-3 {
            return Err(FenceError::Flat { corners: ring.len() });
        }
        Ok(Polygon { plane, rings: vec![ring], depth_m })
    }

    /// Cuts holes into it, each given as the polygon is.
    ///
    /// # Errors
    /// More than [`HOLES_MAX`] holes, or one that is no ring of corners on Earth.
    pub fn with_holes<R>(mut self, holes: impl IntoIterator<Item = R>) -> Result<Polygon, FenceError>
    where
        R: IntoIterator<Item = LatLon>,
    {
        let west = self.rings[0][0].0;
        for hole in holes {
            let (ring, _) = ring(hole, Some(west))?;
            self.rings.push(ring);
            let corners = self.rings.iter().map(Vec::len).sum();
            if corners > CORNERS_MAX {
                return Err(FenceError::Corners { corners });
            }
            if self.rings.len() - 1 > HOLES_MAX {
                return Err(FenceError::Holes { holes: self.rings.len() - 1 });
            }
        }
        Ok(self)
    }

    /// The longitude of a place in the turn of the Earth in which the polygon lies.
    fn lon_near(&self, lon: f64) -> f64 {
        near(lon, self.rings[0][0].0)
    }

    /// Whether a place is inside or on the border.
    fn contains(&self, place: LatLon) -> bool {
        let point = (self.lon_near(place.lon), place.lat);
        let mut rings = self.rings.iter().map(|ring| locate(ring, point));
        match rings.next() {
            Some(Where::Inside) => !rings.any(|hole| hole == Where::Inside),
            Some(Where::Border) => true,
            _ => false,
        }
    }

    fn border_m(&self, place: LatLon) -> f64 {
        let xy = |(lon, lat): (f64, f64)| self.plane.xy_unwrapped_m(lat, lon);
        let (x, y) = xy((self.lon_near(place.lon), place.lat));
        let from_here = |corner: (f64, f64)| (xy(corner).0 - x, xy(corner).1 - y);
        let sides = self.rings.iter().flat_map(|ring| sides(ring));
        sides.fold(f64::INFINITY, |least_m, (a, b)| {
            // A place that is not a number is nowhere, and stays so.
            nearest_on_segment(from_here(a), from_here(b)).0.min(least_m)
        })
    }

    /// The shares of a way between two places at which it crosses the border.
    fn crossings(&self, from: LatLon, to: LatLon) -> Vec<f64> {
        let start = (self.lon_near(from.lon), from.lat);
        let end = (near(to.lon, start.0), to.lat);
        let (dx, dy) = (end.0 - start.0, end.1 - start.1);
        let crossing = |((ax, ay), (bx, by)): ((f64, f64), (f64, f64))| {
            let (sx, sy) = (bx - ax, by - ay);
            let across = dx * sy - dy * sx;
            let share = ((ax - start.0) * sy - (ay - start.1) * sx) / across;
            let along = ((ax - start.0) * dy - (ay - start.1) * dx) / across;
            // Not a number where they are parallel: in no range.
            ((0.0..=1.0).contains(&share) && (0.0..=1.0).contains(&along)).then_some(share)
        };
        self.rings.iter().flat_map(|ring| sides(ring)).filter_map(crossing).collect()
    }
}

fn check_place(index: usize, place: LatLon) -> Result<(), FenceError> {
    if place.is_valid() {
        Ok(())
    } else {
        Err(FenceError::NotOnEarth { index, lat: place.lat, lon: place.lon })
    }
}

/// A longitude in the turn of the Earth that is nearest to another: itself, if it is not more than half a turn away.
fn near(lon: f64, other: f64) -> f64 {
    match lon - other {
        away if away > 180.0 => lon - 360.0,
        away if away < -180.0 => lon + 360.0,
        _ => lon,
    }
}

fn ring(
    corners: impl IntoIterator<Item = LatLon>,
    near_lon: Option<f64>,
) -> Result<(Ring, LatLon), FenceError> {
    let mut ring: Ring = Vec::new();
    let mut first = None;
    for (index, place) in corners.into_iter().enumerate() {
        check_place(index, place)?;
        if index > CORNERS_MAX {
            return Err(FenceError::Corners { corners: index + 1 });
        }
        let before = ring.last().map(|corner| corner.0).or(near_lon);
        let corner = (before.map_or(place.lon, |before| near(place.lon, before)), place.lat);
        first.get_or_insert(place);
        if ring.last() != Some(&corner) {
            ring.push(corner);
        }
    }
    if ring.len() > 1 && ring.first() == ring.last() {
        ring.pop();
    }
    match first {
        Some(first) if (3..=CORNERS_MAX).contains(&ring.len()) => Ok((ring, first)),
        _ => Err(FenceError::Corners { corners: ring.len() }),
    }
}

/// Area over perimeter, which is never more than the radius of the largest circle inside.
fn depth_m(plane: &Plane, ring: &Ring) -> f64 {
    let (mut twice_area, mut around_m) = (0.0, 0.0);
    for (a, b) in sides(ring) {
        let (a, b) = (plane.xy_unwrapped_m(a.1, a.0), plane.xy_unwrapped_m(b.1, b.0));
        twice_area += a.0 * b.1 - b.0 * a.1;
        around_m += (b.0 - a.0).hypot(b.1 - a.1);
    }
    twice_area.abs() / 2.0 / around_m
}

fn sides(corners: &[(f64, f64)]) -> impl Iterator<Item = ((f64, f64), (f64, f64))> + '_ {
    corners.iter().copied().zip(corners.iter().copied().cycle().skip(1))
}

/// Where a place is seen from a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    Inside,
    Border,
    Outside,
}

fn locate(ring: &Ring, point: (f64, f64)) -> Where {
    let mut inside = false;
    for (a, b) in sides(ring) {
        let is_beside = (a.1 > point.1) != (b.1 > point.1);
        let touches_height = a.1.min(b.1) <= point.1 && point.1 <= a.1.max(b.1);
        if !touches_height {
            continue;
        }
        let side = turn(a, b, point);
        if side == 0.0 && a.0.min(b.0) <= point.0 && point.0 <= a.0.max(b.0) {
            return Where::Border;
        }
        // Does the ray from the place to the east cross this side? Half-open, so that a corner counts once.
        if is_beside && (side > 0.0) == (b.1 > a.1) {
            inside = !inside;
        }
    }
    if inside { Where::Inside } else { Where::Outside }
}

/// Which way a path turns from `a` over `b` to `c`: above 0 to the left. The sign is right where doubles of doubles tell it,
/// which is for all places that are not within 10⁻³⁰ degrees of the line.
fn turn(a: (f64, f64), b: (f64, f64), c: (f64, f64)) -> f64 {
    let (left, right) = ((a.0 - c.0) * (b.1 - c.1), (a.1 - c.1) * (b.0 - c.0));
    let rough = left - right;
    // Shewchuk, "Adaptive Precision Floating-Point Arithmetic" (1997): the bound of orient2d's first stage.
    if rough.abs() > 3.330_669_073_875_471_6e-16 * (left.abs() + right.abs()) {
        return rough;
    }
    let (ax, ay, bx, by) =
        (exact_sub(a.0, c.0), exact_sub(a.1, c.1), exact_sub(b.0, c.0), exact_sub(b.1, c.1));
    let (p, q) = (double_mul(ax, by), double_mul(ay, bx));
    let high = exact_sub(p.0, q.0);
    high.0 + (high.1 + (p.1 - q.1))
}

/// A difference and what rounding has taken from it.
fn exact_sub(a: f64, b: f64) -> (f64, f64) {
    let sum = a - b;
    let part = sum - a;
    (sum, (a - (sum - part)) - (b + part))
}

fn double_mul(a: (f64, f64), b: (f64, f64)) -> (f64, f64) {
    let high = a.0 * b.0;
    (high, a.0.mul_add(b.0, -high) + (a.0 * b.1 + a.1 * b.0))
}

/// An area.
#[derive(Debug, Clone)]
pub enum Fence {
    /// A circle.
    Circle(Circle),
    /// A polygon.
    Polygon(Polygon),
}

/// What a fix says of where a vehicle is.
pub(super) enum Says {
    Inside,
    Outside,
}

impl Fence {
    /// How far a place is outside the border, in metres; negative inside. Not a number or infinite for a place that is none.
    pub fn outside_m(&self, place: LatLon) -> f64 {
        match self {
            Fence::Circle(circle) => circle.centre.distance_m(place) - circle.radius_m,
            Fence::Polygon(polygon) if polygon.contains(place) => -polygon.border_m(place),
            Fence::Polygon(polygon) => polygon.border_m(place),
        }
    }

    /// Whether a place is inside or on the border.
    pub fn contains(&self, place: LatLon) -> bool {
        match self {
            Fence::Circle(_) => self.outside_m(place) <= 0.0,
            Fence::Polygon(polygon) => polygon.contains(place),
        }
    }

    /// The south-west and north-east corners of a box around it; the east may be past 180 degrees.
    pub(super) fn bounds(&self) -> (LatLon, LatLon) {
        match self {
            Fence::Circle(circle) => {
                let north = circle.centre.destination(0.0, circle.radius_m).lat.max(circle.centre.lat);
                let lat_deg = north - circle.centre.lat;
                // Widest where it is nearest to the pole.
                let widest = (circle.centre.lat.abs() + lat_deg).min(90.0).to_radians().cos();
                let lon_deg = if widest > 1e-3 { (lat_deg / widest).min(180.0) } else { 180.0 };
                let LatLon { lat, lon } = circle.centre;
                (LatLon::new(lat - lat_deg, lon - lon_deg), LatLon::new(lat + lat_deg, lon + lon_deg))
            }
            Fence::Polygon(polygon) => {
                let mut corners = polygon.rings[0].iter();
                let first = corners.next().map_or(LatLon::new(0.0, 0.0), |&(lon, lat)| LatLon::new(lat, lon));
                corners.fold((first, first), |(low, high), &(lon, lat)| {
                    (
                        LatLon::new(low.lat.min(lat), low.lon.min(lon)),
                        LatLon::new(high.lat.max(lat), high.lon.max(lon)),
                    )
                })
            }
        }
    }

    /// The part of a straight way between two places outside on which it is deepest inside: its ends as shares of the way,
    /// and how deep, in metres.
    pub(super) fn passed(&self, from: LatLon, to: LatLon) -> Option<(f64, f64, f64)> {
        let mut shares = match self {
            Fence::Circle(circle) => circle.crossings(from, to),
            Fence::Polygon(polygon) => polygon.crossings(from, to),
        };
        shares.sort_by(f64::total_cmp);
        let plane = Plane::at(from);
        let (x_m, y_m) = plane.xy_m(to);
        let deep = shares.windows(2).map(|pair| {
            let middle = (pair[0] + pair[1]) / 2.0;
            (pair[0], pair[1], -self.outside_m(plane.place(x_m * middle, y_m * middle)))
        });
        deep.filter(|(_, _, deep_m)| *deep_m > 0.0).max_by(|a, b| a.2.total_cmp(&b.2))
    }

    /// What a fix says: outside by a hysteresis and twice its accuracy, inside by another and its accuracy, or nothing.
    pub(super) fn says(&self, fix: &Fix, out_m: f64, in_m: f64) -> Option<Says> {
        let outside_m = self.outside_m(fix.position());
        let sigma_m = fix.sigma_m();
        let depth_m = match self {
            Fence::Circle(circle) => circle.radius_m,
            Fence::Polygon(polygon) => polygon.depth_m,
        };
        if outside_m > out_m + SIGMAS_OUT * sigma_m {
            return Some(Says::Outside);
        }
        // A fix vaguer than the area is large cannot vouch for being in it; in a small area half its depth must do.
        let inside_by_m = (in_m + sigma_m).min(depth_m / 2.0);
        (sigma_m <= depth_m && outside_m <= -inside_by_m).then_some(Says::Inside)
    }
}

impl Circle {
    /// The shares of a way between two places at which it crosses the border.
    fn crossings(&self, from: LatLon, to: LatLon) -> Vec<f64> {
        let plane = Plane::at(self.centre);
        let (a, b) = (plane.xy_m(from), plane.xy_m(to));
        let (dx, dy) = (b.0 - a.0, b.1 - a.1);
        // |a + t d|² = r²
        let (square, half, rest) =
            (dx * dx + dy * dy, a.0 * dx + a.1 * dy, a.0 * a.0 + a.1 * a.1 - self.radius_m * self.radius_m);
        let root = (half * half - square * rest).sqrt();
        let shares = [(-half - root) / square, (-half + root) / square];
        shares.into_iter().filter(|share| (0.0..=1.0).contains(share)).collect()
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
