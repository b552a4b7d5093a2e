//! The guard of a lock: whether it may open here and now, decided on the device.
//!
//! A command is a wish. Whoever sends it and whatever they believe about the truck, the lock opens only when
//!
//! - the last fix is fresh, by the monotonic clock, and exact enough;
//! - the truck has stood still for some seconds, as the fixes say by their speed and by their places;
//! - it is inside the fence, by the accuracy's margin and by what it could have moved since the fix;
//! - the fixes are consistent: after a leap that no truck makes (a spoofed receiver), a pause, or a restart, it waits until they
//!   have been for [`GuardRules::settle_ms`];
//! - an approver of the list has [signed](Approvers) this very command, with a nonce that was never used.
//!
//! [`judge`] is that as a pure function over the last [`Fixes`]; [`LockGuard`] puts it before the commands of a
//! [`CommandRunner`](crate::commands::CommandRunner). Reasons are sentences for a dispatcher.
//!
//! What it cannot tell: a spoofer who moves the place as slowly as a truck and says speeds to match, or who leaps and keeps it up
//! for longer than `settle_ms`; and a leap within the noise, which the margin is for.

mod approval;
mod area;
mod fixes;
mod lock;

pub use approval::{Approval, ApprovalError, Approvers, approval_text};
pub use area::{Area, AreaError, Position};
pub use fixes::{FIXES_MAX, Fixes, GuardFix};
pub use lock::{FixFeed, LockGuard};

/// When a lock may open.
///
/// ```
/// use device_sdk::guard::{Area, GuardRules, Position};
/// let yard = Area::circle(Position { lat: 60.1708, lon: 24.9375 }, 80.0)?;
/// // This receiver never says exactly 0.
/// let rules = GuardRules { speed_mps_max: 0.3, still_ms: 10_000, ..GuardRules::inside(yard) };
/// # assert_eq!(rules.settle_ms, 30_000);
/// # Ok::<(), device_sdk::guard::AreaError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct GuardRules {
    /// Where.
    pub area: Area,
    /// How old the last fix may be, milliseconds; by default 5 s.
    pub fix_age_ms_max: u64,
    /// How vague it may be: one standard deviation in metres; by default 25 m.
    pub accuracy_m_max: f64,
    /// How many of those the truck must be inside by; by default 2.
    pub margin_accuracies: f64,
    /// What still counts as standing, metres a second; by default 0. Receivers that never say 0 need 0.3 or so.
    pub speed_mps_max: f64,
    /// How long it must have stood, milliseconds; by default 5 s.
    pub still_ms: u64,
    /// How fast a truck can go, metres a second; a faster change of place is a leap, and so is one that it cannot have made from
    /// the speed it had. By default 45 m/s.
    pub leap_mps: f64,
    /// How long a pause between fixes may be, milliseconds; a longer one begins the waiting anew. By default 2.5 s.
    pub pause_ms_max: u64,
    /// How long the fixes must have been consistent, milliseconds; by default 30 s.
    pub settle_ms: u64,
    /// How fast it can start, metres a second squared: what it may have moved since the last fix; by default 1.5.
    pub start_mps2: f64,
}

impl GuardRules {
    /// Makes the default rules for an area.
    pub fn inside(area: Area) -> Self {
        Self {
            area,
            fix_age_ms_max: 5_000,
            accuracy_m_max: 25.0,
            margin_accuracies: 2.0,
            speed_mps_max: 0.0,
            still_ms: 5_000,
            leap_mps: 45.0,
            pause_ms_max: 2_500,
            settle_ms: 30_000,
            start_mps2: 1.5,
        }
    }
}

