//! The gateway binary in a vehicle: a GPS receiver and a lock on pseudo terminals, a dispatcher at a broker, and `kill -9`.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use protocol::{Packet, ProtocolVersion, QoS};
use serde_json::{Value, json};
use serialport::{SerialPort as _, TTYPort};

use super::built::built;
use crate::broker_process::Broker;
use crate::raw_client::{PATIENCE, RawClient};

/// The gateway's binary.
pub(super) fn gateway() -> PathBuf {
    built("postrider-gateway").join("postrider-gateway")
}

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    u64::try_from(now.as_millis()).expect("it is before the year 500 million")
}

fn sentence(body: &str) -> String {
    let sum = body.bytes().fold(0, |sum, byte| sum ^ byte);
    format!("${body}*{sum:02X}\r\n")
}

/// What hangs on the lines of the vehicle; ends with the test.
pub(super) struct Vehicle {
    pub(super) gps: String,
    pub(super) lock: String,
    drives: Arc<AtomicBool>,
    moves: Arc<AtomicU32>,
    is_over: Arc<AtomicBool>,
}

impl Drop for Vehicle {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// The two ends of a line: the device's, and the path of the other.
fn line() -> (TTYPort, String) {
    let (mut device, other) = TTYPort::pair().expect("a pseudo terminal");
    device.set_timeout(Duration::from_millis(50)).expect("it has a timeout");
    let path = other.name().expect("a pseudo terminal has a name");
    (device, path)
}

impl Vehicle {
    pub(super) fn new() -> Self {
        Self::with_a_fix_every(200)
    }

    /// One whose receiver says where it is every so many milliseconds, of which 1,000 is a multiple.
    pub(super) fn with_a_fix_every(interval_ms: u64) -> Self {
        let ((receiver, gps), (device, lock)) = (line(), line());
        let (drives, moves, is_over) = Default::default();
        let vehicle = Self { gps, lock, drives, moves, is_over };
        let (drives, is_over) = (vehicle.drives.clone(), vehicle.is_over.clone());
        thread::spawn(move || speak(receiver, interval_ms, &drives, &is_over));
        let (moves, is_over) = (vehicle.moves.clone(), vehicle.is_over.clone());
        thread::spawn(move || obey(device, &moves, &is_over));
        vehicle
    }
}

/// A receiver in the middle of the yard, with the true time.
fn speak(mut line: TTYPort, interval_ms: u64, drives: &AtomicBool, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        let ms = unix_ms() / interval_ms * interval_ms;
        let (day, of_day) = (ms / 86_400_000, ms % 86_400_000);
        let (year, month, date) = civil(day);
        let (h, m, s) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1_000 % 60);
        let time = format!("{h:02}{m:02}{s:02}.{:02}", of_day % 1_000 / 10);
        let knots = if drives.load(Ordering::Relaxed) { "8.0" } else { "0.0" };
        let rmc = format!(
            "GPRMC,{time},A,6010.2480,N,02456.2500,E,{knots},84.4,{date:02}{month:02}{:02},,,A",
            year % 100
        );
        let gga = format!("GPGGA,{time},6010.2480,N,02456.2500,E,1,09,0.8,23.5,M,17.0,M,,");
        // Nobody may have the line open: then it is full some day.
        let _ = line.write_all((sentence(&rmc) + &sentence(&gga)).as_bytes());
        let until = Instant::now() + Duration::from_millis(interval_ms);
        // What the gateway says to a receiver is read away.
        while Instant::now() < until {
            if !matches!(line.read(&mut [0; 64]), Ok(1..) | Err(_)) {
                break;
            }
            thread::yield_now();
        }
    }
}

/// The date of a day since 1970 (H. Hinnant, chrono-compatible low-level date algorithms, `civil_from_days`).
fn civil(day: u64) -> (u64, u64, u64) {
    let z = day + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let mp = (5 * of_year + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, of_year - (153 * mp + 2) / 5 + 1)
}

/// A lock that carries each number out once.
fn obey(mut line: TTYPort, moves: &AtomicU32, is_over: &AtomicBool) {
    let (mut text, mut state, mut last) = (String::new(), "LOCKED", (String::new(), String::new()));
    let mut bytes = [0; 128];
    while !is_over.load(Ordering::Relaxed) {
        // Nothing came, or nobody has the line open.
        let Ok(count) = line.read(&mut bytes) else {
            thread::yield_now();
            continue;
        };
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
        while let Some((request, rest)) = text.split_once("\r\n") {
            let (request, rest) = (request.to_owned(), rest.to_owned());
            text = rest;
            let body =
                request.strip_prefix("$PLOCK,").and_then(|body| body.split_once('*')).expect("a request").0;
            let (number, what) = body.split_once(',').expect("a number and a word");
            if last.0 != number {
                let wanted = if what == "UNLOCK" { "UNLOCKED" } else { "LOCKED" };
                if what != "STATE" && state != wanted {
                    state = wanted;
                    moves.fetch_add(1, Ordering::Relaxed);
                }
                last = (number.to_owned(), sentence(&format!("PLOCKR,{number},{state}")));
            }
            line.write_all(last.1.as_bytes()).expect("the gateway listens");
        }
    }
}

