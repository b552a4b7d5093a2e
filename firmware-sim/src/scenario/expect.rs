//! What must come of a run, beyond what must always hold: that no record is lost and no lock opens wrongly.

use serde::Deserialize;

use super::between;

/// Bounds on the counts of a run; what is not given is not looked at, except drops and expiry, which are 0 then.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// Records that policy may drop for want of room.
    pub dropped_max: u64,
    /// Records that may expire.
    pub expired_max: u64,
    /// Records that the queue may refuse because its flash failed, or that a power cut may take before they are accepted.
    pub refused_max: u64,
    /// The latency that 99 of 100 records must keep, seconds from the moment for which they were meant.
    pub latency_p99_max_s: Option<f64>,
    /// The same for half of them.
    pub latency_p50_max_s: Option<f64>,
    /// Links that may end other than by the device's power.
    pub link_drops_max: Option<u64>,
    /// Pings of all devices until records end.
    pub pings_max: Option<u64>,
    /// What every heartbeat that learns must have come to when records end, seconds, at least; and it has settled.
    pub heartbeat_min_s: Option<u64>,
    /// The same at most.
    pub heartbeat_max_s: Option<u64>,
    /// Attempts to connect in the busiest second.
    pub connects_per_s_max: Option<u64>,
    /// Locks that must open, at least.
    pub unlocks_min: Option<u64>,
    /// The same at most.
    pub unlocks_max: Option<u64>,
    /// Commands that must be rejected or expire, at least.
    pub refusals_min: Option<u64>,
    /// Releases that devices must have confirmed, at least.
    pub updates_min: Option<u64>,
    /// Trials that must have ended with the old release, at least.
    pub rollbacks_min: Option<u64>,
    /// Manifests that devices must have refused, at least.
    pub updates_refused_min: Option<u64>,
    /// Trucks that must have arrived for good, at least.
    pub arrivals_min: Option<u64>,
    /// Trucks that must have been seen off their route, at least, and are then not seen so when they are not.
    pub deviations_min: Option<u64>,
    /// The same at most.
    pub deviations_max: Option<u64>,
}

impl Expect {
    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(bound) = self.latency_p99_max_s {
            between("expect.latency_p99_max_s", bound, 0.001, 1e9)?;
        }
        if let Some(bound) = self.latency_p50_max_s {
            between("expect.latency_p50_max_s", bound, 0.001, 1e9)?;
        }
        Ok(())
    }
}
