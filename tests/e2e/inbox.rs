//! Members, their conversations and their inbox, with mosquitto's clients and a broker that is killed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use serde_json::Value;

use crate::broker_process::Broker;

/// Asks over HTTP and returns status and body.
fn http(broker: &Broker, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(broker.http()).expect("HTTP is served");
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
    .expect("the request is sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("an answer");
    let status = response[9..12].parse().expect("a status");
    (status, response.split_once("\r\n\r\n").expect("a head").1.to_owned())
}

/// Runs one of mosquitto's clients to its end and returns what it printed.
fn mosquitto(broker: &Broker, kind: &str, args: &[&str]) -> String {
    let (host, port) = (broker.address().ip().to_string(), broker.address().port().to_string());
    let output = Command::new(format!("mosquitto_{kind}"))
        .args(["-V", "mqttv5", "-h", &host, "-p", &port, "-q", "1"])
        .args(args)
        .output()
        .expect("mosquitto-clients must be installed");
    assert!(output.status.success(), "mosquitto_{kind} {args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

const PHONE: [&str; 5] = ["-i", "phone", "-c", "-x", "3600"];

fn phone(broker: &Broker, args: &[&str]) -> String {
    mosquitto(broker, "sub", &[&PHONE[..], args].concat())
}

fn inbox(broker: &Broker) -> Value {
    let (status, body) = http(broker, "GET", "/api/v1/inbox?user=anon%3Aphone");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

#[test]
fn a_member_that_was_away_gets_what_it_missed_and_sees_what_is_unread() {
    let mut broker = Broker::start();
    for topic in ["im%2Froom", "im%2Fother"] {
        let path = format!("/api/v1/conversations/{topic}/members/anon%3Aphone");
        assert_eq!(http(&broker, "PUT", &path), (204, String::new()));
    }
    // Subscribes and goes.
    phone(&broker, &["-t", "$im/mine", "-t", "$im/inbox", "-E"]);
    let say = |broker: &Broker, topic: &str, text: &str| {
        mosquitto(broker, "pub", &["-i", "alice", "-t", topic, "-m", text]);
    };
    say(&broker, "im/room", "1");
    say(&broker, "im/elsewhere", "not for members of others");
    broker.kill();
    broker.restart();
    say(&broker, "im/room", "2");
    say(&broker, "im/other", r#"{"text":"hello"}"#);
    broker.kill();
    broker.restart();
    let told = phone(&broker, &["-t", "$im/mine", "-C", "4", "-W", "60", "-v"]);
    let (lists, mut messages): (Vec<_>, Vec<_>) = told.lines().partition(|l| l.starts_with("$im/inbox "));
    messages.sort_unstable();
    assert_eq!(messages, [r#"im/other {"text":"hello"}"#, "im/room 1", "im/room 2"]);
    let list: Value = serde_json::from_str(&lists[0]["$im/inbox ".len()..]).expect("JSON");
    assert_eq!((list["unread"].as_u64(), list["next"].is_null()), (Some(3), true));
    assert_eq!(list["conversations"][0]["topic"], "im/other");

    mosquitto(
        &broker,
        "pub",
        &[&PHONE[..], &["-t", "$im/read", "-m", r#"{"topic":"im/room","seq":1}"#]].concat(),
    );
    assert_eq!(inbox(&broker)["unread"], 2);
    broker.kill();
    broker.restart();
    assert_eq!(inbox(&broker)["unread"], 2, "an acknowledged read position is kept");
    assert_eq!(http(&broker, "DELETE", "/api/v1/conversations/im%2Froom/members/anon%3Aphone").0, 204);
    broker.kill();
    broker.restart();
    let left = inbox(&broker);
    assert_eq!((left["unread"].as_u64(), left["conversations"].as_array().map(Vec::len)), (Some(1), Some(1)));
}
