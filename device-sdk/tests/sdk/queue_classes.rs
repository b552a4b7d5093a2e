//! The disk queue's classes, through the client: who goes first, who gives way, what is told.

use device_sdk::{
    Class, Client, DropReason, Event, Message, Options, QoS, QueueError, QueueOptions, StartError, Thinning,
};
use protocol::{Packet, PacketId, ProtocolVersion, Publish, encode};
use storage::{Log, LogConfig};

use super::tcp_peer::{Listener, next_news, soon};

const MIB: u64 = 1024 * 1024;

fn with_queue(queue: QueueOptions, base: Options) -> Options {
    Options { queue: Some(queue), ..base }
}

fn nowhere() -> Options {
    Options::new("127.0.0.1:1", "device")
}

fn message(topic: &str, payload: impl ToString) -> Message {
    Message::new(topic, payload.to_string())
}

/// Waits for news of dropped entries.
async fn dropped(events: &mut device_sdk::Events) -> (Class, DropReason, u64) {
    loop {
        if let Event::EntriesDropped { class, reason, count, .. } = next_news(events).await {
            return (class, reason, count);
        }
    }
}

#[tokio::test]
async fn alarms_go_first_then_entries_of_now_then_the_backlog_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let options =
        |base| with_queue(QueueOptions { group_ms: 0, ..QueueOptions::new(dir.path(), 16 * MIB) }, base);
    let (client, _events) = Client::spawn(options(nowhere())).unwrap();
    for number in 0..30 {
        client.enqueue_as(Class::Live, message("live", number)).await.unwrap();
        client.enqueue_as(Class::Debug, message("debug", number)).await.unwrap();
    }
    client.disconnect().await.unwrap();

    // What an earlier run stored is the backlog.
    let listener = Listener::new().await;
    let (client, _events) = Client::spawn(options(listener.options())).unwrap();
    client.enqueue_as(Class::Debug, message("debug", 30)).await.unwrap();
    client.enqueue_as(Class::Track, message("track", "now")).await.unwrap();
    client.enqueue_as(Class::Live, message("live", "now")).await.unwrap();
    client.enqueue_as(Class::Result, message("result", "now")).await.unwrap();
    client.enqueue_as(Class::Alarm, message("alarm", "now")).await.unwrap();
    let status = client.queue_status().unwrap();
    let of = |class| status.entries_of(class);
    assert_eq!((of(Class::Live), of(Class::Debug), of(Class::Alarm), status.entries), (31, 31, 1, 65));
    let mut connection = listener.session(false).await;
    let mut order = Vec::new();
    for _ in 0..65 {
        let publish = connection.publish().await;
        order.push(format!("{} {}", publish.topic, String::from_utf8_lossy(&publish.payload)));
        connection.puback(&publish).await;
    }
    assert_eq!(order[..4], ["alarm now", "result now", "live now", "track now"]);
    let backlog: Vec<String> =
        (0..30).map(|n| format!("live {n}")).chain((0..31).map(|n| format!("debug {n}"))).collect();
    assert_eq!(order[4..], backlog);
    soon("the queue drained", client.queue_drained()).await;
    client.disconnect().await.unwrap();
}

#[tokio::test]
async fn a_slot_is_free_for_an_entry_of_now_while_the_backlog_waits_for_its_acknowledgements() {
    let dir = tempfile::tempdir().unwrap();
    let options =
        |base| with_queue(QueueOptions { group_ms: 0, ..QueueOptions::new(dir.path(), 16 * MIB) }, base);
    let (client, _events) = Client::spawn(options(nowhere())).unwrap();
    for number in 0..100 {
        client.enqueue_as(Class::Live, message("live", number)).await.unwrap();
    }
    client.disconnect().await.unwrap();
    let listener = Listener::new().await;
    let (client, _events) = Client::spawn(options(listener.options())).unwrap();
    let mut connection = listener.session(false).await;
    // The first of the backlog come, nothing is acknowledged.
    let first = connection.publish().await;
    assert_eq!(&first.payload[..], b"0");
    client.enqueue_as(Class::Live, message("live", "now")).await.unwrap();
    let mut before = 0;
    while &connection.publish().await.payload[..] != b"now" {
        before += 1;
    }
    assert!(before < 48, "{before} of the backlog went before it");
    client.disconnect().await.unwrap();
}

