//! Bans as an operator meets them: in the log, in `postrider bans`, and let in again.

use std::process::Output;

use protocol::{ProtocolVersion, ReasonCode};

use crate::broker_process::{Broker, Build, postrider};
use crate::raw_client::{RawClient, connect_packet};

const CONFIG: &str = r#"
[abuse]
loopback = "clients"
flapping_per_minute = 3
slow_first_ms = 1
strikes_max = 1
ban_s = 3600
"#;

fn bans(broker: &Broker, args: &[&str]) -> Output {
    let http = broker.http().to_string();
    postrider(Build::Test).arg("bans").args(args).args(["--http", &http]).output().expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn connect(broker: &Broker, client_id: &str) -> ReasonCode {
    RawClient::connect_with(broker.address(), connect_packet(client_id, ProtocolVersion::V5)).1.reason
}

#[test]
fn a_ban_is_in_the_log_listed_and_lifted() {
    let broker = Broker::start_configured(CONFIG);
    assert_eq!(stdout(&bans(&broker, &["list"])), "nobody is banned\n");
    let flappy = "flappy; rm -rf";
    let answers: Vec<_> = (0..6).map(|_| connect(&broker, flappy)).collect();
    assert_eq!(answers[..4], [ReasonCode::Success; 4]);
    assert_eq!(answers[4..], [ReasonCode::Banned; 2]);

    let log = std::fs::read_to_string(broker.dir().join("stderr")).expect("the log");
    let line = log.lines().find(|line| line.contains("banned")).expect("the ban is in the log");
    for part in ["WARN", flappy, "connects again and again", "ban_s=3600", "postrider bans lift client"] {
        assert!(line.contains(part), "{part} is missing: {line}");
    }
    let list = stdout(&bans(&broker, &["list"]));
    let row = list.lines().nth(1).expect("a head and a row");
    assert!(row.starts_with("client  flappy; rm -rf  connects again and again"), "{list}");
    let json: serde_json::Value =
        serde_json::from_str(&stdout(&bans(&broker, &["list", "--json"]))).expect("JSON");
    assert_eq!(
        (json["bans"][0]["key"].as_str(), json["bans"][0]["refused"].as_u64()),
        (Some(flappy), Some(1))
    );

    assert_eq!(
        stdout(&bans(&broker, &["lift", "client", flappy])),
        format!("client {flappy} is let in again\n")
    );
    assert_eq!(connect(&broker, flappy), ReasonCode::Success);
    let again = bans(&broker, &["lift", "client", flappy]);
    assert_eq!(again.status.code(), Some(1));
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(said.contains("is not banned"), "{said}");
}

#[test]
fn a_ban_outlives_the_broker_and_a_lifted_one_does_not() {
    let mut broker = Broker::start_configured(CONFIG);
    for client in ["one", "two"] {
        let answers: Vec<_> = (0..5).map(|_| connect(&broker, client)).collect();
        assert_eq!(answers[4], ReasonCode::Banned);
    }
    stdout(&bans(&broker, &["lift", "client", "two"]));
    assert!(broker.terminate().success());
    broker.restart();
    assert_eq!(connect(&broker, "one"), ReasonCode::Banned);
    assert_eq!(connect(&broker, "two"), ReasonCode::Success);
    let list = stdout(&bans(&broker, &["list"]));
    assert_eq!(list.lines().count(), 2, "{list}");
    assert!(list.contains("client  one") && list.contains("connects again and again"), "{list}");
    stdout(&bans(&broker, &["lift", "client", "one"]));
    broker.crash_and_restart();
    assert_eq!(connect(&broker, "one"), ReasonCode::Success);
}

#[test]
fn where_no_broker_is_the_command_says_so() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let http = free.local_addr().expect("an address").to_string();
    drop(free);
    let output =
        postrider(Build::Test).args(["bans", "list", "--http", &http]).output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&format!("cannot reach a broker's HTTP port at {http}")), "{said}");
}
