//! `postrider pub` and `postrider sub`, beside mosquitto's own, which they resemble.

use std::io::Write;
use std::process::{Command, Stdio};

use protocol::ProtocolVersion::V5;
use protocol::QoS;

use crate::broker_process::{Broker, Build, postrider, wait_for_exit};
use crate::raw_client::{message, user_properties};

/// Both command lines, which must understand the same arguments.
fn programs(kind: &str) -> [Command; 2] {
    let mut own = postrider(Build::Test);
    own.arg(kind);
    [own, Command::new(format!("mosquitto_{kind}"))]
}

fn address(broker: &Broker) -> [String; 4] {
    ["-h".into(), broker.address().ip().to_string(), "-p".into(), broker.address().port().to_string()]
}

/// Runs a publisher to its end.
fn publish(mut command: Command, broker: &Broker, args: &[&str], stdin: &[u8]) {
    let mut child = command
        .args(address(broker))
        .args(args)
        .stdin(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the publisher starts; mosquitto-clients must be installed");
    // A publisher that takes nothing from stdin may be gone already.
    let _ = child.stdin.take().expect("piped").write_all(stdin);
    let status = wait_for_exit(&mut child);
    assert!(status.success(), "{command:?} ended with {status}");
}

#[test]
fn pub_sends_what_mosquitto_pub_sends() {
    let broker = Broker::start();
    let dir = broker.dir().join("payload");
    std::fs::write(&dir, b"from\0a file").expect("a file");
    let file = dir.display().to_string();
    let lines = b"line one\nline two\n";
    /// Flags, standard input, payloads, QoS, retain.
    type Row<'a> = (&'a [&'a str], &'a [u8], &'a [&'a [u8]], QoS, bool);
    let table: &[Row<'_>] = &[
        (&["-m", "hello"], b"", &[b"hello"], QoS::AtMostOnce, false),
        (&["-m", "hello", "-q", "1"], b"", &[b"hello"], QoS::AtLeastOnce, false),
        (&["-m", "hello", "-q", "2"], b"", &[b"hello"], QoS::ExactlyOnce, false),
        (&["-m", "hello", "-q", "1", "-V", "mqttv311"], b"", &[b"hello"], QoS::AtLeastOnce, false),
        (&["-m", "hello", "-q", "1", "-V", "mqttv5"], b"", &[b"hello"], QoS::AtLeastOnce, false),
        (&["-f", &file, "-q", "1"], b"", &[b"from\0a file"], QoS::AtLeastOnce, false),
        (&["-s", "-q", "1"], lines, &[lines], QoS::AtLeastOnce, false),
        (&["-l", "-q", "1"], lines, &[b"line one", b"line two"], QoS::AtLeastOnce, false),
        (&["-n", "-q", "1"], b"", &[b""], QoS::AtLeastOnce, false),
        (&["-m", "hello", "-r", "-q", "1"], b"", &[b"hello"], QoS::AtLeastOnce, true),
    ];
    for (args, stdin, payloads, qos, retain) in table {
        for command in programs("pub") {
            let mut subscriber = broker.client("subscriber", V5).acknowledging();
            let options = protocol::SubscribeOptions {
                qos: QoS::ExactlyOnce,
                retain_as_published: true,
                retain_handling: protocol::RetainHandling::DoNotSend,
                ..protocol::SubscribeOptions::default()
            };
            subscriber.subscribe_with("some/topic", options);
            publish(command, &broker, &[&["-t", "some/topic"], *args].concat(), stdin);
            for payload in *payloads {
                let got = subscriber.expect_message("some/topic", payload);
                assert_eq!((got.qos, got.retain), (*qos, *retain), "{args:?}");
            }
            subscriber.expect_no_message();
        }
    }
}

#[test]
fn pub_sends_user_properties_in_order() {
    let broker = Broker::start();
    let properties = ["-D", "publish", "user-property", "b", "2", "-D", "publish", "user-property", "a", "1"];
    for command in programs("pub") {
        let mut subscriber = broker.client("subscriber", V5).acknowledging();
        subscriber.subscribe("t", QoS::AtLeastOnce);
        publish(
            command,
            &broker,
            &[&["-t", "t", "-q", "1", "-m", "x", "-V", "mqttv5"], &properties[..]].concat(),
            b"",
        );
        let got = subscriber.expect_message("t", "x").properties.into_inner().user_properties;
        assert_eq!(got[..2], user_properties(&[("b", "2"), ("a", "1")])[..]);
    }
}

/// Runs a subscriber that ends after `count` messages, with a session that was there before them.
fn received(mut command: Command, broker: &Broker, args: &[&str], count: usize) -> String {
    let output = command
        .args(address(broker))
        .args(["-C", &count.to_string(), "-W", "20"])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the subscriber starts; mosquitto-clients must be installed");
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}: {err}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn sub_prints_what_mosquitto_sub_prints() {
    let broker = Broker::start();
    for (n, version) in ["mqttv311", "mqttv5"].into_iter().enumerate() {
        for (m, command) in programs("sub").into_iter().enumerate() {
            let client_id = format!("sub-{n}-{m}");
            let connect = match version {
                "mqttv5" => V5,
                _ => protocol::ProtocolVersion::V311,
            };
            let (mut session, _) = broker.durable(&client_id, connect);
            session.subscribe("room/+", QoS::ExactlyOnce);
            session.disconnect();
            let mut publisher = broker.client("publisher", V5);
            publisher.publish(message("room/1", "one", QoS::AtLeastOnce));
            publisher.publish(message("room/2", "two", QoS::ExactlyOnce));
            let args = ["-i", &client_id, "-c", "-q", "2", "-t", "room/+", "-v", "-V", version];
            let expiry = ["-x", "600"];
            let args = if connect == V5 { [&args[..], &expiry].concat() } else { args.to_vec() };
            assert_eq!(received(command, &broker, &args, 2), "room/1 one\nroom/2 two\n");
        }
    }
}

#[test]
fn sub_prints_payloads_alone_and_retained_ones_first() {
    let broker = Broker::start();
    let mut publisher = broker.client("publisher", V5);
    publisher.publish(crate::raw_client::retained("news/1", "kept", QoS::AtLeastOnce));
    for command in programs("sub") {
        assert_eq!(received(command, &broker, &["-t", "news/#", "-q", "1"], 1), "kept\n");
    }
}

#[test]
fn a_broker_that_is_not_there_is_told() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = free.local_addr().expect("an address").port().to_string();
    drop(free);
    for args in [&["pub", "-t", "a", "-m", "x"][..], &["sub", "-t", "a", "-C", "1", "-W", "5"]] {
        let output = postrider(Build::Test)
            .args(args)
            .args(["-h", "127.0.0.1", "-p", &port])
            .stdin(Stdio::null())
            .output()
            .expect("the binary starts");
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{args:?} must fail");
        assert!(err.contains(&port) && !err.contains("panicked"), "{args:?} must tell the address: {err}");
    }
}
