//! Telemetry to people and commands back: the bridge between devices on MQTT and those who look after them.
//!
//! ```text
//! dev/+/telemetry/gps ─▶ watch ─▶ alerts ──────┐
//! im/dispatch  ────────▶ chat ──▶ commands ────┤─▶ journal ─▶ outbox ─▶ im/dispatch, dev/{id}/cmd
//! dev/+/cmd/result ────▶ report ─▶ answers ────┤   (durable)        └─▶ sinks
//! $im/receipts  ───────▶ report ─▶ answers ────┘
//! ```
//!
//! What must stay true: a message is acknowledged to the broker only after what follows from it is in the journal; what is
//! in the journal is sent, across restarts, until its target has it or it ends as a dead letter, which is logged; every
//! message has an id that follows from its cause, so that whoever gets it twice can tell.
//!
//! | module | owns |
//! | --- | --- |
//! | [`config`] | what the bridge is told |
//! | `watch`, `chat`, `report` | a fix, a chat message, an answer: what they mean, as pure functions |
//! | `rules` | which of it is told to whom, in which words |
//! | `core` | the state machine over all of them |
//! | `state`, `journal` | what must not be forgotten, and its form on disk |
//! | `notice` | a message as sinks see it |
//! | `outbox` | when targets are tried, and when no more |
//! | `sinks` | how each is spoken to |
//! | [`record`], `trial` | recorded tracks; what a configuration makes of a record, without sending |
//! | `run` | the task that ties them to the broker |

mod chat;
pub mod config;
mod core;
mod dead_letters;
mod ids;
mod journal;
mod notice;
mod outbox;
pub mod record;
mod report;
mod rules;
mod run;
mod sinks;
mod state;
mod topics;
mod trial;
mod watch;

use std::sync::Arc;

use device_sdk::{Backoff, Client, Options};
use tokio::{
    sync::{mpsc, oneshot, watch as watch_channel},
    task::JoinHandle,
};

pub use config::Config;
pub use core::Counts;
pub use dead_letters::{DeadLetterError, Letter, Reply, Request, Which, dead_letters};
pub use journal::JournalError;
pub use notice::Severity;
pub use report::Kind;
pub use state::{Entry, Target};
pub use trial::{Told, Trial, utc};

use crate::{
    config::BrokerSettings,
    core::Core,
    journal::Journal,
    outbox::unix_ms,
    run::{Ends, Runner},
    sinks::AnySink,
};

#[cfg(test)]
mod tests;

/// News that an observer may be behind before it loses some.
const OBSERVED_MAX: usize = 1_024;

/// Why a bridge cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its data directory cannot be used.
    #[error("data directory {0}")]
    Journal(#[from] JournalError),
    /// The control socket cannot be made.
    #[error("the control socket in {dir} cannot be made: {source}")]
    Control {
        /// The data directory.
        dir: String,
        /// Why.
        source: std::io::Error,
    },
    /// A sink cannot be used.
    #[error("sink {name:?}: {why}")]
    Sink {
        /// Its name.
        name: String,
        /// Why.
        why: String,
    },
    /// The broker's client cannot start.
    #[error("broker: {0}")]
    Client(#[from] device_sdk::StartError),
}

/// Why a running bridge stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// The journal can no longer be written; nothing more was acknowledged.
    #[error("the data directory can no longer be written: {what}")]
    Store {
        /// The operating system's words.
        what: String,
    },
    /// The broker's client ended, or the task did.
    #[error("the connection to the broker has ended for good")]
    ClientEnded,
}

/// Something that an embedding program may want to show.
#[derive(Clone, Debug)]
pub enum Observed {
    /// The broker accepted the connection.
    Connected {
        /// Whether it still had the session.
        session_present: bool,
    },
    /// A target took a message.
    Delivered {
        /// The message.
        entry: Entry,
    },
    /// A message was given up.
    Dead {
        /// The message.
        entry: Entry,
        /// Why.
        why: String,
    },
}

/// The bridge.
#[derive(Debug)]
pub struct Bridge;

impl Bridge {
    /// Starts a bridge on the current tokio runtime. It connects in the background, for as long as that takes.
    ///
    /// # Errors
    /// The data directory is used by another process or cannot be read; a sink or the broker's address is unusable.
    pub fn start(config: Config) -> Result<Handle, StartError> {
        let config = Arc::new(config);
        let sinks = config
            .sinks
            .iter()
            .map(|rule| match AnySink::new(rule) {
                Ok(sink) => Ok((rule, sink)),
                Err(why) => Err(StartError::Sink { name: rule.name.clone(), why }),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let (journal, state) = Journal::open(&config.data_dir, config.outbox.bytes_max)?;
        let control = dead_letters::listen(&config.data_dir)
            .map_err(|source| StartError::Control { dir: config.data_dir.display().to_string(), source })?;
        let (core, first) = Core::recover(Arc::clone(&config), state, unix_ms());
        let client = Client::spawn(options(&config.broker))?;
        let (observers, observed) = mpsc::channel(OBSERVED_MAX);
        let (counts, counts_seen) = watch_channel::channel(Counts::default());
        let (ready, ready_seen) = watch_channel::channel(false);
        let (stop, stopped) = oneshot::channel();
        let ends = Ends { observers, counts, ready, stop: stopped };
        let runner = Runner::new(&config, core, journal, client, sinks, control, ends);
        let task = tokio::spawn(runner.run(first));
        Ok(Handle { observed, counts: counts_seen, ready: ready_seen, stop: Some(stop), task })
    }
}

fn options(broker: &BrokerSettings) -> Options {
    let mut options = Options::new(broker.address.clone(), broker.client_id.clone());
    options.tls = broker.tls.clone();
    options.clean_start = false;
    options.session_expiry_s = broker.session_expiry_s;
    options.username = broker.username.clone();
    options.password = broker.password.as_ref().map(|secret| secret.0.clone().into_bytes());
    options.manual_ack = true;
    options.backoff = Backoff { min_ms: 200, max_ms: 30_000 };
    options
}

/// A running bridge. Dropped, it stops in the background; what is stored and not sent is sent by the next one.
#[derive(Debug)]
pub struct Handle {
    observed: mpsc::Receiver<Observed>,
    counts: watch_channel::Receiver<Counts>,
    ready: watch_channel::Receiver<bool>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), BridgeError>>,
}

impl Handle {
    /// Returns what happened next, `None` when the bridge has ended. An observer that falls more than 1,024 behind loses
    /// news; the bridge itself does not wait.
    pub async fn observe(&mut self) -> Option<Observed> {
        self.observed.recv().await
    }

    /// Waits until the broker has granted all subscriptions: what is published from then on is seen.
    pub async fn ready(&self) {
        let mut ready = self.ready.clone();
        if ready.wait_for(|ready| *ready).await.is_err() {
            // The bridge has ended; it will never be ready.
            std::future::pending::<()>().await;
        }
    }

    /// Returns what the bridge has done so far.
    pub fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    /// Waits for the bridge to end by itself, which it does only when it cannot go on.
    ///
    /// # Errors
    /// Why it ended.
    pub async fn ended(&mut self) -> Result<(), BridgeError> {
        (&mut self.task).await.unwrap_or(Err(BridgeError::ClientEnded))
    }

    /// Stops the bridge: it leaves the broker and closes its journal. Not to be called after [`Handle::ended`].
    ///
    /// # Errors
    /// Why it had ended before.
    pub async fn stop(mut self) -> Result<Counts, BridgeError> {
        drop(self.stop.take());
        self.ended().await?;
        Ok(self.counts())
    }
}
