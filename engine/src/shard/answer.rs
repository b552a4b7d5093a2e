//! What a client is told besides messages: acknowledgements, reasons, goodbyes, and how they fit its limits.

use bytestring::ByteString;
use protocol::{
    Ack, AckProperties, DecodeError, Disconnect, DisconnectProperties, Packet, PacketId, ProtocolVersion,
    ReasonCode, Shared, SubAck,
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

/// Quotes a topic or filter for people; what is too long is cut before it costs anything.
pub(super) fn quoted(topic: &str) -> String {
    format!("{:?}", &*reason_string(topic))
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
        if let Some(c) = self.conns.get(&conn).filter(|c| c.version == ProtocolVersion::V5) {
            let reason_string = c.problem_information.then(|| reason_string(what));
            let server_reference = self.server_reference(reason);
            let properties =
                DisconnectProperties { reason_string, server_reference, ..DisconnectProperties::default() };
            self.send_fitting(
                conn,
                Wait::Record,
                Packet::Disconnect(Disconnect { reason, properties: properties.into() }),
            );
        }
    }

    /// The server that a client is sent to with this reason.
    pub(super) fn server_reference(&self, reason: ReasonCode) -> Option<ByteString> {
        let moves = matches!(reason, ReasonCode::UseAnotherServer | ReasonCode::ServerMoved);
        let reference = &self.config.server_reference;
        (moves && !reference.is_empty()).then(|| reference.as_str().into())
    }

    /// Ends a connection whose answer with so many codes would be over the client's Maximum Packet Size: it
    /// can be neither sent ([MQTT-3.1.2-24]) nor left out ([MQTT-3.8.4-1], [MQTT-3.10.4-4]). Says whether it did;
    /// nothing of the request is done then. 3.1.1 clients have no such limit, and SUBACK and UNSUBACK of 5.0
    /// have one size.
    pub(super) fn refuse_unanswerable(
        &mut self,
        now: Now,
        conn: ConnId,
        packet_id: PacketId,
        codes: usize,
    ) -> bool {
        let limit = self.conns.get(&conn).and_then(|c| Some((c.version, c.packet_bytes_max?.get() as usize)));
        let Some((version, limit)) = limit else { return false };
        let reasons = vec![ReasonCode::Success; codes];
        let answer = Packet::SubAck(SubAck { packet_id, properties: AckProperties::default(), reasons });
        let bytes = protocol::encoded_len(&answer, version);
        if bytes > limit {
            let what = format!("the answer to {codes} filters has {bytes} bytes, the client takes {limit}");
            self.violate(now, conn, ReasonCode::PacketTooLarge, &what);
        }
        bytes > limit
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
                    a.properties = Shared::NONE;
                }
                Packet::SubAck(a) => a.properties = AckProperties::default(),
                Packet::UnsubAck(a) => a.properties = AckProperties::default(),
                Packet::Disconnect(d) => {
                    // Where to go matters more than why.
                    d.properties.reason_string = None;
                    if protocol::encoded_len(&Packet::Disconnect(d.clone()), version) > limit {
                        d.properties = Shared::NONE;
                    }
                }
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
        if let Some(what) = what
            && self.conns.get(&conn).is_some_and(|c| c.problem_information)
        {
            ack.properties.reason_string = Some(reason_string(what));
        }
        ack
    }
}
