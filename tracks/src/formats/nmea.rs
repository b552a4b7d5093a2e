//! NMEA 0183 sentences in a payload: RMC gives time, place, speed and course, GGA height and accuracy, GSA the kind of fix.
//!
//! For lines that come byte by byte from a receiver the device SDK has a decoder; here whole sentences have come in a message.

use crate::calendar::unix_ms;
use crate::fix::{Fix, FixKind};
use crate::geodesy::LatLon;

/// The most sentences that are read of one payload.
pub const SENTENCES_MAX: usize = 10_000;

const MPS_PER_KNOT: f64 = 1_852.0 / 3_600.0;

/// What one payload gave.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Read {
    /// The fixes, one for each RMC sentence, in their order.
    pub fixes: Vec<Fix>,
    /// Sentences that are cut, have a wrong checksum, or make no sense.
    pub broken: usize,
}

/// The fields of one sentence.
struct Sentence<'a> {
    fields: Vec<&'a str>,
}

/// What GGA says about the moment of an RMC.
#[derive(Clone, Copy)]
struct Gga {
    day_ms: i64,
    alt_m: Option<f64>,
    hdop: Option<f64>,
    sats: Option<u8>,
}

/// Reads all sentences of a payload. A sentence without `*hh` is taken as it is.
pub fn fixes(text: &str) -> Read {
    let mut read = Read::default();
    let (mut ggas, mut kind): (Vec<Gga>, Option<FixKind>) = (Vec::new(), None);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()).take(SENTENCES_MAX) {
        let Some(sentence) = Sentence::of(line) else {
            read.broken += 1;
            continue;
        };
        let understood = match sentence.kind() {
            "RMC" => sentence.rmc().map(|fix| read.fixes.push(fix)),
            "GGA" => sentence.gga().map(|gga| ggas.push(gga)),
            "GSA" => sentence.gsa().map(|said| kind = Some(said)),
            _ => Some(()),
        };
        read.broken += usize::from(understood.is_none());
    }
    for fix in &mut read.fixes {
        let day_ms = fix.ts_ms.rem_euclid(86_400_000);
        if let Some(gga) = ggas.iter().find(|gga| gga.day_ms == day_ms) {
            (fix.alt_m, fix.hdop, fix.sats) = (gga.alt_m, gga.hdop, gga.sats);
        }
        if fix.fix != FixKind::None {
            fix.fix = kind.unwrap_or(fix.fix);
        }
    }
    read
}

