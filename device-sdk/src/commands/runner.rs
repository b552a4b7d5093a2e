//! Runs commands and publishes their results.
//!
//! Deciding, journalling and acting happen on one blocking thread, so that they go on although the future of
//! [`CommandRunner::handle`] is dropped. Publishing happens in a task of its own: a program that handles commands in the loop
//! that takes events would otherwise wait for acknowledgements that nobody reads.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use protocol::{QoS, im::IM_ID};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

use super::journal::RESULT_BYTES_MAX;
use super::{Actuator, Command, CommandJournal, CommandResult, JournalError, Status};
use crate::{Client, Incoming, Message, PublishError};

/// Longest command id.
const ID_CHARS_MAX: usize = 64;
/// Results waiting to be published beyond which those that are not final are left out; final ones are bounded
/// by the journal.
const RESULTS_WAITING_MAX: usize = 1_024;
/// Final results whose acknowledgement is awaited at a time.
const UNACKNOWLEDGED_MAX: usize = 64;

/// Takes the commands of one device.
pub struct CommandRunner<A> {
    device_id: String,
    parts: Arc<Parts<A>>,
    publisher: AbortHandle,
}

struct Parts<A> {
    actuator: Mutex<A>,
    answers: Arc<Answers>,
}

/// What the runner and the publishing task share.
struct Answers {
    journal: Mutex<CommandJournal>,
    waiting: Mutex<VecDeque<Answer>>,
    arrived: Notify,
    progressed: Notify,
}

struct Answer {
    result: CommandResult,
    /// Whether it answers a repeated command; the journal is not waiting for it then.
    repeated: bool,
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
    /// The journal failed: the command was not run, or its result is not durable.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The runtime is shutting down.
    #[error("the runtime is shutting down")]
    Stopping,
}

impl<A: Actuator + 'static> CommandRunner<A> {
    /// Makes the runner of a device, and publishes again the final results that the broker never acknowledged. Must be
    /// called inside a tokio runtime. Results that wait when the runner is dropped are published by the next one on this journal.
    pub fn new(client: Client, device_id: impl Into<String>, journal: CommandJournal, actuator: A) -> Self {
        let device_id = device_id.into();
        let waiting = journal.untold().into_iter().map(|result| Answer { result, repeated: false }).collect();
        let answers = Arc::new(Answers {
            journal: Mutex::new(journal),
            waiting: Mutex::new(waiting),
            arrived: Notify::new(),
            progressed: Notify::new(),
        });
        let topic = format!("dev/{device_id}/cmd/result");
        let publisher = tokio::spawn(publish_answers(client, topic, answers.clone())).abort_handle();
        let parts = Arc::new(Parts { actuator: Mutex::new(actuator), answers });
        Self { device_id, parts, publisher }
    }

    /// Returns the topic on which this device's commands arrive.
    pub fn topic(&self) -> String {
        format!("dev/{}/cmd", self.device_id)
    }

    /// Takes an incoming message: a command on `dev/{id}/cmd` is run, or answered if its id is known. With manual
    /// acknowledgement, acknowledge the message when this returns `Ok`: a crash before that brings it again.
    ///
    /// # Errors
    /// The journal failed.
    pub async fn handle(&mut self, incoming: &Incoming) -> Result<Handled, CommandError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.handle_at(incoming, u64::try_from(now.as_millis()).unwrap_or(u64::MAX)).await
    }

    /// As [`Self::handle`], at a time given in milliseconds since the Unix epoch: for simulated clocks.
    ///
    /// # Errors
    /// The journal failed.
    pub async fn handle_at(
        &mut self,
        incoming: &Incoming,
        now_unix_ms: u64,
    ) -> Result<Handled, CommandError> {
        if incoming.topic != self.topic() {
            return Ok(Handled::NotACommand);
        }
        let parts = self.parts.clone();
        let payload = incoming.payload.clone();
        let work = tokio::task::spawn_blocking(move || parts.take(&payload, now_unix_ms));
        work.await.map_err(|_| CommandError::Stopping)?
    }

    /// Waits until the broker has acknowledged every final result.
    pub async fn settled(&self) {
        let answers = &self.parts.answers;
        loop {
            let progressed = answers.progressed.notified();
            tokio::pin!(progressed);
            progressed.as_mut().enable();
            if answers.journal().untold().is_empty() {
                return;
            }
            progressed.await;
        }
    }
}

