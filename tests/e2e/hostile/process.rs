//! What the system says of the broker's process, and what its metrics say.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crate::raw_client::PATIENCE;

/// A process of this machine.
pub(super) struct Process(PathBuf);

impl Process {
    pub(super) fn of(pid: u32) -> Self {
        Self(PathBuf::from(format!("/proc/{pid}")))
    }

    /// Open sockets.
    pub(super) fn sockets(&self) -> usize {
        let open = fs::read_dir(self.0.join("fd")).expect("the broker runs");
        // One that is closed meanwhile cannot be read, and is no socket any more.
        let is_socket =
            |path: PathBuf| fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
        open.filter_map(Result::ok).filter(|entry| is_socket(entry.path())).count()
    }

    /// Waits until no more sockets are open than these: the last ends are on their way.
    pub(super) fn wait_for_sockets(&self, expected: usize) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let open = self.sockets();
            if open <= expected {
                return;
            }
            assert!(Instant::now() < deadline, "{open} sockets are open, {expected} were before");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Memory in use.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most memory that was ever in use.
    pub(super) fn memory_peak_bytes(&self) -> u64 {
        self.status("VmHWM:")
    }

    fn status(&self, name: &str) -> u64 {
        let status = fs::read_to_string(self.0.join("status")).expect("the broker runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the system tells it");
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of kB");
        kilobytes * 1024
    }
}

/// Reads one number of `/metrics`.
pub(super) fn metric(http: SocketAddr, name: &str) -> u64 {
    let mut stream = TcpStream::connect(http).expect("HTTP is served");
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .expect("it is read");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("text");
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in\n{text}"));
    line.rsplit_once(' ').expect("name and value").1.parse().expect("a number")
}
