//! The tokio driver against a scripted broker on TCP.

use device_sdk::{
    Client, ClientError, Event, Message, Options, ProtocolVersion, PublishError, QoS, ReasonCode, StartError,
};
use protocol::{Ack, ConnAck, ConnAckProperties, Packet, PacketId, Publish};

use super::model::{connack, numbered};
use super::tcp_peer::{Listener, next_news, next_payload, qos1, soon};

#[tokio::test]
async fn a_publish_completes_with_its_acknowledgement_although_the_connection_breaks() {
    let listener = Listener::new().await;
    let (client, mut events) = Client::spawn(listener.options()).unwrap();
    let publishing = tokio::spawn({
        let client = client.clone();
        async move { client.publish(qos1("x")).await }
    });
    let mut connection = listener.session(false).await;
    let first = connection.publish().await;
    assert!(!first.dup);
    drop(connection);
    let mut connection = listener.session(true).await;
    let again = connection.publish().await;
    assert!(again.dup && again.packet_id == first.packet_id);
    connection.puback_with(&again, ReasonCode::NoMatchingSubscribers).await;
    let published = soon("the publish", publishing).await.unwrap().unwrap();
    assert_eq!(published.reason, ReasonCode::NoMatchingSubscribers);
    // The program is told what happened.
    assert!(matches!(events.next().await, Some(Event::Connected { session_present: false })));
    assert!(matches!(events.next().await, Some(Event::Disconnected { why, .. }) if why.contains("closed")));
    assert!(matches!(events.next().await, Some(Event::Connected { session_present: true })));
}

#[tokio::test]
async fn many_publishes_leave_in_order_and_qos_0_completes_when_written() {
    let listener = Listener::new().await;
    let (client, _events) = Client::spawn(listener.options()).unwrap();
    let mut connection = listener.session(false).await;
    let sender = tokio::spawn(async move {
        let mut pending = Vec::new();
        for number in 0..500_u32 {
            let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][number as usize % 3];
            pending.push(
                client.submit(Message::new("t", number.to_be_bytes().to_vec()).qos(qos)).await.unwrap(),
            );
        }
        for pending in pending {
            soon("an acknowledgement", pending.wait()).await.unwrap();
        }
        soon("the end", client.disconnect()).await.unwrap();
    });
    let mut numbers = Vec::new();
    while let Some(packet) = connection.try_packet().await {
        match packet {
            Packet::Publish(publish) => {
                numbers.push(super::model::number(&publish.payload));
                match (publish.qos, publish.packet_id) {
                    (QoS::ExactlyOnce, Some(id)) => {
                        connection.send(Packet::PubRec(Ack::new(id, ReasonCode::Success))).await;
                    }
                    (QoS::AtLeastOnce, _) => connection.puback(&publish).await,
                    _ => {}
                }
            }
            Packet::PubRel(ack) => connection.send(Packet::PubComp(ack)).await,
            Packet::Disconnect(disconnect) => assert_eq!(disconnect.reason, ReasonCode::Success),
            other => panic!("{other:?}"),
        }
    }
    sender.await.unwrap();
    assert_eq!(numbers, (0..500).collect::<Vec<_>>());
}

#[tokio::test]
async fn subscriptions_come_back_when_the_broker_lost_the_session() {
    let listener = Listener::new().await;
    let (client, mut events) = Client::spawn(listener.options()).unwrap();
    let subscribing = tokio::spawn(async move {
        let granted = client.subscribe(&[("a/+", QoS::AtLeastOnce), ("b", QoS::AtLeastOnce)]).await;
        (client, granted)
    });
    let mut connection = listener.session(false).await;
    assert_eq!(connection.grant().await, ["a/+", "b"]);
    let (client, granted) = subscribing.await.unwrap();
    assert_eq!(granted.unwrap(), [ReasonCode::GrantedQoS1; 2]);
    drop(connection);
    let mut connection = listener.session(false).await;
    assert_eq!(connection.grant().await, ["a/+", "b"]);
    connection.send(Packet::Publish(numbered(7, QoS::AtMostOnce))).await;
    assert_eq!(next_payload(&mut events).await, 7_u32.to_be_bytes());
    drop(client);
}

