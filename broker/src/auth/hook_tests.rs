//! The hook against a real HTTP server: small, of threads, on a free port.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use serde_json::Value;

use super::*;
use crate::auth::secret::Secret;

const PATIENCE: Duration = Duration::from_secs(60);

/// A service: tells each question and answers what the test says.
struct Service {
    address: SocketAddr,
    questions: Receiver<(String, Value)>,
    answers: Sender<(u16, String)>,
}

impl Service {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (ask, questions) = channel();
        let (answers, answer) = channel::<(u16, String)>();
        thread::spawn(move || {
            // One connection at a time, each for one question.
            while let Ok((stream, _)) = listener.accept() {
                let Some(question) = read(&stream) else { continue };
                if ask.send(question).is_err() {
                    return;
                }
                let Ok((status, body)) = answer.recv() else { return };
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nlocation: /x\r\nconnection: close\r\n\r\n{body}"
                );
                // A client that gave up is gone.
                let _ = (&stream).write_all(answer.as_bytes());
            }
        });
        Self { address, questions, answers }
    }

    fn answer(&self, status: u16, body: &str) {
        self.answers.send((status, body.to_owned())).unwrap();
    }

    fn hook(&self, change: impl FnOnce(&mut AuthHttp)) -> Hook {
        let url = format!("http://{}/auth", self.address);
        let mut settings = AuthHttp { url, timeout_ms: 30_000, ..AuthHttp::default() };
        change(&mut settings);
        Hook::new(&settings, &Arc::new(ProcessKey::from_secret(b"test"))).unwrap()
    }

    fn was_asked(&self) -> bool {
        self.questions.try_recv().is_ok()
    }
}

/// Reads one request: its headers and its JSON.
fn read(stream: &TcpStream) -> Option<(String, Value)> {
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
    Some((head, serde_json::from_slice(&body).ok()?))
}

fn claim(username: Option<&str>, password: &[u8]) -> Claim {
    Claim {
        client_id: "truck-1".into(),
        username: username.map(ByteString::from),
        password: Some(Secret::from(password)),
        certificate: None,
        certificate_is_user: true,
        version: ProtocolVersion::V5,
        address: "127.0.0.1:4711".to_owned(),
        listener: "mqtt".to_owned(),
        anonymous_allowed: false,
    }
}

fn ask(hook: &Hook, claim: &Claim) -> Answer {
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    executor.block_on(hook.check(claim))
}

#[track_caller]
fn allowed(answer: Answer) -> Grant {
    match answer {
        Answer::Allow(grant) => *grant,
        other => panic!("expected a grant, got {other:?}"),
    }
}

#[track_caller]
fn denied(answer: Answer, reason: ReasonCode) {
    assert!(matches!(&answer, Answer::Deny(denial) if denial.reason == reason), "{reason:?}: {answer:?}");
}

#[test]
fn the_service_is_told_everything_and_says_who_it_is() {
    let service = Service::start();
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "for-the-service\n").unwrap();
    let hook = service.hook(|settings| settings.bearer_token_file = token.path().to_owned());
    service.answer(
        200,
        r##"{"result":"allow","user":"alice","groups":["drivers"],"acl":[{"allow":true,"filter":"a/#"}],
            "limits":{"queue_messages_max":3,"on_full":"reject"}}"##,
    );
    let grant = allowed(ask(&hook, &claim(Some("al"), b"secret")));
    assert_eq!(grant.principal.user.as_deref(), Some("alice"));
    assert_eq!(&grant.principal.groups[..], [ByteString::from_static("drivers")]);
    assert_eq!(grant.principal.rules[0].filter, "a/#");
    assert_eq!(grant.principal.limits.queue_messages_max, Some(3));
    let (head, question) = service.questions.recv_timeout(PATIENCE).unwrap();
    assert!(head.starts_with("post /auth http/1.1\r\n"), "{head}");
    assert!(head.contains("authorization: bearer for-the-service\r\n"), "{head}");
    assert!(head.contains("content-type: application/json\r\n"), "{head}");
    let expected = serde_json::json!({
        "clientid": "truck-1", "username": "al", "password": "secret", "peer": "127.0.0.1:4711",
        "listener": "mqtt", "protocol": "5.0",
    });
    assert_eq!(question, expected);
}

