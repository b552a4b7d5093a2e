//! The thread that owns the queue's logs.
//!
//! Each round takes everything that has come, appends it, syncs once, and only then tells who waits.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::place::{FilePlaces, Places};
use super::state::{Arriving, State};
use super::store::{AppendError, Store};
use super::window::Waiting;
use super::{Class, Planted, Shared};
use crate::{QueueError, QueueOptions};

/// A simulated fleet has thousands of these threads, and none needs more.
const STACK_BYTES: usize = 256 * 1024;
/// Longest that an acknowledgement stays unsynced, and most of them.
const ACK_DELAY_MS: u64 = 5_000;
const ACKS_UNWRITTEN_MAX: usize = 4_096;
/// Entries that wait for others are written at once when there are so many of them, or bytes.
const GROUP_ENTRIES_MAX: usize = 256;
const GROUP_BYTES_MAX: usize = 64 * 1024;
/// Steps taken to make room for one entry.
const RELIEF_STEPS_MAX: u32 = 64;

/// Starts the thread.
pub(super) fn spawn(store: Store<FilePlaces>, options: &QueueOptions, shared: Arc<Shared>) -> io::Result<()> {
    let writer = Writer::new(store, shared, options.group_ms);
    let builder = std::thread::Builder::new().name("device-queue".to_owned()).stack_size(STACK_BYTES);
    builder.spawn(move || writer.run())?;
    Ok(())
}

#[derive(Debug)]
pub(super) struct Writer<P: Places> {
    store: Store<P>,
    shared: Arc<Shared>,
    /// How long an entry may wait for others.
    group_ms: u64,
    /// Since when an acknowledgement has not been written, on the queue's clock.
    acks_since_ms: Option<u64>,
}

/// What the writer does next; times are the queue's clock.
pub(super) enum Next {
    Now(Work),
    /// Nothing before this.
    At(u64),
    /// Nothing until something comes.
    Idle,
}

/// What a round has to do.
pub(super) struct Work {
    arriving: Vec<Arriving>,
    writes_acks: bool,
    /// Classes to load more of, after which entry, and how many bytes.
    loads: Vec<(Class, u64, usize)>,
    closing: bool,
}

/// An entry that is appended.
struct Appended {
    class: Class,
    number: u64,
    waiting: Waiting,
    reply: oneshot::Sender<Result<u64, QueueError>>,
}

impl<P: Places> Writer<P> {
    pub(super) fn new(store: Store<P>, shared: Arc<Shared>, group_ms: u64) -> Self {
        Self { store, shared, group_ms, acks_since_ms: None }
    }

    /// Does at once what there is to do, on this thread.
    #[cfg(test)]
    pub(super) fn turn(&mut self, writes_acks: bool) -> Result<(), String> {
        let work = take(&mut self.shared.lock(), true, writes_acks);
        self.round(work)
    }

    #[cfg(test)]
    pub(super) fn store(&mut self) -> &mut Store<P> {
        &mut self.store
    }

    fn run(mut self) {
        loop {
            let work = self.wait();
            let closing = work.closing;
            if let Err(what) = self.round(work) {
                self.fail(&what);
            }
            if closing {
                break;
            }
        }
        let shared = self.shared.clone();
        // Unlocks the directories before anyone is told.
        if let Err(error) = self.store.close() {
            tracing::warn!(%error, "the disk queue was not closed cleanly; nothing acknowledged is lost");
        }
        shared.lock().closed = true;
        shared.progressed.notify_waiters();
    }

