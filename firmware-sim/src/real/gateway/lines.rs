//! What hangs on a gateway's serial lines: a receiver that speaks and a lock that obeys, each on a pseudo terminal with a thread
//! of its own.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use serialport::{SerialPort, TTYPort};

use super::nmea::sentence;

/// How long a read or a write waits at most.
const READ: Duration = Duration::from_millis(50);
/// What a receiver has to say that nobody has heard yet; beyond it the oldest would be late, and the newest is left out.
const SPEECH_MAX: usize = 4;
/// The longest request of a gateway, bytes.
const REQUEST_BYTES_MAX: usize = 256;

/// One line: our end of it, and the path of the other.
fn line() -> io::Result<(TTYPort, String)> {
    let (mut own, other) = TTYPort::pair()?;
    own.set_timeout(READ)?;
    let path = other.name().ok_or_else(|| io::Error::other("a pseudo terminal without a name"))?;
    Ok((own, path))
}

/// What a lock is told, and by whom it is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// To close.
    Lock,
    /// To open.
    Unlock,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obeys {
    /// The lock moves and answers.
    Yes,
    /// It moves, and the power goes before it answers.
    Unanswered,
    /// The power goes before it moves.
    No,
}

/// A receiver on a line.
#[derive(Debug)]
pub(super) struct GpsLine {
    /// What the gateway opens.
    pub(super) path: String,
    speech: SyncSender<String>,
}

impl GpsLine {
    pub(super) fn open() -> io::Result<GpsLine> {
        let (port, path) = line()?;
        let (speech, said) = sync_channel(SPEECH_MAX);
        // Ends when nothing can be said any more.
        thread::Builder::new().name("sim-gps".to_owned()).spawn(move || speak(port, &said))?;
        Ok(GpsLine { path, speech })
    }

    /// Says something.
    pub(super) fn say(&self, sentences: String) {
        if self.speech.try_send(sentences).is_err() {
            tracing::debug!(path = self.path, "a line takes nothing: nobody reads it");
        }
    }
}

fn speak(mut port: TTYPort, said: &Receiver<String>) {
    let mut heard = [0; 64];
    while let Ok(sentences) = said.recv() {
        // Nobody may have the line open: then it is full some day, and the rest of a sentence is noise.
        let _ = port.write_all(sentences.as_bytes());
        // What a gateway says to a receiver is read away.
        while port.bytes_to_read().is_ok_and(|count| count > 0) && matches!(port.read(&mut heard), Ok(1..)) {}
    }
}

/// A lock on a line.
#[derive(Debug)]
pub(super) struct LockLine {
    /// What the gateway opens.
    pub(super) path: String,
    is_over: Arc<AtomicBool>,
}

impl Drop for LockLine {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

impl LockLine {
    /// Puts a lock on a line; `told` is asked about each new request that would move it.
    pub(super) fn open(told: impl FnMut(Told) -> Obeys + Send + 'static) -> io::Result<LockLine> {
        let (port, path) = line()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, bolt) = (is_over.clone(), Bolt::new(told));
        thread::Builder::new().name("sim-lock".to_owned()).spawn(move || obey(port, bolt, &over))?;
        Ok(LockLine { path, is_over })
    }
}

