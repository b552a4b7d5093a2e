//! A broker of its own for each test: the `postrider` binary as a process on a free port with an own store.
//!
//! `SYSTEM_TEST_PEER=mosquitto` starts a mosquitto instead, to see what an independent broker thinks of a
//! test about plain MQTT.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use protocol::ProtocolVersion;
use tempfile::TempDir;

use crate::raw_client::{PATIENCE, RawClient};

/// Which build of the binary runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Build {
    /// The one of the test's own profile, with debug assertions.
    Test,
    /// The release binary when the test script built one (`SYSTEM_TEST_RELEASE_BINARY`), else the test's own.
    Release,
}

/// Returns the binary's path.
pub(crate) fn binary(build: Build) -> PathBuf {
    match std::env::var_os("SYSTEM_TEST_RELEASE_BINARY") {
        Some(path) if build == Build::Release => path.into(),
        _ => env!("CARGO_BIN_EXE_postrider").into(),
    }
}

/// Makes a command of the binary that knows no setting of the test's environment.
pub(crate) fn postrider(build: Build) -> Command {
    let mut command = Command::new(binary(build));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("POSTRIDER_") {
            command.env_remove(name);
        }
    }
    command
}

/// The lines a process prints, as they come.
pub(crate) struct Lines(Receiver<String>);

impl Lines {
    /// Reads `from` on a thread that ends with it.
    pub(crate) fn of(from: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self(receiver)
    }

    /// Waits for a line that begins so and returns the rest of it.
    pub(crate) fn wait_for(&self, beginning: &str) -> Option<String> {
        let line = self.until(beginning)?.pop()?;
        line.strip_prefix(beginning).map(str::to_owned)
    }

    /// Waits for a line that begins so and returns all up to it.
    pub(crate) fn until(&self, beginning: &str) -> Option<Vec<String>> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = Vec::new();
        while let Ok(line) = self.0.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            lines.push(line);
            if lines.last().is_some_and(|line| line.starts_with(beginning)) {
                return Some(lines);
            }
        }
        None
    }
}

/// A running broker; it is killed when the value is dropped.
pub(crate) struct Broker {
    child: Child,
    address: SocketAddr,
    http: Option<SocketAddr>,
    /// Name and address of each `[[listener]]`.
    listeners: Vec<(String, String)>,
    dir: TempDir,
    store: PathBuf,
    build: Build,
    config: Option<String>,
}

impl Broker {
    /// Starts the binary of the test profile with its default configuration.
    pub(crate) fn start() -> Self {
        Self::start_with(Build::Test, None)
    }

    /// Starts it with this configuration file.
    pub(crate) fn start_configured(config: &str) -> Self {
        Self::start_with(Build::Test, Some(config))
    }

    /// Starts either build, with or without a configuration file.
    pub(crate) fn start_with(build: Build, config: Option<&str>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = dir.path().join("store");
        Self::start_at(build, config, dir, store)
    }

    /// Starts it with its store in a directory that the test owns.
    pub(crate) fn start_in(build: Build, config: Option<&str>, store: &Path) -> Self {
        Self::start_at(build, config, tempfile::tempdir().expect("a temporary directory"), store.to_owned())
    }

    fn start_at(build: Build, config: Option<&str>, dir: TempDir, store: PathBuf) -> Self {
        let config = config.map(str::to_owned);
        let Spawned { child, address, http, listeners } =
            spawn(build, dir.path(), &store, config.as_deref(), "127.0.0.1:0");
        Self { child, address, http, listeners, dir, store, build, config }
    }

    /// Where MQTT is served.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where HTTP is served.
    pub(crate) fn http(&self) -> SocketAddr {
        self.http.expect("the postrider binary serves HTTP")
    }

    /// Says whether it is mosquitto, of which less is asked than of postrider.
    pub(crate) fn is_peer(&self) -> bool {
        self.http.is_none()
    }

    /// Where the `[[listener]]` of this name listens.
    pub(crate) fn listener(&self, name: &str) -> &str {
        let found = self.listeners.iter().find(|(n, _)| n == name);
        found
            .map(|(_, address)| &**address)
            .unwrap_or_else(|| panic!("no listener {name}: {:?}", self.listeners))
    }

