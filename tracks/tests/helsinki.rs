//! Real roads with the noise of a receiver in a street: the right answer is known, because the noise is ours.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use postrider_tracks::corridor::{Corridor, CorridorEvent, Watcher, WatcherOptions};
use postrider_tracks::fence::{Circle, FenceEvent};
use postrider_tracks::plausibility::{Gate, GateOptions};
use postrider_tracks::route::Polyline;
use postrider_tracks::{Fix, LatLon, fence};

/// OpenStreetMap contributors, ODbL 1.0; see the README beside the file.
const ROUTES: &str = include_str!("../../firmware-sim/routes/helsinki.geojson");
const SIGMA_M: f64 = 5.0;
const HALF_WIDTH_M: f64 = 40.0;
const SPEED_MPS: f64 = 10.0;

fn routes() -> Vec<Polyline> {
    let json: serde_json::Value = serde_json::from_str(ROUTES).unwrap();
    let features = json["features"].as_array().unwrap();
    features
        .iter()
        .map(|feature| {
            let points = feature["geometry"]["coordinates"].as_array().unwrap();
            Polyline::new(points.iter().map(|p| LatLon::new(p[1].as_f64().unwrap(), p[0].as_f64().unwrap())))
                .unwrap()
        })
        .collect()
}

/// Correlated noise: each axis keeps exp(-1 s / 30 s) of its error from second to second, at a steady sigma.
struct Noise {
    chance: fastrand::Rng,
    error_m: (f64, f64),
}

impl Noise {
    fn new(seed: u64) -> Noise {
        let mut noise = Noise { chance: fastrand::Rng::with_seed(seed), error_m: (0.0, 0.0) };
        noise.error_m = (SIGMA_M * noise.gauss(), SIGMA_M * noise.gauss());
        noise
    }

    /// Box–Muller.
    fn gauss(&mut self) -> f64 {
        let (u, v) = (1.0 - self.chance.f64(), self.chance.f64());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    fn fix(&mut self, at_s: i64, truth: LatLon) -> Fix {
        let keep = (-1.0f64 / 30.0).exp();
        let fresh = SIGMA_M * (1.0 - keep * keep).sqrt();
        self.error_m =
            (keep * self.error_m.0 + fresh * self.gauss(), keep * self.error_m.1 + fresh * self.gauss());
        let place = truth.destination(90.0, self.error_m.0).destination(0.0, self.error_m.1);
        Fix { hdop: Some(SIGMA_M / postrider_tracks::fix::UERE_M), ..Fix::at(at_s * 1_000, place) }
    }
}

fn watcher(line: &Polyline) -> Watcher {
    Watcher::new(Arc::new(Corridor::new(line.clone(), HALF_WIDTH_M).unwrap()), WatcherOptions::default())
}

#[test]
fn noise_of_5_m_on_the_road_is_never_a_departure_and_every_drive_arrives_once() {
    for (r, line) in routes().iter().enumerate() {
        for seed in 0..25 {
            let mut noise = Noise::new(seed);
            let mut gate = Gate::new(GateOptions::default());
            let mut corridor = watcher(line);
            let end = line.point_at(line.length_m());
            let mut yard =
                fence::Watcher::new(Circle::new(end, 60.0).unwrap().into(), fence::WatcherOptions::default());
            let mut arrivals = 0;
            let drive_s = (line.length_m() / SPEED_MPS) as i64;
            for s in 0..drive_s + 300 {
                let fix = noise.fix(s, line.point_at(SPEED_MPS * s as f64));
                gate.push(&fix, fix.ts_ms)
                    .unwrap_or_else(|why| panic!("route {r} seed {seed} second {s}: {why}"));
                assert_eq!(corridor.push(&fix), None, "route {r} seed {seed} second {s}");
                match yard.push(&fix) {
                    Some(FenceEvent::Entered(_)) => arrivals += 1,
                    // A route may pass its own end on the way.
                    Some(FenceEvent::Exited(_)) => assert!(s < drive_s, "route {r} seed {seed} second {s}"),
                    None => {}
                }
            }
            assert!(arrivals >= 1, "route {r} seed {seed}");
            assert_eq!(yard.side(), Some(fence::Side::Inside), "route {r} seed {seed}");
        }
    }
}

#[test]
fn a_truck_two_widths_beside_its_route_is_found_within_three_fixes() {
    let mut departures = 0;
    for (r, line) in routes().iter().enumerate() {
        for seed in 0..40 {
            let mut noise = Noise::new(seed);
            let mut gate = Gate::new(GateOptions::default());
            let mut watcher = watcher(line);
            let leave_s = 20 + 11 * seed as i64;
            let leave = line.point_at(SPEED_MPS * leave_s as f64);
            let bearing =
                line.bearing_at_deg(SPEED_MPS * leave_s as f64) + if seed % 2 == 0 { 90.0 } else { -90.0 };
            let mut fixes_beyond = 0;
            for s in 0..leave_s + 400 {
                let truth = match s - leave_s {
                    ..0 => line.point_at(SPEED_MPS * s as f64),
                    away_s => leave.destination(bearing, SPEED_MPS * away_s as f64),
                };
                let off_m = line.nearest(truth).distance_m;
                // A straight way out may cross another part of the route; only fixes in a row count.
                fixes_beyond = if off_m >= 2.0 * HALF_WIDTH_M { fixes_beyond + 1 } else { 0 };
                let fix = noise.fix(s, truth);
                gate.push(&fix, fix.ts_ms).unwrap();
                match watcher.push(&fix) {
                    None => {
                        assert!(fixes_beyond < 3, "route {r} seed {seed}: {off_m:.0} m beside and no alarm")
                    }
                    Some(CorridorEvent::Deviated { .. }) => {
                        assert!(off_m > HALF_WIDTH_M, "route {r} seed {seed}: an alarm at {off_m:.0} m");
                        departures += 1;
                        break;
                    }
                    Some(other) => panic!("route {r} seed {seed}: {other:?}"),
                }
            }
        }
    }
    assert_eq!(departures, 4 * 40);
}
