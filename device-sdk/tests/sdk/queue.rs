//! The disk queue, through the client, against a scripted broker on TCP and against SIGKILL.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use device_sdk::{
    Client, Event, Events, Message, Options, ProtocolVersion, QoS, QueueError, QueueOptions, ReasonCode,
};
use protocol::Publish;

use super::child;
use super::tcp_peer::{Connection, Listener, next_news, qos1, soon};

const MIB: u64 = 1024 * 1024;

fn options(dir: &Path, base: Options) -> Options {
    Options { queue: Some(QueueOptions::new(dir, 16 * MIB)), ..base }
}

/// A broker's address where nobody listens.
fn nowhere() -> Options {
    Options::new("127.0.0.1:1", "device")
}

fn start(options: Options) -> (Client, Events) {
    Client::spawn(options).unwrap()
}

fn text(publish: &Publish) -> String {
    String::from_utf8(publish.payload.to_vec()).unwrap()
}

fn im_id(publish: &Publish) -> String {
    device_sdk::user_property(&publish.properties.user_properties, "im-id").unwrap().to_owned()
}

/// Takes and acknowledges `count` publishes.
async fn take(connection: &mut Connection, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    for _ in 0..count {
        let publish = connection.publish().await;
        texts.push(text(&publish));
        connection.puback(&publish).await;
    }
    texts
}

#[tokio::test]
async fn what_was_enqueued_offline_arrives_in_order_and_is_then_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (client, _events) = start(options(dir.path(), nowhere()));
    for number in 0..10 {
        client.enqueue(Message::new("t", format!("{number}"))).await.unwrap();
    }
    assert_eq!(client.queue_status().unwrap().entries, 10);
    client.disconnect().await.unwrap();

    let listener = Listener::new().await;
    let (client, _events) = start(options(dir.path(), listener.options()));
    assert_eq!(client.queue_status().unwrap().entries, 10);
    let mut connection = listener.session(false).await;
    // What is enqueued now comes after what waited.
    client.enqueue(qos1("10")).await.unwrap();
    assert_eq!(take(&mut connection, 11).await, (0..11).map(|n| n.to_string()).collect::<Vec<_>>());
    soon("the queue drained", client.queue_drained()).await;
    client.disconnect().await.unwrap();

    let (client, _events) = start(options(dir.path(), nowhere()));
    assert_eq!(client.queue_status().unwrap().entries, 0);
    client.disconnect().await.unwrap();
}

#[tokio::test]
async fn an_entry_keeps_its_id_over_a_restart_and_a_given_id_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let listener = Listener::new().await;
    let (client, _events) = start(options(dir.path(), listener.options()));
    client.enqueue(qos1("a")).await.unwrap();
    client.enqueue(qos1("b").user_property("im-id", "mine")).await.unwrap();
    let mut connection = listener.session(false).await;
    let (a, b) = (connection.publish().await, connection.publish().await);
    // The queue's id, the class, the number in it.
    assert!(im_id(&a).len() == 18 && im_id(&a).ends_with("e1"), "{}", im_id(&a));
    assert_eq!(im_id(&b), "mine");
    // No acknowledgement: the entries stay.
    client.disconnect().await.unwrap();
    let (client, _events) = start(options(dir.path(), listener.options()));
    let mut connection = listener.session(true).await;
    for first in [a, b] {
        let again = connection.publish().await;
        assert_eq!((im_id(&again), text(&again), again.qos), (im_id(&first), text(&first), QoS::AtLeastOnce));
        connection.puback(&again).await;
    }
    soon("the queue drained", client.queue_drained()).await;
    client.disconnect().await.unwrap();
}

#[tokio::test]
async fn an_acknowledgement_out_of_order_is_remembered_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let listener = Listener::new().await;
    let (client, _events) = start(options(dir.path(), listener.options()));
    for name in ["a", "b", "c"] {
        client.enqueue(qos1(name)).await.unwrap();
    }
    let mut connection = listener.session(false).await;
    let _a = connection.publish().await;
    let b = connection.publish().await;
    let _c = connection.publish().await;
    connection.puback(&b).await;
    while client.queue_status().unwrap().entries > 2 {
        tokio::task::yield_now().await;
    }
    client.disconnect().await.unwrap();
    let (client, _events) = start(options(dir.path(), listener.options()));
    let mut connection = listener.session(true).await;
    assert_eq!(take(&mut connection, 2).await, ["a", "c"]);
    soon("the queue drained", client.queue_drained()).await;
    client.disconnect().await.unwrap();
}

