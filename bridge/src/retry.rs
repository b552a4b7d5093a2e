//! When a target is tried again, and when no more: pure, time and chance are arguments.

use crate::config::OutboxSettings;

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The server took it.
    Delivered,
    /// It may work later.
    Again {
        /// Why not now.
        why: String,
        /// The pause the server asks for, milliseconds.
        after_ms: Option<u64>,
    },
    /// It will never work.
    Never {
        /// Why.
        why: String,
    },
}

/// The longest Retry-After that is believed: beyond it the server is taken to be mistaken.
const RETRY_AFTER_MAX_MS: u64 = 7 * 24 * 3_600_000;

/// Judges an answer by its status.
pub(crate) fn judge(status: u16, retry_after_ms: Option<u64>) -> Verdict {
    let why = format!("the server answered {status}");
    match status {
        200..=299 => Verdict::Delivered,
        // Request Timeout, Too Early, Too Many Requests: by their definition worth a repeat.
        408 | 425 | 429 | 500..=599 => Verdict::Again { why, after_ms: retry_after_ms },
        300..=399 => Verdict::Never { why: format!("{why}, a redirect: configure the address it points to") },
        _ => Verdict::Never { why },
    }
}

/// Reads a Retry-After header (RFC 9110 section 10.2.3): seconds, or a date. A date gone by is no pause.
pub(crate) fn parse_retry_after(value: &str, now_ms: u64) -> Option<u64> {
    let value = value.trim();
    let pause_ms = match value.parse::<u64>() {
        Ok(seconds) => seconds.saturating_mul(1_000),
        Err(_) if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => RETRY_AFTER_MAX_MS,
        Err(_) => {
            let at = httpdate::parse_http_date(value).ok()?;
            let at_ms = at.duration_since(std::time::UNIX_EPOCH).ok()?.as_millis();
            u64::try_from(at_ms).unwrap_or(u64::MAX).saturating_sub(now_ms)
        }
    };
    Some(pause_ms.min(RETRY_AFTER_MAX_MS))
}

/// The pauses of one target. They grow threefold at most, jittered over the whole range so that many bridges do not come
/// back at one moment, and start anew after a success.
#[derive(Debug)]
pub(crate) struct Pauses {
    settings: OutboxSettings,
    /// The last drawn pause; 0 after a success.
    last_ms: u64,
    /// No attempt before this time: what the server asked for also holds for the next message.
    not_before_ms: u64,
}

/// What to do with a message now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Try after so many milliseconds.
    In(u64),
    /// Give it up: it would be too old by then.
    TooOld,
}

impl Pauses {
    /// Makes the pauses of a target that has not been tried.
    pub(crate) fn new(settings: OutboxSettings) -> Pauses {
        Pauses { settings, last_ms: 0, not_before_ms: 0 }
    }

    /// Says when a message that was stored `age_ms` ago may be tried. `now_ms` is of a clock that never goes back.
    pub(crate) fn next(&self, age_ms: u64, now_ms: u64) -> Next {
        let wait_ms = self.not_before_ms.saturating_sub(now_ms);
        if age_ms.saturating_add(wait_ms) > self.settings.age_max_s.saturating_mul(1_000) {
            return Next::TooOld;
        }
        Next::In(wait_ms)
    }

    /// Notes a success.
    pub(crate) fn succeeded(&mut self) {
        self.last_ms = 0;
        self.not_before_ms = 0;
    }

    /// Notes a failure; `chance` is any random number. Returns the pause until the next attempt.
    pub(crate) fn failed(&mut self, now_ms: u64, retry_after_ms: Option<u64>, chance: u64) -> u64 {
        let min_ms = self.settings.retry_min_ms.max(1);
        let max_ms = self.settings.retry_max_ms.max(min_ms);
        let upper_ms = self.last_ms.max(min_ms).saturating_mul(3).clamp(min_ms, max_ms);
        self.last_ms = min_ms + chance % (upper_ms - min_ms + 1);
        let pause_ms = self.last_ms.max(retry_after_ms.unwrap_or(0));
        self.not_before_ms = now_ms.saturating_add(pause_ms);
        pause_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses() -> Pauses {
        let settings =
            OutboxSettings { age_max_s: 60, retry_min_ms: 100, retry_max_ms: 5_000, ..Default::default() };
        Pauses::new(settings)
    }

    #[test]
    fn answers_are_judged_by_their_status() {
        for (status, want) in [
            (200, "delivered"),
            (204, "delivered"),
            (301, "never"),
            (400, "never"),
            (401, "never"),
            (404, "never"),
            (408, "again"),
            (410, "never"),
            (425, "again"),
            (429, "again"),
            (500, "again"),
            (503, "again"),
        ] {
            let got = match judge(status, Some(7)) {
                Verdict::Delivered => "delivered",
                Verdict::Again { after_ms: Some(7), why } if why.contains(&status.to_string()) => "again",
                Verdict::Never { why } if why.contains(&status.to_string()) => "never",
                other => panic!("{status}: {other:?}"),
            };
            assert_eq!(got, want, "{status}");
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date() {
        // Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110.
        let date_ms = 784_111_777_000;
        let table = [
            ("120", Some(120_000)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(5_000)),
            ("Sun, 06 Nov 1994 08:49:07 GMT", Some(0)),
            ("99999999999999999999999", Some(RETRY_AFTER_MAX_MS)),
            ("604801", Some(RETRY_AFTER_MAX_MS)),
            ("soon", None),
            ("-1", None),
            ("", None),
        ];
        for (value, want) in table {
            assert_eq!(parse_retry_after(value, date_ms - 5_000), want, "{value:?}");
        }
    }

    #[test]
    fn pauses_grow_within_their_bounds_and_start_anew_after_a_success() {
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..100 {
            let mut pauses = pauses();
            let mut last_ms = 100;
            for _ in 0..20 {
                let pause_ms = pauses.failed(0, None, rng.u64(..));
                assert!(
                    (100..=5_000).contains(&pause_ms) && pause_ms <= last_ms * 3,
                    "{pause_ms} after {last_ms}"
                );
                last_ms = pause_ms;
            }
            pauses.succeeded();
            assert!(pauses.failed(0, None, rng.u64(..)) <= 300);
        }
    }

    #[test]
    fn the_pause_a_server_asks_for_is_obeyed_by_the_next_message_too() {
        let mut pauses = pauses();
        assert_eq!(pauses.failed(1_000, Some(30_000), 0), 30_000);
        assert_eq!(pauses.next(0, 1_000), Next::In(30_000));
        assert_eq!(pauses.next(0, 25_000), Next::In(6_000), "a message stored later");
        assert_eq!(pauses.next(0, 40_000), Next::In(0));
    }

    #[test]
    fn a_message_is_given_up_when_it_would_be_too_old_at_its_next_attempt() {
        let mut pauses = pauses();
        assert_eq!(pauses.next(60_000, 0), Next::In(0));
        assert_eq!(pauses.next(60_001, 0), Next::TooOld);
        pauses.failed(0, Some(20_000), 0);
        assert_eq!(pauses.next(40_001, 0), Next::TooOld);
        assert_eq!(pauses.next(40_000, 0), Next::In(20_000));
    }
}
