//! No message is sent for the first time after it expired, and its interval shrinks while it waits.

use std::collections::BTreeSet;

use super::{Checker, Evidence};
use crate::simulation::world::cast::CAST;

pub(super) const CHECKER: Checker = Checker { name: "expiry", needs_rest: false, check };

/// A message is made ready when its turn comes and leaves when its record is durable.
const LATE_MAX_MS: u64 = 5_000;

fn check(evidence: &Evidence<'_>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for (who, taken) in evidence.history.taken() {
        let Some(number) = taken.number() else {
            continue;
        };
        let message = evidence.history.message(number);
        let Some(expiry_s) = message.and_then(|m| m.expiry_s) else {
            continue;
        };
        let Some(accepted_ms) = taken.accepted_unix_ms else {
            continue;
        };
        // What was in flight to a member of a group that left goes to another one, however late.
        if taken.dup || CAST[who].is_member() || !seen.insert((who, number)) {
            continue;
        }
        let waited_ms = taken.sent_unix_ms.saturating_sub(accepted_ms);
        let life_ms = u64::from(expiry_s) * 1_000;
        if waited_ms >= life_ms + LATE_MAX_MS {
            return Err(format!("{number} came to c{who}, {waited_ms} ms old, with {expiry_s} s to live"));
        }
        let left_ms = u64::from(taken.expiry_s.unwrap_or(u32::MAX)) * 1_000;
        if left_ms + waited_ms > life_ms + LATE_MAX_MS {
            return Err(format!("{number} says it has {left_ms} ms left after {waited_ms} ms of {life_ms}"));
        }
    }
    Ok(())
}
