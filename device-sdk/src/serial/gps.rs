//! A GPS receiver on a serial line.
//!
//! ```text
//!   Absent --opens--> Listening --two sentences--> Found --ends, silent, only noise--> Absent
//!     ^                 |    ^ next baud rate
//!     +----ends---------+----+
//! ```
//! Baud rates are tried in turn, the last good one first, each until it has shown noise or nothing for a good second. What was
//! read while listening is not lost.

use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_serial::{ClearBuffer, SerialPort, SerialStream};

use super::fix::GpsFix;
use super::nmea::{Decoder, Faults, Said};
use super::{REOPEN, open};

/// The rates that are tried: what receivers are delivered with first.
pub const BAUDS: [u32; 8] = [9_600, 115_200, 4_800, 38_400, 57_600, 19_200, 230_400, 460_800];

/// Events kept for a reader that is behind; the oldest are left out then.
const EVENTS_MAX: usize = 64;
/// How long one rate is listened to: receivers speak once a second.
const LISTEN: Duration = Duration::from_millis(1_200);
/// Bytes without a sentence after which a rate is wrong: longer than three sentences.
const NOISE_BYTES_MAX: usize = 320;
/// Sentences that make a rate right.
const SENTENCES_MIN: u64 = 2;
/// A pause this long ends a moment: a sentence takes less at any rate.
const PAUSE: Duration = Duration::from_millis(120);
/// A receiver that says nothing readable for this long is looked for again.
const SILENCE: Duration = Duration::from_secs(3);
/// No receiver was right about an earlier time: 1 November 2026.
const NOT_BEFORE_UNIX_MS: i64 = 1_793_491_200_000;

/// Where a receiver is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpsOptions {
    /// The line, as `/dev/ttyUSB0`. A link that udev makes for the adapter stays right when it is plugged in elsewhere.
    pub path: String,
    /// Rates to try, in this order.
    pub bauds: Vec<u32>,
    /// A time that has surely passed, milliseconds since the Unix epoch: dates before it are a rollover of the week number.
    pub not_before_unix_ms: i64,
}

impl GpsOptions {
    /// Makes options that try all of [`BAUDS`].
    pub fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), bauds: BAUDS.to_vec(), not_before_unix_ms: NOT_BEFORE_UNIX_MS }
    }
}

/// What a receiver did.
#[derive(Clone, Debug, PartialEq)]
pub enum GpsEvent {
    /// It speaks, at this rate.
    Found {
        /// Bits a second.
        baud: u32,
    },
    /// It knows where it is.
    Fix(GpsFix),
    /// It does not know where it is.
    NoFix,
    /// It is gone or says nothing that can be read; it is looked for until it is back.
    Lost {
        /// Why, for people.
        why: String,
    },
}

/// A receiver that is read until this is dropped.
///
/// ```no_run
/// # async fn example() {
/// use device_sdk::serial::{Gps, GpsEvent, GpsOptions};
/// let mut gps = Gps::spawn(GpsOptions::new("/dev/ttyUSB0"));
/// while let Some(event) = gps.next().await {
///     match event {
///         GpsEvent::Fix(fix) => println!("{:.6} {:.6}", fix.lat, fix.lon),
///         GpsEvent::Lost { why } => eprintln!("no GPS: {why}"),
///         GpsEvent::Found { .. } | GpsEvent::NoFix => {}
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Gps {
    events: broadcast::Receiver<GpsEvent>,
    faults: Arc<Mutex<Faults>>,
    task: AbortHandle,
}

impl Drop for Gps {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Gps {
    /// Begins to read a receiver, whether its line is there or not. Must be called in a tokio runtime.
    pub fn spawn(options: GpsOptions) -> Self {
        let (sender, events) = broadcast::channel(EVENTS_MAX);
        let faults = Arc::<Mutex<Faults>>::default();
        let reader = Reader { options, events: sender, faults: faults.clone(), good: None, lost: None };
        Self { events, faults, task: tokio::spawn(reader.run()).abort_handle() }
    }