/// A gateway that ends with the test.
pub(super) struct Running(pub(super) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(config: &Path) -> Running {
    let child = Command::new(gateway()).arg(config).stdin(Stdio::null()).spawn();
    Running(child.expect("the gateway starts"))
}

/// Who waits for the vehicle in an office.
pub(super) struct Dispatcher(pub(super) RawClient);

impl Dispatcher {
    pub(super) fn next(&mut self, topic: &str) -> Value {
        let payload = self.0.receive_where(topic, |packet| match packet {
            Packet::Publish(publish) if publish.topic == topic => Some(publish.payload.clone()),
            _ => None,
        });
        serde_json::from_slice(&payload).expect("JSON")
    }

    /// Sends a command and waits for its end.
    fn command(&mut self, id: &str, name: &str) -> Value {
        let command = json!({ "id": id, "name": name, "args": {}, "expires_at": unix_ms() + 60_000 });
        self.0.publish_accepted("dev/truck-7/cmd", command.to_string());
        loop {
            let result = self.next("dev/truck-7/cmd/result");
            let is_final = !["accepted", "executing"].contains(&result["status"].as_str().expect("a status"));
            if result["id"] == id && is_final {
                return result;
            }
        }
    }

    /// Sends the command under new ids until it is done; returns the id.
    fn command_until_done(&mut self, prefix: &str, name: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        for number in 0.. {
            let id = format!("{prefix}-{number}");
            let result = self.command(&id, name);
            if result["status"] == "done" {
                return id;
            }
            assert_eq!(result["status"], "rejected", "{result}");
            assert!(Instant::now() < deadline, "{result}");
        }
        unreachable!("numbers have no end")
    }
}

#[test]
fn a_vehicle_reports_where_it_is_and_opens_once_where_it_may() {
    let broker = Broker::start();
    let vehicle = Vehicle::new();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let config = folder.path().join("gateway.toml");
    let text = format!(
        "device = \"truck-7\"\ndata_dir = \"data\"\n[broker]\naddress = \"{}\"\n[queue]\ngroup_ms = 0\n\
         [gps]\npath = {:?}\n[lock]\npath = {:?}\nfence = {{ lat = 60.1708, lon = 24.9375, radius_m = 80 }}\n\
         [lock.guard]\nstill_s = 1\nsettle_s = 1\n",
        broker.address(),
        vehicle.gps,
        vehicle.lock,
    );
    std::fs::write(&config, text).expect("it can be written");
    let mut dispatcher = RawClient::connect(broker.address(), "dispatcher", ProtocolVersion::V5);
    for filter in ["dev/truck-7/telemetry/gps", "dev/truck-7/cmd/result", "dev/truck-7/state/reported"] {
        dispatcher.subscribe(filter, QoS::AtLeastOnce);
    }
    let mut dispatcher = Dispatcher(dispatcher.acknowledging());

    let mut running = start(&config);
    let fix = dispatcher.next("dev/truck-7/telemetry/gps");
    assert_eq!(
        (&fix["lat"], &fix["lon"], &fix["sats"]),
        (&json!(60.1708), &json!(24.9375), &json!(9)),
        "{fix}"
    );

    // Just started, nobody trusts the position yet; then the lock opens.
    let opened = dispatcher.command_until_done("open", "unlock");
    while dispatcher.next("dev/truck-7/state/reported")["lock"] != "UNLOCKED" {}
    assert_eq!(vehicle.moves.load(Ordering::Relaxed), 1);

    // Power cut; the same command comes again and its answer with it, the lock does not move.
    running.0.kill().expect("it runs");
    drop(running);
    let running = start(&config);
    dispatcher.next("dev/truck-7/telemetry/gps");
    assert_eq!(dispatcher.command(&opened, "unlock")["status"], "done");
    assert_eq!(vehicle.moves.load(Ordering::Relaxed), 1, "it has opened twice");

    // Closing is allowed as soon as the time is known, opening while it drives is not.
    dispatcher.command_until_done("close", "lock");
    vehicle.drives.store(true, Ordering::Relaxed);
    let deadline = Instant::now() + PATIENCE;
    let mut number = 0;
    let refused = loop {
        let result = dispatcher.command(&format!("driving-{number}"), "unlock");
        // Until the first fix with a speed has come it may say what it said before.
        if result["reason"].as_str().is_some_and(|reason| reason.contains("km/h")) {
            break result;
        }
        assert_eq!(result["status"], "rejected", "{result}");
        assert!(Instant::now() < deadline, "{result}");
        number += 1;
    };
    assert_eq!(
        (&refused["status"], &refused["reason"]),
        (&json!("rejected"), &json!("speed is 15 km/h, must be 0"))
    );
    assert_eq!(vehicle.moves.load(Ordering::Relaxed), 2);
    drop(running);
}

#[test]
fn a_wrong_configuration_is_told_before_anything_happens() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let config = folder.path().join("gateway.toml");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/gateway.toml");
    let check = |file: &Path| Command::new(gateway()).arg("--check").arg(file).output().expect("it runs");
    let good = check(&shipped);
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    let text = std::fs::read_to_string(&shipped).expect("it is there").replace("path =", "pfad =");
    std::fs::write(&config, text).expect("it can be written");
    let bad = check(&config);
    let said = String::from_utf8_lossy(&bad.stderr);
    assert!(!bad.status.success() && said.contains("unknown field `pfad`"), "{said}");
}