impl<A> Drop for CommandRunner<A> {
    fn drop(&mut self) {
        self.publisher.abort();
    }
}

impl Answers {
    fn journal(&self) -> MutexGuard<'_, CommandJournal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Answer>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, result: CommandResult, repeated: bool) {
        let mut waiting = self.waiting();
        if waiting.len() >= RESULTS_WAITING_MAX && (repeated || !result.status.is_final()) {
            tracing::warn!(id = result.id, waiting = waiting.len(), "too many results wait, one is left out");
            return;
        }
        waiting.push_back(Answer { result, repeated });
        drop(waiting);
        self.arrived.notify_one();
    }
}

impl<A: Actuator> Parts<A> {
    /// Runs on a blocking thread, one call at a time.
    fn take(&self, payload: &[u8], now_unix_ms: u64) -> Result<Handled, CommandError> {
        let mut actuator = self.actuator.lock().unwrap_or_else(PoisonError::into_inner);
        let (id, parsed) = match parse(payload) {
            Ok(parsed) => parsed,
            Err(why) => {
                tracing::warn!(why, "a message on the command topic is no command");
                return Ok(Handled::Malformed { why });
            }
        };
        let known = self.answers.journal().find(&id).map(Option::<&CommandResult>::cloned);
        if let Some(Some(result)) = known {
            let status = result.status;
            self.answers.publish(result, true);
            return Ok(Handled::Repeated { id, status });
        }
        let rejected = |reason| (Status::Rejected, Value::Null, Some(reason));
        let outcome = match parsed {
            // Its first run in this process broke off before the result: nobody knows how far it came.
            _ if known.is_some() => {
                (Status::Failed, Value::Null, Some("interrupted, not run again".to_owned()))
            }
            Err(why) => rejected(why),
            Ok(command) if command.expires_at.is_some_and(|expires_at| expires_at < now_unix_ms) => {
                let late_ms = now_unix_ms - command.expires_at.unwrap_or_default();
                (Status::Expired, Value::Null, Some(format!("it arrived {late_ms} ms after its expiry")))
            }
            Ok(command) => match guarded(|| actuator.check(&command, now_unix_ms)) {
                Err(why) => rejected(why),
                Ok(()) => self.execute(&mut actuator, &command, now_unix_ms)?,
            },
        };
        let (status, data, reason) = outcome;
        let result = bounded(CommandResult { id: id.clone(), status, data, reason, at: now_unix_ms });
        let status = result.status;
        // Durable before anyone hears of it.
        self.answers.journal().end(result.clone())?;
        self.answers.publish(result, false);
        Ok(Handled::Ended { id, status })
    }

    fn execute(
        &self,
        actuator: &mut A,
        command: &Command,
        now_unix_ms: u64,
    ) -> Result<(Status, Value, Option<String>), CommandError> {
        // Durable before the actuator fires: from here on this id never runs again.
        self.answers.journal().begin(&command.id, now_unix_ms)?;
        for status in [Status::Accepted, Status::Executing] {
            let id = command.id.clone();
            let result = CommandResult { id, status, data: Value::Null, reason: None, at: now_unix_ms };
            self.answers.publish(result, false);
        }
        Ok(match guarded(|| actuator.execute(command)) {
            Ok(data) => (Status::Done, data, None),
            Err(why) => (Status::Failed, Value::Null, Some(why)),
        })
    }
}

/// Calls the actuator; its panic is its failure.
fn guarded<T>(call: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err("the actuator panicked".to_owned()))
}

/// Replaces a result that is too large to keep.
fn bounded(result: CommandResult) -> CommandResult {
    let bytes = serde_json::to_vec(&result).map_or(usize::MAX, |json| json.len());
    if bytes <= RESULT_BYTES_MAX {
        return result;
    }
    let what = format!(
        "{:?}, but its result of {bytes} bytes is over the limit of {RESULT_BYTES_MAX}",
        result.status
    );
    CommandResult { status: Status::Failed, data: Value::Null, reason: Some(what), ..result }
}

