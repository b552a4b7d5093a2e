//! NMEA 0183: bytes of a GPS receiver to fixes, without a clock, a line or a thread.
//!
//! A receiver tells one moment in several sentences: RMC has the date and the speed, GGA the height and the satellites,
//! GST the accuracy. They are put together by their time of day; GSA, the kind of solution, has none and holds until the next. A moment is over when another
//! begins, or at once when the sentence comes that was the last of the moment before: receivers keep their order, so a fix
//! need not wait for the next second. After a silence [`Decoder::flush`] ends it too.
//!
//! Dates are mended: a receiver that counts weeks in 10 bits and is older than its last rollover says a date 1,024 weeks
//! too early, or several times that. A date before [`Decoder::new`]'s `not_before_unix_ms` is moved by as many weeks as
//! make it later.

use ::nmea::ParseResult;
use ::nmea::sentences::rmc::RmcStatusOfFix;
use ::nmea::sentences::{FixType, GgaData, GsaData, GstData, RmcData, ZdaData, gsa::GsaMode2};
use chrono::{NaiveDate, NaiveTime};

use super::fix::{FixKind, GpsFix};
use super::line::{Line, Lines};

/// Milliseconds after which the 10 bits of a GPS week number begin again.
pub const WEEK_ROLLOVER_MS: i64 = 1_024 * 7 * DAY_MS;

const DAY_MS: i64 = 24 * 3_600_000;
const MPS_PER_KNOT: f64 = 1_852.0 / 3_600.0;

/// What a receiver said.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// A moment with a position.
    Fix(GpsFix),
    /// A moment without one.
    NoFix,
}

/// What was left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Sentences with a right checksum.
    pub sentences: u64,
    /// Sentences with a wrong checksum, or cut.
    pub broken: u64,
    /// Lines that are no sentences.
    pub noise: u64,
    /// Sentences whose fields make no sense, their checksum right.
    pub unreadable: u64,
    /// Fixes left out because the receiver has not said the date yet.
    pub undated: u64,
    /// Dates moved by whole rollovers of the week number.
    pub rollovers: u64,
}

/// Kinds of sentences that tell of a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Rmc,
    Gga,
    Gst,
    Zda,
}

/// What a sentence said of the solution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Solution {
    Unsaid,
    Invalid,
    Valid,
}

/// A moment that is being told.
#[derive(Clone, Debug)]
struct Moment {
    time: NaiveTime,
    date: Option<NaiveDate>,
    last: Kind,
    solution: Solution,
    fix: GpsFix,
}

/// Puts fixes together of what a receiver sends.
///
/// ```
/// use device_sdk::serial::nmea::{Decoder, Said};
/// let mut decoder = Decoder::new(1_790_000_000_000);
/// let mut said = Vec::new();
/// decoder.push(b"$GPRMC,120000.00,A,6010.2000,N,02456.4000,E,9.7,84.4,261126,,,A*6F\r\n", |what| said.push(what));
/// decoder.flush(|what| said.push(what));
/// let [Said::Fix(fix)] = &said[..] else { panic!("{said:?}") };
/// assert_eq!((fix.ts_unix_ms, fix.lat, fix.lon), (1_795_694_400_000, 60.17, 24.94));
/// ```
#[derive(Debug)]
pub struct Decoder {
    not_before_unix_ms: i64,
    lines: Lines,
    faults: Faults,
    moment: Option<Moment>,
    /// What ended the moment before.
    ends_with: Option<Kind>,
    /// The moment that was told last.
    told: Option<NaiveTime>,
    /// The last moment whose date is known.
    dated: Option<(NaiveDate, NaiveTime)>,
    /// What the last GSA said.
    mode: Option<FixKind>,
    /// The last sentence was a GSA: receivers of several satellite systems send one for each, and the best counts.
    is_in_gsa: bool,
}

impl Decoder {
    /// Makes a decoder for a receiver of which nothing is known; dates before `not_before_unix_ms` cannot be. Use a time
    /// that has surely passed: that of the build, or the last that was known.
    pub fn new(not_before_unix_ms: i64) -> Self {
        Self {
            not_before_unix_ms,
            lines: Lines::default(),
            faults: Faults::default(),
            moment: None,
            ends_with: None,
            told: None,
            dated: None,
            mode: None,
            is_in_gsa: false,
        }
    }

