//! Store and forward on disk: what is enqueued survives crashes, is sent in order, and is removed when acknowledged.
//!
//! [`Queue`] is the face; a writer thread owns the log (`writer`), and what is in memory is `window`. An `enqueue` completes
//! when its record is synced; concurrent ones share a sync. Acknowledgements are synced along with the next entries, or
//! after a second: one that a crash undoes leads to a message sent again, which its `im-id` makes recognisable.

mod record;
mod window;
mod writer;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use protocol::{Publish, QoS, im::IM_ID};
use tokio::sync::{Notify, Semaphore, oneshot};

use crate::message::user_property;
use crate::{Message, QueueError, QueueOptions, StartError};
use window::Window;

/// Enqueues that may wait for the disk at a time; more wait in line.
const ENQUEUES_WAITING_MAX: usize = 1024;
/// The same in bytes of records.
const ENQUEUED_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Smallest quota: below it a segment is most of the queue.
pub(crate) const QUOTA_BYTES_MIN: u64 = 1024 * 1024;

/// How full a disk queue is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStatus {
    /// Entries that the broker has not acknowledged.
    pub entries: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// The quota.
    pub bytes_max: u64,
}

/// An entry on its way to the broker.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Names the entry in this queue, ascending.
    pub(crate) number: u64,
    pub(crate) publish: Publish,
    /// Counted for it in the window.
    bytes: usize,
}

impl Entry {
    /// Returns the entry's `im-id`.
    pub(crate) fn id(&self) -> &str {
        user_property(&self.publish.properties.user_properties, IM_ID).unwrap_or_default()
    }
}

/// A cheap handle to the queue. The last one dropped ends the writer.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    shared: Arc<Shared>,
    _end: Arc<EndOnDrop>,
}

/// What handles and writer share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Wakes the writer.
    work: Condvar,
    /// Tells the driver that there may be entries.
    changed: Notify,
    /// Tells those who wait for an empty queue, or for the writer's end.
    progressed: Notify,
    enqueues: Semaphore,
    enqueued_bytes: Semaphore,
}

#[derive(Debug, Default)]
struct State {
    window: Window,
    arriving: Vec<Arriving>,
    /// Acknowledgements that are not in the log yet.
    acks_unwritten: usize,
    status: QueueStatus,
    closing: bool,
    closed: bool,
    /// Why nothing can be written any more.
    failed: Option<String>,
}

/// An entry on its way to the disk.
#[derive(Debug)]
struct Arriving {
    record: Bytes,
    publish: Publish,
    reply: oneshot::Sender<Result<(), QueueError>>,
}

/// Ends the writer with the last handle.
#[derive(Debug)]
struct EndOnDrop(Arc<Shared>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.lock().closing = true;
        self.0.work.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Opens the queue in its directory and reads what is there.
    pub(crate) fn open(options: &QueueOptions) -> Result<Self, StartError> {
        if options.bytes_max < QUOTA_BYTES_MIN {
            let what =
                format!("queue bytes_max is {}, it must be at least {QUOTA_BYTES_MIN}", options.bytes_max);
            return Err(StartError::Options { what });
        }
        let (log, last, state) = writer::open(options)?;
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            work: Condvar::new(),
            changed: Notify::new(),
            progressed: Notify::new(),
            enqueues: Semaphore::new(ENQUEUES_WAITING_MAX),
            enqueued_bytes: Semaphore::new(ENQUEUED_BYTES_MAX),
        });
        writer::spawn(log, last, shared.clone()).map_err(StartError::QueueThread)?;
        Ok(Self { _end: Arc::new(EndOnDrop(shared.clone())), shared })
    }

    /// Puts a message with a valid topic and valid lengths on disk.
    pub(crate) async fn enqueue(&self, message: Message) -> Result<(), QueueError> {
        let publish = entry_publish(message)?;
        let record = record::encode_entry(&publish)
            .map_err(|error| QueueError::Unencodable { what: error.to_string() })?;
        if record.len() > record::RECORD_BYTES_MAX {
            let (bytes, limit) = (record.len(), record::RECORD_BYTES_MAX);
            return Err(QueueError::Unencodable {
                what: format!("it has {bytes} bytes, an entry has {limit} at most"),
            });
        }
        let stopped = |_| QueueError::Stopped;
        let _turn = self.shared.enqueues.acquire().await.map_err(stopped)?;
        let bytes = u32::try_from(record.len().min(ENQUEUED_BYTES_MAX)).expect("8 MiB fit");
        let _bytes = self.shared.enqueued_bytes.acquire_many(bytes).await.map_err(stopped)?;
        let (reply, receiver) = oneshot::channel();
        {
            let mut state = self.shared.lock();
            if let Some(what) = &state.failed {
                return Err(QueueError::Disk { what: what.clone() });
            }
            if state.closing {
                return Err(QueueError::Stopped);
            }
            state.arriving.push(Arriving { record, publish, reply });
        }
        self.shared.work.notify_one();
        receiver.await.unwrap_or(Err(QueueError::Stopped))
    }

    /// Takes the oldest entry that is not under way.
    pub(crate) fn pop(&self) -> Option<Entry> {
        let mut state = self.shared.lock();
        let entry = state.window.pop();
        let wants_load = state.window.wants_load();
        drop(state);
        if wants_load {
            self.shared.work.notify_one();
        }
        entry
    }

    /// Gives an entry back that could not be sent now.
    pub(crate) fn put_back(&self, entry: Entry) {
        self.shared.lock().window.put_back(entry);
    }

    /// The broker has the entry.
    pub(crate) fn ack(&self, number: u64) {
        let mut state = self.shared.lock();
        if state.window.ack(number) {
            state.acks_unwritten += 1;
            state.status.entries -= 1;
            let is_empty = state.status.entries == 0;
            drop(state);
            self.shared.work.notify_one();
            if is_empty {
                self.shared.progressed.notify_waiters();
            }
        }
    }

    /// Waits until there may be new entries.
    pub(crate) async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    pub(crate) fn status(&self) -> QueueStatus {
        self.shared.lock().status
    }

    /// Waits until no entry is left.
    pub(crate) async fn drained(&self) {
        self.wait_until(|state| state.status.entries == 0 || state.closed).await;
    }

    /// Writes what is to be written, ends the writer and unlocks the directory.
    pub(crate) async fn close(&self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_one();
        self.wait_until(|state| state.closed).await;
    }

    async fn wait_until(&self, reached: impl Fn(&State) -> bool) {
        loop {
            let progressed = self.shared.progressed.notified();
            tokio::pin!(progressed);
            // Registered before the look, so that nothing between the two is missed.
            progressed.as_mut().enable();
            if reached(&self.shared.lock()) {
                return;
            }
            progressed.await;
        }
    }
}

/// Makes what goes into the queue: at least QoS 1, with an `im-id`.
fn entry_publish(mut message: Message) -> Result<Publish, QueueError> {
    message.qos = message.qos.max(QoS::AtLeastOnce);
    match user_property(&message.properties.user_properties, IM_ID) {
        None => message = message.user_property(IM_ID, format!("{:032x}", fastrand::u128(..))),
        Some(id) => {
            let chars = id.chars().count();
            if !(1..=64).contains(&chars) {
                return Err(QueueError::Id { id: id.chars().take(128).collect(), chars });
            }
        }
    }
    Ok(message.into_publish())
}
