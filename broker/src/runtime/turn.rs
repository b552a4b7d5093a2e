//! The tasks that are no connection: the end of a turn, the one timer, and what other threads ask.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use engine::{Answer, AskId, Input, Now, Question, Ticket};
use protocol::ReasonCode;
use tokio::{
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::Sleep,
};

use super::{Ask, Core, Shared, connection::Phase, lanes::SLICE};
use crate::FatalError;

/// The timer looks at least this often.
const TIMER_MAX_MS: u64 = 60 * 60 * 1000;

/// Requests that wait until what they did is durable.
const ANSWERS_WAITING_MAX: usize = 1_024;

/// When the broker ends, clients that were told and do not close are waited for this long.
const STOP_LINGER_MS: u64 = 500;

/// Connections with something to send at which the engine's own work waits until they were written to.
const WRITES_LEFT_MAX: usize = 64;

/// Records whose answers leave together.
const COMMITTED_STEP: u64 = 16;

/// The end of the broker has begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stop {
    /// Until then clients that were sent everything may close in order.
    linger_ms: u64,
    /// Until then what was sent may go out.
    deadline_ms: u64,
}

impl Stop {
    fn next_ms(self, now_ms: u64) -> u64 {
        if now_ms < self.linger_ms { self.linger_ms } else { self.deadline_ms }
    }
}

