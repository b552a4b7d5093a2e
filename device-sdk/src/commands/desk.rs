//! How a command goes through its states, without a runtime: payloads, moments and outcomes in, decisions and reports out.
//!
//! Invariants: nothing is reported before it is durable, and in order; [`LastLook::Fire`] is given at most once a command id,
//! after `executing` is durable. What is about to run is a [`Running`], which only [`CommandDesk::take`] and
//! [`CommandDesk::resume`] make, and [`CommandDesk::end`] takes away. It must not know how the actuator acts nor how reports travel.

use std::collections::VecDeque;

use serde_json::Value;
use storage::{Disk, FileDisk};

use super::journal::{NONCES_MAX, RESULT_BYTES_MAX, Standing};
use super::record::Deadline;
use super::{Command, CommandJournal, CommandResult, JournalError, Status, UsedNonce};
use crate::clock::{Expiry, Moment};

/// Longest command id.
const ID_CHARS_MAX: usize = 64;
/// Largest command, JSON bytes.
const COMMAND_BYTES_MAX: usize = 60 * 1024;
/// Longest name of an approver, and longest nonce.
const NONCE_CHARS_MAX: usize = 64;
/// Reports waiting to be published beyond which answers to repeated commands are left out; all others are bounded by the
/// journal.
const REPORTS_WAITING_MAX: usize = 1_024;

/// Decides beside the actuator whether a command may run: see [`crate::guard`].
///
/// ```
/// use device_sdk::clock::Moment;
/// use device_sdk::commands::{Command, CommandGuard, UsedNonce};
///
/// /// Nothing moves while the engine runs.
/// struct EngineOff(std::sync::Arc<std::sync::atomic::AtomicBool>);
///
/// impl CommandGuard for EngineOff {
///     fn check(&mut self, _: &Command, _: &Moment) -> Result<Option<UsedNonce>, String> {
///         let is_running = self.0.load(std::sync::atomic::Ordering::Relaxed);
///         if is_running { Err("the engine runs".to_owned()) } else { Ok(None) }
///     }
/// }
/// ```
pub trait CommandGuard: Send {
    /// Returns the approval that the command uses up, if it needs one. Asked when the command arrives, and again at the
    /// last moment.
    ///
    /// # Errors
    /// Why not, for people.
    fn check(&mut self, command: &Command, moment: &Moment) -> Result<Option<UsedNonce>, String>;
}

/// A message on the command topic.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Its payload.
    pub payload: &'a [u8],
    /// What is left of its Message Expiry Interval.
    pub expires_in_ms: Option<u64>,
}

/// A command that is to be run now, `executing` being durable.
#[derive(Debug)]
pub struct Running {
    command: Command,
    deadline: Deadline,
}

impl Running {
    /// Returns the command.
    pub fn command(&self) -> &Command {
        &self.command
    }
}

/// What became of a message.
#[derive(Debug)]
pub enum Taken {
    /// It is no command and has no id to answer to.
    Malformed {
        /// What is wrong with it.
        why: String,
    },
    /// Its id is known; where it stands is reported again, as far as it has ended.
    Repeated {
        /// The id.
        id: String,
        /// Where it stands.
        status: Status,
    },
    /// It has ended without being run.
    Ended(CommandResult),
    /// It is to be run, after a [last look](CommandDesk::last_look).
    Run(Running),
}

/// What the last look says.
#[derive(Debug)]
pub enum LastLook {
    /// The actuator may fire, once and at once.
    Fire(Running),
    /// Things have changed: it has ended without being run.
    Ended(CommandResult),
}

/// A status to publish.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The payload.
    pub result: CommandResult,
    /// Whether it answers a repeated command: then the journal does not wait for it.
    pub repeated: bool,
}