/// Why the lock must stay closed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// No receiver, or no sky.
    #[error("there is no position fix yet")]
    NoFix,
    /// The receiver has fallen silent.
    #[error("the last position fix is {:.1} s old, the limit is {:.1} s", seconds(*.age_ms), seconds(*.limit_ms))]
    Stale {
        /// Milliseconds.
        age_ms: u64,
        /// Milliseconds.
        limit_ms: u64,
    },
    /// Nobody knows where within what.
    #[error("position is known to {accuracy_m:.0} m only, must be to {limit_m:.0} m")]
    Vague {
        /// One standard deviation, metres.
        accuracy_m: f64,
        /// Metres.
        limit_m: f64,
    },
    /// It moves.
    #[error("speed is {:.0} km/h, must be 0", (speed_mps * 3.6).abs().max(1.0))]
    Moving {
        /// Metres a second.
        speed_mps: f64,
    },
    /// The receiver says no speed.
    #[error("speed is not known, must be 0")]
    SpeedUnknown,
    /// It has not stood long enough.
    #[error("has stood still for {:.0} s, must be {:.0} s", seconds(*.still_ms), seconds(*.need_ms))]
    NotStillYet {
        /// Milliseconds.
        still_ms: u64,
        /// Milliseconds.
        need_ms: u64,
    },
    /// The speed says that it stands and the places that it does not.
    #[error("position has moved {moved_m:.0} m although speed is said to be 0")]
    Drifting {
        /// Metres.
        moved_m: f64,
    },
    /// A leap, or a start, too short ago.
    #[error("position is not trusted yet: steady for {:.0} s, must be {:.0} s", seconds(*.steady_ms), seconds(*.need_ms))]
    NotSettled {
        /// Milliseconds.
        steady_ms: u64,
        /// Milliseconds.
        need_ms: u64,
    },
    /// Elsewhere.
    #[error("position is {outside_m:.0} m outside the fence")]
    Outside {
        /// Metres.
        outside_m: f64,
    },
    /// Inside, but not surely.
    #[error("position is {inside_m:.0} m inside the fence, must be {margin_m:.0} m to be sure")]
    TooNearTheEdge {
        /// Metres.
        inside_m: f64,
        /// Metres.
        margin_m: f64,
    },
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

/// Decides whether a lock may open at this moment of the monotonic clock. Pure.
///
/// ```
/// use device_sdk::guard::{Area, Fixes, GuardFix, GuardRules, Position, judge};
/// let yard = Position { lat: 60.17, lon: 24.94 };
/// let rules = GuardRules::inside(Area::circle(yard, 80.0)?);
/// let mut fixes = Fixes::default();
/// for second in 0..=30 {
///     let monotonic_ms = second * 1_000;
///     fixes.observe(GuardFix { monotonic_ms, position: yard, accuracy_m: 5.0, speed_mps: Some(0.0) });
/// }
/// assert_eq!(judge(&rules, &fixes, 31_000), Ok(()));
/// let why = judge(&rules, &fixes, 36_000).unwrap_err();
/// assert_eq!(why.to_string(), "the last position fix is 6.0 s old, the limit is 5.0 s");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The first reason against it.
pub fn judge(rules: &GuardRules, fixes: &Fixes, monotonic_ms: u64) -> Result<(), Refusal> {
    let last = fixes.last().ok_or(Refusal::NoFix)?;
    let age_ms = monotonic_ms.saturating_sub(last.monotonic_ms);
    if age_ms > rules.fix_age_ms_max {
        return Err(Refusal::Stale { age_ms, limit_ms: rules.fix_age_ms_max });
    }
    // A number that is none is refused, here and below.
    if !(last.accuracy_m > 0.0 && last.accuracy_m <= rules.accuracy_m_max) {
        return Err(Refusal::Vague { accuracy_m: last.accuracy_m, limit_m: rules.accuracy_m_max });
    }
    let speed_mps = last.speed_mps.ok_or(Refusal::SpeedUnknown)?;
    if speed_mps.is_nan() || speed_mps.abs() > rules.speed_mps_max {
        return Err(Refusal::Moving { speed_mps });
    }
    let steady_ms = fixes.steady_ms(rules);
    if steady_ms < rules.settle_ms {
        return Err(Refusal::NotSettled { steady_ms, need_ms: rules.settle_ms });
    }
    let still_ms = fixes.still_ms(rules);
    if still_ms < rules.still_ms {
        return Err(Refusal::NotStillYet { still_ms, need_ms: rules.still_ms });
    }
    if let Some(moved_m) = fixes.drift_m(rules) {
        return Err(Refusal::Drifting { moved_m });
    }
    let age_s = seconds(age_ms);
    let moved_m = rules.speed_mps_max * age_s + 0.5 * rules.start_mps2 * age_s * age_s;
    let margin_m = rules.margin_accuracies * last.accuracy_m + moved_m;
    let inside_m = rules.area.inside_m(last.position);
    if inside_m.is_nan() || inside_m < 0.0 {
        return Err(Refusal::Outside { outside_m: -inside_m });
    }
    if inside_m < margin_m {
        return Err(Refusal::TooNearTheEdge { inside_m, margin_m });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
