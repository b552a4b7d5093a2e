//! Clients that others wrote, against the release binary: mosquitto's, paho-mqtt, MQTT.js and rumqttc.
//!
//! The checks are in `tests/clients/`; `scripts/test` installs what they need.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::broker_process::{Broker, Build, postrider};

mod certificates;

use certificates::Certificates;

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

fn node(script: &str) -> Command {
    assert!(folder().join("node_modules/mqtt").exists(), "MQTT.js is missing: scripts/test installs it");
    let mut command = program("node");
    command.arg(script);
    command
}

fn mqtt_js() -> Command {
    node("mqttjs_check.mjs")
}

/// MQTT.js in Debian's Chromium; `CHROMIUM` names another one.
fn chromium() -> Command {
    let browser = std::env::var_os("CHROMIUM").map_or("/usr/bin/chromium".into(), PathBuf::from);
    assert!(browser.exists(), "{} is missing: scripts/test installs it", browser.display());
    let mut command = node("chromium_check.mjs");
    command.env("CHROMIUM", browser);
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
fn check(mut client: Command, broker: &Broker, checks_min: usize) {
    let log = broker.dir().join("checks");
    let out = std::fs::File::create(&log).expect("a file for the verdicts");
    let mut child = client
        .stdin(Stdio::null())
        .stderr(out.try_clone().expect("the same file"))
        .stdout(out)
        .spawn()
        .unwrap_or_else(|e| panic!("{client:?} does not start: {e}"));
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
    assert!(status.is_some_and(|s| s.success()), "{client:?} ended with {status:?}:\n{verdicts}");
    let good = verdicts.lines().filter(|line| line.starts_with("ok ")).count();
    let bad = verdicts.lines().filter(|line| line.starts_with("FAIL ")).count();
    assert_eq!(bad, 0, "{verdicts}");
    assert!(good >= checks_min, "only {good} checks ran, {checks_min} are known:\n{verdicts}");
}

/// A way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Tcp,
    /// With a user and a password.
    Password,
    Tls,
    /// With a client certificate, whose common name is the user.
    ClientCertificate,
    Ws,
    Wss,
    /// WebSocket on the port of HTTP.
    Http,
    Unix,
}

const USER: &str = "ann";
const PASSWORD: &str = "correct horse";

/// Runs a client's checks against a broker of its own, by one way in.
fn by(way: Way, mut client: Command, checks_min: usize) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let certificates = Certificates::make(dir.path());
    let broker = Broker::start_with(Build::Release, Some(&config(way, dir.path(), &certificates)));
    let url = url(way, &broker);
    let option = |client: &mut Command, name: &str, file: &Path| {
        client.arg(name).arg(file);
    };
    client.arg(url);
    if matches!(way, Way::Tls | Way::ClientCertificate | Way::Wss) {
        option(&mut client, "--ca", &certificates.ca);
    }
    match way {
        Way::ClientCertificate => {
            option(&mut client, "--cert", &certificates.device);
            option(&mut client, "--key", &certificates.device_key);
            client.args(["--identity", certificates::DEVICE]);
        }
        Way::Password => {
            client.args(["--user", USER, "--password", PASSWORD, "--identity", USER]);
        }
        _ => {}
    }
    check(client, &broker, checks_min);
}

fn url(way: Way, broker: &Broker) -> String {
    match way {
        Way::Tcp | Way::Password => format!("mqtt://{}", broker.address()),
        Way::Tls | Way::ClientCertificate => format!("mqtts://{}", broker.listener("more")),
        Way::Ws => format!("ws://{}/mqtt", broker.listener("more")),
        Way::Wss => format!("wss://{}/mqtt", broker.listener("more")),
        Way::Http => format!("ws://{}/mqtt", broker.http()),
        Way::Unix => format!("unix://{}", broker.listener("more")),
    }
}

fn config(way: Way, dir: &Path, certificates: &Certificates) -> String {
    let Certificates { ca, server, server_key, .. } = certificates;
    let tls = format!("certificate = {server:?}\nkey = {server_key:?}");
    let more = match way {
        Way::Tcp | Way::Http => return String::new(),
        Way::Password => {
            let users = dir.join("users.toml");
            let done = postrider(Build::Release)
                .arg("passwd")
                .arg(&users)
                .args([USER, "--password", PASSWORD])
                .output()
                .expect("postrider passwd runs");
            assert!(done.status.success(), "{done:?}");
            return format!("[auth]\nusers_file = {users:?}\n");
        }
        Way::Tls => format!("transport = \"tls\"\n{tls}"),
        Way::ClientCertificate => {
            format!(
                "transport = \"tls\"\n{tls}\nclient_certificate = \"required\"\nclient_ca = {ca:?}\nanonymous = false"
            )
        }
        Way::Ws => "transport = \"ws\"".to_owned(),
        Way::Unix => "transport = \"unix\"".to_owned(),
        Way::Wss => format!("transport = \"wss\"\n{tls}"),
    };
    let listen = if way == Way::Unix { dir.join("mqtt").display().to_string() } else { "127.0.0.1:0".into() };
    format!("[[listener]]\nname = \"more\"\nlisten = {listen:?}\n{more}\n")
}

