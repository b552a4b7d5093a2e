//! Joins the desk to a client, a clock and an actuator.
//!
//! Deciding, journalling and acting happen on one blocking thread, so that they go on although the future of
//! [`CommandRunner::handle`] is dropped. Publishing happens in a task of its own: a program that handles commands in the loop
//! that takes events would otherwise wait for acknowledgements that nobody reads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use protocol::QoS;
use protocol::im::{IM_ID, IM_ID_CHARS_MAX, IM_TS};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

use super::desk::{Arrival, CommandDesk, CommandGuard, LastLook, Report, Taken};
use super::{Actuator, Command, CommandJournal, JournalError, Status};
use crate::clock::{DeviceClock, Moment};
use crate::{Client, Incoming, Message, PublishError};

/// Reports whose acknowledgement is awaited at a time.
const UNACKNOWLEDGED_MAX: usize = 64;
/// How often the clock is looked at without a command, so that it notices steps before one comes.
const CLOCK_LOOK: Duration = Duration::from_secs(5);

/// What a runner takes beside its actuator.
pub struct RunnerOptions {
    /// What expiry is judged by; by default [`DeviceClock::system`].
    pub clock: DeviceClock,
    /// What else must agree: see [`crate::guard`].
    pub guard: Option<Box<dyn CommandGuard>>,
}

impl Default for RunnerOptions {
    fn default() -> Self {
        Self { clock: DeviceClock::system(), guard: None }
    }
}

/// Takes the commands of one device.
///
/// ```no_run
/// # struct Horn;
/// # impl device_sdk::commands::Actuator for Horn {
/// #     fn check(&mut self, _: &device_sdk::commands::Command, _: u64) -> Result<(), String> { Ok(()) }
/// #     fn execute(&mut self, _: &device_sdk::commands::Command) -> Result<serde_json::Value, String> { Ok(().into()) }
/// # }
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use device_sdk::commands::{CommandJournal, CommandRunner};
/// use device_sdk::{Client, Event, Options, QoS};
///
/// // Acknowledged when it is done with: a crash before brings the message again, and the journal knows it.
/// let options = Options { manual_ack: true, ..Options::new("broker.example:1883", "truck-7") };
/// let (client, mut events) = Client::spawn(options)?;
/// let journal = CommandJournal::open("state/commands".as_ref())?;
/// let mut runner = CommandRunner::new(client.clone(), "truck-7", journal, Horn);
/// client.subscribe(&[(runner.topic().as_str(), QoS::AtLeastOnce)]).await?;
/// while let Some(event) = events.next().await {
///     if let Event::Message(message) = event {
///         runner.handle(&message).await?;
///         message.ack.into_iter().for_each(|token| client.ack(token));
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct CommandRunner<A> {
    device_id: String,
    parts: Arc<Parts<A>>,
    clock: DeviceClock,
    publisher: AbortHandle,
}

struct Parts<A> {
    actuator: Mutex<A>,
    office: Arc<Office>,
}

/// What the runner and the publishing task share.
struct Office {
    desk: Mutex<CommandDesk>,
    arrived: Notify,
    progressed: Notify,
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
    /// Makes the runner of a device by the system's time and without a guard: see [`Self::with_options`].
    pub fn new(client: Client, device_id: impl Into<String>, journal: CommandJournal, actuator: A) -> Self {
        Self::with_options(client, device_id, journal, actuator, RunnerOptions::default())
    }

    /// Makes the runner of a device. It publishes again what the broker never acknowledged, and goes on with commands that
    /// were accepted and not begun when the program ended. Must be called inside a tokio runtime. Results that wait when the runner
    /// is dropped are published by the next one on this journal.
    pub fn with_options(
        client: Client,
        device_id: impl Into<String>,
        journal: CommandJournal,
        actuator: A,
        options: RunnerOptions,
    ) -> Self {
        let (device_id, clock) = (device_id.into(), options.clock);
        clock.at_least(journal.reached_unix_ms());
        let resumes = journal.next_pending().is_some();
        let office = Arc::new(Office {
            desk: Mutex::new(CommandDesk::new(journal, options.guard)),
            arrived: Notify::new(),
            progressed: Notify::new(),
        });
        let topic = protocol::im::command_result_topic(&device_id);
        let publisher = tokio::spawn(publish_reports(client, topic, office.clone(), clock.clone()));
        let parts = Arc::new(Parts { actuator: Mutex::new(actuator), office });
        if resumes {
            let (parts, clock) = (parts.clone(), clock.clone());
            tokio::task::spawn_blocking(move || {
                if let Err(error) = parts.resume(&|| clock.moment()) {
                    tracing::error!(%error, "a command that was accepted before the restart was not taken up");
                }
            });
        }
        Self { device_id, parts, clock, publisher: publisher.abort_handle() }
    }

