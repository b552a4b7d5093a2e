//! The lock of a truck's doors, which decides for itself.
//!
//! A command is a wish. The lock opens only when the command has not expired, the truck stands, and a fix that is fresh and
//! exact enough is inside the lock's own fence: whoever sends the command, and whatever they believe about the truck. It
//! looks twice, when the command is checked and again at the moment of opening. Closing is always allowed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use device_sdk::commands::{Actuator, Command};
use device_sdk::guard::{Area, GuardFix, GuardRules, LockGuard, Position};
use serde_json::{Value, json};
use tracks::Fix;
use tracks::fence::Fence;

/// The command that opens.
pub const UNLOCK: &str = "unlock";
/// The command that closes.
pub const LOCK: &str = "lock";

/// How many standard deviations inside its fence a truck of a scenario must be.
pub(crate) const MARGIN_ACCURACIES: f64 = 3.0;

/// A scenario's fence as the SDK's guard takes it; `None` for one that is no circle.
pub(crate) fn area(fence: &Fence) -> Option<Area> {
    let Fence::Circle(circle) = fence else { return None };
    let centre = Position { lat: circle.centre().lat, lon: circle.centre().lon };
    Area::circle(centre, circle.radius_m()).ok()
}

/// The SDK's guard in front of the lock of a scenario's truck.
pub(crate) fn guard(device: &str, area: Area, margin_accuracies: f64) -> LockGuard {
    let rules = GuardRules { margin_accuracies, ..GuardRules::inside(area) };
    LockGuard::new(device, [UNLOCK], rules)
}

/// A fix as the guard takes it.
pub(crate) fn guard_fix(fix: &Fix, monotonic_ms: u64) -> GuardFix {
    let position = Position { lat: fix.lat, lon: fix.lon };
    GuardFix { monotonic_ms, position, accuracy_m: fix.sigma_m(), speed_mps: fix.speed_mps }
}

/// When a lock opens.
#[derive(Debug, Clone)]
pub struct LockRules {
    /// Where.
    pub fence: Fence,
    /// How old the fix may be, in milliseconds.
    pub fix_age_max_ms: i64,
    /// How vague it may be: one standard deviation in metres.
    pub sigma_max_m: f64,
}

impl LockRules {
    /// Rules for a fence: a fix of at most 5 s and 25 m.
    pub fn inside(fence: impl Into<Fence>) -> LockRules {
        LockRules { fence: fence.into(), fix_age_max_ms: 5_000, sigma_max_m: 25.0 }
    }
}

/// A handle to a lock: one is the actuator of the commands, others feed it with fixes and ask for its state.
#[derive(Debug, Clone)]
pub struct Lock {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    rules: LockRules,
    /// The device's clock, which is also that of the fixes.
    now_ms: i64,
    fix: Option<Fix>,
    is_open: bool,
}

impl Lock {
    /// Makes a closed lock that knows no fix.
    pub fn new(rules: LockRules) -> Lock {
        Lock { inner: Arc::new(Mutex::new(Inner { rules, now_ms: 0, fix: None, is_open: false })) }
    }

    /// Tells the lock the device's time in milliseconds since the Unix epoch, and the fix of this moment, if there is one.
    pub fn observe(&self, now_ms: i64, fix: Option<&Fix>) {
        let mut inner = self.lock();
        inner.now_ms = now_ms;
        if let Some(fix) = fix {
            inner.fix = Some(fix.clone());
        }
    }

    /// Whether the doors can be opened.
    pub fn is_open(&self) -> bool {
        self.lock().is_open
    }

    /// The lock as the device reports it: `{"lock":"open"|"closed","ts"}`.
    pub fn report(&self) -> Value {
        let inner = self.lock();
        json!({ "lock": word(inner.is_open), "ts": inner.now_ms })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No call panics halfway through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Why the lock must stay closed where the truck is now.
    fn forbids(&self) -> Result<(), String> {
        let Some(fix) = self.fix.as_ref().filter(|fix| fix.is_usable()) else {
            return Err("there is no position fix yet".to_owned());
        };
        let (age_ms, age_max_ms) = (self.now_ms.saturating_sub(fix.ts_ms), self.rules.fix_age_max_ms);
        if age_ms > age_max_ms {
            return Err(format!(
                "the last position fix is {:.1} s old, the limit is {:.1} s",
                seconds(age_ms),
                seconds(age_max_ms)
            ));
        }
        match fix.speed_mps {
            Some(0.0) => {}
            Some(speed_mps) => return Err(format!("speed is {:.1} km/h, must be 0", speed_mps * 3.6)),
            None => return Err("speed is not known, must be 0".to_owned()),
        }
        let (sigma_m, sigma_max_m) = (fix.sigma_m(), self.rules.sigma_max_m);
        if sigma_m > sigma_max_m {
            return Err(format!("position is known to {sigma_m:.0} m only, must be to {sigma_max_m:.0} m"));
        }
        let outside_m = self.rules.fence.outside_m(fix.position());
        if outside_m > 0.0 {
            return Err(format!("position is {outside_m:.0} m outside the fence"));
        }
        Ok(())
    }
}

impl Actuator for Lock {
    fn check(&mut self, command: &Command, now_unix_ms: u64) -> Result<(), String> {
        if let Some(expires_at) = command.expires_at.filter(|&expires_at| expires_at <= now_unix_ms) {
            return Err(format!(
                "the command expired {:.1} s ago",
                (now_unix_ms - expires_at) as f64 / 1_000.0
            ));
        }
        match command.name.as_str() {
            UNLOCK => self.lock().forbids(),
            LOCK => Ok(()),
            other => {
                let name: String = other.chars().take(64).collect();
                Err(format!("there is no command {name:?}, only {UNLOCK:?} and {LOCK:?}"))
            }
        }
    }

