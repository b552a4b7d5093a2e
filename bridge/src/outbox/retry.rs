//! When a target is tried again, and when no more: pure, time and chance are arguments.

use crate::config::OutboxSettings;

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The server took it.
    Delivered,
    /// It may work later.
    Again {
        /// What kind of obstacle it is.
        cause: Cause,
        /// Why not now.
        why: String,
        /// The pause the server asks for, milliseconds.
        after_ms: Option<u64>,
    },
    /// This message will never be taken.
    Never {
        /// Why.
        why: String,
    },
}

/// Why something did not work that may work later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The network or the server.
    Transient,
    /// More was sent than the server takes: nothing is wrong.
    Quota,
    /// The address or what opens it is wrong: no message will be taken until somebody mends the configuration or the server.
    Settings,
}

/// The longest Retry-After that is believed: beyond it the server is taken to be mistaken.
const RETRY_AFTER_MAX_MS: u64 = 7 * 24 * 3_600_000;

/// Judges an answer by its status. A refusal that says more of the address than of the message is none of the message's: it waits.
pub(crate) fn judge(status: u16, retry_after_ms: Option<u64>) -> Verdict {
    let why = format!("the server answered {status}");
    let again = |cause, why| Verdict::Again { cause, why, after_ms: retry_after_ms };
    match status {
        200..=299 => Verdict::Delivered,
        429 => again(Cause::Quota, why),
        // Request Timeout, Too Early: by their definition worth a repeat.
        408 | 425 | 500..=599 => again(Cause::Transient, why),
        300..=399 => again(Cause::Settings, format!("{why}, a redirect: configure the address it points to")),
        401 | 403 | 404 | 407 | 410 => {
            again(Cause::Settings, format!("{why}: is the address right, and what opens it?"))
        }
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

/// Failures in a row after which a target counts as down.
const DOWN_AFTER: u32 = 5;
/// The shortest pause after an answer that only a person can change, milliseconds.
const SETTINGS_PAUSE_MS: u64 = 60_000;

/// The pauses of one target: a circuit breaker, since only one message at a time is tried. They grow threefold at most, jittered over
/// the whole range so that many bridges do not come back at one moment, and start anew after a success.
#[derive(Debug)]
pub(crate) struct Pauses {
    settings: OutboxSettings,
    /// The shortest time between two attempts, by the target's quota.
    spacing_ms: u64,
    /// Failures since the last success that are not the quota's.
    failures: u32,
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
    /// Makes the pauses of a target that has not been tried since the start at `now_ms`. What an earlier process sent just before is not
    /// known, so the first attempt waits as if it had.
    pub(crate) fn new(settings: OutboxSettings, spacing_ms: u64, now_ms: u64) -> Pauses {
        let not_before_ms = now_ms.saturating_add(spacing_ms);
        Pauses { settings, spacing_ms, failures: 0, last_ms: 0, not_before_ms }
    }

    /// Whether the target failed so often in a row that it counts as down.
    pub(crate) fn is_down(&self) -> bool {
        self.failures >= DOWN_AFTER
    }

    /// Says when a message that was stored `age_ms` ago may be tried. `now_ms` is of a clock that never goes back.
    pub(crate) fn next(&self, age_ms: u64, now_ms: u64) -> Next {
        let wait_ms = self.not_before_ms.saturating_sub(now_ms);
        if age_ms.saturating_add(wait_ms) > self.settings.age_max_s.saturating_mul(1_000) {
            return Next::TooOld;
        }
        Next::In(wait_ms)
    }

    /// Notes an answer that ends a message.
    pub(crate) fn answered(&mut self, now_ms: u64) {
        self.last_ms = 0;
        self.failures = 0;
        self.not_before_ms = now_ms.saturating_add(self.spacing_ms);
    }

    /// Notes a failure; `chance` is any random number. Returns the pause until the next attempt.
    pub(crate) fn failed(
        &mut self,
        now_ms: u64,
        cause: Cause,
        retry_after_ms: Option<u64>,
        chance: u64,
    ) -> u64 {
        if cause != Cause::Quota {
            self.failures = self.failures.saturating_add(1);
        }
        let min_ms = self.settings.retry_min_ms.max(1);
        let max_ms = self.settings.retry_max_ms.max(min_ms);
        let upper_ms = self.last_ms.max(min_ms).saturating_mul(3).clamp(min_ms, max_ms);
        self.last_ms = min_ms + chance % (upper_ms - min_ms + 1);
        let least_ms = if cause == Cause::Settings { SETTINGS_PAUSE_MS.min(max_ms) } else { 0 };
        let pause_ms = self.last_ms.max(retry_after_ms.unwrap_or(0)).max(least_ms).max(self.spacing_ms);
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
        Pauses::new(settings, 0, 0)
    }

    #[test]
    fn answers_are_judged_by_their_status() {
        for (status, want) in [
            (200, "delivered"),
            (204, "delivered"),
            (301, "settings"),
            (400, "never"),
            (401, "settings"),
            (403, "settings"),
            (404, "settings"),
            (408, "transient"),
            (410, "settings"),
            (413, "never"),
            (425, "transient"),
            (429, "quota"),
            (500, "transient"),
            (503, "transient"),
        ] {
            let got = match judge(status, Some(7)) {
                Verdict::Delivered => "delivered",
                Verdict::Again { cause, after_ms: Some(7), why } if why.contains(&status.to_string()) => {
                    match cause {
                        Cause::Transient => "transient",
                        Cause::Quota => "quota",
                        Cause::Settings => "settings",
                    }
                }
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
                let pause_ms = pauses.failed(0, Cause::Transient, None, rng.u64(..));
                assert!(
                    (100..=5_000).contains(&pause_ms) && pause_ms <= last_ms * 3,
                    "{pause_ms} after {last_ms}"
                );
                last_ms = pause_ms;
            }
            pauses.answered(0);
            assert!(pauses.failed(0, Cause::Transient, None, rng.u64(..)) <= 300);
        }
    }

    #[test]
    fn the_pause_a_server_asks_for_is_obeyed_by_the_next_message_too() {
        let mut pauses = pauses();
        assert_eq!(pauses.failed(1_000, Cause::Quota, Some(30_000), 0), 30_000);
        assert_eq!(pauses.next(0, 1_000), Next::In(30_000));
        assert_eq!(pauses.next(0, 25_000), Next::In(6_000), "a message stored later");
        assert_eq!(pauses.next(0, 40_000), Next::In(0));
    }

    #[test]
    fn a_message_is_given_up_when_it_would_be_too_old_at_its_next_attempt() {
        let mut pauses = pauses();
        assert_eq!(pauses.next(60_000, 0), Next::In(0));
        assert_eq!(pauses.next(60_001, 0), Next::TooOld);
        pauses.failed(0, Cause::Transient, Some(20_000), 0);
        assert_eq!(pauses.next(40_001, 0), Next::TooOld);
        assert_eq!(pauses.next(40_000, 0), Next::In(20_000));
    }

    #[test]
    fn a_quota_spaces_attempts_from_the_start_and_whatever_their_outcome() {
        let mut pauses = Pauses::new(OutboxSettings::default(), 3_000, 500);
        assert_eq!(pauses.next(0, 500), Next::In(3_000), "an earlier process may just have sent");
        pauses.answered(3_500);
        assert_eq!(pauses.next(0, 4_000), Next::In(2_500));
        assert!(pauses.failed(6_500, Cause::Transient, None, 0) >= 3_000);
    }

    #[test]
    fn a_target_is_down_after_failures_in_a_row_and_a_quota_is_no_failure() {
        let mut pauses = pauses();
        (0..9).for_each(|_| _ = pauses.failed(0, Cause::Quota, None, 0));
        assert!(!pauses.is_down());
        (0..5).for_each(|_| _ = pauses.failed(0, Cause::Transient, None, 0));
        assert!(pauses.is_down());
        pauses.answered(0);
        assert!(!pauses.is_down());
    }

    #[test]
    fn what_only_a_person_can_change_is_tried_seldom() {
        let mut pauses = Pauses::new(OutboxSettings::default(), 0, 0);
        assert!(pauses.failed(0, Cause::Settings, None, 0) >= 60_000);
    }
}
