//! `postrider serve` and `postrider config`: starting, stopping, and saying what is wrong.

use std::io::Read;
use std::net::TcpListener;
use std::process::{Child, ExitStatus, Stdio};

use protocol::ProtocolVersion::{V5, V311};
use protocol::{QoS, ReasonCode};

use crate::broker_process::{Broker, Build, Lines, postrider, wait_for_exit};
use crate::raw_client::{RawClient, connect_packet, message};

/// Runs the binary to its end and returns exit status, stdout and stderr.
fn run(args: &[&str]) -> (ExitStatus, String, String) {
    let child = postrider(Build::Test)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    finish(child)
}

fn finish(mut child: Child) -> (ExitStatus, String, String) {
    let status = wait_for_exit(&mut child);
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().expect("piped").read_to_string(&mut out).expect("text");
    child.stderr.take().expect("piped").read_to_string(&mut err).expect("text");
    (status, out, err)
}

fn serve_args<'a>(listen: &'a str, data_dir: &'a str) -> [&'a str; 7] {
    ["serve", "--listen", listen, "--http", "127.0.0.1:0", "--data-dir", data_dir]
}

#[test]
fn a_port_that_is_taken_is_told_with_its_address() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (status, _, err) = run(&serve_args(&address, &dir.path().display().to_string()));
    assert_eq!(status.code(), Some(1), "{err}");
    assert!(err.contains(&address), "the address must be told: {err}");
    assert!(!err.contains("panicked"), "{err}");
}

#[test]
fn a_data_directory_in_use_is_told_with_the_process_that_uses_it() {
    let broker = Broker::start();
    let data_dir = broker.data_dir().display().to_string();
    let (status, _, err) = run(&serve_args("127.0.0.1:0", &data_dir));
    assert_eq!(status.code(), Some(1), "{err}");
    assert!(err.contains(&data_dir), "the directory must be told: {err}");
    assert!(err.contains(&broker.pid().to_string()), "the process that holds it must be told: {err}");
    // The one that runs is not disturbed.
    broker.client("still-served", V5).publish_accepted("a", "x");
}

#[test]
fn a_data_directory_that_is_a_file_is_told() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("file").display().to_string();
    std::fs::write(&file, "x").expect("a file");
    let (status, _, err) = run(&serve_args("127.0.0.1:0", &file));
    assert_eq!(status.code(), Some(1), "{err}");
    assert!(err.contains(&file) && !err.contains("panicked"), "{err}");
}

#[test]
fn sigterm_says_goodbye_to_clients_and_keeps_what_was_accepted() {
    let mut broker = Broker::start();
    let (mut durable, _) = broker.durable("durable", V5);
    durable.subscribe("a", QoS::AtLeastOnce);
    durable.disconnect();
    let mut new = broker.client("new", V5);
    let mut old = broker.client("old", V311);
    new.publish_accepted("a", "before the end");
    let status = broker.terminate();
    assert_eq!(status.code(), Some(0));
    // docs/protocol.md, refusals: DISCONNECT 0x8B at shutdown.
    new.expect_disconnect(ReasonCode::ServerShuttingDown);
    old.expect_closed();
    broker.restart();
    let (mut durable, present) = broker.durable("durable", V5);
    assert!(present);
    durable.expect_message("a", "before the end");
}

#[test]
fn an_unknown_key_is_refused_with_the_file_and_the_key() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("wrong.toml").display().to_string();
    std::fs::write(&file, "[mqtt]\nlissten = \"127.0.0.1:0\"\n[store]\nsegment_bytes = 1\n").expect("a file");
    let data_dir = dir.path().join("store").display().to_string();
    for args in [
        &["config", "check", &file][..],
        &["config", "print", "--config", &file],
        &["serve", "--config", &file, "--data-dir", &data_dir],
    ] {
        let (status, _, err) = run(args);
        assert_eq!(status.code(), Some(2), "{args:?}: {err}");
        for needed in ["wrong.toml", "lissten", "listen", "segment_bytes"] {
            assert!(err.contains(needed), "{args:?} must say {needed:?}: {err}");
        }
    }
    assert!(!std::path::Path::new(&data_dir).exists(), "a wrong configuration touches no store");
}

#[test]
fn every_shipped_broker_configuration_is_valid_and_what_is_printed_is_too() {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/postrider.toml");
    let (status, _, err) = run(&["config", "check", shipped]);
    assert!(status.success(), "{err}");
    let (status, printed, err) = run(&["config", "print"]);
    assert!(status.success(), "{err}");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("printed.toml");
    std::fs::write(&file, printed).expect("a file");
    let (status, _, err) = run(&["config", "check", &file.display().to_string()]);
    assert!(status.success(), "{err}");
}

#[test]
fn the_environment_sets_what_flags_and_file_do_not() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut child = postrider(Build::Test)
        .args(["serve", "--http", "127.0.0.1:0"])
        .env("POSTRIDER_MQTT__LISTEN", "127.0.0.1:0")
        .env("POSTRIDER_MQTT__PACKET_BYTES_MAX", "12345")
        .env("POSTRIDER_STORE__DATA_DIR", dir.path().join("store"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let lines = Lines::of(child.stdout.take().expect("piped"));
    let address = lines.wait_for("postrider: mqtt listening on ");
    let ack = address.map(|address| {
        let address: std::net::SocketAddr = address.trim().parse().expect("an address");
        RawClient::connect_with(address, connect_packet("curious", V5)).1
    });
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    let ack = ack.expect("it listens on the address from the environment");
    assert_eq!(ack.properties.packet_bytes_max.map(u32::from), Some(12_345));
    assert!(dir.path().join("store").exists());
}

#[test]
fn a_wrong_value_in_the_environment_is_told_with_its_variable() {
    let child = postrider(Build::Test)
        .args(["config", "print"])
        .env("POSTRIDER_MQTT__RECEIVE_MAXIMUM", "many")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let (status, _, err) = finish(child);
    assert_eq!(status.code(), Some(2), "{err}");
    assert!(err.contains("POSTRIDER_MQTT__RECEIVE_MAXIMUM") && err.contains("many"), "{err}");
}

#[test]
fn a_broker_without_configuration_serves_at_once() {
    let broker = Broker::start_with(Build::Release, None);
    for version in [V311, V5] {
        let mut client = broker.client("first", version).acknowledging();
        client.subscribe("hello", QoS::ExactlyOnce);
        client.publish(message("hello", "world", QoS::ExactlyOnce));
        client.expect_message("hello", "world");
    }
}