#[test]
fn what_the_service_says_is_done_and_remembered_for_its_time() {
    let service = Service::start();
    let hook = service.hook(|settings| (settings.allow_cache_s, settings.deny_cache_s) = (3_600, 3_600));
    for (body, claim) in [
        (r#"{"result":"allow"}"#, claim(Some("alice"), b"1")),
        (r#"{"result":"deny"}"#, claim(Some("alice"), b"2")),
        (r#"{"result":"ignore"}"#, claim(Some("alice"), b"\xff")),
    ] {
        service.answer(200, body);
        let first = ask(&hook, &claim);
        assert!(service.was_asked());
        // Another port of the same client is the same question.
        let again = Claim { address: "127.0.0.1:4712".to_owned(), ..claim };
        let second = ask(&hook, &again);
        assert!(!service.was_asked(), "{body} is remembered");
        assert_eq!(format!("{first:?}"), format!("{second:?}"));
    }
    service.answer(200, r#"{"result":"deny"}"#);
    let other = Claim { client_id: "truck-2".into(), ..claim(Some("alice"), b"1") };
    denied(ask(&hook, &other), ReasonCode::BadUserNameOrPassword);
    assert!(service.was_asked(), "another client is another question");
    service.answer(200, r#"{"result":"deny"}"#);
    let nothing = Claim { username: None, password: None, ..claim(None, b"") };
    denied(ask(&hook, &nothing), ReasonCode::NotAuthorized);
    let (_, question) = service.questions.recv_timeout(PATIENCE).unwrap();
    assert_eq!((&question["username"], question.get("password")), (&Value::Null, None));
}

#[test]
fn a_password_that_is_no_text_is_sent_in_base64() {
    let service = Service::start();
    let hook = service.hook(|_| {});
    service.answer(200, r#"{"result":"allow"}"#);
    let with_certificate = Claim {
        certificate: Some("cn".into()),
        certificate_is_user: false,
        ..claim(Some("alice"), b"\xff\x00")
    };
    allowed(ask(&hook, &with_certificate));
    let (_, question) = service.questions.recv_timeout(PATIENCE).unwrap();
    assert_eq!(question["certificate"], "cn");
    assert_eq!((question.get("password"), &question["password64"]), (None, &Value::from("/wA=")));
}

#[test]
fn an_answer_that_is_none_is_a_failure() {
    let service = Service::start();
    let hook = service.hook(|settings| settings.failures_max = 1_000);
    for (status, body) in [
        (200, ""),
        (200, "{}"),
        (200, r#"{"result":"maybe"}"#),
        (200, r#"{"result":"allow","user":"anon:x"}"#),
        (200, r#"{"result":"allow","acl":[{"allow":true,"filter":"a/#/b"}]}"#),
        (200, r#"{"result":"allow","limits":{"queue":1}}"#),
        (302, r#"{"result":"allow"}"#),
        (401, r#"{"result":"allow"}"#),
        (500, r#"{"result":"allow"}"#),
    ] {
        service.answer(status, body);
        denied(ask(&hook, &claim(Some("alice"), b"x")), ReasonCode::ServerUnavailable);
        assert!(service.was_asked(), "failures are not remembered: {body}");
    }
    let long = format!(r#"{{"result":"allow","x":"{}"}}"#, "a".repeat(ANSWER_BYTES_MAX));
    service.answer(200, &long);
    denied(ask(&hook, &claim(Some("alice"), b"x")), ReasonCode::ServerUnavailable);
    let next = service.hook(|settings| settings.on_failure = OnFailure::Next);
    service.answer(500, "");
    assert!(matches!(ask(&next, &claim(Some("alice"), b"x")), Answer::Ignore));
}

#[test]
fn a_service_that_fails_is_left_alone() {
    let service = Service::start();
    let hook = service.hook(|settings| (settings.failures_max, settings.rest_s) = (2, 3_600));
    for _ in 0..2 {
        service.answer(500, "");
        denied(ask(&hook, &claim(Some("alice"), b"x")), ReasonCode::ServerUnavailable);
        assert!(service.was_asked());
    }
    denied(ask(&hook, &claim(Some("alice"), b"x")), ReasonCode::ServerUnavailable);
    assert!(!service.was_asked());
}

#[test]
fn a_service_that_does_not_answer_in_time_is_not_waited_for() {
    let service = Service::start();
    let hook = service.hook(|settings| settings.timeout_ms = 50);
    // It reads the question and says nothing: the test gives no answer.
    denied(ask(&hook, &claim(Some("alice"), b"x")), ReasonCode::ServerUnavailable);
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = AuthHttp { url: format!("http://{gone}/"), ..AuthHttp::default() };
    let hook = Hook::new(&settings, &Arc::new(ProcessKey::from_secret(b"test"))).unwrap();
    denied(ask(&hook, &claim(Some("alice"), b"x")), ReasonCode::ServerUnavailable);
}

#[test]
fn an_address_that_is_none_of_http_is_refused() {
    for (url, expected) in [
        ("example.com", "is no URL"),
        ("ftp://example.com/", "is not of HTTP"),
        ("http://user:secret@example.com/", "has a secret in it"),
    ] {
        let error = check_url(url).unwrap_err();
        assert!(error.contains(expected) && !error.contains("user:secret"), "{error}");
    }
    assert!(check_url("https://example.com:8443/auth?x=1").is_ok());
}
