//! A publish is acknowledged as often as it was made: no acknowledgement is made up.

use super::{Checker, Evidence};
use crate::simulation::history::Event;

pub(super) const CHECKER: Checker = Checker { name: "acked once", needs_rest: false, check };

fn check(evidence: &Evidence<'_>) -> Result<(), String> {
    let mut made_again = std::collections::BTreeMap::new();
    for event in &evidence.history.events {
        if let Event::MadeAgain { number, .. } = event {
            *made_again.entry(*number).or_insert(0) += 1;
        }
    }
    for message in evidence.history.messages.iter().filter(|m| !m.is_will) {
        let acks = evidence.ledger.account(message.number).acks.len();
        if acks > 1 + made_again.get(&message.number).copied().unwrap_or(0) {
            return Err(format!("{} was acknowledged {acks} times", message.number));
        }
    }
    Ok(())
}
