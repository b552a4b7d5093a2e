//! The tokio driver: one task that joins the core with a socket, a clock and chance.

mod callers;
mod handle;
mod outbox;
mod probes;
mod stream;
mod task;
mod transport;

pub use handle::{Client, Events, Pending};
