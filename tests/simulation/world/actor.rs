//! A client of either kind, and the packets that both make.

use protocol::{
    Bytes, Connect, ConnectProperties, Packet, PacketId, ProtocolVersion, Publish, PublishProperties, QoS,
    UserProperties, Will, im,
};

use super::cast::{CAST, Kind, Role, WILL_TOPIC};
use super::device::Device;
use super::script::Script;
use crate::simulation::history::{Event, History, Number, Taken, Who};

/// Messages at QoS 1 and 2 that a client takes at once.
pub(in crate::simulation) const WINDOW_IN: u16 = 4;

/// Keep Alive of everyone, seconds.
const KEEP_ALIVE_S: u16 = 60;

pub(in crate::simulation) enum Actor {
    Device(Box<Device>),
    Script(Box<Script>),
}

impl Actor {
    pub(super) fn new(who: Who, role: &'static Role) -> Self {
        match role.kind {
            Kind::Device => Self::Device(Box::new(Device::new(who, role))),
            Kind::Script => Self::Script(Box::new(Script::new(who, role))),
        }
    }

    pub(super) fn connect(
        &mut self,
        now_ms: u64,
        will: Option<Number>,
        history: &mut History,
    ) -> Result<Box<Connect>, String> {
        match self {
            Self::Device(device) => device.connect(now_ms, history),
            Self::Script(script) => Ok(script.connect(will, history)),
        }
    }

    /// Its connection is gone.
    pub(super) fn lost(&mut self, who: Who, now_ms: u64, history: &mut History) -> Result<(), String> {
        history.push(Event::Lost { who });
        match self {
            Self::Device(device) => device.lost(now_ms, history)?,
            Self::Script(script) => script.is_connected = false,
        }
        Ok(())
    }

    /// The program publishes.
    pub(in crate::simulation) fn publish(
        &mut self,
        now_ms: u64,
        number: Number,
        history: &mut History,
    ) -> Result<(), String> {
        match self {
            Self::Device(device) => device.publish(now_ms, number, history)?,
            Self::Script(script) => script.publish(number),
        }
        Ok(())
    }

    /// The client of this simulation, if it is one.
    pub(in crate::simulation) fn script(&mut self) -> Option<&mut Script> {
        match self {
            Self::Device(_) => None,
            Self::Script(script) => Some(script),
        }
    }

    pub(super) fn take(
        &mut self,
        now_ms: u64,
        packet: Packet,
        sent_ms: u64,
        history: &mut History,
    ) -> Result<(), String> {
        match self {
            Self::Device(device) => device.take(now_ms, packet, sent_ms, history),
            Self::Script(script) => script.take(packet, sent_ms, history),
        }
    }

    pub(super) fn next_packet(&mut self, history: &mut History) -> Option<Packet> {
        match self {
            Self::Device(device) => device.next_packet(history),
            Self::Script(script) => script.next_packet(history),
        }
    }

    /// The program works on what it got, and time passes.
    pub(super) fn work(&mut self, now_ms: u64, history: &mut History) -> Result<(), String> {
        if let Self::Device(device) = self {
            device.acknowledge(now_ms, history)?;
            device.tick(now_ms, history)?;
        }
        Ok(())
    }

    pub(in crate::simulation) fn is_connected(&self) -> bool {
        match self {
            Self::Device(device) => device.is_connected,
            Self::Script(script) => script.is_connected,
        }
    }

    /// Whether it gave up its connection itself.
    pub(super) fn hung_up(&self) -> bool {
        matches!(self, Self::Device(device) if device.hung_up)
    }

    pub(in crate::simulation) fn is_subscribed(&self) -> bool {
        match self {
            Self::Device(device) => device.is_subscribed(),
            Self::Script(script) => script.is_subscribed(),
        }
    }

    pub(super) fn is_quiet(&self) -> bool {
        match self {
            Self::Device(device) => device.is_quiet(),
            Self::Script(script) => script.is_quiet(),
        }
    }
}

/// Makes the CONNECT of a client.
pub(super) fn connect_packet(role: &Role, anew: bool, will: Option<Number>) -> Connect {
    let will = will.map(|number| {
        Box::new(Will {
            topic: WILL_TOPIC.into(),
            payload: Bytes::from(number.to_string()),
            qos: QoS::AtLeastOnce,
            retain: false,
            delay_interval_s: None,
            properties: PublishProperties::default(),
        })
    });
    Connect {
        version: ProtocolVersion::V5,
        clean_start: anew,
        keep_alive_s: KEEP_ALIVE_S,
        client_id: role.id.into(),
        will,
        username: None,
        password: None,
        properties: ConnectProperties {
            session_expiry_interval_s: (!role.is_passing).then_some(u32::MAX),
            receive_maximum: std::num::NonZeroU16::new(WINDOW_IN),
            ..ConnectProperties::default()
        },
    }
}

/// Makes the PUBLISH of a message.
pub(super) fn publish_packet(
    history: &History,
    number: Number,
    packet_id: Option<PacketId>,
    dup: bool,
) -> Packet {
    let made = history.message(number).expect("only what was made is published");
    // Forged: the broker's own takes its place.
    let mut user_properties: UserProperties = vec![(im::IM_SEQ.into(), "999999".into())];
    if made.has_id() {
        user_properties.push((im::IM_ID.into(), made.id().into()));
    }
    if CAST[made.by].hears_receipts() {
        user_properties.push((im::IM_RECEIPT.into(), "all".into()));
    }
    if let Some(key) = made.collapse {
        user_properties.push((im::IM_COLLAPSE.into(), key.into()));
    }
    if made.is_high {
        user_properties.push((im::IM_PRIORITY.into(), "high".into()));
    }
    let payload = match made.read {
        None => Bytes::from(number.to_string()),
        Some((topic, seq)) => serde_json::json!({ "topic": topic, "seq": seq }).to_string().into(),
    };
    Packet::Publish(Publish {
        dup,
        qos: made.qos,
        retain: made.retain,
        topic: made.topic.into(),
        packet_id,
        payload,
        properties: PublishProperties {
            message_expiry_interval_s: made.expiry_s,
            user_properties,
            ..PublishProperties::default()
        }
        .into(),
    })
}

/// Reads the last user property with this name as a number; the broker's come last.
pub(super) fn user_property(properties: &UserProperties, name: &str) -> Option<u64> {
    properties.iter().rev().find(|(n, _)| n == name).and_then(|(_, v)| v.parse().ok())
}

/// Makes what a program gets of a PUBLISH.
pub(super) fn taken(topic: &str, payload: &Bytes, publish: &Publish, sent_unix_ms: u64) -> Taken {
    let properties = &publish.properties.user_properties;
    Taken {
        topic: topic.to_owned(),
        payload: String::from_utf8_lossy(payload).into_owned(),
        qos: publish.qos,
        retain: publish.retain,
        dup: publish.dup,
        seq: user_property(properties, im::IM_SEQ),
        gap: user_property(properties, im::IM_GAP),
        accepted_unix_ms: user_property(properties, im::IM_TS),
        expiry_s: publish.properties.message_expiry_interval_s,
        sent_unix_ms,
    }
}