    fn execute(&mut self, command: &Command) -> Result<Value, String> {
        let mut inner = self.lock();
        // The truck may have started since the check.
        if command.name == UNLOCK {
            inner.forbids()?;
        }
        inner.is_open = command.name == UNLOCK;
        let place = inner.fix.as_ref().map(|fix| (fix.lat, fix.lon));
        Ok(match place {
            Some((lat, lon)) => json!({ "lock": word(inner.is_open), "lat": lat, "lon": lon }),
            None => json!({ "lock": word(inner.is_open) }),
        })
    }
}

fn word(is_open: bool) -> &'static str {
    if is_open { "open" } else { "closed" }
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use tracks::fence::Circle;
    use tracks::{FixKind, LatLon};

    use super::*;

    const NOW_MS: i64 = 1_800_000_000_000;
    const YARD: LatLon = LatLon::new(60.17, 24.94);

    fn parked() -> Fix {
        Fix { hdop: Some(1.0), speed_mps: Some(0.0), ..Fix::at(NOW_MS - 1_000, YARD) }
    }

    fn lock_with(fix: Option<Fix>) -> Lock {
        let lock = Lock::new(LockRules::inside(Circle::new(YARD, 60.0).unwrap()));
        lock.observe(NOW_MS, fix.as_ref());
        lock
    }

    fn command(name: &str) -> Command {
        Command {
            id: "c-1".to_owned(),
            name: name.to_owned(),
            args: Value::Null,
            expires_at: Some(NOW_MS as u64 + 30_000),
        }
    }

    #[test]
    fn a_parked_truck_in_its_yard_opens_and_closes() {
        let mut lock = lock_with(Some(parked()));
        let now = NOW_MS as u64;
        assert!(!lock.is_open());
        assert_eq!(lock.check(&command("unlock"), now), Ok(()));
        assert_eq!(
            lock.execute(&command("unlock")),
            Ok(json!({ "lock": "open", "lat": 60.17, "lon": 24.94 }))
        );
        assert!(lock.is_open());
        assert_eq!(lock.report(), json!({ "lock": "open", "ts": NOW_MS }));
        assert_eq!(lock.check(&command("lock"), now), Ok(()));
        assert!(lock.execute(&command("lock")).is_ok());
        assert!(!lock.is_open());
    }

    #[test]
    fn every_reason_against_opening_is_a_sentence_with_its_values() {
        let table = [
            (None, "there is no position fix yet"),
            (Some(Fix { fix: FixKind::None, ..parked() }), "there is no position fix yet"),
            (
                Some(Fix { ts_ms: NOW_MS - 5_001, ..parked() }),
                "the last position fix is 5.0 s old, the limit is 5.0 s",
            ),
            (Some(Fix { speed_mps: Some(12.3 / 3.6), ..parked() }), "speed is 12.3 km/h, must be 0"),
            (Some(Fix { speed_mps: Some(-0.5), ..parked() }), "speed is -1.8 km/h, must be 0"),
            (Some(Fix { speed_mps: None, ..parked() }), "speed is not known, must be 0"),
            (Some(Fix { hdop: Some(6.0), ..parked() }), "position is known to 30 m only, must be to 25 m"),
            (
                Some(Fix { lat: YARD.destination(0.0, 100.0).lat, ..parked() }),
                "position is 40 m outside the fence",
            ),
        ];
        for (fix, want) in table {
            let mut lock = lock_with(fix);
            assert_eq!(lock.check(&command("unlock"), NOW_MS as u64), Err(want.to_owned()));
            // Nor does it open when the check is left out.
            assert_eq!(lock.execute(&command("unlock")), Err(want.to_owned()));
            assert!(!lock.is_open());
            assert_eq!(lock.check(&command("lock"), NOW_MS as u64), Ok(()), "closing is always allowed");
        }
    }

    #[test]
    fn a_late_command_and_an_unknown_one_are_refused() {
        let mut lock = lock_with(Some(parked()));
        let at_expiry = NOW_MS as u64 + 30_000;
        assert_eq!(
            lock.check(&command("unlock"), at_expiry + 2_500),
            Err("the command expired 2.5 s ago".to_owned())
        );
        assert!(lock.check(&command("unlock"), at_expiry).is_err());
        assert!(lock.check(&command("unlock"), at_expiry - 1).is_ok());
        assert_eq!(
            lock.check(&command("explode"), NOW_MS as u64),
            Err(r#"there is no command "explode", only "unlock" and "lock""#.to_owned())
        );
    }

    #[test]
    fn a_truck_that_starts_between_check_and_opening_stays_closed() {
        let mut lock = lock_with(Some(parked()));
        assert_eq!(lock.check(&command("unlock"), NOW_MS as u64), Ok(()));
        lock.observe(NOW_MS + 1_000, Some(&Fix { ts_ms: NOW_MS + 1_000, speed_mps: Some(2.0), ..parked() }));
        assert_eq!(lock.execute(&command("unlock")), Err("speed is 7.2 km/h, must be 0".to_owned()));
        assert!(!lock.is_open());
    }

    #[test]
    fn a_receiver_that_falls_silent_closes_the_door_to_commands() {
        let lock = lock_with(Some(parked()));
        lock.observe(NOW_MS + 10_000, None);
        assert!(lock.clone().check(&command("unlock"), NOW_MS as u64).is_err());
    }
}
