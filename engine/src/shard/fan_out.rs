//! A message to very many: its recipients get it in portions, and between two of them everybody else is served.
//!
//! The record stays one, and is written with the first portion: who the log must know to have the message is served
//! then. What waits here goes to sessions that end with their connections, or at QoS 0, so that a crash loses nothing
//! that was promised. Invariants: before a session gets anything else it gets what waits for it here, in the order in
//! which that was accepted; never more than `MESSAGES_MAX` messages and
//! `WAITING_MAX` recipients wait.

use std::collections::VecDeque;
use std::sync::Arc;

use protocol::QoS;

use super::Shard;
use super::accept::Target;
use crate::Now;
use crate::memory::Held;
use crate::message::Message;
use crate::record::Form;
use crate::route::SessionKey;

/// Recipients that wait, of all messages; what comes then is served at once.
const WAITING_MAX: usize = 1 << 18;

/// Messages that wait: whatever comes to a session looks for it in each.
const MESSAGES_MAX: usize = 64;

/// A message and who is still to get it.
#[derive(Debug)]
pub(super) struct FanOut {
    pub(super) message: Arc<Message>,
    /// In the order of their sessions.
    targets: Vec<Target>,
    /// So many of them, the first ones, were served, and some behind.
    served: usize,
    /// Counts them.
    _held: Held,
}

/// Messages that go out in portions, the oldest first.
#[derive(Debug, Default)]
pub(super) struct FanOuts {
    list: VecDeque<FanOut>,
    /// Recipients that were not served.
    waiting: usize,
    /// Who is served now, in order.
    serving: Option<SessionKey>,
}

impl FanOuts {
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn is_full(&self) -> bool {
        self.waiting > WAITING_MAX || self.list.len() > MESSAGES_MAX
    }

    fn push(&mut self, fan_out: FanOut) {
        self.waiting += fan_out.targets.len();
        self.list.push_back(fan_out);
    }

    /// Returns who is next.
    fn next_session(&mut self) -> Option<SessionKey> {
        loop {
            let first = self.list.front_mut()?;
            match first.targets.get(first.served) {
                Some(target) if target.is_covered => first.served += 1,
                Some(target) => return Some(target.session),
                None => drop(self.list.pop_front()),
            }
        }
    }

    /// Takes what waits for one session.
    fn take(&mut self, session: SessionKey) -> Vec<(Target, Arc<Message>)> {
        let mut taken = Vec::new();
        for fan_out in &mut self.list {
            let left = &mut fan_out.targets[fan_out.served..];
            let first = left.partition_point(|target| target.session < session);
            for target in left[first..].iter_mut().take_while(|target| target.session == session) {
                if !target.is_covered {
                    // Nobody stays there, so that the others stand where they were.
                    let target = std::mem::replace(target, Target::nobody(session));
                    taken.push((target, fan_out.message.clone()));
                }
            }
        }
        self.waiting -= taken.len();
        taken
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &FanOut> {
        self.list.iter()
    }
}

impl FanOut {
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        assert_eq!(self._held.bytes(), self.targets.len() * size_of::<Target>());
        self._held.bytes()
    }
}

impl Shard {
    /// Gives a message to its recipients, those that can wait in portions.
    pub(super) fn fan_out(&mut self, now: Now, targets: &[Target], message: &Arc<Message>) {
        let (waiting, at_once): (Vec<_>, Vec<_>) =
            targets.iter().partition(|target| self.may_wait(target, message.qos));
        if !waiting.is_empty() {
            let waiting: Vec<_> = waiting.into_iter().cloned().collect();
            let held = self.account.hold(waiting.len() * size_of::<Target>());
            self.fan_outs.push(FanOut { message: message.clone(), targets: waiting, served: 0, _held: held });
        }
        for target in at_once {
            self.deliver_to(now, target, message);
        }
        while self.fan_outs.is_full() {
            self.fan_out_next(now);
        }
    }

    /// Whether nobody was promised that the message is at this recipient when its record is durable.
    fn may_wait(&self, target: &Target, published: QoS) -> bool {
        target.share.is_none()
            && target.form == Form::Plain
            && (target.qos.min(published) == QoS::AtMostOnce || !self.is_logged(target))
    }

    /// Serves the next portion.
    pub(super) fn go_on_fanning_out(&mut self, now: Now) {
        for _ in 0..self.config.recipients_per_portion {
            if !self.fan_out_next(now) {
                return;
            }
        }
    }

    /// Serves all that wait.
    pub(super) fn finish_fanning_out(&mut self, now: Now) {
        while self.fan_out_next(now) {}
    }

    /// Serves one session all that waits for it: what comes next must not overtake it.
    pub(super) fn fan_out_to(&mut self, now: Now, key: SessionKey) {
        if self.fan_outs.is_empty() || self.fan_outs.serving == Some(key) {
            return;
        }
        let serving = self.fan_outs.serving.replace(key);
        for (target, message) in self.fan_outs.take(key) {
            self.deliver_to(now, &target, &message);
        }
        self.fan_outs.serving = serving;
    }

    /// Forgets what waits for a session that ends: its place may be another's soon.
    pub(super) fn forget_fan_outs(&mut self, key: SessionKey) {
        if !self.fan_outs.is_empty() {
            self.stats.dropped += self.fan_outs.take(key).len() as u64;
        }
    }

    /// Serves the next session; says whether there was one.
    fn fan_out_next(&mut self, now: Now) -> bool {
        let Some(session) = self.fan_outs.next_session() else { return false };
        self.fan_out_to(now, session);
        true
    }
}
