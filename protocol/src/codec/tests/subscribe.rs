//! SUBSCRIBE, UNSUBSCRIBE and their answers.

use super::*;
use crate::{
    AckProperties, QoS, RetainHandling, SubAck, Subscribe, SubscribeFilter, SubscribeOptions, UnsubAck,
    Unsubscribe,
};

fn filter(filter: &'static str, options: SubscribeOptions) -> SubscribeFilter {
    SubscribeFilter { filter: filter.into(), options }
}

#[test]
fn a_subscribe_is_read_field_by_field() {
    let at = |qos| SubscribeOptions { qos, ..SubscribeOptions::default() };
    let subscribe = Subscribe {
        packet_id: id(1),
        subscription_identifier: None,
        user_properties: Vec::new(),
        filters: vec![filter("a/#", at(QoS::ExactlyOnce)), filter("+", at(QoS::AtMostOnce))],
    };
    check(Role::Broker, V311, b"\x82\x0c\0\x01\0\x03a/#\x02\0\x01+\0", &Packet::Subscribe(subscribe));
    let subscribe = Subscribe {
        packet_id: id(2),
        subscription_identifier: Some(200),
        user_properties: vec![("k".into(), "v".into())],
        filters: vec![filter(
            "a",
            SubscribeOptions {
                qos: QoS::AtLeastOnce,
                no_local: true,
                retain_as_published: true,
                retain_handling: RetainHandling::DoNotSend,
            },
        )],
    };
    let bytes = b"\x82\x11\0\x02\x0a\x0b\xc8\x01\x26\0\x01k\0\x01v\0\x01a\x2d";
    check(Role::Broker, V5, bytes, &Packet::Subscribe(subscribe));
}

#[test]
fn the_syntax_of_a_filter_is_left_to_the_broker() {
    for bad in ["a/#/b", "a+", "#a", "$share/", "$share/g", "$share//a", "$share/+/a", "a/b#"] {
        let body = [&b"\0\x01\0\0"[..], &[bad.len() as u8], bad.as_bytes(), b"\x01"].concat();
        let Ok(Some(Packet::Subscribe(subscribe))) = decode(Role::Broker, V5, &frame(0x82, &body)) else {
            panic!("{bad} is refused with its packet");
        };
        assert_eq!(subscribe.filters[0].filter, bad);
        assert!(subscribe.filters[0].parsed().is_err(), "{bad}");
    }
}

#[test]
fn a_wrong_subscribe_is_refused() {
    for (version, statement, body, message) in [
        (
            V311,
            "[MQTT-3.8.3-3] (3.1.1)",
            &b"\0\x01"[..],
            "protocol error in SUBSCRIBE: there is no topic filter",
        ),
        (V5, "[MQTT-3.8.3-2]", b"\0\x01\0", "protocol error in SUBSCRIBE: there is no topic filter"),
        (
            V311,
            "[MQTT-2.3.1-1] (3.1.1)",
            b"\0\0\0\x01a\0",
            "protocol error in SUBSCRIBE: packet identifier is 0",
        ),
        (V5, "[MQTT-2.2.1-3]", b"\0\0\0\0\x01a\0", "protocol error in SUBSCRIBE: packet identifier is 0"),
        (V311, "[MQTT-4.7.3-1] (3.1.1)", b"\0\x01\0\0\0", "malformed SUBSCRIBE: a topic filter is empty"),
        (V5, "[MQTT-4.7.3-1]", b"\0\x01\0\0\0\0", "malformed SUBSCRIBE: a topic filter is empty"),
        (
            V5,
            "[MQTT-3.8.3-1]",
            b"\0\x01\0\0\x01\xff\0",
            "malformed SUBSCRIBE: topic filter is not UTF-8: invalid utf-8 sequence of 1 bytes from index 0",
        ),
        (
            V5,
            "[MQTT-4.7.3-2]",
            b"\0\x01\0\0\x01\0\0",
            "malformed SUBSCRIBE: topic filter contains the null character",
        ),
        (
            V5,
            "section 3.8.2.1.2",
            b"\0\x01\x02\x0b\0\0\x01a\0",
            "protocol error in SUBSCRIBE: subscription identifier is 0",
        ),
        (
            V5,
            "section 3.8.2.1.2",
            b"\0\x01\x04\x0b\x01\x0b\x01\0\x01a\0",
            "protocol error in SUBSCRIBE: subscription identifier is sent more than once",
        ),
        (
            V5,
            "section 3.8.3",
            b"\0\x01\0\0\x01a",
            "malformed SUBSCRIBE: subscription options needs 1 bytes, 0 are left",
        ),
        (
            V5,
            "section 3.8.3",
            b"\0\x01\0\0\x01a\0\0",
            "malformed SUBSCRIBE: topic filter needs 2 bytes, 1 are left",
        ),
    ] {
        check_refused(Role::Broker, version, statement, &frame(0x82, body), message);
    }
}

#[test]
fn wrong_subscription_options_are_refused() {
    for (version, statement, body, message) in [
        (
            V311,
            "[MQTT-3-8.3-4] (3.1.1)",
            &b"\0\x01\0\x01a\x04"[..],
            "malformed SUBSCRIBE: reserved subscription options are set in 0x04",
        ),
        (V311, "[MQTT-3-8.3-4] (3.1.1)", b"\0\x01\0\x01a\x03", "malformed SUBSCRIBE: requested qos is 3"),
        (
            V5,
            "[MQTT-3.8.3-5]",
            b"\0\x01\0\0\x01a\x40",
            "malformed SUBSCRIBE: reserved subscription options are set in 0x40",
        ),
        (
            V5,
            "[MQTT-3.8.3-5]",
            b"\0\x01\0\0\x01a\x80",
            "malformed SUBSCRIBE: reserved subscription options are set in 0x80",
        ),
        (V5, "section 3.8.3.1", b"\0\x01\0\0\x01a\x03", "protocol error in SUBSCRIBE: maximum qos is 3"),
        (V5, "section 3.8.3.1", b"\0\x01\0\0\x01a\x30", "protocol error in SUBSCRIBE: retain handling is 3"),
        (
            V5,
            "[MQTT-3.8.3-4]",
            b"\0\x01\0\0\x0a$share/g/a\x04",
            "protocol error in SUBSCRIBE: no local is set on the shared subscription \"$share/g/a\"",
        ),
    ] {
        check_refused(Role::Broker, version, statement, &frame(0x82, body), message);
    }
}