impl<'a> Sentence<'a> {
    fn of(line: &'a str) -> Option<Sentence<'a>> {
        let body = line.strip_prefix('$')?;
        let body = match body.split_once('*') {
            None => body,
            Some((body, sum)) => {
                let said = u8::from_str_radix(sum.get(..2)?, 16).ok()?;
                (body.bytes().fold(0, |sum, byte| sum ^ byte) == said).then_some(body)?
            }
        };
        let fields: Vec<&str> = body.split(',').collect();
        (fields[0].len() == 5 && fields[0].is_ascii()).then_some(Sentence { fields })
    }

    /// The kind of sentence, whoever the talker is.
    fn kind(&self) -> &str {
        &self.fields[0][2..]
    }

    fn field(&self, index: usize) -> Option<&str> {
        self.fields.get(index).copied().filter(|field| !field.is_empty())
    }

    fn number(&self, index: usize) -> Option<f64> {
        self.field(index)?.parse().ok().filter(|number: &f64| number.is_finite())
    }

    /// Milliseconds since midnight of `hhmmss.sss`.
    fn day_ms(&self, index: usize) -> Option<i64> {
        let field = self.field(index)?;
        let two = |from: usize| field.get(from..from + 2)?.parse::<i64>().ok();
        let (hours, minutes) = (two(0)?, two(2)?);
        let seconds: f64 = field.get(4..)?.parse().ok()?;
        let is_time =
            (0..24).contains(&hours) && (0..60).contains(&minutes) && (0.0..61.0).contains(&seconds);
        is_time.then(|| (hours * 60 + minutes) * 60_000 + (seconds * 1_000.0).round() as i64)
    }

    /// Degrees of `ddmm.mmm` with its hemisphere in the next field.
    fn degrees(&self, index: usize) -> Option<f64> {
        let number = self.number(index)?;
        let degrees = (number / 100.0).trunc();
        let value = degrees + (number - degrees * 100.0) / 60.0;
        match self.field(index + 1)? {
            "N" | "E" => Some(value),
            "S" | "W" => Some(-value),
            _ => None,
        }
    }

    fn rmc(&self) -> Option<Fix> {
        let day_ms = self.day_ms(1)?;
        let date = self.field(9)?;
        let two = |from: usize| date.get(from..from + 2)?.parse::<i64>().ok();
        let ts_ms = unix_ms(2_000 + two(4)?, two(2)?, two(0)?, day_ms)?;
        if self.field(2)? != "A" {
            let nowhere = LatLon::new(0.0, 0.0);
            return Some(Fix { fix: FixKind::None, ..Fix::at(ts_ms, nowhere) });
        }
        Some(Fix {
            speed_mps: self.number(7).map(|knots| knots * MPS_PER_KNOT),
            course_deg: self.number(8),
            ..Fix::at(ts_ms, LatLon::new(self.degrees(3)?, self.degrees(5)?))
        })
    }

    fn gga(&self) -> Option<Gga> {
        Some(Gga {
            day_ms: self.day_ms(1)?,
            alt_m: self.number(9),
            hdop: self.number(8),
            sats: self.field(7).and_then(|sats| sats.parse().ok()),
        })
    }

    fn gsa(&self) -> Option<FixKind> {
        match self.field(2)? {
            "1" => Some(FixKind::None),
            "2" => Some(FixKind::TwoD),
            "3" => Some(FixKind::ThreeD),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOMENT: &str = "$GPRMC,120000.00,A,6010.2000,N,02456.4000,E,9.7,84.4,261126,,,A*6F\r\n\
        $GPGGA,120000.00,6010.2000,N,02456.4000,E,1,09,0.8,12.5,M,17.8,M,,*52\r\n$GPGSA,A,3,04,05,,09,12,,,24,,,,,2.5,1.3,2.1*39\r\n";

    #[test]
    fn the_sentences_of_a_moment_are_one_fix() {
        let read = fixes(MOMENT);
        assert_eq!((read.fixes.len(), read.broken), (1, 0), "{read:?}");
        let fix = &read.fixes[0];
        assert!(fix.position().distance_m(LatLon::new(60.17, 24.94)) < 1e-6, "{fix:?}");
        assert_eq!(fix.ts_ms, 1_795_694_400_000);
        assert_eq!(
            (fix.alt_m, fix.hdop, fix.sats, fix.fix),
            (Some(12.5), Some(0.8), Some(9), FixKind::ThreeD)
        );
        assert!((fix.speed_mps.unwrap() - 4.990).abs() < 1e-3 && fix.course_deg == Some(84.4));
    }

    #[test]
    fn a_receiver_without_a_fix_says_so_and_broken_sentences_are_counted() {
        let read = fixes(
            "$GNRMC,120000,V,,,,,,,261126,,,N\n$GPRMC,1200\n$GPRMC,120000,A,6010.2,N,02456.4,E,9,84,261126*00\nnoise\n$GPXYZ,1\n",
        );
        assert_eq!((read.fixes.len(), read.broken), (1, 3), "{read:?}");
        assert!(!read.fixes[0].is_usable());
        let south = fixes("$GPRMC,000001.5,A,3351.0,S,15112.0,W,,,010100,,").fixes;
        assert_eq!((south[0].lat, south[0].lon, south[0].ts_ms), (-33.85, -151.2, 946_684_801_500));
        assert_eq!((south[0].speed_mps, south[0].hdop), (None, None));
    }

    proptest! {
        #[test]
        fn any_text_is_taken_without_panic(text in "\\PC{0,200}", fields in prop::collection::vec("[0-9A-Z.\\-é]{0,8}", 0..20)) {
            let _ = fixes(&text);
            for kind in ["RMC", "GGA", "GSA"] {
                let _ = fixes(&format!("$GP{kind},{}", fields.join(",")));
            }
        }
    }
}