/// The journal, the guard and what is to be reported.
///
/// ```
/// use device_sdk::clock::Moment;
/// use device_sdk::commands::{Arrival, CommandDesk, CommandJournal, LastLook, Status, Taken};
/// use device_sdk::disk::SimDisk;
///
/// let mut desk = CommandDesk::new(CommandJournal::open_on(SimDisk::new(1), 65_536)?, None);
/// let now = Moment::exact(1_800_000_000_000);
/// let payload = br#"{"id":"c1","name":"honk","args":{},"expires_at":1800000060000}"#;
/// let arrival = Arrival { payload, expires_in_ms: None };
/// // `executing` is durable when this returns.
/// let Taken::Run(running) = desk.take(arrival, &now, &mut |_, _| Ok(()))? else { panic!("it is good") };
/// let LastLook::Fire(running) = desk.last_look(running, &now, &mut |_, _| Ok(()))? else { panic!("still") };
/// // Now the horn sounds.
/// let result = desk.end(running, Ok(true.into()), &now)?;
/// assert_eq!(result.status, Status::Done);
/// let reported: Vec<Status> = std::iter::from_fn(|| desk.poll_report()).map(|report| report.result.status).collect();
/// assert_eq!(reported, [Status::Accepted, Status::Executing, Status::Done]);
/// // The same command again: nothing runs.
/// assert!(matches!(desk.take(arrival, &now, &mut |_, _| Ok(()))?, Taken::Repeated { .. }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct CommandDesk<D: Disk = FileDisk> {
    journal: CommandJournal<D>,
    guard: Option<Box<dyn CommandGuard>>,
    reports: VecDeque<Report>,
}

/// What the actuator says to a command at a time, beside the guard.
type Check<'a> = dyn FnMut(&Command, u64) -> Result<(), String> + 'a;

impl<D: Disk> CommandDesk<D> {
    /// Makes the desk of a journal. What the broker has not acknowledged is reported again.
    pub fn new(journal: CommandJournal<D>, guard: Option<Box<dyn CommandGuard>>) -> Self {
        let untold = journal.untold().into_iter();
        let reports = untold.map(|result| Report { result, repeated: false }).collect();
        Self { journal, guard, reports }
    }

    /// Returns the journal.
    pub fn journal(&self) -> &CommandJournal<D> {
        &self.journal
    }

    /// Returns what is to be published next.
    pub fn poll_report(&mut self) -> Option<Report> {
        self.reports.pop_front()
    }

    /// Notes that the broker has acknowledged a report.
    ///
    /// # Errors
    /// The disk failed or is full.
    pub fn told(&mut self, report: &Report) -> Result<(), JournalError> {
        if report.repeated {
            return Ok(());
        }
        self.journal.told(&report.result.id, report.result.status)
    }

    /// Takes a message. On an error it was not taken and must not be acknowledged.
    ///
    /// # Errors
    /// The journal failed.
    pub fn take(
        &mut self,
        arrival: Arrival<'_>,
        moment: &Moment,
        check: &mut Check<'_>,
    ) -> Result<Taken, JournalError> {
        let (id, parsed) = match parse(arrival.payload) {
            Ok(parsed) => parsed,
            Err(why) => return Ok(Taken::Malformed { why }),
        };
        match self.journal.find(&id) {
            Some(Standing::Ended(result)) => {
                let result = result.clone();
                let status = result.status;
                self.report_again(result);
                return Ok(Taken::Repeated { id, status });
            }
            Some(Standing::Executing) => return Ok(Taken::Repeated { id, status: Status::Executing }),
            Some(Standing::Accepted(_)) => {
                let (command, deadline) = self.journal.pending(&id).expect("it is accepted");
                return self.go_on(command, deadline, moment, check);
            }
            None => {}
        }
        let command = match parsed {
            Ok(command) => command,
            Err(why) => return self.refuse(id, Status::Rejected, why, moment),
        };
        let deadline = deadline(&command, arrival, moment);
        let nonce = match self.permit(&command, deadline, moment, check, true) {
            Ok(nonce) => nonce,
            Err((status, why)) => return self.refuse(id, status, why, moment),
        };
        let at = moment.label_unix_ms();
        self.journal.accept(command.clone(), at, deadline, nonce)?;
        self.report(CommandResult { id, status: Status::Accepted, data: None, reason: None, at });
        self.begin(command, deadline, moment, check)
    }

