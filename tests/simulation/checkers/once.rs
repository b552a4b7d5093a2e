//! A message published and subscribed at QoS 2 comes once.

use std::collections::BTreeMap;

use protocol::QoS;

use super::{Checker, Evidence};
use crate::simulation::world::cast::CAST;

pub(super) const CHECKER: Checker = Checker { name: "once", needs_rest: false, check };

fn check(evidence: &Evidence<'_>) -> Result<(), String> {
    // How often each message came, and whether once at QoS 2.
    let mut came: BTreeMap<(usize, u64), (u32, bool)> = BTreeMap::new();
    for (who, taken) in evidence.history.taken().filter(|(who, t)| !t.retain && !CAST[*who].replays) {
        // A session that ended may have got it too.
        let Some(number) = taken.number().filter(|_| !evidence.ledger.ended.contains(&who)) else {
            continue;
        };
        let (times, is_once) = came.entry((who, number)).or_default();
        *times += 1;
        *is_once |= taken.qos == QoS::ExactlyOnce;
        if *is_once && *times > 1 {
            return Err(format!("{number} came {times} times to {} at QoS 2", CAST[who].id));
        }
    }
    Ok(())
}
