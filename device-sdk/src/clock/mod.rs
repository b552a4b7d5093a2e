//! The time that expiry is judged by: what the device knows of the true time, and how well.
//!
//! A device has a clock that only counts (monotonic) and several that say what time it is and may lie: a GNSS receiver after a
//! week rollover, an unsynchronised system clock, a spoofed NTP server. [`Clock`] is pure: readings go in with the
//! monotonic time they were taken at, and [`Clock::now`] gives the interval that the true time is in, or says why it is not known.
//!
//! - A reading counts with its error, which grows with its age; too vague, it is stale.
//! - A reading outside [`ClockRules::plausible_unix_ms`] is refused: years wrong.
//! - A source that contradicts what it said before does not count until it has said the new time several times.
//! - Sources that disagree are settled by the majority; without one the time is not known.
//! - The time never goes back behind what it has certainly reached, unless two sources agree that it must.
//! - A message's `im-ts` says that the true time is at least about that ([`Clock::stamped`]): it may have waited, so no more.
//!
//! [`DeviceClock`] is the same around the machine's own monotonic clock.

mod device;
mod moment;

use std::ops::RangeInclusive;

pub use device::DeviceClock;
pub use moment::{Expiry, Moment};

/// Who says what time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimeSource {
    /// A satellite receiver.
    Gnss,
    /// NTP, or a system clock that somebody else keeps right.
    Ntp,
    /// The broker, asked over a round trip.
    Broker,
}

const SOURCES: [TimeSource; 3] = [TimeSource::Gnss, TimeSource::Ntp, TimeSource::Broker];

impl TimeSource {
    fn word(self) -> &'static str {
        match self {
            Self::Gnss => "GNSS",
            Self::Ntp => "NTP",
            Self::Broker => "the broker",
        }
    }
}

/// What a source said, and when it said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Who said it.
    pub source: TimeSource,
    /// The monotonic time it is about, milliseconds.
    pub monotonic_ms: u64,
    /// The time it said, milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// How far it may be off either way, milliseconds.
    pub error_ms: u64,
}

impl Reading {
    /// Makes the reading of an answer that came over a network: it was made at some moment between asking and receiving.
    ///
    /// ```
    /// use device_sdk::clock::{Reading, TimeSource};
    /// let reading = Reading::round_trip(TimeSource::Broker, 1_000, 1_200, 1_800_000_000_000);
    /// assert_eq!((reading.monotonic_ms, reading.error_ms), (1_100, 100));
    /// ```
    pub fn round_trip(source: TimeSource, asked_ms: u64, received_ms: u64, unix_ms: u64) -> Self {
        let trip_ms = received_ms.saturating_sub(asked_ms);
        Self { source, monotonic_ms: asked_ms + trip_ms / 2, unix_ms, error_ms: trip_ms.div_ceil(2) }
    }

    /// The interval of the true time at a later moment.
    fn at(&self, monotonic_ms: u64, rules: &ClockRules) -> Interval {
        let age_ms = monotonic_ms.saturating_sub(self.monotonic_ms);
        let error_ms = self.error_ms.saturating_add(rules.drift_ms(age_ms));
        let middle = self.unix_ms.saturating_add(age_ms);
        Interval {
            earliest_unix_ms: middle.saturating_sub(error_ms),
            latest_unix_ms: middle.saturating_add(error_ms),
        }
    }
}

/// Where the true time is: not before the one, not after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Milliseconds since the Unix epoch.
    pub earliest_unix_ms: u64,
    /// Milliseconds since the Unix epoch.
    pub latest_unix_ms: u64,
}

impl Interval {
    /// What is in either. Of two that overlap one may be wrong all the same: the other is in it.
    fn hull(self, other: Self) -> Self {
        Self {
            earliest_unix_ms: self.earliest_unix_ms.min(other.earliest_unix_ms),
            latest_unix_ms: self.latest_unix_ms.max(other.latest_unix_ms),
        }
    }

