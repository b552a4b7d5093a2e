//! A broker's side of one session, as a model in memory: what it received, what it delivers, what it remembers.

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroU16;

use device_sdk::{Bytes, QoS, ReasonCode};
use protocol::{Ack, AckProperties, ConnAck, ConnAckProperties, Packet, PacketId, Publish, SubAck, UnsubAck};

/// Makes a publish whose payload is a number.
pub(crate) fn numbered(number: u32, qos: QoS) -> Publish {
    Publish {
        qos,
        topic: "t".into(),
        payload: Bytes::copy_from_slice(&number.to_be_bytes()),
        ..Publish::default()
    }
}

pub(crate) fn number(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload.try_into().expect("four bytes"))
}

pub(crate) fn connack(session_present: bool, properties: ConnAckProperties) -> Packet {
    Packet::ConnAck(Box::new(ConnAck { session_present, reason: ReasonCode::Success, properties }))
}

/// One delivery that the client has not finished.
#[derive(Clone)]
enum Delivery {
    Publish(Publish),
    Released(PacketId),
}

impl Delivery {
    fn id(&self) -> PacketId {
        match self {
            Self::Publish(publish) => publish.packet_id.expect("deliveries have identifiers"),
            Self::Released(id) => *id,
        }
    }
}

/// The model. It panics when the client breaks a rule.
pub(crate) struct Peer {
    pub(crate) receive_maximum: u16,
    /// What the client must obey as our window, and how much of it is in use on this connection.
    window_used: BTreeSet<PacketId>,
    connected: bool,
    has_session: bool,
    /// QoS 2 identifiers received and not released.
    pub(crate) held: BTreeSet<PacketId>,
    /// Everything accepted, in order: (QoS, number).
    pub(crate) accepted: Vec<(QoS, u32)>,
    pub(crate) subscriptions: BTreeSet<String>,
    to_deliver: VecDeque<Publish>,
    in_flight: VecDeque<Delivery>,
    next_id: u16,
    client_window: usize,
    /// PUBLISH order of this connection, to check the order of the client's PUBACK and PUBREC.
    unacked: VecDeque<PacketId>,
    pub(crate) out: Vec<Packet>,
    pub(crate) sessions_begun: u32,
}

impl Peer {
    pub(crate) fn new(receive_maximum: u16) -> Self {
        Self {
            receive_maximum,
            window_used: BTreeSet::new(),
            connected: false,
            has_session: false,
            held: BTreeSet::new(),
            accepted: Vec::new(),
            subscriptions: BTreeSet::new(),
            to_deliver: VecDeque::new(),
            in_flight: VecDeque::new(),
            next_id: 0,
            client_window: 0,
            unacked: VecDeque::new(),
            out: Vec::new(),
            sessions_begun: 0,
        }
    }

    /// Forgets the session, as a broker that lost its disk.
    pub(crate) fn lose_session(&mut self) {
        self.has_session = false;
        self.held.clear();
        self.subscriptions.clear();
        // A message of the lost session that was not acknowledged is a new one in the next.
        let lost: Vec<Publish> = self
            .in_flight
            .drain(..)
            .filter_map(|delivery| match delivery {
                Delivery::Publish(publish) => Some(Publish { dup: false, packet_id: None, ..publish }),
                Delivery::Released(_) => None,
            })
            .collect();
        for publish in lost.into_iter().rev() {
            self.to_deliver.push_front(publish);
        }
    }

    pub(crate) fn disconnected(&mut self) {
        self.connected = false;
        self.out.clear();
    }

    pub(crate) fn deliver(&mut self, publish: Publish) {
        self.to_deliver.push_back(publish);
        self.fill_window();
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.to_deliver.is_empty() && self.in_flight.is_empty() && self.held.is_empty()
    }

    fn fill_window(&mut self) {
        // A session without subscriptions gets nothing.
        while self.connected && !self.subscriptions.is_empty() && self.in_flight.len() < self.client_window {
            let Some(mut publish) = self.to_deliver.pop_front() else { return };
            if publish.qos > QoS::AtMostOnce {
                loop {
                    self.next_id = self.next_id.wrapping_add(1);
                    let Some(id) = PacketId::new(self.next_id) else { continue };
                    if self.in_flight.iter().all(|delivery| delivery.id() != id) {
                        publish.packet_id = Some(id);
                        self.unacked.push_back(id);
                        self.in_flight.push_back(Delivery::Publish(publish.clone()));
                        break;
                    }
                }
            }
            self.out.push(Packet::Publish(publish));
        }
    }

