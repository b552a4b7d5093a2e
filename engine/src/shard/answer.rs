//! What a client is told besides messages: acknowledgements, reasons, goodbyes, and how they fit its limits.

use bytestring::ByteString;
use protocol::{
    Ack, AckProperties, DecodeError, Disconnect, DisconnectProperties, Packet, PacketId, ProtocolVersion,
    ReasonCode,
};

use super::{Shard, Wait};
use crate::{CloseReason, ConnId, Now};

/// Bytes of a reason string; it may quote a topic of the client's.
const REASON_BYTES_MAX: usize = 512;

/// Makes a reason string; what is too long is cut.
pub(super) fn reason_string(what: &str) -> ByteString {
    if what.len() <= REASON_BYTES_MAX {
        return what.into();
    }
    let end = (0..=REASON_BYTES_MAX).rev().find(|at| what.is_char_boundary(*at)).unwrap_or(0);
    format!("{} ...", &what[..end]).into()
}

impl Shard {
    /// Ends a connection that broke the protocol; 5.0 clients are told why.
    pub(super) fn violate(&mut self, now: Now, conn: ConnId, reason: ReasonCode, what: &str) {
        self.send_disconnect(conn, reason, what);
        self.connection_ended(now, conn, CloseReason::Violation(what.to_owned()));
    }

    pub(super) fn malformed(&mut self, now: Now, conn: ConnId, error: &DecodeError) {
        let reason = match error.reason() {
            // A second CONNECT, of another version; DISCONNECT has no such code.
            ReasonCode::UnsupportedProtocolVersion => ReasonCode::ProtocolError,
            reason => reason,
        };
        self.violate(now, conn, reason, &error.to_string());
    }

    pub(super) fn send_disconnect(&mut self, conn: ConnId, reason: ReasonCode, what: &str) {
        if self.conns.get(&conn).is_some_and(|c| c.version == ProtocolVersion::V5) {
            let reason_string = Some(reason_string(what));
            let properties = DisconnectProperties { reason_string, ..DisconnectProperties::default() };
            self.send_fitting(conn, Wait::Record, Packet::Disconnect(Disconnect { reason, properties }));
        }
    }

    /// Sends what the client can take. [MQTT-3.4.2-2] and its like: what is for people is left out when the
    /// packet would be over the client's limit; [MQTT-3.1.2-24] what is over it still is not sent.
    pub(super) fn send_fitting(&mut self, conn: ConnId, wait: Wait, mut packet: Packet) {
        let limit = self.conns.get(&conn).and_then(|c| Some((c.version, c.packet_bytes_max?.get() as usize)));
        if let Some((version, limit)) = limit
            && protocol::encoded_len(&packet, version) > limit
        {
            match &mut packet {
                Packet::PubAck(a) | Packet::PubRec(a) | Packet::PubRel(a) | Packet::PubComp(a) => {
                    a.properties = AckProperties::default();
                }
                Packet::SubAck(a) => a.properties = AckProperties::default(),
                Packet::UnsubAck(a) => a.properties = AckProperties::default(),
                Packet::Disconnect(d) => d.properties = DisconnectProperties::default(),
                _ => {}
            }
            if protocol::encoded_len(&packet, version) > limit {
                return;
            }
        }
        self.send(conn, wait, packet);
    }

    pub(super) fn ack(
        &self,
        conn: ConnId,
        packet_id: PacketId,
        reason: ReasonCode,
        what: Option<&str>,
    ) -> Ack {
        let mut ack = Ack::new(packet_id, reason);
        // [MQTT-3.1.2-29] no reason string on acks when the client does not want problem information.
        if self.conns.get(&conn).is_some_and(|c| c.problem_information) {
            ack.properties.reason_string = what.map(reason_string);
        }
        ack
    }
}
