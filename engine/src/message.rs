//! One accepted message, stored once however many queues it is in.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use bytestring::ByteString;
use protocol::{Publish, PublishProperties, QoS, Shared, UserProperties, im};

use crate::Now;
use crate::body::{Body, BodySlot};
use crate::memory::Held;
use crate::record::{Form, GroupNo, Source};

/// Number of a message in this shard, over restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct MsgNo(pub(crate) u64);

/// When a message stops being worth delivering, on both clocks: the monotonic one decides while the
/// process lives, the Unix one survives a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expiry {
    pub(crate) monotonic_ms: u64,
    unix_ms: NonZeroU64,
}

impl Expiry {
    /// Takes an expiry back from its Unix time.
    pub(crate) fn from_unix(unix_ms: u64, now: Now) -> Self {
        let left_ms = unix_ms.saturating_sub(now.unix_ms);
        Self::new(now.monotonic_ms.saturating_add(left_ms), unix_ms)
    }

    /// Makes one of what both clocks say.
    pub(crate) fn new(monotonic_ms: u64, unix_ms: u64) -> Self {
        // 1970 is past either way.
        Self { monotonic_ms, unix_ms: NonZeroU64::new(unix_ms).unwrap_or(NonZeroU64::MIN) }
    }

    pub(crate) fn unix_ms(self) -> u64 {
        self.unix_ms.get()
    }

    pub(crate) fn after(interval_s: u32, now: Now) -> Self {
        let ms = u64::from(interval_s) * 1000;
        Self::new(now.monotonic_ms + ms, now.unix_ms.saturating_add(ms))
    }

    pub(crate) fn is_past(self, now: Now) -> bool {
        self.monotonic_ms <= now.monotonic_ms
    }
}

/// Says something that is found out after a message is made: once set it stays.
#[derive(Debug, Default)]
pub(crate) struct Flag(AtomicBool);

impl Flag {
    pub(crate) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Says whether it was set before.
    pub(crate) fn set(&self) -> bool {
        self.0.swap(true, Ordering::Relaxed)
    }
}

impl From<bool> for Flag {
    fn from(is_set: bool) -> Self {
        Self(is_set.into())
    }
}

impl Clone for Flag {
    fn clone(&self) -> Self {
        Self(self.get().into())
    }
}

impl PartialEq for Flag {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for Flag {}

/// An accepted message: what decisions need of it, and its body while that is in memory. Nothing else of it ever
/// changes; queues, retained and in-flight entries share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) no: MsgNo,
    /// The record that it belongs to, 0 = none.
    pub(crate) record: u64,
    /// Whether deliveries wait for that record.
    pub(crate) is_gated: bool,
    /// Whether that record holds it: its body can be read there.
    pub(crate) is_written: Flag,
    /// Whether its body stays in memory all the same.
    pub(crate) is_pinned: bool,
    /// Whether queues are drained of it first.
    pub(crate) is_high: bool,
    /// QoS it was published at.
    pub(crate) qos: QoS,
    /// Retain flag it was published with.
    pub(crate) retain: bool,
    pub(crate) topic: ByteString,
    pub(crate) expiry: Option<Expiry>,
    /// Number in its conversation.
    pub(crate) seq: Option<u64>,
    /// `im-ts`.
    pub(crate) ts_unix_ms: u64,
    /// Hash of user, topic and collapse key.
    pub(crate) collapse: Option<NonZeroU64>,
    /// See [`queue_bytes`].
    pub(crate) bytes: u32,
    pub(crate) payload_bytes: u32,
    pub(crate) body: BodySlot,
    /// Its share of the shard's memory, its body's excepted.
    pub(crate) held: Held,
}

/// Names that only the broker sets: removed from every incoming PUBLISH and will
/// (docs/protocol.md section 2).
const BROKER_PROPERTIES: [&str; 6] =
    [im::IM_SEQ, im::IM_DUP, im::IM_FROM, im::IM_TS, im::IM_GAP, im::IM_KEEPALIVE];

/// Removes what only the broker may set.
pub(crate) fn strip_broker_properties(properties: &mut UserProperties) {
    if properties.iter().any(|(name, _)| name.starts_with("im-")) {
        properties.retain(|(name, _)| !BROKER_PROPERTIES.contains(&&**name));
    }
}

/// Copies a string out of the buffer that it came in: a slice that stays would keep all of it.
pub(crate) fn compact(string: &ByteString) -> ByteString {
    ByteString::from(&**string)
}

/// Copies all that properties hold out of the buffer that they came in.
pub(crate) fn compact_properties(properties: &mut PublishProperties) {
    for (name, value) in &mut properties.user_properties {
        (*name, *value) = (compact(name), compact(value));
    }
    for string in [&mut properties.response_topic, &mut properties.content_type].into_iter().flatten() {
        *string = compact(string);
    }
    if let Some(bytes) = &mut properties.correlation_data {
        *bytes = Bytes::copy_from_slice(bytes);
    }
}

