//! The tokio driver: one task that joins the core with a socket, a clock and chance.

mod handle;
mod task;

pub use handle::{Client, Events, Pending};
