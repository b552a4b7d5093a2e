//! Publishes from the broker: handed over once where QoS 2 says so, acknowledged in the order they came.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU16;

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

/// A QoS 2 message that was handed over and whose PUBREL has not come.
#[derive(Debug)]
struct Held {
    serial: u64,
    /// Whether the program has done with it, so that PUBREC may be (or was) sent.
    ready: bool,
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
            in_doubt: false,
            over_window: false,
        }
    }

    pub(super) fn resume(&mut self, in_doubt: bool) {
        self.due.clear();
        self.in_doubt = in_doubt;
    }

    /// The broker forgot the session and with it the identifiers.
    pub(super) fn start_over(&mut self) {
        self.due.clear();
        self.held.clear();
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
        if qos == QoS::ExactlyOnce
            && let Some(held) = self.held.get_mut(&packet_id)
        {
            // [MQTT-4.3.3-10] the same message again until its PUBREL: answered, never handed over again.
            held.link = link;
            let (serial, ready) = (held.serial, held.ready);
            if !self.due.iter().any(|due| due.serial == serial) {
                self.due.push_back(Due { serial, packet_id, qos, ready });
            }
            return Ok(());
        }
        self.check_window()?;
        let serial = self.next_serial;
        self.next_serial += 1;
        let ready = !self.manual_ack;
        if qos == QoS::ExactlyOnce {
            self.held.insert(packet_id, Held { serial, ready, link });
        }
        self.due.push_back(Due { serial, packet_id, qos, ready });
        let token = self.manual_ack.then_some(AckToken { serial, packet_id, qos });
        outputs.push_back(Output::Message(incoming(publish, token)));
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

    pub(super) fn pubrel(&mut self, ack: &Ack, version: ProtocolVersion, outputs: &mut VecDeque<Output>) {
        let known = self.held.remove(&ack.packet_id).is_some();
        self.due.retain(|due| due.qos != QoS::ExactlyOnce || due.packet_id != ack.packet_id);
        let reason = match version {
            ProtocolVersion::V5 if !known => ReasonCode::PacketIdentifierNotFound,
            _ => ReasonCode::Success,
        };
        // [MQTT-4.3.3-11] every PUBREL is answered.
        outputs.push_back(Output::Send(Packet::PubComp(Ack::new(ack.packet_id, reason))));
    }

    /// The program has done with a message. A token of a lost session or an earlier hand-over does nothing.
    pub(super) fn ack(&mut self, token: &AckToken) {
        if token.qos == QoS::ExactlyOnce
            && let Some(held) = self.held.get_mut(&token.packet_id)
            && held.serial == token.serial
        {
            held.ready = true;
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
