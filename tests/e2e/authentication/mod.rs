//! Who comes in, seen from outside: the real binary, its `passwd` command, its files and its log.

mod enhanced;
mod guessing;
mod hook;
mod passwords;
mod reload;
mod tokens;
mod waiting;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use protocol::{Bytes, ConnAck, Connect, ProtocolVersion, ReasonCode};
use tempfile::TempDir;

use crate::broker_process::{Broker, Build, postrider};
use crate::raw_client::{PATIENCE, RawClient, connect_packet};

/// A folder with the files that a broker reads, before the broker is there and after it is gone.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    /// A folder with a users file, made by the command.
    fn with_users(users: &[(&str, &str)]) -> Self {
        let files = Self::new();
        for (name, password) in users {
            files.set_password(name, password);
        }
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("a file");
        path
    }

    fn set_password(&self, user: &str, password: &str) {
        let output = self.passwd(&[user, "--stdin"], password);
        assert!(output.status.success(), "{output:?}");
    }

    /// Runs `postrider passwd` on the users file of this folder.
    fn passwd(&self, args: &[&str], stdin: &str) -> Output {
        let mut command = postrider(Build::Test);
        command.arg("passwd").arg(self.path("users.toml")).args(args);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        // A command that refuses its arguments reads nothing.
        let _ = child.stdin.take().expect("piped").write_all(stdin.as_bytes());
        child.wait_with_output().expect("it ends")
    }

    /// Starts a broker whose users file is this folder's, with more settings behind `[auth]`.
    fn broker(&self, more: &str) -> Broker {
        Broker::start_configured(&format!("[auth]\nusers_file = {:?}\n{more}", self.path("users.toml")))
    }
}

fn named(client_id: &str, version: ProtocolVersion, user: &str, password: &str) -> Connect {
    let password = Some(Bytes::copy_from_slice(password.as_bytes()));
    Connect { username: Some(user.into()), password, ..connect_packet(client_id, version) }
}

/// Connects with a user name and password; the CONNACK may be a refusal.
fn try_connect(
    broker: &Broker,
    client_id: &str,
    version: ProtocolVersion,
    user: &str,
    password: &str,
) -> (RawClient, ConnAck) {
    RawClient::connect_with(broker.address(), named(client_id, version, user, password))
}

#[track_caller]
fn connected(broker: &Broker, client_id: &str, user: &str, password: &str) -> RawClient {
    let (client, ack) = try_connect(broker, client_id, ProtocolVersion::V5, user, password);
    assert_eq!(ack.reason, ReasonCode::Success, "{ack:?}");
    client
}

fn log(broker: &Broker) -> String {
    fs::read_to_string(broker.dir().join("stderr")).expect("the log")
}

/// Waits until the log says so.
#[track_caller]
fn wait_for_log(broker: &Broker, text: &str) {
    wait_until(&format!("the log says {text:?}"), || log(broker).contains(text));
}

/// Waits for an effect, with an end.
#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited for nothing: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
