//! A circuit breaker: a service that fails is left alone for a while, then tried with one question.
//!
//! ```text
//! Closed(failures) --failures_max--> Open(until) --time--> Trying --answer--> Closed
//!                                      ^----------------------/ failure
//! ```

/// The breaker; time is an argument.
#[derive(Debug)]
pub(crate) struct Breaker {
    failures_max: u32,
    rest_ms: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Everything is asked; so many failed without an answer between them.
    Closed { failures: u32 },
    /// Nothing is asked.
    Open { until_ms: u64 },
    /// One question is on its way; if its end is never told, the next one is asked after this time.
    Trying { until_ms: u64 },
}

/// What a failure or an answer changed, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing.
    Same,
    /// It is not asked any more.
    Opened,
    /// It is asked again.
    Closed,
}

impl Breaker {
    pub(crate) fn new(failures_max: u32, rest_ms: u64) -> Self {
        Self { failures_max, rest_ms, state: State::Closed { failures: 0 } }
    }

    /// Says whether the service may be asked now; its end must be told.
    pub(crate) fn admit(&mut self, now_ms: u64) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until_ms } | State::Trying { until_ms } if now_ms < until_ms => false,
            State::Open { .. } | State::Trying { .. } => {
                self.state = State::Trying { until_ms: now_ms + self.rest_ms };
                true
            }
        }
    }

    /// Notes an answer.
    pub(crate) fn answered(&mut self) -> Change {
        let was_closed = matches!(self.state, State::Closed { .. });
        self.state = State::Closed { failures: 0 };
        if was_closed { Change::Same } else { Change::Closed }
    }

    /// Notes that there was none.
    pub(crate) fn failed(&mut self, now_ms: u64) -> Change {
        let failures = match self.state {
            State::Closed { failures } => failures + 1,
            State::Trying { .. } => self.failures_max,
            // One that was asked before the breaker opened.
            State::Open { .. } => return Change::Same,
        };
        if failures < self.failures_max {
            self.state = State::Closed { failures };
            return Change::Same;
        }
        let was_closed = matches!(self.state, State::Closed { .. });
        self.state = State::Open { until_ms: now_ms + self.rest_ms };
        if was_closed { Change::Opened } else { Change::Same }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_fails_is_left_alone_then_tried_with_one_question() {
        let mut breaker = Breaker::new(3, 1_000);
        for expected in [Change::Same, Change::Same, Change::Opened] {
            assert!(breaker.admit(0));
            assert_eq!(breaker.failed(0), expected);
        }
        assert_eq!(breaker.failed(0), Change::Same, "a question that was on its way");
        assert!(!breaker.admit(999));
        assert!(breaker.admit(1_000));
        assert!(!breaker.admit(1_000), "one question at once");
        assert_eq!(breaker.failed(1_000), Change::Same);
        assert!(!breaker.admit(1_999));
        assert!(breaker.admit(2_000));
        assert_eq!(breaker.answered(), Change::Closed);
        assert!(breaker.admit(2_000) && breaker.admit(2_000));
    }

    #[test]
    fn an_answer_between_failures_begins_the_count_anew() {
        let mut breaker = Breaker::new(2, 1_000);
        for _ in 0..10 {
            assert_eq!(breaker.failed(0), Change::Same);
            assert_eq!(breaker.answered(), Change::Same);
        }
        assert!(breaker.admit(0));
    }

    #[test]
    fn a_trial_whose_end_is_never_told_does_not_close_the_door_for_ever() {
        let mut breaker = Breaker::new(1, 1_000);
        breaker.failed(0);
        assert!(breaker.admit(1_000));
        assert!(breaker.admit(2_000));
    }
}
