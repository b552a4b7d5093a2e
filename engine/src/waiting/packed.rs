//! Places of a queue whose messages are not in memory: written down as what decisions ask of them.
//!
//! A message that waits for long is in the log; here stands where, and what limits, expiry, rights and receipts need
//! to know. Each place is written as what differs from the one before it, so a message takes about 12 bytes and its
//! topic is there once for those that follow each other with the same one. Of places one after the other, up to
//! [`PLACES`], one run is made. Invariant: what is written is what [`Packed::push`] took.

use std::num::NonZeroU64;
use std::sync::Arc;

use bytestring::ByteString;
use protocol::QoS;

use crate::body::BodySlot;
use crate::memory::Held;
use crate::message::{Delivery, Expiry, Flag, Identifiers, Message, MsgNo, Origin};
use crate::record::Source;

/// Places in one run at most: as many as are read ahead.
pub(super) const PLACES: usize = 64;

/// Bytes that a place mostly takes, its topic excepted.
const PLACE_BYTES: usize = 13;

/// What decisions need of a message that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outline<'a> {
    pub(crate) no: MsgNo,
    pub(crate) source: Source,
    /// QoS it goes out with.
    pub(crate) qos: QoS,
    pub(crate) topic: &'a str,
    pub(crate) seq: Option<u64>,
    pub(crate) expiry: Option<Expiry>,
    /// See [`crate::message::queue_bytes`].
    pub(crate) bytes: u32,
    /// The record that holds it.
    pub(crate) place: u64,
}

impl<'a> From<&'a Delivery> for Outline<'a> {
    fn from(delivery: &'a Delivery) -> Self {
        let message = &*delivery.message;
        Self {
            no: message.no,
            source: delivery.source(),
            qos: delivery.qos,
            topic: &message.topic,
            seq: message.seq,
            expiry: message.expiry,
            bytes: message.bytes,
            place: message.place(),
        }
    }
}

/// One place as it is written and read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written<'a> {
    pub(crate) outline: Outline<'a>,
    pub(crate) retain: bool,
    pub(crate) message_qos: QoS,
    pub(crate) message_retain: bool,
    pub(crate) is_high: bool,
    /// Whether others wait for the same message.
    pub(crate) is_shared: bool,
    pub(crate) ts_unix_ms: u64,
    pub(crate) collapse: Option<NonZeroU64>,
    pub(crate) payload_bytes: u32,
    pub(crate) identifiers: Vec<u32>,
}

impl<'a> From<&'a Delivery> for Written<'a> {
    fn from(delivery: &'a Delivery) -> Self {
        let message = &*delivery.message;
        Self {
            outline: delivery.into(),
            retain: delivery.retain,
            message_qos: message.qos,
            message_retain: message.retain,
            is_high: message.is_high,
            is_shared: Arc::strong_count(&delivery.message) > 1,
            ts_unix_ms: message.ts_unix_ms,
            collapse: message.collapse,
            payload_bytes: message.payload_bytes,
            identifiers: delivery.subscription_identifiers.to_vec(),
        }
    }
}

impl Written<'_> {
    /// Makes the message again, without its body and uncounted.
    pub(super) fn message(&self, topic: ByteString) -> Message {
        let outline = &self.outline;
        Message {
            no: outline.no,
            record: outline.place,
            // It was durable when it was written down.
            is_gated: false,
            is_written: Flag::from(true),
            is_pinned: false,
            is_high: self.is_high,
            qos: self.message_qos,
            retain: self.message_retain,
            topic,
            expiry: outline.expiry,
            seq: outline.seq,
            ts_unix_ms: self.ts_unix_ms,
            collapse: self.collapse,
            bytes: outline.bytes,
            payload_bytes: self.payload_bytes,
            body: BodySlot::default(),
            held: Held::default(),
        }
    }

    /// Makes the place again.
    pub(super) fn delivery(self, message: Arc<Message>) -> Delivery {
        let origin = match self.outline.source {
            Source::Retained => Origin::Retained,
            Source::Envelope => Origin::Envelope,
            Source::RetainedEnvelope => Origin::RetainedEnvelope,
            Source::Subscriptions | Source::Group(_) => Origin::Subscriptions,
        };
        let subscription_identifiers = Identifiers::from(self.identifiers);
        Delivery { message, qos: self.outline.qos, retain: self.retain, origin, subscription_identifiers }
    }
}

/// Whether a place may be written down: its message can be read again where its record says.
pub(super) fn can_be_packed(delivery: &Delivery, committed: u64) -> bool {
    let message = &delivery.message;
    let place = message.place();
    !matches!(delivery.origin, Origin::Group { .. }) && !message.is_pinned && place > 0 && place <= committed
}

