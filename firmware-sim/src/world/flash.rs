//! What a device keeps of its records over a power cut: the SDK's own store-and-forward queue, on a simulated flash.
//!
//! Only the thread is missing: the queue is turned whenever something happens. The flash loses its power at any of its
//! writes, and may fail for a while; a queue whose flash has failed takes nothing more until the device is started again, as a
//! supervisor would.

use device_sdk::client::Input;
use device_sdk::disk::SimDisk;
use device_sdk::queue::{self, Arrival, DrivenQueue, Entry, OneDisk};
use device_sdk::{Class, DropReason, Event, Message, QueueError, QueueOptions};

use super::World;
use super::commands::OFF_MS;
use crate::ledger::Fate;
use crate::payload;
use crate::planted::Planted;

/// How soon a device is started again whose flash has failed, milliseconds.
pub(super) const RESTART_MS: u64 = 10_000;

/// A device's flash, and the queue on it.
pub(super) struct Flash {
    disk: SimDisk,
    /// Each write fails.
    fails: bool,
    /// What runs while there is power.
    running: Option<Box<Running>>,
}

struct Running {
    queue: DrivenQueue<OneDisk<SimDisk>>,
    booted_ms: u64,
    /// Records that wait for the disk, with their numbers in the ledger.
    arriving: Vec<(u64, Arrival)>,
    /// Entries that the core has, with its names for them.
    under_way: Vec<(u64, Entry)>,
    tokens: u64,
}

/// What became of records.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Accepted: the number in the ledger, and that in the queue.
    accepted: Vec<(u64, u64)>,
    /// Refused, by the number in the ledger.
    refused: Vec<u64>,
    /// Given up and told, by the number in the queue.
    given_up: Vec<(u64, Fate)>,
}

/// Why a queue does not go on.
pub(super) enum Halt {
    /// The power has gone in the middle of a write.
    Cut,
    /// The flash has failed.
    Failed,
}

impl Flash {
    pub(super) fn new(seed: u64) -> Flash {
        Flash { disk: SimDisk::new(seed), fails: false, running: None }
    }

    /// Lets each write fail from now on, or none any more.
    pub(super) fn set_failing(&mut self, fails: bool) {
        self.fails = fails;
        self.disk.fail_syncs(fails);
    }

    /// Lets the power go in the middle of the `nth` write from now.
    pub(super) fn cut_at(&self, nth: u64) {
        self.disk.cut_power(nth);
    }

    /// Opens what the flash holds.
    pub(super) fn boot(
        &mut self,
        now_ms: u64,
        options: &QueueOptions,
        planted: Option<Planted>,
        chance: &mut fastrand::Rng,
    ) -> Result<(), Halt> {
        let planted = planted.and_then(Planted::in_queue);
        let places = OneDisk::new(self.disk.clone());
        let opened = DrivenQueue::open_with(places, options, chance.u64(..), planted);
        let mut queue = opened.map_err(|error| self.halt(&error.to_string()))?;
        queue.list_given_up();
        let (arriving, under_way) = (Vec::new(), Vec::new());
        self.running = Some(Box::new(Running { queue, booted_ms: now_ms, arriving, under_way, tokens: 0 }));
        Ok(())
    }

    /// The power goes: the disk keeps what was synced and some of the rest.
    pub(super) fn power_cut(&mut self, chance: &mut fastrand::Rng) {
        self.running = None;
        self.disk = self.disk.crash(chance);
        self.disk.fail_syncs(self.fails);
    }

    fn halt(&self, what: &str) -> Halt {
        tracing::debug!(what, "a queue does not go on");
        if self.disk.has_power() { Halt::Failed } else { Halt::Cut }
    }

    pub(super) fn set_online(&mut self, is_online: bool) {
        if let Some(running) = &mut self.running {
            running.queue.set_online(is_online);
        }
    }

    /// Hands a record to the queue; false where it is refused at once.
    fn enqueue(&mut self, now_ms: u64, number: u64, class: Class, message: Message) -> bool {
        let Some(running) = &mut self.running else { return false };
        match running.queue.enqueue(now_ms - running.booted_ms, class, message) {
            Ok(arrival) => {
                running.arriving.push((number, arrival));
                true
            }
            Err(_) => false,
        }
    }

    /// Writes and reads what is due. What became of records is told also where the queue does not go on.
    fn turn(&mut self, now_ms: u64) -> (Told, Option<Halt>) {
        let mut told = Told::default();
        let Some(running) = &mut self.running else { return (told, None) };
        let result = running.queue.turn(now_ms - running.booted_ms);
        running.arriving.retain_mut(|(number, arrival)| match arrival.accepted() {
            None => true,
            Some(Ok(entry)) => {
                told.accepted.push((*number, entry));
                false
            }
            // What a disk has not told as written may be there all the same.
            Some(Err(QueueError::Disk { .. } | QueueError::Stopped)) => false,
            Some(Err(_)) => {
                told.refused.push(*number);
                false
            }
        });
        told.given_up = running.given_up();
        (told, result.err().map(|error| self.halt(&error.to_string())))
    }

