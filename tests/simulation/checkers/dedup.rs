//! A message that comes again with its id is acknowledged as the duplicate that it is, under the first one's number,
//! and is neither stored nor sent a second time. The same id on another topic or of another user is another message.

use std::collections::{BTreeMap, BTreeSet};

use protocol::QoS;

use super::{Checker, Evidence};
use crate::simulation::history::Event;
use crate::simulation::world::cast::{CAST, STATE_TOPIC};

pub(super) const CHECKER: Checker = Checker { name: "dedup", needs_rest: false, check };

fn check(evidence: &Evidence<'_>) -> Result<(), String> {
    let mut acked_as_first = BTreeSet::new();
    let mut seqs = BTreeMap::new();
    // Messages that came, as often as they must.
    let mut came = BTreeSet::new();
    for event in &evidence.history.events {
        match event {
            Event::Acked { number, seq, is_dup } => {
                // A PUBREC that is sent again says what it stands for, not what the first one said.
                let message = evidence.history.message(*number);
                let is_qos_1 = message.is_some_and(|m| m.has_id() && m.qos == QoS::AtLeastOnce);
                if !is_dup && is_qos_1 && !acked_as_first.insert(*number) {
                    return Err(format!("{number} was acknowledged twice as if it were new"));
                }
                one_seq(&mut seqs, *number, *seq)?;
            }
            Event::Took { who, taken } => {
                if let Some(number) = taken.number() {
                    one_seq(&mut seqs, number, taken.seq)?;
                    let is_state = taken.topic == STATE_TOPIC;
                    let is_lasting = !CAST[*who].is_member() && !evidence.ledger.ended.contains(who);
                    let is_checked = is_lasting && !is_state && !CAST[*who].replays;
                    if is_checked && !came.insert((*who, number)) && !taken.dup {
                        return Err(format!("{number} came to c{who} again as if it were new"));
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn one_seq(seqs: &mut BTreeMap<u64, u64>, number: u64, seq: Option<u64>) -> Result<(), String> {
    let Some(seq) = seq else { return Ok(()) };
    match seqs.insert(number, seq) {
        Some(before) if before != seq => Err(format!("{number} has the numbers {before} and {seq}")),
        _ => Ok(()),
    }
}
