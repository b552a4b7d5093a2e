//! Topics that begin with `$`: who may publish and subscribe there (docs/protocol.md, refusals and rights).

use protocol::ProtocolVersion::{V5, V311};
use protocol::{QoS, ReasonCode};

use crate::broker_process::Broker;
use crate::raw_client::{at, message, retained, will};

const IM_TOPICS: [&str; 6] =
    ["$im/receipts", "$im/presence/truck-7", "$im/inbox", "$im/errors", "$im/nothing", "$im"];

#[test]
fn publishing_to_a_reserved_topic_is_refused_with_its_reason() {
    let broker = Broker::start();
    let mut client = broker.client("publisher", V5);
    let mut wrong = Vec::new();
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        for topic in &IM_TOPICS[..5] {
            let ack = client.publish(message(topic, "x", qos)).expect("an ack");
            if ack.reason != ReasonCode::NotAuthorized {
                wrong.push(format!("{topic} at {qos:?}: {ack:?}"));
            }
        }
        for topic in ["$SYS/broker/uptime", "$other", "$share/g/a"] {
            let ack = client.publish(message(topic, "x", qos)).expect("an ack");
            if ack.reason != ReasonCode::TopicNameInvalid {
                wrong.push(format!("{topic} at {qos:?}: {ack:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    client.expect_no_message();
}

#[test]
fn a_reserved_publish_in_v311_is_acknowledged_and_discarded() {
    let broker = Broker::start();
    let mut witness = broker.client("witness", V5);
    witness.subscribe("$other/topic", QoS::AtMostOnce);
    let mut client = broker.client("publisher", V311);
    for topic in ["$im/receipts", "$im/nothing", "$other/topic"] {
        // [MQTT-3.3.5-2] (3.1.1)
        client.publish(message(topic, "x", QoS::AtLeastOnce));
        client.publish(message(topic, "x", QoS::ExactlyOnce));
        client.publish(retained(topic, "x", QoS::AtLeastOnce));
        client.publish(message(topic, "x", QoS::AtMostOnce));
    }
    client.expect_no_message();
    witness.expect_no_message();
}

#[test]
fn what_v311_cannot_be_told_in_an_ack_is_told_on_the_errors_topic() {
    let broker = Broker::start();
    let mut other = broker.client("other", V311);
    other.subscribe("$im/errors", QoS::AtMostOnce);
    let mut client = broker.client("publisher", V311);
    client.subscribe("$im/errors", QoS::AtMostOnce);
    for topic in ["$im/nothing", "$other/topic"] {
        client.publish(message(topic, "x", QoS::AtLeastOnce));
        let told = client.receive_publish();
        assert_eq!(&*told.topic, "$im/errors");
        let told: serde_json::Value = serde_json::from_slice(&told.payload).expect("JSON");
        assert!(told["request"].is_string() && told.to_string().contains(topic), "{told}");
        assert!(told["error"].as_str().is_some_and(|why| !why.is_empty()), "{told}");
        assert!(told["at"].as_u64().is_some_and(|at| at > 1_700_000_000_000), "{told}");
    }
    // It is for the client that asked alone.
    other.expect_no_message();
}

#[test]
fn a_reserved_publish_at_qos_0_is_discarded_without_a_word() {
    let broker = Broker::start();
    let mut client = broker.client("publisher", V5);
    client.subscribe("$im/receipts", QoS::AtMostOnce);
    for topic in IM_TOPICS {
        client.publish(message(topic, "{}", QoS::AtMostOnce));
    }
    client.expect_no_message();
}

#[test]
fn receipts_cannot_be_forged() {
    let broker = Broker::start();
    for version in [V311, V5] {
        let mut victim = broker.client("victim", V5);
        victim.subscribe("$im/receipts", QoS::AtLeastOnce);
        let mut forger = broker.client("victim-of-jealousy", version);
        forger.publish(message("$im/receipts", "{\"state\":\"delivered\"}", QoS::AtLeastOnce));
        forger.publish(retained("$im/receipts", "{\"state\":\"delivered\"}", QoS::AtLeastOnce));
        victim.expect_no_message();
    }
}

#[test]
fn a_will_on_a_reserved_topic_forges_nothing() {
    let broker = Broker::start();
    let mut victim = broker.client("victim", V5);
    victim.subscribe("$im/receipts", QoS::AtLeastOnce);
    for version in [V311, V5] {
        let mut connect = crate::raw_client::connect_packet("forger", version);
        connect.will = Some(will("$im/receipts", "{\"state\":\"delivered\"}"));
        // Refused at once, or published to nobody later: both are within the contract.
        let (client, ack) = crate::raw_client::RawClient::connect_with(broker.address(), connect);
        if ack.reason == ReasonCode::Success {
            client.lose();
        }
    }
    victim.expect_no_message();
}

#[test]
fn a_wildcard_in_the_second_level_of_im_is_refused() {
    let broker = Broker::start();
    for version in [V311, V5] {
        let mut client = broker.client("subscriber", version);
        for filter in ["$im/#", "$im/+"] {
            let ack = client.subscribe_raw(&[(filter, at(QoS::AtMostOnce))], None);
            let expected =
                if version == V5 { ReasonCode::TopicFilterInvalid } else { ReasonCode::UnspecifiedError };
            assert_eq!(ack.reasons, [expected], "{filter}");
        }
    }
}
