//! A message that ends a program again and again is set aside, no message is that did not end as many connections in a
//! row, and what was set aside is listed, restarts or not.

use super::kept::may_have_ended;
use super::{Checker, Evidence};
use crate::simulation::history::{Event, Number};
use crate::simulation::world::cast::CAST;

pub(super) const CHECKER: Checker = Checker { name: "poison", needs_rest: true, check };

fn check(evidence: &Evidence<'_>) -> Result<(), String> {
    let due = evidence.plan.poison_after;
    let frail = CAST.iter().position(|role| role.is_frail).ok_or("nobody is frail")?;
    for message in evidence.history.messages.iter().filter(|m| m.has_id()) {
        let id = message.id();
        if evidence.set_aside.contains(&id) {
            let ends = ends_in_a_row(evidence, frail, message.number);
            if due == 0 || ends < due {
                return Err(format!("{id} was set aside after {ends} connections in a row, {due} are due"));
            }
        } else if message.is_poison {
            let account = evidence.ledger.account(message.number);
            let is_due = account.is_acked() && account.owed_to.contains(&frail);
            if is_due && !may_have_ended(evidence, message, frail) {
                return Err(format!("{id} is poison, and was not set aside"));
            }
        }
    }
    Ok(())
}

/// Most connections of the client that ended one after the other since the message was made, with one broker.
fn ends_in_a_row(evidence: &Evidence<'_>, who: usize, number: Number) -> u32 {
    let events = evidence.history.events.iter();
    let since = events.skip_while(|event| !matches!(event, Event::Made(m) if m.number == number));
    let (mut ends, mut most) = (0, 0);
    for event in since {
        match event {
            Event::Lost { who: of } if *of == who => ends += 1,
            Event::Died => ends = 0,
            _ => {}
        }
        most = ends.max(most);
    }
    most
}
