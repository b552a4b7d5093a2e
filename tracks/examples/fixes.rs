//! How many fixes a second one core takes through the gate, the Kalman filter and the stop lock:
//! `cargo run --release -p postrider-tracks --example fixes`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use postrider_tracks::filter::{Filter, FilterOptions};
use postrider_tracks::{Fix, LatLon};

const DEVICES: usize = 1_000;
const FIXES: usize = 2_000;

/// A device that drives with a wobble and stands now and then, a fix a second.
fn track(device: usize) -> Vec<Fix> {
    let mut place = LatLon::new(40.0 + device as f64 * 0.01, 20.0);
    let fix = |n: usize| {
        let stands = n % 400 > 300;
        let speed_mps = if stands { 0.0 } else { 14.0 };
        place = place.destination((n / 7) as f64, speed_mps);
        let noise = LatLon::new(place.lat + ((n * 7_919) % 13) as f64 * 2e-6, place.lon);
        Fix {
            hdop: Some(0.9),
            speed_mps: Some(speed_mps),
            course_deg: (!stands).then_some((n / 7) as f64 % 360.0),
            ..Fix::at(n as i64 * 1_000, noise)
        }
    };
    (0..FIXES).map(fix).collect()
}

fn main() {
    let options = Arc::new(FilterOptions::default());
    let tracks: Vec<Vec<Fix>> = (0..10).map(track).collect();
    let mut filters = vec![Filter::new(options); DEVICES];
    let (mut accepted, started) = (0u64, Instant::now());
    for moment in 0..FIXES {
        for (filter, track) in filters.iter_mut().zip(tracks.iter().cycle()) {
            let fix = &track[moment];
            accepted += u64::from(black_box(filter.push(fix, fix.ts_ms)).is_ok());
        }
    }
    let elapsed_s = started.elapsed().as_secs_f64();
    let fixes = DEVICES * FIXES;
    println!(
        "{fixes} fixes of {DEVICES} devices in {elapsed_s:.2} s: {:.0} a second",
        fixes as f64 / elapsed_s
    );
    println!("{accepted} accepted; a device takes {} bytes", size_of::<Filter>());
}
