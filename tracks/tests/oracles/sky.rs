//! What a receiver makes of a place: an error that drifts, and reflections.

use postrider_tracks::fix::UERE_M;
use postrider_tracks::geodesy::Plane;
use postrider_tracks::{Fix, LatLon};

/// How a receiver errs.
#[derive(Debug, Clone)]
pub(crate) struct Sky {
    /// One standard deviation of each axis, in metres; the fix claims as much.
    pub(crate) sigma_m: f64,
    /// The time after which 1/e of an error is left, in seconds; 0 for errors without memory.
    pub(crate) memory_s: f64,
    /// The mean time between reflections, in seconds; 0 for none. They move the place by 30 to 100 m for 5 to 60 s.
    pub(crate) reflection_every_s: f64,
    /// Whether the receiver measures speed and course.
    pub(crate) has_doppler: bool,
}

/// What a vehicle really does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Truth {
    pub(crate) at_ms: i64,
    pub(crate) place: LatLon,
    pub(crate) speed_mps: f64,
    pub(crate) course_deg: f64,
}

pub(crate) struct Receiver {
    sky: Sky,
    pub(crate) chance: fastrand::Rng,
    error: (f64, f64),
    last_ms: Option<i64>,
    reflection: Option<(i64, (f64, f64))>,
}

impl Receiver {
    pub(crate) fn new(sky: Sky, seed: u64) -> Receiver {
        let mut chance = fastrand::Rng::with_seed(seed);
        let error = (gauss(&mut chance), gauss(&mut chance));
        Receiver { sky, chance, error, last_ms: None, reflection: None }
    }

    /// Call it in the order of time.
    pub(crate) fn observe(&mut self, truth: &Truth) -> Fix {
        let elapsed_s =
            self.last_ms.replace(truth.at_ms).map_or(0.0, |last_ms| (truth.at_ms - last_ms) as f64 / 1e3);
        let keep = if self.sky.memory_s > 0.0 { (-elapsed_s / self.sky.memory_s).exp() } else { 0.0 };
        let fresh = (1.0 - keep * keep).sqrt();
        self.error.0 = keep * self.error.0 + fresh * gauss(&mut self.chance);
        self.error.1 = keep * self.error.1 + fresh * gauss(&mut self.chance);
        if self.reflection.is_some_and(|(ends_ms, _)| truth.at_ms >= ends_ms) {
            self.reflection = None;
        }
        if self.reflection.is_none()
            && self.sky.reflection_every_s > 0.0
            && self.chance.f64() < elapsed_s / self.sky.reflection_every_s
        {
            let (sine, cosine) = (self.chance.f64() * std::f64::consts::TAU).sin_cos();
            let far_m = 30.0 + 70.0 * self.chance.f64();
            let ends_ms = truth.at_ms + self.chance.i64(5_000..60_000);
            self.reflection = Some((ends_ms, (far_m * sine, far_m * cosine)));
        }
        let (east_m, north_m) = self.reflection.map_or((0.0, 0.0), |(_, offset_m)| offset_m);
        let sigma_m = self.sky.sigma_m;
        let place =
            Plane::at(truth.place).place(sigma_m * self.error.0 + east_m, sigma_m * self.error.1 + north_m);
        let mut fix = Fix { hdop: Some(sigma_m / UERE_M), ..Fix::at(truth.at_ms, place) };
        if self.sky.has_doppler {
            let speed_mps = (truth.speed_mps + 0.1 * gauss(&mut self.chance)).max(0.0);
            fix.speed_mps = Some(if truth.speed_mps == 0.0 { 0.0 } else { speed_mps });
            let course_deg = truth.course_deg + gauss(&mut self.chance) * (10.0 / truth.speed_mps.max(1.0));
            fix.course_deg = (truth.speed_mps > 0.0).then(|| course_deg.rem_euclid(360.0));
        }
        fix
    }
}

/// A number of the standard normal distribution (Box–Muller).
pub(crate) fn gauss(chance: &mut fastrand::Rng) -> f64 {
    let (u, v) = (1.0 - chance.f64(), chance.f64());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}
