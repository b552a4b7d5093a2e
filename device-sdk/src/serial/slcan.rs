//! CAN frames through a serial adapter that speaks the Lawicel protocol (CAN232/CANUSB manual), as Linux's `slcand` does.
//!
//! Commands are lines that end with a carriage return; the adapter answers with a carriage return or, if it cannot, with BEL.
//! Frames that it hears come as lines between the answers.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_serial::SerialStream;

use super::{REOPEN, open};

/// Bytes of the longest line: an extended frame with 8 bytes and a time stamp.
const LINE_BYTES_MAX: usize = 1 + 8 + 1 + 16 + 4;
/// Events kept for a reader that is behind; the oldest are left out then.
const EVENTS_MAX: usize = 1_024;
/// Frames that wait to be sent.
const WAITING_MAX: usize = 64;
/// How long the adapter may take for an answer.
const ANSWER: Duration = Duration::from_millis(500);

/// The largest identifier of a standard frame, 11 bits.
pub const STANDARD_ID_MAX: u32 = 0x7FF;
/// The largest identifier of an extended frame, 29 bits.
pub const EXTENDED_ID_MAX: u32 = 0x1FFF_FFFF;

/// One frame of classic CAN (ISO 11898-1).
///
/// ```
/// use device_sdk::serial::slcan::{Frame, FrameError};
///
/// let frame = Frame::standard(0x123, &[0x11, 0x22])?;
/// assert_eq!(frame.to_line().trim_end(), "t12321122");
/// assert_eq!(Frame::from_line("t12321122")?, frame);
/// assert!(Frame::standard(0x800, &[]).is_err(), "eleven bits");
/// # Ok::<(), FrameError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    id: u32,
    is_extended: bool,
    is_remote: bool,
    len: u8,
    data: [u8; 8],
}

/// Why something is no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// More than 8 bytes.
    #[error("a CAN frame has at most 8 bytes, not {0}")]
    TooLong(usize),
    /// The identifier does not fit.
    #[error("the CAN identifier {id:#x} is above {max:#x}")]
    Id {
        /// The identifier.
        id: u32,
        /// The largest of this kind.
        max: u32,
    },
    /// A line that is no frame.
    #[error("not a frame of the Lawicel protocol: {0:?}")]
    Line(String),
}

impl Frame {
    /// Makes a data frame with an identifier of 11 bits.
    ///
    /// # Errors
    /// The identifier or the data do not fit.
    pub fn standard(id: u32, data: &[u8]) -> Result<Self, FrameError> {
        Self::new(id, false, data)
    }

    /// Makes a data frame with an identifier of 29 bits.
    ///
    /// # Errors
    /// The identifier or the data do not fit.
    pub fn extended(id: u32, data: &[u8]) -> Result<Self, FrameError> {
        Self::new(id, true, data)
    }

    fn new(id: u32, is_extended: bool, bytes: &[u8]) -> Result<Self, FrameError> {
        let max = if is_extended { EXTENDED_ID_MAX } else { STANDARD_ID_MAX };
        if id > max {
            return Err(FrameError::Id { id, max });
        }
        let mut data = [0; 8];
        data.get_mut(..bytes.len()).ok_or(FrameError::TooLong(bytes.len()))?.copy_from_slice(bytes);
        Ok(Self { id, is_extended, is_remote: false, len: bytes.len() as u8, data })
    }

    /// Makes it a request for data of this length.
    #[must_use]
    pub fn remote(mut self) -> Self {
        (self.is_remote, self.data) = (true, [0; 8]);
        self
    }

    /// The identifier.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether the identifier has 29 bits.
    pub fn is_extended(&self) -> bool {
        self.is_extended
    }

    /// Whether it asks for data and has none.
    pub fn is_remote(&self) -> bool {
        self.is_remote
    }

    /// The data; empty in a remote frame.
    pub fn data(&self) -> &[u8] {
        if self.is_remote { &[] } else { &self.data[..usize::from(self.len)] }
    }

    /// Writes the frame as a command of the protocol, without the carriage return.
    ///
    /// ```
    /// # use device_sdk::serial::slcan::Frame;
    /// assert_eq!(Frame::standard(0x123, &[0xAB, 0xCD])?.to_line(), "t1232ABCD");
    /// # Ok::<(), device_sdk::serial::slcan::FrameError>(())
    /// ```
    pub fn to_line(&self) -> String {
        let mut line = String::with_capacity(LINE_BYTES_MAX);
        let written = match (self.is_extended, self.is_remote) {
            (false, false) => write!(line, "t{:03X}{}", self.id, self.len),
            (false, true) => write!(line, "r{:03X}{}", self.id, self.len),
            (true, false) => write!(line, "T{:08X}{}", self.id, self.len),
            (true, true) => write!(line, "R{:08X}{}", self.id, self.len),
        };
        let data = self.data().iter().try_for_each(|byte| write!(line, "{byte:02X}"));
        written.and(data).expect("a string takes all that is written to it");
        line
    }