#[tokio::test]
async fn a_backlog_larger_than_memory_may_hold_arrives_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (client, _events) = start(options(dir.path(), nowhere()));
    let body = |number: usize| format!("{number:08}{}", "x".repeat(20_000));
    for group in 0..20 {
        let enqueues: Vec<_> = (0..20)
            .map(|n| {
                let client = client.clone();
                let body = body(group * 20 + n);
                tokio::spawn(async move { client.enqueue(Message::new("t", body)).await })
            })
            .collect();
        for enqueue in enqueues {
            enqueue.await.unwrap().unwrap();
        }
    }
    let full = client.queue_status().unwrap();
    assert!(full.entries == 400 && full.bytes > 7 * MIB, "{full:?}");
    client.disconnect().await.unwrap();

    let listener = Listener::new().await;
    let (client, _events) = start(options(dir.path(), listener.options()));
    let mut connection = listener.session(false).await;
    let mut seen = BTreeSet::new();
    let mut in_order = Vec::new();
    for _ in 0..400 {
        let publish = connection.publish().await;
        let number: usize = text(&publish)[..8].parse().unwrap();
        assert!(seen.insert(number));
        // Within a group the tasks raced; groups are in order.
        in_order.push(number / 20);
        connection.puback(&publish).await;
    }
    assert!(in_order.is_sorted());
    soon("the queue drained", client.queue_drained()).await;
    // Space comes back while it drains.
    client.enqueue(qos1("last")).await.unwrap();
    let empty = client.queue_status().unwrap();
    assert!(empty.bytes < MIB, "{empty:?}");
    client.disconnect().await.unwrap();
}

#[tokio::test]
async fn a_full_queue_says_so_drops_nothing_and_takes_more_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let listener = Listener::new().await;
    let small = |base| Options { queue: Some(QueueOptions::new(dir.path(), 2 * MIB)), ..base };
    let (client, _events) = start(small(listener.options()));
    let body = "x".repeat(10_000);
    let mut taken = 0;
    let error = loop {
        match client.enqueue(Message::new("t", body.clone())).await {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 1_000, "the quota of 2 MiB holds 10 MB");
    };
    let QueueError::Full { bytes, bytes_max, entries, needed, .. } = &error else { panic!("{error}") };
    assert!(*bytes <= 2 * MIB && *bytes_max == 2 * MIB && *entries == taken && *needed > 10_000, "{error}");
    assert!(taken > 100, "{taken}");
    let mut connection = listener.session(false).await;
    take(&mut connection, usize::try_from(taken).unwrap()).await;
    soon("the queue drained", client.queue_drained()).await;
    for _ in 0..100 {
        client.enqueue(Message::new("t", body.clone())).await.unwrap();
    }
    client.disconnect().await.unwrap();
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_told_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let (client, _events) = start(options(dir.path(), nowhere()));
    let error = Client::spawn(options(dir.path(), nowhere())).unwrap_err().to_string();
    assert!(
        error.contains("in use by process") && error.contains(&std::process::id().to_string()),
        "{error}"
    );
    for number in 0..10 {
        client.enqueue(qos1(&format!("payload {number}"))).await.unwrap();
    }
    client.disconnect().await.unwrap();
    let quota = QueueOptions::new(dir.path(), 1);
    let error = Client::spawn(Options { queue: Some(quota), ..nowhere() }).unwrap_err().to_string();
    assert!(error.contains("bytes_max is 1, it must be at least"), "{error}");

    // A byte of the first record turns over.
    let log = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .min()
        .unwrap();
    let mut bytes = std::fs::read(&log).unwrap();
    let at = bytes.windows(5).position(|window| window == b"paylo").unwrap();
    bytes[at] ^= 0xff;
    std::fs::write(&log, bytes).unwrap();
    let error = Client::spawn(options(dir.path(), nowhere())).unwrap_err().to_string();
    assert!(error.contains(&dir.path().display().to_string()) && error.contains("damaged"), "{error}");

    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Client::spawn(options(file.path(), nowhere())).unwrap_err().to_string();
    assert!(error.contains(&file.path().display().to_string()), "{error}");
}

#[tokio::test]
async fn an_entry_refused_for_good_is_told_and_removed_and_one_refused_for_now_is_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let listener = Listener::new().await;
    let (client, mut events) = start(options(dir.path(), listener.options()));
    for name in ["never", "later", "now"] {
        client.enqueue(qos1(name).user_property("im-id", name)).await.unwrap();
    }
    let mut connection = listener.session(false).await;
    for reason in [ReasonCode::NotAuthorized, ReasonCode::QuotaExceeded, ReasonCode::Success] {
        let publish = connection.publish().await;
        connection.puback_with(&publish, reason).await;
    }
    let refused = loop {
        if let Event::EntryRefused { topic, id, why } = next_news(&mut events).await {
            break (topic, id, why);
        }
    };
    assert_eq!((refused.0.as_str(), refused.1.as_str()), ("t", "never"));
    assert!(refused.2.contains("not authorized (0x87)"), "{}", refused.2);
    let again = connection.publish().await;
    assert_eq!(text(&again), "later");
    connection.puback(&again).await;
    soon("the queue drained", client.queue_drained()).await;
    client.disconnect().await.unwrap();
}

