//! CONNECT and CONNACK: who gets in, under which client id, and what the broker says of itself.

use protocol::{Packet, ProtocolVersion, QoS, ReasonCode};

use crate::broker_process::Broker;
use crate::raw_client::{BOTH, RawClient, at, connect_packet, durable_connect, id, message};

#[test]
fn client_ids_of_1_to_23_letters_and_digits_are_taken() {
    let broker = Broker::start();
    // [MQTT-3.1.3-5]
    for version in BOTH {
        for client_id in
            ["a", "0", "abcdefghijklmnopqrstuvw", "ABCDEFGHIJKLMNOPQRSTUVW", "01234567890123456789012"]
        {
            broker.client(client_id, version).disconnect();
        }
    }
}

#[test]
fn client_ids_beyond_what_must_be_taken_work_too() {
    let broker = Broker::start();
    for version in BOTH {
        for client_id in ["truck-7/cab", "a b", "日本語", &"x".repeat(256)] {
            let mut client = broker.client(client_id, version);
            client.subscribe("a", QoS::AtMostOnce);
            client.disconnect();
        }
    }
}

#[test]
fn an_empty_client_id_is_given_a_unique_one_in_v5() {
    let broker = Broker::start();
    let assigned: Vec<String> = (0..2)
        .map(|_| {
            // [MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-16]
            let (_, ack) = RawClient::connect_with(broker.address(), connect_packet("", ProtocolVersion::V5));
            assert_eq!(ack.reason, ReasonCode::Success);
            ack.properties.assigned_client_id.expect("CONNACK must say the assigned client id").to_string()
        })
        .collect();
    assert!(!assigned[0].is_empty());
    assert_ne!(assigned[0], assigned[1]);
}

#[test]
fn a_client_id_of_its_own_is_not_assigned() {
    let broker = Broker::start();
    let (_, ack) = RawClient::connect_with(broker.address(), connect_packet("own", ProtocolVersion::V5));
    assert_eq!(ack.properties.assigned_client_id, None);
}

#[test]
fn an_assigned_client_id_resumes_its_session() {
    let broker = Broker::start();
    // [MQTT-3.1.3-7]: processed as if the client had sent the assigned id.
    let (mut first, ack) =
        RawClient::connect_with(broker.address(), durable_connect("", ProtocolVersion::V5));
    let assigned = ack.properties.assigned_client_id.expect("an assigned client id").to_string();
    first.subscribe("a/b", QoS::AtLeastOnce);
    first.disconnect();
    broker.client("publisher", ProtocolVersion::V5).publish_accepted("a/b", "kept");
    let (mut second, present) = broker.durable(&assigned, ProtocolVersion::V5);
    assert!(present);
    second.expect_message("a/b", "kept");
}

#[test]
fn an_empty_client_id_in_v311_needs_a_clean_session() {
    let broker = Broker::start();
    let (mut clean, ack) =
        RawClient::connect_with(broker.address(), connect_packet("", ProtocolVersion::V311));
    assert_eq!(ack.reason, ReasonCode::Success, "[MQTT-3.1.3-6] (3.1.1)");
    clean.subscribe("a", QoS::AtMostOnce);
    let (mut kept, ack) =
        RawClient::connect_with(broker.address(), durable_connect("", ProtocolVersion::V311));
    // [MQTT-3.1.3-8] (3.1.1): return code 0x02, then closed.
    assert_eq!(ack.reason, ReasonCode::ClientIdentifierNotValid);
    kept.expect_closed();
}

#[test]
fn two_clients_without_client_id_do_not_disturb_each_other() {
    let broker = Broker::start();
    for version in BOTH {
        let (mut first, _) = RawClient::connect_with(broker.address(), connect_packet("", version));
        let (mut second, _) = RawClient::connect_with(broker.address(), connect_packet("", version));
        first.expect_no_message();
        second.expect_no_message();
    }
}

#[test]
fn connack_tells_the_limits_in_force() {
    let broker = Broker::start_configured(
        "[mqtt]\npacket_bytes_max = 5000\nreceive_maximum = 7\ntopic_alias_max = 3\nkeep_alive_max_s = 30\n",
    );
    let mut connect = connect_packet("curious", ProtocolVersion::V5);
    connect.keep_alive_s = 600;
    let (_, ack) = RawClient::connect_with(broker.address(), connect);
    let properties = ack.properties;
    assert_eq!(properties.packet_bytes_max.map(u32::from), Some(5000));
    assert_eq!(properties.receive_maximum.map(u16::from), Some(7));
    assert_eq!(properties.topic_alias_max, Some(3));
    assert_eq!(properties.server_keep_alive_s, Some(30));
    // Absent means that everything works.
    assert_eq!(properties.maximum_qos, None);
    assert_ne!(properties.retain_available, Some(false));
    assert_ne!(properties.wildcard_subscription_available, Some(false));
    assert_ne!(properties.subscription_identifiers_available, Some(false));
}

