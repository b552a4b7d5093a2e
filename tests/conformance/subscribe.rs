//! SUBSCRIBE and UNSUBSCRIBE: filters, grants, and which topics they match.

use protocol::ProtocolVersion::{V5, V311};
use protocol::{
    ByteString, Packet, QoS, ReasonCode, Subscribe, SubscribeFilter, SubscribeOptions, Unsubscribe,
};

use crate::broker_process::Broker;
use crate::raw_client::{BOTH, at, id, message};

/// Filter, topic, whether it matches: the examples of section 4.7 and their edges.
const MATCHES: &[(&str, &str, bool)] = &[
    ("sport/tennis/player1/#", "sport/tennis/player1", true),
    ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
    ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
    ("sport/tennis/player1/#", "sport/tennis/player10", false),
    ("sport/#", "sport", true),
    ("#", "sport", true),
    ("#", "/", true),
    ("sport/tennis/+", "sport/tennis/player1", true),
    ("sport/tennis/+", "sport/tennis/player1/ranking", false),
    ("sport/+", "sport", false),
    ("sport/+", "sport/", true),
    ("+/+", "/finance", true),
    ("/+", "/finance", true),
    ("+", "/finance", false),
    ("+/tennis/#", "sport/tennis/a/b", true),
    ("sport/+/player1", "sport/tennis/player1", true),
    ("sport/+/player1", "sport/tennis/x/player1", false),
    ("accounts", "Accounts", false),
    ("accounts payable", "accounts payable", true),
    ("/finance", "finance", false),
    ("a//b", "a//b", true),
    ("a/+/b", "a//b", true),
    ("a/b", "a//b", false),
    ("a/", "a", false),
    ("日本/+", "日本/東京", true),
    ("+/", "a/", true),
    ("+/", "a", false),
];

#[test]
fn filters_match_the_topics_that_the_standard_says() {
    let broker = Broker::start();
    let mut wrong = Vec::new();
    for version in BOTH {
        let mut publisher = broker.client("publisher", version);
        for (filter, topic, matches) in MATCHES {
            let mut subscriber = broker.client("subscriber", version);
            subscriber.subscribe(filter, QoS::AtMostOnce);
            publisher.publish_accepted(topic, "x");
            // [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-3.3.2-3]
            let got = subscriber.messages_until_pong();
            if got.len() != usize::from(*matches) || got.iter().any(|m| &*m.topic != *topic) {
                wrong.push(format!("{filter} and {topic}: expected {matches}, got {got:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn wildcards_in_the_first_level_do_not_match_dollar_topics() {
    let broker = Broker::start();
    for version in BOTH {
        let mut wide = broker.client("wide", version);
        for filter in ["#", "+/receipts", "+/#"] {
            wide.subscribe(filter, QoS::AtLeastOnce);
        }
        let mut sender = broker.client("sender", V5);
        sender.subscribe("$im/receipts", QoS::AtLeastOnce);
        let mut asking = message("nobody/listens/but/wide", "x", QoS::AtLeastOnce);
        asking.properties.user_properties = crate::raw_client::user_properties(&[("im-receipt", "all")]);
        sender.publish(asking);
        let got = wide.messages_until_pong();
        // [MQTT-4.7.2-1]
        assert!(got.iter().all(|m| !m.topic.starts_with('$')), "{got:?}");
        assert_eq!(got.len(), 1);
    }
}

#[test]
fn suback_answers_each_filter_in_order() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client("subscriber", version);
        let ack = client.subscribe_raw(
            &[
                ("a", at(QoS::ExactlyOnce)),
                ("b", at(QoS::AtMostOnce)),
                ("c/#/d", at(QoS::AtLeastOnce)),
                ("e", at(QoS::AtLeastOnce)),
            ],
            None,
        );
        let refused =
            if version == V5 { ReasonCode::TopicFilterInvalid } else { ReasonCode::UnspecifiedError };
        // [MQTT-3.8.4-5] [MQTT-3.8.4-6] [MQTT-3.9.3-1]
        assert_eq!(
            ack.reasons,
            [ReasonCode::GrantedQoS2, ReasonCode::Success, refused, ReasonCode::GrantedQoS1]
        );
        client.publish(message("e", "still served", QoS::AtMostOnce));
        client.expect_message("e", "still served");
    }
}

#[test]
fn a_bad_filter_is_refused_alone_and_the_connection_stays() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client("subscriber", version);
        for filter in [
            "a/#/b",
            "a#",
            "a/b#",
            "#/a",
            "a+",
            "a/+b",
            "+a/b",
            "##",
            "++",
            "$share/g",
            "$share//a",
            "$share/g/",
        ] {
            let ack = client.subscribe_raw(&[(filter, at(QoS::AtMostOnce))], None);
            let expected =
                if version == V5 { ReasonCode::TopicFilterInvalid } else { ReasonCode::UnspecifiedError };
            // [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.8.2-1]
            assert_eq!(ack.reasons, [expected], "{filter}");
        }
        client.expect_no_message();
    }
}

#[test]
fn messages_come_at_the_lower_qos_of_publish_and_subscription() {
    let broker = Broker::start();
    for version in BOTH {
        for granted in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut subscriber = broker.client("subscriber", version).acknowledging();
            subscriber.subscribe("a", granted);
            let mut publisher = broker.client("publisher", version);
            for published in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                publisher.publish(message("a", "x", published));
                // [MQTT-3.8.4-8]
                assert_eq!(subscriber.expect_message("a", "x").qos, granted.min(published));
            }
        }
    }
}