    /// Takes what came from the receiver; calls `each` for every moment that ends with it.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(Said)) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.push(bytes, |line| match line {
            Line::Good(sentence) => {
                self.faults.sentences += 1;
                self.sentence(sentence, &mut each);
            }
            Line::Broken => self.faults.broken += 1,
            Line::Noise => self.faults.noise += 1,
        });
        self.lines = lines;
    }

    /// Ends the open moment: nothing came for some time.
    pub fn flush(&mut self, mut each: impl FnMut(Said)) {
        self.end(&mut each);
    }

    /// What was left out so far.
    pub fn faults(&self) -> Faults {
        self.faults
    }

    fn sentence(&mut self, sentence: &str, each: &mut impl FnMut(Said)) {
        let was_in_gsa = std::mem::take(&mut self.is_in_gsa);
        let kind = match ::nmea::parse_str(sentence) {
            Ok(ParseResult::RMC(rmc)) => self.rmc(&rmc, each),
            Ok(ParseResult::GGA(gga)) => self.gga(&gga, each),
            Ok(ParseResult::GST(gst)) => self.gst(&gst, each),
            Ok(ParseResult::ZDA(zda)) => self.zda(&zda, each),
            Ok(ParseResult::GSA(gsa)) => return self.gsa(&gsa, was_in_gsa),
            // Others tell nothing that goes into a fix.
            Ok(_) | Err(::nmea::Error::DisabledSentence) => return,
            Err(_) => return self.faults.unreadable += 1,
        };
        if kind.is_some() && kind == self.ends_with {
            self.end(each);
        }
    }

    fn rmc(&mut self, rmc: &RmcData, each: &mut impl FnMut(Said)) -> Option<Kind> {
        let is_valid = rmc.status_of_fix != RmcStatusOfFix::Invalid;
        let place = rmc.lat.zip(rmc.lon).filter(|_| is_valid);
        let moment = self.moment_at(rmc.fix_time, Kind::Rmc, each)?;
        moment.date = rmc.fix_date.or(moment.date);
        if moment.is_at(place) {
            let knots = finite(rmc.speed_over_ground).filter(|knots| *knots >= 0.0);
            moment.fix.speed_mps = knots.map(|knots| knots * MPS_PER_KNOT);
            moment.fix.course_deg = finite(rmc.true_course).filter(|degrees| (0.0..=360.0).contains(degrees));
        }
        Some(Kind::Rmc)
    }

    fn gga(&mut self, gga: &GgaData, each: &mut impl FnMut(Said)) -> Option<Kind> {
        let is_valid = !matches!(gga.fix_type, None | Some(FixType::Invalid));
        let place = gga.latitude.zip(gga.longitude).filter(|_| is_valid);
        let moment = self.moment_at(gga.fix_time, Kind::Gga, each)?;
        if moment.is_at(place) {
            moment.fix.alt_m = finite(gga.altitude);
            moment.fix.hdop = positive(gga.hdop);
            moment.fix.sats = gga.fix_satellites.and_then(|sats| u8::try_from(sats).ok());
        }
        Some(Kind::Gga)
    }

    fn gst(&mut self, gst: &GstData, each: &mut impl FnMut(Said)) -> Option<Kind> {
        let moment = self.moment_at(gst.time, Kind::Gst, each)?;
        let sigmas = positive(gst.lat_sd).zip(positive(gst.long_sd));
        moment.fix.accuracy_m = sigmas.map(|(north, east)| north.max(east));
        Some(Kind::Gst)
    }

    fn zda(&mut self, zda: &ZdaData, each: &mut impl FnMut(Said)) -> Option<Kind> {
        let moment = self.moment_at(zda.utc_time, Kind::Zda, each)?;
        let ymd = zda.year.zip(zda.month).zip(zda.day);
        let date = ymd.and_then(|((y, m), d)| NaiveDate::from_ymd_opt(y.into(), m.into(), d.into()));
        moment.date = date.or(moment.date);
        Some(Kind::Zda)
    }

    fn gsa(&mut self, gsa: &GsaData, follows_another: bool) {
        let mode = match gsa.mode2 {
            GsaMode2::NoFix => FixKind::None,
            GsaMode2::Fix2D => FixKind::TwoD,
            GsaMode2::Fix3D => FixKind::ThreeD,
        };
        self.mode = if follows_another { self.mode.max(Some(mode)) } else { Some(mode) };
        self.is_in_gsa = true;
    }

    /// Returns the moment that a sentence tells of, a new one if it has another time.
    fn moment_at(
        &mut self,
        time: Option<NaiveTime>,
        kind: Kind,
        each: &mut impl FnMut(Said),
    ) -> Option<&mut Moment> {
        let Some(time) = time else {
            // A receiver that has no clock yet has no position either.
            self.end(each);
            if kind == Kind::Rmc {
                each(Said::NoFix);
            }
            return None;
        };
        if self.told == Some(time) {
            // It came after what seemed to be the last.
            self.ends_with = Some(kind);
            return None;
        }
        if self.moment.as_ref().is_some_and(|moment| moment.time != time) {
            self.end(each);
        }
        let new = Moment { time, date: None, last: kind, solution: Solution::Unsaid, fix: GpsFix::default() };
        let moment = self.moment.get_or_insert(new);
        moment.last = kind;
        Some(moment)
    }

    fn end(&mut self, each: &mut impl FnMut(Said)) {
        let Some(mut moment) = self.moment.take() else { return };
        self.ends_with = Some(moment.last);
        self.told = Some(moment.time);
        let date = moment.date.or_else(|| self.date_after(moment.time));
        self.dated = date.map(|date| (date, moment.time)).or(self.dated);
        match moment.solution {
            // GST or ZDA alone.
            Solution::Unsaid => {}
            Solution::Invalid => each(Said::NoFix),
            Solution::Valid => {
                let Some(date) = date else { return self.faults.undated += 1 };
                let of_height = if moment.fix.alt_m.is_some() { FixKind::ThreeD } else { FixKind::TwoD };
                // A position is one, whatever GSA said before it was found.
                moment.fix.fix = self.mode.filter(|mode| *mode != FixKind::None).unwrap_or(of_height);
                moment.fix.ts_unix_ms = self.mended(date.and_time(moment.time).and_utc().timestamp_millis());
                each(Said::Fix(moment.fix));
            }
        }
    }

    /// The date of a moment that was told without one.
    fn date_after(&self, time: NaiveTime) -> Option<NaiveDate> {
        let (date, before) = self.dated?;
        if (before - time).num_hours() >= 12 { date.succ_opt() } else { Some(date) }
    }

    /// Undoes rollovers of the week number.
    fn mended(&mut self, ts_unix_ms: i64) -> i64 {
        let too_early_ms = self.not_before_unix_ms.saturating_sub(ts_unix_ms);
        if too_early_ms <= 0 {
            return ts_unix_ms;
        }
        self.faults.rollovers += 1;
        let rollovers = (too_early_ms + WEEK_ROLLOVER_MS - 1) / WEEK_ROLLOVER_MS;
        ts_unix_ms.saturating_add(rollovers * WEEK_ROLLOVER_MS)
    }
}

