//! Publishes from the broker: handed over once where QoS 2 says so, acknowledged in the order they came.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU16;

use aws_lc_rs::digest::{Context, SHA256};
use protocol::{Ack, Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode};

use super::{Output, Violation};
use crate::{AckToken, Incoming};

/// One acknowledgement to send on this connection.
#[derive(Debug)]
struct Due {
    serial: u64,
    packet_id: PacketId,
    qos: QoS,
    /// Whether the program has done with the message.
    ready: bool,
}

/// A QoS 2 message whose PUBREC was or may be sent, for a program that keeps these over restarts: the broker may send it again, and it
/// must not be handed over then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its packet identifier, which is in use until PUBCOMP.
    pub packet_id: PacketId,
    /// Begins the SHA-256 of its topic and payload: an identifier alone may be of a session that another program had in between.
    pub fingerprint: u64,
}

impl Received {
    fn new(packet_id: PacketId, publish: &Publish) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(&(publish.topic.len() as u64).to_be_bytes());
        context.update(publish.topic.as_bytes());
        context.update(&publish.payload);
        let digest = context.finish();
        let first = digest.as_ref().first_chunk().expect("a SHA-256 has 32 bytes");
        Self { packet_id, fingerprint: u64::from_be_bytes(*first) }
    }
}

/// How far a QoS 2 message is that was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    /// The program has it.
    No,
    /// The program has done with it, which is being made durable.
    Keeping,
    /// PUBREC may be, or was, sent.
    Yes,
}

/// A QoS 2 message that was handed over and whose PUBREL has not come.
#[derive(Debug)]
struct Held {
    serial: u64,
    done: Done,
    /// For the record that is kept of it.
    received: Received,
    /// The connection on which it last came.
    link: u64,
}

/// What the broker sent and is not done with.
#[derive(Debug)]
pub(super) struct Inbound {
    manual_ack: bool,
    /// What we told the broker in CONNECT.
    receive_maximum: usize,
    next_serial: u64,
    /// Acknowledgements of this connection, in the order of their PUBLISH; at most 65,535.
    due: VecDeque<Due>,
    /// QoS 2 by packet identifier, until PUBREL; outlives the connection.
    held: HashMap<PacketId, Held>,
    /// Whether PUBREC and PUBCOMP wait until they may be sent for ever: [`Output::Keep`], [`Output::Forget`].
    keeps: bool,
    /// Kept by an earlier run of the program, and not seen since.
    recalled: HashMap<PacketId, u64>,
    /// The connections on which the PUBREL of what is being forgotten came.
    forgetting: HashMap<PacketId, u64>,
    /// Whether the broker's session may be another than the one `held` is of.
    in_doubt: bool,
    /// Whether the broker was seen to exceed our Receive Maximum; said once.
    over_window: bool,
}

impl Inbound {
    pub(super) fn new(manual_ack: bool, receive_maximum: Option<NonZeroU16>) -> Self {
        Self {
            manual_ack,
            receive_maximum: usize::from(receive_maximum.map_or(u16::MAX, NonZeroU16::get)),
            next_serial: 0,
            due: VecDeque::new(),
            held: HashMap::new(),
            keeps: false,
            recalled: HashMap::new(),
            forgetting: HashMap::new(),
            in_doubt: false,
            over_window: false,
        }
    }

    pub(super) fn resume(&mut self, in_doubt: bool) {
        self.due.clear();
        self.in_doubt = in_doubt;
    }

    /// From now on identifiers are kept, these among them.
    pub(super) fn keep(&mut self, recalled: Vec<Received>) {
        self.keeps = true;
        self.recalled = recalled.into_iter().map(|r| (r.packet_id, r.fingerprint)).collect();
    }

    /// The broker forgot the session and with it the identifiers.
    pub(super) fn start_over(&mut self, outputs: &mut VecDeque<Output>) {
        self.due.clear();
        let kept = self.held.drain().filter(|(_, held)| held.done != Done::No).map(|(id, _)| id);
        let forgotten: Vec<PacketId> = kept.chain(self.recalled.drain().map(|(id, _)| id)).collect();
        if self.keeps {
            outputs.extend(forgotten.into_iter().map(Output::Forget));
        }
    }

    pub(super) fn disconnected(&mut self) {
        self.due.clear();
    }