#[test]
fn overlapping_filters_give_one_copy_at_the_highest_qos() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client("subscriber", version).acknowledging();
        client.subscribe("a/#", QoS::AtMostOnce);
        client.subscribe("a/+", QoS::ExactlyOnce);
        client.subscribe("a/b", QoS::AtLeastOnce);
        broker.client("publisher", version).publish(message("a/b", "x", QoS::ExactlyOnce));
        // [MQTT-3.3.4-2]; the contract promises one copy.
        assert_eq!(client.expect_message("a/b", "x").qos, QoS::ExactlyOnce);
        client.expect_no_message();
    }
}

#[test]
fn a_repeated_subscribe_replaces_the_subscription() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client("subscriber", version).acknowledging();
        client.subscribe("a", QoS::ExactlyOnce);
        client.subscribe("a", QoS::AtMostOnce);
        let mut publisher = broker.client("publisher", version);
        publisher.publish(message("a", "x", QoS::ExactlyOnce));
        // [MQTT-3.8.4-3]
        assert_eq!(client.expect_message("a", "x").qos, QoS::AtMostOnce);
        client.expect_no_message();
        client.unsubscribe(&["a"]);
        publisher.publish_accepted("a", "y");
        client.expect_no_message();
    }
}

#[test]
fn the_same_filter_twice_in_one_packet_counts_as_two_subscribes() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client("subscriber", version);
        let ack = client.subscribe_raw(&[("a", at(QoS::AtLeastOnce)), ("a", at(QoS::AtMostOnce))], None);
        // [MQTT-3.8.4-5]
        assert_eq!(ack.reasons, [ReasonCode::GrantedQoS1, ReasonCode::Success]);
        client.publish_accepted("a", "x");
        assert_eq!(client.expect_message("a", "x").qos, QoS::AtMostOnce);
        client.expect_no_message();
    }
}

#[test]
fn unsubscribe_ends_exactly_the_filter_named() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client("subscriber", version);
        client.subscribe("a/+", QoS::AtMostOnce);
        client.subscribe("a/b", QoS::AtMostOnce);
        let ack = client.unsubscribe(&["a/+", "a/c", "a/#"]);
        if version == V5 {
            // [MQTT-3.10.4-1] compares characters, not topics; [MQTT-3.11.3-1] one code a filter.
            let expected =
                [ReasonCode::Success, ReasonCode::NoSubscriptionExisted, ReasonCode::NoSubscriptionExisted];
            assert_eq!(ack.reasons, expected);
        }
        let mut publisher = broker.client("publisher", version);
        publisher.publish_accepted("a/c", "not any more");
        publisher.publish_accepted("a/b", "still");
        client.expect_message("a/b", "still");
        client.expect_no_message();
    }
}

