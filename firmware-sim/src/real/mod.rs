//! A fleet in real time: the SDK's client on real files and sockets, against a broker process.
//!
//! The same scenario and the same seed as on virtual time ([`crate::world`]): trucks drive the same ways, receivers say the same, what
//! happens does so at the same moments, and the same ledger gives the verdict. Dates are today's on the wire; in the ledger they are the
//! scenario's, so that a run in which every record ends the same way has the hash that it has on virtual time.
//!
//! ```text
//!   device (client, queue, journal) ── link proxy ──▶ broker ──▶ office (client) ──▶ books: ledger, commands, acts
//!      ▲ fixes, power                    ▲ outages, cuts   ▲ kill -9
//!      └──────────── life ───────────────┴── conductor ────┘
//! ```

mod books;
mod conductor;
mod device;
mod gateway;
mod life;
mod office;
mod spoken;
mod stage;
mod support;
mod timebase;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep_until;

pub use support::{Unsupported, check};
pub(crate) use timebase::Timebase;

use crate::ledger::Wrong;
use crate::outcome::{Evidence, Generator, Outcome};
use crate::ride::RideError;
use crate::world::{Progress, Run};
use stage::Stage;

/// The most devices of a run in real time: each has a socket twice, a listener, and two open logs.
pub const DEVICES_MAX: u32 = 1_000;
/// How late a record may be made unless something else is said.
pub const LATE_MAX: Duration = Duration::from_millis(500);
/// How long a run goes on after everything has ended, to see what comes twice, milliseconds.
const WATCH_AFTER_MS: u64 = 5_000;

/// A broker process of the run's own, which it may kill.
pub trait BrokerProcess: Send {
    /// Ends it as a power cut does, without a word.
    ///
    /// # Errors
    /// It cannot be ended.
    fn kill(&mut self) -> io::Result<()>;

    /// Starts it again on what it had on disk; returns where it listens now.
    ///
    /// # Errors
    /// It does not start.
    fn start(&mut self) -> io::Result<SocketAddr>;
}

/// Against what, and how, a scenario runs in real time.
pub struct Options {
    /// Where the broker listens.
    pub broker: SocketAddr,
    /// The broker's process, if it is the run's own.
    pub process: Option<Box<dyn BrokerProcess>>,
    /// User name of all devices and of the office.
    pub username: Option<String>,
    /// Their password.
    pub password: Option<Vec<u8>>,
    /// The gateway program: each device is a process of it, its receiver and its lock on pseudo terminals. `None`: devices are in
    /// this process.
    pub gateway: Option<PathBuf>,
    /// Where devices keep their queues and journals, a directory each; it must be empty.
    pub data_dir: PathBuf,
    /// How late a record may be made; beyond it the run has failed, since the generator stood still.
    pub late_max: Duration,
    /// Test only: somebody on the first device's way takes a record after so many and acknowledges it.
    #[doc(hidden)]
    pub steals_at: Option<u64>,
}

impl Options {
    /// Makes options for a broker that is not the run's own, without a login.
    pub fn new(broker: SocketAddr, data_dir: impl Into<PathBuf>) -> Options {
        Options {
            broker,
            process: None,
            username: None,
            password: None,
            gateway: None,
            data_dir: data_dir.into(),
            late_max: LATE_MAX,
            steals_at: None,
        }
    }
}

