//! The records of the queue's logs.
//!
//! The first byte is the kind, which is also its version. `varint` is MQTT's kind of number, seven bits a byte, the lowest
//! first, without its limit of four bytes.
//! - 1, an entry of a queue before there were classes: an MQTT 5 PUBLISH packet with packet identifier 1, exactly as on the
//!   wire, its `im-id` among the properties.
//! - 2, acknowledgements of such a queue: little-endian `u64`s, first the watermark (every entry up to it is done with), then
//!   entries above it that are done with too.
//! - 3, an entry: flags, one byte (1 QoS 2, 2 retain, 4 it expires, 8 a whole packet); if it expires, when it was enqueued
//!   and after how long it expires, both varints, seconds of the queue's clock; then either a PUBLISH as for kind 1, or
//!   the topic's number (varint, see `names`; 0: varint length and topic) and the payload. Without `im-id`: it is
//!   made from the queue's id, the class and the record's number.
//! - 4, acknowledgements: the queue's clock, varint seconds; then ranges of entries that are done with, rising: the distance
//!   from the number after the last one (varint) and how many more than one (varint).
//! - 5, entries that go ahead of the backlog in the run that begins here: as kind 4. A run that finds it sends what is left of them
//!   ahead too, so that what may have been sent twice is sent soon.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use protocol::{Decoder, EncodeError, Packet, PacketId, ProtocolVersion, Publish, QoS, Role, encode};

use super::ranges::Ranges;

const ENTRY_1: u8 = 1;
const ACKS_1: u8 = 2;
const ENTRY: u8 = 3;
const ACKS: u8 = 4;
const AHEAD: u8 = 5;

const EXACTLY_ONCE: u8 = 1;
const RETAIN: u8 = 2;
const EXPIRES: u8 = 4;
const WHOLE: u8 = 8;

/// Largest record that is read back; nothing larger is written.
pub(super) const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// When an entry expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expiry {
    /// When it was enqueued, seconds of the queue's clock.
    pub(super) since_s: u64,
    /// After how many seconds it expires.
    pub(super) after_s: u32,
}

impl Expiry {
    /// Returns when the entry expires, milliseconds of the queue's clock.
    pub(super) fn at_ms(self) -> u64 {
        self.since_s.saturating_add(u64::from(self.after_s)).saturating_mul(1_000)
    }
}

/// What an entry's record holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// With its topic unless `topic_number` names it; the expiry interval is in `expiry` only.
    pub(super) publish: Publish,
    pub(super) topic_number: u64,
    pub(super) expiry: Option<Expiry>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record {
    Entry(Stored),
    /// All up to the watermark, and these.
    Acks {
        clock_s: u64,
        watermark: u64,
        done: Ranges,
    },
    /// These may be sent before older ones.
    Ahead {
        clock_s: u64,
        entries: Ranges,
    },
}

/// Says whether a record is an entry, by its kind alone.
pub(super) fn is_entry(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(&(ENTRY_1 | ENTRY)))
}

/// Returns the time of the queue's clock that a record tells, 0 if none.
pub(super) fn told_s(bytes: &Bytes) -> u64 {
    let tells_at = match bytes.get(..2) {
        Some(&[ENTRY, flags]) if flags & EXPIRES != 0 => 2,
        Some(&[ACKS | AHEAD, _]) => 1,
        _ => return 0,
    };
    take_varint(&mut bytes.slice(tells_at..)).unwrap_or(0)
}

/// Says whether this version knows the record's kind.
pub(super) fn is_known(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(&(ENTRY_1 | ACKS_1 | ENTRY | ACKS | AHEAD)))
}

