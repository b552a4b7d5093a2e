//! A scripted broker on a TCP socket, built on the codec in the broker's role.

use std::time::Duration;

use bytes::BytesMut;
use device_sdk::{Backoff, Event, Events, Options, ProtocolVersion, QoS, ReasonCode};
use protocol::{
    Ack, AckProperties, ConnAckProperties, Connect, Decoder, Packet, Publish, Role, SubAck, encode,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::model::connack;

/// Longest that anything in a test may take; reached only by a failing one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Fails a test that waits for what does not come.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} did not happen"))
}

pub(crate) struct Listener {
    listener: TcpListener,
}

impl Listener {
    pub(crate) async fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            backoff: Backoff { min_ms: 1, max_ms: 20 },
            ..Options::new(self.listener.local_addr().unwrap().to_string(), "device")
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// Accepts one connection, reads the head of a request and closes.
    pub(crate) async fn http_head(&self) -> String {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    /// Accepts one connection and reads its CONNECT.
    pub(crate) async fn accept(&self) -> (Connection, Connect) {
        let (stream, _) = soon("a connection", self.listener.accept()).await.unwrap();
        let mut connection = Connection {
            stream,
            decoder: Decoder::new(Role::Broker, None, 1024 * 1024),
            received: BytesMut::new(),
            version: ProtocolVersion::V5,
        };
        let Packet::Connect(connect) = connection.packet().await else { panic!("no CONNECT") };
        connection.version = connect.version;
        (connection, *connect)
    }

    /// Accepts one connection and accepts its CONNECT.
    pub(crate) async fn session(&self, session_present: bool) -> Connection {
        let (mut connection, _) = self.accept().await;
        connection.send(connack(session_present, ConnAckProperties::default())).await;
        connection
    }
}

pub(crate) struct Connection {
    stream: TcpStream,
    decoder: Decoder,
    received: BytesMut,
    version: ProtocolVersion,
}

impl Connection {
    /// Returns the next packet, `None` when the client closed.
    pub(crate) async fn try_packet(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.received).expect("clients send valid packets")
            {
                return Some(packet);
            }
            if soon("a packet", self.stream.read_buf(&mut self.received)).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    pub(crate) async fn packet(&mut self) -> Packet {
        self.try_packet().await.expect("the client closed the connection")
    }

    pub(crate) async fn publish(&mut self) -> Publish {
        match self.packet().await {
            Packet::Publish(publish) => publish,
            other => panic!("expected PUBLISH, got {other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        encode(&packet, self.version, &mut bytes).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn puback(&mut self, publish: &Publish) {
        self.puback_with(publish, ReasonCode::Success).await;
    }

    pub(crate) async fn puback_with(&mut self, publish: &Publish, reason: ReasonCode) {
        self.send(Packet::PubAck(Ack::new(publish.packet_id.unwrap(), reason))).await;
    }

    /// Reads a SUBSCRIBE and grants it.
    pub(crate) async fn grant(&mut self) -> Vec<String> {
        let Packet::Subscribe(subscribe) = self.packet().await else { panic!("no SUBSCRIBE") };
        let reasons = vec![ReasonCode::GrantedQoS1; subscribe.filters.len()];
        let properties = AckProperties::default();
        self.send(Packet::SubAck(SubAck { packet_id: subscribe.packet_id, properties, reasons })).await;
        subscribe.filters.iter().map(|entry| entry.filter.to_string()).collect()
    }
}

/// Returns the next event that is no news about a lost connection.
pub(crate) async fn next_news(events: &mut Events) -> Event {
    loop {
        match soon("an event", events.next()).await.expect("the client runs") {
            Event::Disconnected { .. } => {}
            event => return event,
        }
    }
}

pub(crate) async fn next_payload(events: &mut Events) -> Vec<u8> {
    loop {
        if let Event::Message(message) = next_news(events).await {
            return message.payload.to_vec();
        }
    }
}

pub(crate) fn qos1(payload: &str) -> device_sdk::Message {
    device_sdk::Message::new("t", payload.as_bytes().to_vec()).qos(QoS::AtLeastOnce)
}
