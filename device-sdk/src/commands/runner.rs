//! Runs commands and publishes their results.

use super::{Actuator, CommandJournal, JournalError, Status};
use crate::{Client, Incoming};

/// Takes the commands of one device.
pub struct CommandRunner<A> {
    client: Client,
    device_id: String,
    journal: CommandJournal,
    actuator: A,
}

/// What became of an incoming message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handled {
    /// Its topic is not this device's command topic.
    NotACommand,
    /// It is no command and has no id to answer to; logged.
    Malformed {
        /// What is wrong with it.
        why: String,
    },
    /// The command has ended now.
    Ended {
        /// Its id.
        id: String,
        /// How.
        status: Status,
    },
    /// The id was known; the recorded result was published again.
    Repeated {
        /// Its id.
        id: String,
        /// The recorded result's status.
        status: Status,
    },
}

/// Why a command was not taken: its message must not be acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The journal failed; the command was not run.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl<A: Actuator + 'static> CommandRunner<A> {
    /// Makes the runner of a device, and publishes again the final results that the broker never acknowledged. Must be
    /// called inside a tokio runtime.
    pub fn new(client: Client, device_id: impl Into<String>, journal: CommandJournal, actuator: A) -> Self {
        Self { client, device_id: device_id.into(), journal, actuator }
    }

    /// Takes an incoming message: a command on `dev/{id}/cmd` is run, or answered if its id is known. With manual
    /// acknowledgement, acknowledge the message when this returns `Ok`.
    ///
    /// # Errors
    /// The journal failed.
    pub async fn handle(&mut self, incoming: &Incoming) -> Result<Handled, CommandError> {
        let _ = (&self.client, &self.journal, &self.actuator);
        if incoming.topic != format!("dev/{}/cmd", self.device_id) {
            return Ok(Handled::NotACommand);
        }
        Ok(Handled::Malformed { why: "not readable yet".to_owned() })
    }
}
