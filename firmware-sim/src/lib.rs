//! Simulated trucks that run the real device SDK against a real broker.
//!
//! The body of a truck is simulated: where it is ([`motion`]), what its receiver says about that ([`gps`]), both over
//! simulated time ([`body`]), and what its lock does ([`lock`]). Its connection is not: telemetry goes through the SDK's
//! disk queue, commands come through the SDK's journal ([`truck`]). A fleet ([`fleet`]) is many of them, laid out by a
//! [`plan`]. All chance comes from one seed: the same seed gives the same places, the same noise and the same jumps,
//! whatever the network does.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod acts;
pub mod body;
pub mod detour;
pub mod fleet;
pub mod gps;
pub mod ledger;
mod link_proxy;
pub mod lock;
pub mod motion;
mod orders;
mod outcome;
mod pace;
mod payload;
pub mod plan;
#[doc(hidden)]
pub mod planted;
pub mod real;
pub mod report;
mod ride;
pub mod route;
pub mod scenario;
pub mod truck;
mod watch;
pub mod world;