    /// What is in both.
    fn common(self, other: Self) -> Option<Self> {
        let common = Self {
            earliest_unix_ms: self.earliest_unix_ms.max(other.earliest_unix_ms),
            latest_unix_ms: self.latest_unix_ms.min(other.latest_unix_ms),
        };
        (common.earliest_unix_ms <= common.latest_unix_ms).then_some(common)
    }

    fn middle(self) -> u64 {
        self.earliest_unix_ms + (self.latest_unix_ms - self.earliest_unix_ms) / 2
    }
}

/// What readings must be like.
///
/// ```
/// use device_sdk::clock::ClockRules;
/// // A lock hangs on it: two sources must agree, to five seconds.
/// let rules = ClockRules { sources_min: 2, error_ms_max: 5_000, ..ClockRules::default() };
/// # assert_eq!(rules.drift_ppm, 100);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockRules {
    /// Times that are believed at all, milliseconds since the Unix epoch; by default 2025 to 2099.
    pub plausible_unix_ms: RangeInclusive<u64>,
    /// How fast the monotonic clock may run away, parts per million; by default 100.
    pub drift_ppm: u64,
    /// How vague a time may be, milliseconds; by default 10 s.
    pub error_ms_max: u64,
    /// How many sources must agree; by default 1. Where a lock hangs on the time, 2: then no single one can keep an expired
    /// command alive.
    pub sources_min: usize,
    /// How far the broker's stamps may be ahead, milliseconds; by default 10 s.
    pub stamp_ahead_ms_max: u64,
    /// How often a source must repeat a time that contradicts what it said before; by default 3.
    pub repeats_min: u32,
    /// Over how long it must, milliseconds; by default 10 s.
    pub repeats_over_ms: u64,
}

impl Default for ClockRules {
    fn default() -> Self {
        Self {
            plausible_unix_ms: 1_735_689_600_000..=4_102_444_800_000,
            drift_ppm: 100,
            error_ms_max: 10_000,
            sources_min: 1,
            stamp_ahead_ms_max: 10_000,
            repeats_min: 3,
            repeats_over_ms: 10_000,
        }
    }
}

impl ClockRules {
    fn drift_ms(&self, elapsed_ms: u64) -> u64 {
        elapsed_ms.saturating_mul(self.drift_ppm).div_ceil(1_000_000)
    }
}

/// Why a reading was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadingError {
    /// Years wrong.
    #[error("{} says {unix_ms} ms since 1970, that is not plausible", .by.word())]
    Implausible {
        /// Who.
        by: TimeSource,
        /// What it said.
        unix_ms: u64,
    },
    /// Too vague to be of use.
    #[error("{} is {error_ms} ms vague, the limit is {limit_ms} ms", .by.word())]
    Vague {
        /// Who.
        by: TimeSource,
        /// Its error.
        error_ms: u64,
        /// The limit.
        limit_ms: u64,
    },
    /// It is older than what the same source said already.
    #[error("{} was read before its last reading", .by.word())]
    OutOfOrder {
        /// Who.
        by: TimeSource,
    },
    /// The source contradicts itself, and is not believed until it has repeated the new time.
    #[error("{} stepped by {by_ms} ms; it does not count until it has said so {repeats_min} times", .by.word())]
    Stepped {
        /// Who.
        by: TimeSource,
        /// From what it had said to what it says, milliseconds; negative is back.
        by_ms: i64,
        /// How often it must.
        repeats_min: u32,
    },
}

/// Why the time is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeUnknown {
    /// Nobody has said it, or too long ago.
    #[error("time unknown: no clock has been read lately")]
    NoReading,
    /// Fewer sources than required.
    #[error("time unknown: {have} clock agrees, {need} are needed")]
    TooFew {
        /// How many agree.
        have: usize,
        /// How many must.
        need: usize,
    },
    /// Clocks disagree, and neither side is the majority.
    #[error("time unknown: the clocks disagree by {by_ms} ms")]
    Disputed {
        /// From the earliest to the latest.
        by_ms: u64,
    },
    /// The only clock is behind what the time has certainly reached.
    #[error("time unknown: the clock is {by_ms} ms behind what it has reached before")]
    WentBack {
        /// By how much.
        by_ms: u64,
    },
}

