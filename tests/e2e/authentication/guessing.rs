//! Guessing passwords: slowed, then banned by user name on loopback, told without the password, and lifted.

use std::time::{Duration, Instant};

use protocol::{ProtocolVersion, ReasonCode};

use super::{Files, log, try_connect};
use crate::broker_process::{Broker, Build, postrider};

const ABUSE: &str = "[abuse]\nguesses_per_minute = 3\nslow_first_ms = 100\nstrikes_max = 2\n";

/// Connects with a client id of the user's own.
fn answer(broker: &Broker, user: &str, password: &str) -> ReasonCode {
    try_connect(broker, &format!("of-{user}"), ProtocolVersion::V5, user, password).1.reason
}

#[test]
fn guessing_is_slowed_then_banned_listed_and_lifted_and_harms_no_other_user() {
    let files = Files::with_users(&[("alice", "right"), ("bob", "right")]);
    let broker = files.broker(ABUSE);
    let try_in = |user: &str, password: &str| answer(&broker, user, password);
    let started = Instant::now();
    let answers: Vec<_> = (0..6).map(|_| try_in("alice", "wrong-secret")).collect();
    assert_eq!(answers, [ReasonCode::BadUserNameOrPassword; 6]);
    // The fourth was one too many: the fifth waited 100 ms, the sixth 200 ms.
    assert!(started.elapsed() >= Duration::from_millis(290), "{:?}", started.elapsed());
    // Loopback is one address for all, so the right password does not help here until the ban is over.
    assert_eq!(try_in("alice", "right"), ReasonCode::Banned);
    assert_eq!(try_in("bob", "right"), ReasonCode::Success);

    let http = broker.http().to_string();
    let bans = |args: &[&str]| {
        let output = postrider(Build::Test).arg("bans").args(args).args(["--http", &http]).output();
        let output = output.expect("the binary runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let list = bans(&["list"]);
    assert!(list.contains("alice") && list.contains("guesses passwords") && !list.contains("bob"), "{list}");
    bans(&["lift", "user", "alice"]);
    assert_eq!(try_in("alice", "right"), ReasonCode::Success);
    let log = log(&broker);
    assert!(log.contains("guesses passwords") && !log.contains("wrong-secret"), "{log}");
}

#[test]
fn a_few_wrong_passwords_cost_nothing() {
    let files = Files::with_users(&[("alice", "right")]);
    let broker = files.broker(ABUSE);
    for _ in 0..3 {
        for _ in 0..3 {
            assert_eq!(answer(&broker, "alice", "wrong"), ReasonCode::BadUserNameOrPassword);
        }
        assert_eq!(answer(&broker, "alice", "right"), ReasonCode::Success);
    }
}
