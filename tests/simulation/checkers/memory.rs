//! When all is delivered, what the broker holds is bounded by what is still kept: sessions, retained messages and
//! conversations, not by how much went through.

use super::{Checker, Evidence};
use crate::simulation::world::cast::CAST;
use crate::simulation::world::settle::MESSAGES_THROUGH;

pub(super) const CHECKER: Checker = Checker { name: "memory", needs_rest: true, check };

/// Bytes of the sessions, subscriptions and connections of one client, of its ids and its presence.
const CLIENT_BYTES: u64 = 5 * 1024;

/// What stays of a message that is kept: its place in the conversation, its id, and who wants to hear of `read`.
const KEPT_BYTES: u64 = 400;

/// What one message more may leave where as many are given up as come: its id, mostly.
const THROUGH_BYTES: u64 = 100;

fn check(evidence: &Evidence<'_>) -> Result<(), String> {
    let kept: usize = evidence.kept.values().map(Vec::len).sum();
    let most = CAST.len() as u64 * CLIENT_BYTES + kept as u64 * KEPT_BYTES;
    if evidence.memory_bytes > most {
        return Err(format!("the shard holds {} bytes at rest, {most} are due", evidence.memory_bytes));
    }
    let (grown, most) = (evidence.grown_bytes, MESSAGES_THROUGH * THROUGH_BYTES);
    if grown > most {
        return Err(format!("{MESSAGES_THROUGH} messages left {grown} bytes behind, {most} are due"));
    }
    Ok(())
}
