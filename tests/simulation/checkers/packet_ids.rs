//! No packet id that is in use stands for another message.

use std::collections::BTreeMap;

use super::{Checker, Evidence};
use crate::simulation::history::Event;

pub(super) const CHECKER: Checker = Checker { name: "packet ids", needs_rest: false, check };

fn check(evidence: &Evidence<'_>) -> Result<(), String> {
    // What each packet id of a session stands for until the client is done with it.
    let mut in_use = BTreeMap::new();
    for event in &evidence.history.events {
        match event {
            Event::Connecting { who, anew: true, .. } | Event::Connected { who, is_present: false } => {
                in_use.retain(|(of, _), _| of != who);
            }
            Event::Came { who, packet_id: Some(packet_id), number, dup } => {
                let before = in_use.insert((*who, *packet_id), *number);
                if before.is_some_and(|before| !dup || before != *number) {
                    return Err(format!(
                        "c{who} got {number:?} under packet id {packet_id}, which is in use for {before:?}"
                    ));
                }
            }
            Event::Done { who, packet_id } => drop(in_use.remove(&(*who, *packet_id))),
            _ => {}
        }
    }
    Ok(())
}
