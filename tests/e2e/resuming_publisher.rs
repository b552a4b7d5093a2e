//! A publisher that does what a good client does when its broker dies: it resumes its session and sends again
//! what was not acknowledged, in order, under the same packet ids.

use std::collections::VecDeque;
use std::io::Write;
use std::net::SocketAddr;

use bytes::BytesMut;
use protocol::{Ack, Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode, encode};

use crate::raw_client::{Next, PATIENCE, RawClient, id, message};

/// Messages sent and not yet acknowledged, at most: below every broker's Receive Maximum.
const WINDOW: usize = 200;

struct InFlight {
    number: u32,
    packet_id: PacketId,
    /// Whether PUBREC came, so that only PUBREL may follow.
    received: bool,
}

/// Publishes the numbers 0, 1, 2 … as payloads to one topic.
pub(super) struct ResumingPublisher {
    client_id: String,
    version: ProtocolVersion,
    topic: String,
    qos: QoS,
    next: u32,
    /// How many are acknowledged: PUBACK, or PUBREC (from there on the broker has the message).
    acknowledged: u32,
    in_flight: VecDeque<InFlight>,
}

impl ResumingPublisher {
    pub(super) fn new(client_id: &str, version: ProtocolVersion, topic: &str, qos: QoS) -> Self {
        Self {
            client_id: client_id.into(),
            version,
            topic: topic.into(),
            qos,
            next: 0,
            acknowledged: 0,
            in_flight: VecDeque::new(),
        }
    }

    /// How many messages are acknowledged.
    pub(super) fn acknowledged(&self) -> u32 {
        self.acknowledged
    }

    /// Publishes until `total` numbers are out and acknowledged to the end, or until `acknowledged` are; then
    /// returns the connection.
    pub(super) fn run(&mut self, broker: SocketAddr, total: u32, acknowledged: u32) -> RawClient {
        let (mut client, present) = RawClient::connect_durable(broker, &self.client_id, self.version);
        assert_eq!(present, self.next > 0, "the publisher's session");
        self.send_again(&mut client);
        loop {
            let mut batch = BytesMut::new();
            while self.next < total && self.in_flight.len() < WINDOW {
                let publish = self.packet(self.next, false);
                encode(&Packet::Publish(publish), self.version, &mut batch).expect("a valid packet");
                let packet_id = packet_id(self.next);
                self.in_flight.push_back(InFlight { number: self.next, packet_id, received: false });
                self.next += 1;
            }
            client.send_bytes(&batch);
            if self.in_flight.is_empty() || self.acknowledged >= acknowledged {
                return client;
            }
            let packet = client.receive();
            self.take(&packet, Some(&mut client));
        }
    }

    /// Counts the acknowledgements that a dead broker had still sent.
    pub(super) fn take_the_rest(&mut self, mut client: RawClient) {
        while let Next::Packet(packet) = client.next_within(PATIENCE) {
            self.take(&packet, None);
        }
    }

    fn packet(&self, number: u32, dup: bool) -> Publish {
        Publish {
            dup,
            packet_id: Some(packet_id(number)),
            ..message(&self.topic, number.to_string(), self.qos)
        }
    }

    /// [MQTT-4.4.0-1], in the order sent first [MQTT-4.6.0-1].
    fn send_again(&self, client: &mut RawClient) {
        for open in &self.in_flight {
            let packet = if open.received {
                Packet::PubRel(Ack::new(open.packet_id, ReasonCode::Success))
            } else {
                Packet::Publish(self.packet(open.number, true))
            };
            client.send(&packet);
        }
    }

    fn take(&mut self, packet: &Packet, client: Option<&mut RawClient>) {
        match packet {
            Packet::PubAck(ack) => {
                let open = self.in_flight.pop_front().expect("an ack for something sent");
                // [MQTT-4.6.0-2]
                assert_eq!(ack.packet_id, open.packet_id, "acknowledgements out of order");
                assert!(!ack.reason.is_failure(), "{ack:?}");
                self.acknowledged += 1;
            }
            Packet::PubRec(ack) => {
                let open = self.in_flight.iter_mut().find(|open| !open.received);
                let open = open.expect("a PUBREC for something sent");
                // [MQTT-4.6.0-3]
                assert_eq!(ack.packet_id, open.packet_id, "acknowledgements out of order");
                assert!(!ack.reason.is_failure(), "{ack:?}");
                open.received = true;
                self.acknowledged += 1;
                if let Some(client) = client {
                    client.pubrel(ack.packet_id);
                }
            }
            Packet::PubComp(ack) => {
                let open = self.in_flight.pop_front().expect("a PUBCOMP for something sent");
                assert_eq!(ack.packet_id, open.packet_id, "acknowledgements out of order");
            }
            other => panic!("an unexpected {other:?}"),
        }
    }
}

/// Far more ids than the window, so that none is open twice.
fn packet_id(number: u32) -> PacketId {
    id((number % 50_000) as u16 + 1)
}

impl Drop for ResumingPublisher {
    fn drop(&mut self) {
        // Tells in a failing test's output how far it came.
        let _ = writeln!(std::io::stderr(), "{} of {} sent were acknowledged", self.acknowledged, self.next);
    }
}