    /// Reads a line of the adapter; a time stamp behind the frame is left out.
    ///
    /// # Errors
    /// It is no frame.
    pub fn from_line(line: &str) -> Result<Self, FrameError> {
        let wrong = || FrameError::Line(line.chars().take(LINE_BYTES_MAX).collect());
        let (is_extended, is_remote) = match line.as_bytes().first() {
            Some(b't') => (false, false),
            Some(b'r') => (false, true),
            Some(b'T') => (true, false),
            Some(b'R') => (true, true),
            _ => return Err(wrong()),
        };
        let hex = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
            digits.then(|| u32::from_str_radix(text, 16).ok()).flatten()
        };
        let id_end = if is_extended { 9 } else { 4 };
        let id = line.get(1..id_end).and_then(hex).ok_or_else(wrong)?;
        let len = line.get(id_end..=id_end).and_then(hex).filter(|len| *len <= 8).ok_or_else(wrong)? as usize;
        let bytes = if is_remote { 0 } else { len };
        let mut data = [0; 8];
        for (at, byte) in data.iter_mut().enumerate().take(bytes) {
            let from = id_end + 1 + 2 * at;
            *byte = line.get(from..from + 2).and_then(hex).ok_or_else(wrong)? as u8;
        }
        let rest = line.get(id_end + 1 + 2 * bytes..).ok_or_else(wrong)?;
        if !(rest.is_empty() || rest.len() == 4 && hex(rest).is_some()) {
            return Err(wrong());
        }
        let frame = Self::new(id, is_extended, &data[..len])?;
        Ok(if is_remote { frame.remote() } else { frame })
    }
}

/// Rates of a CAN bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bitrate {
    /// 10 kbit/s.
    K10,
    /// 20 kbit/s.
    K20,
    /// 50 kbit/s.
    K50,
    /// 100 kbit/s.
    K100,
    /// 125 kbit/s.
    K125,
    /// 250 kbit/s: trucks (SAE J1939).
    K250,
    /// 500 kbit/s: cars.
    K500,
    /// 800 kbit/s.
    K800,
    /// 1 Mbit/s.
    M1,
}

/// What an adapter did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CanEvent {
    /// It is there and its channel is open.
    Open,
    /// A frame was on the bus.
    Frame(Frame),
    /// It is gone or does not answer; it is opened again until it does.
    Lost {
        /// Why, for people.
        why: String,
    },
}

/// Why a frame was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The adapter is not there now.
    #[error("the CAN adapter is not there")]
    Absent,
    /// The adapter could not take it: its buffer is full, or the bus is off.
    #[error("the CAN adapter refused the frame")]
    Refused,
    /// The adapter did not answer; the frame may have been sent.
    #[error("the CAN adapter did not answer in {0} ms")]
    Silent(u64),
}

/// An adapter that is served until this is dropped.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use device_sdk::serial::slcan::{Bitrate, CanAdapter, CanEvent, Frame};
/// let mut can = CanAdapter::spawn("/dev/ttyACM0", 115_200, Bitrate::K250);
/// while let Some(event) = can.next().await {
///     if event == CanEvent::Open {
///         can.send(Frame::extended(0x18EA_FF00, &[0xEC, 0xFE, 0x00])?).await?;
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct CanAdapter {
    events: broadcast::Receiver<CanEvent>,
    frames: mpsc::Sender<(Frame, oneshot::Sender<Result<(), SendError>>)>,
}

impl CanAdapter {
    /// Begins to serve an adapter, whether its line is there or not. Must be called in a tokio runtime.
    pub fn spawn(path: impl Into<String>, baud: u32, bitrate: Bitrate) -> Self {
        let (sender, events) = broadcast::channel(EVENTS_MAX);
        let (frames, waiting) = mpsc::channel(WAITING_MAX);
        let task = Task { path: path.into(), baud, bitrate, events: sender, frames: waiting, is_lost: false };
        tokio::spawn(task.run());
        Self { events, frames }
    }

