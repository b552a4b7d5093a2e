//! What the caller decides about connections: rights, refusals, ends, and messages of the broker's own.

use protocol::{Publish, QoS, ReasonCode};

use super::Shard;
use super::accept::Refused;
use crate::{CloseReason, ConnId, Now};

impl Shard {
    /// Answers a PUBLISH that the caller refuses.
    pub(super) fn refused_by_caller(
        &mut self,
        now: Now,
        conn: ConnId,
        mut publish: Publish,
        reason: ReasonCode,
        what: String,
    ) {
        if let Err((reason, what)) = self.resolve_alias(conn, &mut publish) {
            return self.violate(now, conn, reason, &what);
        }
        let packet_id = publish.packet_id.filter(|_| publish.qos > QoS::AtMostOnce);
        let Some(c) = self.conns.get_mut(&conn) else { return };
        if let Some(probe) = c.path.as_mut().and_then(|path| path.probe.as_mut()) {
            probe.spoiled = true;
        }
        c.last_packet_ms = now.monotonic_ms;
        // A QoS 2 publish sent again was taken before: refused now, its packet id would be free for the client
        // and taken here, and what came next under it would be lost.
        if let Some(packet_id) = packet_id
            && publish.qos == QoS::ExactlyOnce
            && self.sessions[c.session].incoming.contains_key(&packet_id)
        {
            let key = c.session;
            return self.repeat_pubrec(conn, key, packet_id);
        }
        c.unacknowledged = c.unacknowledged.saturating_add(u16::from(packet_id.is_some()));
        self.refuse(now, conn, publish.qos, packet_id, &publish.topic, &Refused { reason, what });
    }

    /// Notes that the caller stops reading, or reads again: the time in between is no silence.
    pub(super) fn set_reading(&mut self, now: Now, conn: Option<ConnId>, paused: bool) {
        match conn {
            None => {
                self.is_unread = paused;
                self.read_since_ms = now.monotonic_ms;
            }
            Some(conn) => {
                if let Some(c) = self.conns.get_mut(&conn) {
                    c.is_unread = paused;
                    c.last_packet_ms = now.monotonic_ms;
                }
            }
        }
    }

    pub(super) fn end_by_caller(&mut self, now: Now, conn: ConnId, reason: ReasonCode, what: String) {
        self.send_disconnect(conn, reason, &what);
        self.connection_ended(now, conn, CloseReason::Ended(what));
    }
}
