//! What a resumed session gets again comes in the order of its first sending [MQTT-4.6.0-1].

use std::collections::BTreeMap;

use protocol::PacketId;

use super::{Checker, Evidence};
use crate::simulation::history::Event;
use crate::simulation::world::cast::CAST;

pub(super) const CHECKER: Checker = Checker { name: "resent in order", needs_rest: false, check };

fn check(evidence: &Evidence<'_>) -> Result<(), String> {
    let mut first: BTreeMap<(usize, PacketId, u64), usize> = BTreeMap::new();
    let mut newest: BTreeMap<usize, usize> = BTreeMap::new();
    for (at, event) in evidence.history.events.iter().enumerate() {
        match event {
            Event::Connecting { who, anew, .. } => {
                newest.remove(who);
                if *anew {
                    first.retain(|(of, ..), _| of != who);
                }
            }
            Event::Came { who, .. } if CAST[*who].replays => {}
            Event::Came { who, packet_id: Some(packet_id), number: Some(number), dup } => {
                let key = (*who, *packet_id, *number);
                let Some(first) = first.get(&key).filter(|_| *dup) else {
                    first.insert(key, at);
                    continue;
                };
                let before = newest.insert(*who, *first);
                if before.is_some_and(|before| before > *first) {
                    return Err(format!("c{who} got {number} again after one that was sent later"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}
