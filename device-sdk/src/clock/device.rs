//! The clock of this machine: [`Clock`] around its monotonic clock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Clock, ClockRules, Moment, Reading, ReadingError, TimeSource};

/// How wrong a system's clock may be that NTP keeps: what it corrects at once is no step.
const SYSTEM_ERROR_MS: u64 = 50;

/// A handle to the device's time; clones share it. Feed it from every source there is, and give one to the command runner.
///
/// The monotonic clock under it is the one that goes on while the machine sleeps.
///
/// ```
/// use device_sdk::clock::{ClockRules, DeviceClock, Expiry};
///
/// let clock = DeviceClock::new(ClockRules::default());
/// assert!(clock.moment().time.is_err(), "nobody has told it the time");
/// // A receiver says it, over a serial line that takes a while.
/// clock.offer_gnss(1_800_000_000_000, 1_500)?;
/// let moment = clock.moment();
/// assert_eq!(moment.expiry(1_800_000_060_000), Expiry::Ahead);
/// // What may have expired has.
/// assert!(matches!(moment.expiry(1_800_000_001_000), Expiry::Past { .. }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct DeviceClock {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    clock: Clock,
    trusts_system: bool,
}

impl DeviceClock {
    /// Makes a clock that knows only what it is told: the system's time does not count.
    pub fn new(rules: ClockRules) -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { clock: Clock::new(rules), trusts_system: false })) }
    }

    /// Makes a clock that takes the system's time for NTP's, wherever somebody else keeps that right. It is read at every
    /// look; a step makes the time unknown until it has been seen at three looks over ten seconds.
    ///
    /// ```
    /// use device_sdk::clock::DeviceClock;
    /// assert!(DeviceClock::system().moment().label_unix_ms() > 1_735_689_600_000);
    /// ```
    pub fn system() -> Self {
        let clock = Self::new(ClockRules::default());
        clock.lock().trusts_system = true;
        clock
    }

    /// Returns the monotonic time that readings and fixes are labelled with, milliseconds since the machine started.
    pub fn monotonic_ms(&self) -> u64 {
        monotonic_ms()
    }

    /// Takes a reading.
    ///
    /// ```
    /// use device_sdk::clock::{ClockRules, DeviceClock, Reading, TimeSource};
    ///
    /// let clock = DeviceClock::new(ClockRules::default());
    /// let asked_ms = clock.monotonic_ms();
    /// // … a time server answers …
    /// let reading = Reading::round_trip(TimeSource::Ntp, asked_ms, clock.monotonic_ms(), 1_800_000_000_000);
    /// clock.offer(reading)?;
    /// assert!(clock.moment().time.is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Clock::offer`].
    pub fn offer(&self, reading: Reading) -> Result<(), ReadingError> {
        self.lock().clock.offer(reading)
    }

    /// Takes the time that a GNSS receiver says now.
    ///
    /// # Errors
    /// As for [`Clock::offer`].
    pub fn offer_gnss(&self, unix_ms: u64, error_ms: u64) -> Result<(), ReadingError> {
        let monotonic_ms = self.monotonic_ms();
        self.offer(Reading { source: TimeSource::Gnss, monotonic_ms, unix_ms, error_ms })
    }

    /// Notes that the true time has reached this one: see [`Clock::at_least`].
    pub fn at_least(&self, unix_ms: u64) {
        self.lock().clock.at_least(monotonic_ms(), unix_ms);
    }

    /// Notes the `im-ts` of a message that just came: see [`Clock::stamped`].
    pub fn stamped(&self, unix_ms: u64) {
        self.lock().clock.stamped(monotonic_ms(), unix_ms);
    }

    /// Returns what is known of the time now.
    pub fn moment(&self) -> Moment {
        let mut inner = self.lock();
        if inner.trusts_system {
            // Between the two clocks the thread may have to wait: as with an answer over a network.
            let before_ms = monotonic_ms();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let unix_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
            let mut reading = Reading::round_trip(TimeSource::Ntp, before_ms, monotonic_ms(), unix_ms);
            reading.error_ms += SYSTEM_ERROR_MS;
            if let Err(error) = inner.clock.offer(reading) {
                tracing::warn!(%error, "the system's time is not believed");
            }
        }
        inner.clock.now(monotonic_ms())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(target_os = "linux")]
fn monotonic_ms() -> u64 {
    use rustix::time::{ClockId, clock_gettime};
    let now = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.unwrap_or(0) * 1_000 + nanos.unwrap_or(0) / 1_000_000
}

#[cfg(not(target_os = "linux"))]
fn monotonic_ms() -> u64 {
    use std::sync::OnceLock;
    use std::time::Instant;
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_time_is_known_at_once_and_a_fresh_clock_knows_nothing() {
        assert!(DeviceClock::new(ClockRules::default()).moment().time.is_err());
        let clock = DeviceClock::system();
        let first = clock.moment();
        let second = clock.clone().moment();
        assert!(first.time.is_ok() && second.time.is_ok(), "{first:?} {second:?}");
        assert!(second.monotonic_ms >= first.monotonic_ms && first.monotonic_ms > 0);
        // What a broker's message proves holds for all handles.
        clock.at_least(first.label_unix_ms() + 3_600_000);
        assert!(clock.moment().time.unwrap_err().to_string().contains("behind what it has reached"));
    }

    #[test]
    fn a_receivers_time_counts_from_when_it_came() {
        let clock = DeviceClock::new(ClockRules::default());
        clock.offer_gnss(1_800_000_000_000, 100).unwrap();
        let time = clock.moment().time.unwrap();
        assert!(time.earliest_unix_ms >= 1_800_000_000_000 - 100);
        assert!(clock.offer_gnss(900_000_000_000, 100).unwrap_err().to_string().contains("GNSS says"));
    }
}
