//! A conversation keeps its newest messages, as many as its rule says and no more: none too old, none given up early,
//! and no hole among them.

use std::collections::BTreeMap;

use engine::Retention;

use super::{Checker, Evidence};

pub(super) const CHECKER: Checker = Checker { name: "retention", needs_rest: true, check };

/// What one message of this world takes at least and at most, as queues count it.
const MESSAGE_BYTES: std::ops::Range<u64> = 8..400;

fn check(evidence: &Evidence<'_>) -> Result<(), String> {
    let Retention { messages, bytes, age_s } = evidence.plan.retention;
    let times = times(evidence);
    for (topic, kept) in &evidence.kept {
        let of_topic: BTreeMap<u64, u64> =
            times.iter().filter(|((of, _), _)| of == topic).map(|((_, seq), ts)| (*seq, *ts)).collect();
        let newest = of_topic.keys().next_back().copied().unwrap_or(0);
        if let (Some(first), Some(last)) = (kept.first(), kept.last())
            && (kept.len() as u64 != last + 1 - first || newest > *last)
        {
            return Err(format!("{topic} goes to {newest} and keeps {kept:?}: there is a hole"));
        }
        if kept.len() as u64 > messages || kept.len() as u64 * MESSAGE_BYTES.start > bytes {
            return Err(format!("{topic} keeps {kept:?}, the rule is {:?}", evidence.plan.retention));
        }
        let oldest_unix_ms = evidence.end_unix_ms.saturating_sub(age_s * 1_000);
        let first = kept.first().copied().unwrap_or(u64::MAX);
        // None of those that are left is too old,
        if let Some((seq, ts)) = of_topic.range(first..).find(|(_, ts)| **ts < oldest_unix_ms) {
            return Err(format!("{topic} keeps {seq} of {ts}, which ended at {oldest_unix_ms}"));
        }
        // and the rule wants each gone that is gone.
        let is_full = kept.len() as u64 >= messages || (kept.len() as u64 + 1) * MESSAGE_BYTES.end > bytes;
        let given_up =
            of_topic.range(..first).next_back().filter(|(_, ts)| **ts > oldest_unix_ms && !is_full);
        if let Some((seq, ts)) = given_up {
            return Err(format!("{topic} gave up {seq} of {ts} early, it keeps {kept:?}"));
        }
    }
    Ok(())
}

/// When each message of the conversations was accepted, by all that anybody saw of it.
fn times<'a>(evidence: &'a Evidence<'_>) -> BTreeMap<(&'a str, u64), u64> {
    let of_conversations = evidence.history.taken().filter(|(_, taken)| taken.number().is_some());
    of_conversations.filter_map(|(_, t)| Some(((t.topic.as_str(), t.seq?), t.accepted_unix_ms?))).collect()
}