#[test]
fn messages_in_flight_are_completed_after_unsubscribe() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client("subscriber", version);
        client.subscribe("a", QoS::ExactlyOnce);
        broker.client("publisher", version).publish(message("a", "x", QoS::ExactlyOnce));
        let its_id = client.expect_message("a", "x").packet_id.expect("an id");
        client.unsubscribe(&["a"]);
        // [MQTT-3.10.4-3]
        client.pubrec(its_id);
        client.expect_pubrel(its_id);
        client.pubcomp(its_id);
    }
}

#[test]
fn a_subscription_works_as_soon_as_suback_is_in() {
    let broker = Broker::start();
    for version in BOTH {
        let mut publisher = broker.client("publisher", version);
        for n in 0..50 {
            let mut subscriber = broker.client("subscriber", version);
            subscriber.subscribe("a", QoS::AtLeastOnce);
            publisher.publish_accepted("a", n.to_string());
            subscriber.expect_message("a", n.to_string());
        }
    }
}

#[test]
fn more_subscriptions_than_allowed_are_refused_with_quota_exceeded() {
    let broker = Broker::start_configured("[session]\nsubscriptions_max = 2\n");
    for version in [V311, V5] {
        let mut client = broker.client("greedy", version);
        client.subscribe("a", QoS::AtMostOnce);
        client.subscribe("b", QoS::AtMostOnce);
        let ack = client.subscribe_raw(&[("c", at(QoS::AtMostOnce))], None);
        let expected = if version == V5 { ReasonCode::QuotaExceeded } else { ReasonCode::UnspecifiedError };
        assert_eq!(ack.reasons, [expected]);
        // Replacing one needs no place.
        client.subscribe("a", QoS::AtLeastOnce);
    }
}

#[test]
fn a_packet_of_a_thousand_filters_has_one_answer_and_what_comes_behind_it_is_answered_after() {
    // [MQTT-3.8.4-1] [MQTT-3.8.4-5] [MQTT-3.8.4-6] [MQTT-3.10.4-4] [MQTT-3.11.3-1] served in parts, so that others need
    // not wait for all of it, and answered as one.
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client("many-filters", version);
        let options = SubscribeOptions { qos: QoS::AtLeastOnce, ..SubscribeOptions::default() };
        let filters: Vec<ByteString> = (0..1_000).map(|i| format!("many/{i}/+").into()).collect();
        let asked = filters.iter().map(|filter| SubscribeFilter { filter: filter.clone(), options });
        let (packet_id, user_properties) = (id(1), vec![]);
        let subscription_identifier = None;
        let subscribe =
            Subscribe { packet_id, subscription_identifier, user_properties, filters: asked.collect() };
        client.send(&Packet::Subscribe(subscribe));
        client.send(&Packet::Publish(message("many/999/x", "behind", QoS::AtMostOnce)));
        let Packet::SubAck(suback) = client.receive() else { panic!("SUBACK comes first") };
        assert_eq!(
            (suback.packet_id, &suback.reasons[..]),
            (packet_id, &[ReasonCode::GrantedQoS1; 1_000][..])
        );
        client.expect_message("many/999/x", "behind");
        let unsubscribe = Unsubscribe { packet_id: id(2), user_properties: vec![], filters };
        client.send(&Packet::Unsubscribe(unsubscribe));
        client.send(&Packet::Publish(message("many/999/x", "too late", QoS::AtMostOnce)));
        let Packet::UnsubAck(unsuback) = client.receive() else { panic!("UNSUBACK comes first") };
        assert_eq!(unsuback.packet_id, id(2));
        // 3.1.1 has no codes in it.
        if version == V5 {
            assert_eq!(unsuback.reasons, [ReasonCode::Success; 1_000]);
        }
        client.expect_no_message();
        client.disconnect();
    }
}