impl Moment {
    /// Notes where the receiver is, and says whether it is anywhere. One sentence that knows no place is believed.
    fn is_at(&mut self, place: Option<(f64, f64)>) -> bool {
        let on_earth =
            |(lat, lon): &(f64, f64)| (-90.0..=90.0).contains(lat) && (-180.0..=180.0).contains(lon);
        match place.filter(on_earth) {
            Some((lat, lon)) if self.solution != Solution::Invalid => {
                (self.fix.lat, self.fix.lon) = (lat, lon);
                self.solution = Solution::Valid;
                true
            }
            _ => {
                self.solution = Solution::Invalid;
                false
            }
        }
    }
}

fn finite(value: Option<f32>) -> Option<f64> {
    // By way of its digits: 8.3 stays 8.3.
    value.filter(|value| value.is_finite()).and_then(|value| value.to_string().parse().ok())
}

fn positive(value: Option<f32>) -> Option<f64> {
    finite(value).filter(|value| *value > 0.0)
}

#[cfg(test)]
mod tests {
    use super::super::line::sentence;
    use super::*;

    /// 26 November 2026, noon.
    const NOON_MS: i64 = 1_795_694_400_000;

    fn rmc(time: &str, date: &str) -> String {
        sentence(&format!("GPRMC,{time},A,6010.2000,N,02456.4000,E,9.7,84.4,{date},,,A"))
    }

