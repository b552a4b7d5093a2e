//! `postrider sim run FILE --real` and `--broker HOST:PORT`: a scenario in real time.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use firmware_sim::real::{self, Options};
use firmware_sim::world::{Outcome, Progress, Run};

use super::own_broker::OwnBroker;
use crate::signals::Signals;

/// Open files of a device: sockets on both sides of its link, logs, locks.
const FILES_PER_DEVICE: u32 = 20;

/// How a scenario runs in real time.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct RealArgs {
    /// Run in real time against a broker process that the run starts, kills where the scenario says so, and ends
    #[arg(long)]
    real: bool,
    /// Run in real time against this broker
    #[arg(long, value_name = "HOST:PORT")]
    broker: Option<String>,
    /// Run in real time with this postrider-gateway program as each device, its receiver and lock on pseudo terminals
    #[arg(long, value_name = "PROGRAM")]
    gateway: Option<PathBuf>,
    /// In real time: user name of the devices and of the office
    #[arg(long, short = 'u', value_name = "NAME", requires = "broker")]
    username: Option<String>,
    /// In real time: their password
    #[arg(long, short = 'P', env = "POSTRIDER_PASSWORD", hide_env_values = true, requires = "username")]
    password: Option<String>,
    /// In real time: where devices keep their files, a directory that is made anew; else a temporary one, which stays if the run failed
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// In real time: how late a record may be made before the run counts as failed, milliseconds
    #[arg(long, value_name = "MS", default_value_t = 500)]
    late_max: u64,
}

impl RealArgs {
    /// Whether the run is in real time.
    pub(super) fn is_asked_for(&self) -> bool {
        self.real || self.broker.is_some() || self.gateway.is_some()
    }

    /// The options that repeat it.
    pub(super) fn repeat(&self, quoted: impl Fn(&Path) -> String) -> String {
        let mut words = String::new();
        match &self.broker {
            Some(broker) => words += &format!(" --broker {}", quoted(Path::new(broker))),
            None if self.real => words += " --real",
            None => {}
        }
        if let Some(gateway) = &self.gateway {
            words += &format!(" --gateway {}", quoted(gateway));
        }
        if let Some(username) = &self.username {
            words += &format!(" --username {}", quoted(Path::new(username)));
        }
        if self.late_max != 500 {
            words += &format!(" --late-max {}", self.late_max);
        }
        words
    }
}

/// What came of a run in real time.
pub(super) enum Ended {
    /// It came to a verdict.
    Verdict(Outcome),
    /// It cannot be run so.
    Misused(String),
    /// A signal ended it.
    Stopped(&'static str),
}

/// Runs a scenario in real time; what it starts has ended when this returns.
pub(super) async fn run(args: &RealArgs, run: Run<'_>, tell: impl FnMut(Progress)) -> anyhow::Result<Ended> {
    if let Err(why) = real::check(run.scenario, args.broker.is_none(), args.gateway.is_some()) {
        return Ok(Ended::Misused(why.to_string()));
    }
    let mut signals = Signals::new()?;
    let dir = Folder::make(args.data_dir.as_deref())?;
    let (broker, process) = match &args.broker {
        Some(address) => (resolved(address).await?, None),
        None => {
            let (process, address) =
                OwnBroker::start_in(&dir.path.join("broker")).context("the broker cannot be started")?;
            (address, Some(process))
        }
    };
    let mut options = Options::new(broker, dir.path.join("devices"));
    options.process = process.map(|process| Box::new(process) as Box<dyn real::BrokerProcess>);
    options.gateway = args.gateway.clone();
    options.username = args.username.clone();
    options.password = args.password.clone().map(String::into_bytes);
    options.late_max = Duration::from_millis(args.late_max);
    broker::raise_file_limit(FILES_PER_DEVICE.saturating_mul(run.scenario.fleet.devices));
    let outcome = tokio::select! {
        outcome = real::run(run, options, tell) => outcome,
        signal = signals.next() => return Ok(Ended::Stopped(signal)),
    };
    match outcome {
        Ok(outcome) => {
            dir.keep_if(!outcome.has_passed());
            Ok(Ended::Verdict(outcome))
        }
        Err(error) => {
            dir.keep_if(true);
            Err(error.into())
        }
    }
}

async fn resolved(address: &str) -> anyhow::Result<SocketAddr> {
    let mut found = tokio::net::lookup_host(address).await.with_context(|| format!("--broker {address}"))?;
    found.next().with_context(|| format!("--broker {address}: there is no such address"))
}

/// Where the run keeps its files.
struct Folder {
    path: PathBuf,
    /// Whether it is given back at the end.
    is_temporary: bool,
}

impl Folder {
    fn make(asked: Option<&Path>) -> anyhow::Result<Folder> {
        let (path, is_temporary) = match asked {
            Some(path) => (path.to_owned(), false),
            None => {
                let name = format!("postrider-sim-{}-{:08x}", std::process::id(), fastrand::u32(..));
                (std::env::temp_dir().join(name), true)
            }
        };
        let made = match std::fs::create_dir_all(&path) {
            Ok(()) if std::fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some()) => {
                Err(io::Error::other("it is not empty"))
            }
            made => made,
        };
        made.with_context(|| format!("the directory of the run, {}", path.display()))?;
        Ok(Folder { path, is_temporary })
    }

    /// Keeps a temporary folder that has something to tell.
    fn keep_if(mut self, has_failed: bool) {
        if has_failed && self.is_temporary {
            eprintln!("postrider: the files of the run are in {}", self.path.display());
            self.is_temporary = false;
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.is_temporary
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "the run's directory stays");
        }
    }
}
