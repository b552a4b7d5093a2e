//! Users and their passwords, anonymous clients, and doors that are not opened.

use std::process::{Command, Stdio};

use protocol::ProtocolVersion::{V5, V311};
use protocol::{Packet, QoS, ReasonCode};

use super::enhanced::scram;
use super::hook::service;
use super::{Files, connected, log, named, try_connect};
use crate::broker_process::{Broker, Build, postrider, wait_for_exit};
use crate::raw_client::{BOTH, RawClient, at, connect_packet, message};

#[test]
fn mosquittos_clients_come_in_with_the_password_and_are_told_why_not() {
    let files = Files::with_users(&[("alice", "correct horse")]);
    let broker = files.broker("");
    let port = broker.address().port().to_string();
    let publish = |version: &str, login: &[&str]| {
        let mut command = Command::new("mosquitto_pub");
        command.args(["-h", "127.0.0.1", "-p", &port, "-V", version, "-q", "1", "-t", "a", "-m", "x"]);
        let output = command.args(login).output().expect("mosquitto_pub runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for version in ["311", "5"] {
        let (code, err) = publish(version, &["-u", "alice", "-P", "correct horse"]);
        assert_eq!(code, Some(0), "{err}");
        for (login, expected) in [
            (&["-u", "alice", "-P", "wrong"][..], "bad user name or password"),
            (&["-u", "nobody", "-P", "correct horse"], "bad user name or password"),
            (&["-u", "alice"], "bad user name or password"),
            (&[], "not authorised"),
        ] {
            let (code, err) = publish(version, login);
            assert_ne!(code, Some(0), "{login:?}");
            let err = err.to_lowercase().replace("not authorized", "not authorised");
            assert!(err.contains(expected), "{version} {login:?}: {err}");
        }
    }
}

#[test]
fn a_refusal_has_its_reason_code_in_both_versions_and_says_no_more_than_that() {
    let files = Files::with_users(&[("alice", "one")]);
    let broker = files.broker("");
    for version in BOTH {
        let mut told = Vec::new();
        for (user, password) in [("alice", "two"), ("nobody", "one")] {
            let (mut client, ack) = try_connect(&broker, "c", version, user, password);
            // 3.1.1 has return code 4 for it, which the decoder gives back as this.
            assert_eq!(ack.reason, ReasonCode::BadUserNameOrPassword);
            told.push(ack.properties.reason_string.clone());
            client.expect_closed();
        }
        assert_eq!(told[0], told[1], "nobody learns who exists");
        let (mut client, ack) = RawClient::connect_with(broker.address(), connect_packet("c", version));
        assert_eq!(ack.reason, ReasonCode::NotAuthorized);
        client.expect_closed();
    }
}

#[test]
fn what_a_client_sends_behind_its_connect_waits_for_the_verdict() {
    let files = Files::with_users(&[("alice", "one")]);
    let broker = files.broker("");
    let mut listener = connected(&broker, "listener", "alice", "one");
    listener.subscribe("eager", QoS::AtLeastOnce);
    for version in BOTH {
        let mut bytes = bytes::BytesMut::new();
        let connect = Packet::Connect(Box::new(named("eager", version, "alice", "one")));
        let publish = Packet::Publish(message("eager", "at once", QoS::AtMostOnce));
        for packet in [&connect, &publish, &Packet::PingReq] {
            protocol::encode(packet, version, &mut bytes).expect("good packets");
        }
        let mut client = RawClient::open(broker.address(), version);
        client.send_bytes(&bytes);
        assert!(matches!(client.receive(), Packet::ConnAck(ack) if ack.reason == ReasonCode::Success));
        assert_eq!(client.receive(), Packet::PingResp);
        listener.expect_message("eager", "at once");
        // With the wrong password nothing of it is done.
        let mut bytes = bytes::BytesMut::new();
        let connect = Packet::Connect(Box::new(named("eager", version, "alice", "two")));
        for packet in [&connect, &publish] {
            protocol::encode(packet, version, &mut bytes).expect("good packets");
        }
        let mut client = RawClient::open(broker.address(), version);
        client.send_bytes(&bytes);
        let refused = |packet: &Packet| matches!(packet, Packet::ConnAck(ack) if ack.reason == ReasonCode::BadUserNameOrPassword);
        let answer = client.receive();
        assert!(refused(&answer), "{answer:?}");
        client.expect_closed();
        listener.expect_no_message();
    }
}

#[test]
fn a_session_stays_with_its_user() {
    let files = Files::with_users(&[("alice", "one"), ("bob", "two")]);
    let broker = files.broker("anonymous = \"allow\"\n");
    let mut alice = connected(&broker, "shared", "alice", "one");
    let (_, ack) = try_connect(&broker, "shared", V5, "bob", "two");
    assert_eq!(ack.reason, ReasonCode::ClientIdentifierNotValid);
    let (_, ack) = RawClient::connect_with(broker.address(), connect_packet("shared", V311));
    assert_eq!(ack.reason, ReasonCode::ClientIdentifierNotValid);
    alice.subscribe("still/here", QoS::AtLeastOnce);
    // The one who sends is named to those who receive; anonymous clients by their client id.
    alice.subscribe_with("from", at(QoS::AtLeastOnce));
    RawClient::connect(broker.address(), "nameless", V5).publish_accepted("from", "x");
    let publish = alice.expect_message("from", "x");
    let from = crate::raw_client::property(&publish.properties.user_properties, "im-from");
    assert_eq!(from, Some("anon:nameless"));
}

#[test]
fn passwords_and_tokens_reach_no_log() {
    let (password, wrong) = ("hunter2-right", "hunter2-wrong");
    let files = Files::with_users(&[("alice", password)]);
    let secret = files.write("secret", "a secret of at least 32 bytes, so!");
    let bearer = files.write("bearer", "hunter2-for-the-service");
    let (service, told) = service(|_| serde_json::json!({"result": "ignore"}));
    let broker = files.broker(&format!(
        "[auth_jwt]\nsecret_file = {secret:?}\n[auth_http]\nurl = \"http://{service}/?key=hunter2\"\n\
         bearer_token_file = {bearer:?}\n[log]\nfilter = \"trace\"\n"
    ));
    let token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJodW50ZXIyIn0.AAAA";
    scram(&broker, "good", "alice", password).disconnect();
    for version in BOTH {
        connected(&broker, "good", "alice", password).disconnect();
        for (user, password) in [("alice", wrong), ("nobody", wrong), ("alice", token)] {
            let (_, ack) = try_connect(&broker, "bad", version, user, password);
            assert_ne!(ack.reason, ReasonCode::Success);
        }
        // Bytes that end too early are a malformed packet, which the log tells of.
        let mut bytes = bytes::BytesMut::new();
        let connect = Packet::Connect(Box::new(named("cut", version, "alice", password)));
        protocol::encode(&connect, version, &mut bytes).expect("a good packet");
        bytes[1] -= 3;
        let mut client = RawClient::open(broker.address(), version);
        client.send_bytes_to_closing(&bytes);
        client.bytes_until_closed();
    }
    assert!(told.try_recv().is_ok(), "the service was asked, with the password");
    let log = log(&broker);
    assert!(log.contains("TRACE") && log.contains("client not let in"), "the log is at trace level");
    for secret in ["hunter2", token, "AAAA"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[test]
fn a_door_that_nobody_watches_is_not_opened() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data_dir = dir.path().join("store").display().to_string();
    for (listen, http, key) in [
        ("0.0.0.0:0", "127.0.0.1:0", "mqtt.listen"),
        ("[::]:0", "127.0.0.1:0", "mqtt.listen"),
        ("127.0.0.1:0", "0.0.0.0:0", "http.listen"),
    ] {
        let mut child = postrider(Build::Test)
            .args(["serve", "--listen", listen, "--http", http, "--data-dir", &data_dir])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let status = wait_for_exit(&mut child);
        let err = std::io::read_to_string(child.stderr.take().expect("piped")).expect("text");
        assert_eq!(status.code(), Some(2), "{err}");
        for needed in [key, "postrider passwd", "users_file = ", "POSTRIDER_AUTH__ANONYMOUS=allow"] {
            assert!(err.contains(needed), "{needed}: {err}");
        }
    }
    assert!(!dir.path().join("store").exists(), "nothing was touched");
}

#[test]
fn users_are_listed_changed_and_removed_by_the_command() {
    let files = Files::with_users(&[("alice", "one")]);
    let out = |args: &[&str]| String::from_utf8(files.passwd(args, "two\n").stdout).expect("text");
    assert_eq!(
        out(&["bob", "--stdin", "--group", "ops", "--group", "night"]),
        format!("{}: made bob\n", files.path("users.toml").display())
    );
    assert_eq!(out(&["--list"]), "alice\nbob (groups ops, night)\n");
    out(&["bob", "--disable"]);
    assert_eq!(out(&["--list"]), "alice\nbob (groups ops, night; disabled)\n");
    out(&["alice", "--delete"]);
    assert_eq!(out(&["--list"]), "bob (groups ops, night; disabled)\n");
    for (args, expected) in [
        (&["alice", "--delete"][..], "there is no user \"alice\""),
        (&["anon:x", "--stdin"], "names that start with anon:"),
        (&["", "--stdin"], "the name is empty"),
        (&["carol"], "say --stdin"),
        (&[], "required"),
    ] {
        let output = files.passwd(args, "two\n");
        let err = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(2), "{args:?}: {err}");
        assert!(err.contains(expected), "{args:?}: {err}");
    }
    let empty = files.passwd(&["carol", "--stdin"], "\n");
    assert_eq!(empty.status.code(), Some(2));
}

#[test]
fn what_is_wrong_with_a_file_is_told_before_anything_starts() {
    let files = Files::new();
    let users = files.write("users.toml", "[users]\n\nalice = { pasword = \"x\" }\n");
    let config = files.write("postrider.toml", &format!("[auth]\nusers_file = {users:?}\n"));
    let config = config.display().to_string();
    let data_dir = files.path("store").display().to_string();
    for args in [
        &["config", "check", &config][..],
        &[
            "serve",
            "--config",
            &config,
            "--listen",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
            "--data-dir",
            &data_dir,
        ],
    ] {
        let output =
            postrider(Build::Test).args(args).stdin(Stdio::null()).output().expect("the binary runs");
        let err = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(2), "{args:?}: {err}");
        assert!(err.contains("users.toml:3: ") && err.contains("pasword"), "{args:?}: {err}");
    }
    assert!(!files.path("store").exists());
}

#[test]
fn a_broker_without_users_takes_everyone_of_this_machine() {
    let broker = Broker::start();
    for version in BOTH {
        let (_, ack) = try_connect(&broker, "named", version, "whoever", "whatever");
        assert_eq!(ack.reason, ReasonCode::Success);
    }
}
