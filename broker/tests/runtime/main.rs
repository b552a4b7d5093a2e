//! The broker's runtime, driven over real sockets.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

extern crate postrider_broker as broker;

mod handshakes;
mod harness;
mod http;
mod limits;
mod members;
mod memory;
mod packets;
mod rates;
mod start;
mod store;
mod streams;
mod sys;
mod transports;
