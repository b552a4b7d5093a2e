//! Who a connection is: the authenticated user, and what that user is granted.

use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;

use crate::acl::AclRule;
use crate::config::OnFull;

/// An authenticated client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Principal {
    /// The user; `None` is anonymous, the shard names it `anon:{client id}`. Never starts with `anon:`.
    pub user: Option<ByteString>,
    /// Groups that rules of the node may name.
    pub groups: Arc<[ByteString]>,
    /// Rules of this principal alone (a token's, a hook's), looked at before the node's.
    pub rules: Arc<[AclRule]>,
    /// Bounds of its own.
    pub limits: SessionLimits,
}

/// Bounds of one session; `None` = the node's. The lower one holds where both are set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionLimits {
    /// Subscriptions.
    pub subscriptions_max: Option<usize>,
    /// Messages queued.
    pub queue_messages_max: Option<usize>,
    /// Bytes queued.
    pub queue_bytes_max: Option<usize>,
    /// What a full queue does.
    pub on_full: Option<OnFull>,
    /// QoS 1/2 messages in flight to the client.
    pub inflight_max: Option<NonZeroU16>,
    /// QoS 1/2 publishes that the client may have unacknowledged.
    pub receive_maximum: Option<NonZeroU16>,
    /// Largest packet taken, bytes; told to the client, enforced by the caller's decoder.
    pub packet_bytes_max: Option<NonZeroU32>,
    /// Levels of a topic or filter.
    pub topic_levels_max: Option<usize>,
    /// Longest session expiry granted, seconds.
    pub session_expiry_max_s: Option<u32>,
}

impl SessionLimits {
    /// The node's bounds and no others.
    pub(crate) const NONE: Self = Self {
        subscriptions_max: None,
        queue_messages_max: None,
        queue_bytes_max: None,
        on_full: None,
        inflight_max: None,
        receive_maximum: None,
        packet_bytes_max: None,
        topic_levels_max: None,
        session_expiry_max_s: None,
    };
}

/// Returns a session's bound: its own where that is lower than the node's.
pub(crate) fn lower<T: Ord + Copy>(own: Option<T>, node: T) -> T {
    own.map_or(node, |own| own.min(node))
}

/// The end of an enhanced authentication (MQTT 5.0 section 4.12), for CONNACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authentication {
    /// The method that CONNECT named. [MQTT-4.12.0-5] every later AUTH and the CONNACK name the same.
    pub method: ByteString,
    /// The broker's last data.
    pub data: Option<Bytes>,
}
