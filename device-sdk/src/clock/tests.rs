//! What the clock believes, and what it refuses.

use super::*;

const T: u64 = 1_800_000_000_000;
const DAY_MS: u64 = 86_400_000;

fn reading(source: TimeSource, monotonic_ms: u64, unix_ms: u64) -> Reading {
    Reading { source, monotonic_ms, unix_ms, error_ms: 100 }
}

fn clock_with(readings: &[(TimeSource, u64, u64)]) -> Clock {
    let mut clock = Clock::new(ClockRules::default());
    for (source, monotonic_ms, unix_ms) in readings {
        let _ = clock.offer(reading(*source, *monotonic_ms, *unix_ms));
    }
    clock
}

use TimeSource::{Broker, Gnss, Ntp};

#[test]
fn without_a_reading_the_time_is_not_known_and_with_an_old_one_not_any_more() {
    let mut clock = clock_with(&[]);
    assert_eq!(clock.now(5).time, Err(TimeUnknown::NoReading));
    let mut clock = clock_with(&[(Gnss, 0, T)]);
    let hour = clock.now(3_600_000).time.unwrap();
    assert_eq!(hour.latest_unix_ms - hour.earliest_unix_ms, 2 * (100 + 360), "the error grows with the age");
    // 10 s at 100 ppm are reached after 27.5 h.
    assert!(clock.now(DAY_MS).time.is_ok());
    assert_eq!(clock.now(2 * DAY_MS).time, Err(TimeUnknown::NoReading));
}

#[test]
fn times_that_are_years_wrong_are_refused() {
    let mut clock = clock_with(&[]);
    let rollover_ms = 1024 * 7 * DAY_MS;
    for wrong in [0, T - rollover_ms, T + 80 * 365 * DAY_MS] {
        let error = clock.offer(reading(Gnss, 0, wrong)).unwrap_err();
        assert!(matches!(error, ReadingError::Implausible { by: Gnss, .. }), "{error}");
    }
    let vague = Reading { error_ms: 10_001, ..reading(Ntp, 0, T) };
    assert!(clock.offer(vague).unwrap_err().to_string().contains("NTP is 10001 ms vague"));
    assert_eq!(clock.now(0).time, Err(TimeUnknown::NoReading));
}

#[test]
fn a_source_that_steps_does_not_count_until_it_has_repeated_itself() {
    for step in [-3_600_000_i64, -300, 500, 400 * DAY_MS as i64] {
        let mut clock = clock_with(&[(Ntp, 0, T)]);
        let stepped =
            |monotonic_ms: u64| reading(Ntp, monotonic_ms, T.saturating_add_signed(step) + monotonic_ms);
        let error = clock.offer(stepped(1_000)).unwrap_err();
        assert!(matches!(error, ReadingError::Stepped { by_ms, .. } if by_ms == step), "{error}");
        assert_eq!(clock.now(1_000).time, Err(TimeUnknown::NoReading));
        assert!(clock.offer(stepped(6_000)).is_err());
        assert!(clock.offer(stepped(10_999)).is_err(), "not long enough");
        assert!(clock.offer(stepped(11_000)).is_ok());
    }
    // One odd reading does no harm.
    let mut clock = clock_with(&[(Ntp, 0, T), (Ntp, 1_000, T + DAY_MS)]);
    assert!(clock.now(1_500).time.is_err());
    clock.offer(reading(Ntp, 2_000, T + 2_000)).unwrap();
    assert!(clock.now(2_000).time.is_ok());
    assert!(matches!(clock.offer(reading(Ntp, 1_000, T)), Err(ReadingError::OutOfOrder { by: Ntp })));
}