    /// The next entry to send, with the core's name for it.
    fn pop(&mut self, now_ms: u64, (used, max): (usize, usize)) -> Option<(u64, &Entry)> {
        let running = self.running.as_mut()?;
        let entry = running.queue.pop(now_ms - running.booted_ms, used, max)?;
        running.tokens += 1;
        running.under_way.push((running.tokens, entry));
        running.under_way.last().map(|(token, entry)| (*token, entry))
    }

    /// The core has an answer for an entry.
    pub(super) fn ended(&mut self, now_ms: u64, token: u64, is_taken: bool) {
        let Some(running) = &mut self.running else { return };
        let Some(at) = running.under_way.iter().position(|(known, _)| *known == token) else { return };
        let (_, entry) = running.under_way.remove(at);
        if is_taken {
            running.queue.ack(now_ms - running.booted_ms, &entry);
        } else {
            // Refused for now, or never sent: it is tried again.
            running.queue.put_back(entry);
        }
        if running.under_way.is_empty() {
            running.under_way = Vec::new();
        }
    }

    /// Takes what is on its way for delivered: a mistake made on purpose.
    pub(super) fn forget_sent(&mut self, now_ms: u64) {
        let tokens =
            self.running.iter().flat_map(|running| running.under_way.iter().map(|(token, _)| *token));
        for token in tokens.collect::<Vec<_>>() {
            self.ended(now_ms, token, true);
        }
    }

    /// Bytes that its files have on the flash.
    pub(super) fn used_bytes(&self) -> u64 {
        self.disk.used_bytes()
    }
}

impl Running {
    /// Takes what the queue gave up, as far as it says so: what it drops in silence is lost.
    fn given_up(&mut self) -> Vec<(u64, Fate)> {
        let mut told = Vec::new();
        for event in self.queue.take_news() {
            if let Event::EntriesDropped { reason, count, .. } = event {
                told.push((reason, count));
            }
        }
        let mut given_up = Vec::new();
        for gone in self.queue.take_given_up() {
            let Some((_, left)) = told.iter_mut().find(|(reason, left)| *reason == gone.reason && *left > 0)
            else {
                continue;
            };
            *left -= 1;
            let fate = if gone.reason == DropReason::Expired { Fate::Expired } else { Fate::Dropped };
            given_up.push((gone.number, fate));
        }
        given_up
    }
}

impl Planted {
    /// The mistake as the queue knows it, if it is one of the queue.
    fn in_queue(self) -> Option<queue::Planted> {
        Some(match self {
            Self::SyncSkipped => queue::Planted::SyncSkipped,
            Self::CursorSkips => queue::Planted::CursorSkips,
            Self::NewIdsAfterRestart => queue::Planted::NewIdsAfterRestart,
            Self::NewestFirst => queue::Planted::NewestFirst,
            Self::DroppedInSilence => queue::Planted::DroppedInSilence,
            Self::GoneWhenSent => queue::Planted::GoneWhenSent,
            Self::SpaceGivenBackEarly => queue::Planted::SpaceGivenBackEarly,
            _ => return None,
        })
    }
}

impl World<'_> {
    /// Hands a record to a device's queue.
    pub(super) fn keep(&mut self, at: u32, number: u64, bytes: Vec<u8>) {
        let (now_ms, fleet) = (self.now_ms, &self.scenario.fleet);
        let message = payload::message(fleet, &self.id(at), bytes);
        if !self.devices[at as usize].flash.enqueue(now_ms, number, payload::class(fleet), message) {
            self.ledger.given_up(at, number, Fate::Refused);
        }
    }

    /// Lets a device's queue write and read what is due. Says whether the device goes on.
    pub(super) fn turn_queue(&mut self, at: u32) -> bool {
        let (told, halt) = self.devices[at as usize].flash.turn(self.now_ms);
        for (number, entry) in told.accepted {
            self.ledger.accepted_as(at, number, entry);
        }
        for number in told.refused {
            self.ledger.given_up(at, number, Fate::Refused);
        }
        for (entry, fate) in told.given_up {
            self.ledger.entry_given_up(at, entry, fate);
        }
        match halt {
            None => return true,
            Some(Halt::Cut) => self.switch_off(at, OFF_MS),
            Some(Halt::Failed) => self.switch_off(at, RESTART_MS),
        }
        false
    }

    /// Gives the core what the queue has, as long as it would go out at once.
    pub(super) fn pump(&mut self, at: u32) -> Result<(), String> {
        if !self.turn_queue(at) {
            return Ok(());
        }
        let now_ms = self.now_ms;
        loop {
            let device = &mut self.devices[at as usize];
            let Some(core) = device.core.as_ref().filter(|core| core.can_send()) else { return Ok(()) };
            let window = core.window();
            let Some((token, entry)) = device.flash.pop(now_ms, window) else { return Ok(()) };
            let input = Input::entry(token, entry);
            self.give_core(at, input)?;
        }
    }
}