/// What the device knows of the time. Pure: the monotonic time is an argument, in milliseconds, and never goes back.
///
/// ```
/// use device_sdk::clock::{Clock, ClockRules, Reading, TimeSource};
/// let mut clock = Clock::new(ClockRules::default());
/// assert!(clock.now(0).time.is_err());
/// let (monotonic_ms, unix_ms) = (1_000, 1_800_000_000_000);
/// clock.offer(Reading { source: TimeSource::Gnss, monotonic_ms, unix_ms, error_ms: 50 })?;
/// let time = clock.now(61_000).time?;
/// assert!(time.earliest_unix_ms <= unix_ms + 60_000 && unix_ms + 60_000 <= time.latest_unix_ms);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Clock {
    rules: ClockRules,
    states: [SourceState; 3],
    /// The time had certainly reached the second at the first, a monotonic one.
    reached: Option<(u64, u64)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct SourceState {
    believed: Option<Reading>,
    /// What contradicts it: the first such reading, the newest, and how many. The source does not count meanwhile.
    contradiction: Option<(Reading, Reading, u32)>,
}

impl Clock {
    /// Makes a clock that knows nothing yet.
    pub fn new(rules: ClockRules) -> Self {
        Self { rules, states: Default::default(), reached: None }
    }

    /// Takes a reading.
    ///
    /// # Errors
    /// Why it does not count (yet). A contradiction makes the source's older readings count no more either.
    pub fn offer(&mut self, reading: Reading) -> Result<(), ReadingError> {
        let (source, rules) = (reading.source, &self.rules);
        if !rules.plausible_unix_ms.contains(&reading.unix_ms) {
            return Err(ReadingError::Implausible { by: source, unix_ms: reading.unix_ms });
        }
        if reading.error_ms > rules.error_ms_max {
            let (error_ms, limit_ms) = (reading.error_ms, rules.error_ms_max);
            return Err(ReadingError::Vague { by: source, error_ms, limit_ms });
        }
        let state = &mut self.states[source as usize];
        let newest = state.contradiction.map(|(_, newest, _)| newest).or(state.believed);
        if newest.is_some_and(|newest| newest.monotonic_ms > reading.monotonic_ms) {
            return Err(ReadingError::OutOfOrder { by: source });
        }
        let agrees = |with: Reading| {
            let at = reading.monotonic_ms;
            with.at(at, rules).common(reading.at(at, rules)).is_some()
        };
        let Some(believed) = state.believed else {
            state.believed = Some(reading);
            return Ok(());
        };
        if agrees(believed) {
            let aged = believed.at(reading.monotonic_ms, rules);
            let aged_error_ms = (aged.latest_unix_ms - aged.earliest_unix_ms) / 2;
            if reading.error_ms <= aged_error_ms {
                state.believed = Some(reading);
            }
            state.contradiction = None;
            return Ok(());
        }
        let (first, count) = match state.contradiction {
            Some((first, newest, count)) if agrees(newest) => (first, count + 1),
            _ => (reading, 1),
        };
        if count >= rules.repeats_min && reading.monotonic_ms - first.monotonic_ms >= rules.repeats_over_ms {
            *state = SourceState { believed: Some(reading), contradiction: None };
            return Ok(());
        }
        state.contradiction = Some((first, reading, count));
        let expected = believed.at(reading.monotonic_ms, rules).middle();
        let by_ms = i64::try_from(i128::from(reading.unix_ms) - i128::from(expected)).unwrap_or(i64::MAX);
        Err(ReadingError::Stepped { by: source, by_ms, repeats_min: rules.repeats_min })
    }

    /// Notes the `im-ts` of a message that just came. It is a bound, no reading, since the message may have waited for days; and one
    /// with some room, since two clocks that are both right still differ.
    pub fn stamped(&mut self, monotonic_ms: u64, unix_ms: u64) {
        self.at_least(monotonic_ms, unix_ms.saturating_sub(self.rules.stamp_ahead_ms_max));
    }

