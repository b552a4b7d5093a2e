//! A client that obeys MQTT 5.0 to the letter and remembers everything over the broker's crashes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use protocol::{
    Ack, Connect, Packet, PacketId, Publish, QoS, ReasonCode, Subscribe, SubscribeFilter, SubscribeOptions,
    Unsubscribe, im,
};

use super::actor::{connect_packet, publish_packet, taken, user_property};
use super::cast::Role;
use crate::simulation::history::{Event, From, History, Number, Who};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outgoing {
    Publish(Number),
    Released(Number),
}

/// A subscription that the program wants.
#[derive(Clone, Debug)]
struct Wanted {
    filter: &'static str,
    qos: QoS,
    from: Option<From>,
    state: Asked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Not,
    Sent(PacketId),
    Held,
}

#[derive(Debug)]
pub(in crate::simulation) struct Script {
    who: Who,
    role: &'static Role,
    pub(in crate::simulation) is_connected: bool,
    /// CONNACK came once with success: the session must be there from then on.
    is_established: bool,
    /// Its next connection ends the session and begins another.
    begins_anew: bool,
    wanted: Vec<Wanted>,
    /// Filters to be unsubscribed, asked for or not yet.
    unwanted: Vec<(&'static str, Option<PacketId>)>,
    unsent: VecDeque<Number>,
    outgoing: BTreeMap<u16, (u64, Outgoing)>,
    next_packet_id: u16,
    next_request_id: u16,
    next_order: u64,
    /// QoS 2 packet ids taken and not yet released.
    incoming: BTreeSet<PacketId>,
    /// Answers not sent yet.
    answers: VecDeque<Packet>,
    /// The program ended; it is started again with its next connection.
    pub(super) has_crashed: bool,
    /// PINGREQs to be sent.
    pub(in crate::simulation) pings: u32,
}

/// Publishes that it has unacknowledged.
const WINDOW: usize = 6;

/// The first packet id of requests; those of publishes are below.
const REQUESTS_FROM: u16 = 1_000;

impl Script {
    pub(super) fn new(who: Who, role: &'static Role) -> Self {
        let mut script = Self {
            who,
            role,
            is_connected: false,
            is_established: false,
            begins_anew: false,
            wanted: Vec::new(),
            unwanted: Vec::new(),
            unsent: VecDeque::new(),
            outgoing: BTreeMap::new(),
            next_packet_id: 1,
            next_request_id: REQUESTS_FROM,
            next_order: 0,
            incoming: BTreeSet::new(),
            answers: VecDeque::new(),
            has_crashed: false,
            pings: 0,
        };
        for (filter, qos) in role.filters {
            script.subscribe(filter, *qos, None);
        }
        script
    }

    /// Forgets its session; the broker hears of it with the next CONNECT.
    pub(in crate::simulation) fn begin_anew(&mut self) {
        (self.begins_anew, self.is_established) = (true, false);
        self.incoming.clear();
    }

    pub(super) fn connect(&mut self, will: Option<Number>, history: &mut History) -> Box<Connect> {
        (self.is_connected, self.has_crashed, self.pings) = (false, false, 0);
        self.answers.clear();
        if self.role.is_passing {
            self.begin_anew();
        }
        history.push(Event::Connecting { who: self.who, anew: self.begins_anew, will });
        Box::new(connect_packet(self.role, self.begins_anew, will))
    }

    pub(in crate::simulation) fn subscribe(&mut self, filter: &'static str, qos: QoS, from: Option<From>) {
        self.unwanted.retain(|(unwanted, _)| *unwanted != filter);
        self.wanted.retain(|w| w.filter != filter);
        self.wanted.push(Wanted { filter, qos, from, state: Asked::Not });
    }

    pub(in crate::simulation) fn unsubscribe(&mut self, filter: &'static str) {
        if self.wanted.iter().any(|w| w.filter == filter) {
            self.wanted.retain(|w| w.filter != filter);
            self.unwanted.push((filter, None));
        }
    }

    pub(in crate::simulation) fn wants(&self, filter: &str) -> bool {
        self.wanted.iter().any(|w| w.filter == filter)
    }

    /// Whether all that it wants was acknowledged.
    pub(in crate::simulation) fn is_subscribed(&self) -> bool {
        self.wanted.iter().all(|w| w.state == Asked::Held) && self.unwanted.is_empty()
    }

    pub(super) fn publish(&mut self, number: Number) {
        self.unsent.push_back(number);
    }

