//! MQTT 3.1.1 and 5.0 on the wire: bytes to typed packets and back, topics and filters, reason codes,
//! and the payloads of the IM topics.
//!
//! One codec serves both directions: the broker decodes what clients send and the device SDK what
//! brokers send. This crate knows no socket, no clock and no session; it never allocates by a length
//! that has not been received.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod absent;
mod codec;
mod error;
pub mod im;
mod packet;
mod reason;
mod topic;

pub use absent::{Absent, Shared};
pub use codec::{Decoder, EncodeError, Role, encode, encoded_len};
pub use error::DecodeError;
pub use packet::*;
pub use reason::ReasonCode;
pub use topic::{
    FilterError, TopicError, TopicFilter, filter_covers, filter_matches, filters_overlap, validate_topic_name,
};

pub use bytes::Bytes;
pub use bytestring::ByteString;
