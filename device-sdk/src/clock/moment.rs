//! One moment as the device knows it, and what it says about an expiry.

use super::{Interval, TimeUnknown};

/// What is known of the time at one moment.
///
/// ```
/// use device_sdk::clock::{Expiry, Moment};
/// let moment = Moment::exact(1_800_000_000_000);
/// assert_eq!(moment.expiry(1_800_000_000_001), Expiry::Ahead);
/// assert_eq!(moment.expiry(1_799_999_999_000), Expiry::Past { late_ms: 1_000 });
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The monotonic clock, milliseconds.
    pub monotonic_ms: u64,
    /// Where the true time is, or why that is not known.
    pub time: Result<Interval, TimeUnknown>,
    /// What the true time has certainly reached, milliseconds since the Unix epoch; 0 when nothing is known.
    pub reached_unix_ms: u64,
}

/// Whether something has expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Certainly not.
    Ahead,
    /// It has, or may have.
    Past {
        /// By how much at most, milliseconds.
        late_ms: u64,
    },
    /// Nobody can tell.
    Unknown(TimeUnknown),
}

impl Moment {
    /// Makes a moment whose time is known exactly; the monotonic clock reads the same. For simulated clocks.
    pub fn exact(unix_ms: u64) -> Self {
        let time = Ok(Interval { earliest_unix_ms: unix_ms, latest_unix_ms: unix_ms });
        Self { monotonic_ms: unix_ms, time, reached_unix_ms: unix_ms }
    }

    /// Says whether a time has been reached: certainly not, maybe or certainly, or nobody can tell. What may have expired has: a
    /// door that opens late is worse than one that is asked twice.
    pub fn expiry(&self, expires_at_unix_ms: u64) -> Expiry {
        if self.reached_unix_ms >= expires_at_unix_ms {
            return Expiry::Past { late_ms: self.reached_unix_ms - expires_at_unix_ms };
        }
        match &self.time {
            Ok(time) if time.latest_unix_ms < expires_at_unix_ms => Expiry::Ahead,
            Ok(time) => Expiry::Past { late_ms: time.latest_unix_ms - expires_at_unix_ms },
            Err(why) => Expiry::Unknown(why.clone()),
        }
    }

    /// Returns the best guess of the time, for labels, milliseconds since the Unix epoch.
    pub fn label_unix_ms(&self) -> u64 {
        self.time.as_ref().map_or(self.reached_unix_ms, |time| time.middle())
    }
}
