//! What a turn does besides its connections: its end, the one timer, and what other threads say.

use std::time::{Duration, Instant};

use engine::{Answer, AskId, Input, Now, Question, Ticket};
use protocol::ReasonCode;
use tokio::sync::oneshot;

use super::{Ask, Core, connection::Phase, lanes::SLICE};

/// The engine's deadline while it has something left to do.
const BACKLOG_MS: u64 = 0;

/// The timer looks at least this often.
const TIMER_MAX_MS: u64 = 60 * 60 * 1000;

/// Requests that wait until what they did is durable.
const ANSWERS_WAITING_MAX: usize = 1_024;

/// When the broker ends, clients that were told and do not close are waited for this long.
const STOP_LINGER_MS: u64 = 500;

/// Connections with something to send at which the engine's own work waits until they were written to.
const WRITES_LEFT_MAX: usize = 64;

/// Records whose answers leave together, at most; fewer when they take as long as this.
const COMMITTED_STEP_MAX: u64 = 64;
const COMMITTED_STEP_TIME: Duration = Duration::from_micros(20);

/// The end of the broker has begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stop {
    /// Until then clients that were sent everything may close in order.
    linger_ms: u64,
    /// Until then what was sent may go out.
    deadline_ms: u64,
    /// When it was last looked at.
    looked_ms: u64,
}

impl Stop {
    /// When it is looked at next. Each time is due until it was looked at: by the clock alone the end of the lingering would be passed over.
    fn next_ms(self) -> u64 {
        if self.looked_ms < self.linger_ms { self.linger_ms } else { self.deadline_ms }
    }
}

impl Core {
    pub(super) fn answer(&mut self, ask: Ask) {
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

    /// Ends a turn: one batch to the committer, one write to each connection, as far as the time goes.
    pub(super) fn end_turn(&mut self) {
        if !std::mem::take(&mut self.is_turn_due) {
            return;
        }
        let was_paused = self.reading_paused;
        let is_batch_due = std::mem::take(&mut self.is_batch_due);
        if self.are_shared_writes_due() || is_batch_due {
            self.submit();
        }
        self.watch_memory();
        let now = self.clock.now();
        if self.reading_paused && !was_paused {
            self.input(now, Input::Reading { conn: None, paused: true });
        }
        self.is_turn_due |= self.flush(now);
        self.sample_sys(now);
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
            self.stop.map(Stop::next_ms),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(u64::MAX)
    }

    /// Does what is due, and returns in how many milliseconds there is more; at once while something else is to be done.
    pub(super) fn look_at_the_clock(&mut self) -> u64 {
        let mut now_ms = self.clock.now().monotonic_ms;
        let mut due_ms = self.next_deadline_ms();
        if due_ms <= now_ms && (now_ms >= self.timer_ms || due_ms == BACKLOG_MS) {
            self.timer_due();
            // A deadline that stays behind although it was served is looked at again in a millisecond: the
            // timer never spins.
            self.timer_ms = now_ms + 1;
            due_ms = self.next_deadline_ms();
            now_ms = self.clock.now().monotonic_ms;
        }
        let is_busy =
            self.is_turn_due || due_ms == BACKLOG_MS || self.lanes.is_anybody_here() || self.has_committed();
        if is_busy { 0 } else { due_ms.max(self.timer_ms).saturating_sub(now_ms).min(TIMER_MAX_MS) }
    }

    fn timer_due(&mut self) {
        let now = self.clock.now();
        self.is_stop_due = true;
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
    pub(super) fn begin(&mut self) {
        self.drain();
        self.watch_memory();
        // The rules, before any client.
        self.renew_acl(self.clock.now());
        self.take_inbox();
    }

    /// Takes what other threads left.
    pub(super) fn take_inbox(&mut self) {
        let now = self.clock.now();
        self.take_committed(now);
        for (fetch, records) in self.inbox.take_fetched() {
            self.input(now, Input::Fetched { fetch, records });
        }
        for id in self.inbox.take_verdicts() {
            self.ready_later(id);
        }
        if self.inbox.take_auth_changed() {
            self.recheck(now);
        }
        self.store_full(now, self.inbox.is_full());
        self.resume_reading(now);
    }

    /// Says whether records are durable that the engine was not told of.
    pub(super) fn has_committed(&self) -> bool {
        self.inbox.committed() > self.committed
    }

    /// Tells the engine what is durable, for a slice: what waited for it may be much.
    fn take_committed(&mut self, now: engine::Now) {
        let (committed, began) = (self.inbox.committed(), Instant::now());
        let mut at = began;
        while self.committed < committed && at - began < SLICE {
            self.committed = committed.min(self.committed + self.committed_step);
            self.input(now, Input::Committed { ticket: Ticket(self.committed) });
            let until = Instant::now();
            self.committed_step = match until - at > COMMITTED_STEP_TIME {
                true => (self.committed_step / 2).max(1),
                false => (self.committed_step * 2).min(COMMITTED_STEP_MAX),
            };
            at = until;
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
                self.ready_later(id);
            }
        }
    }

    /// Tells every client at first; says whether all that can be done is done.
    pub(super) fn go_on_stopping(&mut self) -> bool {
        if self.stop.is_some() && !std::mem::take(&mut self.is_stop_due) {
            return false;
        }
        let now = self.clock.now();
        let stop = match self.stop {
            Some(stop) => stop,
            None => {
                let stop = Stop {
                    linger_ms: now.monotonic_ms + STOP_LINGER_MS.min(self.limits.close_timeout_ms),
                    deadline_ms: now.monotonic_ms + self.limits.close_timeout_ms,
                    looked_ms: now.monotonic_ms,
                };
                self.stop = Some(stop);
                self.input(now, Input::Shutdown);
                stop
            }
        };
        self.stop = Some(Stop { looked_ms: now.monotonic_ms, ..stop });
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
