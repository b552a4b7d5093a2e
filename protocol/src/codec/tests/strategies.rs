//! Arbitrary valid packets: what either side may send in either version.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use bytestring::ByteString;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use crate::codec::Role;
use crate::*;

const V311: ProtocolVersion = ProtocolVersion::V311;

pub(super) fn version() -> impl Strategy<Value = ProtocolVersion> {
    prop_oneof![Just(V311), Just(ProtocolVersion::V5)]
}

pub(super) fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Broker), Just(Role::Client)]
}

fn string() -> impl Strategy<Value = ByteString> {
    "[a-z0-9 \u{1}é车😀+#$/%]{0,12}".prop_map(ByteString::from)
}

fn topic() -> impl Strategy<Value = ByteString> {
    "[a-zé车😀$/ ]{1,16}".prop_map(ByteString::from)
}

fn filter() -> impl Strategy<Value = ByteString> {
    prop_oneof!["[a-zé$/+#]{1,16}", "\\$share/[a-z]{0,3}/[a-z+#]{0,3}"].prop_map(ByteString::from)
}

fn binary() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..24).prop_map(Bytes::from)
}

/// Payloads whose packets need one, two and three bytes of remaining length.
fn payload() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        8 => binary(),
        2 => (100_usize..140).prop_map(|bytes| Bytes::from(vec![7; bytes])),
        1 => (16_360_usize..16_400).prop_map(|bytes| Bytes::from(vec![8; bytes])),
    ]
}

fn user_properties() -> impl Strategy<Value = UserProperties> {
    vec((string(), string()), 0..4)
}

fn id() -> impl Strategy<Value = PacketId> {
    any::<NonZeroU16>()
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)]
}

fn subscription_identifier() -> impl Strategy<Value = u32> {
    prop_oneof![1_u32..=268_435_455, Just(1), Just(127), Just(128), Just(16_384), Just(268_435_455)]
}

fn reason(codes: &'static [u8]) -> impl Strategy<Value = ReasonCode> {
    proptest::sample::select(codes).prop_map(|code| ReasonCode::from_u8(code).unwrap())
}

/// Properties of the version: defaults in 3.1.1.
fn in_v5<T: Clone + Default + std::fmt::Debug + 'static>(
    version: ProtocolVersion,
    strategy: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<T> {
    if version == V311 { Just(T::default()).boxed() } else { strategy.boxed() }
}

fn authentication() -> impl Strategy<Value = (Option<ByteString>, Option<Bytes>)> {
    prop_oneof![Just((None, None)), (string().prop_map(Some), of(binary()))]
}

fn message_properties() -> impl Strategy<Value = PublishProperties> {
    (of(any::<bool>()), of(any::<u32>()), of(topic()), of(binary()), user_properties(), of(string()))
        .prop_map(|(format, expiry, response, correlation, user_properties, content_type)| {
            PublishProperties {
                payload_format_utf8: format,
                message_expiry_interval_s: expiry,
                response_topic: response,
                correlation_data: correlation,
                user_properties,
                content_type,
                ..PublishProperties::default()
            }
        })
}

fn will(version: ProtocolVersion) -> impl Strategy<Value = Will> {
    (topic(), binary(), qos(), any::<bool>(), in_v5(version, of(any::<u32>())), {
        in_v5(version, message_properties())
    })
        .prop_map(|(topic, payload, qos, retain, delay_interval_s, properties)| Will {
            topic,
            payload,
            qos,
            retain,
            delay_interval_s,
            properties,
        })
}

fn connect_properties() -> impl Strategy<Value = ConnectProperties> {
    (
        of(any::<u32>()),
        of(any::<NonZeroU16>()),
        of(any::<NonZeroU32>()),
        of(any::<u16>()),
        of(any::<bool>()),
        of(any::<bool>()),
        user_properties(),
        authentication(),
    )
        .prop_map(
            |(expiry, receive, packet, alias, response, problem, user_properties, (method, auth))| {
                ConnectProperties {
                    session_expiry_interval_s: expiry,
                    receive_maximum: receive,
                    packet_bytes_max: packet,
                    topic_alias_max: alias,
                    request_response_information: response,
                    request_problem_information: problem,
                    user_properties,
                    authentication_method: method,
                    authentication_data: auth,
                }
            },
        )
}

fn connect(version: ProtocolVersion) -> impl Strategy<Value = Packet> {
    (
        any::<bool>(),
        any::<u16>(),
        string(),
        of(will(version).prop_map(Box::new)),
        of(string()),
        of(binary()),
        in_v5(version, connect_properties()),
    )
        .prop_map(move |(clean_start, keep_alive_s, client_id, will, username, password, properties)| {
            // 3.1.1 has no password without a user name.
            let password = password.filter(|_| version != V311 || username.is_some());
            Packet::Connect(Box::new(Connect {
                version,
                clean_start,
                keep_alive_s,
                client_id,
                will,
                username,
                password,
                properties,
            }))
        })
}