/// `im-id` of a message. Each message without one gets one of the broker's own, which most never tell anybody: so it
/// is a number until somebody asks.
#[derive(Clone, Debug)]
pub(crate) enum MessageId {
    /// The broker's own: 16 hexadecimal digits.
    Own(u64),
    /// The sender's, or read from the log.
    Given(ByteString),
}

impl MessageId {
    /// Gives the id to somebody who reads it, without an allocation.
    pub(crate) fn with<R>(&self, read: impl FnOnce(&str) -> R) -> R {
        match self {
            Self::Own(number) => {
                let digit = |at: u32| b"0123456789abcdef"[(number >> (60 - 4 * at)) as usize & 15];
                let digits: [u8; 16] = std::array::from_fn(|at| digit(at as u32));
                read(std::str::from_utf8(&digits).expect("hexadecimal digits are ASCII"))
            }
            Self::Given(id) => read(id),
        }
    }

    /// Returns the id as a string.
    pub(crate) fn text(&self) -> ByteString {
        match self {
            Self::Own(_) => self.with(|id| ByteString::from(id)),
            Self::Given(id) => id.clone(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Own(_) => 16,
            Self::Given(id) => id.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for MessageId {
    fn default() -> Self {
        Self::Given(ByteString::new())
    }
}

impl From<&str> for MessageId {
    fn from(id: &str) -> Self {
        Self::Given(id.into())
    }
}

impl From<ByteString> for MessageId {
    fn from(id: ByteString) -> Self {
        Self::Given(id)
    }
}

impl PartialEq for MessageId {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Own(one), Self::Own(other)) => one == other,
            (one, other) => one.with(|one| other.with(|other| one == other)),
        }
    }
}

impl Eq for MessageId {}

/// Returns the first value of a user property.
pub(crate) fn user_property<'a>(properties: &'a UserProperties, name: &str) -> Option<&'a ByteString> {
    properties.iter().find(|(n, _)| n == name).map(|(_, value)| value)
}

/// Bytes that a message occupies in a queue's account: what the sender made us keep.
pub(crate) fn queue_bytes(topic: &str, payload: &Bytes, properties: &PublishProperties) -> usize {
    account_bytes(topic, payload.len(), properties)
}

/// Returns what a message occupies in a queue's account, and its payload.
pub(crate) fn sizes(topic: &str, payload_bytes: usize, properties: &PublishProperties) -> (u32, u32) {
    let bytes = account_bytes(topic, payload_bytes, properties);
    (bytes.min(u32::MAX as usize) as u32, payload_bytes.min(u32::MAX as usize) as u32)
}

fn account_bytes(topic: &str, payload_bytes: usize, properties: &PublishProperties) -> usize {
    let user: usize = properties.user_properties.iter().map(|(n, v)| n.len() + v.len() + 64).sum();
    let strings =
        [&properties.response_topic, &properties.content_type].into_iter().flatten().map(|s| s.len());
    let correlation = properties.correlation_data.as_ref().map_or(0, Bytes::len);
    topic.len() + payload_bytes + user + strings.sum::<usize>() + correlation + 64
}

impl Message {
    /// Notes how large it is; its body must be there.
    pub(crate) fn sized(mut self) -> Self {
        if let Some(body) = self.body.load().as_deref() {
            (self.bytes, self.payload_bytes) = sizes(&self.topic, body.payload.len(), &body.properties);
        }
        self
    }

    /// Bytes it occupies in a queue's account.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// Bytes of its body in that.
    pub(crate) fn body_bytes(&self) -> usize {
        self.bytes().saturating_sub(self.topic.len())
    }

    /// The record that deliveries wait for, 0 = none.
    pub(crate) fn ticket(&self) -> u64 {
        if self.is_gated { self.record } else { 0 }
    }

    /// The record that holds it, 0 = none.
    pub(crate) fn place(&self) -> u64 {
        if self.is_written.get() { self.record } else { 0 }
    }

    /// `im-from`; empty for messages of the broker, and while the body is away.
    pub(crate) fn from(&self) -> ByteString {
        self.body.load().as_ref().map_or_else(ByteString::new, |body| body.from.clone())
    }

    /// Whether a client published it; unknown while the body is away.
    pub(crate) fn is_by(&self, client: &str) -> bool {
        self.body.load().as_ref().is_some_and(|body| body.client == client)
    }

    /// Makes the properties that it goes out with to everybody: those of its sender and the broker's own.
    pub(crate) fn outgoing(&self, body: &Body) -> Shared<PublishProperties> {
        let of = &body.properties;
        let mut user_properties = Vec::with_capacity(of.user_properties.len() + 4);
        user_properties.extend_from_slice(&of.user_properties);
        body.push_broker_properties(self, &mut user_properties);
        let properties = PublishProperties {
            payload_format_utf8: of.payload_format_utf8,
            message_expiry_interval_s: None,
            topic_alias: None,
            response_topic: of.response_topic.clone(),
            correlation_data: of.correlation_data.clone(),
            user_properties,
            subscription_identifiers: Vec::new(),
            content_type: of.content_type.clone(),
        };
        properties.into()
    }

