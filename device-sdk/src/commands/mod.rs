//! Remote commands that run at most once, across restarts.
//!
//! A command arrives on `dev/{id}/cmd`. Its id is durable in the [`CommandJournal`] before the [`Actuator`] fires, and
//! its final result is durable before it is published on `dev/{id}/cmd/result`. So a command id gets exactly one final
//! result, however often the command arrives and wherever the power is cut: a repeated id is answered with the
//! recorded result, and an id without one after a restart ends as `failed`, since nobody knows whether it ran.

mod journal;
mod runner;

pub use journal::{
    COMMANDS_KEPT_MIN, COMMANDS_MAX, CommandJournal, JournalError, KEPT_BYTES_MAX, KEPT_MS, RESULT_BYTES_MAX,
};
pub use protocol::im::{Command, CommandStatus as Status};
pub use runner::{CommandError, CommandRunner, Handled};

use serde::{Deserialize, Serialize};

/// What carries commands out.
///
/// Both calls run on a blocking thread, one command at a time; a panic inside them fails the command.
pub trait Actuator: Send {
    /// Decides whether the command may run now; the reason of a refusal goes into the `rejected` result.
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

/// A message on `dev/{id}/cmd/result`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommandResult {
    /// The command's id.
    pub id: String,
    /// Where it stands.
    pub status: Status,
    /// What the actuator returned; null unless `done`.
    #[serde(default)]
    pub data: serde_json::Value,
    /// Why, unless all went well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When, milliseconds since the Unix epoch.
    pub at: u64,
}