fn connack_properties() -> impl Strategy<Value = ConnAckProperties> {
    let flag = || of(any::<bool>());
    let numbers = (of(any::<u32>()), of(any::<NonZeroU16>()), of(any::<NonZeroU32>()), of(any::<u16>()));
    let flags = (flag(), flag(), flag(), flag(), flag());
    let strings = (of(string()), of(string()), of(string()), of(string()));
    (numbers, flags, strings, of(any::<u16>()), user_properties(), authentication()).prop_map(
        |(numbers, flags, strings, server_keep_alive_s, user_properties, (method, auth))| ConnAckProperties {
            session_expiry_interval_s: numbers.0,
            receive_maximum: numbers.1,
            maximum_qos: flags.0.map(|one| if one { QoS::AtLeastOnce } else { QoS::AtMostOnce }),
            retain_available: flags.1,
            packet_bytes_max: numbers.2,
            assigned_client_id: strings.0,
            topic_alias_max: numbers.3,
            reason_string: strings.1,
            user_properties,
            wildcard_subscription_available: flags.2,
            subscription_identifiers_available: flags.3,
            shared_subscription_available: flags.4,
            server_keep_alive_s,
            response_information: strings.2,
            server_reference: strings.3,
            authentication_method: method,
            authentication_data: auth,
        },
    )
}

fn connack(version: ProtocolVersion) -> impl Strategy<Value = Packet> {
    let codes: &[u8] = match version {
        // The reasons that 3.1.1 return codes are read as.
        ProtocolVersion::V311 => &[0, 0x84, 0x85, 0x88, 0x86, 0x87],
        ProtocolVersion::V5 => &[
            0, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97,
            0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9f,
        ],
    };
    (any::<bool>(), reason(codes), in_v5(version, connack_properties())).prop_map(
        |(session_present, reason, properties)| {
            let session_present = session_present && reason == ReasonCode::Success;
            Packet::ConnAck(Box::new(ConnAck { session_present, reason, properties }))
        },
    )
}

fn publish(version: ProtocolVersion, role: Role) -> impl Strategy<Value = Packet> {
    let identifiers = if role == Role::Client { 3 } else { 1 };
    let alias = (of(any::<NonZeroU16>()), vec(subscription_identifier(), 0..identifiers));
    (
        (any::<bool>(), qos(), any::<bool>(), any::<bool>()),
        topic(),
        id(),
        in_v5(version, alias),
        in_v5(version, message_properties()),
        payload(),
    )
        .prop_map(
            |((dup, qos, retain, by_alias), topic, id, (alias, identifiers), properties, payload)| {
                Packet::Publish(Publish {
                    dup: dup && qos != QoS::AtMostOnce,
                    qos,
                    retain,
                    topic: if by_alias && alias.is_some() { ByteString::new() } else { topic },
                    packet_id: (qos != QoS::AtMostOnce).then_some(id),
                    properties: PublishProperties {
                        topic_alias: alias,
                        subscription_identifiers: identifiers,
                        ..properties
                    }
                    .into(),
                    payload,
                })
            },
        )
}

fn ack_properties() -> impl Strategy<Value = AckProperties> {
    (of(string()), user_properties())
        .prop_map(|(reason_string, user_properties)| AckProperties { reason_string, user_properties })
}

fn ack(
    version: ProtocolVersion,
    codes: &'static [u8],
    packet: fn(Ack) -> Packet,
) -> impl Strategy<Value = Packet> {
    let codes = if version == V311 { &[0] } else { codes };
    (id(), reason(codes), in_v5(version, ack_properties())).prop_map(
        move |(packet_id, reason, properties)| {
            packet(Ack { packet_id, reason, properties: properties.into() })
        },
    )
}

fn subscribe_options(version: ProtocolVersion) -> impl Strategy<Value = SubscribeOptions> {
    let handling = prop_oneof![
        Just(RetainHandling::Send),
        Just(RetainHandling::SendIfNew),
        Just(RetainHandling::DoNotSend)
    ];
    (qos(), in_v5(version, (any::<bool>(), any::<bool>(), handling))).prop_map(
        |(qos, (no_local, retain_as_published, retain_handling))| SubscribeOptions {
            qos,
            no_local,
            retain_as_published,
            retain_handling,
        },
    )
}