    fn gga(time: &str, quality: u8) -> String {
        sentence(&format!("GPGGA,{time},6010.2000,N,02456.4000,E,{quality},08,0.9,23.5,M,17.0,M,,"))
    }

    fn gsa(mode: u8) -> String {
        sentence(&format!("GPGSA,A,{mode},05,07,08,10,15,17,18,19,30,,,,1.2,0.9,0.8"))
    }

    /// What is said of each part, a letter each: `3` and `2` fixes, `-` none, and the milliseconds since noon.
    fn said_of(decoder: &mut Decoder, parts: &[String]) -> Vec<String> {
        let show = |said| match said {
            Said::Fix(GpsFix { fix, ts_unix_ms, .. }) => {
                format!("{}@{}", if fix == FixKind::ThreeD { 3 } else { 2 }, ts_unix_ms - NOON_MS)
            }
            Said::NoFix => "-".to_owned(),
        };
        let mut all = Vec::new();
        for part in parts {
            let mut of_part = Vec::new();
            decoder.push(part.as_bytes(), |said| of_part.push(show(said)));
            all.push(of_part.join(" "));
        }
        let mut last = Vec::new();
        decoder.flush(|said| last.push(show(said)));
        all.push(last.join(" "));
        all
    }

    fn check(parts: &[String], expected: &[&str]) {
        assert_eq!(said_of(&mut Decoder::new(0), parts), expected);
    }

    #[test]
    fn a_moment_is_put_together_of_its_sentences() {
        let mut decoder = Decoder::new(0);
        let gst = sentence("GPGST,120000.50,2.1,,,,1.5,2.5,4.0");
        let parts = [gsa(3), rmc("120000.50", "261126"), gst, gga("120000.50", 1)].concat();
        decoder.push(parts.as_bytes(), |said| panic!("{said:?}"));
        let mut said = Vec::new();
        decoder.flush(|what| said.push(what));
        let fix = GpsFix {
            ts_unix_ms: NOON_MS + 500,
            lat: 60.17,
            lon: 24.94,
            alt_m: Some(23.5),
            speed_mps: Some(9.7 * MPS_PER_KNOT),
            course_deg: Some(84.4),
            hdop: Some(0.9),
            sats: Some(8),
            accuracy_m: Some(2.5),
            fix: FixKind::ThreeD,
        };
        assert_eq!(said, [Said::Fix(fix)]);
        assert_eq!(decoder.faults(), Faults { sentences: 4, ..Faults::default() });
    }

    #[test]
    fn a_moment_ends_with_the_sentence_that_ended_the_one_before() {
        let at = |second: u8| format!("12000{second}.00");
        let burst = |second| [rmc(&at(second), "261126"), gga(&at(second), 1), gsa(3)];
        let parts: Vec<_> = (0..3).flat_map(burst).collect();
        check(&parts, &["", "", "", "3@0", "3@1000", "", "", "3@2000", "", ""]);
        // The order changes: what comes too late is left out once.
        let parts = [
            gga(&at(0), 1),
            rmc(&at(1), "261126"),
            gga(&at(1), 1),
            rmc(&at(1), "261126"),
            rmc(&at(2), "261126"),
        ];
        check(&parts, &["", "", "3@1000", "", "2@2000", ""]);
    }

