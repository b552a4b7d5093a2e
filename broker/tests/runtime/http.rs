//! HTTP beside MQTT.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};

use broker::{Broker, config::HostPort};

use crate::harness::{TestBroker, config};

fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    request(addr, "GET", path, "")
}

/// Asks with more header lines and returns status and body.
pub(crate) fn request(addr: SocketAddr, method: &str, path: &str, headers: &str) -> (u16, String) {
    request_as(addr, "localhost", method, path, headers)
}

/// Asks by another host name.
pub(crate) fn request_as(
    addr: SocketAddr,
    host: &str,
    method: &str,
    path: &str,
    headers: &str,
) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Connection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let status = response[9..12].parse().unwrap();
    (status, response.split_once("\r\n\r\n").unwrap().1.to_owned())
}

/// Reads one number of `/metrics`.
pub(crate) fn metric(addr: SocketAddr, name: &str) -> u64 {
    let (_, text) = get(addr, "/metrics");
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).rsplit_once(' ').unwrap().1.parse().unwrap()
}

fn with_http() -> TestBroker {
    TestBroker::start_with(|config| {
        config.http.enabled = true;
        config.http.listen = HostPort::new("127.0.0.1", 0);
    })
}

#[test]
fn health_readiness_and_numbers_are_served() {
    let broker = with_http();
    let addr = broker.running().http_addr().unwrap();
    assert_eq!(get(addr, "/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(get(addr, "/readyz"), (200, "ready\n".to_owned()));
    assert_eq!(get(addr, "/nothing").0, 404);
    let _client = broker.connected("one");
    assert_eq!(metric(addr, "postrider_connections"), 1);
    assert_eq!(metric(addr, "postrider_packets_received_total"), 1);
}

#[test]
fn every_number_has_help_and_type_and_no_label_of_a_client() {
    let broker = with_http();
    let _client = broker.connected("secret-name");
    let (_, text) = get(broker.running().http_addr().unwrap(), "/metrics");
    assert!(!text.contains("secret-name"));
    let (mut help, mut kind) = (None, None);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split(' ').next();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            kind = rest.split(' ').next();
        } else {
            let name = line.split([' ', '{']).next();
            assert!(name == help && name == kind, "{line}");
        }
    }
}

#[test]
fn a_default_address_that_is_taken_is_given_up_and_a_configured_one_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = HostPort::new("127.0.0.1", taken.local_addr().unwrap().port());
    let broker = TestBroker::start_with(|config| {
        config.http.enabled = true;
        config.http.listen = address.clone();
    });
    assert_eq!(broker.running().http_addr(), None);
    broker.connected("one").ping();

    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.http.enabled = true;
    config.http.listen = address.clone();
    config.http_is_optional = false;
    let error = Broker::start(config).unwrap_err().to_string();
    let expected =
        format!("{address} is in use by another process; stop it or choose another with --http HOST:PORT");
    assert_eq!(error, expected);
}