#[test]
fn a_session_expiry_above_the_limit_is_cut_and_told() {
    let broker = Broker::start_configured("[session]\nexpiry_max_s = 100\n");
    for (asked, told) in [(u32::MAX, Some(100)), (101, Some(100)), (99, None)] {
        let mut connect = connect_packet("long", ProtocolVersion::V5);
        connect.properties.session_expiry_interval_s = Some(asked);
        let (_, ack) = RawClient::connect_with(broker.address(), connect);
        // Section 3.2.2.3.2: absent = the value of CONNECT is used.
        let got = ack.properties.session_expiry_interval_s;
        assert!(got == told || (told.is_none() && got == Some(asked)), "asked for {asked}, told {got:?}");
    }
}

#[test]
fn packets_sent_before_connack_came_are_served_after_it() {
    let broker = Broker::start();
    for version in BOTH {
        // Section 3.1.4: clients need not wait for CONNACK.
        let mut client = RawClient::open(broker.address(), version);
        client.send(&Packet::Connect(Box::new(connect_packet("eager", version))));
        let mut publish = message("a/b", "early", QoS::AtLeastOnce);
        publish.packet_id = Some(id(9));
        client.send(&Packet::Publish(publish));
        let first = client.receive();
        assert!(matches!(first, Packet::ConnAck(_)), "[MQTT-3.2.0-1], got {first:?}");
        client.expect_puback(id(9));
    }
}

#[test]
fn a_second_connect_on_a_connection_ends_it() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client("twice", version);
        client.send(&Packet::Connect(Box::new(connect_packet("twice", version))));
        // [MQTT-3.1.0-2]
        client.expect_disconnect(ReasonCode::ProtocolError);
    }
}

#[test]
fn a_second_connect_under_another_id_leaves_that_clients_session_alone() {
    let broker = Broker::start();
    for version in BOTH {
        let mut other = broker.client("other", version);
        let mut client = broker.client("first", version);
        client.send(&Packet::Connect(Box::new(connect_packet("other", version))));
        client.expect_disconnect(ReasonCode::ProtocolError);
        other.expect_no_message();
    }
}

#[test]
fn nothing_but_connect_may_come_first() {
    let broker = Broker::start();
    let first_packets: [&[u8]; 5] = [
        b"\xc0\x00",                          // PINGREQ
        b"\xe0\x00",                          // DISCONNECT
        b"\x30\x05\x00\x01a\x00x",            // PUBLISH
        b"\x82\x07\x00\x01\x00\x00\x01a\x00", // SUBSCRIBE
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ];
    for bytes in first_packets {
        let mut client = RawClient::open(broker.address(), ProtocolVersion::V5);
        client.send_bytes_to_closing(bytes);
        // [MQTT-3.1.0-1]; no CONNECT was accepted, so no DISCONNECT either [MQTT-3.14.0-1].
        assert_eq!(client.bytes_until_closed(), b"", "the answer to {bytes:?}");
    }
}

#[test]
fn user_name_and_password_do_not_keep_an_anonymous_client_out() {
    let broker = Broker::start();
    for version in BOTH {
        let mut connect = connect_packet("named", version);
        connect.username = Some("truck-7".into());
        connect.password = Some("secret".into());
        let (mut client, ack) = RawClient::connect_with(broker.address(), connect);
        assert_eq!(ack.reason, ReasonCode::Success);
        client.subscribe_raw(&[("a", at(QoS::AtMostOnce))], None);
    }
}

#[test]
fn an_unknown_authentication_method_is_refused() {
    let broker = Broker::start();
    let mut connect = connect_packet("scram", ProtocolVersion::V5);
    connect.properties.authentication_method = Some("SCRAM-SHA-1".into());
    // [MQTT-4.12.0-1]
    let (mut client, ack) = RawClient::connect_with(broker.address(), connect);
    assert_eq!(ack.reason, ReasonCode::BadAuthenticationMethod);
    client.expect_closed();
}

#[test]
fn one_connection_too_many_is_told_that_the_server_is_busy_and_disturbs_nobody() {
    let broker = Broker::start_configured("[mqtt]\nconnections_max = 2\n");
    let mut first = broker.client("first", ProtocolVersion::V5);
    let mut second = broker.client("second", ProtocolVersion::V311);
    let (mut third, ack) =
        RawClient::connect_with(broker.address(), connect_packet("third", ProtocolVersion::V5));
    assert_eq!(ack.reason, ReasonCode::ServerBusy);
    third.expect_closed();
    first.expect_no_message();
    second.expect_no_message();
}
