//! The engine's promises, one scenario each, on virtual time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod acl;
mod aliases;
mod bodies;
mod coming_back;
mod connect_properties;
mod conversations;
mod durability;
mod envelopes;
mod fan_out;
mod flow;
mod full_queues;
mod gaps;
mod hand_over;
mod heard;
mod inbox;
mod keepalive;
mod limits;
mod members;
mod memory;
mod node;
mod payload_format;
mod poison;
mod portions;
mod presence;
mod principal_limits;
mod probes;
mod queueing;
mod reads;
mod receipts;
mod repeats;
mod replay;
mod requests;
mod retained;
mod retention;
mod sessions;
mod shared_subscriptions;
mod statements;
mod storm;
mod subscriptions;
mod sys;
mod version_3;
mod wills;