    pub(super) fn publish(
        &mut self,
        publish: Publish,
        link: u64,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), Violation> {
        if publish.properties.topic_alias.is_some() {
            // [MQTT-3.1.2-26] we allow none in CONNECT.
            return Err((
                ReasonCode::TopicAliasInvalid,
                "the broker used a topic alias, we allow none".to_owned(),
            ));
        }
        let Some(packet_id) = publish.packet_id.filter(|_| publish.qos > QoS::AtMostOnce) else {
            outputs.push_back(Output::Message(incoming(publish, None)));
            return Ok(());
        };
        let qos = publish.qos;
        // In the session we know, what is held comes again with DUP [MQTT-3.3.1-1]; without it this is another session's
        // first use of the identifier.
        if self.in_doubt && !publish.dup && self.held.get(&packet_id).is_some_and(|held| held.link != link) {
            self.held.remove(&packet_id);
        }
        let received = match qos {
            QoS::ExactlyOnce if self.keeps => Received::new(packet_id, &publish),
            _ => Received { packet_id, fingerprint: 0 },
        };
        if qos == QoS::ExactlyOnce
            && let Some(fingerprint) = self.recalled.remove(&packet_id)
            && publish.dup
            && fingerprint == received.fingerprint
        {
            let serial = self.next_serial;
            self.next_serial += 1;
            self.held.insert(packet_id, Held { serial, done: Done::Yes, received, link });
        }
        if qos == QoS::ExactlyOnce
            && let Some(held) = self.held.get_mut(&packet_id)
        {
            // [MQTT-4.3.3-10] the same message again until its PUBREL: answered, never handed over again.
            held.link = link;
            let (serial, ready) = (held.serial, held.done == Done::Yes);
            if !self.due.iter().any(|due| due.serial == serial) {
                self.due.push_back(Due { serial, packet_id, qos, ready });
            }
            return Ok(());
        }
        self.check_window()?;
        let serial = self.next_serial;
        self.next_serial += 1;
        if qos == QoS::ExactlyOnce {
            self.held.insert(packet_id, Held { serial, done: Done::No, received, link });
        }
        self.due.push_back(Due { serial, packet_id, qos, ready: false });
        let token = self.manual_ack.then_some(AckToken { serial, packet_id, qos });
        outputs.push_back(Output::Message(incoming(publish, token)));
        if !self.manual_ack {
            self.ack(&AckToken { serial, packet_id, qos }, outputs);
        }
        Ok(())
    }

    /// Refuses a broker far beyond our Receive Maximum [MQTT-3.3.4-9]. One that is over it only is put up with: mosquitto
    /// 2.0.11 was seen to send 161 where 20 were allowed, and a message here costs its entry in `due` only.
    fn check_window(&mut self) -> Result<(), Violation> {
        let limit = usize::from(u16::MAX);
        if self.due.len() >= limit {
            let why = format!("the broker sent more than {limit} publishes without acknowledgement");
            return Err((ReasonCode::ReceiveMaximumExceeded, why));
        }
        if self.due.len() >= self.receive_maximum && !self.over_window {
            self.over_window = true;
            tracing::warn!(receive_maximum = self.receive_maximum, "the broker exceeds our Receive Maximum");
        }
        Ok(())
    }

    pub(super) fn pubrel(
        &mut self,
        ack: &Ack,
        version: ProtocolVersion,
        link: u64,
        outputs: &mut VecDeque<Output>,
    ) {
        let id = ack.packet_id;
        let known = self.held.remove(&id).is_some() | self.recalled.remove(&id).is_some();
        self.due.retain(|due| due.qos != QoS::ExactlyOnce || due.packet_id != id);
        if known && self.keeps {
            // After PUBCOMP the identifier may be another message's: it is sent when this one is forgotten for good.
            self.forgetting.insert(id, link);
            outputs.push_back(Output::Forget(id));
            return;
        }
        let reason = match version {
            ProtocolVersion::V5 if !known => ReasonCode::PacketIdentifierNotFound,
            _ => ReasonCode::Success,
        };
        // [MQTT-4.3.3-11] every PUBREL is answered.
        outputs.push_back(Output::Send(Packet::PubComp(Ack::new(id, reason))));
    }

    /// An identifier is forgotten for good.
    pub(super) fn forgotten(&mut self, id: PacketId, link: Option<u64>, outputs: &mut VecDeque<Output>) {
        if let Some(asked) = self.forgetting.remove(&id)
            && link == Some(asked)
        {
            outputs.push_back(Output::Send(Packet::PubComp(Ack::new(id, ReasonCode::Success))));
        }
    }

    /// A message is kept for good: its PUBREC may go.
    pub(super) fn kept(&mut self, received: &Received) {
        let Some(held) = self.held.get_mut(&received.packet_id) else { return };
        if held.done == Done::Keeping && held.received == *received {
            held.done = Done::Yes;
            let serial = held.serial;
            self.due.iter_mut().filter(|due| due.serial == serial).for_each(|due| due.ready = true);
        }
    }

    /// The program has done with a message. A token of a lost session or an earlier hand-over does nothing.
    pub(super) fn ack(&mut self, token: &AckToken, outputs: &mut VecDeque<Output>) {
        if token.qos == QoS::ExactlyOnce
            && let Some(held) = self.held.get_mut(&token.packet_id)
            && held.serial == token.serial
        {
            if self.keeps && held.done != Done::Yes {
                if held.done == Done::No {
                    held.done = Done::Keeping;
                    outputs.push_back(Output::Keep(held.received));
                }
                return;
            }
            held.done = Done::Yes;
        }
        if let Some(due) = self.due.iter_mut().find(|due| due.serial == token.serial) {
            due.ready = true;
        }
    }

    /// Sends what is ready, in the order the messages came [MQTT-4.6.0-2] [MQTT-4.6.0-3]: one that is not ready
    /// holds those behind it.
    pub(super) fn send_acks(&mut self, outputs: &mut VecDeque<Output>) {
        while self.due.front().is_some_and(|due| due.ready) {
            let due = self.due.pop_front().expect("front() was Some");
            let ack = Ack::new(due.packet_id, ReasonCode::Success);
            outputs.push_back(Output::Send(match due.qos {
                QoS::ExactlyOnce => Packet::PubRec(ack),
                _ => Packet::PubAck(ack),
            }));
        }
    }
}

fn incoming(publish: Publish, ack: Option<AckToken>) -> Incoming {
    Incoming {
        topic: publish.topic.to_string(),
        payload: publish.payload,
        qos: publish.qos,
        retain: publish.retain,
        dup: publish.dup,
        properties: publish.properties.into_inner(),
        ack,
    }
}
