//! The broker process: shard runtime, sockets, configuration, HTTP

pub mod config;

pub use config::Config;
