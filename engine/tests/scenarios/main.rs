//! The engine's promises, one scenario each, on virtual time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod acl;
mod conversations;
mod durability;
mod flow;
mod full_queues;
mod limits;
mod memory;
mod node;
mod principal_limits;
mod receipts;
mod retained;
mod sessions;
mod subscriptions;
mod version_3;
mod wills;
