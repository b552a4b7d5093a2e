//! One connection: when to ping, and when it is dead.
//!
//! Any byte from the broker restarts the wait for the next PINGREQ. The broker must hear something too: within the
//! interval where it is the Keep Alive, within five quarters of it where it was declared on `$im/keepalive` (the
//! broker waits six). A PINGREQ without an answer is sent once more; then the connection is dead. What else is owed
//! an answer (QoS 1 and 2, SUBSCRIBE) and gets none makes a PINGREQ due at once, so that a dead path is not noticed an
//! interval later.

use super::round_trip::RoundTrip;

/// Bytes a second that the slowest uplink takes: so much longer an answer to what lies behind them may take.
const UPLINK_BYTES_PER_S: u64 = 2_000;

/// What is owed for a packet that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Its size or a little less.
    pub(crate) bytes: u64,
    /// Whether the broker must answer.
    pub(crate) wants_answer: bool,
}

#[derive(Clone, Copy, Debug)]
struct Ping {
    sent_ms: u64,
    /// Whether it is the second one.
    is_retry: bool,
}

/// The timers of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Liveness {
    /// Longest silence, 0 = any.
    interval_ms: u64,
    /// Longest time without sending.
    sending_ms: u64,
    last_sent_ms: u64,
    last_received_ms: u64,
    /// The last PINGREQ that nothing came after.
    ping: Option<Ping>,
    /// When the oldest packet was sent that an answer is owed for, nothing having come since.
    owed_since_ms: Option<u64>,
    /// Bytes sent since something came.
    unheard_bytes: u64,
    /// The longest time for which nothing had passed either way before something was sent, since something came.
    risked_ms: Option<u64>,
    round_trip: RoundTrip,
    /// The program does not take what came, so that silence says nothing about the connection.
    is_paused: bool,
}

impl Liveness {
    pub(crate) fn new(now_ms: u64, round_trip: RoundTrip) -> Self {
        Self {
            interval_ms: 0,
            sending_ms: 0,
            last_sent_ms: now_ms,
            last_received_ms: now_ms,
            ping: None,
            owed_since_ms: None,
            unheard_bytes: 0,
            risked_ms: None,
            round_trip,
            is_paused: false,
        }
    }

    /// Sets the longest silence and the longest time without sending, milliseconds; 0 = no pings.
    pub(crate) fn set_interval(&mut self, interval_ms: u64, sending_ms: u64) {
        (self.interval_ms, self.sending_ms) = (interval_ms, sending_ms);
    }

    #[cfg(test)]
    fn round_trip(&self) -> RoundTrip {
        self.round_trip
    }

    pub(crate) fn sent(&mut self, now_ms: u64, sent: Sent) {
        let idle_ms = now_ms.saturating_sub(self.last_sent_ms.max(self.last_received_ms));
        self.risked_ms = self.risked_ms.max(Some(idle_ms));
        self.last_sent_ms = now_ms;
        self.unheard_bytes = self.unheard_bytes.saturating_add(sent.bytes);
        if sent.wants_answer {
            self.owed_since_ms.get_or_insert(now_ms);
        }
    }

    /// Something came. Returns the longest silence that the path has survived by it, milliseconds.
    pub(crate) fn received(&mut self, now_ms: u64) -> u64 {
        if let Some(Ping { sent_ms, is_retry: false }) = self.ping.take() {
            self.round_trip.sample(now_ms.saturating_sub(sent_ms));
        }
        self.last_received_ms = now_ms;
        self.owed_since_ms = None;
        self.unheard_bytes = 0;
        self.risked_ms.take().unwrap_or(0)
    }

    pub(crate) fn pause(&mut self, now_ms: u64, is_paused: bool) {
        if self.is_paused && !is_paused {
            self.last_received_ms = now_ms;
            self.ping = None;
            self.owed_since_ms = None;
        }
        self.is_paused = is_paused;
    }

    /// Returns how long nothing had passed before what was sent last without anything coming, milliseconds.
    pub(crate) fn risked_ms(&self) -> Option<u64> {
        self.risked_ms
    }

    /// Says whether something sent lately may be what the connection ended with.
    pub(crate) fn is_answer_due(&self, now_ms: u64) -> bool {
        self.risked_ms.is_some() && now_ms.saturating_sub(self.last_sent_ms) <= self.timeout_ms()
    }

    fn timeout_ms(&self) -> u64 {
        self.round_trip.timeout_ms() + self.unheard_bytes.saturating_mul(1_000) / UPLINK_BYTES_PER_S
    }

    fn ping_due_ms(&self) -> u64 {
        let by_sending_ms = self.last_sent_ms.saturating_add(self.sending_ms);
        if self.is_paused {
            return by_sending_ms;
        }
        match self.ping {
            Some(Ping { sent_ms, is_retry: false }) => by_sending_ms.min(sent_ms + self.timeout_ms()),
            // The connection is dead before anything is due.
            Some(_) => by_sending_ms,
            None => {
                let by_silence_ms = self.last_received_ms.saturating_add(self.interval_ms);
                let by_answer_ms = self.owed_since_ms.map_or(u64::MAX, |sent_ms| sent_ms + self.timeout_ms());
                by_sending_ms.min(by_silence_ms).min(by_answer_ms)
            }
        }
    }

    fn dead_ms(&self) -> Option<u64> {
        let ping = self.ping.filter(|ping| ping.is_retry && !self.is_paused)?;
        Some(ping.sent_ms.saturating_add(self.timeout_ms()))
    }