/// Why a run did not come to a verdict.
#[derive(Debug, thiserror::Error)]
pub enum RealError {
    /// The scenario asks for what real time does not have.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The trucks cannot drive.
    #[error(transparent)]
    Ride(#[from] RideError),
    /// The link proxies cannot listen.
    #[error("the simulated links cannot be opened: {0}; each device needs about 12 open files (ulimit -n)")]
    Links(io::Error),
    /// The office is not there.
    #[error("the office: {what}")]
    Office {
        /// What happened.
        what: String,
    },
    /// A device or the broker cannot go on.
    #[error("at {second} s: {what}")]
    Broken {
        /// When, seconds after the start.
        second: u64,
        /// What happened.
        what: String,
    },
}

/// Runs a scenario in real time to its verdict; `tell` is called once a second. Must be called inside a tokio runtime. Dropped, it
/// ends at once.
///
/// # Errors
/// The scenario cannot be run so, the trucks cannot drive, or a device, the office or the broker cannot go on.
pub async fn run(
    run: Run<'_>,
    options: Options,
    mut tell: impl FnMut(Progress),
) -> Result<Outcome, RealError> {
    check(run.scenario, options.process.is_some(), options.gateway.is_some())?;
    let late_max_ms = u64::try_from(options.late_max.as_millis()).unwrap_or(u64::MAX);
    let (stage, parts) = Stage::build(run, options).await?;
    let mut office = parts.office;
    let mut tasks = JoinSet::new();
    tasks.spawn(office.listen(stage.clone()));
    tasks.spawn(conductor::run(stage.clone(), office.client(), parts.process));
    for (at, boots_ms) in parts.boots_ms.into_iter().enumerate() {
        let at = at as u32;
        match &parts.gateway {
            None => tasks.spawn(device::live(stage.clone(), at, boots_ms)),
            Some(program) => tasks.spawn(gateway::live(stage.clone(), at, boots_ms, program.clone())),
        };
    }
    let now_ms = last(&stage, &mut tell).await?;
    // Before devices end their connections: these ends are no drops.
    let stats = stage.network.counts().stats.clone();
    tasks.shutdown().await;
    office.close().await;
    Ok(verdict(&stage, stats, now_ms, late_max_ms))
}

/// Lasts until everything has ended, or time is up; returns when that was.
async fn last(stage: &Arc<Stage>, tell: &mut impl FnMut(Progress)) -> Result<u64, RealError> {
    let (end_ms, made_until_ms) = (stage.scenario.end_ms(), stage.scenario.duration_s * 1_000);
    let mut broken = stage.broken.subscribe();
    let mut settled_at_ms = None;
    for second in 1.. {
        let ms = second * 1_000;
        tokio::select! {
            () = sleep_until(stage.time.at(ms)) => {}
            Ok(what) = broken.wait_for(Option::is_some) => {
                let what = what.clone().unwrap_or_default();
                return Err(RealError::Broken { second: stage.time.now_ms() / 1_000, what });
            }
        }
        let books = stage.books();
        tell(Progress { second, end_s: end_ms / 1_000, counts: books.ledger.counts() });
        let has_settled = ms > made_until_ms && books.is_settled();
        settled_at_ms = if has_settled { settled_at_ms.or(Some(ms)) } else { None };
        if ms >= end_ms || settled_at_ms.is_some_and(|at_ms| ms >= at_ms + WATCH_AFTER_MS) {
            return Ok(ms);
        }
    }
    unreachable!("seconds have no end")
}

fn verdict(stage: &Stage, mut stats: crate::world::Stats, now_ms: u64, allowed_ms: u64) -> Outcome {
    let mut books = std::mem::take(&mut *stage.books());
    books.settle_given_up();
    let generator =
        Generator { p99_ms: books.late.percentile_ms(99.0), longest_ms: books.late.longest_ms(), allowed_ms };
    if let Some(what) = lagged(generator) {
        books.ledger.wrong(Wrong::Lagged, 0, 0, what);
    }
    stats.power_cuts = books.power_cuts;
    stats.broker_power_cuts = books.broker_power_cuts;
    stats.deviations = books.watch.as_ref().map_or(0, |watch| watch.deviations);
    stats.refusals = books.orders.refusals;
    stats.unlocks = books.acts.unlocks;
    stats.arrivals = books.arrived.len() as u64;
    let evidence = Evidence {
        seed: stage.seed,
        expect: &stage.scenario.expect,
        devices: stage.scenario.fleet.devices,
        now_ms,
        ledger: books.ledger,
        stats,
        orders: &books.orders,
    };
    Outcome { generator: Some(generator), ..evidence.verdict() }
}

/// What is wrong with a generator that was too late.
fn lagged(generator: Generator) -> Option<String> {
    let Generator { longest_ms, allowed_ms, .. } = generator;
    let is_late = longest_ms > allowed_ms;
    is_late.then(|| format!("a record was made {longest_ms} ms late, {allowed_ms} ms are allowed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generator_that_was_later_than_allowed_fails_the_run() {
        let generator = |longest_ms| Generator { p99_ms: 1, longest_ms, allowed_ms: 500 };
        assert_eq!(lagged(generator(500)), None);
        let why = lagged(generator(501));
        assert_eq!(why.as_deref(), Some("a record was made 501 ms late, 500 ms are allowed"));
    }
}