    /// Waits for the next event. A reader that is more than 64 events behind misses the oldest. `None`: the task has panicked.
    pub async fn next(&mut self) -> Option<GpsEvent> {
        loop {
            match self.events.recv().await {
                Ok(event) => return Some(event),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// What was left out since the receiver was found.
    pub fn faults(&self) -> Faults {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Reader {
    options: GpsOptions,
    events: broadcast::Sender<GpsEvent>,
    faults: Arc<Mutex<Faults>>,
    /// The rate at which it spoke last.
    good: Option<u32>,
    /// What was said of its absence, so that it is said once.
    lost: Option<String>,
}

impl Reader {
    async fn run(mut self) {
        loop {
            let why = match self.session().await {
                Ok(never) => match never {},
                Err(why) => why,
            };
            if self.lost.as_ref() != Some(&why) {
                self.tell(GpsEvent::Lost { why: why.clone() });
                self.lost = Some(why);
            }
            sleep(REOPEN).await;
        }
    }

    /// Finds the receiver and reads it until it is gone.
    async fn session(&mut self) -> Result<std::convert::Infallible, String> {
        let path = self.options.path.clone();
        let bauds = self.good.into_iter().chain(self.options.bauds.iter().copied()).collect::<Vec<_>>();
        let Some(&first) = bauds.first() else { return pending().await };
        let mut line = open(&path, first).map_err(|e| format!("{path} cannot be opened: {e}"))?;
        for baud in bauds {
            line.set_baud_rate(baud).map_err(|e| format!("{path} cannot be set to {baud} baud: {e}"))?;
            // What came at another rate is noise.
            line.clear(ClearBuffer::Input).map_err(|e| format!("{path}: {e}"))?;
            let mut decoder = Decoder::new(self.options.not_before_unix_ms);
            let mut said = Vec::new();
            let speaks = listen(&mut line, &mut decoder, &mut said).await;
            if speaks.map_err(|e| format!("{path}: {e}"))? {
                (self.good, self.lost) = (Some(baud), None);
                self.tell(GpsEvent::Found { baud });
                said.into_iter().for_each(|said| self.said(said));
                let why = self.read(line, decoder).await;
                return Err(format!("{path}: {why}"));
            }
        }
        Err(format!("{path}: no NMEA sentences at any baud rate"))
    }

    async fn read(&self, mut line: SerialStream, mut decoder: Decoder) -> String {
        let mut bytes = [0; 1_024];
        let mut silent_at = Instant::now() + SILENCE;
        let mut sentences = decoder.faults().sentences;
        loop {
            match timeout(PAUSE, line.read(&mut bytes)).await {
                Ok(Ok(0)) => return "the line ended".to_owned(),
                Ok(Ok(count)) => decoder.push(&bytes[..count], |said| self.said(said)),
                Ok(Err(error)) => return error.to_string(),
                Err(_) => decoder.flush(|said| self.said(said)),
            }
            let faults = decoder.faults();
            *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
            let now = Instant::now();
            if faults.sentences > sentences {
                (sentences, silent_at) = (faults.sentences, now + SILENCE);
            } else if now >= silent_at {
                return format!("no sentence for {} s", SILENCE.as_secs());
            }
        }
    }

    fn said(&self, said: Said) {
        self.tell(match said {
            Said::Fix(fix) => GpsEvent::Fix(fix),
            Said::NoFix => GpsEvent::NoFix,
        });
    }

    fn tell(&self, event: GpsEvent) {
        // Nobody reads: the handle is being dropped, and this task with it.
        let _ = self.events.send(event);
    }
}

/// Says whether sentences come at this rate.
async fn listen(line: &mut SerialStream, decoder: &mut Decoder, said: &mut Vec<Said>) -> io::Result<bool> {
    let until = Instant::now() + LISTEN;
    let (mut bytes, mut noise) = ([0; 256], 0);
    while let Ok(read) = timeout_at(until, line.read(&mut bytes)).await {
        let count = read?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let before = decoder.faults().sentences;
        decoder.push(&bytes[..count], |what| said.push(what));
        let sentences = decoder.faults().sentences;
        if sentences >= SENTENCES_MIN {
            return Ok(true);
        }
        noise = if sentences > before { 0 } else { noise + count };
        if noise > NOISE_BYTES_MAX {
            break;
        }
    }
    Ok(false)
}
