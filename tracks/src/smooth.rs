//! Finished trips: which of their fixes are true, and where the vehicle was when all of them are known.
//!
//! A filter only knows what came before. With the whole trip at hand, fixes that were believed too late are believed from
//! their first, those that were believed too soon are taken back, and the Rauch–Tung–Striebel smoother carries what came
//! later back in time (H. E. Rauch, F. Tung, C. T. Striebel, AIAA Journal 3, 1965).

use crate::filter::{Body, Filter, FilterOptions, Revised, Seen};
use crate::fix::Fix;
use crate::geodesy::LatLon;

/// A longer gap between two fixes is not bridged, in milliseconds.
const GAP_MS: i64 = 600_000;

/// Where a vehicle was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Smoothed {
    /// Time of the fix, in milliseconds since the Unix epoch.
    pub ts_ms: i64,
    /// The place.
    pub position: LatLon,
    /// The speed in metres a second.
    pub speed_mps: f64,
    /// One standard deviation of the place in metres, as far as errors of fixes are independent.
    pub sigma_m: f64,
}

/// Tells for each fix of a trip whether it is believed, in the order given. Fixes are judged in the order of their time.
pub fn believed(fixes: &[Fix], options: &FilterOptions) -> Vec<bool> {
    judged(fixes, options).into_iter().map(|verdict| verdict != Verdict::Refused).collect()
}

/// What is believed of a fix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Refused,
    /// The place alone: reported velocities have led elsewhere.
    Place,
    PlaceAndVelocity,
}

fn judged(fixes: &[Fix], options: &FilterOptions) -> Vec<Verdict> {
    let mut order: Vec<usize> = (0..fixes.len()).collect();
    order.sort_by_key(|&index| fixes[index].ts_ms);
    let mut verdicts = vec![Verdict::Refused; fixes.len()];
    let mut filter = Filter::new(options.clone());
    for (place, &index) in order.iter().enumerate() {
        let Ok(estimate) = filter.push(&fixes[index], fixes[index].ts_ms) else { continue };
        let yes = if filter.trusts_velocity() { Verdict::PlaceAndVelocity } else { Verdict::Place };
        verdicts[index] = yes;
        match estimate.revised {
            Revised::Nothing => {}
            Revised::Adopted { since_ms } => {
                let from = order[..place].partition_point(|&earlier| fixes[earlier].ts_ms < since_ms);
                // What fits together there was true from the first on.
                let mut there = Filter::new(options.clone());
                for &earlier in &order[from..place] {
                    if there.push(&fixes[earlier], fixes[earlier].ts_ms).is_ok() {
                        verdicts[earlier] = yes;
                    }
                }
            }
            Revised::Undone { since_ms } => {
                let from = order[..place].partition_point(|&earlier| fixes[earlier].ts_ms <= since_ms);
                order[from..place].iter().for_each(|&earlier| verdicts[earlier] = Verdict::Refused);
            }
        }
    }
    verdicts
}

/// Smooths a finished trip: one place for each fix that is believed, in the order of time.
pub fn smooth(fixes: &[Fix], options: &FilterOptions) -> Vec<Smoothed> {
    let seen = fixes.iter().zip(judged(fixes, options)).filter_map(|(fix, verdict)| match verdict {
        Verdict::Refused => None,
        Verdict::Place => Some(Seen { velocity_mps: None, ..Seen::from(fix) }),
        Verdict::PlaceAndVelocity => Some(Seen::from(fix)),
    });
    let mut seen: Vec<Seen> = seen.collect();
    seen.sort_by_key(|seen| seen.ts_ms);
    let runs = seen.chunk_by(|a, b| b.ts_ms.saturating_sub(a.ts_ms) <= GAP_MS);
    runs.flat_map(smooth_run).collect()
}

fn smooth_run(seen: &[Seen]) -> Vec<Smoothed> {
    let mut filtered: Vec<Body> = Vec::with_capacity(seen.len());
    for next in seen {
        let body = match filtered.last() {
            None => Body::at(next),
            Some(last) => {
                let mut body = last.predicted_with(next);
                body.take(next);
                body
            }
        };
        filtered.push(body);
    }
    for index in (1..filtered.len()).rev() {
        let later = filtered[index];
        filtered[index - 1].smooth_with(&later);
    }
    filtered.iter().map(Smoothed::from).collect()
}