/// Encodes an entry; `topic_number` 0 says that the topic has none.
pub(super) fn encode_entry(publish: &Publish, topic_number: u64, since_s: u64) -> Result<Bytes, EncodeError> {
    let properties = &publish.properties;
    let expiry_s = properties.message_expiry_interval_s;
    let mut plain = publish.clone();
    plain.properties.message_expiry_interval_s = None;
    let is_plain = plain.properties == Publish::default().properties;
    let mut flags = 0;
    flags |= if publish.qos == QoS::ExactlyOnce { EXACTLY_ONCE } else { 0 };
    flags |= if publish.retain { RETAIN } else { 0 };
    flags |= if expiry_s.is_some() { EXPIRES } else { 0 };
    flags |= if is_plain { 0 } else { WHOLE };
    let mut bytes = BytesMut::with_capacity(publish.payload.len() + publish.topic.len() + 32);
    bytes.put_slice(&[ENTRY, flags]);
    if let Some(after_s) = expiry_s {
        put_varint(&mut bytes, since_s);
        put_varint(&mut bytes, u64::from(after_s));
    }
    if !is_plain {
        plain.packet_id = Some(PacketId::MIN);
        encode(&Packet::Publish(plain), ProtocolVersion::V5, &mut bytes)?;
        return Ok(bytes.freeze());
    }
    put_varint(&mut bytes, topic_number);
    if topic_number == 0 {
        put_varint(&mut bytes, publish.topic.len() as u64);
        bytes.put_slice(publish.topic.as_bytes());
    }
    bytes.put_slice(&publish.payload);
    Ok(bytes.freeze())
}

pub(super) fn encode_acks(clock_s: u64, done: &Ranges) -> Vec<u8> {
    encode_ranges(ACKS, clock_s, done)
}

/// Encodes which entries go ahead of the backlog.
pub(super) fn encode_ahead(clock_s: u64, entries: &Ranges) -> Vec<u8> {
    encode_ranges(AHEAD, clock_s, entries)
}

fn encode_ranges(kind: u8, clock_s: u64, ranges: &Ranges) -> Vec<u8> {
    let mut bytes = vec![kind];
    put_varint(&mut bytes, clock_s);
    let mut next = 0;
    for (first, last) in ranges.iter() {
        put_varint(&mut bytes, first - next);
        put_varint(&mut bytes, last - first);
        next = last + 1;
    }
    bytes
}

/// Reads a record back; the error says what is wrong with it.
pub(super) fn decode(bytes: &Bytes) -> Result<Record, String> {
    let wrong = |what: &str| format!("a record of {} bytes {what}", bytes.len());
    let Some((kind, _)) = bytes.split_first() else { return Err("a record is empty".to_owned()) };
    let mut rest = bytes.slice(1..);
    match *kind {
        ENTRY_1 => {
            let mut publish = decode_packet(&rest)?;
            // It does not say when it was enqueued: what it has left is what it had.
            let after_s = publish.properties.message_expiry_interval_s.take();
            let expiry = after_s.map(|after_s| Expiry { since_s: 0, after_s });
            Ok(Record::Entry(Stored { publish, topic_number: 0, expiry }))
        }
        ACKS_1 if !rest.is_empty() && rest.len().is_multiple_of(8) => {
            let watermark = rest.get_u64_le();
            let mut done = Ranges::default();
            while rest.has_remaining() {
                done.insert(rest.get_u64_le());
            }
            Ok(Record::Acks { clock_s: 0, watermark, done })
        }
        ENTRY => decode_entry(rest).map_err(|what| wrong(&what)).map(Record::Entry),
        ACKS => {
            let (clock_s, done) =
                decode_ranges(rest).ok_or_else(|| wrong("is no list of acknowledgements"))?;
            Ok(Record::Acks { clock_s, watermark: 0, done })
        }
        AHEAD => {
            let (clock_s, entries) = decode_ranges(rest).ok_or_else(|| wrong("is no list of entries"))?;
            Ok(Record::Ahead { clock_s, entries })
        }
        kind => Err(wrong(&format!("has the unknown kind {kind}"))),
    }
}