    /// Goes on with the oldest command that was accepted before a restart and not begun; `None` when there is none.
    ///
    /// # Errors
    /// The journal failed.
    pub fn resume(&mut self, moment: &Moment, check: &mut Check<'_>) -> Result<Option<Taken>, JournalError> {
        let Some((command, deadline)) = self.journal.next_pending() else { return Ok(None) };
        self.go_on(command, deadline, moment, check).map(Some)
    }

    /// Begins a command that was accepted before a restart: within one run of the program it is begun at once.
    fn go_on(
        &mut self,
        command: Command,
        deadline: Deadline,
        moment: &Moment,
        check: &mut Check<'_>,
    ) -> Result<Taken, JournalError> {
        // Its message's expiry was counted on a clock that began anew, and may have been hours ago.
        if deadline.monotonic_ms.is_some() && deadline.message_unix_ms.is_none() {
            let why = "a restart came in between, and its message's expiry cannot be told".to_owned();
            return self.refuse(command.id, Status::Rejected, why, moment);
        }
        self.begin(command, Deadline { monotonic_ms: None, ..deadline }, moment, check)
    }

    fn begin(
        &mut self,
        command: Command,
        deadline: Deadline,
        moment: &Moment,
        check: &mut Check<'_>,
    ) -> Result<Taken, JournalError> {
        if let Err((status, why)) = self.permit(&command, deadline, moment, check, false) {
            return self.refuse(command.id, status, why, moment);
        }
        let (id, at) = (command.id.clone(), moment.label_unix_ms());
        self.journal.executing(&id, at, moment.reached_unix_ms)?;
        self.report(CommandResult { id, status: Status::Executing, data: None, reason: None, at });
        Ok(Taken::Run(Running { command, deadline }))
    }

    /// Looks once more at the moment of acting: the flash may have taken seconds to write.
    ///
    /// # Errors
    /// The journal failed.
    pub fn last_look(
        &mut self,
        running: Running,
        moment: &Moment,
        check: &mut Check<'_>,
    ) -> Result<LastLook, JournalError> {
        match self.permit(&running.command, running.deadline, moment, check, false) {
            Ok(_) => Ok(LastLook::Fire(running)),
            Err((status, why)) => {
                let result = result(running.command.id, status, None, Some(why), moment);
                self.finish(result, moment).map(LastLook::Ended)
            }
        }
    }

    /// Notes how a command has ended.
    ///
    /// # Errors
    /// The journal failed: the result is not durable and not reported.
    pub fn end(
        &mut self,
        running: Running,
        outcome: Result<Value, String>,
        moment: &Moment,
    ) -> Result<CommandResult, JournalError> {
        let (status, data, reason) = match outcome {
            Ok(data) => (Status::Done, Some(data).filter(|data| !data.is_null()), None),
            Err(why) => (Status::Failed, None, Some(why)),
        };
        self.finish(result(running.command.id, status, data, reason, moment), moment)
    }

    fn refuse(
        &mut self,
        id: String,
        status: Status,
        why: String,
        moment: &Moment,
    ) -> Result<Taken, JournalError> {
        self.finish(result(id, status, None, Some(why), moment), moment).map(Taken::Ended)
    }

    fn finish(&mut self, result: CommandResult, moment: &Moment) -> Result<CommandResult, JournalError> {
        let result = bounded(result);
        // Durable before anyone hears of it.
        self.journal.end(result.clone(), moment.reached_unix_ms)?;
        self.report(result.clone());
        Ok(result)
    }