// [MQTT-7.0.0-2] (3.1.1): clients that know nothing of postrider need nothing of it.
#[test]
fn mosquittos_clients_work() {
    by(Way::Tcp, mosquitto(), 23);
}

#[test]
fn mosquittos_clients_work_with_passwords() {
    by(Way::Password, mosquitto(), 28);
}

#[test]
fn mosquittos_clients_work_over_tls() {
    by(Way::Tls, mosquitto(), 29);
}

#[test]
fn mosquittos_clients_work_with_certificates() {
    by(Way::ClientCertificate, mosquitto(), 32);
}

#[test]
fn mosquittos_clients_work_over_unix_sockets() {
    by(Way::Unix, mosquitto(), 23);
}

#[test]
fn paho_for_python_works() {
    by(Way::Tcp, paho(), 23);
}

#[test]
fn paho_for_python_works_with_passwords() {
    by(Way::Password, paho(), 26);
}

#[test]
fn paho_for_python_works_over_tls() {
    by(Way::Tls, paho(), 26);
}

#[test]
fn paho_for_python_works_with_certificates() {
    by(Way::ClientCertificate, paho(), 28);
}

#[test]
fn paho_for_python_works_over_websocket() {
    by(Way::Ws, paho(), 23);
}

#[test]
fn paho_for_python_works_over_secure_websocket() {
    by(Way::Wss, paho(), 26);
}

#[test]
fn paho_1_for_python_works() {
    by(Way::Tcp, paho_1(), 23);
}

#[test]
fn paho_1_for_python_works_with_certificates() {
    by(Way::ClientCertificate, paho_1(), 28);
}

#[test]
fn paho_1_for_python_works_over_secure_websocket() {
    by(Way::Wss, paho_1(), 26);
}

#[test]
fn mqtt_js_works_in_node() {
    by(Way::Tcp, mqtt_js(), 23);
}

#[test]
fn mqtt_js_works_with_passwords_and_scram() {
    by(Way::Password, mqtt_js(), 28);
}

#[test]
fn mqtt_js_works_over_tls() {
    by(Way::Tls, mqtt_js(), 26);
}

#[test]
fn mqtt_js_works_with_certificates() {
    by(Way::ClientCertificate, mqtt_js(), 28);
}

#[test]
fn mqtt_js_works_over_websocket() {
    by(Way::Ws, mqtt_js(), 23);
}

#[test]
fn mqtt_js_works_over_secure_websocket() {
    by(Way::Wss, mqtt_js(), 24);
}

#[test]
fn mqtt_js_works_over_the_port_of_http() {
    by(Way::Http, mqtt_js(), 23);
}

#[test]
fn mqtt_js_works_in_a_browser() {
    by(Way::Ws, chromium(), 23);
}

#[test]
fn mqtt_js_works_in_a_browser_over_secure_websocket() {
    by(Way::Wss, chromium(), 23);
}

#[test]
fn rumqttc_works_over_tcp() {
    by(Way::Tcp, rumqttc(), 24);
}

#[test]
fn rumqttc_works_with_passwords() {
    by(Way::Password, rumqttc(), 29);
}

#[test]
fn rumqttc_works_over_tls() {
    by(Way::Tls, rumqttc(), 26);
}

#[test]
fn rumqttc_works_with_certificates() {
    by(Way::ClientCertificate, rumqttc(), 29);
}

#[test]
fn rumqttc_works_over_websocket() {
    by(Way::Ws, rumqttc(), 24);
}

#[test]
fn rumqttc_works_over_secure_websocket() {
    by(Way::Wss, rumqttc(), 26);
}

/// The device SDK is behind both commands.
#[test]
fn our_own_pub_and_sub_come_in_by_every_url() {
    for way in [Way::Tcp, Way::Tls, Way::ClientCertificate, Way::Ws, Way::Wss, Way::Http] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let certificates = Certificates::make(dir.path());
        let broker = Broker::start_with(Build::Release, Some(&config(way, dir.path(), &certificates)));
        let run = |command: &str, rest: &[&str]| {
            let mut run = postrider(Build::Release);
            run.args([command, "-L", &url(way, &broker), "-t", "from/url", "-q", "1"]).args(rest);
            if matches!(way, Way::Tls | Way::ClientCertificate | Way::Wss) {
                run.arg("--cafile").arg(&certificates.ca);
            }
            if way == Way::ClientCertificate {
                run.arg("--cert").arg(&certificates.device).arg("--key").arg(&certificates.device_key);
            }
            let output = run.output().expect("the binary runs");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{way:?}, {command}: {said}");
            String::from_utf8(output.stdout).expect("UTF-8")
        };
        run("pub", &["-r", "-m", "here"]);
        assert_eq!(run("sub", &["-C", "1", "-W", "60"]).trim_end(), "here", "{way:?}");
    }
}