    pub(crate) fn receive(&mut self, packet: Packet) {
        match packet {
            Packet::Connect(connect) => {
                self.connected = true;
                self.window_used.clear();
                self.unacked.clear();
                let present = self.has_session && !connect.clean_start;
                if !present {
                    self.lose_session();
                    self.sessions_begun += 1;
                }
                self.has_session = true;
                self.client_window =
                    usize::from(connect.properties.receive_maximum.map_or(20, NonZeroU16::get));
                let properties = ConnAckProperties {
                    receive_maximum: NonZeroU16::new(self.receive_maximum),
                    ..ConnAckProperties::default()
                };
                self.out.push(connack(present, properties));
                for delivery in &mut self.in_flight {
                    self.out.push(match delivery {
                        Delivery::Publish(publish) => {
                            publish.dup = true;
                            self.unacked.push_back(publish.packet_id.expect("deliveries have identifiers"));
                            Packet::Publish(publish.clone())
                        }
                        Delivery::Released(id) => Packet::PubRel(Ack::new(*id, ReasonCode::Success)),
                    });
                }
                self.fill_window();
            }
            Packet::Publish(publish) => self.accept(&publish),
            Packet::PubRel(ack) => {
                let known = self.held.remove(&ack.packet_id);
                self.window_used.remove(&ack.packet_id);
                let reason = if known { ReasonCode::Success } else { ReasonCode::PacketIdentifierNotFound };
                self.out.push(Packet::PubComp(Ack::new(ack.packet_id, reason)));
            }
            Packet::PubAck(ack) => {
                self.check_ack_order(ack.packet_id);
                self.finish(ack.packet_id);
            }
            Packet::PubRec(ack) => {
                self.check_ack_order(ack.packet_id);
                for delivery in &mut self.in_flight {
                    if delivery.id() == ack.packet_id {
                        *delivery = Delivery::Released(ack.packet_id);
                    }
                }
                self.out.push(Packet::PubRel(Ack::new(ack.packet_id, ReasonCode::Success)));
            }
            Packet::PubComp(ack) => self.finish(ack.packet_id),
            Packet::Subscribe(subscribe) => {
                let reasons = subscribe.filters.iter().map(|_| ReasonCode::GrantedQoS2).collect();
                self.subscriptions.extend(subscribe.filters.iter().map(|entry| entry.filter.to_string()));
                let properties = AckProperties::default();
                self.out.push(Packet::SubAck(SubAck { packet_id: subscribe.packet_id, properties, reasons }));
                self.fill_window();
            }
            Packet::Unsubscribe(unsubscribe) => {
                let reasons = unsubscribe.filters.iter().map(|_| ReasonCode::Success).collect();
                for filter in &unsubscribe.filters {
                    self.subscriptions.remove(&**filter);
                }
                let properties = AckProperties::default();
                self.out.push(Packet::UnsubAck(UnsubAck {
                    packet_id: unsubscribe.packet_id,
                    properties,
                    reasons,
                }));
            }
            Packet::PingReq => self.out.push(Packet::PingResp),
            Packet::Disconnect(disconnect) => {
                assert_eq!(disconnect.reason, ReasonCode::Success, "the client found fault with the model");
            }
            other => panic!("a client sent {other:?}"),
        }
    }

    fn accept(&mut self, publish: &Publish) {
        let number = number(&publish.payload);
        let Some(id) = publish.packet_id else {
            self.accepted.push((QoS::AtMostOnce, number));
            return;
        };
        self.window_used.insert(id);
        // [MQTT-3.3.4-7]
        assert!(
            self.window_used.len() <= usize::from(self.receive_maximum),
            "{} publishes in flight over a Receive Maximum of {}",
            self.window_used.len(),
            self.receive_maximum
        );
        if publish.qos == QoS::ExactlyOnce {
            if self.held.insert(id) {
                self.accepted.push((QoS::ExactlyOnce, number));
            }
            self.out.push(Packet::PubRec(Ack::new(id, ReasonCode::Success)));
        } else {
            self.accepted.push((QoS::AtLeastOnce, number));
            self.window_used.remove(&id);
            self.out.push(Packet::PubAck(Ack::new(id, ReasonCode::Success)));
        }
    }

    /// [MQTT-4.6.0-2] and [MQTT-4.6.0-3]: acknowledgements come in the order of the publishes.
    fn check_ack_order(&mut self, id: PacketId) {
        assert_eq!(self.unacked.pop_front(), Some(id), "acknowledged out of order");
    }

    fn finish(&mut self, id: PacketId) {
        self.in_flight.retain(|delivery| delivery.id() != id);
        self.fill_window();
    }
}
