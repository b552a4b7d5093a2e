//! What a receiver says of a fix, in NMEA 0183: RMC and GGA, once a second.

use std::fmt::Write as _;

use chrono::{DateTime, Datelike, Timelike};
use tracks::Fix;

/// Metres a second in a knot.
const MPS_PER_KNOT: f64 = 1_852.0 / 3_600.0;
/// Steps of a minute that a receiver prints.
const STEPS: f64 = 100_000.0;

/// The sentences of a moment; without a fix, that there is none. `unix_ms` is the date that the receiver believes in.
pub(super) fn sentences(unix_ms: i64, fix: Option<&Fix>) -> String {
    let now = DateTime::from_timestamp_millis(unix_ms).unwrap_or_default();
    let centis = now.timestamp_subsec_millis() / 10;
    let time = format!("{:02}{:02}{:02}.{centis:02}", now.hour(), now.minute(), now.second());
    let date = format!("{:02}{:02}{:02}", now.day(), now.month(), now.year().rem_euclid(100));
    let Some(fix) = fix else {
        return sentence(&format!("GPRMC,{time},V,,,,,,,{date},,,N"))
            + &sentence(&format!("GPGGA,{time},,,,,0,00,99.9,,M,,M,,"));
    };
    let (lat, lon) = (angle(fix.lat, 2, ['N', 'S']), angle(fix.lon, 3, ['E', 'W']));
    let knots = fix.speed_mps.map(|mps| format!("{:.3}", mps / MPS_PER_KNOT)).unwrap_or_default();
    let course = fix.course_deg.map(|degrees| format!("{degrees:.1}")).unwrap_or_default();
    let (sats, hdop) = (fix.sats.unwrap_or(0), fix.hdop.unwrap_or(99.9));
    let alt_m = fix.alt_m.map(|metres| format!("{metres:.1}")).unwrap_or_default();
    sentence(&format!("GPRMC,{time},A,{lat},{lon},{knots},{course},{date},,,A"))
        + &sentence(&format!("GPGGA,{time},{lat},{lon},1,{sats:02},{hdop:.2},{alt_m},M,17.0,M,,"))
}

/// A sentence with its checksum.
pub(super) fn sentence(body: &str) -> String {
    let sum = body.bytes().fold(0, |sum, byte| sum ^ byte);
    let mut line = String::with_capacity(body.len() + 6);
    // Writing into a string cannot fail.
    let _ = write!(line, "${body}*{sum:02X}\r\n");
    line
}

/// An angle as degrees and minutes in one number, and its half.
fn angle(degrees: f64, digits: usize, halves: [char; 2]) -> String {
    // In whole steps first, so that no minute is printed as 60.
    let steps = (degrees.abs() * 60.0 * STEPS).round();
    let whole = (steps / (60.0 * STEPS)).floor();
    let minutes = (steps - whole * 60.0 * STEPS) / STEPS;
    let half = halves[usize::from(degrees < 0.0)];
    format!("{whole:0digits$}{minutes:08.5},{half}")
}

#[cfg(test)]
mod tests {
    use device_sdk::serial::nmea::{Decoder, Said};
    use tracks::LatLon;

    use super::*;

    /// 26 November 2026, noon.
    const NOON_MS: i64 = 1_795_694_400_000;

    #[test]
    fn what_is_said_is_what_the_sdk_reads() {
        let place = LatLon::new(-33.999_999_9, 18.423_456_7);
        let fix = Fix {
            speed_mps: Some(4.25),
            course_deg: Some(84.4),
            hdop: Some(0.83),
            sats: Some(9),
            alt_m: Some(12.5),
            ..Fix::at(NOON_MS + 7_000, place)
        };
        let mut decoder = Decoder::new(NOON_MS - 1_000);
        let mut said = Vec::new();
        decoder.push(sentences(fix.ts_ms, Some(&fix)).as_bytes(), |what| said.push(what));
        decoder.push(sentences(fix.ts_ms + 1_000, None).as_bytes(), |what| said.push(what));
        decoder.flush(|what| said.push(what));
        let [Said::Fix(read), Said::NoFix] = &said[..] else { panic!("{said:?}") };
        assert_eq!(read.ts_unix_ms, fix.ts_ms);
        assert!((read.lat - fix.lat).abs() < 2e-7 && (read.lon - fix.lon).abs() < 2e-7, "{read:?}");
        assert_eq!((read.hdop, read.sats, read.course_deg), (fix.hdop, fix.sats, fix.course_deg));
        assert!((read.speed_mps.unwrap() - 4.25).abs() < 0.001, "{read:?}");
        assert_eq!(decoder.faults().broken + decoder.faults().noise + decoder.faults().unreadable, 0);
    }

    #[test]
    fn no_minute_is_printed_as_sixty() {
        assert_eq!(angle(59.999_999_999, 2, ['N', 'S']), "6000.00000,N");
        assert_eq!(angle(-0.5, 3, ['E', 'W']), "00030.00000,W");
    }
}