fn obey(mut port: TTYPort, mut bolt: Bolt<impl FnMut(Told) -> Obeys>, is_over: &AtomicBool) {
    let mut bytes = [0; 128];
    while !is_over.load(Ordering::Relaxed) {
        match port.read(&mut bytes) {
            Ok(count) => {
                for answer in bolt.hear(&bytes[..count]) {
                    // A gateway that is off asks again when it is on.
                    let _ = port.write_all(answer.as_bytes());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
            // Nobody has the line open.
            Err(_) => {
                bolt.rest.clear();
                thread::sleep(READ);
            }
        }
    }
}

/// The lock itself: it carries each number out once, and answers a number that comes again as before.
struct Bolt<F> {
    told: F,
    rest: Vec<u8>,
    is_open: bool,
    last: Option<(String, String)>,
}

impl<F: FnMut(Told) -> Obeys> Bolt<F> {
    fn new(told: F) -> Bolt<F> {
        Bolt { told, rest: Vec::new(), is_open: false, last: None }
    }

    /// Takes what comes; returns its answers.
    fn hear(&mut self, bytes: &[u8]) -> Vec<String> {
        self.rest.extend_from_slice(bytes);
        let mut answers = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let request: Vec<u8> = self.rest.drain(..=end).collect();
            answers.extend(self.request(&String::from_utf8_lossy(&request)));
        }
        if self.rest.len() > REQUEST_BYTES_MAX {
            self.rest.clear();
        }
        answers
    }

    fn request(&mut self, request: &str) -> Option<String> {
        let body = request.trim_end().strip_prefix('$')?;
        let (body, _) =
            body.split_once('*').filter(|(body, _)| sentence(body).trim_end() == request.trim_end())?;
        let (number, what) = body.strip_prefix("PLOCK,")?.split_once(',')?;
        if let Some((_, answer)) = self.last.as_ref().filter(|(last, _)| last == number) {
            return Some(answer.clone());
        }
        let told = match what {
            "LOCK" => Some(Told::Lock),
            "UNLOCK" => Some(Told::Unlock),
            "STATE" => None,
            _ => return Some(sentence(&format!("PLOCKR,{number},ERROR,what is {what}"))),
        };
        let mut is_answered = true;
        if let Some(told) = told {
            let obeys = (self.told)(told);
            if obeys == Obeys::No {
                return None;
            }
            is_answered = obeys == Obeys::Yes;
            self.is_open = told == Told::Unlock;
        }
        let state = if self.is_open { "UNLOCKED" } else { "LOCKED" };
        let answer = sentence(&format!("PLOCKR,{number},{state}"));
        self.last = Some((number.to_owned(), answer.clone()));
        is_answered.then_some(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_carries_each_number_out_once_and_answers_it_again() {
        let mut told = Vec::new();
        let mut bolt = Bolt::new(|what| {
            told.push(what);
            Obeys::Yes
        });
        let ask = |bolt: &mut Bolt<_>, body: &str| bolt.hear(sentence(body).as_bytes());
        assert_eq!(ask(&mut bolt, "PLOCK,7,STATE"), [sentence("PLOCKR,7,LOCKED")]);
        for _ in 0..2 {
            assert_eq!(ask(&mut bolt, "PLOCK,8,UNLOCK"), [sentence("PLOCKR,8,UNLOCKED")]);
        }
        assert_eq!(bolt.hear(b"$PLOCK,9,LOCK*00\r\nnoise\r\n"), [""; 0]);
        let (first, rest) = (sentence("PLOCK,9,LOCK"), sentence("PLOCK,10,STATE"));
        let both = first + &rest;
        let answers: Vec<String> = both.as_bytes().chunks(5).flat_map(|piece| bolt.hear(piece)).collect();
        assert_eq!(answers, [sentence("PLOCKR,9,LOCKED"), sentence("PLOCKR,10,LOCKED")]);
        assert_eq!(told, [Told::Unlock, Told::Lock]);
    }

    #[test]
    fn a_lock_without_power_says_nothing_and_has_moved_or_not() {
        for (obeys, state) in [(Obeys::No, "LOCKED"), (Obeys::Unanswered, "UNLOCKED")] {
            let mut bolt = Bolt::new(move |_| obeys);
            assert_eq!(bolt.hear(sentence("PLOCK,1,UNLOCK").as_bytes()), [""; 0]);
            let answer = bolt.hear(sentence("PLOCK,2,STATE").as_bytes());
            assert_eq!(answer, [sentence(&format!("PLOCKR,2,{state}"))]);
        }
    }
}
