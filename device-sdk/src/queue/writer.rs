//! The thread that owns the queue's log.
//!
//! Each round takes everything that has come, appends it, syncs once, and only then tells who waits.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use storage::{Durability, Log, LogConfig, LogError, Lsn};
use tokio::sync::oneshot;

use super::record::{RECORD_BYTES_MAX, Record, decode, encode_acks};
use super::window::{WINDOW_BYTES_MAX, Window};
use super::{Arriving, QueueStatus, Shared, State};
use crate::{QueueError, QueueOptions, StartError};

/// Small, so that space comes back soon.
const SEGMENT_BYTES: u64 = 256 * 1024;
/// A simulated fleet has thousands of these threads, and none needs more.
const STACK_BYTES: usize = 256 * 1024;
/// Longest that an acknowledgement stays unsynced, and most of them.
const ACK_DELAY: Duration = Duration::from_secs(1);
const ACKS_UNWRITTEN_MAX: usize = 256;

/// Opens the log and finds out what is left to send.
pub(super) fn open(options: &QueueOptions) -> Result<(Log, u64, State), StartError> {
    let dir = options.dir.display().to_string();
    let config = LogConfig {
        segment_bytes: SEGMENT_BYTES,
        durability: Durability::Power,
        record_bytes_max: RECORD_BYTES_MAX,
        bytes_max: Some(options.bytes_max),
        keeps_reserve: false,
    };
    let log = Log::open(&options.dir, config).map_err(StartError::Queue)?;
    let unreadable = |what: String| StartError::QueueRecords { dir: dir.clone(), what };

    let mut watermark = 0;
    let mut done = BTreeSet::new();
    each_record(&log, 1, |_, bytes| {
        if let Record::Acks { watermark: up_to, above } = decode(bytes)? {
            watermark = watermark.max(up_to);
            done.extend(above);
        }
        Ok(true)
    })
    .map_err(&unreadable)?;
    done = done.split_off(&(watermark + 1));
    let mut entries = 0;
    each_record(&log, watermark + 1, |number, bytes| {
        if !done.contains(&number) {
            entries += u64::from(matches!(decode(bytes)?, Record::Entry(_)));
        }
        Ok(true)
    })
    .map_err(&unreadable)?;

    let status = QueueStatus { entries, bytes: log.disk_bytes(), bytes_max: options.bytes_max };
    let last = log.next_lsn().0 - 1;
    let window = Window::recovered(watermark, done, entries > 0);
    Ok((log, last, State { window, status, ..State::default() }))
}

/// Calls `take` for each record from this number on, oldest first, until it returns false.
fn each_record(
    log: &Log,
    from: u64,
    mut take: impl FnMut(u64, &Bytes) -> Result<bool, String>,
) -> Result<(), String> {
    for record in log.replay_from(Lsn(from)).map_err(|error| error.to_string())? {
        let (Lsn(number), bytes) = record.map_err(|error| error.to_string())?;
        if !take(number, &bytes).map_err(|what| format!("record {number}: {what}"))? {
            break;
        }
    }
    Ok(())
}

/// Starts the thread.
pub(super) fn spawn(log: Log, last: u64, shared: Arc<Shared>) -> io::Result<()> {
    let writer = Writer { log, shared, last, acks_since: None };
    let builder = std::thread::Builder::new().name("device-queue".to_owned()).stack_size(STACK_BYTES);
    builder.spawn(move || writer.run())?;
    Ok(())
}

struct Writer {
    log: Log,
    shared: Arc<Shared>,
    /// The last record's number.
    last: u64,
    /// Since when an acknowledgement has not been written.
    acks_since: Option<Instant>,
}

/// What a round has to do.
struct Work {
    arriving: Vec<Arriving>,
    /// The watermark and what is acknowledged above it.
    acks: Option<(u64, Vec<u64>)>,
    /// The entry after which to load more.
    load_after: Option<u64>,
    closing: bool,
}

impl Writer {
    fn run(mut self) {
        loop {
            let work = self.wait();
            let closing = work.closing;
            if let Err(error) = self.round(work) {
                self.fail(&error.to_string());
            }
            if closing {
                break;
            }
        }
        let shared = self.shared.clone();
        // Unlocks the directory before anyone is told.
        if let Err(error) = self.log.close() {
            tracing::warn!(%error, "the disk queue was not closed cleanly; nothing acknowledged is lost");
        }
        shared.lock().closed = true;
        shared.progressed.notify_waiters();
    }