fn subscribe(version: ProtocolVersion) -> impl Strategy<Value = Packet> {
    let filters = vec((filter(), subscribe_options(version)), 1..5);
    let properties = (of(subscription_identifier()), user_properties());
    (id(), in_v5(version, properties), filters).prop_map(
        |(packet_id, (subscription_identifier, user_properties), filters)| {
            let filters = filters
                .into_iter()
                .map(|(filter, mut options)| {
                    options.no_local &= !filter.starts_with("$share/");
                    SubscribeFilter { filter, options }
                })
                .collect();
            Packet::Subscribe(Subscribe { packet_id, subscription_identifier, user_properties, filters })
        },
    )
}

fn suback(version: ProtocolVersion) -> impl Strategy<Value = Packet> {
    let codes: &[u8] = match version {
        ProtocolVersion::V311 => &[0, 1, 2, 0x80],
        ProtocolVersion::V5 => &[0, 1, 2, 0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2],
    };
    (id(), in_v5(version, ack_properties()), vec(reason(codes), 1..5)).prop_map(
        |(packet_id, properties, reasons)| Packet::SubAck(SubAck { packet_id, properties, reasons }),
    )
}

fn unsubscribe(version: ProtocolVersion) -> impl Strategy<Value = Packet> {
    (id(), in_v5(version, user_properties()), vec(filter(), 1..5)).prop_map(
        |(packet_id, user_properties, filters)| {
            Packet::Unsubscribe(Unsubscribe { packet_id, user_properties, filters })
        },
    )
}

fn unsuback(version: ProtocolVersion) -> impl Strategy<Value = Packet> {
    let reasons = vec(reason(&[0, 0x11, 0x80, 0x83, 0x87, 0x8f, 0x91]), 1..5);
    (id(), in_v5(version, ack_properties()), in_v5(version, reasons)).prop_map(
        |(packet_id, properties, reasons)| Packet::UnsubAck(UnsubAck { packet_id, properties, reasons }),
    )
}

fn disconnect(version: ProtocolVersion, role: Role) -> impl Strategy<Value = Packet> {
    let codes: &[u8] = match (version, role) {
        (ProtocolVersion::V311, _) => &[0],
        (_, Role::Broker) => &[0, 4, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99],
        (_, Role::Client) => &[
            0, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94, 0x95, 0x96,
            0x97, 0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2,
        ],
    };
    let properties = (of(any::<u32>()), of(string()), user_properties(), of(string())).prop_map(
        move |(expiry, reason_string, user_properties, server_reference)| DisconnectProperties {
            session_expiry_interval_s: expiry.filter(|_| role == Role::Broker),
            reason_string,
            user_properties,
            server_reference,
        },
    );
    (reason(codes), in_v5(version, properties)).prop_map(|(reason, properties)| {
        Packet::Disconnect(Disconnect { reason, properties: properties.into() })
    })
}

fn auth(role: Role) -> impl Strategy<Value = Packet> {
    let codes: &[u8] = if role == Role::Broker { &[0x18, 0x19] } else { &[0, 0x18] };
    (reason(codes), string(), of(binary()), of(string()), user_properties()).prop_map(
        |(reason, method, authentication_data, reason_string, user_properties)| {
            Packet::Auth(Box::new(Auth {
                reason,
                authentication_method: Some(method),
                authentication_data,
                reason_string,
                user_properties,
            }))
        },
    )
}

/// A packet that the side `role` decodes may get: what clients send for the broker, and the reverse.
pub(super) fn packet(version: ProtocolVersion, role: Role) -> BoxedStrategy<Packet> {
    const PUBACK: &[u8] = &[0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
    const PUBREL: &[u8] = &[0, 0x92];
    let mut any_packet = vec![
        publish(version, role).boxed(),
        ack(version, PUBACK, Packet::PubAck).boxed(),
        ack(version, PUBACK, Packet::PubRec).boxed(),
        ack(version, PUBREL, Packet::PubRel).boxed(),
        ack(version, PUBREL, Packet::PubComp).boxed(),
    ];
    if role == Role::Broker || version != V311 {
        any_packet.push(disconnect(version, role).boxed());
    }
    if version != V311 {
        any_packet.push(auth(role).boxed());
    }
    match role {
        Role::Broker => any_packet.extend([
            connect(version).boxed(),
            subscribe(version).boxed(),
            unsubscribe(version).boxed(),
            Just(Packet::PingReq).boxed(),
        ]),
        Role::Client => any_packet.extend([
            connack(version).boxed(),
            suback(version).boxed(),
            unsuback(version).boxed(),
            Just(Packet::PingResp).boxed(),
        ]),
    }
    proptest::strategy::Union::new(any_packet).boxed()
}
