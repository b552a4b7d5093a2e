//! Publishes on their way out: waiting, in flight, and what is left of them after a reconnect.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use protocol::{Ack, Packet, PacketId, Publish, QoS, ReasonCode, encoded_len};

use super::aliases::Aliases;
use super::link::Limits;
use super::{Output, Violation};
use crate::message::user_property;
use crate::{PublishError, Published};

/// Most publishes that may wait for the connection or for the broker's window.
pub const WAITING_MAX: usize = 1024;
/// Payload bytes of waiting publishes at which no more are accepted.
pub const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Packet identifiers in use, for publishes and requests alike.
#[derive(Debug, Default)]
pub(super) struct PacketIds {
    used: HashSet<PacketId>,
    last: u16,
}

impl PacketIds {
    /// Takes a free identifier [MQTT-2.2.1-3]. There is one: users of identifiers are bounded well below
    /// 65,535 ([`crate::Options::inflight_max`], [`super::REQUESTS_MAX`]).
    pub(super) fn take(&mut self) -> PacketId {
        loop {
            self.last = self.last.wrapping_add(1);
            if let Some(id) = PacketId::new(self.last)
                && self.used.insert(id)
            {
                return id;
            }
        }
    }

    pub(super) fn free(&mut self, id: PacketId) {
        self.used.remove(&id);
    }
}

#[derive(Debug)]
struct InFlight {
    token: u64,
    /// Place in [`Outgoing::order`].
    place: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// A PUBREL was sent to make the identifier safe, see [`Outgoing::send_new`]: the PUBLISH follows its PUBCOMP.
    Cleansing(Publish),
    /// Waits for PUBACK (QoS 1) or PUBREC (QoS 2).
    Sent(Publish),
    /// PUBREC came, PUBREL was sent: waits for PUBCOMP. The body is the broker's now.
    Released(Published),
}

/// All publishes that have not ended.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pub(super) ids: PacketIds,
    /// Accepted, no packet identifier yet, in order.
    waiting: VecDeque<(u64, Publish)>,
    waiting_bytes: usize,
    in_flight: HashMap<PacketId, InFlight>,
    /// The order to send again in: of PUBLISH [MQTT-4.6.0-1], and of PUBREC for what is released [MQTT-4.6.0-4].
    order: BTreeMap<u64, PacketId>,
    next_place: u64,
    /// To send again on this connection, before anything new.
    resend: VecDeque<PacketId>,
    /// `Some` in a session that another life of this program began: identifiers already made safe.
    cleansed: Option<HashSet<PacketId>>,
    /// The identifier being made safe; new publishes wait for it, to stay in order.
    cleansing: Option<PacketId>,
    pub(super) aliases: Aliases,
}

