//! A position fix as it goes out on `dev/{id}/telemetry/gps` (wire contract, section 8).

use serde::{Deserialize, Serialize};

/// What kind of solution the receiver had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FixKind {
    /// No solution.
    #[default]
    #[serde(rename = "none")]
    None,
    /// Latitude and longitude.
    #[serde(rename = "2d")]
    TwoD,
    /// Height too.
    #[serde(rename = "3d")]
    ThreeD,
}

/// One fix: WGS 84 degrees, metres, metres a second, degrees from true north.
///
/// ```
/// # use device_sdk::serial::GpsFix;
/// let fix: GpsFix = serde_json::from_str(r#"{"ts":1790000000000,"lat":60.17,"lon":24.94,"fix":"2d"}"#)?;
/// assert_eq!(serde_json::to_string(&fix)?, r#"{"ts":1790000000000,"lat":60.17,"lon":24.94,"fix":"2d"}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpsFix {
    /// When the receiver computed it, milliseconds since the Unix epoch.
    #[serde(rename = "ts")]
    pub ts_unix_ms: i64,
    /// Latitude, degrees, north positive.
    pub lat: f64,
    /// Longitude, degrees, east positive.
    pub lon: f64,
    /// Height above mean sea level, metres.
    #[serde(rename = "alt", default, skip_serializing_if = "Option::is_none")]
    pub alt_m: Option<f64>,
    /// Speed over ground, metres a second.
    #[serde(rename = "speed", default, skip_serializing_if = "Option::is_none")]
    pub speed_mps: Option<f64>,
    /// Course over ground, degrees from true north.
    #[serde(rename = "course", default, skip_serializing_if = "Option::is_none")]
    pub course_deg: Option<f64>,
    /// Horizontal dilution of precision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hdop: Option<f64>,
    /// Satellites used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sats: Option<u8>,
    /// One standard deviation of the position, metres, where the receiver says it (GST).
    #[serde(rename = "accuracy", default, skip_serializing_if = "Option::is_none")]
    pub accuracy_m: Option<f64>,
    /// The kind of solution.
    #[serde(default)]
    pub fix: FixKind,
}