#[test]
fn the_majority_of_the_sources_settles_a_dispute() {
    let mut two = clock_with(&[(Gnss, 0, T), (Ntp, 0, T + DAY_MS)]);
    assert_eq!(two.now(0).time, Err(TimeUnknown::Disputed { by_ms: DAY_MS }));
    let mut three = clock_with(&[(Gnss, 0, T), (Ntp, 0, T + DAY_MS), (Broker, 0, T + 50)]);
    let time = three.now(0).time.unwrap();
    assert_eq!((time.earliest_unix_ms, time.latest_unix_ms), (T - 100, T + 150), "one of them may be wrong");
    // A chain in which the ends exclude each other is no majority.
    let mut chain = clock_with(&[(Gnss, 0, T), (Ntp, 0, T + 150), (Broker, 0, T + 300)]);
    assert!(matches!(chain.now(0).time, Err(TimeUnknown::Disputed { .. })));
    let rules = ClockRules { sources_min: 2, ..ClockRules::default() };
    let mut strict = Clock::new(rules);
    strict.offer(reading(Gnss, 0, T)).unwrap();
    assert_eq!(strict.now(0).time, Err(TimeUnknown::TooFew { have: 1, need: 2 }));
    strict.offer(reading(Broker, 0, T)).unwrap();
    assert!(strict.now(0).time.is_ok());
}

#[test]
fn time_never_goes_back_behind_what_it_has_reached() {
    let mut clock = clock_with(&[(Gnss, 0, T)]);
    assert_eq!(clock.now(0).reached_unix_ms, T - 100);
    // The receiver comes back an hour behind and sticks to it.
    for monotonic_ms in [1_000, 6_000, 11_000] {
        let _ = clock.offer(reading(Gnss, monotonic_ms, T - 3_600_000 + monotonic_ms));
    }
    let moment = clock.now(11_000);
    assert!(matches!(moment.time, Err(TimeUnknown::WentBack { by_ms }) if by_ms > 3_590_000), "{moment:?}");
    assert_eq!(moment.expiry(T + 5_000), Expiry::Past { late_ms: 5_898 });
    assert!(matches!(moment.expiry(T + 50_000), Expiry::Unknown(_)));
    // Two that agree overrule it.
    clock.offer(reading(Ntp, 11_000, T - 3_600_000 + 11_000)).unwrap();
    let time = clock.now(11_000).time.unwrap();
    assert!(time.latest_unix_ms < T);
    assert!(clock.now(11_000).reached_unix_ms < T);
}

#[test]
fn a_brokers_stamp_is_a_bound_and_no_reading() {
    let mut clock = clock_with(&[]);
    clock.at_least(0, T);
    let moment = clock.now(1_000);
    assert_eq!(moment.time, Err(TimeUnknown::NoReading));
    assert_eq!(moment.expiry(T + 500), Expiry::Past { late_ms: 499 });
    assert!(matches!(moment.expiry(T + 1_000), Expiry::Unknown(_)));
    // A clock that is behind it is wrong.
    clock.offer(reading(Ntp, 1_000, T - DAY_MS)).unwrap();
    assert!(matches!(clock.now(1_000).time, Err(TimeUnknown::WentBack { .. })));
    // A broker whose clock is a little ahead does no harm, one that is far ahead says that a clock is wrong.
    let mut clock = clock_with(&[(Gnss, 0, T)]);
    clock.stamped(0, T + 10_000);
    assert!(clock.now(0).time.is_ok());
    clock.stamped(0, T + 10_200);
    assert_eq!(clock.now(0).time, Err(TimeUnknown::WentBack { by_ms: 100 }));
    // An earlier or implausible stamp says nothing new.
    let mut clock = clock_with(&[]);
    clock.at_least(0, T);
    clock.at_least(1_000, T - 5);
    clock.at_least(1_000, u64::MAX);
    assert_eq!(clock.now(1_000).reached_unix_ms, T + 999);
}

#[test]
fn what_may_have_expired_has() {
    let mut clock = clock_with(&[(Gnss, 0, T)]);
    let moment = clock.now(0);
    assert_eq!(moment.expiry(T + 101), Expiry::Ahead);
    assert_eq!(moment.expiry(T + 100), Expiry::Past { late_ms: 0 });
    assert_eq!(moment.expiry(T - 100), Expiry::Past { late_ms: 0 });
    assert_eq!(moment.label_unix_ms(), T);
    assert_eq!(Moment::exact(T).expiry(T), Expiry::Past { late_ms: 0 });
    assert_eq!(Moment::exact(T).expiry(T + 1), Expiry::Ahead);
}
