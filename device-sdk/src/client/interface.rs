//! What goes into a core and what comes out of it.

use bytestring::ByteString;
use protocol::{
    Connect, PacketId, Publish, QoS, ReasonCode, SubscribeFilter, SubscribeOptions, UserProperties,
};

use super::{Packet, Received};
use crate::heartbeat::{Action, ProbeOutcome};
use crate::queue::Entry;
use crate::{AckToken, ClientError, Incoming, Message, PublishError, Published};

/// What a core is made with.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// The CONNECT to send. Its `clean_start` is for the first connection, see [`super::Core::new`].
    pub connect: Connect,
    /// Most unacknowledged QoS 1/2 publishes each way.
    pub inflight_max: u16,
    /// Whether incoming messages wait for [`Input::Ack`].
    pub manual_ack: bool,
    /// Longest wait for CONNACK, milliseconds.
    pub connect_timeout_ms: u64,
}

/// What happens to a core.
#[derive(Debug)]
pub enum Input {
    /// A transport connection is open.
    Opened,
    /// A packet came.
    Received(Packet),
    /// Bytes came that are no packet.
    Undecodable(protocol::DecodeError),
    /// The transport ended.
    Closed {
        /// Why, for people.
        why: String,
    },
    /// The transport was reset by the other side, or by a box on the way.
    Reset {
        /// What the system said, for people.
        why: String,
    },
    /// The transport is not read, or read again, since the program does not take what came.
    Paused(bool),
    /// The program publishes; answered by [`Output::Published`] with the token.
    Publish {
        /// The caller's name for it.
        token: u64,
        /// Without packet identifier; the topic is valid.
        publish: Publish,
    },
    /// The program subscribes; answered by [`Output::Answered`].
    Subscribe {
        /// The caller's name for it.
        token: u64,
        /// At least one, all valid.
        filters: Vec<SubscribeFilter>,
        /// For the SUBSCRIBE packet; sent again when the subscription is renewed.
        user_properties: UserProperties,
    },
    /// The program unsubscribes; answered by [`Output::Answered`].
    Unsubscribe {
        /// The caller's name for it.
        token: u64,
        /// At least one, all valid.
        filters: Vec<ByteString>,
    },
    /// The program has done with a message.
    Ack(AckToken),
    /// [`Output::Keep`] is done, durably.
    Kept(Received),
    /// [`Output::Forget`] is done, durably.
    Forgotten(PacketId),
    /// The device is on another network: its name is in the next CONNECT as the user property `im-net` (5.0).
    Network(ByteString),
    /// The address of the broker that the next connection goes to, as far as it makes another way of it.
    Way(ByteString),
    /// A probe of [`Action::StartProbe`] ended.
    Probed {
        /// As given.
        id: u64,
        /// How.
        outcome: ProbeOutcome,
    },
    /// The program is leaving; a DISCONNECT goes out if there is a connection. The next [`Input::Opened`] goes on with the
    /// session.
    Disconnect,
    /// A deadline of [`super::Core::next_deadline_ms`] may have passed.
    Tick,
}

impl Input {
    /// Makes a publish of a message whose topic is valid.
    pub fn publish(token: u64, message: Message) -> Self {
        Self::Publish { token, publish: message.into_publish() }
    }

    /// Makes a publish of an entry of the disk queue.
    pub fn entry(token: u64, entry: &Entry) -> Self {
        Self::Publish { token, publish: entry.publish.clone() }
    }

    /// Makes a subscribe to one filter, which is valid.
    pub fn subscribe(token: u64, filter: &str, qos: QoS) -> Self {
        let options = SubscribeOptions { qos, ..SubscribeOptions::default() };
        let filters = vec![SubscribeFilter { filter: filter.into(), options }];
        Self::Subscribe { token, filters, user_properties: UserProperties::new() }
    }
}

/// What a core wants done, in this order.
#[derive(Debug)]
pub enum Output {
    /// Write a packet.
    Send(Packet),
    /// Close the transport once what was sent is written. The core has no connection any more;
    /// [`Input::Closed`] for it is not needed.
    Close {
        /// Why, for people.
        why: String,
    },
    /// The connection is up.
    Connected {
        /// Whether the broker resumed a session.
        session_present: bool,
    },
    /// The broker refused the connection; a [`Output::Close`] follows.
    Refused {
        /// Its code.
        reason: ReasonCode,
        /// Its words or the code's name.
        why: String,
    },
    /// The broker wants this client elsewhere, for now (0x9C) or for good (0x9D); an [`Output::Close`] follows.
    Referred {
        /// Which of the two.
        reason: ReasonCode,
        /// Where, if it said so (Server Reference).
        reference: Option<ByteString>,
    },
    /// A message for the program.
    Message(Incoming),
    /// A publish has ended; at QoS 0 as soon as it is sent.
    Published {
        /// As given.
        token: u64,
        /// How.
        result: Result<Published, PublishError>,
    },
    /// A subscribe or unsubscribe has ended.
    Answered {
        /// As given.
        token: u64,
        /// One code a filter.
        result: Result<Vec<ReasonCode>, ClientError>,
    },
    /// A renewed subscription was refused.
    SubscriptionRefused {
        /// The filter.
        filter: ByteString,
        /// The broker's code.
        reason: ReasonCode,
    },
    /// The heartbeat wants a probe begun or ended, or what it knows kept: no other actions come here.
    Heartbeat(Action),
    /// The network had forgotten the connection that was closed before: the next one needs no pause.
    ReconnectAtOnce,
    /// Keep this over restarts and answer with [`Input::Kept`]: its PUBREC waits for that. Only after [`super::Core::keep_received`].
    Keep(Received),
    /// Forget what was kept of this identifier, if anything, and answer with [`Input::Forgotten`]: its PUBCOMP waits for that. Only after
    /// [`super::Core::keep_received`].
    Forget(PacketId),
}
