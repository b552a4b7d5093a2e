//! Connection attempts side by side, begun one after the other ("Happy Eyeballs", RFC 8305).
//!
//! Names are looked up together. The addresses of a name are tried in turn, IPv6 first and then alternating; the next begins
//! when one before it fails or after a short pause, and the first that succeeds ends all others. What stands on a later
//! step waits longer: it is the second choice.
//!
//! Knows no sockets: how to look up and how to connect are arguments, and the clock is tokio's.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

/// Addresses tried of one name.
const ADDRESSES_PER_NAME_MAX: usize = 16;
/// Attempts under way at once; the next one waits until one of them failed.
pub(crate) const ATTEMPTS_MAX: usize = 16;

/// Somebody to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Runner {
    /// Host name or IP address.
    pub(crate) host: String,
    /// Port.
    pub(crate) port: u16,
    /// 0 = at once; a later step waits for those before it.
    pub(crate) step: u32,
}

/// How long to wait before somebody else is tried too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Between addresses of a step.
    pub(crate) address: Duration,
    /// Before the next step.
    pub(crate) step: Duration,
    /// Longest wait for a lookup, and for an attempt.
    pub(crate) limit: Duration,
}

/// Who failed, and why.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Which runner.
    pub(crate) runner: usize,
    /// `None` when its name was not found.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) error: io::Error,
}

/// An address whose turn comes.
struct Waiting {
    /// Step, runner, place among the runner's addresses: the order of starting.
    place: (u32, usize, usize),
    address: SocketAddr,
}

struct Race<T> {
    runners: Vec<Runner>,
    pace: Pace,
    lookups: JoinSet<(usize, io::Result<Vec<IpAddr>>)>,
    lookups_pending: Vec<bool>,
    waiting: VecDeque<Waiting>,
    attempts: JoinSet<(usize, SocketAddr, io::Result<T>)>,
    last_start: Instant,
    last_step: u32,
    /// Whether an attempt has failed since the last start.
    may_hurry: bool,
    failures: Vec<Failure>,
}

/// Connects to the first of the runners that answers; returns which, and what `connect` made. Everything else is stopped.
///
/// # Errors
/// All failed; each failure, in order.
pub(crate) async fn race<T, L, C>(
    runners: Vec<Runner>,
    pace: Pace,
    lookup: impl Fn(String) -> L,
    connect: impl Fn(usize, SocketAddr) -> C,
) -> Result<(usize, T), Vec<Failure>>
where
    T: Send + 'static,
    L: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
    C: Future<Output = io::Result<T>> + Send + 'static,
{
    let now = Instant::now();
    let mut race = Race {
        lookups: JoinSet::new(),
        lookups_pending: vec![false; runners.len()],
        waiting: VecDeque::new(),
        attempts: JoinSet::new(),
        last_start: now,
        last_step: 0,
        may_hurry: true,
        failures: Vec::new(),
        runners,
        pace,
    };
    race.look_up(&lookup);
    loop {
        race.start_what_is_due(&connect);
        if race.lookups.is_empty() && race.attempts.is_empty() && race.waiting.is_empty() {
            return Err(race.failures);
        }
        let due = race.next_start();
        tokio::select! {
            Some(found) = race.lookups.join_next() => race.found(joined(found)),
            Some(ended) = race.attempts.join_next() => {
                let (runner, address, result) = joined(ended);
                match result {
                    Ok(made) => return Ok((runner, made)),
                    Err(error) => race.failed(runner, address, error),
                }
            }
            () = sleep_until(due) => {}
        }
    }
}