fn decode_entry(mut rest: Bytes) -> Result<Stored, String> {
    let cut_short = || "ends inside an entry".to_owned();
    if rest.is_empty() {
        return Err(cut_short());
    }
    let flags = rest.get_u8();
    if flags & !(EXACTLY_ONCE | RETAIN | EXPIRES | WHOLE) != 0 {
        return Err(format!("has the unknown flags {flags:#04x}"));
    }
    let expiry = if flags & EXPIRES == 0 {
        None
    } else {
        let since_s = take_varint(&mut rest).ok_or_else(cut_short)?;
        let after_s = take_varint(&mut rest).and_then(|after_s| u32::try_from(after_s).ok());
        Some(Expiry { since_s, after_s: after_s.ok_or_else(cut_short)? })
    };
    if flags & WHOLE != 0 {
        return Ok(Stored { publish: decode_packet(&rest)?, topic_number: 0, expiry });
    }
    let topic_number = take_varint(&mut rest).ok_or_else(cut_short)?;
    let mut topic = "".into();
    if topic_number == 0 {
        let bytes = take_varint(&mut rest).and_then(|bytes| usize::try_from(bytes).ok());
        let bytes = bytes.filter(|bytes| *bytes <= rest.len()).ok_or_else(cut_short)?;
        let text = String::from_utf8(rest.split_to(bytes).to_vec());
        topic = text.map_err(|_| "has a topic that is no UTF-8".to_owned())?.into();
    }
    let qos = if flags & EXACTLY_ONCE == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
    let retain = flags & RETAIN != 0;
    let publish = Publish { qos, retain, topic, payload: rest, ..Publish::default() };
    Ok(Stored { publish, topic_number, expiry })
}

fn decode_packet(bytes: &[u8]) -> Result<Publish, String> {
    let mut rest = BytesMut::from(bytes);
    let limit = u32::try_from(RECORD_BYTES_MAX).expect("16 MiB fit");
    match Decoder::new(Role::Broker, Some(ProtocolVersion::V5), limit).decode(&mut rest) {
        Ok(Some(Packet::Publish(publish))) if rest.is_empty() => Ok(Publish { packet_id: None, ..publish }),
        Ok(_) => Err(format!("an entry of {} bytes is not one whole PUBLISH", bytes.len())),
        Err(error) => Err(format!("an entry of {} bytes: {error}", bytes.len())),
    }
}

fn decode_ranges(mut rest: Bytes) -> Option<(u64, Ranges)> {
    let clock_s = take_varint(&mut rest)?;
    let (mut done, mut next) = (Ranges::default(), 0_u64);
    while rest.has_remaining() {
        let first = next.checked_add(take_varint(&mut rest)?)?;
        let last = first.checked_add(take_varint(&mut rest)?)?;
        done.insert_range(first, last);
        next = last.checked_add(1)?;
    }
    Some((clock_s, done))
}

