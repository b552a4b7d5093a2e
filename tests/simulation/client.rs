//! Clients that obey MQTT 5.0 to the letter and remember everything over the broker's crashes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use protocol::{
    Ack, ByteString, Bytes, Connect, ConnectProperties, Packet, PacketId, ProtocolVersion, Publish, QoS,
    ReasonCode, Subscribe, SubscribeFilter, SubscribeOptions, im,
};

/// A message number of one publisher, counted over all its topics.
pub(super) type Number = u64;

/// One message as a publisher made it.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) topic: &'static str,
    pub(super) qos: QoS,
    /// PUBACK or PUBREC with success came.
    pub(super) acknowledged: bool,
    /// `im-seq` of the acknowledgement.
    pub(super) seq: Option<u64>,
    /// Filters that had their SUBACK when it was made, per subscriber.
    pub(super) owed_to: Vec<usize>,
    /// Whether the shared group had a member then.
    pub(super) owed_to_group: bool,
}

/// One message as a subscriber took it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) topic: String,
    pub(super) payload: String,
    pub(super) qos: QoS,
    pub(super) seq: Option<u64>,
    pub(super) dup: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outgoing {
    Publish(Number),
    Released,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: String,
    pub(super) filters: Vec<(&'static str, QoS)>,
    pub(super) subscribed: bool,
    pub(super) connected: bool,
    /// CONNACK came once with success: the session must be there from then on.
    established: bool,
    /// Its sessions end with their connections.
    passing: bool,
    /// Its next connection ends the session and begins another.
    begins_anew: bool,
    /// Sessions that it ended.
    pub(super) ended: u64,
    pub(super) made: BTreeMap<Number, Made>,
    unsent: VecDeque<Number>,
    outgoing: BTreeMap<u16, (u64, Outgoing)>,
    next_packet_id: u16,
    next_order: u64,
    /// QoS 2 packet ids taken and not yet released.
    incoming: BTreeSet<PacketId>,
    pub(super) taken: Vec<Taken>,
    /// Answers not sent yet.
    pub(super) answers: VecDeque<Packet>,
}

const WINDOW: usize = 6;

/// Messages at QoS 1 and 2 that it takes at once.
pub(super) const WINDOW_IN: u64 = 4;

impl Client {
    pub(super) fn new(id: String, filters: Vec<(&'static str, QoS)>) -> Self {
        Self {
            id,
            subscribed: filters.is_empty(),
            filters,
            connected: false,
            established: false,
            passing: false,
            begins_anew: false,
            ended: 0,
            made: BTreeMap::new(),
            unsent: VecDeque::new(),
            outgoing: BTreeMap::new(),
            next_packet_id: 1,
            next_order: 0,
            incoming: BTreeSet::new(),
            taken: Vec::new(),
            answers: VecDeque::new(),
        }
    }

    /// Makes a client whose sessions end with their connections.
    pub(super) fn passing(id: String, filters: Vec<(&'static str, QoS)>) -> Self {
        Self { passing: true, ..Self::new(id, filters) }
    }

    /// Forgets its session; the broker hears of it with the next CONNECT.
    pub(super) fn begin_anew(&mut self) {
        (self.begins_anew, self.established, self.subscribed) = (true, false, false);
        self.incoming.clear();
        self.ended += 1;
    }

    pub(super) fn connect(&mut self) -> Box<Connect> {
        self.connected = false;
        self.answers.clear();
        if self.passing {
            (self.begins_anew, self.established, self.subscribed) = (true, false, false);
            self.incoming.clear();
        }
        let properties = ConnectProperties {
            session_expiry_interval_s: (!self.passing).then_some(u32::MAX),
            receive_maximum: std::num::NonZeroU16::new(WINDOW_IN as u16),
            ..ConnectProperties::default()
        };
        Box::new(Connect {
            version: ProtocolVersion::V5,
            clean_start: self.begins_anew,
            keep_alive_s: 0,
            client_id: ByteString::from(self.id.as_str()),
            will: None,
            username: None,
            password: None,
            properties,
        })
    }

    pub(super) fn make(&mut self, number: Number, made: Made) {
        self.made.insert(number, made);
        self.unsent.push_back(number);
    }

    /// Takes what may be sent now.
    pub(super) fn next_packet(&mut self) -> Option<Packet> {
        if let Some(answer) = self.answers.pop_front() {
            return Some(answer);
        }
        if !self.connected || self.outgoing.len() >= WINDOW {
            return None;
        }
        let number = self.unsent.pop_front()?;
        if self.made[&number].qos == QoS::AtMostOnce {
            return Some(self.publish(number, None, false));
        }
        while self.outgoing.contains_key(&self.next_packet_id) || self.next_packet_id == 0 {
            self.next_packet_id = self.next_packet_id.wrapping_add(1);
        }
        let packet_id = self.next_packet_id;
        // A small circle, so that ids come again soon.
        self.next_packet_id = if packet_id >= 12 { 1 } else { packet_id + 1 };
        self.outgoing.insert(packet_id, (self.next_order, Outgoing::Publish(number)));
        self.next_order += 1;
        Some(self.publish(number, PacketId::new(packet_id), false))
    }

    fn publish(&self, number: Number, packet_id: Option<PacketId>, dup: bool) -> Packet {
        let made = &self.made[&number];
        let mut publish = Publish {
            dup,
            qos: made.qos,
            topic: made.topic.into(),
            packet_id,
            payload: Bytes::from(format!("{}/{number}", self.id)),
            ..Publish::default()
        };
        let id = format!("{}-{number}", self.id).into();
        publish.properties.user_properties = vec![
            (im::IM_ID.into(), id),
            (im::IM_RECEIPT.into(), "all".into()),
            (im::IM_SEQ.into(), "999999".into()),
        ];
        Packet::Publish(publish)
    }

    /// Takes a packet of the broker.
    pub(super) fn take(&mut self, packet: Packet) -> Result<(), String> {
        match packet {
            Packet::ConnAck(connack) => self.connected(connack.session_present, connack.reason)?,
            Packet::SubAck(suback) => {
                if suback.reasons.iter().any(|r| r.is_failure()) {
                    return Err(format!("{}: subscribe refused: {suback:?}", self.id));
                }
                self.subscribed = true;
            }
            Packet::PubAck(ack) => self.acknowledged(&ack, QoS::AtLeastOnce)?,
            Packet::PubRec(ack) => self.acknowledged(&ack, QoS::ExactlyOnce)?,
            Packet::PubComp(ack) => drop(self.outgoing.remove(&ack.packet_id.get())),
            Packet::PubRel(ack) => {
                self.incoming.remove(&ack.packet_id);
                self.answers.push_back(Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::Success)));
            }
            Packet::Publish(publish) => self.published(publish),
            Packet::Disconnect(_) | Packet::PingResp => {}
            other => return Err(format!("{}: unexpected {other:?}", self.id)),
        }
        Ok(())
    }

    fn connected(&mut self, session_present: bool, reason: ReasonCode) -> Result<(), String> {
        if reason.is_failure() {
            return Err(format!("{}: connect refused: {reason:?}", self.id));
        }
        if self.established && !session_present {
            return Err(format!("{}: the session that CONNACK vouched for is gone", self.id));
        }
        if self.begins_anew && session_present {
            return Err(format!("{}: a session came back that was ended", self.id));
        }
        self.begins_anew = false;
        self.connected = true;
        if !session_present {
            // Nothing was promised yet: all in flight goes out as new.
            self.incoming.clear();
            let mut again: Vec<_> = std::mem::take(&mut self.outgoing).into_values().collect();
            again.sort_unstable_by_key(|(order, _)| *order);
            for (_, outgoing) in again.into_iter().rev() {
                if let Outgoing::Publish(number) = outgoing {
                    self.unsent.push_front(number);
                }
            }
        }
        self.established = true;
        if !self.subscribed {
            let filters = self.filters.iter().map(|(filter, qos)| SubscribeFilter {
                filter: (*filter).into(),
                options: SubscribeOptions { qos: *qos, ..SubscribeOptions::default() },
            });
            self.answers.push_back(Packet::Subscribe(Subscribe {
                packet_id: PacketId::MAX,
                subscription_identifier: None,
                user_properties: Vec::new(),
                filters: filters.collect(),
            }));
        }
        // [MQTT-4.4.0-1] in the order of their first sending.
        let mut again: Vec<_> =
            self.outgoing.iter().map(|(id, (order, what))| (*order, *id, *what)).collect();
        again.sort_unstable_by_key(|(order, ..)| *order);
        for (_, packet_id, outgoing) in again {
            let id = PacketId::new(packet_id).ok_or("packet id 0")?;
            self.answers.push_back(match outgoing {
                Outgoing::Publish(number) => self.publish(number, Some(id), true),
                Outgoing::Released => Packet::PubRel(Ack::new(id, ReasonCode::Success)),
            });
        }
        Ok(())
    }

    fn acknowledged(&mut self, ack: &Ack, qos: QoS) -> Result<(), String> {
        let id = ack.packet_id.get();
        let Some((_, outgoing)) = self.outgoing.get_mut(&id) else {
            return Err(format!("{}: acknowledgement of packet id {id}, which is free", self.id));
        };
        if let Outgoing::Publish(number) = *outgoing {
            let made = self.made.get_mut(&number).ok_or("acknowledged, never made")?;
            if made.qos != qos || ack.reason.is_failure() {
                return Err(format!("{}: {number} at {:?} got {ack:?}", self.id, made.qos));
            }
            made.acknowledged = true;
            let property = ack.properties.user_properties.iter().find(|(name, _)| name == im::IM_SEQ);
            made.seq = property.and_then(|(_, seq)| seq.parse().ok());
        }
        match qos {
            QoS::ExactlyOnce => {
                *outgoing = Outgoing::Released;
                self.answers.push_back(Packet::PubRel(Ack::new(ack.packet_id, ReasonCode::Success)));
            }
            _ => drop(self.outgoing.remove(&id)),
        }
        Ok(())
    }

    fn published(&mut self, publish: Publish) {
        let property = |name| publish.properties.user_properties.iter().rev().find(|(n, _)| n == name);
        let taken = Taken {
            topic: publish.topic.to_string(),
            payload: String::from_utf8_lossy(&publish.payload).into_owned(),
            qos: publish.qos,
            seq: property(im::IM_SEQ).and_then(|(_, v)| v.parse().ok()),
            dup: publish.dup,
        };
        match (publish.qos, publish.packet_id) {
            (QoS::AtLeastOnce, Some(id)) => {
                self.taken.push(taken);
                self.answers.push_back(Packet::PubAck(Ack::new(id, ReasonCode::Success)));
            }
            (QoS::ExactlyOnce, Some(id)) => {
                if self.incoming.insert(id) {
                    self.taken.push(taken);
                }
                self.answers.push_back(Packet::PubRec(Ack::new(id, ReasonCode::Success)));
            }
            _ => self.taken.push(taken),
        }
    }

    /// Whether nothing is left to do for it.
    pub(super) fn is_quiet(&self) -> bool {
        self.connected
            && self.subscribed
            && self.unsent.is_empty()
            && self.outgoing.is_empty()
            && self.answers.is_empty()
    }
}
