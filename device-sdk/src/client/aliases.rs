//! Topics that go out by a number after the first time on a connection (5.0, section 3.3.2.3.4).

use std::collections::HashMap;
use std::num::NonZeroU16;

use bytestring::ByteString;
use protocol::{Packet, ProtocolVersion, Publish, encoded_len};

use super::link::Limits;

/// The aliases of one connection. The first topics get them: devices have few, and send the same ones all day.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    /// As the program wants.
    max: u16,
    by_topic: HashMap<ByteString, NonZeroU16>,
}

impl Aliases {
    pub(super) fn with_max(max: u16) -> Self {
        Self { max, by_topic: HashMap::new() }
    }

    /// [MQTT-3.3.2-7] an alias means nothing on another connection.
    pub(super) fn forget(&mut self) {
        self.by_topic.clear();
    }

    /// Makes the PUBLISH as it goes over the wire.
    pub(super) fn shorten(&mut self, mut publish: Publish, limits: &Limits) -> Publish {
        if let Some(alias) = self.by_topic.get(&publish.topic) {
            publish.topic = ByteString::new();
            publish.properties.topic_alias = Some(*alias);
            return publish;
        }
        // [MQTT-3.2.2-17] no more than the broker takes.
        let max = self.max.min(limits.topic_aliases_max);
        let next = u16::try_from(self.by_topic.len() + 1).ok().filter(|next| *next <= max);
        let Some(alias) = next.and_then(NonZeroU16::new) else { return publish };
        let mut first = publish.clone();
        first.properties.topic_alias = Some(alias);
        // [MQTT-3.2.2-15] the alias itself has three bytes, for which there may be no room.
        let bytes = encoded_len(&Packet::Publish(first.clone()), ProtocolVersion::V5);
        if limits.packet_bytes_max.is_some_and(|limit| bytes > limit as usize) {
            return publish;
        }
        self.by_topic.insert(publish.topic, alias);
        first
    }
}
