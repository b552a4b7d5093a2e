//! What comes in an envelope comes on the envelope's topic and says whose message it is, whoever subscribed that way
//! gets nothing else there, and who did not gets none.

use std::collections::{BTreeMap, BTreeSet};

use protocol::im::ENVELOPE_PREFIX;

use super::{Checker, Evidence};
use crate::simulation::history::Event;
use crate::simulation::world::cast::{CAST, is_conversation};

pub(super) const CHECKER: Checker = Checker { name: "envelopes", needs_rest: false, check };

fn check(evidence: &Evidence<'_>) -> Result<(), String> {
    let mut filters: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
    for event in &evidence.history.events {
        match event {
            Event::Subscribing { who, filter, .. } => {
                filters.entry(*who).or_default().insert(filter);
            }
            Event::Took { who, taken } => {
                let matches = |prefix: &str| {
                    let rest = filters.get(who).into_iter().flatten().filter_map(|f| f.strip_prefix(prefix));
                    rest.filter(|rest| !rest.starts_with('$'))
                        .any(|f| protocol::filter_matches(f, &taken.topic))
                };
                let Some(envelope) = &taken.envelope else {
                    if taken.topic.starts_with(ENVELOPE_PREFIX) {
                        return Err(format!("c{who} got an envelope that cannot be read: {taken:?}"));
                    }
                    if matches(ENVELOPE_PREFIX) && !matches("") {
                        return Err(format!("c{who} asked for envelopes and got {taken:?}"));
                    }
                    continue;
                };
                if !matches(ENVELOPE_PREFIX) || envelope.on != format!("{ENVELOPE_PREFIX}{}", taken.topic) {
                    return Err(format!("c{who} got an envelope that it did not ask for: {taken:?}"));
                }
                let message = taken.number().and_then(|number| evidence.history.message(number));
                let Some(message) = message else { continue };
                let by = CAST[message.by].user();
                let is_its_id = !message.has_id() || envelope.id == message.id();
                let has_numbers = taken.seq.is_some() == is_conversation(&taken.topic);
                if envelope.from.as_ref() != Some(&by) || !is_its_id || !has_numbers {
                    return Err(format!("c{who} got {taken:?} of {message:?} of {by}"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}
