//! What encoding leaves out, maps and refuses.

use super::super::encode;
use super::*;
use crate::{
    AckProperties, Auth, ByteString, ConnAck, ConnAckProperties, Connect, ConnectProperties, Disconnect,
    Publish, PublishProperties, QoS, SubAck, Subscribe, SubscribeFilter, SubscribeOptions, UnsubAck,
    Unsubscribe, Will,
};

fn message(topic: impl Into<ByteString>) -> Publish {
    Publish { topic: topic.into(), ..Publish::default() }
}

#[test]
fn properties_are_left_out_for_3_1_1() {
    let properties = PublishProperties { content_type: Some("t".into()), ..PublishProperties::default() };
    let ack_properties = AckProperties { reason_string: Some("w".into()), user_properties: Vec::new() };
    for (packet, bytes) in [
        (Packet::Publish(Publish { properties: properties.into(), ..message("a") }), &b"\x30\x03\0\x01a"[..]),
        (
            Packet::PubAck(Ack {
                packet_id: id(1),
                reason: ReasonCode::NotAuthorized,
                properties: ack_properties.clone().into(),
            }),
            b"\x40\x02\0\x01",
        ),
        (
            Packet::SubAck(SubAck {
                packet_id: id(1),
                properties: ack_properties.clone(),
                reasons: vec![ReasonCode::GrantedQoS1, ReasonCode::NotAuthorized, ReasonCode::QuotaExceeded],
            }),
            b"\x90\x05\0\x01\x01\x80\x80",
        ),
        (
            Packet::UnsubAck(UnsubAck {
                packet_id: id(1),
                properties: ack_properties,
                reasons: vec![ReasonCode::NoSubscriptionExisted],
            }),
            b"\xb0\x02\0\x01",
        ),
    ] {
        let mut out = BytesMut::new();
        encode(&packet, V311, &mut out).unwrap();
        assert_eq!(&out[..], bytes);
        assert_eq!(encoded_len(&packet, V311), bytes.len());
    }
}

#[test]
fn packets_are_appended_and_a_refused_one_leaves_the_buffer_as_it_was() {
    let mut out = BytesMut::from(&b"before"[..]);
    encode(&Packet::PingReq, V5, &mut out).unwrap();
    encode(&Packet::Publish(message("x".repeat(65_536))), V5, &mut out).unwrap_err();
    encode(&Packet::Publish(message("")), V5, &mut out).unwrap_err();
    encode(&Packet::PingResp, V5, &mut out).unwrap();
    assert_eq!(&out[..], b"before\xc0\0\xd0\0");
}

#[test]
fn a_field_or_packet_over_the_formats_limit_is_refused() {
    let longest = Packet::Publish(message("x".repeat(65_535)));
    assert_eq!(encode(&longest, V311, &mut BytesMut::new()), Ok(()));
    let error = encode(&Packet::Publish(message("x".repeat(65_536))), V311, &mut BytesMut::new());
    assert_eq!(
        error.unwrap_err().to_string(),
        "topic name of 65536 bytes is over the format's limit of 65535"
    );
    let publish = Publish { payload: Bytes::from(vec![0; 268_435_455]), ..message("a") };
    let packet = Packet::Publish(publish);
    assert_eq!(encoded_len(&packet, V311), 268_435_463);
    let error = encode(&packet, V311, &mut BytesMut::new());
    assert_eq!(
        error.unwrap_err().to_string(),
        "packet of 268435458 bytes is over the format's limit of 268435455"
    );
}

fn connect(version: ProtocolVersion) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive_s: 0,
        client_id: "c".into(),
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

fn will(topic: &'static str, properties: PublishProperties) -> Packet {
    let will = Will {
        topic: topic.into(),
        payload: Bytes::new(),
        qos: QoS::AtMostOnce,
        retain: false,
        delay_interval_s: None,
        properties,
    };
    Packet::Connect(Box::new(Connect { will: Some(Box::new(will)), ..connect(V5) }))
}

fn subscribe(identifier: Option<u32>, filters: Vec<SubscribeFilter>) -> Packet {
    Packet::Subscribe(Subscribe {
        packet_id: id(1),
        subscription_identifier: identifier,
        user_properties: Vec::new(),
        filters,
    })
}

fn filter(filter: &'static str, no_local: bool) -> SubscribeFilter {
    let options = SubscribeOptions { no_local, ..SubscribeOptions::default() };
    SubscribeFilter { filter: filter.into(), options }
}

fn auth(reason: ReasonCode, method: Option<&'static str>) -> Packet {
    Packet::Auth(Box::new(Auth {
        reason,
        authentication_method: method.map(Into::into),
        authentication_data: None,
        reason_string: None,
        user_properties: Vec::new(),
    }))
}

fn connack(session_present: bool, reason: ReasonCode, maximum_qos: Option<QoS>) -> Packet {
    let properties = ConnAckProperties { maximum_qos, ..ConnAckProperties::default() };
    Packet::ConnAck(Box::new(ConnAck { session_present, reason, properties }))
}

#[track_caller]
fn refused(version: ProtocolVersion, packet: &Packet, message: &str) {
    let mut out = BytesMut::new();
    assert_eq!(encode(packet, version, &mut out).unwrap_err().to_string(), message, "{packet:?}");
    assert!(out.is_empty());
}

