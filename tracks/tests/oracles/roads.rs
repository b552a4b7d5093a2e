//! Drives along real roads: slower in corners, waiting at lights.

use postrider_tracks::LatLon;
use postrider_tracks::geodesy::wrap_longitude_deg;
use postrider_tracks::route::Polyline;

use crate::sky::{Truth, gauss};

/// OpenStreetMap contributors, ODbL 1.0; see the README beside the file.
const ROUTES: &str = include_str!("../../../firmware-sim/routes/helsinki.geojson");
/// In a town, and outside of it.
const SPEED_MPS: f64 = 13.0;
const COUNTRY_MPS: f64 = 23.0;
const ACCELERATION_MPS2: f64 = 1.5;
const LATERAL_MPS2: f64 = 2.5;
const WINDOW_M: f64 = 20.0;
const STEP_MS: i64 = 100;

pub(crate) fn routes() -> Vec<Polyline> {
    let json: serde_json::Value = serde_json::from_str(ROUTES).unwrap();
    let line = |feature: &serde_json::Value| {
        let points = feature["geometry"]["coordinates"].as_array().unwrap();
        Polyline::new(points.iter().map(|p| LatLon::new(p[1].as_f64().unwrap(), p[0].as_f64().unwrap())))
            .unwrap()
    };
    json["features"].as_array().unwrap().iter().map(line).collect()
}

/// 40 km through the country: bends of 150 m and more, no light.
pub(crate) fn country_road(seed: u64) -> Polyline {
    let mut chance = fastrand::Rng::with_seed(seed);
    let (mut place, mut bearing_deg, mut bend) = (LatLon::new(60.5, 25.0), 45.0, 0.0f64);
    let points = (0..2_000).map(|_| {
        // Degrees in 20 m; 150 m of radius are 7.6.
        bend = (0.9 * bend + 1.5 * gauss(&mut chance)).clamp(-7.6, 7.6);
        bearing_deg += bend;
        place = place.destination(bearing_deg, 20.0);
        place
    });
    Polyline::new(points).unwrap()
}

/// Speeds that a driver keeps at points of a road: corners, and lights with the time they are red.
struct Limits {
    /// Metres from the start, the speed there in metres a second, and how long the vehicle waits there.
    at: Vec<(f64, f64, i64)>,
}

impl Limits {
    fn of(line: &Polyline, has_lights: bool, chance: &mut fastrand::Rng) -> Limits {
        let mut at = Vec::new();
        let mut along_m = 0.0;
        let points: Vec<LatLon> = line.points().collect();
        for three in points.windows(3) {
            along_m += three[0].distance_m(three[1]);
            // How sharp the curve is around here: its turn over 20 m.
            let turn_deg = wrap_longitude_deg(
                line.bearing_at_deg(along_m + WINDOW_M / 2.0) - line.bearing_at_deg(along_m - WINDOW_M / 2.0),
            );
            let radius_m = WINDOW_M / turn_deg.to_radians().abs().max(1e-6);
            at.push((along_m, (LATERAL_MPS2 * radius_m).sqrt().max(2.5), 0));
        }
        let mut light_m = 300.0;
        while has_lights && light_m < line.length_m() {
            if chance.bool() {
                at.push((light_m, 0.0, chance.i64(5_000..40_000)));
            }
            light_m += 400.0 + 600.0 * chance.f64();
        }
        at.push((line.length_m(), 0.0, 0));
        at.sort_by(|a, b| a.0.total_cmp(&b.0));
        Limits { at }
    }
}

/// Every second of a drive along a line, with the metres from its start.
pub(crate) fn drive(line: &Polyline, seed: u64) -> Vec<(f64, Truth)> {
    // The routes through the town are shorter than any through the country.
    let is_town = line.length_m() < 30_000.0;
    let speed_max_mps = if is_town { SPEED_MPS } else { COUNTRY_MPS };
    let limits = Limits::of(line, is_town, &mut fastrand::Rng::with_seed(seed));
    let (mut next, mut along_m, mut speed_mps, mut wait_ms) = (0, 0.0, 0.0f64, 0);
    let mut seconds = Vec::new();
    let mut at_ms = 0;
    while next < limits.at.len() {
        if at_ms % 1_000 == 0 {
            let course_deg = line.bearing_at_deg(along_m);
            seconds.push((along_m, Truth { at_ms, place: line.point_at(along_m), speed_mps, course_deg }));
        }
        at_ms += STEP_MS;
        if wait_ms > 0 {
            (wait_ms, speed_mps) = (wait_ms - STEP_MS, 0.0);
            continue;
        }
        let step_s = STEP_MS as f64 / 1_000.0;
        let allowed = limits.at[next..].iter().map(|(at_m, limit_mps, _)| {
            (limit_mps * limit_mps + 2.0 * ACCELERATION_MPS2 * (at_m - along_m).max(0.0)).sqrt()
        });
        let allowed_mps = allowed.fold(speed_max_mps, f64::min);
        // Creeps the last centimetres.
        speed_mps = (speed_mps + ACCELERATION_MPS2 * step_s).min(allowed_mps).max(0.2);
        along_m += speed_mps * step_s;
        while next < limits.at.len() && along_m >= limits.at[next].0 {
            wait_ms = limits.at[next].2;
            next += 1;
        }
    }
    seconds
}
