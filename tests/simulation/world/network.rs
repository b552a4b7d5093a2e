//! Connections: packets on their way in both directions, in order within one, in any order between two.

use std::collections::{BTreeMap, VecDeque};

use engine::ConnId;
use protocol::Packet;
use protocol::im::{KEEPALIVE_TOPIC, KeepaliveRequest};

use super::cast::CAST;
use crate::simulation::history::Who;

/// One connection as the client has it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) who: Who,
    pub(super) to_broker: VecDeque<Packet>,
    /// With the time of its sending.
    pub(super) to_client: VecDeque<(Packet, u64)>,
    /// The broker closed it, or is gone: it ends when all is delivered.
    pub(super) is_closed: bool,
    /// Nothing gets through until then.
    pub(super) frozen_until_ms: u64,
    /// When the broker last took something of it, milliseconds since the Unix epoch.
    pub(super) heard_unix_ms: u64,
    /// The heartbeat that the broker must go by, seconds.
    pub(super) heartbeat_s: u64,
    /// It was silent for too long before the broker last took something: its end may be on its way.
    pub(super) was_overdue: bool,
    /// The broker was told that the client is slow.
    pub(super) is_congested: bool,
}

impl Link {
    /// Whether nothing came for so long that the broker must end it.
    pub(super) fn is_overdue(&self, now_unix_ms: u64) -> bool {
        now_unix_ms - self.heard_unix_ms >= self.heartbeat_s * 1_500
    }
}

/// All connections.
#[derive(Debug, Default)]
pub(super) struct Network {
    links: BTreeMap<ConnId, Link>,
    /// Connections that their clients have left, and the broker does not know it.
    pub(super) ghosts: Vec<ConnId>,
    opened: u64,
}

impl Network {
    pub(super) fn open(&mut self, who: Who, keep_alive_s: u16, now_unix_ms: u64) -> ConnId {
        self.opened += 1;
        let conn = ConnId(self.opened);
        let link = Link {
            who,
            to_broker: VecDeque::new(),
            to_client: VecDeque::new(),
            is_closed: false,
            frozen_until_ms: 0,
            heard_unix_ms: now_unix_ms,
            heartbeat_s: keep_alive_s.into(),
            was_overdue: false,
            is_congested: false,
        };
        self.links.insert(conn, link);
        conn
    }

    pub(super) fn link(&mut self, conn: ConnId) -> Option<&mut Link> {
        self.links.get_mut(&conn)
    }

    /// The broker takes a packet.
    pub(super) fn hear(&mut self, conn: ConnId, packet: &Packet, now_unix_ms: u64) {
        let Some(link) = self.links.get_mut(&conn) else { return };
        link.was_overdue |= link.is_overdue(now_unix_ms);
        link.heard_unix_ms = now_unix_ms;
        if let Packet::Publish(publish) = packet
            && &*publish.topic == KEEPALIVE_TOPIC
            && let Ok(request) = KeepaliveRequest::parse(&publish.payload)
        {
            // It lowers what CONNECT said, and never raises it.
            let keep_alive_s = u64::from(CAST[link.who].keep_alive_s);
            link.heartbeat_s = keep_alive_s.min(request.interval_s.into());
        }
    }

    pub(super) fn remove(&mut self, conn: ConnId) -> Option<Link> {
        self.links.remove(&conn)
    }

    pub(super) fn links(&self) -> impl Iterator<Item = (ConnId, &Link)> {
        self.links.iter().map(|(conn, link)| (*conn, link))
    }

    pub(super) fn of(&self, who: Who) -> Option<ConnId> {
        self.links.iter().find(|(_, l)| l.who == who).map(|(conn, _)| *conn)
    }

    pub(super) fn any(&self, rng: &mut fastrand::Rng) -> Option<ConnId> {
        let at = rng.usize(0..self.links.len().max(1));
        self.links.keys().nth(at).copied()
    }

    /// The broker is gone: of what it had sent some still arrives, of what was sent to it nothing.
    pub(super) fn broker_died(&mut self, rng: &mut fastrand::Rng) {
        self.ghosts.clear();
        for link in self.links.values_mut() {
            link.is_closed = true;
            link.to_broker.clear();
            let kept = rng.usize(0..=link.to_client.len());
            link.to_client.truncate(kept);
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.links.values().all(|l| l.to_broker.is_empty() && l.to_client.is_empty())
    }
}
