//! Packets and settings that the input chooses.

use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use engine::{Access, Acl, AclRule, Config, ConversationRule, OnFull, Principal, SessionLimits, Who};
use protocol::{
    Ack, Auth, ByteString, Bytes, Connect, ConnectProperties, Disconnect, DisconnectProperties, Packet,
    PacketId, ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode, RetainHandling, Subscribe,
    SubscribeFilter, SubscribeOptions, TopicFilter, Unsubscribe, Will, im,
};

use super::super::source::Source;

/// Client ids; the first is the keeper's, the empty one asks for an id.
pub(super) const CLIENTS: [&str; 5] = ["keeper", "c1", "c2", "c3", ""];

const TOPICS: [&str; 14] = [
    "t/a",
    "t/b",
    "t/a/b",
    "keep/a",
    "keep/im",
    "im/room",
    "im/other",
    "dev/1/cmd",
    "a//b",
    "$SYS/x",
    "$im/read",
    "$im/keepalive",
    "$im/probe",
    "/",
];

const FILTERS: [&str; 24] = [
    "t/#",
    "t/+",
    "+/+",
    "#",
    "t/a",
    "im/#",
    "im/room",
    "$share/g/t/#",
    "$share/g/t/a",
    "$share/h/t/+",
    "$share/g/#",
    "$share/g/im/#",
    "$im/receipts",
    "$im/mine",
    "$im/inbox",
    "$im/errors",
    "$im/from/0/im/room",
    "$im/env/im/#",
    "$im/presence/c1",
    "$SYS/#",
    "a/#/b",
    "dev/+/cmd",
    "/+",
    "$share/x",
];

const PAYLOADS: [&[u8]; 6] =
    [b"", b"x", b"{}", b"{\"topic\":\"im/room\",\"seq\":1}", b"{\"interval_s\":5}", b"\xff\xfe"];

const REASONS: [ReasonCode; 6] = [
    ReasonCode::Success,
    ReasonCode::NoMatchingSubscribers,
    ReasonCode::UnspecifiedError,
    ReasonCode::DisconnectWithWill,
    ReasonCode::QuotaExceeded,
    ReasonCode::PacketIdentifierNotFound,
];

pub(super) fn qos(source: &mut Source<'_>) -> QoS {
    source.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}

pub(super) fn packet_id(source: &mut Source<'_>) -> PacketId {
    // Few, so that they meet.
    PacketId::new(1 + source.below(6) as u16).expect("above 0")
}

/// The limits of the world: so low that a run reaches them, except where the keeper must lose nothing.
pub(super) fn config(source: &mut Source<'_>) -> Config {
    let filter = |f: &'static str| TopicFilter::parse(f.into()).expect("a valid constant filter");
    let rule = |f| ConversationRule::new(filter(f));
    let mut config = Config {
        packet_bytes_max: 4096,
        receive_maximum: source.pick(&[1024, 2]),
        inflight_max: source.pick(&[1024, 1, 3]),
        topic_alias_max: 3,
        session_expiry_max_s: u32::MAX,
        sessions_max: 4,
        subscriptions_max: 4,
        retained_messages_max: 3,
        retained_bytes_max: 2000,
        retained_per_subscribe_max: 2,
        topic_levels_max: 5,
        conversations_max: 3,
        conversations: ["im/#", "keep/im", "dev/+/cmd"].map(rule).to_vec(),
        receipts_listed_max: 2,
        client_id_bytes_max: 40,
        ..Config::default()
    };
    if source.one_in(2) {
        config.on_full = source.pick(&[OnFull::DropOldest, OnFull::DropNewest, OnFull::Reject]);
        config.queue_messages_max = 3;
        config.queue_bytes_max = 600;
    }
    config
}

/// Says whether this configuration drops nothing that the keeper was promised.
pub(super) fn keeps_all(config: &Config) -> bool {
    config.queue_messages_max == Config::default().queue_messages_max
}

/// The keeper's CONNECT: its session lasts for ever.
pub(super) fn keeper_connect(source: &mut Source<'_>) -> Connect {
    Connect {
        version: ProtocolVersion::V5,
        clean_start: false,
        keep_alive_s: 0,
        client_id: CLIENTS[0].into(),
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties {
            session_expiry_interval_s: Some(u32::MAX),
            receive_maximum: NonZeroU16::new(source.pick(&[65_535, 1, 3])),
            topic_alias_max: Some(source.pick(&[0, 2])),
            ..ConnectProperties::default()
        },
    }
}

