//! What a restart finds out of receipts that are open: who has their messages, which of these nobody has any more, and
//! when those that wait expire.

use rustc_hash::FxHashSet;

use super::super::Shard;
use super::super::backlog::Work;
use super::super::share::Remains;
use crate::Now;
use crate::message::Expiry;
use crate::record::{Recipient, SessionNo, Source};
use crate::timers::Deadline;
use crate::waiting::Outline;

impl Shard {
    /// Finds out who has the messages of groups whose receipts are asked for, and which tracked messages
    /// nobody has: their sessions were not durable.
    pub(super) fn find_lost(&mut self) {
        // Mostly nobody asks: then not every queue is gone through.
        if self.receipts.iter().next().is_none() {
            return;
        }
        let mut holders = Vec::new();
        let mut own = FxHashSet::default();
        let mut note = |session: SessionNo, outline: Outline<'_>| match outline.source {
            Source::Group(group) => holders.push((outline.no, group, session)),
            // Only a cursor that has ended leaves a session without a message that it is a recipient of.
            _ if outline.seq.is_some() && self.receipts.is_tracked(outline.no) => {
                own.insert((outline.no, session));
            }
            _ => {}
        };
        for (_, s) in self.sessions.iter() {
            let in_flight = s.in_flight.iter().map(|f| Outline::from(&f.delivery));
            in_flight.chain(s.queue.outlines()).for_each(|outline| note(s.no, outline));
        }
        for (no, remains) in &self.remains {
            remains.iter().for_each(|(_, delivery)| note(*no, delivery.into()));
        }
        let held: FxHashSet<_> = holders.iter().map(|(message, group, _)| (*message, *group)).collect();
        let mut lost = Vec::new();
        for (message, tracking) in self.receipts.iter() {
            for open in tracking.open_after(None) {
                let is_held = match open.recipient {
                    Recipient::Session(session) => self.sessions.numbered(session).is_some_and(|key| {
                        let topic = &tracking.topic;
                        let is_kept = |seq| self.conversations.get(topic, seq).is_some();
                        let comes_then = |seq| is_kept(seq) && self.comes_then(key, topic, message);
                        let comes_later = |seq| self.comes_later(key, topic, seq) || comes_then(seq);
                        tracking.seq.is_none_or(|seq| own.contains(&(message, session)) || comes_later(seq))
                    }),
                    Recipient::Group(group) => held.contains(&(message, group)),
                };
                if !is_held {
                    lost.push((message, open.holder, open.recipient.source()));
                }
            }
        }
        for (message, group, session) in holders {
            self.receipts.hold(message, group, session);
        }
        lost.sort_unstable();
        let lost = lost.into_iter();
        self.backlog.extend(lost.map(|(message, session, source)| Work::Lost { message, session, source }));
    }

    pub(super) fn watch_recovered_expiries(&mut self, now: Now) {
        if self.receipts.iter().next().is_none() {
            return;
        }
        let waiting = self.sessions.iter().flat_map(|(_, s)| s.queue.outlines());
        let left = self.remains.values().flat_map(Remains::iter).map(|(_, delivery)| delivery.into());
        for Outline { no, expiry, .. } in waiting.chain(left) {
            if let Some(expiry) = expiry.filter(|_| self.receipts.is_tracked(no)) {
                self.timers.set(Deadline::MessageExpiry(no), expiry.monotonic_ms);
            }
        }
        // Those that only cursors will come to.
        for (message, tracking) in self.receipts.iter() {
            let stored = tracking.seq.and_then(|seq| self.conversations.get(&tracking.topic, seq));
            if let Some(stored) = stored.filter(|stored| stored.expiry_unix_ms > 0) {
                let expiry = Expiry::from_unix(stored.expiry_unix_ms, now);
                self.timers.set(Deadline::MessageExpiry(message), expiry.monotonic_ms);
            }
        }
    }
}
