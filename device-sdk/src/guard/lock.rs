//! The guard in front of a device's commands: rules and approvers for those that open.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Approvers, Fixes, GuardFix, GuardRules, judge};
use crate::clock::Moment;
use crate::commands::{Command, CommandGuard, UsedNonce};

/// Takes the receiver's fixes to the guard; clones feed the same one.
///
/// ```
/// use device_sdk::clock::DeviceClock;
/// use device_sdk::guard::{FixFeed, GuardFix, Position};
///
/// let (feed, clock) = (FixFeed::default(), DeviceClock::system());
/// // For each fix of the receiver:
/// feed.observe(GuardFix {
///     monotonic_ms: clock.monotonic_ms(),
///     position: Position { lat: 60.1708, lon: 24.9375 },
///     accuracy_m: 3.0,
///     speed_mps: Some(0.0),
/// });
/// ```
#[derive(Clone, Debug, Default)]
pub struct FixFeed {
    fixes: Arc<Mutex<Fixes>>,
}

impl FixFeed {
    /// Takes a fix.
    pub fn observe(&self, fix: GuardFix) {
        self.fixes.lock().unwrap_or_else(PoisonError::into_inner).observe(fix);
    }

    fn now(&self) -> Fixes {
        self.fixes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Guards the commands of these names; all others pass, since closing is always allowed.
///
/// ```
/// use device_sdk::clock::{ClockRules, DeviceClock};
/// use device_sdk::commands::RunnerOptions;
/// use device_sdk::guard::{Approvers, Area, GuardRules, LockGuard, Position};
///
/// let yard = Area::circle(Position { lat: 60.17, lon: 24.94 }, 80.0)?;
/// let mut approvers = Approvers::default();
/// approvers.add("ann", &[0x5a; 32])?;
/// let guard = LockGuard::new("truck-7", ["unlock"], GuardRules::inside(yard)).approved_by(approvers);
/// let feed = guard.feed(); // give it the receiver's fixes
/// let clock = DeviceClock::new(ClockRules { sources_min: 2, ..ClockRules::default() });
/// let options = RunnerOptions { clock, guard: Some(Box::new(guard)) };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct LockGuard {
    device: String,
    names: BTreeSet<String>,
    rules: GuardRules,
    approvers: Option<Approvers>,
    feed: FixFeed,
}

impl LockGuard {
    /// Makes a guard of a device's commands of these names that asks for no approval.
    pub fn new<N: Into<String>>(
        device: impl Into<String>,
        names: impl IntoIterator<Item = N>,
        rules: GuardRules,
    ) -> Self {
        let names = names.into_iter().map(Into::into).collect();
        Self { device: device.into(), names, rules, approvers: None, feed: FixFeed::default() }
    }

    /// Asks for an approval of one of these.
    pub fn approved_by(mut self, approvers: Approvers) -> Self {
        self.approvers = Some(approvers);
        self
    }

    /// Takes the fixes of a feed that others take too.
    pub fn fed_by(mut self, feed: FixFeed) -> Self {
        self.feed = feed;
        self
    }

    /// Returns where the fixes go in.
    pub fn feed(&self) -> FixFeed {
        self.feed.clone()
    }
}

impl CommandGuard for LockGuard {
    fn check(&mut self, command: &Command, moment: &Moment) -> Result<Option<UsedNonce>, String> {
        if !self.names.contains(&command.name) {
            return Ok(None);
        }
        if command.expires_at.is_none() {
            return Err(format!("{} needs an expiry (expires_at)", command.name));
        }
        let nonce = match &self.approvers {
            Some(approvers) => {
                Some(approvers.check(&self.device, command).map_err(|error| error.to_string())?)
            }
            None => None,
        };
        judge(&self.rules, &self.feed.now(), moment.monotonic_ms).map_err(|why| why.to_string())?;
        Ok(nonce)
    }
}
