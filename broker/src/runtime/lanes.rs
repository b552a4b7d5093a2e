//! Whose turn it is when many want the thread: those who used it least go first.
//!
//! ```text
//!          ready, little debt                       ready, in debt, or its slice is over
//! Free ------------------------> runs at once   Free ------------------> Waiting --grant--> Granted --runs--> Free
//! ```
//! A connection owes the time that it used; a part of the time that passes pays for it. Whoever owes little is
//! served as soon as its socket is ready. The others wait, ordered by when they came and what they owe, and get
//! slices, a few in a round; between two rounds the executor looks at all sockets, so that nobody who wants little
//! waits longer than a round. A new connection begins in debt: a flood of them waits behind those who are here.
//!
//! What slices bring is written when several have run, so that messages to many share their writes; what others
//! bring is written at the turn's end.
//!
//! Invariant: while somebody waits, either a grant is out or the alarm is raised.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    rc::Rc,
    task::Poll,
    time::{Duration, Instant},
};

use engine::ConnId;

use super::{Alarm, Core, Shared};

/// Work that others may wait for goes on for this long, and one step more.
pub(super) const SLICE: Duration = Duration::from_micros(150);

/// Slices are granted for this long before the sockets of all others are looked at.
const ROUND: Duration = SLICE;

/// What slices bring is written when they have run for this long: long enough that messages to many subscribers
/// share their writes.
const SHARED_WRITES: Duration = Duration::from_millis(1);

/// Those with little debt are served at once for this long a turn, all together.
const LIGHT_TURN: Duration = Duration::from_millis(1);

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
    /// It runs when it is ready.
    #[default]
    Free,
    /// It stands in the queue.
    Waiting,
    /// It was woken for its slice.
    Granted,
}

/// The time that a connection used and has not paid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Debt {
    us: u64,
    at_us: u64,
}

impl Debt {
    /// Returns what is owed now.
    fn now(&self, now_us: u64) -> u64 {
        self.us.saturating_sub(now_us.saturating_sub(self.at_us) / PAID_PART)
    }

    fn add(&mut self, now_us: u64, used: Duration) {
        let us = self.now(now_us).saturating_add(used.as_micros() as u64);
        *self = Self { us: us.min(DEBT_US_MAX), at_us: now_us };
    }
}

/// The queue of those who wait, and the time that is used.
#[derive(Debug)]
pub(super) struct Lanes {
    start: Instant,
    /// Those who wait; the lowest number first: when they came plus what they owe, in microseconds.
    waiting: BinaryHeap<Reverse<(u64, ConnId)>>,
    alarm: Alarm,
    slice_end: Instant,
    granted_time: Duration,
    light_time: Duration,
    /// A slice that was granted runs.
    is_granted_running: bool,
    /// How long slices have run since what they brought was written.
    unwritten_time: Duration,
}

impl Lanes {
    pub(super) fn new() -> Self {
        let start = Instant::now();
        Self {
            start,
            waiting: BinaryHeap::new(),
            alarm: Alarm::default(),
            slice_end: start,
            granted_time: Duration::ZERO,
            light_time: Duration::ZERO,
            is_granted_running: false,
            unwritten_time: Duration::ZERO,
        }
    }

    /// Returns what a connection owes that was just made.
    pub(super) fn newcomer(&self) -> Debt {
        Debt { us: NEWCOMER_US, at_us: self.us(Instant::now()) }
    }

    /// Begins a slice.
    pub(super) fn begin_slice(&mut self) -> Instant {
        let now = Instant::now();
        self.slice_end = now + SLICE;
        now
    }

    /// Says whether the slice is over.
    pub(super) fn is_slice_over(&self) -> bool {
        Instant::now() >= self.slice_end
    }

    /// Begins a turn for those who owe little.
    pub(super) fn begin_turn(&mut self) {
        self.light_time = Duration::ZERO;
    }

    /// Says whether what is sent now may wait for what the next slices send.
    pub(super) fn may_share_writes(&self) -> bool {
        self.is_granted_running
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
    /// Asks whether a connection that is ready may run now; if not, it waits. Returns when it began.
    pub(super) fn may_run(&mut self, id: ConnId) -> Option<Instant> {
        let began = self.lanes.begin_slice();
        let now_us = self.lanes.us(began);
        let is_light_turn_over = self.lanes.light_time >= LIGHT_TURN;
        let connection = self.connection(id)?;
        match connection.lane {
            Lane::Waiting => None,
            Lane::Granted => {
                self.lanes.is_granted_running = true;
                Some(began)
            }
            Lane::Free if connection.debt.now(now_us) <= LITTLE_US && !is_light_turn_over => Some(began),
            Lane::Free => {
                self.wait_for_slice(id);
                None
            }
        }
    }

    /// Notes the time that a connection has run.
    pub(super) fn has_run(&mut self, id: ConnId, began: Instant, was_granted: bool) {
        let ended = Instant::now();
        let (used, now_us) = (ended - began, self.lanes.us(ended));
        if let Some(connection) = self.connection(id) {
            connection.debt.add(now_us, used);
        }
        if was_granted {
            self.lanes.is_granted_running = false;
            self.lanes.granted_time += used;
            self.lanes.unwritten_time += used;
            self.lanes.alarm.raise();
            if self.has_shared_writes() {
                self.turn.raise();
            }
        } else {
            self.lanes.light_time += used;
        }
    }

    /// Puts a connection into the queue; it is woken for its slice.
    pub(super) fn wait_for_slice(&mut self, id: ConnId) {
        let now_us = self.lanes.us(Instant::now());
        let Some(connection) = self.connection(id) else { return };
        if connection.lane == Lane::Waiting {
            return;
        }
        connection.lane = Lane::Waiting;
        let place = now_us + connection.debt.now(now_us);
        self.lanes.waiting.push(Reverse((place, id)));
        self.lanes.alarm.raise();
    }

    /// Says that a connection is gone that may hold the grant.
    pub(super) fn give_up_slice(&mut self, lane: Lane) {
        if lane == Lane::Granted {
            self.lanes.alarm.raise();
        }
    }

    /// Wakes the next one of the queue.
    fn grant_next(&mut self) {
        while let Some(Reverse((_, id))) = self.lanes.waiting.pop() {
            if let Some(connection) = self.connection(id).filter(|c| c.lane == Lane::Waiting) {
                connection.lane = Lane::Granted;
                return connection.wake();
            }
        }
        if self.has_shared_writes() {
            self.turn.raise();
        }
    }
}

/// Grants slices, one after the other.
pub(super) async fn grants(shared: Rc<Shared>) {
    loop {
        std::future::poll_fn(|cx| {
            let is_raised = shared.with(|core| core.lanes.alarm.lower(cx.waker()));
            if is_raised { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        if shared.with(|core| core.lanes.granted_time >= ROUND) {
            // The executor goes on with this task when it has looked at every socket.
            tokio::task::yield_now().await;
            shared.with(|core| core.lanes.granted_time = Duration::ZERO);
        }
        shared.with(Core::grant_next);
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
