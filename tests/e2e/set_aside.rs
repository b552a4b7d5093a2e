//! Poison messages as an operator meets them: set aside by the real process, listed, replayed and dropped by the
//! command, with a name and password, over a restart.

use std::fs;
use std::path::Path;
use std::process::Output;

use protocol::{Bytes, Connect, ProtocolVersion, QoS};

use crate::broker_process::{Broker, Build, postrider};
use crate::raw_client::{RawClient, connect_packet, durable_connect, message};

const V5: ProtocolVersion = ProtocolVersion::V5;

fn passwd(users: &Path, args: &[&str]) {
    let output =
        postrider(Build::Test).arg("passwd").arg(users).args(args).output().expect("the binary runs");
    assert!(output.status.success(), "{output:?}");
}

fn named(connect: Connect, user: &str) -> Connect {
    Connect { username: Some(user.into()), password: Some(Bytes::from_static(b"secret")), ..connect }
}

/// Asks with the command, as a user or as nobody.
fn set_aside(broker: &Broker, user: Option<&str>, password: &Path, args: &[&str]) -> Output {
    let http = broker.http().to_string();
    let mut command = postrider(Build::Test);
    command.arg("set-aside").args(args).args(["--http", &http]);
    if let Some(user) = user {
        command.args(["--user", user, "--password-file"]).arg(password);
    }
    command.output().expect("the binary runs")
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The phone connects, and its connection ends when it is sent a message.
fn die_of(broker: &Broker, payload: &str) {
    let (mut phone, _) =
        RawClient::connect_with(broker.address(), named(durable_connect("phone", V5), "phone"));
    phone.expect_message("t/phone", payload);
    phone.lose();
}

#[test]
fn what_ended_a_clients_connections_is_listed_replayed_and_dropped_by_operators_only() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (users, password) = (dir.path().join("users.toml"), dir.path().join("password"));
    fs::write(&password, "secret\n").expect("a file");
    for (user, group) in [("boss", "admin"), ("phone", "people"), ("alice", "people")] {
        passwd(&users, &[user, "--password", "secret", "--group", group]);
    }
    let mut broker =
        Broker::start_configured(&format!("[auth]\nusers_file = {users:?}\n[queue]\npoison_after = 2\n"));
    let (mut phone, _) =
        RawClient::connect_with(broker.address(), named(durable_connect("phone", V5), "phone"));
    phone.subscribe("t/phone", QoS::AtLeastOnce);
    phone.lose();
    let (mut alice, _) =
        RawClient::connect_with(broker.address(), named(connect_packet("alice", V5), "alice"));
    for payload in ["first", "second", "good"] {
        alice.publish(message("t/phone", payload, QoS::AtLeastOnce));
    }
    // Twice with all that waits, then twice with it alone.
    for payload in ["first", "second"] {
        (0..4).for_each(|_| die_of(&broker, payload));
    }

    let boss = Some("boss");
    let list = said(&set_aside(&broker, boss, &password, &["list", "phone"]));
    let rows: Vec<Vec<&str>> = list.lines().skip(1).map(|row| row.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 2, "{list}");
    assert!(rows.iter().all(|row| row[1] == "t/phone" && row[4] == "alice"), "{list}");
    let (first, second) = (rows[0][0].to_owned(), rows[1][0].to_owned());

    assert!(refused(&set_aside(&broker, None, &password, &["list", "phone"])).contains("--password-file"));
    let not_in_group = refused(&set_aside(&broker, Some("alice"), &password, &["list", "phone"]));
    assert!(not_in_group.contains("http.admin_groups"), "{not_in_group}");
    let nobody = refused(&set_aside(&broker, boss, &password, &["list", "nobody"]));
    assert!(nobody.contains("has no session"), "{nobody}");

    broker.crash_and_restart();
    assert_eq!(said(&set_aside(&broker, boss, &password, &["list", "phone"])), list, "as it was");
    said(&set_aside(&broker, boss, &password, &["drop", "phone", &second]));
    said(&set_aside(&broker, boss, &password, &["replay", "phone", &first]));
    let again = refused(&set_aside(&broker, boss, &password, &["replay", "phone", &first]));
    assert!(again.contains("is not set aside"), "{again}");
    assert_eq!(said(&set_aside(&broker, boss, &password, &["list", "phone"])), "nothing is set aside\n");

    let (phone, _) = RawClient::connect_with(broker.address(), named(durable_connect("phone", V5), "phone"));
    let mut phone = phone.acknowledging();
    phone.expect_message("t/phone", "good");
    phone.expect_message("t/phone", "first");
    phone.expect_no_message();
}
