//! One connection: its state, and what the broker allows on it.

use protocol::{ConnAckProperties, ProtocolVersion, QoS};

/// Where the connection stands.
#[derive(Debug)]
pub(super) enum Link {
    /// None.
    Down,
    /// CONNECT was sent.
    AwaitingConnAck { asked_ms: u64, deadline_ms: u64 },
    /// Accepted.
    Up(Up),
}

#[derive(Debug)]
pub(super) struct Up {
    pub(super) limits: Limits,
}

impl Link {
    pub(super) fn up(limits: Limits) -> Self {
        Self::Up(Up { limits })
    }
}

/// What the broker takes, from CONNACK.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub(super) version: ProtocolVersion,
    /// Most QoS 1/2 publishes without their last acknowledgement [MQTT-3.3.4-7].
    pub(super) inflight_max: usize,
    /// Largest packet [MQTT-3.2.2-15].
    pub(super) packet_bytes_max: Option<u32>,
    pub(super) qos_max: QoS,
    pub(super) retain: bool,
    /// Topic aliases that it takes [MQTT-3.2.2-18].
    pub(super) topic_aliases_max: u16,
}

impl Limits {
    pub(super) fn new(properties: &ConnAckProperties, inflight_max: u16, version: ProtocolVersion) -> Self {
        let theirs = properties.receive_maximum.map_or(u16::MAX, |max| max.get());
        Self {
            version,
            inflight_max: usize::from(inflight_max.min(theirs)),
            packet_bytes_max: properties.packet_bytes_max.map(|max| max.get()),
            qos_max: properties.maximum_qos.unwrap_or(QoS::ExactlyOnce),
            retain: properties.retain_available.unwrap_or(true),
            topic_aliases_max: properties.topic_alias_max.unwrap_or(0),
        }
    }
}