/// What the next place is told as a difference from.
#[derive(Clone, Copy, Debug, Default)]
struct Before {
    no: u64,
    place: u64,
    ts_unix_ms: u64,
    seq: u64,
    /// Where its topic stands.
    topic: (u32, u32),
}

/// A run of places.
#[derive(Debug, Default)]
pub(super) struct Packed {
    written: Vec<u8>,
    /// Which were not empty from the beginning: the others are not written.
    there: u64,
    /// Which are not empty now.
    left: u64,
    count: u8,
    last: Before,
}

/// Bits of the first byte of a place: the QoS has two, the source two.
mod bit {
    pub(super) const SOURCE: u32 = 2;
    pub(super) const RETAIN: u8 = 1 << 4;
    pub(super) const SAME_TOPIC: u8 = 1 << 5;
    pub(super) const SHARED: u8 = 1 << 6;
    /// A second byte follows.
    pub(super) const MORE: u8 = 1 << 7;
    pub(super) const MESSAGE_RETAIN: u8 = 1 << 2;
    pub(super) const HIGH: u8 = 1 << 3;
    pub(super) const EXPIRY: u8 = 1 << 4;
    pub(super) const SEQ: u8 = 1 << 5;
    pub(super) const COLLAPSE: u8 = 1 << 6;
    pub(super) const IDENTIFIERS: u8 = 1 << 7;
}

const SOURCES: [Source; 4] =
    [Source::Subscriptions, Source::Retained, Source::Envelope, Source::RetainedEnvelope];

impl Packed {
    pub(super) fn is_full(&self) -> bool {
        usize::from(self.count) == PLACES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Places that are not empty.
    pub(super) fn len(&self) -> usize {
        self.left.count_ones() as usize
    }

    /// The first place that is not empty.
    pub(super) fn oldest(&self) -> Option<usize> {
        (self.left > 0).then_some(self.left.trailing_zeros() as usize)
    }

    /// Places, empty ones counted.
    pub(super) fn count(&self) -> usize {
        usize::from(self.count)
    }

    /// Bytes that it holds besides itself.
    pub(super) fn held_bytes(&self) -> usize {
        self.written.capacity()
    }

    /// Makes one that so many places are expected in.
    pub(super) fn with_room_for(places: usize, topic: &str) -> Self {
        let bytes = topic.len() + PLACE_BYTES * places.clamp(1, PLACES);
        Self { written: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// Writes the next place down, or an empty one.
    pub(super) fn push(&mut self, place: Option<&Written<'_>>) {
        let at = self.count;
        self.count += 1;
        let Some(place) = place else { return };
        (self.there, self.left) = (self.there | 1 << at, self.left | 1 << at);
        let Outline { no, source, qos, topic, seq, expiry, bytes, place: record } = place.outline;
        let source = SOURCES.iter().position(|known| *known == source).unwrap_or_default();
        let set = |bit: u8, is_set: bool| if is_set { bit } else { 0 };
        let more = set(bit::MESSAGE_RETAIN, place.message_retain)
            | set(bit::HIGH, place.is_high)
            | set(bit::EXPIRY, expiry.is_some())
            | set(bit::SEQ, seq.is_some())
            | set(bit::COLLAPSE, place.collapse.is_some())
            | set(bit::IDENTIFIERS, !place.identifiers.is_empty());
        let has_more = more > 0 || place.message_qos != qos;
        let is_same_topic = !self.written.is_empty() && self.topic_before() == topic.as_bytes();
        let before = self.last;
        let first = qos as u8
            | (source as u8) << bit::SOURCE
            | set(bit::RETAIN, place.retain)
            | set(bit::SAME_TOPIC, is_same_topic)
            | set(bit::SHARED, place.is_shared)
            | set(bit::MORE, has_more);
        self.written.push(first);
        if has_more {
            self.written.push(place.message_qos as u8 | more);
        }
        self.put_difference(no.0, before.no);
        self.put_difference(record, before.place);
        self.put_difference(place.ts_unix_ms, before.ts_unix_ms);
        self.put(u64::from(bytes));
        self.put_difference(u64::from(place.payload_bytes), u64::from(bytes));
        let mut topic_at = before.topic;
        if !is_same_topic {
            self.put(topic.len() as u64);
            topic_at = (self.written.len() as u32, topic.len() as u32);
            self.written.extend_from_slice(topic.as_bytes());
        }
        if let Some(expiry) = expiry {
            self.put(expiry.monotonic_ms);
            self.put_difference(expiry.unix_ms(), place.ts_unix_ms);
        }
        if let Some(seq) = seq {
            self.put_difference(seq, before.seq);
        }
        if let Some(collapse) = place.collapse {
            self.written.extend_from_slice(&collapse.get().to_le_bytes());
        }
        if !place.identifiers.is_empty() {
            self.put(place.identifiers.len() as u64);
            place.identifiers.iter().for_each(|identifier| self.put(u64::from(*identifier)));
        }
        let (ts_unix_ms, seq) = (place.ts_unix_ms, seq.unwrap_or(before.seq));
        self.last = Before { no: no.0, place: record, ts_unix_ms, seq, topic: topic_at };
        if self.is_full() {
            self.written.shrink_to_fit();
        }
    }

    /// Empties a place.
    pub(super) fn take(&mut self, at: usize) {
        self.left &= !(1 << at);
    }

    /// The place, if it is not empty.
    pub(super) fn get(&self, at: usize) -> Option<Written<'_>> {
        self.iter().find(|(number, _)| *number == at).map(|(_, written)| written)
    }

    /// All that are not empty, with their places in the run.
    pub(super) fn iter(&self) -> Iter<'_> {
        Iter { packed: self, at: 0, byte: 0, before: Before::default(), topic: "" }
    }

    fn topic_before(&self) -> &[u8] {
        let (from, bytes) = self.last.topic;
        &self.written[from as usize..(from + bytes) as usize]
    }

    /// Seven bits a byte, the lowest first.
    fn put(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.written.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.written.push(number as u8);
    }

    /// A difference may be below 0: its sign is the lowest bit.
    fn put_difference(&mut self, number: u64, before: u64) {
        let difference = number.wrapping_sub(before) as i64;
        self.put(((difference << 1) ^ (difference >> 63)) as u64);
    }
}

/// Goes through the places of a run that are not empty.
#[derive(Clone, Debug)]
pub(super) struct Iter<'a> {
    packed: &'a Packed,
    at: usize,
    byte: usize,
    /// The place before, without its topic.
    before: Before,
    topic: &'a str,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (usize, Written<'a>);

    fn next(&mut self) -> Option<(usize, Written<'a>)> {
        while self.at < self.packed.count() {
            let at = self.at;
            self.at += 1;
            if self.packed.there >> at & 1 == 1 {
                let written = self.read();
                if self.packed.left >> at & 1 == 1 {
                    return Some((at, written));
                }
            }
        }
        None
    }
}

