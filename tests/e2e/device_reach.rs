//! How the device library finds the broker's process: down the ladder, through proxies, and to where the broker sends it.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use device_sdk::{Client, Event, Events, Ladder, Message, Options, QoS, ReasonCode, TlsOptions};
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use rustls::{AlertDescription, ClientConfig, ClientConnection};

use crate::broker_process::Broker;
use crate::raw_client::PATIENCE;
use crate::transport::{connect_tcp, make_certificate, trusting};

#[allow(clippy::unwrap_used, reason = "a test may panic")]
#[path = "../../device-sdk/tests/sdk/proxies.rs"]
mod proxies;

/// A broker with MQTT over TLS and over secure WebSocket, each on a port of its own, under the certificate in a directory.
fn secure_broker(dir: &Path, more: &str) -> Broker {
    let listener = |transport: &str| {
        format!(
            "[[listener]]\nname = \"{transport}\"\ntransport = \"{transport}\"\nlisten = \"127.0.0.1:0\"\n\
             certificate = \"{0}/server.crt\"\nkey = \"{0}/server.key\"\n",
            dir.display()
        )
    };
    Broker::start_configured(&format!("{more}\n{}{}", listener("tls"), listener("wss")))
}

fn port(listener: &str) -> u16 {
    listener.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("HOST:PORT")
}

/// A port on which nobody listens.
fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

fn options(dir: &Path, address: String) -> Options {
    let tls = TlsOptions { ca_file: Some(dir.join("server.crt")), ..TlsOptions::default() };
    Options { tls: Some(tls), ..Options::new(address, "truck-7") }
}

/// Waits until the client is connected; returns the way by which it is, and what came before.
async fn connected(client: &Client, events: &mut Events) -> (String, Vec<Event>) {
    let mut before = Vec::new();
    loop {
        match events.next().await.expect("the client runs") {
            Event::Connected { .. } => break,
            event => before.push(event),
        }
    }
    (client.endpoint().expect("it is connected").to_string(), before)
}

/// A message to the broker and back.
async fn speaks(client: &Client, events: &mut Events) {
    let codes = client.subscribe(&[("echo", QoS::AtLeastOnce)]).await.expect("it may");
    assert_eq!(codes, [ReasonCode::GrantedQoS1]);
    client.publish(Message::new("echo", "hello").qos(QoS::AtLeastOnce)).await.expect("it may");
    match events.next().await {
        Some(Event::Message(message)) => assert_eq!(&*message.payload, b"hello"),
        event => panic!("{event:?}"),
    }
}

fn within_patience(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("it ends in time") });
}

/// The protocol that the broker chooses of those offered.
fn chosen(
    config: &ClientConfig,
    address: &str,
    offered: &[&str],
) -> Result<Option<String>, AlertDescription> {
    let mut config = config.clone();
    config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
    let mut stream = connect_tcp(address.parse().expect("HOST:PORT"));
    let name = ServerName::try_from("localhost").expect("a valid name");
    let mut connection =
        ClientConnection::new(Arc::new(config), name).expect("a configuration that is right");
    while connection.is_handshaking() {
        if let Err(error) = connection.complete_io(&mut stream) {
            match error.get_ref().and_then(|error| error.downcast_ref()) {
                Some(rustls::Error::AlertReceived(alert)) => return Err(*alert),
                _ => panic!("{error}"),
            }
        }
    }
    Ok(connection.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()))
}

#[test]
fn the_broker_says_which_protocol_its_tls_is_for() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    make_certificate(dir.path());
    let broker = secure_broker(dir.path(), "");
    let config = trusting(dir.path(), &TLS13);
    let some = |name: &str| Ok(Some(name.to_owned()));
    let refused = Err(AlertDescription::NoApplicationProtocol);
    for (listener, offered, expected) in [
        ("tls", &["mqtt"][..], some("mqtt")),
        ("tls", &["h2", "mqtt"], some("mqtt")),
        // Port 443 serves something else there.
        ("tls", &["h2", "http/1.1"], refused.clone()),
        ("tls", &[], Ok(None)),
        ("wss", &["http/1.1"], some("http/1.1")),
        ("wss", &["mqtt"], refused),
    ] {
        let got = chosen(&config, broker.listener(listener), offered);
        assert_eq!(got, expected, "{listener} {offered:?}");
    }
}

