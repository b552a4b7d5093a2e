//! Dates of the Gregorian calendar, as trackers write them.

/// Milliseconds since the Unix epoch at so many milliseconds after the midnight with which a day begins; `None` if there
/// is no such day.
pub(crate) fn unix_ms(year: i64, month: i64, day: i64, after_ms: i64) -> Option<i64> {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap => 29,
        2 => 28,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=days).contains(&day) || !(1_970..=9_999).contains(&year) {
        return None;
    }
    // Years begin in March here, so that the leap day is their last (H. Hinnant, "chrono-Compatible Low-Level Date
    // Algorithms").
    let shifted = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * 86_400_000 + after_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_days_are_met_and_days_that_are_none_are_refused() {
        let day_ms = 86_400_000;
        for ((year, month, day), want) in [
            ((1970, 1, 1), 0),
            ((2000, 2, 29), 11_016),
            ((2000, 3, 1), 11_017),
            ((2026, 11, 26), 20_783),
            ((2099, 12, 31), 47_481),
        ] {
            assert_eq!(unix_ms(year, month, day, 5), Some(want * day_ms + 5), "{year}-{month}-{day}");
        }
        for (year, month, day) in [
            (2026, 2, 29),
            (2100, 2, 29),
            (2026, 4, 31),
            (2026, 0, 1),
            (2026, 13, 1),
            (2026, 1, 0),
            (1969, 12, 31),
        ] {
            assert_eq!(unix_ms(year, month, day, 0), None, "{year}-{month}-{day}");
        }
    }
}