impl Outgoing {
    pub(super) fn can_accept(&self) -> bool {
        self.waiting.len() < WAITING_MAX && self.waiting_bytes < WAITING_BYTES_MAX
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub(super) fn has_room(&self, limits: &Limits) -> bool {
        self.waiting.is_empty()
            && self.resend.is_empty()
            && self.cleansing.is_none()
            && self.in_flight.len() < limits.inflight_max
    }

    pub(super) fn accept(&mut self, token: u64, publish: Publish) -> Result<(), PublishError> {
        if !self.can_accept() {
            return Err(PublishError::Busy { waiting: self.waiting.len(), limit: WAITING_MAX });
        }
        self.waiting_bytes += publish.payload.len();
        self.waiting.push_back((token, publish));
        Ok(())
    }

    /// The broker kept the session: what is in flight is sent again, in order [MQTT-4.4.0-1].
    /// `foreign`: the session is older than this program.
    pub(super) fn resume(&mut self, foreign: bool) {
        self.resend = self.order.values().copied().collect();
        if foreign {
            self.cleansed = Some(HashSet::new());
        }
    }

    /// The broker has no session: what it never acknowledged is published as new, ahead of what waits. A
    /// released QoS 2 message was the broker's when it sent PUBREC, so it has ended.
    pub(super) fn start_over(&mut self, outputs: &mut VecDeque<Output>) {
        self.cleansed = None;
        self.cleansing = None;
        let mut again = Vec::new();
        for id in std::mem::take(&mut self.order).into_values() {
            let Some(entry) = self.in_flight.remove(&id) else { continue };
            self.ids.free(id);
            match entry.state {
                State::Sent(publish) | State::Cleansing(publish) => {
                    again.push((entry.token, Publish { dup: false, packet_id: None, ..publish }))
                }
                State::Released(published) => {
                    outputs.push_back(Output::Published { token: entry.token, result: Ok(published) });
                }
            }
        }
        for entry in again.into_iter().rev() {
            self.waiting_bytes += entry.1.payload.len();
            self.waiting.push_front(entry);
        }
    }

    pub(super) fn disconnected(&mut self) {
        self.resend.clear();
        self.aliases.forget();
    }

    pub(super) fn send(&mut self, limits: &Limits, outputs: &mut VecDeque<Output>) {
        self.send_again(limits, outputs);
        while self.resend.is_empty() && self.cleansing.is_none() {
            let Some((_, publish)) = self.waiting.front() else { return };
            if publish.qos > QoS::AtMostOnce && self.in_flight.len() >= limits.inflight_max {
                return;
            }
            let (token, publish) = self.waiting.pop_front().expect("front() was Some");
            self.waiting_bytes -= publish.payload.len();
            match check(&publish, limits) {
                Ok(()) => self.send_new(token, publish, limits, outputs),
                Err(error) => outputs.push_back(Output::Published { token, result: Err(error) }),
            }
        }
    }

    fn send_again(&mut self, limits: &Limits, outputs: &mut VecDeque<Output>) {
        while let Some(id) = self.resend.front().copied() {
            // [MQTT-3.3.4-7] the window counts what went out on this connection.
            if self.in_flight.len() - self.resend.len() >= limits.inflight_max {
                return;
            }
            self.resend.pop_front();
            let Some(entry) = self.in_flight.get_mut(&id) else { continue };
            match &mut entry.state {
                State::Released(_) => outputs.push_back(pubrel(id, ReasonCode::Success)),
                State::Cleansing(_) => outputs.push_back(pubrel(id, ReasonCode::Success)),
                State::Sent(publish) => {
                    // [MQTT-3.3.1-1] sent before, so DUP is set.
                    publish.dup = true;
                    let publish = publish.clone();
                    match check(&publish, limits) {
                        Ok(()) => {
                            let publish = self.aliases.shorten(publish, limits);
                            outputs.push_back(Output::Send(Packet::Publish(publish)));
                        }
                        Err(error) => self.end(id, Err(error), outputs),
                    }
                }
            }
        }
    }

    fn send_new(
        &mut self,
        token: u64,
        mut publish: Publish,
        limits: &Limits,
        outputs: &mut VecDeque<Output>,
    ) {
        if publish.qos == QoS::AtMostOnce {
            let publish = self.aliases.shorten(publish, limits);
            outputs.push_back(Output::Send(Packet::Publish(publish)));
            let published = Published { reason: ReasonCode::Success, seq: None, id: None, duplicate: false };
            outputs.push_back(Output::Published { token, result: Ok(published) });
            return;
        }
        // A broker may still hold an identifier from a QoS 2 publish of the program's last life, and would take a new
        // message under it for the old one sent again: it answers PUBREC, and the message is gone. A PUBREL first
        // makes it forget. The lowest identifiers are used then, so that few need it.
        if publish.qos == QoS::ExactlyOnce && self.cleansed.is_some() {
            self.ids.last = 0;
        }
        let id = self.ids.take();
        publish.packet_id = Some(id);
        let unsafe_id = publish.qos == QoS::ExactlyOnce
            && self.cleansed.as_mut().is_some_and(|cleansed| cleansed.insert(id));
        let state = if unsafe_id {
            self.cleansing = Some(id);
            outputs.push_back(pubrel(id, ReasonCode::Success));
            State::Cleansing(publish)
        } else {
            let shortened = self.aliases.shorten(publish.clone(), limits);
            outputs.push_back(Output::Send(Packet::Publish(shortened)));
            State::Sent(publish)
        };
        let place = self.place(id);
        self.in_flight.insert(id, InFlight { token, place, state });
    }

    fn place(&mut self, id: PacketId) -> u64 {
        let place = self.next_place;
        self.next_place += 1;
        self.order.insert(place, id);
        place
    }

    pub(super) fn puback(&mut self, ack: Ack, outputs: &mut VecDeque<Output>) -> Result<(), Violation> {
        match self.in_flight.get(&ack.packet_id).map(|entry| &entry.state) {
            Some(State::Sent(publish)) if publish.qos == QoS::AtLeastOnce => {
                self.end(ack.packet_id, outcome(&ack), outputs);
                Ok(())
            }
            Some(_) => Err(violation("PUBACK", ack.packet_id, "a QoS 2 publish")),
            // An acknowledgement too many hurts nobody.
            None => Ok(()),
        }
    }

    pub(super) fn pubrec(&mut self, ack: Ack, outputs: &mut VecDeque<Output>) -> Result<(), Violation> {
        let id = ack.packet_id;
        let Some(entry) = self.in_flight.get_mut(&id) else {
            // [MQTT-4.3.3-4] every PUBREC is answered, so that the broker can forget the identifier.
            outputs.push_back(pubrel(id, ReasonCode::PacketIdentifierNotFound));
            return Ok(());
        };
        match &entry.state {
            State::Sent(publish) if publish.qos == QoS::AtLeastOnce => {
                return Err(violation("PUBREC", id, "a QoS 1 publish"));
            }
            State::Cleansing(_) => return Err(violation("PUBREC", id, "a PUBREL")),
            State::Sent(_) => match outcome(&ack) {
                Ok(published) => {
                    entry.state = State::Released(published);
                    let old = entry.place;
                    self.order.remove(&old);
                    let place = self.place(id);
                    self.in_flight.get_mut(&id).expect("found above").place = place;
                }
                // [MQTT-4.4.0-2] a failing PUBREC ends the exchange, no PUBREL follows.
                Err(error) => {
                    self.end(id, Err(error), outputs);
                    return Ok(());
                }
            },
            State::Released(_) => {}
        }
        outputs.push_back(pubrel(id, ReasonCode::Success));
        Ok(())
    }

    pub(super) fn pubcomp(&mut self, ack: Ack, outputs: &mut VecDeque<Output>) -> Result<(), Violation> {
        let id = ack.packet_id;
        let Some(entry) = self.in_flight.get_mut(&id) else { return Ok(()) };
        match &entry.state {
            State::Released(published) => {
                // 0x92 here means the broker had ended the exchange before; the message is its own either way.
                let published = published.clone();
                self.end(id, Ok(published), outputs);
                Ok(())
            }
            State::Cleansing(publish) => {
                let publish = publish.clone();
                outputs.push_back(Output::Send(Packet::Publish(publish.clone())));
                entry.state = State::Sent(publish);
                self.cleansing = None;
                Ok(())
            }
            State::Sent(_) => Err(violation("PUBCOMP", id, "a publish without PUBREC")),
        }
    }

    fn end(&mut self, id: PacketId, result: Result<Published, PublishError>, outputs: &mut VecDeque<Output>) {
        if let Some(entry) = self.in_flight.remove(&id) {
            self.order.remove(&entry.place);
            self.ids.free(id);
            outputs.push_back(Output::Published { token: entry.token, result });
        }
    }
}

/// Checks a publish against what the broker announced.
fn check(publish: &Publish, limits: &Limits) -> Result<(), PublishError> {
    let refuse = |reason, why: &str| Err(PublishError::Refused { reason, why: why.to_owned() });
    // [MQTT-3.2.2-11]
    if publish.qos > limits.qos_max {
        return refuse(ReasonCode::QoSNotSupported, "its CONNACK allows no such QoS");
    }
    // [MQTT-3.2.2-14]
    if publish.retain && !limits.retain {
        return refuse(ReasonCode::RetainNotSupported, "its CONNACK allows no retained messages");
    }
    if let Some(limit) = limits.packet_bytes_max {
        let mut sized = publish.clone();
        if sized.qos > QoS::AtMostOnce {
            sized.packet_id.get_or_insert(PacketId::MIN);
        }
        let bytes = encoded_len(&Packet::Publish(sized), limits.version);
        // [MQTT-3.2.2-15]
        if bytes > limit as usize {
            return Err(PublishError::TooLarge { bytes, limit });
        }
    }
    Ok(())
}

fn outcome(ack: &Ack) -> Result<Published, PublishError> {
    let properties = &ack.properties;
    if ack.reason.is_failure() {
        let why = properties.reason_string.as_deref().unwrap_or_default().to_owned();
        return Err(PublishError::Refused { reason: ack.reason, why });
    }
    let property = |name| user_property(&properties.user_properties, name);
    Ok(Published {
        reason: ack.reason,
        seq: property(protocol::im::IM_SEQ).and_then(|seq| seq.parse().ok()),
        id: property(protocol::im::IM_ID).map(str::to_owned),
        duplicate: property(protocol::im::IM_DUP) == Some("1"),
    })
}

fn pubrel(id: PacketId, reason: ReasonCode) -> Output {
    Output::Send(Packet::PubRel(Ack::new(id, reason)))
}

fn violation(packet: &str, id: PacketId, what: &str) -> Violation {
    (ReasonCode::ProtocolError, format!("the broker answered {what} (packet identifier {id}) with {packet}"))
}
