//! One GPS fix, as devices send it on `dev/{id}/telemetry/gps`, and how exact it may be believed to be.
//!
//! Owns the JSON form. A fix that parsed is well formed, not true: ranges and motion are judged by
//! [`crate::plausibility`]. Keys that are not named here are ignored, so that devices may send more.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::geodesy::LatLon;

/// The range error of one satellite's signal as a civil receiver in a street sees it, one standard deviation, in metres.
///
/// The GPS Standard Positioning Service Performance Standard (5th edition, 2020, section 3.4) promises 2.0 m rms for the
/// signal in space; ionosphere, receiver noise and reflections in a built-up street make about 5 m of it.
pub const UERE_M: f64 = 5.0;

/// The dilution of precision that is assumed where a device does not report one.
pub const HDOP_UNKNOWN: f64 = 2.0;

/// What kind of solution the receiver had.
///
/// On the wire `"none"`, `"2d"` or `"3d"`; the numbers of NMEA GSA (1, 2, 3; and 0 as "none") are read too.
/// A fix without the key counts as 2D: it has a position and claims nothing about height.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FixKind {
    /// No solution: the position is old or made up.
    None,
    /// Latitude and longitude.
    #[default]
    TwoD,
    /// Latitude, longitude and height.
    ThreeD,
}

/// One position fix in the units of the wire: milliseconds since the Unix epoch, WGS 84 degrees, metres, metres a
/// second, degrees clockwise from true north.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fix {
    /// When the receiver computed it, in milliseconds since the Unix epoch.
    #[serde(rename = "ts")]
    pub ts_ms: i64,
    /// Latitude in degrees, north positive.
    pub lat: f64,
    /// Longitude in degrees, east positive.
    pub lon: f64,
    /// Height in metres.
    #[serde(rename = "alt", default, skip_serializing_if = "Option::is_none")]
    pub alt_m: Option<f64>,
    /// Speed over ground in metres a second.
    #[serde(rename = "speed", default, skip_serializing_if = "Option::is_none")]
    pub speed_mps: Option<f64>,
    /// Course over ground in degrees from true north.
    #[serde(rename = "course", default, skip_serializing_if = "Option::is_none")]
    pub course_deg: Option<f64>,
    /// Horizontal dilution of precision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hdop: Option<f64>,
    /// Satellites used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sats: Option<u8>,
    /// The kind of solution.
    #[serde(default)]
    pub fix: FixKind,
}

impl Fix {
    /// Makes a fix that says where and when, and nothing else.
    pub fn at(ts_ms: i64, position: LatLon) -> Fix {
        Fix {
            ts_ms,
            lat: position.lat,
            lon: position.lon,
            alt_m: None,
            speed_mps: None,
            course_deg: None,
            hdop: None,
            sats: None,
            fix: FixKind::TwoD,
        }
    }

    /// The position, unchecked.
    pub fn position(&self) -> LatLon {
        LatLon { lat: self.lat, lon: self.lon }
    }

    /// One standard deviation of the position in metres: the dilution of precision × [`UERE_M`].
    pub fn sigma_m(&self) -> f64 {
        let hdop = self.hdop.filter(|h| h.is_finite() && *h > 0.0).unwrap_or(HDOP_UNKNOWN);
        hdop * UERE_M
    }

    /// Whether the fix names a place on Earth that a receiver really computed.
    pub fn is_usable(&self) -> bool {
        self.fix != FixKind::None && self.position().is_valid()
    }
}

impl FixKind {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            FixKind::None => "none",
            FixKind::TwoD => "2d",
            FixKind::ThreeD => "3d",
        }
    }
}

impl Serialize for FixKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for FixKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FixKind, D::Error> {
        deserializer.deserialize_any(FixKindVisitor)
    }
}

struct FixKindVisitor;

impl de::Visitor<'_> for FixKindVisitor {
    type Value = FixKind;

    fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("\"none\", \"2d\", \"3d\" or 0 to 3 for the key `fix`")
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<FixKind, E> {
        match word {
            "none" => Ok(FixKind::None),
            "2d" => Ok(FixKind::TwoD),
            "3d" => Ok(FixKind::ThreeD),
            other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
        }
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<FixKind, E> {
        match number {
            0 | 1 => Ok(FixKind::None),
            2 => Ok(FixKind::TwoD),
            3 => Ok(FixKind::ThreeD),
            other => Err(E::invalid_value(de::Unexpected::Unsigned(other), &self)),
        }
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<FixKind, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_and_units_of_the_wire_are_read_and_written() {
        let json = r#"{"ts":1732150000123,"lat":60.17,"lon":24.94,"alt":12.5,"speed":8.25,"course":271.0,"hdop":0.9,"sats":11,"fix":"3d"}"#;
        let fix: Fix = serde_json::from_str(json).unwrap();
        assert_eq!(fix.ts_ms, 1_732_150_000_123);
        assert_eq!((fix.speed_mps, fix.course_deg, fix.alt_m), (Some(8.25), Some(271.0), Some(12.5)));
        assert_eq!((fix.hdop, fix.sats, fix.fix), (Some(0.9), Some(11), FixKind::ThreeD));
        assert_eq!(serde_json::to_string(&fix).unwrap(), json);
    }

    #[test]
    fn only_time_and_place_are_required_and_more_keys_do_no_harm() {
        let fix: Fix = serde_json::from_str(r#"{"ts":5,"lat":1,"lon":2,"alt":null,"battery":77}"#).unwrap();
        assert_eq!(fix, Fix::at(5, LatLon { lat: 1.0, lon: 2.0 }));
        assert_eq!(serde_json::to_string(&fix).unwrap(), r#"{"ts":5,"lat":1.0,"lon":2.0,"fix":"2d"}"#);
    }

    #[test]
    fn a_json_that_is_no_fix_is_refused_with_the_key_that_is_wrong() {
        let table = [
            (r#"{"lat":1,"lon":2}"#, "ts"),
            (r#"{"ts":1,"lon":2}"#, "lat"),
            (r#"{"ts":1,"lat":"north","lon":2}"#, "north"),
            (r#"{"ts":1,"lat":1,"lon":2,"sats":900}"#, "900"),
            (r#"{"ts":1,"lat":1,"lon":2,"fix":"4d"}"#, "\"none\", \"2d\", \"3d\""),
            (r#"{"ts":1,"lat":1,"lon":2,"fix":-1}"#, "-1"),
            (r#"{"ts":1,"lat":1e999,"lon":2}"#, "out of range"),
            ("[1,2]", "invalid"),
        ];
        for (json, want) in table {
            let error = serde_json::from_str::<Fix>(json).unwrap_err().to_string();
            assert!(error.contains(want), "{json}: {error}");
        }
    }

    #[test]
    fn the_kind_is_read_as_word_or_number() {
        for (json, kind) in [
            ("\"none\"", FixKind::None),
            ("\"2d\"", FixKind::TwoD),
            ("3", FixKind::ThreeD),
            ("0", FixKind::None),
        ] {
            assert_eq!(serde_json::from_str::<FixKind>(json).unwrap(), kind, "{json}");
        }
    }

    #[test]
    fn sigma_follows_hdop_and_an_absurd_hdop_counts_as_unknown() {
        let mut fix = Fix::at(0, LatLon { lat: 0.0, lon: 0.0 });
        for (hdop, sigma_m) in
            [(None, 10.0), (Some(1.0), 5.0), (Some(4.0), 20.0), (Some(f64::NAN), 10.0), (Some(-1.0), 10.0)]
        {
            fix.hdop = hdop;
            assert_eq!(fix.sigma_m(), sigma_m, "{hdop:?}");
        }
    }
}
