//! The SDK from outside: the core against a peer in memory, the driver against a peer on TCP, the disk queue and the
//! command journal against SIGKILL.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod child;
mod command_sim;
mod commands;
mod core_rules;
mod core_sim;
mod driver;
mod heartbeat;
mod keepalive;
mod model;
mod nat;
mod proxies;
mod queue;
mod queue_classes;
mod reach;
mod received;
mod tcp_peer;
mod tls;
mod twin;
#[cfg(feature = "ota")]
mod update;
