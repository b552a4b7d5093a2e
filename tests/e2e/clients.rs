//! Clients that others wrote, against the release binary: mosquitto's, paho-mqtt, MQTT.js and rumqttc.
//!
//! The checks are in `tests/clients/`; `scripts/test` installs what they need.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::broker_process::{Broker, Build};

/// A script ends by itself long before this: each of its checks waits 20 s at most, and all usually take seconds.
const SCRIPT_PATIENCE: Duration = Duration::from_secs(300);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// Makes the command that runs one client's checks.
fn program(path: impl AsRef<Path>) -> Command {
    let path = path.as_ref();
    assert!(
        path.components().count() == 1 || path.exists(),
        "{} is missing: scripts/test installs what the client tests need",
        path.display()
    );
    let mut command = Command::new(path);
    command.current_dir(folder());
    command
}

fn mosquitto() -> Command {
    let mut command = program("bash");
    command.arg("mosquitto.sh");
    command
}

fn paho() -> Command {
    let mut command = program(folder().join(".venv/bin/python"));
    command.arg("paho_check.py");
    command
}

/// The release line before the present one, which many devices stay with.
fn paho_1() -> Command {
    let mut command = paho();
    let library = folder().join(".paho-1");
    assert!(library.exists(), "paho-mqtt 1 is missing: scripts/test installs it");
    command.env("PYTHONPATH", library).args(["--callbacks", "1"]);
    command
}

fn mqtt_js() -> Command {
    assert!(folder().join("node_modules/mqtt").exists(), "MQTT.js is missing: scripts/test installs it");
    let mut command = program("node");
    command.arg("mqttjs_check.mjs");
    command
}

/// rumqttc has a workspace of its own; `scripts/test` has built it before, so that this only looks.
fn rumqttc() -> Command {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let path = BUILT.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rumqttc");
        let manifest = folder().join("rumqttc/Cargo.toml");
        let built = Command::new(env!("CARGO"))
            .args(["build", "--locked", "--quiet", "--manifest-path"])
            .arg(manifest)
            .arg("--target-dir")
            .arg(&target)
            .status()
            .expect("cargo runs");
        assert!(built.success(), "the program that checks with rumqttc does not build");
        target.join("debug/rumqttc-check")
    });
    program(path)
}

/// Runs a client's checks and makes sure that there are at least `checks_min` and all are `ok`.
fn check(client: Command, url: &str, options: &[&str], broker: &Broker, checks_min: usize) {
    let mut command = client;
    let log = broker.dir().join("checks");
    let out = std::fs::File::create(&log).expect("a file for the verdicts");
    let mut child = command
        .arg(url)
        .args(options)
        .stdin(Stdio::null())
        .stderr(out.try_clone().expect("the same file"))
        .stdout(out)
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
    let deadline = Instant::now() + SCRIPT_PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break Some(status);
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let verdicts = std::fs::read_to_string(&log).expect("the verdicts");
    println!("{verdicts}");
    assert!(status.is_some_and(|s| s.success()), "{command:?} ended with {status:?}:\n{verdicts}");
    let good = verdicts.lines().filter(|line| line.starts_with("ok ")).count();
    let bad = verdicts.lines().filter(|line| line.starts_with("FAIL ")).count();
    assert_eq!(bad, 0, "{verdicts}");
    assert!(good >= checks_min, "only {good} checks ran, {checks_min} are known:\n{verdicts}");
}

/// Runs a client's checks over plain TCP.
fn over_tcp(client: Command, checks_min: usize) {
    let broker = Broker::start_with(Build::Release, None);
    check(client, &format!("mqtt://{}", broker.address()), &[], &broker, checks_min);
}

// [MQTT-7.0.0-2] (3.1.1)
#[test]
fn mosquittos_clients_work() {
    over_tcp(mosquitto(), 23);
}

#[test]
fn paho_for_python_works() {
    over_tcp(paho(), 23);
}

#[test]
fn paho_1_for_python_works() {
    over_tcp(paho_1(), 23);
}

#[test]
fn mqtt_js_works_in_node() {
    over_tcp(mqtt_js(), 23);
}

#[test]
fn rumqttc_works_over_tcp() {
    over_tcp(rumqttc(), 23);
}
