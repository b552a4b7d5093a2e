//! The retained message of a topic with one publisher is the last one that was acknowledged, or a later one.

use super::{Checker, Evidence};
use crate::simulation::history::Event;
use crate::simulation::world::cast::STATE_TOPIC;

pub(super) const CHECKER: Checker = Checker { name: "retained", needs_rest: false, check };

fn check(evidence: &Evidence<'_>) -> Result<(), String> {
    let (mut acked, mut acked_when_asked) = (0, std::collections::BTreeMap::new());
    let of_state = |number: &u64| evidence.history.message(*number).is_some_and(|m| m.topic == STATE_TOPIC);
    for event in &evidence.history.events {
        match event {
            Event::Acked { number, .. } if of_state(number) => acked = acked.max(*number),
            Event::Subscribing { who, filter: "st/+", .. } => {
                // Copies of an earlier subscription in the same session may still wait.
                acked_when_asked.entry(*who).or_insert((acked, false));
            }
            Event::Connecting { who, anew: true, .. } => drop(acked_when_asked.remove(who)),
            Event::Took { who, taken } if taken.topic == STATE_TOPIC && taken.retain => {
                let Some(number) = taken.number() else {
                    continue;
                };
                match acked_when_asked.get_mut(who) {
                    Some((asked, _)) if number < *asked => {
                        return Err(format!("c{who} got the retained {number}, {asked} was acknowledged"));
                    }
                    Some((_, came)) => *came = true,
                    None => {}
                }
            }
            // The retained message comes after SUBACK, and before what is published later.
            Event::Took { who, taken } if taken.topic == STATE_TOPIC => {
                if let Some((asked, came)) = acked_when_asked.get(who)
                    && *asked > 0
                    && !evidence.plan.has_short_queues()
                    && !came
                    && taken.number().is_some_and(|n| n > *asked)
                {
                    return Err(format!("c{who} got {} and never the retained message", taken.payload));
                }
            }
            _ => {}
        }
    }
    Ok(())
}
