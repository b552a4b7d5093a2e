//! Requests: what a client asks of the broker by publishing to a `$im/...` topic (docs/protocol.md sections 6,
//! 7 and 11). Nobody receives such a PUBLISH; what cannot be met is told in the acknowledgement, where the
//! version has room for it, and on `$im/errors`.

use protocol::im::{KEEPALIVE_TOPIC, PROBE_TOPIC, READ_TOPIC};
use protocol::{Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode};

use super::accept::Refused;
use super::{Shard, Wait};
use crate::message::MessageId;
use crate::{ConnId, Now};

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// `$im/keepalive`: another heartbeat.
    Keepalive,
    /// `$im/probe`: a message after a silence.
    Probe,
    /// `$im/read`: another read position.
    Read,
}

impl Request {
    /// Returns what a PUBLISH to the topic asks for.
    pub(super) fn of(topic: &str) -> Option<Self> {
        match topic {
            KEEPALIVE_TOPIC => Some(Self::Keepalive),
            PROBE_TOPIC => Some(Self::Probe),
            READ_TOPIC => Some(Self::Read),
            _ => None,
        }
    }
}

impl Shard {
    /// Meets a request, or says why not. Its acknowledgement waits for what it changed.
    pub(super) fn request(
        &mut self,
        now: Now,
        conn: ConnId,
        request: Request,
        publish: &Publish,
        packet_id: Option<PacketId>,
    ) {
        let Some(c) = self.conns.get(&conn) else { return };
        let (key, version) = (c.session, c.version);
        let met = match request {
            Request::Keepalive => self.declare_keepalive(now, conn, &publish.payload),
            Request::Probe => self.begin_probe(now, conn, &publish.payload),
            Request::Read => self.read_up_to(now, conn, &publish.payload),
        };
        let what = met.as_ref().err().map(|refused| format!("request {:?}: {}", publish.topic, refused.what));
        if let Some(what) = &what {
            self.tell_error(now, key, &publish.topic, what);
        }
        let Some(packet_id) = packet_id else { return };
        let reason = match met {
            // [MQTT-3.3.5-2] (3.1.1) has no code for it: it is acknowledged and discarded.
            Err(refused) if version == ProtocolVersion::V5 => refused.reason,
            _ => ReasonCode::Success,
        };
        if publish.qos == QoS::ExactlyOnce && !reason.is_failure() {
            self.take_incoming(key, packet_id, None, MessageId::default());
        }
        let ack = self.ack(conn, packet_id, reason, what.as_deref());
        let packet = if publish.qos == QoS::ExactlyOnce { Packet::PubRec(ack) } else { Packet::PubAck(ack) };
        let wait = match request {
            // Another terminal of the user may have moved it there, in a record that is not durable yet.
            Request::Read => Wait::Ticket(self.last_or_this_ticket()),
            Request::Keepalive | Request::Probe => Wait::Record,
        };
        self.send_fitting(conn, wait, packet);
    }
}

impl Refused {
    /// Refuses a request whose payload or time is wrong.
    pub(super) fn request(what: String) -> Self {
        Self { reason: ReasonCode::ImplementationSpecificError, what }
    }
}