#[tokio::test]
async fn an_entry_that_expired_is_told_and_what_is_left_of_an_interval_goes_to_the_broker() {
    let dir = tempfile::tempdir().unwrap();
    let listener = Listener::new().await;
    let queue = QueueOptions::new(dir.path(), 16 * MIB);
    let (client, mut events) = Client::spawn(with_queue(queue.clone(), nowhere())).unwrap();
    client.enqueue(message("t", "gone").expiry_s(0)).await.unwrap();
    client.enqueue(message("t", "there").expiry_s(600)).await.unwrap();
    client.disconnect().await.unwrap();
    while events.next().await.is_some() {}

    let (client, mut events) = Client::spawn(with_queue(queue, listener.options())).unwrap();
    let mut connection = listener.session(false).await;
    let publish = connection.publish().await;
    assert_eq!(&publish.payload[..], b"there");
    let left_s = publish.properties.message_expiry_interval_s.unwrap();
    assert!((580..=600).contains(&left_s), "{left_s}");
    connection.puback(&publish).await;
    assert_eq!(dropped(&mut events).await, (Class::Event, DropReason::Expired, 1));
    soon("the queue drained", client.queue_drained()).await;
    assert_eq!(client.queue_status().unwrap().dropped.expired, 1);
    client.disconnect().await.unwrap();
}

#[tokio::test]
async fn debug_entries_give_way_to_others_and_alarms_have_room_when_nothing_gives_way_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let queue = QueueOptions { group_ms: 0, ..QueueOptions::new(dir.path(), 2 * MIB) };
    let (client, mut events) = Client::spawn(with_queue(queue, nowhere())).unwrap();
    let body = "x".repeat(10_000);
    for _ in 0..100 {
        client.enqueue_as(Class::Debug, message("debug", &body)).await.unwrap();
    }
    let mut taken = 0;
    let error = loop {
        match client.enqueue(message("event", &body)).await {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, QueueError::Full { .. }), "{error}");
    let (class, reason, count) = dropped(&mut events).await;
    assert_eq!((class, reason), (Class::Debug, DropReason::Quota));
    let status = client.queue_status().unwrap();
    assert!(status.dropped.quota >= count && status.dropped.total() == status.dropped.quota, "{status:?}");
    assert_eq!(status.entries_of(Class::Debug) + status.dropped.quota, 100);
    assert!(taken > 150 && status.bytes <= 2 * MIB, "{taken} taken, {status:?}");
    for _ in 0..5 {
        client.enqueue_as(Class::Alarm, message("alarm", "fire")).await.unwrap();
    }
    assert!(client.queue_status().unwrap().bytes <= 2 * MIB);
    client.disconnect().await.unwrap();
}

#[tokio::test]
async fn what_has_expired_gives_way_before_anything_else() {
    let dir = tempfile::tempdir().unwrap();
    let queue = QueueOptions { group_ms: 0, ..QueueOptions::new(dir.path(), MIB) };
    let (client, mut events) = Client::spawn(with_queue(queue, nowhere())).unwrap();
    client.enqueue_as(Class::Debug, message("debug", "stays")).await.unwrap();
    let body = "x".repeat(10_000);
    // Three times the quota.
    for _ in 0..300 {
        client.enqueue_as(Class::Live, message("live", &body).expiry_s(0)).await.unwrap();
    }
    let (class, reason, _) = dropped(&mut events).await;
    assert_eq!((class, reason), (Class::Live, DropReason::Expired));
    let status = client.queue_status().unwrap();
    assert_eq!((status.dropped.expired + status.entries_of(Class::Live), status.dropped.quota), (300, 0));
    assert!(status.dropped.expired > 200 && status.bytes <= MIB, "{status:?}");
    client.disconnect().await.unwrap();
}

