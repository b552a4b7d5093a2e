//! Where a lock may open: a circle, or a polygon with holes, and how far inside a place is.
//!
//! Distances are on a plane around the place asked for, as exact as a fence needs within a hundred kilometres.

/// Metres a degree of latitude.
const METRES_A_DEGREE: f64 = 111_195.0;
/// Most corners of a polygon, holes included.
const CORNERS_MAX: usize = 10_000;
/// Nearer to a pole a plane is no likeness of the ground.
const LAT_MAX: f64 = 85.0;

/// A place, degrees of WGS 84.
///
/// ```
/// use device_sdk::guard::Position;
/// let gate = Position { lat: 60.1708, lon: 24.9375 };
/// let truck = Position { lat: 60.1717, lon: 24.9375 };
/// assert!((gate.distance_m(truck) - 100.0).abs() < 1.0);
/// assert!(!Position { lat: 91.0, lon: 0.0 }.is_valid());
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    /// North is positive.
    pub lat: f64,
    /// East is positive.
    pub lon: f64,
}

impl Position {
    /// Says whether it is a place at all, and one that distances can be told of.
    pub fn is_valid(self) -> bool {
        self.lat.abs() <= LAT_MAX && self.lon.abs() <= 180.0
    }

    /// Returns where `other` is from here, metres east and north.
    fn towards(self, other: Self) -> (f64, f64) {
        let mut degrees_east = other.lon - self.lon;
        // The short way round.
        if degrees_east.abs() > 180.0 {
            degrees_east -= 360.0_f64.copysign(degrees_east);
        }
        let scale = ((self.lat + other.lat) / 2.0).to_radians().cos();
        (degrees_east * scale * METRES_A_DEGREE, (other.lat - self.lat) * METRES_A_DEGREE)
    }

    /// Returns the distance, metres.
    pub fn distance_m(self, other: Self) -> f64 {
        let (east, north) = self.towards(other);
        east.hypot(north)
    }
}

/// A circle, or a polygon with holes.
///
/// ```
/// use device_sdk::guard::{Area, Position};
///
/// let yard = Area::circle(Position { lat: 60.1708, lon: 24.9375 }, 80.0)?;
/// assert!(yard.inside_m(Position { lat: 60.1708, lon: 24.9375 }) > 79.0);
/// // Outside by 20 m or so.
/// let street = yard.inside_m(Position { lat: 60.1717, lon: 24.9375 });
/// assert!(street < -19.0 && street > -21.0);
///
/// let corner = |lat, lon| Position { lat, lon };
/// let field = Area::polygon(vec![corner(60.0, 24.0), corner(60.0, 24.1), corner(60.1, 24.1)], Vec::new())?;
/// assert!(field.inside_m(corner(60.02, 24.08)) > 0.0);
/// assert!(Area::circle(corner(60.0, 24.0), -1.0).is_err());
/// # Ok::<(), device_sdk::guard::AreaError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Area {
    shape: Shape,
}

#[derive(Clone, Debug, PartialEq)]
enum Shape {
    Circle { centre: Position, radius_m: f64 },
    Polygon { rings: Vec<Vec<Position>> },
}

/// Why something is no area.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AreaError {
    /// Not between the poles' surroundings.
    #[error("{lat}, {lon} is no usable position: at most {LAT_MAX} degrees north or south, 180 east or west")]
    Position {
        /// Degrees.
        lat: f64,
        /// Degrees.
        lon: f64,
    },
    /// No circle.
    #[error("the radius is {radius_m} m, it must be more than 0 and at most 100 km")]
    Radius {
        /// Metres.
        radius_m: f64,
    },
    /// No polygon.
    #[error(
        "a ring has {corners} corners, it must have at least 3, all rings together at most {CORNERS_MAX}"
    )]
    Corners {
        /// How many.
        corners: usize,
    },
}

impl Area {
    /// Makes a circle.
    ///
    /// # Errors
    /// The centre or the radius is none.
    pub fn circle(centre: Position, radius_m: f64) -> Result<Self, AreaError> {
        check(centre)?;
        if !(radius_m > 0.0 && radius_m <= 100_000.0) {
            return Err(AreaError::Radius { radius_m });
        }
        Ok(Self { shape: Shape::Circle { centre, radius_m } })
    }

    /// Makes a polygon from its outer ring and the rings of its holes; the first corner need not come again at the end.
    ///
    /// # Errors
    /// A corner is no position, a ring is none, or there are too many.
    pub fn polygon(outer: Vec<Position>, holes: Vec<Vec<Position>>) -> Result<Self, AreaError> {
        let mut rings = vec![outer];
        rings.extend(holes);
        for ring in &mut rings {
            if ring.len() > 1 && ring.first() == ring.last() {
                ring.pop();
            }
            ring.iter().try_for_each(|corner| check(*corner))?;
            if ring.len() < 3 {
                return Err(AreaError::Corners { corners: ring.len() });
            }
        }
        let corners = rings.iter().map(Vec::len).sum();
        if corners > CORNERS_MAX {
            return Err(AreaError::Corners { corners });
        }
        Ok(Self { shape: Shape::Polygon { rings } })
    }

