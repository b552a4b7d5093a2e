//! What is wrong with bytes that are no packet.

use crate::ReasonCode;

/// Why bytes could not be decoded. Each maps to one reason code; the connection ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes break the packet format.
    #[error("malformed {packet}: {what}")]
    Malformed {
        /// The packet type's name.
        packet: &'static str,
        /// What was found and what was expected.
        what: String,
    },
    /// The packet is well formed but not allowed.
    #[error("protocol error in {packet}: {what}")]
    Protocol {
        /// The packet type's name.
        packet: &'static str,
        /// What was found and what was expected.
        what: String,
    },
    /// The fixed header announces more bytes than the limit.
    #[error("packet of {bytes} bytes is over the limit of {limit} bytes")]
    PacketTooLarge {
        /// Whole packet, fixed header included.
        bytes: u64,
        /// The limit in force.
        limit: u32,
    },
    /// CONNECT asks for a protocol name or level that is not served.
    #[error("protocol {name:?} level {level} is not supported (3.1.1 is \"MQTT\" 4, 5.0 is \"MQTT\" 5)")]
    UnsupportedProtocolVersion {
        /// Protocol name sent (lossy UTF-8, cut to 32 bytes).
        name: String,
        /// Protocol level sent.
        level: u8,
    },
    /// A PUBLISH has the topic alias 0.
    #[error("topic alias 0 in PUBLISH is not permitted")]
    TopicAliasZero,
    /// A topic name is not allowed.
    #[error("{packet} topic name {topic:?} is invalid: {what}")]
    TopicName {
        /// The packet type's name.
        packet: &'static str,
        /// The name sent, cut to 128 characters.
        topic: String,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl DecodeError {
    /// Returns the reason code for CONNACK or DISCONNECT.
    pub fn reason(&self) -> ReasonCode {
        match self {
            Self::Malformed { .. } => ReasonCode::MalformedPacket,
            Self::Protocol { .. } => ReasonCode::ProtocolError,
            Self::PacketTooLarge { .. } => ReasonCode::PacketTooLarge,
            Self::UnsupportedProtocolVersion { .. } => ReasonCode::UnsupportedProtocolVersion,
            Self::TopicAliasZero => ReasonCode::TopicAliasInvalid,
            Self::TopicName { .. } => ReasonCode::TopicNameInvalid,
        }
    }
}