    /// Takes what may be sent now.
    pub(super) fn next_packet(&mut self, unix_ms: u64, history: &mut History) -> Option<Packet> {
        if let Some(answer) = self.answers.pop_front() {
            if let Packet::PubAck(ack) | Packet::PubComp(ack) = &answer {
                history.push(Event::Done { who: self.who, packet_id: ack.packet_id });
            }
            return Some(answer);
        }
        if !self.is_connected {
            return None;
        }
        if self.pings > 0 {
            self.pings -= 1;
            return Some(Packet::PingReq);
        }
        if let Some(request) = self.next_request(unix_ms, history) {
            return Some(request);
        }
        if self.outgoing.len() >= WINDOW {
            return None;
        }
        let number = self.unsent.pop_front()?;
        if history.message(number)?.qos == QoS::AtMostOnce {
            return Some(publish_packet(history, number, None, false));
        }
        while self.outgoing.contains_key(&self.next_packet_id) {
            self.next_packet_id = self.next_packet_id % 12 + 1;
        }
        let packet_id = self.next_packet_id;
        // A small circle, so that ids come again soon.
        self.next_packet_id = packet_id % 12 + 1;
        self.outgoing.insert(packet_id, (self.next_order, Outgoing::Publish(number)));
        self.next_order += 1;
        Some(publish_packet(history, number, PacketId::new(packet_id), false))
    }

    fn next_request(&mut self, unix_ms: u64, history: &mut History) -> Option<Packet> {
        let packet_id = PacketId::new(self.next_request_id)?;
        let who = self.who;
        if let Some((filter, asked)) = self.unwanted.iter_mut().find(|(_, asked)| asked.is_none()) {
            self.next_request_id += 1;
            *asked = Some(packet_id);
            history.push(Event::Unsubscribing { who, filter });
            let filters = vec![(*filter).into()];
            return Some(Packet::Unsubscribe(Unsubscribe {
                packet_id,
                user_properties: Vec::new(),
                filters,
            }));
        }
        let wanted = self.wanted.iter_mut().find(|w| w.state == Asked::Not)?;
        self.next_request_id += 1;
        wanted.state = Asked::Sent(packet_id);
        let Wanted { filter, qos, from, .. } = *wanted;
        history.push(Event::Subscribing { who, filter, qos, from, at_unix_ms: unix_ms });
        // Every other time the filter says it, as it must where there are no properties.
        let is_prefixed = self.role.is_old() || packet_id.get() % 2 == 0;
        let (prefix, property) = match from {
            Some(from) if is_prefixed => (format!("{}{from}/", im::FROM_PREFIX), None),
            from => (String::new(), from.map(|from| (im::IM_FROM_SEQ.into(), from.to_string().into()))),
        };
        Some(Packet::Subscribe(Subscribe {
            packet_id,
            subscription_identifier: None,
            user_properties: property.into_iter().collect(),
            filters: vec![SubscribeFilter {
                filter: format!("{prefix}{filter}").into(),
                options: SubscribeOptions { qos, ..SubscribeOptions::default() },
            }],
        }))
    }

