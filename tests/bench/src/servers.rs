//! The servers under test as processes: how each is started, what it used, how it ends.
//!
//! Every server listens on loopback, keeps its files in a scratch folder of its own, and is killed by its pid
//! when it is dropped.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::peers::{Peers, first_line};
use crate::relay::Pattern;

/// A server has this long to listen.
const START_MAX: Duration = Duration::from_secs(20);

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum ServerKind {
    /// Moves bytes, knows no MQTT.
    Relay,
    /// The Debian package.
    Mosquitto,
    /// The Debian package, MQTT on JetStream.
    Nats,
    /// The crate.
    Rumqttd,
    /// The crate, as its first example makes a broker of it.
    Rmqtt,
    /// The npm package.
    Aedes,
    /// The binary given.
    Postrider,
}

impl ServerKind {
    /// Whether it is another broker.
    pub(crate) fn is_peer(self) -> bool {
        !matches!(self, Self::Relay | Self::Postrider)
    }
}

impl fmt::Display for ServerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Relay => "relay",
            Self::Mosquitto => "mosquitto",
            Self::Nats => "nats",
            Self::Rumqttd => "rumqttd",
            Self::Rmqtt => "rmqtt",
            Self::Aedes => "aedes",
            Self::Postrider => "postrider",
        })
    }
}

/// When postrider counts something as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// After fsync.
    Power,
    /// After write.
    Process,
}

/// The programs that can be started.
#[derive(Debug)]
pub(crate) struct Programs {
    postrider: PathBuf,
    peers: Peers,
    /// What each says of its version.
    pub(crate) versions: Vec<String>,
}

impl Programs {
    pub(crate) fn new(postrider: PathBuf, peers: Peers, servers: &[ServerKind]) -> Result<Self> {
        let mut versions = Vec::new();
        if servers.contains(&ServerKind::Postrider) {
            ensure!(
                postrider.is_file(),
                "{} does not exist: build it with `cargo build --release`",
                postrider.display()
            );
            versions.push(first_line(&postrider, "--version")?);
        }
        for kind in servers.iter().filter(|kind| kind.is_peer()) {
            versions.push(peers.version(*kind)?);
        }
        Ok(Self { postrider, peers, versions })
    }
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) addr: SocketAddr,
    /// What it said before it listened.
    pub(crate) said: Vec<String>,
    _folder: Option<TempDir>,
    /// Held open: what the server still says must not fail.
    _stdout: Option<BufReader<ChildStdout>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    pub(crate) fn start(
        programs: &Programs,
        kind: ServerKind,
        durability: Durability,
        keeps_files: bool,
        pattern: Pattern,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        match kind {
            ServerKind::Relay => {
                let mut command = Command::new(std::env::current_exe()?);
                let pattern = clap::ValueEnum::to_possible_value(&pattern).expect("no pattern is skipped");
                command.args(["--relay", pattern.get_name()]);
                Self::listening(command, Some(folder), "listening on ")
            }
            ServerKind::Postrider => {
                let command = postrider(&programs.postrider, durability, folder.path());
                Self::listening(command, Some(folder), "mqtt listening on ")
            }
            peer => Self::peer(programs, peer, folder, keeps_files),
        }
    }

    /// Starts postrider on a store that outlives it.
    pub(crate) fn on_store(program: &Path, durability: Durability, store: &Path) -> Result<Self> {
        Self::listening(postrider(program, durability, store), None, "mqtt listening on ")
    }

    /// Ends it in order.
    pub(crate) fn terminate(mut self) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        ensure!(self.child.wait()?.success(), "it did not end in order");
        Ok(())
    }

    /// Starts a server that says on stdout where it listens.
    fn listening(mut command: Command, folder: Option<TempDir>, before: &str) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{command:?} does not start"))?;
        let stdout = child.stdout.take().context("stdout was piped")?;
        let mut stdout = BufReader::new(stdout);
        let mut said = Vec::new();
        let addr = stdout.by_ref().lines().map_while(Result::ok).find_map(|line| {
            let addr = line.split_once(before).and_then(|(_, addr)| addr.trim().parse().ok());
            said.push(line);
            addr
        });
        let Some(addr) = addr else {
            let status = child.wait()?;
            bail!("{command:?} ended with {status} before it listened");
        };
        Ok(Self { child, addr, said, _folder: folder, _stdout: Some(stdout) })
    }

    fn peer(programs: &Programs, kind: ServerKind, folder: TempDir, keeps_files: bool) -> Result<Self> {
        // Not all can choose a port: one is taken that was free a moment ago.
        let addr = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?.local_addr()?;
        let mut command = programs.peers.command(kind, addr, folder.path(), keeps_files)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().with_context(|| format!("{command:?} does not start"))?;
        let begin = Instant::now();
        while TcpStream::connect(addr).is_err() {
            if let Some(status) = child.try_wait()? {
                bail!("{command:?} ended with {status} before it listened");
            }
            if begin.elapsed() > START_MAX {
                let _ = child.kill();
                let _ = child.wait();
                bail!("{command:?} does not listen on {addr} after {START_MAX:?}");
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(Self { child, addr, said: Vec::new(), _folder: Some(folder), _stdout: None })
    }

    /// CPU time that all threads of the process used so far, in nanoseconds: the sum that utime + stime of
    /// /proc/PID/stat tells in steps of ten milliseconds.
    pub(crate) fn cpu_ns(&self) -> Result<u64> {
        let mut sum = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            sum += schedstat_ns(&thread?.path())?;
        }
        Ok(sum)
    }

    /// The same for each thread that is there, by name.
    pub(crate) fn cpu_ns_by_thread(&self) -> Result<BTreeMap<String, u64>> {
        let mut threads = BTreeMap::new();
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let thread = thread?.path();
            // It may end meanwhile.
            let read = |file: &str| fs::read_to_string(thread.join(file)).unwrap_or_default();
            let ns = read("schedstat").split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok());
            *threads.entry(read("comm").trim().to_owned()).or_default() += ns.unwrap_or(0);
        }
        Ok(threads)
    }

    /// Memory of the process that is in RAM and its own (anonymous), bytes.
    pub(crate) fn rss_bytes(&self) -> Result<u64> {
        let file = format!("/proc/{}/status", self.child.id());
        let text = fs::read_to_string(&file)?;
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        Ok(kib.with_context(|| format!("{file} has no RssAnon"))? * 1024)
    }
}

/// CPU time that the calling thread used so far, in nanoseconds.
pub(crate) fn thread_cpu_ns() -> Result<u64> {
    schedstat_ns(Path::new("/proc/thread-self"))
}

fn schedstat_ns(task: &Path) -> Result<u64> {
    let file = task.join("schedstat");
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let ns = text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok());
    ns.with_context(|| format!("{} says {text:?}", file.display()))
}

fn postrider(program: &Path, durability: Durability, store: &Path) -> Command {
    let mut command = Command::new(program);
    let durability = if durability == Durability::Power { "power" } else { "process" };
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(store)
        .env("POSTRIDER_LOG__FILTER", "error")
        .env("POSTRIDER_HTTP__ENABLED", "false")
        .env("POSTRIDER_STORE__DURABILITY", durability);
    command
}

/// Takes as many open files as this process may have; the servers inherit it.
pub(crate) fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If not, the row that needs more says so.
    let _ = setrlimit(Resource::Nofile, limit);
}
