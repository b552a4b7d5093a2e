//! The layout on disk: every entry comes back, cut records are refused, and a golden fixture pins the bytes.

use super::layout::kind;
use super::*;
use crate::behind::Stretch;
use crate::body::{Body, BodySlot};
use crate::dedup::Fingerprint;
use crate::message::{Expiry, Flag, message_for_tests};
use crate::presence::Cause;
use bytes::Bytes;
use protocol::{PublishProperties, RetainHandling};
use std::num::NonZeroU64;

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
    let body = Body {
        payload: Bytes::from_static(b"\x00payload"),
        id: "id-1".into(),
        from: "anon:truck".into(),
        client: "truck".into(),
        properties: PublishProperties {
            payload_format_utf8: Some(true),
            response_topic: Some("r".into()),
            correlation_data: Some(Bytes::from_static(&[1, 2])),
            user_properties: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
            ..PublishProperties::default()
        }
        .into(),
        ..Body::default()
    };
    let message = Message {
        no: MsgNo(9),
        topic: "im/room".into(),
        qos: QoS::ExactlyOnce,
        retain: true,
        expiry: Some(Expiry::new(0, 1_800_000_060_000)),
        seq: Some(3),
        ts_unix_ms: 1_800_000_000_000,
        body: body.into(),
        ..Message::clone(&message_for_tests())
    };
    MessageEntry { message: message.sized(), set_retained: true }
}

/// One of each kind that version 1 knew, in the order of their numbers.
fn entries_of_version_1() -> Vec<Entry> {
    let (session, message_no) = (SessionNo(7), MsgNo(9));
    let packet_id = PacketId::MAX;
    let options = SubscribeOptions {
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    let recipient = TrackedRecipient { session, group: None, client_id: "c".into(), user: "u".into() };
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
            source: Source::Retained,
            identifiers: vec![1, 2],
            packet_id: None,
        },
        Entry::Sent { session, message: message_no, packet_id },
        Entry::Received { session, packet_id },
        Entry::Ended {
            session,
            message: message_no,
            source: Source::Subscriptions,
            packet_id: None,
            state: Some(FinalState::Refused),
        },
        Entry::Tracked {
            message: message_no,
            topic: "t".into(),
            seq: None,
            id: "id-1".into(),
            sender: "s".into(),
            wanted: ReceiptsWanted::Read,
            of: 2,
            ended: [1, 0, 0, 0],
            recipients: Recipients::Listed(vec![recipient]),
        },
        Entry::IncomingTaken { session, packet_id, seq: Some(1), id: "i".into() },
        Entry::IncomingReleased { session, packet_id },
        Entry::Conversation { topic: "im/room".into(), seq: 4, ts_unix_ms: 1_800_000_000_000 },
        Entry::Counters { message: 10, session: 8, group: 1 },
    ]
}

/// Those, and what a shared group adds.
fn entries_of_version_2() -> Vec<Entry> {
    let (session, message, group) = (SessionNo(7), MsgNo(9), GroupNo(3));
    let source = Source::Group(group);
    let recipient = TrackedRecipient { session, group: Some(group), client_id: "c".into(), user: "u".into() };
    let mut entries = entries_of_version_1();
    entries.extend([
        Entry::Group { group, filter: "$share/g/a/#".into() },
        Entry::Queued {
            session,
            message,
            qos: QoS::ExactlyOnce,
            retain: false,
            source,
            identifiers: Vec::new(),
            packet_id: PacketId::new(1),
        },
        Entry::Ended { session, message, source, packet_id: PacketId::new(1), state: None },
        Entry::Ended { session, message, source: Source::Retained, packet_id: None, state: None },
        Entry::Tracked {
            message,
            topic: "t".into(),
            seq: Some(4),
            id: "id-2".into(),
            sender: "s".into(),
            wanted: ReceiptsWanted::All,
            of: 1,
            ended: [0; 4],
            recipients: Recipients::Listed(vec![recipient]),
        },
        Entry::Counters { message: 10, session: 8, group: 4 },
    ]);
    entries
}

