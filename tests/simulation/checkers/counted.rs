//! Receipts of many recipients are counted: the counts never go back, none says more than there are recipients, and in
//! the end they are all told, with no more delivered than got it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Checker, Evidence};
use crate::simulation::history::{Message, Who};
use crate::simulation::world::cast::{CAST, RECEIPTS};

pub(super) const CHECKER: Checker = Checker { name: "counted", needs_rest: true, check };

/// The counts of one message, as its sender was told them.
#[derive(Debug, Default)]
struct Counts {
    of: u64,
    by_state: BTreeMap<String, u64>,
}

/// Whether the receipts of a message are counted.
pub(super) fn is_counted(evidence: &Evidence<'_>, message: &Message) -> bool {
    let of_message = receipts(evidence, message.by).any(|(_, receipt)| is_of(&receipt, message));
    evidence.plan.counts_receipts() && of_message
}

fn check(evidence: &Evidence<'_>) -> Result<(), String> {
    for hearer in (0..CAST.len()).filter(|who| CAST[*who].hears_receipts()) {
        for message in evidence.history.messages.iter().filter(|m| m.by == hearer && m.has_id()) {
            let counts = counts(evidence, message, hearer)?;
            let account = evidence.ledger.account(message.number);
            if counts.of == 0 || !account.is_acked() {
                continue;
            }
            let ended: u64 = counts.by_state.values().sum();
            // What a SUBSCRIBE with a number takes out of a queue is not told.
            let untold = CAST.iter().filter(|role| role.replays).count() as u64;
            if ended > counts.of || ended + untold < counts.of {
                return Err(format!("{} ended at {ended} of its recipients: {counts:?}", message.id()));
            }
            let owed = account.owed_to.difference(&account.published_by).count() as u64;
            if counts.of < owed.max(evidence.plan.receipts_listed_max as u64 + 1) {
                return Err(format!("{} has {owed} recipients at least: {counts:?}", message.id()));
            }
            let delivered = counts.by_state.get("delivered").copied().unwrap_or(0);
            if delivered > account.taken_by.len() as u64 {
                let taken_by = &account.taken_by;
                return Err(format!("{} came to {taken_by:?}, told was {counts:?}", message.id()));
            }
        }
    }
    Ok(())
}

fn counts(evidence: &Evidence<'_>, message: &Message, hearer: Who) -> Result<Counts, String> {
    let mut counts = Counts::default();
    for (is_again, receipt) in receipts(evidence, hearer).filter(|(_, receipt)| is_of(receipt, message)) {
        let (of, count) = (receipt["of"].as_u64().unwrap_or(0), receipt["count"].as_u64().unwrap_or(0));
        let state = receipt["state"].as_str().unwrap_or_default().to_owned();
        let before = counts.by_state.get(&state).copied().unwrap_or(0);
        if count > of || (counts.of != 0 && counts.of != of) || (count < before && !is_again) {
            return Err(format!("{receipt} after {counts:?}"));
        }
        counts.of = of;
        counts.by_state.insert(state, count.max(before));
    }
    Ok(counts)
}

fn is_of(receipt: &Value, message: &Message) -> bool {
    // Readers are counted by themselves: read_receipts looks at them.
    receipt["count"].is_u64()
        && receipt["state"] != "read"
        && receipt["topic"] == message.topic
        && receipt["id"] == message.id()
}

/// The receipts that a client got, and whether each was sent before.
fn receipts(evidence: &Evidence<'_>, hearer: Who) -> impl Iterator<Item = (bool, Value)> {
    let taken = evidence.history.taken().filter(move |(who, t)| *who == hearer && t.topic == RECEIPTS);
    taken.filter_map(|(_, t)| Some((t.dup, serde_json::from_str(&t.payload).ok()?)))
}
