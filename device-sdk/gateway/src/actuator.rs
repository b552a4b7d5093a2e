//! The lock as the device's actuator.

use device_sdk::commands::{Actuator, Command};
use device_sdk::serial::{LockState, SerialLock};
use serde_json::{Value, json};
use tokio::sync::watch;

/// The command that the guard stands before.
pub(crate) const UNLOCK: &str = "unlock";
const LOCK: &str = "lock";
const STATE: &str = "state";

/// Carries commands out at the lock.
pub(crate) struct LockActuator {
    lock: SerialLock,
    /// Where it stands, for whoever reports it.
    state: watch::Sender<Option<LockState>>,
}

impl LockActuator {
    pub(crate) fn new(lock: SerialLock, state: watch::Sender<Option<LockState>>) -> Self {
        Self { lock, state }
    }
}

impl Actuator for LockActuator {
    fn check(&mut self, command: &Command, _now_unix_ms: u64) -> Result<(), String> {
        match command.name.as_str() {
            UNLOCK | LOCK | STATE => Ok(()),
            other => Err(format!("there is no command {other:?}, only {UNLOCK:?}, {LOCK:?} and {STATE:?}")),
        }
    }

    fn execute(&mut self, command: &Command) -> Result<Value, String> {
        let (state, wanted) = match command.name.as_str() {
            UNLOCK => (self.lock.unlock(), Some(LockState::Unlocked)),
            LOCK => (self.lock.lock(), Some(LockState::Locked)),
            _ => (self.lock.state(), None),
        };
        let state = state.map_err(|error| error.to_string())?;
        self.state.send_replace(Some(state));
        if wanted.is_some_and(|wanted| wanted != state) {
            return Err(format!("the lock is {state} after it was told to {}", command.name));
        }
        Ok(json!({ "lock": state.to_string() }))
    }
}
