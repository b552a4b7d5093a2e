//! Map datums of China, to and from WGS 84: a step of its own, named where it is wanted and never guessed.
//!
//! Maps and receivers sold in China speak GCJ-02, a secret transform of WGS 84 that moves places by 100 to 700 m, known by
//! its reconstruction ("eviltransform", 2010); BD-09 is Baidu's further transform of it. The forward transforms are
//! formulas. Their inverses are found by iteration and are exact to [`INVERSE_ERROR_DEG_MAX`]; the formulas themselves
//! agree with what map providers show to about a metre. Outside the rectangle of China nothing is moved.

use serde::{Deserialize, Serialize};

use crate::geodesy::LatLon;

/// How far an inverse may be from the exact one, in degrees: a tenth of a millimetre.
pub const INVERSE_ERROR_DEG_MAX: f64 = 1e-9;

/// Rounds after which an inverse has converged: each gains two to three digits.
const ROUNDS_MAX: usize = 30;

/// Krasovsky 1940: half the long axis in metres, and the square of the eccentricity.
const AXIS_M: f64 = 6_378_245.0;
const ECCENTRICITY2: f64 = 0.006_693_421_622_965_943;

/// What the degrees of a place mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Datum {
    /// What satellites say, and everything else in this crate.
    #[default]
    #[serde(rename = "wgs-84")]
    Wgs84,
    /// Maps of China but Baidu's.
    #[serde(rename = "gcj-02")]
    Gcj02,
    /// Baidu's maps.
    #[serde(rename = "bd-09")]
    Bd09,
}

impl Datum {
    /// A place of this datum in WGS 84.
    pub fn to_wgs84(self, place: LatLon) -> LatLon {
        match self {
            Datum::Wgs84 => place,
            Datum::Gcj02 => inverse(place, gcj02_of_wgs84),
            Datum::Bd09 => inverse(inverse(place, bd09_of_gcj02), gcj02_of_wgs84),
        }
    }

    /// A place of WGS 84 in this datum.
    pub fn from_wgs84(self, place: LatLon) -> LatLon {
        match self {
            Datum::Wgs84 => place,
            Datum::Gcj02 => gcj02_of_wgs84(place),
            Datum::Bd09 => bd09_of_gcj02(gcj02_of_wgs84(place)),
        }
    }
}

/// Whether GCJ-02 moves a place: the rectangle that all software knows, which is larger than China.
fn is_moved(place: LatLon) -> bool {
    (0.8293..=55.8271).contains(&place.lat) && (72.004..=137.8347).contains(&place.lon)
}

fn gcj02_of_wgs84(place: LatLon) -> LatLon {
    use std::f64::consts::PI;
    if !is_moved(place) {
        return place;
    }
    let (x, y) = (place.lon - 105.0, place.lat - 35.0);
    let short = 20.0 * ((6.0 * x * PI).sin() + (2.0 * x * PI).sin());
    let wave = |t: f64, far: f64, farther: f64| {
        20.0 * (t * PI).sin()
            + 40.0 * (t / 3.0 * PI).sin()
            + far * (t / 12.0 * PI).sin()
            + farther * (t / 30.0 * PI).sin()
    };
    let root = 0.1 * x.abs().sqrt();
    let north = -100.0
        + 2.0 * x
        + 3.0 * y
        + 0.2 * y * y
        + 0.1 * x * y
        + 2.0 * root
        + (short + wave(y, 160.0, 320.0)) * 2.0 / 3.0;
    let east =
        300.0 + x + 2.0 * y + 0.1 * x * x + 0.1 * x * y + root + (short + wave(x, 150.0, 300.0)) * 2.0 / 3.0;
    let (sine, cosine) = place.lat.to_radians().sin_cos();
    let curve = 1.0 - ECCENTRICITY2 * sine * sine;
    let meridian_m = AXIS_M * (1.0 - ECCENTRICITY2) / (curve * curve.sqrt());
    LatLon {
        lat: place.lat + (north / meridian_m).to_degrees(),
        lon: place.lon + (east / (AXIS_M / curve.sqrt() * cosine)).to_degrees(),
    }
}