#[tokio::test]
async fn a_track_is_thinned_so_that_its_bends_stay() {
    let dir = tempfile::tempdir().unwrap();
    let options = |base| {
        let thinning = Some(Thinning { tolerance_m: 5, tolerance_m_max: 5 });
        with_queue(
            QueueOptions { group_ms: 0, entries_max: 3_000, thinning, ..QueueOptions::new(dir.path(), MIB) },
            base,
        )
    };
    let (client, _events) = Client::spawn(options(nowhere())).unwrap();
    // 20 m/s to the north and to the east in turn, a bend every 100 s.
    let (mut north_m, mut east_m) = (0.0_f64, 0.0_f64);
    let mut bends = Vec::new();
    let mut pending = Vec::new();
    for second in 0..6_000_u64 {
        if second % 100 == 0 {
            bends.push(second);
        }
        let (lat, lon) = (31.0 + north_m / 111_195.0, 121.0 + east_m / 95_300.0);
        let fix = format!(r#"{{"ts":{},"lat":{lat:.7},"lon":{lon:.7},"speed":20.0}}"#, second * 1_000);
        pending.push(client.enqueue_soon(Class::Track, message("track", fix)).await.unwrap());
        if pending.len() == 20 {
            for entry in pending.drain(..) {
                entry.wait().await.unwrap();
            }
        }
        if (second / 100) % 2 == 0 { north_m += 20.0 } else { east_m += 20.0 }
    }
    let status = client.queue_status().unwrap();
    assert_eq!(status.entries + status.dropped.thinned, 6_000, "{status:?}");
    assert!(status.dropped.thinned >= 3_000 && status.tolerance_m == 5, "{status:?}");
    client.disconnect().await.unwrap();

    let listener = Listener::new().await;
    let (client, _events) = Client::spawn(options(listener.options())).unwrap();
    let mut connection = listener.session(false).await;
    let mut seconds = Vec::new();
    for _ in 0..status.entries {
        let publish = connection.publish().await;
        let fix: serde_json::Value = serde_json::from_slice(&publish.payload).unwrap();
        seconds.push(fix["ts"].as_u64().unwrap() / 1_000);
        connection.puback(&publish).await;
    }
    // After a restart the newest go first, in case that they were sent ahead before.
    seconds.sort_unstable();
    seconds.dedup();
    assert_eq!(seconds.len() as u64, status.entries);
    assert!(bends.iter().all(|bend| seconds.contains(bend)), "a bend is missing");
    soon("the queue drained", client.queue_drained()).await;
    client.disconnect().await.unwrap();
}

#[tokio::test]
async fn a_queue_of_an_earlier_version_is_read_and_what_it_had_sent_is_not_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut log =
        Log::open(dir.path(), LogConfig { segment_bytes: 256 * 1024, ..LogConfig::default() }).unwrap();
    for name in ["a", "b", "c", "d"] {
        let publish = Publish {
            qos: QoS::AtLeastOnce,
            packet_id: Some(PacketId::MIN),
            topic: "t".into(),
            payload: name.into(),
            properties: Message::new("t", "").user_property("im-id", name).properties.into(),
            ..Publish::default()
        };
        let mut record = bytes::BytesMut::from(&[1][..]);
        encode(&Packet::Publish(publish), ProtocolVersion::V5, &mut record).unwrap();
        log.append(&record).unwrap();
    }
    // The first is done with, and the third.
    log.append(b"\x02\x01\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0").unwrap();
    log.commit().unwrap();
    log.close().unwrap();

    let listener = Listener::new().await;
    let queue = QueueOptions::new(dir.path(), 16 * MIB);
    let (client, _events) = Client::spawn(with_queue(queue, listener.options())).unwrap();
    assert_eq!(client.queue_status().unwrap().entries, 2);
    let mut connection = listener.session(false).await;
    for name in ["b", "d"] {
        let publish = connection.publish().await;
        let id = device_sdk::user_property(&publish.properties.user_properties, "im-id");
        assert_eq!((&publish.payload[..], id), (name.as_bytes(), Some(name)));
        connection.puback(&publish).await;
    }
    soon("the queue drained", client.queue_drained()).await;
    client.disconnect().await.unwrap();
}

#[tokio::test]
async fn entries_that_share_a_write_are_accepted_together_and_soon() {
    let dir = tempfile::tempdir().unwrap();
    let queue = QueueOptions { group_ms: 3_600_000, ..QueueOptions::new(dir.path(), 16 * MIB) };
    let (client, _events) = Client::spawn(with_queue(queue, nowhere())).unwrap();
    let mut pending = Vec::new();
    for number in 0..256 {
        pending.push(client.enqueue_soon(Class::Live, message("live", number)).await.unwrap());
    }
    // So many do not wait for the hour.
    for entry in pending {
        soon("a full group is written", entry.wait()).await.unwrap();
    }
    let waiting = client.enqueue_soon(Class::Live, message("live", "waits")).await.unwrap();
    assert_eq!(client.queue_status().unwrap().entries, 256);
    // One that does not wait takes it along.
    client.enqueue(message("event", "now")).await.unwrap();
    soon("it is written too", waiting.wait()).await.unwrap();
    let leaving = client.enqueue_soon(Class::Live, message("live", "last")).await.unwrap();
    client.disconnect().await.unwrap();
    leaving.wait().await.unwrap();
}

#[tokio::test]
async fn queue_options_that_cannot_work_are_refused_with_their_values() {
    let dir = tempfile::tempdir().unwrap();
    let good = QueueOptions::new(dir.path(), MIB);
    let thinning = Some(Thinning { tolerance_m: 9, tolerance_m_max: 8 });
    for (queue, expected) in [
        (QueueOptions { entries_max: 0, ..good.clone() }, "entries_max is 0"),
        (QueueOptions { thinning, ..good.clone() }, "thinning from 9 to 8 m"),
        (QueueOptions { bytes_max: 5, ..good }, "bytes_max is 5"),
    ] {
        let error = Client::spawn(with_queue(queue, nowhere())).unwrap_err();
        assert!(matches!(error, StartError::Options { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}