#[tokio::test]
async fn a_program_that_does_not_read_stops_the_socket_and_loses_nothing() {
    let listener = Listener::new().await;
    let options = Options { keep_alive_s: 1, ..listener.options() };
    let (_client, mut events) = Client::spawn(options).unwrap();
    let mut connection = listener.session(false).await;
    // More than the sockets' buffers hold, so that the broker's write blocks while nobody reads.
    let count = 1_000_u32;
    let payload = |number: u32| [&number.to_be_bytes()[..], &vec![0; 32 * 1024]].concat();
    let blocked = tokio::time::timeout(std::time::Duration::from_millis(500), async {
        for number in 0..count {
            connection
                .send(Packet::Publish(Publish {
                    payload: payload(number).into(),
                    ..numbered(0, QoS::AtMostOnce)
                }))
                .await;
        }
    });
    assert!(blocked.await.is_err(), "32 MB went into a program that does not read");
    // The interrupted packet cannot be completed: begin again, and read now.
    drop(connection);
    let mut connected = 0;
    let feeding = tokio::spawn(async move {
        let mut connection = listener.session(true).await;
        for number in 0..count {
            connection
                .send(Packet::Publish(Publish {
                    payload: payload(number).into(),
                    ..numbered(0, QoS::AtMostOnce)
                }))
                .await;
        }
        connection
    });
    let mut numbers = Vec::new();
    while numbers.len() < count as usize || connected < 2 {
        match next_news(&mut events).await {
            Event::Connected { .. } => {
                connected += 1;
                if connected == 2 {
                    numbers.clear();
                }
            }
            Event::Message(message) => numbers.push(super::model::number(&message.payload[..4])),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(numbers, (0..count).collect::<Vec<_>>());
    feeding.await.unwrap();
}

#[tokio::test]
async fn a_manual_acknowledgement_leaves_when_the_program_gives_it() {
    let listener = Listener::new().await;
    let (client, mut events) = Client::spawn(Options { manual_ack: true, ..listener.options() }).unwrap();
    let mut connection = listener.session(false).await;
    let packet_id = PacketId::new(3);
    connection.send(Packet::Publish(Publish { packet_id, ..numbered(1, QoS::AtLeastOnce) })).await;
    let token = loop {
        if let Event::Message(message) = next_news(&mut events).await {
            break message.ack.expect("manual acknowledgement");
        }
    };
    // The answer to this comes before any PUBACK.
    let subscribing = tokio::spawn({
        let client = client.clone();
        async move { client.subscribe(&[("a", QoS::AtLeastOnce)]).await }
    });
    connection.grant().await;
    subscribing.await.unwrap().unwrap();
    client.ack(token);
    assert_eq!(connection.packet().await, Packet::PubAck(Ack::new(packet_id.unwrap(), ReasonCode::Success)));
}

#[tokio::test]
async fn a_refused_connection_is_told_and_tried_again() {
    let listener = Listener::new().await;
    let (_client, mut events) = Client::spawn(listener.options()).unwrap();
    for _ in 0..2 {
        let (mut connection, _) = listener.accept().await;
        let (reason, properties) = (ReasonCode::NotAuthorized, ConnAckProperties::default());
        connection
            .send(Packet::ConnAck(Box::new(ConnAck { session_present: false, reason, properties })))
            .await;
        let event = soon("the event", events.next()).await.unwrap();
        assert!(matches!(event, Event::Refused { reason: ReasonCode::NotAuthorized, .. }), "{event:?}");
    }
    listener.session(false).await;
    assert!(matches!(soon("the event", events.next()).await, Some(Event::Connected { .. })));
}

#[tokio::test]
async fn bytes_that_are_no_packet_are_answered_with_the_reason_and_a_new_connection() {
    let listener = Listener::new().await;
    let (_client, mut events) = Client::spawn(listener.options()).unwrap();
    let mut connection = listener.session(false).await;
    // A PUBLISH with QoS 3.
    connection.send_bytes(&[0x36, 0x03, 0x00, 0x01, b'a']).await;
    let Packet::Disconnect(disconnect) = connection.packet().await else { panic!("no DISCONNECT") };
    assert_eq!(disconnect.reason, ReasonCode::MalformedPacket);
    assert!(connection.try_packet().await.is_none());
    listener.session(true).await;
    assert!(matches!(events.next().await, Some(Event::Connected { .. })));
    assert!(matches!(events.next().await, Some(Event::Disconnected { .. })));
}

#[tokio::test]
async fn a_packet_over_our_limit_ends_the_connection_before_its_body_is_read() {
    let listener = Listener::new().await;
    let (_client, _events) = Client::spawn(Options { packet_bytes_max: 1024, ..listener.options() }).unwrap();
    let (mut connection, connect) = listener.accept().await;
    assert_eq!(connect.properties.packet_bytes_max.map(|max| max.get()), Some(1024));
    connection.send(connack(false, ConnAckProperties::default())).await;
    connection.send_bytes(&[0x30, 0xff, 0xff, 0xff, 0x7f]).await;
    let Packet::Disconnect(disconnect) = connection.packet().await else { panic!("no DISCONNECT") };
    assert_eq!(disconnect.reason, ReasonCode::PacketTooLarge);
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_before_it_reaches_the_connection() {
    let listener = Listener::new().await;
    let (client, _events) = Client::spawn(listener.options()).unwrap();
    let error = client.publish(Message::new("a/#", "")).await.unwrap_err();
    assert_eq!(error.to_string(), "topic \"a/#\" is not allowed: it contains a wildcard");
    let long = "x".repeat(65_536);
    let error = client.publish(Message::new("a", "").user_property("k", long.clone())).await.unwrap_err();
    assert!(matches!(&error, PublishError::Unencodable { what } if what.contains("65536")), "{error}");
    let error = client.subscribe(&[("a/#/b", QoS::AtMostOnce)]).await.unwrap_err();
    assert!(error.to_string().starts_with("filter \"a/#/b\" is not allowed"), "{error}");
    let error = client.subscribe_with(Vec::new(), &[("k", &long)]).await.unwrap_err();
    assert!(matches!(error, ClientError::Limit { .. }));
    assert!(matches!(client.enqueue(Message::new("a", "")).await, Err(device_sdk::QueueError::NoQueue)));
}

#[tokio::test]
async fn disconnecting_ends_what_waits_and_everything_after() {
    let listener = Listener::new().await;
    let (client, mut events) = Client::spawn(listener.options()).unwrap();
    let mut connection = listener.session(false).await;
    let pending = client.submit(qos1("x")).await.unwrap();
    connection.publish().await;
    soon("the disconnect", client.disconnect()).await.unwrap();
    assert!(matches!(connection.packet().await, Packet::Disconnect(_)));
    assert_eq!(pending.wait().await, Err(PublishError::Stopped));
    assert_eq!(client.publish(qos1("x")).await, Err(PublishError::Stopped));
    assert_eq!(client.disconnect().await, Err(ClientError::Stopped));
    assert!(matches!(events.next().await, Some(Event::Connected { .. })));
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_client_whose_handles_are_all_dropped_disconnects() {
    let listener = Listener::new().await;
    let (client, mut events) = Client::spawn(listener.options()).unwrap();
    let mut connection = listener.session(false).await;
    assert!(matches!(soon("the event", events.next()).await, Some(Event::Connected { .. })));
    drop(client);
    // The events still count.
    connection.send(Packet::Publish(numbered(1, QoS::AtMostOnce))).await;
    next_payload(&mut events).await;
    drop(events);
    assert!(matches!(connection.packet().await, Packet::Disconnect(_)));
    assert!(connection.try_packet().await.is_none());
}

#[tokio::test]
async fn both_versions_connect_as_they_were_asked_to() {
    for version in [ProtocolVersion::V311, ProtocolVersion::V5] {
        let listener = Listener::new().await;
        let options = Options {
            version,
            username: Some("u".into()),
            password: Some(b"p".to_vec()),
            will: Some(Message::new("w", "gone").qos(QoS::AtLeastOnce).retain(true)),
            user_properties: vec![("im-net".into(), "lte".into())],
            ..listener.options()
        };
        let (_client, _events) = Client::spawn(options).unwrap();
        let (_, connect) = listener.accept().await;
        assert_eq!((connect.version, &*connect.client_id, connect.keep_alive_s), (version, "device", 30));
        assert_eq!((connect.username.as_deref(), connect.password.as_deref()), (Some("u"), Some(&b"p"[..])));
        let will = connect.will.unwrap();
        assert_eq!(
            (&*will.topic, &will.payload[..], will.qos, will.retain),
            ("w", &b"gone"[..], QoS::AtLeastOnce, true)
        );
        let names: Vec<&str> = connect.properties.user_properties.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, if version == ProtocolVersion::V5 { vec!["im-net"] } else { vec![] });
    }
}

#[test]
fn a_client_without_a_runtime_says_so() {
    let error = Client::spawn(Options::new("127.0.0.1:1", "a")).unwrap_err();
    assert!(matches!(error, StartError::NoRuntime), "{error}");
}