/// Runs the end of each turn: one batch to the committer, one write to each connection.
pub(super) async fn turns(shared: Rc<Shared>) {
    loop {
        poll_fn(|cx| {
            let is_raised = shared.with(|core| core.turn.lower(cx.waker()));
            if is_raised { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        if shared.with(Core::end_turn) {
            // The executor goes on with this task when it has looked at every socket.
            tokio::task::yield_now().await;
            shared.with(|core| core.turn.raise());
        }
    }
}

/// Waits for the next deadline of all: the engine's, and those of connections that open or close.
pub(super) async fn timer(shared: Rc<Shared>) {
    let mut sleep = pin!(tokio::time::sleep(Duration::ZERO));
    poll_fn(|cx: &mut Context<'_>| -> Poll<()> {
        shared.with(|core| {
            core.timer.lower(cx.waker());
            core.poll_timer(cx, sleep.as_mut());
        });
        Poll::Pending
    })
    .await;
}

/// Brings what other threads say to the shard, until the broker is stopped or fails.
pub(super) async fn control(
    shared: Rc<Shared>,
    mut asked: mpsc::Receiver<Ask>,
    accepting: Vec<AbortHandle>,
) -> Result<(), FatalError> {
    shared.with(Core::begin);
    loop {
        tokio::select! {
            () = shared.inbox.changed() => {}
            Some(ask) = asked.recv() => {
                shared.with(|core| core.answer(ask));
                continue;
            }
        }
        if let Some(failure) = shared.inbox.take_failure() {
            return Err(failure);
        }
        shared.with(Core::take_inbox);
        if shared.with(|core| core.has_committed()) {
            // The others come first.
            tokio::task::yield_now().await;
            shared.inbox.wake();
        }
        if shared.inbox.is_stopping() {
            accepting.iter().for_each(AbortHandle::abort);
            if shared.with(Core::poll_stop) {
                return Ok(());
            }
        }
    }
}

impl Core {
    fn answer(&mut self, ask: Ask) {
        let now = self.clock.now();
        let now_ms = now.monotonic_ms;
        // Who asked may have gone.
        match ask {
            Ask::MayLogIn { address, user, answer } => {
                drop(answer.send(self.abuse.login(now_ms, address, user.as_deref())));
            }
            Ask::LoggedIn { address, user } => self.abuse.logged_in(address, &user),
            Ask::LoginFailed { address, user } => self.abuse.login_failed(now, address, user.as_deref()),
            Ask::Engine(question, answer) => self.ask_engine(now, question, answer),
            Ask::Snapshot(answer) => drop(answer.send(self.snapshot())),
            Ask::Bans(answer) => drop(answer.send(self.abuse.bans(now_ms))),
            Ask::LiftBan(key, answer) => drop(answer.send(self.abuse.lift(now_ms, &key))),
        }
    }

    /// Asks the engine; the answer comes among its outputs.
    fn ask_engine(&mut self, now: Now, question: Box<Question>, answer: oneshot::Sender<Answer>) {
        if self.answers.len() >= ANSWERS_WAITING_MAX {
            let what = format!("{ANSWERS_WAITING_MAX} requests wait for the store, try again later");
            return drop(answer.send(Answer::Full(what)));
        }
        self.next_ask += 1;
        let ask = AskId(self.next_ask);
        self.answers.insert(ask, answer);
        self.input(now, Input::Asked { ask, question });
    }

    /// Says whether there is more to write.
    fn end_turn(&mut self) -> bool {
        let was_paused = self.reading_paused;
        self.lanes.begin_turn();
        let is_batch_due = std::mem::take(&mut self.is_batch_due);
        if self.are_shared_writes_due() || is_batch_due {
            self.submit();
        }
        self.watch_memory();
        let now = self.clock.now();
        if self.reading_paused && !was_paused {
            self.input(now, Input::Reading { conn: None, paused: true });
        }
        let has_more = self.flush(now);
        self.sample_sys(now);
        if self.next_deadline_ms() < self.timer_ms {
            self.timer.raise();
        }
        has_more
    }

    fn next_deadline_ms(&self) -> u64 {
        let front = |deadlines: &std::collections::VecDeque<(u64, _)>| deadlines.front().map(|(ms, _)| *ms);
        [
            self.engine.next_deadline_ms(),
            self.logins.next_deadline_ms(),
            front(&self.connect_deadlines),
            front(&self.close_deadlines),
            self.next_pause_ms(),
            self.sys_due_ms(),
            self.stop.map(|stop| stop.next_ms(self.clock.now().monotonic_ms)),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(u64::MAX)
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, mut sleep: std::pin::Pin<&mut Sleep>) {
        loop {
            let now_ms = self.clock.now().monotonic_ms;
            if self.next_deadline_ms() <= now_ms {
                self.timer_due();
            }
            if self.stop.is_some() {
                self.inbox.wake();
            }
            // A deadline that stays behind although it was served is looked at again in a millisecond: the
            // timer never spins.
            self.timer_ms = self.next_deadline_ms().clamp(now_ms + 1, now_ms + TIMER_MAX_MS);
            sleep.as_mut().reset(self.clock.instant(self.timer_ms));
            if sleep.as_mut().poll(cx).is_pending() {
                return;
            }
        }
    }

    fn timer_due(&mut self) {
        let now = self.clock.now();
        // What the engine left for later is for many clients: first those are written to who have something.
        let is_due = self.engine.next_deadline_ms().is_some_and(|due| due <= now.monotonic_ms);
        if is_due && self.dirty.len() < WRITES_LEFT_MAX {
            self.input(now, Input::Timer);
        }
        self.pauses_due(now);
        if self.sys_due_ms().is_some_and(|due| due <= now.monotonic_ms) {
            self.publish_sys(now);
        }
        self.end_expired(now);
        while let Some(&(_, id)) = self.connect_deadlines.front().filter(|(due, _)| *due <= now.monotonic_ms)
        {
            self.connect_deadlines.pop_front();
            match self.connection(id).map(|connection| connection.phase) {
                Some(Phase::New) => self.begin_close(id, true, &"no CONNECT in time"),
                Some(Phase::Challenged) => self.begin_close(id, true, &"no AUTH in time"),
                Some(Phase::Authenticating) => {
                    let what = "who comes in could not be found out in time, try again later";
                    self.refuse(id, ReasonCode::ServerUnavailable, what);
                }
                _ => {}
            }
        }
        while let Some(&(_, id)) = self.close_deadlines.front().filter(|(due, _)| *due <= now.monotonic_ms) {
            self.close_deadlines.pop_front();
            self.remove(id);
        }
    }

    /// Does what the state taken back asks for: wills of connections that died with the last process, a
    /// log that holds mostly garbage.
    fn begin(&mut self) {
        self.drain();
        self.watch_memory();
        // The rules, before any client.
        self.renew_acl(self.clock.now());
        self.take_inbox();
    }

    fn take_inbox(&mut self) {
        let now = self.clock.now();
        self.take_committed(now);
        for (fetch, records) in self.inbox.take_fetched() {
            self.input(now, Input::Fetched { fetch, records });
        }
        if self.inbox.take_auth_changed() {
            self.recheck(now);
        }
        self.store_full(now, self.inbox.is_full());
        self.resume_reading(now);
    }

    /// Says whether records are durable that the engine was not told of.
    fn has_committed(&self) -> bool {
        self.inbox.committed() > self.committed
    }

    /// Tells the engine what is durable, for a slice: what waited for it may be much.
    fn take_committed(&mut self, now: engine::Now) {
        let began = std::time::Instant::now();
        let committed = self.inbox.committed();
        while self.committed < committed && began.elapsed() < SLICE {
            self.committed = committed.min(self.committed + COMMITTED_STEP);
            self.input(now, Input::Committed { ticket: Ticket(self.committed) });
        }
    }

    /// Reads again when half of what waited for the disk is there, or all.
    fn resume_reading(&mut self, now: engine::Now) {
        let is_low = self.pending_bytes() <= self.limits.pending_bytes_max / 2;
        if !self.reading_paused || !(is_low || self.committed >= self.last_ticket) {
            return;
        }
        self.reading_paused = false;
        self.input(now, Input::Reading { conn: None, paused: false });
        for id in std::mem::take(&mut self.parked) {
            if let Some(connection) = self.connection(id) {
                connection.is_parked = false;
                connection.wake();
            }
        }
    }

    /// Tells every client at first; says whether all that can be done is done.
    fn poll_stop(&mut self) -> bool {
        let now = self.clock.now();
        let stop = match self.stop {
            Some(stop) => stop,
            None => {
                let stop = Stop {
                    linger_ms: now.monotonic_ms + STOP_LINGER_MS.min(self.limits.close_timeout_ms),
                    deadline_ms: now.monotonic_ms + self.limits.close_timeout_ms,
                };
                self.stop = Some(stop);
                self.input(now, Input::Shutdown);
                stop
            }
        };
        let may_linger = now.monotonic_ms < stop.linger_ms;
        let is_awaited = |phase| match phase {
            Phase::New | Phase::Authenticating | Phase::Challenged => false,
            Phase::Open | Phase::Closing { .. } => true,
            Phase::Lingering { .. } => may_linger,
        };
        let all_gone = !self.connections.iter().any(|(_, connection)| is_awaited(connection.phase));
        let done = all_gone || now.monotonic_ms >= stop.deadline_ms;
        if done {
            self.submit();
        }
        done
    }
}
