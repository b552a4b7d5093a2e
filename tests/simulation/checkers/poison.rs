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

/// Most connections of the client that ended one after the other, with one broker, since the message was made and until
/// another one came after its last coming.
pub(super) fn ends_in_a_row(evidence: &Evidence<'_>, who: usize, number: Number) -> u32 {
    let events = &evidence.history.events;
    let is_made = |event: &Event| matches!(event, Event::Made(m) if m.number == number);
    let is_it = |event: &Event| matches!(event, Event::Came { who: of, number: n, .. } if *of == who && *n == Some(number));
    let is_any = |event: &Event| matches!(event, Event::Came { who: of, .. } if *of == who);
    let made = events.iter().position(is_made).unwrap_or(0);
    let last = events.iter().rposition(is_it).unwrap_or(made);
    let next = events.iter().skip(last + 1).position(is_any).map_or(events.len(), |at| last + 1 + at);
    let (mut ends, mut most) = (0, 0);
    for event in &events[made..next] {
        match event {
            Event::Lost { who: of } if *of == who => ends += 1,
            Event::Died => ends = 0,
            _ => {}
        }
        most = ends.max(most);
    }
    most
}
