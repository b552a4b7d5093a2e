//! Connections: packets on their way in both directions, in order within one, in any order between two.

use std::collections::{BTreeMap, VecDeque};

use engine::ConnId;
use protocol::Packet;

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
    /// The broker was told that the client is slow.
    pub(super) is_congested: bool,
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
    pub(super) fn open(&mut self, who: Who) -> ConnId {
        self.opened += 1;
        let conn = ConnId(self.opened);
        let link = Link {
            who,
            to_broker: VecDeque::new(),
            to_client: VecDeque::new(),
            is_closed: false,
            frozen_until_ms: 0,
            is_congested: false,
        };
        self.links.insert(conn, link);
        conn
    }

    pub(super) fn link(&mut self, conn: ConnId) -> Option<&mut Link> {
        self.links.get_mut(&conn)
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