pub(super) fn keeper_subscribe(qos: QoS) -> Packet {
    let options = SubscribeOptions { qos, ..SubscribeOptions::default() };
    Packet::Subscribe(Subscribe {
        packet_id: PacketId::MAX,
        subscription_identifier: None,
        user_properties: Vec::new(),
        filters: vec![SubscribeFilter { filter: super::keeper::FILTER.into(), options }],
    })
}

pub(super) fn connect(source: &mut Source<'_>, client: usize) -> Connect {
    let version = source.pick(&[ProtocolVersion::V5, ProtocolVersion::V311]);
    let will = source.one_in(3).then(|| {
        Box::new(Will {
            topic: source.pick(&TOPICS).into(),
            payload: Bytes::from_static(source.pick(&PAYLOADS)),
            qos: qos(source),
            retain: source.one_in(3),
            delay_interval_s: source.pick(&[None, Some(0), Some(5), Some(u32::MAX)]),
            properties: PublishProperties::default(),
        })
    });
    let mut connect = Connect {
        version,
        clean_start: source.one_in(3),
        keep_alive_s: source.pick(&[0, 1, 60, u16::MAX]),
        client_id: CLIENTS[client].into(),
        will,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    };
    if version == ProtocolVersion::V5 {
        connect.properties = ConnectProperties {
            session_expiry_interval_s: source.pick(&[Some(u32::MAX), None, Some(0), Some(10), Some(3600)]),
            receive_maximum: source.pick(&[None, NonZeroU16::new(1), NonZeroU16::new(3)]),
            packet_bytes_max: source.pick(&[
                None,
                NonZeroU32::new(60),
                NonZeroU32::new(2),
                NonZeroU32::new(300),
            ]),
            topic_alias_max: source.pick(&[None, Some(1), Some(9)]),
            request_response_information: source.pick(&[None, Some(true), Some(false)]),
            request_problem_information: source.pick(&[None, Some(false), Some(true)]),
            user_properties: Vec::new(),
            authentication_method: source.one_in(8).then(|| "X".into()),
            authentication_data: None,
        };
    } else if let Some(will) = &mut connect.will {
        will.delay_interval_s = None;
    }
    connect
}

pub(super) fn principal(source: &mut Source<'_>) -> Principal {
    let user = source.pick(&[None, Some("ann"), Some("bob")]);
    let limits = SessionLimits {
        subscriptions_max: source.pick(&[None, None, Some(1)]),
        queue_messages_max: source.pick(&[None, None, Some(1)]),
        on_full: source.pick(&[None, Some(OnFull::Reject), Some(OnFull::DropNewest)]),
        inflight_max: source.pick(&[None, None, NonZeroU16::new(1)]),
        receive_maximum: source.pick(&[None, None, NonZeroU16::new(1)]),
        topic_levels_max: source.pick(&[None, None, Some(2)]),
        session_expiry_max_s: source.pick(&[None, None, Some(3)]),
        ..SessionLimits::default()
    };
    let groups: Arc<[ByteString]> = if source.one_in(4) { Arc::new(["g".into()]) } else { Arc::default() };
    let rules: Arc<[AclRule]> = if source.one_in(6) { Arc::new([rule(source)]) } else { Arc::default() };
    Principal { user: user.map(ByteString::from), groups, rules, limits }
}

fn rule(source: &mut Source<'_>) -> AclRule {
    let who = match source.below(6) {
        0 => Who::All,
        1 => Who::Anonymous,
        2 => Who::Authenticated,
        3 => Who::User("ann".into()),
        4 => Who::Group("g".into()),
        _ => Who::Client(CLIENTS[1].into()),
    };
    AclRule {
        allow: !source.one_in(3),
        who,
        access: source.pick(&[Access::Both, Access::Publish, Access::Subscribe]),
        filter: source.pick(&["#", "t/#", "t/%c", "%u/#", "im/+", "$SYS/#", "t/a", "+/%c/#"]).into(),
    }
}

/// Rules that let the keeper do everything and others what the input says.
pub(super) fn acl(source: &mut Source<'_>) -> Acl {
    let all = |filter: &'static str| AclRule {
        allow: true,
        who: Who::Client(CLIENTS[0].into()),
        access: Access::Both,
        filter: filter.into(),
    };
    let count = source.below(4);
    if count == 0 {
        return Acl::default();
    }
    Acl { rules: std::iter::once(all("#")).chain((0..count).map(|_| rule(source))).collect() }
}

