//! What is done and told only now and then while the store is full.

use std::time::{Duration, Instant};

/// What is not done or told each time while the store is full.
#[derive(Debug, Default)]
pub(in crate::runtime) struct FullStore {
    /// When segments with little garbage were looked for.
    pub(super) thrifty_at: Option<Instant>,
    /// When it was told that there is no space to rewrite a segment.
    pub(super) told_at: Option<Instant>,
}

/// Notes the time and says yes if this much has passed since it last did.
pub(super) fn is_due(last: &mut Option<Instant>, period: Duration) -> bool {
    let is_due = last.is_none_or(|last| last.elapsed() >= period);
    if is_due {
        *last = Some(Instant::now());
    }
    is_due
}
