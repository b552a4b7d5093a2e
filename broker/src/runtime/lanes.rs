//! Whose turn it is when many want the thread: those who used it least go first.
//!
//! ```text
//! Free --ready--> Ready --little debt-------------------> runs --> Free
//!                   \--in debt---> Waiting --its slice----^ |
//!                                     ^--slice is over------/
//! ```
//! A connection owes the time that it used; a part of the time that passes pays for it. Whoever owes little is
//! served after the look that found its socket ready. The others wait, ordered by when they came and what they owe, and
//! get slices, a few in a round; between two rounds all sockets are looked at, so that nobody who wants little
//! waits longer than a round. A new connection begins in debt: a flood of them waits behind those who are here.
//!
//! What slices bring is written when several have run, so that messages to many share their writes; what others
//! bring is written at the turn's end.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::{Duration, Instant},
};

use engine::ConnId;

use super::Core;

/// Work that others may wait for goes on for this long, and one step more.
pub(super) const SLICE: Duration = Duration::from_micros(100);

/// Slices are granted for this long before the sockets of all others are looked at.
const ROUND: Duration = SLICE;

/// What slices bring is written when they have run for this long: long enough that messages to many subscribers
/// share their writes.
const SHARED_WRITES: Duration = Duration::from_millis(1);

/// What is due is written for this long before all sockets are looked at.
pub(super) const WRITES: Duration = Duration::from_micros(150);

/// Those with little debt are served for this long, all together, before all sockets are looked at.
const LIGHT_TURN: Duration = Duration::from_micros(300);

/// Who owes more waits.
const LITTLE_US: u64 = 300;

/// What a new connection owes.
const NEWCOMER_US: u64 = 2_000;

/// Nobody owes more.
const DEBT_US_MAX: u64 = 200_000;

/// One part of this many of the time that passes pays a debt.
const PAID_PART: u64 = 20;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Lane {
    /// In no queue.
    #[default]
    Free,
    /// Among those who have something to do.
    Ready,
    /// Among those who wait for their slice.
    Waiting,
}

/// The time that a connection used and has not paid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Debt {
    /// At `at_us`; at most [`DEBT_US_MAX`].
    us: u32,
    at_us: u64,
}

impl Debt {
    /// Returns what is owed now.
    fn now(&self, now_us: u64) -> u64 {
        u64::from(self.us).saturating_sub(now_us.saturating_sub(self.at_us) / PAID_PART)
    }

    fn add(&mut self, now_us: u64, used: Duration) {
        let us = self.now(now_us).saturating_add(used.as_micros() as u64);
        *self = Self { us: us.min(DEBT_US_MAX) as u32, at_us: now_us };
    }
}

/// The queues of those who have something to do, and the time that is used.
#[derive(Debug)]
pub(super) struct Lanes {
    start: Instant,
    /// When something was finished last: the next one begins then.
    at: Instant,
    ready: VecDeque<ConnId>,
    /// The lowest number first: when they came plus what they owe, in microseconds.
    waiting: BinaryHeap<Reverse<(u64, ConnId)>>,
    slice_end: Instant,
    /// A slice runs.
    is_slice: bool,
    /// How long slices have run since what they brought was written.
    unwritten_time: Duration,
}

impl Lanes {
    pub(super) fn new() -> Self {
        let start = Instant::now();
        Self {
            start,
            at: start,
            ready: VecDeque::new(),
            waiting: BinaryHeap::new(),
            slice_end: start,
            is_slice: false,
            unwritten_time: Duration::ZERO,
        }
    }

    /// Returns what a connection owes that was just made.
    pub(super) fn newcomer(&self) -> Debt {
        Debt { us: NEWCOMER_US as u32, at_us: self.us(Instant::now()) }
    }

    /// Notes that other work ends now, and a slice begins.
    pub(super) fn begin_slice(&mut self) -> Instant {
        self.at = Instant::now();
        self.slice_end = self.at + SLICE;
        self.at
    }

    /// Says whether the slice is over.
    pub(super) fn is_slice_over(&self) -> bool {
        Instant::now() >= self.slice_end
    }