    pub(crate) fn next_deadline_ms(&self) -> Option<u64> {
        if self.interval_ms == 0 {
            return None;
        }
        let ping_ms = self.ping_due_ms();
        Some(self.dead_ms().map_or(ping_ms, |dead_ms| dead_ms.min(ping_ms)))
    }

    /// Returns how long the broker has been silent, milliseconds, if that is too long.
    pub(crate) fn dead_since_ms(&self, now_ms: u64) -> Option<u64> {
        let is_dead = self.interval_ms > 0 && self.dead_ms().is_some_and(|dead_ms| now_ms >= dead_ms);
        is_dead.then(|| now_ms.saturating_sub(self.last_received_ms))
    }

    pub(crate) fn ping_is_due(&self, now_ms: u64) -> bool {
        self.interval_ms > 0 && now_ms >= self.ping_due_ms()
    }

    /// A PINGREQ goes out, due or not; [`Self::sent`] is to be called for it too.
    pub(crate) fn pinged(&mut self, now_ms: u64) {
        let is_retry = match self.ping {
            None => false,
            Some(ping) => ping.is_retry || now_ms >= ping.sent_ms + self.timeout_ms(),
        };
        match &mut self.ping {
            // The time of death stays what it was.
            Some(ping) if ping.is_retry == is_retry => {}
            ping => *ping = Some(Ping { sent_ms: now_ms, is_retry }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: Sent = Sent { bytes: 0, wants_answer: true };

    fn up(interval_ms: u64) -> Liveness {
        let mut liveness = Liveness::new(0, RoundTrip::default());
        liveness.set_interval(interval_ms, interval_ms * 5 / 4);
        liveness
    }

    /// Sends the PINGREQ that is due.
    fn ping(liveness: &mut Liveness, now_ms: u64) {
        assert!(liveness.ping_is_due(now_ms), "{now_ms} {liveness:?}");
        liveness.pinged(now_ms);
        liveness.sent(now_ms, PING);
    }

    /// Runs the timers until the connection is dead; returns when PINGREQs went out and when it died.
    fn until_dead(liveness: &mut Liveness) -> (Vec<u64>, u64) {
        let mut pings = Vec::new();
        loop {
            let now_ms = liveness.next_deadline_ms().expect("a deadline");
            if liveness.dead_since_ms(now_ms).is_some() {
                return (pings, now_ms);
            }
            ping(liveness, now_ms);
            pings.push(now_ms);
        }
    }

    #[test]
    fn silence_is_asked_twice_before_it_is_death() {
        assert_eq!(until_dead(&mut up(60_000)), (vec![60_000, 62_000], 64_000));
    }

    #[test]
    fn every_byte_that_comes_restarts_the_wait_until_the_broker_must_hear_something() {
        let mut liveness = up(60_000);
        for now_ms in (10_000..=70_000).step_by(10_000) {
            assert!(!liveness.ping_is_due(now_ms), "{now_ms}");
            liveness.received(now_ms);
        }
        assert_eq!(liveness.next_deadline_ms(), Some(75_000));
    }

    #[test]
    fn what_is_owed_an_answer_and_gets_none_is_followed_by_a_ping() {
        let mut liveness = up(3_600_000);
        liveness.sent(1_000_000, Sent { bytes: 100, wants_answer: true });
        assert_eq!(until_dead(&mut liveness), (vec![1_002_050, 1_004_100], 1_006_150));
        assert_eq!(liveness.risked_ms(), Some(1_000_000));
        // QoS 0 is owed nothing.
        let mut liveness = up(3_600_000);
        liveness.sent(1_000_000, Sent { bytes: 100, wants_answer: false });
        assert_eq!(liveness.next_deadline_ms(), Some(3_600_000));
    }

    #[test]
    fn a_slow_uplink_is_given_time_for_what_lies_before_the_ping() {
        let mut liveness = up(60_000);
        liveness.sent(59_000, Sent { bytes: 100_000, wants_answer: false });
        ping(&mut liveness, 60_000);
        assert_eq!(liveness.next_deadline_ms(), Some(60_000 + 2_000 + 50_000));
    }

    #[test]
    fn only_an_unambiguous_answer_is_a_round_trip() {
        let mut liveness = up(60_000);
        ping(&mut liveness, 60_000);
        liveness.received(61_900);
        assert_eq!(liveness.round_trip().timeout_ms(), 1_900 + 4 * 950);
        let mut retried = up(60_000);
        ping(&mut retried, 60_000);
        ping(&mut retried, 62_000);
        retried.received(62_100);
        assert_eq!(retried.round_trip(), RoundTrip::default());
    }

    #[test]
    fn a_survived_silence_is_what_lay_before_something_was_sent() {
        let mut liveness = up(60_000);
        liveness.sent(40_000, Sent { bytes: 9, wants_answer: false });
        ping(&mut liveness, 60_000);
        assert_eq!(liveness.received(60_050), 40_000);
        assert_eq!(liveness.received(90_000), 0, "nothing was sent before it");
    }

    #[test]
    fn a_program_that_does_not_read_makes_no_silence() {
        let mut liveness = up(60_000);
        liveness.pause(0, true);
        for now_ms in [75_000, 150_000, 225_000] {
            assert_eq!(liveness.next_deadline_ms(), Some(now_ms));
            assert!(liveness.dead_since_ms(now_ms).is_none());
            ping(&mut liveness, now_ms);
        }
        liveness.pause(230_000, false);
        assert_eq!(liveness.next_deadline_ms(), Some(290_000));
    }
}