    /// Waits for the next event. A reader that is more than 1,024 events behind misses the oldest. `None`: the task has
    /// panicked.
    pub async fn next(&mut self) -> Option<CanEvent> {
        loop {
            match self.events.recv().await {
                Ok(event) => return Some(event),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// Sends a frame and waits until the adapter has taken it.
    ///
    /// # Errors
    /// The adapter is not there, cannot take it or does not answer.
    pub async fn send(&self, frame: Frame) -> Result<(), SendError> {
        let (answer, answered) = oneshot::channel();
        self.frames.send((frame, answer)).await.map_err(|_| SendError::Absent)?;
        answered.await.unwrap_or(Err(SendError::Absent))
    }
}

struct Task {
    path: String,
    baud: u32,
    bitrate: Bitrate,
    events: broadcast::Sender<CanEvent>,
    frames: mpsc::Receiver<(Frame, oneshot::Sender<Result<(), SendError>>)>,
    /// Its absence was told.
    is_lost: bool,
}

/// Why serving an adapter ended.
enum End {
    /// Nobody wants it any more.
    Dropped,
    Failed(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl Task {
    async fn run(mut self) {
        while let Err(End::Failed(error)) = self.session().await {
            if !std::mem::replace(&mut self.is_lost, true) {
                let why = format!("{}: {error}", self.path);
                let _ = self.events.send(CanEvent::Lost { why });
            }
            let absent = async {
                while let Some((_, answer)) = self.frames.recv().await {
                    let _ = answer.send(Err(SendError::Absent));
                }
            };
            tokio::select! {
                () = sleep(REOPEN) => {}
                () = absent => return,
            }
        }
    }

    async fn session(&mut self) -> Result<std::convert::Infallible, End> {
        let mut line =
            Line { stream: open(&self.path, self.baud)?, read: Vec::new(), events: self.events.clone() };
        // Whatever a user before left half written is ended; the channel may be open, and closing a closed one is refused.
        line.stream.write_all(b"\r\r\rC\r").await?;
        while line.answer().await.is_ok() {}
        for command in [format!("S{}", self.bitrate as u8), "O".to_owned()] {
            let answer = line.command(&command).await?;
            let is_taken =
                answer.ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, "the adapter is silent"))?;
            if !is_taken {
                return Err(io::Error::other(format!("the adapter refuses {command}")).into());
            }
        }
        self.is_lost = false;
        let _ = self.events.send(CanEvent::Open);
        loop {
            tokio::select! {
                heard = line.hear() => drop(heard?),
                frame = self.frames.recv() => {
                    let Some((frame, answer)) = frame else { return Err(End::Dropped) };
                    let sent = match line.command(&frame.to_line()).await? {
                        Some(true) => Ok(()),
                        Some(false) => Err(SendError::Refused),
                        None => Err(SendError::Silent(ANSWER.as_millis() as u64)),
                    };
                    let _ = answer.send(sent);
                }
            }
        }
    }
}

struct Line {
    stream: SerialStream,
    /// Read, and no whole line yet.
    read: Vec<u8>,
    events: broadcast::Sender<CanEvent>,
}

impl Line {
    /// Sends a command and says whether it was taken, `None` without an answer.
    async fn command(&mut self, command: &str) -> io::Result<Option<bool>> {
        self.stream.write_all(format!("{command}\r").as_bytes()).await?;
        match self.answer().await {
            Ok(answer) => answer.map(Some),
            Err(_) => Ok(None),
        }
    }

    async fn answer(&mut self) -> Result<io::Result<bool>, tokio::time::error::Elapsed> {
        timeout(ANSWER, async {
            loop {
                if let Some(answer) = self.hear().await? {
                    return Ok(answer);
                }
            }
        })
        .await
    }

    /// Waits for one line; tells of a frame, returns an answer.
    async fn hear(&mut self) -> io::Result<Option<bool>> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| matches!(byte, b'\r' | 0x07)) {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Ok(self.heard(&line));
            }
            if self.read.len() > LINE_BYTES_MAX {
                // No line of this protocol: its end is waited for.
                self.read.clear();
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn heard(&self, line: &[u8]) -> Option<bool> {
        let (end, text) = line.split_last()?;
        match (text, *end) {
            (_, 0x07) => Some(false),
            // Answers to frames are z and Z, to others nothing.
            (b"" | b"z" | b"Z", _) => Some(true),
            (text, _) => {
                let frame = str::from_utf8(text).ok().and_then(|text| Frame::from_line(text).ok());
                if let Some(frame) = frame {
                    let _ = self.events.send(CanEvent::Frame(frame));
                }
                None
            }
        }
    }
}
