//! What a client tells its program.

use bytes::Bytes;
use protocol::{PacketId, PublishProperties, QoS, ReasonCode};

use crate::message::user_property;
use crate::{Class, DropReason};

/// Something that happened on the connection.
#[derive(Debug)]
pub enum Event {
    /// A connection is up; subscriptions are being renewed if the session was lost.
    Connected {
        /// Whether the broker resumed a session.
        session_present: bool,
    },
    /// The connection, or an attempt at one, failed.
    Disconnected {
        /// Why, for people.
        why: String,
        /// Pause before the next attempt, milliseconds.
        retry_in_ms: u64,
    },
    /// The broker answered CONNECT with a refusal; the client tries again all the same.
    Refused {
        /// The broker's code.
        reason: ReasonCode,
        /// Why, for people.
        why: String,
        /// Pause before the next attempt, milliseconds.
        retry_in_ms: u64,
    },
    /// A message arrived.
    Message(Incoming),
    /// The broker refused a subscription when it was renewed after the session was lost; no message
    /// comes for it any more.
    SubscriptionRefused {
        /// The filter.
        filter: String,
        /// The broker's code.
        reason: ReasonCode,
    },
    /// Accepted entries of the disk queue are gone without having reached the broker. Counted until the program takes the event;
    /// [`crate::QueueStatus::dropped`] has all of them.
    EntriesDropped {
        /// What they were for.
        class: Class,
        /// Why.
        reason: DropReason,
        /// How many.
        count: u64,
        /// How coarsely tracks were thinned so far, metres; 0 = not at all.
        tolerance_m: u32,
    },
    /// The broker refused an entry of the disk queue for good; it was removed, since it would block all
    /// entries behind it.
    EntryRefused {
        /// The entry's topic.
        topic: String,
        /// The entry's `im-id`.
        id: String,
        /// Why, for people.
        why: String,
    },
}

/// A message from the broker.
///
/// ```
/// use device_sdk::{Incoming, PublishProperties, QoS};
///
/// let mut properties = PublishProperties::default();
/// properties.user_properties.push(("im-seq".into(), "17".into()));
/// let message = Incoming {
///     topic: "im/depot/gate".to_owned(),
///     payload: "open at six".into(),
///     qos: QoS::AtLeastOnce,
///     retain: false,
///     dup: false,
///     properties,
///     ack: None,
/// };
/// assert_eq!((message.seq(), message.user_property("im-dup")), (Some(17), None));
/// ```
#[derive(Debug)]
pub struct Incoming {
    /// Topic name.
    pub topic: String,
    /// The application payload.
    pub payload: Bytes,
    /// Delivery guarantee it came with.
    pub qos: QoS,
    /// Whether it is a retained message.
    pub retain: bool,
    /// Whether the broker may have sent it before. A QoS 2 message is never handed over twice.
    pub dup: bool,
    /// 5.0 properties.
    pub properties: PublishProperties,
    /// What to give to [`crate::Client::ack`]: `Some` with manual acknowledgement at QoS 1 and 2. A dropped
    /// token leaves the message unacknowledged: the broker sends it again on the next connection.
    pub ack: Option<AckToken>,
}

impl Incoming {
    /// Returns the first user property with this name.
    pub fn user_property(&self, name: &str) -> Option<&str> {
        user_property(&self.properties.user_properties, name)
    }

    /// Returns the conversation's number of this message, from `im-seq`.
    pub fn seq(&self) -> Option<u64> {
        self.user_property("im-seq")?.parse().ok()
    }
}

/// The right to acknowledge one incoming message, once.
#[derive(Debug, PartialEq, Eq)]
pub struct AckToken {
    /// Counts hand-overs over the client's life.
    pub(crate) serial: u64,
    pub(crate) packet_id: PacketId,
    pub(crate) qos: QoS,
}

/// What the broker said about a published message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The acknowledgement's code, below 0x80; `Success` at QoS 0.
    pub reason: ReasonCode,
    /// The conversation's number of the message (`im-seq`); a duplicate's is the first one's.
    pub seq: Option<u64>,
    /// The message id (`im-id`), the sender's or the broker's.
    pub id: Option<String>,
    /// Whether the broker had this id before (`im-dup`).
    pub duplicate: bool,
}
