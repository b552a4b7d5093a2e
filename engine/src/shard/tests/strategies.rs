//! Any packets, any clients, any limits: what the random runs are made of.

use super::*;

fn client() -> impl Strategy<Value = usize> {
    0..CLIENTS.len()
}

fn qos() -> impl Strategy<Value = QoS> {
    (0u8..3).prop_map(|n| QoS::from_u8(n).unwrap())
}

fn id() -> impl Strategy<Value = PacketId> {
    (1u16..6).prop_map(|n| PacketId::new(n).unwrap())
}

fn properties() -> impl Strategy<Value = PublishProperties> {
    let wish = prop::option::of(prop::sample::select(vec!["delivered", "read", "all", "?"]));
    let id = prop::option::weighted(0.3, prop::sample::select(vec!["1", "2", "3", "4", ""]));
    let collapse = prop::option::weighted(0.2, prop::sample::select(vec!["k", "l"]));
    let is_high = prop::bool::weighted(0.2);
    let expiry = prop::option::of(prop::sample::select(vec![0, 1, 30]));
    (expiry, wish, id, collapse, is_high).prop_map(|(expiry, wish, id, collapse, is_high)| {
        let wish = wish.map(|w| (ByteString::from(im::IM_RECEIPT), w.into()));
        let id = id.map(|id| (ByteString::from(im::IM_ID), id.into()));
        let collapse = collapse.map(|key| (ByteString::from(im::IM_COLLAPSE), key.into()));
        let priority = is_high.then(|| (ByteString::from(im::IM_PRIORITY), "high".into()));
        let user_properties = wish.into_iter().chain(id).chain(collapse).chain(priority).collect();
        PublishProperties { message_expiry_interval_s: expiry, user_properties, ..Default::default() }
    })
}

fn will() -> impl Strategy<Value = Box<Will>> {
    let delay = prop::option::of(prop::sample::select(vec![0, 1, 30]));
    (prop::sample::select(&TOPICS[..4]), qos(), any::<bool>(), delay, properties()).prop_map(
        |(topic, qos, retain, delay_interval_s, properties)| {
            let payload = Bytes::from_static(b"will");
            Box::new(Will { topic: topic.into(), payload, qos, retain, delay_interval_s, properties })
        },
    )
}

fn connect() -> impl Strategy<Value = Op> {
    let expiry = prop::option::of(prop::sample::select(vec![0, 5, 60, u32::MAX]));
    let window = prop::option::of(1u16..4);
    let packet = prop::option::of(prop::sample::select(vec![3, 40, 80, 300, 300, 1000, 1000, 1000]));
    let keep_alive = prop::sample::select(vec![0, 10, 60]);
    let keep_alive = (keep_alive, prop::option::of(0u16..4));
    (client(), any::<[bool; 3]>(), expiry, window, packet, keep_alive, prop::option::of(will())).prop_map(
        |(client, [v5, clean_start, problems], expiry, window, packet, (keep_alive_s, aliases), mut will)| {
            let version = if v5 { ProtocolVersion::V5 } else { ProtocolVersion::V311 };
            let mut properties = ConnectProperties::default();
            if v5 {
                properties.session_expiry_interval_s = expiry;
                properties.receive_maximum = window.and_then(std::num::NonZeroU16::new);
                properties.packet_bytes_max = packet.and_then(std::num::NonZeroU32::new);
                properties.request_problem_information = Some(problems);
                properties.topic_alias_max = aliases;
            } else if let Some(will) = &mut will {
                (will.properties, will.delay_interval_s) = (PublishProperties::default(), None);
            }
            let (client_id, username, password) = (CLIENTS[client].into(), None, None);
            let connect = Connect {
                version,
                clean_start,
                keep_alive_s,
                client_id,
                will,
                username,
                password,
                properties,
            };
            Op::Connect(client, Box::new(connect))
        },
    )
}

fn publish() -> impl Strategy<Value = Packet> {
    let alias = prop::option::weighted(0.05, 1u16..3);
    let payload = prop::sample::select(vec![
        "",
        "x",
        r#"{"topic":"im/room","seq":2}"#,
        r#"{"interval_s":5,"net":"n","id":"p","after_s":6}"#,
        "a payload that is rather long for so small a queue, so that bytes matter too, \
        and not only the number of messages in it, which is small as well: three of this length are over the limit",
    ]);
    (prop::sample::select(&TOPICS[..]), qos(), any::<[bool; 2]>(), id(), payload, properties(), alias)
        .prop_map(|(topic, qos, [dup, retain], id, payload, mut properties, alias)| {
            properties.topic_alias = alias.and_then(std::num::NonZeroU16::new);
            let topic = if alias.is_some() && dup { "" } else { topic }.into();
            let packet_id = (qos > QoS::AtMostOnce).then_some(id);
            let dup = dup && packet_id.is_some();
            Packet::Publish(Publish {
                dup,
                qos,
                retain,
                topic,
                packet_id,
                properties: properties.into(),
                payload: payload.into(),
            })
        })
}

