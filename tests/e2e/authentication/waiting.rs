//! Clients that wait for their verdict, or that are waited for, and never for ever.

use std::net::TcpListener;

use protocol::ProtocolVersion::V5;
use protocol::{Packet, ReasonCode};

use super::enhanced::challenged;
use super::{Files, connected, log, named, try_connect};
use crate::broker_process::Broker;
use crate::raw_client::{BOTH, RawClient};

/// A service that takes questions and never answers.
fn silent_service() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    (listener, url)
}

#[test]
fn a_client_that_leaves_its_challenge_unanswered_is_closed() {
    let files = Files::with_users(&[("alice", "one")]);
    let broker = files.broker("[mqtt]\nconnect_timeout_s = 1\n");
    let (mut client, _challenge) = challenged(&broker, "c", "alice");
    client.expect_closed();
    connected(&broker, "c", "alice", "one");
}

#[test]
fn a_verdict_that_does_not_come_in_time_is_a_refusal() {
    let (_service, url) = silent_service();
    let broker = Broker::start_configured(&format!(
        "[mqtt]\nconnect_timeout_s = 1\n[auth_http]\nurl = {url:?}\ntimeout_ms = 60000\n"
    ));
    for version in BOTH {
        let (mut client, ack) = try_connect(&broker, "c", version, "alice", "one");
        assert_eq!(ack.reason, ReasonCode::ServerUnavailable);
        client.expect_closed();
    }
}

#[test]
fn clients_that_leave_before_their_verdict_leave_nothing_behind() {
    let (_service, url) = silent_service();
    let files = Files::with_users(&[("alice", "one")]);
    let order = "order = [\"users\", \"http\"]\nwaiting_max = 4\n";
    let broker = files.broker(&format!("{order}[auth_http]\nurl = {url:?}\ntimeout_ms = 60000\n"));
    // Each is one that only the service may know; more of them come and go than may wait at once.
    for number in 0..40 {
        let mut client = RawClient::open(broker.address(), V5);
        let connect = named(&format!("c{number}"), V5, "nobody", "x");
        client.send(&Packet::Connect(Box::new(connect)));
        drop(client);
    }
    super::wait_until("there is a place to wait again", || {
        try_connect(&broker, "c", V5, "alice", "one").1.reason == ReasonCode::Success
    });
    assert!(!log(&broker).contains("ERROR"));
}
