//! Quiet hours: a daily span in the local time of a zone in which people are not disturbed.

use jiff::{Timestamp, ToSpan, civil::Time, tz::TimeZone};

/// A daily span; it may cross midnight.
#[derive(Clone, Debug, PartialEq)]
pub struct Quiet {
    from: Time,
    to: Time,
    zone: TimeZone,
}

impl Quiet {
    /// Reads `HH:MM-HH:MM`.
    ///
    /// # Errors
    /// It is no such span, or both ends are the same.
    pub(crate) fn parse(text: &str, zone: TimeZone) -> Result<Quiet, String> {
        let ends = text.split_once('-').and_then(|(from, to)| Some((time(from)?, time(to)?)));
        match ends {
            Some((from, to)) if from != to => Ok(Quiet { from, to, zone }),
            _ => Err(format!(
                "quiet = {text:?}: it must be two different times of day, for instance \"22:00-06:30\""
            )),
        }
    }

    /// If it is quiet now, when that ends, milliseconds since the Unix epoch.
    pub(crate) fn until_ms(&self, now_ms: u64) -> Option<u64> {
        let now = Timestamp::from_millisecond(i64::try_from(now_ms).ok()?).ok()?.to_zoned(self.zone.clone());
        let time = now.time();
        let is_quiet = if self.from < self.to {
            self.from <= time && time < self.to
        } else {
            time >= self.from || time < self.to
        };
        if !is_quiet {
            return None;
        }
        let date = if time < self.to { now.date() } else { now.date().checked_add(1.day()).ok()? };
        // A time that a change of the clocks leaves out is the moment after the change.
        let end = self.zone.to_ambiguous_zoned(date.to_datetime(self.to)).compatible().ok()?;
        u64::try_from(end.timestamp().as_millisecond()).ok().filter(|end_ms| *end_ms > now_ms)
    }
}

/// Finds a zone by its IANA name, or by a fixed offset like `+02:00`.
///
/// # Errors
/// This system does not know it.
pub(crate) fn zone(name: &str) -> Result<TimeZone, String> {
    if let Some(offset) = offset(name) {
        return Ok(offset);
    }
    TimeZone::get(name).map_err(|_| {
        format!(
            "time_zone = {name:?} is not known to this system: install its time zones (tzdata), or give an offset like \"+02:00\""
        )
    })
}

fn offset(name: &str) -> Option<TimeZone> {
    let (sign, rest) = match name.as_bytes().first()? {
        b'+' => (1, &name[1..]),
        b'-' => (-1, &name[1..]),
        _ => return (name == "UTC").then_some(TimeZone::UTC),
    };
    let at = time(rest)?;
    let seconds = sign * (i32::from(at.hour()) * 3_600 + i32::from(at.minute()) * 60);
    Some(TimeZone::fixed(jiff::tz::Offset::from_seconds(seconds).ok()?))
}

fn time(text: &str) -> Option<Time> {
    let (hour, minute) = text.trim().split_once(':')?;
    let digits = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(hour) || !digits(minute) {
        return None;
    }
    Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> u64 {
        text.parse::<Timestamp>().unwrap().as_millisecond() as u64
    }

    #[test]
    fn a_night_ends_in_the_morning_and_a_day_is_not_quiet() {
        let night = Quiet::parse("22:00-06:30", zone("+02:00").unwrap()).unwrap();
        let end = Some(ms("2026-11-26T04:30:00Z"));
        assert_eq!(night.until_ms(ms("2026-11-25T20:00:00Z")), end, "22:00 here");
        assert_eq!(night.until_ms(ms("2026-11-26T04:29:59Z")), end);
        assert_eq!(night.until_ms(ms("2026-11-26T04:30:00Z")), None);
        assert_eq!(night.until_ms(ms("2026-11-25T19:59:59Z")), None);
        let noon = Quiet::parse("12:00-13:00", TimeZone::UTC).unwrap();
        assert_eq!(noon.until_ms(ms("2026-11-25T12:15:00Z")), Some(ms("2026-11-25T13:00:00Z")));
        assert_eq!(noon.until_ms(ms("2026-11-25T13:15:00Z")), None);
    }

    #[test]
    fn a_change_of_the_clocks_moves_the_end() {
        let Ok(zone) = zone("Europe/Helsinki") else { return };
        let night = Quiet::parse("22:00-07:00", zone).unwrap();
        // In the night to 29 March 2026 the clocks go forward: 07:00 is an hour earlier.
        assert_eq!(night.until_ms(ms("2026-03-27T22:00:00Z")), Some(ms("2026-03-28T05:00:00Z")));
        assert_eq!(night.until_ms(ms("2026-03-28T22:00:00Z")), Some(ms("2026-03-29T04:00:00Z")));
    }

    #[test]
    fn what_is_no_span_or_zone_is_refused_with_an_example() {
        for text in ["22:00", "22-06", "24:00-06:00", "22:00-22:00", "2:00-6:00", ""] {
            assert!(Quiet::parse(text, TimeZone::UTC).unwrap_err().contains("22:00-06:30"), "{text}");
        }
        assert!(zone("Mars/Olympus").unwrap_err().contains("tzdata"));
        assert!(zone("+25:00").is_err());
        assert_eq!(zone("-05:30").unwrap().to_fixed_offset().unwrap().seconds(), -19_800);
    }
}