impl<T: Send + 'static> Race<T> {
    /// Begins one lookup a name; runners of the same host share it.
    fn look_up<L>(&mut self, lookup: &impl Fn(String) -> L)
    where
        L: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
    {
        for runner in 0..self.runners.len() {
            let host = &self.runners[runner].host;
            if let Ok(address) = host.parse() {
                self.add(runner, vec![address]);
                continue;
            }
            self.lookups_pending[runner] = true;
            if self.runners[..runner].iter().all(|earlier| earlier.host != *host) {
                let (future, limit) = (lookup(host.clone()), self.pace.limit);
                self.lookups.spawn(async move {
                    let found = match tokio::time::timeout(limit, future).await {
                        Ok(found) => found,
                        Err(_) => Err(too_late(limit)),
                    };
                    (runner, found)
                });
            }
        }
    }

    /// Takes the answer of a lookup for everyone who waited for it.
    fn found(&mut self, (asked_by, found): (usize, io::Result<Vec<IpAddr>>)) {
        let host = self.runners[asked_by].host.clone();
        for runner in asked_by..self.runners.len() {
            if self.runners[runner].host != host {
                continue;
            }
            self.lookups_pending[runner] = false;
            match &found {
                Ok(addresses) if !addresses.is_empty() => self.add(runner, addresses.clone()),
                Ok(_) => self.not_found(runner, io::Error::other("the name has no address")),
                Err(error) => self.not_found(runner, io::Error::new(error.kind(), error.to_string())),
            }
        }
    }

    fn not_found(&mut self, runner: usize, error: io::Error) {
        self.failures.push(Failure { runner, address: None, error });
    }

    fn add(&mut self, runner: usize, addresses: Vec<IpAddr>) {
        let Runner { port, step, .. } = self.runners[runner];
        for (at, address) in alternating(addresses).into_iter().take(ADDRESSES_PER_NAME_MAX).enumerate() {
            let place = (step, runner, at);
            let before = self.waiting.partition_point(|waiting| waiting.place < place);
            self.waiting.insert(before, Waiting { place, address: SocketAddr::new(address, port) });
        }
    }

    /// Says when the next waiting address may begin; `None` = something else must happen first.
    fn next_start(&self) -> Option<Instant> {
        let step = self.waiting.front()?.place.0;
        if self.attempts.len() >= ATTEMPTS_MAX {
            return None;
        }
        let earlier_lookups = self.runners.iter().zip(&self.lookups_pending);
        let is_early = earlier_lookups.filter(|(_, pending)| **pending).any(|(runner, _)| runner.step < step);
        if self.attempts.is_empty() && !is_early {
            return Some(self.last_start);
        }
        if step > self.last_step || is_early {
            return Some(self.last_start + self.pace.step);
        }
        Some(if self.may_hurry { self.last_start } else { self.last_start + self.pace.address })
    }

    fn start_what_is_due<C>(&mut self, connect: &impl Fn(usize, SocketAddr) -> C)
    where
        C: Future<Output = io::Result<T>> + Send + 'static,
    {
        while self.next_start().is_some_and(|due| due <= Instant::now()) {
            let Some(Waiting { place: (step, runner, _), address }) = self.waiting.pop_front() else {
                return;
            };
            let (future, limit) = (connect(runner, address), self.pace.limit);
            self.attempts.spawn(async move {
                let result = match tokio::time::timeout(limit, future).await {
                    Ok(result) => result,
                    Err(_) => Err(too_late(limit)),
                };
                (runner, address, result)
            });
            self.last_start = Instant::now();
            self.last_step = self.last_step.max(step);
            self.may_hurry = false;
        }
    }

    fn failed(&mut self, runner: usize, address: SocketAddr, error: io::Error) {
        self.may_hurry = true;
        self.failures.push(Failure { runner, address: Some(address), error });
    }
}

/// Orders the addresses of a name: IPv6 first, then in turn, each family in the order the system gave (RFC 8305,
/// section 4).
fn alternating(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let (six, four): (Vec<_>, Vec<_>) = addresses.into_iter().partition(IpAddr::is_ipv6);
    let (mut six, mut four) = (six.into_iter(), four.into_iter());
    let mut ordered = Vec::new();
    loop {
        let pair = [six.next(), four.next()];
        if pair == [None, None] {
            return ordered;
        }
        ordered.extend(pair.into_iter().flatten());
    }
}

fn too_late(limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} ms", limit.as_millis()))
}

/// Hands on what a task made; a panic inside it goes on here.
fn joined<R>(result: Result<R, JoinError>) -> R {
    match result {
        Ok(made) => made,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Tasks are stopped only when the race is dropped.
            Err(error) => panic!("an attempt of a race that goes on was stopped: {error}"),
        },
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "race_tests.rs"]
mod tests;
