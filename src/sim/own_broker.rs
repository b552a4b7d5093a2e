//! A broker process of a run's own: this binary's `serve` on loopback, which may be killed and started again on its store.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use firmware_sim::real::BrokerProcess;

/// How long it may take to listen, its store read.
const START_MAX: Duration = Duration::from_secs(60);
/// How it says where it listens.
const LISTENS: &str = "postrider: mqtt listening on ";

/// The process; it ends with this.
#[derive(Debug)]
pub(super) struct OwnBroker {
    dir: PathBuf,
    child: Option<Child>,
}

impl OwnBroker {
    /// Starts one whose store and log are in `dir`; returns where it listens, too.
    pub(super) fn start_in(dir: &Path) -> io::Result<(OwnBroker, SocketAddr)> {
        let mut broker = OwnBroker { dir: dir.to_owned(), child: None };
        let address = broker.start()?;
        Ok((broker, address))
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            tracing::warn!(%error, "the broker of the run could not be ended");
        }
    }
}

impl BrokerProcess for OwnBroker {
    fn kill(&mut self) -> io::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill()?;
        child.wait().map(drop)
    }

    fn start(&mut self) -> io::Result<SocketAddr> {
        std::fs::create_dir_all(&self.dir)?;
        let log = File::options().create(true).append(true).open(self.dir.join("broker.log"))?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir"])
            .arg(self.dir.join("store"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let said = child.stdout.take().map(BufReader::new);
        self.child = Some(child);
        let (told, listens) = mpsc::sync_channel(1);
        // Reads to the end, so that the broker never waits for a reader.
        thread::spawn(move || {
            for line in said.into_iter().flat_map(BufRead::lines).map_while(Result::ok) {
                if let Some(address) = line.strip_prefix(LISTENS) {
                    // Nobody waits any more when that took too long.
                    let _ = told.try_send(address.trim().parse());
                }
            }
        });
        let why = || {
            format!("the broker did not say where it listens; see {}", self.dir.join("broker.log").display())
        };
        let address = listens.recv_timeout(START_MAX).map_err(|_| io::Error::other(why()))?;
        address.map_err(io::Error::other)
    }
}
