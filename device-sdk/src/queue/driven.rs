//! The queue without a thread, a clock and a file of its own: the caller says what time it is, and when it may write.
//!
//! Everything else is what [`crate::Client`] uses: classes, windows, the writer's rounds, recovery. It is for simulators, which
//! have a hundred thousand queues in one thread and cut their power in the middle of a write, and for
//! programs that drive a [`crate::client::Core`] themselves.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::place::Places;
use super::state::{Arriving, State};
use super::store::{Limits, Store};
use super::writer::{Next, Writer};
use super::{Class, ENQUEUES_WAITING_MAX, Entry, Planted, QueueClock, QueueStatus, Shared, entry_bytes};
use super::{DropReason, Slots, entry_publish, told_ms};
use crate::{Event, Message, QueueError, QueueOptions, StartError};

/// A queue that its owner drives.
///
/// Times are milliseconds since the device was switched on; they never decrease.
///
/// ```
/// use device_sdk::disk::SimDisk;
/// use device_sdk::queue::{DrivenQueue, OneDisk};
/// use device_sdk::{Class, Message, QueueOptions};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let disk = SimDisk::new(1);
/// let options = QueueOptions::new("/", 1024 * 1024);
/// let mut queue = DrivenQueue::open(OneDisk::new(disk.clone()), &options, 77)?;
/// let mut arrival = queue.enqueue(0, Class::Event, Message::new("dev/7/telemetry/gps", "{}"))?;
/// queue.turn(0)?;
/// assert!(matches!(arrival.accepted(), Some(Ok(1))));
/// // What is accepted outlives the power.
/// let left = disk.crash(&mut fastrand::Rng::with_seed(1));
/// let mut queue = DrivenQueue::open(OneDisk::new(left), &options, 78)?;
/// queue.turn(0)?;
/// let entry = queue.pop(0, 0, 64).expect("it is there");
/// queue.ack(0, &entry);
/// assert_eq!(queue.status().entries, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct DrivenQueue<P: Places> {
    shared: Arc<Shared>,
    writer: Writer<P>,
}

/// An entry on its way to the disk.
#[derive(Debug)]
pub struct Arrival {
    receiver: oneshot::Receiver<Result<u64, QueueError>>,
}

impl Arrival {
    /// Says what became of it: its number in its class, or why it was not accepted; `None` while it waits for others to share
    /// their write.
    pub fn accepted(&mut self) -> Option<Result<u64, QueueError>> {
        match self.receiver.try_recv() {
            Ok(result) => Some(result),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Err(QueueError::Stopped)),
        }
    }
}

/// An entry that left the queue without the broker's acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// Its class.
    pub class: Class,
    /// Its number in its class, see [`Entry::number`].
    pub number: u64,
    /// Why.
    pub reason: DropReason,
}

impl<P: Places> DrivenQueue<P> {
    /// Opens the queue that is in these places, or makes one there, whose id is then `new_id`. The quota may be as small as a
    /// queue of a few segments: 256 KiB make segments of 4 KiB.
    ///
    /// # Errors
    /// The disk fails, or holds what is no queue.
    pub fn open(places: P, options: &QueueOptions, new_id: u64) -> Result<Self, StartError> {
        Self::open_with(places, options, new_id, None)
    }

    /// Test only: opens it with a mistake, which is there from the first look at the disk on.
    #[doc(hidden)]
    pub fn open_with(
        places: P,
        options: &QueueOptions,
        new_id: u64,
        planted: Option<Planted>,
    ) -> Result<Self, StartError> {
        let limits = Limits { bytes_max: options.bytes_max, thinning: options.thinning };
        let (mut store, found) = Store::open(places, limits, new_id)?;
        match planted {
            Some(Planted::SyncSkipped) => store.plant_skip_sync(),
            Some(Planted::NewIdsAfterRestart) => store.plant_id(new_id),
            _ => {}
        }
        let before_ms = told_ms(&found);
        let mut state = State::recovered(options, &mut store, found);
        state.plant(planted);
        let shared = Shared::new(state, QueueClock::told(before_ms));
        let writer = Writer::new(store, shared.clone(), options.group_ms);
        Ok(Self { shared, writer })
    }

