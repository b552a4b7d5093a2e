//! A will that CONNACK vouched for is published when its connection ends without DISCONNECT, whatever ended it.

use super::{Checker, Evidence};

pub(super) const CHECKER: Checker = Checker { name: "wills", needs_rest: true, check };

fn check(evidence: &Evidence<'_>) -> Result<(), String> {
    for will in evidence.history.messages.iter().filter(|m| m.is_will) {
        let account = evidence.ledger.account(will.number);
        let missed = account.owed_to.difference(&account.taken_by).next();
        if let Some(who) = missed.filter(|_| account.is_acked() && !evidence.plan.has_short_queues()) {
            return Err(format!("the will {} never came to c{who}", will.number));
        }
    }
    Ok(())
}
