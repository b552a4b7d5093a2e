//! Every acknowledged message comes to everyone whose subscription was acknowledged when it was made, unless a
//! limit that the sender or the configuration set ended it.

use super::poison::ends_in_a_row;
use super::{Checker, Evidence};
use crate::simulation::history::Message;
use crate::simulation::world::cast::CAST;

pub(super) const CHECKER: Checker = Checker { name: "kept", needs_rest: true, check };

/// Whether a limit may have ended the message at this client.
pub(super) fn may_have_ended(evidence: &Evidence<'_>, message: &Message, who: usize) -> bool {
    message.expiry_s.is_some()
        || (evidence.plan.has_short_queues() && CAST[who].has_short_queue())
        || is_superfluous(evidence, message)
        || is_set_aside(evidence, message, who)
}

/// Whether the broker set the message aside at this client: as it lists it for the frail one, or where by ill luck as
/// many connections ended in a row.
pub(super) fn is_set_aside(evidence: &Evidence<'_>, message: &Message, who: usize) -> bool {
    let due = evidence.plan.poison_after;
    match CAST[who].is_frail {
        true => evidence.set_aside.contains(&message.id()),
        false => due > 0 && ends_in_a_row(evidence, who, message.number) >= due,
    }
}

/// Whether a later message that went through took its place, of the same user, topic and key.
fn is_superfluous(evidence: &Evidence<'_>, message: &Message) -> bool {
    let takes_its_place = |later: &&Message| {
        later.collapse.is_some()
            && later.collapse == message.collapse
            && (later.topic, CAST[later.by].user()) == (message.topic, CAST[message.by].user())
    };
    let others = evidence.history.messages.iter().filter(|m| m.number != message.number);
    let mut later = others.filter(takes_its_place).map(|m| evidence.ledger.account(m.number));
    later.any(|account| account.is_acked() || !account.taken_by.is_empty())
}

fn check(evidence: &Evidence<'_>) -> Result<(), String> {
    for message in evidence.history.messages.iter().filter(|m| !m.is_will) {
        let account = evidence.ledger.account(message.number);
        if !account.is_acked() {
            continue;
        }
        for who in account.owed_to.difference(&account.taken_by) {
            if !may_have_ended(evidence, message, *who) {
                let (id, topic, qos) = (CAST[*who].id, message.topic, message.qos);
                return Err(format!("{} on {topic} ({qos:?}) never came to {id}", message.number));
            }
        }
    }
    Ok(())
}
