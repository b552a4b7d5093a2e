//! The log, as its users see it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod checkpoints;
mod committer;
mod crash_points;
mod damage;
mod files;
mod golden;
mod kill;
mod reader;
mod rewrite;
mod simulation;
mod support;
