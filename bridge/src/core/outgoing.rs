//! What waits for its target: put, handed to the target's task, joined, settled, given up.

use std::sync::Arc;

use super::{Core, Outcome};
use crate::{
    outbox,
    state::{Change, DeadLetter, Entry, Target},
};

impl Core {
    /// Puts an entry into the outbox, which gives it its number. For a sink that is hopelessly behind the oldest that
    /// is not being sent makes room.
    pub(super) fn put(&mut self, out: &mut Vec<Change>, now_ms: u64, target: Target, entry: Entry) {
        let limit = self.config.outbox.entries_max.max(2);
        if target != Target::Broker && self.state.queue(&target).len() >= limit {
            // Beyond the limit only while all are under way.
            let oldest = self.state.queue(&target).nth(self.under_way(&target).max(1)).cloned();
            if let Some(oldest) = oldest {
                self.bury(out, now_ms, oldest, format!("{limit} newer messages wait for the same sink"));
            }
        }
        let no = self.state.next_no();
        self.change(out, Change::Put(Entry { no, target, ..entry }));
    }

    /// Takes the next message for a target's task, if its number is below `durable_no`; it stays in the outbox until it is settled.
    pub(crate) fn take(&mut self, target: &Target, durable_no: u64) -> Option<Entry> {
        let count = self.under_way.entry(target.clone()).or_default();
        let entry = self.state.queue(target).nth(*count).filter(|entry| entry.no < durable_no)?;
        *count += 1;
        Some(entry.clone())
    }

    /// How many of a target's messages are with its task.
    pub(crate) fn under_way(&self, target: &Target) -> usize {
        self.under_way.get(target).copied().unwrap_or(0)
    }

    /// The number that the next message will get.
    pub(crate) fn next_no(&self) -> u64 {
        self.state.next_no()
    }

    /// Joins what waits for sinks whose quota lets too little of it through.
    pub(crate) fn digest(&mut self, now_ms: u64) -> Vec<Change> {
        let config = Arc::clone(&self.config);
        let mut out = Vec::new();
        for rule in &config.sinks {
            let (Some(quota), Some(after)) = (rule.quota, rule.digest_after) else { continue };
            let target = Target::Sink(rule.name.clone());
            let queue = self.state.queue(&target);
            // While one is under way more may come to be joined.
            if self.under_way(&target) > 0
                || u128::from(quota.spacing_ms()) * queue.len() as u128 <= after.as_millis()
            {
                continue;
            }
            if let Some((entry, count)) = outbox::digest(queue, rule.kind.text_bytes_max(), now_ms) {
                let nos = self.state.queue(&target).take(count).map(|entry| entry.no).collect();
                tracing::info!(sink = rule.name, count, "messages are told as one, by the sink's quota");
                self.counts.digested += count as u64;
                self.change(&mut out, Change::Merged { nos, entry });
            }
        }
        out
    }

    /// The next message for a target.
    #[cfg(test)]
    pub(crate) fn head(&self, target: &Target) -> Option<&Entry> {
        self.state.queue(target).next()
    }

    /// Takes the outcome of the entry that [`Core::head`] gave.
    pub(crate) fn settle(&mut self, now_ms: u64, entry: Entry, outcome: Outcome) -> Vec<Change> {
        let mut out = Vec::new();
        if let Some(count) = self.under_way.get_mut(&entry.target) {
            *count = count.saturating_sub(1);
        }
        match outcome {
            Outcome::Delivered => {
                self.counts.delivered += 1;
                self.change(&mut out, Change::Done { no: entry.no });
            }
            Outcome::Dead { why } => {
                if entry.expires_at_ms.is_some() {
                    self.not_sent(&mut out, now_ms, &entry.id, &why);
                }
                self.bury(&mut out, now_ms, entry, why);
            }
        }
        out
    }

    /// Gives a message up. It is kept as a dead letter, unless it is a command: sent later that would be another.
    pub(super) fn bury(&mut self, out: &mut Vec<Change>, now_ms: u64, entry: Entry, why: String) {
        tracing::error!(target_name = ?entry.target, id = entry.id, why, payload = entry.payload, "dead letter");
        self.counts.dead_letters += 1;
        self.change(out, Change::Done { no: entry.no });
        let letter = DeadLetter { at_ms: now_ms, why, entry };
        if letter.entry.expires_at_ms.is_none() {
            self.keep(out, letter.clone());
        }
        self.dead.push(letter);
    }

    /// Returns the messages given up since it was last asked.
    pub(crate) fn take_dead(&mut self) -> Vec<DeadLetter> {
        std::mem::take(&mut self.dead)
    }
}
