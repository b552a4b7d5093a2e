//! A client of either kind, and the packets that both make.

use protocol::{
    Bytes, Connect, ConnectProperties, Decoder, Packet, PacketId, Publish, PublishProperties, QoS,
    UserProperties, Will, encode, im,
};

use serde_json::json;

use super::cast::{CAST, Kind, Role, WILL_TOPIC};
use super::device::Device;
use super::script::Script;
use crate::simulation::history::{Enveloped, Event, History, Number, Taken, Who, Wish};

/// Messages at QoS 1 and 2 that a client takes at once.
pub(in crate::simulation) const WINDOW_IN: u16 = 4;

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

    pub(super) fn next_packet(&mut self, unix_ms: u64, history: &mut History) -> Option<Packet> {
        match self {
            Self::Device(device) => device.next_packet(history),
            Self::Script(script) => script.next_packet(unix_ms, history),
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
        match self {
            Self::Device(device) => device.hung_up,
            Self::Script(script) => script.has_crashed,
        }
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
        version: role.version,
        clean_start: anew,
        keep_alive_s: role.keep_alive_s,
        client_id: role.id.into(),
        will,
        username: None,
        password: None,
        properties: match role.is_old() {
            true => ConnectProperties::default(),
            false => ConnectProperties {
                session_expiry_interval_s: (!role.is_passing).then_some(u32::MAX),
                receive_maximum: std::num::NonZeroU16::new(WINDOW_IN),
                ..ConnectProperties::default()
            },
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
    if CAST[made.by].is_old() {
        user_properties.clear();
    }
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
    let payload = match (made.read, made.wish) {
        (Some((topic, seq)), _) => json!({ "topic": topic, "seq": seq }).to_string(),
        (_, Some(Wish::Probe { after_s })) => json!({ "id": made.id(), "after_s": after_s }).to_string(),
        (_, Some(Wish::Heartbeat { interval_s })) => json!({ "interval_s": interval_s }).to_string(),
        (None, None) => number.to_string(),
    };
    Packet::Publish(Publish {
        dup,
        qos: made.qos,
        retain: made.retain,
        topic: made.topic.into(),
        packet_id,
        payload: payload.into(),
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
    let plain = Taken {
        topic: topic.to_owned(),
        payload: String::from_utf8_lossy(payload).into_owned(),
        qos: publish.qos,
        retain: publish.retain,
        dup: publish.dup,
        seq: user_property(properties, im::IM_SEQ),
        gap: user_property(properties, im::IM_GAP),
        accepted_unix_ms: user_property(properties, im::IM_TS),
        expiry_s: publish.properties.message_expiry_interval_s,
        envelope: None,
        sent_unix_ms,
    };
    if !topic.starts_with(im::ENVELOPE_PREFIX) {
        return plain;
    }
    // What is none stays as it came; nobody made such a message.
    let Ok(envelope) = serde_json::from_slice::<im::Envelope<'_>>(payload) else { return plain };
    let content = envelope.bytes().unwrap_or_default();
    Taken {
        topic: envelope.topic.to_string(),
        payload: String::from_utf8_lossy(&content).into_owned(),
        seq: envelope.seq,
        gap: envelope.gap,
        accepted_unix_ms: Some(envelope.ts),
        envelope: Some(Enveloped {
            on: topic.to_owned(),
            id: envelope.id.to_string(),
            from: envelope.from.map(Into::into),
        }),
        ..plain
    }
}

/// What becomes of a packet on its way to or from a client: its version may not carry all of it. `reader` takes it.
pub(super) fn over_the_wire(packet: Packet, role: &Role, reader: protocol::Role) -> Result<Packet, String> {
    if !role.is_old() {
        return Ok(packet);
    }
    let mut bytes = bytes::BytesMut::new();
    encode(&packet, role.version, &mut bytes).map_err(|e| format!("{packet:?}: {e}"))?;
    let mut decoder = Decoder::new(reader, Some(role.version), u32::MAX);
    let read = decoder.decode(&mut bytes).map_err(|e| format!("{packet:?}: {e}"))?;
    read.ok_or_else(|| format!("{packet:?} was cut off"))
}