#[test]
fn a_device_climbs_down_from_mqtts_over_alpn_to_secure_web_socket() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    make_certificate(dir.path());
    let broker = secure_broker(dir.path(), "");
    let (tls, wss) = (port(broker.listener("tls")), port(broker.listener("wss")));
    within_patience(async {
        for (tls_port, alpn_port, expected) in [
            (tls, closed_port(), format!("mqtts://localhost:{tls}")),
            (closed_port(), tls, format!("mqtts://localhost:{tls}?alpn=mqtt")),
            (closed_port(), closed_port(), format!("wss://localhost:{wss}/mqtt")),
            // What answers on the step's port is no MQTT: its TLS says so.
            (closed_port(), wss, format!("wss://localhost:{wss}/mqtt")),
        ] {
            let mut options = options(dir.path(), "mqtts://localhost".to_owned());
            options.reach.ladder =
                Ladder { tls_port, alpn_port, secure_web_socket_port: wss, ..Ladder::default() };
            let (client, mut events) = Client::spawn(options).expect("good options");
            let (way, before) = connected(&client, &mut events).await;
            assert_eq!(way, expected);
            assert!(before.is_empty(), "one attempt is enough: {before:?}");
            speaks(&client, &mut events).await;
            client.disconnect().await.expect("it runs");
        }
    });
}

#[test]
fn tls_reaches_the_broker_through_http_connect_and_socks5_proxies() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    make_certificate(dir.path());
    let broker = secure_broker(dir.path(), "");
    within_patience(async {
        for listener in ["tls", "wss"] {
            let (leads_to, port) = (broker.listener(listener).to_owned(), port(broker.listener(listener)));
            let (http, http_asked) = proxies::http(leads_to.clone()).await;
            let (open, open_asked) = proxies::socks(leads_to.clone(), false).await;
            let (closed, closed_asked) = proxies::socks(leads_to, true).await;
            for (proxy, asked) in [
                (format!("http://truck:open%20sesame@{http}"), http_asked),
                (format!("socks5h://{open}"), open_asked),
                (format!("socks5://truck:open%20sesame@{closed}"), closed_asked),
            ] {
                let url = match listener {
                    "tls" => format!("mqtts://localhost:{port}"),
                    _ => format!("wss://localhost:{port}/mqtt"),
                };
                let mut options = options(dir.path(), url.clone());
                options.reach.proxy = Some(proxy.parse().expect("a proxy"));
                let (client, mut events) = Client::spawn(options).expect("good options");
                assert_eq!(connected(&client, &mut events).await.0, url, "{proxy}");
                speaks(&client, &mut events).await;
                client.disconnect().await.expect("it runs");
                // It has not looked the name up itself, and has come no other way.
                assert_eq!(asked.all(), [format!("localhost:{port}")], "{proxy}");
            }
        }
    });
}

#[test]
fn a_broker_that_moves_sends_its_devices_to_the_other_one() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    make_certificate(dir.path());
    let new = secure_broker(dir.path(), "");
    let moved_to = format!("localhost:{}", port(new.listener("tls")));
    let old = secure_broker(dir.path(), &format!("[mqtt]\nserver_reference = \"{moved_to}\""));
    within_patience(async {
        let options = options(dir.path(), format!("mqtts://localhost:{}", port(old.listener("tls"))));
        let (client, mut events) = Client::spawn(options).expect("good options");
        let (way, before) = connected(&client, &mut events).await;
        assert_eq!(way, format!("mqtts://{moved_to}"), "TLS stays TLS");
        match &before[..] {
            [Event::Refused { reason: ReasonCode::UseAnotherServer, retry_in_ms: 0, .. }] => {}
            _ => panic!("one refusal, and no pause: {before:?}"),
        }
        speaks(&client, &mut events).await;
        client.disconnect().await.expect("it runs");
    });
}
