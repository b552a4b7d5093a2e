//! A lock on a serial line, asked in lines with a checksum.
//!
//! Request `$PLOCK,<n>,<what>*<checksum>` with `what` one of `STATE`, `LOCK`, `UNLOCK`; answer `$PLOCKR,<n>,<state>*<checksum>` with
//! `state` one of `LOCKED`, `UNLOCKED`, `JAMMED`, or `$PLOCKR,<n>,ERROR,<reason>*<checksum>`. The checksum is that of NMEA 0183.
//! An answer that was lost is asked for again with the same number `n` (1 to 2^31-1): the lock answers again and moves
//! only once. Numbers begin somewhere, so that those of a gateway that started again are other ones.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;
use std::time::{Duration, Instant};

use tokio_serial::SerialPort;

use super::line::{Line, Lines, sentence};
use super::port;

/// The rate of lines to locks, bits a second.
pub const LOCK_BAUD: u32 = 9_600;

/// How long one attempt waits for its answer; a motor takes its time.
const ANSWER: Duration = Duration::from_millis(1_500);
/// Attempts with the same number.
const ATTEMPTS: u32 = 3;
/// The longest single read.
const READ: Duration = Duration::from_millis(50);

/// Where a lock stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockState {
    /// Closed.
    Locked,
    /// Open.
    Unlocked,
    /// Between the two, and it does not move.
    Jammed,
}

impl fmt::Display for LockState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Locked => "LOCKED",
            Self::Unlocked => "UNLOCKED",
            Self::Jammed => "JAMMED",
        })
    }
}

impl FromStr for LockState {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        [Self::Locked, Self::Unlocked, Self::Jammed]
            .into_iter()
            .find(|state| state.to_string() == word)
            .ok_or(())
    }
}

/// Why a lock did not answer as it should.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The line failed; whether the lock moved is not known unless it could not even be opened.
    #[error("the lock's line {path}: {error}")]
    Line {
        /// The line.
        path: String,
        /// What happened.
        error: io::Error,
    },
    /// No answer; whether the lock moved is not known.
    #[error("the lock on {path} did not answer {attempts} requests in {waited_ms} ms")]
    Silent {
        /// The line.
        path: String,
        /// How often it was asked.
        attempts: u32,
        /// How long it was waited for, milliseconds.
        waited_ms: u64,
    },
    /// The lock says that it cannot.
    #[error("the lock refuses: {0}")]
    Refused(String),
}

/// A lock on a serial line. Its calls block for up to 4.5 s; use it where blocking is allowed, as in an
/// [`Actuator`](crate::commands::Actuator).
///
/// ```no_run
/// use device_sdk::serial::{LockState, SerialLock};
/// let mut lock = SerialLock::new("/dev/ttyUSB1");
/// if lock.state()? == LockState::Locked {
///     lock.unlock()?;
/// }
/// # Ok::<(), device_sdk::serial::LockError>(())
/// ```
#[derive(Debug)]
pub struct SerialLock {
    path: String,
    baud: u32,
    line: Option<(Box<dyn SerialPort>, Lines)>,
    number: u32,
}

impl SerialLock {
    /// Makes a lock on a line of [`LOCK_BAUD`]; the line is opened when it is first asked.
    pub fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), baud: LOCK_BAUD, line: None, number: fastrand::u32(1..1 << 31) }
    }

    /// Sets another rate of the line, bits a second.
    #[must_use]
    pub fn baud(mut self, baud: u32) -> Self {
        self.baud = baud;
        self
    }

    /// Asks where the lock stands.
    ///
    /// # Errors
    /// The line failed, no answer came, or the lock cannot say.
    pub fn state(&mut self) -> Result<LockState, LockError> {
        self.ask("STATE")
    }

    /// Closes the lock and returns where it stands then.
    ///
    /// # Errors
    /// The line failed, no answer came, or the lock refuses.
    pub fn lock(&mut self) -> Result<LockState, LockError> {
        self.ask("LOCK")
    }

    /// Opens the lock and returns where it stands then.
    ///
    /// # Errors
    /// The line failed, no answer came, or the lock refuses.
    pub fn unlock(&mut self) -> Result<LockState, LockError> {
        self.ask("UNLOCK")
    }

    fn ask(&mut self, what: &str) -> Result<LockState, LockError> {
        self.number = if self.number == (1 << 31) - 1 { 1 } else { self.number + 1 };
        let request = sentence(&format!("PLOCK,{},{what}", self.number));
        let answer = self.exchange(&request);
        if answer.is_err() {
            // A line that was pulled out is another one when it is back.
            self.line = None;
        }
        answer
    }

    fn exchange(&mut self, request: &str) -> Result<LockState, LockError> {
        let begun = Instant::now();
        let line_error = |error: io::Error| LockError::Line { path: self.path.clone(), error };
        let (line, lines) = match &mut self.line {
            Some(line) => line,
            none => {
                let opened = port(&self.path, self.baud).timeout(READ).open();
                none.insert((opened.map_err(|e| line_error(e.into()))?, Lines::default()))
            }
        };
        for _ in 0..ATTEMPTS {
            line.write_all(request.as_bytes()).map_err(line_error)?;
            let until = Instant::now() + ANSWER;
            let mut bytes = [0; 128];
            while Instant::now() < until {
                let count = match line.read(&mut bytes) {
                    Ok(0) => return Err(line_error(io::ErrorKind::UnexpectedEof.into())),
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => continue,
                    Err(error) => return Err(line_error(error)),
                };
                let mut answer = None;
                lines.push(&bytes[..count], |line| {
                    if let Line::Good(sentence) = line {
                        answer = answer.take().or_else(|| answer_to(self.number, sentence));
                    }
                });
                if let Some(answer) = answer {
                    return answer;
                }
            }
        }
        let waited_ms = begun.elapsed().as_millis() as u64;
        Err(LockError::Silent { path: self.path.clone(), attempts: ATTEMPTS, waited_ms })
    }
}

/// What a line says to the request with this number; nothing if it is about another.
fn answer_to(number: u32, sentence: &str) -> Option<Result<LockState, LockError>> {
    let rest = sentence.strip_prefix("$PLOCKR,")?;
    let (rest, _checksum) = rest.rsplit_once('*')?;
    let (answered, said) = rest.split_once(',')?;
    if answered.parse() != Ok(number) {
        return None;
    }
    match (said.parse(), said.strip_prefix("ERROR,")) {
        (Ok(state), _) => Some(Ok(state)),
        (Err(()), Some(reason)) => Some(Err(LockError::Refused(reason.to_owned()))),
        (Err(()), None) => None,
    }
}
