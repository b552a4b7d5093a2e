//! Starts the broker's threads, and ends them.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, thread};

use storage::{LogError, OpenError};
use tokio::sync::{mpsc, oneshot};

use crate::{
    Config, Recovered,
    auth::{
        Auth,
        policy::{self, Door},
    },
    bind::{BindError, Bound},
    http::{self, HttpServer},
    listener::{self, HandshakeCounts, HandshakeDoor, HandshakeLimits, Listening, Opened},
    machine_memory::{MachineMemory, machine_memory},
    reload::Reloader,
    runtime::{self, Entry, Inbox, Parts, Store, StoreError},
};

/// Questions to the shard that may wait.
const ASKED_MAX: usize = 16;

/// Starts brokers.
#[derive(Debug)]
pub struct Broker;

/// A broker that runs. Dropping it ends the broker too, without waiting for the end.
#[derive(Debug)]
pub struct RunningBroker {
    listeners: Vec<Listening>,
    recovered: Recovered,
    inbox: Arc<Inbox>,
    ended: Option<oneshot::Receiver<Result<(), FatalError>>>,
    thread: Option<thread::JoinHandle<()>>,
    http: Option<HttpServer>,
    reloader: Reloader,
}

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The store cannot be opened or read.
    #[error("the store in {dir} cannot be used: {what}")]
    Store {
        /// The data directory.
        dir: PathBuf,
        /// What is wrong, and what to do.
        what: String,
    },
    /// The configuration, or a file that it names, is wrong.
    #[error("{0}")]
    Configuration(String),
    /// A listener's certificates cannot be used.
    #[error("listener {listener:?} cannot serve TLS: {what}")]
    Tls {
        /// The listener's name.
        listener: String,
        /// What is wrong, and what to do.
        what: String,
    },
    /// A thread or its executor cannot be made.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
}

/// Why a running broker ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum FatalError {
    /// The store failed: going on could lose what is acknowledged.
    #[error("the store failed, so the broker stopped: {0}; start it again: it says what it finds on disk")]
    Store(#[source] LogError),
    /// The listening socket cannot be used.
    #[error("the listening socket cannot be used: {0}")]
    Socket(#[source] io::Error),
    /// A bug: the state may be half changed, the store is not.
    #[error(
        "a bug made the broker stop (see the panic message above); a restart takes the state from the store"
    )]
    Panicked,
}

impl Broker {
    /// Starts a broker: binds its addresses, takes the state back from the store, and lets clients in.
    /// Blocks while it reads the store.
    ///
    /// # Errors
    /// An address or the store cannot be used.
    pub fn start(mut config: Config) -> Result<RunningBroker, StartError> {
        bound_memory(&mut config);
        let (opened, certificates) = listener::open_all(&config)?;
        let listeners = opened.iter().map(Opened::listening).collect();
        let http = http::bind_optional(&config)?;
        check_doors(&config, &opened, http.as_ref())?;
        let inbox = Arc::new(Inbox::default());
        let (auth, mut watches) = Auth::start(&config, &inbox).map_err(StartError::Configuration)?;
        watches.extend(certificates);
        let store = Store::open(&config).map_err(|error| StartError::Store {
            dir: config.store.data_dir.clone(),
            what: explain(&error),
        })?;
        let recovered = store.recovered;
        let (ask, asked) = mpsc::channel(ASKED_MAX);
        let (arrived, arrivals) = listener::arrivals();
        let web = config.http.mqtt.then(|| arrived.clone());
        let http = http.map(|bound| HttpServer::start(bound, ask, auth.clone(), &config, web)).transpose()?;
        let counts = Arc::new(HandshakeCounts::default());
        let needs_door = opened.iter().any(Opened::has_handshake);
        let door = needs_door
            .then(|| HandshakeDoor::open(HandshakeLimits::new(&config.mqtt), arrived, Arc::clone(&counts)))
            .transpose()
            .map_err(StartError::Thread)?;
        let entry = Entry { door, arrivals, counts };

        let look = runtime::Look::new(&inbox).map_err(StartError::Thread)?;
        let sockets = opened.into_iter().map(Opened::listen).collect::<Result<_, _>>()?;
        let parts = Parts { config, store, sockets, entry, auth, inbox: Arc::clone(&inbox), asked };
        let (tell_end, ended) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("shard-0".to_owned())
            .spawn(move || {
                // The handle may be gone: then nobody wants to know.
                let _ = tell_end.send(runtime::run(look, parts));
            })
            .map_err(StartError::Thread)?;
        let reloader = Reloader::start(watches).map_err(StartError::Thread)?;
        let (ended, thread) = (Some(ended), Some(thread));
        Ok(RunningBroker { listeners, recovered, inbox, ended, thread, http, reloader })
    }
}

