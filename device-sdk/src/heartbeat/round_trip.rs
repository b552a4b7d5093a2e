//! How long an answer takes on this path, by RFC 6298: a smoothed round trip and its variation.

/// Shortest wait for an answer: a phone's radio may sleep for a second or two before it hears one.
const TIMEOUT_MS_MIN: u64 = 2_000;
/// Longest one.
const TIMEOUT_MS_MAX: u64 = 30_000;

/// The estimate; without a sample the shortest wait counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RoundTrip {
    /// SRTT and RTTVAR, milliseconds times 8 and 4, so that nothing is lost to rounding.
    smoothed: Option<(u64, u64)>,
}

impl RoundTrip {
    /// Takes one round trip that was not ambiguous: an answer to something sent once.
    pub(crate) fn sample(&mut self, ms: u64) {
        let ms = ms.min(TIMEOUT_MS_MAX);
        self.smoothed = Some(match self.smoothed {
            None => (ms * 8, ms * 2),
            Some((srtt, var)) => {
                let error = ms.abs_diff(srtt / 8);
                (srtt - srtt / 8 + ms, var - var / 4 + error)
            }
        });
    }

    /// max(2 s, SRTT + 4 RTTVAR), milliseconds.
    pub(crate) fn timeout_ms(&self) -> u64 {
        let expected_ms = self.smoothed.map_or(0, |(srtt, var)| srtt / 8 + var);
        expected_ms.clamp(TIMEOUT_MS_MIN, TIMEOUT_MS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_follows_the_round_trips() {
        let mut round_trip = RoundTrip::default();
        assert_eq!(round_trip.timeout_ms(), 2_000);
        round_trip.sample(50);
        assert_eq!(round_trip.timeout_ms(), 2_000);
        // RFC 6298: SRTT = R, RTTVAR = R/2; then 7/8 SRTT + 1/8 R' and 3/4 RTTVAR + 1/4 |SRTT - R'|.
        let mut slow = RoundTrip::default();
        slow.sample(1_600);
        assert_eq!(slow.timeout_ms(), 1_600 + 4 * 800);
        slow.sample(2_400);
        assert_eq!(slow.timeout_ms(), 1_700 + 4 * 800);
        for _ in 0..100 {
            slow.sample(100);
        }
        assert_eq!(slow.timeout_ms(), 2_000);
        slow.sample(u64::MAX);
        slow.sample(u64::MAX);
        assert_eq!(slow.timeout_ms(), TIMEOUT_MS_MAX);
    }
}
