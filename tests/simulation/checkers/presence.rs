//! Presence is linear: the epoch of a client only grows, an "offline" never follows the "online" of a later
//! connection, and at rest those are online who are connected.

use std::collections::BTreeMap;

use super::{Checker, Evidence};
use crate::simulation::world::cast::CAST;

pub(super) const CHECKER: Checker = Checker { name: "presence", needs_rest: true, check };

fn check(evidence: &Evidence<'_>) -> Result<(), String> {
    // What each watcher knows of each client: the epoch, and whether it is online.
    let mut known: BTreeMap<(usize, String), (u64, bool)> = BTreeMap::new();
    for (who, taken) in evidence.history.taken() {
        let Some(client) = taken.topic.strip_prefix(protocol::im::PRESENCE_PREFIX) else { continue };
        if taken.payload.is_empty() {
            continue;
        }
        let state: serde_json::Value =
            serde_json::from_str(&taken.payload).map_err(|e| format!("{}: {e}", taken.payload))?;
        let now = state["epoch"].as_u64().zip(state["online"].as_bool());
        let (epoch, online) = now.ok_or_else(|| format!("no presence: {}", taken.payload))?;
        let before = known.insert((who, client.to_owned()), (epoch, online));
        // QoS 1 may repeat.
        let Some((before, was_online)) = before.filter(|_| !taken.dup) else { continue };
        let is_later = epoch > before || (epoch == before && (was_online || !online));
        if !is_later {
            return Err(format!(
                "c{who} saw {client} go from epoch {before}, online {was_online} to {epoch}, {online}"
            ));
        }
    }
    for watcher in (0..CAST.len()).filter(|who| CAST[*who].watches_presence()) {
        for role in CAST {
            let told = known.get(&(watcher, role.id.to_owned()));
            let is_right = match told {
                Some((_, online)) => *online != role.stays_away,
                // It never came.
                None => role.stays_away,
            };
            if !is_right {
                return Err(format!("{} is away: {}, c{watcher} knows {told:?}", role.id, role.stays_away));
            }
        }
    }
    Ok(())
}
