//! The HTTP hook, with a service that is a real HTTP server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use protocol::ProtocolVersion::V5;
use protocol::{QoS, ReasonCode};
use serde_json::{Value, json};

use super::{Files, connected, try_connect};
use crate::broker_process::Broker;
use crate::raw_client::{BOTH, PATIENCE, message};

/// Answers each question by a rule and tells it to the test.
pub(super) fn service(judge: impl Fn(&Value) -> Value + Send + 'static) -> (SocketAddr, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (tell, told) = channel();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let Some(question) = read_question(&stream) else { continue };
            let body = judge(&question).to_string();
            let head =
                format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            // The broker may have given up.
            let _ = (&stream).write_all(format!("{head}{body}").as_bytes());
            if tell.send(question).is_err() {
                return;
            }
        }
    });
    (address, told)
}

fn read_question(stream: &TcpStream) -> Option<Value> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let head = head.to_lowercase();
    let length = head.split("content-length: ").nth(1)?.split("\r\n").next()?.parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    serde_json::from_slice(&body).ok()
}

fn broker(url: &str, more: &str) -> Broker {
    Broker::start_configured(&format!("[auth_http]\nurl = {url:?}\n{more}"))
}

#[test]
fn a_service_says_who_comes_in_and_with_which_rights() {
    let (address, told) = service(|question| match question["password"].as_str() {
        Some("good") => json!({
            "result": "allow", "user": "carol",
            "acl": [{"allow": false, "filter": "secret/#"}, {"allow": true, "filter": "#"}],
        }),
        Some("bad") => json!({"result": "deny"}),
        _ => json!({"result": "ignore"}),
    });
    let broker = broker(&format!("http://{address}/auth"), "");
    let mut client = connected(&broker, "c1", "c", "good");
    let question = told.recv_timeout(PATIENCE).expect("the service was asked");
    assert_eq!((&question["clientid"], &question["username"]), (&json!("c1"), &json!("c")));
    let ack = client.publish(message("secret/a", "x", QoS::AtLeastOnce)).expect("a PUBACK");
    assert_eq!(ack.reason, ReasonCode::NotAuthorized);
    client.publish_accepted("public/a", "x");
    for version in BOTH {
        for password in ["bad", "unknown"] {
            let (_, ack) = try_connect(&broker, "c2", version, "c", password);
            assert_eq!(ack.reason, ReasonCode::BadUserNameOrPassword);
        }
    }
}

#[test]
fn a_service_that_is_gone_refuses_or_leaves_the_next_one_to_say() {
    let gone = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
    let url = format!("http://{gone}/");
    let refusing = broker(&url, "");
    let (_, ack) = try_connect(&refusing, "c", V5, "alice", "one");
    assert_eq!(ack.reason, ReasonCode::ServerUnavailable);
    let files = Files::with_users(&[("alice", "one")]);
    let order = "order = [\"http\", \"users\"]\n";
    let next = files.broker(&format!("{order}[auth_http]\nurl = {url:?}\non_failure = \"next\"\n"));
    connected(&next, "c", "alice", "one");
    let (_, ack) = try_connect(&next, "c", V5, "alice", "two");
    assert_eq!(ack.reason, ReasonCode::BadUserNameOrPassword);
}