    /// Returns the topic on which this device's commands arrive.
    pub fn topic(&self) -> String {
        protocol::im::command_topic(&self.device_id)
    }

    /// Takes an incoming message: a command on `dev/{id}/cmd` is run, or answered if its id is known. With manual
    /// acknowledgement, acknowledge the message when this returns `Ok`: a crash before that brings it again.
    ///
    /// # Errors
    /// The journal failed.
    pub async fn handle(&mut self, incoming: &Incoming) -> Result<Handled, CommandError> {
        let clock = self.clock.clone();
        if let Some(accepted_at) = incoming.user_property(IM_TS).and_then(|at| at.parse().ok()) {
            clock.stamped(accepted_at);
        }
        self.handle_by(incoming, move || clock.moment()).await
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
        self.handle_by(incoming, move || Moment::exact(now_unix_ms)).await
    }

    async fn handle_by(
        &mut self,
        incoming: &Incoming,
        now: impl Fn() -> Moment + Send + 'static,
    ) -> Result<Handled, CommandError> {
        if incoming.topic != self.topic() {
            return Ok(Handled::NotACommand);
        }
        let parts = self.parts.clone();
        let payload = incoming.payload.clone();
        let expires_in_ms = incoming.properties.message_expiry_interval_s.map(|s| u64::from(s) * 1_000);
        // The interval began when the message came, not when a thread was free.
        let arrived_ms = now().monotonic_ms;
        let work = tokio::task::spawn_blocking(move || parts.take(&payload, expires_in_ms, arrived_ms, &now));
        Ok(work.await.map_err(|_| CommandError::Stopping)??)
    }

