//! Positions in JSON: our own, and those of OwnTracks (<https://owntracks.org/booklet/tech/json/>).

use serde::Deserialize;

use crate::fix::{Fix, UERE_M};
use crate::geodesy::LatLon;

const MPS_PER_KMH: f64 = 1.0 / 3.6;

/// Reads the JSON of `dev/{id}/telemetry/gps`.
///
/// # Errors
/// What is not JSON or lacks time or place; the message names the key.
pub fn fix(payload: &[u8]) -> Result<Fix, serde_json::Error> {
    serde_json::from_slice(payload)
}

/// What is read of an OwnTracks message.
#[derive(Deserialize)]
struct OwnTracks {
    #[serde(rename = "_type")]
    kind: String,
    tst: Option<i64>,
    lat: Option<f64>,
    lon: Option<f64>,
    /// The radius of the error in metres.
    acc: Option<f64>,
    alt: Option<f64>,
    /// Kilometres an hour.
    vel: Option<f64>,
    cog: Option<f64>,
}

/// Reads an OwnTracks message of `owntracks/{user}/{device}`; `None` for one that is no location, as a card or a waypoint.
///
/// The accuracy in metres becomes the dilution of precision that stands for it.
///
/// # Errors
/// What is not JSON, or has no `_type`; or a location without time or place.
pub fn owntracks(payload: &[u8]) -> Result<Option<Fix>, serde_json::Error> {
    let message: OwnTracks = serde_json::from_slice(payload)?;
    if message.kind != "location" {
        return Ok(None);
    }
    let missing = |key| <serde_json::Error as serde::de::Error>::missing_field(key);
    let tst_s = message.tst.ok_or_else(|| missing("tst"))?;
    let lat = message.lat.ok_or_else(|| missing("lat"))?;
    let lon = message.lon.ok_or_else(|| missing("lon"))?;
    Ok(Some(Fix {
        alt_m: message.alt,
        speed_mps: message.vel.filter(|vel| *vel >= 0.0).map(|vel| vel * MPS_PER_KMH),
        course_deg: message.cog,
        hdop: message.acc.filter(|acc| *acc > 0.0).map(|acc| acc / UERE_M),
        ..Fix::at(tst_s.saturating_mul(1_000), LatLon::new(lat, lon))
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_owntracks_location_is_a_fix_and_other_messages_are_none() {
        let json = br#"{"_type":"location","tid":"ne","acc":15,"alt":40,"batt":81,"cog":271,"lat":60.17,"lon":24.94,"tst":1732150000,"vel":54}"#;
        let fix = owntracks(json).unwrap().unwrap();
        assert_eq!((fix.ts_ms, fix.lat, fix.lon), (1_732_150_000_000, 60.17, 24.94));
        assert_eq!((fix.alt_m, fix.course_deg, fix.hdop), (Some(40.0), Some(271.0), Some(3.0)));
        assert!((fix.speed_mps.unwrap() - 15.0).abs() < 1e-9 && (fix.sigma_m() - 15.0).abs() < 1e-9);
        assert_eq!(owntracks(br#"{"_type":"lwt","tst":1732150000}"#).unwrap(), None);
        for (json, want) in [
            (&br#"{"lat":1,"lon":2,"tst":3}"#[..], "_type"),
            (br#"{"_type":"location","lat":1,"lon":2}"#, "tst"),
            (br#"{"_type":"location","tst":1,"lon":2}"#, "lat"),
            (br#"not json"#, "expected"),
        ] {
            let error = owntracks(json).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (fix(&bytes), owntracks(&bytes));
        }

        #[test]
        fn any_numbers_are_taken_without_panic(tst in any::<i64>(), lat in any::<f64>(), acc in any::<f64>(), vel in any::<f64>()) {
            let _ = owntracks(format!(r#"{{"_type":"location","tst":{tst},"lat":{lat},"lon":1,"acc":{acc},"vel":{vel}}}"#).as_bytes());
        }
    }
}
