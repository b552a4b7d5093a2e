//! Clients that others wrote, against the release binary: mosquitto's, paho-mqtt and MQTT.js.
//!
//! The checks are in `tests/clients/`; `scripts/test` installs what they need.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::broker_process::{Broker, Build};

/// A script ends by itself long before this: each of its checks waits 20 s at most, and all usually take seconds.
const SCRIPT_PATIENCE: Duration = Duration::from_secs(300);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// Runs a script against a fresh broker and checks that it made at least `checks_min` checks and all are `ok`.
fn run(program: &Path, script: &str, checks_min: usize) {
    assert!(
        program.components().count() == 1 || program.exists(),
        "{} is missing: scripts/test installs what the client tests need",
        program.display()
    );
    let broker = Broker::start_with(Build::Release, None);
    let log = broker.dir().join("checks");
    let out = std::fs::File::create(&log).expect("a file for the verdicts");
    let mut child = Command::new(program)
        .arg(folder().join(script))
        .args([broker.address().ip().to_string(), broker.address().port().to_string()])
        .current_dir(folder())
        .stdin(Stdio::null())
        .stderr(out.try_clone().expect("the same file"))
        .stdout(out)
        .spawn()
        .unwrap_or_else(|e| panic!("{} does not start: {e}", program.display()));
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
    assert!(status.is_some_and(|s| s.success()), "{script} ended with {status:?}:\n{verdicts}");
    let good = verdicts.lines().filter(|line| line.starts_with("ok ")).count();
    let bad = verdicts.lines().filter(|line| line.starts_with("FAIL ")).count();
    assert_eq!(bad, 0, "{verdicts}");
    assert!(good >= checks_min, "only {good} checks ran, {checks_min} are known:\n{verdicts}");
}

// [MQTT-7.0.0-2] (3.1.1)
#[test]
fn mosquittos_clients_work() {
    run(Path::new("bash"), "mosquitto.sh", 21);
}

#[test]
fn paho_for_python_works() {
    run(&folder().join(".venv/bin/python"), "paho_check.py", 21);
}

#[test]
fn mqtt_js_works() {
    assert!(folder().join("node_modules/mqtt").exists(), "MQTT.js is missing: scripts/test installs it");
    run(Path::new("node"), "mqttjs_check.mjs", 21);
}
