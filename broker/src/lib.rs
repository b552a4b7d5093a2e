//! The broker as a process: configuration, sockets, the threads that drive the engine, HTTP.
//!
//! [`Broker::start`] binds the addresses, takes the state back from the store and starts the threads; the
//! [`RunningBroker`] it gives tells the addresses, ends the broker in order, and tells of its failure.
//! What MQTT and the IM layer demand is decided in `engine`, what is on disk in `storage`.

mod auth;
mod bind;
pub mod config;
mod files;
mod http;
mod limits;
mod listener;
mod machine_memory;
mod metrics;
mod peer;
mod reload;
mod runtime;
mod start;

pub use auth::{Changed, Secret, UserChange, UserSummary, UsersFile, check_files};
pub use bind::BindError;
pub use config::Config;
pub use files::raise_file_limit;
#[doc(hidden)]
pub use listener::fuzzing;
pub use listener::{BoundAddress, Listening};
pub use runtime::Recovered;
pub use start::{Broker, FatalError, RunningBroker, StartError};