    /// Notes that the true time has reached this one for certain, as a journal says.
    pub fn at_least(&mut self, monotonic_ms: u64, unix_ms: u64) {
        if self.rules.plausible_unix_ms.contains(&unix_ms)
            && self.reached_at(monotonic_ms).is_none_or(|reached| reached < unix_ms)
        {
            self.reached = Some((monotonic_ms, unix_ms));
        }
    }

    /// Returns what is known of the time at this moment.
    pub fn now(&mut self, monotonic_ms: u64) -> Moment {
        let time = self.estimate(monotonic_ms);
        let reached_unix_ms = self.reached_at(monotonic_ms).unwrap_or(0);
        Moment { monotonic_ms, time, reached_unix_ms }
    }

    fn estimate(&mut self, monotonic_ms: u64) -> Result<Interval, TimeUnknown> {
        let (agreed, count) = self.agreement(monotonic_ms)?;
        if count < self.rules.sources_min {
            return Err(TimeUnknown::TooFew { have: count, need: self.rules.sources_min });
        }
        let reached = self.reached_at(monotonic_ms).unwrap_or(0);
        if agreed.latest_unix_ms < reached && count < 2 {
            return Err(TimeUnknown::WentBack { by_ms: reached - agreed.latest_unix_ms });
        }
        // Two clocks that agree overrule one that was believed alone, or a broker's: else one lie would last for ever.
        let overruled = agreed.latest_unix_ms < reached;
        let earliest = if overruled { agreed.earliest_unix_ms } else { agreed.earliest_unix_ms.max(reached) };
        self.reached = Some((monotonic_ms, earliest));
        Ok(Interval { earliest_unix_ms: earliest, ..agreed })
    }

    /// The interval of the sources that are most to agree, and how many they are.
    fn agreement(&self, monotonic_ms: u64) -> Result<(Interval, usize), TimeUnknown> {
        let vague_max = 2 * self.rules.error_ms_max;
        let intervals: Vec<Interval> = SOURCES
            .iter()
            .map(|source| self.states[*source as usize])
            .filter(|state| state.contradiction.is_none())
            .filter_map(|state| state.believed)
            .map(|reading| reading.at(monotonic_ms, &self.rules))
            .filter(|interval| interval.latest_unix_ms - interval.earliest_unix_ms <= vague_max)
            .collect();
        let mut best: Option<(Interval, usize)> = None;
        let mut is_disputed = false;
        for group in 1..1_u32 << intervals.len() {
            let members = intervals.iter().enumerate().filter(|(at, _)| group & (1 << at) != 0);
            let members = members.map(|(_, interval)| *interval);
            let common = members.clone().map(Some).reduce(|a, b| a?.common(b?)).flatten();
            let Some(hull) = members.reduce(Interval::hull).filter(|_| common.is_some()) else { continue };
            let count = group.count_ones() as usize;
            match best {
                Some((_, most)) if count < most => {}
                Some((_, most)) if count == most => is_disputed = true,
                _ => (best, is_disputed) = (Some((hull, count)), false),
            }
        }
        match best {
            None => Err(TimeUnknown::NoReading),
            Some(_) if is_disputed => {
                let earliest = intervals.iter().map(|interval| interval.middle()).min().unwrap_or(0);
                let latest = intervals.iter().map(|interval| interval.middle()).max().unwrap_or(0);
                Err(TimeUnknown::Disputed { by_ms: latest - earliest })
            }
            Some(agreed) => Ok(agreed),
        }
    }

    fn reached_at(&self, monotonic_ms: u64) -> Option<u64> {
        let (at, unix_ms) = self.reached?;
        let elapsed_ms = monotonic_ms.saturating_sub(at);
        Some(unix_ms.saturating_add(elapsed_ms - self.rules.drift_ms(elapsed_ms).min(elapsed_ms)))
    }
}

#[cfg(test)]
mod tests;