    /// The store's directory.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.store.clone()
    }

    /// A directory of the test's own that ends with the broker.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Connects a client with a session that ends with its connection.
    pub(crate) fn client(&self, client_id: &str, version: ProtocolVersion) -> RawClient {
        RawClient::connect(self.address, client_id, version)
    }

    /// Connects a client to a session that lasts; says whether it was there.
    pub(crate) fn durable(&self, client_id: &str, version: ProtocolVersion) -> (RawClient, bool) {
        RawClient::connect_durable(self.address, client_id, version)
    }

    /// Kills the process as a crash does (SIGKILL) and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the broker still runs");
        self.child.wait().expect("a child can be waited for");
    }

    /// Asks the process to end (SIGTERM) and returns how it ended.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        let done = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status().expect("kill runs");
        assert!(done.success(), "the broker still runs");
        wait_for_exit(&mut self.child)
    }

    /// Starts the binary again on the same store, after [`Broker::kill`] or [`Broker::terminate`].
    pub(crate) fn restart(&mut self) {
        self.restart_on("127.0.0.1:0");
    }

    /// Kills and restarts on the same address, for clients that come back by themselves.
    pub(crate) fn crash_and_return(&mut self) {
        self.kill();
        self.return_to_its_address();
    }

    /// Starts it again on the same address, after its end.
    pub(crate) fn return_to_its_address(&mut self) {
        self.restart_on(&self.address.to_string());
    }

    fn restart_on(&mut self, listen: &str) {
        let spawned = spawn(self.build, self.dir.path(), &self.store, self.config.as_deref(), listen);
        self.child = spawned.child;
        (self.address, self.http, self.listeners) = (spawned.address, spawned.http, spawned.listeners);
    }

    /// Kills and restarts: what is left is what was durable.
    pub(crate) fn crash_and_restart(&mut self) {
        self.kill();
        self.restart();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Both fail only when the process is gone already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = fs::read_to_string(self.dir.path().join("stderr")).unwrap_or_default();
        if thread::panicking() {
            eprintln!("--- the broker's stderr\n{log}---");
        } else {
            assert!(!log.contains("panicked at"), "the broker panicked:\n{log}");
        }
    }
}

/// Waits for a process to end by itself.
pub(crate) fn wait_for_exit(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the process did not end within {PATIENCE:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// A process that listens.
struct Spawned {
    child: Child,
    address: SocketAddr,
    http: Option<SocketAddr>,
    listeners: Vec<(String, String)>,
}

fn spawn(build: Build, dir: &Path, store: &Path, config: Option<&str>, listen: &str) -> Spawned {
    if std::env::var("SYSTEM_TEST_PEER").as_deref() == Ok("mosquitto") {
        return spawn_mosquitto(build, dir);
    }
    let stderr = File::options().create(true).append(true).open(dir.join("stderr")).expect("a log file");
    let mut command = postrider(build);
    command.arg("serve").args(["--listen", listen, "--http", "127.0.0.1:0"]);
    command.arg("--data-dir").arg(store);
    if let Some(text) = config {
        let path = dir.join("postrider.toml");
        fs::write(&path, text).expect("a configuration file");
        command.arg("--config").arg(path);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .expect("the postrider binary starts");
    let lines = Lines::of(child.stdout.take().expect("stdout is piped"));
    // The last line of those that say where it listens.
    let Some(said) = lines.until("postrider: http") else {
        let _ = child.kill();
        let _ = child.wait();
        let log = fs::read_to_string(dir.join("stderr")).unwrap_or_default();
        panic!("the broker did not say that it listens; stderr:\n{log}");
    };
    let address_after = |beginning: &str| {
        let rest = said.iter().find_map(|line| line.strip_prefix(beginning));
        rest.map(|text| text.trim().parse().expect("an address after `listening on`"))
    };
    let address = address_after("postrider: mqtt listening on ").expect("MQTT is on");
    let http = address_after("postrider: http listening on ");
    let listeners = said.iter().filter_map(|line| {
        let (name, rest) = line.strip_prefix("postrider: listener ")?.split_once(' ')?;
        let (_, address) = rest.split_once("listening on ")?;
        Some((name.to_owned(), address.trim().to_owned()))
    });
    Spawned { child, address, http, listeners: listeners.collect() }
}

fn spawn_mosquitto(build: Build, dir: &Path) -> Spawned {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("a bound socket has an address");
    drop(free);
    let config = dir.join("mosquitto.conf");
    // Where times are told it is to have no more work than the other: the hostile-client test's bounds, and no trace.
    let (queued_max, verbose) = match build {
        Build::Test => (0, Some("-v")),
        Build::Release => (1_000, None),
    };
    let port = address.port();
    let text = format!("listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages {queued_max}\n");
    fs::write(&config, text).expect("a configuration file");
    let log = File::create(dir.join("stderr")).expect("a log file");
    let child = Command::new("mosquitto")
        .args(verbose)
        .arg("-c")
        .arg(config)
        .stderr(log)
        .spawn()
        .expect("mosquitto starts");
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "mosquitto does not listen on {address}");
        thread::sleep(Duration::from_millis(5));
    }
    Spawned { child, address, http: None, listeners: Vec::new() }
}
