//! Remote commands that run at most once, across restarts.
//!
//! A command arrives on `dev/{id}/cmd` and goes through these states; each is durable in the [`CommandJournal`] before it is
//! published on `dev/{id}/cmd/result`, and they are published in order, again after a restart until the broker has them.
//!
//! ```text
//!  arrives ──checks──> accepted ──> executing ──last look──> the actuator fires ──> done
//!     │                   │             │                                     └──> failed
//!     └───────────────────┴─────────────┴──> rejected, expired    (a restart: failed)
//! ```
//!
//! The checks are the expiry by the [clock](crate::clock), the [guard](crate::guard) if there is one, and the actuator's own.
//! They are made when the command arrives and once more at the last moment, since writing to a slow flash takes its time.
//! So a command id gets exactly one final result, however often the command arrives and wherever the power is cut: a
//! repeated id is answered with the recorded result; one that was accepted and not begun goes on after a restart; one that was
//! executing ends as `failed`, since nobody knows whether it ran.
//!
//! [`CommandDesk`] is all of it without a runtime, a clock or a socket; [`CommandRunner`] joins it to a [`Client`](crate::Client).

mod desk;
mod journal;
mod record;
mod runner;

pub use desk::{Arrival, CommandDesk, CommandGuard, LastLook, Report, Running, Taken};
pub use journal::{
    COMMANDS_KEPT_MIN, COMMANDS_MAX, CommandJournal, JournalError, KEPT_BYTES_MAX, KEPT_MS, NONCES_MAX,
    RESULT_BYTES_MAX, Standing,
};
pub use protocol::im::{Command, CommandResult, CommandStatus as Status};
pub use runner::{CommandError, CommandRunner, Handled, RunnerOptions};

use serde::{Deserialize, Serialize};

/// What carries commands out.
///
/// Both calls run on a blocking thread, one command at a time; a panic inside them fails the command.
///
/// ```
/// use device_sdk::commands::{Actuator, Command};
/// use serde_json::{Value, json};
///
/// struct Horn;
///
/// impl Actuator for Horn {
///     fn check(&mut self, command: &Command, _now_unix_ms: u64) -> Result<(), String> {
///         if command.name == "honk" { Ok(()) } else { Err(format!("a horn cannot {}", command.name)) }
///     }
///
///     fn execute(&mut self, command: &Command) -> Result<Value, String> {
///         Ok(json!({ "times": command.args["times"].as_u64().unwrap_or(1) }))
///     }
/// }
/// # let command: Command = serde_json::from_str(r#"{"id":"c1","name":"honk","args":{"times":2}}"#)?;
/// # assert_eq!((Horn.check(&command, 0), Horn.execute(&command)), (Ok(()), Ok(json!({ "times": 2 }))));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Actuator: Send {
    /// Decides whether the command may run now; the reason of a refusal goes into the `rejected` result. Asked when the
    /// command arrives, and again at the last moment.
    ///
    /// # Errors
    /// Why not, for people.
    fn check(&mut self, command: &Command, now_unix_ms: u64) -> Result<(), String>;

    /// Does it; called at most once a command id. The value goes into the `done` result as `data`.
    ///
    /// # Errors
    /// What went wrong, for people: the reason of the `failed` result.
    fn execute(&mut self, command: &Command) -> Result<serde_json::Value, String>;
}

/// An approval that was used: its nonce is not taken again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UsedNonce {
    /// Who approved.
    pub approver: String,
    /// What makes the approval unique.
    pub nonce: String,
    /// When the approval ends, milliseconds since the Unix epoch; until then the nonce is remembered in any case.
    pub expires_at: u64,
}
