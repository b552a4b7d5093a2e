//! Sinks against the real programs: an SMTP server (aiosmtpd), Prometheus Alertmanager and mosquitto. A program that is not installed is said to be skipped; scripts/test
//! installs them.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    AnySink,
    alertmanager::Alertmanager,
    email::{Email, SmtpTls},
    mqtt::Mqtt,
};
use crate::{
    config::{SecretUrl, SinkKind, SinkRule},
    notice::tests::entry,
    outbox::{Attempt, Verdict},
};

/// Nothing here takes long; a test that hangs must fail.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program that ends with its test.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that is free now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts a program; `None` if it is not installed.
fn start(program: &Path, args: &[&str]) -> Option<Peer> {
    match Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
        Ok(child) => Some(Peer(child)),
        Err(error) => {
            println!("skipped: {}: {error}; scripts/test installs it", program.display());
            None
        }
    }
}

fn python() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/clients/.venv/bin/python")
}

/// Tries until the peer takes the message, as the outbox would; it needs a while to start.
async fn deliver(sink: &mut AnySink, payload: &str) {
    let begin = Instant::now();
    loop {
        match sink.attempt(&entry(payload)).await {
            Verdict::Delivered => return,
            Verdict::Again { why, .. } => assert!(begin.elapsed() < PATIENCE, "{why}"),
            Verdict::Never { why } => panic!("{why}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn an_smtp_server_takes_an_alert_once_however_often_its_letter_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let (listen, mailbox) = (format!("127.0.0.1:{port}"), dir.path().join("mail").display().to_string());
    let args = ["-m", "aiosmtpd", "-n", "-l", &listen, "-c", "aiosmtpd.handlers.Mailbox", &mailbox];
    let Some(_server) = start(&python(), &args) else { return };
    let email = Email {
        host: "127.0.0.1".into(),
        port: Some(port),
        tls: SmtpTls::None,
        ca_file: None,
        username: None,
        password: None,
        from: "Postrider <alerts@fleet.example>".into(),
        to: vec!["ops@fleet.example".into(), "boss@fleet.example".into()],
    };
    let mut sink = AnySink::new(&SinkRule::new("mail", SinkKind::Email(email))).unwrap();
    deliver(&mut sink, r#"{"device":"truck-7","text":"truck-7 left: Länsiväylä","alert":"al-1"}"#).await;
    deliver(&mut sink, r#"{"device":"truck-7","text":"over","alert":"al-1","phase":"ended"}"#).await;
    let letters: Vec<_> = std::fs::read_dir(dir.path().join("mail/new"))
        .unwrap()
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    assert_eq!(letters.len(), 2);
    assert!(letters.iter().all(|letter| letter.contains("<thread-al-1@fleet.example>")), "{letters:?}");
    assert!(letters.iter().any(|letter| letter.contains("L=C3=A4nsiv=C3=A4yl=C3=A4")), "{letters:?}");
}

#[tokio::test]
async fn alertmanager_shows_an_alert_until_its_end_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("alertmanager.yml");
    std::fs::write(&config, "route: { receiver: none }\nreceivers: [{ name: none }]\n").unwrap();
    let port = free_port();
    let args = [
        format!("--config.file={}", config.display()),
        format!("--storage.path={}", dir.path().join("data").display()),
        format!("--web.listen-address=127.0.0.1:{port}"),
        "--cluster.listen-address=".to_owned(),
    ];
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let Some(_server) = start(Path::new("prometheus-alertmanager"), &args) else { return };
    let url = format!("http://127.0.0.1:{port}");
    let settings = Alertmanager { url: SecretUrl(url.parse().unwrap()) };
    let mut sink = AnySink::new(&SinkRule::new("am", SinkKind::Alertmanager(settings))).unwrap();
    let active = async || -> Vec<Value> {
        let answer = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let answer = answer.get(format!("{url}/api/v2/alerts?active=true")).send().await.unwrap();
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    };
    let alert = r#"{"device":"truck-7","title":"off route","text":"truck-7 left","alert":"al-1","rule":"off-route","severity":"critical""#;
    deliver(&mut sink, &format!("{alert},\"phase\":\"raised\"}}")).await;
    deliver(&mut sink, &format!("{alert},\"phase\":\"raised\"}}")).await;
    let shown = active().await;
    assert_eq!(shown.len(), 1, "a repeat is the same alert: {shown:?}");
    assert_eq!(
        (&shown[0]["labels"]["alertname"], &shown[0]["labels"]["device"]),
        (&"off-route".into(), &"truck-7".into())
    );
    assert_eq!(shown[0]["annotations"]["description"], "truck-7 left");
    deliver(&mut sink, &format!("{alert},\"phase\":\"ended\"}}")).await;
    let begin = Instant::now();
    while !active().await.is_empty() {
        assert!(begin.elapsed() < PATIENCE, "it is still shown");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn mosquitto_has_an_alert_that_was_delivered_even_after_it_was_away() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let config = dir.path().join("mosquitto.conf");
    std::fs::write(&config, format!("listener {port} 127.0.0.1\nallow_anonymous true\n")).unwrap();
    let file = config.display().to_string();
    let program = Path::new("/usr/sbin/mosquitto");
    let settings = Mqtt {
        address: format!("127.0.0.1:{port}"),
        client_id: "bridge".into(),
        topic: "fleet/{device}/{kind}".into(),
        retain: true,
        tls: false,
        ca_file: None,
        username: None,
        password: None,
    };
    let mut sink = AnySink::new(&SinkRule::new("other", SinkKind::Mqtt(settings))).unwrap();
    // It is not there yet: the message waits for it.
    let alert = entry(r#"{"device":"truck-7","text":"truck-7 left"}"#);
    let attempt = tokio::spawn(async move { (sink.attempt(&alert).await, sink) });
    let Some(_server) = start(program, &["-c", &file]) else { return };
    let (verdict, _sink) = tokio::time::timeout(PATIENCE, attempt).await.expect("in time").unwrap();
    assert_eq!(verdict, Verdict::Delivered);
    let port = port.to_string();
    let args = ["-h", "127.0.0.1", "-p", &port, "-t", "fleet/#", "-v", "-C", "1", "-W", "10"];
    let heard = Command::new("mosquitto_sub").args(args).output().unwrap();
    let heard = String::from_utf8(heard.stdout).unwrap();
    assert!(
        heard.starts_with("fleet/truck-7/route_deviation {") && heard.contains("truck-7 left"),
        "{heard}"
    );
}
