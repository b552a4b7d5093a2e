//! Receive Maximum and Maximum Packet Size, both directions.

use std::num::{NonZeroU16, NonZeroU32};

use protocol::ProtocolVersion::V5;
use protocol::{Packet, Publish, QoS, ReasonCode};

use crate::broker_process::Broker;
use crate::raw_client::{BOTH, RawClient, connect_packet, durable_connect, id, message};

#[test]
fn the_broker_sends_no_more_unacknowledged_messages_than_the_client_takes() {
    let broker = Broker::start();
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut connect = connect_packet("narrow", V5);
        connect.properties.receive_maximum = NonZeroU16::new(2);
        let (mut client, _) = RawClient::connect_with(broker.address(), connect);
        client.subscribe("a", qos);
        let mut publisher = broker.client("publisher", V5);
        for n in 0..5 {
            publisher.publish(message("a", n.to_string(), qos));
        }
        // [MQTT-3.3.4-9]
        let mut open: Vec<_> =
            client.messages_until_pong().iter().map(|m| m.packet_id.expect("an id")).collect();
        assert_eq!(open.len(), 2, "at {qos:?}");
        for n in 2..5 {
            let its_id = open.remove(0);
            if qos == QoS::AtLeastOnce {
                client.puback(its_id);
            } else {
                client.pubrec(its_id);
                client.expect_pubrel(its_id);
                client.expect_no_message();
                client.pubcomp(its_id);
            }
            // Section 4.9: PUBACK or PUBCOMP frees one place.
            let next = client.expect_message("a", n.to_string());
            open.push(next.packet_id.expect("an id"));
            client.expect_no_message();
        }
    }
}

#[test]
fn qos_0_messages_pass_while_the_receive_maximum_is_used_up() {
    let broker = Broker::start();
    let mut connect = connect_packet("narrow", V5);
    connect.properties.receive_maximum = NonZeroU16::new(1);
    let (mut client, _) = RawClient::connect_with(broker.address(), connect);
    client.subscribe("a", QoS::AtLeastOnce);
    client.subscribe("b", QoS::AtMostOnce);
    client.publish_accepted("a", "in flight");
    client.publish_accepted("a", "waits");
    client.publish(message("b", "passes", QoS::AtMostOnce));
    client.expect_message("a", "in flight");
    client.expect_message("b", "passes");
}

#[test]
fn the_broker_limits_messages_in_flight_of_clients_that_set_no_limit() {
    let broker = Broker::start_configured("[mqtt]\ninflight_max = 3\n");
    for version in BOTH {
        let mut client = broker.client("silent", version);
        client.subscribe("a", QoS::AtLeastOnce);
        let mut publisher = broker.client("publisher", version);
        for n in 0..10 {
            publisher.publish_accepted("a", n.to_string());
        }
        let got = client.messages_until_pong();
        assert_eq!(got.len(), 3);
        client.puback(got[0].packet_id.expect("an id"));
        client.expect_message("a", "3");
    }
}

#[test]
fn a_client_that_sends_more_than_the_broker_takes_is_disconnected() {
    let broker = Broker::start_configured("[mqtt]\nreceive_maximum = 3\n");
    let mut bystander = broker.client("bystander", V5);
    let (mut client, ack) = RawClient::connect_with(broker.address(), connect_packet("flood", V5));
    assert_eq!(ack.properties.receive_maximum.map(u16::from), Some(3));
    for _ in 0..3 {
        let its_id = client.send_publish(message("a", "x", QoS::ExactlyOnce)).expect("an id");
        client.expect_pubrec(its_id);
    }
    client.send_publish(message("a", "one too many", QoS::ExactlyOnce));
    // Section 3.3.4 after [MQTT-3.3.4-7]: the server uses DISCONNECT 0x93.
    client.expect_disconnect(ReasonCode::ReceiveMaximumExceeded);
    bystander.expect_no_message();
}

/// A publisher that lost its connection with two QoS 2 flows open, each past PUBREC, and their ids.
fn publisher_with_two_open_flows(broker: &Broker) -> [protocol::PacketId; 2] {
    let (mut publisher, _) = broker.durable("publisher", V5);
    let ids = [1, 2].map(|_| publisher.send_publish(message("a", "x", QoS::ExactlyOnce)).expect("an id"));
    for id in ids {
        publisher.expect_pubrec(id);
    }
    publisher.lose();
    ids
}

#[test]
fn flows_sent_again_after_a_reconnect_fit_the_receive_maximum() {
    let broker = Broker::start_configured("[mqtt]\nreceive_maximum = 2\n");
    let ids = publisher_with_two_open_flows(&broker);
    let (mut publisher, present) = broker.durable("publisher", V5);
    assert!(present);
    for id in ids {
        let again = Publish { packet_id: Some(id), dup: true, ..message("a", "x", QoS::ExactlyOnce) };
        publisher.send(&Packet::Publish(again));
        publisher.expect_pubrec(id);
    }
    for id in ids {
        publisher.pubrel(id);
        publisher.expect_pubcomp(id);
    }
    publisher.publish(message("a", "places are free again", QoS::ExactlyOnce));
}

#[test]
fn the_receive_maximum_begins_anew_with_each_connection() {
    let broker = Broker::start_configured("[mqtt]\nreceive_maximum = 2\n");
    let old = publisher_with_two_open_flows(&broker);
    let (mut publisher, present) = broker.durable("publisher", V5);
    assert!(present);
    // Section 4.9: the quota is not preserved, and PUBREL needs none.
    let new = [11, 12].map(id);
    for id in new {
        let publish = Publish { packet_id: Some(id), ..message("a", "new", QoS::ExactlyOnce) };
        publisher.send(&Packet::Publish(publish));
    }
    for id in new {
        publisher.expect_pubrec(id);
    }
    for id in old {
        publisher.pubrel(id);
        publisher.expect_pubcomp(id);
    }
}

#[test]
fn a_message_over_the_clients_packet_limit_is_left_out_and_the_next_one_comes() {
    let broker = Broker::start();
    let mut connect = durable_connect("small", V5);
    connect.properties.packet_bytes_max = NonZeroU32::new(400);
    let (client, _) = RawClient::connect_with(broker.address(), connect.clone());
    let mut client = client.acknowledging();
    client.subscribe("a", QoS::AtLeastOnce);
    let mut publisher = broker.client("publisher", V5);
    publisher.publish_accepted("a", vec![b'x'; 600]);
    publisher.publish_accepted("a", "fits");
    // [MQTT-3.1.2-24] [MQTT-3.1.2-25]
    client.expect_message("a", "fits");
    client.disconnect();
    publisher.publish_accepted("a", vec![b'x'; 600]);
    publisher.publish_accepted("a", "fits too");
    let (client, ack) = RawClient::connect_with(broker.address(), connect);
    assert!(ack.session_present);
    client.acknowledging().expect_message("a", "fits too");
}