    /// Takes a packet of the broker.
    pub(super) fn take(&mut self, packet: Packet, sent_ms: u64, history: &mut History) -> Result<(), String> {
        match packet {
            Packet::ConnAck(connack) => self.connected(connack.session_present, connack.reason, history)?,
            Packet::SubAck(suback) => {
                if suback.reasons.iter().any(|r| r.is_failure()) {
                    return Err(format!("c{}: subscribe refused: {suback:?}", self.who));
                }
                let asked = Asked::Sent(suback.packet_id);
                if let Some(wanted) = self.wanted.iter_mut().find(|w| w.state == asked) {
                    wanted.state = Asked::Held;
                    history.push(Event::Subscribed { who: self.who, filter: wanted.filter });
                }
            }
            Packet::UnsubAck(ack) => self.unwanted.retain(|(_, asked)| *asked != Some(ack.packet_id)),
            Packet::PubAck(ack) => self.acknowledged(&ack, QoS::AtLeastOnce, history)?,
            Packet::PubRec(ack) => self.acknowledged(&ack, QoS::ExactlyOnce, history)?,
            Packet::PubComp(ack) => drop(self.outgoing.remove(&ack.packet_id.get())),
            Packet::PubRel(ack) => {
                self.incoming.remove(&ack.packet_id);
                self.answers.push_back(Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::Success)));
            }
            Packet::Publish(publish) => self.published(&publish, sent_ms, history),
            Packet::Disconnect(_) | Packet::PingResp => {}
            other => return Err(format!("c{}: unexpected {other:?}", self.who)),
        }
        Ok(())
    }

    fn connected(
        &mut self,
        is_present: bool,
        reason: ReasonCode,
        history: &mut History,
    ) -> Result<(), String> {
        let who = self.who;
        if reason.is_failure() {
            return Err(format!("c{who}: connect refused: {reason:?}"));
        }
        history.push(Event::Connected { who, is_present });
        if self.is_established && !is_present {
            return Err(format!("c{who}: the session that CONNACK vouched for is gone"));
        }
        if self.begins_anew && is_present {
            return Err(format!("c{who}: a session came back that was ended"));
        }
        self.begins_anew = false;
        self.is_connected = true;
        if !is_present {
            // Nothing was promised yet: all in flight goes out as new.
            self.incoming.clear();
            let mut again: Vec<_> = std::mem::take(&mut self.outgoing).into_values().collect();
            again.sort_unstable_by_key(|(order, _)| *order);
            for (_, outgoing) in again.into_iter().rev() {
                if let Outgoing::Publish(number) = outgoing {
                    self.unsent.push_front(number);
                }
            }
            self.wanted.iter_mut().for_each(|w| w.state = Asked::Not);
            self.unwanted.clear();
        }
        self.is_established = true;
        // What was asked and not answered is asked again.
        self.wanted.iter_mut().filter(|w| w.state != Asked::Held).for_each(|w| w.state = Asked::Not);
        self.unwanted.iter_mut().for_each(|(_, asked)| *asked = None);
        // [MQTT-4.4.0-1] in the order of their first sending.
        let mut again: Vec<_> =
            self.outgoing.iter().map(|(id, (order, what))| (*order, *id, *what)).collect();
        again.sort_unstable_by_key(|(order, ..)| *order);
        for (_, packet_id, outgoing) in again {
            let id = PacketId::new(packet_id).ok_or("packet id 0")?;
            self.answers.push_back(match outgoing {
                Outgoing::Publish(number) => publish_packet(history, number, Some(id), true),
                Outgoing::Released(_) => Packet::PubRel(Ack::new(id, ReasonCode::Success)),
            });
        }
        Ok(())
    }

    fn acknowledged(&mut self, ack: &Ack, qos: QoS, history: &mut History) -> Result<(), String> {
        let id = ack.packet_id.get();
        let Some((_, outgoing)) = self.outgoing.get_mut(&id) else {
            return Err(format!("c{}: acknowledgement of packet id {id}, which is free", self.who));
        };
        let (Outgoing::Publish(number) | Outgoing::Released(number)) = *outgoing;
        let made_qos = history.message(number).map(|m| m.qos);
        if made_qos != Some(qos) {
            return Err(format!("c{}: {number} at {made_qos:?} got {ack:?}", self.who));
        }
        if *outgoing == Outgoing::Publish(number) {
            let properties = &ack.properties.user_properties;
            let seq = user_property(properties, im::IM_SEQ);
            let is_dup = properties.iter().any(|(name, _)| name == im::IM_DUP);
            history.push(match ack.reason.is_failure() {
                true => Event::Refused { number, reason: ack.reason },
                false => Event::Acked { number, seq, is_dup },
            });
        }
        if qos == QoS::ExactlyOnce && !ack.reason.is_failure() {
            *outgoing = Outgoing::Released(number);
            self.answers.push_back(Packet::PubRel(Ack::new(ack.packet_id, ReasonCode::Success)));
        } else {
            self.outgoing.remove(&id);
        }
        Ok(())
    }

    fn published(&mut self, publish: &Publish, sent_ms: u64, history: &mut History) {
        let who = self.who;
        let taken = taken(&publish.topic, &publish.payload, publish, sent_ms);
        history.push(Event::Came {
            who,
            packet_id: publish.packet_id,
            number: taken.number(),
            dup: publish.dup,
        });
        let poison = taken.number().filter(|n| history.message(*n).is_some_and(|m| m.is_poison));
        if let Some(number) = poison.filter(|_| self.role.is_frail) {
            self.has_crashed = true;
            return history.push(Event::Crashed { who, number });
        }
        let took = Event::Took { who, taken };
        match (publish.qos, publish.packet_id) {
            (QoS::AtLeastOnce, Some(id)) => {
                history.push(took);
                self.answers.push_back(Packet::PubAck(Ack::new(id, ReasonCode::Success)));
            }
            (QoS::ExactlyOnce, Some(id)) => {
                if self.incoming.insert(id) {
                    history.push(took);
                }
                self.answers.push_back(Packet::PubRec(Ack::new(id, ReasonCode::Success)));
            }
            _ => history.push(took),
        }
    }

    /// Whether nothing is left to do for it.
    pub(super) fn is_quiet(&self) -> bool {
        self.is_connected
            && !self.has_crashed
            && self.is_subscribed()
            && self.unsent.is_empty()
            && self.outgoing.is_empty()
            && self.answers.is_empty()
    }
}
