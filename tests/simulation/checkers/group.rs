//! Every acknowledged message that the shared group was owed came to one of its members, QoS 2 to one only. QoS 2
//! ends with the session that it was in flight to, of which one holds no more than its window.

use std::collections::BTreeSet;

use protocol::QoS;

use super::{Checker, Evidence};
use crate::simulation::world::WINDOW_IN;
use crate::simulation::world::cast::CAST;

pub(super) const CHECKER: Checker = Checker { name: "group", needs_rest: true, check };

fn check(evidence: &Evidence<'_>) -> Result<(), String> {
    let mut twice = BTreeSet::new();
    let of_group = evidence.history.taken().filter(|(who, _)| CAST[*who].is_member());
    for (_, taken) in of_group.filter(|(_, t)| t.qos == QoS::ExactlyOnce) {
        if taken.number().is_some_and(|number| !twice.insert(number)) {
            return Err(format!("{} came to the group twice at QoS 2", taken.payload));
        }
    }
    let mut missing = 0;
    for message in evidence
        .history
        .messages
        .iter()
        .filter(|m| !m.is_will && m.expiry_s.is_none() && m.collapse.is_none())
    {
        let account = evidence.ledger.account(message.number);
        let is_taken = account.taken_by.iter().any(|who| CAST[*who].is_member());
        if is_taken || !account.owed_to_group || !account.is_acked() {
            continue;
        }
        if message.qos < QoS::ExactlyOnce {
            return Err(format!("{} on {} came to nobody of the group", message.number, message.topic));
        }
        missing += 1;
    }
    let may_miss = u64::from(WINDOW_IN) * evidence.ledger.ended_members;
    if missing > may_miss {
        return Err(format!("{missing} messages at QoS 2 came to nobody of the group, {may_miss} may"));
    }
    Ok(())
}
