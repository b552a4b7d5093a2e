//! The end of a run: no more trouble, everyone connects, all that is due arrives.

use protocol::QoS;

use super::World;
use super::cast::REPLAYED_TOPICS;
use crate::simulation::ops::publish;

/// Messages that go through a broker at rest.
pub(in crate::simulation) const MESSAGES_THROUGH: u64 = 40;

/// Rounds after which a world that does not come to rest is wrong.
const ROUNDS_MAX: u32 = 50_000;

impl World {
    /// Who stays away leaves, and before anybody notices the broker dies once more.
    fn vanish(&mut self) -> Result<(), String> {
        for who in 0..self.actors.len() {
            if let Some(conn) = self.network.of(who).filter(|_| self.role(who).stays_away) {
                self.network.remove(conn);
                self.lose(who)?;
            }
        }
        self.crash()
    }

    pub(super) fn settle(&mut self) -> Result<(), String> {
        self.vanish()?;
        self.rest()?;
        if self.plan.poison_after > 0 {
            // What was set aside is so in the next broker, too.
            self.crash()?;
            self.rest()?;
        }
        Ok(())
    }

    /// Lets some more messages go through, and returns by how many bytes the broker holds more after them.
    pub(super) fn go_through(&mut self) -> Result<u64, String> {
        let before = self.node.shard.stats().memory_bytes;
        self.plan.messages += MESSAGES_THROUGH;
        let by = self.any_client(|role| role.publishes && role.user.is_none() && role.hears_receipts());
        for _ in 0..MESSAGES_THROUGH {
            self.make(publish::message(by, REPLAYED_TOPICS[0], QoS::AtLeastOnce))?;
        }
        self.rest()?;
        Ok(self.node.shard.stats().memory_bytes.saturating_sub(before))
    }

    fn rest(&mut self) -> Result<(), String> {
        let (mut quiet_rounds, mut has_waited) = (0, false);
        for _ in 0..ROUNDS_MAX {
            for who in 0..self.actors.len() {
                if !self.is_linked(who) && !self.role(who).stays_away {
                    self.connect(who)?;
                }
            }
            self.commit()?;
            if self.node.is_dead {
                self.crash()?;
            }
            self.fetch()?;
            self.pass_time(5)?;
            let conns: Vec<_> = self.network.links().map(|(conn, _)| conn).collect();
            for conn in conns {
                if let Some(link) = self.network.link(conn) {
                    link.frozen_until_ms = 0;
                    if link.is_congested && !link.is_closed {
                        self.congest(conn)?;
                    }
                }
                self.speak(conn)?;
                self.carry(conn, true)?;
                self.carry(conn, false)?;
            }
            let is_quiet = self.network.is_idle()
                && self.node.is_committed()
                && (0..self.actors.len()).all(|who| self.role(who).stays_away || self.actors[who].is_quiet());
            quiet_rounds = if is_quiet { quiet_rounds + 1 } else { 0 };
            // What expires meanwhile is told within this time.
            if quiet_rounds == 20 && !has_waited {
                has_waited = true;
                self.commit()?;
                self.pass_time(10_000)?;
            }
            if quiet_rounds > 40 {
                return Ok(());
            }
        }
        Err("the world does not come to rest".into())
    }
}