impl<'a> Iter<'a> {
    fn read(&mut self) -> Written<'a> {
        let first = self.byte();
        let more = if first & bit::MORE != 0 { self.byte() } else { first & 0b11 };
        let has = |bit: u8| more & bit != 0 && first & bit::MORE != 0;
        let before = self.before;
        let no = self.difference(before.no);
        let place = self.difference(before.place);
        let ts_unix_ms = self.difference(before.ts_unix_ms);
        let bytes = self.number() as u32;
        let payload_bytes = self.difference(u64::from(bytes)) as u32;
        if first & bit::SAME_TOPIC == 0 {
            let to = self.number() as usize + self.byte;
            let topic = &self.packed.written[self.byte..to];
            self.topic = std::str::from_utf8(topic).expect("a topic was written here");
            self.byte = to;
        }
        let expiry = has(bit::EXPIRY).then(|| {
            let monotonic_ms = self.number();
            Expiry::new(monotonic_ms, self.difference(ts_unix_ms))
        });
        let seq = has(bit::SEQ).then(|| self.difference(before.seq));
        let collapse = if has(bit::COLLAPSE) { NonZeroU64::new(self.eight()) } else { None };
        let identifiers = if has(bit::IDENTIFIERS) {
            (0..self.number()).map(|_| self.number() as u32).collect()
        } else {
            Vec::new()
        };
        self.before = Before { no, place, ts_unix_ms, seq: seq.unwrap_or(before.seq), ..before };
        let qos = QoS::from_u8(first & 0b11).unwrap_or_default();
        let source = SOURCES[usize::from(first >> bit::SOURCE & 0b11)];
        let topic = self.topic;
        Written {
            outline: Outline { no: MsgNo(no), source, qos, topic, seq, expiry, bytes, place },
            retain: first & bit::RETAIN != 0,
            message_qos: QoS::from_u8(more & 0b11).unwrap_or_default(),
            message_retain: has(bit::MESSAGE_RETAIN),
            is_high: has(bit::HIGH),
            is_shared: first & bit::SHARED != 0,
            ts_unix_ms,
            collapse,
            payload_bytes,
            identifiers,
        }
    }

    fn byte(&mut self) -> u8 {
        let byte = self.packed.written[self.byte];
        self.byte += 1;
        byte
    }

    fn eight(&mut self) -> u64 {
        let eight: [u8; 8] = std::array::from_fn(|_| self.byte());
        u64::from_le_bytes(eight)
    }

    fn number(&mut self) -> u64 {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.byte();
            number |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return number;
            }
        }
    }

    fn difference(&mut self, before: u64) -> u64 {
        let number = self.number();
        before.wrapping_add(number >> 1 ^ (number & 1).wrapping_neg())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::message_for_tests;
    use proptest::prelude::*;

    fn deliveries() -> impl Strategy<Value = Vec<Option<Delivery>>> {
        let number = || prop_oneof![Just(0), 0u64..300, Just(u64::MAX), any::<u64>()];
        let message = (number(), 1..=u64::MAX, number(), any::<(u32, u32, bool, bool)>(), 0u8..3, 0u8..6);
        let asked = (
            prop::option::of((number(), 1..=u64::MAX)),
            prop::option::of(number()),
            prop::option::of(1..=u64::MAX),
            prop::collection::vec(1u32..300_000_000, 0..3),
        );
        let place = (0u8..3, any::<bool>(), 0usize..4);
        let delivery = (message, asked, place).prop_map(|(message, asked, place)| {
            let (no, record, ts_unix_ms, (bytes, payload_bytes, retain, is_high), qos, topic) = message;
            let (expiry, seq, collapse, identifiers) = asked;
            let message = Message {
                no: MsgNo(no),
                record,
                is_written: Flag::from(true),
                ts_unix_ms,
                bytes,
                payload_bytes,
                retain,
                is_high,
                qos: QoS::from_u8(qos).unwrap(),
                topic: "tä/".repeat(usize::from(topic)).into(),
                expiry: expiry.map(|(monotonic_ms, unix_ms)| Expiry::new(monotonic_ms, unix_ms)),
                seq,
                collapse: collapse.and_then(NonZeroU64::new),
                body: BodySlot::default(),
                ..Message::clone(&message_for_tests())
            };
            let (qos, retain, source) = place;
            let origin =
                [Origin::Subscriptions, Origin::Retained, Origin::Envelope, Origin::RetainedEnvelope];
            Delivery {
                message: Arc::new(message),
                qos: QoS::from_u8(qos).unwrap(),
                retain,
                origin: origin[source].clone(),
                subscription_identifiers: identifiers.into(),
            }
        });
        prop::collection::vec(prop::option::weighted(0.9, delivery), 1..=PLACES)
    }

    proptest! {
        #[test]
        fn what_is_written_down_is_read_again(
            deliveries in deliveries(),
            taken in prop::collection::vec(0..PLACES, 0..8),
        ) {
            let mut packed = Packed::default();
            deliveries.iter().for_each(|delivery| packed.push(delivery.as_ref().map(Written::from).as_ref()));
            let mut expected: Vec<_> =
                deliveries.iter().enumerate().filter_map(|(at, d)| Some((at, d.clone()?))).collect();
            for taken in taken {
                packed.take(taken);
                expected.retain(|(at, _)| *at != taken);
                prop_assert!(packed.get(taken).is_none());
            }
            prop_assert_eq!(packed.count(), deliveries.len());
            prop_assert_eq!(packed.is_empty(), expected.is_empty());
            let read: Vec<_> = packed.iter().collect();
            for ((at, written), (expected_at, delivery)) in read.iter().zip(&expected) {
                prop_assert_eq!(at, expected_at);
                prop_assert_eq!(&written.outline, &Outline::from(delivery));
                prop_assert_eq!(&packed.get(*at), &Some(written.clone()));
                let message = Arc::new(written.message(written.outline.topic.into()));
                prop_assert_eq!(&written.clone().delivery(message), delivery);
            }
            prop_assert_eq!(read.len(), expected.len());
        }
    }

    #[test]
    fn a_message_takes_few_bytes() {
        let mut packed = Packed::default();
        for at in 0..PLACES as u64 {
            let message = Message {
                no: MsgNo(5_000_000 + at * 100_000),
                record: 7_000_000 + at * 1_500,
                is_written: Flag::from(true),
                ts_unix_ms: 1_800_000_000_000 + at * 330,
                bytes: 64 + 200 + 12,
                payload_bytes: 200,
                topic: "queue/123456".into(),
                ..Message::clone(&message_for_tests())
            };
            let (message, qos) = (Arc::new(message), QoS::AtLeastOnce);
            let (origin, subscription_identifiers) = (Origin::Subscriptions, Identifiers::default());
            let delivery = Delivery { message, qos, retain: false, origin, subscription_identifiers };
            packed.push(Some(&Written::from(&delivery)));
        }
        assert!(packed.held_bytes() <= 13 * PLACES, "{} bytes", packed.held_bytes());
    }
}
