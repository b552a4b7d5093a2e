//! A connection that is silent for one and a half times its heartbeat ends, and none ends earlier for that. The
//! heartbeat is what CONNECT said, or what the client declared since, if that is lower.

use super::{Checker, Evidence};
use crate::simulation::history::Event;
use crate::simulation::world::World;

pub(super) const CHECKER: Checker = Checker { name: "heartbeat", needs_rest: false, check };

/// Looks for connections that should have ended.
pub(super) fn watch(world: &World) -> Result<(), String> {
    match world.silent().next() {
        Some((who, idle_ms, heartbeat_s)) => Err(format!(
            "c{who} is silent for {idle_ms} ms with a heartbeat of {heartbeat_s} s, and still there"
        )),
        None => Ok(()),
    }
}

fn check(evidence: &Evidence<'_>) -> Result<(), String> {
    for event in &evidence.history.events {
        if let Event::Silent { who, idle_ms, heartbeat_s, is_due: false } = event {
            return Err(format!("c{who} was ended after {idle_ms} ms with a heartbeat of {heartbeat_s} s"));
        }
    }
    Ok(())
}
