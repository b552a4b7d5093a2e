//! First arrivals of one publisher's messages on one topic at one level come in the order they were made.

use std::collections::{BTreeMap, BTreeSet};

use protocol::QoS;

use super::{Checker, Evidence};

pub(super) const CHECKER: Checker = Checker { name: "order", needs_rest: false, check };

fn check(evidence: &Evidence<'_>) -> Result<(), String> {
    let mut newest = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (who, taken) in evidence.history.taken() {
        if taken.qos == QoS::AtMostOnce || taken.retain {
            continue;
        }
        let Some(number) = taken.number() else {
            continue;
        };
        let Some(message) = evidence.history.message(number) else {
            continue;
        };
        // Of what was made before the subscription a client may get the resend alone.
        let account = evidence.ledger.account(number);
        // What two clients published came in the order of either.
        let is_owed = account.owed_to.contains(&who) && account.published_by.len() == 1;
        if !is_owed || message.is_will || !seen.insert((who, number)) {
            continue;
        }
        let before = newest.insert((who, message.by, message.topic, taken.qos), number);
        if before.is_some_and(|before| before > number) {
            return Err(format!("{number} on {} came to c{who} after {before:?}", message.topic));
        }
    }
    Ok(())
}