impl RunningBroker {
    /// Returns where MQTT over plain TCP is served as `[mqtt]` says, if it is.
    pub fn mqtt_addr(&self) -> Option<SocketAddr> {
        self.listeners.iter().find(|listening| listening.name == "mqtt")?.address.ip()
    }

    /// Returns where MQTT is served, over everything; the one of `[mqtt]` comes first.
    pub fn listeners(&self) -> &[Listening] {
        &self.listeners
    }

    /// Returns where HTTP is served, if it is.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(HttpServer::addr)
    }

    /// Returns what was found in the store at start.
    pub fn recovered(&self) -> Recovered {
        self.recovered
    }

    /// Reads the files again that may change while the broker serves; does not wait for it. What came of it is
    /// in the log.
    pub fn reload(&self) {
        self.reloader.reload();
    }

    /// Waits until the broker fails; for ever, if it does not. May be dropped and called again.
    pub async fn failed(&mut self) -> FatalError {
        let Some(ended) = &mut self.ended else { return std::future::pending().await };
        let result = ended.await;
        self.ended = None;
        match result {
            Ok(Err(error)) => error,
            // Without an order to stop the thread ends only by failing.
            Ok(Ok(())) | Err(_) => FatalError::Panicked,
        }
    }

    /// Ends the broker in order: tells every client, sends what is to be sent, commits what is to be
    /// committed.
    ///
    /// # Errors
    /// The broker failed before or at its end.
    pub async fn stop(mut self) -> Result<(), FatalError> {
        self.inbox.stop();
        let result = match self.ended.take() {
            Some(ended) => ended.await.unwrap_or(Err(FatalError::Panicked)),
            None => Ok(()),
        };
        // Both have nothing left to do but to return.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Some(http) = self.http.take() {
            http.stop();
        }
        result
    }
}

impl Drop for RunningBroker {
    fn drop(&mut self) {
        self.inbox.stop();
    }
}

/// Sets the memory bound that nobody configured, and says it.
fn bound_memory(config: &mut Config) {
    let bytes_max = &mut config.limits.memory_bytes_max;
    match machine_memory() {
        _ if *bytes_max > 0 => {}
        Some(MachineMemory { bytes, of }) => {
            *bytes_max = bytes / 2;
            tracing::info!(
                bytes_max,
                of,
                "memory is bounded to half of what there is; limits.memory_bytes_max sets another bound"
            );
        }
        None => tracing::warn!(
            "this system does not tell its memory, so it is not bounded: set limits.memory_bytes_max"
        ),
    }
}

/// Refuses to let other machines in where nothing says who may come.
fn check_doors(config: &Config, opened: &[Opened], http: Option<&Bound>) -> Result<(), StartError> {
    let mut doors = Vec::new();
    for opened in opened {
        let listener = opened.listener();
        let key = match listener.name.as_str() {
            "mqtt" => "mqtt.listen".to_owned(),
            name => format!("`listen` of [[listener]] {name:?}"),
        };
        doors.push((key, opened.listening().address.to_string(), Door::of(listener)));
    }
    if let Some(http) = http.filter(|_| config.http.mqtt) {
        let address = http.local_addr()?;
        let is_loopback_only = address.ip().to_canonical().is_loopback();
        let door = Door { anonymous: None, is_loopback_only, has_certificates: false };
        doors.push(("http.listen (MQTT at /mqtt)".to_owned(), address.to_string(), door));
    }
    policy::check_doors(config, doors).map_err(StartError::Configuration)
}

/// Says what is wrong with a store, and what to do.
fn explain(error: &StoreError) -> String {
    match error {
        StoreError::Open(OpenError::Locked { pid, .. }) => {
            let owner = pid.map_or("another process".to_owned(), |pid| format!("process {pid}"));
            format!("it is in use by {owner}; stop it or choose another with --data-dir DIR")
        }
        StoreError::Recover(error) => format!(
            "{error}; it was written by another version of postrider, or is damaged: \
             start the version that wrote it, or restore a copy"
        ),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use storage::CommitEvent;

    use super::*;

    #[test]
    fn a_failed_store_ends_the_broker_and_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.mqtt.listen = crate::config::HostPort::new("127.0.0.1", 0);
        config.http.enabled = false;
        config.store.data_dir = dir.path().join("store");
        let mut broker = Broker::start(config).unwrap();
        broker.inbox.commit_event(CommitEvent::Failed(LogError::Poisoned { why: "no such disk".into() }));
        let executor = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let error = executor.block_on(broker.failed()).to_string();
        assert!(error.starts_with("the store failed, so the broker stopped: "), "{error}");
        assert!(error.ends_with("start it again: it says what it finds on disk"), "{error}");
        assert!(error.contains("no such disk"), "{error}");
        assert!(
            std::net::TcpStream::connect(broker.mqtt_addr().unwrap()).is_err(),
            "clients are still let in"
        );
    }
}
