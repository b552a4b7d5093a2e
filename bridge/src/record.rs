//! Recorded tracks: what [`crate::Trial`] is fed with.
//!
//! A record is GPX with times, or one JSON object a line: a fix in the JSON of `dev/{id}/telemetry/gps`, or a message as
//! `mosquitto_sub -F %J` prints it (`topic`, `payload`, `tst`).

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use tracks::Fix;

/// Most lines or points of a record.
const RECORDS_MAX: usize = 1_000_000;

/// One message of a record.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// When it came, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Its topic.
    pub topic: String,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// Why a text is no record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A line that is none of what is read.
    #[error("line {line}: {what}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// Not the GPX it looks like.
    #[error("it is not valid GPX: {what}")]
    Gpx {
        /// The parser's words.
        what: String,
    },
    /// Nothing in it.
    #[error("there is nothing in it: it needs GPX track points with times, or a JSON object a line")]
    Empty,
    /// Too long.
    #[error("it has more than {RECORDS_MAX} messages")]
    TooMany,
}

#[derive(Deserialize)]
struct Line {
    topic: Option<String>,
    payload: Option<Value>,
    /// ISO 8601, as mosquitto_sub writes it.
    tst: Option<String>,
}

/// Reads a record; what names no topic is a fix of `device`.
///
/// # Errors
/// A line or a point is not what it should be, or there are too many or none.
pub fn read(text: &str, device: &str) -> Result<Vec<Recorded>, RecordError> {
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let records = if text.starts_with('<') { read_gpx(text, device)? } else { read_lines(text, device)? };
    match records.len() {
        0 => Err(RecordError::Empty),
        1..=RECORDS_MAX => Ok(records),
        _ => Err(RecordError::TooMany),
    }
}

fn read_lines(text: &str, device: &str) -> Result<Vec<Recorded>, RecordError> {
    let mut records = Vec::new();
    let mut last_ms = 0;
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let record =
            read_line(line, device, last_ms).map_err(|what| RecordError::Line { line: at + 1, what })?;
        last_ms = record.at_ms;
        records.push(record);
        if records.len() > RECORDS_MAX {
            return Err(RecordError::TooMany);
        }
    }
    Ok(records)
}

fn read_line(line: &str, device: &str, last_ms: u64) -> Result<Recorded, String> {
    let read: Line = serde_json::from_str(line).map_err(|error| format!("it is no JSON object: {error}"))?;
    let Some(topic) = read.topic else {
        let fix: Fix =
            serde_json::from_str(line).map_err(|error| format!("it has no topic and is no fix: {error}"))?;
        let at_ms = u64::try_from(fix.ts_ms).map_err(|_| format!("ts = {} is before 1970", fix.ts_ms))?;
        return Ok(Recorded { at_ms, topic: gps_topic(device), payload: line.as_bytes().to_vec() });
    };
    let payload = read.payload.unwrap_or_default();
    // A message came when its recorder says so, else when its payload says that it was made.
    let at_ms =
        read.tst.as_deref().and_then(iso_ms).or_else(|| payload.get("ts")?.as_u64()).unwrap_or(last_ms);
    let payload = match payload {
        Value::String(text) => text.into_bytes(),
        Value::Null => Vec::new(),
        json => json.to_string().into_bytes(),
    };
    Ok(Recorded { at_ms, topic, payload })
}

/// Reads ISO 8601; mosquitto_sub writes a `Z` before the offset.
fn iso_ms(text: &str) -> Option<u64> {
    let without = text.replace('Z', "");
    let readable =
        if without.contains(['+']) || without.matches('-').count() > 2 { without } else { text.to_owned() };
    u64::try_from(readable.parse::<Timestamp>().ok()?.as_millisecond()).ok()
}

fn read_gpx(text: &str, device: &str) -> Result<Vec<Recorded>, RecordError> {
    let fail = |what: String| RecordError::Gpx { what };
    let gpx = gpx::read(text.as_bytes()).map_err(|error| fail(error.to_string()))?;
    let segments = gpx.tracks.into_iter().flat_map(|track| track.segments);
    let mut records = Vec::new();
    for point in segments.flat_map(|segment| segment.points) {
        let time = point.time.ok_or_else(|| fail("a track point has no time".to_owned()))?;
        let time = time.format().map_err(|error| fail(error.to_string()))?;
        let at_ms = iso_ms(&time).ok_or_else(|| fail(format!("the time {time:?} is none since 1970")))?;
        let at = tracks::LatLon::new(point.point().y(), point.point().x());
        let fix = Fix {
            hdop: point.hdop,
            speed_mps: point.speed,
            ..Fix::at(i64::try_from(at_ms).unwrap_or(i64::MAX), at)
        };
        let payload =
            serde_json::to_vec(&fix).expect("keys are strings, and numbers that are not finite are null");
        records.push(Recorded { at_ms, topic: gps_topic(device), payload });
        if records.len() > RECORDS_MAX {
            return Err(RecordError::TooMany);
        }
    }
    Ok(records)
}

fn gps_topic(device: &str) -> String {
    format!("dev/{device}/telemetry/gps")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixes_messages_and_gpx_are_read() {
        let lines = r#"{"ts":5000,"lat":60.1,"lon":24.9}
            {"tst":"2026-11-26T14:00:00.250000Z+0200","topic":"dev/a/event/door","qos":0,"payload":{"open":true}}
            {"topic":"x","payload":"hello"}
        "#;
        let read_all = read(lines, "truck-7").unwrap();
        let got: Vec<_> = read_all
            .iter()
            .map(|record| {
                (record.at_ms, record.topic.as_str(), std::str::from_utf8(&record.payload).unwrap())
            })
            .collect();
        assert_eq!(got[0], (5_000, "dev/truck-7/telemetry/gps", r#"{"ts":5000,"lat":60.1,"lon":24.9}"#));
        assert_eq!(got[1], (1_795_694_400_250, "dev/a/event/door", r#"{"open":true}"#));
        assert_eq!(got[2], (1_795_694_400_250, "x", "hello"));
        let gpx = r#"<gpx version="1.1" creator="t"><trk><trkseg><trkpt lat="60.1" lon="24.9">
            <time>2026-11-26T12:00:00Z</time><hdop>1.5</hdop></trkpt></trkseg></trk></gpx>"#;
        let read_gpx = read(gpx, "truck-7").unwrap();
        assert_eq!(read_gpx[0].at_ms, 1_795_694_400_000);
        let fix: Fix = serde_json::from_slice(&read_gpx[0].payload).unwrap();
        assert_eq!((fix.lat, fix.hdop), (60.1, Some(1.5)));
    }

    #[test]
    fn what_is_no_record_is_refused_with_its_place() {
        for (text, want) in [
            ("", "there is nothing in it"),
            ("hello", "line 1: it is no JSON object"),
            ("{\"ts\":1,\"lat\":1,\"lon\":2}\n{\"lat\":1}", "line 2: it has no topic and is no fix"),
            ("{\"ts\":-1,\"lat\":1,\"lon\":2}", "before 1970"),
            ("<gpx", "not valid GPX"),
        ] {
            let error = read(text, "a").unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
