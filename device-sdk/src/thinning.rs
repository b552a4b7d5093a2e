//! Which points of a track are needed for its shape: Douglas and Peucker's algorithm, with time.
//!
//! A line of points is replaced by fewer of them. A point may go if the straight way between those left, driven at constant
//! speed, is never further than the tolerance from where it was *at its time*: so stops stay as well as bends. Where
//! times are missing, the distance to the straight way counts. Pure functions.

use serde::Deserialize;

/// How the track entries of a disk queue are thinned when its quota is used up.
///
/// ```
/// # use device_sdk::Thinning;
/// // First to 5 m, where that is not enough to 10 m, 20 m and so on; never coarser than 80 m.
/// let thinning = Thinning { tolerance_m: 5, tolerance_m_max: 80 };
/// # assert!(thinning.tolerance_m < Thinning::default().tolerance_m_max);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thinning {
    /// How far from its place a point may be missed at first, metres, at least 1.
    pub tolerance_m: u32,
    /// The tolerance is doubled up to this, metres; then track entries are refused as others are.
    pub tolerance_m_max: u32,
}

impl Default for Thinning {
    /// 5 m to 320 m.
    fn default() -> Self {
        Self { tolerance_m: 5, tolerance_m_max: 320 }
    }
}

impl Thinning {
    /// Returns the tolerance after this one, `None` after the coarsest.
    pub(crate) fn next(&self, tolerance_m: u32) -> Option<u32> {
        match tolerance_m {
            0 => Some(self.tolerance_m),
            tolerance_m if tolerance_m >= self.tolerance_m_max => None,
            tolerance_m => Some(tolerance_m.saturating_mul(2).min(self.tolerance_m_max)),
        }
    }
}

/// A point of a track.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub(crate) struct Point {
    /// Degrees, WGS 84.
    lat: f64,
    lon: f64,
    /// Milliseconds.
    #[serde(default)]
    ts: Option<f64>,
}

impl Point {
    /// Reads a point out of a payload; `None` if it is none.
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let point: Self = serde_json::from_slice(payload).ok()?;
        let is_place = point.lat.abs() <= 90.0 && point.lon.abs() <= 360.0;
        is_place.then_some(point)
    }
}

/// A point on a plane, metres, and its time.
#[derive(Clone, Copy, Debug)]
struct Flat {
    x: f64,
    y: f64,
    t: f64,
}

/// Says for each point of a line whether it is needed. Both ends are. Takes n · log n steps for most lines, n² at worst.
pub(crate) fn needed(line: &[Point], tolerance_m: f64) -> Vec<bool> {
    let mut keep = vec![false; line.len()];
    let Some(last) = line.len().checked_sub(1) else { return keep };
    (keep[0], keep[last]) = (true, true);
    let flat = flatten(line);
    // A stack instead of recursion: a line that splits badly is as deep as it is long.
    let mut spans = vec![(0, last)];
    while let Some((from, to)) = spans.pop() {
        let inner = (from + 1..to).map(|at| (at, distance_m(flat[at], flat[from], flat[to])));
        let farthest = inner.max_by(|a, b| a.1.total_cmp(&b.1));
        if let Some((at, distance_m)) = farthest
            && distance_m > tolerance_m
        {
            keep[at] = true;
            spans.extend([(from, at), (at, to)]);
        }
    }
    keep
}

/// Lays the line on a plane; a track within one file is short enough for that. With times only if all points have them in
/// rising order.
fn flatten(line: &[Point]) -> Vec<Flat> {
    const METRES_PER_DEGREE: f64 = 111_195.0;
    let has_times =
        line.windows(2).all(|pair| matches!((pair[0].ts, pair[1].ts), (Some(a), Some(b)) if a <= b));
    let origin = line[0];
    let narrow = origin.lat.to_radians().cos();
    line.iter()
        .map(|point| Flat {
            // The shorter way around the world.
            x: ((point.lon - origin.lon + 540.0).rem_euclid(360.0) - 180.0) * METRES_PER_DEGREE * narrow,
            y: (point.lat - origin.lat) * METRES_PER_DEGREE,
            t: point.ts.filter(|_| has_times).unwrap_or(f64::NAN),
        })
        .collect()
}