    /// Says whether the command may run, and which approval it uses up.
    fn permit(
        &mut self,
        command: &Command,
        deadline: Deadline,
        moment: &Moment,
        check: &mut Check<'_>,
        is_new: bool,
    ) -> Result<Option<UsedNonce>, (Status, String)> {
        expiry(deadline, moment)?;
        let rejected = |why: String| (Status::Rejected, why);
        let nonce = match &mut self.guard {
            Some(guard) => guard.check(command, moment).map_err(rejected)?,
            None => None,
        };
        if let Some(nonce) = nonce.as_ref().filter(|_| is_new) {
            self.check_nonce(nonce).map_err(rejected)?;
        }
        check(command, moment.label_unix_ms()).map_err(rejected)?;
        Ok(nonce)
    }

    fn check_nonce(&self, nonce: &UsedNonce) -> Result<(), String> {
        let longest = nonce.nonce.chars().count().max(nonce.approver.chars().count());
        if nonce.nonce.is_empty() || longest > NONCE_CHARS_MAX {
            return Err(format!("approver and nonce have up to {NONCE_CHARS_MAX} characters, not {longest}"));
        }
        if self.journal.is_used(nonce) {
            return Err(format!("the approval {:?} of {:?} was used before", nonce.nonce, nonce.approver));
        }
        if !self.journal.has_room_for_nonce() {
            return Err(format!("{NONCES_MAX} approvals have not expired yet, no more are taken"));
        }
        Ok(())
    }

    fn report(&mut self, result: CommandResult) {
        self.reports.push_back(Report { result, repeated: false });
    }

    fn report_again(&mut self, result: CommandResult) {
        let waiting = self.reports.len();
        if waiting >= REPORTS_WAITING_MAX {
            tracing::warn!(id = result.id, waiting, "too many results wait, a repeated one is left out");
            return;
        }
        self.reports.push_back(Report { result, repeated: true });
    }
}

fn result(
    id: String,
    status: Status,
    data: Option<Value>,
    reason: Option<String>,
    moment: &Moment,
) -> CommandResult {
    CommandResult { id, status, data, reason, at: moment.label_unix_ms() }
}

fn deadline(command: &Command, arrival: Arrival<'_>, moment: &Moment) -> Deadline {
    let in_ms = arrival.expires_in_ms;
    let arrived_unix_ms = moment.time.as_ref().ok().map(|time| time.earliest_unix_ms);
    Deadline {
        unix_ms: command.expires_at,
        monotonic_ms: in_ms.map(|in_ms| moment.monotonic_ms.saturating_add(in_ms)),
        message_unix_ms: in_ms.and_then(|in_ms| Some(arrived_unix_ms?.saturating_add(in_ms))),
    }
}

fn expiry(deadline: Deadline, moment: &Moment) -> Result<(), (Status, String)> {
    let late = |late_ms: u64| Err((Status::Expired, format!("it is {late_ms} ms after its expiry")));
    // The monotonic clock is exact; the other way is for after a restart.
    let message_unix_ms = match deadline.monotonic_ms {
        Some(at) if at <= moment.monotonic_ms => return late(moment.monotonic_ms - at),
        Some(_) => None,
        None => deadline.message_unix_ms,
    };
    match deadline.unix_ms.into_iter().chain(message_unix_ms).min().map(|at| moment.expiry(at)) {
        None | Some(Expiry::Ahead) => Ok(()),
        Some(Expiry::Past { late_ms }) => late(late_ms),
        Some(Expiry::Unknown(why)) => Err((Status::Rejected, why.to_string())),
    }
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
    CommandResult { status: Status::Failed, data: None, reason: Some(what), ..result }
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
    if payload.len() > COMMAND_BYTES_MAX {
        let what = format!("the command has {} bytes, at most {COMMAND_BYTES_MAX} are taken", payload.len());
        return Ok((id, Err(what)));
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

#[cfg(test)]
mod tests;
