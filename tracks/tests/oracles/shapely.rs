//! A million points in polygons with holes, asked of shapely (GEOS) too: the same doubles, the same answers.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use postrider_tracks::LatLon;
use postrider_tracks::fence::{Fence, Polygon};

const POLYGONS: usize = 5_000;
const POINTS: usize = 200;

type Ring = Vec<(f64, f64)>;

/// A ring around a place, east and north, with its corners between two distances from it: it does not cross itself.
fn ring(chance: &mut fastrand::Rng, centre: (f64, f64), least: f64, most: f64) -> Ring {
    let corners = chance.usize(3..24);
    let turns: Vec<f64> = (0..corners).map(|n| (n as f64 + 0.8 * chance.f64()) / corners as f64).collect();
    let corner = |turn: f64| {
        let (sine, cosine) = (turn * std::f64::consts::TAU).sin_cos();
        let far = least + (most - least) * chance.f64();
        // Some on a grid, as people draw them.
        let grid = |x: f64| if corners.is_multiple_of(4) { (x * 1e4).round() / 1e4 } else { x };
        (grid(centre.0 + far * cosine), grid(centre.1 + far * sine))
    };
    turns.into_iter().map(corner).collect()
}

/// Rings of one polygon, the outer one first, and the points to ask about.
fn question(chance: &mut fastrand::Rng) -> (Vec<Ring>, Ring) {
    let size = 10f64.powf(-3.0 + 4.0 * chance.f64());
    let centre = (-160.0 + 320.0 * chance.f64(), -70.0 + 140.0 * chance.f64());
    let mut rings = vec![ring(chance, centre, 0.5 * size, size)];
    // A ring of few corners comes nearer to its middle than its corners do: holes are smaller than that.
    if chance.bool() && rings[0].len() > 8 && size > 0.1 {
        rings.push(ring(chance, centre, 0.1 * size, 0.3 * size));
    }
    let point = |n: usize| match n % 20 {
        // On a corner, and at the height of one.
        0 => rings[n % rings.len()][n % 3],
        1 => (centre.0 + 2.4 * size * (chance.f64() - 0.5), rings[0][n % 3].1),
        // In the middle of a side, as exactly as doubles go.
        2 => {
            let (a, b) = (rings[0][0], rings[0][1]);
            ((a.0 + b.0) / 2.0, (a.1 + b.1) / 2.0)
        }
        _ => (centre.0 + 2.4 * size * (chance.f64() - 0.5), centre.1 + 2.4 * size * (chance.f64() - 0.5)),
    };
    let points = (0..POINTS).map(point).collect();
    (rings, points)
}

/// A Python that knows shapely, if there is one: that of the tests' clients, or `python3`.
fn python() -> Option<PathBuf> {
    let venv = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/clients/.venv/bin/python");
    let named = std::env::var_os("TRACKS_PYTHON").map(PathBuf::from);
    named.into_iter().chain([PathBuf::from(venv), PathBuf::from("python3")]).find(|python| {
        let mut import = Command::new(python);
        import.args(["-c", "import shapely"]).stdout(Stdio::null()).stderr(Stdio::null());
        import.status().is_ok_and(|status| status.success())
    })
}

fn place(&(lon, lat): &(f64, f64)) -> LatLon {
    LatLon::new(lat, lon)
}

#[test]
fn a_million_points_are_inside_or_not_as_shapely_says() {
    let Some(python) = python() else {
        println!("skipped: no Python with shapely here; scripts/test installs it into tests/clients/.venv");
        return;
    };
    let mut chance = fastrand::Rng::with_seed(7);
    let questions: Vec<_> = (0..POLYGONS).map(|_| question(&mut chance)).collect();
    let mut bytes = (POLYGONS as u32).to_le_bytes().to_vec();
    let put = |bytes: &mut Vec<u8>, points: &Ring| {
        bytes.extend((points.len() as u32).to_le_bytes());
        points.iter().for_each(|(x, y)| bytes.extend(x.to_le_bytes().into_iter().chain(y.to_le_bytes())));
    };
    for (rings, points) in &questions {
        bytes.extend((rings.len() as u32).to_le_bytes());
        rings.iter().chain([points]).for_each(|points| put(&mut bytes, points));
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracles/covers.py");
    let mut shapely =
        Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = shapely.stdin.take().unwrap();
    stdin.write_all(&bytes).unwrap();
    drop(stdin);
    let mut verdicts = Vec::new();
    shapely.stdout.take().unwrap().read_to_end(&mut verdicts).unwrap();
    assert!(shapely.wait().unwrap().success());
    assert_eq!(verdicts.len(), POLYGONS * POINTS);

    let mut inside = 0;
    for ((rings, points), verdicts) in questions.iter().zip(verdicts.chunks(POINTS)) {
        let polygon = Polygon::new(rings[0].iter().map(place)).unwrap();
        let holes = rings[1..].iter().map(|ring| ring.iter().map(place));
        let fence = Fence::from(polygon.with_holes(holes).unwrap());
        for (point, verdict) in points.iter().zip(verdicts) {
            assert_eq!(fence.contains(place(point)), *verdict == 1, "{point:?} in {rings:?}");
            inside += usize::from(*verdict);
        }
    }
    assert!((200_000..800_000).contains(&inside), "{inside}");
}