    /// Waits until the broker has acknowledged every final result.
    pub async fn settled(&self) {
        let office = &self.parts.office;
        loop {
            let progressed = office.progressed.notified();
            tokio::pin!(progressed);
            progressed.as_mut().enable();
            if office.desk().journal().is_settled() {
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

impl Office {
    fn desk(&self) -> MutexGuard<'_, CommandDesk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<A: Actuator> Parts<A> {
    /// Runs on a blocking thread, one call at a time.
    fn take(
        &self,
        payload: &Bytes,
        expires_in_ms: Option<u64>,
        arrived_ms: u64,
        now: &dyn Fn() -> Moment,
    ) -> Result<Handled, JournalError> {
        let mut actuator = self.actuator.lock().unwrap_or_else(PoisonError::into_inner);
        let moment = now();
        let waited_ms = moment.monotonic_ms.saturating_sub(arrived_ms);
        let expires_in_ms = expires_in_ms.map(|in_ms| in_ms.saturating_sub(waited_ms));
        let arrival = Arrival { payload, expires_in_ms };
        let taken = self.office.desk().take(arrival, &moment, &mut check_with(&mut *actuator))?;
        self.office.arrived.notify_one();
        self.carry_out(taken, &mut actuator, now)
    }

    /// Goes on with what was accepted before a restart.
    fn resume(&self, now: &dyn Fn() -> Moment) -> Result<(), JournalError> {
        loop {
            let mut actuator = self.actuator.lock().unwrap_or_else(PoisonError::into_inner);
            let resumed = self.office.desk().resume(&now(), &mut check_with(&mut *actuator))?;
            let Some(taken) = resumed else { return Ok(()) };
            self.carry_out(taken, &mut actuator, now)?;
        }
    }

    fn carry_out(
        &self,
        taken: Taken,
        actuator: &mut A,
        now: &dyn Fn() -> Moment,
    ) -> Result<Handled, JournalError> {
        let running = match taken {
            Taken::Malformed { why } => {
                tracing::warn!(why, "a message on the command topic is no command");
                return Ok(Handled::Malformed { why });
            }
            Taken::Repeated { id, status } => return Ok(Handled::Repeated { id, status }),
            Taken::Ended(result) => return Ok(Handled::Ended { id: result.id, status: result.status }),
            Taken::Run(running) => running,
        };
        let looked = self.office.desk().last_look(running, &now(), &mut check_with(actuator))?;
        let result = match looked {
            LastLook::Ended(result) => result,
            // The desk is free meanwhile: reports go out while the bolt moves.
            LastLook::Fire(running) => {
                let outcome = guarded(|| actuator.execute(running.command()));
                self.office.desk().end(running, outcome, &now())?
            }
        };
        self.office.arrived.notify_one();
        Ok(Handled::Ended { id: result.id, status: result.status })
    }
}

fn check_with<A: Actuator>(actuator: &mut A) -> impl FnMut(&Command, u64) -> Result<(), String> {
    |command, now_unix_ms| guarded(|| actuator.check(command, now_unix_ms))
}

/// Calls the actuator; its panic is its failure.
fn guarded<T>(call: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err("the actuator panicked".to_owned()))
}

/// Publishes reports in order, and notes in the journal which the broker has.
async fn publish_reports(client: Client, topic: String, office: Arc<Office>, clock: DeviceClock) {
    let mut unacknowledged: JoinSet<Option<Report>> = JoinSet::new();
    let mut look = tokio::time::interval(CLOCK_LOOK);
    loop {
        while unacknowledged.len() < UNACKNOWLEDGED_MAX {
            let report = office.desk().poll_report();
            let Some(report) = report else { break };
            let pending = match client.submit(message(&topic, &report)).await {
                Ok(pending) => pending,
                Err(PublishError::Stopped) => return,
                Err(error) => {
                    tracing::error!(id = report.result.id, %error, "a command's result cannot be published");
                    continue;
                }
            };
            if !report.repeated {
                unacknowledged.spawn(async move {
                    match pending.wait().await {
                        Ok(_) => Some(report),
                        Err(error) => {
                            // It stays in the journal, and is tried again after a restart.
                            let id = report.result.id;
                            tracing::error!(id, %error, "the broker did not take a command's result");
                            None
                        }
                    }
                });
            }
        }
        tokio::select! {
            () = office.arrived.notified(), if unacknowledged.len() < UNACKNOWLEDGED_MAX => {}
            Some(ended) = unacknowledged.join_next() => {
                if let Ok(Some(report)) = ended {
                    if let Err(error) = office.desk().told(&report) {
                        let id = report.result.id;
                        tracing::error!(id, %error, "the journal did not note a published result");
                    }
                    office.progressed.notify_waiters();
                }
            }
            _ = look.tick() => drop(clock.moment()),
        }
    }
}

fn message(topic: &str, report: &Report) -> Message {
    let payload = serde_json::to_vec(&report.result).expect("strings, numbers and JSON values serialise");
    let message = Message::new(topic, payload).qos(QoS::AtLeastOnce);
    // The first answer may go out again after a restart, and is recognisable by this; an answer to a repeated
    // command is a message of its own.
    if report.repeated { message } else { message.user_property(IM_ID, report_id(report)) }
}

/// The message id of a report: the same whenever it is published, another for each status.
fn report_id(report: &Report) -> String {
    let prefix = match report.result.status {
        Status::Accepted => "acc",
        Status::Executing => "exe",
        _ => "fin",
    };
    let id = format!("{prefix}-{}", report.result.id);
    if id.chars().count() <= IM_ID_CHARS_MAX {
        return id;
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, report.result.id.as_bytes());
    format!("{prefix}-{}", crate::hex::encode(&digest.as_ref()[..30]))
}

#[cfg(test)]
mod tests {
    use super::super::CommandResult;
    use super::*;

    #[test]
    fn a_report_has_one_message_id_that_fits() {
        let report = |id: &str, status| {
            let result = CommandResult { id: id.to_owned(), status, data: None, reason: None, at: 0 };
            report_id(&Report { result, repeated: false })
        };
        assert_eq!(report("c1", Status::Rejected), "fin-c1");
        assert_eq!(report("c1", Status::Executing), "exe-c1");
        let (long, other) = ("x".repeat(64), "y".repeat(64));
        let id = report(&long, Status::Accepted);
        assert_eq!((id.len(), &id[..4]), (64, "acc-"));
        assert_ne!(id, report(&other, Status::Accepted));
        assert_eq!(report(&"ü".repeat(60), Status::Done), format!("fin-{}", "ü".repeat(60)));
    }
}