    /// Returns how far inside a place is, metres; negative is how far outside, and what is no place is nowhere inside.
    pub fn inside_m(&self, place: Position) -> f64 {
        if !place.is_valid() {
            return f64::NEG_INFINITY;
        }
        match &self.shape {
            Shape::Circle { centre, radius_m } => radius_m - place.distance_m(*centre),
            Shape::Polygon { rings } => {
                let mut edge_m = f64::INFINITY;
                let mut is_inside = false;
                for ring in rings {
                    for (at, corner) in ring.iter().enumerate() {
                        let next = ring[(at + 1) % ring.len()];
                        let (a, b) = (place.towards(*corner), place.towards(next));
                        edge_m = edge_m.min(distance_from_origin(a, b));
                        is_inside ^= crosses_eastwards(a, b);
                    }
                }
                if is_inside { edge_m } else { -edge_m }
            }
        }
    }
}

fn check(position: Position) -> Result<(), AreaError> {
    let Position { lat, lon } = position;
    if position.is_valid() { Ok(()) } else { Err(AreaError::Position { lat, lon }) }
}

/// The distance of a line from a to b to the origin.
fn distance_from_origin(a: (f64, f64), b: (f64, f64)) -> f64 {
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let length2 = dx * dx + dy * dy;
    let along = if length2 > 0.0 { (-(a.0 * dx + a.1 * dy) / length2).clamp(0.0, 1.0) } else { 0.0 };
    (a.0 + along * dx).hypot(a.1 + along * dy)
}

/// Whether a ray from the origin eastwards meets the line from a to b.
fn crosses_eastwards(a: (f64, f64), b: (f64, f64)) -> bool {
    (a.1 > 0.0) != (b.1 > 0.0) && a.0 + (b.0 - a.0) * (-a.1 / (b.1 - a.1)) > 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lat: f64, lon: f64) -> Position {
        Position { lat, lon }
    }

    fn square(lat: f64, lon: f64, half: f64) -> Vec<Position> {
        [(-1.0, -1.0), (-1.0, 1.0), (1.0, 1.0), (1.0, -1.0)]
            .map(|(north, east)| at(lat + north * half, lon + east * half))
            .to_vec()
    }

    #[test]
    fn a_circle_says_how_far_inside_a_place_is() {
        let area = Area::circle(at(60.0, 25.0), 100.0).unwrap();
        assert_eq!(area.inside_m(at(60.0, 25.0)), 100.0);
        let north = area.inside_m(at(60.0 + 150.0 / METRES_A_DEGREE, 25.0));
        assert!((north + 50.0).abs() < 0.01, "{north}");
        let east = area.inside_m(at(60.0, 25.0 + 80.0 / METRES_A_DEGREE / 60.0_f64.to_radians().cos()));
        assert!((east - 20.0).abs() < 0.01, "{east}");
        assert_eq!(area.inside_m(at(f64::NAN, 25.0)), f64::NEG_INFINITY);
    }

    #[test]
    fn a_polygon_has_holes_and_edges() {
        let area = Area::polygon(square(0.0, 10.0, 0.01), vec![square(0.0, 10.0, 0.002)]).unwrap();
        let metres = |degrees: f64| degrees * METRES_A_DEGREE;
        let cases = [
            (at(0.0, 10.0), -metres(0.002)),
            (at(0.0, 10.006), metres(0.004)),
            (at(0.0, 10.003), metres(0.001)),
            (at(0.0, 10.012), -metres(0.002)),
            (at(0.009, 10.0), metres(0.001)),
        ];
        for (place, expected_m) in cases {
            let inside_m = area.inside_m(place);
            assert!((inside_m - expected_m).abs() < 0.1, "{place:?}: {inside_m}, not {expected_m}");
        }
    }

    #[test]
    fn an_area_across_the_date_line_is_one() {
        let area = Area::polygon(
            vec![at(-1.0, 179.9), at(-1.0, -179.9), at(1.0, -179.9), at(1.0, 179.9)],
            Vec::new(),
        );
        let area = area.unwrap();
        assert!(area.inside_m(at(0.0, 180.0)) > 11_000.0 && area.inside_m(at(0.0, -179.95)) > 5_000.0);
        assert!(area.inside_m(at(0.0, 179.8)) < -11_000.0);
    }

    #[test]
    fn what_is_no_area_is_refused() {
        let centre = at(60.0, 25.0);
        assert!(matches!(Area::circle(centre, 0.0), Err(AreaError::Radius { .. })));
        assert!(matches!(Area::circle(centre, f64::NAN), Err(AreaError::Radius { .. })));
        assert!(matches!(Area::circle(at(90.0, 0.0), 5.0), Err(AreaError::Position { .. })));
        let line = vec![centre, at(60.1, 25.0), centre];
        assert_eq!(Area::polygon(line, Vec::new()), Err(AreaError::Corners { corners: 2 }));
        let many = (0..=CORNERS_MAX).map(|n| at(60.0 + n as f64 * 1e-6, 25.0)).collect();
        assert!(matches!(Area::polygon(many, Vec::new()), Err(AreaError::Corners { .. })));
    }
}
