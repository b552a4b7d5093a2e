//! Nothing comes that was not made before, on another topic, at a higher level, or to somebody who never asked.

use std::collections::{BTreeMap, BTreeSet};

use protocol::filter_matches;
use protocol::im::MINE_FILTER;

use super::{Checker, Evidence};
use crate::simulation::history::Event;
use crate::simulation::world::cast::{GROUP, topics_of};

pub(super) const CHECKER: Checker = Checker { name: "invented", needs_rest: false, check };

fn check(evidence: &Evidence<'_>) -> Result<(), String> {
    let mut made = 0;
    let mut asked: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
    for event in &evidence.history.events {
        match event {
            Event::Made(message) => made = message.number,
            Event::Subscribing { who, filter, .. } => {
                asked.entry(*who).or_default().insert(filter);
            }
            Event::Took { who, taken } if !taken.topic.starts_with('$') => {
                let number = taken.number().filter(|n| *n <= made);
                let message = number.and_then(|n| evidence.history.message(n));
                let message = message.ok_or_else(|| format!("c{who} got what nobody made: {taken:?}"))?;
                if message.topic != taken.topic || taken.qos > message.qos {
                    return Err(format!("c{who} got {taken:?} of {message:?}"));
                }
                let is_asked = |filter: &&str| {
                    filter_matches(
                        topics_of(filter.strip_prefix("$share/workers/").unwrap_or(filter)),
                        message.topic,
                    )
                };
                let is_asked = |filter: &&str| is_asked(filter) || *filter == MINE_FILTER;
                if !asked.get(who).is_some_and(|filters| filters.iter().any(is_asked)) {
                    return Err(format!("c{who} never asked for {} on {}", message.number, message.topic));
                }
            }
            _ => {}
        }
    }
    debug_assert!(GROUP.starts_with("$share/workers/"));
    Ok(())
}