impl From<&Body> for Smoothed {
    fn from(body: &Body) -> Smoothed {
        Smoothed {
            ts_ms: body.ts_ms,
            position: body.place,
            speed_mps: f64::from(body.speed_mps()),
            sigma_m: f64::from(body.sigma_m()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOME: LatLon = LatLon::new(60.17, 24.94);

    fn fix(at_s: i64, east_m: f64, north_m: f64) -> Fix {
        let place = HOME.destination(90.0, east_m).destination(0.0, north_m);
        Fix { hdop: Some(1.0), ..Fix::at(at_s * 1_000, place) }
    }

    fn gauss(chance: &mut fastrand::Rng) -> f64 {
        let (u, v) = (1.0 - chance.f64(), chance.f64());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    #[test]
    fn smoothing_halves_the_error_of_a_drive_and_beats_the_filter() {
        let mut chance = fastrand::Rng::with_seed(1);
        let truth = |s: i64| HOME.destination(90.0, 12.0 * s as f64);
        let fixes: Vec<Fix> = (0..600)
            .map(|s| fix(s, 12.0 * s as f64 + 5.0 * gauss(&mut chance), 5.0 * gauss(&mut chance)))
            .collect();
        let rms = |places: &[(i64, LatLon)]| {
            let squares = places.iter().map(|(ts_ms, place)| place.distance_m(truth(ts_ms / 1_000)).powi(2));
            (squares.sum::<f64>() / places.len() as f64).sqrt()
        };
        let raw = rms(&fixes.iter().map(|fix| (fix.ts_ms, fix.position())).collect::<Vec<_>>());
        let mut filter = Filter::new(FilterOptions::default());
        let live: Vec<_> = fixes
            .iter()
            .filter_map(|fix| Some((fix.ts_ms, filter.push(fix, fix.ts_ms).ok()?.position)))
            .collect();
        let smoothed = smooth(&fixes, &FilterOptions::default());
        let after: Vec<_> = smoothed.iter().map(|at| (at.ts_ms, at.position)).collect();
        let (live, after) = (rms(&live), rms(&after));
        assert!(
            after < 0.55 * raw && after < 0.8 * live,
            "raw {raw:.2} m, live {live:.2} m, smoothed {after:.2} m"
        );
        assert!(
            smoothed[300].sigma_m < 5.0 && (smoothed[300].speed_mps - 12.0).abs() < 1.5,
            "{:?}",
            smoothed[300]
        );
    }

    #[test]
    fn fixes_that_were_adopted_late_are_true_from_the_first_and_outliers_never() {
        // After 20 s the vehicle is 2 km away, and one fix is a reflection.
        let mut fixes: Vec<Fix> = (0..20).map(|s| fix(s, 10.0 * s as f64, 0.0)).collect();
        fixes.extend((20..40).map(|s| fix(s, 2_000.0 + 10.0 * s as f64, 0.0)));
        fixes[10] = fix(10, 100.0, 300.0);
        let mut want = vec![true; 40];
        want[10] = false;
        assert_eq!(believed(&fixes, &FilterOptions::default()), want);
        fixes.reverse();
        want.reverse();
        assert_eq!(believed(&fixes, &FilterOptions::default()), want);
        assert_eq!(smooth(&fixes, &FilterOptions::default()).len(), 39);
    }

    proptest! {
        #[test]
        fn any_numbers_are_taken_without_panic(fixes in prop::collection::vec((any::<i64>(), any::<f64>(), any::<f64>(), any::<Option<f64>>(), any::<Option<f64>>()), 0..30)) {
            let fixes: Vec<Fix> = fixes.into_iter().map(|(ts_ms, lat, lon, hdop, speed_mps)| Fix { hdop, speed_mps, ..Fix::at(ts_ms, LatLon::new(lat, lon)) }).collect();
            prop_assert!(smooth(&fixes, &FilterOptions::default()).len() <= fixes.len());
        }
    }
}
