//! The broker's parsers without the rest of the broker, which takes minutes to build with coverage.

#[path = "../../broker/src/listener/frame.rs"]
mod frame;
#[path = "../../broker/src/listener/fuzzing.rs"]
pub(crate) mod fuzzing;
#[path = "../../broker/src/listener/proxy.rs"]
#[allow(dead_code, reason = "what reads a socket is not called")]
mod proxy;
