//! Webhooks over real HTTP on loopback, from the outbox on disk to a server: the broker is away all the time.

use std::{path::Path, time::Duration};

use tokio::net::TcpListener;

use super::*;
use crate::{
    config::{OutboxSettings, Secret, SecretUrl, SinkKind, SinkRule, Webhook},
    sinks::tests::{Stub, read_request},
    state::Change,
};

/// Nothing here takes long; a test that hangs must fail.
const PATIENCE: Duration = Duration::from_secs(30);

/// A broker's address where nobody listens.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

async fn config(dir: &Path, port: u16) -> Config {
    let mut config = Config::new(nobody().await, "bridge", dir);
    let webhook = Webhook {
        url: SecretUrl(format!("http://127.0.0.1:{port}/hook?key=s3cret").parse().unwrap()),
        headers: [("x-token".to_owned(), Secret("t".into()))].into(),
        secret: None,
        format: Default::default(),
    };
    config.sinks = vec![SinkRule::new("ops", SinkKind::Webhook(webhook))];
    config.outbox = OutboxSettings { retry_min_ms: 10, retry_max_ms: 50, ..OutboxSettings::default() };
    config
}

/// Puts messages for the webhook into the outbox on disk, as an earlier run would have left them.
fn store(dir: &Path, created_ms: u64, numbers: std::ops::Range<u64>) {
    let (mut journal, _) = Journal::open(dir, OutboxSettings::default().bytes_max).unwrap();
    let puts = numbers.map(|no| {
        Change::Put(Entry {
            no,
            target: Target::Sink("ops".into()),
            id: format!("ev-{no}"),
            kind: "arrived".into(),
            created_ms,
            payload: format!("{{\"n\":{no}}}"),
            topic: None,
            expires_at_ms: None,
        })
    });
    journal.store(&puts.collect::<Vec<_>>()).unwrap();
}

async fn next(handle: &mut Handle) -> Observed {
    tokio::time::timeout(PATIENCE, handle.observe()).await.expect("news in time").expect("the bridge runs")
}

async fn delivered(handle: &mut Handle) -> String {
    match next(handle).await {
        Observed::Delivered { entry } => entry.id,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_server_that_fails_first_gets_the_message_again_and_once_it_took_it_never_more() {
    let dir = tempfile::tempdir().unwrap();
    let server = Stub::start().await;
    store(dir.path(), unix_ms(), 0..2);
    let mut handle = Bridge::start(config(dir.path(), server.port()).await).unwrap();
    let first = server.answer("503 Service Unavailable", "").await;
    assert!(first.head.starts_with("post /hook?key=s3cret http/1.1"), "{}", first.head);
    for header in ["content-type: application/json", "idempotency-key: ev-0", "x-token: t"] {
        assert!(first.head.contains(header), "{}", first.head);
    }
    let again = server.answer("200 OK", "").await;
    assert_eq!((first.body.as_str(), again.body.as_str()), ("{\"n\":0}", "{\"n\":0}"));
    assert_eq!(delivered(&mut handle).await, "ev-0");
    // In order: the second message comes only now.
    assert_eq!(server.answer("204 No Content", "").await.body, "{\"n\":1}");
    assert_eq!(delivered(&mut handle).await, "ev-1");
    assert_eq!(handle.stop().await.unwrap().delivered, 2);
    let (_, state) = Journal::open(dir.path(), OutboxSettings::default().bytes_max).unwrap();
    assert_eq!(state.targets().count(), 0, "nothing is left to send");
}

#[tokio::test]
async fn the_pause_that_a_server_asks_for_is_obeyed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Stub::start().await;
    store(dir.path(), unix_ms(), 0..1);
    let mut handle = Bridge::start(config(dir.path(), server.port()).await).unwrap();
    let first = server.answer("429 Too Many Requests\r\nRetry-After: 1", "").await;
    let second = server.answer("200 OK", "").await;
    let pause = second.at - first.at;
    // Its own backoff would be 50 ms at most.
    assert!(pause >= Duration::from_millis(990), "{pause:?}");
    assert_eq!(delivered(&mut handle).await, "ev-0");
    handle.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_down_gets_the_message_when_it_is_up() {
    let dir = tempfile::tempdir().unwrap();
    let port = Stub::start().await.port();
    store(dir.path(), unix_ms(), 0..1);
    let mut handle = Bridge::start(config(dir.path(), port).await).unwrap();
    // The port is closed until here; the attempts so far were refused.
    let server = Stub { listener: TcpListener::bind(("127.0.0.1", port)).await.unwrap() };
    assert_eq!(server.answer("200 OK", "").await.body, "{\"n\":0}");
    assert_eq!(delivered(&mut handle).await, "ev-0");
    handle.stop().await.unwrap();
}

#[tokio::test]
async fn a_restart_goes_on_with_what_was_not_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let server = Stub::start().await;
    store(dir.path(), unix_ms(), 0..3);
    let config = config(dir.path(), server.port()).await;
    let mut handle = Bridge::start(config.clone()).unwrap();
    server.answer("200 OK", "").await;
    assert_eq!(delivered(&mut handle).await, "ev-0");
    // The answer to the second never leaves the server.
    let (mut cut, _) = server.listener.accept().await.unwrap();
    assert_eq!(read_request(&mut cut).await.body, "{\"n\":1}");
    handle.stop().await.unwrap();
    drop(cut);
    let mut handle = Bridge::start(config).unwrap();
    for no in 1..3 {
        let request = server.answer("200 OK", "").await;
        assert!(request.head.contains(&format!("idempotency-key: ev-{no}")), "{}", request.head);
        assert_eq!(delivered(&mut handle).await, format!("ev-{no}"));
    }
    handle.stop().await.unwrap();
}

#[tokio::test]
async fn an_answer_that_is_final_makes_a_dead_letter_and_the_next_message_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let server = Stub::start().await;
    store(dir.path(), unix_ms(), 0..3);
    let mut handle = Bridge::start(config(dir.path(), server.port()).await).unwrap();
    for (status, no) in [("400 Bad Request", 0), ("413 Content Too Large", 1)] {
        server.answer(status, "").await;
        let Observed::Dead { entry, why } = next(&mut handle).await else { panic!("{status} is final") };
        assert_eq!(entry.no, no);
        assert!(why.contains(&status[..3]), "{why}");
    }
    server.answer("200 OK", "").await;
    assert_eq!(delivered(&mut handle).await, "ev-2");
    let counts = handle.stop().await.unwrap();
    assert_eq!((counts.dead_letters, counts.delivered), (2, 1));
}