#[test]
fn an_unsubscribe_is_read_or_refused() {
    let unsubscribe = |user_properties| {
        Packet::Unsubscribe(Unsubscribe {
            packet_id: id(9),
            user_properties,
            filters: vec!["a/#".into(), "b".into()],
        })
    };
    check(Role::Broker, V311, b"\xa2\x0a\0\x09\0\x03a/#\0\x01b", &unsubscribe(Vec::new()));
    let bytes = b"\xa2\x12\0\x09\x07\x26\0\x01k\0\x01v\0\x03a/#\0\x01b";
    check(Role::Broker, V5, bytes, &unsubscribe(vec![("k".into(), "v".into())]));
    for (version, statement, body, message) in [
        (
            V311,
            "[MQTT-3.10.3-2] (3.1.1)",
            &b"\0\x01"[..],
            "protocol error in UNSUBSCRIBE: there is no topic filter",
        ),
        (V5, "[MQTT-3.10.3-2]", b"\0\x01\0", "protocol error in UNSUBSCRIBE: there is no topic filter"),
        (V5, "[MQTT-2.2.1-3]", b"\0\0\0\0\x01a", "protocol error in UNSUBSCRIBE: packet identifier is 0"),
        (V311, "[MQTT-4.7.3-1] (3.1.1)", b"\0\x01\0\0", "malformed UNSUBSCRIBE: a topic filter is empty"),
        (
            V311,
            "section 3.10.3",
            b"\0\x01\0\x01a\0",
            "malformed UNSUBSCRIBE: topic filter needs 2 bytes, 1 are left",
        ),
        (
            V5,
            "section 3.10.2.1",
            b"\0\x01\x02\x0b\x01\0\x01a",
            "malformed UNSUBSCRIBE: subscription identifier is not allowed in this packet",
        ),
    ] {
        check_refused(Role::Broker, version, statement, &frame(0xa2, body), message);
    }
}

#[test]
fn a_suback_is_read_or_refused() {
    let suback = |reasons: &[ReasonCode]| {
        Packet::SubAck(SubAck {
            packet_id: id(3),
            properties: AckProperties::default(),
            reasons: reasons.into(),
        })
    };
    let reasons = [ReasonCode::Success, ReasonCode::GrantedQoS2, ReasonCode::UnspecifiedError];
    check(Role::Client, V311, b"\x90\x05\0\x03\0\x02\x80", &suback(&reasons));
    let reasons = [ReasonCode::GrantedQoS1, ReasonCode::TopicFilterInvalid];
    check(Role::Client, V5, b"\x90\x05\0\x03\0\x01\x8f", &suback(&reasons));
    for (version, statement, bytes, message) in [
        (V311, "section 3.9.3", &b"\x90\x02\0\x01"[..], "protocol error in SUBACK: there is no reason code"),
        (V5, "section 3.9.3", b"\x90\x03\0\x01\0", "protocol error in SUBACK: there is no reason code"),
        (V5, "[MQTT-2.2.1-3]", b"\x90\x04\0\0\0\0", "protocol error in SUBACK: packet identifier is 0"),
    ] {
        check_refused(Role::Client, version, statement, bytes, message);
    }
    // [MQTT-3.9.3-2], [MQTT-3.9.3-2] (3.1.1)
    for code in 0..=u8::MAX {
        let allowed = matches!(code, 0..=2 | 0x80);
        assert_eq!(decode(Role::Client, V311, &[0x90, 3, 0, 1, code]).is_ok(), allowed, "{code:#04x}");
        let allowed = [0, 1, 2, 0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2].contains(&code);
        assert_eq!(decode(Role::Client, V5, &[0x90, 4, 0, 1, 0, code]).is_ok(), allowed, "{code:#04x}");
    }
}

#[test]
fn an_unsuback_is_read_or_refused() {
    let unsuback = |reasons: &[ReasonCode]| {
        Packet::UnsubAck(UnsubAck {
            packet_id: id(3),
            properties: AckProperties::default(),
            reasons: reasons.into(),
        })
    };
    check(Role::Client, V311, b"\xb0\x02\0\x03", &unsuback(&[]));
    let reasons = [ReasonCode::Success, ReasonCode::NoSubscriptionExisted];
    check(Role::Client, V5, b"\xb0\x05\0\x03\0\0\x11", &unsuback(&reasons));
    let message = "malformed UNSUBACK: 1 bytes follow the last field";
    check_refused(Role::Client, V311, "section 3.11 of 3.1.1", b"\xb0\x03\0\x03\0", message);
    let message = "protocol error in UNSUBACK: there is no reason code";
    check_refused(Role::Client, V5, "section 3.11.3", b"\xb0\x03\0\x03\0", message);
    // [MQTT-3.11.3-2]
    for code in 0..=u8::MAX {
        let allowed = [0, 0x11, 0x80, 0x83, 0x87, 0x8f, 0x91].contains(&code);
        assert_eq!(decode(Role::Client, V5, &[0xb0, 4, 0, 1, 0, code]).is_ok(), allowed, "{code:#04x}");
    }
}