    /// Makes the PUBLISH for one recipient, with the properties of all; packet id, DUP and retain are the caller's.
    pub(crate) fn to_publish(
        &self,
        body: &Body,
        mut properties: Shared<PublishProperties>,
        qos: QoS,
        subscription_identifiers: &[u32],
        now: Now,
    ) -> Publish {
        if let Some(expiry) = self.expiry {
            // [MQTT-3.3.2-6] the interval sent is the received one less the time it waited here.
            let left_ms = expiry.monotonic_ms.saturating_sub(now.monotonic_ms);
            let left_s = left_ms.div_ceil(1000).min(u64::from(u32::MAX)) as u32;
            properties.message_expiry_interval_s = Some(left_s);
        }
        if !subscription_identifiers.is_empty() {
            properties.subscription_identifiers = subscription_identifiers.to_vec();
        }
        Publish {
            dup: false,
            qos,
            retain: false,
            topic: self.topic.clone(),
            packet_id: None,
            properties,
            payload: body.payload.clone(),
        }
    }
}

/// A message in a session's queue or in flight to it: a reference and what is particular to the recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) message: Arc<Message>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) origin: Origin,
    pub(crate) subscription_identifiers: Identifiers,
}

/// Subscription identifiers of a delivery: mostly none, which needs no more than a word.
#[expect(clippy::box_collection, reason = "a boxed slice is two words in each place of each queue")]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identifiers(Option<Box<Vec<u32>>>);

impl From<Vec<u32>> for Identifiers {
    fn from(identifiers: Vec<u32>) -> Self {
        Self((!identifiers.is_empty()).then(|| Box::new(identifiers)))
    }
}

impl FromIterator<u32> for Identifiers {
    fn from_iter<T: IntoIterator<Item = u32>>(identifiers: T) -> Self {
        Vec::from_iter(identifiers).into()
    }
}

impl std::ops::Deref for Identifiers {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        self.0.as_deref().map_or(&[], Vec::as_slice)
    }
}

/// What brought a message to a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// See [`Source::Subscriptions`].
    Subscriptions,
    /// See [`Source::Retained`].
    Retained,
    /// See [`Source::Envelope`].
    Envelope,
    /// See [`Source::RetainedEnvelope`].
    RetainedEnvelope,
    /// A shared group.
    Group {
        share: Arc<Share>,
        /// Whether the log has it though it does not know the session: the group has members whose sessions
        /// last, and one of them gets it when the process dies.
        kept: bool,
    },
}

/// What identifies a shared group; it lives while the group has members or messages.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) no: GroupNo,
    /// The whole filter: `$share/{group}/{filter}`.
    pub(crate) full: ByteString,
    /// In which form its members get messages.
    pub(crate) form: Form,
}

impl Delivery {
    /// Whether the log has it at a session that it does not know.
    pub(crate) fn is_kept(&self) -> bool {
        matches!(self.origin, Origin::Group { kept: true, .. })
    }

    /// In which form it goes out.
    pub(crate) fn form(&self) -> Form {
        match &self.origin {
            Origin::Subscriptions | Origin::Retained => Form::Plain,
            Origin::Envelope | Origin::RetainedEnvelope => Form::Envelope,
            Origin::Group { share, .. } => share.form,
        }
    }

    pub(crate) fn source(&self) -> Source {
        match &self.origin {
            Origin::Subscriptions => Source::Subscriptions,
            Origin::Retained => Source::Retained,
            Origin::Envelope => Source::Envelope,
            Origin::RetainedEnvelope => Source::RetainedEnvelope,
            Origin::Group { share, .. } => Source::Group(share.no),
        }
    }
}

#[cfg(test)]
pub(crate) fn message_for_tests() -> Arc<Message> {
    let body =
        Body { id: MessageId::Given("id".into()), from: "u".into(), client: "c".into(), ..Body::default() };
    let message = Message {
        no: MsgNo(1),
        record: 0,
        is_gated: false,
        is_written: Flag::default(),
        is_pinned: false,
        is_high: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: "t".into(),
        expiry: None,
        seq: None,
        ts_unix_ms: 0,
        collapse: None,
        bytes: 0,
        payload_bytes: 0,
        body: body.into(),
        held: Held::default(),
    };
    Arc::new(message.sized())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_the_brokers_own_has_all_its_digits() {
        for number in [0, 0x0123_4567_89ab_cdef, u64::MAX] {
            let (own, text) = (MessageId::Own(number), format!("{number:016x}"));
            assert_eq!(own.text(), text);
            assert_eq!(own, MessageId::Given(text.into()), "as it is read from the log");
        }
    }
}