#[tokio::test]
async fn a_wrong_address_or_key_costs_no_message() {
    let dir = tempfile::tempdir().unwrap();
    let server = Stub::start().await;
    store(dir.path(), unix_ms(), 0..2);
    let mut handle = Bridge::start(config(dir.path(), server.port()).await).unwrap();
    for status in
        ["401 Unauthorized", "404 Not Found", "302 Found\r\nLocation: http://127.0.0.1:1/", "200 OK"]
    {
        assert_eq!(server.answer(status, "").await.body, "{\"n\":0}", "{status}");
    }
    assert_eq!(delivered(&mut handle).await, "ev-0");
    handle.stop().await.unwrap();
}

#[tokio::test]
async fn a_message_that_is_too_old_is_given_up_and_a_young_one_behind_it_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let server = Stub::start().await;
    let day_ms = 24 * 3_600_000;
    store(dir.path(), unix_ms() - 2 * day_ms, 0..1);
    store(dir.path(), unix_ms(), 1..2);
    let mut handle = Bridge::start(config(dir.path(), server.port()).await).unwrap();
    let Observed::Dead { entry, why } = next(&mut handle).await else { panic!("too old") };
    assert_eq!(entry.id, "ev-0");
    assert!(why.contains("older than 86400 s"), "{why}");
    server.answer("200 OK", "").await;
    assert_eq!(delivered(&mut handle).await, "ev-1");
    handle.stop().await.unwrap();
}

#[tokio::test]
async fn dead_letters_are_listed_sent_again_and_dropped_whether_the_bridge_runs_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let server = Stub::start().await;
    store(dir.path(), unix_ms(), 0..3);
    let config = config(dir.path(), server.port()).await;
    let mut handle = Bridge::start(config.clone()).unwrap();
    for _ in 0..3 {
        server.answer("400 Bad Request", "no such team").await;
        assert!(matches!(next(&mut handle).await, Observed::Dead { .. }));
    }
    let list = async || dead_letters(config.clone(), &Request::List).await.unwrap().letters;
    let letters = list().await;
    assert_eq!(letters.iter().map(|letter| letter.id.as_str()).collect::<Vec<_>>(), ["ev-0", "ev-1", "ev-2"]);
    assert_eq!(
        (letters[0].sink.as_str(), letters[0].why.as_str()),
        ("ops", "the server answered 400: no such team")
    );
    let replay = Request::Replay(Which::Numbers(vec![letters[1].no, 99]));
    let (reply, again) = tokio::join!(dead_letters(config.clone(), &replay), server.answer("200 OK", ""));
    let reply = reply.unwrap();
    assert_eq!((reply.done, reply.unknown), (1, vec![99]));
    assert_eq!((again.body.as_str(), again.head.contains("idempotency-key: ev-1")), ("{\"n\":1}", true));
    assert_eq!(delivered(&mut handle).await, "ev-1");
    handle.stop().await.unwrap();
    assert_eq!(list().await.len(), 2, "they outlive the process");
    let dropped = dead_letters(config.clone(), &Request::Drop(Which::All)).await.unwrap();
    assert_eq!(dropped.done, 2);
    assert_eq!(list().await, []);
}

#[tokio::test]
async fn a_second_bridge_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), 1).await;
    let handle = Bridge::start(config.clone()).unwrap();
    let error = Bridge::start(config).unwrap_err().to_string();
    assert!(error.contains("in use"), "{error}");
    handle.stop().await.unwrap();
}