    /// Hands a message with a valid topic to the queue; it is accepted when [`Arrival::accepted`] says so, after a [`Self::turn`].
    ///
    /// # Errors
    /// It is no message for a queue, too many wait, or the disk has failed.
    pub fn enqueue(&mut self, now_ms: u64, class: Class, message: Message) -> Result<Arrival, QueueError> {
        self.tell_time(now_ms);
        let publish = entry_publish(message)?;
        let bytes = entry_bytes(&publish)?;
        let (reply, receiver) = oneshot::channel();
        let since_ms = self.shared.now_ms();
        let mut state = self.shared.lock();
        if let Some(what) = &state.failed {
            return Err(QueueError::Disk { what: what.clone() });
        }
        if state.arriving.len() >= ENQUEUES_WAITING_MAX {
            let what = format!("{ENQUEUES_WAITING_MAX} entries wait for the disk, turn the queue first");
            return Err(QueueError::Unencodable { what });
        }
        state.arrive(Arriving { class, publish, bytes, since_ms, reply });
        Ok(Arrival { receiver })
    }

    /// Writes and reads what is due; returns when something is due next, if anything is.
    ///
    /// # Errors
    /// The disk failed: nothing is accepted any more, what was accepted can still be sent.
    pub fn turn(&mut self, now_ms: u64) -> Result<Option<u64>, QueueError> {
        self.tell_time(now_ms);
        let shared = self.shared.clone();
        let now_ms = shared.now_ms();
        loop {
            let next = self.writer.next(&mut shared.lock(), now_ms);
            match next {
                Next::Now(work) => {
                    if let Err(what) = self.writer.round(work) {
                        self.writer.fail(&what);
                        return Err(QueueError::Disk { what });
                    }
                }
                Next::At(due_ms) => return Ok(Some(due_ms.saturating_sub(self.shared.clock.before_ms))),
                Next::Idle => return Ok(None),
            }
        }
    }

    /// Takes the entry that is next, `None` if there is none that may go now. `used` and `max` are those of
    /// [`crate::client::Core::window`].
    pub fn pop(&mut self, now_ms: u64, used: usize, max: usize) -> Option<Entry> {
        self.tell_time(now_ms);
        let now_ms = self.shared.now_ms();
        self.shared.lock().pop(now_ms, Slots { used, max })
    }

    /// Gives an entry back that could not be sent now.
    pub fn put_back(&mut self, entry: Entry) {
        self.shared.lock().put_back(entry);
    }

    /// The broker has the entry.
    pub fn ack(&mut self, now_ms: u64, entry: &Entry) {
        self.tell_time(now_ms);
        let now_ms = self.shared.now_ms();
        self.shared.lock().ack(entry, now_ms);
    }

    /// Tells whether there is a connection to the broker: live entries then wait for no others.
    pub fn set_online(&mut self, is_online: bool) {
        self.shared.lock().is_online = is_online;
    }

    /// Returns how full it is, and what became of what was put into it.
    pub fn status(&self) -> QueueStatus {
        self.shared.lock().status
    }

    /// Takes what is to be told about entries that were given up: [`Event::EntriesDropped`] by class and reason.
    pub fn take_news(&mut self) -> Vec<Event> {
        self.shared.lock().take_news()
    }

    /// Lists from now on, one by one, what is given up, for [`Self::take_given_up`].
    pub fn list_given_up(&mut self) {
        self.shared.lock().given_up.get_or_insert_default();
    }

    /// Takes what was given up since the last time.
    pub fn take_given_up(&mut self) -> Vec<GivenUp> {
        self.shared.lock().given_up.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn tell_time(&self, now_ms: u64) {
        self.shared.clock.tell(now_ms);
    }
}