#[test]
fn a_publish_or_will_that_would_be_refused_is_not_encoded() {
    let with = |properties| Packet::Publish(Publish { properties, ..message("a") });
    let response = |topic: &'static str| PublishProperties {
        response_topic: Some(topic.into()),
        ..PublishProperties::default()
    };
    let identifier = |identifier| PublishProperties {
        subscription_identifiers: vec![identifier],
        ..PublishProperties::default()
    };
    let alias = PublishProperties { topic_alias: Some(id(1)), ..PublishProperties::default() };
    let needs_id = "packet identifier is not valid: it is needed at qos 1 and 2 and not allowed at qos 0";
    for (packet, message) in [
        (Packet::Publish(Publish { qos: QoS::AtLeastOnce, ..message("a") }), needs_id),
        (Packet::Publish(Publish { packet_id: Some(id(1)), ..message("a") }), needs_id),
        (
            Packet::Publish(Publish { dup: true, ..message("a") }),
            "dup is not valid: it is not allowed at qos 0",
        ),
        (Packet::Publish(message("")), "topic name is not valid: it is empty"),
        (Packet::Publish(message("a/#")), "topic name is not valid: it contains a wildcard"),
        (Packet::Publish(message("a\0")), "topic name is not valid: it contains the null character"),
        (with(response("+").into()), "response topic is not valid: it contains a wildcard"),
        (with(response("").into()), "response topic is not valid: it is empty"),
        (with(identifier(0).into()), "subscription identifier is not valid: it is not 1 to 268,435,455"),
        (
            with(identifier(1 << 28).into()),
            "subscription identifier is not valid: it is not 1 to 268,435,455",
        ),
        (will("#", PublishProperties::default()), "will topic is not valid: it contains a wildcard"),
        (will("w", alias.clone()), "will is not valid: it may not have a topic alias"),
        (will("w", identifier(1)), "will is not valid: it may not have subscription identifiers"),
    ] {
        refused(V5, &packet, message);
    }
    let by_alias = Packet::Publish(Publish { properties: alias.into(), ..message("") });
    assert_eq!(encode(&by_alias, V5, &mut BytesMut::new()), Ok(()));
    refused(V311, &by_alias, "topic name is not valid: it is empty");
}

#[test]
fn any_other_packet_that_would_be_refused_is_not_encoded() {
    let ack = |reason| Ack::new(id(1), reason);
    let none = AckProperties::default;
    let unsubscribe =
        |filters| Packet::Unsubscribe(Unsubscribe { packet_id: id(1), user_properties: Vec::new(), filters });
    for (packet, message) in [
        (
            Packet::PubAck(ack(ReasonCode::PacketIdentifierNotFound)),
            "PUBACK may not carry reason code 0x92 (packet identifier not found)",
        ),
        (
            Packet::PubComp(ack(ReasonCode::QuotaExceeded)),
            "PUBCOMP may not carry reason code 0x97 (quota exceeded)",
        ),
        (subscribe(None, Vec::new()), "topic filters is not valid: there is none"),
        (
            subscribe(Some(0), vec![filter("a", false)]),
            "subscription identifier is not valid: it is not 1 to 268,435,455",
        ),
        (subscribe(None, vec![filter("", false)]), "topic filter is not valid: it is empty"),
        (
            subscribe(None, vec![filter("\0", false)]),
            "topic filter is not valid: it contains the null character",
        ),
        (
            subscribe(None, vec![filter("$share/g/a", true)]),
            "no local is not valid: it is not allowed on a shared subscription",
        ),
        (unsubscribe(Vec::new()), "topic filters is not valid: there is none"),
        (unsubscribe(vec!["".into()]), "topic filter is not valid: it is empty"),
        (
            Packet::SubAck(SubAck { packet_id: id(1), properties: none(), reasons: Vec::new() }),
            "reason codes is not valid: there is none",
        ),
        (
            Packet::UnsubAck(UnsubAck {
                packet_id: id(1),
                properties: none(),
                reasons: vec![ReasonCode::GrantedQoS1],
            }),
            "UNSUBACK may not carry reason code 0x01 (granted qos 1)",
        ),
        (
            connack(true, ReasonCode::NotAuthorized, None),
            "session present is not valid: it may be set only with success",
        ),
        (
            connack(false, ReasonCode::Success, Some(QoS::ExactlyOnce)),
            "maximum qos is not valid: it is not 0 or 1",
        ),
        (
            connack(false, ReasonCode::SessionTakenOver, None),
            "CONNACK may not carry reason code 0x8e (session taken over)",
        ),
        (auth(ReasonCode::ContinueAuthentication, None), "authentication method is not valid: it is missing"),
        (auth(ReasonCode::NotAuthorized, Some("m")), "AUTH may not carry reason code 0x87 (not authorized)"),
    ] {
        refused(V5, &packet, message);
    }
}

#[test]
fn what_3_1_1_does_not_have_is_not_encoded_for_it() {
    let disconnect = |reason| Packet::Disconnect(Disconnect { reason, properties: Default::default() });
    let message = "reason code is not valid: 3.1.1 has no DISCONNECT for it: close the connection instead";
    refused(V311, &disconnect(ReasonCode::DisconnectWithWill), message);
    refused(V311, &disconnect(ReasonCode::SessionTakenOver), message);
    refused(V311, &auth(ReasonCode::Success, None), "packet type is not valid: 3.1.1 has no AUTH");
    let password_alone = |version| {
        let connect = Connect { password: Some(Bytes::new()), ..connect(version) };
        Packet::Connect(Box::new(connect))
    };
    refused(V311, &password_alone(V311), "password is not valid: 3.1.1 needs a user name with it");
    assert_eq!(encode(&password_alone(V5), V5, &mut BytesMut::new()), Ok(()));
}