fn put_varint(bytes: &mut impl BufMut, mut number: u64) {
    while number >= 0x80 {
        bytes.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.put_u8(number as u8);
}

fn take_varint(bytes: &mut Bytes) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = bytes.has_remaining().then(|| bytes.get_u8())?;
        let part = u64::from(byte & 0x7f);
        // The tenth byte has one bit.
        if shift == 63 && part > 1 {
            return None;
        }
        number |= part << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Message;

    fn entry() -> Publish {
        Message::new("dev/7/telemetry/gps", "{}").qos(QoS::AtLeastOnce).into_publish()
    }

    fn with_id() -> Publish {
        Message::new("dev/7/telemetry/gps", "{}")
            .qos(QoS::AtLeastOnce)
            .user_property("im-id", "a1")
            .into_publish()
    }

    fn ranges(list: &[(u64, u64)]) -> Ranges {
        let mut ranges = Ranges::default();
        for (first, last) in list {
            ranges.insert_range(*first, *last);
        }
        ranges
    }

    #[test]
    fn records_of_queues_before_there_were_classes_are_read() {
        let golden = b"\x01\x32\x26\x00\x13dev/7/telemetry/gps\x00\x01\x0c\x26\x00\x05im-id\x00\x02a1{}";
        let stored = Stored { publish: with_id(), topic_number: 0, expiry: None };
        assert_eq!(decode(&Bytes::from_static(golden)), Ok(Record::Entry(stored)));
        let golden = b"\x02\x05\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0";
        let acks = Record::Acks { clock_s: 0, watermark: 5, done: ranges(&[(7, 7)]) };
        assert_eq!(decode(&Bytes::from_static(golden)), Ok(acks));
        assert!(is_entry(b"\x01") && !is_entry(b"\x02"));
    }

    #[test]
    fn records_on_disk_keep_their_form() {
        let check = |publish: &Publish, topic_number, golden: &'static [u8]| {
            let bytes = encode_entry(publish, topic_number, 300).unwrap();
            assert_eq!(bytes, golden);
            let Record::Entry(stored) = decode(&bytes).unwrap() else { panic!("{golden:?}") };
            let after_s = publish.properties.message_expiry_interval_s;
            assert_eq!(stored.expiry, after_s.map(|after_s| Expiry { since_s: 300, after_s }));
            let mut expected = publish.clone();
            expected.properties.message_expiry_interval_s = None;
            if topic_number > 0 {
                expected.topic = "".into();
            }
            assert_eq!((stored.publish, stored.topic_number), (expected, topic_number));
        };
        check(&entry(), 1, b"\x03\x00\x01{}");
        check(&entry(), 0, b"\x03\x00\x00\x13dev/7/telemetry/gps{}");
        let retained = Publish { retain: true, qos: QoS::ExactlyOnce, ..entry() };
        check(&retained, 200, b"\x03\x03\xc8\x01{}");
        let expiring = Message::new("t", "x").qos(QoS::AtLeastOnce).expiry_s(60).into_publish();
        check(&expiring, 2, b"\x03\x04\xac\x02\x3c\x02x");
        let golden = b"\x03\x08\x32\x26\x00\x13dev/7/telemetry/gps\x00\x01\x0c\x26\x00\x05im-id\x00\x02a1{}";
        check(&with_id(), 0, golden);

        let done = ranges(&[(3, 5), (7, 7), (300, 1_000)]);
        let bytes = encode_acks(300, &done);
        assert_eq!(bytes, b"\x04\xac\x02\x03\x02\x01\x00\xa4\x02\xbc\x05");
        assert_eq!(
            decode(&bytes.into()),
            Ok(Record::Acks { clock_s: 300, watermark: 0, done: done.clone() })
        );
        let bytes = encode_ahead(300, &done);
        assert_eq!(bytes, b"\x05\xac\x02\x03\x02\x01\x00\xa4\x02\xbc\x05");
        assert_eq!(decode(&bytes.into()), Ok(Record::Ahead { clock_s: 300, entries: done }));
    }

    #[test]
    fn foreign_records_are_refused_with_what_is_wrong() {
        let cases: [(&'static [u8], &str); 11] = [
            (b"", "empty"),
            (b"\x09", "unknown kind 9"),
            (b"\x02\0\0", "unknown kind 2"),
            (b"\x01\x32", "not one whole PUBLISH"),
            (b"\x01\xc0\x00", "not one whole PUBLISH"),
            (b"\x03", "ends inside an entry"),
            (b"\x03\x10\x01", "unknown flags 0x10"),
            (b"\x03\x04\x01", "ends inside an entry"),
            (b"\x03\x00\x00\x09abc", "ends inside an entry"),
            (b"\x03\x00\x00\x01\xff", "no UTF-8"),
            (b"\x04\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x01", "no list of acknowledgements"),
        ];
        for (bytes, expected) in cases {
            let error = decode(&Bytes::from_static(bytes)).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic() {
        for seed in 0..20_000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut bytes = vec![0; rng.usize(0..40)];
            rng.fill(&mut bytes);
            if let Some(kind) = bytes.first_mut() {
                *kind %= 6;
            }
            drop(decode(&bytes.into()));
        }
    }
}
