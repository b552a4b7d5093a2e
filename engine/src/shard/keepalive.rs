//! How long a connection may be silent, and which silences were seen to be survived (docs/protocol.md section
//! 7).
//!
//! A silence counts when nothing went either way meanwhile, a packet of the client ended it, and the
//! connection went on afterwards: the next packet is the proof. A short one counts only when a PINGREQ ended
//! it, or the votes of clients that always have something to say would be about nothing.

use bytestring::ByteString;
use protocol::im::{IM_KEEPALIVE, IM_NET, KeepaliveRequest, check_net};
use protocol::{Connect, Packet, ReasonCode};

use super::accept::Refused;
use super::probe::Probe;
use super::{Conn, Shard};
use crate::message::{compact, user_property};
use crate::planted::Planted;
use crate::record::Entry;
use crate::route::SessionKey;
use crate::timers::Deadline;
use crate::{CloseReason, ConnId, Now};

/// A silence from which on it says something about the network, whatever ended it.
const LONG_SILENCE_S: u64 = 30;

/// What is known of the way to a client, where somebody asked.
#[derive(Debug, Default)]
pub(super) struct Path {
    /// The network, as the client calls it.
    pub(super) net: Option<ByteString>,
    /// A silence that ended with the last packet, seconds; it counts when another packet comes.
    survived_s: u16,
    pub(super) probe: Option<Probe>,
}

impl Path {
    /// Notes a silence that has just ended.
    pub(super) fn end_silence(&mut self, silence_s: u64) {
        self.survived_s = u16::try_from(silence_s).unwrap_or(u16::MAX);
    }
}

impl Conn {
    /// The heartbeat in force, seconds: the lower of what CONNECT said and what was declared since; 0 = none.
    pub(super) fn heartbeat_s(&self) -> u16 {
        match (self.keep_alive_s, self.declared_s) {
            (keep_alive_s, 0) => keep_alive_s,
            (0, declared_s) => declared_s,
            (keep_alive_s, declared_s) => keep_alive_s.min(declared_s),
        }
    }

    /// Whether a PUBLISH may go out now.
    pub(super) fn takes_publishes(&self) -> bool {
        !self.congested && !self.is_silent
    }

    pub(super) fn path(&mut self) -> &mut Path {
        self.path.get_or_insert_default()
    }
}

impl Shard {
    /// `$im/keepalive`: the client's heartbeat from now on. Above what CONNECT said it changes nothing.
    pub(super) fn declare_keepalive(
        &mut self,
        now: Now,
        conn: ConnId,
        payload: &[u8],
    ) -> Result<(), Refused> {
        let request = KeepaliveRequest::parse(payload).map_err(Refused::request)?;
        let (min, max) = (self.config.keepalive_min_s, self.config.keepalive_max_s);
        let interval_s = u16::try_from(request.interval_s).ok().filter(|s| (min..=max).contains(s));
        let interval_s = interval_s.ok_or_else(|| {
            Refused::request(format!("interval_s is {}, {min} to {max} are allowed", request.interval_s))
        })?;
        let Some(c) = self.conns.get_mut(&conn) else { return Ok(()) };
        c.declared_s = interval_s;
        if self.config.planted == Some(Planted::HeartbeatRaised) {
            c.keep_alive_s = interval_s;
        }
        if let Some(net) = request.net {
            c.path().net = Some(net.into());
        }
        let silence_ms = silence_max_ms(c.heartbeat_s());
        self.timers.set(Deadline::KeepAlive(conn), now.monotonic_ms + silence_ms);
        Ok(())
    }

    /// [MQTT-3.1.2-22] nothing for one and a half times the keep-alive ends the connection.
    pub(super) fn keep_alive_due(&mut self, now: Now, conn: ConnId) {
        let Some(c) = self.conns.get(&conn) else { return };
        let keep_alive_s = c.heartbeat_s();
        let silence_ms = silence_max_ms(keep_alive_s);
        // What nobody reads is no silence of the client's.
        let heard_ms = match self.is_unread || c.is_unread {
            true => now.monotonic_ms,
            false => c.last_packet_ms.max(self.read_since_ms),
        };
        if heard_ms + silence_ms > now.monotonic_ms {
            return self.timers.set(Deadline::KeepAlive(conn), heard_ms + silence_ms);
        }
        let reason = CloseReason::KeepAlive { keep_alive_s };
        self.send_disconnect(conn, ReasonCode::KeepAliveTimeout, &reason.to_string());
        self.connection_ended(now, conn, reason);
    }

    /// A packet came on a connection whose path is watched: the silence before it has ended, and the one before
    /// that was survived.
    pub(super) fn watch_path(&mut self, now: Now, conn: ConnId, quiet_since_ms: u64, packet: &Packet) {
        // What nobody read was no silence.
        let quiet_since_ms = quiet_since_ms.max(self.read_since_ms);
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let key = c.session;
        let Some(path) = &mut c.path else { return };
        if let Some(probe) = &mut path.probe {
            probe.spoiled = self.config.planted != Some(Planted::ProbeNeverSpoiled);
        }
        let Some(net) = path.net.clone() else { return };
        let survived_s = std::mem::take(&mut path.survived_s);
        let silence_s = now.monotonic_ms.saturating_sub(quiet_since_ms) / 1000;
        if silence_s >= LONG_SILENCE_S || matches!(packet, Packet::PingReq) {
            path.end_silence(silence_s);
        }
        if survived_s >= self.config.keepalive_min_s {
            self.vote(now, key, net, survived_s.min(self.config.keepalive_max_s));
        }
    }

    /// Counts a silence that a network was seen to let pass.
    fn vote(&mut self, now: Now, key: SessionKey, net: ByteString, interval_s: u16) {
        let user = self.sessions[key].user.clone();
        let at_unix_ms = now.unix_ms;
        if !self.networks.vote(&net, &user, interval_s, at_unix_ms) {
            return;
        }
        self.write(&Entry::NetVote { net, user, interval_s, at_unix_ms });
        for (net, user) in self.networks.trim() {
            self.write(&Entry::NetVote { net, user, interval_s: 0, at_unix_ms });
        }
    }

    /// The value of CONNACK's `im-keepalive`.
    pub(super) fn keepalive_hint(&self, now: Now, connect: &Connect) -> Option<u16> {
        let net = user_property(&connect.properties.user_properties, IM_NET)?;
        let (min, max) = (self.config.keepalive_min_s, self.config.keepalive_max_s);
        self.networks.proved_s(net, now.unix_ms).map(|s| s.clamp(min, max))
    }

    /// Watches the path of a connection that says what its network is.
    pub(super) fn note_network(&mut self, now: Now, conn: ConnId, connect: &Connect) {
        let Some(net) = user_property(&connect.properties.user_properties, IM_NET) else { return };
        let Some(c) = self.conns.get_mut(&conn) else { return };
        match check_net(net) {
            Ok(()) => c.path().net = Some(compact(net)),
            Err(what) => {
                let key = c.session;
                self.tell_error(now, key, IM_NET, &format!("ignored: {what}"));
            }
        }
    }
}

/// Makes the user property of CONNACK that tells the hint.
pub(super) fn hint_property(hint_s: u16) -> (ByteString, ByteString) {
    (ByteString::from_static(IM_KEEPALIVE), hint_s.to_string().into())
}

/// [MQTT-3.1.2-22] one and a half times the keep-alive.
pub(super) fn silence_max_ms(keep_alive_s: u16) -> u64 {
    u64::from(keep_alive_s) * 1500
}