    #[test]
    fn no_position_is_said_and_never_an_old_one() {
        let void = sentence("GPRMC,120001.00,V,,,,,,,261126,,,N");
        check(
            &[rmc("120000.00", "261126"), void.clone(), rmc("120002.00", "261126")],
            &["", "2@0 -", "2@2000", ""],
        );
        // One of the two says no.
        check(&[rmc("120000.00", "261126"), gga("120000.00", 0)], &["", "", "-"]);
        check(&[gga("120000.00", 0), rmc("120000.00", "261126")], &["", "", "-"]);
        // Cold: neither a clock nor a position.
        let cold = [sentence("GPRMC,,V,,,,,,,,,,N"), sentence("GPGGA,,,,,,0,,,,,,,,"), gsa(1)];
        check(&cold, &["-", "", "", ""]);
        // A place that is none on Earth.
        check(&[sentence("GPRMC,120000.00,A,9910.2000,N,02456.4000,E,9.7,84.4,261126,,,A")], &["", "-"]);
    }

    #[test]
    fn the_kind_is_what_gsa_said_last_and_the_best_of_several_systems() {
        let parts = |modes: &[u8]| {
            let gsas = modes.iter().map(|mode| gsa(*mode)).collect::<String>();
            vec![gsas, rmc("120000.00", "261126") + &gga("120000.00", 1)]
        };
        check(&parts(&[2]), &["", "", "2@0"]);
        check(&parts(&[1, 3, 1]), &["", "", "3@0"]);
        check(&parts(&[]), &["", "", "3@0"]);
    }

    #[test]
    fn midnight_passes_without_a_date_too_and_undated_fixes_are_left_out() {
        let day_ms = 12 * 3_600_000;
        let late =
            [gga("235959.00", 1), rmc("235959.50", "261126"), gga("000000.00", 1), gga("000001.00", 1)];
        // Each GGA ends its moment, since one ended the first.
        let (last, first, second) = (day_ms - 500, day_ms, day_ms + 1_000);
        let expected = ["", "", &format!("2@{last}"), &format!("3@{first} 3@{second}"), ""];
        let mut decoder = Decoder::new(0);
        let said = said_of(&mut decoder, &late);
        assert_eq!(said.join("|"), expected.join("|"));
        assert_eq!(decoder.faults().undated, 1);
    }

    #[test]
    fn a_week_number_that_rolled_over_is_mended() {
        // 1,024 and 2,048 weeks before 26 November 2026.
        for (date, rollovers) in [("261126", 0), ("120407", 1), ("270887", 2)] {
            let mut decoder = Decoder::new(NOON_MS - 3_600_000);
            assert_eq!(said_of(&mut decoder, &[rmc("120000.00", date)]), ["", "2@0"], "{date}");
            assert_eq!(decoder.faults().rollovers, u64::from(rollovers > 0));
        }
    }

    #[test]
    fn faults_are_counted_and_nothing_is_made_of_them() {
        let mut decoder = Decoder::new(0);
        let wrong_sum = rmc("120000.00", "261126").replace("6010", "6110");
        let unreadable = sentence("GPRMC,25x,A,,,,,,,,,");
        let stream =
            ["\u{0}\u{ff}\u{80}\n", &wrong_sum, &unreadable, &sentence("GPXTE,A,A,0.67,L,N")].concat();
        decoder.push(stream.as_bytes(), |said| panic!("{said:?}"));
        decoder.flush(|said| panic!("{said:?}"));
        let expected = Faults { sentences: 2, broken: 1, noise: 1, unreadable: 1, ..Faults::default() };
        assert_eq!(decoder.faults(), expected);
    }

    #[test]
    fn any_bytes_are_taken() {
        let mut chance = fastrand::Rng::with_seed(1);
        let good = rmc("120000.00", "261126") + &gga("120000.00", 1) + &gsa(3);
        for _ in 0..3_000 {
            let mut bytes = good.clone().into_bytes();
            for _ in 0..chance.usize(1..6) {
                let at = chance.usize(..bytes.len());
                bytes[at] = chance.u8(..);
            }
            let mut decoder = Decoder::new(NOON_MS);
            decoder.push(&bytes, |_| {});
            decoder.flush(|_| {});
        }
    }
}
