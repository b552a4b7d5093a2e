//! The layout on disk: every entry comes back, cut records are refused, and a golden fixture pins the bytes.

use super::layout::kind;
use super::*;
use crate::message::Expiry;
use protocol::{PublishProperties, RetainHandling};

fn will() -> Box<Will> {
    let properties = PublishProperties {
        message_expiry_interval_s: Some(60),
        content_type: Some("text/plain".into()),
        ..PublishProperties::default()
    };
    let payload = Bytes::from_static(b"gone");
    Box::new(Will {
        topic: "w".into(),
        payload,
        qos: QoS::AtLeastOnce,
        retain: true,
        delay_interval_s: Some(5),
        properties,
    })
}

fn message() -> MessageEntry {
    let message = Message {
        no: MsgNo(9),
        ticket: 0,
        topic: "im/room".into(),
        payload: Bytes::from_static(b"\x00payload"),
        qos: QoS::ExactlyOnce,
        retain: true,
        expiry: Some(Expiry { unix_ms: 1_800_000_060_000, monotonic_ms: 0 }),
        seq: Some(3),
        id: "id-1".into(),
        from: "anon:truck".into(),
        client: "truck".into(),
        ts_unix_ms: 1_800_000_000_000,
        properties: PublishProperties {
            payload_format_utf8: Some(true),
            response_topic: Some("r".into()),
            correlation_data: Some(Bytes::from_static(&[1, 2])),
            user_properties: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
            ..PublishProperties::default()
        },
        held: Default::default(),
    };
    MessageEntry { message, set_retained: true }
}

/// One of each kind, in the order of their numbers.
fn every_entry() -> Vec<Entry> {
    let (session, message_no) = (SessionNo(7), MsgNo(9));
    let packet_id = PacketId::MAX;
    let options = SubscribeOptions {
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    let recipient = TrackedRecipient { session, client_id: "c".into(), user: "u".into() };
    vec![
        Entry::SessionOpened { session, client_id: "c".into(), user: "u".into() },
        Entry::SessionConnected { session, expiry_s: 3600, will: Some(will()) },
        Entry::SessionDisconnected { session, expiry_s: u32::MAX, at_unix_ms: 1_800_000_000_000, will: None },
        Entry::SessionEnded { session },
        Entry::Subscribed { session, filter: "a/#".into(), options, identifier: Some(268_435_455) },
        Entry::Unsubscribed { session, filter: "a/#".into() },
        Entry::Message(Box::new(message())),
        Entry::RetainedCleared { topic: "t".into() },
        Entry::Queued {
            session,
            message: message_no,
            qos: QoS::AtLeastOnce,
            retain: true,
            is_copy: true,
            identifiers: vec![1, 2],
            packet_id: None,
        },
        Entry::Sent { session, message: message_no, packet_id },
        Entry::Received { session, packet_id },
        Entry::Ended { session, message: message_no, packet_id: None, state: Some(FinalState::Refused) },
        Entry::Tracked {
            message: message_no,
            topic: "t".into(),
            seq: None,
            id: "id-1".into(),
            sender: "s".into(),
            wanted: ReceiptsWanted::Read,
            of: 2,
            ended: [1, 0, 0, 0],
            recipients: vec![recipient],
        },
        Entry::IncomingTaken { session, packet_id, seq: Some(1), id: "i".into() },
        Entry::IncomingReleased { session, packet_id },
        Entry::Conversation { topic: "im/room".into(), seq: 4, ts_unix_ms: 1_800_000_000_000 },
        Entry::Counters { message: 10, session: 8 },
    ]
}

fn record() -> Bytes {
    let mut builder = RecordBuilder::default();
    for entry in every_entry() {
        builder.push(&entry);
    }
    builder.take()
}

#[test]
fn every_entry_comes_back_as_it_was() {
    assert_eq!(read_record(&record()).unwrap(), every_entry());
}

#[test]
fn a_record_cut_anywhere_inside_an_entry_is_refused_without_a_panic() {
    let whole = record();
    let complete = |entries: &[Entry]| every_entry().starts_with(entries);
    for end in 1..whole.len() {
        // A cut between two entries is a shorter record; the log's own checksum finds it.
        if let Ok(entries) = read_record(&whole.slice(..end)) {
            assert!(complete(&entries), "cut at {end}");
        }
    }
    assert!(read_record(&Bytes::new()).is_err());
}

#[test]
fn an_unknown_kind_and_an_impossible_length_are_refused() {
    let unknown = read_record(&Bytes::from_static(&[VERSION, 200])).unwrap_err();
    assert_eq!(unknown, "entry at byte 1: unknown kind 200");
    let mut long = vec![VERSION, kind::RETAINED_CLEARED];
    long.extend_from_slice(&u32::MAX.to_le_bytes());
    let long = read_record(&Bytes::from(long)).unwrap_err();
    assert!(long.contains("4294967295 bytes wanted at byte 6 of 6"), "{long}");
}

/// Records written by version 1 must be readable for as long as the version byte says 1: a change here
/// needs a new version, not a new fixture.
#[test]
fn the_layout_is_the_one_of_the_fixture() {
    let golden = include_str!("../../fixtures/record-v1.hex");
    let golden: String = golden.split_whitespace().collect();
    let hex: String = record().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, golden);
}
