//! When all is delivered, what the broker holds is bounded by what is still kept: sessions, retained messages and
//! conversations, not by how much went through.

use super::{Checker, Evidence};
use crate::simulation::world::cast::CAST;

pub(super) const CHECKER: Checker = Checker { name: "memory", needs_rest: true, check };

/// Bytes of the sessions, subscriptions and connections of one client, and then some.
const CLIENT_BYTES: u64 = 16 * 1024;

fn check(evidence: &Evidence<'_>) -> Result<(), String> {
    let most = CAST.len() as u64 * CLIENT_BYTES;
    if evidence.memory_bytes > most {
        return Err(format!("the shard holds {} bytes at rest, {most} are due", evidence.memory_bytes));
    }
    Ok(())
}