fn subscribe() -> impl Strategy<Value = Packet> {
    let options = (qos(), any::<[bool; 2]>(), 0u8..3).prop_map(|(qos, [no_local, rap], handling)| {
        let retain_handling = match handling {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            _ => RetainHandling::DoNotSend,
        };
        SubscribeOptions { qos, no_local, retain_as_published: rap, retain_handling }
    });
    let filter = (prop::sample::select(&FILTERS[..]), options)
        .prop_map(|(filter, options)| SubscribeFilter { filter: filter.into(), options });
    (id(), prop::option::of(1u32..4), prop::collection::vec(filter, 1..4)).prop_map(
        |(packet_id, subscription_identifier, filters)| {
            Packet::Subscribe(Subscribe {
                packet_id,
                subscription_identifier,
                user_properties: vec![],
                filters,
            })
        },
    )
}

fn packet() -> impl Strategy<Value = Packet> {
    let ack = (0u8..4, id(), any::<bool>()).prop_map(|(kind, id, fails)| {
        let reason = if fails { ReasonCode::QuotaExceeded } else { ReasonCode::Success };
        match kind {
            0 => Packet::PubAck(Ack::new(id, reason)),
            1 => Packet::PubRec(Ack::new(id, reason)),
            2 => Packet::PubRel(Ack::new(id, ReasonCode::Success)),
            _ => Packet::PubComp(Ack::new(id, ReasonCode::Success)),
        }
    });
    let unsubscribe = (id(), prop::sample::select(&FILTERS[..])).prop_map(|(packet_id, filter)| {
        Packet::Unsubscribe(Unsubscribe { packet_id, user_properties: vec![], filters: vec![filter.into()] })
    });
    let disconnect = (any::<bool>(), prop::option::of(prop::sample::select(vec![0, 5]))).prop_map(
        |(with_will, session_expiry_interval_s)| {
            let reason = if with_will { ReasonCode::DisconnectWithWill } else { ReasonCode::Success };
            let properties = DisconnectProperties { session_expiry_interval_s, ..Default::default() };
            Packet::Disconnect(Disconnect { reason, properties: properties.into() })
        },
    );
    prop_oneof![
        30 => publish(),
        2 => ack,
        6 => subscribe(),
        3 => unsubscribe,
        1 => disconnect,
        1 => Just(Packet::PingReq),
    ]
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => connect(),
        24 => (client(), packet()).prop_map(|(c, p)| Op::Packet(c, p)),
        18 => client().prop_map(Op::Answer),
        2 => client().prop_map(Op::Closed),
        1 => client().prop_map(Op::Congested),
        2 => client().prop_map(Op::Drained),
        1 => (prop::option::of(client()), any::<bool>()).prop_map(|(of, paused)| Op::Reading(of, paused)),
        1 => prop::sample::select(vec![1, 900, 6_000, 40_000, 200_000]).prop_map(|ms| Op::Pass { ms }),
        14 => Just(Op::Commit),
        1 => any::<bool>().prop_map(|keeps_uncommitted| Op::Crash { keeps_uncommitted }),
        1 => prop_oneof![
            2 => prop::bool::weighted(0.2).prop_map(Op::StoreFull),
            1 => client().prop_map(Op::Malformed),
            1 => rights::rules().prop_map(|rules| Op::Acl(Arc::new(Acl { rules }))),
            1 => (client(), rights::principal()).prop_map(|(c, p)| Op::Principal(c, p)),
            3 => (client(), prop::sample::select(vec!["im/room", "dev/a/cmd"]), prop::bool::weighted(0.7))
                .prop_map(|(client, topic, joins)| Op::Member(client, topic, joins)),
            2 => prop::sample::select(vec!["x", ""]).prop_map(|payload| Op::Inform("$other/a", payload)),
        ],
    ]
}

pub(super) fn bounds() -> impl Strategy<Value = Bounds> {
    // The three sessions that are there from the beginning take most of the second.
    let memory = prop::sample::select(vec![0, 0, 14_000, 20_000]);
    (on_full(), memory, prop::sample::select(vec![0, 1, 1_500]))
}

fn on_full() -> impl Strategy<Value = OnFull> {
    prop::sample::select(vec![OnFull::DropOldest, OnFull::DropNewest, OnFull::Reject])
}
