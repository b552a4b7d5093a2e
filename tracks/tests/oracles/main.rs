//! What the crate promises, held against truths that are known: the roads are real, the noise is ours.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod corridor;
mod driving;
mod parked;
mod roads;
mod shapely;
mod sky;
mod stale;