    /// Sleeps until there is something to do.
    fn wait(&mut self) -> Work {
        let mut state = self.shared.lock();
        loop {
            let now = Instant::now();
            if state.acks_unwritten > 0 {
                self.acks_since.get_or_insert(now);
            }
            let acks_due = self.acks_since.map(|since| since + ACK_DELAY);
            let healthy = state.failed.is_none();
            let loads = healthy && state.window.wants_load();
            let acks = healthy
                && (state.acks_unwritten >= ACKS_UNWRITTEN_MAX || acks_due.is_some_and(|due| now >= due));
            if state.closing || loads || acks || !state.arriving.is_empty() {
                return self.take(&mut state);
            }
            state = match acks_due.filter(|_| healthy) {
                None => self.shared.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(due) => {
                    let limit = due.saturating_duration_since(now);
                    let waited = self.shared.work.wait_timeout(state, limit);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn take(&self, state: &mut State) -> Work {
        let healthy = state.failed.is_none();
        let acks = (healthy && state.acks_unwritten > 0).then(|| {
            state.acks_unwritten = 0;
            let watermark = state.window.watermark(self.last);
            (watermark, state.window.done_above().collect())
        });
        Work {
            arriving: std::mem::take(&mut state.arriving),
            acks,
            load_after: (healthy && state.window.wants_load()).then(|| state.window.loaded_to()),
            closing: state.closing,
        }
    }

    fn round(&mut self, work: Work) -> Result<(), LogError> {
        if let Some((watermark, above)) = work.acks {
            self.acks_since = None;
            // Before the record of it is durable: at worst a crash makes some of it go out again.
            self.log.drop_before(Lsn(watermark + 1))?;
            if self.log.is_full() {
                self.log.retry_space();
            }
            match self.log.append(&encode_acks(watermark, above.into_iter())) {
                Ok(Lsn(number)) => self.last = number,
                // What a full disk cannot take is remembered until entries go and make room.
                Err(LogError::Full { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let appended = self.append_all(work.arriving)?;
        if let Err(error) = self.log.commit() {
            for (_, entry) in appended {
                answer(entry.reply, Err(QueueError::Disk { what: error.to_string() }));
            }
            return Err(error);
        }
        self.tell(appended);
        if let Some(after) = work.load_after {
            self.load(after);
        }
        Ok(())
    }

    /// Appends entries and answers those that do not fit.
    fn append_all(&mut self, arriving: Vec<Arriving>) -> Result<Vec<(u64, Arriving)>, LogError> {
        let mut appended = Vec::with_capacity(arriving.len());
        let mut arriving = arriving.into_iter();
        while let Some(entry) = arriving.next() {
            match self.log.append(&entry.record) {
                Ok(Lsn(number)) => {
                    self.last = number;
                    appended.push((number, entry));
                }
                Err(LogError::Full { .. }) => {
                    let status = self.shared.lock().status;
                    let (bytes, needed) = (self.log.disk_bytes(), entry.record.len() as u64);
                    let full = QueueError::Full {
                        bytes,
                        bytes_max: status.bytes_max,
                        entries: status.entries,
                        needed,
                    };
                    answer(entry.reply, Err(full));
                }
                Err(error) => {
                    let what = error.to_string();
                    let lost = appended.into_iter().map(|(_, entry): (u64, Arriving)| entry).chain([entry]);
                    for entry in lost.chain(arriving) {
                        answer(entry.reply, Err(QueueError::Disk { what: what.clone() }));
                    }
                    return Err(error);
                }
            }
        }
        Ok(appended)
    }

    /// The entries are on disk: they may be sent, and those who wait be told.
    fn tell(&self, appended: Vec<(u64, Arriving)>) {
        let mut replies = Vec::with_capacity(appended.len());
        {
            let mut state = self.shared.lock();
            state.status.bytes = self.log.disk_bytes();
            state.status.entries += appended.len() as u64;
            for (number, entry) in appended {
                state.window.appended(number, entry.publish, entry.record.len());
                replies.push(entry.reply);
            }
        }
        if !replies.is_empty() {
            self.shared.changed.notify_one();
        }
        for reply in replies {
            answer(reply, Ok(()));
        }
    }

    /// Reads the next entries back from disk.
    fn load(&mut self, after: u64) {
        let mut batch = Vec::new();
        let mut batch_bytes = 0;
        let mut complete = true;
        let result = each_record(&self.log, after + 1, |number, bytes| {
            if let Record::Entry(publish) = decode(bytes)? {
                batch_bytes += bytes.len();
                batch.push((number, publish, bytes.len()));
                complete = batch_bytes <= WINDOW_BYTES_MAX;
            }
            Ok(complete)
        });
        if let Err(what) = result {
            return self.fail(&what);
        }
        {
            let mut state = self.shared.lock();
            for (number, publish, bytes) in batch {
                if !state.window.load(number, publish, bytes) {
                    complete = false;
                    break;
                }
            }
            if complete {
                state.window.loaded_all();
            }
        }
        self.shared.changed.notify_one();
    }

    /// Nothing more can be written: says so to everyone, now and later.
    fn fail(&self, what: &str) {
        tracing::error!(what, "the disk queue failed");
        let arriving = {
            let mut state = self.shared.lock();
            state.failed.get_or_insert_with(|| what.to_owned());
            std::mem::take(&mut state.arriving)
        };
        for entry in arriving {
            answer(entry.reply, Err(QueueError::Disk { what: what.to_owned() }));
        }
    }
}

/// Answers a caller, who may have stopped waiting; the entry stays on disk all the same.
fn answer(reply: oneshot::Sender<Result<(), QueueError>>, result: Result<(), QueueError>) {
    let _ = reply.send(result);
}