fn bd09_of_gcj02(place: LatLon) -> LatLon {
    if !is_moved(place) {
        return place;
    }
    let turn = std::f64::consts::PI * 3_000.0 / 180.0;
    let radius = place.lon.hypot(place.lat) + 0.000_02 * (place.lat * turn).sin();
    let angle = place.lat.atan2(place.lon) + 0.000_003 * (place.lon * turn).cos();
    LatLon { lat: radius * angle.sin() + 0.006, lon: radius * angle.cos() + 0.0065 }
}

/// Finds the place that a transform takes to `target`, by going back what it misses by.
fn inverse(target: LatLon, forward: fn(LatLon) -> LatLon) -> LatLon {
    let mut place = target;
    for _ in 0..ROUNDS_MAX {
        let hit = forward(place);
        let (lat, lon) = (target.lat - hit.lat, target.lon - hit.lon);
        place = LatLon::new(place.lat + lat, place.lon + lon);
        if lat.abs() < INVERSE_ERROR_DEG_MAX / 10.0 && lon.abs() < INVERSE_ERROR_DEG_MAX / 10.0 {
            break;
        }
    }
    place
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_places_are_met() {
        // Published pairs of eviltransform's own tests (Shanghai, Shenzhen, Beijing).
        let table = [
            ((31.177_427_6, 121.527_210_6), (31.175_303_983_645_97, 121.531_541_859_215)),
            ((22.543_847, 113.912_316), (22.540_796_131_694_766, 113.917_176_480_836_3)),
            ((39.911_954, 116.377_817), (39.913_345_455_360_69, 116.384_047_224_556_57)),
        ];
        for ((lat, lon), want) in table {
            let got = Datum::Gcj02.from_wgs84(LatLon::new(lat, lon));
            assert!((got.lat - want.0).abs() < 1e-5 && (got.lon - want.1).abs() < 1e-5, "{got:?} {want:?}");
        }
        // Baidu's own example of its converter: GCJ-02 39.908823, 116.397470 is about 39.915, 116.404.
        let baidu = bd09_of_gcj02(LatLon::new(39.908_823, 116.397_470));
        assert!((baidu.lat - 39.915_1).abs() < 1e-3 && (baidu.lon - 116.403_9).abs() < 1e-3, "{baidu:?}");
    }

    #[test]
    fn outside_china_nothing_is_moved() {
        let helsinki = LatLon::new(60.17, 24.94);
        for datum in [Datum::Wgs84, Datum::Gcj02, Datum::Bd09] {
            assert_eq!(datum.from_wgs84(helsinki), helsinki);
            assert_eq!(datum.to_wgs84(helsinki), helsinki);
        }
    }

    #[test]
    fn names_are_read_and_written() {
        for (datum, name) in [(Datum::Wgs84, "wgs-84"), (Datum::Gcj02, "gcj-02"), (Datum::Bd09, "bd-09")] {
            assert_eq!(serde_json::to_value(datum).unwrap(), name);
            assert_eq!(serde_json::from_value::<Datum>(name.into()).unwrap(), datum);
        }
    }

    proptest! {
        #[test]
        fn there_and_back_is_the_same_place_within_the_bound(lat in 1.0..55.0f64, lon in 73.0..137.0f64) {
            let place = LatLon::new(lat, lon);
            for datum in [Datum::Gcj02, Datum::Bd09] {
                let moved = datum.from_wgs84(place);
                prop_assert!((1e-3..3_000.0).contains(&moved.distance_m(place)));
                let back = datum.to_wgs84(moved);
                prop_assert!((back.lat - lat).abs() <= INVERSE_ERROR_DEG_MAX, "{} {}", back.lat, lat);
                prop_assert!((back.lon - lon).abs() <= INVERSE_ERROR_DEG_MAX, "{} {}", back.lon, lon);
            }
        }

        #[test]
        fn any_numbers_are_taken_without_panic(lat in any::<f64>(), lon in any::<f64>()) {
            for datum in [Datum::Wgs84, Datum::Gcj02, Datum::Bd09] {
                let _ = (datum.to_wgs84(LatLon::new(lat, lon)), datum.from_wgs84(LatLon::new(lat, lon)));
            }
        }
    }
}