/// Reads a command: its id, and the rest or what is wrong with it.
///
/// # Errors
/// There is no id to answer to.
fn parse(payload: &[u8]) -> Result<(String, Result<Command, String>), String> {
    let value: Value = serde_json::from_slice(payload).map_err(|error| format!("it is no JSON: {error}"))?;
    let id = match value.get("id") {
        Some(Value::String(id)) => id.clone(),
        Some(other) => return Err(format!("its id is {}, not a string", kind(other))),
        None => return Err("it has no id".to_owned()),
    };
    let chars = id.chars().count();
    if !(1..=ID_CHARS_MAX).contains(&chars) {
        return Err(format!("its id has {chars} characters, it must have 1 to {ID_CHARS_MAX}"));
    }
    let command = serde_json::from_value(value).map_err(|error| format!("malformed command: {error}"));
    Ok((id, command))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Publishes results in order, and notes in the journal which final ones the broker has.
async fn publish_answers(client: Client, topic: String, answers: Arc<Answers>) {
    let mut unacknowledged: JoinSet<Option<String>> = JoinSet::new();
    loop {
        while unacknowledged.len() < UNACKNOWLEDGED_MAX {
            let Some(answer) = answers.waiting().pop_front() else { break };
            let id = answer.result.id.clone();
            let first_final = answer.result.status.is_final() && !answer.repeated;
            let pending = match client.submit(message(&topic, &answer)).await {
                Ok(pending) => pending,
                Err(PublishError::Stopped) => return,
                Err(error) => {
                    tracing::error!(id, %error, "a command's result cannot be published");
                    continue;
                }
            };
            if first_final {
                unacknowledged.spawn(async move {
                    match pending.wait().await {
                        Ok(_) => Some(id),
                        Err(error) => {
                            // It stays in the journal, and is tried again after a restart.
                            tracing::error!(id, %error, "the broker did not take a command's result");
                            None
                        }
                    }
                });
            }
        }
        tokio::select! {
            () = answers.arrived.notified(), if unacknowledged.len() < UNACKNOWLEDGED_MAX => {}
            Some(ended) = unacknowledged.join_next() => {
                if let Ok(Some(id)) = ended {
                    if let Err(error) = answers.journal().told(&id) {
                        tracing::error!(id, %error, "the journal did not note a published result");
                    }
                    answers.progressed.notify_waiters();
                }
            }
        }
    }
}

fn message(topic: &str, answer: &Answer) -> Message {
    let payload = serde_json::to_vec(&answer.result).expect("strings, numbers and JSON values serialise");
    let message = Message::new(topic, payload).qos(QoS::AtLeastOnce);
    let id = format!("fin-{}", answer.result.id);
    // The first answer may go out again after a restart, and is recognisable by this; an answer to a repeated
    // command is a message of its own.
    if answer.result.status.is_final() && !answer.repeated && id.chars().count() <= 64 {
        return message.user_property(IM_ID, id);
    }
    message
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_has_no_usable_id_is_told_apart_from_what_can_be_answered() {
        let cases = [
            ("{", "no JSON"),
            ("[]", "no id"),
            ("{\"name\":\"x\"}", "no id"),
            ("{\"id\":7}", "a number"),
            ("{\"id\":\"\"}", "0 characters"),
        ];
        for (payload, expected) in cases {
            let why = parse(payload.as_bytes()).unwrap_err();
            assert!(why.contains(expected), "{why}");
        }
        let (id, command) = parse(b"{\"id\":\"a\",\"expires_at\":-1}").unwrap();
        assert_eq!(id, "a");
        assert!(command.is_err());
        let (_, command) =
            parse(b"{\"id\":\"a\",\"name\":\"unlock\",\"args\":{\"door\":1},\"expires_at\":9,\"new\":1}")
                .unwrap();
        let command = command.unwrap();
        assert_eq!((command.args, command.expires_at), (json!({ "door": 1 }), Some(9)));
    }

    #[test]
    fn a_result_too_large_to_keep_becomes_a_failure_that_says_so() {
        let data = Value::String("x".repeat(RESULT_BYTES_MAX));
        let result =
            bounded(CommandResult { id: "a".into(), status: Status::Done, data, reason: None, at: 1 });
        assert_eq!((result.status, &result.data), (Status::Failed, &Value::Null));
        assert!(result.reason.unwrap().contains("over the limit of 65536"));
    }
}