    /// Sleeps until there is something to do.
    fn wait(&mut self) -> Work {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        loop {
            let now_ms = shared.now_ms();
            state = match self.next(&mut state, now_ms) {
                Next::Now(work) => return work,
                Next::Idle => shared.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                Next::At(due_ms) => {
                    let limit = Duration::from_millis(due_ms.saturating_sub(now_ms));
                    let waited = shared.work.wait_timeout(state, limit);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Looks what there is to do now.
    pub(super) fn next(&mut self, state: &mut State, now_ms: u64) -> Next {
        let healthy = state.failed.is_none();
        if state.acks_unwritten > 0 {
            self.acks_since_ms.get_or_insert(now_ms);
        }
        let acks_due_ms = self.acks_since_ms.map(|since_ms| since_ms + ACK_DELAY_MS).filter(|_| healthy);
        let writes_acks = healthy
            && (state.acks_unwritten >= ACKS_UNWRITTEN_MAX
                || acks_due_ms.is_some_and(|due_ms| now_ms >= due_ms));
        let group_due_ms = group_due_ms(state, self.group_ms);
        let writes_group = group_due_ms.is_some_and(|due_ms| now_ms >= due_ms);
        if state.closing || writes_acks || writes_group || state.wants_load() {
            let takes_arriving = writes_group || state.closing || writes_acks;
            // A write that is made anyway takes them along.
            let writes_acks = healthy && takes_arriving && state.acks_unwritten > 0;
            return Next::Now(take(state, takes_arriving, writes_acks));
        }
        acks_due_ms.into_iter().chain(group_due_ms).min().map_or(Next::Idle, Next::At)
    }

    /// Does what there is to do.
    pub(super) fn round(&mut self, work: Work) -> Result<(), String> {
        let mut result = Ok(());
        if work.writes_acks {
            result = self.write_acks();
        }
        if !work.arriving.is_empty() || work.writes_acks {
            result = result.and_then(|()| self.write(work.arriving));
        }
        // Also when nothing can be written: what was accepted stays readable.
        for (class, after, bytes_max) in work.loads {
            self.load(class, after, bytes_max);
        }
        result
    }

    /// Notes what is done with, and gives its space back.
    fn write_acks(&mut self) -> Result<(), String> {
        self.acks_since_ms = None;
        self.shared.lock().acks_unwritten = 0;
        let now_s = self.shared.now_ms() / 1_000;
        for class in Class::ALL {
            let last = self.store.last(class);
            if last == 0 {
                continue;
            }
            let (done, watermark) = {
                let mut state = self.shared.lock();
                let window = state.window(class);
                (window.take_unwritten(), window.watermark(last))
            };
            if done.is_empty() {
                continue;
            }
            match self.store.append_acks(class, now_s, &done).map_err(|error| error.to_string())? {
                Some(number) => self.shared.lock().window(class).appended_other(number),
                // What a full disk cannot take is remembered until entries go and make room.
                None => self.shared.lock().window(class).still_unwritten(&done),
            }
            let planted = self.shared.lock().planted;
            // Everything that is in the log, whether it was sent or not: a mistake made on purpose.
            let watermark = if planted == Some(Planted::SpaceGivenBackEarly) { last } else { watermark };
            self.store.drop_before(class, watermark + 1).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Appends entries, answers those that do not fit, commits, and tells the others.
    fn write(&mut self, arriving: Vec<Arriving>) -> Result<(), String> {
        let mut appended = Vec::with_capacity(arriving.len());
        let mut arriving = arriving.into_iter();
        let mut result = Ok(());
        for entry in arriving.by_ref() {
            match self.append(&entry, &mut appended) {
                Ok(number) => appended.push(self.appended(entry, number)),
                Err(AppendError::Full { needed }) => {
                    let full = self.full(needed);
                    answer(entry.reply, Err(full));
                }
                Err(AppendError::Encode(error)) => {
                    answer(entry.reply, Err(QueueError::Unencodable { what: error.to_string() }));
                }
                Err(AppendError::Disk(what)) => {
                    answer(entry.reply, Err(QueueError::Disk { what: what.clone() }));
                    result = Err(what);
                    break;
                }
            }
        }
        let result = result.and_then(|()| self.commit(&mut appended));
        if let Err(what) = &result {
            let lost = appended.into_iter().map(|entry| entry.reply);
            for reply in lost.chain(arriving.map(|entry| entry.reply)) {
                answer(reply, Err(QueueError::Disk { what: what.clone() }));
            }
        }
        result
    }

    /// Appends an entry; makes room for it where something may give way.
    fn append(&mut self, entry: &Arriving, appended: &mut Vec<Appended>) -> Result<u64, AppendError> {
        let now_s = self.shared.now_ms() / 1_000;
        for step in 0..RELIEF_STEPS_MAX {
            let ahead = appended.len() as u64;
            let full = if self.is_within_entries(entry.class, ahead) {
                match self.store.append(entry.class, &entry.publish, now_s) {
                    Err(full @ AppendError::Full { .. }) => full,
                    result => return result,
                }
            } else {
                AppendError::Full { needed: entry.bytes as u64 }
            };
            // Nothing is given up that the windows do not know: it would look like something done with.
            self.commit(appended).map_err(AppendError::Disk)?;
            // What is done with already may be enough.
            if step == 0 {
                self.write_acks().map_err(AppendError::Disk)?;
                continue;
            }
            let shared = self.shared.clone();
            let now_ms = shared.now_ms();
            let relief = self.store.relieve(entry.class, now_ms, &|class| shared.lock().known(class));
            match relief.map_err(AppendError::Disk)? {
                Some(relief) => self.shared.lock().relieved(&relief),
                None => return Err(full),
            }
            self.shared.changed.notify_one();
        }
        Err(AppendError::Full { needed: entry.bytes as u64 })
    }

    /// Puts on disk what is appended, and tells it.
    fn commit(&mut self, appended: &mut Vec<Appended>) -> Result<(), String> {
        self.store.commit().map_err(|error| error.to_string())?;
        self.tell(std::mem::take(appended));
        Ok(())
    }

    fn full(&self, needed: u64) -> QueueError {
        let status = self.shared.lock().status;
        QueueError::Full {
            bytes: self.store.disk_bytes(),
            bytes_max: status.bytes_max,
            entries: status.entries,
            entries_max: status.entries_max,
            needed,
        }
    }

    fn is_within_entries(&self, class: Class, ahead: u64) -> bool {
        let status = self.shared.lock().status;
        status.entries + ahead < status.entries_max || class.uses_reserve()
    }

    fn appended(&self, entry: Arriving, number: u64) -> Appended {
        let Arriving { class, publish, bytes, reply, .. } = entry;
        let born_ms = self.shared.now_ms();
        let expiry_s = publish.properties.message_expiry_interval_s;
        // From the second that the record tells.
        let expires_ms = expiry_s.map(|expiry_s| (born_ms / 1_000 + u64::from(expiry_s)) * 1_000);
        let publish = self.store.outgoing(class, number, publish);
        let waiting = Waiting { publish, bytes, born_ms: Some(born_ms), expires_ms };
        Appended { class, number, waiting, reply }
    }

    /// The entries are on disk: they may be sent, and those who wait be told.
    fn tell(&self, appended: Vec<Appended>) {
        let mut replies = Vec::with_capacity(appended.len());
        let has_news = {
            let mut state = self.shared.lock();
            state.status.bytes = self.store.disk_bytes();
            state.status.written_bytes = self.store.written_bytes();
            for Appended { class, number, waiting, reply } in appended {
                state.appended(class, number, waiting);
                replies.push((reply, number));
            }
            state.has_news()
        };
        if !replies.is_empty() || has_news {
            self.shared.changed.notify_one();
        }
        for (reply, number) in replies {
            answer(reply, Ok(number));
        }
    }

    /// Reads the next entries of a class back from disk.
    fn load(&mut self, class: Class, after: u64, bytes_max: usize) {
        let (entries, mut is_complete) = match self.store.load(class, after, bytes_max) {
            Ok(loaded) => loaded,
            Err(what) => {
                self.shared.lock().is_unreadable = true;
                return self.fail(&what);
            }
        };
        {
            let mut state = self.shared.lock();
            let window = state.window(class);
            for (number, waiting) in entries {
                if !window.load(number, waiting) {
                    is_complete = false;
                    break;
                }
            }
            if is_complete {
                window.loaded_all();
            }
        }
        self.shared.changed.notify_one();
    }

    /// Nothing more can be written: says so to everyone, now and later.
    pub(super) fn fail(&self, what: &str) {
        tracing::error!(what, "the disk queue failed");
        let arriving = {
            let mut state = self.shared.lock();
            state.failed.get_or_insert_with(|| what.to_owned());
            state.arriving_bytes = 0;
            std::mem::take(&mut state.arriving)
        };
        for entry in arriving {
            answer(entry.reply, Err(QueueError::Disk { what: what.to_owned() }));
        }
    }
}

/// Returns when those that have come are to be written, on the queue's clock; `None` if nothing has come.
fn group_due_ms(state: &State, group_ms: u64) -> Option<u64> {
    let first = state.arriving.first()?;
    let is_full = state.arriving.len() >= GROUP_ENTRIES_MAX || state.arriving_bytes >= GROUP_BYTES_MAX;
    let is_pressing = || state.arriving.iter().any(|entry| !entry.class.waits(state.is_online));
    if is_full || is_pressing() { Some(first.since_ms) } else { Some(first.since_ms + group_ms) }
}

fn take(state: &mut State, takes_arriving: bool, writes_acks: bool) -> Work {
    let loads = if state.is_unreadable {
        Vec::new()
    } else {
        let windows = Class::ALL.into_iter().zip(&state.windows);
        let used = windows.filter_map(|(class, window)| Some((class, window.as_ref()?)));
        let wanting = used.filter(|(_, window)| window.wants_load());
        wanting.map(|(class, window)| (class, window.loaded_to(), window.room_bytes())).collect()
    };
    let arriving = if takes_arriving {
        state.arriving_bytes = 0;
        std::mem::take(&mut state.arriving)
    } else {
        Vec::new()
    };
    Work { arriving, writes_acks, loads, closing: state.closing }
}

/// Answers a caller, who may have stopped waiting; the entry stays on disk all the same.
fn answer(reply: oneshot::Sender<Result<u64, QueueError>>, result: Result<u64, QueueError>) {
    let _ = reply.send(result);
}