/// Returns how far the point is from where it would be on the way from `a` to `b`.
fn distance_m(point: Flat, a: Flat, b: Flat) -> f64 {
    let (dx, dy) = (b.x - a.x, b.y - a.y);
    let share = if b.t > a.t {
        (point.t - a.t) / (b.t - a.t)
    } else {
        let length_squared = dx * dx + dy * dy;
        if length_squared > 0.0 {
            ((point.x - a.x) * dx + (point.y - a.y) * dy) / length_squared
        } else {
            0.0
        }
    };
    let share = share.clamp(0.0, 1.0);
    (point.x - a.x - share * dx).hypot(point.y - a.y - share * dy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(x_m: f64, y_m: f64, ts: Option<f64>) -> Point {
        Point { lat: 31.0 + y_m / 111_195.0, lon: 121.0 + x_m / 111_195.0 / 31f64.to_radians().cos(), ts }
    }

    fn kept(line: &[Point], tolerance_m: f64) -> Vec<usize> {
        let needed = needed(line, tolerance_m);
        (0..line.len()).filter(|at| needed[*at]).collect()
    }

    #[test]
    fn a_straight_way_needs_its_ends_and_a_bend_its_corner() {
        let straight: Vec<_> = (0..100).map(|n| at(f64::from(n) * 10.0, 0.0, None)).collect();
        assert_eq!(kept(&straight, 1.0), [0, 99]);
        let bend: Vec<_> = (0..101)
            .map(|n| at(f64::from(n.min(50)) * 10.0, f64::from((n - 50).max(0)) * 10.0, None))
            .collect();
        assert_eq!(kept(&bend, 1.0), [0, 50, 100]);
        assert_eq!(kept(&bend, 1_000.0), [0, 100]);
        for few in 0..3 {
            assert_eq!(kept(&straight[..few], 1.0), (0..few).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_stop_on_a_straight_way_stays_when_times_are_known() {
        // 20 m/s, five minutes of standing, 20 m/s.
        let x = |s: i32| f64::from(s.min(100) + (s - 400).max(0)) * 20.0;
        let timed: Vec<_> = (0..500).map(|s| at(x(s), 0.0, Some(f64::from(s) * 1e3))).collect();
        assert_eq!(kept(&timed, 5.0), [0, 100, 400, 499]);
        let untimed: Vec<_> = (0..500).map(|s| at(x(s), 0.0, None)).collect();
        assert_eq!(kept(&untimed, 5.0), [0, 499]);
        // Times that go back are of no use.
        let mut torn = timed;
        torn[250].ts = Some(0.0);
        assert_eq!(kept(&torn, 5.0), [0, 499]);
    }

    #[test]
    fn no_point_of_a_random_way_is_further_than_the_tolerance_from_what_is_left() {
        for seed in 0..50 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (mut x, mut y, mut heading) = (0.0, 0.0, 0.0_f64);
            let line: Vec<_> = (0..500)
                .map(|n| {
                    heading += (rng.f64() - 0.5) * 0.4;
                    x += heading.cos() * 15.0;
                    y += heading.sin() * 15.0;
                    at(x, y, Some(f64::from(n) * 1e3))
                })
                .collect();
            let flat = flatten(&line);
            for tolerance_m in [2.0, 20.0, 200.0] {
                let kept = kept(&line, tolerance_m);
                for pair in kept.windows(2) {
                    for at in pair[0]..pair[1] {
                        let away_m = distance_m(flat[at], flat[pair[0]], flat[pair[1]]);
                        assert!(away_m <= tolerance_m, "seed {seed}: {away_m} m at {at}");
                    }
                }
                assert!(kept.len() < 400 || tolerance_m < 5.0, "seed {seed}: {} left", kept.len());
            }
        }
    }

    #[test]
    fn the_date_line_is_no_jump() {
        let line: Vec<_> = (-50..50)
            .map(|n| Point {
                lat: 0.0,
                lon: if n < 0 { 180.0 + f64::from(n) * 1e-4 } else { -180.0 + f64::from(n) * 1e-4 },
                ts: None,
            })
            .collect();
        assert_eq!(kept(&line, 1.0), [0, 99]);
    }

    #[test]
    fn points_are_read_from_what_devices_send() {
        let gps = br#"{"ts":1764156795123,"lat":31.2,"lon":121.4,"alt":12.3,"speed":13.9,"fix":3}"#;
        assert_eq!(Point::parse(gps), Some(Point { lat: 31.2, lon: 121.4, ts: Some(1_764_156_795_123.0) }));
        assert!(Point::parse(br#"{"_type":"location","lat":1,"lon":2,"tst":5}"#).is_some());
        for none in [&b""[..], b"{}", br#"{"lat":"31","lon":1}"#, br#"{"lat":91,"lon":1}"#, b"\xff"] {
            assert_eq!(Point::parse(none), None);
        }
    }

    #[test]
    fn the_tolerance_doubles_up_to_its_bound() {
        let thinning = Thinning { tolerance_m: 5, tolerance_m_max: 30 };
        let steps: Vec<u32> =
            std::iter::successors(Some(0), |tolerance_m| thinning.next(*tolerance_m)).collect();
        assert_eq!(steps, [0, 5, 10, 20, 30]);
    }
}