pub(super) fn publish(source: &mut Source<'_>) -> Publish {
    let topic = match source.below(16) {
        0 => String::from_utf8_lossy(source.bytes(30)).replace(['+', '#', '\0'], "w"),
        1 => "a/".repeat(source.below(12)),
        _ => source.pick(&TOPICS).to_owned(),
    };
    let qos = qos(source);
    let mut publish = Publish {
        dup: qos > QoS::AtMostOnce && source.one_in(6),
        qos,
        retain: source.one_in(4),
        topic: topic.into(),
        packet_id: (qos > QoS::AtMostOnce).then(|| packet_id(source)),
        properties: Default::default(),
        payload: payload(source),
    };
    if source.one_in(3) {
        publish.properties = publish_properties(source).into();
    }
    // The decoder lets an empty topic pass only with an alias.
    if publish.topic.is_empty() && publish.properties.topic_alias.is_none() {
        publish.topic = TOPICS[0].into();
    }
    publish
}

fn payload(source: &mut Source<'_>) -> Bytes {
    match source.below(8) {
        0 => Bytes::copy_from_slice(source.bytes(40)),
        1 => Bytes::from(vec![b'l'; source.below(2000)]),
        _ => Bytes::from_static(source.pick(&PAYLOADS)),
    }
}

fn publish_properties(source: &mut Source<'_>) -> PublishProperties {
    let mut user_properties = Vec::new();
    if source.one_in(2) {
        user_properties.push((im::IM_ID.into(), source.pick(&["1", "2", "", "x/y"]).into()));
    }
    if source.one_in(2) {
        user_properties.push((im::IM_RECEIPT.into(), source.pick(&["all", "read", "delivered", "?"]).into()));
    }
    PublishProperties {
        payload_format_utf8: source.pick(&[None, Some(true), Some(false)]),
        message_expiry_interval_s: source.pick(&[None, Some(0), Some(2), Some(u32::MAX)]),
        topic_alias: NonZeroU16::new(source.pick(&[0, 0, 1, 3, 4])),
        response_topic: source.pick(&[None, Some("t/answer")]).map(ByteString::from),
        correlation_data: source.pick(&[None, Some(&b"c"[..])]).map(Bytes::from_static),
        user_properties,
        subscription_identifiers: Vec::new(),
        content_type: None,
    }
}

pub(super) fn subscribe(source: &mut Source<'_>) -> Packet {
    let filters = (0..=source.below(3)).map(|_| {
        let filter: ByteString = match source.below(12) {
            0 => String::from_utf8_lossy(source.bytes(30)).into_owned().into(),
            1 => "+/".repeat(1 + source.below(12)).into(),
            _ => source.pick(&FILTERS).into(),
        };
        let is_shared = filter.starts_with("$share/");
        SubscribeFilter {
            filter: if filter.is_empty() { "t/#".into() } else { filter },
            options: SubscribeOptions {
                qos: qos(source),
                // [MQTT-3.8.3-4] the decoder refuses it on a shared subscription.
                no_local: source.one_in(4) && !is_shared,
                retain_as_published: source.one_in(3),
                retain_handling: source.pick(&[
                    RetainHandling::Send,
                    RetainHandling::SendIfNew,
                    RetainHandling::DoNotSend,
                ]),
            },
        }
    });
    let filters = filters.collect();
    Packet::Subscribe(Subscribe {
        packet_id: packet_id(source),
        subscription_identifier: source.pick(&[None, Some(1), Some(268_435_455)]),
        user_properties: Vec::new(),
        filters,
    })
}

/// Any later packet of a client, in its place or not.
pub(super) fn other(source: &mut Source<'_>) -> Packet {
    let ack = |source: &mut Source<'_>| Ack::new(packet_id(source), source.pick(&REASONS));
    match source.below(10) {
        0 => Packet::PingReq,
        1 => Packet::PubAck(ack(source)),
        2 => Packet::PubRec(ack(source)),
        3 | 4 => Packet::PubRel(ack(source)),
        5 => Packet::PubComp(ack(source)),
        6 | 7 => Packet::Unsubscribe(Unsubscribe {
            packet_id: packet_id(source),
            user_properties: Vec::new(),
            filters: (0..=source.below(2)).map(|_| source.pick(&FILTERS).into()).collect(),
        }),
        8 => Packet::Disconnect(Disconnect {
            reason: source.pick(&REASONS),
            properties: DisconnectProperties {
                session_expiry_interval_s: source.pick(&[None, Some(0), Some(20), Some(u32::MAX)]),
                ..DisconnectProperties::default()
            }
            .into(),
        }),
        _ => Packet::Auth(Box::new(Auth {
            reason: ReasonCode::ReAuthenticate,
            authentication_method: Some("X".into()),
            authentication_data: None,
            reason_string: None,
            user_properties: Vec::new(),
        })),
    }
}