/// What version 3 adds, one of each kind and shape.
fn entries_added_by_version_3() -> Vec<Entry> {
    let set_aside = SetAside {
        message: std::sync::Arc::new(message().message),
        qos: QoS::AtLeastOnce,
        form: Form::Envelope,
        at_unix_ms: 1_800_000_000_000,
    };
    let fingerprint = Fingerprint(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
    let ids = vec![
        Published::new(fingerprint, Some(4), false, 1_800_000_000),
        Published::new(fingerprint, None, true, 0),
    ];
    let is_written = Flag::default();
    is_written.set();
    let body = BodySlot::default();
    let head = Message { record: 12, is_written, collapse: NonZeroU64::new(7), body, ..message().message };
    let collapsing = Message { collapse: NonZeroU64::new(7), is_high: true, ..message().message };
    let (session, message, topic) = (SessionNo(7), MsgNo(9), ByteString::from("im/room"));
    let kept = KeptMessage {
        seq: 3,
        place: 77,
        message,
        ts_unix_ms: 1_800_000_000_000,
        expiry_unix_ms: 1_800_000_060_000,
        bytes: 300,
        qos: QoS::AtLeastOnce,
        sender: "anon:truck".into(),
    };
    let packet_id = PacketId::MAX;
    vec![
        Entry::ConversationKept { topic: topic.clone(), first_seq: 3 },
        Entry::Cursor { session, topic: topic.clone(), form: Form::Plain, next: Some(3) },
        Entry::Cursor { session, topic: topic.clone(), form: Form::Envelope, next: None },
        Entry::ConversationPage { topic: topic.clone(), messages: vec![kept] },
        Entry::Replayed {
            session,
            topic: topic.clone(),
            form: Form::Envelope,
            seq: 3,
            message,
            qos: QoS::ExactlyOnce,
            identifiers: vec![5],
            packet_id,
        },
        Entry::Holes {
            session,
            topic,
            form: Form::Plain,
            holes: vec![Hole { last_seq: 2, told_by: 3 }, Hole { last_seq: 5, told_by: 0 }],
        },
        Entry::Queued {
            session,
            message,
            qos: QoS::AtLeastOnce,
            retain: false,
            source: Source::Envelope,
            identifiers: Vec::new(),
            packet_id: None,
        },
        Entry::Ended { session, message, source: Source::RetainedEnvelope, packet_id: None, state: None },
        Entry::Presence {
            client: "c".into(),
            state: State {
                user: "u".into(),
                epoch: 1_800_000_000_001,
                cause: Cause::KeepAlive,
                since_unix_ms: 1_800_000_000_002,
                last_seen_unix_ms: 1_800_000_000_000,
                keepalive_s: 240,
                ended_unix_ms: Some(1_800_000_000_003),
            },
        },
        Entry::PresenceCleared { client: "c".into() },
        Entry::NetVote {
            net: "lte".into(),
            user: "u".into(),
            interval_s: 300,
            at_unix_ms: 1_800_000_000_000,
        },
        Entry::Published { user: "u".into(), first: 7, ids },
        Entry::PublishedForgotten(Forgotten { user: "u".into(), from: 1, to: 7 }),
        Entry::SetAside { session: SessionNo(7), set_aside: Box::new(set_aside) },
        Entry::TakenBack { session: SessionNo(7), message: MsgNo(9) },
        Entry::ReadWished {
            topic: "im/room".into(),
            wish: Wish { seq: 3, id: "id-1".into(), sender: "s".into(), of: 0, left: 0, is_open: false },
        },
        Entry::ReadSettled { topic: "im/room".into(), to_seq: 3 },
        Entry::Head(Box::new(HeadEntry { message: head, needed: 3 })),
        Entry::Message(Box::new(MessageEntry { message: collapsing, set_retained: false })),
        Entry::Member { topic: "im/room".into(), user: "u".into(), joined: 3, read: 4 },
        Entry::MemberLeft { topic: "im/room".into(), user: "u".into() },
        Entry::Away { session, since: message },
        Entry::GroupForgotten { group: GroupNo(3) },
    ]
}

/// More of that: what is only counted, and what is missed or forgotten.
fn counts_added_by_version_3() -> Vec<Entry> {
    let (session, message) = (SessionNo(7), MsgNo(9));
    vec![
        Entry::Tracked {
            message,
            topic: "t".into(),
            seq: Some(4),
            id: "id-2".into(),
            sender: "s".into(),
            wanted: ReceiptsWanted::All,
            of: 4,
            ended: [0, 0, 1, 0],
            recipients: Recipients::Counted {
                sessions: vec![SessionNo(7), SessionNo(8), SessionNo(70_000)],
                groups: vec![(GroupNo(3), SessionNo(7))],
            },
        },
        Entry::ReadWished {
            topic: "im/room".into(),
            wish: Wish { seq: 3, id: "id-1".into(), sender: "s".into(), of: 60, left: 2, is_open: false },
        },
        Entry::ReaderLeft { topic: "im/room".into(), user: "u".into(), joined: 1, read: 3 },
        Entry::Behind {
            session,
            behind: Behind::of(vec![
                Stretch { after: "".into(), since: MsgNo(9) },
                Stretch { after: "im/room".into(), since: MsgNo(7) },
            ]),
        },
        Entry::PresenceForgotten { epoch: 1_800_000_000_001 },
        Entry::ReadWished {
            topic: "im/room".into(),
            wish: Wish { seq: 3, id: "id-1".into(), sender: "s".into(), of: 60, left: 2, is_open: true },
        },
        Entry::GuestRead { topic: "im/room".into(), user: "u".into(), read: 3 },
    ]
}

fn every_entry() -> Vec<Entry> {
    let mut entries = entries_of_version_2();
    entries.extend(entries_added_by_version_3());
    entries.extend(counts_added_by_version_3());
    entries
}

fn record_of(entries: &[Entry]) -> Bytes {
    let mut builder = RecordBuilder::default();
    entries.iter().for_each(|entry| builder.push(entry));
    builder.take()
}

fn record() -> Bytes {
    record_of(&every_entry())
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

fn golden(hex: &str) -> Bytes {
    let digits: Vec<u8> = hex.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn hex(record: &Bytes) -> String {
    record.iter().map(|b| format!("{b:02x}")).collect()
}

/// One record a line, one entry each. A change of a line needs a new version, not a new fixture; an entry that was
/// never released may still change.
#[test]
fn the_layout_is_the_one_of_the_fixture() {
    let lines: Vec<_> = include_str!("../../fixtures/record-v3.hex").lines().collect();
    let written: Vec<_> = every_entry().iter().map(|e| hex(&record_of(std::slice::from_ref(e)))).collect();
    assert_eq!(written, lines, "written:\n{}", written.join("\n"));
}

/// Logs that older programs wrote are taken back by this one.
#[test]
fn records_of_older_versions_are_read() {
    let of = |fixture: &str| read_record(&golden(fixture)).unwrap();
    assert_eq!(of(include_str!("../../fixtures/record-v1.hex")), entries_of_version_1());
    assert_eq!(of(include_str!("../../fixtures/record-v2.hex")), entries_of_version_2());
}

#[test]
fn a_version_that_is_not_known_yet_is_refused() {
    let newer = read_record(&Bytes::from_static(&[VERSION + 1])).unwrap_err();
    assert_eq!(newer, "record version 4, this program reads versions 1 to 3");
}

#[test]
fn an_answer_to_a_fetch_needs_the_messages_of_a_record_and_not_their_recipients() {
    let mut record = RecordBuilder::default();
    let recipients: Vec<_> = entries_of_version_1();
    recipients.iter().for_each(|entry| record.push(entry));
    record.push(&Entry::Message(Box::new(message())));
    recipients.iter().for_each(|entry| record.push(entry));
    let whole = record.take();
    let cut = messages_of(whole.clone());
    assert!(cut.len() < whole.len() && read_body(&cut, MsgNo(9)).is_some());
    assert_eq!(read_body(&cut, MsgNo(9)).map(|b| b.payload), read_body(&whole, MsgNo(9)).map(|b| b.payload));
    assert!(read_record(&cut).unwrap().iter().all(|entry| matches!(entry, Entry::Message(_))));
    for damaged in [Bytes::new(), Bytes::from_static(b"\xff"), whole.slice(..whole.len() - 1)] {
        assert_eq!(messages_of(damaged.clone()), damaged);
    }
}

#[test]
fn what_is_read_without_bodies_is_the_same_but_for_the_bodies_that_only_sending_needs() {
    let mut entries = every_entry();
    let plain = |set_retained| {
        let mut entry = message();
        entry.message.seq = None;
        Entry::Message(Box::new(MessageEntry { set_retained, ..entry }))
    };
    let of = |entry: Entry| if let Entry::Message(entry) = entry { *entry } else { unreachable!() };
    entries.extend([plain(false), plain(true)]);
    let message = std::sync::Arc::new(of(plain(false)).message);
    let set_aside = SetAside { message, qos: QoS::AtLeastOnce, form: Form::Plain, at_unix_ms: 3 };
    entries.push(Entry::SetAside { session: SessionNo(1), set_aside: Box::new(set_aside) });
    let mut read = Vec::new();
    read_heads(&record_of(&entries), &mut read).unwrap();
    assert_eq!(read.len(), entries.len());
    let mut left_out = 0;
    for (read, wanted) in read.into_iter().zip(entries) {
        if !matches!(wanted, Entry::Message(_)) {
            assert_eq!(read, wanted);
            continue;
        }
        let (mut read, wanted) = (of(read), of(wanted));
        if wanted.message.seq.is_none() && !wanted.set_retained {
            left_out += 1;
            assert!(!read.message.body.is_here());
            read.message.body = wanted.message.body.clone();
        }
        assert_eq!(read, wanted);
    }
    assert!(left_out > 0);
    let whole = record_of(&[plain(false)]);
    for end in 1..whole.len() {
        let cut = read_heads(&whole.slice(..end), &mut Vec::new());
        assert!(end == 1 || cut.is_err(), "cut at {end}");
    }
}