    /// Says whether somebody has something to do.
    pub(super) fn is_anybody_here(&self) -> bool {
        !self.ready.is_empty() || !self.waiting.is_empty()
    }

    /// Says whether what is sent now may wait for what the next slices send.
    pub(super) fn may_share_writes(&self) -> bool {
        self.is_slice
    }

    /// Says whether what slices brought is to be written: for long enough, or nobody waits for the next.
    pub(super) fn are_writes_due(&mut self) -> bool {
        let are_due = self.waiting.is_empty() || self.unwritten_time >= SHARED_WRITES;
        if are_due {
            self.unwritten_time = Duration::ZERO;
        }
        are_due
    }

    fn us(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_micros() as u64
    }
}

impl Core {
    /// Notes that a connection has something to do.
    pub(super) fn ready_later(&mut self, id: ConnId) {
        if let Some(connection) = self.connections.get_mut(super::slot(id)).filter(|c| c.id == id)
            && connection.lane == Lane::Free
        {
            connection.lane = Lane::Ready;
            self.lanes.ready.push_back(id);
        }
    }

    /// Puts a connection into the queue for slices.
    pub(super) fn wait_for_slice(&mut self, id: ConnId) {
        let now_us = self.lanes.us(Instant::now());
        let Some(connection) = self.connection(id) else { return };
        if connection.lane != Lane::Waiting {
            connection.lane = Lane::Waiting;
            let place = now_us + connection.debt.now(now_us);
            self.lanes.waiting.push(Reverse((place, id)));
        }
    }

    /// Serves those who are ready and owe little, and has the others wait for slices. Who is left over stays the first.
    pub(super) fn serve_ready(&mut self) {
        let began = self.lanes.begin_slice();
        // Who becomes ready meanwhile has its turn after the next look.
        for _ in 0..self.lanes.ready.len() {
            let Some(id) = self.lanes.ready.pop_front() else { break };
            let now_us = self.lanes.us(self.lanes.at);
            let Some(connection) = self.connection(id).filter(|c| c.lane == Lane::Ready) else { continue };
            connection.lane = Lane::Free;
            // To end costs little: what comes is thrown away.
            if connection.is_reading() && connection.debt.now(now_us) > LITTLE_US {
                self.wait_for_slice(id);
                continue;
            }
            let now = self.run(id);
            if now - began >= LIGHT_TURN {
                break;
            }
        }
    }

    /// Serves those who wait, for a round.
    pub(super) fn serve_slices(&mut self) {
        if self.lanes.waiting.is_empty() {
            return;
        }
        let began = self.lanes.begin_slice();
        self.lanes.is_slice = true;
        let mut now = began;
        while now - began < ROUND
            && let Some(Reverse((_, id))) = self.lanes.waiting.pop()
        {
            if let Some(connection) = self.connection(id).filter(|c| c.lane == Lane::Waiting) {
                connection.lane = Lane::Free;
                now = self.run(id);
            }
        }
        self.lanes.is_slice = false;
        self.lanes.unwritten_time += now - began;
        // They may wait for the next round, but not longer.
        self.is_turn_due |= self.has_shared_writes();
    }

    /// Has a connection go on for a slice, and notes what it used; returns when it ended.
    fn run(&mut self, id: ConnId) -> Instant {
        let began = self.lanes.at;
        self.lanes.slice_end = began + SLICE;
        self.go_on_reading(id);
        let ended = Instant::now();
        self.lanes.at = ended;
        let now_us = self.lanes.us(ended);
        if let Some(connection) = self.connection(id) {
            connection.debt.add(now_us, ended - began);
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debt_is_paid_by_a_part_of_the_time_that_passes() {
        let mut debt = Debt { us: 1_000, at_us: 0 };
        assert_eq!(
            (debt.now(0), debt.now(10_000), debt.now(20_000), debt.now(1_000_000)),
            (1_000, 500, 0, 0)
        );
        debt.add(10_000, Duration::from_micros(100));
        assert_eq!(debt.now(10_000), 600);
        debt.add(10_000, Duration::from_secs(60));
        assert_eq!(debt.now(10_000), DEBT_US_MAX);
    }
}