#[tokio::test]
async fn entries_that_cannot_be_stored_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (client, _events) = start(options(dir.path(), nowhere()));
    let error = client.enqueue(Message::new("+", "")).await.unwrap_err();
    assert!(matches!(error, QueueError::Topic { .. }), "{error}");
    let error = client.enqueue(qos1("a").user_property("im-id", "x".repeat(65))).await.unwrap_err();
    assert!(matches!(error, QueueError::Id { chars: 65, .. }), "{error}");
    let error = client.enqueue(Message::new("t", vec![0; 20_000_000])).await.unwrap_err();
    assert!(error.to_string().contains("bytes, an entry has"), "{error}");
    client.disconnect().await.unwrap();
    assert_eq!(client.enqueue(qos1("a")).await, Err(QueueError::Stopped));
}

#[tokio::test]
async fn a_queue_works_with_3_1_1_too() {
    let dir = tempfile::tempdir().unwrap();
    let listener = Listener::new().await;
    let base = Options { version: ProtocolVersion::V311, ..listener.options() };
    let (client, _events) = start(options(dir.path(), base));
    client.enqueue(qos1("a")).await.unwrap();
    let mut connection = listener.session(false).await;
    assert_eq!(take(&mut connection, 1).await, ["a"]);
    soon("the queue drained", client.queue_drained()).await;
    client.disconnect().await.unwrap();
}

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_file() {
            std::fs::copy(&entry, to.join(entry.file_name().unwrap())).unwrap();
        }
    }
}

const WRITERS: usize = 4;

#[test]
fn child_that_enqueues() {
    let Some(dir) = child::dir() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, _events) = start(options(&dir, nowhere()));
        // The harness left its line open.
        println!("\nready");
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let client = client.clone();
                tokio::spawn(async move {
                    for number in 0.. {
                        let text = format!("{writer} {number}");
                        client.enqueue(Message::new("t", text.clone())).await.unwrap();
                        println!("enqueued {text}");
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

#[tokio::test]
async fn everything_that_was_enqueued_survives_sigkill() {
    for (round, lines) in [1, 40, 200].into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = child::start("queue::child_that_enqueues", dir.path());
        child.line("ready").expect("the child starts");
        let mut printed: Vec<String> = (0..lines).map(|_| child.line("enqueued ").unwrap()).collect();
        child.kill();
        // What it printed before it died and we had not read yet counts too.
        while let Some(line) = child.line("enqueued ") {
            if line.split(' ').nth(1).is_some_and(|number| !number.is_empty()) {
                printed.push(line);
            }
        }
        let listener = Listener::new().await;
        let (client, _events) = start(options(dir.path(), listener.options()));
        let entries = usize::try_from(client.queue_status().unwrap().entries).unwrap();
        let mut connection = listener.session(false).await;
        let arrived = take(&mut connection, entries).await;
        let unique: BTreeSet<&String> = arrived.iter().collect();
        assert_eq!(unique.len(), arrived.len());
        for line in &printed {
            assert!(unique.contains(line), "round {round}: {line:?} was on disk and is gone");
        }
        for writer in 0..WRITERS {
            let numbers: Vec<u32> = arrived
                .iter()
                .filter_map(|text| text.strip_prefix(&format!("{writer} "))?.parse().ok())
                .collect();
            assert_eq!(numbers, (0..u32::try_from(numbers.len()).unwrap()).collect::<Vec<_>>());
        }
        soon("the queue drained", client.queue_drained()).await;
        client.disconnect().await.unwrap();
    }
}

#[tokio::test]
async fn acknowledged_entries_do_not_come_back_after_a_crash_of_a_later_second() {
    let dir = tempfile::tempdir().unwrap();
    let listener = Listener::new().await;
    let (client, events) = start(options(dir.path(), listener.options()));
    for number in 0..5 {
        client.enqueue(qos1(&number.to_string())).await.unwrap();
    }
    let mut connection = listener.session(false).await;
    take(&mut connection, 5).await;
    soon("the queue drained", client.queue_drained()).await;
    // The next entry's sync takes the acknowledgements along.
    client.enqueue(qos1("5")).await.unwrap();
    // A copy of the directory is what a crash at this moment would leave.
    let copy = tempfile::tempdir().unwrap();
    copy_files(dir.path(), copy.path());
    copy_files(&dir.path().join("names"), &copy.path().join("names"));
    let (crashed, _events) = start(options(copy.path(), nowhere()));
    assert_eq!(crashed.queue_status().unwrap().entries, 1);
    crashed.disconnect().await.unwrap();
    drop(events);
    tokio::time::timeout(Duration::from_secs(5), client.disconnect()).await.unwrap().unwrap();
}
